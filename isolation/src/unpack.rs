//! Unpacking archives that nobody trusts: fetched ones and the layers of images.
//!
//! One pass over the entries, each judged by [`Rules`] before anything of it is written. Whatever is written is opened
//! below the target's descriptor without following a link (`tree`), so a path that `place` should have refused still
//! leads nowhere. Decides nothing about where archives come from or what becomes of the target: the caller makes a new
//! folder, and renames it when all went well or removes it.
//!
//! Reading order: `place` (paths), `tree` (writing), `stream` (decoders and their bounds), `tarball` and `zipfile`; then
//! `job` and `process`, which do all this in a process that can reach nothing else.
//!
//! **What a layer hides** is written as overlay file systems have it: `.wh.NAME` becomes a character device 0:0 called
//! NAME, `.wh..wh..opq` the attribute `user.overlay.opaque` of its folder. A container mounts its overlay in its own
//! user namespace, where attributes of the kind `trusted` can be neither written nor read; and kernels before 6.7 know
//! no other whiteout than the device, which anybody may make since 5.8. An archive's own devices and attributes are
//! never taken over, so that nothing but these names can make either.

mod error;
mod flatten;
mod job;
mod path_policy;
mod process;
mod stream;
mod tarball;
#[cfg(test)]
mod tests;
mod tree;
mod zipfile;

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Write};
use std::ops::ControlFlow;
use std::os::fd::BorrowedFd;
use std::rc::Rc;

use serde::{Deserialize, Serialize};

use error::{Fault, Stopped};
pub use error::{Rule, UnpackError};
pub use flatten::{CopyError, copy_layers};
pub use job::{Blame, Failure, Job, Owner, Report, Unpacking};
use path_policy::Place;
pub(crate) use process::{refuse, run};
use stream::Counts;
use tree::Tree;

/// What an archive may grow to whatever its size, in bytes: small ones are often mostly padding.
const GROWTH_FLOOR_BYTES: u64 = 16 << 20;
/// How much is written between two calls of the caller's callback, in bytes.
const PROGRESS_STEP_BYTES: u64 = 1 << 20;

/// What an archive is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Files for a task. They belong to whoever unpacks; links may not lead out; devices and pipes are refused.
    Archive,
    /// A layer of an image. Owners are kept; links are kept as they are, as they are followed only inside the
    /// container; devices and pipes are left out; names that hide files of lower layers are understood.
    Layer,
}

/// What an archive may be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    /// What it is for.
    pub source: Source,
    /// How much it may hold unpacked, in bytes: with a tar file's headers, and with holes counted as if they were full.
    pub bytes_max: u64,
    /// How many entries it may have, and how many folders they may need.
    pub entries_max: u64,
    /// How many times its own size it may grow; at least 16 MiB are always allowed.
    pub ratio_max: u64,
    /// How deep an entry may lie, in names of its path.
    pub depth_max: u32,
}

impl Rules {
    /// For fetched archives: 16 GiB, 1,000,000 entries, 200 times its size, 128 folders deep.
    #[must_use]
    pub const fn archive() -> Self {
        Self {
            source: Source::Archive,
            bytes_max: 16 << 30,
            entries_max: 1_000_000,
            ratio_max: 200,
            depth_max: 128,
        }
    }

    /// The same for a layer of an image.
    #[must_use]
    pub const fn layer() -> Self {
        Self {
            source: Source::Layer,
            ..Self::archive()
        }
    }
}

/// How an archive is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Format {
    Tar,
    TarGzip,
    TarZstd,
    TarXz,
    Zip,
}

impl Format {
    /// What the first bytes of an archive say; 262 are enough. `None`: nothing that is known.
    #[must_use]
    pub fn of(beginning: &[u8]) -> Option<Self> {
        let magic: [(&[u8], Self); 5] = [
            (b"\x1f\x8b", Self::TarGzip),
            (b"\x28\xb5\x2f\xfd", Self::TarZstd),
            (b"\xfd7zXZ\0", Self::TarXz),
            (b"PK\x03\x04", Self::Zip),
            (b"PK\x05\x06", Self::Zip),
        ];
        let known = magic.iter().find(|(bytes, _)| beginning.starts_with(bytes));
        let is_tar = || beginning.get(257..262) == Some(b"ustar");
        known
            .map(|(_, format)| *format)
            .or_else(|| is_tar().then_some(Self::Tar))
    }

    /// Its usual ending of a file name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tar => "tar",
            Self::TarGzip => "tar.gz",
            Self::TarZstd => "tar.zst",
            Self::TarXz => "tar.xz",
            Self::Zip => "zip",
        }
    }
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Progress {
    /// Bytes of the archive that were read. Those of a zip file may be read more than once.
    pub read_bytes: u64,
    /// Bytes of files that were written.
    pub written_bytes: u64,
    /// Entries that were begun.
    pub entries: u64,
}

