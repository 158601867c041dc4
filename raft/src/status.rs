//! The state of a node and its group, as a watch that changes rarely. Figures that change with each
//! entry are in `progress`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use argosy_proto::clock::WallClock;
use openraft::async_runtime::WatchReceiver as _;
use openraft::metrics::RaftServerMetrics;
use openraft::{Instant as _, RaftMetrics, ServerState};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::election::leader_contact::LeaderContact;
use crate::liveness::Liveness;
use crate::state_machine::Consensus;
use crate::types::{Member, StoredMembership, TypeConfig, Vote};

/// The state of a node, as far as the rest of the program needs it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RaftStatus {
    /// The id of this node.
    pub id: u64,
    /// The leader, as far as this node knows. It may be outdated: only a commit proves leadership.
    /// A follower that has received nothing from its leader for a second, or for the longest
    /// election time if that is more, knows none.
    pub leader: Option<(u64, Member)>,
    /// The time since which this node knows no leader: that of its leader's last message, or of its
    /// own start. `None` while it knows one.
    pub leaderless_since: Option<Instant>,
    /// The newest term that this node has saved. It never decreases, not even after a power cut.
    pub term: u64,
    /// Whether this node leads the term.
    pub is_leader: bool,
    /// The voters. During a member change, those of the old and of the new group.
    pub voters: Arc<[(u64, Member)]>,
    /// The members without a vote.
    pub learners: Arc<[(u64, Member)]>,
    /// The times of the phases of the last change of leader, as far as this node observed them.
    pub phases: FailoverPhases,
    /// The reason for which consensus has ended. The process must exit too: writes to its log can
    /// no longer be trusted.
    pub failure: Option<String>,
}

impl RaftStatus {
    pub(crate) fn of(id: u64) -> RaftStatus {
        RaftStatus {
            id,
            leaderless_since: Some(Instant::now()),
            ..RaftStatus::default()
        }
    }

    /// Records that no leader is known any more. `last_contact` is when the last message of the
    /// former leader arrived, if that was another node.
    fn clear_leader(&mut self, last_contact: Instant) {
        if let Some((id, _)) = self.leader.take() {
            let own = id == self.id;
            self.leaderless_since = Some(if own { Instant::now() } else { last_contact });
        }
    }

    /// Returns the member with this id, voter or learner.
    pub fn member(&self, id: u64) -> Option<&Member> {
        self.voters
            .iter()
            .chain(self.learners.iter())
            .find(|(one, _)| *one == id)
            .map(|(_, member)| member)
    }
}

/// Times of the last change of leader, in microseconds of wall time since 1970, for measurements
/// only; 0 for a phase that this node did not observe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FailoverPhases {
    /// The term of the leader that was found dead.
    pub dead_term: u64,
    /// The time at which this node found the leader dead.
    pub dead_seen_us: u64,
    /// The term for which this node was elected.
    pub elected_term: u64,
    /// The time at which this node was elected.
    pub elected_us: u64,
    /// The same by the monotonic clock, for decisions that depend on it.
    pub elected_at: Option<Instant>,
    /// The time at which the first entry of that term was applied here.
    pub first_commit_us: u64,
}

impl FailoverPhases {
    pub(crate) fn record_dead_leader(&mut self, term: u64, wall: &WallClock) {
        self.dead_term = term;
        self.dead_seen_us = wall.now_us();
    }
}

/// The task that turns openraft's metrics into `RaftStatus`.
pub(crate) struct StatusReporter {
    pub(crate) raft: Consensus,
    pub(crate) status: watch::Sender<RaftStatus>,
    /// The saved part of openraft's vote, which may be ahead of openraft's metrics.
    pub(crate) votes: watch::Receiver<Option<Vote>>,
    pub(crate) phases: Arc<watch::Sender<FailoverPhases>>,
    pub(crate) leader_contact: LeaderContact,
    pub(crate) wall: WallClock,
    /// The term that this node leads, 0 while it does not lead: read by the proposer's callers on
    /// each command.
    pub(crate) leading_term: Arc<AtomicU64>,
    /// Cancelled when consensus has failed. The port then closes, so that the others elect a new
    /// leader immediately.
    pub(crate) failed: CancellationToken,
}

impl StatusReporter {
    /// Reports until the node stops.
    pub(crate) async fn run(self, stop: CancellationToken) {
        // openraft's other metrics change with every entry.
        let mut metrics = self.raft.server_metrics();
        let mut phases = self.phases.subscribe();
        let mut contacts = self.leader_contact.watch();
        let mut votes = self.votes.clone();
        let mut shown: Option<Arc<StoredMembership>> = None;
        loop {
            let waits = {
                let metrics = metrics.borrow_and_update();
                self.report(&metrics, &mut shown);
                self.waits_for_first_commit(&metrics)
            };
            tokio::select! {
                () = stop.cancelled() => {
                    self.step_down();
                    return;
                }
                _ = phases.changed() => {
                    let phases = *phases.borrow_and_update();
                    self.status.send_modify(|status| status.phases = phases);
                }
                () = self.leader_silent() => {}
                // The sender is owned here, so it is never closed.
                _ = contacts.changed() => {}
                Ok(()) = votes.changed() => {}
                () = self.first_commit(waits) => {}
                changed = metrics.changed() => if changed.is_err() {
                    self.fail(self.reason(), stop.is_cancelled());
                    return;
                },
            }
        }
    }

