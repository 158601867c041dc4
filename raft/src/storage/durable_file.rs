//! Small files of a data directory: each is complete under its name, or absent, even after a power
//! cut ([`argosy_host::atomic_file`]).
//!
//! A crash leaves the former file, or none, and perhaps the unfinished one, which the next write
//! replaces.

use std::io;
use std::path::{Path, PathBuf};

use argosy_host::atomic_file::{self, WriteOptions};

/// Writes the file, or replaces it. Durable on return.
pub(crate) fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    atomic_file::replace(path, &unfinished(path), content, WriteOptions::SYNCED)
}

/// Returns the path of the file while it is written.
pub(crate) fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".unfinished");
    name.into()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_write_replaces_the_file_and_what_a_crash_has_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        for content in ["first", "a longer second", "third"] {
            // The state after a crash between the write and the rename.
            fs::write(unfinished(&path), "what a crash has left").unwrap();
            write(&path, content.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
            assert!(!unfinished(&path).exists());
        }
    }

    #[test]
    fn a_write_that_fails_leaves_the_former_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        write(&path, b"former").unwrap();
        // No file can be created under this name.
        fs::create_dir(unfinished(&path)).unwrap();
        assert!(write(&path, b"newer").is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "former");
    }

    #[test]
    fn an_unfinished_file_is_in_the_directory_of_the_finished_one() {
        let path = Path::new("/data/FORMAT");
        assert_eq!(unfinished(path), Path::new("/data/FORMAT.unfinished"));
    }
}
