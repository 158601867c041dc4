//! Reads a history back from its file.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use super::{Event, History};

/// Why a history cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The file cannot be read.
    #[error("cannot read the history {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line is no event.
    #[error("line {number} of the history {path} is no event")]
    Line {
        /// Of which file.
        path: PathBuf,
        /// From 1.
        number: usize,
        /// Why.
        source: serde_json::Error,
    },
}

/// Reads a history. A last line without its end, of a run that was cut off, is left out.
///
/// # Errors
/// If the file cannot be read, or a whole line of it is no event.
pub fn read_file(path: &Path) -> Result<History, HistoryError> {
    let read = |source| HistoryError::Read {
        path: path.to_owned(),
        source,
    };
    let mut file = BufReader::new(File::open(path).map_err(read)?);
    let mut events = Vec::new();
    let mut line = String::new();
    loop {
        line.clear();
        file.read_line(&mut line).map_err(read)?;
        if !line.ends_with('\n') {
            return Ok(History::new(events));
        }
        let event: Event = serde_json::from_str(&line).map_err(|source| HistoryError::Line {
            path: path.to_owned(),
            number: events.len() + 1,
            source,
        })?;
        events.push(event);
    }
}
