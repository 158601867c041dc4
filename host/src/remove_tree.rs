//! Removal of untrusted directory trees, however deep and full, with a fixed number of descriptors,
//! no recursion, and memory for one name at a time.
//!
//! Follows no link and never uses `..`: deep entries are moved to the top, emptied there and
//! removed. The kernel refuses that for mount points, and so does this module. Modes of directories
//! do not keep their owner from removing them.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::crash_point;

/// Removes a directory with all its content. A later call removes what an interrupted one left.
///
/// For directories that no process fills any more: one that keeps creating files prevents the
/// removal from ending.
///
/// # Errors
/// If it is not a directory, something is mounted in it, or the disk refuses. What could not be
/// removed is still in it, maybe under another name.
pub fn remove_dir_all(path: &Path) -> io::Result<()> {
    let top = open(CWD, path)?;
    let mut moved = 0;
    while for_each_entry(top.as_fd(), &mut |name| {
        remove_entry(top.as_fd(), name, &mut moved)
    })? {}
    crash_point!("disposal.emptied");
    fs::remove_dir(path)
}

/// Removes a file, or a directory as [`remove_dir_all`] does. A link itself is removed.
///
/// # Errors
/// If there is no such entry, or as for a directory.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path)?.is_dir() {
        true => remove_dir_all(path),
        false => fs::remove_file(path),
    }
}

/// Calls `remove` for every entry; returns false if there was none.
fn for_each_entry(
    directory: BorrowedFd<'_>,
    remove: &mut dyn FnMut(&TreeEntry<'_>) -> io::Result<()>,
) -> io::Result<bool> {
    let mut some = false;
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        some = true;
        let is_directory = match entry.file_type() {
            FileType::Unknown => {
                let found = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
                FileType::from_raw_mode(found.st_mode).is_dir()
            }
            known => known.is_dir(),
        };
        remove(&TreeEntry {
            name,
            is_dir: is_directory,
        })?;
    }
    Ok(some)
}

/// An entry of a directory.
struct TreeEntry<'a> {
    name: &'a std::ffi::CStr,
    is_dir: bool,
}

/// Removes an entry of the top. Directories in it are moved to the top, where a later pass finds
/// them.
fn remove_entry(top: BorrowedFd<'_>, entry: &TreeEntry<'_>, moved: &mut u64) -> io::Result<()> {
    if !entry.is_dir {
        return Ok(rustix::fs::unlinkat(top, entry.name, AtFlags::empty())?);
    }
    if remove_empty(top, entry.name)? {
        return Ok(());
    }
    let directory = open(top, entry.name)?;
    let mut raise = |inner: &TreeEntry<'_>| {
        if !inner.is_dir {
            return Ok(rustix::fs::unlinkat(
                &directory,
                inner.name,
                AtFlags::empty(),
            )?);
        }
        // Moving a directory needs permission to write to it, which removing it does not.
        match remove_empty(directory.as_fd(), inner.name)? {
            true => Ok(()),
            false => move_up(directory.as_fd(), inner, top, moved),
        }
    };
    while for_each_entry(directory.as_fd(), &mut raise)? {}
    Ok(rustix::fs::unlinkat(top, entry.name, AtFlags::REMOVEDIR)?)
}

/// Removes a directory if it is empty; returns whether it was.
fn remove_empty(directory: BorrowedFd<'_>, name: &std::ffi::CStr) -> io::Result<bool> {
    match rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR) {
        Ok(()) => Ok(true),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

fn move_up(
    directory: BorrowedFd<'_>,
    entry: &TreeEntry<'_>,
    top: BorrowedFd<'_>,
    moved: &mut u64,
) -> io::Result<()> {
    let mut is_permitted = false;
    loop {
        *moved += 1;
        let name = format!(".removed-{moved}");
        let flags = RenameFlags::NOREPLACE;
        match rustix::fs::renameat_with(directory, entry.name, top, name.as_str(), flags) {
            // A name that already exists: untrusted, or left by an interrupted removal.
            Err(Errno::EXIST) => {}
            // A directory that is moved must itself be writable: its parent changes.
            Err(Errno::ACCESS) if !is_permitted => {
                permit_owner(directory, entry.name)?;
                is_permitted = true;
            }
            other => {
                crash_point!("disposal.moved-up");
                return Ok(other?);
            }
        }
    }
}

/// Opens a directory, and gives its owner all permissions to it.
fn open(at: BorrowedFd<'_>, name: impl rustix::path::Arg + Copy) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = match rustix::fs::openat(at, name, flags, Mode::empty()) {
        Err(Errno::ACCESS) => {
            permit_owner(at, name)?;
            rustix::fs::openat(at, name, flags, Mode::empty())?
        }
        opened => opened?,
    };
    let mode = Mode::from_raw_mode(rustix::fs::fstat(&opened)?.st_mode);
    if !mode.contains(Mode::RWXU) {
        // Only its owner can. Otherwise the removal of its content reports what is missing.
        let _ = rustix::fs::fchmod(&opened, Mode::RWXU);
    }
    Ok(opened)
}

