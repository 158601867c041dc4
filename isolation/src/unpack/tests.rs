//! Tests of the unpacker: hand-made archives, each with one defect, and random ones.
//!
//! After each test the files next to the target are unchanged.

mod archives;
mod hostile;
mod layers;
mod random;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Seek, Write};
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{ArchiveFormat, UnpackError, UnpackLimits, UnpackResult, unpack};

/// A directory with files that must not change, and the target among them.
struct UnpackFixture {
    directory: tempfile::TempDir,
    before: BTreeMap<PathBuf, String>,
}

impl UnpackFixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("target")).unwrap();
        fs::create_dir(directory.path().join("outside")).unwrap();
        fs::write(directory.path().join("outside/secret"), "kept").unwrap();
        let mut world = Self {
            directory,
            before: BTreeMap::new(),
        };
        world.before = world.outside();
        world
    }

    fn target(&self) -> PathBuf {
        self.directory.path().join("target")
    }

    fn at(&self, path: &str) -> PathBuf {
        self.target().join(path)
    }

    fn outside(&self) -> BTreeMap<PathBuf, String> {
        let mut found = BTreeMap::new();
        collect(self.directory.path(), &self.target(), &mut found);
        found
    }

    /// Unpacks, and checks the files that must not change.
    fn unpack(
        &self,
        archive: &[u8],
        format: ArchiveFormat,
        rules: &UnpackLimits,
    ) -> Result<UnpackResult, UnpackError> {
        self.unpack_until(archive, format, rules, u64::MAX)
    }

    /// The same, cancelled after this many bytes are written.
    fn unpack_until(
        &self,
        archive: &[u8],
        format: ArchiveFormat,
        rules: &UnpackLimits,
        written: u64,
    ) -> Result<UnpackResult, UnpackError> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(archive).unwrap();
        file.rewind().unwrap();
        let target = File::open(self.target()).unwrap();
        let done = unpack(file, format, target.as_fd(), rules, &mut |progress| {
            if progress.written_bytes >= written {
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        });
        assert_eq!(
            self.outside(),
            self.before,
            "nothing next to the target changes"
        );
        done
    }

    /// Returns the error for a tar file of a fetched archive.
    fn refusal(&self, tarball: &[u8]) -> String {
        self.refusal_of(tarball, ArchiveFormat::Tar, &UnpackLimits::archive())
    }

    fn refusal_of(&self, archive: &[u8], format: ArchiveFormat, rules: &UnpackLimits) -> String {
        self.unpack(archive, format, rules).unwrap_err().message()
    }

    fn tree(&self) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        collect(&self.target(), Path::new("/nowhere"), &mut found);
        let relative = |path: PathBuf| {
            path.strip_prefix(self.target())
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned()
        };
        found
            .into_iter()
            .map(|(path, what)| (relative(path), what))
            .collect()
    }

    /// Describes the entry at a path: `directory 755`, `file 644 text`, `link target`, `hidden`.
    fn found(&self, path: &str) -> String {
        self.tree()
            .remove(path)
            .unwrap_or_else(|| "nothing".to_owned())
    }
}

/// Describes all files below a directory, except those below `except`.
fn collect(directory: &Path, except: &Path, found: &mut BTreeMap<PathBuf, String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path == except {
            continue;
        }
        let data = fs::symlink_metadata(&path).unwrap();
        let mode = data.mode() & 0o7777;
        let what = if data.is_dir() {
            collect(&path, except, found);
            format!("directory {mode:o}")
        } else if data.is_symlink() {
            format!("link {}", fs::read_link(&path).unwrap().display())
        } else if data.is_file() {
            let text = fs::read(&path).unwrap_or_default();
            let text = &text[..text.len().min(100)];
            format!("file {mode:o} {}", text.escape_ascii())
        } else if data.rdev() == 0 && data.mode() & libc::S_IFMT == libc::S_IFCHR {
            "hidden".to_owned()
        } else {
            panic!("{} is special", path.display())
        };
        found.insert(path, what);
    }
}
