//! UpdateDelivery: an update is on its agent's disk before it is sent, is delivered in order, and
//! is not lost. After healing, agents hold no unacknowledged updates, and every end was delivered.

use std::collections::{BTreeMap, BTreeSet};

use argosy_state::agent::AgentMode;
use argosy_state::ids::{OrderIndex, Revision, TaskKey};

use super::Findings;
use super::facts::{changes, final_phase, launches, of_agents, of_tasks, removed};
use crate::history::{AgentFact, FaultKind, History, ProcessName, TaskFact};

pub(super) fn check(history: &History) -> Findings {
    let mut findings = Findings::default();
    check_agents(history, &mut findings);
    check_order(history, &mut findings);
    if final_phase(history).is_some() {
        check_ends_delivered(history, &mut findings);
    }
    findings
}

type Instance<'a> = (&'a TaskKey, OrderIndex);

/// The acknowledgements that agents received.
#[derive(Default)]
struct AcknowledgedUpdates<'a> {
    acknowledged: BTreeMap<Instance<'a>, u64>,
    committed: BTreeMap<&'a TaskKey, u64>,
    orphans: BTreeSet<Instance<'a>>,
}

impl<'a> AcknowledgedUpdates<'a> {
    fn of(history: &'a History) -> Self {
        let mut updates = Self::default();
        for (_, _, fact) in of_tasks(history) {
            match fact {
                TaskFact::UpdateAcknowledged {
                    task,
                    order,
                    number,
                } => {
                    let newest = updates.acknowledged.entry((task, *order)).or_default();
                    *newest = (*newest).max(*number);
                }
                TaskFact::Changed { task, number, .. } => {
                    let newest = updates.committed.entry(task).or_default();
                    *newest = (*newest).max(*number);
                }
                TaskFact::OrphanReported { task, order } => {
                    updates.orphans.insert((task, *order));
                }
                _ => {}
            }
        }
        updates
    }

    /// Returns the newest update that the agent need not keep. An update that was committed before
    /// the registry dropped the task needs no separate acknowledgement: the agent may only learn
    /// that the task is an orphan.
    fn newest(&self, instance: &Instance<'_>) -> u64 {
        let settled = self.acknowledged.get(instance).copied().unwrap_or_default();
        let is_stray = self.orphans.contains(instance);
        let committed = self.committed.get(instance.0).filter(|_| is_stray);
        settled.max(committed.copied().unwrap_or_default())
    }
}

fn check_agents(history: &History, findings: &mut Findings) {
    let mut made: BTreeMap<Instance<'_>, (usize, u64)> = BTreeMap::new();
    for (at, _, fact) in of_tasks(history) {
        match fact {
            TaskFact::UpdateStored {
                task,
                order,
                number,
                ..
            } => {
                let newest = made.entry((task, *order)).or_insert((at, *number));
                if *number > newest.1 {
                    *newest = (at, *number);
                }
            }
            TaskFact::UpdateSent {
                task,
                order,
                number,
            } => {
                let newest = made.get(&(task, *order)).map_or(0, |(_, number)| *number);
                findings.require(newest >= *number, [at], || {
                    format!("update {number} of {task} was sent before it was on disk")
                });
            }
            _ => {}
        }
    }
    if final_phase(history).is_none() {
        return;
    }
    let lost = lost_tasks(history);
    let reported = AcknowledgedUpdates::of(history);
    for (instance, (at, number)) in made {
        if lost.contains(instance.0) {
            continue;
        }
        let (known, task) = (reported.newest(&instance), instance.0);
        findings.require(known >= number, [at], || {
            format!("update {number} of {task} was never settled, only {known} was")
        });
    }
}

/// Returns the tasks of agents that cannot be expected to deliver anything: gone agents, and agents
/// without their disk.
fn lost_tasks(history: &History) -> BTreeSet<&TaskKey> {
    let gone = of_agents(history).filter_map(|(_, _, fact)| match fact {
        AgentFact::Mode {
            agent,
            mode: AgentMode::Gone,
        } => Some(*agent),
        _ => None,
    });
    let wiped = history
        .faults()
        .filter(|(_, _, fault)| fault.kind == FaultKind::WipeDisk)
        .filter_map(|(_, _, fault)| fault.target.parse().ok());
    let lost: BTreeSet<_> = gone.chain(wiped).collect();
    launches(history)
        .into_iter()
        .filter(|(_, (_, _, agent))| lost.contains(agent))
        .map(|(task, _)| task)
        .collect()
}

