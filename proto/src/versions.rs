//! Versions of `argosy.v1`: the range that each program supports, and the newest version that two
//! of them share.
//!
//! A stream negotiates with its first message and the answer to it ([`v1::Protocol`]); other calls
//! and their replies carry the range in the header [`HEADER`]. A program of release 0.1.0 sends no
//! range: it uses version 1.

use std::fmt;
use std::str::FromStr;

use crate::excerpt::{NAME_BYTES, excerpt};
use crate::v1;

/// The header with the range of its sender, as "1-2", in requests and in all replies of a master.
pub const HEADER: &str = "argosy-protocol";

/// The code with which a peer without a common version is rejected.
pub const CODE: &str = "protocol-version";

/// A range of versions, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VersionRange {
    /// The oldest version.
    pub oldest: u32,
    /// The newest version.
    pub newest: u32,
}

/// The error of two programs without a common version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "protocol: {peer} speaks {theirs} of argosy.v1, and this program {own}: upgrade {}",
    if theirs.newest < own.oldest { peer } else { "this program" }
)]
pub struct NoCommonVersion {
    /// The other program, with its release if it reports one.
    pub peer: String,
    /// The versions of the other program.
    pub theirs: VersionRange,
    /// The versions of this program.
    pub own: VersionRange,
}

/// The error of a text that is not a range of versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("name the oldest and the newest version, as 1-2")]
pub struct InvalidVersionRange;

impl VersionRange {
    /// The versions of this release.
    pub const OWN: Self = Self {
        oldest: 1,
        newest: 1,
    };

    /// Returns the versions that a message reports.
    #[must_use]
    pub fn of(protocol: &v1::Protocol) -> Self {
        match protocol.newest_version {
            0 => Self {
                oldest: protocol.version,
                newest: protocol.version,
            },
            newest => Self {
                oldest: protocol.oldest_version,
                newest,
            },
        }
    }

    /// Returns the newest version that both programs support.
    ///
    /// # Errors
    /// [`NoCommonVersion`], which names the peer and the remedy.
    pub fn common(self, theirs: Self, peer: &str) -> Result<u32, NoCommonVersion> {
        let (oldest, newest) = (
            self.oldest.max(theirs.oldest),
            self.newest.min(theirs.newest),
        );
        if oldest <= newest {
            return Ok(newest);
        }
        let peer = peer.to_owned();
        Err(NoCommonVersion {
            peer,
            theirs,
            own: self,
        })
    }

    /// Returns the newest version that both ends of a stream support, given the peer's first
    /// message.
    ///
    /// # Errors
    /// [`NoCommonVersion`].
    pub fn negotiate(self, peer: &str, message: &v1::Protocol) -> Result<u32, NoCommonVersion> {
        let peer = match message.release.as_str() {
            "" => peer.to_owned(),
            release => format!("{peer} of release {:?}", excerpt(release, NAME_BYTES)),
        };
        self.common(Self::of(message), &peer)
    }

    /// Returns the first message of a stream: in the oldest version, which the peer is most likely
    /// to read.
    #[must_use]
    pub fn first_message(self) -> v1::Protocol {
        self.answer(self.oldest)
    }

    /// Returns the answer once a version is agreed on.
    #[must_use]
    pub fn answer(self, version: u32) -> v1::Protocol {
        v1::Protocol {
            version,
            release: env!("CARGO_PKG_VERSION").to_owned(),
            oldest_version: self.oldest,
            newest_version: self.newest,
        }
    }

    /// Returns the value of [`HEADER`].
    #[must_use]
    pub fn header(self) -> String {
        format!("{}-{}", self.oldest, self.newest)
    }
}

impl fmt::Display for VersionRange {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.oldest == self.newest {
            true => write!(out, "version {}", self.newest),
            false => write!(out, "versions {} to {}", self.oldest, self.newest),
        }
    }
}

impl FromStr for VersionRange {
    type Err = InvalidVersionRange;

    fn from_str(text: &str) -> Result<Self, InvalidVersionRange> {
        let (oldest, newest) = text.split_once('-').ok_or(InvalidVersionRange)?;
        let number = |text: &str| text.parse::<u32>().map_err(|_| InvalidVersionRange);
        let (oldest, newest) = (number(oldest)?, number(newest)?);
        match oldest <= newest {
            true => Ok(Self { oldest, newest }),
            false => Err(InvalidVersionRange),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(oldest: u32, newest: u32) -> VersionRange {
        VersionRange { oldest, newest }
    }

    #[test]
    fn two_programs_use_the_newest_common_version() {
        let common = |one: (u32, u32), other: (u32, u32)| {
            let (one, other) = (range(one.0, one.1), range(other.0, other.1));
            let newest = one.common(other, "a master").ok();
            assert_eq!(newest, other.common(one, "a client").ok());
            newest
        };
        assert_eq!(common((1, 1), (1, 1)), Some(1));
        assert_eq!(common((1, 3), (2, 4)), Some(3));
        assert_eq!(common((1, 4), (1, 2)), Some(2));
        assert_eq!(common((1, 2), (3, 4)), None);
    }

    #[test]
    fn a_rejection_contains_both_ranges_and_the_side_to_upgrade() {
        let text = |own: VersionRange, theirs: VersionRange| {
            let message = theirs.first_message();
            let refused = own.negotiate("the client", &message).unwrap_err();
            refused.to_string()
        };
        let release = env!("CARGO_PKG_VERSION");
        assert_eq!(
            text(range(2, 3), range(1, 1)),
            format!(
                "protocol: the client of release {release:?} speaks version 1 of argosy.v1, and this program versions 2 to 3: upgrade the client of release {release:?}"
            )
        );
        assert!(text(range(1, 1), range(2, 3)).ends_with("upgrade this program"));
    }

    #[test]
    fn release_0_1_0_uses_version_1_and_reads_the_first_message() {
        let theirs = v1::Protocol {
            version: 1,
            release: "0.1.0".to_owned(),
            ..v1::Protocol::default()
        };
        assert_eq!(VersionRange::OWN.negotiate("a master", &theirs), Ok(1));
        assert_eq!(range(2, 3).negotiate("a master", &theirs).ok(), None);
        // The other program compares the one number that it knows.
        assert_eq!(VersionRange::OWN.first_message().version, theirs.version);
    }

    #[test]
    fn a_version_header_round_trips() {
        for versions in [VersionRange::OWN, range(1, 1), range(2, 30)] {
            assert_eq!(versions.header().parse(), Ok(versions));
        }
        for text in ["", "1", "2-1", "a-b", "1-2-3", "-1"] {
            assert_eq!(
                text.parse::<VersionRange>(),
                Err(InvalidVersionRange),
                "{text}"
            );
        }
    }
}
