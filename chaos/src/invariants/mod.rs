//! The invariants that hold under every sequence of faults. Each file checks one rule with a pure
//! function from a history to its findings.
//!
//! A checker ignores requests that were not carried out, checks nothing that the history does not
//! record, and counts its comparisons. A checker without comparisons has proved nothing, which
//! `Verdict` reports.

mod acknowledged;
mod adoption;
mod agreement;
mod amnesia;
mod at_most_once;
mod conservation;
mod delays;
mod durability;
mod election_safety;
mod epochs;
mod facts;
mod fairness;
mod findings;
mod identities;
mod kills;
mod launch_provenance;
mod leftovers;
mod limits;
mod linearizability;
mod liveness;
mod log_matching;
mod no_double_booking;
mod offer_single_use;
mod reboots;
mod returns;
mod single_start;
mod stale_leader_fencing;
mod state_machine_safety;
mod task_survival;
mod transitions;
mod updates;
mod verdict;

#[cfg(test)]
mod fixture;

pub use findings::{Findings, Rule, Violation};
pub use verdict::{Evidence, InvariantReport, Minimum, RuleResult, check_history};

use crate::history::History;

/// The checker of a rule. It is pure, and the same for every run.
pub type Checker = fn(&History) -> Findings;

/// Every rule that is checked against histories, with its checker.
pub const CHECKERS: [(Rule, Checker); 28] = [
    (Rule::ElectionSafety, election_safety::check),
    (Rule::LogMatching, log_matching::check),
    (Rule::Durability, durability::check),
    (Rule::StateMachineSafety, state_machine_safety::check),
    (Rule::Linearizability, linearizability::check),
    (Rule::AcknowledgedWrites, acknowledged::check),
    (Rule::AtMostOnce, at_most_once::check),
    (Rule::Amnesia, amnesia::check),
    (Rule::Liveness, liveness::check),
    (Rule::ResourceConservation, conservation::check),
    (Rule::NoDoubleBooking, no_double_booking::check),
    (Rule::OfferSingleUse, offer_single_use::check),
    (Rule::OfferLimits, limits::check),
    (Rule::Fairness, fairness::check),
    (Rule::SingleStart, single_start::check),
    (Rule::StateTransitions, transitions::check),
    (Rule::UpdateDelivery, updates::check),
    (Rule::Agreement, agreement::check),
    (Rule::LaunchProvenance, launch_provenance::check),
    (Rule::Kills, kills::check),
    (Rule::TaskSurvival, task_survival::check),
    (Rule::Adoption, adoption::check),
    (Rule::Reboots, reboots::check),
    (Rule::AgentReturns, returns::check),
    (Rule::EpochMonotonicity, epochs::check),
    (Rule::StaleLeaderFencing, stale_leader_fencing::check),
    (Rule::UniqueIdentity, identities::check),
    (Rule::NoLeftovers, leftovers::check),
];

/// Rules that the simulation of the whole system checks while it runs. They are not checked against
/// histories.
pub const LIVE: [Rule; 3] = [
    Rule::GroupAtomicity,
    Rule::ExecutorLifetime,
    Rule::LimitEnforcement,
];

/// Returns the rule that a text such as "TaskSurvival: …" begins with.
#[must_use]
pub fn rule_named(words: &str) -> Option<Rule> {
    let (name, _) = words.split_once(": ")?;
    let mut rules = CHECKERS.iter().map(|(rule, _)| *rule).chain(LIVE);
    rules.find(|rule| rule.to_string() == name)
}
