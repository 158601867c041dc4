//! A cluster of real processes on separate loopback addresses, for tests: a failure is a panic.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use argosy_client::{Connector, Masters, OperatorClient, SchedulerConfig};
use argosy_proto::transport::ExpectedPeer;
use argosy_proto::v1;
use argosy_state::actor::PrincipalKind;
use argosy_testbed::certificates::{ClusterCertificates, IdentityFiles};
use argosy_testbed::command_lines::{AgentFlags, MasterFlags, MemberTransport};
use argosy_testbed::health::{HealthCheck, leader_address};
use argosy_testbed::leftovers;
use argosy_testbed::loopback::LoopbackNetwork;
use argosy_testbed::processes::{LaunchMethod, ManagedProcess, ProcessSpec, RunSettings};
use argosy_testbed::transport::ClientTransport;
use argosy_testbed::waiting::poll;
use axum::body::{Body, to_bytes};
use axum::http::Request;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::sync::{Mutex, MutexGuard};

use crate::failover_bounds;

/// One master or agent.
pub(crate) struct TestMember {
    pub(crate) name: String,
    pub(crate) address: Ipv4Addr,
    process: ManagedProcess,
    /// The transport of requests to it.
    transport: ClientTransport,
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
        format!("{}:{}", self.address, self.api_port())
    }

    fn api_port(&self) -> u16 {
        if self.name.starts_with("agent") {
            5051
        } else {
            5050
        }
    }

    /// Returns whether each of its threads is stopped by a signal.
    pub(crate) fn is_hung(&self) -> bool {
        self.process.is_stopped()
    }

    /// Returns its metrics, or `None` if it does not answer.
    pub(crate) async fn metrics(&self) -> Option<String> {
        let request = Request::get("/metrics").body(Body::empty()).ok()?;
        let kind = match self.name.starts_with("agent") {
            true => PrincipalKind::Agent,
            false => PrincipalKind::Master,
        };
        let client = self.transport.http(METRICS_TIMEOUT);
        let expected = ExpectedPeer::any(kind);
        let answer = client.send(&self.api(), &expected, request).await.ok()?;
        let body = to_bytes(answer.into_body(), usize::MAX).await.ok()?;
        String::from_utf8(body.into()).ok()
    }

    /// Returns whether this metric is 1, or `None` if the member does not answer.
    pub(crate) async fn metric_is_one(&self, metric: &str) -> Option<bool> {
        let text = self.metrics().await?;
        let mut lines = text.lines().filter_map(|line| line.split_once(' '));
        lines.find_map(|(name, value)| (name == metric).then(|| value.trim() == "1"))
    }

    /// Sets a program that starts the executable by replacing itself.
    pub(crate) fn within(mut self, prefix: &[&str]) -> Self {
        self.process.spec.launch = LaunchMethod::Through(to_strings(prefix));
        self
    }

    /// Sets the release to run from the next start on; `None` is the current one.
    pub(crate) fn run_by(&mut self, executable: Option<&Path>) {
        self.process.spec.program = executable.map_or_else(argosy, Path::to_owned);
    }

    /// Returns the arguments, without the executable.
    pub(crate) fn arguments(&self) -> &[String] {
        &self.process.spec.arguments
    }

    /// Replaces the argument `from` by `to`, from the next start on.
    pub(crate) fn replace_argument(&mut self, from: &str, to: &str) {
        let mut arguments = self.process.spec.arguments.iter_mut();
        let argument = arguments.find(|one| *one == from);
        *argument.expect("it is an argument") = to.to_owned();
    }

    /// Replaces one argument by several, from the next start on.
    pub(crate) fn replace_argument_by(&mut self, from: &str, to: Vec<String>) {
        let arguments = &mut self.process.spec.arguments;
        let at = arguments.iter().position(|one| one == from);
        let at = at.expect("it is an argument");
        arguments.splice(at..=at, to);
    }

    /// Starts a member that does not run.
    pub(crate) fn start(&mut self) {
        let ended = self.ended();
        assert!(ended.is_some() || !self.is_up(), "{} runs", self.name);
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
        self.process.log()
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
    /// The identity of an operator; `None` in a cluster without TLS.
    operator: Option<IdentityFiles>,
    pub(crate) transport: ClientTransport,
    /// Exclusive use of the machine, because elections are measured in wall time.
    exclusive: Option<MutexGuard<'static, ()>>,
}

static EXCLUSIVE: Mutex<()> = Mutex::const_new(());

pub(crate) const AGENT_RESOURCES: &str = "cpus:8;mem:4096;disk:4096;ports:[31000-31099]";
/// Time for all members to become healthy.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Timeout for a connection that reads metrics.
const METRICS_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause between two checks.
const POLL_PAUSE: Duration = Duration::from_millis(20);

/// The certificates of a cluster; `None` for plaintext.
type Certificates<'a> = Option<&'a ClusterCertificates>;

