//! The verification of a log: the first place at which its lines do not follow from each other.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};

use super::chain::ChainValue;
use super::entry::{AuditEvent, AuditLine, FORMAT, FileHead};
use super::numbering::{name, number_of, paths};

/// Maximum length of a line, in bytes. Those of the log are shorter.
const LINE_BYTES: u64 = 64 << 10;

/// The place at which a log is broken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}, line {line}: {reason}", .file.display())]
pub struct Break {
    /// The file.
    pub file: PathBuf,
    /// The number of the line in the file; the first is 1.
    pub line: u64,
    /// What is wrong there.
    pub reason: BreakReason,
}

/// What is wrong at the first break of a log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BreakReason {
    /// The end of a line is missing.
    #[error(
        "the line is incomplete: it was cut off, or its process writes it just now or has crashed"
    )]
    Incomplete,
    /// It is no line of a log.
    #[error("this is no line of an audit log: {0}")]
    NoLine(String),
    /// The first line of a file does not begin it.
    #[error("the file does not begin with its first line: lines before this one were removed")]
    NoBegin,
    /// A file begins within another.
    #[error("a file begins here, in the middle of another one: lines were moved or inserted")]
    BeginsAgain,
    /// The first line names another file.
    #[error("the line begins file {0}: the file was renamed, or the line was moved")]
    OtherFile(u64),
    /// A later format.
    #[error("the file has format {0}, which this version does not know")]
    Format(u32),
    /// The serial number does not follow.
    #[error(
        "serial number {found} follows {former}: lines were removed, inserted or moved, or a number was changed"
    )]
    Serial {
        /// That of the line before.
        former: u64,
        /// That of this line.
        found: u64,
    },
    /// The chain value does not follow.
    #[error(
        "the chain value does not match: this line or the one before was changed, or lines between them were removed"
    )]
    Chain,
    /// A file that must be there is missing.
    #[error("the file before this one, {}, is missing", name(*.0))]
    MissingFile(u64),
    /// A file cannot be read.
    #[error("the file cannot be read: {0}")]
    Unreadable(String),
    /// There is no file.
    #[error("there is no audit log")]
    NoFiles,
    /// A noted chain value is not in the log.
    #[error(
        "no line has the chain value {0}: lines at the end were removed, all lines were written again, or the line is in a file that is no longer kept"
    )]
    MissingHead(ChainValue),
}

/// A log that is not broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedLog {
    /// The number of files.
    pub files: usize,
    /// The number of lines.
    pub lines: u64,
    /// The serial number of the last line.
    pub serial: u64,
    /// The chain value of the last line.
    pub head: ChainValue,
}

/// The state of a verification: what the next line must follow.
#[derive(Debug, Default)]
struct Verifier {
    former: Option<(u64, ChainValue)>,
    /// The number of the file, and whether its first line was read.
    file: (u64, bool),
    /// That of the newest file.
    head: Option<FileHead>,
}

impl Verifier {
    fn begin_file(&mut self, number: u64) {
        self.file = (number, false);
    }

    /// Checks the next line, with its end. Returns its parts.
    fn line(&mut self, line: &[u8]) -> Result<(AuditLine, ChainValue), BreakReason> {
        let (line, chain, body) = parse(line)?;
        let (number, has_begun) = self.file;
        let begins = line.entry.event == AuditEvent::FileBegun;
        match (has_begun, begins, line.file) {
            (false, true, Some(head)) => self.check_head(number, head)?,
            (false, _, _) => return Err(BreakReason::NoBegin),
            (true, false, None) => {}
            (true, _, _) => return Err(BreakReason::BeginsAgain),
        }
        if let Some((former, _)) = self.former
            && former.checked_add(1) != Some(line.serial)
        {
            let found = line.serial;
            return Err(BreakReason::Serial { former, found });
        }
        let named = line.file.map(|head| head.previous);
        let before = match (self.former, named) {
            (Some((_, before)), Some(named)) if named != before => return Err(BreakReason::Chain),
            (Some((_, before)), _) => before,
            // The first file that is verified.
            (None, named) => named.unwrap_or(ChainValue::ZERO),
        };
        if before.next(&body) != chain {
            return Err(BreakReason::Chain);
        }
        self.former = Some((line.serial, chain));
        self.file.1 = true;
        Ok((line, chain))
    }

    fn check_head(&mut self, number: u64, head: FileHead) -> Result<(), BreakReason> {
        if head.format != FORMAT {
            return Err(BreakReason::Format(head.format));
        }
        if head.number != number {
            return Err(BreakReason::OtherFile(head.number));
        }
        self.head = Some(head);
        Ok(())
    }
}

fn parse(line: &[u8]) -> Result<(AuditLine, ChainValue, String), BreakReason> {
    let line = line.strip_suffix(b"\n").ok_or(BreakReason::Incomplete)?;
    let no_line = |why: &dyn std::fmt::Display| BreakReason::NoLine(why.to_string());
    let text = str::from_utf8(line).map_err(|why| no_line(&why))?;
    let (body, chain) =
        ChainValue::unseal(text).ok_or_else(|| no_line(&"it does not end with a chain value"))?;
    let line = serde_json::from_str(&body).map_err(|why| no_line(&why))?;
    Ok((line, chain, body))
}

