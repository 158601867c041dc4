//! Tests of the command that runs simulated clusters, each seed in a subprocess, so that it gives
//! the same result everywhere. Only one runs the whole system, because that takes long
//! unoptimised; `scripts/chaos-short` runs more.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use argosy_chaos::ledger::{self, LedgerLine};

fn sim(words: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_argosy-chaos"))
        .arg("sim")
        .args(words)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}: {text}", output.status);
    text
}

#[test]
fn offers_and_tasks_survive_all_faults() {
    let text = sim(&["--seeds", "1", "--from", "1"]);
    let rested = text.lines().filter(|line| line.contains("came to rest"));
    assert_eq!(rested.count(), 1, "{text}");
    assert!(text.contains("0 seeds with violations"), "{text}");
}

#[test]
fn a_seed_reproduces_its_history_after_any_other_seed() {
    let words = ["--raft-only", "--faults", "4"];
    let history = |text: &str, seed: u64| {
        let begins = format!("seed {seed}:");
        let line = text.lines().find(|line| line.starts_with(&begins)).unwrap();
        let (_, rest) = line.split_once("history ").unwrap();
        rest.split(',').next().unwrap().to_owned()
    };
    let both = sim(&[&words[..], &["--from", "1", "--seeds", "2"]].concat());
    let second = sim(&[&words[..], &["--from", "2", "--seeds", "1"]].concat());
    assert_eq!(history(&both, 2), history(&second, 2));
    assert_ne!(history(&both, 1), history(&both, 2));
}

#[test]
fn a_batch_that_is_killed_leaves_its_first_line_in_the_ledger() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ledger.jsonl");
    let words = ["sim", "--raft-only", "--jobs", "1", "--seeds", "900"];
    let mut batch = Command::new(env!("CARGO_BIN_EXE_argosy-chaos"))
        .args(words)
        .arg("--ledger")
        .arg(&path)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let began = Instant::now();
    let text = loop {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        if text.ends_with('\n') {
            break text;
        }
        assert!(began.elapsed() < Duration::from_mins(2), "no first line");
        std::thread::sleep(Duration::from_millis(20));
    };
    batch.kill().unwrap();
    batch.wait().unwrap();
    let [LedgerLine::Start(start)] = &ledger::read(&text).unwrap()[..] else {
        panic!("{text}");
    };
    assert_eq!((start.tier.as_str(), start.seeds), ("sim-raft", 900));
    let page = ledger::render(&ledger::read(&text).unwrap());
    assert!(page.contains("interrupted: it has no last line"), "{page}");
}
