//! The verbs that ask a cluster, a file a noun.
//!
//! Each asks, decides the exit code, and hands records to `output`.

pub(crate) mod agents;
pub(crate) mod attach;
pub(crate) mod exec;
pub(crate) mod explain;
pub(crate) mod frameworks;
pub(crate) mod groups;
pub(crate) mod logs;
pub(crate) mod masters;
pub(crate) mod offers;
pub(crate) mod status;
pub(crate) mod tasks;
pub(crate) mod update;

use std::io::{BufRead, IsTerminal, Write};

use crate::exit::Failure;

/// Asks before something is destroyed: on a terminal in words, in a script by `--yes`.
pub(crate) fn confirm(what: &str, yes: bool) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage(format!("{what}; nobody can be asked here"))
            .advise("add --yes to do it, --dry-run to look only"));
    }
    let mut stderr = std::io::stderr().lock();
    // If it cannot be shown, the answer below will not be "y".
    let _ = write!(stderr, "{what}. Go on? [y/N] ");
    let _ = stderr.flush();
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    if read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes") {
        return Ok(());
    }
    Err(Failure::failed("left as it is"))
}
