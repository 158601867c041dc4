//! Unpacking of untrusted archives: fetched ones and the layers of images.
//!
//! It makes one pass over the entries, and checks each against [`UnpackLimits`] before anything of
//! it is written. Everything is opened below the target's descriptor without following links
//! (`tree`), so a path that `path_policy` wrongly accepted still cannot escape. The origin of
//! archives and the fate of the target are out of scope: the caller creates a new directory, and
//! renames it on success or removes it.
//!
//! Reading order: `path_policy` (paths), `tree` (writing), `stream` (decoders and their limits),
//! `tarball` and `zipfile`; then `job` and `process`, which do all this in a process without access
//! to anything else.
//!
//! **Whiteouts** of a layer are written in the format of overlay file systems: `.wh.NAME` becomes a
//! character device 0:0 called NAME, `.wh..wh..opq` the attribute `user.overlay.opaque` of its
//! directory. A container mounts its overlay in its user namespace, where attributes of the kind
//! `trusted` can be neither written nor read. Kernels before 6.7 support no whiteout other than the
//! device, which any user may create since 5.8. Devices and attributes of an archive are never
//! taken over, so only these names can create either.

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

pub use error::{ArchiveRule, UnpackError};
use error::{EntryWriteError, UnpackCancelled};
pub use flatten::{CopyError, copy_layers};
pub use job::{FailureOrigin, HostOwner, UnpackFailure, UnpackHandle, UnpackJob, UnpackReport};
use path_policy::EntryPath;
pub(crate) use process::{refuse, run};
use stream::ByteCounts;
use tree::TargetTree;

/// The unpacked size that is allowed for every archive, in bytes: small ones are often mostly
/// padding.
const GROWTH_FLOOR_BYTES: u64 = 16 << 20;
/// The number of bytes written between two calls of the progress callback.
const PROGRESS_STEP_BYTES: u64 = 1 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ArchivePurpose {
    /// Files for a task. They belong to the unpacking user; links may not lead outside; devices and
    /// pipes are refused.
    Archive,
    /// A layer of an image. Owners are kept. Links are kept unchanged, as they are followed only
    /// inside the container. Devices and pipes are left out. Whiteouts of lower layers are
    /// converted.
    Layer,
}

/// The limits of an archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnpackLimits {
    /// Its purpose.
    pub source: ArchivePurpose,
    /// Maximum unpacked size, in bytes: includes the headers of a tar file, and counts holes as
    /// full.
    pub bytes_max: u64,
    /// Maximum number of entries, and of the directories they need.
    pub entries_max: u64,
    /// Maximum growth, as a multiple of its size; at least 16 MiB are always allowed.
    pub ratio_max: u64,
    /// Maximum depth of an entry, in path components.
    pub depth_max: u32,
}

impl UnpackLimits {
    /// Returns the limits of fetched archives: 16 GiB, 1,000,000 entries, 200 times its size, a
    /// depth of 128 directories.
    #[must_use]
    pub const fn archive() -> Self {
        Self {
            source: ArchivePurpose::Archive,
            bytes_max: 16 << 30,
            entries_max: 1_000_000,
            ratio_max: 200,
            depth_max: 128,
        }
    }

