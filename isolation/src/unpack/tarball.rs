//! Entries of tar files.

use std::fs::File;
use std::io::Read;

use tar::{Archive, EntryType};

use super::error::EntryWriteError;
use super::path_policy::{EntryPath, check_link};
use super::stream::{DecodingReader, HEADER_LIMIT_BYTES};
use super::tree::TargetTree;
use super::{
    ArchiveEntry, ArchiveFormat, ArchivePurpose, ArchiveRule, EntryAttributes, EntryKind,
    UnpackBudget, UnpackError, UnpackLimits,
};
use crate::spec::profile::CONTAINER_IDS;

/// The block size of tar files, in bytes.
const BLOCK_BYTES: u64 = 512;

/// Returns the digest of a layer.
pub(super) fn unpack(
    archive: File,
    format: ArchiveFormat,
    tree: &mut TargetTree,
    budget: &mut UnpackBudget<'_>,
) -> Result<Option<[u8; 32]>, UnpackError> {
    let mut last = Vec::new();
    let done = entries(archive, format, tree, budget, &mut last);
    done.map_err(|fault| fault.into_error(format.name(), &last))
}

fn entries(
    archive: File,
    format: ArchiveFormat,
    tree: &mut TargetTree,
    budget: &mut UnpackBudget<'_>,
    last: &mut Vec<u8>,
) -> Result<Option<[u8; 32]>, EntryWriteError> {
    let counts = std::rc::Rc::clone(&budget.counts);
    let bound = (budget.max_bytes, budget.rule.clone());
    let is_layer = budget.limits.source == ArchivePurpose::Layer;
    let decoded = DecodingReader::new(archive, format, &counts, bound, is_layer);
    let mut archive = Archive::new(decoded.map_err(EntryWriteError::Read)?);
    let mut found = archive.entries().map_err(EntryWriteError::Read)?;
    loop {
        let header_at = counts.decoded.get().next_multiple_of(BLOCK_BYTES);
        counts.read_limit.set(header_at + HEADER_LIMIT_BYTES);
        let Some(entry) = found.next() else {
            // A layer's digest shows that it is complete; an archive has no other sign of its end.
            if !is_layer && counts.decoded.get() <= header_at {
                let cut =
                    std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "it has no end mark");
                return Err(EntryWriteError::Read(cut));
            }
            break;
        };
        let mut entry = entry.map_err(EntryWriteError::Read)?;
        counts.read_limit.set(0);
        *last = entry.path_bytes().into_owned();
        budget.begin_entry(entry.size())?;
        // A global header has no more than comments, if anything.
        if entry.header().entry_type() != EntryType::XGlobalHeader {
            let checked = check_entry(&mut entry, budget.limits)?;
            tree.put(&checked, &mut entry, budget)?;
        }
        // What was not written is still read here, so that it counts towards the limits.
        budget.copy(&mut entry, None)?;
    }
    archive.into_inner().finish().map_err(EntryWriteError::Read)
}

fn check_entry<R: Read>(
    entry: &mut tar::Entry<'_, R>,
    rules: &UnpackLimits,
) -> Result<ArchiveEntry, EntryWriteError> {
    let path = entry.path_bytes().into_owned();
    let place = EntryPath::parse(&path, rules)?;
    if let Some(extensions) = entry.pax_extensions().map_err(EntryWriteError::Read)? {
        for extension in extensions {
            let extension = extension.map_err(EntryWriteError::Read)?;
            if extension.key_bytes().starts_with(b"GNU.sparse.") {
                return Err(ArchiveRule::PaxSparse.into());
            }
        }
    }
    let target = || entry.link_name_bytes().unwrap_or_default();
    let special = |kind: &str| EntryKind::Special(kind.to_owned());
    let kind = match entry.header().entry_type() {
        // Before tar files had directories, a slash at the end marked one.
        EntryType::Regular | EntryType::Continuous if path.ends_with(b"/") => EntryKind::Directory,
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => EntryKind::File,
        EntryType::Directory => EntryKind::Directory,
        EntryType::Symlink => EntryKind::Symlink(check_link(&place, &target(), rules)?),
        EntryType::Link => EntryKind::HardLink(EntryPath::parse(&target(), rules)?),
        EntryType::Char | EntryType::Block => special("a device"),
        EntryType::Fifo => special("a pipe"),
        other => return Err(unknown(other).into()),
    };
    let header = entry.header();
    let mode = header.mode().map_err(EntryWriteError::Read)?;
    let owner = match rules.source {
        ArchivePurpose::Archive => None,
        ArchivePurpose::Layer => {
            let user = check_owner(header.uid().map_err(EntryWriteError::Read)?)?;
            Some((
                user,
                check_owner(header.gid().map_err(EntryWriteError::Read)?)?,
            ))
        }
    };
    // An unreadable time is harmless.
    let modified = header
        .mtime()
        .ok()
        .and_then(|time| i64::try_from(time).ok());
    Ok(ArchiveEntry {
        path: place,
        kind,
        attributes: EntryAttributes {
            mode,
            owner,
            modified,
        },
    })
}

fn unknown(kind: EntryType) -> ArchiveRule {
    let kind = format!("of the unknown kind {:?}", char::from(kind.as_byte()));
    ArchiveRule::Special { kind }
}

fn check_owner(owner: u64) -> Result<u32, ArchiveRule> {
    let small = u32::try_from(owner)
        .ok()
        .filter(|owner| *owner < CONTAINER_IDS);
    small.ok_or(ArchiveRule::Owner { owner })
}
