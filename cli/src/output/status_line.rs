//! One line on a terminal that shows what this program waits for. Other output erases it first.

use std::io::{self, IsTerminal as _, StderrLock, Write as _};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::termios::tcgetwinsize;

use super::text_width::cut;
use super::visible::visible_line;

/// Time without a line: most waits end before.
const QUIET_TIME: Duration = Duration::from_secs(1);
/// Interval at which the line is written.
const INTERVAL: Duration = Duration::from_millis(200);
/// Number of columns of a terminal that does not report it.
const COLUMNS: u16 = 80;
/// Returns to the first column, and erases the line.
const ERASE: &str = "\r\x1b[K";

/// Whether the terminal shows a line now. It is changed under the lock of standard error.
static IS_WRITTEN: AtomicBool = AtomicBool::new(false);

/// Whether lines are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StatusMode {
    /// On a terminal.
    Shown,
    /// Nowhere: `--quiet`, or output for programs.
    Quiet,
}

impl StatusMode {
    pub(crate) fn unless(is_quiet: bool) -> Self {
        match is_quiet {
            true => Self::Quiet,
            false => Self::Shown,
        }
    }
}

/// The line of one wait. Dropping it erases the line.
#[derive(Debug)]
pub(crate) struct StatusLine {
    /// Whether standard error is a terminal, and a line is wanted.
    is_shown: bool,
    next: Instant,
}

impl StatusLine {
    /// Begins a wait, which is shown after a second.
    pub(crate) fn new(mode: StatusMode) -> Self {
        Self {
            is_shown: mode == StatusMode::Shown && io::stderr().is_terminal(),
            next: Instant::now() + QUIET_TIME,
        }
    }

    /// Returns whether this line is ever shown.
    pub(crate) fn is_shown(&self) -> bool {
        self.is_shown
    }

    /// Replaces the text of the line, unless that was done just now. The text is made for a number
    /// of columns; a longer one is cut. Escape sequences in it are shown.
    pub(crate) fn show(&mut self, text: impl FnOnce(usize) -> String) {
        let now = Instant::now();
        if !self.is_shown || now < self.next {
            return;
        }
        self.next = now + INTERVAL;
        // Terminals differ in what they do after the last column.
        let room = usize::from(columns()).saturating_sub(1);
        let text = cut(&visible_line(&text(room)), room);
        let mut stderr = io::stderr().lock();
        IS_WRITTEN.store(true, Ordering::Relaxed);
        // A terminal that is gone needs no line.
        let _ = write!(stderr, "{ERASE}{text}").and_then(|()| stderr.flush());
    }

    /// Shows this text until the work has ended.
    pub(crate) async fn during<T>(&mut self, text: &str, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = tokio::time::sleep(INTERVAL) => self.show(|_| text.to_owned()),
            }
        }
    }

    /// Erases the line. It can be shown again.
    pub(crate) fn clear(&mut self) {
        if self.is_shown {
            erase();
        }
    }
}

impl Drop for StatusLine {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Returns whether a line is on the terminal now.
pub(crate) fn is_status_shown() -> bool {
    IS_WRITTEN.load(Ordering::Relaxed)
}

/// Returns standard error for other output, after it has erased the status line.
pub(crate) fn erased_stderr() -> StderrLock<'static> {
    // One lock, so that no status line is written in between.
    let stderr = io::stderr().lock();
    erase();
    stderr
}

/// Erases the line, if there is one. Output that another thread could interrupt by a new line holds
/// the lock of standard error.
pub(super) fn erase() {
    if !is_status_shown() {
        return;
    }
    let mut stderr = io::stderr().lock();
    if IS_WRITTEN.swap(false, Ordering::Relaxed) {
        // As above.
        let _ = write!(stderr, "{ERASE}").and_then(|()| stderr.flush());
    }
}

fn columns() -> u16 {
    let size = tcgetwinsize(io::stderr());
    let columns = size.map(|size| size.ws_col).unwrap_or_default();
    match columns {
        0 => COLUMNS,
        columns => columns,
    }
}
