//! A cluster of real processes on separate loopback addresses.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use argosy_client::{Connector, ConnectorConfig, Masters, OperatorClient};
use argosy_proto::v1;
use argosy_testbed::health::HealthCheck;
use argosy_testbed::leftovers;
use argosy_testbed::processes::{LaunchMethod, ManagedProcess, ProcessSpec, RunSettings};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::sync::{Mutex, MutexGuard};

use crate::failover_bounds;

/// One master or agent, and the command that restarts it.
pub(crate) struct TestMember {
    pub(crate) name: String,
    pub(crate) address: Ipv4Addr,
    /// The executable, if the member runs another release.
    executable: Option<PathBuf>,
    /// The program that starts the executable, if any, and its arguments.
    prefix: Vec<String>,
    arguments: Vec<String>,
    process: ManagedProcess,
}

impl TestMember {
    pub(crate) fn pid(&self) -> Pid {
        let pid = self.process.pid().expect("the member runs");
        Pid::from_raw(pid.try_into().expect("a pid fits"))
    }

    pub(crate) fn is_up(&self) -> bool {
        self.process.is_up()
    }

    pub(crate) fn api(&self) -> String {
        format!("{}:5050", self.address)
    }

    /// Returns whether each of its threads is stopped by a signal.
    pub(crate) fn is_hung(&self) -> bool {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.pid())).expect("it is there");
        threads.flatten().all(|thread| {
            let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            stat.rsplit_once(") ")
                .is_some_and(|(_, rest)| rest.starts_with('T'))
        })
    }

    /// Returns whether this metric is 1, or `None` if the member does not answer.
    pub(crate) async fn metric_is_one(&self, metric: &str) -> Option<bool> {
        let port = if self.name.starts_with("agent") {
            5051
        } else {
            5050
        };
        let url = format!("http://{}:{port}/metrics", self.address);
        let text = reqwest::get(&url).await.ok()?.text().await.ok()?;
        let mut lines = text.lines().filter_map(|line| line.split_once(' '));
        lines.find_map(|(name, value)| (name == metric).then(|| value.trim() == "1"))
    }

    /// Sets a program that starts the executable by replacing itself.
    pub(crate) fn within(mut self, prefix: &[&str]) -> Self {
        self.prefix = to_strings(prefix);
        self
    }

    /// Sets the release to run from the next start on; `None` is the current one.
    pub(crate) fn run_by(&mut self, executable: Option<&Path>) {
        self.executable = executable.map(Path::to_owned);
    }

    /// Returns the arguments, without the executable.
    pub(crate) fn arguments(&self) -> &[String] {
        &self.arguments
    }

    /// Replaces the argument `from` by `to`, from the next start on.
    pub(crate) fn replace_argument(&mut self, from: &str, to: &str) {
        let argument = self.arguments.iter_mut().find(|one| *one == from);
        *argument.expect("it is an argument") = to.to_owned();
    }

    /// Starts a member that does not run.
    pub(crate) fn start(&mut self) {
        let ended = self.ended();
        assert!(ended.is_some() || !self.is_up(), "{} runs", self.name);
        let spec = &mut self.process.spec;
        spec.program = self.executable.clone().unwrap_or_else(argosy);
        spec.arguments.clone_from(&self.arguments);
        if !self.prefix.is_empty() {
            spec.launch = LaunchMethod::Through(self.prefix.clone());
        }
        let log = ("ARGOSY_LOG".to_owned(), "info,openraft=error".to_owned());
        let settings = RunSettings {
            environment: vec![log],
        };
        let started = self.process.start_with(&settings);
        started.expect("the executable starts");
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.process.send(signal).expect("the member is there");
    }

    /// Sends SIGKILL and waits for the exit.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    /// Returns the exit status if the process has exited by itself.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.process.exit_status()
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.ended().is_some()
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.process.spec.log).unwrap_or_default()
    }
}

/// Returns the executable under test.
pub(crate) fn argosy() -> PathBuf {
    std::env::var_os("ARGOSY_BIN")
        .map_or_else(|| env!("CARGO_BIN_EXE_argosy").into(), PathBuf::from)
}

