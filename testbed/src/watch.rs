//! The status that masters report, polled ten times a second, each at its own address.
//!
//! It asks for local answers only, so that a partitioned master reports its own view. It records
//! nothing: an observer gets each report.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use argosy_proto::v1;
use argosy_state::ids::NodeId;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::transport::Channel;

use crate::health::read_cluster;
use crate::partitions::HostIndex;
use crate::transport::ClientTransport;

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
    /// The times at which masters were last killed or frozen. An answer to an earlier request is
    /// out of date.
    forgotten: BTreeMap<HostIndex, Instant>,
    /// Masters that were restarted, and have not reported since that time.
    restarted: BTreeMap<HostIndex, Instant>,
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
    pub fn begin(&self, masters: Vec<(HostIndex, String)>, transport: &ClientTransport) {
        for (place, api) in masters {
            let watch = Self {
                pollers: Arc::default(),
                ..self.clone()
            };
            let channel = transport.channel(&api, POLL_TIMEOUT);
            lock(&self.pollers).spawn(async move { watch.poll(place, channel).await });
        }
    }

    /// Returns the active leader: a master that reports itself as leader, while none reports so for
    /// a later term.
    pub fn leader(&self) -> Option<HostIndex> {
        let seen = lock(&self.observed);
        let fresh = seen
            .statuses
            .iter()
            .filter(|(_, output)| output.at.elapsed() < MAX_AGE);
        let (place, _) = fresh
            .filter(|(_, output)| output.is_leader)
            .max_by_key(|(_, output)| output.term)?;
        Some(*place)
    }

    /// Drops the status of a master that was just killed or frozen, and the answer that is on its
    /// way.
    pub fn forget(&self, place: HostIndex) {
        let mut seen = lock(&self.observed);
        seen.statuses.remove(&place);
        seen.forgotten.insert(place, Instant::now());
    }

    /// Marks the next report of this master as the first one of a new process. The former process
    /// must have ended.
    pub fn restarted(&self, place: HostIndex) {
        let now = Instant::now();
        lock(&self.observed).restarted.insert(place, now);
    }

    /// Returns the id of the master in the group.
    pub fn node(&self, place: HostIndex) -> Option<NodeId> {
        lock(&self.observed).statuses.get(&place)?.node
    }

    async fn poll(&self, place: HostIndex, channel: Channel) {
        let mut answers = 0_u64;
        loop {
            let asked = Instant::now();
            let answer = read_cluster(channel.clone(), v1::Consistency::Local, POLL_TIMEOUT).await;
            if let Ok(cluster) = answer {
                self.note_answer(place, &cluster, answers, asked);
                answers += 1;
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Takes the answer of a master, which has answered `earlier` times before.
    pub fn note(&self, place: HostIndex, cluster: &v1::Cluster, earlier: u64) {
        self.note_answer(place, cluster, earlier, Instant::now());
    }

    /// Takes an answer to a request that was sent at `asked`.
    fn note_answer(&self, place: HostIndex, cluster: &v1::Cluster, earlier: u64, asked: Instant) {
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
            let forgotten = seen.forgotten.get(&place);
            if forgotten.is_none_or(|at| asked >= *at) {
                seen.statuses.insert(place, status);
            }
            let restarted = seen.restarted.get(&place);
            let is_of_new_process = restarted.is_some_and(|at| asked >= *at);
            // A master that has just been started does not know its term yet.
            let is_first = is_of_new_process && node.is_some() && cluster.term > 0;
            is_first && seen.restarted.remove(&place).is_some()
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

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_from_before_a_kill_names_no_leader() {
        let watch = MasterWatch::default();
        let leads = v1::Cluster {
            answered_by: NodeId(1).to_string(),
            leader: NodeId(1).to_string(),
            term: 4,
            ..v1::Cluster::default()
        };
        let asked = Instant::now();
        watch.note_answer(0, &leads, 0, asked);
        assert_eq!(watch.leader(), Some(0));
        watch.forget(0);
        watch.note_answer(0, &leads, 1, asked);
        assert_eq!(watch.leader(), None);
        watch.note(0, &leads, 2);
        assert_eq!(watch.leader(), Some(0));
    }

    #[test]
    fn an_answer_from_before_a_restart_is_not_the_first_of_the_new_process() {
        let watch = MasterWatch::default();
        let firsts = Arc::new(Mutex::new(Vec::new()));
        let observed = Arc::clone(&firsts);
        watch.observe(move |report| lock(&observed).push(report.is_first));
        let answer = v1::Cluster {
            answered_by: NodeId(1).to_string(),
            term: 4,
            ..v1::Cluster::default()
        };
        let asked = Instant::now();
        watch.restarted(0);
        watch.note_answer(0, &answer, 0, asked);
        watch.note(0, &answer, 1);
        watch.note(0, &answer, 2);
        assert_eq!(*lock(&firsts), [false, true, false]);
    }
}
