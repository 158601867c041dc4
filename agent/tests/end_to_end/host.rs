//! The hosts of agents: directories that outlive them, and the programs that this executable is.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::OnceLock;

use argosy_agent::{
    AgentDependencies, ClusterAuthorities, Config, DiskEnforcement, Environment, HelperCommands,
    ImageRoots, IsolationMode, LauncherCommand, ServiceCommand, run,
};
use argosy_client::ConnectorConfig;
use argosy_client::executor::{AgentEndpoint, ExecutorRunner};
use argosy_frameworks::shell_executor::ShellExecutor;
use argosy_host::crash_points;
use argosy_proto::server::callers;
use argosy_proto::transport::{Dialer, Listener};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::running::{API, Agent, AgentProcess, log_error};

/// The verb by which this program runs as its own launcher.
pub(crate) const LAUNCHER: &str = "launcher";
/// The verb by which it runs as the content service.
pub(crate) const CONTENT: &str = "content";
/// The verb by which it runs as an agent.
pub(crate) const AGENT: &str = "agent";

/// The verb by which it runs as an agent that gives up root.
pub(crate) const DIVIDED: &str = "divided-agent";

/// The fault of a divided agent: a panic at a step, a crash there, or a launcher or supervisor that
/// stops there.
const PANICS: &str = "panics";
const CRASHES: &str = "crashes";
const HANGS: &str = "hangs";

/// The verb by which it runs as an executor.
pub(crate) const EXECUTOR: &str = "executor";

/// The directory next to an agent's that its tasks may see.
const SHARED: &str = "shared";
/// The file next to an agent's directory that enables file systems for tasks with `disk`.
const LOOPED: &str = "looped";
const WITHOUT_OUTPUT: &str = "without-output";
/// The file next to an agent's directory that enables copies of images for containers.
const COPYING: &str = "copying";
/// The directory next to an agent's whose files its tasks may fetch.
const FILES: &str = "files";
/// The directory next to an agent's with images, if there are some.
const LAYOUTS: &str = "layouts";
/// The directory next to an agent's with its CNI networks and plugins, if there are some.
const PLUGINS: &str = "plugins";

/// A host: the state that remains without its agent.
pub(crate) struct TestHost {
    pub(crate) directory: tempfile::TempDir,
}

