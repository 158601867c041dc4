//! The independent witness: a file in which tasks record their own starts, and which no agent
//! writes. It relies on neither masters nor agents, so two lines of one task are two starts.
//!
//! A line is `task order nonce boot_id pid start_time`. The order is `-` if the task cannot know
//! it, and may be omitted. The task is its key, or its id alone if only one framework wrote the
//! file.

use std::path::{Path, PathBuf};
use std::{fs, io};

use serde::{Deserialize, Serialize};

use argosy_state::ids::{FrameworkId, OrderIndex, TaskId, TaskKey};

use super::text;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProcessStart {
    /// The order that launched it, if the task knows it.
    #[serde(with = "text::option", default)]
    pub order: Option<OrderIndex>,
    /// A random value, different for every start.
    pub nonce: String,
    /// The boot id of the kernel.
    pub boot_id: String,
    /// The pid in the process's own namespace.
    pub pid: u32,
    /// Clock ticks since boot.
    pub start_time: u64,
}

/// The reason why a witness file is invalid.
#[derive(Debug, thiserror::Error)]
pub enum WitnessError {
    #[error("cannot read the witness file {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error(
        "line {number} of the witness file {path} is {line:?}, not `task order nonce boot_id pid start_time`"
    )]
    Line {
        path: PathBuf,
        /// The number of the line, from 1.
        number: usize,
        line: String,
    },
}

/// Parses one line. Ids without a framework belong to `framework`.
#[must_use]
pub fn parse_line(line: &str, framework: FrameworkId) -> Option<(TaskKey, ProcessStart)> {
    let fields: Vec<&str> = line.split(' ').collect();
    let (task, order, rest) = match fields.as_slice() {
        [task, order, rest @ ..] if rest.len() == 4 => (task, *order, rest),
        [task, rest @ ..] if rest.len() == 4 => (task, "-", rest),
        _ => return None,
    };
    let key = match task.split_once('/') {
        Some((framework, task)) => TaskKey {
            framework: framework.parse().ok()?,
            task: TaskId::new(task).ok()?,
        },
        None => TaskKey {
            framework,
            task: TaskId::new(task).ok()?,
        },
    };
    let order = match order {
        "-" => None,
        number => Some(OrderIndex(number.parse().ok()?)),
    };
    let start = ProcessStart {
        order,
        nonce: rest[0].to_owned(),
        boot_id: rest[1].to_owned(),
        pid: rest[2].parse().ok()?,
        start_time: rest[3].parse().ok()?,
    };
    Some((key, start))
}

/// Reads a witness file. An incomplete last line is still being written, and is left out. A missing
/// file means that nothing started.
///
/// # Errors
/// If the file cannot be read, or a complete line of it is invalid.
pub fn read_file(
    path: &Path,
    framework: FrameworkId,
) -> Result<Vec<(TaskKey, ProcessStart)>, WitnessError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(source) => {
            let path = path.to_owned();
            return Err(WitnessError::Read { path, source });
        }
    };
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let lines = whole.lines().enumerate();
    lines
        .map(|(position, line)| {
            parse_line(line, framework).ok_or_else(|| WitnessError::Line {
                path: path.to_owned(),
                number: position + 1,
                line: line.to_owned(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAMEWORK: FrameworkId = FrameworkId(3);

    #[test]
    fn lines_with_and_without_an_order_are_parsed() {
        let (key, start) = parse_line("map-1 17 00ff b-1 4 900", FRAMEWORK).unwrap();
        assert_eq!(key.to_string(), "framework-3/map-1");
        assert_eq!(start.order, Some(OrderIndex(17)));
        assert_eq!((start.pid, start.start_time), (4, 900));
        let (key, start) = parse_line("framework-8/map-1 00ff b-1 4 900", FRAMEWORK).unwrap();
        assert_eq!(key.framework, FrameworkId(8));
        assert_eq!(start.order, None);
    }

    #[test]
    fn an_invalid_line_is_an_error_with_its_number() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("witness");
        assert_eq!(read_file(&path, FRAMEWORK).unwrap(), []);
        fs::write(&path, "a 1 n b 4 9\na n b 4\n").unwrap();
        let error = read_file(&path, FRAMEWORK).unwrap_err();
        assert!(error.to_string().contains("line 2"), "{error}");
        fs::write(&path, "a 1 n b 4 9\nb 2 n b").unwrap();
        assert_eq!(
            read_file(&path, FRAMEWORK).unwrap().len(),
            1,
            "just being written"
        );
    }
}
