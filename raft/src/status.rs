//! The state of a node and its group, as a watch that changes rarely. Figures that change with each
//! entry are in `progress`.

use std::fmt;
use std::sync::Arc;

use argosy_proto::clock::WallClock;
use tokio::time::Instant;

use crate::types::Member;

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
    /// The addresses of this node that the group has, if this node advertises others.
    pub address_mismatch: Option<AddressMismatch>,
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
    pub(crate) fn clear_leader(&mut self, last_contact: Instant) {
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

/// A node whose recorded addresses are not those that it advertises. The others dial the recorded
/// ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressMismatch {
    /// The id of the node.
    pub id: u64,
    /// The addresses that the membership has.
    pub recorded: Member,
    /// The addresses that the node advertises.
    pub advertised: Member,
}

impl AddressMismatch {
    /// Returns the difference between the addresses of the node `id`, if there is one.
    pub(crate) fn between(
        id: u64,
        recorded: &Member,
        advertised: &Member,
    ) -> Option<AddressMismatch> {
        let is_equal = recorded.raft_address == advertised.raft_address
            && recorded.api_address == advertised.api_address;
        (!is_equal).then(|| AddressMismatch {
            id,
            recorded: recorded.clone(),
            advertised: advertised.clone(),
        })
    }
}

impl fmt::Display for AddressMismatch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (recorded, advertised) = (&self.recorded, &self.advertised);
        write!(
            formatter,
            "the group has recorded other addresses for master-{} than it advertises: Raft {} (now {}), API {} (now {}); \
             run `argosy master join {}`, or start it with the recorded addresses",
            self.id,
            recorded.raft_address,
            advertised.raft_address,
            recorded.api_address,
            advertised.api_address,
            advertised.raft_address
        )
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
