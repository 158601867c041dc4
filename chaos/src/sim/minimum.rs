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
struct MinimumPerHundred {
    operations: u64,
    /// The minimum number of comparisons of each rule.
    rules: &'static [(Rule, u64)],
}

const RAFT_ALONE: MinimumPerHundred = MinimumPerHundred {
    operations: 5_000,
    // The simulation checks Durability while it runs. Amnesia compares starts, but no disk is
    // wiped, so it cannot fail.
    rules: &[
        (ElectionSafety, 1_200),
        (LogMatching, 7_000),
        (StateMachineSafety, 300),
        (Linearizability, 4_500),
    ],
};

const WHOLE_SYSTEM: MinimumPerHundred = MinimumPerHundred {
    operations: 4_000,
    rules: &[
        (ElectionSafety, 100),
        (StateMachineSafety, 2_500),
        (Linearizability, 4_500),
        (AcknowledgedWrites, 90),
        (AtMostOnce, 2_000),
        (Amnesia, 200),
        (Liveness, 10),
        (ResourceConservation, 8_000),
        (NoDoubleBooking, 500),
        (OfferSingleUse, 1_500),
        (OfferLimits, 4_000),
        (Fairness, 800),
        (SingleStart, 500),
        (StateTransitions, 5_000),
        (UpdateDelivery, 4_500),
        (Agreement, 300),
        (LaunchProvenance, 2_000),
        (Kills, 900),
        (TaskSurvival, 80),
        (Adoption, 1_000),
        (Reboots, 30),
        (AgentReturns, 80),
        (EpochMonotonicity, 600),
        (StaleLeaderFencing, 1_500),
        (UniqueIdentity, 900),
    ],
};

const CONNECTIVITY_GRAPHS: MinimumPerHundred = MinimumPerHundred {
    operations: 6_000,
    rules: &[
        (ElectionSafety, 100),
        (StateMachineSafety, 5_000),
        (Linearizability, 9_000),
        (AtMostOnce, 1_500),
        (ResourceConservation, 11_000),
        (NoDoubleBooking, 300),
        (OfferSingleUse, 1_000),
        (OfferLimits, 2_500),
        (SingleStart, 300),
        (StateTransitions, 3_500),
        (UpdateDelivery, 2_000),
        (LaunchProvenance, 1_500),
        (Kills, 400),
        (AgentReturns, 30),
        (EpochMonotonicity, 400),
        (StaleLeaderFencing, 1_000),
        (UniqueIdentity, 500),
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
        assert_eq!(
            thousand.rules[&SingleStart],
            10 * hundred.rules[&SingleStart]
        );
        assert_eq!(thousand.operations, 10 * hundred.operations);
        assert!(hundred.rules.values().all(|least| *least > 0));
        let one = of(SYSTEM, 1);
        assert_eq!(
            (one.rules[&SingleStart], one.rules[&Reboots]),
            (5, 0),
            "rare things may be absent"
        );
        assert_eq!(of(SYSTEM, 0).rules.values().sum::<u64>(), 0);
    }

    #[test]
    fn each_simulation_has_its_own_minimum() {
        for tier in [RAFT, SYSTEM, GRAPHS] {
            assert!(of(tier, 100).rules.contains_key(&Linearizability), "{tier}");
        }
        assert!(!of(RAFT, 100).rules.contains_key(&SingleStart));
        assert_eq!(of("real", 100), Minimum::default());
    }
}
