//! The result of a checker: how much it compared, what is wrong, and what it could not decide.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A rule that must hold under every sequence of faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each says itself in its sentence")]
pub enum Rule {
    #[serde(alias = "R1")]
    ElectionSafety,
    #[serde(alias = "R2")]
    LogMatching,
    #[serde(alias = "R3")]
    Durability,
    #[serde(alias = "R4")]
    StateMachineSafety,
    #[serde(alias = "R5")]
    Linearizability,
    #[serde(alias = "R6")]
    AcknowledgedWrites,
    #[serde(alias = "R7")]
    AtMostOnce,
    #[serde(alias = "R8")]
    Amnesia,
    #[serde(alias = "R9")]
    Liveness,
    #[serde(alias = "O1")]
    ResourceConservation,
    #[serde(alias = "O2")]
    NoDoubleBooking,
    #[serde(alias = "O3")]
    OfferSingleUse,
    #[serde(alias = "O4")]
    OfferLimits,
    #[serde(alias = "O5")]
    Fairness,
    #[serde(alias = "T1")]
    SingleStart,
    #[serde(alias = "T2")]
    StateTransitions,
    #[serde(alias = "T3")]
    UpdateDelivery,
    #[serde(alias = "T4")]
    Agreement,
    #[serde(alias = "T5")]
    LaunchProvenance,
    #[serde(alias = "T6")]
    Kills,
    #[serde(alias = "T7")]
    TaskSurvival,
    #[serde(alias = "T8")]
    Adoption,
    #[serde(alias = "T9")]
    Reboots,
    #[serde(alias = "T10")]
    AgentReturns,
    #[serde(alias = "T11")]
    GroupAtomicity,
    #[serde(alias = "T12")]
    ExecutorLifetime,
    #[serde(alias = "F1")]
    EpochMonotonicity,
    #[serde(alias = "F2")]
    StaleLeaderFencing,
    #[serde(alias = "F3")]
    UniqueIdentity,
    #[serde(alias = "L1")]
    LimitEnforcement,
    #[serde(alias = "C1")]
    NoLeftovers,
}

impl Rule {
    /// Returns the rule in words.
    #[must_use]
    pub fn description(self) -> &'static str {
        match self {
            Self::ElectionSafety => {
                "at most one leader in a term; terms, votes and commits never go back"
            }
            Self::LogMatching => {
                "logs agree up to the commit index, and every later leader has all committed entries"
            }
            Self::Durability => {
                "entries that are reported as committed are on the synced logs of a quorum"
            }
            Self::StateMachineSafety => "the same applied index means the same registry",
            Self::Linearizability => "operations on the registry are linearizable",
            Self::AcknowledgedWrites => "acknowledged writes and tasks survive",
            Self::AtMostOnce => "each call takes effect at most once",
            Self::Amnesia => "a master that lost its log or vote never votes under its old id",
            Self::Liveness => "with a majority connected, commits continue in time",
            Self::ResourceConservation => "free, offered and used resources add up to the total",
            Self::NoDoubleBooking => "no unit is allocated twice",
            Self::OfferSingleUse => {
                "an offer is used once, by the framework that received it, and not after it was rescinded"
            }
            Self::OfferLimits => "offers respect limits and agent modes",
            Self::Fairness => "frameworks with demand get offers, and no resources leak",
            Self::SingleStart => "a task starts at most once",
            Self::StateTransitions => "states follow the table, and nothing follows an end",
            Self::UpdateDelivery => "no update is lost, or delivered out of order",
            Self::Agreement => "the registry and the hosts agree about the running tasks",
            Self::LaunchProvenance => "every task was requested, on offers of its framework",
            Self::Kills => "tasks that are reported as ended, or as never started, do not run",
            Self::TaskSurvival => "tasks continue to run, whatever happens around them",
            Self::Adoption => {
                "a restarted agent adopts its own tasks, and reports their actual end"
            }
            Self::Reboots => "a reboot ends tasks once, and no earlier task is adopted",
            Self::AgentReturns => {
                "gone tasks never run again, and lost ones return only with their agent"
            }
            Self::GroupAtomicity => {
                "tasks of a group start together or not at all, and end together"
            }
            Self::ExecutorLifetime => {
                "an executor runs once under its name, and only while it has tasks"
            }
            Self::EpochMonotonicity => {
                "an agent never acts for an epoch below the highest that it stored"
            }
            Self::StaleLeaderFencing => "nothing starts without a commit",
            Self::UniqueIdentity => "one identity has one holder",
            Self::LimitEnforcement => "limits that are reported as in force are in force",
            Self::NoLeftovers => "nothing is left behind",
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A violation of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    pub rule: Rule,
    /// A description of the violation.
    pub what: String,
    /// Positions in the history of the events that show it.
    pub events: Vec<usize>,
}

/// The result of one checker.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Findings {
    /// The number of comparisons. Zero proves nothing.
    pub compared: u64,
    /// The violations, and the events that show them.
    pub violations: Vec<(String, Vec<usize>)>,
    /// The checks that were not decided in time: neither a pass nor a failure.
    pub undecided: Vec<String>,
}

impl Findings {
    pub(super) fn count_comparison(&mut self) {
        self.compared += 1;
    }

    /// Adds a violation.
    pub(super) fn violation(&mut self, what: String, events: impl Into<Vec<usize>>) {
        self.violations.push((what, events.into()));
    }

    /// Counts one comparison, and adds a violation unless `holds` is true.
    pub(super) fn require<const N: usize>(
        &mut self,
        holds: bool,
        events: [usize; N],
        what: impl FnOnce() -> String,
    ) {
        self.count_comparison();
        if !holds {
            self.violation(what(), events);
        }
    }
}
