//! The formats of the raft transport, the frames and the feature levels that a master reports, and
//! the format that two masters share.
//!
//! A master of release 0.1.0 reports none of them: it uses format 1, and supports levels 1 and 2.

use argosy_state::level::{Level, Levels};
use tonic::Status;

use super::wire::proto;

/// The versions that one master supports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MasterVersions {
    oldest_format: u32,
    newest_format: u32,
    /// The newest frames (`frames`); 0: none.
    newest_frames: u32,
    pub(crate) levels: Levels,
}

/// The versions that this build supports.
pub(crate) const OWN: MasterVersions = MasterVersions {
    oldest_format: 1,
    newest_format: 1,
    newest_frames: 1,
    levels: Levels::OWN,
};

impl MasterVersions {
    const OF_0_1_0: Self = Self {
        oldest_format: 1,
        newest_format: 1,
        newest_frames: 0,
        levels: Levels::OF_0_1_0,
    };

    /// Returns the versions that a message reports.
    pub(crate) fn of(message: Option<proto::Versions>) -> Self {
        message.map_or(Self::OF_0_1_0, |message| Self {
            oldest_format: message.oldest_format,
            newest_format: message.newest_format,
            newest_frames: message.newest_frames,
            levels: Levels {
                oldest: Level(message.oldest_level),
                newest: Level(message.newest_level),
            },
        })
    }

    pub(crate) fn message(self) -> proto::Versions {
        proto::Versions {
            oldest_format: self.oldest_format,
            newest_format: self.newest_format,
            newest_frames: self.newest_frames,
            oldest_level: self.levels.oldest.0,
            newest_level: self.levels.newest.0,
        }
    }

    /// Returns whether a message of this format can be read.
    pub(crate) fn reads(self, format: u32) -> bool {
        (self.oldest_format..=self.newest_format).contains(&format)
    }

    /// Returns the newest format that both support; `None` if there is none.
    pub(crate) fn common_format(self, theirs: Self) -> Option<u32> {
        let newest = self.newest_format.min(theirs.newest_format);
        (self.reads(newest) && theirs.reads(newest)).then_some(newest)
    }

    /// Returns whether appends may use frames of format 1, the only one so far.
    pub(crate) fn supports_frames(self) -> bool {
        self.newest_frames >= 1
    }

    /// Returns the formats as text.
    pub(crate) fn formats(self) -> String {
        match self.oldest_format == self.newest_format {
            true => format!("format {}", self.newest_format),
            false => format!("formats {} to {}", self.oldest_format, self.newest_format),
        }
    }

    /// Returns the format of a message to a master that has reported no versions yet.
    pub(crate) fn first_format(self) -> u32 {
        self.oldest_format
    }
}

/// Checks whether this master reads messages of this format.
pub(crate) fn check_format(format: u32) -> Result<(), Status> {
    if OWN.reads(format) {
        return Ok(());
    }
    let ours = OWN.formats();
    Err(Status::failed_precondition(format!(
        "received raft transport format {format}, this build speaks {ours}"
    )))
}

/// Checks the versions of an `AskRequest`. The request itself is read in any format, since it
/// serves to find a common one.
pub(crate) fn check(question: &proto::AskRequest) -> Result<(), Status> {
    let theirs = MasterVersions::of(question.versions);
    if OWN.common_format(theirs).is_some() {
        return Ok(());
    }
    let (ours, theirs) = (OWN.formats(), theirs.formats());
    Err(Status::failed_precondition(format!(
        "the other master speaks {theirs} of the raft transport, this build {ours}"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn versions(oldest_format: u32, newest_format: u32) -> MasterVersions {
        MasterVersions {
            oldest_format,
            newest_format,
            newest_frames: 0,
            levels: Levels::OWN,
        }
    }

    #[test]
    fn masters_use_the_newest_common_format() {
        let common = |one: (u32, u32), other: (u32, u32)| {
            let (one, other) = (versions(one.0, one.1), versions(other.0, other.1));
            assert_eq!(one.common_format(other), other.common_format(one));
            one.common_format(other)
        };
        assert_eq!(common((1, 1), (1, 1)), Some(1));
        assert_eq!(common((1, 3), (2, 4)), Some(3));
        assert_eq!(common((1, 2), (1, 4)), Some(2));
        assert_eq!(common((1, 2), (3, 4)), None);
        assert_eq!(common((2, 2), (1, 1)), None);
    }

    #[test]
    fn a_master_that_reports_nothing_is_of_release_0_1_0() {
        let theirs = MasterVersions::of(None);
        assert!(theirs.levels.include(Level::RELEASE_0_1));
        assert!(!theirs.levels.include(Level::RELEASE_0_2));
        assert!(!theirs.supports_frames() && OWN.supports_frames());
        assert_eq!(OWN.common_format(theirs), Some(1));
        assert_eq!(MasterVersions::of(Some(OWN.message())), OWN);
    }
}
