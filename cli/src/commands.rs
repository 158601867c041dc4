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
use crate::output::{erased_stderr, visible_line};

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
    let mut stderr = erased_stderr();
    // If the question cannot be shown, the answer below is not "y".
    let _ = stderr.write_all(question(what).as_bytes());
    let _ = stderr.flush();
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    if read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes") {
        return Ok(());
    }
    Err(Failure::failed("nothing was changed"))
}

/// Returns the text that asks for confirmation. Names in it may be of other hosts.
fn question(what: &str) -> String {
    format!("{}. Continue? [y/N] ", visible_line(what))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::is_hidden;

    #[test]
    fn escape_sequences_cannot_change_a_question() {
        let text = question("this removes a\u{1b}[2K\rkeeps b\n permanently");
        assert!(!text.chars().any(is_hidden), "{text:?}");
        let end = "keeps b\\n permanently. Continue? [y/N] ";
        assert!(text.ends_with(end), "{text:?}");
    }
}
