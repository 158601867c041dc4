//! The check of agents and tasks after a power cut: no acknowledgement is lost or undone, and each
//! task was started at most once.
//!
//! Pure. A series of cuts on the same disks has one `AcknowledgedTasks`. An update is committed
//! before a framework receives it, so each received state counts as acknowledged.

use std::collections::BTreeMap;

use argosy_client::scheduler::is_terminal;
use argosy_proto::v1::{Reason, TaskState};

use super::check::DurabilityViolation;
use super::task_report::{ObservedState, TaskReport, UpdateRevision};

/// The ends of a task that a host without power explains. Tasks of the load exit with code 0.
const DOCUMENTED_ENDS: [(TaskState, Reason); 3] = [
    (TaskState::Finished, Reason::CommandExited),
    // It may have run when the host lost its power.
    (TaskState::Failed, Reason::AgentRebooted),
    // Its launch had not reached the agent when the agent was unreachable.
    (TaskState::Dropped, Reason::LaunchVoided),
];

/// All acknowledgements about the agent and its tasks in one series.
#[derive(Debug, Default)]
pub(crate) struct AcknowledgedTasks {
    agent: Option<String>,
    framework: Option<String>,
    /// Tasks that must exist, each with the last state that was acknowledged.
    tasks: BTreeMap<String, Option<ObservedState>>,
    /// The newest update of each task.
    newest: BTreeMap<String, UpdateRevision>,
    read: ReadTasks,
    /// Launches that were accepted.
    pub(crate) launches: u64,
    /// Updates that were acknowledged.
    pub(crate) updates: u64,
    /// Tasks that were read back and compared.
    pub(crate) compared: u64,
}

/// The tasks as one boot reads them back.
#[derive(Debug, Default)]
struct ReadTasks {
    found: BTreeMap<String, ObservedState>,
    /// The explanation of each state.
    why: BTreeMap<String, String>,
    /// The number of recorded starts of each task.
    starts: BTreeMap<String, u64>,
}

impl AcknowledgedTasks {
    /// Returns the id of the framework, once it was acknowledged.
    pub(crate) fn framework(&self) -> Option<&str> {
        self.framework.as_deref()
    }

    /// Begins a boot. A cut may have come while the last one was read back.
    pub(crate) fn start_boot(&mut self) {
        self.read = ReadTasks::default();
    }

    /// Handles a report. The last one of a boot compares everything that was read back with all
    /// earlier acknowledgements.
    pub(crate) fn take(&mut self, report: TaskReport) -> Vec<DurabilityViolation> {
        match report {
            TaskReport::Framework { id } => {
                return changed(&mut self.framework, id, |before, found| {
                    DurabilityViolation::FrameworkLost { before, found }
                });
            }
            TaskReport::Agent { id } => {
                return changed(&mut self.agent, id, |before, found| {
                    DurabilityViolation::AgentIdentityLost { before, found }
                });
            }
            TaskReport::Launched { tasks } => {
                self.launches += tasks.len() as u64;
                for task in tasks {
                    self.tasks.entry(task).or_default();
                }
            }
            TaskReport::Updated { task, to, revision } => {
                self.updates += 1;
                return self.update(task, to, revision);
            }
            TaskReport::Found { task, at, why } => {
                self.read.why.insert(task.clone(), why);
                self.read.found.insert(task, at);
            }
            TaskReport::Starts { tasks } => {
                for task in tasks {
                    *self.read.starts.entry(task).or_default() += 1;
                }
            }
            TaskReport::Left { what } => return vec![DurabilityViolation::LeftBehind { what }],
            TaskReport::Settled => return self.read_back(),
        }
        Vec::new()
    }

    fn update(
        &mut self,
        task: String,
        to: ObservedState,
        revision: UpdateRevision,
    ) -> Vec<DurabilityViolation> {
        let newest = self.newest.entry(task.clone()).or_insert(revision);
        if revision < *newest {
            return Vec::new();
        }
        *newest = revision;
        let known = self.tasks.entry(task.clone()).or_default();
        let undone = known.and_then(|known| undone(&task, known, to));
        *known = Some(to);
        undone.into_iter().collect()
    }

