//! The built program from outside: exit codes, sentences, streams. No cluster is needed.

use std::net::TcpListener;
use std::process::{Command, Output};

fn argosy(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_argosy"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ARGOSY_") {
            command.env_remove(&name);
        }
    }
    command.args(words);
    command
}

fn ran(words: &[&str]) -> (i32, String, String) {
    split(argosy(words).output().unwrap())
}

fn split(output: Output) -> (i32, String, String) {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (
        output.status.code().unwrap(),
        text(output.stdout),
        text(output.stderr),
    )
}

/// An address at which nobody listens.
fn silent_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

#[test]
fn usage_errors_end_with_two_and_name_the_nearest_word() {
    let table: [(&[&str], &str); 9] = [
        (&["run", "--cpu", "1", "--", "true"], "'--cpus'"),
        (&["taks", "list"], "'task'"),
        (&["task", "lsit"], "'list'"),
        (&["run", "--mem", "64X", "--", "true"], "64M"),
        (&["run", "--cpus", "nan", "--", "true"], "--cpus"),
        (&["run", "--cpus=-1", "--", "true"], "--cpus"),
        (&["run", "--mem", "1e30", "--", "true"], "--mem"),
        (&["run"], "CMD"),
        (&["ps", "--masters", ":::"], "--masters"),
    ];
    for (words, part) in table {
        let (code, stdout, stderr) = ran(words);
        assert_eq!(code, 2, "{words:?}");
        assert!(stderr.contains(part), "{words:?}: {stderr}");
        assert_eq!(stdout, "", "{words:?}");
    }
}

#[test]
fn masters_that_answer_nobody_end_with_five_and_name_each_address() {
    let (first, second) = (silent_address(), silent_address());
    let masters = format!("{first},{second}");
    for words in [
        &["ps"][..],
        &["status"],
        &["master", "list"],
        &["logs", "web"],
        &["explain", "web"],
    ] {
        let mut all = words.to_vec();
        all.extend(["--masters", &masters, "--timeout", "500ms"]);
        let (code, stdout, stderr) = ran(&all);
        assert_eq!(code, 5, "{words:?}: {stderr}");
        for address in [&first, &second] {
            assert!(
                stderr.contains(&format!("{address} refused")),
                "{words:?}: {stderr}"
            );
        }
        assert_eq!(stdout, "");
    }
}

#[test]
fn a_run_that_reaches_no_master_ends_with_five() {
    let masters = silent_address();
    let (code, _, stderr) = ran(&[
        "run",
        "--masters",
        &masters,
        "--timeout",
        "1s",
        "--",
        "true",
    ]);
    assert_eq!(code, 5, "{stderr}");
    assert!(stderr.contains(&format!("{masters} refused")), "{stderr}");
}

#[test]
fn the_list_of_masters_comes_from_the_environment_too() {
    let masters = silent_address();
    let output = argosy(&["ps", "--timeout", "300ms"])
        .env("ARGOSY_MASTERS", &masters)
        .output()
        .unwrap();
    let (code, _, stderr) = split(output);
    assert_eq!(code, 5);
    assert!(stderr.contains(&masters), "{stderr}");
    assert!(stderr.contains("check ARGOSY_MASTERS"), "{stderr}");
}

#[test]
fn with_json_a_failure_is_one_object_on_standard_error() {
    let masters = silent_address();
    let (code, stdout, stderr) = ran(&[
        "ps",
        "-o",
        "json",
        "--masters",
        &masters,
        "--timeout",
        "300ms",
    ]);
    assert_eq!((code, stdout.as_str()), (5, ""));
    let value: serde_json::Value = serde_json::from_str(&stderr).unwrap();
    assert_eq!(value["error"]["reason"], "unavailable");
}

#[test]
fn nothing_is_coloured_when_nobody_looks() {
    for words in [
        &["--help"][..],
        &["ps", "--bad"],
        &["doctor"],
        &["ps", "--masters", "127.0.0.1:1", "--timeout", "100ms"],
    ] {
        let (_, stdout, stderr) = ran(words);
        assert!(
            !stdout.contains('\u{1b}') && !stderr.contains('\u{1b}'),
            "{words:?}"
        );
    }
}