    /// Returns the limits of an image layer.
    #[must_use]
    pub const fn layer() -> Self {
        Self {
            source: ArchivePurpose::Layer,
            ..Self::archive()
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ArchiveFormat {
    Tar,
    TarGzip,
    TarZstd,
    TarXz,
    Zip,
}

impl ArchiveFormat {
    /// Detects the format from the first bytes of an archive; 262 are enough. `None`: unknown.
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

    /// Returns the usual file name extension.
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

/// The progress of unpacking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct UnpackProgress {
    /// Bytes of the archive that were read. Those of a zip file may be read more than once.
    pub read_bytes: u64,
    /// Bytes of files that were written.
    pub written_bytes: u64,
    /// Entries that were started.
    pub entries: u64,
}

/// The result of unpacking.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnpackResult {
    /// The totals.
    pub progress: UnpackProgress,
    /// Entries of a layer that were left out: devices, pipes, and private files of tools.
    pub skipped: u64,
    /// SHA-256 of a layer after decompression, which images call its diff id. `None` for archives.
    pub digest: Option<[u8; 32]>,
}

/// Unpacks `archive`, from its current position, into the directory `target`, which should be new.
/// `progress` is called for each entry and each MiB; its result may cancel the work.
///
/// Synchronous; may use 150 MiB of memory plus 200 bytes per entry. For untrusted archives use a
/// confined process: [`crate::Launcher::unpack`].
///
/// # Errors
/// The first rule that the archive violates, or the error of the file system. The target is then
/// incomplete.
pub fn unpack(
    archive: File,
    format: ArchiveFormat,
    target: BorrowedFd<'_>,
    rules: &UnpackLimits,
    progress: &mut dyn FnMut(UnpackProgress) -> ControlFlow<()>,
) -> Result<UnpackResult, UnpackError> {
    let fault = |fault: EntryWriteError| fault.into_error(format.name(), b"");
    let length = archive
        .metadata()
        .map_err(|error| fault(EntryWriteError::Read(error)))?
        .len();
    let grown = rules
        .ratio_max
        .saturating_mul(length)
        .max(GROWTH_FLOOR_BYTES);
    let (most, rule) = if grown < rules.bytes_max {
        (
            grown,
            ArchiveRule::Ratio {
                most: rules.ratio_max,
            },
        )
    } else {
        (
            rules.bytes_max,
            ArchiveRule::Bytes {
                most: rules.bytes_max,
            },
        )
    };
    let mut work = UnpackBudget {
        limits: rules,
        max_bytes: most,
        rule,
        counts: Rc::new(ByteCounts::default()),
        written: 0,
        reported: 0,
        entries: 0,
        skipped: 0,
        progress,
    };
    let mut tree = TargetTree::at(target, rules).map_err(fault)?;
    let digest = match format {
        ArchiveFormat::Zip => zipfile::unpack(archive, &mut tree, &mut work).map(|()| None)?,
        format => tarball::unpack(archive, format, &mut tree, &mut work)?,
    };
    tree.finish().map_err(fault)?;
    Ok(UnpackResult {
        progress: work.current(),
        skipped: work.skipped,
        digest,
    })
}

/// One checked entry.
struct ArchiveEntry {
    path: EntryPath,
    kind: EntryKind,
    attributes: EntryAttributes,
}

enum EntryKind {
    File,
    Directory,
    Symlink(OsString),
    HardLink(EntryPath),
    /// A device, pipe or socket.
    Special(String),
}

/// The attributes of a file.
#[derive(Debug, Clone, Copy)]
struct EntryAttributes {
    /// Permissions; neither set-user-id nor set-group-id.
    mode: u32,
    /// User and group; `None` keeps the creating user.
    owner: Option<(u32, u32)>,
    /// Seconds since 1970; `None`: now.
    modified: Option<i64>,
}

/// The totals of one archive, and their limits.
struct UnpackBudget<'a> {
    limits: &'a UnpackLimits,
    /// The maximum number of bytes, and the rule behind it.
    max_bytes: u64,
    rule: ArchiveRule,
    counts: Rc<ByteCounts>,
    written: u64,
    /// The number of bytes at the last progress report.
    reported: u64,
    entries: u64,
    skipped: u64,
    progress: &'a mut dyn FnMut(UnpackProgress) -> ControlFlow<()>,
}

impl UnpackBudget<'_> {
    fn current(&self) -> UnpackProgress {
        UnpackProgress {
            read_bytes: self.counts.read.get(),
            written_bytes: self.written,
            entries: self.entries,
        }
    }

    fn report(&mut self) -> Result<(), EntryWriteError> {
        self.reported = self.written;
        let so_far = self.current();
        match (self.progress)(so_far) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(EntryWriteError::Read(std::io::Error::other(
                UnpackCancelled,
            ))),
        }
    }

    /// Counts another entry of this declared size.
    fn begin_entry(&mut self, bytes: u64) -> Result<(), EntryWriteError> {
        if self.entries == self.limits.entries_max {
            return Err(ArchiveRule::Entries {
                most: self.limits.entries_max,
            }
            .into());
        }
        self.entries += 1;
        self.check_bytes(bytes)?;
        self.report()
    }

    fn check_bytes(&self, more: u64) -> Result<(), EntryWriteError> {
        match self.written.checked_add(more) {
            Some(sum) if sum <= self.max_bytes => Ok(()),
            _ => Err(self.rule.clone().into()),
        }
    }

    /// Copies the actual content of `from`, whatever size was declared.
    fn copy(&mut self, from: &mut dyn Read, mut to: Option<&File>) -> Result<(), EntryWriteError> {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let length = match from.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(length) => length,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(EntryWriteError::Read(error)),
            };
            self.check_bytes(length as u64)?;
            self.written += length as u64;
            if let Some(file) = &mut to {
                file.write_all(&buffer[..length])
                    .map_err(EntryWriteError::Write)?;
            }
            if self.written - self.reported >= PROGRESS_STEP_BYTES {
                self.report()?;
            }
        }
    }
}
