//! Truncation of the log by size, in addition to openraft's policy, which counts only entries, and
//! only those of one process run.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use openraft::async_runtime::WatchReceiver as _;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::settings::SnapshotPolicy;
use crate::state_machine::Consensus;

/// A counter of the bytes of commands appended to the log. Cheap to clone.
#[derive(Clone)]
pub(crate) struct LogGrowth(Arc<Inner>);

struct Inner {
    grown: AtomicU64,
    policy: SnapshotPolicy,
    full: Notify,
}

impl LogGrowth {
    pub(crate) fn new(policy: SnapshotPolicy) -> LogGrowth {
        LogGrowth(Arc::new(Inner {
            grown: AtomicU64::new(0),
            policy,
            full: Notify::new(),
        }))
    }

    pub(crate) fn add(&self, bytes: u64) {
        let grown = self.0.grown.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if grown >= self.0.policy.bytes.max(1) {
            self.0.grown.store(0, Ordering::Relaxed);
            self.0.full.notify_one();
        }
    }

    /// Truncates a log that earlier runs of this node left too long. Then, whenever the limit of
    /// bytes is exceeded, triggers a snapshot and truncates the log up to the previous such time,
    /// until the node stops. This leaves at least the limit, for followers that lag a little, and
    /// at most about twice the limit.
    pub(crate) async fn run(self, raft: Consensus, stop: CancellationToken) {
        if stop
            .run_until_cancelled(self.truncate(&raft))
            .await
            .is_none()
        {
            return;
        }
        let mut previous = last_log_index(&raft);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.0.full.notified() => {}
            }
            let last = last_log_index(&raft);
            // The snapshot that was triggered at `previous` is usually done. If it is not, openraft
            // truncates the log up to the newest one that is.
            if let Some(previous) = previous
                && raft.trigger().purge_log(previous).await.is_err()
            {
                return;
            }
            if raft.trigger().snapshot().await.is_err() {
                return;
            }
            previous = last;
        }
    }

    /// Truncates the log once at startup. openraft then takes the applied index for a snapshot and
    /// counts from there.
    async fn truncate(&self, raft: &Consensus) {
        // Returns once consensus has read the store. An error means that the node stops.
        if raft.is_initialized().await.is_err() {
            return;
        }
        let (covered, purged) = {
            let metrics = raft.metrics();
            let metrics = metrics.borrow_watched();
            let index = |id: Option<&crate::types::LogId>| id.map_or(0, |id| id.index);
            (
                index(metrics.snapshot.as_ref()),
                index(metrics.purged.as_ref()),
            )
        };
        if let Some(last) = purge_index(self.0.policy, covered, purged) {
            // As above, an error means that the node stops.
            let _ = raft.trigger().purge_log(last).await;
        }
    }
}

/// Returns the index of the last entry in the log; `None` if the log is empty.
fn last_log_index(raft: &Consensus) -> Option<u64> {
    raft.metrics().borrow_watched().last_log_index
}

/// Returns the last entry to truncate from a log that starts after `purged` and is covered by a
/// snapshot up to `covered`.
fn purge_index(policy: SnapshotPolicy, covered: u64, purged: u64) -> Option<u64> {
    let last = covered.checked_sub(policy.keep_entries)?;
    (last > purged.saturating_add(policy.entries)).then_some(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_is_purged_at_start_when_it_exceeds_the_policy() {
        let policy = SnapshotPolicy {
            entries: 100,
            bytes: 1,
            keep_entries: 50,
        };
        assert_eq!(purge_index(policy, 0, 0), None);
        assert_eq!(purge_index(policy, 150, 0), None);
        assert_eq!(purge_index(policy, 151, 0), Some(101));
        assert_eq!(purge_index(policy, 151, 1), None);
        assert_eq!(purge_index(policy, 40, 0), None);
    }
}