    fn read_back(&mut self) -> Vec<DurabilityViolation> {
        let read = std::mem::take(&mut self.read);
        self.compared += read.found.len() as u64;
        let mut violations = Vec::new();
        for (task, known) in &self.tasks {
            let Some(at) = read.found.get(task) else {
                violations.push(DurabilityViolation::TaskLost { task: task.clone() });
                continue;
            };
            violations.extend(known.and_then(|known| undone(task, known, *at)));
        }
        for (task, at) in &read.found {
            let starts = read.starts.get(task).copied().unwrap_or(0);
            violations.extend(wrong_end(task, *at, &read.why[task]));
            violations.extend(wrong_starts(task, *at, starts));
        }
        let unknown = read.starts.keys();
        let unknown = unknown.filter(|task| !read.found.contains_key(*task));
        violations.extend(
            unknown.map(|task| DurabilityViolation::UnknownTaskStarted { task: task.clone() }),
        );
        // This includes tasks whose launch was in flight: from now on they must stay.
        let found = read.found.into_iter();
        self.tasks.extend(found.map(|(task, at)| (task, Some(at))));
        violations
    }
}

/// Records an id that must stay the same.
fn changed(
    known: &mut Option<String>,
    found: String,
    violation: impl FnOnce(String, String) -> DurabilityViolation,
) -> Vec<DurabilityViolation> {
    match known {
        Some(before) if *before != found => vec![violation(before.clone(), found)],
        Some(_) | None => {
            *known = Some(found);
            Vec::new()
        }
    }
}

/// Returns a violation if `found` contradicts a state that was acknowledged: an end is final, and a
/// task that was running is never reported as one that never started.
fn undone(task: &str, known: ObservedState, found: ObservedState) -> Option<DurabilityViolation> {
    let has_run = matches!(known.state, TaskState::Running | TaskState::Killing);
    let is_undone = match is_terminal(known.state) {
        true => known != found,
        false => has_run && found.state == TaskState::Dropped,
    };
    is_undone.then(|| DurabilityViolation::StateUndone {
        task: task.to_owned(),
        acknowledged: known,
        found,
    })
}

fn wrong_end(task: &str, at: ObservedState, why: &str) -> Option<DurabilityViolation> {
    let (task, why) = (task.to_owned(), why.to_owned());
    if !is_terminal(at.state) {
        return Some(DurabilityViolation::TaskNotEnded { task, at });
    }
    let is_documented = DOCUMENTED_ENDS.contains(&(at.state, at.reason));
    (!is_documented).then_some(DurabilityViolation::UndocumentedEnd { task, at, why })
}

