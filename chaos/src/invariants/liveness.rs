//! Liveness: while a majority is connected, commits continue, and a lost leader is replaced in
//! time. The harness states when this applies; a fault before the time is over cancels the
//! expectation.

use super::Findings;
use super::facts::expectations;
use crate::history::{
    CallView, EventKind, Expectation, Fault, History, HistoryEvent, Observation, Operation,
    RaftFact,
};

pub(super) fn check(history: &History) -> Findings {
    let mut findings = Findings::default();
    let calls = history.calls();
    let mut commits: Vec<usize> = writes(&calls).chain(commit_observations(history)).collect();
    commits.sort_unstable();
    let epochs: Vec<usize> = epochs(history).collect();
    for (at, event, expected) in expectations(history) {
        let expected = match expected {
            Expectation::Commit { within_ns } => PendingExpectation {
                at,
                within_ns: *within_ns,
                met_at: after(&commits, at),
                cancelled_by: |_| true,
                message: "nothing was committed, although a majority was connected",
            },
            Expectation::NextLeader { within_ns } => PendingExpectation {
                at,
                within_ns: *within_ns,
                met_at: after(&epochs, at),
                cancelled_by: |fault| !fault.kind.is_repair(),
                message: "no new leader became active, although a majority was connected",
            },
            _ => continue,
        };
        check_event(&mut findings, history, event, &expected);
    }
    findings
}

/// Something that must follow an event.
struct PendingExpectation {
    at: usize,
    within_ns: u64,
    /// The position at which it first came after the event.
    met_at: Option<usize>,
    /// Whether this fault cancels the expectation if it comes first.
    cancelled_by: fn(&Fault) -> bool,
    /// The violation that is reported if it does not come.
    message: &'static str,
}

/// Returns the first of these positions after another one.
fn after(positions: &[usize], at: usize) -> Option<usize> {
    let next = positions.partition_point(|position| *position <= at);
    positions.get(next).copied()
}

/// Checks whether the expected event came in time.
fn check_event(
    findings: &mut Findings,
    history: &History,
    event: &HistoryEvent,
    expected: &PendingExpectation,
) {
    let PendingExpectation {
        at,
        within_ns,
        met_at,
        ..
    } = *expected;
    let until = event.time_ns.saturating_add(within_ns);
    let is_late = |place: usize| history.events[place].time_ns > until;
    let later = &history.events[at..];
    let end = at + later.partition_point(|event| event.time_ns <= until);
    if met_at.is_some_and(|came| !is_late(came)) {
        findings.count_comparison();
        return;
    }
    let is_fault = |event: &HistoryEvent| match &event.what {
        EventKind::Fault(fault) => (expected.cancelled_by)(fault),
        _ => false,
    };
    // A run that ended early, or was disturbed, proves nothing.
    if end == history.events.len() || history.events[at..end].iter().any(is_fault) {
        return;
    }
    findings.count_comparison();
    let waited_ms = within_ns / 1_000_000;
    findings.violation(
        format!("within {waited_ms} ms {}", expected.message),
        [at, end],
    );
}

