//! The rule that a service of real processes runs until its end is requested.

use std::collections::BTreeSet;

use argosy_state::ids::FrameworkId;
use argosy_state::task::TaskState;

use super::framework::tasks::group_of;
use super::report::ReportedViolation;
use crate::history::{EventKind, History, Observation, Operation, TaskFact};

/// Checks that a service runs until its end is requested, whatever happens to masters, networks and
/// agents.
pub(crate) fn check(history: &History) -> Vec<ReportedViolation> {
    let mut asked = BTreeSet::new();
    let mut running = BTreeSet::new();
    let mut found = Vec::new();
    let lost_groups = lost_groups(history);
    for event in &history.events {
        match &event.what {
            EventKind::Invoke {
                operation: Operation::Kill { task, .. },
                ..
            } => {
                asked.insert(task.clone());
            }
            EventKind::Observation(Observation::Task(TaskFact::UpdateReceived {
                task,
                state,
                end,
                ..
            })) => {
                let is_service = task.task.as_str().contains("-service-");
                if *state == TaskState::Running {
                    running.insert(task.clone());
                }
                let is_over = matches!(
                    state,
                    TaskState::Finished
                        | TaskState::Failed
                        | TaskState::Killed
                        | TaskState::Error
                        | TaskState::Gone
                        | TaskState::GoneByOperator
                        | TaskState::Dropped
                );
                let was_running = running.contains(task) || *state != TaskState::Dropped;
                let group = group_of(task.task.as_str()).map(|group_id| (task.framework, group_id));
                let is_lost = group.is_some_and(|group| lost_groups.contains(&group));
                if is_service && is_over && was_running && !is_lost && !asked.contains(task) {
                    found.push(ReportedViolation {
                        checker: "TaskSurvival".to_owned(),
                        what: format!(
                            "{task} ended as {state:?} ({end:?}) which was not requested"
                        ),
                        time_ns: Some(event.time_ns),
                    });
                }
            }
            _ => {}
        }
    }
    found
}

/// Returns the groups with a task whose launch was lost, which ends the whole group.
fn lost_groups(history: &History) -> BTreeSet<(FrameworkId, &str)> {
    let dropped = history.events.iter().filter_map(|event| match &event.what {
        EventKind::Observation(Observation::Task(TaskFact::UpdateReceived {
            task,
            state: TaskState::Dropped,
            ..
        })) => Some((task.framework, group_of(task.task.as_str())?)),
        _ => None,
    });
    dropped.collect()
}

#[cfg(test)]
mod tests {
    use argosy_state::ids::{Revision, TaskId, TaskKey};

    use super::*;
    use crate::history::{CallName, OperationResponse, Recorder};

    fn key(id: &str) -> TaskKey {
        TaskKey {
            framework: FrameworkId(1),
            task: TaskId::new(id).unwrap(),
        }
    }

    fn update_received(id: &str, state: TaskState) -> TaskFact {
        TaskFact::UpdateReceived {
            task: key(id),
            update: Revision {
                index: 1,
                position: 0,
            },
            state,
            end: None,
        }
    }

    #[test]
    fn an_unrequested_end_of_a_service_is_a_violation() {
        let (recorder, recording) = Recorder::in_memory(|| 1);
        recorder.observe("f", update_received("f-service-1", TaskState::Running));
        recorder.observe("f", update_received("f-service-1", TaskState::Failed));
        let call = CallName {
            framework: FrameworkId(1),
            session: 1,
            number: 1,
        };
        let kill = Operation::Kill {
            name: Some(call),
            task: key("f-service-2"),
        };
        let open = recorder.invoke("f", kill);
        recorder.ok(open, OperationResponse::Done, None);
        recorder.observe("f", update_received("f-service-2", TaskState::Killed));
        recorder.observe("f", update_received("f-service-3", TaskState::Dropped));
        recorder.observe("f", update_received("f-short-4", TaskState::Failed));
        recorder.observe(
            "f",
            update_received("f-group-5-service-1", TaskState::Dropped),
        );
        recorder.observe(
            "f",
            update_received("f-group-5-service-2", TaskState::Killed),
        );
        let found = check(&recording.finish().unwrap());
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].what.contains("f-service-1"));
    }
}
