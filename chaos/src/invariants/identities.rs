//! UniqueIdentity: an identity has one holder. A copy of an agent's disk is rejected, and so are
//! the calls of a superseded scheduler.

use std::collections::BTreeMap;

use argosy_state::ids::{AgentId, FrameworkId, Revision};

use super::Findings;
use super::facts::of_agents;
use crate::history::{AgentFact, CallView, History, Operation, OperationResponse};

pub(super) fn check(history: &History) -> Findings {
    let mut findings = Findings::default();
    check_agents(history, &mut findings);
    check_schedulers(&history.calls(), &mut findings);
    findings
}

/// Checks incarnations in the order of their revisions: each names the previous one as its own.
fn check_agents(history: &History, findings: &mut Findings) {
    let mut registered: BTreeMap<AgentId, BTreeMap<Revision, (usize, u64, u64)>> = BTreeMap::new();
    for (at, event, fact) in of_agents(history) {
        if let AgentFact::Registered {
            agent,
            incarnation,
            former,
            ..
        } = fact
        {
            findings.count_comparison();
            let all = registered.entry(*agent).or_default();
            // Without a revision, incarnations keep the order in which they were observed.
            let unknown = Revision {
                index: 0,
                position: u32::try_from(all.len()).unwrap_or(u32::MAX),
            };
            let revision = event.revision.unwrap_or(unknown);
            all.entry(revision).or_insert((at, *incarnation, *former));
        }
    }
    for (agent, lives) in registered {
        let lives: Vec<(usize, u64, u64)> = lives.into_values().collect();
        for pair in lives.windows(2) {
            let ((first, known, _), (at, incarnation, former)) = (pair[0], pair[1]);
            let is_own = incarnation == known || former == known;
            findings.require(is_own, [first, at], || {
                format!("{agent} was registered by incarnation {incarnation}, which came after {former}, while {known} held the id")
            });
        }
    }
}

fn check_schedulers(calls: &[CallView<'_>], findings: &mut Findings) {
    // The current session of each framework, and when each earlier one was superseded.
    let mut present: BTreeMap<FrameworkId, u64> = BTreeMap::new();
    let mut superseded: BTreeMap<(FrameworkId, u64), usize> = BTreeMap::new();
    let mut subscriptions: Vec<(usize, FrameworkId, u64)> = calls
        .iter()
        .filter_map(|call| match (call.operation, call.outcome(), call.end) {
            (
                Operation::Subscribe { session, .. },
                Some(OperationResponse::Subscribed { framework, .. }),
                Some((ended, _)),
            ) => Some((ended, *framework, *session)),
            _ => None,
        })
        .collect();
    subscriptions.sort_unstable();
    for (ended, framework, session) in subscriptions {
        if let Some(former) = present.insert(framework, session)
            && former != session
        {
            superseded.entry((framework, former)).or_insert(ended);
        }
    }
    for call in calls.iter().filter(|call| call.outcome().is_some()) {
        let caller = match (call.operation, call.outcome()) {
            (
                Operation::Subscribe { session, .. },
                Some(OperationResponse::Subscribed { framework, .. }),
            ) => Some((*framework, *session)),
            (operation, _) => operation
                .call_name()
                .map(|name| (name.framework, name.session)),
        };
        let Some(caller) = caller else {
            continue;
        };
        findings.count_comparison();
        if let Some(since) = superseded
            .get(&caller)
            .filter(|since| **since < call.position)
        {
            let (framework, session) = caller;
            findings.violation(
                format!("a call of {framework} in session {session} was granted after another scheduler had taken over"),
                [*since, call.position],
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::fixture::{
        AGENT, CallEnd, FRAMEWORK, HistoryBuilder, accept, assert_clean, assert_violation, offer,
    };

    fn registered(
        builder: HistoryBuilder,
        index: u64,
        incarnation: u64,
        former: u64,
    ) -> HistoryBuilder {
        builder.observe_at(
            "master-1",
            index,
            AgentFact::Registered {
                agent: AGENT,
                incarnation,
                former,
                boot_id: "boot-1".to_owned(),
            },
        )
    }

    fn subscribed(builder: HistoryBuilder, session: u64) -> HistoryBuilder {
        let operation = Operation::Subscribe {
            framework: Some(FRAMEWORK),
            session,
            principal: "alice".to_owned(),
            held: Vec::new(),
        };
        let outcome = OperationResponse::Subscribed {
            framework: FRAMEWORK,
            kept: Vec::new(),
            rescinded: Vec::new(),
        };
        builder.call("greedy", operation, CallEnd::Ok(outcome))
    }

    #[test]
    fn successive_incarnations_pass() {
        let builder = registered(registered(HistoryBuilder::new(), 5, 100, 0), 9, 200, 100);
        assert_clean(check, registered(builder, 9, 200, 100));
    }

    #[test]
    fn registering_a_copied_disk_is_reported() {
        let builder = registered(registered(HistoryBuilder::new(), 5, 100, 0), 9, 200, 100);
        assert_violation(
            check,
            registered(builder, 12, 300, 100),
            "while 200 held the id",
        );
    }

    #[test]
    fn rejecting_a_superseded_scheduler_passes() {
        let builder = subscribed(subscribed(HistoryBuilder::new(), 7), 8);
        let late = accept(2, offer(12, 1), "web");
        assert_clean(
            check,
            builder.call("greedy", late, CallEnd::Fail("superseded")),
        );
    }

    #[test]
    fn an_accepted_call_of_a_superseded_scheduler_is_reported() {
        let builder = subscribed(subscribed(HistoryBuilder::new(), 7), 8);
        assert_violation(
            check,
            builder.clone().accepted(2, offer(12, 1), "web"),
            "in session 7",
        );
        assert_violation(check, subscribed(builder, 7), "in session 7");
    }
}
