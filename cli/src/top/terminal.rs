//! The user's terminal: raw mode and the alternate screen, restored at the end of this program for
//! any reason that lets it run; keys from it.

use std::io::{self, IsTerminal, Stdout, Write};
use std::sync::Once;

use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::event::{self, DisableBracketedPaste, EnableBracketedPaste, Event};
use ratatui::crossterm::execute;
use ratatui::crossterm::style::force_color_output;
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use tokio::sync::mpsc;

use crate::exit::Failure;

/// Capacity for events of the terminal. When it is full, the reader waits.
const EVENTS: usize = 64;

/// Checks that this program was started on a terminal.
pub(super) fn check() -> Result<(), Failure> {
    if io::stdin().is_terminal() && io::stdout().is_terminal() {
        return Ok(());
    }
    let text = "argosy top needs a terminal for input and output";
    Err(Failure::usage(text)
        .advise("argosy task list --watch prints changes as lines")
        .advise("argosy events -f -o ndjson prints them for programs"))
}

/// The terminal while it shows frames. Dropping it restores the terminal.
pub(super) struct FullScreen {
    pub(super) terminal: Terminal<CrosstermBackend<Stdout>>,
}

impl FullScreen {
    /// Changes the mode of the terminal.
    pub(super) fn enter() -> Result<Self, Failure> {
        restore_on_panic();
        // Frames have colours only if this program is to use them, whatever NO_COLOR is.
        force_color_output(true);
        let entered = enable_raw_mode().and_then(|()| {
            execute!(io::stdout(), EnterAlternateScreen, EnableBracketedPaste)?;
            Terminal::new(CrosstermBackend::new(io::stdout()))
        });
        match entered {
            Ok(terminal) => Ok(Self { terminal }),
            Err(error) => {
                restore();
                let text = format!("cannot change the mode of the terminal: {error}");
                Err(Failure::failed(text))
            }
        }
    }
}

impl Drop for FullScreen {
    fn drop(&mut self) {
        restore();
    }
}

/// Restores the terminal; a second time changes nothing.
fn restore() {
    // A closed terminal needs no mode.
    let _ = execute!(
        io::stdout(),
        DisableBracketedPaste,
        LeaveAlternateScreen,
        Show
    );
    let _ = disable_raw_mode();
    let _ = io::stdout().flush();
}

/// Restores the terminal before a panic is reported, so that its message can be read.
fn restore_on_panic() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            restore();
            report(panic);
        }));
    });
}

/// Reads keys and changes of the size. The thread ends with the process: it waits in a read that
/// nothing interrupts.
pub(super) fn events() -> io::Result<mpsc::Receiver<io::Result<Event>>> {
    let (sender, events) = mpsc::channel(EVENTS);
    let read = move || {
        loop {
            let event = event::read();
            let is_last = event.is_err();
            if sender.blocking_send(event).is_err() || is_last {
                return;
            }
        }
    };
    std::thread::Builder::new()
        .name("keys".to_owned())
        .spawn(read)?;
    Ok(events)
}
