//! Tests of a container's lifecycle: statuses, refusals, output, signals, deadlines.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use argosy_host::BootTime;
use argosy_isolation::{
    CommandOutcome, Exit, LaunchError, LaunchSpec, Launcher, Program, StopAfter, StopReason,
    SupervisorNotice,
};

use crate::fixture::{RootFixture, TIMEOUT, TestCase, eventually, plain, stdout};
use crate::profile::profiled;

pub(crate) const CASES: &[TestCase] = &[
    ("exit_codes_and_signals_are_reported_exactly", statuses),
    (
        "a_command_that_cannot_be_started_is_reported_with_the_reason",
        refusals,
    ),
    (
        "a_launcher_whose_start_met_a_lack_of_memory_starts_containers_later",
        little_memory,
    ),
    ("an_invalid_request_is_rejected_before_it_is_sent", invalid),
    ("a_missing_sandbox_fails_the_start", no_sandbox),
    (
        "the_last_output_is_in_the_file_when_the_exit_is_reported",
        last_output,
    ),
    ("orphans_are_reaped", orphans),
    ("background_processes_end_with_the_command", leftovers_end),
    ("term_ends_a_command_by_default", term),
    (
        "a_command_that_ignores_term_is_killed_after_the_grace_period",
        grace,
    ),
    ("signals_reach_the_commands_group", signal),
    ("stop_after_kills_a_container_without_renewals", stop_after),
    ("stop_after_does_not_kill_a_renewed_container", renewed),
    ("a_container_past_its_stop_after_is_not_started", too_late),
    ("usage_is_measured", usage),
];

fn statuses() {
    let mut world = RootFixture::new();
    for modes in [true, false] {
        for (line, outcome) in [
            ("true", CommandOutcome::Exited(0)),
            ("exit 7", CommandOutcome::Exited(7)),
            ("exit 255", CommandOutcome::Exited(255)),
            ("kill -9 $$", CommandOutcome::Signaled(9)),
            ("kill -TERM $$", CommandOutcome::Signaled(15)),
            ("ulimit -c 0; kill -SEGV $$", CommandOutcome::Signaled(11)),
        ] {
            let spec = world.spec(line);
            let spec = if modes { spec } else { plain(spec) };
            let notice = world.run(&spec);
            assert_eq!(notice.outcome, outcome, "{line}");
            assert_eq!(notice.stop, None);
            // Without a group a supervisor does not know what is left.
            assert_eq!(notice.nothing_left, modes);
            let is_there = spec.cgroup.as_ref().is_some_and(|group| group.exists());
            assert!(!is_there, "its group is removed before its end is reported");
            let exit = Exit {
                nothing_left: false,
                ..notice
            };
            let file = fs::read(spec.directory.join("exit.json")).unwrap();
            assert_eq!(serde_json::from_slice::<Exit>(&file).unwrap(), exit);
        }
    }
}

fn refusals() {
    let mut world = RootFixture::new();
    for (argument, reason) in [
        (
            "no-such-thing",
            "cannot start \"no-such-thing\": No such file or directory; name a program of this host, or bring one with the task",
        ),
        (
            "/no/such/thing",
            "cannot start \"/no/such/thing\": No such file or directory; name a program of this host, or bring one with the task",
        ),
        (
            "/etc/passwd",
            "cannot start \"/etc/passwd\": Permission denied; it must be an executable file",
        ),
        (
            "/etc",
            "cannot start \"/etc\": Permission denied; it must be an executable file",
        ),
    ] {
        let mut spec = world.spec("");
        spec.program = Program::Arguments(vec![argument.into()]);
        let exit = world.run(&spec);
        assert_eq!(
            (exit.outcome, exit.reason.as_str()),
            (CommandOutcome::NotStarted, reason)
        );
        assert!(!spec.cgroup.unwrap().exists());
    }
    // The reason would exceed the limit of messages.
    let script = "echo \"\u{1}\"\n".repeat(13_000);
    let mut spec = world.spec("");
    spec.program = Program::Arguments(vec![script]);
    let exit = world.run(&spec);
    assert_eq!(exit.outcome, CommandOutcome::NotStarted, "{}", exit.reason);
    assert!(
        exit.reason.contains("File name too long"),
        "{}",
        exit.reason
    );
    let mut spec = world.spec("true");
    spec.working_dir = Some(format!("/{}", "d/".repeat(400_000)).into());
    let exit = world.run(&spec);
    assert_eq!(exit.outcome, CommandOutcome::NotStarted, "{}", exit.reason);
    assert!(
        exit.reason
            .starts_with("cannot enter the working directory /d/")
    );
    let spec = world.spec("no-such-thing");
    assert_eq!(
        world.run(&spec).outcome,
        CommandOutcome::Exited(127),
        "the shell did start"
    );
}