/// Checks the order of updates: an update that a scheduler receives for the first time is newer
/// than all earlier ones of the task. A superseded scheduler may still read earlier messages after
/// its successor has read more. A killed one starts a new sequence: a reconciliation may have
/// delivered a newer state to its former incarnation, which receives no older one then.
fn check_order(history: &History, findings: &mut Findings) {
    let kills: Vec<_> = history
        .faults()
        .filter(|(_, _, fault)| fault.kind == FaultKind::FrameworkCrash)
        .map(|(at, _, fault)| (at, &fault.target))
        .collect();
    let mut reported: BTreeMap<(&TaskKey, &ProcessName, usize), BTreeMap<Revision, usize>> =
        BTreeMap::new();
    for (at, event, fact) in of_tasks(history) {
        let TaskFact::UpdateReceived { task, update, .. } = fact else {
            continue;
        };
        let name = event.process.to_string();
        let before = kills
            .iter()
            .filter(|(kill, target)| *kill < at && **target == name);
        let life = before.count();
        let known = reported.entry((task, &event.process, life)).or_default();
        if let (false, Some((newest, first))) = (known.contains_key(update), known.last_key_value())
        {
            findings.require(newest < update, [*first, at], || {
                format!(
                    "the framework of {task} received what became true with entry {} after what did with {}",
                    update.index, newest.index
                )
            });
        }
        known.entry(*update).or_insert(at);
    }
}

