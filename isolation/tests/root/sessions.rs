//! Tests of exec sessions: output and input of a command, and how its session ends.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use argosy_isolation::{
    CommandOutcome, Container, ExecAction, ExecNotice, ExecRequest, ExecSession, ExecStreams,
    Handle, LaunchSpec, Probe, ProbeKind, ProbeResult, Program, Scheme, WindowSize,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::exec_confinement::{
    end, enter, outcome, output, refusal, request, run, running, sleeping, started,
};
use crate::fixture::{
    Agent, RootFixture, TIMEOUT, TestCase, eventually, launcher_for, plain, processes_with,
};
use crate::profile::profiled;
use crate::tls;

pub(crate) const CASES: &[TestCase] = &[
    (
        "exec_streams_are_complete_and_the_exit_status_is_reported",
        streams,
    ),
    ("a_terminal_has_a_size_that_can_be_changed", terminal),
    ("a_terminal_forwards_interrupts_and_hangups", interrupts),
    ("an_exec_session_ends_with_its_client", client_gone),
    ("processes_started_by_an_exec_session_end_with_it", orphans),
    ("an_exec_session_ends_with_its_container", container_ended),
    (
        "exec_works_after_an_adoption_and_without_a_launcher",
        adopted,
    ),
    (
        "an_exec_session_is_lost_with_the_supervisor_of_its_container",
        supervisor_killed,
    ),
    (
        "a_container_that_stops_exec_sessions_stops_no_other_process",
        stopped,
    ),
    (
        "at_most_64_exec_sessions_run_at_a_time_and_leave_nothing",
        bounded,
    ),
    (
        "a_probe_connects_from_inside_the_container_and_executes_nothing",
        probes,
    ),
    (
        "a_tls_probe_runs_with_the_isolation_layers_of_a_command",
        tls_probes,
    ),
];

fn members(spec: &LaunchSpec) -> usize {
    let path = spec.cgroup.as_ref().unwrap().join("cgroup.procs");
    fs::read_to_string(path).unwrap().lines().count()
}

fn streams() {
    let mut world = RootFixture::new();
    for spec in [profiled(&mut world, ""), plain(world.spec(""))] {
        let (container, _) = world.start(&sleeping(spec));
        let input = "0123456789abcde\n".repeat(64 * 1024);
        let (out, err, how) = run(
            &container,
            &request("cat; echo told >&2; exit 7"),
            input.as_bytes(),
        );
        assert_eq!(out.len(), 1 << 20);
        assert!(out == input, "every byte");
        assert_eq!((err.as_str(), how), ("told\n", CommandOutcome::Exited(7)));
        let (_, _, how) = run(&container, &request("kill -SEGV $$"), b"");
        assert_eq!(how, CommandOutcome::Signaled(11));
        let reopened = output(&container, "echo there > /dev/stdout; echo > /dev/stderr");
        assert_eq!(reopened, "there\n", "the streams are its user's own");
        let (mut session, _streams) = enter(&container, "exec sleep 1000");
        session.signal(15).unwrap();
        assert_eq!(outcome(&mut session), CommandOutcome::Signaled(15));
        session.signal(15).unwrap();
        end(container);
    }
}

/// Starts a command on a terminal of 24 lines by 80 characters; returns after its first output.
fn on_terminal(container: &Container, line: &str) -> (ExecSession, File, String) {
    let mut asked = request(line);
    asked.terminal = Some(WindowSize {
        rows: 24,
        columns: 80,
    });
    let mut session = container.exec(&asked).unwrap();
    let ExecStreams::Terminal(master) = started(&mut session) else {
        panic!("a terminal was asked for")
    };
    let mut master = File::from(master);
    let reported = read_until(&mut master, "ready\r\n");
    (session, master, reported)
}

fn read_until(master: &mut File, awaited: &str) -> String {
    let deadline = Instant::now() + TIMEOUT;
    let mut reported = String::new();
    while !reported.ends_with(awaited) {
        assert!(Instant::now() < deadline, "{reported:?}");
        let mut watched = [PollFd::new(master.as_fd(), PollFlags::POLLIN)];
        if poll(&mut watched, PollTimeout::from(1000_u16)).unwrap() > 0 {
            let mut part = [0; 1024];
            let count = master.read(&mut part).unwrap();
            reported.push_str(std::str::from_utf8(&part[..count]).unwrap());
        }
    }
    reported
}

