//! The transitions of tasks: all of a live task up to a bound, and the last ones of an ended task.
//!
//! Each transition is one record, so that an update writes only the newest one. The transitions of
//! a task are numbered from 1; a gap in the numbers is what the bound has dropped.

use super::index::Sign;
use super::{RecordKey, Registry};
use crate::ids::TaskKey;
use crate::level::Level;
use crate::limits;
use crate::task::TaskTransition;

/// The transitions of one task in ascending order, each with its number.
pub type TaskTransitions = Vec<(u32, TaskTransition)>;

/// The number of transitions dropped for one that is added: enough to get below a bound that has
/// become lower.
const DROPPED: usize = 2;

impl Registry {
    /// Returns the transitions of a task, oldest first, each with its number. They are kept until
    /// the history drops the task. Empty for a task that reached its state before level 3.
    #[must_use]
    pub fn transitions(&self, key: &TaskKey) -> &[(u32, TaskTransition)] {
        self.transitions.get(key).map_or(&[], Vec::as_slice)
    }

    /// Returns one transition of a task.
    pub(crate) fn transition(&self, key: &TaskKey, number: u32) -> Option<&TaskTransition> {
        let all = self.transitions(key);
        let at = all.binary_search_by_key(&number, |(number, _)| *number);
        Some(&all[at.ok()?].1)
    }

    /// Appends a transition of a task that is not in the history, and drops others at the bound. An
    /// ended task keeps its last ones.
    pub(crate) fn add_transition(&mut self, key: &TaskKey, transition: TaskTransition) {
        if self.level() < Level::RELEASE_0_2 {
            return;
        }
        let most = self.most_transitions(key);
        let all = self.transitions.or_default(key.clone());
        let former = all.len();
        let number = all.last().map_or(1, |(number, _)| number.saturating_add(1));
        all.push((number, transition));
        self.changed
            .insert(RecordKey::TaskTransition(key.clone(), number));
        let dropped = match transition.state.is_terminal() {
            true => 0..all.len().saturating_sub(limits::ENDED_TRANSITIONS),
            false => {
                let count = all.len().saturating_sub(most).min(DROPPED);
                let first = limits::FIRST_TRANSITIONS.min(most / 2).min(all.len());
                first..first + count
            }
        };
        for (number, _) in all.drain(dropped) {
            self.changed
                .insert(RecordKey::TaskTransition(key.clone(), number));
        }
        let present = all.len();
        self.index.weigh_transitions(key, former, Sign::Remove);
        self.index.weigh_transitions(key, present, Sign::Add);
    }

    /// Returns the largest number of transitions that the next one of this task adds and drops, if
    /// it ends the task or not.
    pub(crate) fn transitions_changed(&self, key: &TaskKey, is_end: bool) -> usize {
        let count = self.transitions(key).len() + 1;
        let dropped = match is_end {
            true => count.saturating_sub(limits::ENDED_TRANSITIONS),
            false if count > limits::TRANSITIONS_WHEN_FULL => DROPPED,
            false => 0,
        };
        1 + dropped
    }

    /// Returns the largest number of transitions of a live task: fewer while the tasks take all the
    /// memory that they may.
    fn most_transitions(&self, key: &TaskKey) -> usize {
        let of_framework = self.task_bytes_of(key.framework);
        let is_full = self.index.bytes.tasks >= limits::TASK_BYTES
            || of_framework >= limits::TASK_BYTES_PER_FRAMEWORK;
        match is_full {
            true => limits::TRANSITIONS_WHEN_FULL,
            false => limits::TRANSITIONS,
        }
    }

    /// Drops the transitions of a task that the history drops.
    pub(super) fn drop_transitions(&mut self, key: &TaskKey) {
        for (number, _) in self.transitions.remove(key).unwrap_or_default() {
            self.changed
                .insert(RecordKey::TaskTransition(key.clone(), number));
        }
    }

    /// Adds a stored transition; they may come in any order.
    pub(crate) fn load_transition(
        &mut self,
        key: &TaskKey,
        number: u32,
        transition: TaskTransition,
    ) {
        let all = self.transitions.or_default(key.clone());
        match all.binary_search_by_key(&number, |(number, _)| *number) {
            Ok(at) => all[at].1 = transition,
            Err(at) => all.insert(at, (number, transition)),
        }
    }
}

#[cfg(test)]
mod tests;