    /// Returns the reason for which consensus has ended.
    fn reason(&self) -> String {
        let metrics = self.raft.metrics();
        let ended = metrics.borrow_watched().running_state.clone();
        ended.err().map_or_else(
            || "openraft has ended".to_owned(),
            |error| error.to_string(),
        )
    }

    /// Returns the term that this node leads, as long as no entry of it is applied.
    fn waits_for_first_commit(&self, metrics: &RaftServerMetrics<TypeConfig>) -> Option<u64> {
        let phases = *self.phases.borrow();
        let term = metrics.vote.leader_id.term;
        let leads = metrics.state == ServerState::Leader && phases.elected_term == term;
        (leads && phases.first_commit_us == 0).then_some(term)
    }

    /// Records when the first entry of this term is applied.
    async fn first_commit(&self, term: Option<u64>) {
        let Some(term) = term else {
            return std::future::pending().await;
        };
        let mut metrics = self.raft.data_metrics();
        loop {
            let applied = {
                let metrics = metrics.borrow_and_update();
                metrics.last_applied.as_ref().map(|id| id.leader_id.term)
            };
            if applied == Some(term) {
                break;
            }
            if metrics.changed().await.is_err() {
                // Consensus has ended: the other metrics report that.
                return std::future::pending().await;
            }
        }
        let now = self.wall.now_us();
        self.phases.send_if_modified(|phases| {
            let first = phases.elected_term == term && phases.first_commit_us == 0;
            if first {
                phases.first_commit_us = now;
                info!(
                    term,
                    at_us = now,
                    "the first entry of the term is committed"
                );
            }
            first
        });
    }

    fn fail(&self, reason: String, stopping: bool) {
        self.step_down();
        if !stopping {
            error!(reason, "consensus has failed, this process must exit");
            self.status
                .send_modify(|status| status.failure = Some(reason));
        }
        self.failed.cancel();
    }

    /// Records that a node that has ended leads no term.
    fn step_down(&self) {
        self.leading_term.store(0, Ordering::Relaxed);
        self.status.send_modify(|status| {
            status.is_leader = false;
            status.clear_leader(Instant::now());
        });
    }

    /// Returns when the reported leader has been silent for too long.
    async fn leader_silent(&self) {
        let follows = {
            let status = self.status.borrow();
            status.leader.is_some() && !status.is_leader
        };
        // A leader of which no message has arrived is not reported.
        match self.leader_contact.silent_from().filter(|_| follows) {
            Some(until) => tokio::time::sleep_until(until).await,
            None => std::future::pending().await,
        }
    }

    /// Returns the leader according to openraft, if it is this node, or a message of it has arrived
    /// recently. Without an election openraft never forgets a leader.
    fn current_leader(&self, metrics: &RaftServerMetrics<TypeConfig>) -> Option<u64> {
        let leader = metrics.current_leader?;
        let is_recent = self
            .leader_contact
            .silent_from()
            .is_some_and(|until| Instant::now() < until);
        (leader == metrics.id || is_recent).then_some(leader)
    }

    fn report(
        &self,
        metrics: &RaftServerMetrics<TypeConfig>,
        shown: &mut Option<Arc<StoredMembership>>,
    ) {
        let is_leader = metrics.state == ServerState::Leader;
        // A candidate has saved its vote before it is elected: this is the term that it leads.
        let term = metrics.vote.leader_id.term;
        self.leading_term
            .store(if is_leader { term } else { 0 }, Ordering::Relaxed);
        if is_leader {
            self.record_election(term);
        }
        let leader = self.current_leader(metrics);
        let saved = self.votes.borrow().map(|vote| vote.leader_id.term);
        // Either may be ahead: openraft's vote before it is saved, the saved vote before openraft's
        // metrics report it.
        let reported = saved.map(|saved| saved.min(term));
        let membership = &metrics.membership_config;
        let regrouped = !shown
            .as_ref()
            .is_some_and(|shown| Arc::ptr_eq(shown, membership));
        self.status.send_if_modified(|status| {
            let told = reported.unwrap_or(0);
            let mut modified = status.term != told;
            status.term = told;
            modified |= status.is_leader != is_leader;
            status.is_leader = is_leader;
            if regrouped {
                (status.voters, status.learners) = members(membership);
                modified = true;
            }
            if regrouped || status.leader.as_ref().map(|(id, _)| *id) != leader {
                let leader = leader.and_then(|id| Some((id, membership.get_node(&id)?.clone())));
                match leader {
                    Some(leader) => (status.leader, status.leaderless_since) = (Some(leader), None),
                    None => {
                        status.clear_leader(self.leader_contact.at().unwrap_or_else(Instant::now))
                    }
                }
                modified = true;
            }
            modified
        });
        if regrouped {
            *shown = Some(membership.clone());
        }
    }

