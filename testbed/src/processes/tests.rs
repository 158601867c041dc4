//! Processes that end with their handle, by themselves, by a signal and by the end of their input,
//! and processes that are frozen.

use std::io::Read;

use super::*;

fn process(directory: &Path, script: &str, launch: LaunchMethod) -> ManagedProcess {
    ManagedProcess::new(ProcessSpec {
        name: "process".to_owned(),
        launch,
        program: "/bin/sh".into(),
        arguments: ["-c", script].map(str::to_owned).to_vec(),
        log: directory.join("log"),
    })
}

fn exists(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

#[test]
fn a_process_ends_with_its_handle_even_when_it_is_frozen() {
    let directory = tempfile::tempdir().unwrap();
    let script = "exec sleep 1000";
    let mut sleeper = process(directory.path(), script, LaunchMethod::WithParent);
    sleeper.start().unwrap();
    let pid = sleeper.pid().unwrap();
    sleeper.send(Signal::SIGSTOP).unwrap();
    drop(sleeper);
    assert!(!exists(pid));
}

#[test]
fn the_last_log_lines_of_a_process_that_exits_early_are_reported() {
    let directory = tempfile::tempdir().unwrap();
    let script = "echo no disk; exit 3";
    let mut short = process(directory.path(), script, LaunchMethod::WithParent);
    short.start().unwrap();
    let end = Instant::now() + Duration::from_secs(10);
    let error = loop {
        match short.expect_running() {
            Err(error) => break error.to_string(),
            Ok(()) => assert!(Instant::now() < end, "it never ended"),
        }
    };
    assert!(error.contains("no disk"), "{error}");
}

#[test]
fn the_exit_of_a_process_is_reported_until_its_next_start() {
    let directory = tempfile::tempdir().unwrap();
    let mut process = process(directory.path(), "exit 3", LaunchMethod::Plain);
    for _ in 0..2 {
        process.start().unwrap();
        let end = Instant::now() + Duration::from_secs(10);
        while process.exit_status().is_none() {
            assert!(Instant::now() < end, "it never ended");
        }
        assert_eq!(process.exit_status().unwrap().code(), Some(3));
        assert_eq!(process.pid(), None);
    }
    process.kill();
    assert_eq!(process.exit_status(), None);
}

#[test]
fn a_child_that_ignores_its_signal_is_killed() {
    for (script, timeout, expected) in [
        ("exec sleep 1000", Duration::from_secs(10), "signal 15"),
        (
            "trap '' TERM; echo ready; while :; do sleep 1; done",
            Duration::from_millis(50),
            "signal 9",
        ),
    ] {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", script]).stdout(Stdio::piped());
        let mut child = shell.spawn().unwrap();
        if expected == "signal 9" {
            let mut line = [0; 6];
            child.stdout.take().unwrap().read_exact(&mut line).unwrap();
        }
        let status = end(&mut child, Signal::SIGTERM, timeout).unwrap();
        assert_eq!(describe(status), expected);
        assert_eq!(end(&mut child, Signal::SIGTERM, timeout).unwrap(), status);
    }
}

#[test]
fn a_process_can_exit_gracefully_when_its_input_is_closed() {
    let directory = tempfile::tempdir().unwrap();
    let script = "cat; echo goodbye";
    let mut polite = process(directory.path(), script, LaunchMethod::WithInput);
    polite.start().unwrap();
    drop(polite);
    assert_eq!(last_lines(&directory.path().join("log"), 8), "goodbye");
}

#[test]
fn a_frozen_process_is_stopped_until_it_is_resumed() {
    let directory = tempfile::tempdir().unwrap();
    let through = LaunchMethod::Through(["env", "--"].map(str::to_owned).to_vec());
    let mut sleeper = process(directory.path(), "exec sleep 1000", through);
    assert!(!sleeper.is_stopped());
    sleeper.start().unwrap();
    let end = Instant::now() + Duration::from_secs(10);
    for is_frozen in [true, false] {
        if is_frozen {
            sleeper.freeze().unwrap();
        } else {
            sleeper.resume();
        }
        while sleeper.is_stopped() != is_frozen {
            assert!(Instant::now() < end, "it never changed");
        }
    }
}
