//! LaunchProvenance: every running task has an acceptance by its framework, on offers that were
//! made to that framework, with the principal that subscribed.

use std::collections::{BTreeMap, BTreeSet};

use argosy_state::ids::{FrameworkId, OfferId, TaskKey};

use super::Findings;
use super::facts::{launches, of_offers, of_tasks};
use crate::history::{History, OfferFact, Operation, OperationResponse, TaskFact};

/// Checks a history. Steps that it does not record at all are not required.
pub(super) fn check(history: &History) -> Findings {
    let mut findings = Findings::default();
    let calls = history.calls();
    let mut asked: BTreeMap<&TaskKey, Vec<(usize, &[OfferId])>> = BTreeMap::new();
    let mut principals: BTreeMap<FrameworkId, &str> = BTreeMap::new();
    for call in &calls {
        match (call.operation, call.outcome()) {
            (
                Operation::Accept {
                    launches, offers, ..
                },
                _,
            ) => {
                for launch in launches {
                    let asked = asked.entry(&launch.task).or_default();
                    asked.push((call.position, offers));
                }
            }
            (
                Operation::Subscribe { principal, .. },
                Some(OperationResponse::Subscribed { framework, .. }),
            ) => {
                principals.insert(*framework, principal);
            }
            _ => {}
        }
    }
    let launched = launches(history);
    let mut seen = BTreeSet::new();
    for (at, _, fact) in of_tasks(history) {
        let (TaskFact::Witnessed { task, .. } | TaskFact::Alive { task, .. }) = fact else {
            continue;
        };
        if !seen.insert(task) {
            continue;
        }
        findings.require(asked.contains_key(task), [at], || {
            format!("{task} runs, and its launch was not requested")
        });
        findings.require(
            launched.is_empty() || launched.contains_key(task),
            [at],
            || format!("{task} runs, and no entry launched it"),
        );
    }
    check_chains(history, &mut findings, &asked, &principals);
    findings
}

/// Checks the chain from every committed launch to its acceptance, its offers and its principal.
fn check_chains(
    history: &History,
    findings: &mut Findings,
    asked: &BTreeMap<&TaskKey, Vec<(usize, &[OfferId])>>,
    principals: &BTreeMap<FrameworkId, &str>,
) {
    let made = made(history);
    for (task, (at, fact, _)) in launches(history) {
        let TaskFact::Launched {
            offers, principal, ..
        } = fact
        else {
            continue;
        };
        let by = asked.get(task).map_or(&[][..], Vec::as_slice);
        let is_of_a_call = by
            .iter()
            .any(|(_, given)| offers.iter().all(|offer| given.contains(offer)));
        findings.require(is_of_a_call && !offers.is_empty(), [at], || {
            format!("{task} was launched on offers that no acceptance for it named")
        });
        let is_foreign = |offer: &&OfferId| {
            made.get(offer)
                .is_some_and(|to| !to.contains(&task.framework))
        };
        findings.require(!offers.iter().any(|offer| is_foreign(&offer)), [at], || {
            format!("{task} was launched on an offer made to another framework")
        });
        if let Some(known) = principals.get(&task.framework) {
            findings.require(known == principal, [at], || {
                format!("{task} was launched for {principal:?}, and its framework is of {known:?}")
            });
        }
    }
}

fn made(history: &History) -> BTreeMap<&OfferId, BTreeSet<FrameworkId>> {
    let mut made: BTreeMap<&OfferId, BTreeSet<FrameworkId>> = BTreeMap::new();
    for (_, _, fact) in of_offers(history) {
        if let OfferFact::Made {
            offer, framework, ..
        } = fact
        {
            made.entry(offer).or_default().insert(*framework);
        }
    }
    made
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::fixture::{
        AGENT, CallEnd, FRAMEWORK, HistoryBuilder, assert_clean, assert_violation, offer, resources,
    };
    use argosy_state::ids::Role;

    fn subscribed(principal: &str) -> HistoryBuilder {
        let operation = Operation::Subscribe {
            framework: None,
            session: 7,
            principal: principal.to_owned(),
            held: Vec::new(),
        };
        let outcome = OperationResponse::Subscribed {
            framework: FRAMEWORK,
            kept: Vec::new(),
            rescinded: Vec::new(),
        };
        HistoryBuilder::new().call("greedy", operation, CallEnd::Ok(outcome))
    }

    #[test]
    fn a_launch_with_a_complete_chain_passes() {
        let builder = subscribed("alice")
            .offer_made(offer(12, 1))
            .accepted(1, offer(12, 1), "web")
            .launched(9, "web", 1);
        assert_clean(check, builder.witnessed("web", "n").alive("web", 4, 1));
    }

    #[test]
    fn a_launch_without_a_request_is_reported() {
        assert_violation(
            check,
            HistoryBuilder::new().witnessed("web", "n"),
            "its launch was not requested",
        );
    }

    #[test]
    fn a_start_without_a_launch_entry_is_reported() {
        let builder = HistoryBuilder::new()
            .accepted(1, offer(12, 1), "web")
            .accepted(2, offer(12, 2), "db")
            .launched(9, "web", 1);
        assert_violation(check, builder.alive("db", 4, 1), "no entry launched it");
    }

    #[test]
    fn a_launch_on_an_unnamed_offer_is_reported() {
        let builder = HistoryBuilder::new()
            .accepted(1, offer(12, 9), "web")
            .launched(9, "web", 1);
        assert_violation(check, builder, "no acceptance for it named");
    }

    #[test]
    fn a_launch_with_another_frameworks_offer_or_principal_is_reported() {
        let foreign = OfferFact::Made {
            offer: offer(12, 1),
            framework: FrameworkId(8),
            session: 7,
            agent: AGENT,
            role: Role::default(),
            resources: resources("cpus:1"),
        };
        let launch = |builder: HistoryBuilder| {
            builder
                .accepted(1, offer(12, 1), "web")
                .launched(9, "web", 1)
        };
        assert_violation(
            check,
            launch(HistoryBuilder::new().observe("other", foreign)),
            "made to another framework",
        );
        assert_violation(
            check,
            launch(subscribed("mallory")),
            "launched for \"alice\"",
        );
    }
}
