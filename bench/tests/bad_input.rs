//! Tests that any invalid input of `argosy-bench leader-loss` returns an error that names it and
//! exit code 2, before anything is started.

use std::process::Command;

#[test]
fn invalid_arguments_are_reported() {
    let table: &[(&str, &str)] = &[
        ("leader-loss --kills 0", "0 is not in 1..=10000"),
        ("leader-loss --loss rain", "rain"),
        ("leader-loss --size 1x1", "--size 3x3"),
        ("leader-loss --duration 5m", "--loss none"),
        ("--short", "<WORKLOAD>"),
    ];
    for (line, words) in table {
        let mut command = Command::new(env!("CARGO_BIN_EXE_argosy-bench"));
        let output = command.args(line.split(' ')).output().unwrap();
        let reported = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{line}: {reported}");
        assert!(reported.contains(words), "{words:?} is not in: {reported}");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "");
    }
}
