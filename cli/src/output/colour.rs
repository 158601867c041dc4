//! Colours, on a terminal only. A colour is never the only carrier of a meaning.

use std::io::IsTerminal;
use std::sync::OnceLock;

use anstyle::{AnsiColor, Style};

use crate::args::Colour;

static COLOUR: OnceLock<Colour> = OnceLock::new();

/// Applies the `--color` flag; only the first call has an effect.
pub(crate) fn choose(colour: Colour) {
    let _ = COLOUR.set(colour);
}

/// The use of colour on one stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Palette {
    on: bool,
}

/// Returns the palette of standard output.
pub(crate) fn palette() -> Palette {
    decide(std::io::stdout().is_terminal())
}

/// Returns the palette of standard error.
pub(crate) fn for_stderr() -> Palette {
    decide(std::io::stderr().is_terminal())
}

fn decide(terminal: bool) -> Palette {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let on = match COLOUR.get().unwrap_or(&Colour::Auto) {
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
    /// No colour.
    #[cfg(test)]
    pub(crate) const PLAIN: Self = Self { on: false };
    /// Colour on any stream.
    #[cfg(test)]
    pub(crate) const COLOURED: Self = Self { on: true };

    /// Returns whether colours are used.
    pub(crate) fn is_on(self) -> bool {
        self.on
    }

    fn paint(self, style: Style, text: &str) -> String {
        if self.on {
            format!("{style}{text}{style:#}")
        } else {
            text.to_owned()
        }
    }

    /// Colours a failure.
    pub(crate) fn bad(self, text: &str) -> String {
        self.paint(AnsiColor::Red.on_default().bold(), text)
    }

    /// Colours a warning.
    pub(crate) fn warning(self, text: &str) -> String {
        self.paint(AnsiColor::Yellow.on_default(), text)
    }

    /// Colours a good state.
    pub(crate) fn good(self, text: &str) -> String {
        self.paint(AnsiColor::Green.on_default(), text)
    }

    /// Formats a heading.
    pub(crate) fn heading(self, text: &str) -> String {
        self.paint(Style::new().bold(), text)
    }

    /// Colours the word of a state by its meaning.
    pub(crate) fn state(self, word: &str) -> String {
        match StateTone::of(word) {
            StateTone::Good => self.good(word),
            StateTone::Bad => self.bad(word),
            StateTone::Warning => self.warning(word),
            StateTone::Plain => word.to_owned(),
        }
    }
}

/// The meaning of the word of a state, for its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StateTone {
    Good,
    Bad,
    Warning,
    Plain,
}

impl StateTone {
    /// Returns the meaning of a word.
    pub(crate) fn of(word: &str) -> Self {
        match word {
            "running" | "registered" | "leader" | "connected" | "finished" => Self::Good,
            "failed" | "error" | "gone" | "gone-by-operator" | "dropped" => Self::Bad,
            "unreachable" | "killing" | "killed" | "draining" | "disconnected" | "silent" => {
                Self::Warning
            }
            _ => Self::Plain,
        }
    }
}
