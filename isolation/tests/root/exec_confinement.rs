//! Tests of exec: an exec command is confined like the main command, and cannot be attacked while
//! it enters.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use argosy_isolation::{
    Adoption, CommandOutcome, Container, ContainerUser, ExecAction, ExecNotice, ExecRequest,
    ExecSession, ExecStreams, LaunchSpec, Program, ResourceLimit, adopt, detect,
};

use crate::fixture::{Agent, RootFixture, TIMEOUT, TestCase, eventually, plain, skip, spec_in};
use crate::profile::{give_sandbox, profiled};

pub(crate) const CASES: &[TestCase] = &[
    ("an_exec_session_is_confined_like_the_command", confined),
    (
        "an_exec_session_of_an_unprivileged_agent_is_confined_like_the_command",
        confined_unprivileged,
    ),
    (
        "exec_sessions_and_container_processes_see_each_other",
        neighbours,
    ),
    (
        "user_environment_and_working_directory_of_an_exec_session_can_be_set",
        named,
    ),
    (
        "an_exec_of_an_invalid_program_is_rejected_with_a_message",
        refused,
    ),
    (
        "the_exec_helper_cannot_be_executed_from_inside_a_container",
        own_executable,
    ),
    (
        "an_unprivileged_process_cannot_trace_an_exec_session_before_it_executes",
        not_traced_by_unprivileged,
    ),
    (
        "container_root_cannot_trace_an_exec_session_before_it_executes",
        caught_by_root,
    ),
];

pub(crate) fn request(line: &str) -> ExecRequest {
    ExecRequest::new(ExecAction::Command(Program::Shell(line.to_owned())))
}

