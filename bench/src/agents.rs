//! Emulated agents: they use the agents' protocol and run nothing.
//!
//! A launched task is reported as running and finished immediately. Nothing is kept on disk: an
//! agent that is dropped is gone.

mod emulated;
mod route;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use argosy_client::AgentUplink;
use argosy_client::connector::random_seed;
use argosy_proto::v1;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

pub(crate) use emulated::TaskLifetime;

use emulated::EmulatedAgent;
use route::{Link, MasterRoute};
use tonic::transport::Channel;

use crate::cluster::MasterAccess;

/// Agents that share one connection by default: below what HTTP/2 servers allow in streams.
pub(crate) const PER_CONNECTION: u32 = 100;
/// Timeout for the registration of all agents.
const REGISTRATION_TIMEOUT: Duration = Duration::from_secs(120);
/// Maximum number of agents that are started and not registered: hosts of a large cluster do not
/// all start in the same second.
const STARTING: usize = 4_096;
/// Timeout for the answer to a hello, as in real agents.
const REGISTRATION: Duration = Duration::from_secs(10);
/// Heartbeat intervals of silence that end a link.
const SILENT_INTERVALS: u32 = 3;
/// The shortest silence that ends a link.
const SILENT: Duration = Duration::from_secs(3);
/// The shortest and the longest pause before the next link, doubled with each link that ended
/// before a registration.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// How many agents, and how they behave.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AgentLoad {
    pub(crate) count: u32,
    /// Agents that share a connection, 1 to 100.
    pub(crate) per_connection: u32,
    /// The last state of their tasks.
    pub(crate) life: TaskLifetime,
}

impl AgentLoad {
    /// Returns that of agents on shared connections.
    pub(crate) fn new(count: u32, life: TaskLifetime) -> Self {
        Self {
            count,
            per_connection: PER_CONNECTION,
            life,
        }
    }
}

/// Agents that stay connected until the value is dropped.
pub(crate) struct Agents {
    _links: JoinSet<()>,
    ids: Vec<String>,
    counts: Arc<LinkCounts>,
}

/// Totals over all links.
#[derive(Debug, Default)]
struct LinkCounts {
    closed: AtomicU64,
    registered: AtomicU64,
    listed: AtomicU64,
}

impl Agents {
    /// Registers agents with these resources and waits until all are registered.
    ///
    /// # Errors
    /// If they are not registered in time.
    pub(crate) async fn start(masters: &MasterAccess, count: u32, resources: &str) -> Result<Self> {
        let load = AgentLoad::new(count, TaskLifetime::Ends);
        Self::start_with(masters, load, resources).await
    }

    /// The same, with the behaviour of this load.
    ///
    /// # Errors
    /// If they are not registered in time.
    pub(crate) async fn start_with(
        masters: &MasterAccess,
        load: AgentLoad,
        resources: &str,
    ) -> Result<Self> {
        let mut connector = masters.agent_connector();
        let routes = (0..load.count).map(|number| {
            if number > 0 && number % load.per_connection == 0 {
                connector = masters.agent_connector();
            }
            MasterRoute::Leader(AgentUplink::new(connector.clone()))
        });
        Self::start_by(routes.collect(), resources, load.life).await
    }

    /// Starts agents as [`Agents::start`] does, over these connections in turn. Each agent stays
    /// with the master of its connection.
    ///
    /// # Errors
    /// If they are not registered in time.
    pub(crate) async fn start_through(
        routes: &[Channel],
        count: u32,
        resources: &str,
    ) -> Result<Self> {
        let routes = routes.iter().cycle().take(count as usize);
        let routes = routes.cloned().map(MasterRoute::Fixed);
        Self::start_by(routes.collect(), resources, TaskLifetime::Ends).await
    }

    async fn start_by(
        routes: Vec<MasterRoute>,
        resources: &str,
        life: TaskLifetime,
    ) -> Result<Self> {
        let resources = Arc::new(argosy_client::resources::resources(resources)?);
        let count = routes.len();
        // Capacity for all of them: no agent waits.
        let (registered, mut progress) = mpsc::channel(count.max(1));
        let mut links = JoinSet::new();
        let counts = Arc::new(LinkCounts::default());
        let starting = Arc::new(Semaphore::new(STARTING));
        for (number, way) in (0..).zip(routes) {
            let agent = EmulatedAgent::new(number, &resources, life);
            let registered = registered.clone();
            let (starting, counts) = (starting.clone(), counts.clone());
            links.spawn(async move {
                // It is never closed.
                let Ok(first) = starting.acquire_owned().await else {
                    return;
                };
                live(
                    agent,
                    way,
                    AgentProgress {
                        registered,
                        counts,
                        first: Some(first),
                        pause: PAUSE.0,
                    },
                )
                .await;
            });
        }
        let mut ids = Vec::new();
        let end = Instant::now() + REGISTRATION_TIMEOUT;
        while ids.len() < count {
            let id = tokio::time::timeout_at(end, progress.recv())
                .await
                .with_context(|| format!("only {} of {count} agents are registered", ids.len()))?;
            ids.push(id.context("an agent ended")?);
        }
        Ok(Self {
            _links: links,
            ids,
            counts,
        })
    }