fn terminal() {
    let mut world = RootFixture::new();
    for (spec, first) in [(profiled(&mut world, ""), Some(0)), (world.spec(""), None)] {
        let (container, _) = world.start(&sleeping(spec));
        let line = "tty; stty size; echo > $(tty); trap 'stty size; exit 5' WINCH; echo ready; while :; do sleep 0.02; done";
        let (mut session, mut master, reported) = on_terminal(&container, line);
        let lines: Vec<_> = reported.split("\r\n").collect();
        let name = lines[0].strip_prefix("/dev/pts/").unwrap();
        let number: u32 = name.parse().unwrap();
        assert!(first.is_none_or(|first| first == number), "{reported}");
        assert_eq!(lines[1], "24 80");
        let larger = WindowSize {
            rows: 50,
            columns: 132,
        };
        larger.set(&master).unwrap();
        assert_eq!(read_until(&mut master, "132\r\n"), "50 132\r\n");
        assert_eq!(outcome(&mut session), CommandOutcome::Exited(5));
        end(container);
    }
}

fn interrupts() {
    let mut world = RootFixture::new();
    let spec = profiled(&mut world, "exec sleep 1000");
    let (container, _) = world.start(&spec);
    let (mut session, mut master, _) = on_terminal(&container, "echo ready; exec sleep 1000");
    master.write_all(b"\x03").unwrap();
    assert_eq!(outcome(&mut session), CommandOutcome::Signaled(2));
    let (mut session, master, _) = on_terminal(&container, "echo ready; exec sleep 1000");
    drop(master);
    assert_eq!(
        outcome(&mut session),
        CommandOutcome::Signaled(1),
        "hung up"
    );
    end(container);
}

/// Returns the number of processes, zombies included, of each exec monitor in this container.
fn monitor_children(spec: &LaunchSpec) -> Vec<usize> {
    let path = spec.cgroup.as_ref().unwrap().join("cgroup.procs");
    let members = fs::read_to_string(path).unwrap();
    let read = |pid: &str, name: &str| fs::read_to_string(format!("/proc/{pid}/{name}"));
    let is_monitor = |pid: &&str| read(pid, "comm").is_ok_and(|name| name == "argosy-entry\n");
    let children = |pid: &str| read(pid, &format!("task/{pid}/children")).unwrap();
    let monitors = members.lines().filter(is_monitor);
    monitors
        .map(|pid| children(pid).split_whitespace().count())
        .collect()
}

fn client_gone() {
    let mut world = RootFixture::new();
    let spec = profiled(&mut world, "exec sleep 1000");
    let (container, _) = world.start(&spec);
    for line in [
        "exec sleep 1000",
        "trap '' HUP TERM INT; while :; do sleep 0.02; done",
    ] {
        let (session, streams) = enter(&container, line);
        assert_eq!(members(&spec).min(4), 4, "a monitor and a command at least");
        drop(session);
        eventually("nothing of the session is left", || members(&spec) == 2);
        drop(streams);
    }
    // Disconnected before its command could be started.
    for _ in 0..20 {
        drop(container.exec(&request("exec sleep 1000")).unwrap());
    }
    assert_eq!(output(&container, "echo next"), "next\n");
    eventually("nothing of them is left", || members(&spec) == 2);
    end(container);
    // Without a group or namespaces as well.
    let spec = plain(world.spec("exec sleep 1000"));
    let (container, _) = world.start(&spec);
    let (session, _streams) = enter(&container, "exec sleep 1000.0001");
    eventually("it runs", || processes_with("1000.0001") == 1);
    drop(session);
    eventually("the process has ended", || processes_with("1000.0001") == 0);
    end(container);
}

