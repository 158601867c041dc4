//! Tests of adoption: agents that die and restart.

use std::fs;
use std::io::Write as _;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use argosy_host::ProcessId;
use argosy_isolation::{
    Adoption, Cgroup, CommandOutcome, Container, Exit, Handle, LaunchError, LaunchSpec, adopt,
};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use nix::unistd::Pid;

use crate::fixture::{Agent, RootFixture, TIMEOUT, TestCase, eventually, plain, stdout};

pub(crate) const CASES: &[TestCase] = &[
    (
        "a_container_survives_agent_and_launcher_and_is_adopted_with_the_same_pid",
        outlives,
    ),
    ("an_exit_while_the_agent_is_down_is_recorded", exit_kept),
    (
        "an_exit_that_could_not_be_written_is_kept_after_an_agent_has_received_it",
        unwritten,
    ),
    (
        "a_directory_path_longer_than_a_socket_address_is_supported",
        long_path,
    ),
    ("a_second_adoption_works_after_the_first", adopted_twice),
    (
        "an_adoption_of_a_stopped_supervisor_times_out",
        stopped_supervisor,
    ),
    ("a_reused_pid_is_not_adopted", recycled),
    ("a_container_of_an_earlier_boot_is_gone", other_boot),
    ("a_process_outside_its_group_is_not_adopted", other_group),
    ("a_container_that_is_ending_is_adopted_with_its_end", ending),
    ("a_launch_voided_by_an_adoption_never_starts", voided),
    (
        "a_container_whose_supervisor_is_killed_ends_and_is_reported_as_gone",
        supervisor_killed,
    ),
    ("the_death_of_a_launcher_is_detected", launcher_killed),
    ("an_invalid_message_ends_a_launcher", garbage),
    ("two_launches_into_one_directory_start_once", twice),
];

const SLEEP: &str = "echo run >> runs; exec sleep 1000";

