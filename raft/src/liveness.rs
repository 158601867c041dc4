//! The voters that follow this leader, measured by a message that waits for no disk.
//!
//! openraft's heartbeats are answered only when the follower's log is synced, so a follower with a
//! slow disk seems to be lost. The leader therefore also sends each voter a small `Alive` request,
//! which the voter answers from memory. An answer counts from the time of sending. Safety does not
//! depend on this module: it decides whether a leader keeps leading and whether it suspends
//! heartbeats for an election, never whether an entry is committed or a read is confirmed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use argosy_state::level::Levels;
use openraft::async_runtime::WatchReceiver as _;
use openraft::{RaftMetrics, ServerState};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tracing::warn;

use crate::group::GroupHandle;
use crate::settings::Timing;
use crate::status::{self, FailoverPhases};
use crate::transport::connections;
use crate::transport::rtt::RttTracker;
use crate::transport::versions::MasterVersions;
use crate::transport::wire::{self, proto};
use crate::types::{LeaderId, TypeConfig, Vote};

/// The answers of voters to this leader. Cheap to clone; all clones share one state.
#[derive(Clone, Debug, Default)]
pub(crate) struct Liveness(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    // A plain lock, never held over an await.
    answers: Mutex<VoterAnswers>,
    /// Whether the leader sends no heartbeats at the moment, so that the others can elect a leader
    /// that they can answer.
    is_silent: AtomicBool,
    /// The round-trip times of the answers.
    rtts: RttTracker,
}

#[derive(Debug, Default)]
struct VoterAnswers {
    /// The leader that the answers below were sent to.
    leader: Option<LeaderId>,
    /// The time at which the newest request was sent that a voter has answered with the vote of
    /// this leader, by voter.
    last_answer: BTreeMap<u64, Instant>,
    /// Whether a voter has answered with the vote of a newer term.
    is_deposed: bool,
    /// The feature levels that members have reported to this leader.
    levels: BTreeMap<u64, Levels>,
}

