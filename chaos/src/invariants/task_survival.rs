//! TaskSurvival: a running task continues in the same process and with growing progress, whatever
//! happens to masters, networks and agent processes. Its framework is removed only by a requested
//! teardown, or when its failover timeout expires.

use std::collections::BTreeMap;

use argosy_state::ids::{AgentId, TaskKey};

use super::Findings;
use super::facts::{FrameworkRemoval, expectations, final_phase, of_tasks, removals};
use crate::history::{
    EventKind, Expectation, FaultKind, History, HistoryEvent, Operation, TaskFact,
};

/// The maximum time in which a running task makes no progress.
const MAX_STALL_NS: u64 = 10_000_000_000;

pub(super) fn check(history: &History) -> Findings {
    let mut findings = Findings::default();
    check_processes(history, &mut findings);
    let removals = removals(history);
    for removed in &removals {
        match &removed.violation {
            None => findings.count_comparison(),
            Some((shown, why)) => {
                let message = format!("{} was removed {why}", removed.framework);
                findings.require(false, [*shown, removed.at], || message);
            }
        }
    }
    for (at, _, expected) in expectations(history) {
        if let Expectation::KeepsRunning { task } = expected {
            check_keeps_running(history, &mut findings, &removals, (at, task));
        }
    }
    findings
}

/// The last observation of a process.
#[derive(Clone, Copy)]
struct LastObservation<'a> {
    at: usize,
    time_ns: u64,
    process: (&'a str, u32, u64),
    progress: Option<u64>,
}

fn check_processes(history: &History, findings: &mut Findings) {
    // The position at which its progress last grew.
    let mut seen: BTreeMap<&TaskKey, LastObservation<'_>> = BTreeMap::new();
    for (at, event, fact) in of_tasks(history) {
        let TaskFact::Alive {
            task,
            pid,
            start_time,
            boot_id,
            progress,
            ..
        } = fact
        else {
            continue;
        };
        let now = LastObservation {
            at,
            time_ns: event.time_ns,
            process: (boot_id, *pid, *start_time),
            progress: *progress,
        };
        let Some(before) = seen.insert(task, now) else {
            continue;
        };
        let shown = [before.at, at];
        findings.require(before.process == now.process, shown, || {
            format!(
                "{task} is another process now: {:?} was {:?}",
                now.process, before.process
            )
        });
        if before.process == now.process
            && let (Some(was), Some(is)) = (before.progress, now.progress)
        {
            findings.require(is >= was, shown, || {
                format!("the progress of {task} went back from {was} to {is}")
            });
            let waited_ns = now.time_ns - before.time_ns;
            findings.require(is > was || waited_ns < MAX_STALL_NS, shown, || {
                format!(
                    "{task} has made no progress in {} s",
                    waited_ns / 1_000_000_000
                )
            });
            if is == was {
                seen.insert(task, LastObservation { at, ..before });
            }
        }
    }
}

fn check_keeps_running(
    history: &History,
    findings: &mut Findings,
    removals: &[FrameworkRemoval],
    (from, task): (usize, &TaskKey),
) {
    let agent = of_tasks(history).find_map(|(_, _, fact)| match fact {
        TaskFact::Launched {
            task: of, agent, ..
        }
        | TaskFact::Alive {
            task: of, agent, ..
        } => (of == task).then_some(*agent),
        _ => None,
    });
    let (earlier, later) = history.events.split_at(from);
    // Its framework requested the end between its report and the expectation.
    if earlier.iter().any(|event| is_kill(event, task)) {
        return;
    }
    let ended = later
        .iter()
        .position(|event| may_end_task(event, task, agent));
    let removed = removals.iter().find(|removed| {
        removed.framework == task.framework && removed.at >= from && removed.violation.is_none()
    });
    let ended = ended.map(|place| from + place);
    let excused = ended
        .into_iter()
        .chain(removed.map(|removed| removed.at))
        .min();
    let until = excused.unwrap_or(history.events.len());
    let mut alive = None;
    for (at, _, fact) in of_tasks(history).take_while(|(at, _, _)| *at < until) {
        match fact {
            TaskFact::UpdateReceived {
                task: of, state, ..
            }
            | TaskFact::Changed {
                task: of, state, ..
            } if of == task && at > from => {
                findings.require(!state.is_terminal(), [from, at], || {
                    format!("{task} is {state:?}, and its end was not requested")
                });
            }
            TaskFact::Ended { task: of, end } if of == task && at > from => {
                findings.violation(
                    format!("{task} ended by {end:?}, which was not requested"),
                    [from, at],
                );
            }
            TaskFact::Alive { task: of, .. } if of == task => alive = Some(at),
            _ => {}
        }
    }
    // If processes are recorded at all, this one must exist at the end.
    if let (Some(end), None, Some(_)) = (final_phase(history), excused, alive) {
        findings.require(alive > Some(end), [from, end], || {
            format!("{task} is missing at the end, which was not requested")
        });
    }
}