/// Returns the streams of a session whose command was started.
pub(crate) fn started(session: &mut ExecSession) -> ExecStreams {
    match session.wait(TIMEOUT).unwrap() {
        ExecNotice::Started(streams) => streams,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn outcome(session: &mut ExecSession) -> CommandOutcome {
    match session.wait(TIMEOUT).unwrap() {
        ExecNotice::Ended(outcome) => outcome,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn enter(container: &Container, line: &str) -> (ExecSession, ExecStreams) {
    let mut session = container.exec(&request(line)).unwrap();
    let streams = started(&mut session);
    (session, streams)
}

/// Runs an exec command with this input; returns its output and how it ended.
pub(crate) fn run(
    container: &Container,
    request: &ExecRequest,
    input: &[u8],
) -> (String, String, CommandOutcome) {
    let mut session = container.exec(request).unwrap();
    let ExecStreams::Pipes {
        stdin,
        stdout,
        stderr,
    } = started(&mut session)
    else {
        panic!("no terminal was asked for")
    };
    let read = |from: OwnedFd| {
        let mut text = Vec::new();
        File::from(from).read_to_end(&mut text).unwrap();
        String::from_utf8(text).unwrap()
    };
    let (out, err) = std::thread::scope(|scope| {
        // A command that does not read its input closes the pipe.
        scope.spawn(move || drop(File::from(stdin).write_all(input)));
        let err = scope.spawn(|| read(stderr));
        (read(stdout), err.join().unwrap())
    });
    (out, err, outcome(&mut session))
}

/// Returns its output; the command must succeed.
pub(crate) fn output(container: &Container, line: &str) -> String {
    let (out, err, outcome) = run(container, &request(line), b"");
    assert_eq!(outcome, CommandOutcome::Exited(0), "{line}: {out}{err}");
    out
}

/// Everything that a shell can report about its confinement.
const PORTRAIT: &str = "for kind in user pid mnt ipc uts cgroup net; do readlink /proc/self/ns/$kind; done
grep -E '^(Uid|Gid|Groups|Umask|Sig(Blk|Ign|Cgt)|Cap|NoNewPrivs|Seccomp|Cpus_allowed:|THP)' /proc/self/status
cat /proc/self/uid_map /proc/self/gid_map /proc/self/cgroup /proc/self/limits /proc/self/oom_score_adj
pwd; umask; stat -c %d:%i / .; hostname; env | grep -v '^_=' | sort; ls /proc/$$/fd
set -- $(cat /proc/$$/stat); [ $5 = $$ ] && [ $6 = $$ ] && echo leads its session; echo terminal $7";

/// Starts the container of this launch with a command that prints its portrait, and compares it
/// with that of an exec command.
fn compare(world: &mut RootFixture, mut spec: LaunchSpec) {
    spec.environment = vec![("GIVEN".into(), "a b=c".into())];
    spec.resource_limits = vec![ResourceLimit {
        name: "nofile".into(),
        soft: 100,
        hard: 200,
    }];
    spec.program = Program::Shell(write_confinement());
    let (mut container, _) = world.start(&spec);
    compare_running(&spec, &container);
    container.kill(0).unwrap();
    container.wait(TIMEOUT).unwrap();
}

/// Returns a command that writes its portrait into the file `portrait`, and continues.
fn write_confinement() -> String {
    format!("exec 9>&1 > drawing\n{PORTRAIT}\nexec >&9 9>&-; mv drawing portrait; exec sleep 1000")
}

fn compare_running(spec: &LaunchSpec, container: &Container) {
    let portrait = spec.sandbox.join("portrait");
    eventually("the command has drawn itself", || portrait.exists());
    let own = fs::read_to_string(&portrait).unwrap();
    assert!(own.contains("leads its session\nterminal 0\n"), "{own}");
    let (entered, err, _) = run(container, &request(&format!("exec 9>&1\n{PORTRAIT}")), b"");
    for (own, entered) in own.lines().zip(entered.lines()) {
        assert_eq!(entered, own);
    }
    assert_eq!(entered, own, "{err}");
}

fn confined() {
    let mut world = RootFixture::new();
    let spec = profiled(&mut world, "");
    compare(&mut world, spec);
    let spec = root_of_container(&mut world);
    compare(&mut world, spec);
    let spec = world.spec("");
    compare(&mut world, spec);
    let spec = plain(world.spec(""));
    compare(&mut world, spec);
}

fn root_of_container(world: &mut RootFixture) -> LaunchSpec {
    let mut spec = profiled(world, "");
    spec.user = Some(ContainerUser {
        uid: 0,
        gid: 0,
        groups: Vec::new(),
    });
    give_sandbox(&spec);
    spec
}

fn confined_unprivileged() {
    if let Err(reason) = detect().user_namespaces {
        skip(reason);
    }
    let uid = ContainerUser::named("nobody").unwrap().uid;
    let work = tempfile::tempdir().unwrap();
    let mut spec = spec_in(work.path(), "c", &write_confinement());
    spec.isolation = argosy_isolation::Isolation::UserNamespaces;
    for dir in [work.path(), &spec.directory, &spec.sandbox] {
        std::os::unix::fs::chown(dir, Some(uid), None).unwrap();
    }
    let agent = Agent::launching(&spec, None, Some(uid));
    assert_eq!(Agent::outcome(&spec), "started");
    agent.kill();
    let container = running(&spec);
    compare_running(&spec, &container);
    argosy_isolation::destroy(&spec.directory, None, TIMEOUT).unwrap();
}

fn neighbours() {
    let mut world = RootFixture::new();
    let spec = profiled(&mut world, "exec sleep 1000");
    let (container, _) = world.start(&spec);
    let seen = output(
        &container,
        "while grep -q exec /proc/2/cmdline; do sleep 0.01; done; \
         tr '\\0' ' ' < /proc/2/cmdline; kill -0 2 && echo reached",
    );
    assert_eq!(seen, "sleep 1000 reached\n");
    let init = output(&container, "kill -0 1 2>/dev/null || echo kept from init");
    assert_eq!(init, "kept from init\n");
    container.destroy(TIMEOUT).unwrap();
}

pub(crate) fn end(mut container: Container) {
    container.kill(0).unwrap();
    container.wait(TIMEOUT).unwrap();
}

pub(crate) fn sleeping(mut spec: LaunchSpec) -> LaunchSpec {
    spec.program = Program::Shell("exec sleep 1000".into());
    spec
}

fn named() {
    let mut world = RootFixture::new();
    let mut spec = profiled(&mut world, "exec sleep 1000");
    spec.environment = vec![("A".into(), "1".into()), ("B".into(), "2".into())];
    let (container, _) = world.start(&spec);
    let mut asked = request("id -u; id -G; pwd; echo $A$B$C");
    asked.user = Some(ContainerUser {
        uid: 7,
        gid: 8,
        groups: vec![9],
    });
    asked.directory = Some("/usr/bin".into());
    asked.environment = vec![("B".into(), "3".into()), ("C".into(), "4".into())];
    let (out, err, _) = run(&container, &asked, b"");
    assert_eq!(out, "7\n8 9\n/usr/bin\n134\n", "{err}");
    // The container's programs are the host's, and so are the names of its users.
    let daemon = ContainerUser::named("daemon").unwrap();
    for name in ["daemon", &daemon.uid.to_string()] {
        let mut asked = request("id -u; id -g");
        asked.user_name = Some(name.to_owned());
        let (out, err, _) = run(&container, &asked, b"");
        assert_eq!(out, format!("{}\n{}\n", daemon.uid, daemon.gid), "{err}");
    }
    end(container);
}

pub(crate) fn refusal(container: &Container, request: &ExecRequest) -> String {
    match container.exec(request).unwrap().wait(TIMEOUT).unwrap() {
        ExecNotice::Refused { reason } => reason,
        other => panic!("{other:?}"),
    }
}

fn refused() {
    let mut world = RootFixture::new();
    let spec = profiled(&mut world, "exec sleep 1000");
    let (container, _) = world.start(&spec);
    let program = Program::Arguments(vec!["no-such-program".into()]);
    let absent = refusal(&container, &ExecRequest::new(ExecAction::Command(program)));
    assert!(
        absent.contains("cannot start \"no-such-program\""),
        "{absent}"
    );
    let mut elsewhere = request("true");
    elsewhere.directory = Some("/root".into());
    let reason = refusal(&container, &elsewhere);
    assert!(
        reason.contains("enter the working directory /root"),
        "{reason}"
    );
    // The technique of CVE-2024-21626: a host descriptor that is still open.
    for number in 3..20 {
        elsewhere.directory = Some(format!("/proc/self/fd/{number}").into());
        let reason = refusal(&container, &elsewhere);
        assert!(reason.contains("enter the working directory"), "{reason}");
    }
    let mut unknown = request("true");
    unknown.user = Some(ContainerUser {
        uid: 70_000,
        gid: 0,
        groups: Vec::new(),
    });
    let reason = refusal(&container, &unknown);
    assert!(reason.contains("0 to 65,535"), "{reason}");
    for (name, expected) in [
        ("no-such-user", "no user \"no-such-user\" in /etc/passwd"),
        ("70000", "0 to 65,535"),
        ("a:b:c", "USER or USER:GROUP"),
    ] {
        let mut unknown = request("true");
        unknown.user_name = Some(name.to_owned());
        let reason = refusal(&container, &unknown);
        assert!(reason.contains(expected), "{reason}");
    }
    let long = request(&"x".repeat(200_000));
    let reason = container.exec(&long).unwrap_err().to_string();
    assert!(reason.contains("128 KiB"), "{reason}");
    assert_eq!(output(&container, "echo still there"), "still there\n");
    end(container);
}

pub(crate) fn running(spec: &LaunchSpec) -> Container {
    match adopt(&spec.directory).unwrap() {
        Adoption::Running(container) => container,
        other => panic!("{other:?}"),
    }
}

/// The technique of CVE-2019-5736: a program whose interpreter is the executing process.
fn own_executable() {
    let mut world = RootFixture::new();
    let spec = profiled(&mut world, "exec sleep 1000");
    let (container, _) = world.start(&spec);
    let script = spec.sandbox.join("script");
    fs::write(&script, "#!/proc/self/exe\n").unwrap();
    std::os::unix::fs::symlink("/proc/self/exe", spec.sandbox.join("link")).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&script, mode).unwrap();
    for name in ["./script", "./link", "/proc/self/exe", "/proc/1/exe"] {
        let program = Program::Arguments(vec![name.into()]);
        let reason = refusal(&container, &ExecRequest::new(ExecAction::Command(program)));
        assert!(reason.contains("cannot start"), "{reason}");
    }
    end(container);
}

fn not_traced_by_unprivileged() {
    let mut world = RootFixture::new();
    let spec = profiled(&mut world, "");
    catch(&mut world, spec);
}

fn caught_by_root() {
    let mut world = RootFixture::new();
    let spec = root_of_container(&mut world);
    catch(&mut world, spec);
}

/// Runs a process inside that constantly tries every way to attack a process that is about to
/// become an exec command.
fn catch(world: &mut RootFixture, mut spec: LaunchSpec) {
    let python = "/usr/bin/python3";
    if !std::path::Path::new(python).exists() {
        skip("needs the package python3".to_owned());
    }
    let executable = std::env::current_exe().unwrap();
    let executable = executable.file_name().unwrap().to_str().unwrap();
    fs::write(spec.sandbox.join("catch.py"), include_str!("catch.py")).unwrap();
    spec.program = Program::Shell(format!("exec {python} catch.py {executable}"));
    let (mut container, _) = world.start(&spec);
    let file = |name: &str| spec.sandbox.join(name);
    eventually("it tries", || file("ready").exists());
    let deadline = Instant::now() + Duration::from_secs(4);
    while Instant::now() < deadline {
        // Killing or stopping one may end it: that affects nothing else.
        let mut session = container.exec(&request("exec sleep 0.01")).unwrap();
        session.wait(TIMEOUT).unwrap();
        session.wait(TIMEOUT).unwrap();
    }
    fs::write(file("stop"), "").unwrap();
    container.wait(TIMEOUT).unwrap();
    let found = fs::read_to_string(file("found")).unwrap();
    let (counts, caught) = found.split_once('\n').unwrap();
    let counts: Vec<u32> = counts
        .split(' ')
        .map(|word| word.parse().unwrap())
        .collect();
    let [kept, open] = counts[..] else {
        panic!("{found}")
    };
    assert_eq!(caught, "", "kept {kept}, open {open}");
    assert!(kept > 0, "processes on their way in were met");
    assert!(
        open > 0,
        "and commands were had hold of, once they were commands"
    );
}
