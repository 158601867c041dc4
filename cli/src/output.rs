//! Terminal output: data on standard output, everything else on standard error.
//!
//! This module handles formats and colours; `columns` defines the columns. It decides nothing about
//! the cluster.

mod amounts;
mod colour;
mod columns;
mod limits;
mod table;

use std::io::{self, Write};

use serde::Serialize;

use crate::args::Format;
use crate::exit::{Failure, FailureCode, VerbResult};

pub(crate) use amounts::{bytes, milli, resources, scalar, span_ms};
pub(crate) use colour::{choose, palette};
pub(crate) use columns::{
    check_results_text, exit_word, framework_state, group_of, mode_word, reason_word, state_word,
};
pub(crate) use limits::{limits_status, limits_text};
pub(crate) use table::{Row, plain, table};

/// Prints a page of records: the whole page as JSON, or its rows.
pub(crate) fn list<P: Serialize, R: Row>(format: Format, page: &P, rows: &[R]) -> VerbResult {
    let text = match format {
        Format::Table => table(rows, table::ColumnSet::Usual, palette()),
        Format::Wide => table(rows, table::ColumnSet::Wide, palette()),
        Format::Json => json(page)?,
        Format::Ndjson => rows.iter().map(line).collect::<Result<String, Failure>>()?,
        Format::Name => rows.iter().map(|row| row.name() + "\n").collect(),
    };
    print(&text)
}

/// Prints one record, as JSON or as lines of `name: value`.
pub(crate) fn one<R: Row>(format: Format, record: &R, details: &[(&str, String)]) -> VerbResult {
    let text = match format {
        Format::Table | Format::Wide => plain(details),
        Format::Json => json(record)?,
        Format::Ndjson => line(record)?,
        Format::Name => record.name() + "\n",
    };
    print(&text)
}

/// Returns a value as JSON over several lines.
pub(crate) fn json<T: Serialize>(value: &T) -> Result<String, Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Failure::of(&error))?;
    Ok(text + "\n")
}

/// Returns a value as JSON on one line.
pub(crate) fn line<T: Serialize>(value: &T) -> Result<String, Failure> {
    let text = serde_json::to_string(value).map_err(|error| Failure::of(&error))?;
    Ok(text + "\n")
}

/// Writes data to standard output. A closed pipe is not a failure.
pub(crate) fn print(text: &str) -> VerbResult {
    let mut stdout = io::stdout().lock();
    let written = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            let failure = anyhow::Error::new(error).context("cannot write to standard output");
            Err(failure.into())
        }
        _ => Ok(crate::exit::DONE),
    }
}

/// Writes progress or advice to standard error.
pub(crate) fn note(text: &str) {
    // A closed standard error cannot be reported.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Writes a failure: text, or one JSON object if the command was called with JSON output.
pub(crate) fn failure(failure: &Failure, as_json: bool) {
    if as_json {
        let object = serde_json::json!({ "error": {
            "reason": failure.code.reason(),
            "message": failure.message,
            "advice": failure.advice,
        }});
        note(&object.to_string());
        return;
    }
    let palette = colour::for_stderr();
    let sign = match failure.code {
        FailureCode::Failed | FailureCode::Usage | FailureCode::NotFound | FailureCode::Refused => {
            "error:"
        }
        FailureCode::Unavailable => "unavailable:",
        FailureCode::NotPlaced => "not placed:",
    };
    note(&format!("{} {failure}", palette.bad(sign)));
}
