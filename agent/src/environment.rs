//! The environment of an agent: clocks, a journal, containers. It is this machine, or a simulated
//! host. Makes no decisions.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use argosy_isolation::division::HostUser;
use argosy_proto::clock::WallClock;
use argosy_proto::server::audit::{Audit, AuditSettings, AuditWriter};
use argosy_proto::server::hosts::AllowedHosts;
use argosy_proto::server::{self, PortLimits};
use argosy_proto::transport::Listener;
use argosy_proto::v1;
use argosy_state::ids::Timestamp;
use axum::Extension;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::broker::{self, PrivilegedOperations};
use crate::broker_client::{BrokerClient, BrokerLink};
use crate::config::Config;
use crate::core::{AgentState, ContainerName, CoreConfig, Input};
use crate::disk::DiskFloor;
use crate::error::RunError;
use crate::exec::{ExecLimits, ExecState};
use crate::files::FilesState;
use crate::host::HostFeatures;
use crate::inbox::{Event, QueryHandle};
use crate::journal::{self, DirectoryLock, Journal, MemoryDisk};
use crate::paths::Paths;
use crate::reach::EgressRules;
use crate::runner::{self, ContainerRuntime, HelperCommands, Runner};
use crate::start;
use crate::statistics::Statistics;
use crate::{api, gc, metrics};

/// Maximum number of connections to an agent's API: from masters that forward requests for files
/// and commands, and from readers of metrics.
const API_CONNECTIONS: usize = 4_096;

/// The provider of an agent's journal, containers and clocks.
pub enum Environment {
    /// This machine, and the agent's helper processes. This process performs operations that need
    /// root, if it is root.
    Machine(HelperCommands),
    /// This machine. A broker performs operations that need root.
    Brokered(BrokerLink),
    /// A simulated host.
    Simulated(SimulatedHost),
}

/// A simulated host: its boot, clocks, journal and containers.
pub struct SimulatedHost {
    /// The id of its present boot.
    pub boot_id: String,
    /// The time since that boot.
    pub boot_clock: BootClock,
    /// The time of day.
    pub wall_clock: WallClock,
    /// The disk with the journal.
    pub disk: MemoryDisk,
    /// Creates its containers, given those that the journal knows: others are orphans, to be ended.
    pub containers:
        Box<dyn FnOnce(EventSender, Vec<ContainerName>) -> Box<dyn ContainerRuntime> + Send>,
    /// Observes the messages between this agent and its master.
    pub observer: Box<dyn MessageObserver>,
}

/// An observer of an agent's messages, which changes nothing.
pub trait MessageObserver: Send {
    /// The agent is about to open a link, and to register again under its id if it has one.
    fn on_dial(&mut self);

    /// The agent received this message; `accepted` unless it ended the link because of it.
    fn on_received(&mut self, message: &v1::ToAgent, accepted: bool);

    /// The agent sends this message to its master now.
    fn on_sent(&mut self, message: &v1::FromAgent);
}

