//! The voters that follow this leader, measured by a message that waits for no disk.
//!
//! openraft's heartbeats are answered only when the follower's log is synced, so a follower with a
//! slow disk seems to be lost. The leader therefore also sends each voter a small `Alive` request
//! (`election::prober`), which the voter answers from memory. An answer counts from the time of
//! sending. Safety does not depend on this module: it decides whether a leader keeps leading and
//! whether it suspends heartbeats for an election, never whether an entry is committed or a read is
//! confirmed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use argosy_state::level::Levels;
use openraft::{Instant as _, RaftMetrics, ServerState};
use tokio::time::Instant;

use crate::status::FailoverPhases;
use crate::transport::rtt::RttTracker;
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
    pub(crate) fn record_answer(&self, leader: LeaderId, voter: u64, vote: &Vote, sent: Instant) {
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
    pub(crate) fn record_levels(&self, leader: LeaderId, member: u64, levels: Levels) {
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

    /// Records whether the leader sends heartbeats. Returns whether that has changed.
    pub(crate) fn set_silent(&self, silent: bool) -> bool {
        self.0.is_silent.swap(silent, Ordering::Relaxed) != silent
    }
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
    fn an_answer_extends_the_lease_from_the_time_of_sending() {
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
    fn a_voter_of_a_newer_term_deposes_the_leader_until_its_next_term() {
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
