//! The report on a whole history: the findings of all checkers, and how much they compared.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Findings, Rule, Violation, checkers};
use crate::history::{EventKind, Expectation, FaultKind, History, Observation, RaftFact};

/// The findings of one checker, in numbers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RuleResult {
    /// The number of comparisons. Zero proves nothing.
    pub looked_at: u64,
    /// The number of comparisons that failed.
    pub violations: u64,
    /// The checks that it could not decide in time.
    pub undecided: Vec<String>,
}

/// Evidence of activity, without which a run without violations proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Evidence {
    /// Operations that ended as `ok` or were definitely rejected.
    pub operations: u64,
    /// Operations with unknown outcome.
    pub unknown: u64,
    /// Faults by kind, without repairs.
    pub faults: BTreeMap<FaultKind, u64>,
    /// Epochs that began, less the first.
    pub leader_changes: u64,
    /// Expectations that were stated.
    pub expectations: u64,
}

/// The report on a history, or on all histories of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct InvariantReport {
    /// The findings by rule.
    pub rules: BTreeMap<Rule, RuleResult>,
    pub violations: Vec<Violation>,
    /// Evidence of activity.
    pub evidence: Evidence,
}

/// The minimum evidence, below which a run proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Minimum {
    /// Operations of known outcome.
    pub operations: u64,
    /// Faults of all kinds.
    pub faults: u64,
    pub fault_kinds: usize,
    pub leader_changes: u64,
    /// The minimum number of comparisons of each of these rules.
    pub rules: BTreeMap<Rule, u64>,
}

impl InvariantReport {
    /// Whether no rule was violated. This does not mean that anything was compared.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.violations.is_empty()
    }

    /// Returns the rules whose checkers compared nothing.
    #[must_use]
    pub fn uncompared(&self) -> Vec<Rule> {
        let silent = self
            .rules
            .iter()
            .filter(|(_, result)| result.looked_at == 0);
        silent.map(|(rule, _)| *rule).collect()
    }

    /// Adds the report on another history of the same batch.
    pub fn add(&mut self, other: Self) {
        let Self {
            rules,
            violations,
            evidence,
        } = other;
        for (rule, result) in rules {
            let sum = self.rules.entry(rule).or_default();
            sum.looked_at += result.looked_at;
            sum.violations += result.violations;
            sum.undecided.extend(result.undecided);
        }
        self.violations.extend(violations);
        self.evidence.add(evidence);
    }

    /// Returns a message for each check that was not decided within its budget.
    fn undecided(&self) -> impl Iterator<Item = String> {
        self.rules.iter().flat_map(|(rule, result)| {
            let undecided = result.undecided.iter();
            undecided.map(move |what| format!("{rule} did not decide {what} within its budget"))
        })
    }

    /// Returns a message for each part of the minimum that was not reached, and for each undecided
    /// check. The list is empty if the run proves enough.
    #[must_use]
    pub fn shortfalls(&self, minimum: &Minimum) -> Vec<String> {
        let Evidence {
            operations,
            faults,
            leader_changes,
            ..
        } = &self.evidence;
        let numbers = [
            ("operations of known end", *operations, minimum.operations),
            ("faults", faults.values().sum(), minimum.faults),
            (
                "kinds of faults",
                faults.len() as u64,
                minimum.fault_kinds as u64,
            ),
            ("changes of leader", *leader_changes, minimum.leader_changes),
        ];
        let few = numbers.into_iter().filter(|(_, is, least)| is < least);
        let few =
            few.map(|(what, is, least)| format!("{is} {what}; at least {least} show something"));
        let looked_at = |rule| self.rules.get(rule).map_or(0, |result| result.looked_at);
        let rules = minimum.rules.iter();
        let unseen = rules.filter(|(rule, least)| looked_at(rule) < **least);
        let unseen = unseen.map(|(rule, least)| {
            let (is, must) = (looked_at(rule), rule.description());
            format!("{rule} compared {is} things, of at least {least}: {must}")
        });
        few.chain(unseen).chain(self.undecided()).collect()
    }
}

impl Evidence {
    fn add(&mut self, other: Self) {
        let Self {
            operations,
            unknown,
            faults,
            leader_changes,
            expectations,
        } = other;
        self.operations += operations;
        self.unknown += unknown;
        for (kind, count) in faults {
            *self.faults.entry(kind).or_default() += count;
        }
        self.leader_changes += leader_changes;
        self.expectations += expectations;
    }
}

/// Runs every checker.
#[must_use]
pub fn check_history(history: &History) -> InvariantReport {
    let mut rules = BTreeMap::new();
    let mut violations = Vec::new();
    for (rule, check) in checkers() {
        let Findings {
            compared: looked_at,
            violations: wrong,
            undecided,
        } = check(history);
        let result = RuleResult {
            looked_at,
            violations: wrong.len() as u64,
            undecided,
        };
        rules.insert(rule, result);
        violations.extend(
            wrong
                .into_iter()
                .map(|(what, events)| Violation { rule, what, events }),
        );
    }
    InvariantReport {
        rules,
        violations,
        evidence: evidence(history),
    }
}

