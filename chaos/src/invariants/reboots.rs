//! Reboots: when a host reboots, its tasks end exactly once, and nothing from before the reboot is
//! adopted. (StateTransitions checks that an end comes once.)

use std::collections::{BTreeMap, BTreeSet};

use argosy_state::ids::{AgentId, TaskKey};
use argosy_state::task::TaskState;

use super::Findings;
use super::facts::{audits, faults_of_kind, final_phase, of_tasks, registered};
use crate::history::{AuditFinding, FaultKind, History, TaskFact};

pub(super) fn check(history: &History) -> Findings {
    let mut findings = Findings::default();
    for (at, target) in faults_of_kind(history, FaultKind::HostReboot) {
        if let Ok(agent) = target.parse() {
            check_reboot(history, &mut findings, at, agent);
        }
    }
    findings
}

fn check_reboot(history: &History, findings: &mut Findings, fault: usize, agent: AgentId) {
    let mut before: BTreeMap<&TaskKey, usize> = BTreeMap::new();
    let mut boots: BTreeSet<&str> = BTreeSet::new();
    let mut ended: BTreeSet<&TaskKey> = BTreeSet::new();
    for (at, _, fact) in of_tasks(history) {
        match fact {
            TaskFact::Alive {
                task,
                agent: on,
                boot_id,
                ..
            } if *on == agent => {
                if at < fault {
                    before.insert(task, at);
                    boots.insert(boot_id);
                } else {
                    findings.require(!boots.contains(boot_id.as_str()), [fault, at], || {
                        format!("{task} runs on {agent} in a boot that is over")
                    });
                }
            }
            TaskFact::Adopted {
                task,
                agent: by,
                boot_id,
                ..
            } if *by == agent && at > fault => {
                let is_old = boots.contains(boot_id.as_str()) || before.contains_key(task);
                findings.require(!is_old, [fault, at], || {
                    format!("{task} was adopted by {agent} over a reboot")
                });
            }
            TaskFact::UpdateReceived { task, state, .. }
            | TaskFact::Changed { task, state, .. }
                if state.is_terminal() =>
            {
                ended.insert(task);
            }
            _ => {}
        }
    }
    check_live_tasks(history, findings, fault, &before);
    if final_phase(history).is_none() {
        return;
    }
    let (audit, live) = registered(history).unwrap_or((fault, BTreeSet::new()));
    for (task, seen) in before {
        let is_over = ended.contains(task) && !live.contains(task);
        findings.require(is_over, [seen, fault, audit], || {
            format!("{task} ran on {agent} before its reboot, and has not ended")
        });
    }
}

/// Checks that at rest the tasks from before the reboot have ended. An UNREACHABLE task is checked
/// after its agent has returned.
fn check_live_tasks(
    history: &History,
    findings: &mut Findings,
    fault: usize,
    before: &BTreeMap<&TaskKey, usize>,
) {
    let is_final = final_phase(history).unwrap_or(usize::MAX);
    for (at, _, audit) in audits(history) {
        let AuditFinding::Registry { tasks } = audit else {
            continue;
        };
        if at <= fault || at >= is_final {
            continue;
        }
        let mut live = BTreeSet::new();
        for task in tasks
            .iter()
            .filter(|task| task.state != TaskState::Unreachable)
        {
            live.insert(&task.task);
        }
        for (task, seen) in before {
            findings.require(!live.contains(task), [*seen, fault, at], || {
                format!(
                    "{task} ran before the reboot of its host, and is still reported as running"
                )
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{FinalTask, RunPhase};
    use crate::invariants::fixture::{
        AGENT, HistoryBuilder, assert_clean, assert_nothing_compared, assert_violation, key,
    };

    fn rebooted() -> HistoryBuilder {
        HistoryBuilder::new()
            .alive("web", 4, 1)
            .fault(FaultKind::HostReboot, "agent-5")
    }

    fn adopted(builder: HistoryBuilder) -> HistoryBuilder {
        builder.observe(
            "agent-5",
            TaskFact::Adopted {
                task: key("web"),
                agent: AGENT,
                pid: 4,
                start_time: 900,
                boot_id: "boot-2".to_owned(),
            },
        )
    }

    #[test]
    fn a_task_that_ends_with_its_host_passes() {
        let builder = rebooted()
            .changed(9, "web", TaskState::Failed)
            .alive_in("boot-2", "db", 4, 1)
            .phase(RunPhase::Final);
        assert_clean(check, builder);
    }

    #[test]
    fn a_task_running_from_an_earlier_boot_is_reported() {
        assert_violation(
            check,
            rebooted().alive("web", 4, 2),
            "in a boot that is over",
        );
    }

    #[test]
    fn an_adoption_across_a_reboot_is_reported() {
        assert_violation(check, adopted(rebooted()), "over a reboot");
    }

    #[test]
    fn a_task_without_an_end_after_a_reboot_is_reported() {
        assert_violation(check, rebooted().phase(RunPhase::Final), "has not ended");
    }

    #[test]
    fn a_task_of_an_earlier_boot_listed_as_live_at_rest_is_reported() {
        let audited = |builder: HistoryBuilder, name: &str, state| {
            let (task, agent) = (key(name), AGENT);
            let tasks = vec![FinalTask { task, agent, state }];
            builder.observe("audit", AuditFinding::Registry { tasks })
        };
        let early = audited(
            HistoryBuilder::new().alive("web", 4, 1),
            "web",
            TaskState::Running,
        );
        assert_nothing_compared(check, early.clone());
        let early = early.fault(FaultKind::HostReboot, "agent-5");
        assert_clean(check, audited(early.clone(), "db", TaskState::Running));
        assert_clean(check, audited(early.clone(), "web", TaskState::Unreachable));
        let live = audited(early, "web", TaskState::Running);
        assert_violation(check, live, "is still reported as running");
    }
}
