//! Files that are written as a whole: each is complete under its name, or absent.
//!
//! The content is written to a draft in the same directory, which is then renamed. The directory is
//! opened once, both names are entries of it, and no link is followed there. A crash leaves the
//! former file, and maybe the draft, which the next write under the same draft's name replaces.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags, openat, renameat, renameat_with};
use rustix::io::{Errno, retry_on_intr};

/// Whether a file must survive a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Content and name are on disk when the write returns.
    Synced,
    /// A power cut may lose the file, or leave it empty or truncated.
    Cached,
}

/// The properties of a file that is written.
#[derive(Debug, Clone, Copy)]
pub struct WriteOptions {
    /// The permissions, from which the umask of the process is subtracted.
    pub mode: u32,
    pub durability: Durability,
}

impl WriteOptions {
    /// A file that other processes read at any time, and that must survive a power cut.
    pub const SYNCED: Self = Self {
        mode: 0o666,
        durability: Durability::Synced,
    };
    /// A file that other processes read at any time, and that need not survive a power cut.
    pub const CACHED: Self = Self {
        mode: 0o666,
        durability: Durability::Cached,
    };
}

/// A complete file that does not have its name yet. Removed on drop.
#[derive(Debug)]
pub struct Draft {
    directory: OwnedFd,
    name: OsString,
    durability: Durability,
    is_renamed: bool,
}

/// Creates or replaces the file at `path`. `draft` is the path of its draft, in the same directory,
/// which only one caller at a time may use.
///
/// # Errors
/// The operation that failed. Unless only the directory could not be synced, the former file is
/// unchanged.
pub fn replace(path: &Path, draft: &Path, bytes: &[u8], options: WriteOptions) -> io::Result<()> {
    let [name, draft] = [path, draft].map(Path::file_name);
    let (Some(name), Some(draft)) = (name, draft) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    Draft::write(directory_of(path), draft, bytes, options)?.replace(name)
}

impl Draft {
    /// Writes a draft. A leftover under its name is removed, unless it is a directory.
    ///
    /// # Errors
    /// The operation that failed.
    pub fn write(
        directory: &Path,
        name: &OsStr,
        bytes: &[u8],
        options: WriteOptions,
    ) -> io::Result<Self> {
        let access = match options.durability {
            Durability::Synced => OFlags::RDONLY,
            Durability::Cached => OFlags::PATH,
        };
        let flags = access | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = retry_on_intr(|| openat(CWD, directory, flags, Mode::empty()))?;
        let mut file = create(&directory, name, options.mode)?;
        let draft = Self {
            directory,
            name: name.to_owned(),
            durability: options.durability,
            is_renamed: false,
        };
        file.write_all(bytes)?;
        if options.durability == Durability::Synced {
            file.sync_all()?;
        }
        Ok(draft)
    }

    /// Gives the file its name. An existing entry is replaced, and a link is not followed.
    ///
    /// # Errors
    /// The operation that failed.
    pub fn replace(mut self, name: &OsStr) -> io::Result<()> {
        renameat(&self.directory, &self.name, &self.directory, name)?;
        self.sync_name()
    }

