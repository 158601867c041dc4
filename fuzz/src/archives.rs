//! Archives and layers of images, which are unpacked into a directory in memory.

use std::fs::{self, File};
use std::io::{Seek as _, Write as _};
use std::ops::ControlFlow;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use argosy_host::remove_tree::remove_dir_all;
use argosy_isolation::unpack::{ArchiveFormat, UnpackLimits, UnpackResult, unpack};
use sha2::{Digest as _, Sha256};

use crate::property::check_error;

/// The most bytes and entries of an archive here, so that inputs stay fast.
const BYTES_MAX: u64 = 256 << 10;
const ENTRIES_MAX: u64 = 64;

/// A directory in memory, which is empty for each input.
struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir_in("/dev/shm").expect("a directory in memory");
        fs::create_dir(directory.path().join("target")).expect("it is new");
        fs::write(directory.path().join("outside"), "unchanged").expect("it is new");
        Self { directory }
    }

    fn target(&self) -> PathBuf {
        self.directory.path().join("target")
    }

    fn unpack(
        &self,
        bytes: &[u8],
        format: ArchiveFormat,
        limits: UnpackLimits,
    ) -> Option<UnpackResult> {
        let limits = UnpackLimits {
            bytes_max: BYTES_MAX,
            entries_max: ENTRIES_MAX,
            ..limits
        };
        let mut archive = tempfile::tempfile_in("/dev/shm").expect("a file in memory");
        archive.write_all(bytes).expect("there is memory");
        archive.rewind().expect("it is a file");
        let target = File::open(self.target()).expect("it exists");
        let mut go_on = |_| ControlFlow::Continue(());
        let unpacked = unpack(archive, format, target.as_fd(), &limits, &mut go_on);
        self.check_outside();
        match unpacked {
            Ok(result) => {
                assert!(result.progress.written_bytes <= BYTES_MAX, "{result:?}");
                assert!(result.progress.entries <= ENTRIES_MAX, "{result:?}");
                Some(result)
            }
            Err(error) => {
                check_error(&error, bytes.len());
                None
            }
        }
    }

    /// Checks that nothing next to the target was changed.
    fn check_outside(&self) {
        let entries = fs::read_dir(self.directory.path()).expect("it exists");
        assert_eq!(entries.count(), 2, "an entry next to the target");
        let outside = fs::read_to_string(self.directory.path().join("outside"));
        assert_eq!(outside.expect("it exists"), "unchanged");
    }
}

impl Drop for Place {
    /// Removes directories that only root may enter, too.
    fn drop(&mut self) {
        remove_dir_all(&self.target()).expect("no other process uses it");
    }
}

/// Checks that no link leads out of a directory.
fn check_links(directory: &Path, root: &Path) {
    for entry in fs::read_dir(directory).expect("it exists") {
        let path = entry.expect("it exists").path();
        let found = fs::symlink_metadata(&path).expect("it exists");
        if found.is_dir() {
            check_links(&path, root);
        } else if found.is_symlink()
            && let Ok(end) = fs::canonicalize(&path)
        {
            assert!(end.starts_with(root), "{} leads out", path.display());
        }
    }
}

/// An archive for a task: the first byte selects its format.
pub fn archive(bytes: &[u8]) -> bool {
    let Some((kind, content)) = bytes.split_first() else {
        return false;
    };
    let format = match kind {
        b't' => ArchiveFormat::Tar,
        b'g' => ArchiveFormat::TarGzip,
        b's' => ArchiveFormat::TarZstd,
        b'x' => ArchiveFormat::TarXz,
        b'z' => ArchiveFormat::Zip,
        _ => return false,
    };
    let place = Place::new();
    let unpacked = place.unpack(content, format, UnpackLimits::archive());
    let target = place.target();
    check_links(&target, &target);
    unpacked.is_some()
}

/// A layer of an image, as a plain tar file.
pub fn layer(bytes: &[u8]) -> bool {
    let place = Place::new();
    let Some(result) = place.unpack(bytes, ArchiveFormat::Tar, UnpackLimits::layer()) else {
        return false;
    };
    let digest: [u8; 32] = Sha256::digest(bytes).into();
    assert_eq!(result.digest, Some(digest));
    true
}
