//! StaleLeaderFencing: nothing starts without a commit. Neither a deposed leader, nor a paused one,
//! nor a late message of one can start a task.

use std::collections::BTreeMap;

use argosy_state::ids::{AgentId, OrderIndex, TaskKey};

use super::Findings;
use super::facts::{of_agents, of_tasks};
use crate::history::{AgentFact, History, OrderAction, TaskFact};

/// The position, order and agent of each committed launch.
type CommittedLaunches<'a> = BTreeMap<&'a TaskKey, (usize, OrderIndex, AgentId)>;

/// Checks a history. One that records no committed launch at all is checked for repeated orders
/// only.
pub(super) fn check(history: &History) -> Findings {
    let mut findings = Findings::default();
    let committed = committed(history);
    let mut taken: BTreeMap<(AgentId, OrderIndex), usize> = BTreeMap::new();
    for (at, _, fact) in of_agents(history) {
        let AgentFact::OrderTaken {
            agent,
            order,
            action,
            task,
            repeated: false,
            ..
        } = fact
        else {
            continue;
        };
        let first = *taken.entry((*agent, *order)).or_insert(at);
        findings.require(first == at, [first, at], || {
            format!("{agent} acted twice on order {}", order.0)
        });
        if let (OrderAction::Launch, Some(task), false) = (action, task, committed.is_empty()) {
            let known = committed.get(task);
            let is_known = known.is_some_and(|(_, under, on)| (under, on) == (order, agent));
            findings.require(is_known, [at], || {
                format!(
                    "{agent} started {task} under order {}, which no entry gave it",
                    order.0
                )
            });
        }
    }
    for (at, _, fact) in of_tasks(history) {
        let TaskFact::Witnessed { task, start } = fact else {
            continue;
        };
        if committed.is_empty() {
            continue;
        }
        let Some((first, order, _)) = committed.get(task) else {
            findings.violation(format!("{task} started, and no entry launched it"), [at]);
            continue;
        };
        let same = start.order.is_none_or(|under| under == *order);
        findings.require(same, [*first, at], || {
            format!("{task} started under another order than {}", order.0)
        });
    }
    findings
}

/// Returns the committed launches from the log, or from later reads of the registry.
fn committed(history: &History) -> CommittedLaunches<'_> {
    let mut committed = CommittedLaunches::new();
    for (at, _, fact) in of_tasks(history) {
        if let TaskFact::Launched {
            task, order, agent, ..
        }
        | TaskFact::Recorded { task, order, agent } = fact
        {
            committed.entry(task).or_insert((at, *order, *agent));
        }
    }
    committed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::witness::ProcessStart;
    use crate::invariants::fixture::{AGENT, HistoryBuilder, assert_clean, assert_violation, key};
    use argosy_state::ids::Epoch;

    fn order_accepted(builder: HistoryBuilder, order: u64, repeated: bool) -> HistoryBuilder {
        builder.observe(
            "agent-5",
            AgentFact::OrderTaken {
                agent: AGENT,
                epoch: Epoch(12),
                order: OrderIndex(order),
                action: OrderAction::Launch,
                task: Some(key("web")),
                repeated,
            },
        )
    }

    #[test]
    fn a_committed_launch_sent_twice_passes() {
        let builder = order_accepted(HistoryBuilder::new().launched(9, "web", 4), 4, false);
        assert_clean(
            check,
            order_accepted(builder, 4, true).witnessed("web", "n"),
        );
    }

    #[test]
    fn an_order_executed_twice_is_reported() {
        let builder = order_accepted(HistoryBuilder::new().launched(9, "web", 4), 4, false);
        assert_violation(
            check,
            order_accepted(builder, 4, false),
            "acted twice on order 4",
        );
    }

    #[test]
    fn a_launch_with_an_unknown_order_is_reported() {
        assert_violation(
            check,
            order_accepted(HistoryBuilder::new().launched(9, "web", 4), 5, false),
            "no entry gave it",
        );
    }

    #[test]
    fn an_uncommitted_start_is_reported() {
        let builder = HistoryBuilder::new().launched(9, "web", 4);
        assert_violation(
            check,
            builder.clone().witnessed("db", "n"),
            "no entry launched it",
        );
        let start = ProcessStart {
            order: Some(OrderIndex(5)),
            nonce: "n".to_owned(),
            boot_id: "b".to_owned(),
            pid: 4,
            start_time: 900,
        };
        let task = key("web");
        let other = builder.observe("witness", TaskFact::Witnessed { task, start });
        assert_violation(check, other, "another order than 4");
    }

    #[test]
    fn a_later_registry_record_counts_as_committed() {
        let recorded = TaskFact::Recorded {
            task: key("web"),
            order: OrderIndex(4),
            agent: AGENT,
        };
        let builder = HistoryBuilder::new()
            .witnessed("web", "n")
            .observe("historian", recorded);
        assert_clean(check, builder.clone());
        assert_violation(check, builder.witnessed("db", "n"), "no entry launched it");
    }
}
