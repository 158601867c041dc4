//! The minimum evidence of a batch of seeds, below which a batch without violations proves nothing.
//!
//! The minimum of each rule is in the table of rules (`invariants/mod.rs`). The number of
//! operations, too, is at most a tenth of the average of seeds.

use std::collections::BTreeMap;

use crate::invariants::{Comparisons, Minimum, Rule};
use crate::ledger::{GRAPHS, RAFT, SYSTEM};

/// The number of seeds from which every minimum is demanded.
const MANY_SEEDS: u64 = 10;
/// The lowest minimum that is demanded of fewer seeds, which may lack rare comparisons by chance.
/// An average seed compares 30 tasks that run at rest, in three audits, but at all three its tasks
/// may have just ended.
const LEAST_OF_FEW: u64 = 10;

/// Returns the minimum of this many seeds, of which `with_rules` have rules of access. For few
/// seeds it contains only what almost every seed shows.
pub(super) fn of(simulation: &str, seeds: u64, with_rules: u64) -> Minimum {
    let (operations, comparisons): (u64, fn(Comparisons) -> u64) = match simulation {
        RAFT => (5_000, |least| least.raft),
        GRAPHS => (6_000, |least| least.graphs),
        SYSTEM => (4_000, |least| least.system),
        _ => return Minimum::default(),
    };
    let least = |per_hundred: u64, seeds: u64| per_hundred.saturating_mul(seeds) / 100;
    let showing = |rule| match rule {
        Rule::AccessEnforcement => with_rules,
        _ => seeds,
    };
    let rules = Rule::ALL.iter();
    let rules = rules.map(|rule| (*rule, comparisons(rule.minimum_comparisons())));
    let rules: BTreeMap<Rule, u64> = rules
        .filter(|(_, per_hundred)| *per_hundred > 0)
        .map(|(rule, per_hundred)| (rule, least(per_hundred, showing(rule))))
        .filter(|(_, least)| seeds >= MANY_SEEDS || *least >= LEAST_OF_FEW)
        .collect();
    Minimum {
        operations: least(operations, seeds),
        rules,
        ..Minimum::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::Rule::{
        AccessEnforcement, Agreement, Linearizability, Liveness, Reboots, SingleStart,
    };

    #[test]
    fn the_minimum_evidence_of_a_batch_is_proportional_to_its_seeds() {
        let hundred = of(SYSTEM, 100, 80);
        let thousand = of(SYSTEM, 1_000, 800);
        assert_eq!(
            thousand.rules[&SingleStart],
            10 * hundred.rules[&SingleStart]
        );
        assert_eq!(thousand.operations, 10 * hundred.operations);
        assert!(hundred.rules.values().all(|least| *least > 0));
        assert_eq!(of(SYSTEM, 36, 36).rules[&Liveness], 3);
        assert_eq!(of(SYSTEM, 0, 0), Minimum::default());
    }

    #[test]
    fn one_seed_may_lack_what_chance_can_leave_out() {
        let one = of(SYSTEM, 1, 1);
        // No task ran at any of the three audits of seed 1796269566477.
        for rule in [Reboots, Agreement] {
            assert_eq!(one.rules.get(&rule), None, "{rule}");
        }
        assert_eq!(one.rules[&Linearizability], 45);
    }

    #[test]
    fn a_seed_without_rules_need_not_show_that_they_are_enforced() {
        let least = |with_rules| {
            let minimum = of(SYSTEM, 1, with_rules);
            minimum.rules.get(&AccessEnforcement).copied()
        };
        assert_eq!((least(0), least(1)), (None, Some(20)));
    }

    #[test]
    fn each_simulation_has_its_own_minimum() {
        for tier in [RAFT, SYSTEM, GRAPHS] {
            assert!(
                of(tier, 100, 80).rules.contains_key(&Linearizability),
                "{tier}"
            );
        }
        assert!(!of(RAFT, 100, 0).rules.contains_key(&SingleStart));
        assert_eq!(of("real", 100, 0), Minimum::default());
    }
}
