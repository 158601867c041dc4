//! The built program from outside: exit codes, streams, the environment. No cluster is needed.
//! Invalid command lines have their table in `process/bad_input`.

use std::ffi::OsStr;
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::time::Duration;

use argosy_host::audit::{AuditEntry, AuditEvent, AuditLog, AuditSettings};
use argosy_testbed::processes::{end, remove_flag_variables};
use nix::sys::signal::Signal;

fn argosy(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_argosy"));
    remove_flag_variables(&mut command);
    command.args(words);
    command
}

fn run(words: &[&str]) -> (i32, String, String) {
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

/// Returns an address without a listener.
fn silent_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

#[test]
fn the_list_of_masters_can_come_from_the_environment() {
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
fn json_output_reports_a_failure_as_one_object_on_standard_error() {
    let masters = silent_address();
    let (code, stdout, stderr) = run(&[
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
fn output_is_not_coloured_without_a_terminal() {
    for words in [
        &["--help"][..],
        &["ps", "--bad"],
        &["doctor"],
        &["ps", "--masters", "127.0.0.1:1", "--timeout", "100ms"],
    ] {
        let (_, stdout, stderr) = run(words);
        assert!(
            !stdout.contains('\u{1b}') && !stderr.contains('\u{1b}'),
            "{words:?}"
        );
    }
}

#[test]
fn version_reports_protocol_and_features() {
    let (code, stdout, _) = run(&["version"]);
    assert_eq!(
        (code, stdout),
        (0, format!("argosy {}\n", env!("CARGO_PKG_VERSION")))
    );
    let (_, stdout, _) = run(&["version", "-v"]);
    assert!(stdout.contains("argosy.v1, version 1"), "{stdout}");
    assert!(stdout.contains("rocksdb"), "{stdout}");
    assert!(
        !stdout.contains("testing"),
        "a program with test switches must not be the usual one: {stdout}"
    );
}

#[test]
fn completions_contain_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let (code, script, _) = run(&["completions", shell]);
        assert_eq!(code, 0);
        assert!(script.contains("ARGOSY_COMPLETE="), "{shell}: {script}");
        // As the script calls it.
        let mut command = argosy(&["--", "argosy", "framework", "tear"]);
        command.env("ARGOSY_COMPLETE", shell);
        command.env("_CLAP_COMPLETE_INDEX", "2");
        let (code, stdout, stderr) = split(command.output().unwrap());
        assert_eq!((code, stderr.as_str()), (0, ""), "{shell}");
        assert!(stdout.starts_with("teardown"), "{shell}: {stdout}");
    }
}

#[test]
fn bash_completes_with_the_script_of_this_program() {
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_argosy"));
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{}:{path}", program.parent().unwrap().display());
    let line = "source <(argosy completions bash); COMP_WORDS=(argosy framework t); COMP_CWORD=2; \
                _clap_complete_argosy argosy t framework; echo \"${COMPREPLY[@]}\"";
    let output = Command::new("bash")
        .args(["-c", line])
        .env("PATH", path)
        .output();
    let (code, stdout, stderr) = split(output.unwrap());
    assert_eq!((code, stdout.trim()), (0, "teardown"), "{stderr}");
}

#[test]
fn bash_completes_paths_with_colons() {
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_argosy"));
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{}:{path}", program.parent().unwrap().display());
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("a:result.csv"), "").unwrap();
    // Bash divides words at colons, and replaces the part after the last one.
    let line = "source <(argosy completions bash); COMP_LINE='argosy cp ./a:re'; COMP_POINT=16; \
                COMP_WORDS=(argosy cp ./a : re); COMP_CWORD=4; \
                _clap_complete_argosy argosy re :; echo \"${COMPREPLY[@]}\"";
    let output = Command::new("bash")
        .args(["-c", line])
        .env("PATH", path)
        .current_dir(directory.path())
        .output();
    let (code, stdout, stderr) = split(output.unwrap());
    assert_eq!((code, stdout.trim()), (0, "result.csv"), "{stderr}");
}

#[test]
fn completions_without_a_cluster_are_empty_and_no_error() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let never_answers = silent.local_addr().unwrap().to_string();
    let unusual: [&[&str]; 4] = [
        &["argosy", "task", "show", "w"],
        &["argosy", "run", "--name", "--", "-x"],
        &["argosy", "run", "--name", "--unknown", "w"],
        &["argosy", "\u{1b}[2J", "zzz"],
    ];
    for masters in [silent_address(), never_answers, "no address".to_owned()] {
        for words in unusual {
            let mut command = argosy(&[&["--"], words].concat());
            command.env("ARGOSY_COMPLETE", "bash");
            command.env("ARGOSY_MASTERS", &masters);
            command.env("_CLAP_COMPLETE_INDEX", (words.len() - 1).to_string());
            let started = std::time::Instant::now();
            let (code, stdout, stderr) = split(command.output().unwrap());
            let all = (code, stdout.as_str(), stderr.as_str());
            assert_eq!(all, (0, "", ""), "{masters} {words:?}");
            assert!(started.elapsed().as_secs() < 5, "{masters} {words:?}");
        }
    }
}

#[test]
fn top_without_a_terminal_names_what_to_use_instead() {
    let (code, stdout, stderr) = run(&["top"]);
    assert_eq!((code, stdout.as_str()), (2, ""));
    assert!(stderr.contains("needs a terminal"), "{stderr}");
    assert!(stderr.contains("argosy task list --watch"), "{stderr}");
}

#[test]
fn a_fetch_directory_must_be_an_absolute_path() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("agent");
    let mut words = vec!["agent", "start", "--listen", "127.0.0.1:0"];
    words.extend(["--data-dir", data.to_str().unwrap()]);
    words.extend(["--fetch-dir", "files", "--insecure-plaintext"]);
    let (code, _, stderr) = run(&words);
    assert_eq!(code, 2, "{stderr}");
    let expected = "--fetch-dir files is not an absolute path; begin it with /";
    assert!(stderr.contains(expected), "{stderr}");
}