fn wrong_starts(task: &str, at: ObservedState, starts: u64) -> Option<DurabilityViolation> {
    let task = task.to_owned();
    match (at.state, starts) {
        (_, 2..) => Some(DurabilityViolation::StartedTwice { task, starts }),
        (TaskState::Dropped, 1) => Some(DurabilityViolation::DroppedTaskStarted { task }),
        // It syncs the record of its start before it exits.
        (TaskState::Finished, 0) => Some(DurabilityViolation::StartLost { task }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FINISHED: ObservedState = ObservedState {
        state: TaskState::Finished,
        reason: Reason::CommandExited,
    };
    const REBOOTED: ObservedState = ObservedState {
        state: TaskState::Failed,
        reason: Reason::AgentRebooted,
    };
    const VOIDED: ObservedState = ObservedState {
        state: TaskState::Dropped,
        reason: Reason::LaunchVoided,
    };
    const RUNNING: ObservedState = ObservedState {
        state: TaskState::Running,
        reason: Reason::Unspecified,
    };

    fn ids(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn update(task: &str, to: ObservedState, index: u64) -> TaskReport {
        TaskReport::Updated {
            task: task.to_owned(),
            to,
            revision: UpdateRevision { index, position: 0 },
        }
    }

    /// Returns the acknowledgements of a boot: one task has finished, one runs, one is launched.
    fn known() -> AcknowledgedTasks {
        let mut known = AcknowledgedTasks::default();
        let mut reports = vec![
            TaskReport::Framework {
                id: "framework-1".into(),
            },
            TaskReport::Agent {
                id: "agent-1".into(),
            },
            TaskReport::Launched {
                tasks: ids("1-1 1-2 1-3"),
            },
        ];
        reports.push(update("1-1", RUNNING, 7));
        reports.push(update("1-1", FINISHED, 9));
        reports.push(update("1-2", RUNNING, 9));
        for report in reports {
            assert_eq!(known.take(report), []);
        }
        known.start_boot();
        known
    }

    /// Reads back these tasks and starts.
    fn read_back(
        known: &mut AcknowledgedTasks,
        found: &[(&str, ObservedState)],
        starts: &str,
    ) -> Vec<DurabilityViolation> {
        for (task, at) in found {
            let task = (*task).to_owned();
            let (at, why) = (*at, "as it is".to_owned());
            assert_eq!(known.take(TaskReport::Found { task, at, why }), []);
        }
        assert_eq!(known.take(TaskReport::Starts { tasks: ids(starts) }), []);
        known.take(TaskReport::Settled)
    }

    /// Asserts that reading back finds this one violation.
    fn assert_finds(found: &[(&str, ObservedState)], starts: &str, text: &str) {
        let violations = read_back(&mut known(), found, starts);
        let texts: Vec<String> = violations.iter().map(ToString::to_string).collect();
        assert_eq!(texts, [text]);
    }

    #[test]
    fn documented_ends_are_accepted_and_must_stay() {
        let found = [("1-1", FINISHED), ("1-2", REBOOTED), ("1-3", VOIDED)];
        let mut known = known();
        assert_eq!(read_back(&mut known, &found, "1-1 1-2"), []);
        assert_eq!(read_back(&mut known, &found, "1-1 1-2"), []);
        let later = [("1-1", FINISHED), ("1-2", FINISHED), ("1-3", VOIDED)];
        let violations = read_back(&mut known, &later, "1-1 1-2");
        assert!(
            matches!(violations[..], [DurabilityViolation::StateUndone { .. }]),
            "{violations:?}"
        );
        assert_eq!((known.launches, known.updates, known.compared), (3, 3, 9));
    }

    #[test]
    fn a_launch_in_flight_may_exist_and_must_stay_then() {
        let found = [("1-1", FINISHED), ("1-2", REBOOTED), ("1-3", REBOOTED)];
        let mut known = known();
        let with_more = [&found[..], &[("1-4", FINISHED)]].concat();
        assert_eq!(read_back(&mut known, &with_more, "1-1 1-4"), []);
        let violations = read_back(&mut known, &found, "1-1");
        let task = "1-4".to_owned();
        assert_eq!(violations, [DurabilityViolation::TaskLost { task }]);
    }

    #[test]
    fn a_lost_launch_is_reported() {
        assert_finds(
            &[("1-1", FINISHED), ("1-2", REBOOTED)],
            "1-1",
            "the launch of task 1-3 was accepted, and the registry does not have it",
        );
    }

    #[test]
    fn an_acknowledged_end_that_changes_is_reported() {
        assert_finds(
            &[("1-1", REBOOTED), ("1-2", REBOOTED), ("1-3", REBOOTED)],
            "1-1",
            "task 1-1 was acknowledged as FINISHED COMMAND_EXITED and is FAILED AGENT_REBOOTED",
        );
    }

    #[test]
    fn a_task_that_ran_and_is_dropped_is_reported() {
        assert_finds(
            &[("1-1", FINISHED), ("1-2", VOIDED), ("1-3", VOIDED)],
            "1-1",
            "task 1-2 was acknowledged as RUNNING UNSPECIFIED and is DROPPED LAUNCH_VOIDED",
        );
    }

    #[test]
    fn an_update_that_undoes_an_end_is_reported_and_a_repeated_one_is_not() {
        for (to, index, is_undone) in [
            (RUNNING, 10, true),
            (REBOOTED, 9, true),
            (FINISHED, 9, false),
            (RUNNING, 7, false),
        ] {
            let violations = known().take(update("1-1", to, index));
            let undone = matches!(violations[..], [DurabilityViolation::StateUndone { .. }]);
            assert_eq!(undone, is_undone, "{to} {index}: {violations:?}");
        }
    }

    #[test]
    fn a_second_start_is_reported() {
        assert_finds(
            &[("1-1", FINISHED), ("1-2", REBOOTED), ("1-3", REBOOTED)],
            "1-1 1-2 1-2",
            "task 1-2 was started 2 times",
        );
    }

    #[test]
    fn a_lost_record_of_a_start_is_reported() {
        assert_finds(
            &[("1-1", FINISHED), ("1-2", REBOOTED), ("1-3", REBOOTED)],
            "1-2",
            "task 1-1 has finished, and the synced record of its start is lost",
        );
    }

    #[test]
    fn a_start_of_a_dropped_task_is_reported() {
        assert_finds(
            &[("1-1", FINISHED), ("1-2", REBOOTED), ("1-3", VOIDED)],
            "1-1 1-3",
            "task 1-3 was dropped, and has started",
        );
    }

    #[test]
    fn a_start_of_an_unknown_task_is_reported() {
        assert_finds(
            &[("1-1", FINISHED), ("1-2", REBOOTED), ("1-3", VOIDED)],
            "1-1 1-4",
            "task 1-4 has started, and the registry does not have it",
        );
    }

    #[test]
    fn a_task_that_does_not_end_is_reported() {
        assert_finds(
            &[("1-1", FINISHED), ("1-2", RUNNING), ("1-3", VOIDED)],
            "1-1",
            "task 1-2 has not ended after its host was rebooted: RUNNING UNSPECIFIED",
        );
    }

    #[test]
    fn an_end_for_another_reason_is_reported() {
        let missing = ObservedState {
            state: TaskState::Gone,
            reason: Reason::TaskMissingOnAgent,
        };
        assert_finds(
            &[("1-1", FINISHED), ("1-2", missing), ("1-3", VOIDED)],
            "1-1",
            "task 1-2 ended as GONE TASK_MISSING_ON_AGENT, which a power cut does not explain: as it is",
        );
    }

    #[test]
    fn a_new_identity_of_the_agent_or_the_framework_is_reported() {
        let id = "agent-2".to_owned();
        let violations = known().take(TaskReport::Agent { id });
        let text = "the agent was registered as agent-1 and returns as agent-2";
        assert_eq!(violations[0].to_string(), text);
        let id = "framework-2".to_owned();
        let violations = known().take(TaskReport::Framework { id });
        let text = "the framework was registered as framework-1 and is framework-2 now";
        assert_eq!(violations[0].to_string(), text);
        let mut known = known();
        for id in ["agent-1", "agent-1"] {
            assert_eq!(known.take(TaskReport::Agent { id: id.into() }), []);
        }
        assert_eq!(known.framework(), Some("framework-1"));
    }

    #[test]
    fn a_process_that_is_left_is_reported() {
        let what = "process 77 of task 1-1".to_owned();
        let violations = known().take(TaskReport::Left { what });
        let text = "all tasks have ended, and there is still process 77 of task 1-1";
        assert_eq!(violations[0].to_string(), text);
    }

    #[test]
    fn a_boot_that_was_cut_while_it_was_read_back_leaves_nothing_for_the_next() {
        let mut known = known();
        let (task, at, why) = ("1-9".to_owned(), RUNNING, String::new());
        known.take(TaskReport::Found { task, at, why });
        known.take(TaskReport::Starts { tasks: ids("1-1") });
        known.start_boot();
        let found = [("1-1", FINISHED), ("1-2", REBOOTED), ("1-3", VOIDED)];
        assert_eq!(read_back(&mut known, &found, "1-1"), []);
    }
}
