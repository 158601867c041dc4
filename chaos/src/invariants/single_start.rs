//! SingleStart: a task starts at most once in the cluster, according to the witness lines of the
//! tasks.

use std::collections::BTreeMap;

use argosy_state::ids::TaskKey;

use super::Findings;
use super::facts::of_tasks;
use crate::history::{History, TaskFact};

pub(super) fn check(history: &History) -> Findings {
    let mut findings = Findings::default();
    let mut nonces: BTreeMap<&TaskKey, (usize, &str)> = BTreeMap::new();
    for (at, _, fact) in of_tasks(history) {
        if let TaskFact::Witnessed { task, start } = fact {
            let (first, nonce) = *nonces.entry(task).or_insert((at, &start.nonce));
            findings.require(nonce == start.nonce, [first, at], || {
                format!(
                    "{task} has started twice (nonces {nonce} and {})",
                    start.nonce
                )
            });
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::fixture::{HistoryBuilder, assert_clean, assert_violation};

    #[test]
    fn one_start_read_twice_passes() {
        let builder = HistoryBuilder::new()
            .witnessed("web", "a")
            .witnessed("db", "b");
        assert_clean(check, builder.witnessed("web", "a"));
    }

    #[test]
    fn two_starts_are_reported() {
        let builder = HistoryBuilder::new()
            .witnessed("web", "a")
            .witnessed("web", "b");
        assert_violation(check, builder, "framework-3/web has started twice");
    }
}
