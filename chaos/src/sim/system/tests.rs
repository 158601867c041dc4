//! The whole system under faults, a handful of seeds; more in the command.

use super::*;

#[test]
fn offers_and_tasks_survive_whatever_breaks() {
    let (mut started, mut told) = (0, 0);
    for seed in 1..=4 {
        let verdict = run(seed, &Options::of(seed));
        let violations = &verdict.violations;
        assert!(violations.is_empty(), "seed {seed}: {violations:#?}");
        let happened = |what| verdict.counts.happened.get(what).copied().unwrap_or(0);
        started += happened("tasks started");
        told += happened("ends told");
    }
    assert!(started > 100 && told > 50, "{started} starts, {told} ends");
}
