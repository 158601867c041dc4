//! Copying the layers of an image into one directory, where no overlay can be mounted.
//!
//! The directory has the content that an overlay over the layers would show. Layers are read from
//! disk through descriptors and without following links; they were checked when they were unpacked.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, Dir, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, chownat, fchmod, fchown,
    fgetxattr, fstat, futimens, linkat, mkdirat, open, openat2, readlinkat, statat, symlinkat,
    unlinkat, utimensat,
};
use rustix::io::Errno;

use super::error::EntryWriteError;
use super::tree::{ExistingEntry, OPAQUE, RESOLVE_BENEATH, lookup, open_dir, remove};

/// The maximum depth of directories: far above any rule for layers.
const DEPTH_MAX: u32 = 1000;
/// The number of bytes copied at a time.
const CHUNK_BYTES: u64 = 16 << 20;

/// An error of copying layers into one directory, which is then incomplete.
#[derive(Debug, thiserror::Error)]
#[error("cannot copy {path} of the layer {layer} into one directory")]
pub struct CopyError {
    pub layer: PathBuf,
    /// The file or directory in it; empty for the layer itself.
    pub path: PathBuf,
    pub source: io::Error,
}

/// Copies `layers`, lowest first, into the directory `target`, which should be new. Owners, modes,
/// modification times and links are kept; what upper layers hide is left out. The copy stops when
/// `goes_on` returns false, which is called for each entry and each 16 MiB. For host root.
///
/// # Errors
/// With the layer and the file at which it failed or stopped.
pub fn copy_layers(
    layers: &[PathBuf],
    target: BorrowedFd<'_>,
    goes_on: &dyn Fn() -> bool,
) -> Result<(), CopyError> {
    for layer in layers {
        let mut copy = LayerCopy {
            path: PathBuf::new(),
            linked: HashMap::new(),
            root: target,
            should_continue: goes_on,
        };
        copy.layer(layer).map_err(|fault| CopyError {
            layer: layer.clone(),
            path: copy.path,
            source: match fault {
                EntryWriteError::Read(error) | EntryWriteError::Write(error) => error,
                EntryWriteError::Rule(rule) => io::Error::other(rule),
            },
        })?;
    }
    Ok(())
}

struct LayerCopy<'a> {
    /// The current path.
    path: PathBuf,
    /// Files with several names, by device and inode: the path of the first copy.
    linked: HashMap<(u64, u64), PathBuf>,
    root: BorrowedFd<'a>,
    should_continue: &'a dyn Fn() -> bool,
}

