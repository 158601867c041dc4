//! OfferLimits: the used and offered resources of roles stay within their limits, and only
//! registered agents are offered.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};

use argosy_state::agent::AgentMode;
use argosy_state::ids::{AgentId, Epoch, OfferId};
use argosy_state::resources::Resources;

use super::Findings;
use super::delays::FaultWindows;
use super::facts::{of_agents, of_masters, of_offers};
use crate::history::{
    AgentFact, FaultKind, History, HistoryEvent, OfferFact, ProcessName, RaftFact,
};

/// The maximum delay between the making of an offer and its record, while nothing delays the leader
/// or its link: a round of the allocator and a few packets.
const MAX_DELAY_NS: u64 = 300_000_000;

pub(super) fn check(history: &History) -> Findings {
    let mut findings = Findings::default();
    let modes = modes(history);
    let made = made(history);
    let epoch_records = epochs(history);
    let (leaders, ends) = (leaders(history), ProcessEnds::of(history));
    let delays = FaultWindows::of(history);
    for (at, event, fact) in of_offers(history) {
        match fact {
            OfferFact::RoleAccount {
                role,
                limit: Some(limit),
                used,
                offered,
            } => {
                let over = limit.iter().find(|part| {
                    let name = &part.identity.name;
                    let most = part.value.scalar_milli();
                    sum(used, offered, name) > most
                });
                findings.require(over.is_none(), [at], || {
                    format!("role {role} may hold {limit}, uses {used} and is offered {offered}")
                });
            }
            OfferFact::Made { offer, agent, .. } => {
                let by_a_leader = event.process.as_str().starts_with("master-");
                let apart_ns = if by_a_leader { 0 } else { MAX_DELAY_NS };
                let leader = leaders.get(&offer.epoch).map_or("", |name| name.as_str());
                let time_ns = made[offer];
                let known = modes.get(agent).map_or(&[][..], Vec::as_slice);
                let before =
                    known.partition_point(|(seen, _)| history.events[*seen].time_ns <= time_ns);
                let Some((seen, mode)) = before.checked_sub(1).map(|last| known[last]) else {
                    continue;
                };
                // A leader that was replaced and does not know it lacks what the next epoch has
                // committed. Its offers are invalid.
                let next = epoch_records
                    .range((Excluded(offer.epoch), Unbounded))
                    .next();
                let revision = history.events[seen].revision;
                if next.is_some_and(|next| revision.is_some_and(|seen| seen.index >= next.0)) {
                    continue;
                }
                let process = event.process.as_str();
                let way_ns = |from_ns: u64, until_ns: u64| {
                    (until_ns - from_ns) - delays.delay_ns(&(from_ns..until_ns), leader, process)
                };
                let since_ns = way_ns(history.events[seen].time_ns, time_ns);
                // The leader may have registered the agent before the record of it.
                let end_ns = ends.first_after(leader, time_ns);
                let soon = known[before..].iter().any(|(seen, mode)| {
                    let recorded_ns = recorded_ns(&history.events[*seen], next.copied(), end_ns);
                    *mode == AgentMode::Registered && way_ns(time_ns, recorded_ns) <= MAX_DELAY_NS
                });
                let is_in_use = mode == AgentMode::Registered || since_ns < apart_ns || soon;
                findings.require(is_in_use, [seen, at], || {
                    format!("offer {offer} is of {agent}, which is {mode:?}")
                });
            }
            _ => {}
        }
    }
    findings
}

/// Returns when an entry was recorded, or when its leader ended: what a leader has committed just
/// before is recorded when another one leads, in the epoch `next`.
fn recorded_ns(entry: &HistoryEvent, next: Option<Epoch>, end_ns: Option<u64>) -> u64 {
    let is_before = |index: u64| next.is_none_or(|next| index < next.0);
    let is_own = entry.revision.is_some_and(|at| is_before(at.index));
    let end_ns = end_ns.filter(|_| is_own);
    end_ns.map_or(entry.time_ns, |end_ns| entry.time_ns.min(end_ns))
}

/// When each process ended without a stop, in order.
struct ProcessEnds<'a>(BTreeMap<&'a str, Vec<u64>>);

impl<'a> ProcessEnds<'a> {
    fn of(history: &'a History) -> Self {
        let mut ends: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
        for (_, event, fault) in history.faults() {
            if matches!(fault.kind, FaultKind::Crash | FaultKind::PowerCut) {
                ends.entry(fault.target.as_str())
                    .or_default()
                    .push(event.time_ns);
            }
        }
        Self(ends)
    }

    fn first_after(&self, process: &str, time_ns: u64) -> Option<u64> {
        let ends = self.0.get(process)?;
        ends.iter().copied().find(|end_ns| *end_ns >= time_ns)
    }
}

fn sum(used: &Resources, offered: &Resources, name: &str) -> i64 {
    used.scalar_milli(name) + offered.scalar_milli(name)
}

