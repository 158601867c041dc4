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
/// Size of the names and paths in one listing at which it ends; the other entries are only counted.
const LISTING_BYTES: usize = 8 << 20;
/// Maximum number of concurrent listings: each takes a thread until the directory is read, however
/// many files it has, and memory until it is sent.
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
    // Without empty components, which would multiply with the number of entries.
    let base = place.path.split('/');
    let base: Vec<_> = base.filter(|part| !matches!(*part, "" | ".")).collect();
    let base = match base.as_slice() {
        [] => "tasks".to_owned(),
        base => base.join("/"),
    };
    let mut listing = DirectoryListing {
        path: place.path.clone(),
        entries: Vec::new(),
        left_out: first.left_out,
    };
    let mut bytes = 0;
    for name in first.names.into_sorted_vec() {
        if bytes >= LISTING_BYTES {
            listing.left_out += 1;
        } else if let Ok(entry) = entry(&base, &opened, &name) {
            bytes += entry.name.len() + entry.path.len();
            listing.entries.push(entry);
        }
        // An entry that was removed since is omitted.
    }
    Ok(listing)
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
        modified_ms: milliseconds(metadata.mtime(), metadata.mtime_nsec()),
    })
}

/// Returns a time that a task can have set: on some file systems, to any number of seconds.
fn milliseconds(seconds: i64, nanoseconds: i64) -> i64 {
    let milliseconds = seconds.saturating_mul(1_000);
    milliseconds.saturating_add(nanoseconds / 1_000_000)
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
    fn a_listing_ends_at_its_maximum_size() {
        const FILES: usize = 2_800;
        let directory = tempfile::tempdir().unwrap();
        let parts = vec!["d".repeat(200); 17];
        let deepest = directory.path().join(parts.join("/"));
        std::fs::create_dir_all(&deepest).unwrap();
        for number in 0..FILES {
            std::fs::write(deepest.join(number.to_string()), "").unwrap();
        }
        let path = format!("tasks/framework-1/web/./{}/", parts.join("//"));
        let listing = list(&FilePath::parse(&path).unwrap(), directory.path(), &parts);
        let listing = listing.unwrap();
        let base = format!("tasks/framework-1/web/{}", parts.join("/"));
        assert_eq!(listing.entries[1].path, format!("{base}/1"));
        let bytes = |entry: &ListingEntry| entry.name.len() + entry.path.len();
        let total: usize = listing.entries.iter().map(bytes).sum();
        assert!((LISTING_BYTES..LISTING_BYTES + 4_096).contains(&total));
        assert_eq!(listing.entries.len() + listing.left_out as usize, FILES);
    }

    #[test]
    fn times_of_hostile_files_do_not_overflow() {
        assert_eq!(milliseconds(1_795_000_000, 5_999_999), 1_795_000_000_005);
        assert_eq!(milliseconds(i64::MAX, 999_999_999), i64::MAX);
        assert_eq!(milliseconds(i64::MIN, 0), i64::MIN);
    }

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
