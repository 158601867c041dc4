//! The progress of the snapshots that are sent to each follower.
//!
//! openraft reports nothing about a new follower until its first snapshot is installed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The transfers of snapshots to one follower since this node has started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FollowerTransfers {
    /// The number of transfers before which the follower has answered.
    pub(crate) begun: u64,
    /// The number of blocks that the follower has answered.
    pub(crate) blocks: u64,
    /// The number of transfers that failed after the follower had answered a block.
    pub(crate) failed: u64,
    /// The number of transfers in which no blocks are sent at the moment: this node writes the
    /// file, or the follower installs it.
    pub(crate) busy: u64,
}

/// The transfers by follower. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct TransferCounts(Arc<Mutex<BTreeMap<u64, FollowerTransfers>>>);

impl TransferCounts {
    /// Returns the transfers to this follower.
    pub(crate) fn of(&self, follower: u64) -> FollowerTransfers {
        self.followers().get(&follower).copied().unwrap_or_default()
    }

    /// Begins to count a transfer.
    pub(crate) fn begin(&self, follower: u64) -> CountedTransfer {
        CountedTransfer {
            counts: self.clone(),
            follower,
            blocks: 0,
            is_busy: false,
        }
    }

    fn change(&self, follower: u64, change: impl FnOnce(&mut FollowerTransfers)) {
        change(self.followers().entry(follower).or_default());
    }

    fn followers(&self) -> MutexGuard<'_, BTreeMap<u64, FollowerTransfers>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A transfer that is counted. It has failed if it is dropped before it succeeds.
pub(crate) struct CountedTransfer {
    counts: TransferCounts,
    follower: u64,
    /// The number of answered blocks; 0 after the install.
    blocks: u64,
    is_busy: bool,
}

impl CountedTransfer {
    /// The follower has answered, and the file is written.
    pub(crate) fn begin_writing(&mut self) {
        self.count(|transfers| transfers.begun += 1);
        self.set_busy(true);
    }

    /// Blocks are sent from now on.
    pub(crate) fn begin_sending(&mut self) {
        self.set_busy(false);
    }

    /// The follower has answered a block.
    pub(crate) fn block_answered(&mut self) {
        self.blocks += 1;
        self.count(|transfers| transfers.blocks += 1);
    }

    /// The follower gets the last block, and then installs the snapshot.
    pub(crate) fn begin_install(&mut self) {
        self.set_busy(true);
    }

    /// The follower has installed the snapshot.
    pub(crate) fn succeed(mut self) {
        self.blocks = 0;
    }

    fn set_busy(&mut self, is_busy: bool) {
        if std::mem::replace(&mut self.is_busy, is_busy) == is_busy {
            return;
        }
        self.count(|transfers| match is_busy {
            true => transfers.busy += 1,
            false => transfers.busy -= 1,
        });
    }

    fn count(&self, change: impl FnOnce(&mut FollowerTransfers)) {
        self.counts.change(self.follower, change);
    }
}

impl Drop for CountedTransfer {
    fn drop(&mut self) {
        self.set_busy(false);
        if self.blocks > 0 {
            self.count(|transfers| transfers.failed += 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_and_failures_are_counted_by_follower() {
        let counts = TransferCounts::default();
        let mut installed = counts.begin(1);
        assert_eq!(counts.of(1), FollowerTransfers::default());
        installed.begin_writing();
        assert_eq!(counts.of(1).busy, 1);
        installed.begin_sending();
        installed.block_answered();
        assert_eq!((counts.of(1).busy, counts.of(1).blocks), (0, 1));
        installed.begin_install();
        assert_eq!(counts.of(1).busy, 1);
        installed.succeed();
        let mut failed = counts.begin(1);
        failed.begin_writing();
        failed.begin_sending();
        failed.block_answered();
        failed.begin_install();
        drop(failed);
        let expected = FollowerTransfers {
            begun: 2,
            blocks: 2,
            failed: 1,
            busy: 0,
        };
        assert_eq!(counts.of(1), expected);
        counts.begin(2).begin_writing();
        let expected = FollowerTransfers {
            begun: 1,
            ..FollowerTransfers::default()
        };
        assert_eq!(counts.of(2), expected, "no block was answered");
    }
}
