//! Fairness: after healing, every framework with demand gets an offer in time, and unallocated
//! resources return to the pool, so that none leak.

use std::collections::BTreeMap;

use argosy_state::ids::{Epoch, OfferId};

use super::Findings;
use super::facts::{expectations, of_offers, removals};
use crate::history::{
    EventKind, Expectation, History, HistoryEvent, Observation, OfferFact, RaftFact,
};

/// The maximum age of a list of open offers when it is recorded.
const MAX_LIST_AGE_NS: u64 = 2_000_000_000;

pub(super) fn check(history: &History) -> Findings {
    let mut findings = Findings::default();
    let removals = removals(history);
    for (at, event, expected) in expectations(history) {
        let Expectation::Offer {
            framework,
            within_ns,
        } = expected
        else {
            continue;
        };
        let until = event.time_ns.saturating_add(*within_ns);
        let later = &history.events[at..];
        let end = at + later.partition_point(|event| event.time_ns <= until);
        let came = of_offers(history).any(|(made, _, fact)| {
            matches!(fact, OfferFact::Made { framework: to, .. } if to == framework)
                && (at..end).contains(&made)
        });
        let is_fault = |what: &EventKind| matches!(what, EventKind::Fault(_));
        let disturbed = history.events[at..end]
            .iter()
            .any(|event| is_fault(&event.what));
        // A framework that was just restarted may return after its timeout. TaskSurvival checks
        // whether it was removed too early.
        let is_removed = removals
            .iter()
            .any(|removed| removed.framework == *framework && removed.at < end);
        // A run that ended early, or was disturbed, proves nothing.
        if came {
            findings.count_comparison();
        } else if end < history.events.len() && !disturbed && !is_removed {
            findings.count_comparison();
            let waited_ms = within_ns / 1_000_000;
            findings.violation(
                format!("{framework} wants resources and was offered none within {waited_ms} ms"),
                [at, end],
            );
        }
    }
    check_pools(history, &mut findings);
    check_void_offers(history, &mut findings);
    findings
}

/// Checks that the resources of rescinded and expired offers are free: the leader that reported the
/// end must not hold them any longer.
fn check_void_offers(history: &History, findings: &mut Findings) {
    let mut void: BTreeMap<OfferId, usize> = BTreeMap::new();
    let mut newest = Epoch::default();
    for (at, event, seen) in history.observations() {
        match seen {
            Observation::Raft(RaftFact::EpochOpened { epoch, .. }) if *epoch > newest => {
                newest = *epoch;
                // The next leader accepts a withdrawn offer again if its framework still presents
                // it: the token is valid, and the offer is checked against the registry of now.
                void.clear();
            }
            Observation::Offer(OfferFact::Rescinded { offer }) => {
                void.entry(*offer).or_insert(at);
            }
            Observation::Offer(OfferFact::Listed { offers }) if is_of(event, newest) => {
                findings.count_comparison();
                for listed in offers {
                    let offer = listed.offer;
                    let since = void.get(&offer).copied().filter(|since| {
                        history.events[*since].time_ns + MAX_LIST_AGE_NS < event.time_ns
                    });
                    if let Some(since) = since {
                        // Reported once, however often the offer is listed.
                        void.remove(&offer);
                        let (agent, resources) = (listed.agent, &listed.resources);
                        findings.violation(
                            format!("offer {offer} is void, and its leader holds {resources} of {agent} for it all the same"),
                            [since, at],
                        );
                    }
                }
            }
            _ => {}
        }
    }
}

/// Whether a list belongs to the newest epoch. A leader that was replaced and does not know it
/// lacks what the next one has rescinded.
fn is_of(list: &HistoryEvent, newest: Epoch) -> bool {
    list.revision
        .is_some_and(|revision| revision.index >= newest.0)
}

