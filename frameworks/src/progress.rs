//! What a framework says while it runs: lines for people, or one JSON object a line.

use std::io::Write;

use serde::Serialize;

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Style {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object a line, each with an `event`.
    Json,
    /// Nothing.
    None,
}

impl Style {
    /// Says one thing. A reader that has gone away is no reason to stop working.
    pub fn say(self, event: &impl Serialize, text: &str) {
        let line = match self {
            Self::Text => text.to_owned(),
            Self::Json => serde_json::to_string(event).unwrap_or_default(),
            Self::None => return,
        };
        if !line.is_empty() {
            // As above: nobody reads it, nobody misses it.
            let _ = writeln!(std::io::stdout().lock(), "{line}");
        }
    }
}
