//! NoDoubleBooking: no unit (a port, a volume, a device) is in two live tasks, nor in two offers of
//! one epoch. ResourceConservation covers amounts.
//!
//! Tasks are checked by revisions. Offers are checked by the records that leaders make of their own
//! books, and by the lists of open offers at one moment. A framework that is frozen, partitioned or
//! dead may hold offers whose resources were given to others long ago, until it receives the next
//! message.

use std::collections::{BTreeMap, BTreeSet};

use argosy_state::ids::{AgentId, Epoch, OfferId, Revision, TaskKey};
use argosy_state::resources::Resources;

use super::Findings;
use super::facts::{changes, of_offers, of_tasks};
use crate::history::{History, ListedOffer, OfferFact, Operation, TaskFact};

pub(super) fn check(history: &History) -> Findings {
    let mut findings = Findings::default();
    check_tasks(history, &mut findings);
    check_offers(history, &mut findings);
    check_offer_lists(history, &mut findings);
    findings
}

/// The lifetime of a task in the registry.
struct TaskLifetime<'a> {
    at: usize,
    task: &'a TaskKey,
    from: Revision,
    until: Option<Revision>,
    resources: &'a Resources,
}

/// The resources that tasks asked for, and the offers that they named.
type LaunchRequests<'a> = BTreeMap<&'a TaskKey, Vec<(&'a [OfferId], &'a Resources)>>;

fn launch_requests(history: &History) -> LaunchRequests<'_> {
    let mut requests = LaunchRequests::new();
    for call in history.calls() {
        if let Operation::Accept {
            launches, offers, ..
        } = call.operation
        {
            for launch in launches {
                let asks = requests.entry(&launch.task).or_default();
                asks.push((offers, &launch.resources));
            }
        }
    }
    requests
}

/// Returns the tasks of each agent, in the order of their launches.
fn task_lifetimes(history: &History) -> BTreeMap<AgentId, Vec<TaskLifetime<'_>>> {
    let requests = launch_requests(history);
    let changes = changes(history);
    let mut lifetimes: BTreeMap<AgentId, BTreeMap<&TaskKey, TaskLifetime<'_>>> = BTreeMap::new();
    for (at, event, fact) in of_tasks(history) {
        let TaskFact::Launched {
            task,
            agent,
            offers,
            ..
        } = fact
        else {
            continue;
        };
        // A task id may be used again with another offer after a rejection.
        let asks = requests.get(task).map_or(&[][..], Vec::as_slice);
        let granted = asks.iter().find(|(of, _)| *of == offers.as_slice());
        if let (Some(from), Some((_, uses))) = (event.revision, granted.or(asks.first())) {
            let ends = changes.get(task).into_iter().flatten();
            let until = ends
                .filter(|change| change.state.is_terminal())
                .map(|change| change.revision);
            let lifetime = TaskLifetime {
                at,
                task,
                from,
                until: until.min(),
                resources: uses,
            };
            lifetimes
                .entry(*agent)
                .or_default()
                .entry(task)
                .or_insert(lifetime);
        }
    }
    let in_order = lifetimes.into_iter().map(|(agent, lifetimes)| {
        let mut lifetimes: Vec<TaskLifetime<'_>> = lifetimes.into_values().collect();
        lifetimes.sort_by_key(|lifetime| lifetime.from);
        (agent, lifetimes)
    });
    in_order.collect()
}

fn check_tasks(history: &History, findings: &mut Findings) {
    for (agent, lifetimes) in task_lifetimes(history) {
        let mut live: Vec<&TaskLifetime<'_>> = Vec::new();
        for lifetime in &lifetimes {
            findings.count_comparison();
            live.retain(|other| other.until.is_none_or(|until| until > lifetime.from));
            for other in &live {
                if other.resources.plus(lifetime.resources).is_none() {
                    findings.violation(
                        format!(
                            "on {agent} {} and {} use the same: {} and {}",
                            other.task, lifetime.task, other.resources, lifetime.resources
                        ),
                        [other.at, lifetime.at],
                    );
                }
            }
            live.push(lifetime);
        }
    }
}

