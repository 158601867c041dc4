//! The framing of RocksDB's write-ahead logs and manifests, and the detection of where a file is
//! damaged.
//!
//! A file is a sequence of blocks of 32 KiB. A block holds fragments: masked CRC32C of all that
//! follows it (4 bytes), length (2), kind (1), in recycled files the number of the file (4),
//! content. A record is one whole fragment, or a first, middle ones and a last. Source:
//! `db/log_format.h`, `db/log_reader.cc` and `util/crc32c.h` of RocksDB 11.8. Nothing here reads or
//! writes a disk.

/// The size of a block in bytes. No fragment crosses its end.
pub(super) const BLOCK: usize = 32 << 10;

const HEAD: usize = 4 + 2 + 1;
const RECYCLABLE_HEAD: usize = HEAD + 4;

/// Added to a rotated checksum, so that a checksum of data that contains checksums is not
/// degenerate.
const MASK: u32 = 0xa282_ead8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FragmentKind {
    Full,
    First,
    Middle,
    Last,
    /// Metadata of the file, not data of the store.
    Metadata,
}

impl FragmentKind {
    /// Returns the kind with this number, and the length of its header.
    fn of(number: u8) -> Option<(FragmentKind, usize)> {
        match number {
            1 => Some((FragmentKind::Full, HEAD)),
            2 => Some((FragmentKind::First, HEAD)),
            3 => Some((FragmentKind::Middle, HEAD)),
            4 => Some((FragmentKind::Last, HEAD)),
            5 => Some((FragmentKind::Full, RECYCLABLE_HEAD)),
            6 => Some((FragmentKind::First, RECYCLABLE_HEAD)),
            7 => Some((FragmentKind::Middle, RECYCLABLE_HEAD)),
            8 => Some((FragmentKind::Last, RECYCLABLE_HEAD)),
            9 | 10 | 130 => Some((FragmentKind::Metadata, HEAD)),
            11 | 131 => Some((FragmentKind::Metadata, RECYCLABLE_HEAD)),
            _ => None,
        }
    }
}

struct Fragment<'a> {
    kind: FragmentKind,
    content: &'a [u8],
    end: usize,
}

/// Returns the fragment at `at`, if it is complete and its checksum is correct.
fn fragment(bytes: &[u8], at: usize) -> Option<Fragment<'_>> {
    let block_end = bytes.len().min((at / BLOCK + 1) * BLOCK);
    let rest = bytes.get(at..block_end)?;
    let (checksum, covered) = rest.split_first_chunk::<4>()?;
    let (length, from_kind) = covered.split_first_chunk::<2>()?;
    let (kind, head) = FragmentKind::of(*from_kind.first()?)?;
    let length = usize::from(u16::from_le_bytes(*length));
    let checked = rest.get(HEAD - 1..head + length)?;
    if unmasked(u32::from_le_bytes(*checksum)) != crc_fast::crc32_iscsi(checked) {
        return None;
    }
    Some(Fragment {
        kind,
        content: &rest[head..head + length],
        end: at + head + length,
    })
}

fn unmasked(checksum: u32) -> u32 {
    checksum.wrapping_sub(MASK).rotate_left(15)
}

/// Skips the rest of a block that is too short for a header: the writer fills it with zeros.
fn after_filling(at: usize) -> usize {
    let left = BLOCK - at % BLOCK;
    if left < HEAD { at + left } else { at }
}

/// The content at one position of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum WalRead {
    /// A whole record.
    Record {
        /// The start of the record, after the padding of a block.
        start: usize,
        content: Vec<u8>,
        end: usize,
    },
    /// The end of the file, directly after a record.
    End,
    /// Anything else: a record that was damaged, or that was never completely written.
    Broken { at: usize },
}

/// Reads the record at `at`, the end of the previous one.
pub(super) fn next(bytes: &[u8], at: usize) -> WalRead {
    let mut start = after_filling(at);
    let mut content: Option<Vec<u8>> = None;
    let mut here = start;
    loop {
        let broken = WalRead::Broken {
            at: start.min(bytes.len()),
        };
        if here >= bytes.len() {
            return match content {
                None => WalRead::End,
                Some(_) => broken,
            };
        }
        let Some(found) = fragment(bytes, here) else {
            return broken;
        };
        match (found.kind, &mut content) {
            (FragmentKind::Full, None) => {
                return WalRead::Record {
                    start,
                    content: found.content.to_vec(),
                    end: found.end,
                };
            }
            (FragmentKind::First, None) => content = Some(found.content.to_vec()),
            (FragmentKind::Middle, Some(content)) => content.extend_from_slice(found.content),
            (FragmentKind::Last, Some(content)) => {
                content.extend_from_slice(found.content);
                return WalRead::Record {
                    start,
                    content: std::mem::take(content),
                    end: found.end,
                };
            }
            (FragmentKind::Metadata, None) => start = after_filling(found.end),
            _ => return broken,
        }
        here = after_filling(found.end);
    }
}

