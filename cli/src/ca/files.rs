//! Files of keys and certificates. They are written atomically, and replace no file that exists.

use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use argosy_host::atomic_file::{self, Draft, Durability, WriteOptions};

use crate::exit::Failure;

/// The users that may read a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Owner,
    All,
}

/// A file that does not exist yet.
pub(super) struct NewFile {
    path: PathBuf,
    text: String,
    access: Access,
}

impl NewFile {
    pub(super) fn new(path: PathBuf, text: String, access: Access) -> Self {
        Self { path, text, access }
    }

    fn draft(&self) -> io::Result<Draft> {
        let directory = atomic_file::directory_of(&self.path);
        Draft::write(
            directory,
            &draft_name(&self.path)?,
            self.text.as_bytes(),
            options(self.access),
        )
    }
}

fn options(access: Access) -> WriteOptions {
    let mode = match access {
        Access::Owner => 0o600,
        Access::All => 0o644,
    };
    WriteOptions {
        mode,
        durability: Durability::Synced,
    }
}

/// Returns the name of the draft of a file. Only this process uses it.
fn draft_name(path: &Path) -> io::Result<OsString> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut draft = OsString::from(".");
    draft.push(name);
    draft.push(format!(".{}", std::process::id()));
    Ok(draft)
}

fn cannot_write(path: &Path, error: &io::Error) -> Failure {
    let path = path.display();
    match error.kind() {
        io::ErrorKind::AlreadyExists => Failure::failed(format!("{path} exists")).advise(
            "no key or certificate is overwritten; move the file, or choose another directory",
        ),
        _ => Failure::failed(format!("cannot write {path}: {error}")),
    }
}

/// Creates a directory that only this user can enter, unless it exists.
pub(super) fn create_directory(path: &Path) -> Result<(), Failure> {
    let mut builder = DirBuilder::new();
    let created = builder.recursive(true).mode(0o700).create(path);
    created.map_err(|error| Failure::failed(format!("cannot create {}: {error}", path.display())))
}

/// Creates files, or none of them: if one exists, no other is written.
pub(super) fn create(files: &[NewFile]) -> Result<(), Failure> {
    let mut drafts = Vec::new();
    for file in files {
        if fs::symlink_metadata(&file.path).is_ok() {
            let exists = io::Error::from(io::ErrorKind::AlreadyExists);
            return Err(cannot_write(&file.path, &exists));
        }
        let draft = file.draft();
        drafts.push(draft.map_err(|error| cannot_write(&file.path, &error))?);
    }
    for (at, (file, draft)) in files.iter().zip(drafts).enumerate() {
        let name = file.path.file_name().unwrap_or_default();
        if let Err(error) = draft.claim(name) {
            // The former files are useless without this one.
            for former in &files[..at] {
                let _ = fs::remove_file(&former.path);
            }
            return Err(cannot_write(&file.path, &error));
        }
    }
    Ok(())
}

/// Replaces a certificate.
pub(super) fn replace(path: &Path, text: &str) -> Result<(), Failure> {
    let replacing = || {
        let draft = path.with_file_name(draft_name(path)?);
        atomic_file::replace(path, &draft, text.as_bytes(), options(Access::All))
    };
    replacing().map_err(|error| cannot_write(path, &error))
}