impl LayerCopy<'_> {
    fn layer(&mut self, layer: &Path) -> Result<(), EntryWriteError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let from = open(layer, flags, Mode::empty())?;
        let to = openat2(self.root, ".", flags, Mode::empty(), RESOLVE_BENEATH)?;
        self.directory(&from, &to, 0)
    }

    /// Copies the content of a directory, then its attributes.
    fn directory(
        &mut self,
        from: &OwnedFd,
        to: &OwnedFd,
        depth: u32,
    ) -> Result<(), EntryWriteError> {
        if depth > DEPTH_MAX {
            return Err(EntryWriteError::Write(io::Error::other(
                "it is deeper than 1000 directories",
            )));
        }
        let mut value = [0; 1];
        if fgetxattr(from, OPAQUE, &mut value).is_ok_and(|length| value[..length] == *b"y") {
            names(to)?.iter().try_for_each(|name| clear(to, name))?;
        }
        for name in names(from)? {
            self.path.push(&name);
            self.entry(from, to, &name, depth)?;
            self.path.pop();
        }
        finish(to.as_fd(), &fstat(from)?)
    }

    fn entry(
        &mut self,
        from: &OwnedFd,
        to: &OwnedFd,
        name: &OsStr,
        depth: u32,
    ) -> Result<(), EntryWriteError> {
        self.check_cancelled()?;
        let found = lookup(from, name)?;
        if found != ExistingEntry::Directory {
            clear(to, name)?;
        }
        match found {
            // A whiteout: the hidden entry has just been removed.
            ExistingEntry::Nothing | ExistingEntry::Whiteout => Ok(()),
            ExistingEntry::Directory => {
                if lookup(to, name)? != ExistingEntry::Directory {
                    clear(to, name)?;
                    mkdirat(to, name, Mode::from_raw_mode(0o700))?;
                }
                let inner = open_dir(from, Path::new(name))?;
                self.directory(&inner, &open_dir(to, Path::new(name))?, depth + 1)
            }
            ExistingEntry::Symlink => {
                let data = statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
                let target = readlinkat(from, name, Vec::new())?;
                symlinkat(target.as_c_str(), to, name)?;
                let (user, group) = owner(&data);
                chownat(to, name, Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW)?;
                Ok(utimensat(
                    to,
                    name,
                    &times(&data),
                    AtFlags::SYMLINK_NOFOLLOW,
                )?)
            }
            ExistingEntry::File => self.file(from, to, name),
        }
    }

    fn file(&mut self, from: &OwnedFd, to: &OwnedFd, name: &OsStr) -> Result<(), EntryWriteError> {
        // Opening must not block on a pipe.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let from = openat2(from, name, flags, Mode::empty(), RESOLVE_BENEATH)?;
        let data = fstat(&from)?;
        if !rustix::fs::FileType::from_raw_mode(data.st_mode).is_file() {
            return Err(EntryWriteError::Write(io::Error::other(
                "it is not a file, directory or link",
            )));
        }
        let key = (data.st_dev, data.st_ino);
        if let Some(first) = self.linked.get(&key) {
            let root = openat2(
                self.root,
                ".",
                OFlags::PATH | OFlags::CLOEXEC,
                Mode::empty(),
                RESOLVE_BENEATH,
            )?;
            let directory = open_dir(&root, first.parent().unwrap_or(Path::new("")))?;
            let first = first.file_name().unwrap_or_default();
            return Ok(linkat(&directory, first, to, name, AtFlags::empty())?);
        }
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let to = openat2(to, name, flags, Mode::from_raw_mode(0o600), RESOLVE_BENEATH)?;
        let (from, mut to) = (File::from(from), File::from(to));
        while io::copy(&mut (&from).take(CHUNK_BYTES), &mut to).map_err(EntryWriteError::Write)? > 0
        {
            self.check_cancelled()?;
        }
        if data.st_nlink > 1 {
            self.linked.insert(key, self.path.clone());
        }
        finish(to.as_fd(), &data)
    }

    fn check_cancelled(&self) -> Result<(), EntryWriteError> {
        match (self.should_continue)() {
            true => Ok(()),
            false => Err(EntryWriteError::Write(io::Error::other("it was cancelled"))),
        }
    }
}

fn names(directory: &OwnedFd) -> Result<Vec<OsString>, EntryWriteError> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(OsString::from_vec(name));
        }
    }
    // Links come after the file that they refer to, in the same order each time.
    names.sort_by(|one, other| one.as_bytes().cmp(other.as_bytes()));
    Ok(names)
}

fn clear(directory: &OwnedFd, name: &OsStr) -> Result<(), EntryWriteError> {
    match lookup(directory, name)? {
        ExistingEntry::Nothing => Ok(()),
        ExistingEntry::Directory => remove(directory, name),
        ExistingEntry::File | ExistingEntry::Symlink | ExistingEntry::Whiteout => {
            match unlinkat(directory, name, AtFlags::empty()) {
                Err(Errno::NOENT) => Ok(()),
                removed => Ok(removed?),
            }
        }
    }
}

fn finish(to: BorrowedFd<'_>, data: &Stat) -> Result<(), EntryWriteError> {
    let (user, group) = owner(data);
    fchown(to, Some(user), Some(group))?;
    fchmod(to, Mode::from_raw_mode(data.st_mode & 0o7777))?;
    Ok(futimens(to, &times(data))?)
}

fn owner(data: &Stat) -> (Uid, Gid) {
    (Uid::from_raw(data.st_uid), Gid::from_raw(data.st_gid))
}

fn times(data: &Stat) -> Timestamps {
    let time = Timespec {
        tv_sec: data.st_mtime,
        tv_nsec: data.st_mtime_nsec as _,
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}
