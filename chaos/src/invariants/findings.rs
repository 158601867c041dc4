//! What a checker has found: how much it looked at, what is wrong, what it could not decide.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One rule that must hold under every sequence of faults.
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
    /// What must hold.
    #[must_use]
    pub fn sentence(self) -> &'static str {
        match self {
            Self::R1 => "at most one leader a term; terms, votes and commits never go back",
            Self::R2 => "logs agree up to commit, and every later leader has what was committed",
            Self::R3 => "what is told committed is on the synced logs of a quorum",
            Self::R4 => "the same applied index means the same registry",
            Self::R5 => "operations on the registry are linearizable",
            Self::R6 => "what was acknowledged survives",
            Self::R7 => "each call takes effect at most once",
            Self::R8 => "a master that lost its log or vote never votes under its old id",
            Self::R9 => "with a majority connected, commits go on in time",
            Self::O1 => "what is free, offered and used is all there is",
            Self::O2 => "no unit is given twice",
            Self::O3 => "an offer is used once, by whom it was made to, and not after it is void",
            Self::O4 => "limits and modes are kept by offers",
            Self::O5 => "who wants resources is offered them, and none leak",
            Self::T1 => "a task starts at most once",
            Self::T2 => "states follow the table, and nothing follows an end",
            Self::T3 => "no update is lost, or told out of order",
            Self::T4 => "the registry and the hosts agree about what runs",
            Self::T5 => "every task was asked for, on offers of its framework",
            Self::T6 => "what is told ended, or never started, does not run",
            Self::T7 => "tasks run on, whatever happens around them",
            Self::T8 => "a restarted agent adopts its own tasks, and tells their true end",
            Self::T9 => "a reboot ends tasks once, and nothing of it is adopted",
            Self::T10 => "what is gone never runs again, and what was lost comes back by name",
            Self::T11 => "tasks of a group start together or not at all, and end together",
            Self::T12 => "an executor runs once under its name, and only while it has tasks",
            Self::F1 => "an agent never acts for a reign below the highest that it stored",
            Self::F2 => "nothing starts that was not committed",
            Self::F3 => "one identity has one holder",
            Self::L1 => "limits that are said to be in force are in force",
            Self::C1 => "nothing is left behind",
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A rule that did not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// Which.
    pub rule: Rule,
    /// What happened, in a sentence.
    pub what: String,
    /// Positions in the history of the events that show it.
    pub events: Vec<usize>,
}

/// What one checker has found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Findings {
    /// How many things it has compared: nothing looked at shows nothing.
    pub looked_at: u64,
    /// What did not hold, and the events that show it.
    pub wrong: Vec<(String, Vec<usize>)>,
    /// What could not be decided in time: neither a pass nor a failure.
    pub undecided: Vec<String>,
}

impl Findings {
    /// One more thing was compared.
    pub(super) fn look(&mut self) {
        self.looked_at += 1;
    }

    /// Something is wrong.
    pub(super) fn wrong(&mut self, what: String, events: impl Into<Vec<usize>>) {
        self.wrong.push((what, events.into()));
    }

    /// One more thing was compared, and it must hold.
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
