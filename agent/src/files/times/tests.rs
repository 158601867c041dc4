//! Tests of times with real records: exact, merged, damaged, replaced, hostile.

use std::fs;

use StreamName::{Stderr, Stdout};
use argosy_isolation::output::{SPAN_MS, encode_times};

use super::*;

/// A time in 2026.
const NOW: i64 = 1_795_000_000_000;

struct Record {
    directory: tempfile::TempDir,
}

impl Record {
    fn of(spans: &[(StreamName, OutputSpan)]) -> Self {
        let record = Self {
            directory: tempfile::tempdir().unwrap(),
        };
        fs::write(record.path(), encode_times(spans)).unwrap();
        record
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("1-1-1.times")
    }

    fn since(&self, ms: i64) -> Option<u64> {
        offset_since(&self.path(), Stdout, ms, 100).unwrap()
    }

    fn times(&self) -> OutputTimes {
        let opened = OutputTimes::open(&self.path(), Stdout, 100).unwrap();
        opened.expect("there is a record")
    }
}

fn stdout(offset: u64, ms: i64) -> (StreamName, OutputSpan) {
    (Stdout, OutputSpan::at(offset, NOW + ms))
}

/// Returns the frames of these bytes: time after [`NOW`], and number of bytes.
fn frames(times: &mut OutputTimes, offset: u64, count: usize) -> Vec<(Option<i64>, usize)> {
    let bytes: Vec<u8> = (0..count).map(|at| (offset as usize + at) as u8).collect();
    let all = times.frames(offset, &bytes);
    let (mut rest, mut content, mut found) = (&all[..], Vec::<u8>::new(), Vec::new());
    while let Some((header, after)) = rest.split_first_chunk::<FRAME_HEADER_BYTES>() {
        let ms = i64::from_be_bytes(header[..8].try_into().unwrap());
        let length = u32::from_be_bytes(header[8..].try_into().unwrap()) as usize;
        content.extend(&after[..length]);
        rest = &after[length..];
        found.push(((ms != UNKNOWN).then(|| ms - NOW), length));
    }
    assert_eq!(content, bytes, "frames change no byte");
    found
}

#[test]
fn a_time_is_mapped_to_the_first_byte_that_was_written_then() {
    let record = Record::of(&[
        stdout(0, 0),
        (Stderr, OutputSpan::at(0, NOW + 50)),
        stdout(40, 1_000),
        stdout(70, 5_000),
    ]);
    assert_eq!(record.since(-1), Some(0));
    assert_eq!(record.since(NOW), Some(0));
    assert_eq!(
        record.since(NOW + SPAN_MS),
        Some(0),
        "a span may last so long"
    );
    assert_eq!(record.since(NOW + SPAN_MS + 1), Some(40));
    assert_eq!(record.since(NOW + 1_000), Some(40));
    assert_eq!(record.since(NOW + 4_000), Some(70));
    assert_eq!(
        record.since(NOW + 9_000),
        Some(100),
        "nothing was written since"
    );
    assert_eq!(record.since(i64::MAX), Some(100));
    assert_eq!(record.since(i64::MIN), Some(0));
}

#[test]
fn after_a_clock_was_set_back_no_later_byte_is_omitted() {
    let record = Record::of(&[
        stdout(0, 0),
        stdout(10, 60_000),
        stdout(20, 30_000),
        stdout(30, 70_000),
    ]);
    assert_eq!(record.since(NOW + 50_000), Some(10));
    assert_eq!(record.since(NOW + 65_000), Some(30));
    let mut times = record.times();
    let expected = [(0, 10), (60_000, 10), (30_000, 10), (70_000, 70)];
    let expected = expected.map(|(ms, count)| (Some(ms), count));
    assert_eq!(frames(&mut times, 0, 100), expected);
    // A clock was far ahead at first.
    let ahead = Record::of(&[stdout(0, 1 << 50), stdout(10, 0)]);
    assert_eq!(ahead.since(NOW), Some(0));
}

#[test]
fn bytes_have_the_time_of_their_span() {
    let record = Record::of(&[
        stdout(10, 0),
        (Stderr, OutputSpan::at(12, NOW)),
        stdout(20, 1_000),
        stdout(20, 2_000),
        stdout(25, 3_000),
    ]);
    let mut times = record.times();
    // The first ones are of a time before the record.
    let first = frames(&mut times, 5, 10);
    assert_eq!(first, [(None, 5), (Some(0), 5)]);
    let rest = [(Some(0), 5), (Some(2_000), 5), (Some(3_000), 5)];
    assert_eq!(frames(&mut times, 15, 15), rest);
    assert_eq!(frames(&mut times, 30, 1), [(Some(3_000), 1)]);
    // A reader that begins later finds the same.
    assert_eq!(
        frames(&mut record.times(), 22, 4),
        [(Some(2_000), 3), (Some(3_000), 1)]
    );
}

