//! OCI image layouts: a directory of this host, or a tar file of one. Read-only.
//!
//! Nothing outside the directory is opened, whatever links are in it; nothing of an archive is
//! unpacked.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use oci_spec::image::OciLayout;

use super::digest::Digest;
use super::error::PullErrorKind;
use super::manifest::{BlobDescriptor, Descriptor, MANIFEST_BYTES, ManifestDocument, document};

/// The maximum number of entries of an archive.
const ENTRIES: usize = 65_536;
/// Bytes read at a time.
const CHUNK_BYTES: usize = 256 * 1024;

#[derive(Debug)]
pub(super) struct ImageLayout {
    /// As in the image's name, for messages.
    path: PathBuf,
    contents: LayoutContents,
}

#[derive(Debug)]
enum LayoutContents {
    Directory(OwnedFd),
    Archive {
        file: Arc<File>,
        /// Offset and length of each regular file.
        entries: BTreeMap<String, (u64, u64)>,
    },
}

/// The form of a layout on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LayoutForm {
    Directory,
    Archive,
}

/// A file of a layout, read from its start.
#[derive(Debug)]
pub(super) struct LayoutFile {
    path: PathBuf,
    file: Arc<File>,
    position: u64,
    end: u64,
}

impl ImageLayout {
    /// Opens a layout below one of the allowed directories. Blocks.
    pub(super) fn open(
        path: &Path,
        form: LayoutForm,
        allowed: &[PathBuf],
    ) -> Result<Self, PullErrorKind> {
        let real = std::fs::canonicalize(path).map_err(PullErrorKind::read(path))?;
        let below = |directory: &PathBuf| {
            std::fs::canonicalize(directory).is_ok_and(|directory| real.starts_with(directory))
        };
        if !allowed.iter().any(below) {
            return Err(PullErrorKind::Forbidden {
                path: path.to_owned(),
            });
        }
        let inside = match form {
            LayoutForm::Directory => {
                LayoutContents::Directory(directory(&real).map_err(PullErrorKind::read(path))?)
            }
            LayoutForm::Archive => archive(path, &real)?,
        };
        let layout = Self {
            path: path.to_owned(),
            contents: inside,
        };
        let marker = layout.read_small("oci-layout", 4_096)?;
        let marker: OciLayout = serde_json::from_slice(&marker)
            .map_err(|error| layout.invalid(format!("its file oci-layout: {error}")))?;
        let version = marker.image_layout_version();
        if version.split('.').next() != Some("1") {
            return Err(layout.invalid(format!("its version {version:?} is not 1")));
        }
        Ok(layout)
    }

    /// Returns the index entries that a tag selects, and the digest of the index. Blocks.
    pub(super) fn entries(
        &self,
        tag: Option<&str>,
    ) -> Result<(Vec<Descriptor>, Digest), PullErrorKind> {
        let bytes = self.read_small("index.json", MANIFEST_BYTES)?;
        let digest = Digest::of(&bytes);
        let ManifestDocument::Index(mut entries) = document("the file index.json", &bytes, None)?
        else {
            return Err(self.invalid("its file index.json is not an index".to_owned()));
        };
        let tags: Vec<_> = entries.iter().filter_map(Descriptor::tag).collect();
        let tags = match tags.is_empty() {
            true => "it has no tags".to_owned(),
            false => format!("it has {}", tags.join(", ")),
        };
        match tag {
            Some(tag) => {
                entries.retain(|entry| entry.tag() == Some(tag));
                if entries.is_empty() {
                    return Err(self.invalid(format!("it has no tag {tag:?}: {tags}")));
                }
            }
            // Entries for several platforms name their platform.
            None if entries.len() > 1 && !entries.iter().all(Descriptor::has_platform) => {
                return Err(self.invalid(format!("it has several images: name a tag; {tags}")));
            }
            None => {}
        }
        Ok((entries, digest))
    }

    /// Opens a blob. Its length is the file's, whatever was announced. Blocks.
    pub(super) fn blob(&self, digest: Digest) -> Result<LayoutFile, PullErrorKind> {
        self.open_file(&format!("blobs/sha256/{}", digest.hex()))
    }

    /// Reads a small blob. Blocks.
    pub(super) fn small_blob(&self, content: &BlobDescriptor) -> Result<Vec<u8>, PullErrorKind> {
        let mut part = self.blob(content.digest)?;
        part.whole(content.size)
    }

    fn read_small(&self, name: &str, limit: u64) -> Result<Vec<u8>, PullErrorKind> {
        self.open_file(name)?.whole(limit)
    }

