//! Tests of a spawner that runs in a thread.

use super::*;

#[test]
fn only_allowed_programs_and_directories_are_executed() {
    let programs = AllowedPrograms {
        files: vec!["nft".into(), "/proc/self/exe".into()],
        directories: vec!["/opt/cni/bin".into()],
    };
    for program in ["nft", "/proc/self/exe", "/opt/cni/bin/bridge"] {
        assert!(programs.contains(OsStr::new(program)), "{program}");
    }
    for program in [
        "",
        "/bin/sh",
        "./nft",
        "/tmp/nft",
        "/opt/cni/bin",
        "/opt/cni/bin/../sh",
        "/opt/cni/bin/sub/bridge",
        "/opt/cni/bin/sub/../bridge",
    ] {
        assert!(!programs.contains(OsStr::new(program)), "{program}");
    }
}

#[test]
fn a_spawner_runs_allowed_programs_and_reports_their_exits() {
    let (ours, theirs) = packet_pair().unwrap();
    let limit = Duration::from_secs(60);
    let serving = std::thread::spawn(move || {
        let programs = AllowedPrograms {
            files: vec!["/bin/sh".into(), "/nonexistent".into()],
            directories: Vec::new(),
        };
        serve(theirs.as_fd(), &programs);
    });
    let ordered = |program: &str, line: &str| {
        let mut command = Command::new(program);
        command.args(["-c", line]);
        let streams = StandardStreams {
            input: File::open("/dev/null").unwrap().into(),
            output: File::options()
                .write(true)
                .open("/dev/null")
                .unwrap()
                .into(),
            error: None,
        };
        request(ours.as_fd(), &ProgramCall::of(&command), &streams, limit)
    };
    let ended = ordered("/bin/sh", "exit 7").unwrap().wait(limit).unwrap();
    assert_eq!(ended.unwrap().code(), Some(7));
    let hanging = ordered("/bin/sh", "exec sleep 1000").unwrap();
    assert_eq!(hanging.wait(Duration::ZERO).unwrap(), None);
    hanging.kill();
    assert_eq!(hanging.wait(limit).unwrap().unwrap().signal(), Some(9));
    let missing = ordered("/nonexistent", "").unwrap_err();
    assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    let refused = ordered("/bin/true", "").unwrap_err().to_string();
    assert!(refused.contains("/bin/true is not a program"), "{refused}");
    drop(ours);
    serving.join().unwrap();
}

/// Nothing reads the orders until they have been given up.
#[test]
fn a_request_that_timed_out_is_never_executed() {
    let (ours, theirs) = packet_pair().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let ordered = |name: &str, limit: Duration| {
        let mut command = Command::new("/usr/bin/touch");
        command.arg(directory.path().join(name));
        let null = || File::options().read(true).write(true).open("/dev/null");
        let streams = StandardStreams {
            input: null().unwrap().into(),
            output: null().unwrap().into(),
            error: None,
        };
        request(ours.as_fd(), &ProgramCall::of(&command), &streams, limit)
    };
    let given_up = ordered("given-up", Duration::from_millis(50)).unwrap_err();
    assert!(
        given_up.to_string().contains("does not respond"),
        "{given_up}"
    );
    let serving = std::thread::spawn(move || {
        let programs = AllowedPrograms {
            files: vec!["/usr/bin/touch".into()],
            directories: Vec::new(),
        };
        serve(theirs.as_fd(), &programs);
    });
    let limit = Duration::from_secs(60);
    let executed = ordered("executed", limit).unwrap();
    assert!(executed.wait(limit).unwrap().unwrap().success());
    assert!(directory.path().join("executed").exists());
    assert!(!directory.path().join("given-up").exists());
    drop(ours);
    serving.join().unwrap();
}
