//! The voters that are alive, according to their answers to this leader.

use std::collections::BTreeSet;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver as _;
use tokio::time::Instant;

use super::MemberChanger;
use crate::error::MembershipError;
use crate::liveness;

impl MemberChanger {
    /// Returns an error if this node no longer leads: its missing answers then prove nothing about
    /// the others.
    pub(super) fn check_leads(&self) -> Result<(), MembershipError> {
        let leads = self.status.borrow().is_leader;
        leads.then_some(()).ok_or(MembershipError::NoLeader)
    }

    /// Returns how many of these voters are alive. A new leader has no answers yet, so a minority
    /// is reported only after all voters have had time to answer.
    pub(super) async fn wait_for_majority(&self, voters: &BTreeSet<u64>) -> usize {
        let mut metrics = self.raft.metrics();
        let deadline = Instant::now() + Duration::from_millis(2 * self.timing.election_max_ms);
        loop {
            let alive = self.count_alive(voters);
            if alive > voters.len() / 2 {
                return alive;
            }
            let changed = tokio::time::timeout_at(deadline, metrics.changed()).await;
            if !matches!(changed, Ok(Ok(()))) {
                return self.count_alive(voters);
            }
        }
    }

    /// Returns the voter to which leadership is transferred if the request names none: of those
    /// that have answered recently, the one with the longest log. The lag of a dead voter stays 0
    /// as long as nothing is proposed, so a short lag does not show that a voter is alive.
    pub(super) fn successor(&self, voters: &BTreeSet<u64>) -> Option<u64> {
        let lags = self.progress().lag;
        let others = voters.iter().copied().filter(|id| *id != self.caller.id);
        others.min_by_key(|id| {
            let lag = lags.get(id).copied().unwrap_or(u64::MAX);
            (!self.is_alive(*id), lag, *id)
        })
    }

    /// Returns how many of these voters have answered recently, including the leader itself.
    fn count_alive(&self, voters: &BTreeSet<u64>) -> usize {
        voters.iter().filter(|id| self.is_alive(**id)).count()
    }

    /// Returns whether this voter has answered recently. The leader itself is always alive.
    fn is_alive(&self, id: u64) -> bool {
        let fresh = Duration::from_millis(2 * self.timing.election_max_ms);
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let heard = liveness::acked_ago(&metrics, &self.liveness, id);
        id == self.caller.id || heard.is_some_and(|ago| ago < fresh)
    }
}
