//! The progress on the terminal: a line for each event, and on a terminal one that is updated.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// The terminal output of a run.
pub struct ProgressDisplay {
    begun: Instant,
    is_terminal: bool,
}

impl ProgressDisplay {
    /// Starts its clock.
    pub fn start() -> Self {
        Self {
            begun: Instant::now(),
            is_terminal: std::io::stderr().is_terminal(),
        }
    }

    /// Returns the time since the run began.
    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Prints a line that stays.
    pub fn print(&self, text: &str) {
        let clear = if self.is_terminal { "\r\x1b[K" } else { "" };
        let seconds = self.begun.elapsed().as_secs_f64();
        // Standard error may be closed. The report has the same text.
        let _ = writeln!(std::io::stderr(), "{clear}[{seconds:7.1}s] {text}");
    }

    /// Prints a line that the next one replaces. Without a terminal it prints nothing.
    pub fn show(&self, text: &str) {
        if self.is_terminal {
            let seconds = self.begun.elapsed().as_secs_f64();
            let text: String = text.chars().take(150).collect();
            let _ = write!(std::io::stderr(), "\r\x1b[K[{seconds:7.1}s] {text}");
            let _ = std::io::stderr().flush();
        }
    }
}