impl TestHost {
    pub(crate) fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) async fn agent(&self, master: SocketAddr) -> Agent {
        self.agent_with(master, |_| {}).await
    }

    /// Starts an agent whose tasks may be in the network of this host.
    pub(crate) async fn agent_that_opens(&self, master: SocketAddr) -> Agent {
        let open = |config: &mut Config| config.allowed_security_options.host_network = true;
        self.agent_with(master, open).await
    }

    pub(crate) async fn agent_with(
        &self,
        master: SocketAddr,
        change: impl FnOnce(&mut Config),
    ) -> Agent {
        self.agent_by(commands(), master, change).await
    }

    /// Starts an agent whose launcher, or a supervisor that it has created, stops at this step, the
    /// first of them that reaches it.
    pub(crate) async fn agent_that_hangs(&self, master: SocketAddr, step: Option<&str>) -> Agent {
        let mut commands = commands();
        if let Some(step) = step {
            let witness = self.witness().display().to_string();
            let arguments = &mut commands.launcher.arguments;
            arguments.extend([step.to_owned(), witness]);
        }
        self.agent_by(commands, master, |_| {}).await
    }

    /// Does the same for an agent that gives up root.
    pub(crate) fn divided_that_hangs(
        &self,
        master: SocketAddr,
        step: Option<&str>,
    ) -> AgentProcess {
        let witness = self.witness().display().to_string();
        match step {
            Some(step) => self.divided_that(master, &[HANGS, step, &witness]),
            None => self.divided(master),
        }
    }

    /// Returns the file that counts how often a step was passed.
    pub(crate) fn witness(&self) -> PathBuf {
        self.directory.path().join("witness")
    }

    async fn agent_by(
        &self,
        commands: HelperCommands,
        master: SocketAddr,
        change: impl FnOnce(&mut Config),
    ) -> Agent {
        let (stop, end_tasks) = (CancellationToken::new(), CancellationToken::new());
        let (mut config, mut parts) =
            configured(&self.directory(), master, end_tasks.clone()).await;
        parts.environment = Environment::Machine(commands);
        change(&mut config);
        Agent {
            api: config.address.parse().unwrap(),
            running: tokio::spawn(log_error(run(config, parts, stop.clone()))),
            stop,
            end_tasks,
            lock: self.directory().join("lock"),
        }
    }

    /// Starts the same as a separate process, to be killed.
    pub(crate) fn process(&self, master: SocketAddr) -> AgentProcess {
        self.crashing(master, &[])
    }

    /// Starts an agent that gives up root, and may allow its tasks the host's network.
    pub(crate) fn divided(&self, master: SocketAddr) -> AgentProcess {
        self.divided_that(master, &[])
    }

    /// Starts the same, which crashes at a step: its name, at which pass, and the witness file. Its
    /// agent or its broker crashes, whichever reaches the step.
    pub(crate) fn divided_that_crashes(&self, master: SocketAddr, crash: &[&str]) -> AgentProcess {
        let crash: Vec<_> = [CRASHES].iter().chain(crash).copied().collect();
        self.divided_that(master, &crash)
    }

    fn divided_that(&self, master: SocketAddr, fate: &[&str]) -> AgentProcess {
        // Its user can traverse to its directory.
        open(self.directory.path(), 0o711);
        let mut command = self.divided_command(master);
        AgentProcess(command.args(fate).spawn().unwrap(), self.directory())
    }

    /// Starts an agent whose broker is to panic: at which step and pass, and the witness file.
    /// Standard error of both goes to `said`.
    pub(crate) fn panicking(
        &self,
        master: SocketAddr,
        panic: &[&str],
        output: &Path,
    ) -> AgentProcess {
        open(self.directory.path(), 0o711);
        let mut command = self.divided_command(master);
        command.arg(PANICS).args(panic);
        command.stderr(std::fs::File::create(output).unwrap());
        AgentProcess(command.spawn().unwrap(), self.directory())
    }

    /// Starts the same on an unchanged directory.
    pub(crate) fn undivided(&self, master: SocketAddr) -> AgentProcess {
        let mut command = self.divided_command(master);
        AgentProcess(command.spawn().unwrap(), self.directory())
    }

    fn divided_command(&self, master: SocketAddr) -> Command {
        let mut command = Command::new("/proc/self/exe");
        command
            .arg(DIVIDED)
            .arg(self.directory())
            .arg(master.to_string());
        command
    }

    /// Starts an agent that is to crash at a step: its name, at which pass, and the witness file.
    pub(crate) fn crashing(&self, master: SocketAddr, crash: &[&str]) -> AgentProcess {
        self.process_of(Path::new("/proc/self/exe"), master, crash)
    }

    /// Starts the same from this executable, which is a copy of this program.
    pub(crate) fn process_of(
        &self,
        executable: &Path,
        master: SocketAddr,
        crash: &[&str],
    ) -> AgentProcess {
        let mut command = Command::new(executable);
        command
            .arg(AGENT)
            .arg(self.directory())
            .arg(master.to_string())
            .args(crash);
        AgentProcess(command.spawn().unwrap(), self.directory())
    }

    /// Returns a directory that tasks may see, and write to as `nobody`.
    pub(crate) fn shared(&self) -> PathBuf {
        let directory = self.directory.path().join(SHARED);
        std::fs::create_dir_all(&directory).unwrap();
        open(&directory, 0o777);
        directory
    }

    /// Returns the path of a new file with this content, in a directory whose files tasks may
    /// fetch.
    pub(crate) fn serve(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.files().join(name);
        std::fs::write(&path, content).unwrap();
        open(&path, 0o644);
        path
    }

    /// Does the same with this program itself.
    pub(crate) fn program(&self) -> PathBuf {
        let (own, path) = (
            std::env::current_exe().unwrap(),
            self.files().join("program"),
        );
        // Copied if it is on another file system.
        if !path.exists() && std::fs::hard_link(&own, &path).is_err() {
            std::fs::copy(&own, &path).unwrap();
        }
        path
    }

    pub(crate) fn files(&self) -> PathBuf {
        let directory = self.directory.path().join(FILES);
        std::fs::create_dir_all(&directory).unwrap();
        // Tasks get only files that all users can read.
        open(self.directory.path(), 0o711);
        open(&directory, 0o755);
        directory
    }

    /// Enables file systems for tasks with `disk`, for agents that start from now on.
    pub(crate) fn makes_file_systems(&self) {
        std::fs::write(self.directory.path().join(LOOPED), "").unwrap();
    }

    /// Disables the retention of output, for agents that start from now on: they remove whole
    /// sandboxes.
    pub(crate) fn keeps_no_output(&self) {
        std::fs::write(self.directory.path().join(WITHOUT_OUTPUT), "").unwrap();
    }

    /// Enables copies of images for containers, for agents that start from now on.
    pub(crate) fn copies_images(&self) {
        std::fs::write(self.directory.path().join(COPYING), "").unwrap();
    }

    /// Returns a directory from which agents that start from now on take images.
    pub(crate) fn layouts(&self) -> PathBuf {
        let directory = self.directory.path().join(LAYOUTS);
        std::fs::create_dir_all(&directory).unwrap();
        directory
    }

    /// Returns a directory in which agents that start from now on search for CNI networks and
    /// plugins.
    pub(crate) fn plugins(&self) -> PathBuf {
        let directory = self.directory.path().join(PLUGINS);
        std::fs::create_dir_all(&directory).unwrap();
        directory
    }

    pub(crate) fn directory(&self) -> PathBuf {
        self.directory.path().join("agent")
    }

    /// Returns the sandbox of a task's only instance.
    pub(crate) fn sandbox(&self, task: &str) -> PathBuf {
        let mut found = self.sandboxes(task);
        found.pop().expect("a sandbox is there")
    }

    /// Returns the sandboxes of a task, none if it was never prepared.
    pub(crate) fn sandboxes(&self, task: &str) -> Vec<PathBuf> {
        let all = self.directory.path().join("agent/sandboxes");
        let directory = all.join(crate::master::FRAMEWORK).join(task);
        let found = std::fs::read_dir(directory).into_iter().flatten().flatten();
        let sandboxes = found.filter(|entry| entry.file_type().unwrap().is_dir());
        sandboxes.map(|entry| entry.path()).collect()
    }
}

