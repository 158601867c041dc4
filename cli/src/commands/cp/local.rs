//! Files and directories of this host below one that the user has named. Each entry is opened
//! relative to its directory, and no link is followed: nothing outside is read or written.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Seek as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, fchmod, mkdirat, openat, renameat, statat, unlinkat,
};
use rustix::io::Errno;

/// The bits of a mode that are copied: no setuid, setgid and sticky.
const PERMISSIONS: u32 = 0o777;
/// The permissions of a file whose mode is not known.
pub(super) const DEFAULT_MODE: u32 = 0o644;
/// The permissions of a directory whose mode is not known.
pub(super) const DIRECTORY_MODE: u32 = 0o755;

/// An open directory.
#[derive(Debug)]
pub(super) struct LocalDirectory {
    directory: OwnedFd,
}

/// An entry of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LocalEntry {
    pub(super) kind: FileType,
    /// The permissions.
    pub(super) mode: u32,
}

impl LocalDirectory {
    /// Opens a directory that the user has named; a link to it is followed.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat(CWD, path, flags, Mode::empty())?;
        Ok(Self { directory })
    }

    /// Opens the directory that has, or will have, this entry.
    pub(super) fn parent_of(path: &Path) -> io::Result<Self> {
        match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => Self::open(parent),
            _ => Self::open(Path::new(".")),
        }
    }

    pub(super) fn directory(&self, name: &OsStr) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = openat(&self.directory, name, flags, Mode::empty())?;
        Ok(Self { directory })
    }

    /// Opens the directory at these components.
    pub(super) fn below(&self, parts: &[OsString]) -> io::Result<Self> {
        let mut at = Self {
            directory: self.directory.try_clone()?,
        };
        for part in parts {
            at = at.directory(part)?;
        }
        Ok(at)
    }

    /// Opens a directory, and creates it if there is none; returns whether it was created. Then
    /// only its owner has access until its mode is set.
    pub(super) fn create(&self, name: &OsStr) -> io::Result<(Self, bool)> {
        let is_new = match mkdirat(&self.directory, name, Mode::from_raw_mode(0o700)) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(errno) => return Err(errno.into()),
        };
        match self.directory(name) {
            Err(error) if !is_new && error.kind() == io::ErrorKind::NotADirectory => Err(
                io::Error::other("the entry of this name here is no directory"),
            ),
            opened => opened.map(|directory| (directory, is_new)),
        }
    }

    pub(super) fn set_mode(&self, mode: u32) -> io::Result<()> {
        Ok(fchmod(&self.directory, permissions(mode))?)
    }

    /// Returns the entry of this name; `None` if there is none.
    pub(super) fn entry(&self, name: &OsStr) -> io::Result<Option<LocalEntry>> {
        match statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => Ok(Some(LocalEntry {
                kind: FileType::from_raw_mode(found.st_mode),
                mode: found.st_mode & PERMISSIONS,
            })),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Returns the names of all entries in order.
    pub(super) fn names(&self) -> io::Result<Vec<OsString>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(self.directory.as_fd())? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(OsStr::from_bytes(name).to_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    /// Opens a regular file for reading.
    pub(super) fn file(&self, name: &OsStr) -> io::Result<File> {
        // Does not wait for a writer if the file was replaced by a FIFO.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(openat(&self.directory, name, flags, Mode::empty())?);
        match file.metadata()?.is_file() {
            true => Ok(file),
            false => Err(io::Error::other("it is no regular file")),
        }
    }

    /// Begins a file that will have this name. Only a regular file of this name is replaced.
    pub(super) fn draft(&self, name: &OsStr) -> io::Result<LocalDraft> {
        match self.entry(name)?.map(|entry| entry.kind) {
            None | Some(FileType::RegularFile) => {}
            Some(FileType::Directory) => return Err(io::ErrorKind::IsADirectory.into()),
            Some(FileType::Symlink) => {
                return Err(io::Error::other(
                    "a link has this name here; name the file that it leads to",
                ));
            }
            Some(_) => {
                return Err(io::Error::other("a special file has this name here"));
            }
        }
        let number =
            crate::random::number().map_err(|error| io::Error::other(format!("{error:#}")))?;
        let draft = OsString::from(format!(".argosy-cp-{number:016x}"));
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&self.directory, &draft, flags, Mode::from_raw_mode(0o600))?;
        Ok(LocalDraft {
            directory: self.directory.try_clone()?,
            draft,
            name: name.to_owned(),
            file: file.into(),
            is_renamed: false,
        })
    }
}

