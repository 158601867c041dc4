//! A seed says everything: another process that plays it sees the same.

use std::env;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::{raft, system};

/// Tells the second start of this test that it is the other process.
const CHILD: &str = "ARGOSY_CHAOS_SIM_CHILD";
const SEED: u64 = 4_711;

fn histories() -> String {
    let faults = Duration::from_secs(6);
    let raft = raft::Options {
        faults,
        ..raft::Options::default()
    };
    let system = system::Options {
        faults,
        ..system::Options::default()
    };
    let (raft, system) = (raft::run(SEED, &raft), system::run(SEED, &system));
    assert!(raft.violations.is_empty(), "{:#?}", raft.violations);
    assert!(system.violations.is_empty(), "{:#?}", system.violations);
    format!("{} {}", raft.history.hash(), system.history.hash())
}

#[test]
fn a_seed_gives_the_same_history_in_another_process() {
    let own = histories();
    if env::var_os(CHILD).is_some() {
        println!("histories {own}");
        return;
    }
    let name = "sim::tests::a_seed_gives_the_same_history_in_another_process";
    let output = Command::new(env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(CHILD, "yes")
        .stderr(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let said = text
        .lines()
        .find_map(|line| line.split("histories ").nth(1));
    assert_eq!(said, Some(own.as_str()), "{text}");
}
