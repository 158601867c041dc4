//! Acceptances: the operations of a framework on offers.
//!
//! Each kind of operation is a variant of [`OfferOperation`]. Every `match` on it lists the places
//! that a new kind affects.

use crate::ids::{AgentId, FrameworkId, OfferId, Revision, Role, Timestamp};
use crate::rejection::{CallShape, Position};
use crate::resources::Resources;
use crate::task::TaskSpec;

/// An acceptance of offers of one agent and one role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accept {
    /// The complete terms of the offers, verified by the leader that proposes the command.
    pub offers: Vec<OfferTerms>,
    /// The operations, applied in order. Each one sees the result of those before it.
    pub operations: Vec<OfferOperation>,
    /// Whether one refused position refuses all.
    pub all_or_nothing: bool,
    /// The wall-clock time in milliseconds of the Unix epoch, for display.
    pub wall_ms: i64,
}

/// One operation on the resources of offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OfferOperation {
    /// Launches tasks, each independently. Format 2 has no other operation: in it, consecutive
    /// tasks of one group are launched as [`OfferOperation::LaunchGroup`] launches them.
    Launch(Vec<TaskSpec>),
    /// Launches the tasks of one group: all of them or none.
    LaunchGroup(Vec<TaskSpec>),
}

impl OfferOperation {
    /// Returns the tasks that the operation launches.
    #[must_use]
    pub fn tasks(&self) -> &[TaskSpec] {
        match self {
            Self::Launch(tasks) | Self::LaunchGroup(tasks) => tasks,
        }
    }

    /// Returns the tasks that the operation launches, for modification.
    pub fn tasks_mut(&mut self) -> &mut [TaskSpec] {
        match self {
            Self::Launch(tasks) | Self::LaunchGroup(tasks) => tasks,
        }
    }

    /// Returns the number of parts that can be refused, which is the number of tasks. An operation
    /// without tasks would count as one part.
    #[must_use]
    pub fn parts(&self) -> usize {
        match self {
            Self::Launch(tasks) | Self::LaunchGroup(tasks) => tasks.len(),
        }
    }
}

impl Accept {
    /// Returns the positions of all parts that can be refused, in order.
    pub fn positions(&self) -> impl Iterator<Item = Position> {
        let operations = (0..).zip(&self.operations);
        operations.flat_map(|(operation, of)| {
            (0..)
                .take(of.parts())
                .map(move |task| Position { operation, task })
        })
    }

    /// Returns the tasks that the call launches, in order, each with its position.
    pub fn launches(&self) -> impl Iterator<Item = (Position, &TaskSpec)> {
        let operations = (0..).zip(&self.operations);
        operations.flat_map(|(operation, of)| {
            let tasks = (0..).zip(of.tasks());
            tasks.map(move |(task, spec)| (Position { operation, task }, spec))
        })
    }

    /// Returns the tasks that the call launches, in order.
    pub fn tasks(&self) -> impl Iterator<Item = &TaskSpec> {
        self.launches().map(|(_, spec)| spec)
    }

    /// Returns the number of parts of each operation.
    #[must_use]
    pub fn shape(&self) -> CallShape {
        self.operations.iter().map(OfferOperation::parts).collect()
    }

    /// Returns the call in the form of format 2: with all tasks in one launch.
    #[must_use]
    pub fn in_one_launch(self) -> Self {
        let mut tasks = Vec::new();
        for operation in self.operations {
            match operation {
                OfferOperation::Launch(of) | OfferOperation::LaunchGroup(of) => tasks.extend(of),
            }
        }
        let launch = (!tasks.is_empty()).then_some(OfferOperation::Launch(tasks));
        Self {
            operations: launch.into_iter().collect(),
            ..self
        }
    }
}

/// The terms of an offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfferTerms {
    /// The id of the offer.
    pub id: OfferId,
    /// The framework that receives the offer.
    pub framework: FrameworkId,
    /// The session of that framework.
    pub session: u64,
    /// The agent that provides the resources.
    pub agent: AgentId,
    /// The role in which they are offered.
    pub role: Role,
    /// The offered resources.
    pub resources: Resources,
    /// The offer revision of the agent.
    pub offer_revision: Revision,
    /// The cluster time at which the offer expires.
    pub expires: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::spec;

    fn launch(count: usize) -> OfferOperation {
        let tasks = (0..count).map(|at| spec(&format!("t{at}"), "cpus:1"));
        OfferOperation::Launch(tasks.collect())
    }

    fn accept(counts: &[usize]) -> Accept {
        Accept {
            offers: Vec::new(),
            operations: counts.iter().map(|count| launch(*count)).collect(),
            all_or_nothing: false,
            wall_ms: 0,
        }
    }

    #[test]
    fn positions_count_all_operations_and_round_trip() {
        for counts in [&[3][..], &[0, 2, 0, 0, 1, 3, 0], &[1, 1, 1]] {
            let call = accept(counts);
            let shape = call.shape();
            for (at, position) in (0_u32..).zip(call.positions()) {
                assert_eq!(shape.count(position), at);
                assert_eq!(shape.place(position), position);
                assert_eq!(shape.place(Position::counted(at)), position);
            }
            assert_eq!(call.positions().count(), call.tasks().count());
        }
    }

    #[test]
    fn a_position_after_all_operations_is_unchanged() {
        let far = Position::counted(9);
        assert_eq!(accept(&[2, 1]).shape().place(far), far);
        assert_eq!(CallShape::default().place(far), far);
    }

    #[test]
    fn one_launch_has_all_tasks_in_order() {
        let call = accept(&[1, 0, 2]);
        let names =
            |call: &Accept| -> Vec<_> { call.tasks().map(|task| task.task.clone()).collect() };
        let one = call.clone().in_one_launch();
        assert_eq!(one.operations.len(), 1);
        assert_eq!(names(&one), names(&call));
        assert_eq!(accept(&[0]).in_one_launch().operations, []);
    }
}