#[test]
fn stopping_an_absent_agent_is_reported() {
    let directory = tempfile::tempdir().unwrap();
    let (code, _, stderr) = run(&[
        "agent",
        "stop",
        "--data-dir",
        directory.path().to_str().unwrap(),
    ]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("no agent runs on"), "{stderr}");
    let absent = directory.path().join("absent");
    let (code, _, stderr) = run(&["agent", "stop", "--data-dir", absent.to_str().unwrap()]);
    assert_eq!(code, 3, "{stderr}");
}

#[test]
fn the_launcher_reports_its_release_and_serves_only_agents() {
    let launcher = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_argosy-launcher"));
        split(command.args(words).output().unwrap())
    };
    let version = format!("argosy-launcher {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(launcher(&["--version"]), (0, version, String::new()));
    let (code, _, stderr) = launcher(&[]);
    assert_eq!(code, 1);
    assert!(stderr.contains("started by an agent only"), "{stderr}");
}

#[test]
fn doctor_finds_the_launcher_next_to_the_executable() {
    let directory = tempfile::tempdir().unwrap();
    let (_, findings, _) = run(&[
        "doctor",
        "--data-dir",
        directory.path().to_str().unwrap(),
        "--output",
        "json",
    ]);
    let findings: serde_json::Value = serde_json::from_str(&findings).unwrap();
    let launcher = findings.as_array().unwrap().iter();
    let mut launcher = launcher.filter(|finding| finding["check"] == "launcher");
    assert_eq!(launcher.next().unwrap()["verdict"], "ok");
}

#[test]
fn a_variable_may_have_its_former_name_but_not_both_names() {
    let directory = tempfile::tempdir().unwrap();
    let started = |variables: &[(&str, &str)]| {
        let mut command = argosy(&["agent", "start", "--listen", "127.0.0.1:0", "--data-dir"]);
        command.arg(directory.path().join("agent"));
        command.arg("--insecure-plaintext");
        let (code, _, stderr) = split(command.envs(variables.iter().copied()).output().unwrap());
        assert_eq!(code, 2, "{stderr}");
        stderr
    };
    let (former, present) = ("ARGOSY_AGENT_SECRET_FOLDER", "ARGOSY_AGENT_SECRET_DIR");
    for name in [former, present] {
        let stderr = started(&[(name, "secrets")]);
        let expected = "--secret-dir secrets is not an absolute path; begin it with /";
        assert!(stderr.contains(expected), "{stderr}");
    }
    let stderr = started(&[(former, "/srv/a"), (present, "/srv/a")]);
    let expected = format!("{present} and its former name {former} are both set");
    assert!(stderr.contains(&expected), "{stderr}");
}

