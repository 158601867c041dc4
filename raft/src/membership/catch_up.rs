//! The wait until a learner is close to the leader's log, so that it may vote.

use std::time::Duration;

use openraft::async_runtime::WatchReceiver as _;
use tokio::time::Instant;

use super::MemberChanger;
use crate::error::{LearnerProgress, MembershipError};
use crate::transport::transfer_counts::FollowerTransfers;

/// A learner that lacks at most this many entries may vote: it receives the rest within one or two
/// round trips.
const CLOSE_ENTRIES: u64 = 256;
/// The number of transfers of snapshots that may fail after the learner has answered a block. Their
/// blocks count as progress, so an endless repetition needs this limit.
const FAILED_TRANSFERS: u64 = 3;

impl MemberChanger {
    /// Returns once the learner is close to the leader. Fails if it makes no progress for the time
    /// of a stall: it neither acknowledges entries nor receives or installs a snapshot.
    pub(super) async fn catch_up(&self, id: u64) -> Result<(), MembershipError> {
        let stall = Duration::from_millis(self.timing.learner_stall_ms);
        let mut changes = self.raft.data_metrics();
        let mut best = None;
        let begun = self.transfers.of(id);
        let mut seen = begun;
        let mut deadline = Instant::now() + stall;
        loop {
            changes.borrow_and_update();
            let progress = self.progress();
            let lag = progress.lag.get(&id).copied();
            let leads = self.status.borrow().is_leader;
            if !leads {
                return Err(MembershipError::Unfinished {
                    reason: "the leader has changed".to_owned(),
                });
            }
            if lag.is_some_and(|lag| lag <= CLOSE_ENTRIES) {
                return Ok(());
            }
            // The lag may grow although the learner acknowledges entries.
            let matched = lag.map(|lag| progress.last_log_index.saturating_sub(lag));
            if matched > best {
                (best, deadline) = (matched, Instant::now() + stall);
            }
            match tokio::time::timeout_at(deadline, changes.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_closed)) => return Err(MembershipError::Stopped),
                Err(_elapsed) => {
                    let now = self.transfers.of(id);
                    if !continues(begun, seen, now) {
                        let progress = learner_progress(lag, begun, now);
                        return Err(MembershipError::Lagging { id, progress });
                    }
                    (seen, deadline) = (now, Instant::now() + stall);
                }
            }
        }
    }
}

/// Returns whether a snapshot for the learner has made progress between `seen` and `now`. `begun`:
/// when the wait began.
fn continues(begun: FollowerTransfers, seen: FollowerTransfers, now: FollowerTransfers) -> bool {
    let fails = now.failed - begun.failed >= FAILED_TRANSFERS;
    !fails && (now.busy > 0 || now.blocks > seen.blocks)
}

/// Returns the progress of a learner that has not caught up.
fn learner_progress(
    lag: Option<u64>,
    begun: FollowerTransfers,
    now: FollowerTransfers,
) -> LearnerProgress {
    match lag {
        Some(lag) => LearnerProgress::Behind(lag),
        None if now != begun => LearnerProgress::NoSnapshot,
        None => LearnerProgress::Silent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_and_an_install_are_progress_until_transfers_fail_repeatedly() {
        let begun = FollowerTransfers {
            begun: 4,
            blocks: 10,
            failed: 2,
            busy: 0,
        };
        assert!(!continues(begun, begun, begun));
        let sending = FollowerTransfers {
            blocks: 11,
            ..begun
        };
        assert!(continues(begun, begun, sending));
        assert!(!continues(begun, sending, sending), "it has stalled");
        let installing = FollowerTransfers { busy: 1, ..sending };
        assert!(continues(begun, sending, installing));
        let failed = |failed| FollowerTransfers {
            failed,
            ..installing
        };
        assert!(continues(begun, begun, failed(4)));
        assert!(!continues(begun, begun, failed(5)));
    }

    #[test]
    fn a_learner_that_has_received_blocks_is_not_reported_as_silent() {
        let begun = FollowerTransfers::default();
        let received = FollowerTransfers { begun: 1, ..begun };
        let silent = learner_progress(None, begun, begun);
        assert_eq!(silent, LearnerProgress::Silent);
        let stalled = learner_progress(None, begun, received);
        assert_eq!(stalled, LearnerProgress::NoSnapshot);
        assert!(!stalled.to_string().contains("does not answer"));
        let behind = learner_progress(Some(300), begun, received);
        assert_eq!(behind, LearnerProgress::Behind(300));
    }
}
