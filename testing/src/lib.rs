//! Helpers that tests of several crates share, such as the report that a host cannot run a test.

mod captured_log;
mod release;

use std::io::Write;
use std::panic::Location;

pub use captured_log::Log;
pub use release::{Release, ReleaseError};

/// Reports that the present test cannot run on this host, and why. `scripts/skips` counts these
/// reports, and knows which reasons are allowed, and how often.
///
/// # Panics
/// If standard output cannot be written.
#[track_caller]
pub fn skip(reason: &str) {
    let thread = std::thread::current();
    let line = line(thread.name(), Location::caller(), reason);
    // Bypasses the harness, which captures the output of passing tests.
    let mut out = std::io::stdout().lock();
    out.write_all(line.as_bytes())
        .and_then(|()| out.flush())
        .expect("standard output can be written");
}

/// Reports that an attack was rejected, while the same succeeded for an authorized caller.
/// `scripts/techniques` counts these reports.
///
/// # Panics
/// If standard output cannot be written.
pub fn refused(attacker: &str, technique: &str) {
    // Bypasses the harness, as above.
    let mut out = std::io::stdout().lock();
    let lines = format!(
        "\ntechnique outside: {attacker}: {technique}: shut\ntechnique outside: {attacker}: {technique}: open\n"
    );
    out.write_all(lines.as_bytes())
        .and_then(|()| out.flush())
        .expect("standard output can be written");
}

/// The Rust harness names threads after their tests. Other threads are identified by the location
/// of the skip.
fn line(thread: Option<&str>, place: &Location<'_>, reason: &str) -> String {
    match thread {
        Some(name) if name != "main" => format!("\ntest {name} ... SKIPPED: {reason}\n"),
        _ => format!(
            "\ntest {}:{} ... SKIPPED: {reason}\n",
            place.file(),
            place.line()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skip_contains_the_test_name_or_its_location() {
        let place = Location::caller();
        let named = line(Some("room::tests::it_works"), place, "needs root");
        assert_eq!(
            named,
            "\ntest room::tests::it_works ... SKIPPED: needs root\n"
        );
        for thread in [None, Some("main")] {
            let placed = line(thread, place, "needs root");
            assert!(placed.starts_with("\ntest testing/src/lib.rs:"), "{placed}");
            assert!(placed.ends_with(" ... SKIPPED: needs root\n"), "{placed}");
        }
    }
}