/// Returns the position at which an offer certainly became invalid: used, declined or rescinded.
fn offer_ends(history: &History) -> BTreeMap<OfferId, usize> {
    let mut ends: BTreeMap<OfferId, usize> = BTreeMap::new();
    let mut end = |offer: OfferId, at: usize| {
        let known = ends.entry(offer).or_insert(at);
        *known = at.min(*known);
    };
    for call in history.calls() {
        if let Operation::Accept { offers, .. } | Operation::Decline { offers, .. } = call.operation
        {
            offers.iter().for_each(|offer| end(*offer, call.position));
        }
    }
    for (at, _, fact) in of_offers(history) {
        if let OfferFact::Rescinded { offer } | OfferFact::Used { offer, .. } = fact {
            end(*offer, at);
        }
    }
    ends
}

/// An offer that was made: its position, its id, and its resources.
type SentOffer<'a> = (usize, OfferId, &'a Resources);

fn check_offers(history: &History, findings: &mut Findings) {
    let ends = offer_ends(history);
    let mut made: BTreeMap<(Epoch, AgentId), Vec<SentOffer<'_>>> = BTreeMap::new();
    for (at, event, fact) in of_offers(history) {
        let OfferFact::Made {
            offer,
            agent,
            resources,
            ..
        } = fact
        else {
            continue;
        };
        if !event.process.as_str().starts_with("master-") {
            continue;
        }
        findings.count_comparison();
        let live = made.entry((offer.epoch, *agent)).or_default();
        let is_over = |other: &OfferId| {
            let end = ends.get(other);
            end.is_some_and(|end| history.events[*end].time_ns <= event.time_ns)
        };
        live.retain(|(_, other, _)| other == offer || !is_over(other));
        // Repeated by its leader, or recorded by both sides.
        if live.iter().any(|(_, other, _)| other == offer) {
            continue;
        }
        for (first, other, given) in live.iter() {
            if given.plus(resources).is_none() && !is_over(offer) {
                findings.violation(
                    format!("offers {other} and {offer} of {agent} promise the same: {given} and {resources}"),
                    [*first, at],
                );
            }
        }
        live.push((at, *offer, resources));
    }
}

