//! Tests with stopped launchers and supervisors (SIGSTOP): tasks start and end in spite of them,
//! and so does the agent.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use argosy_agent::journal::DirectoryLock;
use argosy_host::crash_points;
use argosy_isolation::crash_steps;
use argosy_proto::v1;
use argosy_testing::skip;
use futures::future::join_all;
use nix::sys::signal::{Signal, kill as signal};
use nix::unistd::Pid;
use tokio::sync::Semaphore;

use super::crashes::groups;
use super::{code, on_a_host_of_its_own, runs, state};
use crate::audit::{AuditScope, LeakAudit};
use crate::children::{child_of, launcher_of, launcher_with};
use crate::host::TestHost;
use crate::master::{AgentStream, Master, TIMEOUT, in_no_network, is_terminal, kill, shell};
use crate::running::{Agent, AgentProcess, AnyAgent, content};

super::cases!("stopped":
    a_kill_ends_a_task_whose_supervisor_is_stopped,
    the_next_agent_ends_a_task_whose_supervisor_is_stopped,
    a_stopped_launcher_is_replaced_and_its_tasks_continue,
    an_agent_stops_although_its_launcher_is_stopped,
    a_stopped_broker_or_spawner_delays_no_kill_and_no_end,
    an_agent_stops_although_its_broker_or_spawner_is_stopped,
    a_thousand_starts_killed_in_the_queue_execute_nothing,
    a_task_is_killed_if_its_supervisor_or_launcher_stops_at_any_step,
    unprivileged_agents_kill_tasks_of_stopped_supervisors_and_launchers,
);

const FORCED: &str = "argosy_agent_forced_kills_total";

fn stop(pid: u32) {
    signal(Pid::from_raw(pid as i32), Signal::SIGSTOP).unwrap();
}

/// Returns the launcher of an agent in this process. Other tests of this program have ended by now,
/// and their launchers with them.
fn launcher() -> u32 {
    launcher_of(std::process::id())
}

/// Returns the supervisor of an agent's only running container.
pub(super) fn supervisor(host: &TestHost) -> u32 {
    let containers = std::fs::read_dir(host.directory().join("containers")).unwrap();
    let living = containers.map(|entry| entry.unwrap().path());
    let mut living = living.filter(|container| !container.join("exit.json").exists());
    let handle = std::fs::read(living.next().unwrap().join("handle.json")).unwrap();
    let handle: serde_json::Value = serde_json::from_slice(&handle).unwrap();
    u32::try_from(handle["held"]["supervisor"]["pid"].as_u64().unwrap()).unwrap()
}

fn is_running(pid: u64) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map(|(_, rest)| &rest[..1]);
    state.is_some_and(|state| state != "Z")
}

/// Waits for the file `go`, then ends.
const WAITS: &str = "until [ -e go ]; do sleep 0.01; done";

async fn running(link: &mut AgentStream, host: &TestHost, index: u64, task: &str, line: &str) {
    let line = format!("echo up > up; {line}");
    link.launch(index, shell(task, &line)).await;
    link.until(task, runs).await;
    content(&host.sandbox(task).join("up")).await;
}

/// Ends a waiting task, and checks that nothing of it is left.
async fn finishes(host: &TestHost, agent: Agent, link: &mut AgentStream, task: &str) {
    std::fs::write(host.sandbox(task).join("go"), "").unwrap();
    let updates = link.end_of(task).await;
    assert_eq!(state(updates.last().unwrap()), v1::TaskState::Finished);
    agent.is_clear().await;
    agent.stop().await;
}

pub(super) async fn a_kill_ends_a_task_whose_supervisor_is_stopped() {
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let agent = host.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    running(&mut link, &host, 1, "t", "sleep 1000 & wait").await;
    let pid = agent.containers().await[0]["pid"].as_u64().unwrap();
    let forced = agent.counted(FORCED).await;
    let supervisor = supervisor(&host);
    stop(supervisor);
    link.order(2, kill("t", 100)).await;
    let updates = link.end_of("t").await;
    assert_eq!(state(updates.last().unwrap()), v1::TaskState::Killed);
    assert!(
        !is_running(pid),
        "nothing of a task that was to be killed runs"
    );
    assert!(!is_running(supervisor.into()));
    assert_eq!(agent.counted(FORCED).await, forced + 1);
    agent.is_clear().await;
    agent.stop().await;
}