/// Returns all recorded epochs. Each is the index of its first entry.
fn epochs(history: &History) -> BTreeSet<Epoch> {
    let obeyed = of_agents(history).filter_map(|(_, _, fact)| match fact {
        AgentFact::EpochStored { epoch, .. } | AgentFact::OrderTaken { epoch, .. } => Some(*epoch),
        _ => None,
    });
    let offered = of_offers(history).filter_map(|(_, _, fact)| match fact {
        OfferFact::Made { offer, .. } => Some(offer.epoch),
        _ => None,
    });
    let opened = of_masters(history).filter_map(|(_, _, fact)| match fact {
        RaftFact::EpochOpened { epoch, .. } => Some(*epoch),
        _ => None,
    });
    obeyed.chain(offered).chain(opened).collect()
}

/// Returns the process of the leader of each epoch.
fn leaders(history: &History) -> BTreeMap<Epoch, &ProcessName> {
    let mut elected = BTreeMap::new();
    let mut leaders = BTreeMap::new();
    for (_, event, fact) in of_masters(history) {
        match fact {
            RaftFact::Led { term, .. } => {
                elected.insert(*term, &event.process);
            }
            RaftFact::EpochOpened { epoch, term, .. } => {
                if let Some(process) = elected.get(term) {
                    leaders.insert(*epoch, *process);
                }
            }
            _ => {}
        }
    }
    leaders
}

/// Returns the latest time at which each offer was made. Offers of an epoch are numbered in order,
/// so none is younger than a recorded one with a higher number. A stalled link delivers an offer
/// long after it was made.
fn made(history: &History) -> BTreeMap<OfferId, u64> {
    let mut made: BTreeMap<OfferId, u64> = BTreeMap::new();
    for (_, event, fact) in of_offers(history) {
        if let OfferFact::Made { offer, .. } = fact {
            let first = made.entry(*offer).or_insert(event.time_ns);
            *first = event.time_ns.min(*first);
        }
    }
    let mut later: Option<(OfferId, u64)> = None;
    for (offer, time_ns) in made.iter_mut().rev() {
        if let Some((other, earliest_ns)) = later
            && other.epoch == offer.epoch
        {
            *time_ns = earliest_ns.min(*time_ns);
        }
        later = Some((*offer, *time_ns));
    }
    made
}

