//! Tests of Raft under faults with a few seeds. The command runs more.

use super::*;

fn clean(seed: u64, options: &RaftOptions) -> SimulationResult {
    let result = run(seed, options);
    assert!(
        result.violations.is_empty(),
        "seed {seed}: {:#?}",
        result.violations
    );
    result
}

#[test]
fn three_nodes_agree_under_all_faults() {
    let mut written = 0;
    for seed in 1..=2 {
        let result = clean(seed, &RaftOptions::of(seed));
        written += result.counts.events.get("written").copied().unwrap_or(0);
    }
    assert!(written > 200, "{written} writes prove little");
}

#[test]
fn a_seed_reproduces_its_history() {
    let options = RaftOptions {
        faults: Duration::from_secs(8),
        ..RaftOptions::default()
    };
    let [one, other] = [(); 2].map(|()| run(77, &options));
    assert_eq!(one.history.hash(), other.history.hash());
    assert_ne!(one.history.hash(), run(78, &options).history.hash());
}
