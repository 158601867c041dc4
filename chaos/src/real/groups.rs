//! The rule of task groups in the history of real processes: the masters launch all tasks of a
//! group, or none. That they end together is checked while the cluster recovers, by the session.

use std::collections::{BTreeMap, BTreeSet};

use super::framework::tasks::group_of;
use super::report::ReportedViolation;
use crate::history::{EventKind, History, Operation, OperationResponse};
use crate::invariants::Rule;

/// Returns how many groups were launched or rejected, and a violation for each that was launched in
/// part.
pub(crate) fn check(history: &History) -> (u64, Vec<ReportedViolation>) {
    let mut checked = 0;
    let mut found = Vec::new();
    for call in history.calls() {
        let Operation::Accept { launches, .. } = &call.operation else {
            continue;
        };
        let Some((_, end)) = &call.end else { continue };
        let EventKind::Ok {
            outcome: OperationResponse::Accepted { refused },
            ..
        } = &end.what
        else {
            continue;
        };
        let refused: BTreeSet<usize> = refused.iter().map(|one| one.position as usize).collect();
        let mut groups: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
        for (position, launch) in launches.iter().enumerate() {
            if let Some(group_id) = group_of(launch.task.task.as_str()) {
                let (tasks, rejected) = groups.entry(group_id).or_default();
                *tasks += 1;
                *rejected += usize::from(refused.contains(&position));
            }
        }
        for (group_id, (tasks, rejected)) in groups {
            checked += 1;
            if rejected != 0 && rejected != tasks {
                found.push(ReportedViolation {
                    checker: Rule::GroupAtomicity.to_string(),
                    what: format!("{rejected} of {tasks} tasks of {group_id} were rejected"),
                    time_ns: Some(end.time_ns),
                });
            }
        }
    }
    (checked, found)
}

#[cfg(test)]
mod tests {
    use argosy_state::ids::{FrameworkId, TaskId, TaskKey};

    use super::*;
    use crate::history::{CallName, LaunchedTask, Recorder, RejectedLaunch};

    #[test]
    fn a_group_that_is_launched_in_part_is_reported() {
        let launches = ["f-service-1", "f-group-5-service-1", "f-group-5-service-2"];
        let launches = launches.map(|id| LaunchedTask {
            task: TaskKey {
                framework: FrameworkId(1),
                task: TaskId::new(id).unwrap(),
            },
            resources: argosy_state::resources::Resources::default(),
        });
        for (refused, is_violation) in [(&[0][..], false), (&[1, 2], false), (&[2], true)] {
            let (recorder, recording) = Recorder::in_memory(|| 1);
            let accept = Operation::Accept {
                name: CallName {
                    framework: FrameworkId(1),
                    session: 1,
                    number: 1,
                },
                offers: Vec::new(),
                launches: launches.to_vec(),
                all_or_nothing: false,
            };
            let call = recorder.invoke("f", accept);
            let refused = refused.iter().map(|position| RejectedLaunch {
                position: *position,
                code: "task-group-invalid".to_owned(),
            });
            let outcome = OperationResponse::Accepted {
                refused: refused.collect(),
            };
            recorder.ok(call, outcome, None);
            let (checked, found) = check(&recording.finish().unwrap());
            assert_eq!(
                (checked, found.len()),
                (1, usize::from(is_violation)),
                "{found:?}"
            );
        }
    }
}
