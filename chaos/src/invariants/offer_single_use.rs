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
    uses(history, &calls, &mut findings);
    commits(history, &mut findings);
    refusals(history, &calls, &mut findings);
    holdings(history, &mut findings);
    findings
}

/// Checks that at the end a connected framework knows which of its offers are invalid.
fn holdings(history: &History, findings: &mut Findings) {
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
    made: BTreeSet<(FrameworkId, u64)>,
    made_at: usize,
    void_at: Option<usize>,
}

fn known(history: &History) -> BTreeMap<OfferId, OfferRecord> {
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
                offer.made.insert((*framework, *session));
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

/// Returns the number of launches that an acceptance was granted.
fn granted(call: &CallView<'_>) -> usize {
    match (call.operation, call.outcome()) {
        (Operation::Accept { launches, .. }, Some(OperationResponse::Accepted { refused })) => {
            launches.len().saturating_sub(refused.len())
        }
        _ => 0,
    }
}

fn uses(history: &History, calls: &[CallView<'_>], findings: &mut Findings) {
    let known = known(history);
    let mut used: BTreeMap<OfferId, (usize, &CallName)> = BTreeMap::new();
    for call in calls.iter().filter(|call| granted(call) > 0) {
        let Operation::Accept { name, offers, .. } = call.operation else {
            continue;
        };
        let at = call.position;
        let ended = call.ended.map_or(at, |(ended, _)| ended);
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
            if !known.made.is_empty() {
                findings.require(known.made.contains(&to), [known.made_at, at], || {
                    format!(
                        "offer {offer} was used by {} in session {}, to whom it was not made",
                        to.0, to.1
                    )
                });
            }
            if let Some(void) = known.void_at.filter(|void| *void < at) {
                findings.require(epoch_after(history, *offer, ended), [void, at], || {
                    format!("offer {offer} was withdrawn in its reign, and honoured all the same")
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
fn commits(history: &History, findings: &mut Findings) {
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

fn refusals(history: &History, calls: &[CallView<'_>], findings: &mut Findings) {
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
    findings.looked_at += refused.len() as u64;
    for (at, _, fact) in of_tasks(history) {
        if let TaskFact::Witnessed { task, .. } | TaskFact::Launched { task, .. } = fact
            && let Some(call) = refused.get(task)
        {
            findings.wrong(
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
        CallEnd, FRAMEWORK, HistoryBuilder, ONE, accept, catches, offer, passes,
    };
    use argosy_state::ids::Epoch;

    fn rescinded() -> OfferFact {
        let offer = offer(12, 1);
        OfferFact::Rescinded { offer }
    }

    #[test]
    fn an_offer_used_once_by_its_framework_is_fine() {
        let scene = HistoryBuilder::new()
            .made(offer(12, 1))
            .accepted(1, offer(12, 1), "web")
            .accepted(1, offer(12, 1), "web")
            .call(
                "greedy",
                accept(2, offer(12, 1), "db"),
                CallEnd::Fail("offer-used"),
            );
        passes(check, scene);
    }

    #[test]
    fn an_offer_used_twice_is_seen() {
        let scene = HistoryBuilder::new()
            .made(offer(12, 1))
            .accepted(1, offer(12, 1), "web")
            .accepted(2, offer(12, 1), "db");
        catches(check, scene, "offer 12.1 was used by call 1");
        let used = || OfferFact::Used {
            offer: offer(12, 1),
            framework: FRAMEWORK,
            session: 7,
            tasks: Vec::new(),
        };
        let scene = HistoryBuilder::new()
            .observe_at("master-1", 20, used())
            .observe_at("master-2", 20, used())
            .observe_at("master-2", 21, used());
        catches(check, scene, "by entry 20 and by entry 21");
    }

    #[test]
    fn an_offer_of_another_session_is_seen() {
        let foreign = OfferFact::Made {
            offer: offer(12, 1),
            framework: FRAMEWORK,
            session: 6,
            agent: crate::invariants::fixture::AGENT,
            role: argosy_state::ids::Role::default(),
            resources: crate::invariants::fixture::resources("cpus:1"),
        };
        let scene =
            HistoryBuilder::new()
                .observe("greedy", foreign)
                .accepted(1, offer(12, 1), "web");
        catches(check, scene, "to whom it was not made");
    }

    #[test]
    fn a_withdrawn_offer_is_honoured_only_by_a_later_reign() {
        let void = HistoryBuilder::new()
            .made(offer(12, 1))
            .observe("greedy", rescinded());
        catches(
            check,
            void.clone().accepted(1, offer(12, 1), "web"),
            "withdrawn in its reign",
        );
        let opened = RaftFact::EpochOpened {
            node: ONE,
            epoch: Epoch(30),
            term: 5,
            life: 1,
        };
        passes(
            check,
            void.observe("master-1", opened)
                .accepted(1, offer(12, 1), "web"),
        );
    }

    #[test]
    fn a_refused_task_that_starts_is_seen() {
        let refused = accept(1, offer(12, 1), "web");
        let scene = HistoryBuilder::new().call("greedy", refused, CallEnd::Fail("offer-expired"));
        catches(
            check,
            scene.witnessed("web", "n"),
            "framework-3/web was refused",
        );
    }

    #[test]
    fn a_framework_that_holds_what_is_void_is_seen() {
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
        passes(check, audit(&[offer(12, 1), offer(12, 2)]));
        catches(check, audit(&[offer(12, 2)]), "framework-3 holds offers");
    }
}
