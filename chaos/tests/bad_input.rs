//! Tests that any invalid input of `argosy-chaos` returns an error that names it and exit code 2,
//! before anything is started.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Output};

const CHAOS: &str = env!("CARGO_BIN_EXE_argosy-chaos");

fn refused(output: &Output, words: &str) {
    let reported = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{reported}");
    assert!(reported.contains(words), "{words:?} is not in: {reported}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
}

#[test]
fn invalid_arguments_are_reported() {
    let table: &[(&str, &str)] = &[
        ("run --faults kill-leaders", "did you mean kill-leader?"),
        ("run --rounds 3 --each-once", "cannot be used with"),
        ("run --script a --faults kill-leader", "cannot be used with"),
        ("run --size 4x1", "masters are 1, 3 or 5"),
        ("run --duration soon", "--duration"),
        ("run --masters 127.0.0.1:5050", "--only"),
        ("run --only kill-leader", "--masters"),
        (
            "run --masters 127.0.0.1:5050 --only kill-leader --yes",
            "--tls-cert",
        ),
        ("run --tls-cert a --tls-key b", "--tls-ca"),
        ("run --tls-cert a --tls-key b --tls-ca c", "--masters"),
        ("sim --seeds 0", "--seeds"),
        ("sim --graphs --raft-only", "cannot be used with"),
        (
            "failover --kills 50",
            "`argosy-bench leader-loss --kills 50`",
        ),
    ];
    for (line, words) in table {
        let output = Command::new(CHAOS).args(line.split(' ')).output().unwrap();
        refused(&output, words);
    }
}

#[test]
fn missing_paths_are_reported_before_the_run() {
    if !nix::unistd::geteuid().is_root() {
        return argosy_testing::skip("needs root");
    }
    let table: &[(&str, &str)] = &[
        ("run --script /no/script", "cannot read /no/script"),
        ("run --html /no/page.html", "there is no directory /no"),
        ("run --report /no/out.json", "there is no directory /no"),
        ("run --ledger /no/ledger.jsonl", "there is no directory /no"),
        (
            "run --other-release /no/argosy",
            "--other-release /no/argosy: there is no such file",
        ),
        ("run --faults other-release", "name it with --other-release"),
        ("run --directory /no", "--directory /no"),
        ("run --argosy /no/argosy", "no executable /no/argosy"),
    ];
    for (line, words) in table {
        // Any executable will do, unless the test sets one.
        let mut command = Command::new(CHAOS);
        command.args(line.split(' ')).env("ARGOSY_BIN", CHAOS);
        refused(&command.output().unwrap(), words);
    }
}

#[test]
fn without_root_the_reason_for_root_is_reported() {
    let mut command = Command::new(CHAOS);
    let directory = tempfile::tempdir().unwrap();
    if nix::unistd::geteuid().is_root() {
        // A path where every user may execute it.
        let copy = directory.path().join("argosy-chaos");
        // A separate process copies: a child of another test could still hold the copy open for
        // writing.
        let copied = Command::new("cp").arg(CHAOS).arg(&copy).status();
        assert!(copied.unwrap().success());
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(directory.path(), open).unwrap();
        command = Command::new(copy);
        command.uid(65_534).gid(65_534).current_dir("/");
    }
    let output = command.args(["run", "--duration", "5s"]).output();
    refused(&output.unwrap(), "run it as root");
}