fn check_pools(history: &History, findings: &mut Findings) {
    for (at, _, fact) in of_offers(history) {
        if let OfferFact::Pool {
            total,
            used,
            offered,
            free,
        } = fact
        {
            // Over several agents only scalar amounts can be added.
            let lost = total.iter().find(|part| {
                let name = &part.identity.name;
                let parts = [used, offered, free].map(|part| part.scalar_milli(name));
                parts.iter().sum::<i64>() != total.scalar_milli(name)
            });
            findings.require(lost.is_none(), [at], || {
                format!("agents give {total}, but used {used}, offered {offered} and free {free} are not that")
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use argosy_state::ids::FrameworkId;

    use super::*;
    use crate::history::{FaultKind, ListedOffer, Operation, OperationResponse, RunPhase};
    use crate::invariants::fixture::{
        AGENT, CallEnd, FRAMEWORK, HistoryBuilder, NODE_1, assert_clean, assert_nothing_compared,
        assert_violation, offer, resources,
    };

    fn expected() -> HistoryBuilder {
        let within_ns = 500_000_000;
        let framework = FRAMEWORK;
        HistoryBuilder::new().observe(
            "harness",
            Expectation::Offer {
                framework,
                within_ns,
            },
        )
    }

    #[test]
    fn an_offer_in_time_passes() {
        assert_clean(check, expected().after_ms(400).offer_made(offer(12, 1)));
    }

    #[test]
    fn a_framework_without_offers_is_reported() {
        assert_violation(
            check,
            expected().after_ms(600).offer_made(offer(12, 1)),
            "framework-3 wants",
        );
        let disturbed = expected().fault(FaultKind::Crash, "master-1").after_ms(900);
        assert_nothing_compared(check, disturbed.phase(RunPhase::Final));
    }

    #[test]
    fn a_framework_that_was_removed_is_offered_nothing_and_another_one_still() {
        let removed = |framework| {
            let name = None;
            let teardown = Operation::Teardown { name, framework };
            let builder = expected().call("log", teardown, CallEnd::Ok(OperationResponse::Done));
            builder.after_ms(600).offer_made(offer(12, 1))
        };
        assert_nothing_compared(check, removed(FRAMEWORK));
        assert_violation(check, removed(FrameworkId(9)), "framework-3 wants");
    }

    #[test]
    fn a_void_offer_that_the_leader_still_lists_is_reported() {
        let opened = RaftFact::EpochOpened {
            node: NODE_1,
            epoch: Epoch(12),
            term: 2,
            life: 7,
        };
        let offer = offer(12, 1);
        let list = |builder: HistoryBuilder, index| {
            let listed = ListedOffer {
                offer,
                agent: AGENT,
                resources: resources("cpus:1"),
            };
            let offers = vec![listed];
            builder.observe_at("lister", index, OfferFact::Listed { offers })
        };
        let builder = list(HistoryBuilder::new().observe("log", opened), 20);
        let void = builder.observe("greedy", OfferFact::Rescinded { offer });
        assert_clean(check, list(void.clone().after_ms(1_500), 21));
        let late = void.after_ms(2_500);
        assert_violation(check, list(list(late.clone(), 21), 22), "offer 12.1");
        assert_eq!(
            check(&list(list(late.clone(), 21), 22).history())
                .violations
                .len(),
            1
        );
        assert_clean(check, list(late.clone(), 11));
        let next = RaftFact::EpochOpened {
            node: NODE_1,
            epoch: Epoch(21),
            term: 3,
            life: 8,
        };
        assert_clean(check, list(late.observe("log", next), 22));
    }

    #[test]
    fn leaked_resources_are_reported() {
        let pool = |free: &str| {
            HistoryBuilder::new().observe(
                "master-1",
                OfferFact::Pool {
                    total: resources("cpus:8;ports:[1-9]"),
                    used: resources("cpus:2"),
                    offered: resources("cpus:4"),
                    free: resources(free),
                },
            )
        };
        assert_clean(check, pool("cpus:2"));
        assert_violation(check, pool("cpus:1"), "agents give");
    }
}
