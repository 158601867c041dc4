//! Performs the core's effects on containers and reports events. Makes no decisions.
//!
//! One asynchronous task per container waits for its supervisor. Blocking work (directories, the
//! launcher, adoption, removal) runs on the runtime's blocking threads, a bounded number at a time.
//! Reading order: `requests`, `launcher_process`, `host_ids`, `unpacking`, `roots`, `image_rootfs`,
//! `bridges`, `cni` and `etc_files`, `volumes`, `memory_high`, `disks`, `limits`, `cpuset`,
//! `devices`, `security_options`, `groups`, `networks`, `network_rules`, `description`,
//! `executors`, `limit_updates`, `handles`, `preparations`, `fetching`, `starting`,
//! `container_task`, `check_probe`, `disk_usage`, `removing`, `operations`, `orphans`.

pub(crate) mod bridges;
mod check_probe;
pub(crate) mod cni;
mod container_task;
mod cpuset;
pub(crate) mod description;
mod devices;
mod disk_usage;
mod disks;
mod etc_files;
mod executors;
mod fetching;
pub(crate) mod groups;
mod handles;
pub(crate) mod host_ids;
mod image_rootfs;
mod launch_failures;
pub(crate) mod launcher_process;
mod limit_updates;
mod limits;
mod memory_high;
mod network_rules;
mod networks;
mod operations;
mod orphans;
mod preparations;
mod removing;
mod requests;
pub(crate) mod roots;
mod security_options;
pub(crate) mod sizes;
mod starting;
mod subnet6;
mod task_secrets;
mod teardown;
mod unpacking;
pub(crate) mod volumes;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::sync::Arc;
use std::time::Duration;

use argosy_isolation::{CgroupTree, Isolation};
use argosy_proto::trace;
use argosy_state::ids::{TaskKey, Timestamp};
use futures::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::broker_client::{BrokerClient, BrokerLayerDirs};
use crate::config::{Config, ContainerSettings, DiskEnforcement};
use crate::core::messages::SecretsAnswer;
use crate::core::{ContainerEffect, ContainerName, Input, Instance, RecoveredContainer};
use crate::disk::DiskMeter;
use crate::error::RunError;
use crate::executors::ExecutorSockets;
use crate::gc::{EndedContainers, RemainingOrphans};
use crate::host::HostFeatures;
use crate::inbox::{Event, ExecutorSender};
use crate::paths::Paths;
use crate::statistics::Statistics;
use crate::wire;
use argosy_content::FairSlots;
use argosy_content::fetcher::{FetchCache, FetchSettings, Fetcher};
use argosy_content::images::{ImageManager, LayerDirs, Unpacker};
use argosy_content::service::{ContentService, ServiceCommand, ServiceSettings};
use cni::CniContainers;
use cpuset::ContainerCpus;
pub(crate) use devices::check as check_devices;
pub(crate) use handles::{AttachError, ContainerControls, ExecStartError, SlotError};
use image_rootfs::ContainerImages;
pub use launcher_process::LauncherCommand;
pub(crate) use preparations::Preparations;
use unpacking::LauncherUnpacker;

/// Maximum number of containers that are created concurrently; the same numbers are queried and
/// removed concurrently. More would only queue in the kernel.
const CONTAINER_SLOTS: usize = 8;
/// Timeout of each step of a removal before it is retried.
pub(crate) const REMOVAL_TIMEOUT: Duration = Duration::from_secs(5);
/// The delay before a failed removal or adoption is retried.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// Number of queries to a supervisor that runs but does not answer.
const ADOPTION_TRIES: u32 = 3;

/// The helper processes of an agent.
#[derive(Debug, Clone)]
pub struct HelperCommands {
    /// The process that creates containers.
    pub launcher: LauncherCommand,
    /// The process that contacts servers and registries.
    pub content: ServiceCommand,
}

/// The containers of a host: performs the effects of the core, and reports events to it.
pub trait ContainerRuntime: Send {
    /// Performs an effect.
    fn perform(&mut self, effect: ContainerEffect);

    /// Takes over the stream of an executor that the agent's socket has authenticated. Does nothing
    /// on a host without such sockets.
    fn executor_connected(
        &mut self,
        _instance: Instance,
        _connection: u64,
        _sender: ExecutorSender,
    ) {
    }

