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

/// A running task makes progress within this time.
const PROGRESS_NS: u64 = 10_000_000_000;

pub(super) fn check(history: &History) -> Findings {
    let mut findings = Findings::default();
    processes(history, &mut findings);
    let removals = removals(history);
    for removed in &removals {
        match &removed.wrong {
            None => findings.count_comparison(),
            Some((shown, why)) => {
                let words = format!("{} was removed {why}", removed.framework);
                findings.require(false, [*shown, removed.at], || words);
            }
        }
    }
    for (at, _, expected) in expectations(history) {
        if let Expectation::KeepsRunning { task } = expected {
            keeps_running(history, &mut findings, &removals, (at, task));
        }
    }
    findings
}

/// The last observation of a process.
#[derive(Clone, Copy)]
struct LastObservation<'a> {
    at: usize,
    time_ns: u64,
    life: (&'a str, u32, u64),
    progress: Option<u64>,
}

fn processes(history: &History, findings: &mut Findings) {
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
            life: (boot_id, *pid, *start_time),
            progress: *progress,
        };
        let Some(before) = seen.insert(task, now) else {
            continue;
        };
        let shown = [before.at, at];
        findings.require(before.life == now.life, shown, || {
            format!(
                "{task} is another process now: {:?} was {:?}",
                now.life, before.life
            )
        });
        if before.life == now.life
            && let (Some(was), Some(is)) = (before.progress, now.progress)
        {
            findings.require(is >= was, shown, || {
                format!("the progress of {task} went back from {was} to {is}")
            });
            let waited_ns = now.time_ns - before.time_ns;
            findings.require(is > was || waited_ns < PROGRESS_NS, shown, || {
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

fn keeps_running(
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
    let later = &history.events[from..];
    let ended = later.iter().position(|event| ends(event, task, agent));
    let removed = removals.iter().find(|removed| {
        removed.framework == task.framework && removed.at >= from && removed.wrong.is_none()
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
                    format!("{task} is {state:?}, and nobody asked for its end")
                });
            }
            TaskFact::Ended { task: of, end } if of == task && at > from => {
                findings.wrong(
                    format!("{task} ended by {end:?}, and nobody asked for it"),
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
            format!("{task} is not there any more at the end, and nobody asked for that")
        });
    }
}

/// Whether a task may end because of this event.
fn ends(event: &HistoryEvent, task: &TaskKey, agent: Option<AgentId>) -> bool {
    match &event.what {
        EventKind::Invoke { operation, .. } => match operation {
            Operation::Kill { task: of, .. } => of == task,
            Operation::MarkGone { agent: of } => Some(*of) == agent,
            _ => false,
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
        FRAMEWORK, HistoryBuilder, assert_nothing_compared, catches, key, passes,
    };
    use argosy_state::task::TaskState;

    fn service() -> HistoryBuilder {
        let task = key("web");
        HistoryBuilder::new()
            .alive("web", 4, 1)
            .observe("harness", Expectation::KeepsRunning { task })
    }

    #[test]
    fn a_service_that_runs_on_is_fine() {
        let scene = service()
            .fault(FaultKind::FreezeAllMasters, "*")
            .alive("web", 4, 2)
            .update_received(9, "web", TaskState::Unreachable)
            .after_ms(9000)
            .alive("web", 4, 2)
            .phase(RunPhase::Final);
        passes(check, scene.alive("web", 4, 3));
        let rebooted = service().fault(FaultKind::HostReboot, "agent-5");
        let rebooted = rebooted.update_received(9, "web", TaskState::Failed);
        assert_eq!(check(&rebooted.phase(RunPhase::Final).history()).wrong, []);
    }

    #[test]
    fn a_framework_that_was_torn_down_or_away_for_too_long_is_removed_with_its_tasks() {
        let torn_down = HistoryBuilder::new()
            .torn_down()
            .removed(Removal::Teardown, 0);
        passes(check, torn_down);
        passes(check, HistoryBuilder::new().removed(Removal::Quota, 0));
        let expired = service().removed(Removal::Deadline, 60_000);
        passes(check, expired.update_received(9, "web", TaskState::Killed));
    }

    #[test]
    fn a_framework_that_was_removed_by_mistake_is_seen() {
        catches(
            check,
            HistoryBuilder::new().removed(Removal::Deadline, 59_999),
            "framework-3 was removed 59999 ms after it was disconnected, and may be away for 60000 ms",
        );
        let later = HistoryBuilder::new()
            .removed(Removal::Teardown, 0)
            .torn_down();
        catches(check, later, "by a teardown that nobody asked for");
        let ended = service().removed(Removal::Deadline, 9);
        let ended = check(&ended.update_received(9, "web", TaskState::Killed).history());
        assert_eq!(ended.wrong.len(), 2, "the end of its task is not excused");
    }

    #[test]
    fn a_removal_whose_absence_is_not_recorded_is_not_judged() {
        let framework = FRAMEWORK;
        let removing = FrameworkFact::Removing {
            framework,
            by: Removal::Deadline,
            at_ms: 1,
        };
        let found = check(&HistoryBuilder::new().observe("log", removing).history());
        assert_eq!(found.wrong, []);
        assert_nothing_compared(check, HistoryBuilder::new());
    }

    #[test]
    fn another_process_and_progress_that_goes_back_are_seen() {
        catches(check, service().alive("web", 5, 9), "another process now");
        catches(check, service().alive("web", 4, 0), "went back from 1 to 0");
    }

    #[test]
    fn a_task_that_stands_still_is_seen_however_often_it_is_looked_at() {
        let scene = service().after_ms(6000).alive("web", 4, 1);
        catches(
            check,
            scene.after_ms(6000).alive("web", 4, 1),
            "no progress in 12 s",
        );
        let cut_off = service().fault(FaultKind::PartitionBoth, "host-1");
        let cut_off = cut_off.after_ms(11_000).alive("web", 4, 1);
        catches(check, cut_off, "no progress in 11 s");
    }

    #[test]
    fn an_end_that_nobody_asked_for_is_seen() {
        catches(
            check,
            service().update_received(9, "web", TaskState::Killed),
            "is Killed, and nobody",
        );
        catches(
            check,
            service().phase(RunPhase::Final),
            "not there any more",
        );
    }
}
