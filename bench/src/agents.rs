//! Emulated agents: they speak the agents' protocol and run nothing.
//!
//! A task given to one is reported as running and finished at once. Nothing is kept on disk: an
//! agent that is dropped is gone.

mod emulated;
mod way;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use argosy_client::{AgentUplink, Connector, ConnectorConfig, Masters};
use argosy_proto::v1;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

pub(crate) use emulated::Life;

use emulated::Emulated;
use tonic::transport::Channel;
use way::{Link, Way};

/// Agents that share one connection: below what HTTP/2 servers allow in streams.
const PER_CONNECTION: u32 = 100;
/// How long all agents may take to register.
const REGISTERING: Duration = Duration::from_secs(120);
/// Heartbeats without any word from the master, after which it is not believed to live.
const SILENT_INTERVALS: u32 = 3;
/// At least this long, whatever the interval.
const SILENT: Duration = Duration::from_secs(3);

/// Agents that stay connected until the value is dropped.
pub(crate) struct Agents {
    _links: JoinSet<()>,
    ids: Vec<String>,
    counts: Arc<Counts>,
}

/// What all links together have seen.
#[derive(Debug, Default)]
struct Counts {
    closed: AtomicU64,
    registered: AtomicU64,
    listed: AtomicU64,
}

impl Agents {
    /// Registers agents with these resources and waits until all are known.
    ///
    /// # Errors
    /// If they are not registered in time.
    pub(crate) async fn start(masters: &Masters, count: u32, resources: &str) -> Result<Self> {
        Self::start_with(masters, count, resources, Life::Ends).await
    }

    /// The same, with tasks that get as far as `life` says.
    ///
    /// # Errors
    /// If they are not registered in time.
    pub(crate) async fn start_with(
        masters: &Masters,
        count: u32,
        resources: &str,
        life: Life,
    ) -> Result<Self> {
        let mut connector = Connector::new(masters.clone(), ConnectorConfig::default());
        let ways = (0..count).map(|number| {
            if number > 0 && number % PER_CONNECTION == 0 {
                connector = Connector::new(masters.clone(), ConnectorConfig::default());
            }
            Way::ToTheLeader(AgentUplink::new(connector.clone()))
        });
        Self::start_by(ways.collect(), resources, life).await
    }

    /// The same, through these connections in turn, to whichever masters they lead.
    ///
    /// # Errors
    /// If they are not registered in time.
    pub(crate) async fn start_through(
        ways: &[Channel],
        count: u32,
        resources: &str,
    ) -> Result<Self> {
        let ways = ways.iter().cycle().take(count as usize);
        let ways = ways.cloned().map(Way::Through);
        Self::start_by(ways.collect(), resources, Life::Ends).await
    }

    async fn start_by(ways: Vec<Way>, resources: &str, life: Life) -> Result<Self> {
        let resources = Arc::new(argosy_client::resources::resources(resources)?);
        let count = ways.len();
        // Room for all of them: nobody waits.
        let (registered, mut known) = mpsc::channel(count.max(1));
        let mut links = JoinSet::new();
        let counts = Arc::new(Counts::default());
        for (number, way) in (0..).zip(ways) {
            let agent = Emulated::new(number, &resources, life);
            links.spawn(live(agent, way, registered.clone(), counts.clone()));
        }
        let mut ids = Vec::new();
        let end = Instant::now() + REGISTERING;
        while ids.len() < count {
            let id = tokio::time::timeout_at(end, known.recv())
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

    /// Registrations that masters have accepted so far, those of links after a change of leader included.
    pub(crate) fn registrations(&self) -> u64 {
        self.counts.registered.load(Ordering::Relaxed)
    }

    /// How often a master has asked an agent for its tasks so far.
    pub(crate) fn lists(&self) -> u64 {
        self.counts.listed.load(Ordering::Relaxed)
    }
}

/// One link after the other, for ever.
async fn live(
    mut agent: Emulated,
    way: Way,
    registered: mpsc::Sender<String>,
    counts: Arc<Counts>,
) {
    loop {
        // A failed attempt has paused already.
        if let Some(mut link) = way.open(agent.hello()).await {
            let ended = speak(&mut agent, &mut link, (&registered, &counts)).await;
            counts.closed.fetch_add(1, Ordering::Relaxed);
            if ended == Ended::Silent {
                way.fell_silent(&link);
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Ended {
    Closed,
    Silent,
}

async fn speak(
    agent: &mut Emulated,
    link: &mut Link,
    (registered, counts): (&mpsc::Sender<String>, &Counts),
) -> Ended {
    let mut pings = tokio::time::interval(Duration::from_secs(1));
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut patience = SILENT;
    let mut heard = Instant::now();
    let mut serial = 0;
    loop {
        tokio::select! {
            message = link.message() => {
                let Ok(Some(message)) = message else { return Ended::Closed };
                heard = Instant::now();
                if let Some(v1::to_agent::Message::Registered(welcome)) = &message.message {
                    counts.registered.fetch_add(1, Ordering::Relaxed);
                    let interval = Duration::from_millis(welcome.heartbeat_interval_ms.max(100));
                    pings = renewed(interval);
                    patience = SILENT.max(interval * SILENT_INTERVALS);
                    // Room for every agent; a second registration after a change of leader finds nobody.
                    let _ = registered.try_send(welcome.agent_id.clone());
                }
                if matches!(message.message, Some(v1::to_agent::Message::ListTasks(_))) {
                    counts.listed.fetch_add(1, Ordering::Relaxed);
                }
                for answer in agent.take(message) {
                    if link.sender.send(answer).await.is_err() {
                        return Ended::Closed;
                    }
                }
            }
            _ = pings.tick() => {
                if heard.elapsed() > patience {
                    return Ended::Silent;
                }
                serial += 1;
                let ping = v1::FromAgent { message: Some(v1::from_agent::Message::Ping(v1::Ping { serial })) };
                if link.sender.send(ping).await.is_err() {
                    return Ended::Closed;
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