fn is_kill(event: &HistoryEvent, task: &TaskKey) -> bool {
    matches!(&event.what, EventKind::Invoke { operation: Operation::Kill { task: of, .. }, .. } if of == task)
}

/// Whether a task may end because of this event.
fn may_end_task(event: &HistoryEvent, task: &TaskKey, agent: Option<AgentId>) -> bool {
    match &event.what {
        EventKind::Invoke { operation, .. } => match operation {
            Operation::MarkGone { agent: of } => Some(*of) == agent,
            _ => is_kill(event, task),
        },
        EventKind::Fault(fault) => {
            let kinds = [
                FaultKind::HostReboot,
                FaultKind::WipeDisk,
                FaultKind::Teardown,
            ];
            let own = agent.is_some_and(|agent| agent.to_string() == fault.target);
            kinds.contains(&fault.kind) && (own || fault.target == task.framework.to_string())
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{FrameworkFact, Removal, RunPhase};
    use crate::invariants::fixture::{
        FRAMEWORK, HistoryBuilder, assert_clean, assert_nothing_compared, assert_violation, key,
    };
    use argosy_state::task::TaskState;

    fn service() -> HistoryBuilder {
        let task = key("web");
        HistoryBuilder::new()
            .alive("web", 4, 1)
            .observe("harness", Expectation::KeepsRunning { task })
    }

    #[test]
    fn a_service_that_keeps_running_passes() {
        let builder = service()
            .fault(FaultKind::FreezeAllMasters, "*")
            .alive("web", 4, 2)
            .update_received(9, "web", TaskState::Unreachable)
            .after_ms(9000)
            .alive("web", 4, 2)
            .phase(RunPhase::Final);
        assert_clean(check, builder.alive("web", 4, 3));
        let rebooted = service().fault(FaultKind::HostReboot, "agent-5");
        let rebooted = rebooted.update_received(9, "web", TaskState::Failed);
        assert_eq!(
            check(&rebooted.phase(RunPhase::Final).history()).violations,
            []
        );
    }

    #[test]
    fn a_kill_just_before_the_expectation_excuses_the_end() {
        let task = key("web");
        let kill = Operation::Kill {
            name: None,
            task: task.clone(),
        };
        let killed = HistoryBuilder::new()
            .alive("web", 4, 1)
            .begin("framework-3", kill)
            .observe("harness", Expectation::KeepsRunning { task })
            .update_received(9, "web", TaskState::Killed);
        assert_eq!(check(&killed.history()).violations, []);
    }

    #[test]
    fn tasks_may_end_with_a_teardown_or_failover_timeout() {
        let torn_down = HistoryBuilder::new()
            .torn_down()
            .removed(Removal::Teardown, 0);
        assert_clean(check, torn_down);
        assert_clean(check, HistoryBuilder::new().removed(Removal::Quota, 0));
        let expired = service().removed(Removal::Deadline, 60_000);
        assert_clean(check, expired.update_received(9, "web", TaskState::Killed));
    }

    #[test]
    fn an_unjustified_framework_removal_is_reported() {
        assert_violation(
            check,
            HistoryBuilder::new().removed(Removal::Deadline, 59_999),
            "framework-3 was removed 59999 ms after it was disconnected, and may be away for 60000 ms",
        );
        let later = HistoryBuilder::new()
            .removed(Removal::Teardown, 0)
            .torn_down();
        assert_violation(check, later, "by a teardown that was not requested");
        let ended = service().removed(Removal::Deadline, 9);
        let ended = check(&ended.update_received(9, "web", TaskState::Killed).history());
        assert_eq!(
            ended.violations.len(),
            2,
            "the end of its task is not excused"
        );
    }

    #[test]
    fn a_removal_without_a_recorded_disconnection_is_skipped() {
        let framework = FRAMEWORK;
        let removing = FrameworkFact::Removing {
            framework,
            by: Removal::Deadline,
            at_ms: 1,
        };
        let found = check(&HistoryBuilder::new().observe("log", removing).history());
        assert_eq!(found.violations, []);
        assert_nothing_compared(check, HistoryBuilder::new());
    }

    #[test]
    fn another_process_and_decreasing_progress_are_reported() {
        assert_violation(check, service().alive("web", 5, 9), "another process now");
        assert_violation(check, service().alive("web", 4, 0), "went back from 1 to 0");
    }

    #[test]
    fn a_task_without_progress_is_reported_despite_observations() {
        let builder = service().after_ms(6000).alive("web", 4, 1);
        assert_violation(
            check,
            builder.after_ms(6000).alive("web", 4, 1),
            "no progress in 12 s",
        );
        let cut_off = service().fault(FaultKind::PartitionBoth, "host-1");
        let cut_off = cut_off.after_ms(11_000).alive("web", 4, 1);
        assert_violation(check, cut_off, "no progress in 11 s");
    }

    #[test]
    fn an_unrequested_end_is_reported() {
        assert_violation(
            check,
            service().update_received(9, "web", TaskState::Killed),
            "is Killed, and its end was not",
        );
        assert_violation(
            check,
            service().phase(RunPhase::Final),
            "is missing at the end",
        );
    }
}
