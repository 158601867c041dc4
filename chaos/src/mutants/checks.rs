//! The source of a violation: the checker of a rule, a check during the simulation, or something
//! without a rule.

use std::fmt;

use crate::invariants::{Rule, rule_named};

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ViolationSource {
    /// The checker of a rule, from the history.
    Checker(Rule),
    /// A check of a rule while the simulation runs.
    Live(Rule),
    /// A check that names no rule.
    Other(String),
}

/// Checks without a rule: a part of their messages, and their names.
const OTHER_CHECKS: [(&str, &str); 5] = [
    ("the registry at", "`Registry::check`"),
    ("has not come to rest", "timeout: all must come to rest"),
    ("is not as it should be", "timeout: all must be well again"),
    ("may be behind entry", "timeout: all must catch up"),
    ("ended without a report", "an aborted process"),
];

impl ViolationSource {
    /// Returns the source of a violation. Checks during the simulation begin with its time: "at
    /// 4000 ms: TaskSurvival: …".
    pub(super) fn of(violation: &str) -> Self {
        let live = violation
            .split_once(" ms: ")
            .filter(|(time, _)| time.starts_with("at "));
        let words = live.map_or(violation, |(_, words)| words);
        match (rule_named(words), live) {
            (Some(rule), None) => Self::Checker(rule),
            (Some(rule), Some(_)) => Self::Live(rule),
            (None, _) => {
                let known = OTHER_CHECKS.iter().find(|(part, _)| words.contains(part));
                let quoted = || format!("“{}”", words.chars().take(60).collect::<String>());
                Self::Other(known.map_or_else(quoted, |(_, name)| (*name).to_owned()))
            }
        }
    }

    /// Returns the rule that was named, if any.
    pub(super) fn rule(&self) -> Option<Rule> {
        match self {
            Self::Checker(rule) | Self::Live(rule) => Some(*rule),
            Self::Other(_) => None,
        }
    }
}

/// Returns the first violation that one of these rules names.
pub(super) fn named_by<'a>(rules: &[Rule], violations: &'a [String]) -> Option<&'a String> {
    let is_named = |words: &&String| {
        ViolationSource::of(words)
            .rule()
            .is_some_and(|rule| rules.contains(&rule))
    };
    violations.iter().find(is_named)
}

impl fmt::Display for ViolationSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Checker(rule) => write!(f, "{rule}"),
            Self::Live(rule) => write!(f, "{rule} (live)"),
            Self::Other(name) => f.write_str(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bug_is_found_only_by_one_of_its_rules() {
        let timeout = "at 9 ms: the cluster has not come to rest".to_owned();
        let other = "UpdateDelivery: an update was lost".to_owned();
        let intended = "at 7 ms: SingleStart: a started twice".to_owned();
        let rules = [Rule::SingleStart, Rule::StaleLeaderFencing];
        assert_eq!(named_by(&rules, &[]), None);
        assert_eq!(named_by(&rules, &[timeout.clone(), other.clone()]), None);
        let all = [timeout, other, intended.clone()];
        assert_eq!(named_by(&rules, &all), Some(&intended));
    }

    #[test]
    fn checkers_live_checks_and_timeouts_are_distinguished() {
        for (words, source, shown) in [
            (
                "AgentReturns: a came back",
                ViolationSource::Checker(Rule::AgentReturns),
                "AgentReturns",
            ),
            (
                "at 40 ms: TaskSurvival: a was given up",
                ViolationSource::Live(Rule::TaskSurvival),
                "TaskSurvival (live)",
            ),
            (
                "at 40 ms: ExecutorLifetime: an executor has no task",
                ViolationSource::Live(Rule::ExecutorLifetime),
                "ExecutorLifetime (live)",
            ),
        ] {
            assert_eq!(ViolationSource::of(words), source);
            assert_eq!(
                (source.rule().is_some(), source.to_string().as_str()),
                (true, shown)
            );
        }
        for (words, shown) in [
            (
                "at 9 ms: 40s after the last fault the cluster has not come to rest: []",
                "timeout: all must come to rest",
            ),
            (
                "at 9 ms: the registry at 41: agent-1 uses more than it has",
                "`Registry::check`",
            ),
            (
                "seed 4: its process ended without a report: signal",
                "an aborted process",
            ),
            ("at 9 ms: X1: nothing", "“X1: nothing”"),
            ("T99: no such rule", "“T99: no such rule”"),
        ] {
            let source = ViolationSource::of(words);
            assert_eq!((source.rule(), source.to_string().as_str()), (None, shown));
        }
    }
}
