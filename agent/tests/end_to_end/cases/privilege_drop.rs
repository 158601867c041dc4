//! Tests of an agent that was started as root and has given it up: its rights, and its complete
//! function.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use argosy_host::crash_points;
use argosy_isolation::division::{AGENT_HOST_ID, HostUser};
use argosy_proto::v1;
use argosy_testing::skip;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill as signal};
use nix::unistd::Pid;

use super::volumes::with_disk;
use super::{cni, code, executors, runs, state};
use crate::children::{child_of, child_with};
use crate::host::{CONTENT, TestHost};
use crate::layout;
use crate::master::{FRAMEWORK, Master, is_terminal, kill, shell};
use crate::running::{AgentProcess, content};

super::cases!("divided":
    tasks_run_end_and_are_adopted_by_an_agent_that_dropped_root,
    no_core_dump_contains_secrets_and_the_content_service_is_limited,
    an_unprivileged_agent_adopts_the_tasks_of_an_agent_with_root,
    an_unprivileged_agent_creates_and_removes_tasks_with_images,
    an_agent_and_its_broker_exit_together,
    a_stopped_agent_exits_after_its_other_processes,
    a_filtered_broker_creates_file_systems_networks_and_executors,
    a_panic_in_the_broker_ends_it_and_its_agent_but_no_task,
    an_unprivileged_agent_identifies_its_callers,
    an_agent_keeps_root_if_its_directory_is_closed_to_other_users,
);

/// Returns `None` on a host on which an agent is not divided.
fn impossible() -> Option<&'static str> {
    (!nix::unistd::geteuid().is_root()).then_some("needs root")
}

/// Returns a line of `/proc/PID/status`.
fn status(pid: u32, field: &str) -> Vec<String> {
    field_of(pid, field).unwrap()
}

/// As [`status`]; `None` if the process or thread has ended.
fn field_of(pid: u32, field: &str) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    Some(line.split_whitespace().map(str::to_owned).collect())
}

