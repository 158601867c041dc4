//! R9: whenever a majority is connected, commits go on in time. The harness says when that is so; a
//! fault that comes before the time is over makes it unsaid.

use super::Findings;
use super::facts::expectations;
use crate::history::{
    CallView, Event, Expectation, History, Observation, Operation, RaftFact, What,
};

/// Judges a history.
pub(super) fn check(history: &History) -> Findings {
    let mut findings = Findings::default();
    let calls = history.calls();
    let commits: Vec<usize> = writes(&calls).chain(told(history)).collect();
    let mut commits = commits;
    commits.sort_unstable();
    for (at, event, expected) in expectations(history) {
        if let Expectation::Commit { within_ns } = expected {
            let next = commits.get(commits.partition_point(|commit| *commit <= at));
            judge(
                &mut findings,
                history,
                (at, event),
                *within_ns,
                next.copied(),
            );
        }
    }
    findings
}

/// Whether what was expected at an event came in time.
fn judge(
    findings: &mut Findings,
    history: &History,
    (at, event): (usize, &Event),
    within_ns: u64,
    came: Option<usize>,
) {
    let until = event.time_ns.saturating_add(within_ns);
    let is_late = |place: usize| history.events[place].time_ns > until;
    let later = &history.events[at..];
    let end = at + later.partition_point(|event| event.time_ns <= until);
    if came.is_some_and(|came| !is_late(came)) {
        findings.look();
        return;
    }
    let is_fault = |event: &Event| matches!(event.what, What::Fault(_));
    // A run that ended before its time, or was disturbed, shows nothing.
    if end == history.events.len() || history.events[at..end].iter().any(is_fault) {
        return;
    }
    findings.look();
    let waited_ms = within_ns / 1_000_000;
    findings.wrong(
        format!("nothing was committed within {waited_ms} ms, although a majority was connected"),
        [at, end],
    );
}

fn writes<'a>(calls: &'a [CallView<'_>]) -> impl Iterator<Item = usize> + 'a {
    let is_write = |call: &&CallView<'_>| {
        !matches!(
            call.operation,
            Operation::Read { .. } | Operation::Reconcile { .. } | Operation::Decline { .. }
        )
    };
    calls
        .iter()
        .filter(is_write)
        .filter_map(|call| call.outcome().and(call.ended).map(|(at, _)| at))
}

fn told(history: &History) -> impl Iterator<Item = usize> {
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
    use super::super::scene::{Ending, ONE, Scene, catches, passes, sees_nothing};
    use super::*;
    use crate::history::{FaultKind, Outcome, Phase};
    use argosy_state::ids::AgentId;

    fn expected() -> Scene {
        let within_ns = 500_000_000;
        Scene::new().saw("harness", Expectation::Commit { within_ns })
    }

    fn commit(scene: Scene) -> Scene {
        let voters = vec![ONE];
        let committed = RaftFact::Committed {
            node: ONE,
            index: 4,
            voters,
        };
        scene.saw("master-1", committed)
    }

    #[test]
    fn a_commit_or_an_acknowledged_write_in_time_is_fine() {
        passes(
            check,
            commit(expected().after_ms(400))
                .after_ms(900)
                .phase(Phase::Final),
        );
        let deactivate = Operation::Deactivate { agent: AgentId(1) };
        passes(
            check,
            expected().call("a", deactivate, Ending::Ok(Outcome::Done)),
        );
    }

    #[test]
    fn a_commit_that_comes_late_or_never_is_seen() {
        catches(check, commit(expected().after_ms(600)), "within 500 ms");
        catches(
            check,
            expected().after_ms(600).phase(Phase::Final),
            "within 500 ms",
        );
    }

    #[test]
    fn a_fault_or_the_end_of_the_run_makes_it_unsaid() {
        let disturbed = expected().fault(FaultKind::Crash, "master-1");
        sees_nothing(check, disturbed.after_ms(600).phase(Phase::Final));
        sees_nothing(check, expected());
    }
}