    fn open_file(&self, name: &str) -> Result<LayoutFile, PullErrorKind> {
        match &self.contents {
            LayoutContents::Directory(directory) => {
                let path = self.path.join(name);
                let file = open_beneath(directory, name).map_err(PullErrorKind::read(&path))?;
                let metadata = file.metadata().map_err(PullErrorKind::read(&path))?;
                if !metadata.is_file() {
                    return Err(self.invalid(format!("{name} in it is not a regular file")));
                }
                Ok(LayoutFile {
                    path,
                    file: Arc::new(file),
                    position: 0,
                    end: metadata.len(),
                })
            }
            LayoutContents::Archive { file, entries } => {
                let Some((at, length)) = entries.get(name).copied() else {
                    return Err(self.invalid(format!("it has no file {name}")));
                };
                Ok(LayoutFile {
                    path: self.path.clone(),
                    file: Arc::clone(file),
                    position: at,
                    end: at.saturating_add(length),
                })
            }
        }
    }

    fn invalid(&self, rule: String) -> PullErrorKind {
        PullErrorKind::Layout {
            path: self.path.clone(),
            rule,
        }
    }
}

impl LayoutFile {
    /// Returns the next bytes; none at the end. Blocks.
    pub(super) fn chunk(&mut self) -> Result<Vec<u8>, PullErrorKind> {
        let left = usize::try_from(self.end - self.position).unwrap_or(usize::MAX);
        let mut bytes = vec![0; CHUNK_BYTES.min(left)];
        let length = self.file.read_at(&mut bytes, self.position);
        let length = length.map_err(PullErrorKind::read(&self.path))?;
        bytes.truncate(length);
        self.position += length as u64;
        Ok(bytes)
    }

    fn whole(&mut self, limit: u64) -> Result<Vec<u8>, PullErrorKind> {
        if self.end - self.position > limit {
            return Err(PullErrorKind::TooLarge {
                what: format!("a file in {}", self.path.display()),
                limit_bytes: limit,
            });
        }
        let mut bytes = Vec::new();
        loop {
            let chunk = self.chunk()?;
            if chunk.is_empty() {
                return Ok(bytes);
            }
            bytes.extend_from_slice(&chunk);
        }
    }
}

/// Opens a directory by a path without links. A link in it has replaced a directory since the path
/// was checked, and may lead anywhere.
fn directory(path: &Path) -> io::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::O_DIRECTORY | OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_NO_SYMLINKS);
    Ok(openat2(AT_FDCWD, path, how)?)
}

/// Opens a file of the directory: links that stay inside are followed, others are refused.
fn open_beneath(directory: &OwnedFd, name: &str) -> io::Result<File> {
    let how = OpenHow::new()
        // Opening must not block on a pipe.
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    Ok(File::from(openat2(directory, name, how)?))
}

/// Indexes the files of an archive.
fn archive(path: &Path, real: &Path) -> Result<LayoutContents, PullErrorKind> {
    let wrong = |rule: String| PullErrorKind::Layout {
        path: path.to_owned(),
        rule,
    };
    let parent = real.parent().unwrap_or(real);
    let name = real.file_name().unwrap_or_default().to_string_lossy();
    let opened = directory(parent).and_then(|directory| open_beneath(&directory, &name));
    let file = opened.map_err(PullErrorKind::read(path))?;
    let is_file = file
        .metadata()
        .map_err(PullErrorKind::read(path))?
        .is_file();
    if !is_file {
        return Err(wrong("it is not a regular file".to_owned()));
    }
    let entries = file_ranges(&file).map_err(wrong)?;
    Ok(LayoutContents::Archive {
        file: Arc::new(file),
        entries,
    })
}

/// Returns offset and length of each regular file of a tar file.
fn file_ranges(file: &File) -> Result<BTreeMap<String, (u64, u64)>, String> {
    let unreadable = |error: io::Error| format!("it cannot be read as a plain tar file: {error}");
    let mut reader = tar::Archive::new(file);
    let mut places = BTreeMap::new();
    // Raw: no name in a layout is so long that it needs an extension, and extensions may have any
    // size.
    let found = reader.entries_with_seek().map_err(unreadable)?.raw(true);
    for (count, entry) in found.enumerate() {
        let entry = entry.map_err(unreadable)?;
        if count >= ENTRIES {
            return Err(format!("it has more than {ENTRIES} files"));
        }
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let name = entry.path_bytes();
        let Ok(name) = std::str::from_utf8(&name) else {
            continue;
        };
        let name = name.strip_prefix("./").unwrap_or(name).to_owned();
        let length = entry.header().entry_size().map_err(unreadable)?;
        places.insert(name, (entry.raw_file_position(), length));
    }
    Ok(places)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use nix::errno::Errno;

    use super::*;

    #[test]
    fn a_link_that_replaces_a_checked_directory_is_not_followed() {
        let place = tempfile::tempdir().unwrap();
        let root = std::fs::canonicalize(place.path()).unwrap();
        std::fs::create_dir_all(root.join("private/layout")).unwrap();
        directory(&root.join("private/layout")).unwrap();
        // It was a directory when the path was checked.
        symlink("private", root.join("team")).unwrap();
        for path in ["team/layout", "team"] {
            let refused = directory(&root.join(path)).unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(Errno::ELOOP as i32), "{path}");
        }
    }
}