    /// Releases every container; all of them continue to run.
    fn stop(self: Box<Self>) -> BoxFuture<'static, ()>;
}

/// The containers of this host.
pub(crate) struct Runner {
    shared: Arc<RunnerState>,
    images: Option<Arc<ImageManager>>,
    controls: ContainerControls,
    /// Those of containers that are neither started nor removed.
    fetches: HashMap<Instance, fetching::FetchHandle>,
    preparations: Preparations,
    starts: starting::PendingStarts,
    removals: removing::Removals,
    probes: check_probe::RunningProbes,
    meter: DiskMeter,
    ended: EndedContainers,
    limit_updates: limit_updates::LimitUpdates,
    sockets: ExecutorSockets,
    tasks: TaskTracker,
    /// The runtime of the agent's worker threads. The loop, which calls this, runs on another one.
    threads: Handle,
    stop: CancellationToken,
}

pub(super) struct RunnerState {
    pub(super) settings: ContainerSettings,
    pub(super) paths: Paths,
    pub(super) tree: Option<CgroupTree>,
    /// Whether the cgroups of its containers count processes.
    counts_pids: bool,
    /// The process that performs operations that need root.
    pub(super) broker: BrokerClient,
    images: ContainerImages,
    cpus: Arc<ContainerCpus>,
    cni: Arc<CniContainers>,
    orphans: RemainingOrphans,
    groups: groups::GroupNamespaces,
    secrets: task_secrets::SecretRequests,
    enforcement: DiskEnforcement,
    fetcher: Fetcher,
    service: Arc<ContentService>,
    slots: Arc<Semaphore>,
    /// Separate, so that supervisors that do not answer do not block starts.
    query_slots: Arc<Semaphore>,
    /// Separate from the other slots, so that containers that cannot be removed do not block new
    /// ones.
    removal_slots: Semaphore,
    fetch_slots: Arc<FairSlots>,
    /// The lookup of a user may wait for a directory service.
    user_slots: Arc<Semaphore>,
    /// The channel to the agent's loop. When it is full, the container's task waits: the supervisor
    /// keeps its notices.
    inbox: mpsc::Sender<Event>,
}

fn fetch_settings(config: &Config, host: &HostFeatures) -> FetchSettings {
    FetchSettings {
        limit_bytes: config.fetch_limit_bytes,
        directories: config.fetch_dirs.clone(),
        allow: config.fetch_allow.clone(),
        masters: config.masters.clone(),
        api: config.address.clone(),
        api_port: config.api_port,
        task_subnets: host.task_subnets,
    }
}

/// Returns the process that contacts servers and registries; it is started at its first use.
fn service(config: &Config, host: &HostFeatures, broker: BrokerClient) -> Arc<ContentService> {
    let settings = ServiceSettings {
        fetch: fetch_settings(config, host),
        insecure_registries: config.images.insecure_registries.clone(),
        image_limit_bytes: config.images.limit_bytes,
        cluster: config.cluster.clone(),
    };
    ContentService::new(Arc::new(move || broker.start_content()), settings)
}

/// Returns the fetch cache, if it is enabled. It is opened in any case: an earlier run may have
/// left files.
fn cache(config: &Config, paths: &Paths) -> Result<Option<FetchCache>, RunError> {
    let (bytes, pins) = (config.fetch_cache_bytes, &config.fetch_cache_pins);
    let cache = FetchCache::open(&paths.cache(), bytes, pins);
    let cache = cache.map_err(|source| RunError::Directory {
        path: paths.cache(),
        source,
    })?;
    Ok((bytes > 0).then_some(cache))
}

fn images(
    config: &Config,
    paths: &Paths,
    (unpacker, slots): (Arc<dyn Unpacker>, Arc<FairSlots>),
    broker: BrokerClient,
    service: Arc<ContentService>,
) -> Result<Arc<ImageManager>, RunError> {
    let layers: Arc<dyn LayerDirs> = Arc::new(BrokerLayerDirs(broker));
    let by = (unpacker, layers, slots);
    let images = ImageManager::open(&paths.images(), config.images.clone(), by, service);
    images.map_err(|source| RunError::Images { source })
}

