//! Invariants of the updates and transitions of tasks.

use super::{InvariantViolation, ensure};
use crate::Registry;
use crate::level::Level;
use crate::limits;
use crate::task::{Task, TaskState};

pub(super) fn check_stopped(task: &Task) -> Result<(), InvariantViolation> {
    let updates = task.unacknowledged.iter().chain([&task.latest]);
    let mut stopped = updates.filter(|update| update.stopped);
    ensure(
        stopped.all(|update| update.state == TaskState::Unreachable)
            && (!task.latest.stopped || task.spec.stop_after_ms > 0),
        &task.key,
        "only an unreachable task with stop_after_ms has stopped itself",
    )
}

/// Checks that at most the newest non-terminal update and the terminal one are queued, the newest
/// last.
pub(super) fn check_unacknowledged(task: &Task) -> Result<(), InvariantViolation> {
    let key = &task.key;
    let updates = &task.unacknowledged;
    let ascending = updates
        .windows(2)
        .all(|pair| pair[0].revision < pair[1].revision);
    ensure(ascending, key, "its updates ascend")?;
    let open = updates
        .iter()
        .filter(|update| !update.state.is_terminal())
        .count();
    ensure(
        open <= 1 && updates.len() - open <= 1,
        key,
        "at most one update of each kind is unacknowledged",
    )?;
    ensure(
        updates.last().is_none_or(|last| *last == task.latest),
        key,
        "its newest unacknowledged update is its newest one",
    )?;
    ensure(
        !task.is_terminal() || !updates.is_empty(),
        key,
        "an ended and acknowledged task is history",
    )
}

impl Registry {
    /// Checks the transitions of one task, live or in the history.
    pub(super) fn check_transitions(&self, task: &Task) -> Result<(), InvariantViolation> {
        let key = &task.key;
        let all = self.transitions(key);
        let Some((_, newest)) = all.last() else {
            // It reached its state before level 3.
            return Ok(());
        };
        ensure(
            self.level() >= Level::RELEASE_0_2,
            key,
            "below level 3 no transitions are kept",
        )?;
        let most = match task.is_terminal() {
            true => limits::ENDED_TRANSITIONS,
            false => limits::TRANSITIONS,
        };
        ensure(all.len() <= most, key, "its transitions are bounded")?;
        let ascend = all
            .windows(2)
            .all(|pair| pair[0].0 < pair[1].0 && pair[0].1.revision < pair[1].1.revision);
        ensure(ascend, key, "its transitions ascend")?;
        ensure(
            newest.state == task.state && newest.revision <= task.latest.revision,
            key,
            "its newest transition led to its state",
        )?;
        let mut past = all[..all.len() - 1].iter();
        ensure(
            past.all(|(_, transition)| !transition.state.is_terminal()),
            key,
            "no transition follows its end",
        )
    }

    /// Checks that each transition is one of a task.
    pub(super) fn check_transition_keys(&self) -> Result<(), InvariantViolation> {
        for (key, all) in self.transitions.iter() {
            let is_known = self.tasks.contains_key(key) || self.index.history.contains_key(key);
            ensure(is_known, key, "transitions are those of a task")?;
            ensure(
                !all.is_empty(),
                key,
                "only tasks with transitions have a list",
            )?;
        }
        Ok(())
    }
}