pub(super) async fn the_next_agent_ends_a_task_whose_supervisor_is_stopped() {
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let agent = host.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    running(&mut link, &host, 1, "t", "sleep 1000").await;
    let pid = agent.containers().await[0]["pid"].as_u64().unwrap();
    agent.stop().await;
    let agent = host.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    // Its supervisor has answered this agent by then.
    while agent.containers().await[0]["state"] != "running" {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    stop(supervisor(&host));
    link.order(2, kill("t", 0)).await;
    let updates = link.end_of("t").await;
    assert_eq!(state(updates.last().unwrap()), v1::TaskState::Killed);
    assert!(!is_running(pid));
    agent.is_clear().await;
    agent.stop().await;
}

pub(super) async fn a_stopped_launcher_is_replaced_and_its_tasks_continue() {
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let agent = host.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    running(&mut link, &host, 1, "old", WAITS).await;
    let stopped = launcher();
    stop(stopped);
    // It no longer reads requests: this one is lost with it, which is reported.
    link.launch(2, shell("lost", "exit 0")).await;
    let updates = link.end_of("lost").await;
    assert_eq!(state(updates.last().unwrap()), v1::TaskState::Failed);
    // It may still be ending.
    let deadline = Instant::now() + TIMEOUT;
    while is_running(stopped.into()) {
        assert!(Instant::now() < deadline, "it is not killed");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    link.launch(3, shell("new", "exit 0")).await;
    let updates = link.end_of("new").await;
    assert_eq!(state(updates.last().unwrap()), v1::TaskState::Finished);
    finishes(&host, agent, &mut link, "old").await;
}

pub(super) async fn an_agent_stops_although_its_launcher_is_stopped() {
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let agent = host.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    running(&mut link, &host, 1, "t", WAITS).await;
    let stopped = launcher();
    stop(stopped);
    agent.stop().await;
    assert!(!is_running(stopped.into()));
    let agent = host.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    finishes(&host, agent, &mut link, "t").await;
}

/// Launches a task that waits for `go`, with an exclusive processor if the host has processors for
/// that: then each start and each removal changes the processors of others.
async fn has_a_processor_alone(link: &mut AgentStream, host: &TestHost, task: &str) {
    let mut spec = shell(task, &format!("echo up > up; {WAITS}"));
    let is_possible = groups(host).join("cpuset.cpus.effective").exists()
        && std::thread::available_parallelism().is_ok_and(|count| count.get() > 1);
    if is_possible {
        spec.resources = argosy_client::resources::resources("cpus:1;mem:32").unwrap();
        spec.limits = Some(v1::Limits {
            exclusive_cpus: true,
            ..v1::Limits::default()
        });
    }
    link.launch(1, spec).await;
    link.until(task, runs).await;
    content(&host.sandbox(task).join("up")).await;
}

/// Operations of a stopped broker wait until it is continued: starts, removals, kills past a
/// stopped supervisor. Heartbeats, other kills and ends need no broker, the list of containers and
/// the metrics are answered without its values, and no waiting operation is lost or done twice. A
/// spawner is needed only to execute programs.
pub(super) async fn a_stopped_broker_or_spawner_delays_no_kill_and_no_end() {
    if !nix::unistd::geteuid().is_root() {
        return skip("needs root");
    }
    for which in ["broker", "spawner"] {
        let (host, mut master) = (TestHost::new(), Master::start().await);
        let agent = host.divided(master.address);
        let (mut link, _) = master.registered(true).await;
        has_a_processor_alone(&mut link, &host, "ended").await;
        running(&mut link, &host, 2, "killed", "sleep 1000").await;
        let stubborn = "trap '' TERM; while :; do sleep 0.1; done";
        running(&mut link, &host, 3, "stubborn", stubborn).await;
        let broker = agent.broker();
        let stopped = match which {
            "broker" => broker,
            _ => child_of(broker, "argosy-spawner"),
        };
        let stopped = StoppedProcess::of(stopped);
        let started = in_no_network(shell("started", "exit 3"));
        link.launch(4, started).await;
        link.order(5, kill("killed", 0)).await;
        link.order(6, kill("stubborn", 500)).await;
        std::fs::write(host.sandbox("ended").join("go"), "").unwrap();
        for (task, wanted) in [
            ("ended", v1::TaskState::Finished),
            ("killed", v1::TaskState::Killed),
            ("stubborn", v1::TaskState::Killed),
        ] {
            let updates = link.end_of(task).await;
            assert_eq!(state(updates.last().unwrap()), wanted, "{which}: {task}");
        }
        let pings = link.pings;
        while link.pings < pings + 2 {
            let moment = tokio::time::sleep(Duration::from_millis(100));
            link.answer_during(moment).await;
        }
        assert_eq!(agent.get("/healthz").await.0, 200, "{which}");
        if which == "broker" {
            link.answer_during(broker_responds(&agent, false)).await;
            let listed = agent.containers().await;
            assert!(listed.iter().all(|one| one["state"] != "running"));
        }
        drop(stopped);
        link.answer_during(broker_responds(&agent, true)).await;
        let updates = link.end_of("started").await;
        let last = updates.last().unwrap();
        assert_eq!(code(last), Some(v1::exit::How::Code(3)), "{}", last.text);
        assert_eq!(host.sandboxes("started").len(), 1, "{which}");
        agent.is_clear().await;
        agent.stop().await;
    }
}

/// A stopped process that continues when this is dropped, also if its test fails: otherwise it
/// would stay forever.
struct StoppedProcess(u32);

impl StoppedProcess {
    fn of(pid: u32) -> Self {
        stop(pid);
        Self(pid)
    }
}

impl Drop for StoppedProcess {
    fn drop(&mut self) {
        // It may have been killed.
        let _ = signal(Pid::from_raw(self.0 as i32), Signal::SIGCONT);
    }
}

/// Waits until the agent's metrics report this.
async fn broker_responds(agent: &AgentProcess, wanted: bool) {
    let name = "argosy_agent_broker_responds ";
    loop {
        let (_, metrics) = agent.get("/metrics").await;
        let value = metrics.lines().find_map(|line| line.strip_prefix(name));
        if value == Some(if wanted { "1" } else { "0" }) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The next agent starts once the stopped process has ended, and reports the obstacle until then.
pub(super) async fn an_agent_stops_although_its_broker_or_spawner_is_stopped() {
    if !nix::unistd::geteuid().is_root() {
        return skip("needs root");
    }
    for which in ["broker", "spawner"] {
        let (host, mut master) = (TestHost::new(), Master::start().await);
        let agent = host.divided(master.address);
        let (mut link, _) = master.registered(true).await;
        running(&mut link, &host, 1, "t", WAITS).await;
        let mut stopped = agent.broker();
        if which == "spawner" {
            stopped = child_of(stopped, "argosy-spawner");
            // Without a container the networks are removed, which needs a program.
            std::fs::write(host.sandbox("t").join("go"), "").unwrap();
            link.end_of("t").await;
            agent.is_clear().await;
        }
        let pid = u64::from(stopped);
        let stopped = StoppedProcess::of(stopped);
        let exited = format!("/proc/{}/stat", agent.pid());
        agent.stop().await;
        assert!(is_running(pid), "{which}");
        let lock = DirectoryLock::take(&host.directory().join("lock"));
        match which {
            "broker" => {
                let why = lock.unwrap_err().to_string();
                let found = std::fs::read_to_string(exited);
                assert!(why.contains("pgrep -a argosy-broker"), "{why}: {found:?}");
            }
            _ => drop(lock.unwrap()),
        }
        drop(stopped);
        while is_running(pid) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let agent = host.divided(master.address);
        let (mut link, _) = master.registered(true).await;
        if which == "broker" {
            std::fs::write(host.sandbox("t").join("go"), "").unwrap();
            let updates = link.end_of("t").await;
            assert_eq!(state(updates.last().unwrap()), v1::TaskState::Finished);
        }
        agent.is_clear().await;
        agent.stop().await;
    }
}

/// Number of tasks that are launched and killed immediately.
const AT_ONCE: u64 = 1_000;

/// Minimum number of them that are queued: the other requests at most fit into a launcher's socket.
const IN_LINE: usize = 900;

/// The stopped launcher reads nothing: requests fill its socket, and all slots are held by starts
/// whose requests do not fit in. A task that is reported as killed before its command was started
/// has never executed anything. A launcher is replaced after ten seconds. If all updates came
/// before, which a busy host may not manage, nearly all tasks are reported so, and none of them is
/// ever executed, including those of the requests. If the disk is slow, the tasks may be killed
/// before their orders are stored, and none of them is requested. Another task occupies the
/// launcher in any case, so that it is replaced.
pub(super) async fn a_thousand_starts_killed_in_the_queue_execute_nothing() {
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let agent = host.agent(master.address).await;
    let mut link = registered(&mut master).await;
    running(&mut link, &host, 1, "old", WAITS).await;
    let stopped = launcher();
    stop(stopped);
    let occupies = in_no_network(shell("occupies", "exit 0"));
    link.launch(2, occupies).await;
    let name = |task: u64| format!("t{task}");
    for task in 1..=AT_ONCE {
        let spec = in_no_network(shell(&name(task), "echo > ran; exec sleep 600"));
        link.launch(2 + task, spec).await;
    }
    for task in 1..=AT_ONCE {
        link.order(2 + AT_ONCE + task, kill(&name(task), 0)).await;
    }
    let (mut ended, mut in_line) = (BTreeSet::new(), BTreeSet::new());
    let mut is_held = true;
    while ended.len() < AT_ONCE as usize {
        let news = link.news().await;
        let ends = news.iter().filter(|update| is_terminal(update));
        for update in ends.filter(|update| update.task_id != "occupies") {
            let text = &update.text;
            assert_eq!(state(update), v1::TaskState::Killed, "{text}");
            assert!(ended.insert(update.task_id.clone()), "ended twice");
            if text == "killed before its command was started" {
                is_held &= is_running(stopped.into());
                in_line.insert(update.task_id.clone());
            }
        }
    }
    link.end_of("occupies").await;
    link.launch(3 + 2 * AT_ONCE, shell("new", "exit 0")).await;
    let updates = link.end_of("new").await;
    let last = updates.last().unwrap();
    assert_eq!(state(last), v1::TaskState::Finished, "{}", last.text);
    assert!(!is_running(stopped.into()));
    let has_run = |task: &String| {
        let mut sandboxes = host.sandboxes(task).into_iter();
        sandboxes.any(|sandbox| sandbox.join("ran").exists())
    };
    let executed: BTreeSet<_> = (1..=AT_ONCE).map(name).filter(has_run).collect();
    let wrong: Vec<_> = executed.intersection(&in_line).collect();
    assert!(wrong.is_empty(), "{wrong:?} were executed");
    let in_line = in_line.len();
    assert!(!is_held || in_line >= IN_LINE, "{in_line} were in line");
    assert!(!is_held || executed.is_empty(), "{executed:?}");
    finishes(&host, agent, &mut link, "old").await;
    print!("{in_line} in line, ");
}

/// Steps that supervisors take only for the next agent.
const FOR_THE_NEXT: [&str; 3] = [
    "supervisor.listening",
    "supervisor.accepted",
    "ending.control-removed",
];

fn is_of_helpers(step: &str) -> bool {
    let parts = ["launcher.", "supervisor.", "start.", "handoff.", "ending."];
    parts.iter().any(|part| step.starts_with(part))
}

pub(super) async fn a_task_is_killed_if_its_supervisor_or_launcher_stops_at_any_step() {
    stops(false).await;
}

pub(super) async fn unprivileged_agents_kill_tasks_of_stopped_supervisors_and_launchers() {
    stops(true).await;
}

async fn stops(divided: bool) {
    if !crash_points::IS_ON {
        return skip("this build cannot stop at a step");
    }
    if !nix::unistd::geteuid().is_root() {
        return skip("needs root");
    }
    // On a host without foreign devices that come and go.
    on_a_host_of_its_own(move || stops_at_each_step(divided)).await;
}

/// Maximum number of agents that start concurrently: all of them share the threads of this program.
const STARTING: usize = 3;
/// In milliseconds, so that no agent leaves while others start on a busy host.
const HEARTBEAT_MS: u64 = 20_000;

/// Runs the steps concurrently: nearly all of the time is the agents' timeouts. The longest cases
/// start first.
async fn stops_at_each_step(divided: bool) {
    let steps = crash_steps::STEPS.iter().copied();
    let mut steps: Vec<_> = steps.filter(|step| is_of_helpers(step)).collect();
    steps.sort_by_key(|step| !FOR_THE_NEXT.contains(step));
    let hosts: Vec<_> = steps.iter().map(|_| TestHost::new()).collect();
    let directories = hosts.iter().map(|host| host.directory.path().to_owned());
    let audit = LeakAudit::begin(AuditScope {
        directories: directories.collect(),
        groups: hosts.iter().map(groups).collect(),
        ..AuditScope::default()
    });
    let starting = Semaphore::new(STARTING);
    let killed = steps.iter().zip(&hosts);
    join_all(killed.map(|(step, host)| killed_at(step, (host, divided), &starting))).await;
    audit.expect_nothing_left("after the stops");
    print!("{} stops, ", steps.len());
}

/// Starts the agent of a host; the first one has the process that stops.
async fn agent_of(
    (host, divided): (&TestHost, bool),
    master: &Master,
    stops_at: Option<&str>,
) -> AnyAgent {
    match divided {
        true => AnyAgent::Brokered(host.divided_that_hangs(master.address, stops_at)),
        false => AnyAgent::InProcess(host.agent_that_hangs(master.address, stops_at).await),
    }
}

/// Returns a task whose lifecycle reaches this step.
fn task_for(step: &str, host: &TestHost) -> v1::TaskSpec {
    let mut spec = shell("t", "sleep 1000");
    if step != "start.network-entered" {
        spec = in_no_network(spec);
    }
    if step == "start.owners-mapped" {
        spec.host_paths.push(v1::HostPath {
            host_path: host.shared().display().to_string(),
            container_path: "/shared".to_owned(),
            read_only: true,
        });
    }
    spec
}

/// Launches one task: it is killed when it runs, or when the process that starts it has stopped.
/// The stopped process ends with it.
async fn killed_at(step: &str, at: (&TestHost, bool), starting: &Semaphore) {
    let started = starting.acquire().await.unwrap();
    let (host, _) = at;
    let mut master = Master::start().await;
    let agent = agent_of(at, &master, Some(step)).await;
    let mut link = registered(&mut master).await;
    if step == "ending.refused" {
        let task = killed_in_its_request(host, &mut link).await;
        drop(started);
        return is_killed(step, &task, agent, link, host).await;
    }
    link.launch(1, task_for(step, host)).await;
    tokio::select! {
        () = stopped_at(step, host) => {}
        updates = link.until("t", |update| runs(update) || is_terminal(update)) => {
            let last = updates.last().unwrap();
            assert!(runs(last), "{step}: {}", last.text);
        }
    }
    let (agent, mut link) = match FOR_THE_NEXT.contains(&step) {
        true => {
            agent.stop().await;
            let next = agent_of(at, &master, None).await;
            (next, registered(&mut master).await)
        }
        false => (agent, link),
    };
    link.order(2, kill("t", 0)).await;
    drop(started);
    is_killed(step, "t", agent, link, host).await;
}

/// Waits for the end of a killed task.
async fn is_killed(
    step: &str,
    task: &str,
    agent: AnyAgent,
    mut link: AgentStream,
    host: &TestHost,
) {
    let updates = link.end_of(task).await;
    let last = updates.last().unwrap();
    assert_eq!(state(last), v1::TaskState::Killed, "{step}: {}", last.text);
    agent.is_clear().await;
    agent.stop().await;
    stopped_at(step, host).await;
}

/// A task is killed while its request is in transit to the launcher: its start is cancelled, and
/// its supervisor refuses it. Returns the task: one that is killed before its request is sent
/// reaches no supervisor, and the next one is tried.
async fn killed_in_its_request(host: &TestHost, link: &mut AgentStream) -> String {
    let launcher = launcher_with(&host.witness());
    for number in 1.. {
        let task = format!("t{number}");
        stop(launcher);
        let order = 2 * number - 1;
        link.launch(order, in_no_network(shell(&task, "sleep 1000")))
            .await;
        let dir = host.directory().join(format!("containers/1-{order}-1"));
        let deadline = Instant::now() + TIMEOUT;
        while !dir.exists() {
            assert!(Instant::now() < deadline, "nothing is prepared");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        link.order(order + 1, kill(&task, 0)).await;
        // Long enough for the cancellation: no supervisor can claim it yet.
        tokio::time::sleep(Duration::from_millis(200)).await;
        signal(Pid::from_raw(launcher as i32), Signal::SIGCONT).unwrap();
        tokio::select! {
            () = stopped_at("ending.refused", host) => return task,
            _ = link.end_of(&task) => {}
        }
    }
    unreachable!("there are more numbers")
}

async fn registered(master: &mut Master) -> AgentStream {
    let (mut link, hello) = master.link().await;
    link.register_with(&hello, true, HEARTBEAT_MS).await;
    link
}

/// Waits until a process has passed the step.
async fn stopped_at(step: &str, host: &TestHost) {
    let deadline = Instant::now() + TIMEOUT;
    while crash_points::passes(&host.witness()).unwrap_or(0) == 0 {
        assert!(Instant::now() < deadline, "no process has passed {step}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