/// Milliseconds since the host booted, the time base of the core. Cheap to clone.
#[derive(Clone)]
pub struct BootClock(Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl BootClock {
    /// Returns a clock that shows the results of `now`.
    pub fn new(now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    pub(crate) fn now(&self) -> Timestamp {
        (self.0)()
    }
}

impl fmt::Debug for BootClock {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("BootClock")
    }
}

/// The channel of containers to the agent's loop. Cheap to clone.
#[derive(Clone)]
pub struct EventSender(pub(crate) mpsc::Sender<Event>);

impl EventSender {
    /// Waits while the loop is busy.
    pub async fn send(&self, input: Input) {
        // The loop ends only when the agent stops: then the next run discovers the state itself.
        let _ = self.0.send(Event::Core(input)).await;
    }
}

/// The result of opening an environment.
pub(crate) struct Startup {
    pub(crate) facts: AgentState,
    pub(crate) core_config: CoreConfig,
    pub(crate) journal: Journal,
    pub(crate) containers: Box<dyn ContainerRuntime>,
    pub(crate) clock: BootClock,
    pub(crate) observer: Option<Box<dyn MessageObserver>>,
    /// The endpoints to which its tasks cannot connect.
    pub(crate) reach: EgressRules,
    /// `None` on a simulated host.
    pub(crate) broker: Option<BrokerClient>,
    /// Background tasks next to the loop. None of them ends before the agent does.
    pub(crate) helpers: JoinSet<Result<(), RunError>>,
    /// Ends the audit log when it is dropped.
    pub(crate) audit: Option<AuditWriter>,
    /// Held while the agent runs.
    pub(crate) lock: Option<DirectoryLock>,
}

/// The agent's HTTP surface.
pub(crate) struct HttpSurface {
    pub(crate) api: Listener,
    pub(crate) metrics: Option<PrometheusHandle>,
}

impl Environment {
    pub(crate) fn open(
        self,
        config: &Config,
        front: HttpSurface,
        inbox: &mpsc::Sender<Event>,
    ) -> Result<Startup, RunError> {
        match self {
            Self::Machine(commands) => {
                on_machine(config, PrivilegedProcess::Agent(commands), front, inbox)
            }
            Self::Brokered(link) => {
                on_machine(config, PrivilegedProcess::Broker(link), front, inbox)
            }
            Self::Simulated(host) => host.open(config, front, inbox),
        }
    }
}

/// The process that performs operations that need root.
enum PrivilegedProcess {
    Agent(HelperCommands),
    Broker(BrokerLink),
}

impl PrivilegedProcess {
    /// Opens the access to these operations. The result includes a notification of a broker's end.
    fn open(
        self,
        config: &Config,
        lock: &DirectoryLock,
    ) -> Result<
        (
            BrokerClient,
            HostFeatures,
            Option<oneshot::Receiver<String>>,
        ),
        RunError,
    > {
        match self {
            Self::Agent(commands) => {
                let (operations, host) =
                    PrivilegedOperations::open(config, commands, HostUser::current())?;
                Ok((operations.into_client(), host, None))
            }
            Self::Broker(link) => {
                let (broker, host, ended) = BrokerClient::open(link, lock)?;
                Ok((broker, host, Some(ended)))
            }
        }
    }
}

async fn end_with_broker(broker: oneshot::Receiver<String>) -> Result<(), RunError> {
    let how = broker.await;
    let how = how.unwrap_or_else(|_| "has ended".to_owned());
    let why = format!("the broker of this agent, which performs operations that need root, {how}");
    Err(RunError::Broker { why })
}

fn on_machine(
    config: &Config,
    root: PrivilegedProcess,
    front: HttpSurface,
    inbox: &mpsc::Sender<Event>,
) -> Result<Startup, RunError> {
    let paths = Paths::new(&config.directory);
    if let PrivilegedProcess::Agent(_) = &root {
        broker::prepare(&config.directory, HostUser::current())?;
    }
    let lock = DirectoryLock::take(&paths.lock())?;
    let contents = journal::read(&paths.journal())?;
    start::log_damage(&contents, &paths);
    let seed = start::seed(config)?;
    let salt = seed.rotate_left(17);
    let journal = Journal::open(&paths.journal(), &paths.journal_next(), &contents, salt)?;
    let (broker, host, ended) = root.open(config, &lock)?;
    let clock = BootClock::new(runner::boot_now);
    let boot_id = argosy_host::process::boot_id().map_err(|source| RunError::Host {
        path: PathBuf::from("/proc/sys/kernel/random/boot_id"),
        source,
    })?;
    let offset = start::wall_offset_ms(&WallClock::system(), clock.now());
    let core_config = start::core_config(config, &host, boot_id, &contents, seed, offset);
    metrics::limits_enforced(&host.missing);
    let settings = start::container_settings(config, &host, seed);
    let runner = Runner::new(
        config,
        settings,
        paths.clone(),
        &host,
        broker.clone(),
        inbox.clone(),
    )?;
    start::clear_orphans(&runner, &contents.facts)?;
    let asker = QueryHandle::new(inbox.clone());
    let (audit, audit_writer) = open_audit(config)?;
    let front = (front, audit);
    let mut helpers = spawn_helpers(config, front, &runner, (paths, broker.clone()), asker);
    if let Some(ended) = ended {
        helpers.spawn(end_with_broker(ended));
    }
    Ok(Startup {
        facts: contents.facts,
        core_config,
        journal,
        containers: Box::new(runner),
        clock,
        observer: None,
        reach: EgressRules::new(config, Some(broker.clone())),
        broker: Some(broker),
        helpers,
        audit: audit_writer,
        lock: Some(lock),
    })
}

/// Opens the audit log, after the directory is locked.
fn open_audit(config: &Config) -> Result<(Audit, Option<AuditWriter>), RunError> {
    let settings = AuditSettings::below(&config.directory, config.audit_file_mib);
    Audit::open(settings.as_ref()).map_err(|source| RunError::Directory {
        path: Paths::new(&config.directory).audit(),
        source,
    })
}

/// Serves the API, and collects garbage at intervals.
fn spawn_helpers(
    config: &Config,
    (front, audit): (HttpSurface, Audit),
    runner: &Runner,
    (paths, broker): (Paths, BrokerClient),
    asker: QueryHandle,
) -> JoinSet<Result<(), RunError>> {
    let mut helpers = serve(
        (front.api, audit),
        config.hosts(),
        api::ApiState {
            files: FilesState::new(paths.clone(), asker.clone()),
            exec: ExecState {
                queries: asker.clone(),
                controls: runner.controls(),
                limits: ExecLimits::new(config.session_timeout),
            },
            queries: asker.clone(),
            preparations: runner.preparations(),
            statistics: runner.statistics(),
            access: config.access.clone(),
            clock: WallClock::system(),
            metrics: front.metrics,
        },
    );
    collect_garbage(&mut helpers, runner, (paths, broker), asker, config);
    helpers
}

/// Collects garbage at intervals.
fn collect_garbage(
    helpers: &mut JoinSet<Result<(), RunError>>,
    runner: &Runner,
    (paths, broker): (Paths, BrokerClient),
    asker: QueryHandle,
    config: &Config,
) {
    if let Some(images) = runner.images() {
        let asker_of_gc = asker.clone();
        helpers.spawn(async move {
            gc::collect_images(images, asker_of_gc).await;
            Ok(())
        });
    }
    let floor = DiskFloor::new(paths.sandboxes(), config.disk_floor_bytes);
    let headroom_percent = config.sandbox_headroom_percent;
    let (ends, orphans) = (runner.ends(), runner.orphans());
    let retention = gc::LogRetention {
        age: config.log_retention,
        bytes: config.log_retention_bytes,
    };
    helpers.spawn(async move {
        let limits = (retention, ends);
        let known = (asker, orphans);
        gc::run((paths, broker), known, headroom_percent, floor, limits).await;
        Ok(())
    });
}

/// Serves the agent's API, with limits on its connections.
pub(crate) fn serve(
    (listener, audit): (Listener, Audit),
    hosts: AllowedHosts,
    shared: api::ApiState,
) -> JoinSet<Result<(), RunError>> {
    let mut helpers = JoinSet::new();
    let limits = PortLimits::of_this_process("agent").at_most(API_CONNECTIONS);
    // It ends with the helpers.
    let served = server::serve(
        listener,
        hosts.guard(api::router(shared).layer(Extension(audit))),
        limits,
        CancellationToken::new(),
    );
    helpers.spawn(async move {
        served.await;
        Ok(())
    });
    helpers
}

impl SimulatedHost {
    fn open(
        self,
        config: &Config,
        front: HttpSurface,
        inbox: &mpsc::Sender<Event>,
    ) -> Result<Startup, RunError> {
        let contents = journal::read_memory(&self.disk)?;
        let seed = start::seed(config)?;
        let journal = Journal::in_memory(&self.disk, &contents, seed.rotate_left(17))?;
        let offset = start::wall_offset_ms(&self.wall_clock, self.boot_clock.now());
        let host = HostFeatures::simulated();
        let core_config = start::core_config(config, &host, self.boot_id, &contents, seed, offset);
        let known = contents.facts.known_containers();
        let containers = (self.containers)(EventSender(inbox.clone()), known);
        let queries = QueryHandle::new(inbox.clone());
        let shared = api::ApiState {
            files: FilesState::new(Paths::new(&config.directory), queries.clone()),
            exec: ExecState {
                queries: queries.clone(),
                controls: runner::ContainerControls::default(),
                limits: ExecLimits::new(config.session_timeout),
            },
            queries,
            preparations: runner::Preparations::default(),
            statistics: Statistics::simulated(),
            access: config.access.clone(),
            clock: self.wall_clock.clone(),
            metrics: front.metrics,
        };
        Ok(Startup {
            facts: contents.facts,
            core_config,
            journal,
            containers,
            clock: self.boot_clock,
            observer: Some(self.observer),
            reach: EgressRules::new(config, None),
            broker: None,
            helpers: serve((front.api, Audit::default()), config.hosts(), shared),
            audit: None,
            lock: None,
        })
    }
}
