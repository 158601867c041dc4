//! The state of an executor: its tasks, and its unacknowledged updates. Pure.

use std::collections::{BTreeMap, VecDeque};

use argosy_proto::v1;
use argosy_proto::versions::VersionRange;
use argosy_state::limits::MESSAGE_BYTES;
use prost::Message as _;

use super::{TaskName, TaskStateChange};

/// Number of unacknowledged updates of one task that are kept while the agent is away. Of more, the
/// oldest are dropped.
const KEPT_UPDATES: usize = 16;

/// Maximum number of tasks and updates in the first message of a stream: an agent refuses more.
const FIRST_ENTRIES: usize = 10_000;

/// Maximum size of the updates in the first message, in bytes. With the tasks, it must remain below
/// the 4 MiB of a message.
const FIRST_UPDATES_BYTES: usize = 1 << 20;

/// The tasks of an executor, until their final updates are acknowledged. [`super::ExecutorRunner`]
/// keeps one; so does a simulation.
#[derive(Debug, Default)]
pub struct ExecutorState {
    tasks: BTreeMap<TaskName, TaskEntry>,
}

#[derive(Debug, Default)]
struct TaskEntry {
    /// Number of the newest update.
    last_number: u64,
    has_ended: bool,
    unacknowledged: VecDeque<v1::ExecutorUpdate>,
}

impl ExecutorState {
    /// Adds a task; false if it is already known.
    pub fn add(&mut self, name: &TaskName) -> bool {
        let is_new = !self.tasks.contains_key(name);
        if is_new {
            self.tasks.insert(name.clone(), TaskEntry::default());
        }
        is_new
    }

    /// Returns whether a known task has not ended.
    #[must_use]
    pub fn is_live(&self, name: &TaskName) -> bool {
        self.tasks.get(name).is_some_and(|entry| !entry.has_ended)
    }

    /// Creates an update; `None` for a task that has ended or is unknown. It replaces the oldest
    /// one of its task if many are unacknowledged.
    pub fn update(&mut self, change: TaskStateChange) -> Option<v1::ExecutorUpdate> {
        let entry = self.tasks.get_mut(&change.name)?;
        if entry.has_ended {
            return None;
        }
        entry.last_number += 1;
        entry.has_ended = is_end(change.state);
        // As the agent would do.
        let mut text = change.text;
        text.truncate(text.floor_char_boundary(MESSAGE_BYTES));
        let update = v1::ExecutorUpdate {
            task_id: change.name.task_id,
            order_index: change.name.order,
            serial: entry.last_number,
            state: change.state.into(),
            text,
            exit: change.exit,
        };
        entry.unacknowledged.push_back(update.clone());
        if entry.unacknowledged.len() > KEPT_UPDATES {
            entry.unacknowledged.pop_front();
        }
        Some(update)
    }

    /// Records that the agent has stored this update and those before it.
    pub fn acknowledged(&mut self, name: &TaskName, serial: u64) {
        let Some(held) = self.tasks.get_mut(name) else {
            return;
        };
        held.unacknowledged.retain(|update| update.serial > serial);
        if held.has_ended && held.unacknowledged.is_empty() {
            self.tasks.remove(name);
        }
    }

    /// Returns whether no update is unacknowledged and no task runs.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Returns the first message of a stream, and the unacknowledged updates that it has no room
    /// for. They are the next messages: a later update of the same task follows them.
    #[must_use]
    pub fn subscribe(
        &self,
        token: Vec<u8>,
    ) -> (v1::ExecutorSubscribe, VecDeque<v1::ExecutorUpdate>) {
        let tasks = self.tasks.keys().map(|name| v1::ExecutorTask {
            task_id: name.task_id.clone(),
            order_index: name.order,
        });
        let mut first = v1::ExecutorSubscribe {
            protocol: Some(VersionRange::OWN.first_message()),
            token,
            tasks: tasks.collect(),
            unacknowledged: Vec::new(),
        };
        let mut later = VecDeque::new();
        let mut bytes = 0;
        for update in self.tasks.values().flat_map(|task| &task.unacknowledged) {
            bytes += update.encoded_len();
            let entries = first.tasks.len() + first.unacknowledged.len();
            let fits = bytes <= FIRST_UPDATES_BYTES && entries < FIRST_ENTRIES;
            match fits && later.is_empty() {
                true => first.unacknowledged.push(update.clone()),
                false => later.push_back(update.clone()),
            }
        }
        (first, later)
    }
}

