//! Progress output of a framework: text lines, or one JSON object per line.

use std::io::Write;

use serde::Serialize;

/// The format of progress output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum ProgressFormat {
    /// Human-readable lines.
    #[default]
    Text,
    /// One JSON object per line, each with an `event`.
    Json,
    /// No output.
    None,
}

impl ProgressFormat {
    /// Prints one event. A closed output is not a failure.
    pub fn print(self, event: &impl Serialize, text: &str) {
        let line = match self {
            Self::Text => text.to_owned(),
            Self::Json => serde_json::to_string(event).unwrap_or_default(),
            Self::None => return,
        };
        if !line.is_empty() {
            // As above: a closed output is not a failure.
            let _ = writeln!(std::io::stdout().lock(), "{line}");
        }
    }
}
