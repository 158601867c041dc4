//! The files of a RocksDB directory: their names and numbers, and the manifest in use.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::storage::directory::OpenError;

pub(super) const CURRENT: &str = "CURRENT";

/// Returns the files whose names are a number and this ending.
pub(super) fn numbered(store: &Path, ending: &str) -> Result<Vec<(u64, PathBuf)>, OpenError> {
    let entries = match fs::read_dir(store) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(OpenError::io("read", store)(error)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(OpenError::io("read", store))?.path();
        let number = name(&path)
            .strip_suffix(ending)
            .and_then(|number| number.parse().ok());
        if let Some(number) = number {
            files.push((number, path));
        }
    }
    Ok(files)
}

pub(super) fn name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

pub(super) fn damaged(path: &Path, what: String) -> OpenError {
    let path = path.to_owned();
    OpenError::Damaged { path, what }
}

/// Returns the number of the manifest in use; `None` in a new store.
pub(super) fn current_manifest(store: &Path) -> Result<Option<u64>, OpenError> {
    let path = store.join(CURRENT);
    let text = match fs::read(&path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(OpenError::io("read", &path)(error)),
    };
    let number = text
        .strip_prefix("MANIFEST-")
        .and_then(|rest| rest.strip_suffix('\n'))
        .filter(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|number| number.parse().ok());
    match number {
        Some(number) if manifest_path(store, number).exists() => Ok(Some(number)),
        Some(_) => Err(damaged(
            &path,
            format!("it names {:?}, which does not exist", text.trim_end()),
        )),
        None => Err(damaged(&path, format!("its content is {text:?}"))),
    }
}

pub(super) fn manifest_path(store: &Path, number: u64) -> PathBuf {
    store.join(format!("MANIFEST-{number:06}"))
}
