//! The status that masters report, polled ten times a second, each at its own address.
//!
//! It asks for local answers only, so that a partitioned master reports its own view.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use argosy_proto::v1;
use argosy_proto::v1::operator_client::OperatorClient as Stub;
use argosy_state::ids::NodeId;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};

use super::partitions::HostIndex;
use crate::history::{Origin, RaftFact, Recorder};

/// Interval of polls of one master.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
const POLL_TIMEOUT: Duration = Duration::from_millis(400);
/// Age above which an answer is out of date.
const MAX_AGE: Duration = Duration::from_millis(900);
/// Number of answers after which the digest is recorded, too.
const DIGEST_EVERY: u64 = 5;

/// The last status of one master.
#[derive(Debug, Clone)]
pub(crate) struct MasterStatus {
    pub(crate) at: Instant,
    pub(crate) term: u64,
    pub(crate) is_leader: bool,
    pub(crate) node: Option<NodeId>,
}

#[derive(Debug, Default)]
struct ObservedMasters {
    statuses: BTreeMap<HostIndex, MasterStatus>,
    /// Each epoch with the terms in which a master reported that it leads, and when that was first
    /// received. A new leader reports the previous epoch until its own has begun: the lowest term
    /// counts.
    epochs: BTreeMap<(u64, u64, HostIndex), u64>,
    /// Masters that were restarted and have not reported since.
    restarted: BTreeSet<HostIndex>,
}

/// The observer of all masters. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct MasterWatch {
    // A lock, because faults, the live view and the pollers use it. It is never held across an
    // await.
    observed: Arc<Mutex<ObservedMasters>>,
    pollers: Arc<Mutex<JoinSet<()>>>,
    recorder: Arc<Mutex<Option<Recorder>>>,
}

impl MasterWatch {
    /// Records all observations from now on.
    pub(crate) fn record(&self, recorder: Recorder) {
        *lock(&self.recorder) = Some(recorder);
    }

    /// Polls these masters until the last clone is dropped.
    pub(crate) fn begin(&self, masters: Vec<(HostIndex, String)>) {
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
    pub(crate) fn leader(&self) -> Option<HostIndex> {
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
    pub(crate) fn forget(&self, place: HostIndex) {
        lock(&self.observed).statuses.remove(&place);
    }

    /// Marks the next report of this master as the first one of a new process. The former process
    /// must have ended.
    pub(crate) fn restarted(&self, place: HostIndex) {
        lock(&self.observed).restarted.insert(place);
    }

    /// Returns the epochs with the master that reported to lead in them, and when that was first
    /// received, in nanoseconds of the recorder's clock.
    pub(crate) fn epochs(&self) -> Vec<(u64, HostIndex, u64)> {
        let seen = lock(&self.observed);
        let mut terms: BTreeMap<u64, u64> = BTreeMap::new();
        for (epoch, term, _) in seen.epochs.keys() {
            let lowest = terms.entry(*epoch).or_insert(*term);
            *lowest = (*lowest).min(*term);
        }
        let reigns = seen.epochs.iter();
        reigns
            .filter(|((epoch, term, _), _)| terms.get(epoch) == Some(term))
            .map(|((epoch, _, place), at)| (*epoch, *place, *at))
            .collect()
    }

    /// Returns the id of the master in the group.
    pub(crate) fn node(&self, place: HostIndex) -> Option<NodeId> {
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
                self.note(place, &cluster, answers.is_multiple_of(DIGEST_EVERY));
                answers += 1;
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    fn note(&self, place: HostIndex, cluster: &v1::Cluster, with_digest: bool) {
        let node: Option<NodeId> = cluster.answered_by.parse().ok();
        let leads = !cluster.leader.is_empty() && cluster.leader == cluster.answered_by;
        let recorder = lock(&self.recorder).clone();
        let mut seen = lock(&self.observed);
        if leads && cluster.epoch > 0 {
            let now_ns = recorder.as_ref().map_or(0, Recorder::now_ns);
            seen.epochs
                .entry((cluster.epoch, cluster.term, place))
                .or_insert(now_ns);
        }
        let said = MasterStatus {
            at: Instant::now(),
            term: cluster.term,
            is_leader: leads,
            node,
        };
        seen.statuses.insert(place, said);
        // A master that has just been started does not know its term yet.
        let (Some(recorder), Some(node), 1..) = (recorder, node, cluster.term) else {
            return;
        };
        let is_first = seen.restarted.remove(&place);
        drop(seen);
        let who = cluster.answered_by.as_str();
        if is_first {
            let started = RaftFact::Started {
                node,
                term: cluster.term,
                last_index: cluster.committed_index,
                committed: cluster.committed_index,
            };
            recorder.observe(who, started);
        }
        recorder.observe(
            who,
            RaftFact::Progress {
                node,
                term: cluster.term,
                committed: cluster.committed_index,
                applied: cluster.applied_index,
            },
        );
        if with_digest && !cluster.digest.is_empty() {
            let digest = cluster.digest.iter().map(|byte| format!("{byte:02x}"));
            let fact = RaftFact::Digest {
                node,
                index: cluster.applied_index,
                digest: digest.collect(),
                origin: Origin::Log,
            };
            recorder.observe(who, fact);
        }
    }
}

async fn read_cluster(channel: Channel) -> Option<v1::Cluster> {
    let mut request = tonic::Request::new(v1::GetClusterRequest {
        consistency: v1::Consistency::Local.into(),
    });
    request.set_timeout(POLL_TIMEOUT);
    let mut stub = Stub::new(channel);
    let asked = tokio::time::timeout(POLL_TIMEOUT, stub.get_cluster(request)).await;
    Some(asked.ok()?.ok()?.into_inner())
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::check_history;

    #[test]
    fn what_a_killed_master_had_applied_may_be_learnt_again_by_its_next_process() {
        for is_restarted in [true, false] {
            let (recorder, recording) = Recorder::in_memory(|| 1);
            let watch = MasterWatch::default();
            watch.record(recorder);
            let said = |applied| v1::Cluster {
                answered_by: NodeId(1).to_string(),
                term: 4,
                committed_index: applied,
                applied_index: applied,
                ..v1::Cluster::default()
            };
            watch.note(0, &said(12), false);
            if is_restarted {
                watch.restarted(0);
            }
            watch.note(0, &said(11), false);
            watch.note(0, &said(13), false);
            *lock(&watch.recorder) = None;
            let history = recording.finish().unwrap();
            let judged = check_history(&history);
            assert_eq!(judged.violations.is_empty(), is_restarted);
        }
    }
}