/// An incomplete file, under another name. Removed on drop.
#[derive(Debug)]
pub(super) struct LocalDraft {
    directory: OwnedFd,
    draft: OsString,
    name: OsString,
    file: File,
    is_renamed: bool,
}

impl LocalDraft {
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    /// Removes what was written.
    pub(super) fn restart(&mut self) -> io::Result<()> {
        self.file.rewind()?;
        self.file.set_len(0)
    }

    /// Gives the complete file its mode and its name.
    pub(super) fn finish(mut self, mode: u32) -> io::Result<()> {
        fchmod(&self.file, permissions(mode))?;
        renameat(&self.directory, &self.draft, &self.directory, &self.name)?;
        self.is_renamed = true;
        Ok(())
    }
}

impl Drop for LocalDraft {
    fn drop(&mut self) {
        if !self.is_renamed {
            // There is no later attempt; the name shows where it comes from.
            let _ = unlinkat(&self.directory, &self.draft, AtFlags::empty());
        }
    }
}

fn permissions(mode: u32) -> Mode {
    Mode::from_raw_mode(mode & PERMISSIONS)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use super::*;

    fn name(name: &str) -> &OsStr {
        OsStr::new(name)
    }

    #[test]
    fn a_file_has_its_name_only_when_it_is_complete() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("a"), "former").unwrap();
        let local = LocalDirectory::open(directory.path()).unwrap();
        let mut draft = local.draft(name("a")).unwrap();
        draft.write(b"half of").unwrap();
        draft.restart().unwrap();
        draft.write(b"new").unwrap();
        assert_eq!(fs::read(directory.path().join("a")).unwrap(), b"former");
        draft.finish(0o104_750).unwrap();
        assert_eq!(fs::read(directory.path().join("a")).unwrap(), b"new");
        let mode = fs::metadata(directory.path().join("a")).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o750, "without setuid");
        let mut draft = local.draft(name("b")).unwrap();
        draft.write(b"part").unwrap();
        drop(draft);
        assert_eq!(local.names().unwrap(), ["a"]);
    }

    #[test]
    fn no_link_is_followed_and_no_special_file_replaced() {
        let (inside, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(outside.path().join("secret"), "kept").unwrap();
        symlink(outside.path(), inside.path().join("directory")).unwrap();
        symlink(outside.path().join("secret"), inside.path().join("file")).unwrap();
        let local = LocalDirectory::open(inside.path()).unwrap();
        let error = local.create(name("directory")).unwrap_err();
        assert!(error.to_string().contains("no directory"), "{error}");
        assert!(local.directory(name("directory")).is_err());
        assert!(local.below(&["directory".into()]).is_err());
        assert!(local.file(name("file")).is_err());
        let error = local.draft(name("file")).unwrap_err();
        assert!(error.to_string().contains("a link"), "{error}");
        fs::create_dir(inside.path().join("own")).unwrap();
        let error = local.draft(name("own")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::IsADirectory);
        let devices = LocalDirectory::open(Path::new("/dev")).unwrap();
        let error = devices.draft(name("null")).unwrap_err();
        assert!(error.to_string().contains("special"), "{error}");
        assert_eq!(fs::read(outside.path().join("secret")).unwrap(), b"kept");
    }

    #[test]
    fn directories_are_created_once_and_closed_until_their_mode_is_set() {
        let directory = tempfile::tempdir().unwrap();
        let local = LocalDirectory::open(directory.path()).unwrap();
        let (created, is_new) = local.create(name("a")).unwrap();
        assert!(is_new);
        assert_eq!(local.entry(name("a")).unwrap().unwrap().mode, 0o700);
        created.set_mode(0o40_755).unwrap();
        assert_eq!(local.entry(name("a")).unwrap().unwrap().mode, 0o755);
        assert!(!local.create(name("a")).unwrap().1);
        assert_eq!(local.entry(name("b")).unwrap(), None);
    }
}