fn open(path: &Path, mode: u32) {
    let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
    std::fs::set_permissions(path, mode).unwrap();
}

async fn configured(
    directory: &Path,
    master: SocketAddr,
    end_tasks: CancellationToken,
) -> (Config, AgentDependencies) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = configuration(directory, master, listener.local_addr().unwrap());
    let parts = parts(
        Listener::tcp(listener),
        Environment::Machine(commands()),
        end_tasks,
    );
    (config, parts)
}

fn configuration(directory: &Path, master: SocketAddr, api: SocketAddr) -> Config {
    let mut config = Config::new(
        directory.to_owned(),
        vec![master.to_string()],
        api.to_string(),
    );
    config.allow_missing_controllers = true;
    config.host_paths = vec![directory.with_file_name(SHARED)];
    config.fetch_dirs = vec![directory.with_file_name(FILES)];
    // The addresses of the servers of the tests.
    config.fetch_allow = vec!["127.0.0.0/8".parse().unwrap()];
    let plugins = directory.with_file_name(PLUGINS);
    if plugins.exists() {
        config.networks.cni.conf_dir = Some(plugins.clone());
        config.networks.cni.plugins = vec![plugins];
    }
    if directory.with_file_name(LOOPED).exists() {
        config.disk_enforcement = DiskEnforcement::Loop;
    }
    if directory.with_file_name(WITHOUT_OUTPUT).exists() {
        config.log_retention_bytes = 0;
    }
    if directory.with_file_name(COPYING).exists() {
        config.image_roots = ImageRoots::Copy;
    }
    let layouts = directory.with_file_name(LAYOUTS);
    if layouts.exists() {
        config.images.directories = vec![layouts];
    }
    config.resources = "cpus:4;mem:1024".parse().unwrap();
    if !nix::unistd::geteuid().is_root() {
        config.isolation = IsolationMode::Processes;
    }
    config
}

fn commands() -> HelperCommands {
    HelperCommands {
        launcher: LauncherCommand {
            program: PathBuf::from("/proc/self/exe"),
            arguments: vec![LAUNCHER.into()],
        },
        content: ServiceCommand {
            program: PathBuf::from("/proc/self/exe"),
            arguments: vec![CONTENT.into()],
        },
    }
}

