//! Tests of the format: round trips, truncation, damage, and records that grow.

use std::io::Write;

use super::*;

fn reader(bytes: &[u8]) -> TimesReader {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    TimesReader::new(file)
}

fn all(reader: &mut TimesReader) -> Vec<(StreamName, OutputSpan)> {
    std::iter::from_fn(|| reader.next_span().unwrap()).collect()
}

/// Spans with large and small distances, a clock that is set back, and extreme values.
fn samples() -> Vec<(StreamName, OutputSpan)> {
    use StreamName::{Stderr, Stdout};
    let now = 1_795_000_000_000;
    let merged = OutputSpan {
        last_ms: now + 60_000,
        ..OutputSpan::at(700, now)
    };
    vec![
        (Stdout, OutputSpan::at(0, now)),
        (Stderr, OutputSpan::at(0, now + 3)),
        (Stdout, OutputSpan::at(80, now + 1_000)),
        (Stdout, OutputSpan::at(80, now - 86_400_000)),
        (Stdout, merged),
        (Stderr, OutputSpan::at(1 << 61, i64::MIN)),
        (Stderr, OutputSpan::at((1 << 61) + 1, i64::MAX)),
        (Stdout, OutputSpan::at(701, 0)),
    ]
}

#[test]
fn spans_round_trip_and_usual_ones_take_four_bytes() {
    let samples = samples();
    let mut reader = reader(&encode_times(&samples));
    assert_eq!(all(&mut reader), samples);
    assert!(!reader.is_damaged());
    let usual: Vec<_> = (0..1_000)
        .map(|line| OutputSpan::at(line * 20, 1_795_000_000_000 + line as i64 * 1_000))
        .map(|span| (StreamName::Stderr, span))
        .collect();
    let bytes = encode_times(&usual);
    assert!(bytes.len() < 4 * 1_000 + 20, "{}", bytes.len());
    assert_eq!(all(&mut self::reader(&bytes)), usual);
}

#[test]
fn every_truncation_loses_only_the_last_entries() {
    let (samples, bytes) = (samples(), encode_times(&samples()));
    let whole = |count| encode_times(&samples[..count]).len();
    let ends: Vec<_> = (0..samples.len()).map(whole).chain([0]).collect();
    for length in 0..bytes.len() {
        let mut reader = reader(&bytes[..length]);
        let found = all(&mut reader);
        assert!(found.len() < samples.len());
        assert_eq!(found, samples[..found.len()], "{length} bytes");
        let is_whole = ends.contains(&length);
        assert_eq!(reader.is_damaged(), !is_whole, "{length} bytes");
    }
}

#[test]
fn a_changed_byte_ends_the_record_at_its_entry() {
    let (samples, bytes) = (samples(), encode_times(&samples()));
    let mut unnoticed = 0;
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << bit;
            let found = all(&mut reader(&damaged));
            // An entry passes its check by chance in one of 256 cases.
            unnoticed += usize::from(!samples.starts_with(&found));
        }
    }
    assert!(unnoticed * 50 < bytes.len() * 8, "{unnoticed}");
    // A power cut leaves zeros at the end of some files.
    let zeros = [&bytes[..], &[0; 9_000]].concat();
    let mut reader = reader(&zeros);
    assert_eq!(all(&mut reader), samples);
    assert!(reader.is_damaged());
}

#[test]
fn arbitrary_bytes_are_read_to_an_end() {
    let mut state = 1_u64;
    let mut random = move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 56) as u8
    };
    for length in (0..400).chain([10_000]) {
        let noise: Vec<u8> = (0..length).map(|_| random()).collect();
        assert!(all(&mut reader(&noise)).is_empty(), "it has no header");
        let mut reader = reader(&[&HEADER[..], &noise].concat());
        let _ = all(&mut reader);
        assert_eq!(reader.next_span().unwrap(), None, "it stays at its end");
    }
    for full in [[0xff; 64], [0x80; 64], [0; 64]] {
        let mut reader = reader(&[&HEADER[..], &full].concat());
        assert!(all(&mut reader).is_empty() && reader.is_damaged());
    }
}

#[test]
fn a_record_that_is_too_long_is_not_read_to_its_end() {
    let count = MAX_BYTES as usize;
    let spans = vec![(StreamName::Stdout, OutputSpan::at(0, 0)); count];
    let mut reader = reader(&encode_times(&spans));
    let found = all(&mut reader).len();
    assert!(found < count && reader.is_damaged(), "{found}");
    assert!(reader.position <= MAX_BYTES);
}

#[test]
fn a_reader_continues_when_the_record_grows() {
    let (samples, bytes) = (samples(), encode_times(&samples()));
    let file = tempfile::tempfile().unwrap();
    let mut reader = TimesReader::new(file.try_clone().unwrap());
    let mut found = Vec::new();
    for (at, byte) in bytes.iter().enumerate() {
        // What follows, of an entry that was written in part, is replaced.
        file.write_all_at(&[*byte, 0xee, 0xee], at as u64).unwrap();
        found.extend(all(&mut reader));
    }
    assert_eq!(found, samples);
}

#[test]
fn special_files_are_not_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("record.times");
    assert!(TimesReader::open(&path).unwrap().is_none());
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(TimesReader::open(&path).is_err());
    std::fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
    assert!(TimesReader::open(&path).is_err());
}