impl Runner {
    pub(crate) fn new(
        config: &Config,
        settings: ContainerSettings,
        paths: Paths,
        host: &HostFeatures,
        broker: BrokerClient,
        inbox: mpsc::Sender<Event>,
    ) -> Result<Self, RunError> {
        let tree = host.tree();
        let sockets = ExecutorSockets::new(broker.clone(), inbox.clone());
        let service = service(config, host, broker.clone());
        let unpackings = Arc::new(LauncherUnpacker::new(broker.clone()));
        let slots = FairSlots::new(unpacking::SLOTS);
        let images = match settings.isolation {
            Isolation::Full => {
                let by = (unpackings.clone() as Arc<dyn Unpacker>, slots.clone());
                Some(images(config, &paths, by, broker.clone(), service.clone())?)
            }
            // They have no host ids for an image's users.
            Isolation::UserNamespaces | Isolation::Processes => None,
        };
        let shared = RunnerState {
            fetcher: Fetcher::new(
                fetch_settings(config, host),
                service.clone(),
                unpackings,
                slots,
                cache(config, &paths)?,
            ),
            service,
            cni: CniContainers::new(broker.clone()),
            orphans: RemainingOrphans::default(),
            groups: groups::GroupNamespaces::default(),
            secrets: task_secrets::SecretRequests::default(),
            enforcement: config.disk_enforcement,
            images: ContainerImages::new(images.clone()),
            cpus: Arc::new(ContainerCpus::of(tree.clone(), Some(broker.clone()))),
            counts_pids: tree.as_ref().is_some_and(limits::counts_pids),
            settings,
            paths,
            tree,
            broker,
            slots: Arc::new(Semaphore::new(CONTAINER_SLOTS)),
            query_slots: Arc::new(Semaphore::new(CONTAINER_SLOTS)),
            removal_slots: Semaphore::new(CONTAINER_SLOTS),
            fetch_slots: FairSlots::new(fetching::SLOTS),
            user_slots: Arc::new(Semaphore::new(CONTAINER_SLOTS)),
            inbox,
        };
        let runner = Self {
            shared: Arc::new(shared),
            images,
            controls: ContainerControls::default(),
            fetches: HashMap::new(),
            preparations: Preparations::default(),
            starts: starting::PendingStarts::new(),
            removals: removing::Removals::default(),
            probes: check_probe::RunningProbes::default(),
            meter: DiskMeter::default(),
            ended: EndedContainers::default(),
            limit_updates: limit_updates::LimitUpdates::default(),
            sockets,
            tasks: TaskTracker::new(),
            threads: Handle::current(),
            stop: CancellationToken::new(),
        };
        runner.begin();
        Ok(runner)
    }

    /// Starts what runs until the agent stops.
    fn begin(&self) {
        self.begin_measuring();
        self.check_networks();
        self.spawn(launcher_process::watch(self.shared.broker.clone()));
    }

    /// Runs in the background, since it may wait for programs of the host.
    fn check_networks(&self) {
        let broker = self.shared.broker.clone();
        let allows_host = self.shared.settings.allowed_security_options.host_network;
        self.threads
            .spawn_blocking(move || networks::log_availability(&broker, allows_host));
    }

    /// Returns the controls of its containers.
    pub(crate) fn controls(&self) -> ContainerControls {
        self.controls.clone()
    }

    /// Returns the progress of its fetches.
    pub(crate) fn preparations(&self) -> Preparations {
        self.preparations.clone()
    }

    /// Returns the number of its containers that have ended.
    pub(crate) fn ends(&self) -> EndedContainers {
        self.ended.clone()
    }

    /// Returns the statistics of its containers.
    pub(crate) fn statistics(&self) -> Statistics {
        Statistics::of(self.shared.tree.clone(), self.shared.broker.clone())
    }

    /// Returns the images of its containers, if this host supports images.
    pub(crate) fn images(&self) -> Option<Arc<ImageManager>> {
        self.images.clone()
    }

