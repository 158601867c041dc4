//! AcknowledgedWrites: acknowledged writes and tasks survive all faults. Checked in the final
//! phase: every register holds the value of an acknowledged write, or of one with unknown outcome.
//! Every accepted task exists or has ended.

use std::collections::{BTreeMap, BTreeSet};

use argosy_state::ids::TaskKey;

use super::Findings;
use super::facts::{final_phase, of_tasks, registered, removed};
use crate::history::{CallView, History, Operation, OperationResponse, TaskFact};
use crate::linearizability::{RegisterCall, RegisterOp, registers};

/// Checks a history. One without a final phase is skipped.
pub(super) fn check(history: &History) -> Findings {
    let mut findings = Findings::default();
    if let Some(end) = final_phase(history) {
        for (key, calls) in registers(history) {
            check_register(&mut findings, key, &calls, end);
        }
        check_tasks(&mut findings, history);
    }
    findings
}

/// Returns the values that the calls on a register may have left after all calls that ended before
/// `end`.
fn possible_values<'a>(calls: &[RegisterCall<'a>], end: usize) -> BTreeSet<Option<&'a str>> {
    let mut values = BTreeSet::new();
    let sets = |call: &RegisterCall<'a>| match call.action {
        RegisterOp::Read(_) => None,
        RegisterOp::Write(value) => Some(value),
        RegisterOp::Swap { swapped, value, .. } => swapped.unwrap_or(true).then_some(value),
    };
    let surely = |call: &&RegisterCall<'_>| {
        let is_sure = match call.action {
            RegisterOp::Swap { swapped, .. } => swapped == Some(true),
            RegisterOp::Write(_) => true,
            RegisterOp::Read(_) => false,
        };
        is_sure && call.end.is_some_and(|ended| ended < end)
    };
    let latest_start = calls.iter().filter(surely).map(|call| call.start).max();
    if latest_start.is_none() {
        values.insert(None);
    }
    for call in calls {
        let is_over = call
            .end
            .zip(latest_start)
            .is_some_and(|(ended, begun)| ended < begun);
        if !is_over && let Some(value) = sets(call) {
            values.insert(value);
        }
    }
    values
}

fn check_register(findings: &mut Findings, key: &str, calls: &[RegisterCall<'_>], end: usize) {
    let allowed = possible_values(calls, end);
    for call in calls.iter().filter(|call| call.start > end) {
        let (RegisterOp::Read(found), Some(ended)) = (call.action, call.end) else {
            continue;
        };
        findings.require(allowed.contains(&found), [call.start, ended], || {
            format!("{key} holds {found:?} at the end; what was acknowledged leaves {allowed:?}")
        });
    }
}

/// Returns every task of an acceptance that was not rejected.
fn accepted_tasks<'a>(call: &CallView<'a>) -> Vec<&'a TaskKey> {
    let (Operation::Accept { launches, .. }, Some(OperationResponse::Accepted { refused })) =
        (call.operation, call.outcome())
    else {
        return Vec::new();
    };
    let is_refused = |at: usize| {
        refused
            .iter()
            .any(|refusal| refusal.position as usize == at)
    };
    let launched = launches
        .iter()
        .enumerate()
        .filter(|(at, _)| !is_refused(*at));
    launched.map(|(_, launch)| &launch.task).collect()
}

fn check_tasks(findings: &mut Findings, history: &History) {
    let Some((audit, known)) = registered(history) else {
        return;
    };
    let mut ended: BTreeMap<&TaskKey, usize> = BTreeMap::new();
    for (at, _, fact) in of_tasks(history) {
        if let TaskFact::UpdateReceived { task, state, .. } | TaskFact::Changed { task, state, .. } =
            fact
            && state.is_terminal()
        {
            ended.insert(task, at);
        }
    }
    let removed = removed(history);
    for call in history.calls() {
        for task in accepted_tasks(&call) {
            // A run that ends early may have taken its last audit while calls were still in
            // progress.
            let is_later = call.end.is_some_and(|(ended, _)| ended > audit);
            if is_later || removed.contains(&task.framework) {
                continue;
            }
            let is_there = known.contains(task) || ended.contains_key(task);
            findings.require(is_there, [call.position, audit], || {
                format!("{task} was accepted; at the end the registry has no such task, and its end was not reported")
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{AuditFinding, Consistency, FinalTask, Removal, RunPhase};
    use crate::invariants::fixture::{
        AGENT, CallEnd, HistoryBuilder, assert_clean, assert_nothing_compared, assert_violation,
        key, offer,
    };
    use argosy_state::task::TaskState;

    fn write(value: &str) -> Operation {
        Operation::Write {
            key: "k".to_owned(),
            value: Some(value.to_owned()),
            request: String::new(),
        }
    }

    fn read_value(builder: HistoryBuilder, value: Option<&str>) -> HistoryBuilder {
        let read = Operation::Read {
            key: "k".to_owned(),
            consistency: Consistency::Linearizable,
        };
        let value = value.map(ToOwned::to_owned);
        let found = CallEnd::Ok(OperationResponse::Value { value });
        builder.phase(RunPhase::Final).call("audit", read, found)
    }

    fn registry(builder: HistoryBuilder, tasks: &[&str]) -> HistoryBuilder {
        let tasks = tasks.iter().map(|task| FinalTask {
            task: key(task),
            agent: AGENT,
            state: TaskState::Running,
        });
        let tasks = tasks.collect();
        builder
            .phase(RunPhase::Final)
            .observe("audit", AuditFinding::Registry { tasks })
    }

    #[test]
    fn the_last_write_or_one_with_unknown_outcome_may_remain() {
        let builder = HistoryBuilder::new()
            .call("a", write("1"), CallEnd::Ok(OperationResponse::Done))
            .call("a", write("2"), CallEnd::Info)
            .call("a", write("3"), CallEnd::Ok(OperationResponse::Done));
        assert_clean(check, read_value(builder.clone(), Some("3")));
        assert_clean(check, read_value(builder.clone(), Some("2")));
        assert_nothing_compared(check, builder.clone());
        assert_violation(
            check,
            read_value(builder.clone(), Some("1")),
            "k holds Some(\"1\")",
        );
        assert_violation(check, read_value(builder, None), "k holds None");
    }

    #[test]
    fn a_register_without_an_acknowledged_write_may_be_absent() {
        assert_clean(
            check,
            read_value(
                HistoryBuilder::new().call("a", write("1"), CallEnd::Info),
                None,
            ),
        );
    }

    #[test]
    fn a_lost_accepted_task_is_reported() {
        let builder = HistoryBuilder::new().accepted(1, offer(12, 1), "web");
        assert_clean(check, registry(builder.clone(), &["web"]));
        assert_clean(
            check,
            registry(
                builder
                    .clone()
                    .update_received(9, "web", TaskState::Finished),
                &[],
            ),
        );
        assert_nothing_compared(
            check,
            registry(HistoryBuilder::new(), &[]).accepted(1, offer(12, 1), "web"),
        );
        assert_violation(
            check,
            registry(builder.clone(), &["other"]),
            "framework-3/web was accepted",
        );
        let expired = builder.clone().removed(Removal::Deadline, 60_000);
        assert_nothing_compared(check, registry(expired, &[]));
        assert_violation(
            check,
            registry(builder.removed(Removal::Deadline, 1), &[]),
            "framework-3/web was accepted",
        );
    }
}
