//! Files that exist whole or not at all, even after a power cut.
//!
//! A file is written and synced under another name, then renamed. A crash leaves the former file,
//! or none, and perhaps the file with the other name, which the next write replaces.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// Writes the file, or replaces it. Durable on return.
pub(crate) fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let unfinished = unfinished(path);
    let mut file = File::create(&unfinished)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&unfinished, path)?;
    sync_directory(path.parent().unwrap_or(Path::new(".")))
}

/// Returns the path of the file while it is written.
pub(crate) fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".unfinished");
    name.into()
}

/// Makes created, renamed and removed names in the directory durable.
pub(crate) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
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