/// What was unpacked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unpacked {
    /// The sums.
    pub progress: Progress,
    /// Entries of a layer that were left out: devices, pipes, what tools keep for themselves.
    pub skipped: u64,
    /// SHA-256 of a layer after decompression, which images call its diff id. `None` for archives.
    pub digest: Option<[u8; 32]>,
}

/// Unpacks `archive`, from where it stands, into the folder `target`, which should be new. `progress` is called for
/// each entry and each MiB; what it returns may end the work.
///
/// Synchronous; may use 150 MiB of memory beside 200 bytes an entry. Where the archive cannot be trusted at all, let a
/// confined process do it: [`crate::Launcher::unpack`].
///
/// # Errors
/// The first thing that the archive breaks, or what the file system refused. The target is half full then.
pub fn unpack(
    archive: File,
    format: Format,
    target: BorrowedFd<'_>,
    rules: &Rules,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Unpacked, UnpackError> {
    let fault = |fault: Fault| fault.of(format.name(), b"");
    let length = archive
        .metadata()
        .map_err(|error| fault(Fault::Read(error)))?
        .len();
    let grown = rules
        .ratio_max
        .saturating_mul(length)
        .max(GROWTH_FLOOR_BYTES);
    let (most, rule) = if grown < rules.bytes_max {
        (
            grown,
            Rule::Ratio {
                most: rules.ratio_max,
            },
        )
    } else {
        (
            rules.bytes_max,
            Rule::Bytes {
                most: rules.bytes_max,
            },
        )
    };
    let mut work = Work {
        rules,
        most,
        rule,
        counts: Rc::new(Counts::default()),
        written: 0,
        told: 0,
        entries: 0,
        skipped: 0,
        progress,
    };
    let mut tree = Tree::at(target, rules).map_err(fault)?;
    let digest = match format {
        Format::Zip => zipfile::unpack(archive, &mut tree, &mut work).map(|()| None)?,
        format => tarball::unpack(archive, format, &mut tree, &mut work)?,
    };
    tree.finish().map_err(fault)?;
    Ok(Unpacked {
        progress: work.so_far(),
        skipped: work.skipped,
        digest,
    })
}

/// One entry, judged.
struct Entry {
    place: Place,
    kind: Kind,
    attributes: Attributes,
}

enum Kind {
    File,
    Folder,
    Link(OsString),
    HardLink(Place),
    /// A device, pipe or socket.
    Special(String),
}

/// What a file gets beside its bytes.
#[derive(Debug, Clone, Copy)]
struct Attributes {
    /// Permissions; neither set-user-id nor set-group-id.
    mode: u32,
    /// User and group; `None` leaves whom it was made by.
    owner: Option<(u32, u32)>,
    /// Seconds since 1970; `None`: now.
    modified: Option<i64>,
}

/// The sums of one archive, and their bounds.
struct Work<'a> {
    rules: &'a Rules,
    /// How much may be written, in bytes, and the rule that says so.
    most: u64,
    rule: Rule,
    counts: Rc<Counts>,
    written: u64,
    /// How much was written when the caller was told last.
    told: u64,
    entries: u64,
    skipped: u64,
    progress: &'a mut dyn FnMut(Progress) -> ControlFlow<()>,
}

impl Work<'_> {
    fn so_far(&self) -> Progress {
        Progress {
            read_bytes: self.counts.read.get(),
            written_bytes: self.written,
            entries: self.entries,
        }
    }

    fn tell(&mut self) -> Result<(), Fault> {
        self.told = self.written;
        let so_far = self.so_far();
        match (self.progress)(so_far) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Fault::Read(std::io::Error::other(Stopped))),
        }
    }

    /// One entry more, which says that it has so many bytes.
    fn begin(&mut self, bytes: u64) -> Result<(), Fault> {
        if self.entries == self.rules.entries_max {
            return Err(Rule::Entries {
                most: self.rules.entries_max,
            }
            .into());
        }
        self.entries += 1;
        self.judge_bytes(bytes)?;
        self.tell()
    }

    fn judge_bytes(&self, more: u64) -> Result<(), Fault> {
        match self.written.checked_add(more) {
            Some(sum) if sum <= self.most => Ok(()),
            _ => Err(self.rule.clone().into()),
        }
    }

    /// Copies what `from` really holds, whatever it said.
    fn copy(&mut self, from: &mut dyn Read, mut to: Option<&File>) -> Result<(), Fault> {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let length = match from.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(length) => length,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Fault::Read(error)),
            };
            self.judge_bytes(length as u64)?;
            self.written += length as u64;
            if let Some(file) = &mut to {
                file.write_all(&buffer[..length]).map_err(Fault::Write)?;
            }
            if self.written - self.told >= PROGRESS_STEP_BYTES {
                self.tell()?;
            }
        }
    }
}
