//! The minimum evidence of a batch of seeds, below which a batch without violations proves nothing.
//!
//! The amounts are at most a tenth of the average of seeds. A batch fails when a workload, a fault
//! or a recorder stops, not because of one unusual seed. A rule that is not listed compares nothing
//! in that simulation.

use std::collections::BTreeMap;

use crate::invariants::Minimum;
use crate::invariants::Rule::{self, *};
use crate::ledger::{GRAPHS, RAFT, SYSTEM};

/// The minimum of a hundred seeds.
struct Hundred {
    operations: u64,
    /// How many things each rule must compare.
    rules: &'static [(Rule, u64)],
}

const RAFT_ALONE: Hundred = Hundred {
    operations: 5_000,
    // The simulation checks R3 while it runs. R8 compares starts, but no disk is wiped, so it
    // cannot fail.
    rules: &[(R1, 1_200), (R2, 7_000), (R4, 300), (R5, 4_500)],
};

const WHOLE_SYSTEM: Hundred = Hundred {
    operations: 4_000,
    rules: &[
        (R1, 100),
        (R4, 2_500),
        (R5, 4_500),
        (R6, 90),
        (R7, 2_000),
        (R8, 200),
        (R9, 10),
        (O1, 8_000),
        (O2, 500),
        (O3, 1_500),
        (O4, 4_000),
        (O5, 800),
        (T1, 500),
        (T2, 5_000),
        (T3, 4_500),
        (T4, 300),
        (T5, 2_000),
        (T6, 900),
        (T7, 80),
        (T8, 1_000),
        (T9, 30),
        (T10, 80),
        (F1, 600),
        (F2, 1_500),
        (F3, 900),
    ],
};

const CONNECTIVITY_GRAPHS: Hundred = Hundred {
    operations: 6_000,
    rules: &[
        (R1, 100),
        (R4, 5_000),
        (R5, 9_000),
        (R7, 1_500),
        (O1, 11_000),
        (O2, 300),
        (O3, 1_000),
        (O4, 2_500),
        (T1, 300),
        (T2, 3_500),
        (T3, 2_000),
        (T5, 1_500),
        (T6, 400),
        (T10, 30),
        (F1, 400),
        (F2, 1_000),
        (F3, 500),
    ],
};

/// Returns the minimum of this many seeds. For few seeds it contains only what almost every seed
/// shows.
pub(super) fn of(tier: &str, seeds: u64) -> Minimum {
    let hundred = match tier {
        RAFT => &RAFT_ALONE,
        GRAPHS => &CONNECTIVITY_GRAPHS,
        SYSTEM => &WHOLE_SYSTEM,
        _ => return Minimum::default(),
    };
    let least = |amount: u64| amount.saturating_mul(seeds) / 100;
    let rules = hundred.rules.iter();
    let rules: BTreeMap<Rule, u64> = rules
        .map(|(rule, amount)| (*rule, least(*amount)))
        .collect();
    Minimum {
        operations: least(hundred.operations),
        rules,
        ..Minimum::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_must_show_as_much_as_its_seeds() {
        let hundred = of(SYSTEM, 100);
        let thousand = of(SYSTEM, 1_000);
        assert_eq!(thousand.rules[&T1], 10 * hundred.rules[&T1]);
        assert_eq!(thousand.operations, 10 * hundred.operations);
        assert!(hundred.rules.values().all(|least| *least > 0));
        let one = of(SYSTEM, 1);
        assert_eq!(
            (one.rules[&T1], one.rules[&T9]),
            (5, 0),
            "rare things may be absent"
        );
        assert_eq!(of(SYSTEM, 0).rules.values().sum::<u64>(), 0);
    }

    #[test]
    fn each_simulation_has_its_own_minimum() {
        for tier in [RAFT, SYSTEM, GRAPHS] {
            assert!(of(tier, 100).rules.contains_key(&R5), "{tier}");
        }
        assert!(!of(RAFT, 100).rules.contains_key(&T1));
        assert_eq!(of("real", 100), Minimum::default());
    }
}
