//! Short commands that call a cluster, one file per command. Those on its objects are in `objects`.
//!
//! Each command makes its calls, chooses the exit code, and passes records to `output`.

pub(crate) mod attach;
pub(crate) mod bundle;
pub(crate) mod cp;
pub(crate) mod events;
pub(crate) mod exec;
pub(crate) mod explain;
pub(crate) mod logs;
pub(crate) mod status;
pub(crate) mod update;
pub(crate) mod wait;

use std::io::{BufRead, IsTerminal, Write};

use tokio::signal::unix::{SignalKind, signal};

use crate::exit::Failure;

/// Returns the signal that asks this program to exit.
pub(crate) async fn interruption() -> Result<i32, Failure> {
    let listen = |kind| signal(kind).map_err(|error| Failure::of(&error));
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    tokio::select! {
        _ = interrupt.recv() => Ok(SignalKind::interrupt().as_raw_value()),
        _ = terminate.recv() => Ok(SignalKind::terminate().as_raw_value()),
    }
}

/// Asks for confirmation before a destructive change: interactively on a terminal, by `--yes` in a
/// script.
pub(crate) fn confirm(what: &str, yes: bool) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage(format!(
            "{what}; there is no terminal to ask for confirmation"
        ))
        .advise("add --yes to confirm, or --dry-run to see what would be done"));
    }
    let mut stderr = std::io::stderr().lock();
    // If the question cannot be shown, the answer below is not "y".
    let _ = write!(stderr, "{what}. Continue? [y/N] ");
    let _ = stderr.flush();
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    if read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes") {
        return Ok(());
    }
    Err(Failure::failed("nothing was changed"))
}