/// Checks the open offers of one leader at one moment. A pair of offers is reported once, however
/// often it is listed.
fn check_offer_lists(history: &History, findings: &mut Findings) {
    let mut known: BTreeSet<(OfferId, OfferId)> = BTreeSet::new();
    for (at, _, fact) in of_offers(history) {
        let OfferFact::Listed { offers } = fact else {
            continue;
        };
        findings.count_comparison();
        let mut open: BTreeMap<AgentId, Vec<&ListedOffer>> = BTreeMap::new();
        for listed in offers {
            let others = open.entry(listed.agent).or_default();
            for other in others.iter() {
                let overlap = other.resources.plus(&listed.resources).is_none();
                if overlap && known.insert((other.offer, listed.offer)) {
                    let (one, two) = (&other.resources, &listed.resources);
                    findings.violation(
                        format!(
                            "offers {} and {} of {} are open at once and promise the same: {one} and {two}",
                            other.offer, listed.offer, listed.agent
                        ),
                        [at],
                    );
                }
            }
            others.push(listed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::fixture::{
        AGENT, FRAMEWORK, HistoryBuilder, accept, assert_clean, assert_violation, offer, resources,
    };
    use argosy_state::ids::Role;
    use argosy_state::task::TaskState;

    fn made(builder: HistoryBuilder, by: &str, made: OfferId, text: &str) -> HistoryBuilder {
        let seen = OfferFact::Made {
            offer: made,
            framework: FRAMEWORK,
            session: 7,
            agent: AGENT,
            role: Role::default(),
            resources: resources(text),
        };
        builder.observe(by, seen)
    }

    #[test]
    fn reusing_a_port_after_a_task_ended_passes() {
        let builder = HistoryBuilder::new()
            .accepted(1, offer(12, 1), "web")
            .launched(9, "web", 1)
            .accepted(2, offer(12, 2), "db")
            .launched(20, "db", 2)
            .changed(15, "web", TaskState::Finished);
        assert_clean(check, builder);
    }

    #[test]
    fn two_tasks_on_one_port_are_reported() {
        let builder = HistoryBuilder::new()
            .accepted(1, offer(12, 1), "web")
            .launched(9, "web", 1)
            .accepted(2, offer(12, 2), "db")
            .launched(14, "db", 2)
            .changed(15, "web", TaskState::Finished);
        assert_violation(
            check,
            builder,
            "framework-3/web and framework-3/db use the same",
        );
    }

    #[test]
    fn a_name_that_is_asked_for_again_uses_what_it_was_granted() {
        let ask = |used, task: &str, ports: &str| {
            let mut accept = accept(1, used, task);
            if let Operation::Accept { launches, .. } = &mut accept {
                launches[0].resources = resources(ports);
            }
            accept
        };
        let builder = HistoryBuilder::new()
            .begin("greedy", ask(offer(12, 7), "web", "ports:[31001-31001]"))
            .begin("greedy", ask(offer(12, 1), "web", "ports:[31000-31000]"))
            .begin("greedy", ask(offer(12, 1), "db", "ports:[31001-31001]"))
            .launched(9, "web", 1)
            .launched(14, "db", 2);
        assert_clean(check, builder);
    }

    #[test]
    fn offering_a_port_again_after_a_rescind_or_in_another_epoch_passes() {
        let first = made(
            HistoryBuilder::new(),
            "master-1",
            offer(12, 1),
            "ports:[1-3]",
        );
        let other = first.clone().observe(
            "greedy",
            OfferFact::Rescinded {
                offer: offer(12, 1),
            },
        );
        assert_clean(check, made(other, "master-1", offer(12, 2), "ports:[3-4]"));
        assert_clean(check, made(first, "master-2", offer(30, 1), "ports:[3-4]"));
    }

    #[test]
    fn two_open_offers_of_one_port_are_reported() {
        let first = made(
            HistoryBuilder::new(),
            "master-1",
            offer(12, 1),
            "ports:[1-3]",
        );
        let both = made(first, "master-1", offer(12, 2), "ports:[3-4]");
        assert_violation(check, both.clone(), "offers 12.1 and 12.2");
        let late = both.observe(
            "greedy",
            OfferFact::Rescinded {
                offer: offer(12, 1),
            },
        );
        assert_violation(check, late, "offers 12.1 and 12.2");
    }

    #[test]
    fn a_port_listed_in_two_offers_is_reported_once() {
        let listed = |serial, agent, text: &str| ListedOffer {
            offer: offer(12, serial),
            agent,
            resources: resources(text),
        };
        let other = AgentId(6);
        let list = |offers: Vec<ListedOffer>| {
            HistoryBuilder::new().observe("x", OfferFact::Listed { offers })
        };
        let apart = vec![
            listed(1, AGENT, "ports:[1-3]"),
            listed(2, AGENT, "ports:[4-5]"),
            listed(3, other, "ports:[1-3]"),
        ];
        assert_clean(check, list(apart));
        let both = vec![
            listed(1, AGENT, "ports:[1-3]"),
            listed(2, AGENT, "ports:[3-4]"),
        ];
        let twice = list(both.clone()).observe("x", OfferFact::Listed { offers: both });
        assert_eq!(check(&twice.clone().history()).violations.len(), 1);
        assert_violation(check, twice, "offers 12.1 and 12.2");
    }

    #[test]
    fn offers_still_held_by_frameworks_are_skipped() {
        let first = made(HistoryBuilder::new(), "greedy", offer(12, 1), "ports:[1-3]");
        let both = made(first, "crasher", offer(12, 2), "ports:[3-4]");
        let found = check(&both.after_ms(60_000).history());
        assert_eq!(found.compared, 0);
        assert!(found.violations.is_empty(), "{:?}", found.violations);
    }
}