/// Checks that every committed end reached every framework whose updates are recorded and that was
/// not removed.
fn check_ends_delivered(history: &History, findings: &mut Findings) {
    let mut listening = BTreeSet::new();
    let mut reported = BTreeSet::new();
    for (_, _, fact) in of_tasks(history) {
        if let TaskFact::UpdateReceived { task, state, .. } = fact {
            listening.insert(task.framework);
            if state.is_terminal() {
                reported.insert(task);
            }
        }
    }
    for framework in removed(history) {
        listening.remove(&framework);
    }
    for (task, changes) in changes(history) {
        if let Some(end) = changes.iter().find(|change| change.state.is_terminal())
            && listening.contains(&task.framework)
        {
            findings.require(reported.contains(task), [end.at], || {
                format!(
                    "{task} ended as {:?}, and its framework never received it",
                    end.state
                )
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{FrameworkFact, Removal, RunPhase};
    use crate::invariants::fixture::{
        AGENT, FRAMEWORK, HistoryBuilder, assert_clean, assert_violation, key, revision,
    };
    use argosy_state::task::TaskState;

    fn made(builder: HistoryBuilder, number: u64) -> HistoryBuilder {
        builder.observe(
            "agent-5",
            TaskFact::UpdateStored {
                task: key("web"),
                order: OrderIndex(1),
                number,
                state: TaskState::Running,
            },
        )
    }

    fn sent(builder: HistoryBuilder, number: u64) -> HistoryBuilder {
        let task = key("web");
        let order = OrderIndex(1);
        builder.observe(
            "agent-5",
            TaskFact::UpdateSent {
                task,
                order,
                number,
            },
        )
    }

    fn settled(builder: HistoryBuilder, number: u64) -> HistoryBuilder {
        let task = key("web");
        let order = OrderIndex(1);
        builder.observe(
            "agent-5",
            TaskFact::UpdateAcknowledged {
                task,
                order,
                number,
            },
        )
    }

    #[test]
    fn a_stored_sent_acknowledged_and_delivered_update_passes() {
        let builder = settled(sent(made(made(HistoryBuilder::new(), 1), 2), 2), 2)
            .update_received(4, "web", TaskState::Running)
            .update_received(9, "web", TaskState::Finished)
            .update_received(4, "web", TaskState::Running)
            .changed(9, "web", TaskState::Finished);
        assert_clean(check, builder.phase(RunPhase::Final));
    }

    #[test]
    fn an_update_sent_before_it_is_stored_is_reported() {
        assert_violation(
            check,
            made(sent(made(HistoryBuilder::new(), 1), 2), 2),
            "update 2 of framework-3/web was sent",
        );
    }

    #[test]
    fn an_unacknowledged_update_is_reported_unless_its_agent_is_gone() {
        let builder = settled(made(made(HistoryBuilder::new(), 1), 2), 1);
        assert_violation(
            check,
            builder.clone().phase(RunPhase::Final),
            "update 2 of framework-3/web was never",
        );
        let mode = AgentMode::Gone;
        let gone = builder
            .launched(2, "web", 1)
            .observe("master-1", AgentFact::Mode { agent: AGENT, mode });
        assert_eq!(check(&gone.phase(RunPhase::Final).history()).violations, []);
    }

    #[test]
    fn a_committed_update_of_a_stray_is_settled_and_another_is_not() {
        let stray = |builder: HistoryBuilder| {
            let task = key("web");
            let order = OrderIndex(1);
            builder.observe("agent-5", TaskFact::OrphanReported { task, order })
        };
        let builder = settled(made(made(HistoryBuilder::new(), 1), 2), 1);
        let changed = |builder: HistoryBuilder, number| {
            let task = key("web");
            let state = TaskState::Running;
            let fact = TaskFact::Changed {
                task,
                state,
                number,
            };
            builder.observe("log", fact)
        };
        assert_clean(
            check,
            stray(changed(builder.clone(), 2)).phase(RunPhase::Final),
        );
        for wrong in [stray(changed(builder.clone(), 1)), changed(builder, 2)] {
            assert_violation(check, wrong.phase(RunPhase::Final), "was never settled");
        }
    }

    #[test]
    fn an_older_update_delivered_late_is_reported() {
        let builder = HistoryBuilder::new().update_received(9, "web", TaskState::Running);
        assert_violation(
            check,
            builder.update_received(4, "web", TaskState::Starting),
            "with entry 4 after",
        );
    }

    #[test]
    fn a_scheduler_that_was_killed_may_receive_what_its_former_process_skipped() {
        let reported = |number| TaskFact::UpdateReceived {
            task: key("web"),
            update: revision(number),
            state: TaskState::Running,
            end: None,
        };
        let builder = HistoryBuilder::new().observe("framework-2", reported(9));
        let killed = builder
            .clone()
            .fault(FaultKind::FrameworkCrash, "framework-2");
        let killed = killed.observe("framework-2", reported(4));
        assert_clean(check, killed.observe("framework-2", reported(9)));
        let another = builder.fault(FaultKind::FrameworkCrash, "framework-3");
        assert_violation(
            check,
            another.observe("framework-2", reported(4)),
            "with entry 4 after",
        );
    }

    #[test]
    fn a_superseded_scheduler_may_receive_late_updates() {
        let late = TaskFact::UpdateReceived {
            task: key("web"),
            update: revision(4),
            state: TaskState::Running,
            end: None,
        };
        let builder = HistoryBuilder::new().update_received(9, "web", TaskState::Finished);
        let later = builder.observe("superseded", late);
        assert_clean(check, later.update_received(11, "web", TaskState::Finished));
    }

    #[test]
    fn an_undelivered_end_is_reported() {
        let builder = HistoryBuilder::new()
            .update_received(4, "web", TaskState::Running)
            .changed(9, "web", TaskState::Failed);
        assert_clean(
            check,
            builder
                .clone()
                .update_received(9, "web", TaskState::Failed)
                .phase(RunPhase::Final),
        );
        assert_violation(
            check,
            builder.clone().phase(RunPhase::Final),
            "ended as Failed",
        );
        for excused in [
            builder.clone().torn_down(),
            builder.clone().removed(Removal::Deadline, 60_000),
        ] {
            assert_eq!(
                check(&excused.phase(RunPhase::Final).history()).violations,
                []
            );
        }
        let subscribed = FrameworkFact::Subscribed {
            framework: FRAMEWORK,
            failover_timeout_ms: 60_000,
        };
        for mistaken in [
            builder.clone().removed(Removal::Deadline, 59_000),
            builder.clone().removed(Removal::Teardown, 0),
            // The requested teardown did not take place.
            builder.torn_down().observe("greedy", subscribed),
        ] {
            assert_violation(check, mistaken.phase(RunPhase::Final), "ended as Failed");
        }
    }
}
