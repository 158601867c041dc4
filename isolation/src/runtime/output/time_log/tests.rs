//! Tests of the record as it is written, with real files: spans, failures, the maximum size.

use super::*;

use StreamName::{Stderr, Stdout};

const LIMITS: OutputLimits = OutputLimits {
    file_bytes: 1_000,
    files: 4,
    bytes_per_second: u64::MAX,
};
/// A time in 2026.
const NOW: i64 = 1_795_000_000_000;

fn open(directory: &Path) -> TimeLog {
    TimeLog::open(&directory.join("1-1-1.output"), LIMITS)
}

/// Returns the spans of a stream that a reader finds.
fn recorded(log: &TimeLog, wanted: StreamName) -> Vec<OutputSpan> {
    let Some(mut reader) = TimesReader::open(&log.path).unwrap() else {
        return Vec::new();
    };
    let mut spans = Vec::new();
    while let Some((stream, span)) = reader.next_span().unwrap() {
        if stream == wanted {
            spans.push(span);
        }
    }
    assert!(!reader.is_damaged());
    spans
}

/// Asserts that every true time of a byte is within the span that contains it.
fn assert_contain(spans: &[OutputSpan], written: &[(u64, i64)]) {
    for (offset, wall_ms) in written {
        let at = spans.partition_point(|span| span.offset <= *offset);
        let Some(span) = at.checked_sub(1).map(|at| spans[at]) else {
            panic!("no span contains {offset}");
        };
        let times = span.first_ms..=span.last_ms;
        assert!(times.contains(wall_ms), "{offset}: {wall_ms} in {span:?}");
    }
}

#[test]
fn a_stream_begins_at_most_ten_spans_a_second() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(directory.path());
    let start = Instant::now();
    let begins =
        |log: &mut TimeLog, stream, ms| log.begins_span(stream, start + Duration::from_millis(ms));
    assert!(begins(&mut log, Stdout, 0));
    assert!(begins(&mut log, Stderr, 50));
    // One write for each millisecond of a second.
    let count = (1..1_000)
        .filter(|ms| begins(&mut log, Stdout, *ms))
        .count();
    assert_eq!(count, 9);
    assert!(
        !begins(&mut log, Stdout, 0),
        "a clock that stops begins none"
    );
}

#[test]
fn spans_of_both_streams_are_in_one_file_that_is_created_when_needed() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(
        directory.path().join("1-1-1.times"),
        "of an earlier attempt",
    )
    .unwrap();
    let mut log = open(directory.path());
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    let spans = [
        (Stdout, 0, NOW),
        (Stderr, 0, NOW + 20),
        (Stdout, 9, NOW - 5_000),
    ];
    for (stream, offset, wall_ms) in spans {
        log.add(stream, OutputSpan::at(offset, wall_ms), [0; 2]);
    }
    let of_stdout = [OutputSpan::at(0, NOW), OutputSpan::at(9, NOW - 5_000)];
    assert_eq!(recorded(&log, Stdout), of_stdout, "times are as they were");
    assert_eq!(recorded(&log, Stderr), [OutputSpan::at(0, NOW + 20)]);
    let path = directory.path().join("1-1-1.times");
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, MODE);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn a_full_record_stays_within_its_size_and_keeps_the_newest_times_exact() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(directory.path());
    assert_eq!(log.max_bytes, SMALLEST_LIMIT);
    // A line a second, and errors between them.
    let mut written = Vec::new();
    for line in 0..40_000_u64 {
        let wall_ms = NOW + line as i64 * 1_000;
        log.add(Stdout, OutputSpan::at(line * 30, wall_ms), [0; 2]);
        written.push((line * 30, wall_ms));
        if line % 7 == 0 {
            log.add(Stderr, OutputSpan::at(line, wall_ms + 300), [0; 2]);
        }
        if line % 1_000 == 0 {
            assert!(fs::metadata(&log.path).unwrap().len() <= SMALLEST_LIMIT);
        }
    }
    let spans = recorded(&log, Stdout);
    assert_contain(&spans, &written);
    let exact = spans
        .iter()
        .rev()
        .take_while(|span| span.length_ms() == SPAN_MS);
    assert!(exact.count() > 1_000, "the newest ones are not merged");
    assert!(spans.len() < 5_000);
    assert!(!recorded(&log, Stderr).is_empty());
}

