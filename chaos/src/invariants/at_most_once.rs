//! AtMostOnce: each call takes effect at most once, however often it is repeated: one response for
//! a name, one order for a task, one task for an order.

use std::collections::BTreeMap;

use argosy_state::ids::{AgentId, OrderIndex, TaskKey};

use super::Findings;
use super::facts::of_tasks;
use crate::history::{CallName, EventKind, History, HistoryEvent, OperationResponse, TaskFact};

pub(super) fn check(history: &History) -> Findings {
    let mut findings = Findings::default();
    let mut answers: BTreeMap<&CallName, (usize, Option<&OperationResponse>)> = BTreeMap::new();
    for call in history.calls() {
        let (Some(name), Some((ended, event))) = (call.operation.call_name(), call.end) else {
            continue;
        };
        let answer = match event {
            HistoryEvent {
                what: EventKind::Ok { outcome, .. },
                ..
            } => Some(outcome),
            HistoryEvent {
                what: EventKind::Fail { .. },
                ..
            } => None,
            _ => continue,
        };
        let (first, known) = *answers.entry(name).or_insert((ended, answer));
        findings.require(known == answer, [first, ended], || {
            let CallName {
                framework,
                session,
                number,
            } = name;
            format!("call {number} of session {session} of {framework} has two answers: {known:?} and {answer:?}")
        });
    }
    check_launches(history, &mut findings);
    findings
}

fn check_launches(history: &History, findings: &mut Findings) {
    let mut orders: BTreeMap<&TaskKey, (usize, OrderIndex)> = BTreeMap::new();
    let mut carried: BTreeMap<(AgentId, OrderIndex), (usize, &TaskKey)> = BTreeMap::new();
    for (at, _, fact) in of_tasks(history) {
        if let TaskFact::Launched {
            task, order, agent, ..
        } = fact
        {
            let (first, other) = *carried.entry((*agent, *order)).or_insert((at, task));
            findings.require(other == task, [first, at], || {
                format!(
                    "{other} and {task} were launched on {agent} under order {}",
                    order.0
                )
            });
            let (first, known) = *orders.entry(task).or_insert((at, *order));
            findings.require(known == *order, [first, at], || {
                format!(
                    "{task} was launched under orders {} and {}",
                    known.0, order.0
                )
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::fixture::{
        CallEnd, HistoryBuilder, accept, assert_clean, assert_violation, offer,
    };

    #[test]
    fn a_repeated_call_with_the_same_response_passes() {
        let builder = HistoryBuilder::new()
            .accepted(1, offer(12, 1), "web")
            .accepted(1, offer(12, 1), "web")
            .call("greedy", accept(2, offer(12, 2), "db"), CallEnd::Info)
            .call(
                "greedy",
                accept(2, offer(12, 2), "db"),
                CallEnd::Fail("offer-used"),
            )
            .launched(9, "web", 1)
            .launched(9, "web", 1);
        assert_clean(check, builder);
    }

    #[test]
    fn a_different_second_response_is_reported() {
        let builder = HistoryBuilder::new().accepted(1, offer(12, 1), "web").call(
            "greedy",
            accept(1, offer(12, 1), "web"),
            CallEnd::Fail("offer-used"),
        );
        assert_violation(
            check,
            builder,
            "call 1 of session 7 of framework-3 has two answers",
        );
    }

    #[test]
    fn a_task_with_two_launch_orders_is_reported() {
        let builder = HistoryBuilder::new()
            .launched(9, "web", 1)
            .launched(11, "web", 2);
        assert_violation(
            check,
            builder,
            "framework-3/web was launched under orders 1 and 2",
        );
    }

    #[test]
    fn two_tasks_with_one_order_are_reported() {
        let builder = HistoryBuilder::new()
            .launched(9, "web", 1)
            .launched(9, "db", 1);
        assert_violation(
            check,
            builder,
            "framework-3/web and framework-3/db were launched on agent-5 under order 1",
        );
    }
}