#[test]
fn version_tells_protocol_and_features() {
    let (code, stdout, _) = ran(&["version"]);
    assert_eq!(
        (code, stdout),
        (0, format!("argosy {}\n", env!("CARGO_PKG_VERSION")))
    );
    let (_, stdout, _) = ran(&["version", "-v"]);
    assert!(stdout.contains("argosy.v1, version 1"), "{stdout}");
    assert!(stdout.contains("rocksdb"), "{stdout}");
    assert!(
        !stdout.contains("testing"),
        "a program with test switches must not be the usual one: {stdout}"
    );
}

#[test]
fn completions_know_the_verbs() {
    for shell in ["bash", "zsh", "fish"] {
        let (code, stdout, _) = ran(&["completions", shell]);
        assert_eq!(code, 0);
        assert!(stdout.contains("teardown"), "{shell}");
    }
}

#[test]
fn a_master_refuses_to_listen_beyond_this_host_unasked() {
    let (code, _, stderr) = ran(&["master", "start", "--bootstrap", "--listen", "0.0.0.0:0"]);
    assert_eq!(code, 2);
    assert!(stderr.contains("--insecure-plaintext"), "{stderr}");
    assert!(stderr.contains("nothing is encrypted"), "{stderr}");
    let (code, _, stderr) = ran(&["agent", "start", "--listen", "0.0.0.0:0"]);
    assert_eq!(code, 2);
    assert!(stderr.contains("--insecure-plaintext"), "{stderr}");
}

#[test]
fn a_taken_address_is_an_error_that_names_its_owner() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("data");
    for words in [&["master", "start", "--bootstrap"][..], &["agent", "start"]] {
        let mut all = words.to_vec();
        all.extend([
            "--listen",
            &address,
            "--data-dir",
            directory.to_str().unwrap(),
        ]);
        if words[0] == "master" {
            all.extend(["--raft-listen", "127.0.0.1:0"]);
        }
        let (code, _, stderr) = ran(&all);
        assert_eq!(code, 1, "{stderr}");
        let owner = format!("{address} is taken by process {}", std::process::id());
        assert!(stderr.contains(&owner), "{stderr}");
    }
}

#[test]
fn a_master_without_peers_is_told_what_to_give() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().to_str().unwrap();
    let words = [
        "master",
        "start",
        "--listen",
        "127.0.0.1:0",
        "--raft-listen",
        "127.0.0.1:0",
        "--data-dir",
        directory,
    ];
    let (code, _, stderr) = ran(&words);
    assert_eq!(code, 1, "{stderr}");
    assert!(
        stderr.contains("--peers") && stderr.contains("--bootstrap"),
        "{stderr}"
    );
}

#[test]
fn a_foreign_directory_is_not_touched_by_a_master() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("precious.txt"), "x").unwrap();
    let directory = folder.path().to_str().unwrap();
    let words = [
        "master",
        "start",
        "--bootstrap",
        "--listen",
        "127.0.0.1:0",
        "--raft-listen",
        "127.0.0.1:0",
        "--data-dir",
        directory,
    ];
    let (code, _, stderr) = ran(&words);
    assert_eq!(code, 1, "{stderr}");
    assert!(
        stderr.contains("precious.txt") && stderr.contains(directory),
        "{stderr}"
    );
    assert_eq!(
        std::fs::read_to_string(folder.path().join("precious.txt")).unwrap(),
        "x"
    );
}

#[test]
fn stopping_an_agent_that_is_not_there_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let (code, _, stderr) = ran(&[
        "agent",
        "stop",
        "--data-dir",
        folder.path().to_str().unwrap(),
    ]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("no agent runs on"), "{stderr}");
    let absent = folder.path().join("absent");
    let (code, _, stderr) = ran(&["agent", "stop", "--data-dir", absent.to_str().unwrap()]);
    assert_eq!(code, 3, "{stderr}");
}

#[test]
fn a_dev_cluster_does_not_start_on_a_taken_address() {
    let pid = std::process::id();
    let base = format!("127.{}.{}.1", 80 + pid % 40, (pid / 40) % 250);
    let taken = TcpListener::bind(format!("{base}:5052")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut command = argosy(&["dev", "--size", "1x0", "--base", &base]);
    let (code, _, stderr) = split(command.env("TMPDIR", folder.path()).output().unwrap());
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("master-1 cannot start"), "{stderr}");
    assert!(
        stderr.contains(&format!("taken by process {pid}")),
        "{stderr}"
    );
    assert_eq!(
        std::fs::read_dir(folder.path()).unwrap().count(),
        0,
        "nothing is left"
    );
    drop(taken);
}
