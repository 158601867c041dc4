//! Kills: a task that was reported as ended has no process. A task that was killed or dropped
//! before its delivery never starts. A task that must end does so in time.

use std::collections::BTreeMap;

use argosy_state::ids::TaskKey;
use argosy_state::task::TaskState;

use super::Findings;
use super::facts::{SKEW_NS, expectations, of_tasks};
use crate::history::{EventKind, Expectation, History, HistoryEvent, TaskFact};

/// Whether a state of this kind means that no process is left. The processes on a host that is gone
/// are unknown.
fn has_no_process(state: TaskState) -> bool {
    state.is_terminal() && !matches!(state, TaskState::Gone | TaskState::GoneByOperator)
}

pub(super) fn check(history: &History) -> Findings {
    let mut findings = Findings::default();
    let mut ended: BTreeMap<&TaskKey, usize> = BTreeMap::new();
    let mut never: BTreeMap<&TaskKey, (usize, &str)> = BTreeMap::new();
    for (at, _, fact) in of_tasks(history) {
        match fact {
            TaskFact::UpdateReceived { task, state, .. }
            | TaskFact::Changed { task, state, .. } => {
                if has_no_process(*state) {
                    ended.entry(task).or_insert(at);
                }
                if *state == TaskState::Dropped {
                    never.entry(task).or_insert((at, "dropped"));
                }
            }
            TaskFact::Stopped { task } => {
                findings.count_comparison();
                ended.entry(task).or_insert(at);
            }
            TaskFact::KillCommitted { task, delivered } => {
                findings.count_comparison();
                if !delivered {
                    never
                        .entry(task)
                        .or_insert((at, "killed before it was delivered"));
                }
            }
            _ => {}
        }
    }
    check_processes(history, &mut findings, &ended, &never);
    check_deadlines(history, &mut findings);
    findings
}

/// Checks the observations of tasks that ended, or were never to start.
fn check_processes(
    history: &History,
    findings: &mut Findings,
    ended: &BTreeMap<&TaskKey, usize>,
    never: &BTreeMap<&TaskKey, (usize, &str)>,
) {
    for (at, event, fact) in of_tasks(history) {
        match fact {
            // An observation from before the reported end may be recorded a little later.
            TaskFact::Alive { task, .. } => {
                if let Some(end) = ended.get(task) {
                    let end_ns = history.events[*end].time_ns;
                    findings.require(event.time_ns <= end_ns + SKEW_NS, [*end, at], || {
                        format!("{task} has a process after it was reported ended, or stopped")
                    });
                }
            }
            // Witness files are read at the end, so the time of a start is unknown. Every start
            // counts.
            TaskFact::Witnessed { task, .. } => {
                findings.count_comparison();
                if let Some((since, why)) = never.get(task) {
                    findings.violation(format!("{task} was {why}, and started"), [*since, at]);
                }
            }
            _ => {}
        }
    }
}

/// Checks the ends that must come in time. A run that ended early, or was disturbed, proves
/// nothing.
fn check_deadlines(history: &History, findings: &mut Findings) {
    for (at, event, expected) in expectations(history) {
        let Expectation::Ends { task, within_ns } = expected else {
            continue;
        };
        let until = event.time_ns.saturating_add(*within_ns);
        let later = &history.events[at..];
        let end = at + later.partition_point(|event| event.time_ns <= until);
        let has_ended = of_tasks(history)
            .take_while(|(seen, _, _)| *seen < end)
            .any(|(_, _, fact)| match fact {
                TaskFact::UpdateReceived {
                    task: of, state, ..
                }
                | TaskFact::Changed {
                    task: of, state, ..
                } => of == task && state.is_terminal(),
                _ => false,
            });
        let is_fault = |event: &HistoryEvent| matches!(event.what, EventKind::Fault(_));
        let is_disturbed = history.events[at..end].iter().any(is_fault);
        if has_ended {
            findings.count_comparison();
        } else if end < history.events.len() && !is_disturbed {
            findings.count_comparison();
            let waited_ms = within_ns / 1_000_000;
            findings.violation(
                format!("{task} was to end, and has not within {waited_ms} ms"),
                [at, end],
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{FaultKind, RunPhase};
    use crate::invariants::fixture::{
        HistoryBuilder, assert_clean, assert_nothing_compared, assert_violation, key,
    };

    fn killed(delivered: bool) -> HistoryBuilder {
        let task = key("web");
        HistoryBuilder::new().observe("master-1", TaskFact::KillCommitted { task, delivered })
    }

    #[test]
    fn a_process_that_ends_with_its_task_passes() {
        let builder = HistoryBuilder::new()
            .witnessed("web", "n")
            .alive("web", 4, 1)
            .update_received(9, "web", TaskState::Killed)
            .alive("web", 4, 2);
        assert_clean(check, builder);
        assert_clean(check, killed(true).witnessed("web", "n"));
        assert_clean(check, killed(false));
    }

    #[test]
    fn a_process_that_outlives_its_task_is_reported() {
        let builder = HistoryBuilder::new()
            .update_received(9, "web", TaskState::Killed)
            .after_ms(1500);
        assert_violation(
            check,
            builder.alive("web", 4, 1),
            "after it was reported ended",
        );
        let gone = HistoryBuilder::new()
            .update_received(9, "web", TaskState::Gone)
            .after_ms(1500);
        assert_eq!(check(&gone.alive("web", 4, 1).history()).violations, []);
    }

    #[test]
    fn a_process_that_outlives_stop_after_is_reported() {
        let stopped =
            || HistoryBuilder::new().observe("log", TaskFact::Stopped { task: key("web") });
        assert_clean(check, stopped());
        let builder = stopped().after_ms(1500);
        assert_violation(check, builder.alive("web", 4, 1), "or stopped");
    }

    #[test]
    fn a_start_of_a_dropped_or_undelivered_task_is_reported() {
        assert_violation(
            check,
            killed(false).witnessed("web", "n"),
            "killed before it was delivered",
        );
        let dropped = HistoryBuilder::new().changed(9, "web", TaskState::Dropped);
        assert_violation(
            check,
            dropped.witnessed("web", "n"),
            "framework-3/web was dropped",
        );
    }

    #[test]
    fn a_task_that_misses_its_deadline_is_reported() {
        let expected = || {
            let task = key("web");
            let within_ns = 500_000_000;
            HistoryBuilder::new().observe("harness", Expectation::Ends { task, within_ns })
        };
        assert_clean(
            check,
            expected().update_received(9, "web", TaskState::Killed),
        );
        assert_violation(
            check,
            expected().after_ms(600).phase(RunPhase::Final),
            "was to end",
        );
        let disturbed = expected().fault(FaultKind::Crash, "agent-5").after_ms(600);
        assert_nothing_compared(check, disturbed.phase(RunPhase::Final));
    }
}
