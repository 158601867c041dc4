//! The judgement of a whole history: what every checker found, and how much it looked at.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{CHECKERS, Findings, Rule, Violation};
use crate::history::{Expectation, FaultKind, History, Observation, RaftFact, What};

/// What one checker found, in numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judged {
    /// How many things it compared: 0 shows nothing.
    pub looked_at: u64,
    /// How many did not hold.
    pub violations: u64,
    /// What it could not decide in time.
    pub undecided: Vec<String>,
}

/// What a run has to show before its silence means anything.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Evidence {
    /// Operations that ended ok or were definitely refused.
    pub operations: u64,
    /// Operations of unknown end.
    pub unknown: u64,
    /// Faults, by kind; repairs are none.
    pub faults: BTreeMap<FaultKind, u64>,
    /// Reigns that began, less the first.
    pub leader_changes: u64,
    /// Expectations that were stated.
    pub expectations: u64,
}

/// The judgement of a history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// By rule.
    pub rules: BTreeMap<Rule, Judged>,
    /// Everything that did not hold.
    pub violations: Vec<Violation>,
    /// What the run has to show.
    pub evidence: Evidence,
}

/// What a run must reach, or it proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Minimum {
    /// Operations of known end.
    pub operations: u64,
    /// Faults of all kinds.
    pub faults: u64,
    /// Kinds of faults.
    pub fault_kinds: usize,
    /// Changes of leader.
    pub leader_changes: u64,
    /// Rules that must have looked at something.
    pub rules: Vec<Rule>,
}

impl Verdict {
    /// Whether no rule was broken. Says nothing about whether anything was looked at.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.violations.is_empty()
    }

    /// Rules whose checkers found nothing to look at.
    #[must_use]
    pub fn silent(&self) -> Vec<Rule> {
        let silent = self
            .rules
            .iter()
            .filter(|(_, judged)| judged.looked_at == 0);
        silent.map(|(rule, _)| *rule).collect()
    }

    /// What of the minimum was not reached, a sentence each; nothing if the run proves something.
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
        let silent = self.silent();
        let unseen = minimum.rules.iter().filter(|rule| silent.contains(rule));
        let unseen = unseen.map(|rule| format!("{rule} looked at nothing: {}", rule.sentence()));
        few.chain(unseen).collect()
    }
}

/// Runs every checker.
#[must_use]
pub fn judge(history: &History) -> Verdict {
    let mut rules = BTreeMap::new();
    let mut violations = Vec::new();
    for (rule, check) in CHECKERS {
        let Findings {
            looked_at,
            wrong,
            undecided,
        } = check(history);
        let judged = Judged {
            looked_at,
            violations: wrong.len() as u64,
            undecided,
        };
        rules.insert(rule, judged);
        violations.extend(
            wrong
                .into_iter()
                .map(|(what, events)| Violation { rule, what, events }),
        );
    }
    Verdict {
        rules,
        violations,
        evidence: evidence(history),
    }
}

fn evidence(history: &History) -> Evidence {
    let mut evidence = Evidence::default();
    let mut reigns = std::collections::BTreeSet::new();
    for event in &history.events {
        match &event.what {
            What::Invoke { .. } => {}
            What::Ok { .. } | What::Fail { .. } => evidence.operations += 1,
            What::Info { .. } => evidence.unknown += 1,
            What::Fault(fault) if fault.kind.is_repair() => {}
            What::Fault(fault) => *evidence.faults.entry(fault.kind).or_default() += 1,
            What::Observation(Observation::Raft(RaftFact::EpochOpened { epoch, .. })) => {
                reigns.insert(*epoch);
            }
            What::Observation(Observation::Expect(
                Expectation::Commit { .. }
                | Expectation::Offer { .. }
                | Expectation::Ends { .. }
                | Expectation::KeepsRunning { .. },
            )) => evidence.expectations += 1,
            What::Observation(_) => {}
        }
    }
    evidence.leader_changes = (reigns.len() as u64).saturating_sub(1);
    evidence
}

#[cfg(test)]
mod tests {
    use super::super::scene::{ONE, Scene, offer};
    use super::*;
    use argosy_state::ids::Epoch;

    #[test]
    fn a_verdict_names_rules_events_and_those_that_saw_nothing() {
        let scene = Scene::new()
            .fault(FaultKind::Crash, "master-1")
            .accepted(1, offer(12, 1), "web")
            .witnessed("web", "a")
            .witnessed("web", "b");
        let verdict = judge(&scene.history());
        assert_eq!(verdict.rules.len(), CHECKERS.len());
        assert!(!verdict.is_clean());
        let [violation] = verdict.violations.as_slice() else {
            panic!("{:#?}", verdict.violations);
        };
        assert_eq!(
            (violation.rule, violation.events.as_slice()),
            (Rule::T1, &[3, 4][..])
        );
        assert!(verdict.silent().contains(&Rule::R1));
        assert!(!verdict.silent().contains(&Rule::T1));
        assert_eq!(verdict.evidence.faults[&FaultKind::Crash], 1);
    }

    #[test]
    fn a_run_that_proves_too_little_says_what_is_missing() {
        let opened = |epoch| RaftFact::EpochOpened {
            node: ONE,
            epoch: Epoch(epoch),
            term: epoch,
            life: 1,
        };
        let scene = Scene::new()
            .saw("master-1", opened(4))
            .saw("master-2", opened(4))
            .saw("master-1", opened(9))
            .fault(FaultKind::Crash, "master-1")
            .accepted(1, offer(12, 1), "web");
        let verdict = judge(&scene.history());
        let reached = Minimum {
            operations: 1,
            faults: 1,
            fault_kinds: 1,
            leader_changes: 1,
            rules: vec![Rule::R1, Rule::O3],
        };
        assert_eq!(verdict.shortfalls(&reached), Vec::<String>::new());
        let more = Minimum {
            operations: 2,
            leader_changes: 2,
            rules: vec![Rule::T4],
            ..reached
        };
        let missing = verdict.shortfalls(&more);
        assert_eq!(missing.len(), 3, "{missing:?}");
        assert!(missing[2].starts_with("T4 looked at nothing"));
    }

    #[test]
    fn a_repair_is_no_fault() {
        let mut scene = Scene::new().fault(FaultKind::Crash, "master-1");
        for kind in [
            FaultKind::Restart,
            FaultKind::Resume,
            FaultKind::Heal,
            FaultKind::DiskFreed,
            FaultKind::Buggify,
        ] {
            scene = scene.fault(kind, "master-1");
        }
        let evidence = judge(&scene.history()).evidence;
        assert_eq!(evidence.faults, BTreeMap::from([(FaultKind::Crash, 1)]));
    }

    #[test]
    fn an_empty_history_is_clean_and_every_rule_says_that_it_saw_nothing() {
        let verdict = judge(&History::default());
        assert!(verdict.is_clean());
        assert_eq!(verdict.silent().len(), CHECKERS.len());
    }
}