/// Returns the transport of a member, with a new certificate if the cluster has TLS.
fn transport(
    certificates: Certificates<'_>,
    kind: PrincipalKind,
    (name, address): (&str, Ipv4Addr),
) -> MemberTransport {
    let Some(certificates) = certificates else {
        return MemberTransport::Plaintext;
    };
    let files = certificates.issue(kind, name, Some(address.into()));
    MemberTransport::Tls(files.expect("the directory can be written"))
}

/// Returns a master of a group of three.
fn master(
    (network, certificates): (LoopbackNetwork, Certificates<'_>),
    directory: &Path,
    host: u8,
    more: &[&str],
) -> TestMember {
    let name = format!("master-{host}");
    let address = network.address(host);
    let flags = MasterFlags {
        listen: &address.to_string(),
        peers: &network.list(3, 5052),
        data_dir: &directory.join(&name),
        transport: &transport(certificates, PrincipalKind::Master, (&name, address)),
    };
    member(directory, name, address, flags.arguments(more))
}

fn agent(
    (network, certificates): (LoopbackNetwork, Certificates<'_>),
    directory: &Path,
    number: u8,
) -> TestMember {
    let name = format!("agent-{number}");
    let address = network.address(100 + number);
    let flags = AgentFlags {
        listen: &address.to_string(),
        masters: &network.list(3, 5050),
        data_dir: &directory.join(&name),
        resources: AGENT_RESOURCES,
        transport: &transport(certificates, PrincipalKind::Agent, (&name, address)),
    };
    let arguments = flags.arguments(&["--host-path", &directory.display().to_string()]);
    member(directory, name, address, arguments)
}

impl Cluster {
    /// Starts `agents` agents under three masters and waits until all are registered.
    pub(crate) async fn start(agents: u8) -> Self {
        Self::start_with(agents, &[]).await
    }

    /// The same, with more arguments for each master.
    pub(crate) async fn start_with(agents: u8, more: &[&str]) -> Self {
        Self::start_as(agents, more, |member| member).await
    }

    /// The same, with TLS between all processes.
    pub(crate) async fn start_tls(agents: u8) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let certificates = ClusterCertificates::create(&directory.path().join("tls"));
        let certificates = certificates.expect("the directory can be written");
        let operator = certificates.issue(PrincipalKind::Operator, "tester", None);
        let operator = operator.expect("the directory can be written");
        let found = (LoopbackNetwork::next(), Some(&certificates));
        let masters = (1..=3).map(|host| master(found, directory.path(), host, &[]));
        let masters = masters.collect();
        let agents = (1..=agents).map(|number| agent(found, directory.path(), number));
        let agents = agents.collect();
        Self::with_operator(masters, agents, directory, Some(operator)).await
    }

    /// Starts three masters with TLS that issue certificates to hosts with a token.
    pub(crate) async fn start_issuing() -> (Self, ClusterCertificates) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let certificates = ClusterCertificates::create(&directory.path().join("tls"));
        let certificates = certificates.expect("the directory can be written");
        let operator = certificates.issue(PrincipalKind::Operator, "tester", None);
        let operator = operator.expect("the directory can be written");
        let key = certificates.write_key();
        let key = key.expect("the directory can be written");
        let more = ["--ca-key", &key.display().to_string()];
        let found = (LoopbackNetwork::next(), Some(&certificates));
        let masters = (1..=3).map(|host| master(found, directory.path(), host, &more));
        let masters = masters.collect();
        let cluster = Self::with_operator(masters, Vec::new(), directory, Some(operator));
        (cluster.await, certificates)
    }

    /// Adds and starts an agent with these files of TLS, and returns its position.
    pub(crate) fn add_agent(&mut self, host: u8, files: IdentityFiles) -> usize {
        let [a, b, c, _] = self.masters[0].address.octets();
        let address = Ipv4Addr::new(a, b, c, host);
        let name = format!("agent-{host}");
        let masters = self.masters_list().to_string();
        let flags = AgentFlags {
            listen: &address.to_string(),
            masters: &masters,
            data_dir: &self.directory.path().join(&name),
            resources: AGENT_RESOURCES,
            transport: &MemberTransport::Tls(files),
        };
        let arguments = flags.arguments(&[]);
        let mut added = member(self.directory.path(), name, address, arguments);
        added.transport = self.transport.clone();
        added.start();
        self.agents.push(added);
        self.agents.len() - 1
    }

    /// The same, with each master started by another program, see [`TestMember::within`].
    pub(crate) async fn start_within(agents: u8, prefix: &[&str]) -> Self {
        let change = |member: TestMember| match member.name.starts_with("master") {
            true => member.within(prefix),
            false => member,
        };
        Self::start_as(agents, &[], change).await
    }

    /// The same, with every member of another release.
    pub(crate) async fn start_by(agents: u8, executable: &Path) -> Self {
        Self::start_mixed(agents, executable, &[1, 2, 3]).await
    }

    /// The same, with the agents and these masters of another release, counted from 1.
    pub(crate) async fn start_mixed(agents: u8, executable: &Path, masters: &[usize]) -> Self {
        let of_release = |mut member: TestMember| {
            let number = member.name.strip_prefix("master-");
            let number: Option<usize> = number.and_then(|number| number.parse().ok());
            if number.is_none_or(|number| masters.contains(&number)) {
                member.run_by(Some(executable));
            }
            member
        };
        Self::start_as(agents, &[], of_release).await
    }

    async fn start_as(
        agents: u8,
        more: &[&str],
        change: impl Fn(TestMember) -> TestMember,
    ) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let network = (LoopbackNetwork::next(), None);
        let masters = (1..=3).map(|host| change(master(network, directory.path(), host, more)));
        let masters = masters.collect();
        let agents = (1..=agents).map(|number| change(agent(network, directory.path(), number)));
        let agents = agents.collect();
        Self::of(masters, agents, directory).await
    }

    /// Starts these members without TLS when the machine is free, and waits until all agents are
    /// registered.
    pub(crate) async fn of(
        masters: Vec<TestMember>,
        agents: Vec<TestMember>,
        directory: TempDir,
    ) -> Self {
        Self::with_operator(masters, agents, directory, None).await
    }

    async fn with_operator(
        masters: Vec<TestMember>,
        agents: Vec<TestMember>,
        directory: TempDir,
        operator: Option<IdentityFiles>,
    ) -> Self {
        let transport = operator
            .as_ref()
            .map_or_else(ClientTransport::default, |files| {
                ClientTransport::tls(&files.load().expect("the certificates are valid"))
            });
        let mut cluster = Self {
            masters,
            agents,
            directory,
            operator,
            transport,
            exclusive: Some(EXCLUSIVE.lock().await),
        };
        for member in cluster.masters.iter_mut().chain(&mut cluster.agents) {
            member.transport = cluster.transport.clone();
            member.start();
        }
        let check = cluster.health_check_with_agents();
        let members = cluster.masters.iter_mut().chain(&mut cluster.agents);
        let processes = members.map(|member| &mut member.process);
        let healthy = check.wait_running(processes, START_TIMEOUT).await;
        healthy.unwrap_or_else(|error| panic!("{error:#}"));
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
        Connector::new(self.masters_list(), self.transport.connector())
    }

    /// Returns the settings of a scheduler of this cluster.
    pub(crate) fn scheduler(&self, name: &str) -> SchedulerConfig {
        SchedulerConfig {
            connector: self.transport.connector(),
            ..SchedulerConfig::new(self.masters_list(), name)
        }
    }

    /// Returns the flags of a command that calls this cluster.
    pub(crate) fn client_flags(&self) -> Vec<String> {
        let mut flags = vec!["--masters".to_owned(), self.masters_list().to_string()];
        flags.extend(self.operator.iter().flat_map(IdentityFiles::flags));
        flags
    }

    pub(crate) fn operator(&self) -> OperatorClient {
        OperatorClient::new(self.connector())
    }

    pub(crate) fn witness(&self) -> PathBuf {
        let directory = self.directory.path().join("shared");
        std::fs::create_dir_all(&directory).expect("a directory can be made");
        // Tasks are `nobody` there.
        let all = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(&directory, all).expect("the directory is our own");
        directory.join("witness")
    }

    /// Waits until the masters are healthy, and every agent is registered and connected.
    pub(crate) async fn wait_registered(&self) {
        wait_until_healthy(&self.health_check_with_agents(), START_TIMEOUT).await;
    }

    /// Returns the position in `masters` of the active leader.
    pub(crate) async fn leader(&self) -> usize {
        wait_until("there is a leader", Duration::from_secs(30), async || {
            let api = leader_address(&self.operator()).await?;
            let is_leader = |member: &TestMember| member.api() == api && member.is_up();
            self.masters.iter().position(is_leader)
        })
        .await
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
        wait_until_healthy(&self.health_check(), Duration::from_secs(30)).await;
    }

    /// Returns the check whether three voters are up and none lags.
    pub(crate) fn health_check(&self) -> HealthCheck {
        HealthCheck {
            masters: self.masters.iter().map(TestMember::api).collect(),
            agents: Vec::new(),
            lag_limit: 100,
            transport: self.transport.clone(),
        }
    }

    fn health_check_with_agents(&self) -> HealthCheck {
        HealthCheck {
            agents: self.agents.iter().map(TestMember::api).collect(),
            ..self.health_check()
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

/// Returns a member that is not started, on the current release.
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
        arguments,
        log: directory.join(format!("{name}.log")),
    });
    TestMember {
        name,
        address,
        process,
        transport: ClientTransport::default(),
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

/// # Panics
/// After `limit`, with the reason why the cluster is not healthy.
async fn wait_until_healthy(check: &HealthCheck, limit: Duration) {
    if let Err(reason) = check.wait(limit).await {
        panic!("not healthy within {limit:?}: {reason}");
    }
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
    let found = poll(limit, POLL_PAUSE, async || {
        // An answer that never arrives is also limited.
        let answer = tokio::time::timeout_at(deadline.into(), ask()).await;
        answer.ok().flatten().ok_or(())
    });
    let found = found.await;
    found.unwrap_or_else(|()| panic!("not within {limit:?}: {what}"))
}
