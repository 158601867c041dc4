//! Colours, on a terminal only. Never the only carrier of a meaning.

use std::io::IsTerminal;
use std::sync::OnceLock;

use anstyle::{AnsiColor, Style};

use crate::args::Colour;

static CHOICE: OnceLock<Colour> = OnceLock::new();

/// Takes the `--color` flag; the first call counts.
pub(crate) fn choose(colour: Colour) {
    let _ = CHOICE.set(colour);
}

/// Whether to colour, for one stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Palette {
    on: bool,
}

/// For standard output.
pub(crate) fn palette() -> Palette {
    decide(std::io::stdout().is_terminal())
}

/// For standard error.
pub(crate) fn for_stderr() -> Palette {
    decide(std::io::stderr().is_terminal())
}

fn decide(terminal: bool) -> Palette {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let on = match CHOICE.get().unwrap_or(&Colour::Auto) {
        Colour::Always => true,
        Colour::Never => false,
        Colour::Auto => {
            let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
            terminal && !set("NO_COLOR") && !dumb
        }
    };
    Palette { on }
}

impl Palette {
    /// No colour at all.
    #[cfg(test)]
    pub(crate) const PLAIN: Self = Self { on: false };
    /// Colour, whatever the stream.
    #[cfg(test)]
    pub(crate) const COLOURED: Self = Self { on: true };

    fn paint(self, style: Style, text: &str) -> String {
        if self.on {
            format!("{style}{text}{style:#}")
        } else {
            text.to_owned()
        }
    }

    /// Something went wrong.
    pub(crate) fn bad(self, text: &str) -> String {
        self.paint(AnsiColor::Red.on_default().bold(), text)
    }

    /// Something to watch.
    pub(crate) fn doubtful(self, text: &str) -> String {
        self.paint(AnsiColor::Yellow.on_default(), text)
    }

    /// All is well.
    pub(crate) fn good(self, text: &str) -> String {
        self.paint(AnsiColor::Green.on_default(), text)
    }

    /// A heading.
    pub(crate) fn heading(self, text: &str) -> String {
        self.paint(Style::new().bold(), text)
    }

    /// The word of a state, by what it means.
    pub(crate) fn state(self, word: &str) -> String {
        match word {
            "running" | "registered" | "leader" | "connected" | "finished" => self.good(word),
            "failed" | "error" | "gone" | "gone-by-operator" | "dropped" => self.bad(word),
            "unreachable" | "killing" | "killed" | "draining" | "disconnected" | "silent" => {
                self.doubtful(word)
            }
            _ => word.to_owned(),
        }
    }
}