fn little_memory() {
    let mut world = RootFixture::new();
    let [first, second] = ["true", "true"].map(|line| profiled(&mut world, line));
    // The launcher's first copies are to fill the mounts that all containers share. With -D it is
    // the agent's child, and strace is not.
    let mut command = Command::new("strace");
    command.args(["-D", "-qq", "-o", "/dev/null", "-e", "trace=clone,clone3"]);
    command.args(["-e", "inject=clone,clone3:error=ENOMEM:when=1..2", "--"]);
    command
        .arg(std::env::current_exe().unwrap())
        .arg("launcher");
    world.launcher = Some(Launcher::spawn(&command, Some(&world.tree)).unwrap());
    let refused = world.launch(&first).wait_started(TIMEOUT).unwrap();
    let reason = refused.expect_err("there was no memory").reason;
    assert!(
        reason.contains("mount namespace for containers"),
        "{reason}"
    );
    assert_eq!(world.run(&second).reason, "exited with code 0");
}

fn invalid() {
    let mut world = RootFixture::new();
    let mut spec = world.spec("true");
    spec.environment = (0..10)
        .map(|number| (format!("V{number}"), "x".repeat(1 << 20)))
        .collect();
    let launcher = world.launcher.as_mut().unwrap();
    let Err(LaunchError::Spec(error)) = launcher.launch(&spec) else {
        panic!("10 MiB of environment were taken");
    };
    assert_eq!(error.field, "environment");
    assert!(error.to_string().contains("1 MiB"), "{error}");
    // The maximum request fits, even if every byte of it takes six in JSON.
    let mut spec = world.spec("true");
    spec.environment = (0..2)
        .map(|number| (format!("V{number}"), "\u{1}".repeat(100_000)))
        .collect();
    assert_eq!(world.run(&spec).outcome, CommandOutcome::Exited(0));
}

fn no_sandbox() {
    let mut world = RootFixture::new();
    let spec = world.spec("true");
    fs::remove_dir(&spec.sandbox).unwrap();
    let exit = world.run(&spec);
    assert_eq!(exit.outcome, CommandOutcome::NotStarted);
    assert!(exit.reason.contains("sandbox/stdout"), "{}", exit.reason);
    assert!(exit.reason.contains("No such file"), "{}", exit.reason);
    assert!(spec.directory.join("exit.json").exists());
    let mut spec = world.spec("true");
    spec.directory = "/no/such/folder".into();
    assert_eq!(world.run(&spec).outcome, CommandOutcome::NotStarted);
}

fn last_output() {
    let mut world = RootFixture::new();
    for _ in 0..20 {
        let spec = world.spec("seq 20000");
        assert_eq!(world.run(&spec).outcome, CommandOutcome::Exited(0));
        assert!(stdout(&spec).ends_with("\n20000\n"));
    }
}

fn orphans() {
    let mut world = RootFixture::new();
    // The inner shell leaves a child that ends after it; then no process may be a zombie.
    let line = "sh -c 'sleep 0.05 & exit'; \
                while grep -q sleep /proc/[0-9]*/comm 2>/dev/null; do sleep 0.01 & wait; done; \
                ! grep -l '^State:.Z' /proc/[0-9]*/status";
    let spec = world.spec(line);
    let mut container = world.launch(&spec);
    let ended = container.wait(Duration::from_secs(5));
    if ended.is_err() {
        // The loop's own sleeps keep it busy: kill it and report that.
        container.destroy(TIMEOUT).unwrap();
    }
    assert_eq!(
        ended.unwrap().outcome,
        CommandOutcome::Exited(0),
        "{}",
        stdout(&spec)
    );
}

fn leftovers_end() {
    let mut world = RootFixture::new();
    for modes in 0..3 {
        let mark = format!("81{modes}.{}", std::process::id());
        let line = format!("setsid sh -c 'sleep {mark} & sleep {mark}' & sleep 0.1; exit 3");
        let mut spec = world.spec(&line);
        match modes {
            0 => {}
            1 => spec.namespaces.pid = false,
            _ => spec = plain(spec),
        }
        assert_eq!(world.run(&spec).outcome, CommandOutcome::Exited(3));
        assert_eq!(crate::fixture::processes_with(&mark), 0, "mode {modes}");
    }
}

