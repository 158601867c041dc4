//! The agent's loop: the one owner of the core. Awaits its inbox, the journal, the next deadline and the
//! stop; performs effects in order.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use argosy_client::{AgentUplink, Connector, ConnectorConfig, Masters};
use argosy_isolation::{ContainerId, Isolation, Limits, Tree, cgroup};
use argosy_proto::v1;
use metrics_exporter_prometheus::PrometheusHandle;
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, Settings};
use crate::core::{Core, Effect, Facts, Input, Setup};
use crate::error::RunError;
use crate::inbox::{Asker, Event, Question, Standing, TaskView, WAITING};
use crate::journal::{self, Contents, Journal, Lock, Progress, Request};
use crate::paths::Paths;
use crate::runner::{LauncherCommand, Runner, boot_now};
use crate::uplink::Uplink;
use crate::{api, gc, metrics, statistics};

/// Events looked at before the journal and the deadlines are looked at again.
const TURN: usize = 256;
/// How often metrics are published.
const PUBLISH_EVERY: Duration = Duration::from_secs(1);
/// How long tasks may take to end when the operator wants them ended first.
const END_ALL_LIMIT: Duration = Duration::from_secs(60);

/// What an agent is given rather than makes.
pub struct Parts {
    /// Where its API listens.
    pub api: TcpListener,
    /// How to start the launcher.
    pub launcher: LauncherCommand,
    /// How to reach masters: the dialer and the seed of its choices.
    pub connector: ConnectorConfig,
    /// Rendered at `/metrics`.
    pub metrics: Option<PrometheusHandle>,
    /// Cancelled to have every task ended before the agent stops by itself.
    pub end_tasks: CancellationToken,
}

/// Runs one agent until `stop`, or until it cannot go on; its tasks go on either way.
///
/// # Errors
/// What kept it from starting, or made it stop: never a task, a master or a request.
pub async fn run(config: Config, parts: Parts, stop: CancellationToken) -> Result<(), RunError> {
    let paths = Paths::new(&config.directory);
    make_folders(&paths)?;
    let _lock = Lock::take(&paths.lock())?;
    let contents = journal::read(&paths.journal())?;
    tell_damage(&contents, &paths);
    let seed = seed(&config)?;
    let journal = Journal::open(
        &paths.journal(),
        &paths.journal_next(),
        &contents,
        seed.rotate_left(17),
    )?;
    let (inbox, events) = mpsc::channel(WAITING);
    let host = Host::look(&config, &paths)?;
    let masters = Masters::new(&config.masters).map_err(|error| RunError::Config {
        flag: "--masters",
        value: config.masters.join(","),
        remedy: error.to_string(),
    })?;
    let setup = setup(&config, &host, seed)?;
    metrics::describe();
    metrics::limits_enforced(&host.missing);
    let settings = settings(&config, &host, seed);
    let tree = host.tree;
    let runner = Runner::new(
        settings,
        paths.clone(),
        tree.clone(),
        parts.launcher,
        inbox.clone(),
    )?;
    clear_orphans(&runner, &contents.facts)?;
    let shared = api::Shared {
        paths,
        asker: Asker::new(inbox.clone()),
        tree,
        metrics: parts.metrics,
    };
    let helpers = helpers(parts.api, shared);
    let client = AgentUplink::new(Connector::new(masters, parts.connector));
    let agent = Agent {
        core: Core::new(contents.facts, setup),
        progress: journal.progress(),
        journal,
        runner,
        uplink: Uplink::new(client, inbox),
        events,
        helpers,
        end_tasks: parts.end_tasks,
        ending: false,
    };
    agent.run(stop).await
}

/// What goes on beside the loop. None of it ends before the agent does.
fn helpers(listener: TcpListener, shared: api::Shared) -> JoinSet<Result<(), RunError>> {
    let mut helpers = JoinSet::new();
    let api::Shared {
        paths, asker, tree, ..
    } = shared.clone();
    let served = axum::serve(listener, api::router(shared));
    helpers.spawn(async move { served.await.map_err(|source| RunError::Api { source }) });
    let watcher = asker.clone();
    helpers.spawn(async move {
        statistics::run(tree, watcher).await;
        Ok(())
    });
    helpers.spawn(async move {
        gc::run(paths, asker).await;
        Ok(())
    });
    helpers
}

struct Agent {
    core: Core,
    journal: Journal,
    progress: watch::Receiver<Progress>,
    runner: Runner,
    uplink: Uplink,
    events: mpsc::Receiver<Event>,
    helpers: JoinSet<Result<(), RunError>>,
    end_tasks: CancellationToken,
    ending: bool,
}

