//! Changes of state while commands are measured: short tasks, at a steady rate.

use anyhow::Result;

use crate::agents::Agents;
use crate::events::subscribers::{Feed, Received, SubscriberCounts, Subscribers};
use crate::framework::Trickle;
use crate::full_cluster::FullCluster;

/// Agents of the short tasks. All others are full.
const AGENTS: u32 = 64;
const RESOURCES: &str = "cpus:4;mem:256";

/// A framework that launches one short task every 20 ms. It ends with the value.
pub(super) struct ShortTasks {
    _framework: Trickle,
    _agents: Agents,
}

impl ShortTasks {
    /// # Errors
    /// If agents or framework are not accepted in time.
    pub(super) async fn start(full: &FullCluster) -> Result<Self> {
        let agents = Agents::start(&full.masters, AGENTS, RESOURCES).await?;
        let framework = Trickle::start(&full.masters).await?;
        Ok(Self {
            _framework: framework,
            _agents: agents,
        })
    }
}

/// A subscriber that counts the changes of all objects.
pub(super) struct ChangeCounter {
    subscribers: Subscribers,
    began: tokio::time::Instant,
}

impl ChangeCounter {
    /// # Errors
    /// If the master rejects it.
    pub(super) async fn start(api: &str) -> Result<Self> {
        let counts = SubscriberCounts {
            reading: 1,
            measuring: 0,
        };
        let subscribers = Subscribers::start(Feed { api, kinds: &[] }, counts).await?;
        subscribers.begin();
        Ok(Self {
            subscribers,
            began: tokio::time::Instant::now(),
        })
    }

    /// Returns the changes a second since the start.
    ///
    /// # Errors
    /// If the stream broke.
    pub(super) async fn finish(self) -> Result<f64> {
        let Received { events, broken, .. } = self.subscribers.end().await?;
        anyhow::ensure!(
            broken == 0,
            "the subscriber that counts changes was cut off"
        );
        Ok(events as f64 / self.began.elapsed().as_secs_f64())
    }
}
