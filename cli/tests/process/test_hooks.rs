//! Test hooks are not part of released executables.

use crate::cluster::argosy;

/// A crash point of the isolation, one of the agent, and the names of a planted bug and of the
/// variable that plants it.
const CRASH_POINTS: [&str; 2] = ["start.limits-written", "journal.successor-written"];
const PLANTED_BUGS: [&str; 2] = ["former-voter-counts", "ARGOSY_PLANTED_BUGS"];

#[test]
fn an_executable_without_debug_assertions_contains_no_test_hook() {
    let bytes = std::fs::read(argosy()).unwrap();
    let contains = |text: &&str| {
        let mut windows = bytes.windows(text.len());
        windows.any(|window| window == text.as_bytes())
    };
    let found: Vec<_> = CRASH_POINTS.iter().filter(|text| contains(text)).collect();
    let expected = if cfg!(debug_assertions) { 2 } else { 0 };
    assert_eq!(found.len(), expected, "crash points: {found:?}");
    let found: Vec<_> = PLANTED_BUGS.iter().filter(|text| contains(text)).collect();
    assert!(cfg!(feature = "testing") || found.is_empty(), "{found:?}");
}
