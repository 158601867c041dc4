//! Task groups: tasks that start and end together, and share a network and a directory.
//!
//! A group has no record: it is derived from the descriptions of its tasks.

use super::TaskSpec;
use crate::codec::canonical::CanonicalWriter;
use crate::codec::stored::stored;
use crate::ids::{GroupId, OrderIndex};

/// The position of a task in its group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskGroup {
    /// The id of the group, unique in its framework.
    pub id: GroupId,
    /// The index of the task, from 0 in the order of start. The orders of the tasks are consecutive
    /// in the same order.
    pub place: u32,
    /// The number of tasks: 1 to [`crate::limits::TASKS_PER_GROUP`].
    pub size: u32,
}

impl TaskGroup {
    /// Makes these tasks a group, in this order.
    #[must_use]
    pub fn of(id: &GroupId, tasks: Vec<TaskSpec>) -> Vec<TaskSpec> {
        let size = u32::try_from(tasks.len()).unwrap_or(u32::MAX);
        let placed = (0..).zip(tasks).map(|(place, spec)| {
            let id = id.clone();
            let group = Some(Box::new(Self { id, place, size }));
            TaskSpec { group, ..spec }
        });
        placed.collect()
    }

    /// Returns the order of the group's first task, if this one was launched by `order`. With the
    /// agent, it identifies the group.
    #[must_use]
    pub fn first(&self, order: OrderIndex) -> OrderIndex {
        OrderIndex(order.0.saturating_sub(self.place.into()))
    }
}

stored!(message TaskGroup {
    1 id: Text or "group id",
    2 place: Number,
    3 size: Number,
});

impl TaskGroup {
    /// Appends the fields that the fingerprint of a request covers. The numbers belong to the
    /// fingerprint, not to the wire format.
    pub(crate) fn fingerprint(&self, out: &mut CanonicalWriter) {
        let TaskGroup { id, place, size } = self;
        out.text(1, id.as_str());
        out.number(2, (*place).into());
        out.number(3, (*size).into());
    }
}