impl Liveness {
    fn answers(&self) -> std::sync::MutexGuard<'_, VoterAnswers> {
        self.0.answers.lock().expect("no holder of the lock panics")
    }

    /// Returns the answers to `leader`, or `None` if a later one leads by now. Answers to an
    /// earlier leader are cleared.
    fn answers_to(&self, leader: LeaderId) -> Option<std::sync::MutexGuard<'_, VoterAnswers>> {
        let mut answers = self.answers();
        let known = answers.leader.as_ref();
        if known.is_some_and(|known| known.term > leader.term) {
            return None;
        }
        if answers.leader != Some(leader) {
            *answers = VoterAnswers {
                leader: Some(leader),
                ..VoterAnswers::default()
            };
        }
        Some(answers)
    }

    /// Records the vote with which `voter` answered a request that `leader` sent at `sent`. Answers
    /// to an earlier leader change nothing.
    fn record_answer(&self, leader: LeaderId, voter: u64, vote: &Vote, sent: Instant) {
        let Some(mut heard) = self.answers_to(leader) else {
            return;
        };
        if vote.leader_id == leader {
            let newest = heard.last_answer.entry(voter).or_insert(sent);
            *newest = sent.max(*newest);
        } else if vote.leader_id.term > leader.term {
            // In the same term the voter is a candidate that lost. It learns of its leader with the
            // next message.
            heard.is_deposed = true;
        }
    }

    /// Returns when the newest request was sent that `voter` answered as a follower of `leader`.
    pub(crate) fn answered_at(&self, leader: &LeaderId, voter: u64) -> Option<Instant> {
        let answers = self.answers();
        let followed = (answers.leader.as_ref() == Some(leader)).then_some(&answers.last_answer);
        followed?.get(&voter).copied()
    }

    /// Records the feature levels that a member has reported to `leader`.
    fn record_levels(&self, leader: LeaderId, member: u64, levels: Levels) {
        if let Some(mut heard) = self.answers_to(leader) {
            heard.levels.insert(member, levels);
        }
    }

    /// Returns the feature levels that a member has reported to `leader`; `None` before its first
    /// answer.
    pub(crate) fn levels(&self, leader: &LeaderId, member: u64) -> Option<Levels> {
        let answers = self.answers();
        let levels = (answers.leader.as_ref() == Some(leader)).then_some(&answers.levels);
        levels?.get(&member).copied()
    }

    /// Returns whether a voter has reported a newer term to `leader`.
    pub(crate) fn is_deposed(&self, leader: &LeaderId) -> bool {
        let answers = self.answers();
        answers.leader.as_ref() == Some(leader) && answers.is_deposed
    }

    /// Returns the round-trip times to the voters.
    pub(crate) fn rtts(&self) -> &RttTracker {
        &self.0.rtts
    }

    /// Returns whether the leader sends no heartbeats at the moment. It must not send any for a
    /// read either.
    pub(crate) fn is_silent(&self) -> bool {
        self.0.is_silent.load(Ordering::Relaxed)
    }
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
        let age = status::quorum_acked_ago(&metrics, *self.phases.borrow(), &self.group.liveness);
        let silent = age.is_some_and(|age| is_silent(age, self.group.timing));
        if self
            .group
            .liveness
            .0
            .is_silent
            .swap(silent, Ordering::Relaxed)
            != silent
        {
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
            let patience = Duration::from_millis(timing.append_deadline_ms);
            let mut client = connections::client(connections.control.clone());
            let answer = tokio::time::timeout(patience, client.alive(request)).await;
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
    let asked = others.map(|(id, member)| ProbeTarget {
        leader: metrics.vote,
        id: *id,
        is_voter: voters.contains(id),
        address: member.raft_address.clone(),
    });
    asked.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leader(term: u64, node: u64) -> LeaderId {
        LeaderId {
            term,
            voted_for: node,
        }
    }

    fn vote(term: u64, node: u64) -> Vote {
        Vote {
            leader_id: leader(term, node),
            committed: false,
        }
    }

    #[test]
    fn answer_counts_for_its_leader_from_the_time_of_sending() {
        let liveness = Liveness::default();
        let sent = Instant::now();
        let later = sent + Duration::from_millis(60);
        liveness.record_answer(leader(4, 1), 2, &vote(4, 1), later);
        liveness.record_answer(leader(4, 1), 2, &vote(4, 1), sent);
        liveness.record_answer(leader(4, 1), 3, &vote(3, 1), sent);
        assert_eq!(liveness.answered_at(&leader(4, 1), 2), Some(later));
        assert_eq!(
            liveness.answered_at(&leader(4, 1), 3),
            None,
            "an older term"
        );
        assert_eq!(liveness.answered_at(&leader(5, 1), 2), None, "another term");
        assert!(!liveness.is_deposed(&leader(4, 1)));
    }

    #[test]
    fn a_voter_of_a_newer_term_deposes_the_leader_until_it_leads_a_newer_one() {
        let liveness = Liveness::default();
        let sent = Instant::now();
        liveness.record_answer(leader(4, 1), 2, &vote(5, 2), sent);
        assert!(liveness.is_deposed(&leader(4, 1)));
        assert_eq!(liveness.answered_at(&leader(4, 1), 2), None);
        liveness.record_answer(leader(6, 1), 2, &vote(6, 1), sent);
        assert!(!liveness.is_deposed(&leader(6, 1)));
        // A late answer to the former leader.
        liveness.record_answer(leader(4, 1), 2, &vote(5, 2), sent);
        assert_eq!(liveness.answered_at(&leader(6, 1), 2), Some(sent));
    }

    #[test]
    fn a_candidate_that_lost_does_not_depose_the_leader_of_its_term() {
        let liveness = Liveness::default();
        let sent = Instant::now();
        liveness.record_answer(leader(4, 1), 2, &vote(4, 2), sent);
        assert!(!liveness.is_deposed(&leader(4, 1)));
        assert_eq!(liveness.answered_at(&leader(4, 1), 2), None);
    }

    #[test]
    fn a_leader_without_a_quorum_is_silent_in_every_other_period_from_the_end_of_its_lease() {
        let silent = |ms| is_silent(Duration::from_millis(ms), Timing::lan());
        assert!(!silent(0) && !silent(299));
        assert!(silent(300) && silent(899));
        assert!(!silent(900) && !silent(1_499));
        assert!(silent(1_500));
    }
}
