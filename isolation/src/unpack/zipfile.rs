//! Entries of zip files.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::rc::Rc;

use zip::ZipArchive;
use zip::result::ZipError;

use super::error::{EntryWriteError, RuleViolation};
use super::path_policy::{EntryPath, check_link};
use super::stream::CountingReader;
use super::tree::TargetTree;
use super::{
    ArchiveEntry, ArchiveFormat, ArchiveRule, EntryAttributes, EntryKind, UnpackBudget,
    UnpackError, UnpackLimits,
};

/// The size of a file's list of entries, in bytes per allowed entry, and in all: it is held in
/// memory.
const LIST_BYTES_AN_ENTRY: u64 = 256;
const LIST_LIMIT_BYTES: u64 = 256 << 20;
/// The maximum length of a link target, in bytes.
const LINK_LIMIT_BYTES: u64 = 4096;

pub(super) fn unpack(
    archive: File,
    tree: &mut TargetTree,
    budget: &mut UnpackBudget<'_>,
) -> Result<(), UnpackError> {
    let mut last = Vec::new();
    let done = entries(archive, tree, budget, &mut last);
    done.map_err(|fault| fault.into_error(ArchiveFormat::Zip.name(), &last))
}

fn entries(
    archive: File,
    tree: &mut TargetTree,
    budget: &mut UnpackBudget<'_>,
    last: &mut Vec<u8>,
) -> Result<(), EntryWriteError> {
    let allowed = budget.limits.entries_max;
    let left = allowed
        .saturating_mul(LIST_BYTES_AN_ENTRY)
        .clamp(1 << 20, LIST_LIMIT_BYTES);
    let counted = CountingReader {
        file: archive,
        counts: Rc::clone(&budget.counts),
    };
    let listed = ListReader {
        inner: counted,
        remaining: Some(left),
        rule: ArchiveRule::Entries { most: allowed },
    };
    let mut archive = ZipArchive::new(listed).map_err(read)?;
    if archive.len() as u64 > allowed {
        return Err(ArchiveRule::Entries { most: allowed }.into());
    }
    // Otherwise one small piece would be unpacked many times.
    if archive.has_overlapping_entries().map_err(read)? {
        return Err(ArchiveRule::Overlap.into());
    }
    let mut listed = archive.into_inner();
    listed.remaining = None;
    let mut archive = ZipArchive::new(listed).map_err(read)?;
    for index in 0..archive.len() {
        let mut file = archive.by_index(index).map_err(read)?;
        *last = file.name_raw().to_vec();
        budget.begin_entry(file.size())?;
        let entry = check_entry(&mut file, budget.limits)?;
        tree.put(&entry, &mut file, budget)?;
        budget.copy(&mut file, None)?;
    }
    Ok(())
}

fn check_entry<R: Read>(
    file: &mut zip::read::ZipFile<'_, R>,
    rules: &UnpackLimits,
) -> Result<ArchiveEntry, EntryWriteError> {
    let name = file.name_raw().to_vec();
    if name.contains(&b'\\') {
        return Err(ArchiveRule::Backslash.into());
    }
    let place = EntryPath::parse(&name, rules)?;
    let is_directory = name.ends_with(b"/");
    let mode = file
        .unix_mode()
        .unwrap_or(if is_directory { 0o755 } else { 0o644 });
    let kind = match mode & libc::S_IFMT {
        _ if is_directory => EntryKind::Directory,
        libc::S_IFDIR => EntryKind::Directory,
        libc::S_IFLNK => {
            let mut target = Vec::new();
            let mut start = file.take(LINK_LIMIT_BYTES);
            start
                .read_to_end(&mut target)
                .map_err(EntryWriteError::Read)?;
            EntryKind::Symlink(check_link(&place, &target, rules)?)
        }
        libc::S_IFREG | 0 => EntryKind::File,
        libc::S_IFIFO => EntryKind::Special("a pipe".to_owned()),
        libc::S_IFSOCK => EntryKind::Special("a socket".to_owned()),
        _ => EntryKind::Special("a device".to_owned()),
    };
    // Zip files store owners in extensions that few tools write, and times without a zone.
    let attributes = EntryAttributes {
        mode,
        owner: None,
        modified: None,
    };
    Ok(ArchiveEntry {
        path: place,
        kind,
        attributes,
    })
}

fn read(error: ZipError) -> EntryWriteError {
    EntryWriteError::Read(match error {
        ZipError::Io(error) => error,
        other => io::Error::other(other),
    })
}

/// The archive, of which only a limited part may be read for its list of entries.
struct ListReader {
    inner: CountingReader,
    remaining: Option<u64>,
    rule: ArchiveRule,
}

impl Read for ListReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        if let Some(left) = &mut self.remaining {
            *left = left
                .checked_sub(length as u64)
                .ok_or_else(|| io::Error::other(RuleViolation(self.rule.clone())))?;
        }
        Ok(length)
    }
}

impl Seek for ListReader {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        self.inner.seek(position)
    }
}
