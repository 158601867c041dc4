//! Schedulers that stay subscribed, send heartbeats and keep their offers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use argosy_client::connector::random_seed;
use argosy_proto::v1;
use argosy_proto::v1::scheduler_client::SchedulerClient;
use argosy_proto::versions::VersionRange;
use argosy_state::capability::FrameworkCapability;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tonic::Status;
use tonic::transport::Channel;

/// Time for all schedulers to subscribe.
const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(120);
/// Pause between the end of a stream and the next attempt.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Schedulers that stay subscribed until drop.
pub(crate) struct Schedulers {
    _streams: JoinSet<()>,
    closed: Arc<AtomicU64>,
}

impl Schedulers {
    /// Subscribes this number of schedulers, through these connections in turn.
    ///
    /// # Errors
    /// If they are not subscribed within two minutes.
    pub(crate) async fn start(channels: &[Channel], count: u32) -> Result<Self> {
        let (subscribed, mut known) = mpsc::channel(count.max(1) as usize);
        let closed = Arc::new(AtomicU64::new(0));
        let mut streams = JoinSet::new();
        for (number, way) in (0..count).zip(channels.iter().cycle()) {
            let (subscribed, closed, way) = (subscribed.clone(), closed.clone(), way.clone());
            streams.spawn(async move {
                let mut scheduler = CrowdScheduler::new(number, way);
                loop {
                    // Only the number of ended streams is counted, not the causes.
                    let _ = scheduler.run_stream(&subscribed).await;
                    closed.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
            });
        }
        let end = Instant::now() + SUBSCRIBE_TIMEOUT;
        for number in 0..count {
            let one = tokio::time::timeout_at(end, known.recv()).await;
            one.with_context(|| format!("only {number} of {count} schedulers are subscribed"))?
                .context("a scheduler ended")?;
        }
        Ok(Self {
            _streams: streams,
            closed,
        })
    }

    /// Returns the number of streams that have ended so far.
    pub(crate) fn closed(&self) -> u64 {
        self.closed.load(Ordering::Relaxed)
    }
}

struct CrowdScheduler {
    client: SchedulerClient<Channel>,
    name: String,
    framework_id: String,
    session: u64,
}

impl CrowdScheduler {
    fn new(number: u32, way: Channel) -> Self {
        Self {
            client: SchedulerClient::new(way),
            name: format!("crowd-{number}"),
            framework_id: String::new(),
            session: random_seed(),
        }
    }

    fn subscription(&self) -> v1::SubscribeRequest {
        v1::SubscribeRequest {
            protocol: Some(VersionRange::OWN.first_message()),
            info: Some(v1::FrameworkInfo {
                name: self.name.clone(),
                roles: vec!["*".to_owned()],
                capabilities: vec![FrameworkCapability::Heartbeats.name().to_owned()],
                ..Default::default()
            }),
            framework_id: self.framework_id.clone(),
            session: self.session,
            ..Default::default()
        }
    }

    /// Subscribes, and stays until the stream ends.
    async fn run_stream(&mut self, subscribed: &mpsc::Sender<()>) -> Result<(), Status> {
        let request = self.subscription();
        let mut events = self.client.subscribe(request).await?.into_inner();
        let mut beats = None;
        loop {
            let event = tokio::select! {
                event = events.message() => event?,
                () = next(&mut beats) => {
                    let request = v1::HeartbeatRequest {
                        framework_id: self.framework_id.clone(),
                        session: self.session,
                    };
                    self.client.heartbeat(request).await?;
                    continue;
                }
            };
            match event.map(|event| event.event) {
                None => return Ok(()),
                Some(Some(v1::event::Event::Subscribed(now))) => {
                    if self.framework_id.is_empty() {
                        // The channel has capacity for each of them, once.
                        let _ = subscribed.try_send(());
                    }
                    self.framework_id = now.framework_id;
                    let interval = Duration::from_millis(now.scheduler_heartbeat_interval_ms);
                    beats = Some(paced(interval.max(RETRY_PAUSE)));
                }
                Some(_) => {}
            }
        }
    }
}

fn paced(interval: Duration) -> tokio::time::Interval {
    let mut beats = tokio::time::interval_at(Instant::now() + interval, interval);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    beats
}

/// Waits for the next heartbeat; there is none before the subscription is answered.
async fn next(beats: &mut Option<tokio::time::Interval>) {
    match beats {
        Some(beats) => drop(beats.tick().await),
        None => std::future::pending().await,
    }
}
