//! The directory that an archive is unpacked into.
//!
//! Everything is opened below its descriptor, by a call that follows no link and leaves neither
//! directory nor file system: the kernel enforces what `path_policy` checks. Directories belong to
//! the unpacker and stay accessible to it until the end, when they get their modes.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, UTIME_OMIT, Uid,
    XattrFlags, chownat, fchmod, fchown, fsetxattr, futimens, linkat, makedev, mkdirat, mknodat,
    openat2, statat, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;

use super::error::{EntryWriteError, display_path};
use super::path_policy::{EntryPath, WhiteoutKind};
use super::{
    ArchiveEntry, ArchivePurpose, ArchiveRule, EntryAttributes, EntryKind, UnpackBudget,
    UnpackLimits,
};
use argosy_host::crash_point;

/// The flags of every path lookup.
pub(super) const RESOLVE_BENEATH: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);
/// Marks a directory as opaque for an overlay that is mounted with `userxattr`.
pub(super) const OPAQUE: &str = "user.overlay.opaque";

/// The target, and the work that remains at the end.
pub(super) struct TargetTree {
    root: Rc<OwnedFd>,
    source: ArchivePurpose,
    /// Directories that were created or named, with their final attributes.
    dirs: BTreeMap<PathBuf, EntryAttributes>,
    /// The maximum number of directories: one entry can need many.
    dirs_max: u64,
    /// The parent of the last entry: the next entry is mostly there as well.
    last: Option<(PathBuf, Rc<OwnedFd>)>,
}

/// The type of an existing entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ExistingEntry {
    Nothing,
    Directory,
    File,
    Symlink,
    /// Hides an entry of lower layers.
    Whiteout,
}

impl TargetTree {
    pub(super) fn at(
        target: BorrowedFd<'_>,
        rules: &UnpackLimits,
    ) -> Result<Self, EntryWriteError> {
        let root = target
            .try_clone_to_owned()
            .map_err(EntryWriteError::Write)?;
        Ok(Self {
            root: Rc::new(root),
            source: rules.source,
            dirs: BTreeMap::new(),
            dirs_max: rules.entries_max,
            last: None,
        })
    }

    /// Writes one entry; it replaces an existing one.
    pub(super) fn put(
        &mut self,
        entry: &ArchiveEntry,
        body: &mut dyn Read,
        budget: &mut UnpackBudget<'_>,
    ) -> Result<(), EntryWriteError> {
        if self.source == ArchivePurpose::Layer {
            match entry.path.whiteout_kind()? {
                WhiteoutKind::Whiteout(place) => return self.hide(&place),
                WhiteoutKind::Opaque(place) => return self.hide_below(&place),
                WhiteoutKind::ToolPrivate => {
                    budget.skipped += 1;
                    return Ok(());
                }
                WhiteoutKind::None => {}
            }
        }
        let attributes = self.allowed_attributes(entry);
        let place = &entry.path;
        match &entry.kind {
            EntryKind::Directory => self.put_dir(place, attributes),
            EntryKind::File => {
                let (directory, name) = self.vacate(place)?;
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                let file = openat2(
                    &directory,
                    name,
                    flags,
                    Mode::from_raw_mode(0o600),
                    RESOLVE_BENEATH,
                )?;
                let file = File::from(file);
                budget.copy(body, Some(&file))?;
                crash_point!("unpack.file-written");
                finish(file.as_fd(), attributes)
            }
            EntryKind::Symlink(target) => {
                let (directory, name) = self.vacate(place)?;
                symlinkat(target, &directory, name)?;
                utimensat(
                    &directory,
                    name,
                    &times(attributes),
                    AtFlags::SYMLINK_NOFOLLOW,
                )?;
                if let Some((user, group)) = attributes.owner {
                    let (user, group) = (Uid::from_raw(user), Gid::from_raw(group));
                    let flags = AtFlags::SYMLINK_NOFOLLOW;
                    chownat(&directory, name, Some(user), Some(group), flags)?;
                }
                Ok(())
            }
            EntryKind::HardLink(target) => self.put_hard_link(place, target),
            EntryKind::Special(_) if self.source == ArchivePurpose::Layer => {
                budget.skipped += 1;
                Ok(())
            }
            EntryKind::Special(kind) => Err(ArchiveRule::Special { kind: kind.clone() }.into()),
        }
    }

