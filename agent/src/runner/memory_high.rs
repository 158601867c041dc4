//! Where a task is warned before its memory limit ends it (`memory.high`).

/// The margin below the limit is this part of it.
const MARGIN_PART: u64 = 10;
/// But no wider than this, in bytes. In the margin the kernel lets a task wait at each step, the longer the further it
/// is from `memory.high`: one that leaks would stand still for the margin's whole width before its limit ends it.
const MARGIN_BYTES: u64 = 16 * 1024 * 1024;

/// Nine tenths of the limit, and never far below it; in bytes, both.
pub(super) fn below(memory_max_bytes: u64) -> u64 {
    memory_max_bytes - (memory_max_bytes / MARGIN_PART).min(MARGIN_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    #[test]
    fn a_task_is_warned_at_nine_tenths_and_a_large_one_a_little_below() {
        assert_eq!(below(100 * MIB), 90 * MIB);
        assert_eq!(below(160 * MIB), 144 * MIB);
        assert_eq!(below(1024 * MIB), 1008 * MIB);
        assert_eq!(below(1), 1);
        assert!(below(u64::MAX) < u64::MAX);
    }
}
