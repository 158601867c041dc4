//! The threshold at which memory is reclaimed and a task is throttled before its limit kills it
//! (`memory.high`).

/// The margin below the limit, as a part of it.
const MARGIN_PART: u64 = 10;
/// Maximum margin, in bytes. In the margin the kernel throttles a task at each step, the more the
/// further it exceeds `memory.high`: a task that leaks would stall for the margin's whole width
/// before its limit ends it.
const MARGIN_BYTES: u64 = 16 * 1024 * 1024;

/// Returns nine tenths of the limit, and never far below it. Both are in bytes.
pub(super) fn below(memory_max_bytes: u64) -> u64 {
    memory_max_bytes - (memory_max_bytes / MARGIN_PART).min(MARGIN_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    #[test]
    fn memory_high_is_nine_tenths_or_a_fixed_margin_below_the_limit() {
        assert_eq!(below(100 * MIB), 90 * MIB);
        assert_eq!(below(160 * MIB), 144 * MIB);
        assert_eq!(below(1024 * MIB), 1008 * MIB);
        assert_eq!(below(1), 1);
        assert!(below(u64::MAX) < u64::MAX);
    }
}