fn running(spec: &LaunchSpec) -> Container {
    match adopt(&spec.directory).unwrap() {
        Adoption::Running(container) => container,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn exited(spec: &LaunchSpec) -> Exit {
    match adopt(&spec.directory).unwrap() {
        Adoption::Exited(exit) => exit,
        other => panic!("{other:?}"),
    }
}

fn gone(spec: &LaunchSpec) -> String {
    match adopt(&spec.directory).unwrap() {
        Adoption::Gone { reason } => reason,
        other => panic!("{other:?}"),
    }
}

fn is_alive(process: ProcessId) -> bool {
    process.open().unwrap().is_some()
}

/// Waits until the line is complete: the shell opens the file before it writes.
fn has_run(spec: &LaunchSpec) {
    eventually("it runs", || {
        fs::read_to_string(spec.sandbox.join("runs")).is_ok_and(|runs| runs.ends_with('\n'))
    });
}

fn outlives() {
    let mut world = RootFixture::new();
    for spec in [world.spec(SLEEP), plain(world.spec(SLEEP))] {
        let agent = Agent::launching(&spec, Some(&world.tree), None);
        assert_eq!(Agent::outcome(&spec), "started");
        has_run(&spec);
        agent.kill();
        let mut container = running(&spec);
        let handle = container.handle().unwrap().clone();
        assert_eq!(handle.nonce, 42);
        assert!(is_alive(handle.init) && is_alive(handle.supervisor));
        assert_eq!(handle.init, ProcessId::of(handle.init.pid).unwrap());
        container.kill(60_000).unwrap();
        assert_eq!(
            container.wait(TIMEOUT).unwrap().outcome,
            CommandOutcome::Signaled(15)
        );
        assert_eq!(
            fs::read_to_string(spec.sandbox.join("runs")).unwrap(),
            "run\n"
        );
        assert_eq!(exited(&spec).outcome, CommandOutcome::Signaled(15));
    }
}

/// A small file system at a directory, which is unmounted with the value.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn at(directory: &Path) -> Self {
        let options = Some("size=64k,mode=0711");
        let flags = MsFlags::empty();
        mount(
            Some("argosy-test"),
            directory,
            Some("tmpfs"),
            flags,
            options,
        )
        .unwrap();
        Self(directory.to_owned())
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    /// Writes until not a byte is left.
    fn fill(&self) {
        let mut filler = fs::File::create(self.filler()).unwrap();
        while filler.write_all(&[1; 4096]).is_ok() {}
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        umount2(&self.0, MntFlags::MNT_DETACH).unwrap();
    }
}

fn unwritten() {
    let mut world = RootFixture::new();
    let spec = world.spec("exec sleep 1000");
    let disk = SmallDisk::at(&spec.directory);
    fs::create_dir(&spec.sandbox).unwrap();
    let (mut container, _) = world.start(&spec);
    disk.fill();
    container.kill(60_000).unwrap();
    let received = container.wait(TIMEOUT).unwrap().outcome;
    assert_eq!(received, CommandOutcome::Signaled(15));
    // The agent ends before its journal has it, and another one is started when there is space.
    drop(container);
    fs::remove_file(disk.filler()).unwrap();
    let outcome = match adopt(&spec.directory).unwrap() {
        Adoption::Running(mut container) => container.wait(TIMEOUT).unwrap().outcome,
        Adoption::Exited(exit) => exit.outcome,
        other => panic!("{other:?}"),
    };
    assert_eq!(outcome, CommandOutcome::Signaled(15));
}

fn long_path() {
    let mut world = RootFixture::new();
    let mut spec = world.spec(SLEEP);
    spec.directory = spec.directory.join("long".repeat(50));
    fs::create_dir(&spec.directory).unwrap();
    let (container, handle) = world.start(&spec);
    drop(container);
    let mut adopted = running(&spec);
    assert_eq!(adopted.handle(), Some(&handle));
    adopted.kill(0).unwrap();
    assert_eq!(
        adopted.wait(TIMEOUT).unwrap().outcome,
        CommandOutcome::Signaled(9)
    );
}

fn exit_kept() {
    let mut world = RootFixture::new();
    let spec = world.spec("until [ -e go ]; do sleep 0.01; done; echo late; exit 7");
    let agent = Agent::launching(&spec, Some(&world.tree), None);
    agent.kill();
    fs::write(spec.sandbox.join("go"), "").unwrap();
    eventually("the supervisor writes the status", || {
        spec.directory.join("exit.json").exists()
    });
    let exit = exited(&spec);
    assert_eq!(
        (exit.outcome, exit.reason.as_str()),
        (CommandOutcome::Exited(7), "exited with code 7")
    );
    assert_eq!(stdout(&spec), "late\n", "stdio was kept as well");
    assert!(!spec.cgroup.as_ref().unwrap().exists());
    eventually("the supervisor removes its socket", || {
        !spec.directory.join("control").exists()
    });
}

fn adopted_twice() {
    let mut world = RootFixture::new();
    let spec = world.spec(SLEEP);
    let (first, handle) = world.start(&spec);
    drop(first);
    let second = running(&spec);
    assert_eq!(second.handle(), Some(&handle));
    drop(second);
    let mut third = running(&spec);
    third.destroy(TIMEOUT).unwrap();
    assert_eq!(
        third.wait(TIMEOUT).unwrap().outcome,
        CommandOutcome::Signaled(9)
    );
}

/// Changes the handle as if another container's had been found.
fn forge(spec: &LaunchSpec, change: impl FnOnce(&mut serde_json::Value)) {
    let path = spec.directory.join("handle.json");
    let mut claim: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut claim["held"]);
    fs::write(&path, serde_json::to_vec(&claim).unwrap()).unwrap();
}

fn forged(change: impl FnOnce(&mut serde_json::Value, &Handle)) -> String {
    let mut world = RootFixture::new();
    let spec = world.spec(SLEEP);
    let (container, handle) = world.start(&spec);
    drop(container);
    let path = spec.directory.join("handle.json");
    let original = fs::read(&path).unwrap();
    forge(&spec, |held| change(held, &handle));
    let reason = gone(&spec);
    assert!(is_alive(handle.init), "an unrelated process is unaffected");
    fs::write(&path, original).unwrap();
    running(&spec).destroy(TIMEOUT).unwrap();
    reason
}

