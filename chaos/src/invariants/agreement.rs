//! Agreement: at rest, the tasks that run on a host according to the registry are those that the
//! kernel reports.

use std::collections::{BTreeMap, BTreeSet};

use argosy_state::ids::{AgentId, TaskKey};
use argosy_state::task::TaskState;

use super::Findings;
use super::facts::audits;
use crate::history::{AuditFinding, FinalTask, History};

/// The audits of the registry and of the hosts at one moment.
#[derive(Default)]
struct AuditSnapshot<'a> {
    registry: Option<(usize, &'a [FinalTask])>,
    hosts: BTreeMap<AgentId, (usize, BTreeSet<&'a TaskKey>)>,
}

/// Checks a history by its audits. Those of one moment follow each other: the second one of a kind
/// begins the next moment.
pub(super) fn check(history: &History) -> Findings {
    let mut findings = Findings::default();
    let mut moment = AuditSnapshot::default();
    for (at, _, audit) in audits(history) {
        match audit {
            AuditFinding::Registry { tasks } => {
                if moment.registry.is_some() {
                    std::mem::take(&mut moment).check(&mut findings);
                }
                moment.registry = Some((at, tasks));
            }
            AuditFinding::Host { agent, tasks } => {
                if moment.hosts.contains_key(agent) {
                    std::mem::take(&mut moment).check(&mut findings);
                }
                moment.hosts.insert(*agent, (at, tasks.iter().collect()));
            }
            AuditFinding::Offers { .. } | AuditFinding::Leftovers { .. } => {}
        }
    }
    moment.check(&mut findings);
    findings
}

impl AuditSnapshot<'_> {
    fn check(self, findings: &mut Findings) {
        let Some((registered, tasks)) = self.registry else {
            return;
        };
        for task in tasks {
            let Some((at, running)) = self.hosts.get(&task.agent) else {
                continue;
            };
            // A task that was just accepted is still in flight.
            let is_there = task.state == TaskState::Staging || running.contains(&task.task);
            findings.require(is_there, [registered, *at], || {
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
                findings.require(known, [registered, at], || {
                    format!("{task} runs on {agent}, and the registry does not know")
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::fixture::{
        AGENT, HistoryBuilder, assert_clean, assert_nothing_compared, assert_violation, key,
    };

    fn registry(tasks: &[(&str, TaskState)]) -> HistoryBuilder {
        let tasks = tasks.iter().map(|(task, state)| FinalTask {
            task: key(task),
            agent: AGENT,
            state: *state,
        });
        let tasks = tasks.collect();
        HistoryBuilder::new().observe("audit", AuditFinding::Registry { tasks })
    }

    fn host(builder: HistoryBuilder, tasks: &[&str]) -> HistoryBuilder {
        let agent = AGENT;
        let tasks = tasks.iter().map(|task| key(task)).collect();
        builder.observe("audit", AuditFinding::Host { agent, tasks })
    }

    #[test]
    fn a_registry_that_matches_its_hosts_passes() {
        let both = registry(&[("web", TaskState::Running), ("new", TaskState::Staging)]);
        assert_nothing_compared(check, both.clone());
        assert_clean(check, host(both.clone(), &["web"]));
        assert_clean(check, host(both, &["web", "new"]));
    }

    #[test]
    fn tasks_without_processes_and_processes_without_tasks_are_reported() {
        let one = registry(&[("web", TaskState::Running)]);
        assert_violation(
            check,
            host(one.clone(), &[]),
            "framework-3/web is Running on agent-5",
        );
        assert_violation(
            check,
            host(one, &["web", "orphan"]),
            "framework-3/orphan runs on agent-5",
        );
    }

    #[test]
    fn audits_are_compared_only_within_one_moment() {
        let one = host(registry(&[("web", TaskState::Running)]), &["web"]);
        let more = |builder: HistoryBuilder, name: &str, runs: &[&str]| {
            let task = FinalTask {
                task: key(name),
                agent: AGENT,
                state: TaskState::Running,
            };
            let tasks = vec![task];
            host(
                builder.observe("audit", AuditFinding::Registry { tasks }),
                runs,
            )
        };
        assert_clean(check, more(one.clone(), "db", &["db"]));
        let wrong = more(one, "db", &[]);
        assert_violation(check, wrong.clone(), "framework-3/db is Running");
        assert_violation(
            check,
            more(wrong, "web", &["web"]),
            "framework-3/db is Running",
        );
        let after = host(HistoryBuilder::new(), &["web"]);
        assert_nothing_compared(check, after.clone());
        assert_clean(check, more(after, "web", &[]));
    }
}