    fn record_election(&self, term: u64) {
        let now = self.wall.now_us();
        self.phases.send_if_modified(|phases| {
            let elected = phases.elected_term != term;
            if elected {
                (
                    phases.elected_term,
                    phases.elected_us,
                    phases.first_commit_us,
                ) = (term, now, 0);
                phases.elected_at = Some(Instant::now());
                info!(
                    term,
                    at_us = now,
                    dead_seen_us = phases.dead_seen_us,
                    "this master was elected"
                );
            }
            elected
        });
    }
}

type MemberList = Arc<[(u64, Member)]>;

fn members(membership: &StoredMembership) -> (MemberList, MemberList) {
    let mut voters = BTreeMap::new();
    for id in membership.voter_ids() {
        if let Some(member) = membership.get_node(&id) {
            voters.insert(id, member.clone());
        }
    }
    let learners = membership
        .nodes()
        .filter(|(id, _)| !voters.contains_key(id));
    let learners = learners.map(|(id, member)| (*id, member.clone())).collect();
    (voters.into_iter().collect(), learners)
}

/// Returns the time since sending the newest message that a quorum has answered as followers of
/// this leader: an append, a heartbeat, or an `Alive` request, which waits for no disk. `None` if
/// this node does not lead. A group of one is always its own quorum.
pub(crate) fn quorum_acked_ago(
    metrics: &RaftMetrics<TypeConfig>,
    phases: FailoverPhases,
    liveness: &Liveness,
) -> Option<Duration> {
    if metrics.state != ServerState::Leader {
        return None;
    }
    let ago = |id: &u64| match *id == metrics.id {
        true => Some(Duration::ZERO),
        false => acked_ago(metrics, liveness, *id),
    };
    let config = metrics.membership_config.get_joint_config();
    // During a member change, both quorums must have answered.
    let answered = config
        .iter()
        .map(|voters| majority_ago(voters.iter().map(ago)));
    let answered = answered.collect::<Option<Vec<_>>>();
    let answered = answered.and_then(|agos| agos.into_iter().max());
    // Before the first answer, the votes are the newest answers.
    let is_present = phases.elected_term == metrics.current_term;
    let elected = phases.elected_at.filter(|_| is_present);
    let elected = elected.map(|at| at.elapsed());
    let heard = answered.into_iter().chain(elected).min();
    Some(heard.unwrap_or(Duration::ZERO))
}

/// Returns the age of the answer that completes a majority, counting from the newest answer. `None`
/// without a majority.
fn majority_ago(voters: impl Iterator<Item = Option<Duration>>) -> Option<Duration> {
    let voters: Vec<Option<Duration>> = voters.collect();
    let majority = voters.len() / 2 + 1;
    let mut heard: Vec<Duration> = voters.into_iter().flatten().collect();
    heard.sort_unstable();
    heard.get(majority - 1).copied()
}

/// Returns the time since sending the newest message that this member has answered to this leader.
pub(crate) fn acked_ago(
    metrics: &RaftMetrics<TypeConfig>,
    liveness: &Liveness,
    id: u64,
) -> Option<Duration> {
    let heartbeats = metrics.heartbeat.as_ref()?;
    let synced = heartbeats.get(&id).copied().flatten();
    let synced = synced.map(|at| at.elapsed());
    let followed = liveness.answered_at(&metrics.vote.leader_id, id);
    let followed = followed.map(|at| at.elapsed());
    synced.into_iter().chain(followed).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn majority_age_is_that_of_its_oldest_member() {
        let ago = |agos: &[Option<u64>]| {
            let agos = agos.iter().map(|ago| ago.map(Duration::from_millis));
            majority_ago(agos).map(|ago| ago.as_millis())
        };
        assert_eq!(ago(&[Some(0)]), Some(0), "a group of one");
        assert_eq!(ago(&[Some(0), Some(70)]), Some(70), "both of two");
        assert_eq!(ago(&[Some(0), None]), None);
        assert_eq!(ago(&[Some(0), Some(900), Some(40)]), Some(40));
        assert_eq!(ago(&[Some(0), None, Some(900)]), Some(900));
        assert_eq!(ago(&[Some(0), Some(5), Some(7), None, None]), Some(7));
        assert_eq!(
            ago(&[None, Some(5), Some(7), None]),
            None,
            "four need three"
        );
        assert_eq!(ago(&[]), None);
    }
}
