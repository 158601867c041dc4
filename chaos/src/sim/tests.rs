//! Tests that a seed determines everything: two processes that run it produce the same result.

use std::env;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::{raft, system};
use crate::history::{FaultKind, Observation};

/// The environment variable that marks a start of this test as one of the two processes that run
/// the seed.
const CHILD: &str = "ARGOSY_CHAOS_SIM_CHILD";
/// A seed whose first seconds contain the events that are hardest to repeat.
const SEED: u64 = 4_778;

fn histories() -> String {
    let faults = Duration::from_secs(6);
    let raft = raft::RaftOptions {
        faults,
        ..raft::RaftOptions::default()
    };
    let system = system::SystemOptions {
        faults,
        ..system::SystemOptions::default()
    };
    let (raft, system) = (raft::run(SEED, &raft), system::run(SEED, &system));
    assert!(raft.violations.is_empty(), "{:#?}", raft.violations);
    assert!(system.violations.is_empty(), "{:#?}", system.violations);
    for kind in [FaultKind::Pause, FaultKind::MembershipChange] {
        let came = system.counts.faults.contains_key(&kind);
        assert!(came, "another seed is needed: {SEED} brings no {kind:?}");
    }
    format!("{} {}", raft.history.hash(), system.history.hash())
}

/// Starts a process that has run no seed before: state that libraries keep for a whole process
/// affects a simulation.
fn start() -> Child {
    let name = "sim::tests::a_seed_reproduces_its_history_in_another_process";
    Command::new(env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(CHILD, "yes")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn output_of(child: Child) -> String {
    let text = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
    let mut lines = text.lines();
    let output = lines.find_map(|line| line.split("histories ").nth(1));
    output
        .unwrap_or_else(|| panic!("no histories: {text}"))
        .to_owned()
}

#[test]
fn a_seed_reproduces_its_history_in_another_process() {
    if env::var_os(CHILD).is_some() {
        println!("histories {}", histories());
        return;
    }
    let [one, other] = [start(), start()];
    assert_eq!(output_of(one), output_of(other));
}

/// A seed whose single fault is the renewal of all keys.
const RENEWAL_SEED: u64 = 8;

#[test]
fn members_outlast_a_renewal_of_all_keys_and_the_revocation_of_the_former_ones() {
    let options = system::SystemOptions {
        agents: 2,
        // The first random fault begins later.
        faults: Duration::from_secs(2),
        ..system::SystemOptions::default()
    };
    let result = system::run(RENEWAL_SEED, &options);
    assert!(result.violations.is_empty(), "{:#?}", result.violations);
    let members = (options.masters + options.agents + options.frameworks) as u64;
    for kind in [FaultKind::CertificateRenewal, FaultKind::KeyRevocation] {
        assert_eq!(result.counts.faults.get(&kind), Some(&members), "{kind}");
    }
    let events = &result.counts.events;
    assert_eq!(events.get("renewals of all keys checked"), Some(&1));
}

/// Nothing can come to rest in zero time. The rules check the remaining state nevertheless.
#[test]
fn a_cluster_that_does_not_settle_is_checked_at_its_end() {
    let options = system::SystemOptions {
        faults: Duration::from_secs(2),
        healing: Duration::ZERO,
        ..system::SystemOptions::default()
    };
    let result = system::run(SEED, &options);
    let is_reported = |violation: &String| violation.contains("after the last fault the cluster");
    assert!(
        result.violations.iter().any(is_reported),
        "{:#?}",
        result.violations
    );
    let is_audit = |seen: &Observation| matches!(seen, Observation::Audit(_));
    let seen = result.history.observations();
    let audits = seen.filter(|(_, _, seen)| is_audit(seen)).count();
    assert!(audits > 1, "the registry and the hosts are compared");
}
