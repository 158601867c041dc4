//! Truncation of the log, by entries and by bytes.
//!
//! The log is truncated up to the previous time that it had grown by its limit. So it keeps at
//! least the limit, for followers that lag a little, and usually at most about twice the limit.
//! There are two exceptions, up to [`KEPT_LIMITS`]:
//!
//! - While a snapshot is sent, the log keeps all entries after that snapshot: otherwise the
//!   receiver would need another one, and under load would never catch up.
//! - openraft keeps the entries that it is sending. A follower that lags by more is refused
//!   entries, so that it gets a snapshot.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::async_runtime::WatchReceiver as _;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::settings::SnapshotPolicy;
use crate::state_machine::{Consensus, RequestedPurge};

/// The number of limits by which the log may grow for a follower. With the default limits, these
/// are 160,000 entries or 1 GiB.
const KEPT_LIMITS: usize = 16;

/// A counter of the entries and bytes that were appended to the log since it last reached its
/// limit. Clones share it.
#[derive(Clone)]
pub(crate) struct LogGrowth(Arc<Inner>);

struct Inner {
    entries: AtomicU64,
    bytes: AtomicU64,
    policy: SnapshotPolicy,
    full: Notify,
    retention: LogRetention,
}

impl LogGrowth {
    pub(crate) fn new(policy: SnapshotPolicy, retention: LogRetention) -> LogGrowth {
        LogGrowth(Arc::new(Inner {
            entries: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            policy,
            full: Notify::new(),
            retention,
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

    /// Truncates the log until the node stops.
    pub(crate) async fn run(self, raft: Consensus, stop: CancellationToken) {
        let _ = stop.run_until_cancelled(self.truncate(&raft)).await;
    }

    /// Requests a truncation up to `last`. Returns false if the node stops.
    async fn purge(&self, raft: &Consensus, last: u64) -> bool {
        self.0.retention.requested().record(last);
        raft.trigger().purge_log(last).await.is_ok()
    }

    /// Truncates a log that earlier runs of this node left too long. Then truncates it whenever it
    /// has grown by the limit.
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
            && !self.purge(raft, last).await
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
            let retention = &self.0.retention;
            if let Some(last) = plan.purge_index(retention.oldest(|id| matched(raft, id)))
                && !self.purge(raft, last).await
            {
                return;
            }
            retention.refuse_up_to(plan.least());
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
        let kept = sent.map_or(last, |sent| sent.min(last));
        Some(kept.max(self.least()))
    }

    /// Returns the last entry to truncate although a follower may lack it; 0: there is none.
    fn least(&self) -> u64 {
        // Only if so many are known is the log too long.
        let is_too_long = self.0.len() == KEPT_LIMITS;
        self.0.front().filter(|_| is_too_long).copied().unwrap_or(0)
    }
}

/// The entries that the log keeps for followers. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct LogRetention(Arc<Retained>);

#[derive(Debug, Default)]
struct Retained {
    snapshots: Mutex<Vec<SentSnapshot>>,
    /// A follower that lacks this entry is sent no entries.
    refused: AtomicU64,
    requested: RequestedPurge,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct SentSnapshot {
    follower: u64,
    /// The last entry in the snapshot.
    last: u64,
    is_received: bool,
}

impl LogRetention {
    /// Keeps the entries after `last`, the last one in a snapshot for this follower, until the
    /// transfer fails, or until consensus knows that the follower has the snapshot.
    pub(crate) fn begin_transfer(&self, follower: u64, last: u64) -> SnapshotTransfer {
        let sent = SentSnapshot {
            follower,
            last,
            is_received: false,
        };
        self.snapshots().push(sent.clone());
        SnapshotTransfer {
            retention: self.clone(),
            sent,
        }
    }

    /// Returns the record of the truncations that were requested.
    pub(crate) fn requested(&self) -> RequestedPurge {
        self.0.requested.clone()
    }

    /// Returns whether a follower lags by more than the log may keep, so that it is sent no entries
    /// and gets a snapshot. `last` is the last entry that it has.
    pub(crate) fn refuses_entries_after(&self, last: u64) -> bool {
        last < self.0.refused.load(Ordering::Relaxed)
    }

    /// To be called after the truncation up to here was requested.
    fn refuse_up_to(&self, last: u64) {
        self.0.refused.store(last, Ordering::Relaxed);
    }

    /// Returns the last entry in the oldest snapshot after which entries must be kept. `matched`
    /// returns the last entry that consensus knows a follower to have, and `None` if it is sent
    /// none. Once consensus knows of the snapshot, openraft sends what follows, and keeps that
    /// itself.
    fn oldest(&self, matched: impl Fn(u64) -> Option<u64>) -> Option<u64> {
        let mut snapshots = self.snapshots();
        snapshots.retain(|sent| {
            !sent.is_received || matched(sent.follower).is_some_and(|matched| matched < sent.last)
        });
        snapshots.iter().map(|sent| sent.last).min()
    }

    fn remove(&self, sent: &SentSnapshot) {
        let mut snapshots = self.snapshots();
        if let Some(position) = snapshots.iter().position(|one| one == sent) {
            snapshots.swap_remove(position);
        }
    }

    fn snapshots(&self) -> MutexGuard<'_, Vec<SentSnapshot>> {
        let snapshots = self.0.snapshots.lock();
        snapshots.unwrap_or_else(PoisonError::into_inner)
    }
}

/// A snapshot that is being sent.
pub(crate) struct SnapshotTransfer {
    retention: LogRetention,
    sent: SentSnapshot,
}

impl SnapshotTransfer {
    /// The follower has the snapshot.
    pub(crate) fn succeed(self) {
        let received = SentSnapshot {
            is_received: true,
            ..self.sent.clone()
        };
        self.retention.snapshots().push(received);
    }
}

impl Drop for SnapshotTransfer {
    fn drop(&mut self) {
        self.retention.remove(&self.sent);
    }
}

/// Returns the last entry that a follower is known to have; `None` if this node sends it none.
fn matched(raft: &Consensus, follower: u64) -> Option<u64> {
    let metrics = raft.metrics();
    let metrics = metrics.borrow_watched();
    let matched = metrics.replication.as_ref()?.get(&follower)?;
    Some(matched.as_ref().map_or(0, |id| id.index))
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
        let growth = LogGrowth::new(POLICY, LogRetention::default());
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
        assert!(!is_full().await, "the counter began again");
        growth.add(0, 1);
        assert!(is_full().await, "bytes");
    }

    #[test]
    fn entries_after_a_snapshot_that_is_sent_are_kept() {
        let retention = LogRetention::default();
        let [nothing, before, snapshot] = [None, Some(149), Some(150)];
        assert_eq!(retention.oldest(|_| nothing), None);
        let failed = retention.begin_transfer(1, 120);
        let received = retention.begin_transfer(2, 150);
        assert_eq!(retention.oldest(|_| nothing), Some(120));
        drop(failed);
        assert_eq!(retention.oldest(|_| snapshot), Some(150), "not received");
        received.succeed();
        assert_eq!(retention.oldest(|_| before), Some(150), "not known");
        let is_known = |follower| if follower == 2 { snapshot } else { before };
        assert_eq!(retention.oldest(is_known), None);
        retention.begin_transfer(3, 170).succeed();
        assert_eq!(retention.oldest(|_| before), Some(170));
        assert_eq!(retention.oldest(|_| nothing), None, "no member any more");
    }

    #[test]
    fn the_log_is_truncated_up_to_the_previous_limit_or_a_snapshot() {
        let mut plan = PurgePlan::default();
        assert_eq!(plan.purge_index(None), None);
        plan.grown(100);
        assert_eq!(plan.purge_index(None), Some(100));
        assert_eq!(plan.purge_index(Some(150)), Some(100));
        for last in 2..KEPT_LIMITS as u64 {
            plan.grown(100 * last);
        }
        assert_eq!(plan.purge_index(Some(150)), Some(150));
        assert_eq!(plan.least(), 0);
        plan.grown(1_600);
        plan.grown(1_700);
        assert_eq!(
            plan.purge_index(Some(150)),
            Some(200),
            "the log is too long"
        );
        assert_eq!(plan.purge_index(None), Some(1_700));
        let retention = LogRetention::default();
        assert!(!retention.refuses_entries_after(0));
        retention.refuse_up_to(plan.least());
        assert!(retention.refuses_entries_after(199));
        assert!(!retention.refuses_entries_after(200));
    }
}