impl Agent {
    async fn run(mut self, stop: CancellationToken) -> Result<(), RunError> {
        self.step(Input::Begin);
        let mut publish = tokio::time::interval(PUBLISH_EVERY);
        let mut turn = Vec::with_capacity(TURN);
        let mut seen = Progress::default();
        let mut give_up = None;
        let stopped: Result<(), RunError> = loop {
            if self.ending && self.core.is_empty() {
                break Ok(());
            }
            let deadline = self
                .core
                .deadline()
                .map(|at| Duration::from_millis(at.since_ms(boot_now())));
            tokio::select! {
                biased;
                () = stop.cancelled() => break Ok(()),
                () = self.end_tasks.cancelled(), if !self.ending => {
                    self.ending = true;
                    give_up = Some(tokio::time::Instant::now() + END_ALL_LIMIT);
                    self.step(Input::EndAll);
                }
                () = sleep_until(give_up) => break Ok(()),
                changed = self.progress.changed() => match changed {
                    Ok(()) => seen = self.journal_moved(seen),
                    // The writer is gone: `close` below says why.
                    Err(_) => break Ok(()),
                },
                count = self.events.recv_many(&mut turn, TURN) => {
                    if count == 0 {
                        break Ok(());
                    }
                    turn.drain(..).for_each(|event| self.event(event));
                }
                () = sleep(deadline) => {}
                _ = publish.tick() => metrics::publish(&self.standing(), &self.core.containers()),
                ended = self.helpers.join_next() => match ended {
                    Some(Ok(Err(error))) => break Err(error),
                    Some(Ok(Ok(())) | Err(_)) | None => break Err(RunError::Api {
                        source: std::io::Error::other("a part of the agent ended unasked"),
                    }),
                },
            }
            self.step(Input::Tick);
        };
        self.helpers.abort_all();
        self.runner.stop().await;
        // What was said last is on disk before the process ends.
        let closed = tokio::task::spawn_blocking(move || self.journal.close()).await;
        closed.expect("closing the journal never panics")?;
        stopped
    }

    fn journal_moved(&mut self, seen: Progress) -> Progress {
        let progress = *self.progress.borrow_and_update();
        if progress.durable > seen.durable {
            self.step(Input::Durable {
                number: progress.durable,
            });
        }
        if progress.compactions_wanted > seen.compactions_wanted {
            self.step(Input::JournalLarge);
        }
        progress
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Core(input) => self.step(input),
            Event::Linked {
                link,
                sender,
                address,
            } => {
                if self.uplink.linked(link, sender, address) {
                    ::metrics::counter!("argosy_agent_reconnects_total").increment(1);
                    self.step(Input::Connected { link });
                }
            }
            // Whoever asked may have gone: then the answer is dropped.
            Event::Ask(Question::Task(key, answer)) => {
                let instance = self.core.facts().held.get(&key).copied();
                let view = TaskView {
                    container: instance.and_then(|instance| self.core.facts().container(instance)),
                    ended: self.core.has_ended(&key),
                };
                let _ = answer.send(view);
            }
            Event::Ask(Question::Containers(answer)) => drop(answer.send(self.core.containers())),
            Event::Ask(Question::Standing(answer)) => drop(answer.send(self.standing())),
        }
    }

    fn step(&mut self, input: Input) {
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            for effect in self.core.step(boot_now(), input) {
                inputs.extend(self.perform(effect));
            }
        }
    }

    /// Returns what the core must hear at once.
    fn perform(&mut self, effect: Effect) -> Option<Input> {
        match self.runner.perform(effect)? {
            Effect::Persist {
                number,
                record,
                sync,
            } => self.journal.request(Request::Append {
                number,
                record,
                sync,
            }),
            Effect::Compact(records) => self.journal.request(Request::Compact(records)),
            Effect::Dial { after_ms, hello } => self.uplink.dial(after_ms, *hello),
            Effect::Send { link, message } => return self.uplink.send(link, *message),
            Effect::Hangup { link, why } => {
                tracing::warn!(link, why, "the link to the master ended");
                self.uplink.hang_up(link);
            }
            Effect::Fetch(_)
            | Effect::CancelFetch(_)
            | Effect::Start(_)
            | Effect::Find { .. }
            | Effect::Kill { .. }
            | Effect::Renew { .. }
            | Effect::Destroy { .. } => unreachable!("the runner performs these"),
        }
        None
    }

    fn standing(&self) -> Standing {
        let facts = self.core.facts();
        Standing {
            agent_id: facts.identity.agent.map(|id| id.to_string()),
            cluster_id: facts.identity.cluster.map(|id| id.to_string()),
            registered: self.core.is_registered(),
            epoch: facts.identity.epoch.0,
            floor: facts.floor.0,
            tasks: facts.held.len(),
        }
    }
}