fn parts(api: Listener, environment: Environment, stop: CancellationToken) -> AgentDependencies {
    AgentDependencies {
        api,
        environment,
        connector: ConnectorConfig::default(),
        metrics: Some(recorder()),
        end_tasks: stop,
        serving: None,
    }
}

/// Returns the metrics that all agents of this process share.
fn recorder() -> PrometheusHandle {
    static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();
    let made = || PrometheusBuilder::new().install_recorder().unwrap();
    RECORDER.get_or_init(made).clone()
}

/// Arms this process, which is a launcher, to stop at a step if one was requested.
pub(crate) fn arm_launcher() {
    let mut arguments = std::env::args().skip(2);
    if let Some((step, witness)) = arguments.next().zip(arguments.next()) {
        crash_points::arm_stop(&step, 1, Path::new(&witness)).unwrap();
    }
}

/// No test here contacts another agent.
pub(crate) fn without_tls(_: Dialer, _: &ClusterAuthorities) -> Result<Dialer, String> {
    Err("this program has no TLS".to_owned())
}

/// Runs an agent as a separate process: it ends by being killed.
pub(crate) fn agent_process() -> ExitCode {
    let mut arguments = std::env::args().skip(2);
    let directory = PathBuf::from(arguments.next().unwrap());
    let master = arguments.next().unwrap().parse().unwrap();
    if let Some(step) = arguments.next() {
        let at = arguments.next().unwrap().parse().unwrap();
        let witness = PathBuf::from(arguments.next().unwrap());
        crash_points::arm(&step, at, &witness).unwrap();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    runtime.unwrap().block_on(async {
        let (config, parts) = configured(&directory, master, CancellationToken::new()).await;
        // The address for requests.
        std::fs::write(directory.with_file_name(API), &config.address).unwrap();
        run(config, parts, CancellationToken::new()).await.unwrap();
    });
    ExitCode::SUCCESS
}

/// Does the same for an agent that gives up root before it has threads.
pub(crate) fn divided_process() -> ExitCode {
    let mut arguments = std::env::args().skip(2);
    let directory = PathBuf::from(arguments.next().unwrap());
    let master = arguments.next().unwrap().parse().unwrap();
    let mut commands = commands();
    if let Some(fate) = arguments.next() {
        let words: Vec<String> = arguments.collect();
        match (fate.as_str(), &words[..]) {
            (PANICS, [step, at, witness]) => {
                crash_points::arm_panic(step, at.parse().unwrap(), Path::new(witness)).unwrap();
            }
            (CRASHES, [step, at, witness]) => {
                crash_points::arm(step, at.parse().unwrap(), Path::new(witness)).unwrap();
            }
            (HANGS, [_, _]) => commands.launcher.arguments.extend(words),
            _ => panic!("{fate} {words:?}"),
        }
    }
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let mut config = configuration(&directory, master, listener.local_addr().unwrap());
    config.allowed_security_options.host_network = true;
    // The address for requests.
    std::fs::write(directory.with_file_name(API), &config.address).unwrap();
    callers::keep_caller_sources();
    let link = argosy_agent::separate_privileges(&config, &commands, &[], || ()).unwrap();
    let ground = link.map_or_else(|| Environment::Machine(commands), Environment::Brokered);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let ended = runtime.unwrap().block_on(async {
        let api = Listener::tcp(TcpListener::from_std(listener).unwrap());
        let parts = parts(api, ground, CancellationToken::new());
        let stop = CancellationToken::new();
        let running = log_error(run(config, parts, stop.clone()));
        let mut terminate = signal(SignalKind::terminate()).unwrap();
        let stopping = async {
            terminate.recv().await;
            stop.cancel();
            std::future::pending().await
        };
        tokio::select! {
            ended = running => ended,
            () = stopping => unreachable!("it waits without a limit"),
        }
    });
    ExitCode::from(u8::from(ended.is_err()))
}

/// Runs an executor that an agent has started.
#[allow(
    clippy::disallowed_methods,
    reason = "an executor gets the address of its agent from its environment"
)]
pub(crate) fn executor_process() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let meeting = AgentEndpoint::from_environment(std::env::vars()).unwrap();
    let mut executor = ShellExecutor::default();
    let run = async { ExecutorRunner::new(meeting).run(&mut executor).await };
    runtime.unwrap().block_on(run).unwrap();
    ExitCode::SUCCESS
}
