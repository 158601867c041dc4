//! Test hook: crash points, which are steps at which a test makes a process of the runtime die,
//! panic or stop, to inspect the state that it leaves.
//!
//! Only a call of the test program itself arms a process: no flag, variable or message does. Copies
//! of an armed process are armed as well. In builds without debug assertions, such as all releases,
//! no step can be armed and passing one costs nothing ([`IS_ON`] is constant).

use std::fs::OpenOptions;
use std::io;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::signal::{Signal, raise};

use crate::sys;

/// Whether this build can arm crash points.
pub const IS_ON: bool = cfg!(debug_assertions);

/// The effect of a crash point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CrashEffect {
    Killed,
    Panic,
    Stopped,
}

/// The crash point at which this process dies, panics or stops.
struct ArmedCrashPoint {
    effect: CrashEffect,
    step: String,
    /// The number of passes of the step, in a file that all copies of this process share.
    passes: &'static AtomicU32,
    at: u32,
}

/// Set once, before the first crash point is passed.
static ARMED: OnceLock<ArmedCrashPoint> = OnceLock::new();

/// Arms `step`: the process, or copy of it, that passes it for the `at`-th time (1 is the first)
/// ends immediately, as if killed. `witness` is a file that counts the passes, also across
/// processes that are armed one after another; it is created if it does not exist.
///
/// # Errors
/// If this build cannot arm steps, a step is already armed, or the witness cannot be created.
pub fn arm(step: &str, at: u32, witness: &Path) -> io::Result<()> {
    arm_with(CrashEffect::Killed, step, at, witness)
}

/// Arms `step` so that the thread that passes it panics.
///
/// # Errors
/// As [`arm`].
pub fn arm_panic(step: &str, at: u32, witness: &Path) -> io::Result<()> {
    arm_with(CrashEffect::Panic, step, at, witness)
}

/// Arms `step` so that the process stops (SIGSTOP) until it is continued or killed.
///
/// # Errors
/// As [`arm`].
pub fn arm_stop(step: &str, at: u32, witness: &Path) -> io::Result<()> {
    arm_with(CrashEffect::Stopped, step, at, witness)
}

fn arm_with(end: CrashEffect, step: &str, at: u32, witness: &Path) -> io::Result<()> {
    if !IS_ON {
        return Err(io::Error::other("this build has no crash points"));
    }
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let file = options.open(witness)?;
    file.set_len(size_of::<u32>() as u64)?;
    let armed = ArmedCrashPoint {
        effect: end,
        step: step.to_owned(),
        passes: sys::shared_counter(&file)?,
        at,
    };
    ARMED
        .set(armed)
        .map_err(|_| io::Error::other("this process is armed already"))
}

/// Returns how often a step was passed, according to its witness.
///
/// # Errors
/// If the file does not exist or is not a witness.
pub fn passes(witness: &Path) -> io::Result<u32> {
    let bytes = std::fs::read(witness)?;
    let number = bytes.try_into().map_err(|_| io::ErrorKind::InvalidData)?;
    Ok(u32::from_ne_bytes(number))
}

/// Test hook: the step of this name has just been completed. A process that a test armed with it
/// ends here. In builds without debug assertions it has no effect and costs nothing.
#[macro_export]
macro_rules! crash_point {
    ($step:literal) => {
        $crate::crash_points::passed($step)
    };
}

/// Records that a step was passed, and ends the process if it is armed here. Called by
/// [`crash_point!`](crate::crash_point) only.
#[inline]
pub fn passed(step: &'static str) {
    if IS_ON && let Some(armed) = ARMED.get() {
        armed.pass(step);
    }
}

impl ArmedCrashPoint {
    fn pass(&self, step: &str) {
        if self.step != step || self.passes.fetch_add(1, Ordering::SeqCst) + 1 != self.at {
            return;
        }
        match self.effect {
            CrashEffect::Panic => panic!("a test has this thread panic at {step}"),
            CrashEffect::Stopped => {
                // The first process of a pid namespace does not stop at a signal that it sends to
                // itself.
                let _ = raise(Signal::SIGSTOP);
            }
            CrashEffect::Killed => {
                // A signal that it sends to itself does not kill the first process of a pid
                // namespace; the exit below does.
                let _ = raise(Signal::SIGKILL);
                std::process::abort();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_are_counted_in_the_witness() {
        let directory = tempfile::tempdir().unwrap();
        let witness = directory.path().join("witness");
        arm("nowhere", 7, &witness).unwrap();
        (0..3).for_each(|_| ARMED.get().unwrap().pass("nowhere"));
        ARMED.get().unwrap().pass("elsewhere");
        assert_eq!(passes(&witness).unwrap(), 3);
        assert!(arm("nowhere", 1, &witness).is_err(), "only once");
        let passed = AtomicU32::new(0);
        let panics = ArmedCrashPoint {
            effect: CrashEffect::Panic,
            step: "nowhere".to_owned(),
            passes: Box::leak(Box::new(passed)),
            at: 2,
        };
        panics.pass("nowhere");
        std::panic::catch_unwind(|| panics.pass("nowhere")).unwrap_err();
    }
}