    /// Runs a task with the id of the present request, until the agent stops.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        let until_stop = trace::scope(trace::current(), async move {
            stop.run_until_cancelled(task).await;
        });
        self.tasks.spawn_on(until_stop, &self.threads);
    }

    fn deliver(&self, instance: Instance, answer: SecretsAnswer) {
        self.shared.secrets.deliver(instance, answer);
    }

    fn find(&mut self, name: ContainerName, key: TaskKey) {
        let control = self.controls.add(name.instance);
        let shared = self.shared.clone();
        self.spawn(async move {
            let instance = name.instance;
            match shared.query(name, &key).await {
                Ok(container) => {
                    let fact = container_task::started_fact(container.handle());
                    let found = RecoveredContainer::Running(fact);
                    shared
                        .report(Input::ContainerFound {
                            instance,
                            container: found,
                        })
                        .await;
                    container_task::watch(&shared, name, container, &control).await;
                }
                Err(container) => {
                    if matches!(container, RecoveredContainer::NeverStarted) {
                        // The next start has another name, and needs the same ports.
                        removing::remove(&shared, name, &key, None).await;
                    }
                    shared
                        .report(Input::ContainerFound {
                            instance,
                            container,
                        })
                        .await;
                }
            }
        });
    }
}

impl ContainerRuntime for Runner {
    fn perform(&mut self, effect: ContainerEffect) {
        match effect {
            ContainerEffect::Fetch(start) => self.fetch((*start).into()),
            ContainerEffect::CancelFetch(instance) => self.cancel_fetch(instance),
            ContainerEffect::Prepare(start) => self.prepare((*start).into()),
            ContainerEffect::Start(start) => self.start((*start).into()),
            ContainerEffect::DeliverSecrets { instance, answer } => self.deliver(instance, *answer),
            ContainerEffect::CancelStart(instance) => self.cancel_start(instance),
            ContainerEffect::Find { name, key } => self.find(name, key),
            ContainerEffect::Kill { instance, grace_ms } => {
                if let Some(control) = self.controls.get(instance) {
                    control.kill(grace_ms);
                }
            }
            ContainerEffect::Renew { instance, stop_at } => {
                if let Some(control) = self.controls.get(instance) {
                    control.renew(stop_at);
                }
            }
            ContainerEffect::Probe {
                instance,
                probe,
                kind,
                timeout_ms,
            } => self.probe(instance, probe, kind, timeout_ms),
            ContainerEffect::Limit {
                name,
                launch,
                task_amounts,
                order,
            } => self.limit(name, requests::launch(&launch, &task_amounts), order),
            ContainerEffect::CancelProbe {
                instance,
                probe,
                cause,
            } => self.probes.stop(instance, probe.kind, cause),
            ContainerEffect::Measure {
                name,
                key,
                limit_bytes,
                requested_bytes,
                counts_unlinked,
                group,
            } => {
                let bytes = (limit_bytes, requested_bytes);
                self.measure(name, &key, bytes, counts_unlinked, group);
            }
            ContainerEffect::Destroy { name, key } => self.destroy(name, key),
            ContainerEffect::DestroyGroup { name } => self.destroy_group(name),
            ContainerEffect::Listen(name) => self.sockets.listen(name),
            ContainerEffect::StopListening(name) => self.sockets.stop_listening(name),
            ContainerEffect::SendToExecutor {
                instance,
                connection,
                message,
            } => {
                let message = wire::to_executor(*message);
                self.sockets.send(instance, connection, message);
            }
        }
    }

    fn executor_connected(&mut self, instance: Instance, connection: u64, sender: ExecutorSender) {
        self.sockets.linked(instance, connection, sender);
    }

    /// Ends the launcher too, and removes the agent's cgroup if it is empty.
    fn stop(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            self.shared.broker.end();
            self.stop.cancel();
            self.tasks.close();
            self.tasks.wait().await;
            let shared = self.shared;
            let cleared = tokio::task::spawn_blocking(move || teardown::clear(shared)).await;
            cleared.expect("clearing up never panics");
        })
    }
}

fn name_of(text: &OsStr) -> Option<ContainerName> {
    text.to_str()?.parse().ok()
}

impl RunnerState {
    pub(super) async fn report(&self, input: Input) {
        // The loop ends only when the agent stops: then the next run discovers the state itself.
        let _ = self.inbox.send(Event::Core(input)).await;
    }
}

/// Returns the boot clock, the time base of the core.
pub(crate) fn boot_now() -> Timestamp {
    Timestamp(argosy_host::BootTime::now().0)
}
