//! Entries of tar files.

use std::fs::File;
use std::io::Read;

use tar::{Archive, EntryType};

use super::error::Fault;
use super::path_policy::{Place, judge_link};
use super::stream::{Decoded, HEADER_LIMIT_BYTES};
use super::tree::Tree;
use super::{Attributes, Entry, Format, Kind, Rule, Rules, Source, UnpackError, Work};
use crate::profile::CONTAINER_IDS;

/// The block size of tar files, in bytes.
const BLOCK_BYTES: u64 = 512;

/// Returns the digest of a layer.
pub(super) fn unpack(
    archive: File,
    format: Format,
    tree: &mut Tree,
    work: &mut Work<'_>,
) -> Result<Option<[u8; 32]>, UnpackError> {
    let mut last = Vec::new();
    let done = entries(archive, format, tree, work, &mut last);
    done.map_err(|fault| fault.of(format.name(), &last))
}

fn entries(
    archive: File,
    format: Format,
    tree: &mut Tree,
    work: &mut Work<'_>,
    last: &mut Vec<u8>,
) -> Result<Option<[u8; 32]>, Fault> {
    let counts = std::rc::Rc::clone(&work.counts);
    let bound = (work.most, work.rule.clone());
    let is_layer = work.rules.source == Source::Layer;
    let decoded = Decoded::new(archive, format, &counts, bound, is_layer);
    let mut archive = Archive::new(decoded.map_err(Fault::Read)?);
    let mut found = archive.entries().map_err(Fault::Read)?;
    loop {
        let header_at = counts.decoded.get().next_multiple_of(BLOCK_BYTES);
        counts.until.set(header_at + HEADER_LIMIT_BYTES);
        let Some(entry) = found.next() else {
            // A layer's digest shows that it is complete; an archive has no other sign of its end.
            if !is_layer && counts.decoded.get() <= header_at {
                let cut =
                    std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "it has no end mark");
                return Err(Fault::Read(cut));
            }
            break;
        };
        let mut entry = entry.map_err(Fault::Read)?;
        counts.until.set(0);
        *last = entry.path_bytes().into_owned();
        work.begin(entry.size())?;
        // A global header has no more than comments, if anything.
        if entry.header().entry_type() != EntryType::XGlobalHeader {
            let judged = judge(&mut entry, work.rules)?;
            tree.put(&judged, &mut entry, work)?;
        }
        // What was not written is still read here, so that it counts towards the limits.
        work.copy(&mut entry, None)?;
    }
    archive.into_inner().finish().map_err(Fault::Read)
}

fn judge<R: Read>(entry: &mut tar::Entry<'_, R>, rules: &Rules) -> Result<Entry, Fault> {
    let path = entry.path_bytes().into_owned();
    let place = Place::parse(&path, rules)?;
    if let Some(extensions) = entry.pax_extensions().map_err(Fault::Read)? {
        for extension in extensions {
            let extension = extension.map_err(Fault::Read)?;
            if extension.key_bytes().starts_with(b"GNU.sparse.") {
                return Err(Rule::PaxSparse.into());
            }
        }
    }
    let target = || entry.link_name_bytes().unwrap_or_default();
    let special = |kind: &str| Kind::Special(kind.to_owned());
    let kind = match entry.header().entry_type() {
        // Before tar files had directories, a slash at the end marked one.
        EntryType::Regular | EntryType::Continuous if path.ends_with(b"/") => Kind::Folder,
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => Kind::File,
        EntryType::Directory => Kind::Folder,
        EntryType::Symlink => Kind::Link(judge_link(&place, &target(), rules)?),
        EntryType::Link => Kind::HardLink(Place::parse(&target(), rules)?),
        EntryType::Char | EntryType::Block => special("a device"),
        EntryType::Fifo => special("a pipe"),
        other => return Err(unknown(other).into()),
    };
    let header = entry.header();
    let mode = header.mode().map_err(Fault::Read)?;
    let owner = match rules.source {
        Source::Archive => None,
        Source::Layer => {
            let user = judge_owner(header.uid().map_err(Fault::Read)?)?;
            Some((user, judge_owner(header.gid().map_err(Fault::Read)?)?))
        }
    };
    // An unreadable time is harmless.
    let modified = header
        .mtime()
        .ok()
        .and_then(|time| i64::try_from(time).ok());
    Ok(Entry {
        place,
        kind,
        attributes: Attributes {
            mode,
            owner,
            modified,
        },
    })
}

fn unknown(kind: EntryType) -> Rule {
    let kind = format!("of the unknown kind {:?}", char::from(kind.as_byte()));
    Rule::Special { kind }
}

fn judge_owner(owner: u64) -> Result<u32, Rule> {
    let small = u32::try_from(owner)
        .ok()
        .filter(|owner| *owner < CONTAINER_IDS);
    small.ok_or(Rule::Owner { owner })
}
