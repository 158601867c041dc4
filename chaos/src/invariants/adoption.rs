//! Adoption: a restarted agent adopts exactly its own processes, kills none that it should have
//! adopted, and reports the actual end of those that ended while it was down.

use std::collections::{BTreeMap, BTreeSet};

use argosy_state::ids::TaskKey;
use argosy_state::task::TaskState;

use super::Findings;
use super::facts::of_tasks;
use crate::history::{History, ProcessExit, TaskFact};

pub(super) fn check(history: &History) -> Findings {
    let mut findings = Findings::default();
    let mut alive: BTreeMap<&TaskKey, (usize, (&str, u32, u64))> = BTreeMap::new();
    let mut ends: BTreeMap<&TaskKey, (usize, ProcessExit)> = BTreeMap::new();
    for (at, _, fact) in of_tasks(history) {
        match fact {
            TaskFact::Alive {
                task,
                pid,
                start_time,
                boot_id,
                ..
            } => {
                alive.insert(task, (at, (boot_id, *pid, *start_time)));
            }
            TaskFact::Adopted {
                task,
                pid,
                start_time,
                boot_id,
                ..
            } => {
                findings.count_comparison();
                let adopted = (boot_id.as_str(), *pid, *start_time);
                if let Some((seen, life)) = alive.get(task).filter(|(_, life)| *life != adopted) {
                    findings.violation(
                        format!("{adopted:?} was adopted as {task}, which is {life:?}"),
                        [*seen, at],
                    );
                }
            }
            TaskFact::Ended { task, end } => {
                ends.entry(task).or_insert((at, *end));
            }
            _ => {}
        }
    }
    check_orphans(history, &mut findings);
    for (at, _, fact) in of_tasks(history) {
        if let TaskFact::UpdateReceived {
            task,
            state: TaskState::Finished | TaskState::Failed | TaskState::Killed,
            end: Some(reported),
            ..
        } = fact
            && let Some((ended, end)) = ends.get(task)
        {
            findings.require(end == reported, [*ended, at], || {
                format!("{task} ended by {end:?}, and {reported:?} was reported")
            });
        }
    }
    findings
}

/// Checks that an agent has dropped a task only after the registry had its end.
fn check_orphans(history: &History, findings: &mut Findings) {
    let mut over: BTreeSet<&TaskKey> = BTreeSet::new();
    for (at, _, fact) in of_tasks(history) {
        match fact {
            TaskFact::Changed { task, state, .. }
            | TaskFact::UpdateReceived { task, state, .. }
                if state.is_terminal() =>
            {
                over.insert(task);
            }
            TaskFact::Orphaned { task, agent } => {
                findings.require(over.contains(task), [at], || {
                    format!("{agent} ended {task} as an orphan, and its end was never committed")
                });
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::fixture::{
        AGENT, HistoryBuilder, assert_clean, assert_nothing_compared, assert_violation, key,
        revision,
    };

    fn adopted(builder: HistoryBuilder, pid: u32, start_time: u64) -> HistoryBuilder {
        builder.observe(
            "agent-5",
            TaskFact::Adopted {
                task: key("web"),
                agent: AGENT,
                pid,
                start_time,
                boot_id: "boot-1".to_owned(),
            },
        )
    }

    fn exit_received(builder: HistoryBuilder, end: ProcessExit) -> HistoryBuilder {
        let ended = TaskFact::Ended {
            task: key("web"),
            end: ProcessExit::Code(7),
        };
        builder.observe("web", ended).observe(
            "greedy",
            TaskFact::UpdateReceived {
                task: key("web"),
                update: revision(9),
                state: TaskState::Failed,
                end: Some(end),
            },
        )
    }

    #[test]
    fn adopting_own_processes_and_reporting_true_exits_passes() {
        let builder = adopted(HistoryBuilder::new().alive("web", 4, 1), 4, 900);
        assert_clean(check, exit_received(builder, ProcessExit::Code(7)));
    }

    #[test]
    fn adopting_another_process_with_the_same_pid_is_reported() {
        let builder = adopted(HistoryBuilder::new().alive("web", 4, 1), 4, 901);
        assert_violation(check, builder, "was adopted as framework-3/web");
    }

    #[test]
    fn killing_a_live_task_as_an_orphan_is_reported() {
        let orphaned = |builder: HistoryBuilder| {
            let (task, agent) = (key("web"), AGENT);
            builder.observe("host-1", TaskFact::Orphaned { task, agent })
        };
        let ended = HistoryBuilder::new().changed(9, "web", TaskState::Finished);
        assert_nothing_compared(check, ended.clone());
        assert_clean(check, orphaned(ended));
        let running = HistoryBuilder::new().changed(9, "web", TaskState::Running);
        assert_violation(check, orphaned(running), "framework-3/web as an orphan");
    }

    #[test]
    fn an_invented_exit_is_reported() {
        assert_violation(
            check,
            exit_received(HistoryBuilder::new(), ProcessExit::Code(0)),
            "ended by Code(7), and Code(0) was reported",
        );
        assert_violation(
            check,
            exit_received(HistoryBuilder::new(), ProcessExit::Signal(9)),
            "Signal(9) was reported",
        );
    }
}