fn writes<'a>(calls: &'a [CallView<'_>]) -> impl Iterator<Item = usize> + 'a {
    calls
        .iter()
        .filter(|call| proves_commit(call.operation))
        .filter_map(|call| call.outcome().and(call.end).map(|(at, _)| at))
}

/// Returns whether a master acknowledges this operation only when its entry is committed.
fn proves_commit(operation: &Operation) -> bool {
    match operation {
        Operation::Write { .. }
        | Operation::CompareAndSet { .. }
        | Operation::Accept { .. }
        | Operation::Kill { .. }
        | Operation::Acknowledge { .. }
        | Operation::Suppress { .. }
        | Operation::Revive { .. }
        | Operation::Teardown { .. }
        | Operation::Deactivate { .. }
        | Operation::Reactivate { .. }
        | Operation::MarkGone { .. }
        | Operation::ChangeVoters { .. } => true,
        // A master without a quorum, or an agent, answers some uses of a right, and the harness
        // records some rights itself. A subscription that resumes writes nothing.
        Operation::UseRight { .. }
        | Operation::SetRight { .. }
        | Operation::Subscribe { .. }
        | Operation::Read { .. }
        | Operation::Reconcile { .. }
        | Operation::Decline { .. }
        | Operation::Transfer { .. } => false,
    }
}

fn epochs(history: &History) -> impl Iterator<Item = usize> {
    history.observations().filter_map(|(at, _, seen)| {
        let is_opened = matches!(seen, Observation::Raft(RaftFact::EpochOpened { .. }));
        is_opened.then_some(at)
    })
}

fn commit_observations(history: &History) -> impl Iterator<Item = usize> {
    history.observations().filter_map(|(at, _, seen)| {
        let is_commit = matches!(
            seen,
            Observation::Raft(RaftFact::Committed { .. } | RaftFact::EpochOpened { .. })
        );
        is_commit.then_some(at)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{DecidedBy, FaultKind, OperationResponse, RunPhase};
    use crate::invariants::fixture::{
        CallEnd, HistoryBuilder, NODE_1, assert_clean, assert_nothing_compared, assert_violation,
    };
    use argosy_state::ids::{AgentId, Epoch, FrameworkId};

    fn expected() -> HistoryBuilder {
        let within_ns = 500_000_000;
        HistoryBuilder::new().observe("harness", Expectation::Commit { within_ns })
    }

    fn lost(builder: HistoryBuilder) -> HistoryBuilder {
        let within_ns = 1_200_000_000;
        let builder = builder.fault(FaultKind::Crash, "master-1");
        builder.observe("harness", Expectation::NextLeader { within_ns })
    }

    fn opened(builder: HistoryBuilder) -> HistoryBuilder {
        let opened = RaftFact::EpochOpened {
            node: NODE_1,
            epoch: Epoch(12),
            term: 2,
            life: 7,
        };
        builder.observe("log", opened)
    }

    #[test]
    fn a_leader_replaced_in_time_passes() {
        let builder = lost(HistoryBuilder::new()).after_ms(1_100);
        assert_clean(check, opened(builder).after_ms(900).phase(RunPhase::Final));
        assert_nothing_compared(check, lost(HistoryBuilder::new()));
        let disturbed = lost(HistoryBuilder::new()).fault(FaultKind::Crash, "master-2");
        assert_nothing_compared(check, opened(disturbed.after_ms(1_300)));
    }

    #[test]
    fn a_late_or_missing_next_leader_is_reported() {
        let words = "within 1200 ms no new leader became active";
        let late = lost(opened(HistoryBuilder::new())).after_ms(1_300);
        assert_violation(check, opened(late), words);
        assert_violation(
            check,
            lost(HistoryBuilder::new())
                .after_ms(1_300)
                .phase(RunPhase::Final),
            words,
        );
        let restarted = lost(HistoryBuilder::new()).fault(FaultKind::Restart, "master-1");
        assert_violation(check, opened(restarted.after_ms(1_300)), words);
        // A commit that the former leader had in flight is not a sign of the next one.
        assert_violation(
            check,
            commit(lost(HistoryBuilder::new()))
                .after_ms(1_300)
                .phase(RunPhase::Final),
            words,
        );
    }

    fn commit(builder: HistoryBuilder) -> HistoryBuilder {
        let voters = vec![NODE_1];
        let committed = RaftFact::Committed {
            node: NODE_1,
            index: 4,
            voters,
        };
        builder.observe("master-1", committed)
    }

    #[test]
    fn a_commit_or_acknowledged_write_in_time_passes() {
        assert_clean(
            check,
            commit(expected().after_ms(400))
                .after_ms(900)
                .phase(RunPhase::Final),
        );
        let deactivate = Operation::Deactivate { agent: AgentId(1) };
        assert_clean(
            check,
            expected().call("a", deactivate, CallEnd::Ok(OperationResponse::Done)),
        );
    }

    #[test]
    fn a_late_or_missing_commit_is_reported() {
        assert_violation(check, commit(expected().after_ms(600)), "within 500 ms");
        assert_violation(
            check,
            expected().after_ms(600).phase(RunPhase::Final),
            "within 500 ms",
        );
    }

    #[test]
    fn what_needs_no_quorum_is_no_commit() {
        let right = "operator/prober view-agent".to_owned();
        let decided_by = DecidedBy::Master { min_index: 0 };
        let uses = Operation::UseRight {
            right: right.clone(),
            decided_by,
        };
        let sets = Operation::SetRight {
            right,
            is_allowed: true,
        };
        let resumes = Operation::Subscribe {
            framework: Some(FrameworkId(3)),
            session: 1,
            principal: "web".to_owned(),
            held: Vec::new(),
        };
        for operation in [uses, sets, resumes] {
            let answered = expected().call("a", operation, CallEnd::Ok(OperationResponse::Done));
            let waited = answered.after_ms(600).phase(RunPhase::Final);
            assert_violation(check, waited, "within 500 ms");
        }
    }

    #[test]
    fn a_fault_or_the_end_of_the_run_cancels_the_expectation() {
        let disturbed = expected().fault(FaultKind::Crash, "master-1");
        assert_nothing_compared(check, disturbed.after_ms(600).phase(RunPhase::Final));
        assert_nothing_compared(check, expected());
    }
}
