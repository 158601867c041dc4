//! Why an archive was not unpacked: sentences that name the entry and the rule.

use std::io;

use serde::{Deserialize, Serialize};

/// What an archive, or one of its entries, may not be or have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Rule {
    /// An absolute path.
    #[error("its path is absolute; make the archive from inside its folder")]
    Absolute,
    /// A path that goes up.
    #[error("its path has '..'; make the archive from inside its folder")]
    Parent,
    /// A NUL byte in a path.
    #[error("its path or link has a NUL byte")]
    Nul,
    /// An empty path, or something other than a folder at the root.
    #[error("its path names no file")]
    NoName,
    /// A name over 255 bytes, or a path over 4095.
    #[error("its name has more than 255 bytes, or its path more than 4095")]
    LongName,
    /// Zip separates folders by `/`.
    #[error("its path has a backslash; make the zip file with '/' between folders")]
    Backslash,
    /// Too deep.
    #[error("it lies deeper than {most} folders")]
    Depth {
        /// How deep entries may lie, in folders.
        most: u32,
    },
    /// Its folder is a link.
    #[error("its path leads through the link \"{link}\", and links are not followed")]
    ThroughLink {
        /// The link.
        link: String,
    },
    /// Its folder is a file.
    #[error("its path leads through \"{file}\", which is no folder")]
    ThroughFile {
        /// The file.
        file: String,
    },
    /// A symbolic link that leads out.
    #[error(
        "it is a link to \"{to}\", which may lead out; '..' is allowed first only, and within the archive"
    )]
    LinkOut {
        /// Its target.
        to: String,
    },
    /// A symbolic link without a target, or with one that is too long.
    #[error("it is a link whose target is empty or longer than 4095 bytes")]
    LinkTarget,
    /// A hard link to something that is no file of the archive.
    #[error("it is a hard link to \"{to}\", which is no file that came before it")]
    HardLink {
        /// Its target.
        to: String,
    },
    /// A device, pipe, socket or something that is not known.
    #[error("it is {kind}; only files, folders and links are unpacked")]
    Special {
        /// What it is.
        kind: String,
    },
    /// A user or group that no container has.
    #[error("its owner is {owner}; a container has the users and groups 0 to 65535")]
    Owner {
        /// The user or group number.
        owner: u64,
    },
    /// A whiteout of nothing.
    #[error("it is a whiteout without a name")]
    Whiteout,
    /// Its holes are described in a form that few tools write.
    #[error("its holes are described in pax form; make the archive without --sparse")]
    PaxSparse,
    /// Its description is too long.
    #[error("its header has more than {most} bytes")]
    Header {
        /// How long a header may be, in bytes.
        most: u64,
    },
    /// Too much.
    #[error("the archive holds more than {most} bytes unpacked; raise the limit if it is trusted")]
    Bytes {
        /// How much it may hold, in bytes.
        most: u64,
    },
    /// Too many.
    #[error("the archive holds more than {most} entries; raise the limit if it is trusted")]
    Entries {
        /// How many it may hold.
        most: u64,
    },
    /// Compressed too well to be honest.
    #[error(
        "the archive grows to more than {most} times its size; raise the limit if it is trusted"
    )]
    Ratio {
        /// How many times it may grow.
        most: u64,
    },
    /// Entries of a zip file that share bytes.
    #[error("entries of the zip file overlap; make it again")]
    Overlap,
    /// Something stands where nothing may.
    #[error("the archive goes on after its end; cut off what follows")]
    Trailing,
}

/// Why an archive was not unpacked. What was written so far is to be removed by the caller.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// It breaks a rule.
    #[error("entry \"{entry}\" is refused: {rule}")]
    Refused {
        /// The entry's path as it stands in the archive, cut to 200 bytes; the last one read if it is the archive.
        entry: String,
        /// The rule.
        rule: Rule,
    },
    /// It cannot be read.
    #[error(
        "the {format} archive cannot be read after entry \"{entry}\": it is damaged or of another format"
    )]
    Damaged {
        /// What it was taken for.
        format: &'static str,
        /// The last entry that could be read; empty for none.
        entry: String,
        /// Why.
        source: io::Error,
    },
    /// The target cannot be written.
    #[error("cannot write entry \"{entry}\"")]
    Write {
        /// The entry's path.
        entry: String,
        /// Why.
        source: io::Error,
    },
    /// The caller asked for it.
    #[error("unpacking was cancelled")]
    Cancelled,
}

impl UnpackError {
    /// The sentence with its causes.
    #[must_use]
    pub fn sentence(&self) -> String {
        crate::supervisor::sentence(self)
    }
}

/// Goes through a decoder as an error of reading, because that is all that comes out of it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Exceeded(pub(super) Rule);

/// The same for a caller who wants no more.
#[derive(Debug, thiserror::Error)]
#[error("cancelled")]
pub(super) struct Stopped;

/// Why one entry cannot be written.
#[derive(Debug)]
pub(super) enum Fault {
    Rule(Rule),
    Read(io::Error),
    Write(io::Error),
}

impl From<Rule> for Fault {
    fn from(rule: Rule) -> Self {
        Self::Rule(rule)
    }
}

impl From<rustix::io::Errno> for Fault {
    fn from(errno: rustix::io::Errno) -> Self {
        Self::Write(errno.into())
    }
}

impl Fault {
    pub(super) fn of(self, format: &'static str, entry: &[u8]) -> UnpackError {
        let entry = shown(entry);
        let source = match self {
            Self::Rule(rule) => return UnpackError::Refused { entry, rule },
            Self::Write(source) => return UnpackError::Write { entry, source },
            Self::Read(source) => source,
        };
        // Decoders may wrap what they were told in an error of their own.
        let mut cause: Option<&(dyn std::error::Error + 'static)> = source
            .get_ref()
            .map(|inner| inner as &(dyn std::error::Error + 'static));
        while let Some(error) = cause {
            if let Some(Exceeded(rule)) = error.downcast_ref() {
                let rule = rule.clone();
                return UnpackError::Refused { entry, rule };
            }
            if error.is::<Stopped>() {
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

/// An entry's path for people: anything may stand in it.
pub(super) fn shown(path: &[u8]) -> String {
    const MOST: usize = 200;
    let start = String::from_utf8_lossy(&path[..path.len().min(MOST)]);
    let rest = if path.len() > MOST { "…" } else { "" };
    format!("{}{rest}", start.escape_debug())
}
