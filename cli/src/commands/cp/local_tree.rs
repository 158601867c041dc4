//! The content of a directory of this host that is copied to a task.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

use rustix::fs::FileType;

use super::MAX_DEPTH;
use super::local::LocalDirectory;
use super::progress::Progress;
use crate::exit::Failure;

/// Maximum number of entries of a directory, with those below it.
const MAX_ENTRIES: usize = 100_000;

/// The directories and files below a directory, as components below it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct LocalTree {
    /// With their modes. Each is before those in it.
    pub(super) directories: Vec<(Vec<OsString>, u32)>,
    pub(super) files: Vec<Vec<OsString>>,
}

impl LocalTree {
    /// Lists a directory and those below it. Links and special files are left out.
    pub(super) fn read(root: &LocalDirectory, progress: &Progress) -> Result<Self, Failure> {
        let mut tree = Self::default();
        let mut pending = vec![Vec::new()];
        while let Some(parts) = pending.pop() {
            if let Err(error) = tree.add_entries(root, &parts, progress, &mut pending) {
                progress.leave_out(&display(&parts), &error.to_string());
            }
            if tree.directories.len() + tree.files.len() > MAX_ENTRIES {
                return Err(Failure::failed(format!(
                    "the directory has more than {MAX_ENTRIES} entries"
                ))
                .advise("copy an archive of it, or parts of it"));
            }
        }
        Ok(tree)
    }

    fn add_entries(
        &mut self,
        root: &LocalDirectory,
        parts: &[OsString],
        progress: &Progress,
        pending: &mut Vec<Vec<OsString>>,
    ) -> io::Result<()> {
        let directory = root.below(parts)?;
        for name in directory.names()? {
            let Some(entry) = directory.entry(&name)? else {
                continue;
            };
            let is_utf8 = name.to_str().is_some();
            let parts = [parts, &[name]].concat();
            let left_out = match entry.kind {
                _ if !is_utf8 => "its name is not UTF-8",
                FileType::Symlink => "it is a link",
                FileType::Directory if parts.len() > MAX_DEPTH => {
                    "it is deeper than 100 directories"
                }
                FileType::Directory => {
                    pending.push(parts.clone());
                    self.directories.push((parts, entry.mode));
                    continue;
                }
                FileType::RegularFile => {
                    self.files.push(parts);
                    continue;
                }
                _ => "it is a special file",
            };
            progress.leave_out(&display(&parts), left_out);
        }
        Ok(())
    }
}

/// Returns a path for messages.
pub(super) fn display(parts: &[OsString]) -> String {
    let path: PathBuf = parts.iter().collect();
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::fs;
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_and_special_files_are_left_out() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        fs::create_dir_all(path.join("a/b")).unwrap();
        fs::write(path.join("a/b/file"), "x").unwrap();
        symlink("/etc", path.join("a/etc")).unwrap();
        symlink("b", path.join("a/inside")).unwrap();
        let fifo = path.join("a/pipe");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        fs::write(path.join(OsStr::from_bytes(b"bad\xff")), "x").unwrap();
        let root = LocalDirectory::open(path).unwrap();
        let progress = Progress::new(true);
        let tree = LocalTree::read(&root, &progress).unwrap();
        let directories = tree.directories.iter();
        let directories: Vec<_> = directories.map(|(parts, _)| display(parts)).collect();
        assert_eq!(directories, ["a", "a/b"]);
        let files: Vec<_> = tree.files.iter().map(|parts| display(parts)).collect();
        assert_eq!(files, ["a/b/file"]);
        assert_eq!(progress.left_out(), 4);
    }
}