async fn sleep(duration: Option<Duration>) {
    match duration {
        Some(duration) => tokio::time::sleep(duration).await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// What the host allows.
struct Host {
    isolation: Isolation,
    tree: Option<Tree>,
    missing: Vec<String>,
}

impl Host {
    fn look(config: &Config, paths: &Paths) -> Result<Self, RunError> {
        let isolation = config.isolation()?;
        let limits = Limits {
            cpu_max_millis: None,
            cpu_weight: Some(1),
            memory_max_bytes: Some(1),
            pids_max: Some(1),
        };
        let nowhere = |missing| Self {
            isolation,
            tree: None,
            missing,
        };
        let tree =
            cgroup::default_parent().and_then(|parent| Tree::create(&parent, &tree_name(paths)));
        let tree = match tree {
            Ok(tree) => tree,
            Err(error) if isolation == Isolation::Full => return Err(error.into()),
            // Without root a group may not be had: then nothing is limited, which must be allowed too.
            Err(_) => {
                let missing = limits.missing(&[]).controllers;
                return Self::allowed(config, nowhere(missing), PathBuf::from("/sys/fs/cgroup"));
            }
        };
        let missing = tree.missing(&limits)?.controllers;
        let group = tree.root().to_owned();
        let host = Self {
            isolation,
            tree: Some(tree),
            missing,
        };
        Self::allowed(config, host, group)
    }

    fn allowed(config: &Config, host: Self, group: PathBuf) -> Result<Self, RunError> {
        if host.missing.is_empty() || config.allow_missing_controllers {
            return Ok(host);
        }
        Err(RunError::MissingControllers {
            controllers: host.missing.join(", "),
            group,
        })
    }
}

/// The same for every life of an agent on this directory, and for no other directory's.
fn tree_name(paths: &Paths) -> ContainerId {
    let root = std::fs::canonicalize(paths.root()).unwrap_or_else(|_| paths.root().to_owned());
    let hash = Sha256::digest(root.as_os_str().as_encoded_bytes());
    let digits: String = hash
        .iter()
        .take(6)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    ContainerId::new(format!("agent-{digits}")).expect("hexadecimal digits make a name")
}

fn make_folders(paths: &Paths) -> Result<(), RunError> {
    use std::os::unix::fs::DirBuilderExt;
    // Tasks of other users pass through to their sandboxes; what is beside them is the agent's alone.
    for (path, mode) in [
        (paths.root().to_owned(), 0o711),
        (paths.containers(), 0o700),
        (paths.sandboxes(), 0o711),
    ] {
        let mut builder = std::fs::DirBuilder::new();
        let made = builder.recursive(true).mode(mode).create(&path);
        made.map_err(|source| RunError::Directory { path, source })?;
    }
    Ok(())
}

fn tell_damage(contents: &Contents, paths: &Paths) {
    let journal = paths.journal();
    for damage in &contents.damage {
        tracing::error!(
            journal = %journal.display(),
            offset = damage.offset,
            bytes = damage.bytes,
            "a part of the journal is damaged: what it said is lost, the masters repair what they can"
        );
    }
    if contents.torn_bytes > 0 {
        let bytes = contents.torn_bytes;
        tracing::info!(journal = %journal.display(), bytes, "a write that a crash cut off is dropped");
    }
}

fn clear_orphans(runner: &Runner, facts: &Facts) -> Result<(), RunError> {
    let known: Vec<_> = facts
        .tasks
        .keys()
        .filter_map(|instance| facts.container(*instance))
        .collect();
    let removed = runner
        .clear_orphans(&known)
        .map_err(|source| RunError::Orphans { source })?;
    if removed > 0 {
        tracing::warn!(removed, "containers that no journal knew were ended");
    }
    Ok(())
}

fn seed(config: &Config) -> Result<u64, RunError> {
    if config.seed != 0 {
        return Ok(config.seed);
    }
    let path = PathBuf::from("/dev/urandom");
    let mut bytes = [0; 8];
    let read = File::open(&path).and_then(|mut file| file.read_exact(&mut bytes));
    read.map_err(|source| RunError::Host { path, source })?;
    Ok(u64::from_ne_bytes(bytes))
}

fn setup(config: &Config, host: &Host, seed: u64) -> Result<Setup, RunError> {
    let boot_id = argosy_isolation::process::boot_id().map_err(|source| RunError::Host {
        path: PathBuf::from("/proc/sys/kernel/random/boot_id"),
        source,
    })?;
    let wall = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let wall_ms = wall.map_or(0, |wall| {
        i64::try_from(wall.as_millis()).unwrap_or(i64::MAX)
    });
    Ok(Setup {
        info: v1::AgentInfo {
            host_name: config.host_name.clone(),
            address: config.address.clone(),
            resources: argosy_proto::convert::resources(&config.resources),
            attributes: config.attributes.clone().into_iter().collect(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            missing_controllers: host.missing.clone(),
            isolation: host.isolation.name().to_owned(),
        },
        boot_id,
        seed,
        wall_offset_ms: wall_ms.saturating_sub(i64::try_from(boot_now().0).unwrap_or(i64::MAX)),
    })
}

fn settings(config: &Config, host: &Host, seed: u64) -> Settings {
    Settings {
        address: config.address.clone(),
        task_address: config.task_address(),
        isolation: host.isolation,
        allow_missing_controllers: config.allow_missing_controllers,
        host_paths: config.host_paths.clone(),
        fetch_limit_bytes: config.fetch_limit_bytes,
        pids_max: config.pids_max,
        seed,
    }
}
