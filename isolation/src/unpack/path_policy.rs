//! Path policy: checks of paths and link targets in an archive, before anything is written.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::error::display_path;
use super::{ArchivePurpose, ArchiveRule, UnpackLimits};

/// The maximum length of a file name on Linux, in bytes.
const NAME_LIMIT_BYTES: usize = 255;
/// The maximum length of a path in a system call, in bytes without its terminator.
const PATH_LIMIT_BYTES: usize = 4095;
/// The name prefix of whiteouts in a layer.
const WHITEOUT: &[u8] = b".wh.";
/// The name prefix of tools' private files.
const WHITEOUT_OF_TOOLS: &[u8] = b".wh..wh.";
/// The name that marks a directory as opaque: it hides everything below it in lower layers.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// A path below the target: relative, plain names only; empty for the target itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct EntryPath(PathBuf);

impl EntryPath {
    pub(super) fn parse(path: &[u8], rules: &UnpackLimits) -> Result<Self, ArchiveRule> {
        if path.contains(&0) {
            return Err(ArchiveRule::Nul);
        }
        if path.is_empty() {
            return Err(ArchiveRule::NoName);
        }
        // In an image `/etc` and `etc` are the same.
        if path.starts_with(b"/") && rules.source == ArchivePurpose::Archive {
            return Err(ArchiveRule::Absolute);
        }
        let mut place = PathBuf::new();
        let mut depth = 0;
        for name in path.split(|byte| *byte == b'/') {
            match name {
                b"" | b"." => continue,
                b".." => return Err(ArchiveRule::Parent),
                name if name.len() > NAME_LIMIT_BYTES => return Err(ArchiveRule::LongName),
                name => place.push(OsStr::from_bytes(name)),
            }
            depth += 1;
            if depth > rules.depth_max {
                return Err(ArchiveRule::Depth {
                    most: rules.depth_max,
                });
            }
        }
        if place.as_os_str().len() > PATH_LIMIT_BYTES {
            return Err(ArchiveRule::LongName);
        }
        Ok(Self(place))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Returns its parent and its name there. `None` for the target itself.
    pub(super) fn split(&self) -> Option<(&Path, &OsStr)> {
        Some((self.0.parent()?, self.0.file_name()?))
    }

    /// Returns the whiteout that its name stands for, if any.
    pub(super) fn whiteout_kind(&self) -> Result<WhiteoutKind, ArchiveRule> {
        let Some((directory, name)) = self.split() else {
            return Ok(WhiteoutKind::None);
        };
        let name = name.as_bytes();
        if name == OPAQUE {
            return Ok(WhiteoutKind::Opaque(Self(directory.to_owned())));
        }
        if name.starts_with(WHITEOUT_OF_TOOLS) {
            return Ok(WhiteoutKind::ToolPrivate);
        }
        let Some(hidden) = name.strip_prefix(WHITEOUT) else {
            return Ok(WhiteoutKind::None);
        };
        match hidden {
            b"" | b"." | b".." => Err(ArchiveRule::Whiteout),
            hidden => Ok(WhiteoutKind::Whiteout(Self(
                directory.join(OsStr::from_bytes(hidden)),
            ))),
        }
    }
}

/// The meaning of a name in a layer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum WhiteoutKind {
    /// A file of that name.
    None,
    /// A whiteout: lower layers have nothing at this path.
    Whiteout(EntryPath),
    /// An opaque directory: lower layers have nothing in it.
    Opaque(EntryPath),
    /// A private file of the tool that wrote the layer.
    ToolPrivate,
}