fn recycled() {
    let reason = forged(|held, handle| {
        held["supervisor"]["start_ticks"] = (handle.supervisor.start_ticks - 1).into();
    });
    assert!(reason.contains("has exited"), "{reason}");
    // The process is not killed in place of the container's either.
    let mut world = RootFixture::new();
    let spec = world.spec(SLEEP);
    let (mut container, handle) = world.start(&spec);
    // Start times have a resolution of 10 ms, and no process id is reused so soon.
    std::thread::sleep(std::time::Duration::from_millis(30));
    let victim = std::process::Command::new("sleep").arg("1000").spawn();
    let mut victim = victim.unwrap();
    forge(&spec, |held| {
        held["supervisor"]["pid"] = victim.id().into();
        held["init"]["pid"] = victim.id().into();
    });
    container.destroy(TIMEOUT).unwrap();
    assert!(
        victim.try_wait().unwrap().is_none(),
        "the unrelated process is alive"
    );
    victim.kill().unwrap();
    victim.wait().unwrap();
    // The test waited only for its group, which it leaves shortly before it has ended.
    eventually("its init has ended", || !is_alive(handle.init));
    assert_eq!(
        container.wait(TIMEOUT).unwrap().outcome,
        CommandOutcome::Signaled(9)
    );
}

fn stopped_supervisor() {
    let mut world = RootFixture::new();
    let spec = world.spec(SLEEP);
    let (container, handle) = world.start(&spec);
    drop(container);
    let path = spec.directory.join("control");
    eventually("the supervisor listens", || path.exists());
    let supervisor = Pid::from_raw(handle.supervisor.pid);
    kill(supervisor, Signal::SIGSTOP).unwrap();
    // Earlier attempts have filled the queue of the socket.
    let queued: Vec<_> = std::iter::from_fn(|| queue(&path)).collect();
    assert!(!queued.is_empty());
    let directory = spec.directory.clone();
    let (sender, result) = std::sync::mpsc::channel();
    let adopting = std::thread::spawn(move || sender.send(adopt(&directory)).unwrap());
    let adopted = result.recv_timeout(TIMEOUT / 3);
    kill(supervisor, Signal::SIGCONT).unwrap();
    drop(queued);
    adopting.join().unwrap();
    let error = adopted.expect("it ends in time").unwrap_err();
    assert!(error.to_string().contains("does not answer"), "{error}");
    let mut container = running(&spec);
    container.kill(0).unwrap();
    container.wait(TIMEOUT).unwrap();
}

/// Connects to a socket; `None` if its queue is full.
fn queue(path: &Path) -> Option<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let connection = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).unwrap();
    let address = UnixAddr::new(path).unwrap();
    match connect(connection.as_raw_fd(), &address) {
        Ok(()) => Some(connection),
        Err(Errno::EAGAIN) => None,
        Err(errno) => panic!("{errno}"),
    }
}

fn other_boot() {
    let reason = forged(|held, _| held["boot_id"] = "another".into());
    assert!(reason.contains("restarted"), "{reason}");
}

fn other_group() {
    let mut world = RootFixture::new();
    let spec = world.spec(SLEEP);
    let (container, handle) = world.start(&spec);
    drop(container);
    let stray = Cgroup::at(&world.tree.root().join("stray"));
    stray.create().unwrap();
    stray.add(handle.init.pid).unwrap();
    let reason = gone(&spec);
    assert!(reason.contains("not in its cgroup"), "{reason}");
    stray.remove(TIMEOUT).unwrap();
    eventually("the supervisor reports", || {
        spec.directory.join("exit.json").exists()
    });
}

/// A container whose init is exiting, and waits for a process of its namespace that is never
/// reaped.
fn ending() {
    let mut world = RootFixture::new();
    let spec = world.spec(SLEEP);
    let (container, handle) = world.start(&spec);
    drop(container);
    let init = handle.init.pid;
    let mut parent = std::process::Command::new("nsenter");
    parent.args(["--target", &init.to_string(), "--pid", "sleep", "1000"]);
    let parent = KilledOnDrop(parent.spawn().unwrap());
    let pid = parent.0.id();
    eventually("there is a process with a parent elsewhere", || {
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        children.is_ok_and(|children| !children.is_empty())
    });
    let signal = |pid: i32, signal| kill(Pid::from_raw(pid), signal).unwrap();
    signal(pid.cast_signed(), Signal::SIGSTOP);
    // A parent that has not stopped yet would reap the child, and the init would end.
    eventually("the parent has stopped", || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.rsplit_once(") ").unwrap().1.starts_with('T')
    });
    signal(init, Signal::SIGKILL);
    let group = Cgroup::at(spec.cgroup.as_ref().unwrap());
    eventually("it has left its group", || !group.contains(init).unwrap());
    assert!(is_alive(handle.init), "and has not ended");
    let mut container = running(&spec);
    drop(parent);
    assert_eq!(
        container.wait(TIMEOUT).unwrap().outcome,
        CommandOutcome::Signaled(9)
    );
    container.destroy(TIMEOUT).unwrap();
}

