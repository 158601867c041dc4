//! Task groups: tasks that are started together, share a network and a folder, and end together.
//!
//! A group has no record of its own: it is what its tasks say of it.

use super::TaskSpec;
use crate::encode::stored::stored;
use crate::fingerprint::Writer;
use crate::ids::{GroupId, OrderIndex};

/// The place of a task in its group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskGroup {
    /// Which group of its framework.
    pub id: GroupId,
    /// Counts from 0 in the order of their start; their orders follow each other in it, too.
    pub place: u32,
    /// How many tasks there are: 1 to [`crate::limits::TASKS_PER_GROUP`].
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

    /// The order of the group's first task, if this one was launched by `order`: with its agent, it names the group.
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
    /// Appends what the fingerprint of a request covers. The field numbers are its own.
    pub(crate) fn fingerprint(&self, out: &mut Writer) {
        let TaskGroup { id, place, size } = self;
        out.text(1, id.as_str());
        out.number(2, (*place).into());
        out.number(3, (*size).into());
    }
}