/// Verifies a log: that in a directory, or these files of one. Calls `each` with each line. With
/// `noted`, a line must have this chain value.
///
/// # Errors
/// The first break.
pub fn verify(
    places: &[PathBuf],
    noted: Option<ChainValue>,
    mut each: impl FnMut(&AuditLine),
) -> Result<VerifiedLog, Break> {
    let files = files_of(places)?;
    let mut verifier = Verifier::default();
    let mut lines = 0;
    let mut is_noted_found = noted.is_none();
    let mut end = (0, Path::new(""), 1);
    for (number, path) in &files {
        let (former, ..) = end;
        if former > 0 && former + 1 != *number {
            return Err(broken(path, 1, BreakReason::MissingFile(number - 1)));
        }
        verifier.begin_file(*number);
        let in_file = read_lines(path, |at, text| {
            let checked = verifier.line(&text);
            let (line, chain) = checked.map_err(|reason| broken(path, at, reason))?;
            is_noted_found |= noted == Some(chain);
            each(&line);
            Ok(())
        })?;
        if in_file == 0 {
            return Err(broken(path, 1, BreakReason::NoBegin));
        }
        lines += in_file;
        end = (*number, path, in_file);
    }
    if places.iter().all(|place| place.is_dir())
        && let (Some(head), Some((first, path))) = (verifier.head, files.first_key_value())
        && head.oldest < *first
    {
        return Err(broken(path, 1, BreakReason::MissingFile(first - 1)));
    }
    let (_, newest, in_newest) = end;
    match (verifier.former, noted) {
        (None, _) => Err(broken(newest, 1, BreakReason::NoFiles)),
        (Some(_), Some(noted)) if !is_noted_found => {
            Err(broken(newest, in_newest, BreakReason::MissingHead(noted)))
        }
        (Some((serial, head)), _) => Ok(VerifiedLog {
            files: files.len(),
            lines,
            serial,
            head,
        }),
    }
}

fn broken(path: &Path, line: u64, reason: BreakReason) -> Break {
    Break {
        file: path.to_owned(),
        line,
        reason,
    }
}

/// Calls `each` with the number and the text of each line of a file. Returns the number of lines.
fn read_lines(
    path: &Path,
    mut each: impl FnMut(u64, Vec<u8>) -> Result<(), Break>,
) -> Result<u64, Break> {
    let unreadable = |line: u64, error: io::Error| {
        broken(path, line, BreakReason::Unreadable(error.to_string()))
    };
    let file = File::open(path).map_err(|error| unreadable(1, error))?;
    let mut reader = BufReader::new(file);
    let mut lines = 0;
    loop {
        let mut text = Vec::new();
        // A longer line than those of a log is cut.
        let read = reader
            .by_ref()
            .take(LINE_BYTES)
            .read_until(b'\n', &mut text);
        if read.map_err(|error| unreadable(lines + 1, error))? == 0 {
            return Ok(lines);
        }
        lines += 1;
        each(lines, text)?;
    }
}

/// Returns the files of a log by their numbers.
fn files_of(places: &[PathBuf]) -> Result<BTreeMap<u64, PathBuf>, Break> {
    let mut files = BTreeMap::new();
    for place in places {
        let unreadable =
            |error: io::Error| broken(place, 1, BreakReason::Unreadable(error.to_string()));
        if fs::metadata(place).map_err(unreadable)?.is_dir() {
            files.append(&mut paths(place).map_err(unreadable)?);
        } else if let Some(number) = place.file_name().and_then(number_of) {
            files.insert(number, place.clone());
        } else {
            let why = "its name is not audit-NUMBER.log".to_owned();
            return Err(broken(place, 1, BreakReason::NoLine(why)));
        }
        if files.is_empty() {
            return Err(broken(place, 1, BreakReason::NoFiles));
        }
    }
    Ok(files)
}

/// A line of a log as it is read without a verification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuditRead {
    /// A line, its text and its chain value.
    Line(Box<AuditLine>, String, ChainValue),
    /// Something else, with its place.
    Broken(Break),
}

/// Reads the lines of a log, in a directory or in these files of one, without a verification.
///
/// # Errors
/// If there is no log, or it cannot be read.
pub fn read(places: &[PathBuf], mut each: impl FnMut(AuditRead)) -> Result<(), Break> {
    for path in files_of(places)?.into_values() {
        read_lines(&path, |at, text| {
            each(match parse(&text) {
                Ok((line, chain, _)) => {
                    let text = String::from_utf8_lossy(text.trim_ascii_end()).into_owned();
                    AuditRead::Line(Box::new(line), text, chain)
                }
                Err(reason) => AuditRead::Broken(broken(&path, at, reason)),
            });
            Ok(())
        })?;
    }
    Ok(())
}

/// Verifies the lines of a file, for a fuzz target: each is a line of the log, or a body that is
/// sealed first. Returns the number of lines before the first break.
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
#[must_use]
pub fn verified_lines(lines: &[&[u8]]) -> usize {
    let mut verifier = Verifier::default();
    verifier.begin_file(1);
    let mut chain = ChainValue::ZERO;
    for (at, line) in lines.iter().enumerate() {
        let sealed = str::from_utf8(line).map(|body| {
            let body = body.trim_ascii();
            let next = chain.next(body);
            (next.seal(body), next)
        });
        let read = verifier.line(line).or_else(|reason| match &sealed {
            Ok((text, _)) => verifier.line(text.as_bytes()),
            Err(_) => Err(reason),
        });
        match read {
            Ok((_, found)) => chain = found,
            Err(reason) => {
                assert!(!reason.to_string().is_empty());
                return at;
            }
        }
    }
    lines.len()
}

#[cfg(test)]
mod tests;