/// A process of a test, which ends with it, also if the test fails.
struct KilledOnDrop(std::process::Child);

impl Drop for KilledOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn voided() {
    let mut world = RootFixture::new();
    let spec = world.spec(SLEEP);
    assert!(gone(&spec).contains("never"));
    let exit = world.run(&spec);
    assert_eq!(exit.outcome, CommandOutcome::NotStarted);
    assert_eq!(exit.reason, "the launch was cancelled before it started");
    assert!(!spec.sandbox.join("runs").exists());
    assert!(!spec.cgroup.unwrap().exists());
}

fn supervisor_killed() {
    let mut world = RootFixture::new();
    for spec in [world.spec(SLEEP), plain(world.spec(SLEEP))] {
        let (mut container, handle) = world.start(&spec);
        let pid = nix::unistd::Pid::from_raw(handle.supervisor.pid);
        nix::sys::signal::kill(pid, nix::sys::signal::SIGKILL).unwrap();
        eventually("the container ends with its supervisor", || {
            !is_alive(handle.init)
        });
        let lost = container.wait(TIMEOUT).unwrap_err();
        assert!(lost.to_string().contains("left no exit status"), "{lost}");
        assert!(gone(&spec).contains("has exited"));
        container.destroy(TIMEOUT).unwrap();
        assert!(!world.tree.group(&spec.id).path().exists());
    }
}

fn launcher_killed() {
    let mut world = RootFixture::new();
    let spec = world.spec(SLEEP);
    let (mut container, handle) = world.start(&spec);
    let launcher = world.launcher.as_mut().unwrap();
    let pid = nix::unistd::Pid::from_raw(launcher.pid() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::SIGKILL).unwrap();
    let next = world.spec(SLEEP);
    // It may accept one request that is never read: then the container never starts.
    eventually("the launcher's end is noticed", || {
        let launcher = world.launcher.as_mut().unwrap();
        match launcher.launch(&next) {
            Err(LaunchError::Gone { .. }) => true,
            Err(error) => panic!("{error}"),
            Ok(mut container) => container.wait(TIMEOUT).is_err(),
        }
    });
    assert!(!next.sandbox.join("runs").exists());
    assert!(is_alive(handle.init), "containers do not notice");
    world.launcher = Some(crate::fixture::launcher_for(Some(&world.tree)));
    let after = world.spec("exit 3");
    assert_eq!(world.run(&after).outcome, CommandOutcome::Exited(3));
    container.kill(0).unwrap();
    assert_eq!(
        container.wait(TIMEOUT).unwrap().outcome,
        CommandOutcome::Signaled(9)
    );
}

fn garbage() {
    use std::io::{Read, Write};
    use std::process::{Command, Stdio};
    let (mut ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.arg("launcher").stderr(Stdio::piped());
    command.stdin(std::os::fd::OwnedFd::from(theirs));
    let mut launcher = command.spawn().unwrap();
    drop(command);
    ours.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    let mut message = String::new();
    launcher
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut message)
        .unwrap();
    assert!(!launcher.wait().unwrap().success());
    assert_eq!(message, "a launch request is invalid\n");
}

fn twice() {
    let mut world = RootFixture::new();
    let spec = world.spec(SLEEP);
    let (mut container, _) = world.start(&spec);
    let exit = world.run(&spec);
    assert_eq!(exit.outcome, CommandOutcome::NotStarted, "{}", exit.reason);
    assert!(
        !spec.directory.join("exit.json").exists(),
        "the end of the first is not reported"
    );
    has_run(&spec);
    assert_eq!(
        fs::read_to_string(spec.sandbox.join("runs")).unwrap(),
        "run\n"
    );
    container.destroy(TIMEOUT).unwrap();
    assert_eq!(
        container.wait(TIMEOUT).unwrap().outcome,
        CommandOutcome::Signaled(9)
    );
}