    /// Sets modes, owners and times of directories, deepest first: until then they must stay
    /// accessible.
    pub(super) fn finish(self) -> Result<(), EntryWriteError> {
        for (path, attributes) in self.dirs.into_iter().rev() {
            let directory = open_dir(&self.root, &path)?;
            finish(directory.as_fd(), attributes)?;
        }
        Ok(())
    }

    /// Returns the attributes that an entry may keep.
    fn allowed_attributes(&self, entry: &ArchiveEntry) -> EntryAttributes {
        let mode = match (self.source, &entry.kind) {
            // So that the owner of the files can still remove them.
            (ArchivePurpose::Archive, EntryKind::Directory) => {
                entry.attributes.mode & 0o777 | 0o700
            }
            // Including set-group-id, by which new files get the group of the directory.
            (ArchivePurpose::Layer, EntryKind::Directory) => entry.attributes.mode & 0o3777,
            // Including set-user-id: the mounts of images decide whether it has an effect.
            (ArchivePurpose::Layer, _) => entry.attributes.mode & 0o6777,
            (ArchivePurpose::Archive, _) => entry.attributes.mode & 0o777,
        };
        EntryAttributes {
            mode,
            ..entry.attributes
        }
    }

    fn put_dir(
        &mut self,
        place: &EntryPath,
        attributes: EntryAttributes,
    ) -> Result<(), EntryWriteError> {
        let Some((parent, name)) = place.split() else {
            // The target itself: for an image it is the root; for an archive it does not belong to
            // the archive.
            if self.source == ArchivePurpose::Layer {
                self.record_dir(Path::new(""), attributes)?;
            }
            return Ok(());
        };
        let parent = self.dir(parent)?;
        self.create_dir(&parent, name)?;
        self.record_dir(place.path(), attributes)
    }

    fn record_dir(
        &mut self,
        path: &Path,
        attributes: EntryAttributes,
    ) -> Result<(), EntryWriteError> {
        self.dirs.insert(path.to_owned(), attributes);
        let most = self.dirs_max;
        if self.dirs.len() as u64 > most {
            return Err(ArchiveRule::Entries { most }.into());
        }
        Ok(())
    }

    /// Creates a directory, replacing an entry of another type.
    fn create_dir(&self, parent: &OwnedFd, name: &OsStr) -> Result<(), EntryWriteError> {
        let found = lookup(parent, name)?;
        match found {
            ExistingEntry::Directory => return Ok(()),
            ExistingEntry::Nothing => {}
            ExistingEntry::File | ExistingEntry::Symlink | ExistingEntry::Whiteout => {
                unlinkat(parent, name, AtFlags::empty())?;
            }
        }
        mkdirat(parent, name, Mode::from_raw_mode(0o700))?;
        if found == ExistingEntry::Whiteout {
            // It hid the entry of lower layers, and still must.
            make_opaque(&open_dir(parent, Path::new(name))?)?;
        }
        Ok(())
    }

