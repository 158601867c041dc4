//! The agent's loop: the only owner of the core. Awaits its inbox, the journal, the next deadline
//! and the stop; performs effects in order.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use argosy_client::{AgentUplink, Connector, ConnectorConfig, Masters};
use argosy_proto::server::audit::AuditWriter;
use argosy_proto::trace;
use argosy_proto::transport::Listener;
use argosy_proto::v1;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::broker_client::BrokerClient;
use crate::config::Config;
use crate::core::{Core, Effect, Input, JournalEffect, LinkEffect};
use crate::environment::{BootClock, Environment, HttpSurface, MessageObserver};
use crate::error::RunError;
use crate::inbox::{AgentQuery, Event, RegistrationStatus, TicketAuthority, WAITING};
use crate::journal::{DirectoryLock, Journal, WriterProgress};
use crate::metrics;
use crate::reach::EgressRules;
use crate::revoked_keys::RevokedKeys;
use crate::runner::ContainerRuntime;
use crate::traces::LaunchTraces;
use crate::uplink::Uplink;
use crate::wire;

/// Maximum number of events that are handled before the journal and the deadlines are checked
/// again.
const EVENTS_PER_ROUND: usize = 256;
/// The interval of metrics.
const PUBLISH_EVERY: Duration = Duration::from_secs(1);
/// Timeout for the end of all tasks when the operator requests it before the stop.
const END_ALL_LIMIT: Duration = Duration::from_secs(60);

pub struct AgentDependencies {
    /// The listener of its API.
    pub api: Listener,
    /// Its journal, containers and clocks.
    pub environment: Environment,
    /// The connector to masters: the dialer and the seed of its choices.
    pub connector: ConnectorConfig,
    /// Rendered at `/metrics`.
    pub metrics: Option<PrometheusHandle>,
    /// Cancelled to request that every task ends before the agent stops by itself.
    pub end_tasks: CancellationToken,
    /// Receives the number of turns of the agent's loop so far, as soon as the agent holds its
    /// directory and serves its API. An idle loop turns once a second.
    pub serving: Option<oneshot::Sender<Arc<AtomicU64>>>,
}

/// Runs one agent until `stop`, or until it cannot continue; its tasks continue in either case.
///
/// # Errors
/// The reason why it could not start, or stopped: never a task, a master or a request.
pub async fn run(
    config: Config,
    parts: AgentDependencies,
    stop: CancellationToken,
) -> Result<(), RunError> {
    argosy_proto::metric_list::describe();
    let masters = Masters::new(&config.masters).map_err(|error| RunError::Config {
        flag: "--masters",
        value: config.masters.join(","),
        remedy: error.to_string(),
    })?;
    let (inbox, events) = mpsc::channel(WAITING);
    let revoked = RevokedKeys::default();
    let front = HttpSurface {
        api: revoked.listener(parts.api),
        metrics: parts.metrics,
    };
    let has_threads = matches!(
        parts.environment,
        Environment::Machine(_) | Environment::Brokered(_)
    );
    let opened = parts.environment.open(&config, front, &inbox)?;
    let connector = ConnectorConfig {
        dialer: revoked.dialer(parts.connector.dialer),
        ..parts.connector
    };
    let client = AgentUplink::new(Connector::new(masters, connector));
    let agent = Agent {
        core: Core::new(opened.facts, opened.core_config),
        progress: opened.journal.progress(),
        journal: opened.journal,
        containers: opened.containers,
        clock: opened.clock,
        observer: opened.observer,
        broker: opened.broker,
        uplink: Uplink::new(client, inbox),
        events,
        revoked,
        reach: opened.reach,
        helpers: opened.helpers,
        end_tasks: parts.end_tasks,
        ending: false,
        traces: LaunchTraces::default(),
        turns: Arc::default(),
        _audit: opened.audit,
        _lock: opened.lock,
    };
    // The receiver may have been dropped.
    let _ = parts
        .serving
        .map(|serving| serving.send(agent.turns.clone()));
    match has_threads {
        true => spawn_thread(agent, stop).await,
        false => agent.run(stop).await,
    }
}

/// Runs the loop and the connection to the leader on a separate thread, so that heartbeats are
/// answered while other threads of the agent are blocked.
async fn spawn_thread(agent: Agent, stop: CancellationToken) -> Result<(), RunError> {
    let failed = |source| RunError::Thread { source };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed)?;
    let (reported, ended) = oneshot::channel();
    // If the caller is dropped, the loop stops.
    let stop = stop.child_token();
    let _guard = stop.clone().drop_guard();
    let run = move || {
        let ended = runtime.block_on(agent.run(stop));
        // Closes its connections before the caller continues. Does not wait for name lookups that
        // hang.
        runtime.shutdown_background();
        // Fails only if the caller was dropped.
        let _ = reported.send(ended);
    };
    let thread = std::thread::Builder::new().name("agent".into());
    thread.spawn(run).map_err(failed)?;
    ended.await.expect("the agent's loop never panics")
}

