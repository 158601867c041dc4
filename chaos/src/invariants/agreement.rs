//! T4: at rest, the tasks that run on a host according to the registry are those that the kernel
//! reports.

use std::collections::{BTreeMap, BTreeSet};

use argosy_state::ids::{AgentId, TaskKey};
use argosy_state::task::TaskState;

use super::Findings;
use super::facts::audits;
use crate::history::{Audit, FinalTask, History};

/// The audits of the registry and of the hosts at one moment.
#[derive(Default)]
struct Moment<'a> {
    registry: Option<(usize, &'a [FinalTask])>,
    hosts: BTreeMap<AgentId, (usize, BTreeSet<&'a TaskKey>)>,
}

/// Checks a history by its audits. Those of one moment follow each other: the second one of a kind
/// begins the next moment.
pub(super) fn check(history: &History) -> Findings {
    let mut findings = Findings::default();
    let mut moment = Moment::default();
    for (at, _, audit) in audits(history) {
        match audit {
            Audit::Registry { tasks } => {
                if moment.registry.is_some() {
                    std::mem::take(&mut moment).judge(&mut findings);
                }
                moment.registry = Some((at, tasks));
            }
            Audit::Host { agent, tasks } => {
                if moment.hosts.contains_key(agent) {
                    std::mem::take(&mut moment).judge(&mut findings);
                }
                moment.hosts.insert(*agent, (at, tasks.iter().collect()));
            }
            Audit::Offers { .. } | Audit::Leftovers { .. } => {}
        }
    }
    moment.judge(&mut findings);
    findings
}

impl Moment<'_> {
    fn judge(self, findings: &mut Findings) {
        let Some((registered, tasks)) = self.registry else {
            return;
        };
        for task in tasks {
            let Some((at, running)) = self.hosts.get(&task.agent) else {
                continue;
            };
            // A task that was just accepted is still in flight.
            let is_there = task.state == TaskState::Staging || running.contains(&task.task);
            findings.must(is_there, [registered, *at], || {
                format!(
                    "{} is {:?} on {}, where it has no process",
                    task.task, task.state, task.agent
                )
            });
        }
        for (agent, (at, running)) in self.hosts {
            for task in running {
                let known = tasks
                    .iter()
                    .any(|known| known.task == *task && known.agent == agent);
                findings.must(known, [registered, at], || {
                    format!("{task} runs on {agent}, and the registry does not know")
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::fixture::{AGENT, Scene, catches, key, passes, sees_nothing};

    fn registry(tasks: &[(&str, TaskState)]) -> Scene {
        let tasks = tasks.iter().map(|(task, state)| FinalTask {
            task: key(task),
            agent: AGENT,
            state: *state,
        });
        let tasks = tasks.collect();
        Scene::new().saw("audit", Audit::Registry { tasks })
    }

    fn host(scene: Scene, tasks: &[&str]) -> Scene {
        let agent = AGENT;
        let tasks = tasks.iter().map(|task| key(task)).collect();
        scene.saw("audit", Audit::Host { agent, tasks })
    }

    #[test]
    fn a_registry_and_a_host_that_agree_are_fine() {
        let both = registry(&[("web", TaskState::Running), ("new", TaskState::Staging)]);
        sees_nothing(check, both.clone());
        passes(check, host(both.clone(), &["web"]));
        passes(check, host(both, &["web", "new"]));
    }

    #[test]
    fn a_task_without_a_process_and_a_process_without_a_task_are_seen() {
        let one = registry(&[("web", TaskState::Running)]);
        catches(
            check,
            host(one.clone(), &[]),
            "framework-3/web is Running on agent-5",
        );
        catches(
            check,
            host(one, &["web", "orphan"]),
            "framework-3/orphan runs on agent-5",
        );
    }

    #[test]
    fn every_moment_is_judged_and_none_by_the_audits_of_another_one() {
        let one = host(registry(&[("web", TaskState::Running)]), &["web"]);
        let more = |scene: Scene, name: &str, runs: &[&str]| {
            let task = FinalTask {
                task: key(name),
                agent: AGENT,
                state: TaskState::Running,
            };
            let tasks = vec![task];
            host(scene.saw("audit", Audit::Registry { tasks }), runs)
        };
        passes(check, more(one.clone(), "db", &["db"]));
        let wrong = more(one, "db", &[]);
        catches(check, wrong.clone(), "framework-3/db is Running");
        catches(
            check,
            more(wrong, "web", &["web"]),
            "framework-3/db is Running",
        );
        let after = host(Scene::new(), &["web"]);
        sees_nothing(check, after.clone());
        passes(check, more(after, "web", &[]));
    }
}
