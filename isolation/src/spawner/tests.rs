//! Tests of a spawner that runs in a thread.

use super::*;

#[test]
fn programs_are_executed_by_their_names_or_out_of_their_folders_and_no_others() {
    let programs = AllowedPrograms {
        files: vec!["nft".into(), "/proc/self/exe".into()],
        folders: vec!["/opt/cni/bin".into()],
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
fn a_spawner_executes_its_programs_tells_their_ends_and_refuses_others() {
    let (ours, theirs) = packet_pair().unwrap();
    let limit = Duration::from_secs(60);
    let serving = std::thread::spawn(move || {
        let programs = AllowedPrograms {
            files: vec!["/bin/sh".into(), "/nonexistent".into()],
            folders: Vec::new(),
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
        order(ours.as_fd(), &ProgramCall::of(&command), &streams, limit)
    };
    let ended = ordered("/bin/sh", "exit 7").unwrap().reaped(limit).unwrap();
    assert_eq!(ended.unwrap().code(), Some(7));
    let hanging = ordered("/bin/sh", "exec sleep 1000").unwrap();
    assert_eq!(hanging.reaped(Duration::ZERO).unwrap(), None);
    hanging.kill();
    assert_eq!(hanging.reaped(limit).unwrap().unwrap().signal(), Some(9));
    let missing = ordered("/nonexistent", "").unwrap_err();
    assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    let refused = ordered("/bin/true", "").unwrap_err().to_string();
    assert!(refused.contains("/bin/true is not a program"), "{refused}");
    drop(ours);
    serving.join().unwrap();
}

/// Nothing reads the orders until they have been given up.
#[test]
fn what_is_given_up_while_a_spawner_is_stopped_is_never_executed() {
    let (ours, theirs) = packet_pair().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let ordered = |name: &str, limit: Duration| {
        let mut command = Command::new("/usr/bin/touch");
        command.arg(folder.path().join(name));
        let null = || File::options().read(true).write(true).open("/dev/null");
        let streams = StandardStreams {
            input: null().unwrap().into(),
            output: null().unwrap().into(),
            error: None,
        };
        order(ours.as_fd(), &ProgramCall::of(&command), &streams, limit)
    };
    let given_up = ordered("given-up", Duration::from_millis(50)).unwrap_err();
    assert!(
        given_up.to_string().contains("does not respond"),
        "{given_up}"
    );
    let serving = std::thread::spawn(move || {
        let programs = AllowedPrograms {
            files: vec!["/usr/bin/touch".into()],
            folders: Vec::new(),
        };
        serve(theirs.as_fd(), &programs);
    });
    let limit = Duration::from_secs(60);
    let executed = ordered("executed", limit).unwrap();
    assert!(executed.reaped(limit).unwrap().unwrap().success());
    assert!(folder.path().join("executed").exists());
    assert!(!folder.path().join("given-up").exists());
    drop(ours);
    serving.join().unwrap();
}