    fn put_hard_link(
        &mut self,
        place: &EntryPath,
        target: &EntryPath,
    ) -> Result<(), EntryWriteError> {
        let refused = || {
            let to = display_path(target.path().as_os_str().as_encoded_bytes());
            EntryWriteError::Rule(ArchiveRule::HardLink { to })
        };
        let (parent, target_name) = target.split().ok_or_else(refused)?;
        if target == place {
            return Err(refused());
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let parent = if parent.as_os_str().is_empty() {
            Rc::clone(&self.root)
        } else {
            match openat2(&self.root, parent, flags, Mode::empty(), RESOLVE_BENEATH) {
                Ok(parent) => Rc::new(parent),
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Err(refused()),
                Err(errno) => return Err(errno.into()),
            }
        };
        match lookup(&parent, target_name)? {
            ExistingEntry::File => {}
            // The link itself, at another path: the move matters only where links must stay inside.
            ExistingEntry::Symlink if self.source == ArchivePurpose::Layer => {}
            ExistingEntry::Symlink
            | ExistingEntry::Nothing
            | ExistingEntry::Directory
            | ExistingEntry::Whiteout => return Err(refused()),
        }
        let (directory, name) = self.vacate(place)?;
        match linkat(&parent, target_name, &directory, name, AtFlags::empty()) {
            // The target was in a directory that was replaced.
            Err(Errno::NOENT) => Err(refused()),
            linked => Ok(linked?),
        }
    }

    /// Records that lower layers have nothing at this path.
    fn hide(&mut self, place: &EntryPath) -> Result<(), EntryWriteError> {
        let (parent, name) = place.split().ok_or(ArchiveRule::Whiteout)?;
        let parent = self.dir(parent)?;
        match lookup(&parent, name)? {
            // An entry of the same layer stays, regardless of the order.
            ExistingEntry::Directory => make_opaque(&open_dir(&parent, Path::new(name))?),
            ExistingEntry::Nothing => {
                let (kind, mode) = (FileType::CharacterDevice, Mode::empty());
                Ok(mknodat(&parent, name, kind, mode, makedev(0, 0))?)
            }
            ExistingEntry::File | ExistingEntry::Symlink | ExistingEntry::Whiteout => Ok(()),
        }
    }

    /// Records that lower layers have nothing in this directory.
    fn hide_below(&mut self, place: &EntryPath) -> Result<(), EntryWriteError> {
        self.dir(place.path())?;
        make_opaque(&open_dir(&self.root, place.path())?)
    }

    /// Returns the parent for a file and its name there, after removing an existing entry.
    fn vacate<'p>(
        &mut self,
        place: &'p EntryPath,
    ) -> Result<(Rc<OwnedFd>, &'p OsStr), EntryWriteError> {
        let (parent, name) = place.split().ok_or(ArchiveRule::NoName)?;
        let parent = self.dir(parent)?;
        match lookup(&parent, name)? {
            ExistingEntry::Nothing => {}
            ExistingEntry::File | ExistingEntry::Symlink | ExistingEntry::Whiteout => {
                unlinkat(&parent, name, AtFlags::empty())?;
            }
            ExistingEntry::Directory => {
                remove(&parent, name)?;
                self.last = None;
                let path = place.path();
                // Paths are ordered by name, so those below follow directly.
                let below = self.dirs.range(path.to_owned()..);
                let below = below.take_while(|(other, _)| other.starts_with(path));
                let below: Vec<_> = below.map(|(other, _)| other.clone()).collect();
                for other in below {
                    self.dirs.remove(&other);
                }
            }
        }
        Ok((parent, name))
    }

    /// Returns the directory at this path, which is created if the archive did not name it.
    fn dir(&mut self, path: &Path) -> Result<Rc<OwnedFd>, EntryWriteError> {
        if path.as_os_str().is_empty() {
            return Ok(Rc::clone(&self.root));
        }
        if let Some((last, directory)) = &self.last
            && last == path
        {
            return Ok(Rc::clone(directory));
        }
        let mut directory = Rc::clone(&self.root);
        let mut at = PathBuf::new();
        for name in path {
            at.push(name);
            directory = self.enter(&directory, name, &at)?;
        }
        self.last = Some((path.to_owned(), Rc::clone(&directory)));
        Ok(directory)
    }

