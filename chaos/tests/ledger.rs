//! Tests of the ledger: its page sums up its lines (UPDATE_EXPECT=1 rewrites it), its lines stay,
//! each harness has a recent line, a release is recorded only when every minimum is reached, and
//! the script that runs fuzz targets records them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use argosy_chaos::ledger::{self, FileVersion, GitError, GitRepository};

const LINES: &str = "docs/chaos-ledger.jsonl";
const RELEASES: &str = "releases.txt";
/// Lines were edited before this commit. Since then the file only grows.
const APPEND_ONLY_SINCE: &str = "268ab4d";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn lines() -> String {
    fs::read_to_string(root().join(LINES)).unwrap()
}

#[test]
fn the_page_matches_the_sums_of_the_lines() {
    let page = ledger::render(&ledger::read(&lines()).unwrap());
    let place = root().join("docs/chaos-ledger.md");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(&place, &page).unwrap();
    }
    let written = fs::read_to_string(&place).unwrap();
    assert!(
        page == written,
        "docs/chaos-ledger.md is old: UPDATE_EXPECT=1 cargo test -p argosy-chaos --test ledger"
    );
}

/// Returns the whole history; `None` with a skip if there is none. Any other git error fails the
/// test.
fn history() -> Option<GitRepository> {
    match GitRepository::open(&root()) {
        Ok(git) => Some(git),
        Err(GitError::Absent { why }) => {
            argosy_testing::skip(&format!("git history is not available: {why}"));
            None
        }
        Err(unknown @ GitError::Unknown { .. }) => panic!("{unknown}"),
    }
}

#[test]
fn no_line_that_was_ever_committed_is_changed_removed_or_moved() {
    let Some(git) = history() else {
        return;
    };
    let versions = git.versions(LINES, APPEND_ONLY_SINCE).unwrap();
    let now = lines();
    for FileVersion { commit, text } in versions {
        if let Err(line) = ledger::is_kept(&text, &now) {
            panic!("{LINES} lacks a line of {commit}, or has it elsewhere: {line}");
        }
    }
}

#[test]
fn every_harness_has_a_recent_line() {
    let Some(git) = history() else {
        return;
    };
    let lines = ledger::read(&lines()).unwrap();
    let newest = ledger::newest(&lines, |commit| git.contains(commit));
    let stale = ledger::stale_harnesses(&newest, |commit| git.distance(commit)).unwrap();
    assert!(stale.is_empty(), "\n{}\n", stale.join("\n"));
}

#[test]
fn the_ledger_of_every_release_reaches_every_minimum() {
    let Some(git) = history() else {
        return;
    };
    let releases = fs::read_to_string(root().join(RELEASES)).unwrap();
    // A release that is not committed yet is recorded with the ledger of the working tree.
    let ledger_of = |line: &str| {
        let added = git.when_added(line, RELEASES, LINES)?;
        Ok(added.unwrap_or_else(lines))
    };
    let early = ledger::early_releases(&releases, ledger_of).unwrap();
    assert!(early.is_empty(), "\n{}\n", early.join("\n"));
}

#[test]
fn the_script_of_fuzz_targets_records_their_executions_and_findings() {
    let directory = tempfile::tempdir().unwrap();
    let place = |name: &str| directory.path().join(name);
    for (status, ends_with) in [(0, 0), (77, 1), (3, 1)] {
        let ended = Command::new(root().join("scripts/fuzz-target"))
            .arg(root().join("chaos/tests/fake-fuzz-target"))
            .args(["--runs", "4200"])
            .env("FAKE_STATUS", status.to_string())
            .env("ARGOSY_CACHE", place("cache"))
            .env("CHAOS_LEDGER", place("ledger.jsonl"))
            .env("CHAOS_FINDINGS", place("findings"))
            .output()
            .unwrap();
        assert_eq!(ended.status.code(), Some(ends_with), "{ended:?}");
        let is_kept = place("findings/fake-fuzz-target.log").exists();
        assert_eq!(is_kept, status != 0, "{status}");
    }
    let text = fs::read_to_string(place("ledger.jsonl")).unwrap();
    let page = ledger::render(&ledger::read(&text).unwrap());
    // That of the target with a finding, too; the one that failed decoded nothing.
    for row in [
        "| fake-fuzz-target | 8,400 |",
        "| violations ever | – | 1 |",
        "| failed: exit status 3 |",
    ] {
        assert!(page.contains(row), "{row}\n{page}");
    }
    assert!(!page.contains("interrupted"), "{page}");
}