/// Ends the broker last: it holds the directory's lock, too.
async fn close(broker: Option<BrokerClient>) {
    let Some(broker) = broker else { return };
    let closed = tokio::task::spawn_blocking(move || broker.close()).await;
    closed.expect("closing the connection to the broker never panics");
}

struct Agent {
    core: Core,
    journal: Journal,
    progress: watch::Receiver<WriterProgress>,
    containers: Box<dyn ContainerRuntime>,
    clock: BootClock,
    observer: Option<Box<dyn MessageObserver>>,
    broker: Option<BrokerClient>,
    uplink: Uplink,
    events: mpsc::Receiver<Event>,
    revoked: RevokedKeys,
    reach: EgressRules,
    helpers: JoinSet<Result<(), RunError>>,
    end_tasks: CancellationToken,
    ending: bool,
    traces: LaunchTraces,
    turns: Arc<AtomicU64>,
    /// Ends the audit log, before the lock is free.
    _audit: Option<AuditWriter>,
    /// Held while it runs.
    _lock: Option<DirectoryLock>,
}

impl Agent {
    async fn run(mut self, stop: CancellationToken) -> Result<(), RunError> {
        let mut previous = WriterProgress::default();
        if self.progress.borrow().is_full {
            // Before any container of an earlier run is started.
            previous = self.journal_progressed(previous);
        }
        self.step(Input::Begin);
        let mut publish = tokio::time::interval(PUBLISH_EVERY);
        let mut batch = Vec::with_capacity(EVENTS_PER_ROUND);
        let mut give_up = None;
        let stopped: Result<(), RunError> = loop {
            if self.ending && self.core.is_empty() {
                break Ok(());
            }
            let deadline = self
                .core
                .deadline()
                .map(|at| Duration::from_millis(at.since_ms(self.clock.now())));
            tokio::select! {
                biased;
                () = stop.cancelled() => break Ok(()),
                () = self.end_tasks.cancelled(), if !self.ending => {
                    self.ending = true;
                    give_up = Some(tokio::time::Instant::now() + END_ALL_LIMIT);
                    self.step(Input::KillAll);
                }
                () = sleep_until(give_up) => break Ok(()),
                changed = self.progress.changed() => match changed {
                    Ok(()) => previous = self.journal_progressed(previous),
                    // The writer has ended: `close` below returns the error.
                    Err(_) => break Ok(()),
                },
                count = self.events.recv_many(&mut batch, EVENTS_PER_ROUND) => {
                    if count == 0 {
                        break Ok(());
                    }
                    // A request that the broker did not answer may have been performed: the next
                    // run determines that.
                    match self.is_broker_lost() {
                        true => batch.clear(),
                        false => batch.drain(..).for_each(|event| self.event(event)),
                    }
                }
                () = sleep(deadline) => {}
                _ = publish.tick() => metrics::publish(&self.registration(), &self.core.containers()),
                ended = self.helpers.join_next() => match ended {
                    Some(Ok(Err(error))) => break Err(error),
                    Some(Ok(Ok(())) | Err(_)) | None => break Err(RunError::Api {
                        source: std::io::Error::other("a background task of the agent ended unexpectedly"),
                    }),
                },
            }
            self.step(Input::Tick);
            self.turns.fetch_add(1, Ordering::Relaxed);
        };
        self.helpers.abort_all();
        self.containers.stop().await;
        // The last records are on disk before the process ends.
        let written = self.journal.close().await;
        close(self.broker).await;
        written?;
        stopped
    }

    fn is_broker_lost(&self) -> bool {
        self.broker.as_ref().is_some_and(BrokerClient::is_lost)
    }

