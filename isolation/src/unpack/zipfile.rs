//! Entries of zip files.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::rc::Rc;

use zip::ZipArchive;
use zip::result::ZipError;

use super::error::{Exceeded, Fault};
use super::path_policy::{Place, judge_link};
use super::stream::Counted;
use super::tree::Tree;
use super::{Attributes, Entry, Format, Kind, Rule, Rules, UnpackError, Work};

/// The size of a file's list of entries, in bytes per allowed entry, and in all: it is held in
/// memory.
const LIST_BYTES_AN_ENTRY: u64 = 256;
const LIST_LIMIT_BYTES: u64 = 256 << 20;
/// The maximum length of a link target, in bytes.
const LINK_LIMIT_BYTES: u64 = 4096;

pub(super) fn unpack(
    archive: File,
    tree: &mut Tree,
    work: &mut Work<'_>,
) -> Result<(), UnpackError> {
    let mut last = Vec::new();
    let done = entries(archive, tree, work, &mut last);
    done.map_err(|fault| fault.of(Format::Zip.name(), &last))
}

fn entries(
    archive: File,
    tree: &mut Tree,
    work: &mut Work<'_>,
    last: &mut Vec<u8>,
) -> Result<(), Fault> {
    let allowed = work.rules.entries_max;
    let left = allowed
        .saturating_mul(LIST_BYTES_AN_ENTRY)
        .clamp(1 << 20, LIST_LIMIT_BYTES);
    let counted = Counted {
        file: archive,
        counts: Rc::clone(&work.counts),
    };
    let listed = Listed {
        inner: counted,
        left: Some(left),
        rule: Rule::Entries { most: allowed },
    };
    let mut archive = ZipArchive::new(listed).map_err(read)?;
    if archive.len() as u64 > allowed {
        return Err(Rule::Entries { most: allowed }.into());
    }
    // Otherwise one small piece would be unpacked many times.
    if archive.has_overlapping_entries().map_err(read)? {
        return Err(Rule::Overlap.into());
    }
    let mut listed = archive.into_inner();
    listed.left = None;
    let mut archive = ZipArchive::new(listed).map_err(read)?;
    for index in 0..archive.len() {
        let mut file = archive.by_index(index).map_err(read)?;
        *last = file.name_raw().to_vec();
        work.begin(file.size())?;
        let entry = judge(&mut file, work.rules)?;
        tree.put(&entry, &mut file, work)?;
        work.copy(&mut file, None)?;
    }
    Ok(())
}

fn judge<R: Read>(file: &mut zip::read::ZipFile<'_, R>, rules: &Rules) -> Result<Entry, Fault> {
    let name = file.name_raw().to_vec();
    if name.contains(&b'\\') {
        return Err(Rule::Backslash.into());
    }
    let place = Place::parse(&name, rules)?;
    let is_folder = name.ends_with(b"/");
    let mode = file
        .unix_mode()
        .unwrap_or(if is_folder { 0o755 } else { 0o644 });
    let kind = match mode & libc::S_IFMT {
        _ if is_folder => Kind::Folder,
        libc::S_IFDIR => Kind::Folder,
        libc::S_IFLNK => {
            let mut target = Vec::new();
            let mut start = file.take(LINK_LIMIT_BYTES);
            start.read_to_end(&mut target).map_err(Fault::Read)?;
            Kind::Link(judge_link(&place, &target, rules)?)
        }
        libc::S_IFREG | 0 => Kind::File,
        libc::S_IFIFO => Kind::Special("a pipe".to_owned()),
        libc::S_IFSOCK => Kind::Special("a socket".to_owned()),
        _ => Kind::Special("a device".to_owned()),
    };
    // Zip files store owners in extensions that few tools write, and times without a zone.
    let attributes = Attributes {
        mode,
        owner: None,
        modified: None,
    };
    Ok(Entry {
        place,
        kind,
        attributes,
    })
}

fn read(error: ZipError) -> Fault {
    Fault::Read(match error {
        ZipError::Io(error) => error,
        other => io::Error::other(other),
    })
}

/// The archive, of which only a limited part may be read for its list of entries.
struct Listed {
    inner: Counted,
    left: Option<u64>,
    rule: Rule,
}

impl Read for Listed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        if let Some(left) = &mut self.left {
            *left = left
                .checked_sub(length as u64)
                .ok_or_else(|| io::Error::other(Exceeded(self.rule.clone())))?;
        }
        Ok(length)
    }
}

impl Seek for Listed {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        self.inner.seek(position)
    }
}
