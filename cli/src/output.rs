//! Terminal output: data on standard output, everything else on standard error.
//!
//! This module handles formats and colours; `columns` defines the columns. It decides nothing about
//! the cluster.

mod amounts;
mod colour;
mod columns;
mod failovers;
mod follow;
mod layout;
mod limits;
mod prefixed_output;
mod status_line;
mod table;
mod text_width;
mod timeline;
mod transfer;
mod visible;

use std::io::{self, Write};

use argosy_proto::trace;
use serde::Serialize;

use crate::args::Format;
use crate::exit::{Failure, FailureCode, VerbResult};

pub(crate) use amounts::{ago_at, bytes, milli, resources, scalar, span_ms, wall_now_ms};
pub(crate) use colour::{StateTone, choose, palette};
pub(crate) use columns::{
    check_results_text, exit_word, framework_state, group_of, mib, mode_word, reason_word,
    state_word, task_state,
};
pub(crate) use failovers::ShownFailover;
pub(crate) use follow::RowPrinter;
pub(crate) use layout::{ListLayout, natural_order};
pub(crate) use limits::{limits_status, limits_text};
pub(crate) use prefixed_output::{PrefixedOutput, StandardStream, write_chunk};
pub(crate) use status_line::{StatusLine, StatusMode, erased_stderr, is_status_shown};
pub(crate) use table::{Row, plain, table};
pub(crate) use text_width::{cut, width};
pub(crate) use timeline::{timeline, utc};
pub(crate) use transfer::{RateMeter, Transfer};
pub(crate) use visible::{is_hidden, visible, visible_line};

/// Prints a page of records: the whole page as JSON or YAML, or its rows.
pub(crate) fn list<P: Serialize, R: Row>(format: Format, page: &P, rows: &[R]) -> VerbResult {
    list_as(format, &ListLayout::plain::<R>(format), page, rows)
}

/// The same with chosen columns.
pub(crate) fn list_as<P: Serialize, R: Row>(
    format: Format,
    layout: &ListLayout,
    page: &P,
    rows: &[R],
) -> VerbResult {
    let text = match format {
        Format::Table | Format::Wide => table(rows, layout.columns(), palette()),
        Format::Json => json(page)?,
        Format::Ndjson => rows.iter().map(line).collect::<Result<String, Failure>>()?,
        Format::Yaml => yaml(page)?,
        Format::Name => rows.iter().map(name_line).collect(),
    };
    print(&text)
}

/// Prints one record, as JSON or YAML, or as lines of `name: value`.
pub(crate) fn one<R: Row>(format: Format, record: &R, details: &[(&str, String)]) -> VerbResult {
    let text = match format {
        Format::Table | Format::Wide => plain(details),
        Format::Json => json(record)?,
        Format::Ndjson => line(record)?,
        Format::Yaml => yaml(record)?,
        Format::Name => name_line(record),
    };
    print(&text)
}

/// Returns the line of `-o name`.
fn name_line<R: Row>(row: &R) -> String {
    visible_line(&row.name()) + "\n"
}

/// Returns a value as JSON over several lines.
pub(crate) fn json<T: Serialize>(value: &T) -> Result<String, Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Failure::of(&error))?;
    Ok(visible::visible_json(text) + "\n")
}

/// Returns a value as JSON on one line.
pub(crate) fn line<T: Serialize>(value: &T) -> Result<String, Failure> {
    let text = serde_json::to_string(value).map_err(|error| Failure::of(&error))?;
    Ok(visible::visible_json(text) + "\n")
}

/// Returns a value as YAML, with the fields of the JSON mapping.
pub(crate) fn yaml<T: Serialize>(value: &T) -> Result<String, Failure> {
    let options = serde_saphyr::ser_options! { prefer_block_scalars: false };
    let text = serde_saphyr::to_string_with_options(value, options);
    let text = text.map_err(|error| Failure::of(&error))?;
    Ok(visible::visible_yaml(text.trim_end()) + "\n")
}

/// Whether there is a reader of standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reader {
    Present,
    /// A closed pipe is not a failure.
    Gone,
}