/// Gives the owner of a directory all permissions to it.
fn permit_owner(at: BorrowedFd<'_>, name: impl rustix::path::Arg) -> rustix::io::Result<()> {
    // Such a descriptor needs no permission to the directory. Its path in /proc leads to the
    // directory that was opened, whatever has its name now.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found = rustix::fs::openat(at, name, flags, Mode::empty())?;
    let path = format!("/proc/self/fd/{}", found.as_raw_fd());
    // For others than the owner, the error is the one before.
    rustix::fs::chmod(path, Mode::RWXU).map_err(|_| Errno::ACCESS)
}

#[cfg(test)]
mod tests {
    use std::fs::{File, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    /// Creates a chain of directories that no path of the kernel could name.
    fn create_deep(directory: &Path, depth: usize) {
        let mut place = open(CWD, directory).unwrap();
        for level in 0..depth {
            rustix::fs::mkdirat(&place, "deeper", Mode::RWXU).unwrap();
            if level % 1_000 == 0 {
                rustix::fs::mkdirat(&place, ".removed-1", Mode::RWXU).unwrap();
            }
            place = open(place.as_fd(), "deeper").unwrap();
        }
    }

    #[test]
    fn a_directory_is_removed_without_following_links() {
        let directory = tempfile::tempdir().unwrap();
        let (kept, filled) = (
            directory.path().join("kept"),
            directory.path().join("filled"),
        );
        fs::create_dir_all(filled.join("a/b/c")).unwrap();
        fs::create_dir(&kept).unwrap();
        for file in [
            "kept/file",
            "filled/file",
            "filled/a/b/file",
            "filled/a/b/c/.file",
        ] {
            File::create(directory.path().join(file)).unwrap();
        }
        symlink(&kept, filled.join("a/link")).unwrap();
        symlink("nowhere", filled.join("a/b/c/dangling")).unwrap();
        remove_dir_all(&filled).unwrap();
        assert!(!filled.exists());
        assert!(kept.join("file").exists());
        let link = directory.path().join("link");
        symlink(&kept, &link).unwrap();
        assert!(remove_dir_all(&link).is_err(), "a link is no directory");
        assert!(kept.join("file").exists());
        let gone = remove_dir_all(&filled).unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn directories_of_any_mode_are_removed_by_their_owner() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("top");
        let modes = [
            ("", 0o500),
            ("empty", 0o555),
            ("full", 0o555),
            ("full/inner", 0o555),
            ("full/inner/deeper", 0o444),
            ("closed", 0),
            ("closed/inner", 0o111),
        ];
        for (directory, _) in modes {
            fs::create_dir_all(top.join(directory)).unwrap();
        }
        for directory in ["", "full", "full/inner/deeper", "closed/inner"] {
            File::create(top.join(directory).join("file")).unwrap();
        }
        let is_root = nix::unistd::geteuid().is_root();
        let nobody = nix::unistd::Uid::from_raw(65_534);
        for (directory, mode) in modes.into_iter().rev() {
            let path = top.join(directory);
            if is_root {
                std::os::unix::fs::chown(&path, Some(nobody.as_raw()), None).unwrap();
            }
            fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        }
        fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).unwrap();
        std::thread::scope(|scope| {
            let removal = scope.spawn(|| {
                if is_root {
                    // Of this thread only: root may write to every directory.
                    nix::unistd::setfsuid(nobody);
                }
                remove_dir_all(&top)
            });
            removal.join().unwrap().unwrap();
        });
        assert!(!top.exists());
    }

    #[test]
    fn files_links_and_directories_are_removed_by_one_call() {
        let directory = tempfile::tempdir().unwrap();
        let (kept, link) = (directory.path().join("kept"), directory.path().join("link"));
        fs::create_dir_all(kept.join("inner")).unwrap();
        symlink(&kept, &link).unwrap();
        remove(&link).unwrap();
        assert!(kept.join("inner").exists());
        remove(&kept).unwrap();
        let file = directory.path().join("file");
        File::create(&file).unwrap();
        remove(&file).unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        let gone = remove(&file).unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn neither_depth_nor_number_prevents_the_removal_of_a_directory() {
        let directory = tempfile::tempdir().unwrap();
        let filled = directory.path().join("filled");
        fs::create_dir_all(filled.join("many")).unwrap();
        create_deep(&filled, 5_000);
        for number in 0..2_000 {
            File::create(filled.join(format!("many/{number}"))).unwrap();
        }
        // A thread with a small stack, like those of an async runtime.
        let small = std::thread::Builder::new().stack_size(128 * 1024);
        let removal = small.spawn(move || remove_dir_all(&filled).map(|()| filled.exists()));
        assert!(!removal.unwrap().join().unwrap().unwrap());
    }
}
