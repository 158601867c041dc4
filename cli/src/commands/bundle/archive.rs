//! The archive: a compressed tar file that only its owner may read. Without its end it is removed:
//! it could be read, and would look complete.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{Builder, Header};

use crate::exit::Failure;

/// The directory in the archive.
const TOP: &str = "argosy-bundle";

pub(super) struct Archive {
    draft: UnfinishedFile,
    tar: Builder<GzEncoder<File>>,
    /// The parts that could not be collected, each with its reason.
    errors: String,
}

/// A file that is removed on drop, unless it is complete.
struct UnfinishedFile {
    path: PathBuf,
    is_complete: bool,
}

impl Drop for UnfinishedFile {
    fn drop(&mut self) {
        if !self.is_complete {
            // If it cannot be removed, the failure of the command reports that it is incomplete.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Archive {
    /// Creates the file, which must not exist.
    pub(super) fn create(path: &Path) -> Result<Self, Failure> {
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path);
        let file = file.map_err(|error| {
            let failure = Failure::failed(format!("cannot create {}: {error}", path.display()));
            failure.advise("name another file with --file")
        })?;
        Ok(Self {
            draft: UnfinishedFile {
                path: path.to_owned(),
                is_complete: false,
            },
            tar: Builder::new(GzEncoder::new(file, Compression::default())),
            errors: String::new(),
        })
    }

    pub(super) fn add(&mut self, name: &str, content: &[u8]) -> Result<(), Failure> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let mut header = Header::new_gnu();
        header.set_mode(0o600);
        header.set_size(content.len() as u64);
        header.set_mtime(now.unwrap_or_default().as_secs());
        let added = self
            .tar
            .append_data(&mut header, format!("{TOP}/{name}"), content);
        self.written(added)
    }

    /// Adds a file, or the reason why there is none.
    pub(super) fn add_result(
        &mut self,
        name: &str,
        content: Result<String, String>,
    ) -> Result<(), Failure> {
        match content {
            Ok(content) => self.add(name, content.as_bytes()),
            Err(why) => self.add_error(name, &why),
        }
    }

    /// Records that a file could not be collected.
    pub(super) fn add_error(&mut self, name: &str, why: &str) -> Result<(), Failure> {
        crate::output::note(&format!("without {name}: {why}"));
        self.errors.push_str(&format!("{name}: {why}\n"));
        Ok(())
    }

    /// Completes the file, and returns its size.
    pub(super) fn finish(mut self) -> Result<u64, Failure> {
        let errors = std::mem::take(&mut self.errors);
        self.add("missing.txt", errors.as_bytes())?;
        let Self { mut draft, tar, .. } = self;
        let finish = || {
            let mut file = tar.into_inner()?.finish()?;
            file.flush()?;
            Ok(file.metadata()?.len())
        };
        let size: io::Result<u64> = finish();
        let size = size.with_context(|| format!("cannot write {}", draft.path.display()))?;
        draft.is_complete = true;
        Ok(size)
    }

    fn written(&self, written: io::Result<()>) -> Result<(), Failure> {
        let place = || format!("cannot write {}", self.draft.path.display());
        Ok(written.with_context(place)?)
    }
}