#[test]
fn a_variable_of_a_flag_without_a_value_is_a_word_for_yes_or_no() {
    // The filter is read after the whole command line, and nothing is started.
    let start = |text: &str| {
        let mut command = argosy(&["master", "start", "--log", "argosy=["]);
        command.env("ARGOSY_MASTER_ALLOW_FILES", text);
        split(command.output().unwrap())
    };
    let (code, _, stderr) = start("maybe");
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.contains("--allow-files"), "{stderr}");
    assert!(stderr.contains("yes, on or 1"), "{stderr}");
    for text in ["1", "off"] {
        let (code, _, stderr) = start(text);
        assert_eq!(code, 2, "{stderr}");
        assert!(stderr.contains("is not a filter"), "{stderr}");
    }
}

/// Writes an audit log of two files, and returns its directory.
fn audit_log(directory: &Path) -> PathBuf {
    let settings = AuditSettings {
        directory: directory.join("audit"),
        file_bytes: 1,
        files: 10,
    };
    let (log, writer) = AuditLog::open(&settings, || 5_000, |_| ()).unwrap();
    for event in [AuditEvent::Exec, AuditEvent::CallRefused] {
        log.record(AuditEntry {
            principal: "operator/alice".to_owned(),
            ..AuditEntry::new(5_000, event)
        });
    }
    drop(writer);
    settings.directory
}

#[test]
fn an_audit_log_is_shown_and_verified() {
    let directory = tempfile::tempdir().unwrap();
    let log = audit_log(directory.path());
    let log = log.to_str().unwrap();
    let (code, stdout, _) = run(&["audit", "show", "--event", "exec", log]);
    assert_eq!(code, 0);
    assert!(
        stdout.starts_with("1970-01-01T00:00:05.000Z exec ") && stdout.contains("operator/alice"),
        "{stdout}"
    );
    assert_eq!(stdout.lines().count(), 1);
    let (_, head, _) = run(&["audit", "show", "--head", log]);
    let verify = ["audit", "verify", "--head", head.trim(), log];
    let (code, _, stderr) = run(&verify);
    assert_eq!(code, 0, "{stderr}");
    assert!(
        stderr.contains(head.trim()) && stderr.contains("4 lines in 2 files"),
        "{stderr}"
    );
    let last = format!("{log}/audit-0000000002.log");
    let text = std::fs::read_to_string(&last).unwrap();
    std::fs::write(&last, text.replace("alice", "mallo")).unwrap();
    let (code, _, stderr) = run(&["audit", "verify", log]);
    assert_eq!(code, 1);
    let expected = format!("{last}, line 2: the chain value does not match");
    assert!(stderr.contains(&expected), "{stderr}");
    std::fs::write(&last, "no line\n").unwrap();
    let (code, stdout, stderr) = run(&["audit", "show", log]);
    assert_eq!((code, stdout.lines().count()), (1, 2));
    assert!(stderr.contains("1 lines are not shown"), "{stderr}");
    let (code, ..) = run(&["audit", "verify", directory.path().to_str().unwrap()]);
    assert_eq!(code, 3);
}

#[test]
fn the_commands_of_the_page_about_the_audit_log_work() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operate/audit.md");
    let page = std::fs::read_to_string(page).unwrap();
    let blocks: Vec<_> = page.split("```\n").skip(1).step_by(2).collect();
    assert!(blocks.len() >= 3, "{blocks:?}");
    let program = Path::new(env!("CARGO_BIN_EXE_argosy"));
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{}:{path}", program.parent().unwrap().display());
    let directory = tempfile::tempdir().unwrap();
    let log = audit_log(directory.path());
    for block in blocks {
        let block = ["master", "agent"]
            .iter()
            .fold(block.to_owned(), |block, kind| {
                let usual = format!("/var/lib/argosy/{kind}/audit");
                block.replace(&usual, log.to_str().unwrap())
            });
        let mut command = Command::new("sh");
        command.args(["-ec", &block]).env("PATH", &path);
        let (code, _, stderr) = split(command.output().unwrap());
        assert_eq!(code, 0, "{block}: {stderr}");
    }
}

/// Returns an address whose connections are accepted, and never answered.
fn mute_listener() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

