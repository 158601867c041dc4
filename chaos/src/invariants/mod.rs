//! The invariants that hold under every sequence of faults. Each file checks one rule with a pure
//! function from a history to its findings.
//!
//! A checker ignores requests that were not carried out, checks nothing that the history does not
//! record, and counts its comparisons. A checker without comparisons has proved nothing, which
//! `InvariantReport` states.

mod access;
mod acknowledged;
mod adoption;
mod agreement;
mod amnesia;
mod at_most_once;
mod change_feed;
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
mod report;
mod returns;
mod rule;
mod single_start;
mod stale_leader_fencing;
mod state_machine_safety;
mod task_survival;
mod transitions;
mod updates;

#[cfg(test)]
mod fixture;

pub(crate) use access::DENIED;
pub use findings::{Findings, Violation};
pub use report::{Evidence, InvariantReport, Minimum, RuleResult, check_history};
pub use rule::Comparisons;

use crate::history::History;
use rule::rules;

/// The checker of a rule. It is pure, and the same for every run.
pub type Checker = fn(&History) -> Findings;

// A row is a rule: its name, the code by which earlier ledgers name it, and the module that checks
// it. The module is `live` if the simulation of the whole system checks the rule while it runs, and
// `processes` if only the harness of real processes does, by an operator of its own.
// Then follow the minimum numbers of comparisons in a hundred seeds of each simulation, and the
// sentence that must hold. A minimum is at most a tenth of the average, so that a batch fails when
// a workload, a fault or a recorder stops, not because of one unusual seed. A rule without a
// minimum compares nothing in that simulation, or cannot fail there: that of Raft alone checks
// Durability while it runs, and wipes no disk, for Amnesia.
rules! {
    ElectionSafety "R1" => election_safety, raft 1_200, system 100, graphs 100:
        "at most one leader in a term; terms, votes and commits never go back";
    LogMatching "R2" => log_matching, raft 7_000:
        "logs agree up to the commit index, and every later leader has all committed entries";
    Durability "R3" => durability:
        "entries that are reported as committed are on the synced logs of a quorum";
    StateMachineSafety "R4" => state_machine_safety, raft 300, system 2_500, graphs 5_000:
        "the same applied index means the same registry";
    Linearizability "R5" => linearizability, raft 4_500, system 4_500, graphs 9_000:
        "operations on the registry are linearizable";
    AcknowledgedWrites "R6" => acknowledged, system 90:
        "acknowledged writes and tasks survive";
    AtMostOnce "R7" => at_most_once, system 2_000, graphs 1_500:
        "each call takes effect at most once";
    Amnesia "R8" => amnesia, system 200:
        "a master that lost its log or vote never votes under its old id";
    Liveness "R9" => liveness, system 10:
        "with a majority connected, commits continue in time";
    ResourceConservation "O1" => conservation, system 8_000, graphs 11_000:
        "free, offered and used resources add up to the total";
    NoDoubleBooking "O2" => no_double_booking, system 500, graphs 300:
        "no unit is allocated twice";
    OfferSingleUse "O3" => offer_single_use, system 1_500, graphs 1_000:
        "an offer is used once, by the framework that received it, and not after it was rescinded";
    OfferLimits "O4" => limits, system 4_000, graphs 2_500:
        "offers respect limits and agent modes";
    Fairness "O5" => fairness, system 800:
        "frameworks with demand get offers, and no resources leak";
    SingleStart "T1" => single_start, system 500, graphs 300:
        "a task starts at most once";
    StateTransitions "T2" => transitions, system 5_000, graphs 3_500:
        "states follow the table, and nothing follows an end";
    UpdateDelivery "T3" => updates, system 4_500, graphs 2_000:
        "no update is lost, or delivered out of order";
    Agreement "T4" => agreement, system 300:
        "the registry and the hosts agree about the running tasks";
    LaunchProvenance "T5" => launch_provenance, system 2_000, graphs 1_500:
        "every task was requested, on offers of its framework";
    Kills "T6" => kills, system 900, graphs 400:
        "tasks that are reported as ended, or as never started, do not run";
    TaskSurvival "T7" => task_survival, system 80:
        "tasks continue to run, whatever happens around them";
    Adoption "T8" => adoption, system 1_000:
        "a restarted agent adopts its own tasks, and reports their actual end";
    Reboots "T9" => reboots, system 30:
        "a reboot ends tasks once, and no earlier task is adopted";
    AgentReturns "T10" => returns, system 80, graphs 30:
        "gone tasks never run again, and lost ones return only with their agent";
    GroupAtomicity "T11" => live:
        "tasks of a group start together or not at all, and end together";
    ExecutorLifetime "T12" => live:
        "an executor runs once under its name, and only while it has tasks";
    EpochMonotonicity "F1" => epochs, system 600, graphs 400:
        "an agent never acts for an epoch below the highest that it stored";
    StaleLeaderFencing "F2" => stale_leader_fencing, system 1_500, graphs 1_000:
        "nothing starts without a commit";
    UniqueIdentity "F3" => identities, system 900, graphs 500:
        "one identity has one holder";
    ChangeFeed => change_feed, system 2_000:
        "a reader of the change feed misses no change of a task, and none comes again";
    AccessEnforcement => access, system 2_000:
        "no call uses a right after it was taken, and none is refused that has its right";
    LimitEnforcement "L1" => live:
        "limits that are reported as in force are in force";
    ExecSession => processes:
        "a command that succeeds has run in the named task";
    OutputContinuity => processes:
        "a followed output lacks nothing, and the whole output has everything that was seen";
    PublishedPorts => processes:
        "the port that a task publishes leads to this task";
    BoundedGrowth => processes:
        "what the members of a cluster use does not grow without end";
    NoLeftovers "C1" => leftovers:
        "nothing is left behind";
}

/// Returns every rule that is checked against histories, with its checker.
pub fn checkers() -> impl Iterator<Item = (Rule, Checker)> {
    let all = Rule::ALL.iter();
    all.filter_map(|rule| Some((*rule, rule.checker()?)))
}

/// Returns the rule that a text such as "TaskSurvival: …" begins with.
#[must_use]
pub fn rule_named(words: &str) -> Option<Rule> {
    let (name, _) = words.split_once(": ")?;
    let mut rules = Rule::ALL.iter().copied();
    rules.find(|rule| rule.to_string() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_of_fault_testing_lists_every_rule() {
        let page = include_str!("../../../docs/chaos.md");
        let row = |rule: &&Rule| page.contains(&format!("\n| `{rule}` |"));
        let missing: Vec<_> = Rule::ALL.iter().filter(|rule| !row(rule)).collect();
        assert_eq!(missing, [&Rule::ElectionSafety; 0]);
    }
}
