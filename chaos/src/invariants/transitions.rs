//! StateTransitions: states follow the transition table. A task has at most one end, and only
//! copies of the same update come after it. Checked for commits, for updates on agents' disks, and
//! for updates that frameworks received.

use std::collections::BTreeMap;

use argosy_state::ids::{OrderIndex, Revision, TaskKey};
use argosy_state::task::TaskState;

use super::Findings;
use super::facts::{changes, of_tasks};
use crate::history::{History, TaskFact};

pub(super) fn check(history: &History) -> Findings {
    let mut findings = Findings::default();
    for (task, changes) in changes(history) {
        for pair in changes.windows(2) {
            let (before, next) = (pair[0], pair[1]);
            let holds = before.state.may_become(next.state) && before.revision < next.revision;
            findings.require(holds, [before.at, next.at], || {
                format!("{task} became {:?} after {:?}", next.state, before.state)
            });
        }
    }
    check_stored_updates(history, &mut findings);
    check_received_updates(history, &mut findings);
    findings
}

fn check_stored_updates(history: &History, findings: &mut Findings) {
    let mut newest: BTreeMap<(&TaskKey, OrderIndex), (usize, u64, TaskState)> = BTreeMap::new();
    for (at, _, fact) in of_tasks(history) {
        let TaskFact::UpdateStored {
            task,
            order,
            number,
            state,
        } = fact
        else {
            continue;
        };
        let now = (at, *number, *state);
        let Some((first, known, before)) = newest.insert((task, *order), now) else {
            continue;
        };
        // An update that is read back after a restart is the same one.
        if known == *number && before == *state {
            continue;
        }
        let holds = *number > known && before.may_become(*state);
        findings.require(holds, [first, at], || {
            format!("the agent of {task} made update {number} ({state:?}) after update {known} ({before:?})")
        });
    }
}

fn check_received_updates(history: &History, findings: &mut Findings) {
    let mut states: BTreeMap<(&TaskKey, Revision), (usize, TaskState)> = BTreeMap::new();
    let mut ends: BTreeMap<&TaskKey, (usize, Revision)> = BTreeMap::new();
    let mut newest: BTreeMap<&TaskKey, (usize, Revision)> = BTreeMap::new();
    for (at, _, fact) in of_tasks(history) {
        let TaskFact::UpdateReceived {
            task,
            update,
            state,
            ..
        } = fact
        else {
            continue;
        };
        let (first, known) = *states.entry((task, *update)).or_insert((at, *state));
        findings.require(known == *state, [first, at], || {
            format!("one update of {task} was reported as {known:?} and as {state:?}")
        });
        if state.is_terminal() {
            let (first, known) = *ends.entry(task).or_insert((at, *update));
            findings.require(known == *update, [first, at], || {
                format!("{task} received two ends")
            });
        }
        let last = newest.entry(task).or_insert((at, *update));
        if *update > last.1 {
            *last = (at, *update);
        }
    }
    for (task, (at, end)) in ends {
        let (last, update) = newest[task];
        findings.require(update <= end, [at, last], || {
            format!("{task} received an update that is newer than its end")
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::fixture::{HistoryBuilder, assert_clean, assert_violation, key};

    fn made(builder: HistoryBuilder, number: u64, state: TaskState) -> HistoryBuilder {
        let task = key("web");
        let order = OrderIndex(1);
        builder.observe(
            "agent-5",
            TaskFact::UpdateStored {
                task,
                order,
                number,
                state,
            },
        )
    }

    #[test]
    fn transitions_recorded_by_several_masters_in_any_order_pass() {
        let builder = HistoryBuilder::new()
            .changed(4, "web", TaskState::Running)
            .changed(3, "web", TaskState::Staging)
            .changed(4, "web", TaskState::Running)
            .changed(8, "web", TaskState::Unreachable)
            .changed(9, "web", TaskState::Running)
            .changed(12, "web", TaskState::Finished)
            .changed(12, "web", TaskState::Finished);
        assert_clean(check, builder);
    }

    #[test]
    fn transitions_after_a_terminal_state_are_reported() {
        let ended = HistoryBuilder::new().changed(4, "web", TaskState::Killed);
        assert_violation(
            check,
            ended.clone().changed(5, "web", TaskState::Finished),
            "Finished after Killed",
        );
        assert_violation(
            check,
            ended.changed(5, "web", TaskState::Running),
            "Running after Killed",
        );
    }

    #[test]
    fn agent_updates_are_numbered_and_follow_the_transition_table() {
        let builder = made(
            made(HistoryBuilder::new(), 1, TaskState::Running),
            2,
            TaskState::Finished,
        );
        assert_clean(check, made(builder.clone(), 2, TaskState::Finished));
        assert_violation(
            check,
            made(builder.clone(), 3, TaskState::Failed),
            "update 3 (Failed) after update 2",
        );
        let builder = made(
            made(HistoryBuilder::new(), 2, TaskState::Starting),
            1,
            TaskState::Running,
        );
        assert_violation(check, builder, "update 1");
    }

    #[test]
    fn a_framework_receives_one_end_and_no_newer_state() {
        let builder = HistoryBuilder::new()
            .update_received(4, "web", TaskState::Running)
            .update_received(9, "web", TaskState::Finished)
            .update_received(9, "web", TaskState::Finished);
        assert_clean(check, builder.clone());
        assert_violation(
            check,
            builder
                .clone()
                .update_received(10, "web", TaskState::Running),
            "newer than its end",
        );
        assert_violation(
            check,
            builder.update_received(8, "web", TaskState::Failed),
            "two ends",
        );
        let builder = HistoryBuilder::new().update_received(4, "web", TaskState::Running);
        assert_violation(
            check,
            builder.update_received(4, "web", TaskState::Killing),
            "as Running and as Killing",
        );
    }
}
