//! The result of a checker: how much it compared, what is wrong, and what it could not decide.

use serde::{Deserialize, Serialize};

use super::Rule;

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
