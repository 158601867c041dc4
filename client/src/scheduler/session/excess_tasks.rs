//! The part of an accept that exceeds one call, and is answered as not launched.

use argosy_state::command::{CallShape, Position};
use argosy_state::limits::{OPERATIONS_PER_ACCEPT, TASKS_PER_CALL};

use crate::scheduler::driver::OfferOperation;

/// Tasks beyond those that one call launches.
#[derive(Debug, PartialEq)]
pub(super) struct ExcessTasks {
    /// The shape of the whole call.
    pub(super) shape: CallShape,
    /// The tasks with their positions in the whole call.
    pub(super) tasks: Vec<(Position, String)>,
}

impl ExcessTasks {
    /// Removes everything beyond the first tasks and operations that one call may have; `None` if
    /// there is nothing. A group is never divided. A first group always stays: only its masters can
    /// report why one that is too large is invalid.
    pub(super) fn split_off(operations: &mut Vec<OfferOperation>) -> Option<Self> {
        let shape: CallShape = operations.iter().map(|one| one.tasks().len()).collect();
        let mut room = TASKS_PER_CALL;
        let beyond = operations.iter().enumerate().position(|(at, operation)| {
            let tasks = operation.tasks().len();
            let is_first = room == TASKS_PER_CALL;
            match operation {
                _ if at >= OPERATIONS_PER_ACCEPT => return true,
                OfferOperation::LaunchGroup { .. } if is_first => room = room.saturating_sub(tasks),
                OfferOperation::LaunchGroup { .. } | OfferOperation::Launch(_) if tasks > room => {
                    return true;
                }
                OfferOperation::LaunchGroup { .. } | OfferOperation::Launch(_) => room -= tasks,
            }
            false
        })?;
        let mut left = operations.split_off(beyond);
        let mut skipped = 0;
        if beyond < OPERATIONS_PER_ACCEPT
            && room > 0
            && let Some(OfferOperation::Launch(tasks)) = left.first_mut()
        {
            skipped = room;
            let rest = tasks.split_off(room);
            operations.push(OfferOperation::Launch(std::mem::replace(tasks, rest)));
        }
        let number = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        let tasks = left.into_iter().enumerate().flat_map(|(at, operation)| {
            let first = if at == 0 { skipped } else { 0 };
            let (OfferOperation::Launch(tasks) | OfferOperation::LaunchGroup { tasks, .. }) =
                operation;
            tasks.into_iter().zip(first..).map(move |(task, place)| {
                let position = Position {
                    operation: number(beyond + at),
                    task: number(place),
                };
                (position, task.task_id)
            })
        });
        Some(Self {
            shape,
            tasks: tasks.collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use argosy_proto::v1;

    use super::*;

    fn tasks(count: usize) -> Vec<v1::TaskSpec> {
        let named = |at| v1::TaskSpec {
            task_id: format!("t{at}"),
            ..Default::default()
        };
        (0..count).map(named).collect()
    }

    fn launch(count: usize) -> OfferOperation {
        OfferOperation::Launch(tasks(count))
    }

    fn group(count: usize) -> OfferOperation {
        OfferOperation::LaunchGroup {
            group_id: "pod".into(),
            tasks: tasks(count),
        }
    }

    /// Returns the number of tasks of each operation that stays, and the positions of the removed
    /// tasks.
    fn split(mut operations: Vec<OfferOperation>) -> (Vec<usize>, Vec<(u32, u32)>) {
        let surplus = ExcessTasks::split_off(&mut operations);
        let kept = operations.iter().map(|one| one.tasks().len()).collect();
        let left = surplus.into_iter().flat_map(|surplus| surplus.tasks);
        let places = left.map(|(place, _)| (place.operation, place.task));
        (kept, places.collect())
    }

    #[test]
    fn calls_within_the_bounds_are_unchanged() {
        let fits = [launch(200), group(16), launch(40)];
        assert_eq!(split(Vec::from(fits)), (vec![200, 16, 40], vec![]));
        assert_eq!(split(vec![]), (vec![], vec![]));
    }

    #[test]
    fn excess_tasks_keep_their_positions() {
        let divided = vec![launch(255), launch(3), launch(1)];
        let left = vec![(1, 1), (1, 2), (2, 0)];
        assert_eq!(split(divided), (vec![255, 1], left));
        let full = vec![launch(256), launch(1)];
        assert_eq!(split(full), (vec![256], vec![(1, 0)]));
    }

    #[test]
    fn a_group_is_never_divided() {
        let behind = vec![launch(255), group(2), launch(1)];
        let left = vec![(1, 0), (1, 1), (2, 0)];
        assert_eq!(split(behind), (vec![255], left));
        // Its masters report why it is invalid.
        assert_eq!(split(vec![group(300)]), (vec![300], vec![]));
    }

    #[test]
    fn operations_beyond_the_maximum_are_not_sent() {
        let many = (0..258).map(|_| launch(usize::from(true))).collect();
        let (kept, left) = split(many);
        assert_eq!((kept.len(), left), (256, vec![(256, 0), (257, 0)]));
    }
}
