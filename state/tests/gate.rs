//! The script that runs the stages of the gate.

#![allow(
    clippy::unwrap_used,
    reason = "a failed expectation must panic at its line, with its values"
)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn stage(target: &Path, arguments: &[&str]) -> Output {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    Command::new(root.join("scripts/stage"))
        .args(arguments)
        .env("CARGO_TARGET_DIR", target)
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_stage_over_its_budget_is_named_and_only_a_failed_or_hung_one_fails() {
    let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("stages");
    let _ = std::fs::remove_dir_all(&target);
    assert!(!stage(&target, &["summary"]).status.success(), "none yet");
    for state in ["cold", "warm"] {
        let slow = stage(&target, &["slow", "1", "sleep", "2"]);
        assert!(slow.status.success(), "{}", said(&slow));
        assert!(said(&slow).contains(state), "{}", said(&slow));
    }
    let failed = stage(&target, &["failing", "9", "false"]);
    assert_eq!(failed.status.code(), Some(1));
    assert!(said(&failed).contains("repeat it with: false"));
    let hung = stage(&target, &["hung", "1", "sleep", "60"]);
    assert_eq!(hung.status.code(), Some(124));
    assert!(said(&hung).contains("did not end within 6 s"));
    let summary = said(&stage(&target, &["summary"]));
    let lines: Vec<&str> = summary.lines().collect();
    assert_eq!(lines.len(), 3, "{summary}");
    assert!(lines[0].starts_with("slow") && lines[0].ends_with("over its budget"));
    assert!(lines[1].starts_with("failing") && lines[1].ends_with("FAILED"));
    assert!(lines[2].starts_with("hung") && lines[2].ends_with("FAILED"));
}
