//! The user's terminal: its size, and raw mode while it stands for the command's terminal.

use std::io;

use argosy_proto::exec::TerminalSize;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// Standard input in raw mode until drop: every key goes to the command, also Ctrl-C.
pub(super) struct RawMode {
    original: Termios,
}

impl RawMode {
    pub(super) fn enter() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        Ok(Self { original: before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // A closed terminal needs no mode.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.original);
    }
}

/// Returns the size of the user's terminal, or `None` if there is none or it has no size.
pub(super) fn size() -> Option<TerminalSize> {
    let found = [
        tcgetwinsize(io::stdout()),
        tcgetwinsize(io::stdin()),
        tcgetwinsize(io::stderr()),
    ];
    let found = found.into_iter().flatten().next()?;
    let size = TerminalSize {
        rows: found.ws_row,
        columns: found.ws_col,
    };
    (size.rows > 0 && size.columns > 0).then_some(size)
}
