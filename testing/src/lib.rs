//! What tests of several rooms share: they say in one way that they cannot run on a host.

mod captured_log;
mod release;

use std::io::Write;
use std::panic::Location;

pub use captured_log::Log;
pub use release::{Release, ReleaseError};

/// Says that the present test cannot run on this host, and why. `scripts/skips` counts what is said so, and knows which
/// reasons a host may have, and how often.
///
/// # Panics
/// If nothing can be written to the standard output.
#[track_caller]
pub fn skip(reason: &str) {
    let thread = std::thread::current();
    let line = line(thread.name(), Location::caller(), reason);
    // Past the harness, which keeps what passing tests print.
    let mut out = std::io::stdout().lock();
    out.write_all(line.as_bytes())
        .and_then(|()| out.flush())
        .expect("a test can be told about");
}

/// Says that an attack was refused, while the same succeeded to who may do it. `scripts/techniques` counts what is said so.
///
/// # Panics
/// If nothing can be written to the standard output.
pub fn refused(attacker: &str, technique: &str) {
    // Past the harness, as above.
    let mut out = std::io::stdout().lock();
    let lines = format!(
        "\ntechnique outside: {attacker}: {technique}: shut\ntechnique outside: {attacker}: {technique}: open\n"
    );
    out.write_all(lines.as_bytes())
        .and_then(|()| out.flush())
        .expect("a test can be told about");
}

/// The harness of Rust names threads for their tests. Other threads are told by the place of the skip.
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
    fn a_skip_names_the_test_or_its_place() {
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