fn orphans() {
    let mut world = RootFixture::new();
    let spec = profiled(&mut world, "exec sleep 1000");
    let (container, _) = world.start(&spec);
    let daemon = "setsid sh -c 'exec sleep 1000' < /dev/null > /dev/null 2>&1 &";
    let (_, _, how) = run(&container, &request(daemon), b"");
    assert_eq!(how, CommandOutcome::Exited(0));
    eventually("its descendants have ended", || members(&spec) == 2);
    // Processes that end during a session do not stay as zombies.
    let (session, _streams) = enter(
        &container,
        "for n in 1 2 3 4 5; do (true &); done; exec sleep 1000",
    );
    // A group does not list them, their parent does.
    eventually("the monitor has reaped them", || {
        monitor_children(&spec) == [1]
    });
    drop(session);
    eventually("nothing is left", || members(&spec) == 2);
    end(container);
}

fn container_ended() {
    let mut world = RootFixture::new();
    for spec in [profiled(&mut world, ""), plain(world.spec(""))] {
        let mut spec = spec;
        spec.program = Program::Shell("until [ -e go ]; do sleep 0.02; done; exit 3".into());
        let (mut container, _) = world.start(&spec);
        let (mut session, _streams) = enter(&container, "exec sleep 1000.0002");
        fs::write(spec.sandbox.join("go"), "").unwrap();
        assert_eq!(
            container.wait(TIMEOUT).unwrap().outcome,
            CommandOutcome::Exited(3)
        );
        assert!(session.wait(TIMEOUT).is_err(), "its end is not known");
        assert_eq!(processes_with("1000.0002"), 0);
        let late = container.exec(&request("true"));
        assert!(
            late.is_err() || late.unwrap().wait(TIMEOUT).is_err(),
            "too late"
        );
    }
}

fn adopted() {
    let mut world = RootFixture::new();
    let spec = profiled(&mut world, "exec sleep 1000");
    let agent = Agent::launching(&spec, Some(&world.tree), None);
    assert_eq!(Agent::outcome(&spec), "started");
    agent.kill();
    let container = running(&spec);
    let none = "CapEff:\t0000000000000000\nSeccomp:\t2\n";
    let isolation_layers = output(&container, "grep -E '^(CapEff|Seccomp):' /proc/self/status");
    assert_eq!(isolation_layers, none);
    // The death of a launcher affects neither a session nor the next one.
    let (mut session, _streams) = enter(&container, "exec sleep 1000");
    let launcher = world.launcher.as_mut().unwrap();
    let pid = nix::unistd::Pid::from_raw(launcher.pid() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::SIGKILL).unwrap();
    assert_eq!(output(&container, "echo next"), "next\n");
    session.signal(9).unwrap();
    assert_eq!(outcome(&mut session), CommandOutcome::Signaled(9));
    world.launcher = Some(launcher_for(Some(&world.tree)));
    // An exec command ends with its agent; the container does not.
    let (session, streams) = enter(&container, "exec sleep 1000");
    drop((container, session, streams));
    eventually("the session has ended", || members(&spec) == 2);
    end(running(&spec));
}

fn supervisor_killed() {
    let mut world = RootFixture::new();
    let spec = profiled(&mut world, "exec sleep 1000");
    let (mut container, handle) = world.start(&spec);
    let (mut session, _streams) = enter(&container, "exec sleep 1000.0003");
    let pid = nix::unistd::Pid::from_raw(handle.supervisor.pid);
    nix::sys::signal::kill(pid, nix::sys::signal::SIGKILL).unwrap();
    assert!(session.wait(TIMEOUT).is_err(), "its end is not known");
    eventually("it ends with its container", || {
        processes_with("1000.0003") == 0
    });
    assert!(container.wait(TIMEOUT).is_err());
    container.destroy(TIMEOUT).unwrap();
}

/// A process of the same user may stop it, before it is a command and after.
fn stopped() {
    let mut world = RootFixture::new();
    let spec = profiled(&mut world, "while :; do kill -STOP -1 2>/dev/null; done");
    let (container, _) = world.start(&spec);
    let mut sessions: Vec<_> = (0..8)
        .map(|_| container.exec(&request("sleep 1000")).unwrap())
        .collect();
    for session in &mut sessions {
        // It may have been stopped before it could be started: then there is no notice.
        let _ = session.wait(Duration::from_millis(50));
    }
    drop(sessions);
    eventually("the stopped process has ended", || members(&spec) == 2);
    end(container);
}