/// Returns the modes of every agent, in the order in which they were first recorded.
fn modes(history: &History) -> BTreeMap<AgentId, Vec<(usize, AgentMode)>> {
    let mut modes: BTreeMap<AgentId, Vec<(usize, AgentMode)>> = BTreeMap::new();
    let mut newest = BTreeMap::new();
    for (at, event, fact) in of_agents(history) {
        if let AgentFact::Mode { agent, mode } = fact {
            // A master that applies the entry later adds no information.
            let known = newest.entry(*agent).or_insert(None);
            if event.revision.is_some() && event.revision <= *known {
                continue;
            }
            *known = event.revision;
            modes.entry(*agent).or_default().push((at, *mode));
        }
    }
    modes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::fixture::{
        AGENT, HistoryBuilder, NODE_1, assert_clean, assert_nothing_compared, assert_violation,
        offer, resources,
    };
    use argosy_state::ids::Role;

    fn mode(mode: AgentMode) -> AgentFact {
        AgentFact::Mode { agent: AGENT, mode }
    }

    #[test]
    fn offers_of_agents_without_recorded_modes_are_skipped() {
        assert_nothing_compared(check, HistoryBuilder::new().offer_made(offer(12, 1)));
    }

    fn account(offered: &str) -> HistoryBuilder {
        let seen = OfferFact::RoleAccount {
            role: Role::new("batch").unwrap(),
            limit: Some(resources("cpus:4")),
            used: resources("cpus:3;mem:9000"),
            offered: resources(offered),
        };
        HistoryBuilder::new().observe("master-1", seen)
    }

    #[test]
    fn usage_within_the_limit_passes() {
        assert_clean(check, account("cpus:1;mem:1000"));
    }

    #[test]
    fn usage_above_the_limit_is_reported() {
        assert_violation(check, account("cpus:1.001"), "role batch may hold");
    }

    #[test]
    fn an_unreachable_agent_is_not_offered() {
        let lost = HistoryBuilder::new()
            .observe_at("master-1", 8, mode(AgentMode::Registered))
            .observe_at("master-1", 9, mode(AgentMode::Unreachable))
            .observe_at("master-2", 8, mode(AgentMode::Registered));
        assert_clean(
            check,
            HistoryBuilder::new()
                .observe_at("master-1", 8, mode(AgentMode::Registered))
                .offer_made(offer(12, 1)),
        );
        assert_clean(check, lost.clone().offer_made(offer(12, 1)));
        assert_clean(check, lost.clone().after_ms(290).offer_made(offer(12, 1)));
        let late = lost.after_ms(310).offer_made(offer(12, 1));
        assert_violation(
            check,
            late.after_ms(2000).observe("x", mode(AgentMode::Gone)),
            "which is Unreachable",
        );
    }

    #[test]
    fn an_offer_may_be_late_by_the_delay_of_its_link() {
        let led = RaftFact::Led {
            node: NODE_1,
            term: 2,
            last_index: 11,
        };
        let opened = RaftFact::EpochOpened {
            node: NODE_1,
            epoch: Epoch(12),
            term: 2,
            life: 7,
        };
        let late = |target, held_ms| {
            HistoryBuilder::new()
                .observe("master-1", led.clone())
                .observe("log", opened.clone())
                .observe_at("log", 18, mode(AgentMode::Registered))
                .fault(FaultKind::Delay, target)
                .observe_at("log", 19, mode(AgentMode::Deactivated))
                .after_ms(held_ms)
                .fault(FaultKind::Heal, target)
                .after_ms(250)
                .offer_made(offer(12, 1))
        };
        // The last two are on the way if master 2 forwards the offer.
        for target in ["greedy>master-1", "greedy>master-2", "master-1>master-2"] {
            assert_clean(check, late(target, 2_000));
        }
        for target in ["master-2>master-3", "other>master-1"] {
            assert_clean(check, late(target, 10));
            assert_violation(check, late(target, 2_000), "which is Deactivated");
        }
        let later = late("greedy>master-1", 10).after_ms(100);
        assert_violation(
            check,
            later.offer_made(offer(12, 2)),
            "which is Deactivated",
        );
    }

    #[test]
    fn an_agent_may_be_offered_shortly_before_its_return_is_recorded() {
        let idle = HistoryBuilder::new()
            .observe_at("log", 8, mode(AgentMode::Unreachable))
            .after_ms(500)
            .offer_made(offer(12, 1));
        let used =
            |builder: HistoryBuilder| builder.observe_at("log", 19, mode(AgentMode::Registered));
        assert_clean(check, used(idle.clone().after_ms(290)));
        assert_violation(
            check,
            used(idle.clone().after_ms(310)),
            "which is Unreachable",
        );
        // It has returned, and an operator has activated it.
        let returned = idle.observe_at("log", 18, mode(AgentMode::Deactivated));
        assert_clean(check, used(returned.clone().after_ms(290)));
        assert_violation(check, used(returned.after_ms(310)), "which is Unreachable");
    }

    #[test]
    fn what_a_leader_committed_before_its_end_is_recorded_when_another_one_leads() {
        let led = RaftFact::Led {
            node: NODE_1,
            term: 2,
            last_index: 11,
        };
        let opened = RaftFact::EpochOpened {
            node: NODE_1,
            epoch: Epoch(12),
            term: 2,
            life: 7,
        };
        let recorded = |end_after_ms, next_epoch| {
            let (agent, epoch) = (AGENT, Epoch(next_epoch));
            HistoryBuilder::new()
                .observe("master-1", led.clone())
                .observe("log", opened.clone())
                .observe_at("log", 18, mode(AgentMode::Deactivated))
                .after_ms(500)
                .offer_made(offer(12, 1))
                .after_ms(end_after_ms)
                .fault(FaultKind::PowerCut, "master-1")
                .after_ms(700)
                .observe_at("log", 19, mode(AgentMode::Registered))
                .observe("agent-5", AgentFact::EpochStored { agent, epoch })
        };
        assert_clean(check, recorded(50, 20));
        // The next leader has registered the agent, or this one has not for long.
        for (end_after_ms, next_epoch) in [(50, 19), (310, 20)] {
            let wrong = recorded(end_after_ms, next_epoch);
            assert_violation(check, wrong, "which is Deactivated");
        }
    }

    #[test]
    fn a_leader_that_was_replaced_offers_what_the_next_one_has_given_up() {
        let lost = HistoryBuilder::new()
            .observe_at("master-1", 8, mode(AgentMode::Registered))
            .observe_at("master-1", 19, mode(AgentMode::Unreachable))
            .after_ms(3_500);
        let next = |builder: HistoryBuilder, epoch| {
            let agent = AGENT;
            let epoch = Epoch(epoch);
            builder.observe("agent-5", AgentFact::EpochStored { agent, epoch })
        };
        let replaced = next(lost.clone(), 15).offer_made(offer(12, 1));
        assert_eq!(check(&replaced.history()).violations, []);
        for wrong in [
            next(lost.clone(), 20).offer_made(offer(12, 1)),
            next(lost, 15).offer_made(offer(15, 1)),
        ] {
            assert_violation(check, wrong, "which is Unreachable");
        }
    }

    #[test]
    fn an_offer_that_a_slow_link_delivers_late_was_made_before_the_next_one() {
        let builder = HistoryBuilder::new()
            .observe_at("master-1", 8, mode(AgentMode::Registered))
            .offer_made(offer(12, 2))
            .after_ms(500)
            .observe_at("master-1", 9, mode(AgentMode::Deactivated))
            .after_ms(3_000);
        assert_clean(check, builder.clone().offer_made(offer(12, 1)));
        assert_violation(
            check,
            builder.clone().offer_made(offer(12, 3)),
            "which is Deactivated",
        );
        assert_violation(
            check,
            builder.offer_made(offer(11, 1)),
            "which is Deactivated",
        );
    }
}
