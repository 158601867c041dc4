//! Recovery of the store: what an earlier run of the agent left is read or removed.
//!
//! Damage costs only the damaged entry, and is logged.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::de::DeserializeOwned;

use super::disk;
use super::record::{ImageRecord, LayerRecord, LeaseRecord, VERSION};
use crate::images::digest::Digest;
use crate::images::error::PullErrorKind;
use crate::images::layer_directories::LayerDirs;

/// Blobs are only useful to the pull that downloads them.
pub(super) fn clear_blobs(directory: &Path) -> Result<(), PullErrorKind> {
    for (_, path) in entries(directory)? {
        clear(&path);
    }
    Ok(())
}

/// Reads all layers with their sizes. A layer gets its name only when it is complete, so damaged
/// metadata loses no more than the size. Drafts are left to the first sweep: they may be large, and
/// the agent connects only afterwards.
pub(super) fn layers(
    directory: &Path,
    changes: &dyn LayerDirs,
) -> Result<BTreeMap<Digest, u64>, PullErrorKind> {
    let mut found = BTreeMap::new();
    let layers = entries(directory)?.into_iter();
    for (name, path) in layers.filter(|(name, _)| !name.starts_with(disk::DRAFT)) {
        let digest = format!("sha256:{name}").parse::<Digest>().ok();
        let stored = digest.and_then(|digest| Some((digest, changes.metadata(&path).transpose()?)));
        let Some((digest, metadata)) = stored else {
            warn_if_left(&path, changes.remove(&path));
            continue;
        };
        let record = metadata.and_then(|json| Ok(serde_json::from_slice::<LayerRecord>(&json)?));
        let bytes = match record {
            Ok(layer) if layer.version == VERSION && layer.diff_id == digest => layer.bytes,
            Ok(_) => warn_damaged(&path, "layer.json is not of this layer"),
            Err(error) => warn_damaged(&path, &error.to_string()),
        };
        found.insert(digest, bytes);
    }
    Ok(found)
}

fn warn_damaged(path: &Path, why: &str) -> u64 {
    tracing::error!(path = %path.display(), why, "the size of an image layer is lost: it counts as 0");
    0
}

/// Reads all images, with the times of their last use.
pub(super) fn images(
    directory: &Path,
) -> Result<BTreeMap<String, (ImageRecord, SystemTime)>, PullErrorKind> {
    let mut found = BTreeMap::new();
    for (name, path) in entries(directory)? {
        if name.starts_with(disk::DRAFT) {
            clear(&path);
            continue;
        }
        let why = match read::<ImageRecord>(&path) {
            Ok(record)
                if record.version == VERSION
                    && ImageRecord::file_name(&record.reference) == name =>
            {
                let modified = std::fs::metadata(&path).and_then(|found| found.modified());
                let last_used = modified.unwrap_or(SystemTime::UNIX_EPOCH);
                found.insert(record.reference.clone(), (record, last_used));
                continue;
            }
            Ok(_) => "it does not match its name".to_owned(),
            Err(error) => error.to_string(),
        };
        tracing::error!(path = %path.display(), why, "the record of an image is damaged: it will be pulled again");
        clear(&path);
    }
    Ok(found)
}

/// Reads the leases of containers; `None` if one cannot be read.
pub(super) fn leases(
    directory: &Path,
) -> Result<BTreeMap<String, Option<BTreeSet<Digest>>>, PullErrorKind> {
    let mut found = BTreeMap::new();
    for (name, path) in entries(directory)? {
        let container = name.strip_suffix(".json");
        let Some(container) = container.filter(|_| !name.starts_with(disk::DRAFT)) else {
            clear(&path);
            continue;
        };
        let lease = read::<LeaseRecord>(&path).ok();
        let lease = lease.filter(|lease| lease.version == VERSION);
        if lease.is_none() {
            tracing::error!(
                path = %path.display(),
                "the lease of a container is damaged: no image is removed while the container exists"
            );
        }
        found.insert(container.to_owned(), lease.map(|lease| lease.layers));
    }
    Ok(found)
}

/// Returns all paths with a draft's name.
pub(super) fn drafts(directory: &Path) -> Result<Vec<PathBuf>, PullErrorKind> {
    let all = entries(directory)?.into_iter();
    let drafts = all.filter(|(name, _)| name.starts_with(disk::DRAFT));
    Ok(drafts.map(|(_, path)| path).collect())
}

/// Removes a leftover. On an error, the next round and the next start try again.
pub(super) fn clear(path: &Path) {
    warn_if_left(path, disk::remove(path));
}

/// Logs a leftover that could not be removed.
pub(super) fn warn_if_left(path: &Path, removed: io::Result<()>) {
    if let Err(error) = removed {
        tracing::warn!(path = %path.display(), why = %error, "a leftover of the image store cannot be removed");
    }
}

fn entries(directory: &Path) -> Result<Vec<(String, PathBuf)>, PullErrorKind> {
    let names = disk::names(directory).map_err(PullErrorKind::read(directory))?;
    let entries = names.into_iter().map(|name| {
        let path = directory.join(&name);
        (name, path)
    });
    Ok(entries.collect())
}

fn read<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    Ok(serde_json::from_slice(&std::fs::read(path)?)?)
}
