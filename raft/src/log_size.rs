//! Truncation of the log, by entries and by bytes.
//!
//! The log is truncated up to the previous time that it had grown by its limit. So it keeps at
//! least the limit, for followers that lag a little, and at most about twice the limit. While a
//! snapshot is sent it keeps all entries after that snapshot: otherwise the receiver would need
//! another one, and under load would never catch up.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::async_runtime::WatchReceiver as _;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::settings::SnapshotPolicy;
use crate::state_machine::Consensus;

/// The maximum number of limits by which the log grows while snapshots are sent. With the default
/// limits it then has at most 160,000 entries, or 1 GiB. A receiver that needs longer gets another
/// snapshot.
const KEPT_LIMITS: usize = 16;

/// What was appended to the log since it last reached a limit. Cheap to clone.
#[derive(Clone)]
pub(crate) struct LogGrowth(Arc<Inner>);

struct Inner {
    entries: AtomicU64,
    bytes: AtomicU64,
    policy: SnapshotPolicy,
    full: Notify,
    transfers: SnapshotTransfers,
}

impl LogGrowth {
    pub(crate) fn new(policy: SnapshotPolicy, transfers: SnapshotTransfers) -> LogGrowth {
        LogGrowth(Arc::new(Inner {
            entries: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            policy,
            full: Notify::new(),
            transfers,
        }))
    }

    /// Counts appended entries, and the bytes of their commands.
    pub(crate) fn add(&self, entries: u64, bytes: u64) {
        let inner = &self.0;
        let entries = inner.entries.fetch_add(entries, Ordering::Relaxed) + entries;
        let bytes = inner.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if entries >= inner.policy.entries || bytes >= inner.policy.bytes.max(1) {
            inner.entries.store(0, Ordering::Relaxed);
            inner.bytes.store(0, Ordering::Relaxed);
            inner.full.notify_one();
        }
    }

    /// Truncates a log that earlier runs of this node left too long. Then truncates it whenever it
    /// has grown by the limit, until the node stops.
    pub(crate) async fn run(self, raft: Consensus, stop: CancellationToken) {
        let _ = stop.run_until_cancelled(self.truncate(&raft)).await;
    }

    /// Returns when the node stops.
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
        // At a start, openraft takes the applied index for that of a snapshot.
        if let Some(last) = purge_index(self.0.policy, covered, purged)
            && raft.trigger().purge_log(last).await.is_err()
        {
            return;
        }
        let mut plan = PurgePlan::default();
        if let Some(last) = last_log_index(raft) {
            plan.grown(last);
        }
        loop {
            self.0.full.notified().await;
            // The snapshot that was triggered at this index is usually done. If it is not, openraft
            // truncates the log up to the newest one that is.
            if let Some(last) = plan.purge_index(self.0.transfers.oldest())
                && raft.trigger().purge_log(last).await.is_err()
            {
                return;
            }
            if raft.trigger().snapshot().await.is_err() {
                return;
            }
            if let Some(last) = last_log_index(raft) {
                plan.grown(last);
            }
        }
    }
}

/// The last entries of the log at the times when it had grown by the limit, oldest first.
#[derive(Default)]
struct PurgePlan(VecDeque<u64>);

impl PurgePlan {
    fn grown(&mut self, last: u64) {
        self.0.push_back(last);
        if self.0.len() > KEPT_LIMITS {
            self.0.pop_front();
        }
    }

    /// Returns the last entry to truncate, if the oldest snapshot that is being sent ends with
    /// `sent`.
    fn purge_index(&self, sent: Option<u64>) -> Option<u64> {
        let last = *self.0.back()?;
        // Only if so many are known is the log too long.
        let least = self.0.front().filter(|_| self.0.len() == KEPT_LIMITS);
        let kept = sent.map_or(last, |sent| sent.min(last));
        Some(kept.max(least.copied().unwrap_or(0)))
    }
}

/// The snapshots that are being sent. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct SnapshotTransfers(Arc<Mutex<Vec<u64>>>);

impl SnapshotTransfers {
    /// Keeps the entries after `last`, the last one in the snapshot, until the guard is dropped.
    pub(crate) fn begin(&self, last: u64) -> TransferGuard {
        self.all().push(last);
        TransferGuard {
            transfers: self.clone(),
            last,
        }
    }

    fn oldest(&self) -> Option<u64> {
        self.all().iter().min().copied()
    }

    fn all(&self) -> MutexGuard<'_, Vec<u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A snapshot that is being sent.
pub(crate) struct TransferGuard {
    transfers: SnapshotTransfers,
    last: u64,
}

impl Drop for TransferGuard {
    fn drop(&mut self) {
        let mut all = self.transfers.all();
        if let Some(position) = all.iter().position(|last| *last == self.last) {
            all.swap_remove(position);
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
    let last = covered.checked_sub(policy.entries)?;
    (last > purged.saturating_add(policy.entries)).then_some(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: SnapshotPolicy = SnapshotPolicy {
        entries: 100,
        bytes: 1_000,
    };

    #[test]
    fn log_is_purged_at_start_when_it_exceeds_the_policy() {
        assert_eq!(purge_index(POLICY, 0, 0), None);
        assert_eq!(purge_index(POLICY, 200, 0), None);
        assert_eq!(purge_index(POLICY, 201, 0), Some(101));
        assert_eq!(purge_index(POLICY, 201, 1), None);
        assert_eq!(purge_index(POLICY, 40, 0), None);
    }

    #[tokio::test]
    async fn growth_by_entries_and_by_bytes_is_noticed() {
        let growth = LogGrowth::new(POLICY, SnapshotTransfers::default());
        let is_full = || {
            let full = &growth.0.full;
            std::future::poll_fn(|context| {
                let full = std::pin::pin!(full.notified());
                std::task::Poll::Ready(full.poll(context).is_ready())
            })
        };
        growth.add(99, 999);
        assert!(!is_full().await);
        growth.add(1, 0);
        assert!(is_full().await, "entries");
        growth.add(99, 999);
        assert!(!is_full().await, "counted anew");
        growth.add(0, 1);
        assert!(is_full().await, "bytes");
    }

    #[test]
    fn entries_after_a_snapshot_that_is_sent_are_kept_up_to_a_limit() {
        let transfers = SnapshotTransfers::default();
        let mut plan = PurgePlan::default();
        assert_eq!(plan.purge_index(transfers.oldest()), None);
        plan.grown(100);
        assert_eq!(plan.purge_index(transfers.oldest()), Some(100));
        let first = transfers.begin(150);
        let second = transfers.begin(170);
        assert_eq!(plan.purge_index(transfers.oldest()), Some(100), "not later");
        for last in 2..=KEPT_LIMITS as u64 {
            plan.grown(100 * last);
        }
        assert_eq!(plan.purge_index(transfers.oldest()), Some(150));
        drop(first);
        assert_eq!(plan.purge_index(transfers.oldest()), Some(170));
        plan.grown(100 * (KEPT_LIMITS as u64 + 1));
        assert_eq!(plan.purge_index(transfers.oldest()), Some(200), "too long");
        drop(second);
        let newest = 100 * (KEPT_LIMITS as u64 + 1);
        assert_eq!(plan.purge_index(transfers.oldest()), Some(newest));
    }
}