/// Waits until it has an API, and so has given up root.
async fn is_up(agent: &AgentProcess) {
    loop {
        if let Ok(answer) = reqwest::get(format!("http://{}/healthz", agent.api().await)).await
            && answer.status().is_success()
        {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

fn users(pid: u32) -> std::path::PathBuf {
    fs::read_link(format!("/proc/{pid}/ns/user")).unwrap()
}

/// Checks that it has no right of root's in any source that the kernel provides.
fn is_not_root(pid: u32) {
    let own = HostUser::agent();
    assert!(own.uid >= 100 && own.gid >= 100, "{own:?}");
    for (field, number) in [("Uid:", own.uid), ("Gid:", own.gid)] {
        let number = number.to_string();
        assert_eq!(status(pid, field), vec![number; 4]);
    }
    assert!(status(pid, "Groups:").is_empty());
    assert_eq!(status(pid, "NoNewPrivs:"), ["1"]);
    // Its capabilities are in a user namespace of its own: to own files of users of this namespace.
    assert_ne!(users(pid), users(std::process::id()));
    for field in ["CapEff:", "CapPrm:", "CapBnd:"] {
        assert_eq!(status(pid, field), ["000000000000001b"], "{field}");
    }
    assert_eq!(status(pid, "CapInh:"), ["0000000000000000"]);
    for map in ["uid_map", "gid_map"] {
        let text = fs::read_to_string(format!("/proc/{pid}/{map}")).unwrap();
        for line in text.lines() {
            let numbers: Vec<u32> = line
                .split_whitespace()
                .map(|word| word.parse().unwrap())
                .collect();
            let [_, first, count] = numbers[..] else {
                panic!("{line}");
            };
            assert!(first > 0, "root of the host is in {map}: {line}");
            let people = first < 0x0008_0000;
            assert!(!people || count == 1, "people are in {map}: {line}");
        }
    }
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
    // All its threads, not only the first.
    for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let id = task.unwrap().file_name().to_str().unwrap().parse().unwrap();
        assert_eq!(status(id, "Uid:")[0], own.uid.to_string(), "{name}");
    }
}

/// Checks that each thread of a broker has its filter, and that no executed program has it.
fn is_filtered(broker: u32) {
    let threads = fs::read_dir(format!("/proc/{broker}/task")).unwrap();
    let threads: Vec<u32> = threads
        .map(|task| task.unwrap().file_name().to_str().unwrap().parse().unwrap())
        .collect();
    let mut checked = 0;
    for thread in threads {
        let fields = ["Seccomp:", "Seccomp_filters:", "NoNewPrivs:", "Name:"];
        let fields = fields.map(|field| field_of(thread, field));
        // A thread that tries out a network ends at any time.
        let [Some(seccomp), Some(filters), Some(privileges), Some(name)] = fields else {
            continue;
        };
        assert_eq!(
            [seccomp, filters, privileges],
            [["2"], ["1"], ["1"]],
            "{thread}"
        );
        // No thread of a runtime.
        assert!(
            ["argosy-broker", "broker"].contains(&name[0].as_str()),
            "{name:?}"
        );
        checked += 1;
    }
    assert!(checked > 1, "{checked} threads");
    let spawner = child_of(broker, "argosy-spawner");
    let launcher = child_of(spawner, "argosy-launcher");
    for (process, expected) in [(spawner, "0"), (launcher, "0")] {
        assert_eq!(status(process, "Seccomp:"), [expected]);
        assert_eq!(status(process, "NoNewPrivs:"), ["0"]);
    }
}

pub(super) async fn tasks_run_end_and_are_adopted_by_an_agent_that_dropped_root() {
    if let Some(why) = impossible() {
        return skip(why);
    }
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let mut agent = host.divided(master.address);
    let (mut link, _) = master.registered(true).await;
    is_not_root(agent.pid());
    let broker = agent.broker();
    assert_eq!(status(broker, "Uid:"), ["0"; 4]);
    is_filtered(broker);
    // A fetched file, output, and its end.
    let file = host.serve("page", "brought\n");
    let spec = v1::TaskSpec {
        uris: vec![v1::Uri {
            value: file.display().to_string(),
            ..v1::Uri::default()
        }],
        ..shell("t", "cat page; id -u; exit 7")
    };
    link.launch(1, spec).await;
    let updates = link.end_of("t").await;
    let end = updates.last().unwrap();
    assert_eq!(code(end), Some(v1::exit::How::Code(7)), "{}", end.text);
    let path = format!("/v1/files/read?path=tasks/{FRAMEWORK}/t/stdout");
    assert_eq!(agent.get(&path).await, (200, "brought\n65534\n".to_owned()));
    // A task that outlives it.
    link.launch(2, shell("u", "echo up; exec sleep 1000")).await;
    link.until("u", runs).await;
    content(&host.sandbox("u").join("stdout")).await;
    let pid = agent.containers().await[0]["pid"].clone();
    signal(Pid::from_raw(agent.pid() as i32), Signal::SIGKILL).unwrap();
    agent.exited().await;
    drop(link);
    let agent = host.divided(master.address);
    let (mut link, _) = master.registered(false).await;
    while agent
        .containers()
        .await
        .first()
        .is_none_or(|one| one["state"] != "running")
    {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(agent.containers().await[0]["pid"], pid);
    link.order(3, kill("u", 1_000)).await;
    let updates = link.end_of("u").await;
    assert_eq!(state(updates.last().unwrap()), v1::TaskState::Killed);
    agent.is_clear().await;
    // Its measurements, and its own metrics, come from the process with root.
    let (status, _) = agent.get("/metrics").await;
    assert_eq!(status, 200);
    agent.stop().await;
}

/// Returns the cgroup of a process, in the hierarchy of version 2.
fn group(pid: u32) -> PathBuf {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"));
    argosy_isolation::cgroup::mount_point()
        .unwrap()
        .join(path.unwrap())
}

/// Returns the soft and the hard limit of the size of core files.
fn core_limits(pid: u32) -> [String; 2] {
    limits(pid, "Max core file size")
}

/// Returns the soft and the hard limit of this name in `/proc`.
fn limits(pid: u32, name: &str) -> [String; 2] {
    let text = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = text.lines().find_map(|line| {
        let rest = line.strip_prefix(name)?;
        Some(rest.split_whitespace().take(2).map(str::to_owned))
    });
    line.unwrap().collect::<Vec<_>>().try_into().unwrap()
}

/// Whether the kernel hides its memory from other processes of its user, and creates no core file
/// of it: its files in `/proc` belong to root.
fn is_hidden(pid: u32) -> bool {
    let shown = fs::metadata(format!("/proc/{pid}/environ")).unwrap();
    shown.uid() == 0 && status(pid, "Uid:")[0] != "0"
}

/// Limits of core files for processes that are started while it is held.
struct CoreFileLimit(u64, u64);

impl CoreFileLimit {
    fn unlimited() -> Self {
        let (soft, hard) = getrlimit(Resource::RLIMIT_CORE).unwrap();
        setrlimit(Resource::RLIMIT_CORE, RLIM_INFINITY, RLIM_INFINITY).unwrap();
        Self(soft, hard)
    }
}

impl Drop for CoreFileLimit {
    fn drop(&mut self) {
        setrlimit(Resource::RLIMIT_CORE, self.0, self.1).unwrap();
    }
}

pub(super) async fn no_core_dump_contains_secrets_and_the_content_service_is_limited() {
    if let Some(why) = impossible() {
        return skip(why);
    }
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let cores = CoreFileLimit::unlimited();
    let agent = host.divided(master.address);
    let (mut link, _) = master.registered(true).await;
    // Its file comes from a server: then there is a service.
    let uris = vec![super::crashes::served("page").await];
    let spec = v1::TaskSpec {
        uris,
        ..shell("t", "echo up > up; exec sleep 1000")
    };
    link.launch(1, spec).await;
    link.until("t", runs).await;
    content(&host.sandbox("t").join("up")).await;
    drop(cores);
    let broker = agent.broker();
    let spawner = child_of(broker, "argosy-spawner");
    let launcher = child_of(spawner, "argosy-launcher");
    let supervisor = super::stopped_processes::supervisor(&host);
    let service = child_with(spawner, CONTENT);
    let unlimited = ["unlimited", "unlimited"];
    assert_eq!(
        core_limits(agent.pid()),
        unlimited,
        "else this shows nothing"
    );
    for (process, name) in [(launcher, "launcher"), (supervisor, "supervisor")] {
        assert_eq!(core_limits(process), ["0", "unlimited"], "{name}");
    }
    assert_eq!(core_limits(service), ["0", "0"]);
    let memory = limits(service, "Max data size");
    assert_eq!(memory, ["1073741824", "1073741824"]);
    assert!(is_hidden(agent.pid()) && is_hidden(service));
    // The tree of the containers is the launcher's, not the service's.
    let group = group(service);
    let name = group.file_name().unwrap().to_string_lossy().into_owned();
    assert!(name.ends_with(".content"), "{}", group.display());
    let controllers = fs::read_to_string(group.join("cgroup.controllers")).unwrap();
    for (file, value) in [
        ("memory.max", "1073741824"),
        ("memory.swap.max", "0"),
        ("pids.max", "128"),
        ("cpu.weight", "50"),
        ("cpu.max", "100000 100000"),
    ] {
        let (controller, _) = file.split_once('.').unwrap();
        match fs::read_to_string(group.join(file)) {
            Ok(text) => assert_eq!(text.trim(), value, "{file}"),
            // The VM has all of them: `chaos/vm/cases/limits`.
            Err(_) => assert!(
                file == "memory.swap.max" || !controllers.contains(controller),
                "{file} is missing"
            ),
        }
    }
    link.order(2, kill("t", 0)).await;
    link.end_of("t").await;
    agent.is_clear().await;
    agent.stop().await;
}

pub(super) async fn an_unprivileged_agent_adopts_the_tasks_of_an_agent_with_root() {
    if let Some(why) = impossible() {
        return skip(why);
    }
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let agent = host.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    link.launch(1, shell("t", "echo up; exec sleep 1000")).await;
    link.until("t", runs).await;
    content(&host.sandbox("t").join("stdout")).await;
    let pid = agent.containers().await[0]["pid"].clone();
    // Foreign files are not taken over with it: neither the target of a link nor a file with
    // another name.
    let kept = host.directory.path().join("kept");
    fs::write(&kept, "").unwrap();
    agent.stop().await;
    let directory = host.directory();
    fs::hard_link(&kept, directory.join("cache/linked")).unwrap();
    std::os::unix::fs::symlink(&kept, directory.join("cache/link")).unwrap();
    let agent = host.divided(master.address);
    let (mut link, _) = master.registered(false).await;
    is_up(&agent).await;
    is_not_root(agent.pid());
    assert_eq!(agent.containers().await[0]["pid"], pid);
    assert_eq!(fs::metadata(&kept).unwrap().uid(), 0);
    let own = HostUser::agent().uid;
    let owner = |path: &str| fs::metadata(directory.join(path)).unwrap().uid();
    assert_eq!((owner("journal"), owner("cache")), (own, own));
    for path in [
        "",
        "containers",
        "sandboxes",
        "groups",
        "images",
        "images/layers",
    ] {
        assert_eq!(owner(path), 0, "{path:?}");
    }
    // Users other than root and the agent see no more than before.
    let others = |path: &str| fs::metadata(directory.join(path)).unwrap().mode() & 0o7;
    assert_eq!(
        ["containers", "sandboxes", "groups", "images"].map(others),
        [0, 1, 0, 0]
    );
    link.order(2, kill("t", 0)).await;
    link.end_of("t").await;
    agent.is_clear().await;
    agent.stop().await;
}

pub(super) async fn an_unprivileged_agent_creates_and_removes_tasks_with_images() {
    if let Some(why) = impossible() {
        return skip(why);
    }
    for is_copied in [false, true] {
        let (host, mut master) = (TestHost::new(), Master::start().await);
        if !layout::write(&host.layouts()) {
            return skip("there is no /bin/busybox to make an image of");
        }
        // The agent's user reads them.
        assert_eq!(
            run("chmod", &["-R", "a+rX", host.layouts().to_str().unwrap()]),
            Some(0)
        );
        if is_copied {
            host.copies_images();
        }
        let agent = host.divided(master.address);
        let (mut link, _) = master.registered(true).await;
        let spec = v1::TaskSpec {
            container: Some(v1::ContainerSpec {
                image: format!("oci:{}", host.layouts().display()),
                ..v1::ContainerSpec::default()
            }),
            ..shell("t", "echo changed > /own && cat /own && exit 4")
        };
        link.launch(1, spec).await;
        let updates = link.end_of("t").await;
        let end = updates.last().unwrap();
        assert_eq!(
            code(end),
            Some(v1::exit::How::Code(4)),
            "{is_copied}: {}",
            end.text
        );
        agent.is_clear().await;
        // Set-user-id files of layers belong to root, so that only root has access to them.
        let layers = host.directory().join("images/layers");
        let found = fs::metadata(&layers).unwrap();
        assert_eq!((found.uid(), found.mode() & 0o7777), (0, 0o750));
        assert_eq!(fs::read_dir(&layers).unwrap().count(), 1);
        agent.stop().await;
    }
}

pub(super) async fn a_filtered_broker_creates_file_systems_networks_and_executors() {
    if let Some(why) = super::disks::impossible() {
        return skip(&why);
    }
    let (host, mut master) = (TestHost::new(), Master::start().await);
    host.makes_file_systems();
    cni::lay(&host);
    let agent = host.divided(master.address);
    let (mut link, _) = master.registered(true).await;
    is_filtered(agent.broker());
    // A plugin's network, a bridge with a published port, and a file system each.
    let cases = [
        ("t", with_disk(cni::plugged("blue", "exec sleep 1000"), 16)),
        (
            "u",
            with_disk(shell("u", "df -P . | tail -1 > df; exec sleep 1000"), 16),
        ),
        (
            "a",
            executors::executed_by_this_program(&host, "a", "exec sleep 1000"),
        ),
    ];
    for (index, (task, spec)) in (1..).zip(cases) {
        link.launch(index, spec).await;
        let updates = link
            .until(task, |update| runs(update) || is_terminal(update))
            .await;
        let last = updates.last().unwrap();
        assert!(runs(last), "{task}: {}", last.text);
    }
    let shown = content(&host.sandbox("u").join("df")).await;
    assert!(shown.contains("/dev/loop"), "{shown}");
    let calls = content(&host.plugins().join("calls")).await;
    assert!(calls.starts_with("ADD "), "{calls}");
    for (index, task) in (4..).zip(["t", "u", "a"]) {
        link.order(index, kill(task, 1_000)).await;
        link.end_of(task).await;
    }
    agent.is_clear().await;
    cni::nothing_is_left(&host);
    agent.stop().await;
    super::disks::remove_all(&host);
}

fn run(program: &str, words: &[&str]) -> Option<i32> {
    Command::new(program).args(words).status().unwrap().code()
}

pub(super) async fn an_agent_and_its_broker_exit_together() {
    if let Some(why) = impossible() {
        return skip(why);
    }
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let mut agent = host.divided(master.address);
    let (mut link, _) = master.registered(true).await;
    link.launch(1, shell("t", "echo up; exec sleep 1000")).await;
    link.until("t", runs).await;
    content(&host.sandbox("t").join("stdout")).await;
    let broker = agent.broker();
    signal(Pid::from_raw(broker as i32), Signal::SIGKILL).unwrap();
    agent.exited().await;
    drop(link);
    // Its tasks continue to run, and the next agent adopts them.
    let mut agent = host.divided(master.address);
    let (mut link, _) = master.registered(false).await;
    is_up(&agent).await;
    assert_eq!(agent.containers().await.len(), 1);
    link.order(2, kill("t", 0)).await;
    link.end_of("t").await;
    agent.is_clear().await;
    let broker = agent.broker();
    signal(Pid::from_raw(agent.pid() as i32), Signal::SIGKILL).unwrap();
    agent.exited().await;
    while Path::new(&format!("/proc/{broker}")).exists() {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    drop(link);
    // A broker ends with the process that executes its programs, too.
    let mut agent = host.divided(master.address);
    // Kept until it has exited: it would open another stream, which could be mistaken for the next
    // one's.
    let link = master.registered(false).await;
    let spawner = child_of(agent.broker(), "argosy-spawner");
    signal(Pid::from_raw(spawner as i32), Signal::SIGKILL).unwrap();
    agent.exited().await;
    drop(link);
    // Resources that a killed one has prepared for tasks stay on its host until the next one ends.
    let agent = host.divided(master.address);
    drop(master.registered(false).await);
    agent.stop().await;
}

/// Systemd removes the cgroup of a unit only if it is empty when the agent has exited.
pub(super) async fn a_stopped_agent_exits_after_its_other_processes() {
    if let Some(why) = impossible() {
        return skip(why);
    }
    let (host, mut master) = (TestHost::new(), Master::start().await);
    // Without the order, each time shows it with a probability of about a half.
    for _ in 0..8 {
        let agent = host.divided(master.address);
        // Kept until it has exited: it would open another stream.
        let link = master.registered(false).await;
        let broker = agent.broker();
        let spawner = child_of(broker, "argosy-spawner");
        let launcher = child_of(spawner, "argosy-launcher");
        agent.stop().await;
        drop(link);
        for (pid, name) in [
            (broker, "broker"),
            (spawner, "spawner"),
            (launcher, "launcher"),
        ] {
            let state = field_of(pid, "State:");
            let has_ended = state.is_none_or(|state| state[0] == "Z");
            assert!(has_ended, "the {name} outlives its agent");
        }
    }
}

pub(super) async fn a_panic_in_the_broker_ends_it_and_its_agent_but_no_task() {
    if let Some(why) = impossible() {
        return skip(why);
    }
    if !crash_points::IS_ON {
        return skip("this build has no crash points");
    }
    // While the second of two tasks is started: the launcher has its request, or only its sandbox
    // is created. The latter is started again, with another sandbox.
    for (step, sandboxes) in [("agent.request-sent", 1), ("sandbox.directory-made", 2)] {
        let (host, mut master) = (TestHost::new(), Master::start().await);
        let [witness, reported] = ["witness", "said"].map(|name| host.directory.path().join(name));
        let panic = [step, "2", witness.to_str().unwrap()];
        let mut agent = host.panicking(master.address, &panic, &reported);
        let (mut link, _) = master.registered(true).await;
        let long = |task: &str| shell(task, "echo up; exec sleep 1000");
        link.launch(1, long("t")).await;
        link.until("t", runs).await;
        let pid = agent.containers().await[0]["pid"].clone();
        let broker = agent.broker();
        link.launch(2, long("u")).await;
        agent.exited().await;
        let text = content(&reported).await;
        for sentence in [
            &format!("a test has this thread panic at {step}"),
            "the broker of this agent, which performs operations that need root, exited with status 101",
        ] {
            assert!(text.contains(sentence), "{text}");
        }
        assert!(!Path::new(&format!("/proc/{broker}")).exists());
        drop(link);
        // The first task is adopted; the second runs, and has neither failed nor been started
        // twice.
        let agent = host.divided(master.address);
        let (mut link, _) = master.registered(false).await;
        let updates = link.until("u", runs).await;
        assert!(!updates.iter().any(is_terminal), "{updates:?}");
        let containers = agent.containers().await;
        assert_eq!(containers.len(), 2, "{containers:?}");
        assert!(containers.iter().any(|one| one["pid"] == pid));
        assert_eq!(host.sandboxes("u").len(), sandboxes, "{step}");
        for (index, task) in (3..).zip(["t", "u"]) {
            link.order(index, kill(task, 0)).await;
            link.end_of(task).await;
        }
        agent.is_clear().await;
        agent.stop().await;
    }
}

pub(super) async fn an_unprivileged_agent_identifies_its_callers() {
    if let Some(why) = impossible() {
        return skip(why);
    }
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let agent = host.divided(master.address);
    let (mut link, _) = master.registered(true).await;
    link.launch(1, shell("t", "echo secret; exec sleep 1000"))
        .await;
    link.until("t", runs).await;
    content(&host.sandbox("t").join("stdout")).await;
    let api = agent.api().await;
    let path = format!("/v1/files/read?path=tasks/{FRAMEWORK}/t/stdout");
    for (user, begins) in [
        (0, "HTTP/1.1 200"),
        (65_534, "HTTP/1.1 403"),
        (1_000, "HTTP/1.1 403"),
        (AGENT_HOST_ID + 1, "HTTP/1.1 403"),
    ] {
        let mut bash = Command::new("bash");
        let asking = super::callers::asking(api, &path);
        let asked = bash.args(["-c", &asking]).uid(user).gid(user);
        let output = asked.current_dir("/").output().unwrap();
        let reported = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(reported.starts_with(begins), "{user}: {reported}");
    }
    link.order(2, kill("t", 0)).await;
    link.end_of("t").await;
    agent.is_clear().await;
    agent.stop().await;
}

pub(super) async fn an_agent_keeps_root_if_its_directory_is_closed_to_other_users() {
    if let Some(why) = impossible() {
        return skip(why);
    }
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let mut agent = host.divided(master.address);
    drop(master.registered(true).await);
    signal(Pid::from_raw(agent.pid() as i32), Signal::SIGKILL).unwrap();
    agent.exited().await;
    let closed = fs::Permissions::from_mode(0o700);
    fs::set_permissions(host.directory.path(), closed).unwrap();
    let agent = host.undivided(master.address);
    let (mut link, _) = master.registered(false).await;
    assert_eq!(status(agent.pid(), "Uid:"), ["0"; 4]);
    assert_eq!(users(agent.pid()), users(std::process::id()));
    link.launch(1, shell("t", "exit 3")).await;
    let updates = link.end_of("t").await;
    let end = updates.last().unwrap();
    assert_eq!(code(end), Some(v1::exit::How::Code(3)), "{}", end.text);
    agent.is_clear().await;
    // Only the agent creates files there now.
    let mode = fs::metadata(host.directory()).unwrap().mode();
    assert_eq!(mode & 0o7777, 0o711);
    agent.stop().await;
}