/// Waits until a condition holds while the program runs.
fn wait_while_running(running: &mut Child, holds: impl Fn() -> bool) {
    while !holds() {
        assert!(running.try_wait().unwrap().is_none(), "it has ended");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn an_interrupted_snapshot_leaves_no_file() {
    let (_listener, masters) = mute_listener();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("argosy.snapshot");
    let words = [
        "snapshot",
        "save",
        "--timeout",
        "60s",
        "--masters",
        &masters,
    ];
    let mut saving = argosy(&words).arg(&file).spawn().unwrap();
    let files = || std::fs::read_dir(directory.path()).unwrap().count();
    wait_while_running(&mut saving, || files() > 0);
    let ended = end(&mut saving, Signal::SIGTERM, Duration::from_secs(20));
    assert_eq!(ended.unwrap().code(), Some(143));
    assert_eq!(files(), 0);
}

#[test]
fn a_bundle_that_fails_or_is_interrupted_leaves_no_file() {
    let (_listener, masters) = mute_listener();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("bundle.tar.gz");
    let words = [
        "debug",
        "bundle",
        "--timeout",
        "60s",
        "--masters",
        &masters,
        "--file",
        file.to_str().unwrap(),
    ];
    let (code, _, stderr) = run(&[&words[..], &["--tls-ca", "/nonexistent"]].concat());
    assert!(code != 0 && !file.exists(), "{code}: {stderr}");
    let mut collecting = argosy(&words).spawn().unwrap();
    wait_while_running(&mut collecting, || file.exists());
    let ended = end(&mut collecting, Signal::SIGTERM, Duration::from_secs(20));
    assert_eq!(ended.unwrap().code(), Some(143));
    assert!(!file.exists());
}

#[test]
fn the_first_signal_ends_a_rejoin_that_has_changed_nothing() {
    let (listener, masters) = mute_listener();
    listener.set_nonblocking(true).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let words = ["master", "rejoin", "--yes", "--insecure-plaintext"];
    let reach = ["--timeout", "60s", "--masters", &masters];
    let own = silent_address();
    let places = [
        "--listen",
        "127.0.0.1:0",
        "--raft-listen",
        &own,
        "--peers",
        &own,
    ];
    let mut rejoin = argosy(&[&words[..], &reach, &places].concat());
    rejoin.arg("--data-dir").arg(directory.path());
    let mut running = rejoin.spawn().unwrap();
    // It calls the masters before it asks for confirmation.
    wait_while_running(&mut running, || listener.accept().is_ok());
    let ended = end(&mut running, Signal::SIGTERM, Duration::from_secs(10));
    assert_eq!(ended.unwrap().signal(), Some(15));
}

#[test]
fn a_wait_with_a_limit_waits_for_a_leader_until_then() {
    let masters = silent_address();
    let words = [
        "wait",
        "task",
        "web",
        "--for",
        "running",
        "--timeout",
        "11s",
    ];
    let (code, _, stderr) = run(&[&words[..], &["--masters", &masters]].concat());
    assert_eq!(code, 1, "{stderr}");
    let text = "task web is not running after 11 s";
    assert!(stderr.contains(text), "{stderr}");
}

/// Backups are skipped on masters for which it exits with 1.
#[test]
fn without_an_answer_of_the_masters_the_leader_is_unknown() {
    let masters = silent_address();
    let words = ["wait", "master", "master-1", "--for", "leading"];
    let reach = ["--masters", &masters, "--timeout", "2s"];
    let words = [&words[..], &reach].concat();
    let (code, _, stderr) = run(&words);
    assert_eq!(code, 5, "{stderr}");
    assert!(stderr.contains(&masters), "{stderr}");
    let lost = ["--tls-ca", "/nonexistent"];
    let (code, _, stderr) = run(&[&words[..], &lost].concat());
    assert_eq!(code, 5, "{stderr}");
    assert!(stderr.contains("cannot read /nonexistent"), "{stderr}");
}

#[test]
fn an_unanswered_token_is_to_be_revoked() {
    let (_listener, masters) = mute_listener();
    let words = ["token", "create", "--principal", "operator/ci"];
    let reach = ["--masters", &masters, "--timeout", "300ms"];
    let (code, stdout, stderr) = run(&[&words[..], &reach].concat());
    assert_eq!((code, stdout.as_str()), (5, ""), "{stderr}");
    assert!(stderr.contains("argosy token revoke "), "{stderr}");
    assert!(!stderr.contains("--request-id"), "{stderr}");
}

#[test]
fn a_change_with_a_path_that_is_no_utf8_is_made() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join(OsStr::from_bytes(b"k\xe9y"));
    std::fs::write(&file, "allow operator/alice set-access *").unwrap();
    let (_listener, masters) = mute_listener();
    let mut command = argosy(&["acl", "set", "--masters", &masters]);
    command.args(["--timeout", "300ms"]).arg(&file);
    let (code, _, stderr) = split(command.output().unwrap());
    assert_eq!(code, 5, "{stderr}");
    let line = "outcome unknown, repeat safely: argosy acl set";
    assert!(stderr.contains(line), "{stderr}");
    assert!(stderr.contains("k\u{fffd}y"), "{stderr}");
}