    fn journal_progressed(&mut self, previous: WriterProgress) -> WriterProgress {
        let progress = *self.progress.borrow_and_update();
        if progress.durable > previous.durable {
            self.step(Input::Durable {
                number: progress.durable,
            });
        }
        if progress.compactions_wanted > previous.compactions_wanted {
            self.step(Input::JournalLarge);
        }
        if progress.is_full != previous.is_full {
            self.step(Input::JournalFull(progress.is_full));
        }
        progress
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Core(input) => self.step(input),
            Event::FromMaster { link, message } => self.receive(link, *message),
            Event::LinkOpened {
                link,
                sender,
                address,
            } => {
                self.reach.block_master(&address);
                if self.uplink.linked(link, sender, address) {
                    ::metrics::counter!("argosy_agent_reconnects_total").increment(1);
                    self.step(Input::Connected { link });
                }
            }
            Event::ExecutorConnected {
                instance,
                connection,
                sender,
                event,
            } => {
                self.containers
                    .executor_connected(instance, connection, sender);
                self.step(Input::Executor {
                    instance,
                    connection,
                    event,
                });
            }
            // If the requester no longer waits, the answer is dropped.
            Event::Query(AgentQuery::Task(key, answer)) => {
                drop(answer.send(self.core.locate(&key)));
            }
            Event::Query(AgentQuery::Containers(answer)) => {
                drop(answer.send(self.core.containers()))
            }
            Event::Query(AgentQuery::Registration(answer)) => {
                drop(answer.send(self.registration()))
            }
            Event::Query(AgentQuery::Tickets(answer)) => {
                let authority = TicketAuthority {
                    agent: self.core.facts().identity.agent,
                    keys: wire::ticket_keys(self.core.ticket_keys()),
                };
                drop(answer.send(authority));
            }
        }
    }

    fn step(&mut self, input: Input) {
        let effects = self.core.step(self.clock.now(), input);
        self.perform_all(effects);
    }

    /// Handles a message of a master, with the id of the request that it comes from.
    fn receive(&mut self, link: u64, message: v1::ToAgent) {
        let context = self.traces.received(&message);
        trace::within(context, || self.receive_traced(link, message));
    }

    fn receive_traced(&mut self, link: u64, message: v1::ToAgent) {
        if let Some(v1::to_agent::Message::Order(order)) = &message.message {
            tracing::debug!(order = order.index, "received an order");
        }
        let is_observed = self.observer.is_some() && self.uplink.is_current(link);
        let observed = is_observed.then(|| message.clone());
        let message = Box::new(wire::from_master(message));
        let input = Input::Message { link, message };
        let effects = self.core.step(self.clock.now(), input);
        if let (Some(observer), Some(heard)) = (&mut self.observer, observed) {
            let is_refused =
                |effect: &Effect| matches!(effect, Effect::Link(LinkEffect::Hangup { .. }));
            observer.on_received(&heard, !effects.iter().any(is_refused));
        }
        self.perform_all(effects);
    }

    /// Performs effects, and those of the inputs that result from them.
    fn perform_all(&mut self, effects: Vec<Effect>) {
        let mut inputs = Vec::new();
        for effect in effects {
            inputs.extend(self.perform(effect));
        }
        while let Some(input) = inputs.pop() {
            for effect in self.core.step(self.clock.now(), input) {
                inputs.extend(self.perform(effect));
            }
        }
    }

    /// Performs an effect. Returns an input that the core must handle immediately.
    fn perform(&mut self, effect: Effect) -> Option<Input> {
        match effect {
            Effect::Container(effect) => {
                let context = self.traces.of(&effect);
                trace::within(context, || self.containers.perform(effect));
            }
            Effect::Journal(effect) => {
                if let JournalEffect::Append { record, .. } = &effect {
                    metrics::count_record(record);
                }
                self.journal.request(effect);
            }
            Effect::Link(effect) => return self.perform_on_link(effect),
        }
        None
    }

    fn perform_on_link(&mut self, effect: LinkEffect) -> Option<Input> {
        match effect {
            LinkEffect::Dial { after_ms, hello } => {
                if let Some(observer) = &mut self.observer {
                    observer.on_dial();
                }
                self.uplink.dial(after_ms, wire::hello(*hello));
                None
            }
            LinkEffect::Send { link, message } => {
                let message = wire::to_master(*message);
                if let Some(observer) = &mut self.observer {
                    observer.on_sent(&message);
                }
                self.uplink.send(link, message)
            }
            LinkEffect::Hangup { link, why } => {
                tracing::warn!(link, why, "the link to the master ended");
                self.uplink.close(link);
                None
            }
            LinkEffect::Quarantined(task) => {
                tracing::warn!(%task, "the restored cluster does not have this task: it is kept, and not reported");
                None
            }
            LinkEffect::Revoke(keys) => {
                self.revoked.add(&keys);
                None
            }
        }
    }

    fn registration(&self) -> RegistrationStatus {
        let facts = self.core.facts();
        RegistrationStatus {
            agent_id: facts.identity.agent.map(|id| id.to_string()),
            cluster_id: facts.identity.cluster.map(|id| id.to_string()),
            registered: self.core.is_registered(),
            epoch: facts.identity.epoch.0,
            floor: facts.floor.0,
            tasks: facts.by_key.len(),
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