#[test]
fn a_record_that_grows_and_is_replaced_is_followed() {
    let record = Record::of(&[stdout(0, 0)]);
    let mut times = record.times();
    assert_eq!(frames(&mut times, 0, 5), [(Some(0), 5)]);
    let grown = [stdout(0, 0), stdout(5, 1_000), stdout(8, 2_000)];
    fs::write(record.path(), encode_times(&grown)).unwrap();
    assert_eq!(frames(&mut times, 5, 2), [(Some(1_000), 2)]);
    // A supervisor has merged the first two, and went on.
    let merged = OutputSpan {
        last_ms: NOW + 1_100,
        ..OutputSpan::at(0, NOW)
    };
    let shorter = [(Stdout, merged), stdout(8, 2_000), stdout(9, 3_000)];
    let draft = record.path().with_added_extension("draft");
    fs::write(&draft, encode_times(&shorter)).unwrap();
    fs::rename(&draft, record.path()).unwrap();
    let rest = [(Some(1_000), 1), (Some(2_000), 1), (Some(3_000), 1)];
    assert_eq!(frames(&mut times, 7, 3), rest);
    // Its sandbox is removed while it is followed.
    fs::remove_file(record.path()).unwrap();
    assert_eq!(frames(&mut times, 10, 1), [(Some(3_000), 1)]);
}

#[test]
fn a_damaged_record_loses_times_from_there_on() {
    let spans: Vec<_> = (0..50)
        .map(|line| stdout(line * 2, line as i64 * 1_000))
        .collect();
    let whole = encode_times(&spans);
    let (mut has_ended, mut wrong) = (0, 0);
    for at in 0..whole.len() {
        let record = Record::of(&[]);
        let mut damaged = whole.clone();
        damaged[at] ^= 0x15;
        fs::write(record.path(), &damaged).unwrap();
        let since = record.since(NOW + 49_000);
        let Some(mut times) = OutputTimes::open(&record.path(), Stdout, 100).unwrap() else {
            assert_eq!(since, None, "damaged before the first entry");
            continue;
        };
        let found = frames(&mut times, 0, 100);
        has_ended += usize::from(found.last().unwrap().0.is_none());
        let mut offset = 0;
        let is_right = found.into_iter().all(|(ms, length)| {
            let begin = offset;
            offset += length as i64;
            ms.is_none_or(|ms| ms == begin / 2 * 1_000)
        });
        let is_omitted = since.is_none_or(|offset| offset > 98);
        wrong += usize::from(!is_right || is_omitted);
    }
    assert!(
        has_ended > whole.len() * 8 / 10,
        "{has_ended} of {}",
        whole.len()
    );
    // A check byte is right by chance in one of 256 cases.
    assert!(wrong * 50 < whole.len(), "{wrong} of {}", whole.len());
    // Cut off, as if the newest entries were lost.
    let record = Record::of(&spans);
    fs::write(record.path(), &whole[..whole.len() / 2]).unwrap();
    let mut times = record.times();
    assert_eq!(frames(&mut times, 0, 4), [(Some(0), 2), (Some(1_000), 2)]);
}

#[test]
fn output_without_a_record_has_no_times() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("1-1-1.times");
    let opened = |size| OutputTimes::open(&path, Stdout, size).unwrap();
    let since = |size| offset_since(&path, Stdout, NOW, size).unwrap();
    assert!(opened(1).is_none() && since(1).is_none());
    assert_eq!(since(0), Some(0));
    // The record comes with the first byte.
    let mut times = opened(0).unwrap();
    fs::write(&path, encode_times(&[stdout(0, 0)])).unwrap();
    assert_eq!(frames(&mut times, 0, 3), [(Some(0), 3)]);
    // Only the other stream has a record.
    fs::write(&path, encode_times(&[(Stderr, OutputSpan::at(0, NOW))])).unwrap();
    assert!(opened(1).is_none() && since(1).is_none());
    // A task of the agent's own user has put something else there.
    fs::remove_file(&path).unwrap();
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(OutputTimes::open(&path, Stdout, 1).is_err());
    assert!(offset_since(&path, Stdout, NOW, 1).is_err());
}