fn is_end(state: v1::TaskState) -> bool {
    argosy_proto::convert::state_from(state.into()).is_ok_and(|state| state.is_terminal())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(order: u64) -> TaskName {
        TaskName {
            task_id: "t".to_owned(),
            order,
        }
    }

    fn news(order: u64, state: v1::TaskState) -> TaskStateChange {
        TaskStateChange {
            name: name(order),
            state,
            text: String::new(),
            exit: None,
        }
    }

    #[test]
    fn a_task_is_added_once_and_stored_until_its_end_is_acknowledged() {
        let mut book = ExecutorState::default();
        assert!(book.add(&name(1)) && !book.add(&name(1)));
        assert!(book.add(&name(2)), "the same id under another order");
        let running = book.update(news(1, v1::TaskState::Running)).unwrap();
        let finished = book.update(news(1, v1::TaskState::Finished)).unwrap();
        assert_eq!((running.serial, finished.serial), (1, 2));
        assert_eq!(book.update(news(1, v1::TaskState::Failed)), None);
        assert!(!book.is_live(&name(1)) && book.is_live(&name(2)));
        book.acknowledged(&name(1), 1);
        let (again, _) = book.subscribe(b"token".to_vec());
        assert_eq!((again.tasks.len(), again.unacknowledged.len()), (2, 1));
        book.acknowledged(&name(1), 2);
        assert_eq!(book.subscribe(Vec::new()).0.tasks.len(), 1);
        assert!(!book.is_idle());
    }

    #[test]
    fn texts_are_kept_truncated() {
        let mut book = ExecutorState::default();
        book.add(&name(1));
        let long = TaskStateChange {
            text: format!("x{}", "ü".repeat(3 << 20)),
            ..news(1, v1::TaskState::Finished)
        };
        let update = book.update(long).unwrap();
        assert_eq!(update.text.len(), MESSAGE_BYTES - 1, "whole characters");
        assert!(book.subscribe(Vec::new()).0.encoded_len() < 2 * MESSAGE_BYTES);
    }

    #[test]
    fn the_newest_updates_of_a_task_are_kept_while_its_agent_is_away() {
        let mut book = ExecutorState::default();
        book.add(&name(1));
        for _ in 0..1_000 {
            book.update(news(1, v1::TaskState::Running)).unwrap();
        }
        let end = book.update(news(1, v1::TaskState::Finished)).unwrap();
        let (first, _) = book.subscribe(Vec::new());
        assert_eq!(first.unacknowledged.len(), KEPT_UPDATES);
        assert_eq!(first.unacknowledged.last(), Some(&end));
        book.acknowledged(&name(1), end.serial);
        assert!(book.is_idle());
    }

    #[test]
    fn the_first_message_of_many_tasks_is_bounded_and_the_other_updates_follow_in_order() {
        for (tasks, text_bytes) in [(2_000, 0), (500, MESSAGE_BYTES)] {
            let mut book = ExecutorState::default();
            let mut made = Vec::new();
            for order in 1..=tasks {
                book.add(&name(order));
                for _ in 0..KEPT_UPDATES {
                    let change = TaskStateChange {
                        text: "x".repeat(text_bytes),
                        ..news(order, v1::TaskState::Running)
                    };
                    made.push(book.update(change).unwrap());
                }
            }
            let (first, later) = book.subscribe(Vec::new());
            assert!(first.tasks.len() + first.unacknowledged.len() <= FIRST_ENTRIES);
            assert!(first.encoded_len() < 2 * FIRST_UPDATES_BYTES);
            assert!(!first.unacknowledged.is_empty());
            assert!(first.unacknowledged.into_iter().chain(later).eq(made));
        }
    }
}