/// Returns how many leaders the long tests kill.
pub(crate) fn kill_count() -> usize {
    std::env::var("ARGOSY_KILLS")
        .ok()
        .and_then(|count| count.parse().ok())
        .unwrap_or(20)
}

/// Three masters and some agents.
pub(crate) struct Cluster {
    pub(crate) masters: Vec<TestMember>,
    pub(crate) agents: Vec<TestMember>,
    pub(crate) directory: TempDir,
    /// Exclusive use of the machine, because elections are measured in wall time.
    exclusive: Option<MutexGuard<'static, ()>>,
}

static EXCLUSIVE: Mutex<()> = Mutex::const_new(());

/// Number of clusters of this process. Each has a separate network.
static CLUSTERS: AtomicU8 = AtomicU8::new(0);

pub(crate) const AGENT_RESOURCES: &str = "cpus:8;mem:4096;disk:4096;ports:[31000-31099]";

/// Loopback addresses that no other cluster of these tests has.
struct LoopbackNetwork([u8; 3]);

impl LoopbackNetwork {
    fn new() -> Self {
        let pid = std::process::id();
        let number = CLUSTERS.fetch_add(1, Ordering::Relaxed);
        assert!(number < 50, "there are more clusters than networks");
        Self([
            127,
            100 + (pid % 100) as u8,
            (pid / 100 % 5) as u8 * 50 + number,
        ])
    }

    fn address(&self, host: usize) -> Ipv4Addr {
        Ipv4Addr::new(self.0[0], self.0[1], self.0[2], host as u8)
    }

    fn masters(&self, port: u16) -> String {
        let list: Vec<String> = (1..=3)
            .map(|host| format!("{}:{port}", self.address(host)))
            .collect();
        list.join(",")
    }

    fn master(&self, directory: &Path, host: usize, more: &[&str]) -> TestMember {
        let dir = directory.join(format!("master-{host}"));
        let listen = self.address(host).to_string();
        let mut arguments = to_strings(&[
            "master",
            "start",
            "--listen",
            &listen,
            "--peers",
            &self.masters(5052),
        ]);
        arguments.extend(to_strings(&["--data-dir", &dir.display().to_string()]));
        arguments.extend(to_strings(more));
        member(
            directory,
            format!("master-{host}"),
            self.address(host),
            arguments,
        )
    }

    fn agent(&self, directory: &Path, number: usize) -> TestMember {
        let dir = directory.join(format!("agent-{number}"));
        let host = self.address(100 + number);
        let mut arguments = to_strings(&[
            "agent",
            "start",
            "--masters",
            &self.masters(5050),
            "--listen",
            &host.to_string(),
        ]);
        arguments.extend(to_strings(&[
            "--data-dir",
            &dir.display().to_string(),
            "--resources",
            AGENT_RESOURCES,
        ]));
        arguments.extend(to_strings(&[
            "--allow-missing-controllers",
            "--host-path",
            &directory.display().to_string(),
        ]));
        member(directory, format!("agent-{number}"), host, arguments)
    }
}

impl Cluster {
    /// Starts `agents` agents under three masters and waits until all are registered.
    pub(crate) async fn start(agents: usize) -> Self {
        Self::start_with(agents, &[]).await
    }

    /// The same, with more arguments for each master.
    pub(crate) async fn start_with(agents: usize, more: &[&str]) -> Self {
        Self::start_as(agents, more, |master| master).await
    }

    /// The same, with each master started by another program, see [`TestMember::within`].
    pub(crate) async fn start_within(agents: usize, prefix: &[&str]) -> Self {
        Self::start_as(agents, &[], |master| master.within(prefix)).await
    }

    /// The same, with every member of another release.
    pub(crate) async fn start_by(agents: usize, executable: &Path) -> Self {
        Self::start_mixed(agents, executable, &[1, 2, 3]).await
    }

