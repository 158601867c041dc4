//! OfferSingleUse: an offer is used at most once, only by the framework and session to which it was
//! made, and never after it was rescinded in the same epoch. A rejected acceptance starts nothing.
//!
//! A rescinded offer may be honoured after a change of leader: every reason to rescind one is a
//! fact that the commit checks again.

use std::collections::{BTreeMap, BTreeSet};

use argosy_state::ids::{FrameworkId, OfferId, Revision, TaskKey};

use super::Findings;
use super::facts::{audits, of_masters, of_offers, of_tasks};
use crate::history::{
    AuditFinding, CallName, CallView, History, OfferFact, Operation, OperationResponse, RaftFact,
    TaskFact,
};

pub(super) fn check(history: &History) -> Findings {
    let mut findings = Findings::default();
    let calls = history.calls();
    check_uses(history, &calls, &mut findings);
    check_commits(history, &mut findings);
    check_rejections(history, &calls, &mut findings);
    check_held_offers(history, &mut findings);
    findings
}

/// Checks that at the end a connected framework knows which of its offers are invalid.
fn check_held_offers(history: &History, findings: &mut Findings) {
    for (at, _, audit) in audits(history) {
        if let AuditFinding::Offers {
            framework,
            held,
            open,
        } = audit
        {
            let void = held.iter().find(|offer| !open.contains(offer));
            findings.require(void.is_none(), [at], || {
                format!("{framework} holds offers {held:?}, of which its leader knows {open:?}")
            });
        }
    }
}

/// The known facts about an offer.
#[derive(Default)]
struct OfferRecord {
    recipients: BTreeSet<(FrameworkId, u64)>,
    made_at: usize,
    void_at: Option<usize>,
}

fn offer_records(history: &History) -> BTreeMap<OfferId, OfferRecord> {
    let mut known: BTreeMap<OfferId, OfferRecord> = BTreeMap::new();
    for (at, _, fact) in of_offers(history) {
        match fact {
            OfferFact::Made {
                offer,
                framework,
                session,
                ..
            } => {
                let offer = known.entry(*offer).or_default();
                offer.recipients.insert((*framework, *session));
                offer.made_at = at;
            }
            OfferFact::Rescinded { offer } => {
                known.entry(*offer).or_default().void_at.get_or_insert(at);
            }
            _ => {}
        }
    }
    known
}

/// Returns the number of launches of an acceptance that were not rejected.
fn launch_count(call: &CallView<'_>) -> usize {
    match (call.operation, call.outcome()) {
        (Operation::Accept { launches, .. }, Some(OperationResponse::Accepted { refused })) => {
            launches.len().saturating_sub(refused.len())
        }
        _ => 0,
    }
}

