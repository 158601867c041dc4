//! The lines of a run on standard error.
//!
//! A separate thread writes them, so that signals are handled while standard error is not read.

use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::output::note;

/// Capacity for lines that are not written yet. Further ones are dropped, so that a paused reader
/// of standard error neither delays the run nor fills its memory.
const LINES: usize = 256;

/// The writer of the lines.
pub(super) struct RunNotes {
    lines: mpsc::Sender<String>,
    writer: JoinHandle<()>,
}

impl RunNotes {
    /// Starts the thread, on the current runtime.
    pub(super) fn start() -> Self {
        let (lines, mut queue) = mpsc::channel::<String>(LINES);
        let writer = spawn_blocking(move || {
            while let Some(line) = queue.blocking_recv() {
                note(&line);
            }
        });
        Self { lines, writer }
    }

    /// Returns a sender of lines for another task.
    pub(super) fn sender(&self) -> mpsc::Sender<String> {
        self.lines.clone()
    }

    /// Prints a line.
    pub(super) fn print(&self, line: String) {
        // Full: see the channel's capacity.
        let _ = self.lines.try_send(line);
    }

    /// Waits until all lines are written.
    pub(super) async fn finish(self) {
        drop(self.lines);
        // The thread does not panic: a closed standard error is no failure.
        let _ = self.writer.await;
    }
}
