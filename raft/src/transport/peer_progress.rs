//! The newest entry that a peer has acknowledged, to detect a peer that loses acknowledged entries.
//!
//! A follower may lag, but entries that it acknowledged are on its disk. If it lacks one of them
//! later, its disk loses synced data. Its votes are not reliable either, so it is treated as
//! unreachable until an operator acts.

use crate::types::{LogId, Vote};

/// The last entry that one peer has acknowledged to one leader in one term.
#[derive(Debug, Default)]
pub(crate) struct PeerProgress {
    vote: Option<Vote>,
    last_acked: Option<LogId>,
    is_reported: bool,
}

impl PeerProgress {
    pub(crate) fn acknowledged(&mut self, epoch_record: Vote, last: Option<LogId>) {
        if self.vote != Some(epoch_record) {
            // Another leader may have replaced the entries of the previous one.
            *self = Self {
                vote: Some(epoch_record),
                ..Self::default()
            };
        }
        self.last_acked = self.last_acked.max(last);
    }

    /// Returns whether a peer that reports `previous` as missing has acknowledged it before.
    pub(crate) fn has_lost_entries(&self, vote: Vote, previous: Option<LogId>) -> bool {
        self.vote == Some(vote) && previous.is_some() && previous <= self.last_acked
    }

    /// Returns the message for operators.
    pub(crate) fn refusal(&self, peer: u64) -> String {
        let last = self.last_acked.map_or(0, |last| last.index);
        format!(
            "master-{peer} no longer has entries that it had acknowledged, up to {last}: its disk loses synced data; \
             remove it from the group and join it again with an empty directory"
        )
    }

    /// Returns true the first time in a term.
    pub(crate) fn is_first_report(&mut self) -> bool {
        !std::mem::replace(&mut self.is_reported, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{CommittedLeaderId, LeaderId};

    fn vote(term: u64) -> Vote {
        Vote {
            leader_id: LeaderId { term, voted_for: 1 },
            committed: true,
        }
    }

    fn entry(term: u64, index: u64) -> Option<LogId> {
        Some(LogId::new(CommittedLeaderId { term }, index))
    }

    #[test]
    fn peer_that_lost_acknowledged_entries_is_detected() {
        let mut held = PeerProgress::default();
        assert!(
            !held.has_lost_entries(vote(2), entry(2, 5)),
            "it never had it"
        );
        held.acknowledged(vote(2), entry(2, 9));
        held.acknowledged(vote(2), entry(2, 7));
        assert!(
            held.has_lost_entries(vote(2), entry(2, 9)),
            "an older answer takes nothing back"
        );
        assert!(
            !held.has_lost_entries(vote(2), entry(2, 10)),
            "lagging is no fault"
        );
        assert!(!held.has_lost_entries(vote(2), None));
    }

    #[test]
    fn entries_of_an_earlier_leader_may_be_missing() {
        let mut held = PeerProgress::default();
        held.acknowledged(vote(2), entry(2, 9));
        assert!(!held.has_lost_entries(vote(3), entry(2, 9)));
        held.acknowledged(vote(3), entry(1, 4));
        assert!(!held.has_lost_entries(vote(3), entry(2, 9)));
        assert!(held.has_lost_entries(vote(3), entry(1, 3)));
    }
}