/// Finds the first whole record at or after `at`, wherever it starts: any bytes may precede it.
pub(super) fn search(bytes: &[u8], mut at: usize) -> Option<(usize, Vec<u8>, usize)> {
    while at + HEAD <= bytes.len() {
        let Some(found) = fragment(bytes, at) else {
            at += 1;
            continue;
        };
        if matches!(found.kind, FragmentKind::Full | FragmentKind::First)
            && let WalRead::Record { content, end, .. } = next(bytes, at)
        {
            return Some((at, content, end));
        }
        at = found.end;
    }
    None
}

/// Appends a fragment in RocksDB's format.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn put(kind: u8, content: &[u8], out: &mut Vec<u8>) {
    let checked = [&[kind], content].concat();
    let masked = crc_fast::crc32_iscsi(&checked)
        .rotate_right(15)
        .wrapping_add(MASK);
    out.extend(masked.to_le_bytes());
    let length = u16::try_from(content.len()).expect("a fragment is shorter than a block");
    out.extend(length.to_le_bytes());
    out.extend(checked);
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A writer of records in RocksDB's format.
    #[derive(Default)]
    pub(in crate::storage::disk) struct FrameWriter(pub(in crate::storage::disk) Vec<u8>);

    impl FrameWriter {
        pub(in crate::storage::disk) fn record(&mut self, mut content: &[u8]) {
            let mut first = true;
            loop {
                let left = BLOCK - self.0.len() % BLOCK;
                if left < HEAD {
                    self.0.resize(self.0.len() + left, 0);
                    continue;
                }
                let (now, later) = content.split_at(content.len().min(left - HEAD));
                let kind = match (first, later.is_empty()) {
                    (true, true) => 1,
                    (true, false) => 2,
                    (false, false) => 3,
                    (false, true) => 4,
                };
                self.fragment(kind, now);
                if later.is_empty() {
                    return;
                }
                first = false;
                content = later;
            }
        }

        fn fragment(&mut self, kind: u8, content: &[u8]) {
            put(kind, content, &mut self.0);
        }
    }

    fn contents(lengths: &[usize]) -> Vec<Vec<u8>> {
        let bytes = |(number, length): (usize, &usize)| vec![number as u8 + 1; *length];
        lengths.iter().enumerate().map(bytes).collect()
    }

    fn written(contents: &[Vec<u8>]) -> Vec<u8> {
        let mut writer = FrameWriter::default();
        contents.iter().for_each(|content| writer.record(content));
        writer.0
    }

    fn read(bytes: &[u8]) -> (Vec<Vec<u8>>, WalRead) {
        let (mut at, mut contents) = (0, Vec::new());
        loop {
            match next(bytes, at) {
                WalRead::Record { content, end, .. } => {
                    contents.push(content);
                    at = end;
                }
                end => return (contents, end),
            }
        }
    }

    /// Covers every remaining length around the end of a block.
    #[test]
    fn records_round_trip_at_every_offset_of_a_block() {
        for first in BLOCK - 40..BLOCK + 10 {
            let contents = contents(&[first, 0, 5, 3 * BLOCK, 1]);
            assert_eq!(
                read(&written(&contents)),
                (contents, WalRead::End),
                "{first}"
            );
        }
    }

    #[test]
    fn a_truncated_record_is_reported_at_its_start() {
        let contents = contents(&[100, 2 * BLOCK]);
        let bytes = written(&contents);
        for cut in [108, 112, 113, BLOCK, BLOCK + 3, bytes.len() - 1] {
            let (read, end) = read(&bytes[..cut]);
            assert_eq!((read.len(), end), (1, WalRead::Broken { at: 107 }), "{cut}");
        }
        assert_eq!(read(&bytes[..107]).1, WalRead::End);
    }

    #[test]
    fn records_after_a_damaged_length_are_found() {
        let contents = contents(&[100, 50, 70]);
        let mut bytes = written(&contents);
        bytes[107 + 4] ^= 1;
        assert_eq!(read(&bytes).1, WalRead::Broken { at: 107 });
        let (at, content, end) = search(&bytes, 108).unwrap();
        assert_eq!((at, content, end), (164, contents[2].clone(), bytes.len()));
        assert_eq!(search(&bytes, 165), None);
    }

    #[test]
    fn zeros_and_metadata_are_not_read_as_records() {
        assert_eq!(next(&[0; 100], 0), WalRead::Broken { at: 0 });
        assert_eq!(search(&[0; 100], 0), None);
        let mut writer = FrameWriter::default();
        writer.fragment(130, b"about the file before");
        writer.record(b"one");
        assert_eq!(read(&writer.0), (vec![b"one".to_vec()], WalRead::End));
    }
}