/// Checks whether a link at `place` can lead outside the target.
///
/// `..` may only come first. There it leaves directories that the unpacker created, and never the
/// target of another link. So no chain of such links leads outside.
pub(super) fn check_link(
    place: &EntryPath,
    target: &[u8],
    rules: &UnpackLimits,
) -> Result<OsString, ArchiveRule> {
    if target.contains(&0) {
        return Err(ArchiveRule::Nul);
    }
    if target.is_empty() || target.len() > PATH_LIMIT_BYTES {
        return Err(ArchiveRule::LinkTarget);
    }
    if rules.source == ArchivePurpose::Layer {
        return Ok(OsString::from_vec(target.to_owned()));
    }
    let outside = || ArchiveRule::LinkOut {
        to: display_path(target),
    };
    if target.starts_with(b"/") {
        return Err(outside());
    }
    let above = place.path().components().count().saturating_sub(1);
    let (mut up, mut down) = (0, false);
    for name in target.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." if down => return Err(outside()),
            b".." => up += 1,
            _ => down = true,
        }
    }
    if up > above {
        return Err(outside());
    }
    Ok(OsString::from_vec(target.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(path: &[u8], rules: &UnpackLimits) -> Result<String, ArchiveRule> {
        let place = EntryPath::parse(path, rules)?;
        Ok(place.path().to_str().unwrap().to_owned())
    }

    #[test]
    fn a_path_outside_the_target_is_rejected() {
        let rules = UnpackLimits::archive();
        assert_eq!(parsed(b"./a//b/", &rules), Ok("a/b".to_owned()));
        assert_eq!(parsed(b"./", &rules), Ok(String::new()));
        assert_eq!(parsed(b"...", &rules), Ok("...".to_owned()));
        assert_eq!(parsed(b"a/../../b", &rules), Err(ArchiveRule::Parent));
        assert_eq!(parsed(b"..", &rules), Err(ArchiveRule::Parent));
        assert_eq!(parsed(b"/etc", &rules), Err(ArchiveRule::Absolute));
        assert_eq!(parsed(b"a\0b", &rules), Err(ArchiveRule::Nul));
        assert_eq!(parsed(b"", &rules), Err(ArchiveRule::NoName));
        assert_eq!(parsed(&[b'a'; 256], &rules), Err(ArchiveRule::LongName));
        let deep = b"a/".repeat(rules.depth_max as usize + 1);
        assert_eq!(
            parsed(&deep, &rules),
            Err(ArchiveRule::Depth {
                most: rules.depth_max
            })
        );
        assert_eq!(
            parsed(b"/etc", &UnpackLimits::layer()),
            Ok("etc".to_owned())
        );
    }

    #[test]
    fn a_link_stays_inside_regardless_of_other_links() {
        let rules = UnpackLimits::archive();
        let is_allowed = |path: &[u8], target: &[u8]| {
            check_link(&EntryPath::parse(path, &rules).unwrap(), target, &rules).is_ok()
        };
        assert!(is_allowed(b"a/b/l", b"../../c/d"));
        assert!(is_allowed(b"l", b"./a/b"));
        assert!(!is_allowed(b"l", b".."));
        assert!(!is_allowed(b"a/l", b"../../c"));
        assert!(!is_allowed(b"l", b"/etc/passwd"));
        // `a/up` may be a link to the target itself, whose parent is outside.
        assert!(!is_allowed(b"l", b"a/up/.."));
        assert!(!is_allowed(b"l", b""));
    }

    #[test]
    fn whiteouts_are_distinguished_from_files() {
        let rules = UnpackLimits::layer();
        let mark = |path: &[u8]| EntryPath::parse(path, &rules).unwrap().whiteout_kind();
        let at = |path: &[u8]| EntryPath::parse(path, &rules).unwrap();
        assert_eq!(mark(b"a/.wh.b"), Ok(WhiteoutKind::Whiteout(at(b"a/b"))));
        assert_eq!(mark(b"a/.wh..wh..opq"), Ok(WhiteoutKind::Opaque(at(b"a"))));
        assert_eq!(mark(b"a/.wh..wh.plnk"), Ok(WhiteoutKind::ToolPrivate));
        assert_eq!(mark(b"a/wh.b"), Ok(WhiteoutKind::None));
        assert_eq!(mark(b"a/.wh."), Err(ArchiveRule::Whiteout));
        assert_eq!(mark(b".wh..."), Err(ArchiveRule::Whiteout));
    }
}
