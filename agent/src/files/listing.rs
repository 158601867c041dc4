//! A directory listing, in memory that does not grow with the directory.

use std::collections::BinaryHeap;
use std::ffi::OsString;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::FilesError;
use super::path::{FilePath, open_below};

/// Maximum number of entries in one listing; the others are only counted.
const ENTRIES: usize = 10_000;
/// Maximum number of concurrent listings: each takes a thread until the directory is read, however
/// many files it has.
pub(crate) const LISTINGS: usize = 16;

#[derive(Debug, Serialize)]
pub(super) struct DirectoryListing {
    path: String,
    entries: Vec<ListingEntry>,
    /// Number of entries beyond the limit.
    left_out: u64,
}

#[derive(Debug, Serialize)]
struct ListingEntry {
    name: String,
    path: String,
    /// "file", "directory", "link" or "other".
    kind: &'static str,
    size: u64,
    mode: String,
    modified_ms: i64,
}

/// Lists the directory at these components below `directory`. Blocks.
pub(super) fn list(
    place: &FilePath,
    directory: &Path,
    parts: &[String],
) -> Result<DirectoryListing, FilesError> {
    let directory = open_below(place, directory, parts)?;
    let kind = directory
        .metadata()
        .map_err(|source| place.failed(source))?;
    if !kind.is_dir() {
        let what = "a file; browse lists directories, read and download serve files";
        return Err(place.of_kind(what));
    }
    // By its descriptor: the directory that was opened, even if its name has changed.
    let opened = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()));
    let mut first = FirstNames::new(ENTRIES);
    for entry in std::fs::read_dir(&opened).map_err(|source| place.failed(source))? {
        let entry = entry.map_err(|source| place.failed(source))?;
        first.add(entry.file_name());
    }
    let base = place.path.trim_matches('/');
    let base = if base.is_empty() { "tasks" } else { base };
    let left_out = first.left_out;
    let entries = first.names.into_sorted_vec().into_iter();
    // An entry that was removed since is omitted.
    let entries = entries.filter_map(|name| entry(base, &opened, &name).ok());
    Ok(DirectoryListing {
        path: place.path.clone(),
        entries: entries.collect(),
        left_out,
    })
}

fn entry(base: &str, directory: &Path, name: &OsString) -> std::io::Result<ListingEntry> {
    let metadata = std::fs::symlink_metadata(directory.join(name))?;
    let name = name.to_string_lossy().into_owned();
    let kind = match metadata.file_type() {
        kind if kind.is_file() => "file",
        kind if kind.is_dir() => "directory",
        kind if kind.is_symlink() => "link",
        _ => "other",
    };
    Ok(ListingEntry {
        path: format!("{base}/{name}"),
        name,
        kind,
        size: metadata.len(),
        mode: format!("{:04o}", metadata.mode() & 0o7777),
        modified_ms: metadata.mtime() * 1_000 + metadata.mtime_nsec() / 1_000_000,
    })
}

/// The first names in sorted order, from any number of names.
struct FirstNames {
    /// The last one on top.
    names: BinaryHeap<OsString>,
    limit: usize,
    left_out: u64,
}

impl FirstNames {
    fn new(limit: usize) -> Self {
        Self {
            names: BinaryHeap::new(),
            limit,
            left_out: 0,
        }
    }

    fn add(&mut self, name: OsString) {
        if self.names.len() < self.limit {
            self.names.push(name);
            return;
        }
        self.left_out += 1;
        if let Some(mut last) = self.names.peek_mut()
            && name < *last
        {
            *last = name;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_keeps_only_the_first_names_in_order() {
        let mut first = FirstNames::new(3);
        // In an order in which each prefix has another last name.
        for number in (0..1_000).map(|step| step * 7 % 1_000) {
            first.add(format!("{number:03}").into());
            assert!(first.names.len() <= 3);
        }
        assert_eq!(first.left_out, 997);
        let names = first.names.into_sorted_vec();
        assert_eq!(names, ["000", "001", "002"].map(OsString::from));
    }
}