#[test]
fn spans_of_removed_output_are_dropped_before_any_are_merged() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(directory.path());
    for line in 0..20_000_u64 {
        let span = OutputSpan::at(line * 30, NOW + line as i64 * 1_000);
        // The last 1,000 lines are kept.
        let kept = (line * 30).saturating_sub(30_000) + 7;
        log.add(Stdout, span, [kept, 0]);
    }
    let spans = recorded(&log, Stdout);
    assert!(spans.iter().all(|span| span.length_ms() == SPAN_MS));
    let kept = 19_999 * 30 - 30_000 + 7;
    assert!(spans[0].offset <= kept, "the first kept byte has a time");
    assert!(spans.len() < 5_000 && spans.last().unwrap().offset == 19_999 * 30);
}

#[test]
fn a_pause_is_merged_last() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(directory.path());
    let mut wall_ms = NOW;
    let mut written = Vec::new();
    for line in 0..12_000_u64 {
        // Ten minutes after each hundred lines.
        wall_ms += if line % 100 == 0 { 600_000 } else { 100 };
        log.add(Stdout, OutputSpan::at(line * 10, wall_ms), [0; 2]);
        written.push((line * 10, wall_ms));
    }
    let spans = recorded(&log, Stdout);
    assert_contain(&spans, &written);
    let longest = spans.iter().map(|span| span.length_ms()).max();
    assert!(longest < Some(600_000), "{longest:?}");
}

#[test]
fn a_clock_that_is_set_again_and_again_does_not_exceed_the_size() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(directory.path());
    let mut written = Vec::new();
    for line in 0..20_000_u64 {
        let wall_ms = match line % 3 {
            0 => i64::MIN + line as i64,
            1 => i64::MAX - line as i64,
            _ => NOW,
        };
        log.add(Stdout, OutputSpan::at(line, wall_ms), [0; 2]);
        written.push((line, wall_ms));
        if line % 1_000 == 0 {
            assert!(fs::metadata(&log.path).unwrap().len() <= SMALLEST_LIMIT);
        }
    }
    let spans = recorded(&log, Stdout);
    written.retain(|(offset, _)| *offset >= spans[0].offset);
    assert!(written.len() > 100);
    assert_contain(&spans, &written);
}

#[test]
fn a_record_that_cannot_be_written_for_a_while_covers_that_time() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing");
    let mut log = open(&missing);
    for line in 0..3 {
        let span = OutputSpan::at(line * 10, NOW + line as i64 * 1_000);
        log.add(Stdout, span, [0; 2]);
    }
    assert!(recorded(&log, Stdout).is_empty());
    fs::create_dir(&missing).unwrap();
    log.add(Stdout, OutputSpan::at(30, NOW + 3_000), [0; 2]);
    let spans = recorded(&log, Stdout);
    let written: Vec<_> = (0..4)
        .map(|line| (line * 10, NOW + line as i64 * 1_000))
        .collect();
    assert_contain(&spans, &written);
    assert_eq!(spans.last(), Some(&OutputSpan::at(30, NOW + 3_000)));
}

#[test]
fn a_file_that_cannot_be_shortened_is_not_copied_for_every_span() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(directory.path());
    let draft = directory.path().join("1-1-1.times.draft");
    fs::create_dir(&draft).unwrap();
    let mut line = 0;
    let mut add = |log: &mut TimeLog| {
        line += 1;
        log.add(
            Stdout,
            OutputSpan::at(line, NOW + line as i64 * 1_000),
            [0; 2],
        );
        line
    };
    while log.skipped == 0 {
        add(&mut log);
    }
    let recorded_before = recorded(&log, Stdout).len();
    fs::remove_dir(&draft).unwrap();
    for left in (0..SKIPPED_SPANS).rev() {
        add(&mut log);
        assert_eq!(log.skipped, left);
    }
    assert_eq!(recorded(&log, Stdout).len(), recorded_before);
    let last = add(&mut log);
    let spans = recorded(&log, Stdout);
    let written: Vec<_> = (1..=last)
        .map(|line| (line, NOW + line as i64 * 1_000))
        .collect();
    assert_contain(&spans, &written);
}

#[test]
fn a_damaged_file_is_replaced_when_it_is_full() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(directory.path());
    let mut written = Vec::new();
    for line in 0..8_000_u64 {
        let wall_ms = NOW + line as i64 * 1_000;
        log.add(Stdout, OutputSpan::at(line * 30, wall_ms), [0; 2]);
        written.push((line * 30, wall_ms));
        if line == 2_000 {
            let file = OpenOptions::new().write(true).open(&log.path).unwrap();
            file.write_all_at(&[0; 50], 3_000).unwrap();
        }
    }
    let spans = recorded(&log, Stdout);
    assert!(spans[0].offset > 2_000 * 30, "earlier times are lost");
    written.retain(|(offset, _)| *offset >= spans[0].offset);
    assert!(written.len() > 1_000);
    assert_contain(&spans, &written);
}