/// Returns the number of open descriptors of the processes that start exec commands.
fn descriptors(handle: &Handle) -> [usize; 2] {
    let count = |pid: i32| fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    [handle.supervisor.pid, handle.init.pid].map(count)
}

fn bounded() {
    let mut world = RootFixture::new();
    let spec = profiled(&mut world, "exec sleep 1000");
    let (container, handle) = world.start(&spec);
    let before = descriptors(&handle);
    let held: Vec<_> = (0..64)
        .map(|_| enter(&container, "exec sleep 1000"))
        .collect();
    let reason = refusal(&container, &request("true"));
    assert!(reason.contains("64 exec sessions"), "{reason}");
    drop(held);
    eventually("there is room again", || members(&spec) == 2);
    assert_eq!(output(&container, "echo next"), "next\n");
    eventually("nothing is left", || members(&spec) == 2);
    // Init closes those of the last command a moment after its processes have ended.
    eventually("no descriptor is left", || descriptors(&handle) == before);
    end(container);
}

/// Returns the result of a probe in the container.
fn ask(container: &Container, kind: ProbeKind, port: u16) -> ProbeResult {
    let probe = Probe {
        port,
        timeout_ms: 30_000,
        kind,
    };
    let request = ExecRequest::new(ExecAction::Probe(probe));
    match container.exec(&request).unwrap().wait(TIMEOUT).unwrap() {
        ExecNotice::Probed(result) => result,
        other => panic!("{other:?}"),
    }
}

fn probes() {
    let mut world = RootFixture::new();
    let spec = profiled(&mut world, "exec sleep 1000");
    let (container, _) = world.start(&spec);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let ask = |kind, port| ask(&container, kind, port);
    assert_eq!(ask(ProbeKind::Tcp, port), ProbeResult::Pass);
    for (status, passes) in [("200 OK", true), ("500 Oh", false)] {
        let server = std::thread::spawn({
            let listener = listener.try_clone().unwrap();
            move || {
                // The first is left over from the probe before it.
                for stream in listener.incoming().flatten() {
                    let mut stream = stream;
                    let mut asked = [0; 1024];
                    if stream.read(&mut asked).is_ok_and(|count| count > 0) {
                        return write!(stream, "HTTP/1.1 {status}\r\n\r\n").unwrap();
                    }
                }
            }
        });
        let path = "/health".to_owned();
        let statuses = std::collections::BTreeSet::new();
        let kind = ProbeKind::Http {
            scheme: Scheme::Http,
            path,
            statuses,
        };
        let found = ask(kind, port);
        assert_eq!(found == ProbeResult::Pass, passes, "{found:?}");
        server.join().unwrap();
    }
    drop(listener);
    let ProbeResult::Fail { reason } = ask(ProbeKind::Tcp, port) else {
        panic!("no server listens")
    };
    assert!(reason.contains("cannot connect"), "{reason}");
    let mut nowhere = ExecRequest::new(ExecAction::Command(Program::Shell("x".into())));
    nowhere.work = ExecAction::Probe(Probe {
        port: 0,
        timeout_ms: 1,
        kind: ProbeKind::Tcp,
    });
    assert!(refusal(&container, &nowhere).contains("1 to 65,535"));
    end(container);
}

fn tls_probes() {
    let mut world = RootFixture::new();
    let spec = profiled(&mut world, "exec sleep 1000");
    let (container, _) = world.start(&spec);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let kind = || ProbeKind::Http {
        scheme: Scheme::Https,
        path: "/".to_owned(),
        statuses: std::collections::BTreeSet::new(),
    };
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        for (status, passes) in [("302 Over there", true), ("404 Not here", false)] {
            let listener = listener.try_clone().unwrap();
            let server = std::thread::spawn(move || {
                let (stream, _) = listener.accept().unwrap();
                tls::answer(stream, version, &format!("HTTP/1.1 {status}\r\n\r\n")).unwrap()
            });
            let found = ask(&container, kind(), port);
            assert_eq!(found == ProbeResult::Pass, passes, "{found:?}");
            server.join().unwrap();
        }
    }
    eventually("nothing is left of them", || members(&spec) == 2);
    end(container);
}