fn evidence(history: &History) -> Evidence {
    let mut evidence = Evidence::default();
    let mut epochs = std::collections::BTreeSet::new();
    for event in &history.events {
        match &event.what {
            EventKind::Invoke { .. } => {}
            EventKind::Ok { .. } | EventKind::Fail { .. } => evidence.operations += 1,
            EventKind::Info { .. } => evidence.unknown += 1,
            EventKind::Fault(fault) if fault.kind.is_repair() => {}
            EventKind::Fault(fault) => *evidence.faults.entry(fault.kind).or_default() += 1,
            EventKind::Observation(Observation::Raft(RaftFact::EpochOpened { epoch, .. })) => {
                epochs.insert(*epoch);
            }
            EventKind::Observation(Observation::Expect(
                Expectation::Commit { .. }
                | Expectation::NextLeader { .. }
                | Expectation::Offer { .. }
                | Expectation::Ends { .. }
                | Expectation::KeepsRunning { .. },
            )) => evidence.expectations += 1,
            EventKind::Observation(_) => {}
        }
    }
    evidence.leader_changes = (epochs.len() as u64).saturating_sub(1);
    evidence
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::fixture::{HistoryBuilder, NODE_1, offer};
    use argosy_state::ids::Epoch;

    #[test]
    fn a_report_lists_violations_and_rules_that_compared_nothing() {
        let builder = HistoryBuilder::new()
            .fault(FaultKind::Crash, "master-1")
            .accepted(1, offer(12, 1), "web")
            .witnessed("web", "a")
            .witnessed("web", "b");
        let report = check_history(&builder.history());
        assert_eq!(report.rules.len(), checkers().count());
        assert!(!report.is_clean());
        let [violation] = report.violations.as_slice() else {
            panic!("{:#?}", report.violations);
        };
        assert_eq!(
            (violation.rule, violation.events.as_slice()),
            (Rule::SingleStart, &[3, 4][..])
        );
        assert!(report.uncompared().contains(&Rule::ElectionSafety));
        assert!(!report.uncompared().contains(&Rule::SingleStart));
        assert_eq!(report.evidence.faults[&FaultKind::Crash], 1);
    }

    #[test]
    fn a_run_that_proves_too_little_lists_its_shortfalls() {
        let opened = |epoch| RaftFact::EpochOpened {
            node: NODE_1,
            epoch: Epoch(epoch),
            term: epoch,
            life: 1,
        };
        let builder = HistoryBuilder::new()
            .observe("master-1", opened(4))
            .observe("master-2", opened(4))
            .observe("master-1", opened(9))
            .fault(FaultKind::Crash, "master-1")
            .accepted(1, offer(12, 1), "web");
        let report = check_history(&builder.history());
        let reached = Minimum {
            operations: 1,
            faults: 1,
            fault_kinds: 1,
            leader_changes: 1,
            rules: BTreeMap::from([(Rule::ElectionSafety, 1), (Rule::OfferSingleUse, 1)]),
        };
        assert_eq!(report.shortfalls(&reached), Vec::<String>::new());
        let more = Minimum {
            operations: 2,
            leader_changes: 2,
            rules: BTreeMap::from([(Rule::Agreement, 1)]),
            ..reached
        };
        let missing = report.shortfalls(&more);
        assert_eq!(missing.len(), 3, "{missing:?}");
        let words = "Agreement compared 0 things, of at least 1: ";
        assert!(missing[2].starts_with(words), "{missing:?}");
    }

    #[test]
    fn undecided_checks_are_shortfalls() {
        let mut report = check_history(&History::default());
        assert_eq!(report.shortfalls(&Minimum::default()), [""; 0]);
        let registers = report.rules.get_mut(&Rule::Linearizability).unwrap();
        registers.undecided.push("agent-1/zone".to_owned());
        let missing = report.shortfalls(&Minimum::default());
        assert_eq!(
            missing,
            ["Linearizability did not decide agent-1/zone within its budget"]
        );
    }

    #[test]
    fn reports_of_a_batch_are_summed() {
        let builder = HistoryBuilder::new()
            .fault(FaultKind::Crash, "master-1")
            .accepted(1, offer(12, 1), "web")
            .witnessed("web", "a");
        let one = check_history(&builder.history());
        let mut sum = InvariantReport::default();
        for _ in 0..3 {
            sum.add(one.clone());
        }
        for (rule, result) in &one.rules {
            assert_eq!(sum.rules[rule].looked_at, 3 * result.looked_at, "{rule}");
        }
        assert_eq!(sum.evidence.operations, 3 * one.evidence.operations);
        assert_eq!(sum.evidence.faults[&FaultKind::Crash], 3);
    }

    #[test]
    fn repairs_do_not_count_as_faults() {
        let mut builder = HistoryBuilder::new().fault(FaultKind::Crash, "master-1");
        for kind in [
            FaultKind::Restart,
            FaultKind::Resume,
            FaultKind::Heal,
            FaultKind::DiskFreed,
            FaultKind::Buggify,
        ] {
            builder = builder.fault(kind, "master-1");
        }
        let evidence = check_history(&builder.history()).evidence;
        assert_eq!(evidence.faults, BTreeMap::from([(FaultKind::Crash, 1)]));
    }

    #[test]
    fn an_empty_history_is_clean_and_every_rule_is_a_shortfall() {
        let report = check_history(&History::default());
        assert!(report.is_clean());
        assert_eq!(report.uncompared().len(), checkers().count());
    }
}
