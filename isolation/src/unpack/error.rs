//! Errors of unpacking: messages that name the entry and the rule.

use std::io;

use serde::{Deserialize, Serialize};

/// A rule that an archive, or one of its entries, violates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ArchiveRule {
    #[error("its path is absolute; create the archive inside its directory")]
    Absolute,
    /// A path with `..`.
    #[error("its path has '..'; create the archive inside its directory")]
    Parent,
    #[error("its path or link has a NUL byte")]
    Nul,
    /// An empty path, or an entry for the root that is not a directory.
    #[error("its path names no file")]
    NoName,
    /// A name over 255 bytes, or a path over 4095.
    #[error("its name has more than 255 bytes, or its path more than 4095")]
    LongName,
    /// A backslash in a zip path: zip separates directories by `/`.
    #[error("its path has a backslash; create the zip file with '/' between directories")]
    Backslash,
    /// The path is too deep.
    #[error("it is deeper than {most} directories")]
    Depth {
        /// The maximum depth, in directories.
        most: u32,
    },
    /// Its parent is a link.
    #[error("its path leads through the link \"{link}\", and links are not followed")]
    ThroughLink { link: String },
    /// Its parent is a file.
    #[error("its path leads through \"{file}\", which is not a directory")]
    ThroughFile { file: String },
    /// A symbolic link that leads outside.
    #[error(
        "it is a link to \"{to}\", which may lead outside; '..' is allowed only at its start, and within the archive"
    )]
    LinkOut {
        /// Its target.
        to: String,
    },
    /// A symbolic link without a target, or with one that is too long.
    #[error("it is a link whose target is empty or longer than 4095 bytes")]
    LinkTarget,
    /// A hard link to something that is not a file of the archive.
    #[error("it is a hard link to \"{to}\", which is not an earlier file")]
    HardLink {
        /// Its target.
        to: String,
    },
    /// A device, pipe, socket or unknown type.
    #[error("it is {kind}; only files, directories and links are unpacked")]
    Special {
        /// Its type.
        kind: String,
    },
    /// A user or group that no container has.
    #[error("its owner is {owner}; a container has the users and groups 0 to 65535")]
    Owner {
        /// The user or group id.
        owner: u64,
    },
    /// A whiteout without a name.
    #[error("it is a whiteout without a name")]
    Whiteout,
    /// A sparse file in a format that few tools write.
    #[error("its holes are in pax format; create the archive without --sparse")]
    PaxSparse,
    /// Its header is too long.
    #[error("its header has more than {most} bytes")]
    Header {
        /// The maximum length of a header, in bytes.
        most: u64,
    },
    /// The unpacked size is too large.
    #[error("the archive holds more than {most} bytes unpacked; raise the limit if it is trusted")]
    Bytes {
        /// The maximum size, in bytes.
        most: u64,
    },
    /// There are too many entries.
    #[error("the archive holds more than {most} entries; raise the limit if it is trusted")]
    Entries {
        /// The maximum number.
        most: u64,
    },
    /// The compression ratio is too high: a likely decompression bomb.
    #[error(
        "the archive grows to more than {most} times its size; raise the limit if it is trusted"
    )]
    Ratio {
        /// The maximum ratio.
        most: u64,
    },
    /// Entries of a zip file that share bytes.
    #[error("entries of the zip file overlap; create it again")]
    Overlap,
    /// Data after the end of the archive.
    #[error("the archive continues after its end; remove the rest")]
    Trailing,
}

/// An error of unpacking. The caller removes what was written so far.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The archive violates a rule.
    #[error("entry \"{entry}\" is refused: {rule}")]
    Rejected {
        /// The entry's path as in the archive, truncated to 200 bytes; the last one read if the
        /// whole archive violates the rule.
        entry: String,
        rule: ArchiveRule,
    },
    /// The archive cannot be read.
    #[error(
        "the {format} archive cannot be read after entry \"{entry}\": it is damaged or of another format"
    )]
    Damaged {
        /// The detected format.
        format: &'static str,
        /// The last entry that was read; empty for none.
        entry: String,
        source: io::Error,
    },
    /// The target cannot be written.
    #[error("cannot write entry \"{entry}\"")]
    Write { entry: String, source: io::Error },
    /// The caller cancelled the work.
    #[error("unpacking was cancelled")]
    Cancelled,
}

impl UnpackError {
    /// Returns the message with its causes.
    #[must_use]
    pub fn message(&self) -> String {
        argosy_host::packets::error_chain(self)
    }
}

/// Passes a violation through a decoder as a read error, because decoders return only those.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct RuleViolation(pub(super) ArchiveRule);

/// The same for a cancellation by the caller.
#[derive(Debug, thiserror::Error)]
#[error("cancelled")]
pub(super) struct UnpackCancelled;

/// The reason why one entry cannot be written.
#[derive(Debug)]
pub(super) enum EntryWriteError {
    Rule(ArchiveRule),
    Read(io::Error),
    Write(io::Error),
}

impl From<ArchiveRule> for EntryWriteError {
    fn from(rule: ArchiveRule) -> Self {
        Self::Rule(rule)
    }
}

impl From<rustix::io::Errno> for EntryWriteError {
    fn from(errno: rustix::io::Errno) -> Self {
        Self::Write(errno.into())
    }
}

impl EntryWriteError {
    pub(super) fn into_error(self, format: &'static str, entry: &[u8]) -> UnpackError {
        let entry = display_path(entry);
        let source = match self {
            Self::Rule(rule) => return UnpackError::Rejected { entry, rule },
            Self::Write(source) => return UnpackError::Write { entry, source },
            Self::Read(source) => source,
        };
        // Decoders may wrap the original error in another one.
        let mut cause: Option<&(dyn std::error::Error + 'static)> = source
            .get_ref()
            .map(|inner| inner as &(dyn std::error::Error + 'static));
        while let Some(error) = cause {
            if let Some(RuleViolation(rule)) = error.downcast_ref() {
                let rule = rule.clone();
                return UnpackError::Rejected { entry, rule };
            }
            if error.is::<UnpackCancelled>() {
                return UnpackError::Cancelled;
            }
            cause = match error.downcast_ref::<io::Error>() {
                Some(inner) => inner.get_ref().map(|inner| inner as _),
                None => error.source(),
            };
        }
        UnpackError::Damaged {
            format,
            entry,
            source,
        }
    }
}

/// Formats an entry's path for display: it may contain any bytes.
pub(super) fn display_path(path: &[u8]) -> String {
    const MOST: usize = 200;
    let start = String::from_utf8_lossy(&path[..path.len().min(MOST)]);
    let rest = if path.len() > MOST { "…" } else { "" };
    format!("{}{rest}", start.escape_debug())
}
