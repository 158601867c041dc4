//! The result of a checker: how much it compared, what is wrong, and what it could not decide.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A rule that must hold under every sequence of faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each says itself in its sentence")]
pub enum Rule {
    R1,
    R2,
    R3,
    R4,
    R5,
    R6,
    R7,
    R8,
    R9,
    O1,
    O2,
    O3,
    O4,
    O5,
    T1,
    T2,
    T3,
    T4,
    T5,
    T6,
    T7,
    T8,
    T9,
    T10,
    T11,
    T12,
    F1,
    F2,
    F3,
    L1,
    C1,
}

impl Rule {
    /// Returns the rule in words.
    #[must_use]
    pub fn sentence(self) -> &'static str {
        match self {
            Self::R1 => "at most one leader in a term; terms, votes and commits never go back",
            Self::R2 => {
                "logs agree up to the commit index, and every later leader has all committed entries"
            }
            Self::R3 => "entries that are reported as committed are on the synced logs of a quorum",
            Self::R4 => "the same applied index means the same registry",
            Self::R5 => "operations on the registry are linearizable",
            Self::R6 => "acknowledged writes and tasks survive",
            Self::R7 => "each call takes effect at most once",
            Self::R8 => "a master that lost its log or vote never votes under its old id",
            Self::R9 => "with a majority connected, commits continue in time",
            Self::O1 => "free, offered and used resources add up to the total",
            Self::O2 => "no unit is allocated twice",
            Self::O3 => {
                "an offer is used once, by the framework that received it, and not after it was rescinded"
            }
            Self::O4 => "offers respect limits and agent modes",
            Self::O5 => "frameworks with demand get offers, and no resources leak",
            Self::T1 => "a task starts at most once",
            Self::T2 => "states follow the table, and nothing follows an end",
            Self::T3 => "no update is lost, or delivered out of order",
            Self::T4 => "the registry and the hosts agree about the running tasks",
            Self::T5 => "every task was requested, on offers of its framework",
            Self::T6 => "tasks that are reported as ended, or as never started, do not run",
            Self::T7 => "tasks continue to run, whatever happens around them",
            Self::T8 => "a restarted agent adopts its own tasks, and reports their actual end",
            Self::T9 => "a reboot ends tasks once, and no earlier task is adopted",
            Self::T10 => "gone tasks never run again, and lost ones return only with their agent",
            Self::T11 => "tasks of a group start together or not at all, and end together",
            Self::T12 => "an executor runs once under its name, and only while it has tasks",
            Self::F1 => "an agent never acts for an epoch below the highest that it stored",
            Self::F2 => "nothing starts without a commit",
            Self::F3 => "one identity has one holder",
            Self::L1 => "limits that are reported as in force are in force",
            Self::C1 => "nothing is left behind",
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
    /// How many things it has compared. Zero proves nothing.
    pub looked_at: u64,
    /// The violations, and the events that show them.
    pub wrong: Vec<(String, Vec<usize>)>,
    /// The checks that were not decided in time: neither a pass nor a failure.
    pub undecided: Vec<String>,
}

impl Findings {
    /// Counts one comparison.
    pub(super) fn look(&mut self) {
        self.looked_at += 1;
    }

    /// Adds a violation.
    pub(super) fn wrong(&mut self, what: String, events: impl Into<Vec<usize>>) {
        self.wrong.push((what, events.into()));
    }

    /// Counts one comparison, and adds a violation unless `holds` is true.
    pub(super) fn must<const N: usize>(
        &mut self,
        holds: bool,
        events: [usize; N],
        what: impl FnOnce() -> String,
    ) {
        self.look();
        if !holds {
            self.wrong(what(), events);
        }
    }
}