    fn enter(
        &mut self,
        parent: &OwnedFd,
        name: &OsStr,
        at: &Path,
    ) -> Result<Rc<OwnedFd>, EntryWriteError> {
        let shown = || display_path(at.as_os_str().as_encoded_bytes());
        match lookup(parent, name)? {
            ExistingEntry::Directory => {}
            ExistingEntry::Symlink => return Err(ArchiveRule::ThroughLink { link: shown() }.into()),
            ExistingEntry::File => return Err(ArchiveRule::ThroughFile { file: shown() }.into()),
            ExistingEntry::Nothing | ExistingEntry::Whiteout => {
                self.create_dir(parent, name)?;
                let owner = (self.source == ArchivePurpose::Layer).then_some((0, 0));
                let usual = EntryAttributes {
                    mode: 0o755,
                    owner,
                    modified: None,
                };
                self.record_dir(at, usual)?;
            }
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Rc::new(openat2(
            parent,
            name,
            flags,
            Mode::empty(),
            RESOLVE_BENEATH,
        )?))
    }
}

pub(super) fn lookup(parent: &OwnedFd, name: &OsStr) -> Result<ExistingEntry, EntryWriteError> {
    let found = match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) => found,
        Err(Errno::NOENT) => return Ok(ExistingEntry::Nothing),
        Err(errno) => return Err(errno.into()),
    };
    Ok(match FileType::from_raw_mode(found.st_mode) {
        FileType::Directory => ExistingEntry::Directory,
        FileType::Symlink => ExistingEntry::Symlink,
        FileType::CharacterDevice if found.st_rdev == 0 => ExistingEntry::Whiteout,
        _ => ExistingEntry::File,
    })
}

/// Opens a directory for reading and changing.
pub(super) fn open_dir(parent: &OwnedFd, path: &Path) -> Result<OwnedFd, EntryWriteError> {
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat2(
        parent,
        path,
        flags,
        Mode::empty(),
        RESOLVE_BENEATH,
    )?)
}

fn make_opaque(directory: &OwnedFd) -> Result<(), EntryWriteError> {
    fsetxattr(directory, OPAQUE, b"y", XattrFlags::empty()).map_err(|errno| match errno {
        Errno::OPNOTSUPP => EntryWriteError::Write(std::io::Error::other(
            "its directory hides what lower layers have, which the file system of the target cannot record: it must take \
             attributes of the kind user, as ext4, xfs, btrfs do",
        )),
        errno => errno.into(),
    })
}

/// Sets mode and times while this process still owns the file, then the owner.
fn finish(file: BorrowedFd<'_>, attributes: EntryAttributes) -> Result<(), EntryWriteError> {
    if let Some((user, group)) = attributes.owner {
        fchown(file, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)))?;
    }
    // After the owner, because changing it clears set-user-id.
    fchmod(file, Mode::from_raw_mode(attributes.mode))?;
    futimens(file, &times(attributes))?;
    Ok(())
}

fn times(attributes: EntryAttributes) -> Timestamps {
    let time = match attributes.modified {
        Some(seconds) => Timespec {
            tv_sec: seconds,
            tv_nsec: 0,
        },
        None => Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

/// Removes a directory with its content. The depth is limited by that of entries, with one
/// descriptor per level. Not by `remove_tree`, because the unpacking process may rename nothing.
pub(super) fn remove(parent: &OwnedFd, name: &OsStr) -> Result<(), EntryWriteError> {
    let directory = open_dir(parent, Path::new(name))?;
    for entry in Dir::read_from(&directory)? {
        let entry = entry?;
        let bytes = entry.file_name().to_bytes();
        if bytes == b"." || bytes == b".." {
            continue;
        }
        let inner: &OsStr = std::os::unix::ffi::OsStrExt::from_bytes(bytes);
        match lookup(&directory, inner)? {
            ExistingEntry::Directory => remove(&directory, inner)?,
            ExistingEntry::Nothing
            | ExistingEntry::File
            | ExistingEntry::Symlink
            | ExistingEntry::Whiteout => {
                unlinkat(&directory, inner, AtFlags::empty())?;
            }
        }
    }
    Ok(unlinkat(parent, name, AtFlags::REMOVEDIR)?)
}
