//! The status that masters report, polled ten times a second, each at its own address.
//!
//! It asks for local answers only, so that a partitioned master reports its own view. It records
//! nothing: an observer gets each report.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use argosy_proto::v1;
use argosy_proto::v1::operator_client::OperatorClient as Stub;
use argosy_state::ids::NodeId;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};

use crate::partitions::HostIndex;

/// Interval of polls of one master.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
const POLL_TIMEOUT: Duration = Duration::from_millis(400);
/// Age above which an answer is out of date.
const MAX_AGE: Duration = Duration::from_millis(900);

/// An answer of one master.
pub struct MasterReport<'a> {
    pub place: HostIndex,
    pub cluster: &'a v1::Cluster,
    pub node: Option<NodeId>,
    pub is_leader: bool,
    /// Whether it is the first one of a process that was restarted and knows its term.
    pub is_first: bool,
    /// The number of earlier answers of this master.
    pub earlier: u64,
}

/// A function that gets each report.
type ReportObserver = Arc<dyn Fn(&MasterReport<'_>) + Send + Sync>;

/// The last status of one master.
#[derive(Debug, Clone)]
struct MasterStatus {
    at: Instant,
    term: u64,
    is_leader: bool,
    node: Option<NodeId>,
}

#[derive(Debug, Default)]
struct ObservedMasters {
    statuses: BTreeMap<HostIndex, MasterStatus>,
    /// Masters that were restarted and have not reported since.
    restarted: BTreeSet<HostIndex>,
}

/// The observer of all masters. Cheap to clone.
#[derive(Clone, Default)]
pub struct MasterWatch {
    // A lock, because faults, the live view and the pollers use it. It is never held across an
    // await.
    observed: Arc<Mutex<ObservedMasters>>,
    pollers: Arc<Mutex<JoinSet<()>>>,
    observer: Arc<Mutex<Option<ReportObserver>>>,
}

impl MasterWatch {
    /// Passes all reports to `observer` from now on.
    pub fn observe(&self, observer: impl Fn(&MasterReport<'_>) + Send + Sync + 'static) {
        *lock(&self.observer) = Some(Arc::new(observer));
    }

    /// Polls these masters until the last clone is dropped.
    pub fn begin(&self, masters: Vec<(HostIndex, String)>) {
        for (place, api) in masters {
            let watch = Self {
                pollers: Arc::default(),
                ..self.clone()
            };
            lock(&self.pollers).spawn(async move { watch.poll(place, &api).await });
        }
    }

    /// Returns the active leader: a master that reports itself as leader, while none reports so for
    /// a later term.
    pub fn leader(&self) -> Option<HostIndex> {
        let seen = lock(&self.observed);
        let fresh = seen
            .statuses
            .iter()
            .filter(|(_, said)| said.at.elapsed() < MAX_AGE);
        let (place, _) = fresh
            .filter(|(_, said)| said.is_leader)
            .max_by_key(|(_, said)| said.term)?;
        Some(*place)
    }

    /// Drops the status of a master that was just killed or frozen.
    pub fn forget(&self, place: HostIndex) {
        lock(&self.observed).statuses.remove(&place);
    }

    /// Marks the next report of this master as the first one of a new process. The former process
    /// must have ended.
    pub fn restarted(&self, place: HostIndex) {
        lock(&self.observed).restarted.insert(place);
    }

    /// Returns the id of the master in the group.
    pub fn node(&self, place: HostIndex) -> Option<NodeId> {
        lock(&self.observed).statuses.get(&place)?.node
    }

    async fn poll(&self, place: HostIndex, api: &str) {
        let channel = Endpoint::from_shared(format!("http://{api}"))
            .expect("the address is valid")
            .connect_timeout(POLL_TIMEOUT)
            .connect_lazy();
        let mut answers = 0_u64;
        loop {
            if let Some(cluster) = read_cluster(channel.clone()).await {
                self.note(place, &cluster, answers);
                answers += 1;
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Takes the answer of a master, which has answered `earlier` times before.
    pub fn note(&self, place: HostIndex, cluster: &v1::Cluster, earlier: u64) {
        let node: Option<NodeId> = cluster.answered_by.parse().ok();
        let is_leader = !cluster.leader.is_empty() && cluster.leader == cluster.answered_by;
        let status = MasterStatus {
            at: Instant::now(),
            term: cluster.term,
            is_leader,
            node,
        };
        let is_first = {
            let mut seen = lock(&self.observed);
            seen.statuses.insert(place, status);
            // A master that has just been started does not know its term yet.
            node.is_some() && cluster.term > 0 && seen.restarted.remove(&place)
        };
        let observer = lock(&self.observer).clone();
        if let Some(observer) = observer {
            observer(&MasterReport {
                place,
                cluster,
                node,
                is_leader,
                is_first,
                earlier,
            });
        }
    }
}

async fn read_cluster(channel: Channel) -> Option<v1::Cluster> {
    let mut request = tonic::Request::new(v1::GetClusterRequest {
        consistency: v1::Consistency::Local.into(),
    });
    request.set_timeout(POLL_TIMEOUT);
    let mut stub = Stub::new(channel);
    let response = tokio::time::timeout(POLL_TIMEOUT, stub.get_cluster(request)).await;
    Some(response.ok()?.ok()?.into_inner())
}

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
