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
pub use verdict::{Evidence, Judged, Minimum, Verdict, judge};

use crate::history::History;

/// The checker of a rule. It is pure, and the same for every run.
pub type Checker = fn(&History) -> Findings;

/// Every rule that is checked against histories, with its checker.
pub const CHECKERS: [(Rule, Checker); 28] = [
    (Rule::R1, election_safety::check),
    (Rule::R2, log_matching::check),
    (Rule::R3, durability::check),
    (Rule::R4, state_machine_safety::check),
    (Rule::R5, linearizability::check),
    (Rule::R6, acknowledged::check),
    (Rule::R7, at_most_once::check),
    (Rule::R8, amnesia::check),
    (Rule::R9, liveness::check),
    (Rule::O1, conservation::check),
    (Rule::O2, no_double_booking::check),
    (Rule::O3, offer_single_use::check),
    (Rule::O4, limits::check),
    (Rule::O5, fairness::check),
    (Rule::T1, single_start::check),
    (Rule::T2, transitions::check),
    (Rule::T3, updates::check),
    (Rule::T4, agreement::check),
    (Rule::T5, launch_provenance::check),
    (Rule::T6, kills::check),
    (Rule::T7, task_survival::check),
    (Rule::T8, adoption::check),
    (Rule::T9, reboots::check),
    (Rule::T10, returns::check),
    (Rule::F1, epochs::check),
    (Rule::F2, stale_leader_fencing::check),
    (Rule::F3, identities::check),
    (Rule::C1, leftovers::check),
];

/// Rules that the simulation of the whole system checks while it runs. They are not checked against
/// histories.
pub const LIVE: [Rule; 3] = [Rule::T11, Rule::T12, Rule::L1];

/// Returns the rule that a text such as "T7: …" begins with.
#[must_use]
pub fn rule_named(words: &str) -> Option<Rule> {
    let (name, _) = words.split_once(": ")?;
    let mut rules = CHECKERS.iter().map(|(rule, _)| *rule).chain(LIVE);
    rules.find(|rule| rule.to_string() == name)
}