fn check_uses(history: &History, calls: &[CallView<'_>], findings: &mut Findings) {
    let known = offer_records(history);
    let mut used: BTreeMap<OfferId, (usize, &CallName)> = BTreeMap::new();
    for call in calls.iter().filter(|call| launch_count(call) > 0) {
        let Operation::Accept { name, offers, .. } = call.operation else {
            continue;
        };
        let at = call.position;
        let ended = call.end.map_or(at, |(ended, _)| ended);
        for offer in offers {
            let (first, by) = *used.entry(*offer).or_insert((at, name));
            findings.require(by == name, [first, at], || {
                format!(
                    "offer {offer} was used by call {} of session {} and by call {} of session {}",
                    by.number, by.session, name.number, name.session
                )
            });
            let Some(known) = known.get(offer) else {
                continue;
            };
            let to = (name.framework, name.session);
            if !known.recipients.is_empty() {
                findings.require(known.recipients.contains(&to), [known.made_at, at], || {
                    format!(
                        "offer {offer} was used by {} in session {}, to which it was not made",
                        to.0, to.1
                    )
                });
            }
            if let Some(void) = known.void_at.filter(|void| *void < at) {
                findings.require(epoch_after(history, *offer, ended), [void, at], || {
                    format!("offer {offer} was withdrawn in its epoch, and accepted nevertheless")
                });
            }
        }
    }
}

/// Whether an epoch after that of the offer had begun before `by`.
fn epoch_after(history: &History, offer: OfferId, by: usize) -> bool {
    of_masters(history).take_while(|(at, _, _)| *at <= by).any(
        |(_, _, fact)| matches!(fact, RaftFact::EpochOpened { epoch, .. } if *epoch > offer.epoch),
    )
}

/// Checks committed uses. Each master records a use separately.
fn check_commits(history: &History, findings: &mut Findings) {
    let mut used: BTreeMap<OfferId, (usize, Revision)> = BTreeMap::new();
    for (at, event, fact) in of_offers(history) {
        if let (OfferFact::Used { offer, .. }, Some(revision)) = (fact, event.revision) {
            let (first, known) = *used.entry(*offer).or_insert((at, revision));
            findings.require(known == revision, [first, at], || {
                format!(
                    "offer {offer} was used by entry {} and by entry {}",
                    known.index, revision.index
                )
            });
        }
    }
}

fn check_rejections(history: &History, calls: &[CallView<'_>], findings: &mut Findings) {
    let mut refused: BTreeMap<&TaskKey, usize> = BTreeMap::new();
    let mut wanted: BTreeSet<&TaskKey> = BTreeSet::new();
    for call in calls {
        let Operation::Accept { launches, .. } = call.operation else {
            continue;
        };
        for (position, launch) in launches.iter().enumerate() {
            let is_refused = match call.outcome() {
                Some(OperationResponse::Accepted { refused }) => {
                    refused.iter().any(|one| one.position as usize == position)
                }
                _ => call.failure().is_some(),
            };
            if is_refused {
                refused.insert(&launch.task, call.position);
            } else {
                wanted.insert(&launch.task);
            }
        }
    }
    // Rejected once, and granted, or perhaps granted, by another call.
    refused.retain(|task, _| !wanted.contains(task));
    findings.compared += refused.len() as u64;
    for (at, _, fact) in of_tasks(history) {
        if let TaskFact::Witnessed { task, .. } | TaskFact::Launched { task, .. } = fact
            && let Some(call) = refused.get(task)
        {
            findings.violation(
                format!("{task} was refused, and started all the same"),
                [*call, at],
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::fixture::{
        CallEnd, FRAMEWORK, HistoryBuilder, NODE_1, accept, assert_clean, assert_violation, offer,
    };
    use argosy_state::ids::Epoch;

    fn rescinded() -> OfferFact {
        let offer = offer(12, 1);
        OfferFact::Rescinded { offer }
    }

    #[test]
    fn an_offer_used_once_by_its_framework_passes() {
        let builder = HistoryBuilder::new()
            .offer_made(offer(12, 1))
            .accepted(1, offer(12, 1), "web")
            .accepted(1, offer(12, 1), "web")
            .call(
                "greedy",
                accept(2, offer(12, 1), "db"),
                CallEnd::Fail("offer-used"),
            );
        assert_clean(check, builder);
    }

    #[test]
    fn an_offer_used_twice_is_reported() {
        let builder = HistoryBuilder::new()
            .offer_made(offer(12, 1))
            .accepted(1, offer(12, 1), "web")
            .accepted(2, offer(12, 1), "db");
        assert_violation(check, builder, "offer 12.1 was used by call 1");
        let used = || OfferFact::Used {
            offer: offer(12, 1),
            framework: FRAMEWORK,
            session: 7,
            tasks: Vec::new(),
        };
        let builder = HistoryBuilder::new()
            .observe_at("master-1", 20, used())
            .observe_at("master-2", 20, used())
            .observe_at("master-2", 21, used());
        assert_violation(check, builder, "by entry 20 and by entry 21");
    }

    #[test]
    fn an_offer_of_another_session_is_reported() {
        let foreign = OfferFact::Made {
            offer: offer(12, 1),
            framework: FRAMEWORK,
            session: 6,
            agent: crate::invariants::fixture::AGENT,
            role: argosy_state::ids::Role::default(),
            resources: crate::invariants::fixture::resources("cpus:1"),
        };
        let builder =
            HistoryBuilder::new()
                .observe("greedy", foreign)
                .accepted(1, offer(12, 1), "web");
        assert_violation(check, builder, "to which it was not made");
    }

    #[test]
    fn a_rescinded_offer_is_valid_only_in_a_later_epoch() {
        let void = HistoryBuilder::new()
            .offer_made(offer(12, 1))
            .observe("greedy", rescinded());
        assert_violation(
            check,
            void.clone().accepted(1, offer(12, 1), "web"),
            "withdrawn in its epoch",
        );
        let opened = RaftFact::EpochOpened {
            node: NODE_1,
            epoch: Epoch(30),
            term: 5,
            life: 1,
        };
        assert_clean(
            check,
            void.observe("master-1", opened)
                .accepted(1, offer(12, 1), "web"),
        );
    }

    #[test]
    fn a_start_of_a_rejected_task_is_reported() {
        let refused = accept(1, offer(12, 1), "web");
        let builder = HistoryBuilder::new().call("greedy", refused, CallEnd::Fail("offer-expired"));
        assert_violation(
            check,
            builder.witnessed("web", "n"),
            "framework-3/web was refused",
        );
    }

    #[test]
    fn a_framework_that_holds_a_void_offer_is_reported() {
        let audit = |open: &[OfferId]| {
            HistoryBuilder::new().observe(
                "audit",
                AuditFinding::Offers {
                    framework: FRAMEWORK,
                    held: vec![offer(12, 1)],
                    open: open.to_vec(),
                },
            )
        };
        assert_clean(check, audit(&[offer(12, 1), offer(12, 2)]));
        assert_violation(check, audit(&[offer(12, 2)]), "framework-3 holds offers");
    }
}
