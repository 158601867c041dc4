//! The rule that a service of real processes runs until its end is requested.

use std::collections::{BTreeMap, BTreeSet};

use argosy_state::ids::{AgentId, FrameworkId, OfferId, TaskKey};
use argosy_state::task::TaskState;

use super::framework::tasks::group_of;
use super::report::ReportedViolation;
use crate::history::{EventKind, FaultKind, History, Observation, OfferFact, Operation, TaskFact};
use crate::invariants::Rule;

/// Checks that a service runs until its end is requested or its host is rebooted, whatever happens
/// to masters, networks and agents. A service whose launch was lost, or failed because a disk was
/// full, has never run.
pub(crate) fn check(history: &History) -> Vec<ReportedViolation> {
    let mut asked = BTreeSet::new();
    let mut places = Places::default();
    let mut found = Vec::new();
    let unlaunched = unlaunched(history);
    let groups: BTreeSet<_> = unlaunched.iter().filter_map(|task| group(task)).collect();
    for event in &history.events {
        places.note(&event.what);
        match &event.what {
            EventKind::Invoke {
                operation: Operation::Kill { task, .. },
                ..
            } => {
                asked.insert(task);
            }
            EventKind::Fault(fault) if fault.kind == FaultKind::HostReboot => {
                asked.extend(places.tasks_of(&fault.target));
            }
            EventKind::Observation(Observation::Task(TaskFact::UpdateReceived {
                task,
                state,
                end,
                ..
            })) => {
                // One task that is not launched ends its whole group.
                let is_excused = unlaunched.contains(task)
                    || group(task).is_some_and(|group| groups.contains(&group));
                let is_service = task.task.as_str().contains("-service-");
                if is_service && is_over(*state) && !is_excused && !asked.contains(task) {
                    found.push(ReportedViolation {
                        checker: Rule::TaskSurvival.to_string(),
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

/// The agents on which tasks were to be launched.
#[derive(Default)]
struct Places<'a> {
    offers: BTreeMap<OfferId, AgentId>,
    tasks: BTreeMap<&'a TaskKey, AgentId>,
}

impl<'a> Places<'a> {
    fn note(&mut self, event: &'a EventKind) {
        match event {
            EventKind::Observation(Observation::Offer(OfferFact::Made {
                offer, agent, ..
            })) => {
                self.offers.insert(*offer, *agent);
            }
            EventKind::Invoke {
                operation:
                    Operation::Accept {
                        offers, launches, ..
                    },
                ..
            } => {
                let agent = offers.iter().find_map(|offer| self.offers.get(offer));
                if let Some(agent) = agent {
                    let tasks = launches.iter().map(|launch| (&launch.task, *agent));
                    self.tasks.extend(tasks);
                }
            }
            _ => {}
        }
    }

    /// Returns the tasks of the agent with this id.
    fn tasks_of(&self, agent: &str) -> impl Iterator<Item = &'a TaskKey> {
        let agent: Option<AgentId> = agent.parse().ok();
        let tasks = self.tasks.iter();
        let own = tasks.filter(move |(_, place)| Some(**place) == agent);
        own.map(|(task, _)| *task)
    }
}

fn is_over(state: TaskState) -> bool {
    matches!(
        state,
        TaskState::Finished
            | TaskState::Failed
            | TaskState::Killed
            | TaskState::Error
            | TaskState::Gone
            | TaskState::GoneByOperator
            | TaskState::Dropped
    )
}

fn group(task: &TaskKey) -> Option<(FrameworkId, &str)> {
    Some((task.framework, group_of(task.task.as_str())?))
}

/// Returns the tasks that ended without having run: dropped, or failed after the disk of an agent
/// had been full at some time since their launch.
fn unlaunched(history: &History) -> BTreeSet<TaskKey> {
    let mut full: BTreeSet<&str> = BTreeSet::new();
    let mut last_full = None;
    let mut launched: BTreeMap<&TaskKey, usize> = BTreeMap::new();
    let mut ran = BTreeSet::new();
    let mut found = BTreeSet::new();
    for (at, event) in history.events.iter().enumerate() {
        if !full.is_empty() {
            last_full = Some(at);
        }
        match &event.what {
            EventKind::Fault(fault) if fault.target.starts_with("agent-") => match fault.kind {
                FaultKind::DiskFull => {
                    full.insert(&fault.target);
                }
                FaultKind::DiskFreed => {
                    full.remove(fault.target.as_str());
                }
                _ => {}
            },
            EventKind::Invoke {
                operation: Operation::Accept { launches, .. },
                ..
            } => launched.extend(launches.iter().map(|launch| (&launch.task, at))),
            EventKind::Observation(Observation::Task(TaskFact::UpdateReceived {
                task,
                state,
                ..
            })) if !ran.contains(task) => {
                let was_full = last_full >= launched.get(task).copied();
                let is_lost = match state {
                    TaskState::Dropped => true,
                    TaskState::Failed => was_full && last_full.is_some(),
                    _ => false,
                };
                if is_lost {
                    found.insert(task.clone());
                } else if *state == TaskState::Running {
                    ran.insert(task);
                }
            }
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use argosy_state::ids::{Revision, TaskId};

    use super::*;
    use crate::history::{CallName, Fault, LaunchedTask, OperationResponse, Recorder};

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

    fn launched(id: &str) -> Operation {
        launched_on(id, Vec::new())
    }

    fn launched_on(id: &str, offers: Vec<OfferId>) -> Operation {
        Operation::Accept {
            name: CallName {
                framework: FrameworkId(1),
                session: 1,
                number: 1,
            },
            offers,
            launches: vec![LaunchedTask {
                task: key(id),
                resources: argosy_state::resources::Resources::default(),
            }],
            all_or_nothing: false,
        }
    }

    #[test]
    fn a_reboot_ends_the_services_of_its_host_and_no_others() {
        let (recorder, recording) = Recorder::in_memory(|| 1);
        for number in [1, 2, 3] {
            let offer: OfferId = format!("1.{number}").parse().unwrap();
            let agent = AgentId(number.min(2));
            recorder.observe(
                "f",
                OfferFact::Made {
                    offer,
                    framework: FrameworkId(1),
                    session: 1,
                    agent,
                    role: argosy_state::ids::Role::new("*").unwrap(),
                    resources: argosy_state::resources::Resources::default(),
                },
            );
            let id = format!("f-service-{number}");
            let call = recorder.invoke("f", launched_on(&id, vec![offer]));
            recorder.info(call, "not answered");
            recorder.observe("f", update_received(&id, TaskState::Running));
        }
        recorder.observe("f", update_received("f-service-3", TaskState::Failed));
        recorder.fault(Fault::new(FaultKind::HostReboot, "agent-2"));
        for id in ["f-service-1", "f-service-2"] {
            recorder.observe("f", update_received(id, TaskState::Failed));
        }
        let found = check(&recording.finish().unwrap());
        let named = |id: &str| found.iter().any(|one| one.what.contains(id));
        // One ended before the reboot, and one on another host.
        assert!(
            found.len() == 2 && named("f-service-3") && named("f-service-1"),
            "{found:?}"
        );
    }

    #[test]
    fn a_full_disk_excuses_failed_launches_and_nothing_else() {
        let failed = |id: &str| update_received(id, TaskState::Failed);
        let fault = |kind, agent: &str| Fault::new(kind, agent);
        let (recorder, recording) = Recorder::in_memory(|| 1);
        let launch = |id: &str| {
            let call = recorder.invoke("f", launched(id));
            let refused = Vec::new();
            recorder.ok(call, OperationResponse::Accepted { refused }, None);
        };
        recorder.fault(fault(FaultKind::DiskFull, "agent-1"));
        recorder.fault(fault(FaultKind::DiskFreed, "agent-1"));
        // Launched too late.
        launch("f-service-1");
        recorder.observe("f", failed("f-service-1"));
        // The disk of a master is not that of a task.
        recorder.fault(fault(FaultKind::DiskFull, "master-1"));
        launch("f-service-2");
        recorder.observe("f", failed("f-service-2"));
        // It has run, and may not end.
        launch("f-service-3");
        recorder.observe("f", update_received("f-service-3", TaskState::Running));
        recorder.fault(fault(FaultKind::DiskFull, "agent-1"));
        recorder.observe("f", failed("f-service-3"));
        // Both are excused: the first one failed after the disk was freed.
        launch("f-service-4");
        launch("f-group-5-service-1");
        recorder.observe("f", failed("f-group-5-service-1"));
        recorder.observe(
            "f",
            update_received("f-group-5-service-2", TaskState::Killed),
        );
        recorder.fault(fault(FaultKind::DiskFreed, "agent-1"));
        recorder.observe("f", failed("f-service-4"));
        let found = check(&recording.finish().unwrap());
        let named = |number: usize| {
            found[number - 1]
                .what
                .contains(&format!("f-service-{number} "))
        };
        assert!(found.len() == 3 && (1..=3).all(named), "{found:?}");
    }
}
