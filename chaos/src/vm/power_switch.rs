//! The power of a machine with several disks, which a write of one of them can switch off.
//!
//! An emulated processor is slow, and a disk in memory is fast: at a moment by the clock there is
//! almost never unflushed data. At the moment of a write there always is.

use std::sync::atomic::{AtomicU64, Ordering};

/// The number of writes that the disks still make; `UNLIMITED` until a cut is requested.
#[derive(Debug)]
pub(crate) struct PowerSwitch(AtomicU64);

const UNLIMITED: u64 = u64::MAX;

impl Default for PowerSwitch {
    fn default() -> Self {
        Self(AtomicU64::new(UNLIMITED))
    }
}

impl PowerSwitch {
    pub(crate) fn turn_on(&self) {
        self.0.store(UNLIMITED, Ordering::SeqCst);
    }

    /// Cuts the power at this write, counted from 1 over all disks from now on.
    pub(crate) fn cut_at_write(&self, number: u64) {
        self.0.store(number, Ordering::SeqCst);
    }

    /// Counts a write that a disk has just made.
    pub(crate) fn count_write(&self) {
        let less = |left: u64| (left != UNLIMITED).then(|| left.saturating_sub(1));
        // It fails only if no cut is requested.
        _ = self
            .0
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, less);
    }

    /// Returns whether the power is cut.
    pub(crate) fn is_off(&self) -> bool {
        self.0.load(Ordering::SeqCst) == 0
    }
}
