//! T8: a restarted agent adopts exactly its own processes, kills none that it should have adopted,
//! and reports the actual end of those that ended while it was down.

use std::collections::{BTreeMap, BTreeSet};

use argosy_state::ids::TaskKey;
use argosy_state::task::TaskState;

use super::Findings;
use super::facts::of_tasks;
use crate::history::{End, History, TaskFact};

pub(super) fn check(history: &History) -> Findings {
    let mut findings = Findings::default();
    let mut alive: BTreeMap<&TaskKey, (usize, (&str, u32, u64))> = BTreeMap::new();
    let mut ends: BTreeMap<&TaskKey, (usize, End)> = BTreeMap::new();
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
                findings.look();
                let adopted = (boot_id.as_str(), *pid, *start_time);
                if let Some((seen, life)) = alive.get(task).filter(|(_, life)| *life != adopted) {
                    findings.wrong(
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
    orphans(history, &mut findings);
    for (at, _, fact) in of_tasks(history) {
        if let TaskFact::Told {
            task,
            state: TaskState::Finished | TaskState::Failed | TaskState::Killed,
            end: Some(told),
            ..
        } = fact
            && let Some((ended, end)) = ends.get(task)
        {
            findings.must(end == told, [*ended, at], || {
                format!("{task} ended by {end:?}, and {told:?} was told")
            });
        }
    }
    findings
}

/// Checks that an agent has dropped a task only after the registry had its end.
fn orphans(history: &History, findings: &mut Findings) {
    let mut over: BTreeSet<&TaskKey> = BTreeSet::new();
    for (at, _, fact) in of_tasks(history) {
        match fact {
            TaskFact::Changed { task, state, .. } | TaskFact::Told { task, state, .. }
                if state.is_terminal() =>
            {
                over.insert(task);
            }
            TaskFact::Orphaned { task, agent } => {
                findings.must(over.contains(task), [at], || {
                    format!("{agent} ended {task} as nobody's, and its end was never committed")
                });
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::fixture::{AGENT, Scene, catches, key, passes, revision, sees_nothing};

    fn adopted(scene: Scene, pid: u32, start_time: u64) -> Scene {
        scene.saw(
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

    fn told(scene: Scene, end: End) -> Scene {
        let ended = TaskFact::Ended {
            task: key("web"),
            end: End::Code(7),
        };
        scene.saw("web", ended).saw(
            "greedy",
            TaskFact::Told {
                task: key("web"),
                update: revision(9),
                state: TaskState::Failed,
                end: Some(end),
            },
        )
    }

    #[test]
    fn an_agent_that_adopts_its_own_and_tells_true_ends_is_fine() {
        let scene = adopted(Scene::new().alive("web", 4, 1), 4, 900);
        passes(check, told(scene, End::Code(7)));
    }

    #[test]
    fn a_stranger_with_the_same_pid_that_is_adopted_is_seen() {
        let scene = adopted(Scene::new().alive("web", 4, 1), 4, 901);
        catches(check, scene, "was adopted as framework-3/web");
    }

    #[test]
    fn a_task_that_its_agent_has_forgotten_is_seen() {
        let orphaned = |scene: Scene| {
            let (task, agent) = (key("web"), AGENT);
            scene.saw("host-1", TaskFact::Orphaned { task, agent })
        };
        let ended = Scene::new().changed(9, "web", TaskState::Finished);
        sees_nothing(check, ended.clone());
        passes(check, orphaned(ended));
        let running = Scene::new().changed(9, "web", TaskState::Running);
        catches(check, orphaned(running), "framework-3/web as nobody's");
    }

    #[test]
    fn an_end_that_is_made_up_is_seen() {
        catches(
            check,
            told(Scene::new(), End::Code(0)),
            "ended by Code(7), and Code(0) was told",
        );
        catches(
            check,
            told(Scene::new(), End::Signal(9)),
            "Signal(9) was told",
        );
    }
}