fn started(world: &mut RootFixture, line: &str) -> (LaunchSpec, argosy_isolation::Container) {
    let spec = world.spec(&format!("{line} echo ready; sleep 1000 & wait; wait"));
    let (container, _) = world.start(&spec);
    eventually("the command is ready", || stdout(&spec) == "ready\n");
    (spec, container)
}

fn term() {
    let mut world = RootFixture::new();
    let (_, mut container) = started(&mut world, "");
    container.kill(60_000).unwrap();
    let exit = container.wait(TIMEOUT).unwrap();
    assert_eq!(
        (exit.outcome, exit.stop),
        (CommandOutcome::Signaled(15), Some(StopReason::Ordered))
    );
    assert_eq!(
        exit.reason,
        "killed by signal 15 (SIGTERM) after it was told to end"
    );
    container.kill(0).expect("a late order is no error");
}

fn grace() {
    let mut world = RootFixture::new();
    let (_, mut container) = started(&mut world, "trap '' TERM;");
    let begin = Instant::now();
    container.kill(300).unwrap();
    let exit = container.wait(TIMEOUT).unwrap();
    assert_eq!(
        (exit.outcome, exit.stop),
        (CommandOutcome::Signaled(9), Some(StopReason::Ordered))
    );
    assert!(
        begin.elapsed() >= Duration::from_millis(290),
        "{:?}",
        begin.elapsed()
    );
}

fn signal() {
    let mut world = RootFixture::new();
    // SIGUSR1, SIGRTMIN+3 (the usual stop signal of images with systemd) and SIGRTMAX.
    for number in [10, 37, 64] {
        let (_, mut container) = started(&mut world, &format!("trap 'exit 5' {number};"));
        container.signal(number).unwrap();
        let exit = container.wait(TIMEOUT).unwrap();
        assert_eq!(exit.outcome, CommandOutcome::Exited(5), "{number}");
    }
}

fn until(milliseconds: u64) -> Option<StopAfter> {
    Some(StopAfter {
        deadline: BootTime::now() + Duration::from_millis(milliseconds),
        grace_ms: 10,
    })
}

fn stop_after() {
    let mut world = RootFixture::new();
    let mut spec = world.spec("trap '' TERM; sleep 1000 & wait; wait");
    // Long enough for a start on a busy host: past its deadline it would not start.
    spec.stop_after = until(5_000);
    let mut container = world.launch(&spec);
    let exit = container.wait(TIMEOUT).unwrap();
    assert_eq!(
        (exit.outcome, exit.stop),
        (CommandOutcome::Signaled(9), Some(StopReason::StopAfter))
    );
    assert!(exit.reason.contains("did not renew"), "{}", exit.reason);
}

fn renewed() {
    let mut world = RootFixture::new();
    let mut spec = world.spec("exec sleep 1000");
    spec.stop_after = until(5_000);
    let (mut container, _) = world.start(&spec);
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_millis(6_000) {
        container.renew(until(6_000).unwrap().deadline).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(
            container.notice().unwrap(),
            None::<SupervisorNotice>,
            "it lives while renewed"
        );
    }
    let exit = container.wait(TIMEOUT).unwrap();
    assert_eq!(exit.stop, Some(StopReason::StopAfter));
}

fn too_late() {
    let mut world = RootFixture::new();
    let mut spec = world.spec("echo began; exec sleep 1000");
    spec.stop_after = until(0);
    let mut container = world.launch(&spec);
    let exit = container.wait(TIMEOUT).unwrap();
    assert_eq!(exit.outcome, CommandOutcome::NotStarted);
    assert!(exit.reason.contains("stop_after"), "{}", exit.reason);
}

fn usage() {
    let mut world = RootFixture::new();
    let spec = world.spec("i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done");
    let (mut container, _) = world.start(&spec);
    eventually("processor time is counted while it runs", || {
        container.notice().unwrap();
        container.exit().is_some() || container.stats().cpu_us.is_some_and(|cpu_us| cpu_us > 0)
    });
    let exit = container.wait(TIMEOUT).unwrap();
    assert!(exit.usage.cpu_ms > 0, "{:?}", exit.usage);
    assert!(
        exit.usage
            .peak_memory_bytes
            .is_some_and(|bytes| bytes > 100_000)
    );
    assert!(exit.finished_at_ms > 1_600_000_000_000);
}
