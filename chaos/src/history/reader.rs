//! Reads a history from its file.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use super::{History, HistoryEvent};

/// The reason why a history cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    #[error("cannot read the history {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("line {number} of the history {path} is not an event")]
    Line {
        path: PathBuf,
        /// The number of the line, from 1.
        number: usize,
        source: serde_json::Error,
    },
}

/// Reads a history. An incomplete last line, from an interrupted run, is left out.
///
/// # Errors
/// If the file cannot be read, or a complete line of it is not an event.
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
        let event: HistoryEvent =
            serde_json::from_str(&line).map_err(|source| HistoryError::Line {
                path: path.to_owned(),
                number: events.len() + 1,
                source,
            })?;
        events.push(event);
    }
}