impl Reader {
    pub(crate) fn is_gone(self) -> bool {
        self == Self::Gone
    }
}

/// Writes data to standard output. A closed pipe is not a failure.
pub(crate) fn print(text: &str) -> VerbResult {
    write_to(&mut io::stdout().lock(), text).map(|_| crate::exit::DONE)
}

/// Writes data to standard output or in its place.
fn write_to(out: &mut impl io::Write, text: &str) -> Result<Reader, Failure> {
    status_line::erase();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    match written {
        Ok(()) => Ok(Reader::Present),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Reader::Gone),
        Err(error) => {
            let failure = anyhow::Error::new(error).context("cannot write to standard output");
            Err(failure.into())
        }
    }
}

/// Writes progress or advice to standard error.
pub(crate) fn note(text: &str) {
    to_stderr(&visible(text));
}

/// Writes a line that may have colours.
fn to_stderr(line: &str) {
    // One lock, so that no status line is written in between.
    let mut stderr = io::stderr().lock();
    status_line::erase();
    // A closed standard error cannot be reported.
    let _ = writeln!(stderr, "{line}");
}

/// Writes a failure: text, or one JSON object if the command was called with JSON output.
pub(crate) fn failure(failure: &Failure, as_json: bool) {
    if as_json {
        let mut object = serde_json::json!({ "error": {
            "reason": failure.code.reason(),
            "message": failure.message,
            "advice": failure.advice,
        }});
        if let Some(id) = trace::sent_by_process() {
            object["error"]["traceId"] = id.to_string().into();
        }
        to_stderr(&visible::visible_json(object.to_string()));
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
    let text = visible(&failure.to_string());
    to_stderr(&format!("{} {text}", palette.bad(sign)));
    // A command line that is wrong concerns no log of a server.
    let is_usage = failure.code == FailureCode::Usage;
    if let Some(id) = trace::sent_by_process().filter(|_| !is_usage) {
        note(&format!(
            "  trace id, in the logs of masters and agents: {id}"
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yaml_keeps_texts_texts_and_shows_escape_sequences() {
        #[derive(Serialize)]
        struct Sample {
            number: u32,
            text: &'static str,
            hostile: &'static str,
            list: Vec<&'static str>,
        }
        let sample = Sample {
            number: 7,
            text: "100",
            hostile: "a\u{1b}[2J\u{9b}b: #c\nd",
            list: vec!["no", "x"],
        };
        let text = yaml(&sample).unwrap();
        assert!(text.starts_with("number: 7\n"), "{text}");
        assert!(text.contains("'100'") || text.contains("\"100\""), "{text}");
        assert!(!text.contains("- no\n"), "{text}");
        let is_plain = |letter: char| letter == '\n' || !letter.is_control();
        assert!(text.chars().all(is_plain), "{text:?}");
    }

    #[test]
    fn yaml_shows_characters_that_reorder_or_hide_text() {
        #[derive(Serialize)]
        struct Sample {
            plain: &'static str,
            quoted: &'static str,
            list: Vec<&'static str>,
            map: std::collections::BTreeMap<&'static str, &'static str>,
            kept: &'static str,
        }
        let sample = Sample {
            plain: "a\\b\"c\u{202e}d",
            quoted: "x: \u{200b}\"\u{e0041}",
            list: vec!["http://h\u{61c}"],
            map: [("k\u{200b}", "v"), ("l: \u{200b}", "w\u{200b}")].into(),
            kept: "a\\u202e",
        };
        let text = yaml(&sample).unwrap();
        for line in [
            r#"plain: "a\\b\"c\u202ed""#,
            r#"quoted: "x: \u200b\"\U000e0041""#,
            r#"- "http://h\u061c""#,
            r#""k\u200b": v"#,
            r#""l: \u200b": "w\u200b""#,
            r"kept: a\u202e",
        ] {
            let found = text.lines().any(|found| found.trim_start() == line);
            assert!(found, "{line} is not in {text:?}");
        }
    }
}