    /// The same, with the agents and these masters of another release, counted from 1.
    pub(crate) async fn start_mixed(agents: usize, executable: &Path, masters: &[usize]) -> Self {
        let directory = tempfile::tempdir().expect("a temporary folder");
        let network = LoopbackNetwork::new();
        let of_release = |mut member: TestMember, is_former: bool| {
            member.run_by(is_former.then_some(executable));
            member
        };
        let masters = (1..=3).map(|host| {
            let member = network.master(directory.path(), host, &[]);
            of_release(member, masters.contains(&host))
        });
        let agents =
            (1..=agents).map(|number| of_release(network.agent(directory.path(), number), true));
        Self::of(masters.collect(), agents.collect(), directory).await
    }

    async fn start_as(
        agents: usize,
        more: &[&str],
        change: impl Fn(TestMember) -> TestMember,
    ) -> Self {
        let directory = tempfile::tempdir().expect("a temporary folder");
        let network = LoopbackNetwork::new();
        let masters = (1..=3)
            .map(|host| change(network.master(directory.path(), host, more)))
            .collect();
        let agents = (1..=agents)
            .map(|number| network.agent(directory.path(), number))
            .collect();
        Self::of(masters, agents, directory).await
    }

    /// Starts these members when the machine is free, and waits until all agents are registered.
    pub(crate) async fn of(
        masters: Vec<TestMember>,
        agents: Vec<TestMember>,
        directory: TempDir,
    ) -> Self {
        let mut cluster = Self {
            masters,
            agents,
            directory,
            exclusive: Some(EXCLUSIVE.lock().await),
        };
        for member in cluster.masters.iter_mut().chain(&mut cluster.agents) {
            member.start();
        }
        cluster.wait_registered().await;
        cluster
    }

    /// Waits, and lets another test use the machine in this time.
    pub(crate) async fn yield_machine(&mut self, time: Duration) {
        self.exclusive = None;
        tokio::time::sleep(time).await;
        self.exclusive = Some(EXCLUSIVE.lock().await);
    }

    /// Shares the machine with other tests from now on. Nothing that follows is measured in time.
    pub(crate) fn release_machine(&mut self) {
        self.exclusive = None;
    }

    pub(crate) fn masters_list(&self) -> Masters {
        let list: Vec<String> = self.masters.iter().map(TestMember::api).collect();
        list.join(",").parse().expect("these are addresses")
    }

    pub(crate) fn connector(&self) -> Connector {
        Connector::new(self.masters_list(), ConnectorConfig::default())
    }

    pub(crate) fn operator(&self) -> OperatorClient {
        OperatorClient::new(self.connector())
    }

    pub(crate) fn witness(&self) -> PathBuf {
        let directory = self.directory.path().join("shared");
        std::fs::create_dir_all(&directory).expect("a folder can be made");
        // Tasks are `nobody` there.
        let all = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(&directory, all).expect("the folder is ours");
        directory.join("witness")
    }

    /// Waits until every agent is registered and connected.
    pub(crate) async fn wait_registered(&self) {
        let wanted = self.agents.len();
        wait_until(
            "all agents are registered",
            Duration::from_secs(60),
            async || {
                let page = self
                    .operator()
                    .list_agents(v1::ListRequest::default())
                    .await
                    .ok()?;
                let ready = page
                    .agents
                    .iter()
                    .filter(|agent| agent.mode() == v1::AgentMode::Registered)
                    .count();
                (ready >= wanted).then_some(())
            },
        )
        .await;
    }

    /// Returns the position in `masters` of the active leader.
    pub(crate) async fn leader(&self) -> usize {
        wait_until("there is a leader", Duration::from_secs(30), async || {
            self.leader_now().await
        })
        .await
    }

    async fn leader_now(&self) -> Option<usize> {
        let cluster = self
            .operator()
            .get_cluster(v1::GetClusterRequest::default())
            .await
            .ok()?;
        let leader = cluster
            .masters
            .iter()
            .find(|master| master.role == "leader")?;
        self.masters
            .iter()
            .position(|member| member.api() == leader.api_address && member.is_up())
    }