    /// Gives the file its name if no entry has that name.
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`], or the operation that failed.
    pub fn claim(mut self, name: &OsStr) -> io::Result<()> {
        let flags = RenameFlags::NOREPLACE;
        renameat_with(&self.directory, &self.name, &self.directory, name, flags)?;
        self.sync_name()
    }

    fn sync_name(&mut self) -> io::Result<()> {
        self.is_renamed = true;
        match self.durability {
            Durability::Synced => Ok(retry_on_intr(|| rustix::fs::fsync(&self.directory))?),
            Durability::Cached => Ok(()),
        }
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.is_renamed {
            // The next write of this draft replaces what cannot be removed now.
            let _ = rustix::fs::unlinkat(&self.directory, &self.name, AtFlags::empty());
        }
    }
}

/// Makes created, renamed and removed names in the directory durable.
///
/// # Errors
/// The operation that failed.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Creates an empty file, never one that another process has created or that a link leads to.
fn create(directory: &OwnedFd, name: &OsStr, mode: u32) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let create = || retry_on_intr(|| openat(directory, name, flags, Mode::from_raw_mode(mode)));
    let file = match create() {
        Err(Errno::EXIST) => {
            rustix::fs::unlinkat(directory, name, AtFlags::empty())?;
            create()?
        }
        other => other?,
    };
    Ok(file.into())
}

/// Returns the directory of a file; a plain name is in the current one.
#[must_use]
pub fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        Some(_) | None => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::PathBuf;

    use super::*;

    const OPTIONS: WriteOptions = WriteOptions {
        mode: 0o600,
        durability: Durability::Synced,
    };

    fn name(text: &str) -> &OsStr {
        OsStr::new(text)
    }

    fn draft() -> &'static Path {
        Path::new("draft")
    }

    fn names(directory: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(directory).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_created_and_replaced_without_a_draft_left() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        for durability in [Durability::Synced, Durability::Cached] {
            for text in ["a longer text", "short"] {
                let options = WriteOptions {
                    durability,
                    ..OPTIONS
                };
                replace(&path, draft(), text.as_bytes(), options).unwrap();
                assert_eq!(fs::read_to_string(&path).unwrap(), text);
            }
        }
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(names(directory.path()), [PathBuf::from("file")]);
    }

    #[test]
    fn a_reader_of_the_former_file_keeps_its_content() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, "former").unwrap();
        let former = File::open(&path).unwrap();
        replace(&path, draft(), b"new", OPTIONS).unwrap();
        assert_eq!(io::read_to_string(former).unwrap(), "former");
    }

    #[test]
    fn a_draft_that_a_crash_left_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, "former").unwrap();
        let left = directory.path().join("draft");
        fs::write(&left, "a torn draft, longer than the text").unwrap();
        fs::set_permissions(&left, fs::Permissions::from_mode(0o444)).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "former");
        replace(&path, draft(), b"new", OPTIONS).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(names(directory.path()), [PathBuf::from("file")]);
    }

    #[test]
    fn links_are_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let victim = directory.path().join("victim");
        fs::write(&victim, "kept").unwrap();
        for linked in ["draft", "file"] {
            symlink(&victim, directory.path().join(linked)).unwrap();
        }
        let path = directory.path().join("file");
        replace(&path, draft(), b"new", OPTIONS).unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "kept");
        assert!(!path.is_symlink());
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
    }

    #[test]
    fn an_existing_name_is_claimed_only_once() {
        let directory = tempfile::tempdir().unwrap();
        let write = |text: &str| {
            Draft::write(directory.path(), name("draft"), text.as_bytes(), OPTIONS).unwrap()
        };
        write("first").claim(name("file")).unwrap();
        let refused = write("second").claim(name("file")).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
        let path = directory.path().join("file");
        assert_eq!(fs::read_to_string(path).unwrap(), "first");
        assert_eq!(names(directory.path()), [PathBuf::from("file")]);
    }

    #[test]
    fn a_failed_write_leaves_no_draft() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::create_dir_all(path.join("inner")).unwrap();
        replace(&path, draft(), b"new", OPTIONS).unwrap_err();
        assert_eq!(names(directory.path()), [PathBuf::from("file")]);
        let gone = directory.path().join("gone/file");
        let error = replace(&gone, draft(), b"new", OPTIONS).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        fs::create_dir(directory.path().join("draft")).unwrap();
        replace(&directory.path().join("other"), draft(), b"new", OPTIONS).unwrap_err();
        let nameless = replace(Path::new("/"), draft(), b"new", OPTIONS).unwrap_err();
        assert_eq!(nameless.kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn a_plain_name_is_in_the_current_directory() {
        assert_eq!(directory_of(Path::new("pid")), Path::new("."));
        assert_eq!(directory_of(Path::new("/run/pid")), Path::new("/run"));
        assert_eq!(directory_of(Path::new("/pid")), Path::new("/"));
    }
}
