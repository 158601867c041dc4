//! The directory of a log: its files, and the end at which a log continues after a restart.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::chain::ChainValue;
use super::entry::AuditLine;
use super::lines::{LogEnd, Storage};
use super::numbering::{name, paths};
use crate::atomic_file::sync_directory;

/// The last bytes of a file in which its last line is searched. A line is shorter.
const TAIL_BYTES: u64 = 64 << 10;

/// The directory of a log.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    current: Option<Current>,
}

/// The file that lines are added to.
#[derive(Debug)]
struct Current {
    file: File,
    /// The size up to which it consists of whole lines.
    bytes: u64,
    /// Whether more bytes than that may be in it.
    is_torn: bool,
}

/// What was found at the end of a log after its last whole line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Remains {
    /// The size.
    pub(super) bytes: u64,
    /// The first of the bytes, as far as they are text.
    pub(super) text: String,
    /// The file that is kept as it is, because its last line is none of a log. `None`: a crash has
    /// left an incomplete line, which was removed.
    pub(super) kept: Option<u64>,
}

impl Directory {
    /// Opens the log of a directory, which is created if it does not exist. Returns its end, and
    /// the incomplete line that a crash has left, which is removed.
    pub(super) fn open(path: &Path) -> io::Result<(Self, LogEnd, Option<Remains>)> {
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700).create(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
        let mut directory = Self {
            path: path.to_owned(),
            current: None,
        };
        let (end, remains) = directory.continued()?;
        Ok((directory, end, remains))
    }

    fn continued(&mut self) -> io::Result<(LogEnd, Option<Remains>)> {
        let mut files = paths(&self.path)?;
        let mut remains = None;
        while let Some((number, path)) = files.pop_last() {
            let mut file = OpenOptions::new().read(true).append(true).open(&path)?;
            let bytes = file.metadata()?.len();
            let tail = tail(&mut file, bytes)?;
            let whole = tail.iter().rposition(|byte| *byte == b'\n');
            let torn = whole.map_or(0, |at| at + 1);
            let whole_bytes = bytes - (tail.len() - torn) as u64;
            if torn < tail.len() {
                remains = Some(Remains::of(&tail[torn..], None));
            }
            if whole.is_none() && tail.len() as u64 == bytes {
                // The process ended while it created this file.
                fs::remove_file(&path)?;
                continue;
            }
            let oldest = files.keys().next().copied().unwrap_or(number);
            let mut end = LogEnd {
                number,
                oldest,
                ..LogEnd::NONE
            };
            if let Some((line, chain)) = last_line(&tail[..torn]) {
                file.set_len(whole_bytes)?;
                (end.is_open, end.bytes) = (true, whole_bytes);
                (end.serial, end.chain) = (line.serial, chain);
                self.current = Some(Current {
                    file,
                    bytes: whole_bytes,
                    is_torn: false,
                });
            } else {
                // It is kept as it is, for the verification, and another one begins.
                remains = Some(Remains::of(&tail, Some(number)));
            }
            return Ok((end, remains));
        }
        Ok((LogEnd::NONE, remains))
    }

    fn create(&self, number: u64, line: &str) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.append(true).create_new(true).mode(0o600);
        let mut file = options.open(self.path.join(name(number)))?;
        let written = file
            .write_all(line.as_bytes())
            .and_then(|()| file.sync_all())
            .and_then(|()| sync_directory(&self.path));
        written.map(|()| file)
    }
}

/// Returns the last line, and its chain value. It is not compared with those before.
fn last_line(lines: &[u8]) -> Option<(AuditLine, ChainValue)> {
    let lines = lines.strip_suffix(b"\n")?;
    let from = lines.iter().rposition(|byte| *byte == b'\n');
    let line = str::from_utf8(&lines[from.map_or(0, |at| at + 1)..]).ok()?;
    let (body, chain) = ChainValue::unseal(line)?;
    Some((serde_json::from_str(&body).ok()?, chain))
}

fn tail(file: &mut File, bytes: u64) -> io::Result<Vec<u8>> {
    let from = bytes.saturating_sub(TAIL_BYTES);
    file.seek(SeekFrom::Start(from))?;
    let mut tail = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut tail)?;
    Ok(tail)
}

impl Remains {
    fn of(bytes: &[u8], kept: Option<u64>) -> Self {
        let shown = &bytes[..bytes.len().min(1_024)];
        Self {
            bytes: bytes.len() as u64,
            text: String::from_utf8_lossy(shown).into_owned(),
            kept,
        }
    }
}

impl Storage for Directory {
    fn begin(&mut self, number: u64, line: &str) -> io::Result<()> {
        let path = self.path.join(name(number));
        if path.try_exists()? {
            let text = format!("{} is there already", path.display());
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
        }
        match self.create(number, line) {
            Ok(file) => {
                self.current = Some(Current {
                    file,
                    bytes: line.len() as u64,
                    is_torn: false,
                });
                Ok(())
            }
            Err(error) => {
                // A file that cannot be removed either is found by the next start.
                let _ = fs::remove_file(path);
                Err(error)
            }
        }
    }

    fn append(&mut self, line: &str) -> io::Result<()> {
        let Some(current) = &mut self.current else {
            return Err(io::ErrorKind::NotFound.into());
        };
        if current.is_torn {
            current.file.set_len(current.bytes)?;
            current.is_torn = false;
        }
        if let Err(error) = current.file.write_all(line.as_bytes()) {
            // A part of it may be in the file.
            current.is_torn = current.file.set_len(current.bytes).is_err();
            return Err(error);
        }
        current.bytes += line.len() as u64;
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        match &self.current {
            Some(current) => current.file.sync_data(),
            None => Ok(()),
        }
    }

    fn remove_before(&mut self, number: u64) -> io::Result<()> {
        for (_, path) in paths(&self.path)?.range(..number) {
            fs::remove_file(path)?;
        }
        Ok(())
    }
}
