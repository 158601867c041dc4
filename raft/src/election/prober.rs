//! The requests by which a leader measures whether the voters follow it, and the suspension of its
//! heartbeats while they do not.
//!
//! The answers are kept in `liveness`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver as _;
use openraft::{RaftMetrics, ServerState};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tracing::warn;

use crate::group::GroupHandle;
use crate::liveness;
use crate::settings::Timing;
use crate::status::FailoverPhases;
use crate::transport::connections;
use crate::transport::versions::MasterVersions;
use crate::transport::wire::{self, proto};
use crate::types::{TypeConfig, Vote};

/// The task that sends `Alive` requests to the voters while this node leads.
pub(crate) struct Prober {
    pub(crate) group: GroupHandle,
    pub(crate) phases: Arc<watch::Sender<FailoverPhases>>,
}

impl Prober {
    /// Probes until the node stops.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut ticks =
            tokio::time::interval(Duration::from_millis(self.group.timing.heartbeat_ms));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Dropping the set cancels every request in it.
        let mut requests = JoinSet::new();
        let mut places: BTreeMap<u64, Arc<Semaphore>> = BTreeMap::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            while requests.try_join_next().is_some() {}
            let members = self.targets();
            places.retain(|id, _| members.iter().any(|member| member.id == *id));
            for member in members {
                let free = places
                    .entry(member.id)
                    .or_insert_with(|| self.request_slots());
                // A member with this many unanswered requests is queried again when the oldest of
                // them times out.
                if let Ok(place) = free.clone().try_acquire_owned() {
                    self.probe(&mut requests, place, member);
                }
            }
        }
    }

    /// Limits the concurrent requests to one voter to the number that is sent within the lease.
    fn request_slots(&self) -> Arc<Semaphore> {
        let timing = self.group.timing;
        let requests = timing.election_max_ms / timing.heartbeat_ms + 1;
        Arc::new(Semaphore::new(usize::try_from(requests).unwrap_or(1)))
    }

    /// Returns the members to query: none while this node does not lead. Also switches heartbeats
    /// off and on.
    fn targets(&self) -> Vec<ProbeTarget> {
        let metrics = self.group.raft.metrics();
        let metrics = metrics.borrow_watched();
        let age = liveness::quorum_acked_ago(&metrics, *self.phases.borrow(), &self.group.liveness);
        let silent = age.is_some_and(|age| is_silent(age, self.group.timing));
        if self.group.liveness.set_silent(silent) {
            self.group.raft.runtime_config().heartbeat(!silent);
        }
        members(&metrics)
    }

    fn probe(&self, requests: &mut JoinSet<()>, permit: OwnedSemaphorePermit, member: ProbeTarget) {
        let ProbeTarget {
            leader,
            id,
            is_voter,
            address,
        } = member;
        let Ok(connections) = self.group.peers.to(&address) else {
            return;
        };
        let (liveness, distances, timing) = (
            self.group.liveness.clone(),
            self.group.liveness.rtts().clone(),
            self.group.timing,
        );
        let request = proto::AliveRequest {
            header: Some(self.group.caller.header(id, &connections)),
            vote: Some(wire::vote(&leader)),
        };
        requests.spawn(async move {
            let sent = Instant::now();
            // Longer than the lease: closing a stream costs more than an answer that comes too
            // late.
            let timeout = Duration::from_millis(timing.append_deadline_ms);
            let mut client = connections::client(connections.control.clone());
            let answer = tokio::time::timeout(timeout, client.alive(request)).await;
            let answer = match answer {
                Ok(Ok(answer)) => answer.into_inner(),
                // A master of release 0.1 does not know the request: its heartbeats count, as
                // openraft reports them.
                Ok(Err(status)) if status.code() == Code::Unimplemented => {
                    let versions = MasterVersions::of(None);
                    connections.reported(versions);
                    return liveness.record_levels(leader.leader_id, id, versions.levels);
                }
                Ok(Err(_)) | Err(_) => return,
            };
            let versions = MasterVersions::of(answer.versions);
            connections.reported(versions);
            liveness.record_levels(leader.leader_id, id, versions.levels);
            let Ok(vote) = wire::vote_from(answer.vote) else {
                return;
            };
            if is_voter {
                liveness.record_answer(leader.leader_id, id, &vote, sent);
                if let Some(far) = distances.record_answer(id, sent.elapsed(), timing) {
                    warn!(peer = id, "{far}");
                }
            }
            drop(permit);
            connections.frames.replace().await;
        });
    }
}

/// A member to query.
struct ProbeTarget {
    /// The vote by which this node leads.
    leader: Vote,
    id: u64,
    /// Whether the member votes. A learner only reports its versions.
    is_voter: bool,
    address: String,
}

/// Returns the other members.
fn members(metrics: &RaftMetrics<TypeConfig>) -> Vec<ProbeTarget> {
    if metrics.state != ServerState::Leader {
        return Vec::new();
    }
    let membership = &metrics.membership_config;
    let voters: BTreeSet<u64> = membership.voter_ids().collect();
    let others = membership.nodes().filter(|(id, _)| **id != metrics.id);
    let targets = others.map(|(id, member)| ProbeTarget {
        leader: metrics.vote,
        id: *id,
        is_voter: voters.contains(id),
        address: member.raft_address.clone(),
    });
    targets.collect()
}

/// Returns whether a leader that no quorum has answered for `age` suspends its heartbeats. After
/// its lease has ended, it is silent in every other period. A period is long enough for followers
/// to elect another leader, if there is one that they can answer.
fn is_silent(age: Duration, timing: Timing) -> bool {
    let lease = Duration::from_millis(timing.election_max_ms);
    let period = 2 * lease;
    match age.checked_sub(lease) {
        Some(over) => (over.as_nanos() / period.as_nanos()).is_multiple_of(2),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_without_a_quorum_is_silent_in_alternate_periods_after_its_lease() {
        let silent = |ms| is_silent(Duration::from_millis(ms), Timing::lan());
        assert!(!silent(0) && !silent(299));
        assert!(silent(300) && silent(899));
        assert!(!silent(900) && !silent(1_499));
        assert!(silent(1_500));
    }
}