    /// Kills the leader, waits for the next one, checks how long that took, and restarts the killed
    /// one.
    pub(crate) async fn fail_over(&mut self) {
        let leader = self.leader().await;
        let killed = Instant::now();
        self.masters[leader].kill();
        let next = self.leader().await;
        assert_ne!(next, leader, "a dead master leads");
        let took = killed.elapsed();
        self.masters[leader].start();
        self.wait_caught_up().await;
        failover_bounds::check(took);
    }

    /// Waits until three voters are up and none lags.
    pub(crate) async fn wait_caught_up(&self) {
        let check = self.health_check();
        wait_until(
            "three voters are caught up",
            Duration::from_secs(30),
            async || check.unhealthy_reason().await.is_none().then_some(()),
        )
        .await;
    }

    /// Returns the check whether three voters are up and none lags.
    pub(crate) fn health_check(&self) -> HealthCheck {
        HealthCheck {
            masters: self.masters.iter().map(TestMember::api).collect(),
            agents: Vec::new(),
            lag_limit: 100,
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for member in self.masters.iter().chain(&self.agents) {
                let tail = member.process.log_tail(25);
                eprintln!("--- {}\n{tail}", member.name);
            }
        }
        for agent in &mut self.agents {
            // Frozen agents are resumed first. Tasks end with the containers. An agent that has
            // ended gets no signal.
            let _ = agent.process.send(Signal::SIGCONT);
            agent.kill();
        }
        for master in &mut self.masters {
            master.kill();
        }
        for agent in &self.agents {
            clear_agent(&self.directory.path().join(&agent.name));
        }
    }
}

/// Ends the tasks of an agent that is gone, and removes its kernel objects.
///
/// # Panics
/// If something remains, unless the test has failed anyway.
pub(crate) fn clear_agent(directory: &Path) {
    let left = leftovers::clear_agent(&argosy(), directory);
    if std::thread::panicking() {
        eprintln!("left: {left:?}");
    } else {
        assert!(left.is_empty(), "left: {left:?}");
    }
}

/// Returns the processes that sleep for this time.
pub(crate) fn sleepers(mark: &str) -> Vec<Pid> {
    let wanted = format!("sleep\0{mark}\0").into_bytes();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let found = processes.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let line = std::fs::read(entry.path().join("cmdline")).ok()?;
        (line == wanted).then(|| Pid::from_raw(pid))
    });
    found.collect()
}

/// The same, as soon as there are that many.
pub(crate) async fn sleeping(mark: &str, count: usize) -> Vec<Pid> {
    wait_until("all sleep", Duration::from_secs(60), async || {
        let sleepers = sleepers(mark);
        (sleepers.len() == count).then_some(sleepers)
    })
    .await
}

pub(crate) fn to_strings(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

pub(crate) fn member(
    directory: &Path,
    name: String,
    address: Ipv4Addr,
    arguments: Vec<String>,
) -> TestMember {
    let process = ManagedProcess::new(ProcessSpec {
        name: name.clone(),
        launch: LaunchMethod::Plain,
        program: argosy(),
        arguments: Vec::new(),
        log: directory.join(format!("{name}.log")),
    });
    TestMember {
        name,
        address,
        executable: None,
        prefix: Vec::new(),
        arguments,
        process,
    }
}

/// Sets attribute `x` of the first agent, the smallest possible change.
pub(crate) async fn write(operator: &OperatorClient, value: String) -> Option<v1::WriteReply> {
    let set = v1::SetAttribute {
        agent_id: "agent-1".to_owned(),
        name: "x".to_owned(),
        value,
    };
    let operation = v1::WriteOperation {
        operation: Some(v1::write_operation::Operation::SetAttribute(set)),
    };
    operator
        .write(v1::WriteBatch {
            operations: vec![operation],
            ..Default::default()
        })
        .await
        .ok()
}

/// Polls every 20 ms until there is an answer.
///
/// # Panics
/// After `limit`, with the name of the condition.
pub(crate) async fn wait_until<T>(
    what: &str,
    limit: Duration,
    mut ask: impl AsyncFnMut() -> Option<T>,
) -> T {
    let deadline = Instant::now() + limit;
    loop {
        // An answer that never arrives is also limited.
        if let Ok(Some(found)) = tokio::time::timeout_at(deadline.into(), ask()).await {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
