//! Resource usage of running containers, for display and for Prometheus.
//!
//! Collected on request, outside the agent's loop: without requests it costs nothing. Makes no
//! decisions.

mod exposition;

use std::sync::Arc;

use argosy_host::ContainerId;
use argosy_isolation::disk::DiskUsage;
use argosy_isolation::{CgroupStats, CgroupTree};
use argosy_network::LinkStats;
use tokio::sync::Semaphore;

use self::exposition::TaskSample;
use crate::broker_client::BrokerClient;
use crate::core::{ContainerView, task_key};

/// Maximum number of tasks with separate metrics; of more only the first are exported.
const TASKS: usize = 500;

#[derive(Debug, Clone, PartialEq, Default, serde::Serialize)]
pub(crate) struct ContainerUsage {
    /// The counters of its cgroup.
    #[serde(flatten)]
    pub(crate) stats: CgroupStats,
    /// `None` if it has no private network.
    pub(crate) network: Option<LinkStats>,
    /// `None` if the kernel does not limit its disk usage.
    pub(crate) disk: Option<DiskUsage>,
}

/// The sources of the statistics. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Statistics {
    /// `None` on a simulated host, whose containers use nothing.
    sources: Option<Arc<StatisticsSources>>,
    /// One collection at a time: frequent requests use no more of the processors than one reader of
    /// files.
    slot: Arc<Semaphore>,
}

struct StatisticsSources {
    tree: Option<CgroupTree>,
    broker: BrokerClient,
}

impl StatisticsSources {
    /// Returns `None` without a cgroup of the container.
    fn collect(&self, view: &ContainerView) -> Option<ContainerUsage> {
        let name = view.name;
        let id = ContainerId::new(name.to_string()).expect("digits and dashes make a name");
        let group = self.tree.as_ref()?.group(&id);
        let key = task_key(&view.framework_id, &view.task_id);
        Some(ContainerUsage {
            stats: group.stats(),
            // Tasks of a group have one link.
            network: self.broker.traffic(view.group.unwrap_or(name)),
            disk: key.and_then(|key| self.broker.shown_disk_usage(&key, name)),
        })
    }
}

impl Statistics {
    pub(crate) fn of(tree: Option<CgroupTree>, broker: BrokerClient) -> Self {
        let sources = StatisticsSources { tree, broker };
        Self {
            sources: Some(Arc::new(sources)),
            slot: Arc::new(Semaphore::new(1)),
        }
    }

    pub(crate) fn simulated() -> Self {
        Self {
            sources: None,
            slot: Arc::new(Semaphore::new(1)),
        }
    }

    /// Returns the current usage of each container; `None` for those that do not run.
    pub(crate) async fn collect(
        &self,
        containers: Vec<ContainerView>,
    ) -> Vec<(ContainerView, Option<ContainerUsage>)> {
        let slot = self.slot.clone().acquire_owned().await;
        let sources = self.sources.clone();
        let measure = move || {
            // Held to the end of the collection, even if the requester no longer waits.
            let _turn = slot.expect("the semaphore is never closed");
            let measured = containers.into_iter().map(|view| {
                let runs = view.state == "running";
                let sources = sources.as_ref().filter(|_| runs);
                let usage = sources.and_then(|sources| sources.collect(&view));
                (view, usage)
            });
            measured.collect()
        };
        let measured = tokio::task::spawn_blocking(measure).await;
        measured.expect("reading statistics never panics")
    }

    /// Returns the usage of the first running ones in the format of Prometheus.
    pub(crate) async fn exposition(&self, mut containers: Vec<ContainerView>) -> String {
        containers.retain(|view| view.state == "running");
        containers.truncate(TASKS);
        let measured = self.collect(containers).await;
        let samples = measured.into_iter().filter_map(|(view, usage)| {
            Some(TaskSample {
                framework: view.framework_id,
                task: view.task_id,
                usage: usage?,
            })
        });
        exposition::text(samples)
    }
}
