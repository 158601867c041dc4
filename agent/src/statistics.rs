//! What running containers use: for people and for Prometheus.
//!
//! Looked at when somebody asks, outside the agent's loop: what nobody wants to know costs nothing. Decides nothing.

mod exposition;

use std::sync::Arc;

use argosy_isolation::disk::DiskUsage;
use argosy_isolation::network::Traffic;
use argosy_isolation::{ContainerId, Stats, Tree};
use tokio::sync::Semaphore;

use self::exposition::Sample;
use crate::broker::Broker;
use crate::core::task_key;
use crate::inbox::ContainerView;

/// Tasks with metrics of their own at a time; of more only the first are shown.
const TASKS: usize = 500;

/// What one container uses.
#[derive(Debug, Clone, PartialEq, Default, serde::Serialize)]
pub(crate) struct Usage {
    /// As its control group counts it.
    #[serde(flatten)]
    pub(crate) stats: Stats,
    /// `None` if it has no network of its own.
    pub(crate) network: Option<Traffic>,
    /// `None` if no file system keeps it in bounds.
    pub(crate) disk: Option<DiskUsage>,
}

/// Where it is found out. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Statistics {
    /// `None` on a made-up host, whose containers use nothing.
    sources: Option<Arc<Sources>>,
    /// One look at a time: whoever asks often gets no more of the processors than one that reads files.
    turn: Arc<Semaphore>,
}

struct Sources {
    tree: Option<Tree>,
    broker: Broker,
}

impl Sources {
    /// `None` without a control group of its own.
    fn look(&self, view: &ContainerView) -> Option<Usage> {
        let name = view.name;
        let id = ContainerId::new(name.to_string()).expect("digits and dashes make a name");
        let group = self.tree.as_ref()?.group(&id);
        let key = task_key(&view.framework_id, &view.task_id);
        Some(Usage {
            stats: group.stats(),
            // Tasks of a group have one link.
            network: self.broker.traffic(view.group.unwrap_or(name)),
            disk: key.and_then(|key| self.broker.shown_disk_usage(&key, name)),
        })
    }
}

impl Statistics {
    pub(crate) fn of(tree: Option<Tree>, broker: Broker) -> Self {
        let sources = Sources { tree, broker };
        Self {
            sources: Some(Arc::new(sources)),
            turn: Arc::new(Semaphore::new(1)),
        }
    }

    pub(crate) fn made_up() -> Self {
        Self {
            sources: None,
            turn: Arc::new(Semaphore::new(1)),
        }
    }

    /// What each of these uses now; `None` for those that do not run.
    pub(crate) async fn look(
        &self,
        containers: Vec<ContainerView>,
    ) -> Vec<(ContainerView, Option<Usage>)> {
        let turn = self.turn.clone().acquire_owned().await;
        let sources = self.sources.clone();
        let look = move || {
            // Kept to the end of the look, whether or not anybody waits for it by then.
            let _turn = turn.expect("nobody closes it");
            let looked = containers.into_iter().map(|view| {
                let runs = view.state == "running";
                let sources = sources.as_ref().filter(|_| runs);
                let usage = sources.and_then(|sources| sources.look(&view));
                (view, usage)
            });
            looked.collect()
        };
        let looked = tokio::task::spawn_blocking(look).await;
        looked.expect("reading statistics never panics")
    }

    /// The same of the first running ones, as Prometheus reads it.
    pub(crate) async fn exposition(&self, mut containers: Vec<ContainerView>) -> String {
        containers.retain(|view| view.state == "running");
        containers.truncate(TASKS);
        let looked = self.look(containers).await;
        let samples = looked.into_iter().filter_map(|(view, usage)| {
            Some(Sample {
                framework: view.framework_id,
                task: view.task_id,
                usage: usage?,
            })
        });
        exposition::text(samples)
    }
}