    /// Their ids, in the order in which they were registered.
    pub(crate) fn ids(&self) -> &[String] {
        &self.ids
    }

    /// Links that have ended so far.
    pub(crate) fn closed(&self) -> u64 {
        self.counts.closed.load(Ordering::Relaxed)
    }

    /// Registrations that masters have accepted so far, those of links after a change of leader
    /// included.
    pub(crate) fn registrations(&self) -> u64 {
        self.counts.registered.load(Ordering::Relaxed)
    }

    /// Returns the number of requests so far in which a master asked an agent for its tasks.
    pub(crate) fn lists(&self) -> u64 {
        self.counts.listed.load(Ordering::Relaxed)
    }
}

/// The progress of one agent, as the run observes it.
struct AgentProgress {
    registered: mpsc::Sender<String>,
    counts: Arc<LinkCounts>,
    /// Released with the first registration, so that another agent starts.
    first: Option<OwnedSemaphorePermit>,
    /// The pause before the next link.
    pause: Duration,
}

impl AgentProgress {
    fn registered(&mut self, id: &str) {
        self.counts.registered.fetch_add(1, Ordering::Relaxed);
        self.pause = PAUSE.0;
        if self.first.take().is_some() {
            // Capacity for every agent.
            let _ = self.registered.try_send(id.to_owned());
        }
    }
}

/// Opens one link after the other until it is dropped.
async fn live(mut agent: EmulatedAgent, way: MasterRoute, mut progress: AgentProgress) {
    loop {
        // A failed attempt includes a pause.
        if let Some(mut link) = way.open(agent.hello()).await {
            let ended = run_link(&mut agent, &mut link, &mut progress).await;
            progress.counts.closed.fetch_add(1, Ordering::Relaxed);
            if ended == LinkEnd::Silent {
                way.fell_silent(&link);
            }
            // Half of it at random, so that agents that were cut off together do not return
            // together.
            let random = (random_seed() % 1_000) as f64 / 2_000.0;
            tokio::time::sleep(progress.pause.mul_f64(0.5 + random)).await;
            progress.pause = (2 * progress.pause).min(PAUSE.1);
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum LinkEnd {
    Closed,
    Silent,
}

async fn run_link(
    agent: &mut EmulatedAgent,
    link: &mut Link,
    progress: &mut AgentProgress,
) -> LinkEnd {
    // An agent that waits for its registration sends no heartbeats: the only tick comes when it
    // gives up.
    let mut pings = renewed(REGISTRATION);
    let mut timeout = REGISTRATION;
    let mut last_message = Instant::now();
    let mut serial = 0;
    loop {
        tokio::select! {
            message = link.message() => {
                let Ok(Some(message)) = message else { return LinkEnd::Closed };
                last_message = Instant::now();
                if let Some(v1::to_agent::Message::Registered(welcome)) = &message.message {
                    progress.registered(&welcome.agent_id);
                    let interval = Duration::from_millis(welcome.heartbeat_interval_ms.max(100));
                    pings = renewed(interval);
                    timeout = SILENT.max(interval * SILENT_INTERVALS);
                }
                if matches!(message.message, Some(v1::to_agent::Message::ListTasks(_))) {
                    progress.counts.listed.fetch_add(1, Ordering::Relaxed);
                }
                for answer in agent.handle(message) {
                    if link.sender.send(answer).await.is_err() {
                        return LinkEnd::Closed;
                    }
                }
            }
            _ = pings.tick() => {
                if last_message.elapsed() >= timeout {
                    return LinkEnd::Silent;
                }
                serial += 1;
                let ping = v1::FromAgent { message: Some(v1::from_agent::Message::Ping(v1::Ping { serial })) };
                if link.sender.send(ping).await.is_err() {
                    return LinkEnd::Closed;
                }
            }
        }
    }
}

fn renewed(interval: Duration) -> tokio::time::Interval {
    let mut pings = tokio::time::interval_at(Instant::now() + interval, interval);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    pings
}
