//! Tests with real pipes and directories: which output is kept, and what a command that owns the
//! directory can do about it.

mod throughput;

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use argosy_host::ContainerId;

use super::*;
use crate::spec::{OutputLimits, Program};

/// A supervisor's outputs, and the command's ends of them.
struct OutputFixture {
    directory: tempfile::TempDir,
    outputs: CommandOutput,
    writers: [File; 2],
    buffer: Vec<u8>,
}

const SMALL: OutputLimits = OutputLimits {
    file_bytes: 1_000,
    files: 4,
    bytes_per_second: u64::MAX,
};

fn spec(directory: &Path, limits: OutputLimits) -> LaunchSpec {
    let id = ContainerId::new("c").unwrap();
    let sandbox = directory.join("sandbox");
    fs::create_dir_all(&sandbox).unwrap();
    let program = Program::Shell("true".into());
    LaunchSpec {
        output: limits,
        ..LaunchSpec::new(id, directory, &sandbox, program)
    }
}

impl OutputFixture {
    fn new(limits: OutputLimits) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (outputs, writers) = CommandOutput::create(&spec(directory.path(), limits)).unwrap();
        Self {
            directory,
            outputs,
            writers: writers.map(File::from),
            buffer: Vec::new(),
        }
    }

    /// Writes these bytes as the command to its standard output, and moves them.
    fn write(&mut self, bytes: &[u8]) {
        for piece in bytes.chunks(4_096) {
            self.writers[0].write_all(piece).unwrap();
            while self
                .outputs
                .pump([true; 2], &mut self.buffer, &mut |_, _| {})
            {}
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join("sandbox").join(name)
    }

    fn record(&self) -> Option<OutputRecord> {
        OutputRecord::read(&self.directory.path().join("output.json")).unwrap()
    }

    /// Returns the spans of standard output in the record of times.
    fn spans(&self) -> Vec<OutputSpan> {
        let path = times_path(&self.directory.path().join("output.json"));
        let mut reader = TimesReader::open(&path).unwrap().unwrap();
        let mut spans = Vec::new();
        while let Some((stream, span)) = reader.next_span().unwrap() {
            spans.extend((stream == StreamName::Stdout).then_some(span));
        }
        assert!(!reader.is_damaged());
        spans
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("")).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// Returns the stored part of standard output, and the offset of its first byte, found by the
    /// record alone.
    fn stored(&self) -> (u64, Vec<u8>) {
        let files: Vec<_> = self
            .names()
            .into_iter()
            .map(|name| self.path(&name))
            .filter(|path| fs::symlink_metadata(path).unwrap().is_file())
            .collect();
        let record = self.record().unwrap();
        let parts = &record.of(StreamName::Stdout).parts;
        let mut bytes = Vec::new();
        for (at, part) in parts.iter().enumerate() {
            let file = files
                .iter()
                .find(|path| FileId::of(&fs::metadata(path).unwrap()) == part.file);
            let content = fs::read(file.unwrap()).unwrap();
            if let Some(next) = parts.get(at + 1) {
                assert_eq!(part.begin + content.len() as u64, next.begin);
            }
            bytes.extend(content);
        }
        (parts[0].begin, bytes)
    }

    fn finish(&mut self) {
        self.outputs
            .finish(Duration::from_secs(5), &mut self.buffer, &mut |_, _| {});
    }
}

fn lines(count: u32) -> Vec<u8> {
    let all = (0..count).flat_map(|number| format!("line {number}\n").into_bytes());
    all.collect()
}

#[test]
fn little_output_is_one_file_of_a_stream_and_needs_no_record() {
    let mut world = OutputFixture::new(OutputLimits::DEFAULT);
    world.write(b"hello ");
    world.writers[1].write_all(b"oops").unwrap();
    world.write(b"world");
    world.writers = [tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap()];
    world.finish();
    assert_eq!(world.outputs.pipes().map(|pipe| pipe.is_none()), [true; 2]);
    assert_eq!(fs::read(world.path("stdout")).unwrap(), b"hello world");
    assert_eq!(fs::read(world.path("stderr")).unwrap(), b"oops");
    assert_eq!(world.names(), ["stderr", "stdout"]);
    assert_eq!(world.record(), None);
    let mode = fs::metadata(world.path("stdout")).unwrap().mode();
    assert_eq!(mode & 0o7777, 0o644);
}

#[test]
fn stored_bytes_are_unique_and_located_by_the_record() {
    let mut world = OutputFixture::new(SMALL);
    let all = lines(1_000);
    for piece in all.chunks(77) {
        world.write(piece);
    }
    let (begin, bytes) = world.stored();
    assert!(begin > 0);
    assert_eq!(bytes, all[begin as usize..]);
    assert_eq!(
        world.names(),
        ["stderr", "stdout", "stdout.1", "stdout.2", "stdout.3"]
    );
    world.finish();
    let record = world.record().unwrap();
    assert_eq!(record.of(StreamName::Stdout).end, all.len() as u64);
    assert_eq!(record.of(StreamName::Stderr).parts.len(), 1);
}

#[test]
fn a_line_written_at_once_is_not_split() {
    let mut world = OutputFixture::new(SMALL);
    let all = lines(1_000);
    for line in all.split_inclusive(|byte| *byte == b'\n') {
        world.write(line);
    }
    for rotations in 1..4 {
        let content = fs::read(world.path(&StreamName::Stdout.file(rotations))).unwrap();
        assert!(content.starts_with(b"line ") && content.ends_with(b"\n"));
        assert!((980..=1_000).contains(&content.len()), "files are filled");
    }
    let (begin, bytes) = world.stored();
    assert_eq!(bytes, all[begin as usize..]);
}

#[test]
fn a_line_longer_than_a_file_is_split_where_the_file_is_full() {
    let mut world = OutputFixture::new(SMALL);
    let all: Vec<u8> = (0..2_500_u32)
        .map(|number| b'a' + (number % 26) as u8)
        .collect();
    world.write(&all);
    assert_eq!(world.stored(), (0, all));
    let length = |name: &str| fs::metadata(world.path(name)).unwrap().len();
    assert_eq!(
        ["stdout.2", "stdout.1", "stdout"].map(length),
        [1_000, 1_000, 500]
    );
}

#[test]
fn a_single_file_is_truncated_when_it_is_full() {
    let mut world = OutputFixture::new(OutputLimits { files: 1, ..SMALL });
    world.write(&[b'x'; 2_300]);
    assert_eq!(world.names(), ["stderr", "stdout"]);
    assert_eq!(world.stored(), (2_000, vec![b'x'; 300]));
}

#[test]
fn output_above_the_rate_limit_is_dropped_with_a_note() {
    let limits = OutputLimits {
        bytes_per_second: 5_000,
        ..OutputLimits::DEFAULT
    };
    let mut world = OutputFixture::new(limits);
    // Less than a second passes, or a few do: the missing bytes are reported in both cases.
    world.write(&[b'x'; 100_000]);
    world.finish();
    let text = fs::read_to_string(world.path("stdout")).unwrap();
    let kept = text.matches('x').count();
    let reported = text.lines().filter_map(|line| {
        let count = line.strip_prefix("[argosy: ")?.split(' ').next()?;
        assert!(
            line.ends_with("came faster than 5000 bytes a second]"),
            "{line}"
        );
        count.parse::<usize>().ok()
    });
    assert_eq!(kept + reported.sum::<usize>(), 100_000);
    assert!(kept < 100_000 && text.starts_with(&"x".repeat(5_000)));
}

#[test]
fn dropped_bytes_are_reported_even_without_more_output() {
    let directory = tempfile::tempdir().unwrap();
    let limits = OutputLimits {
        bytes_per_second: 5_000,
        ..OutputLimits::DEFAULT
    };
    let spec = spec(directory.path(), limits);
    let mut store = OutputStore::open(&spec.sandbox, &spec.output_record, limits).unwrap();
    let mut log = OutputLog::create(&mut store, StreamName::Stdout).unwrap();
    let (now, second) = (Instant::now(), Duration::from_secs(1));
    let text = || fs::read_to_string(spec.sandbox.join("stdout")).unwrap();
    log.accept(&mut store, now, &[b'x'; 5_000]);
    assert!(!log.has_pending_note());
    log.accept(&mut store, now, b"more");
    log.flush_note(&mut store, now + second / 2);
    assert_eq!(text().len(), 5_000, "it may become more");
    log.flush_note(&mut store, now + second);
    assert!(text().contains("x\n[argosy: 4 bytes of output are missing here"));
    assert!(!log.has_pending_note());
}

#[test]
fn writes_do_not_follow_links() {
    let mut world = OutputFixture::new(SMALL);
    let victim = world.directory.path().join("victim");
    fs::write(&victim, "untouched").unwrap();
    for round in 0..12 {
        for name in [".stdout.next", "stdout", "stdout.1", "stdout.2", "stdout.3"] {
            // The command itself loses whichever file is there now.
            let _ = fs::remove_file(world.path(name));
            match round % 2 {
                0 => symlink(&victim, world.path(name)).unwrap(),
                _ => fs::hard_link(&victim, world.path(name)).unwrap(),
            }
        }
        world.write(&[b'x'; 1_500]);
    }
    assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
    world.write(&[b'y'; 5_000]);
    let (_, bytes) = world.stored();
    assert_eq!(bytes.last(), Some(&b'y'));
    assert_eq!(
        fs::metadata(&victim).unwrap().nlink(),
        1,
        "all are rotated away"
    );
}

#[test]
fn removed_files_are_recreated_at_the_next_rotation() {
    let mut world = OutputFixture::new(SMALL);
    world.write(&[b'x'; 1_500]);
    for name in ["stdout", "stdout.1"] {
        fs::remove_file(world.path(name)).unwrap();
    }
    world.write(&[b'y'; 1_000]);
    assert_eq!(world.names(), ["stderr", "stdout"]);
    assert_eq!(fs::read(world.path("stdout")).unwrap(), [b'y'; 500]);
    let record = world.record().unwrap();
    assert_eq!(
        record.of(StreamName::Stdout).parts.last().unwrap().begin,
        2_000
    );
}

#[test]
fn directories_at_file_names_lose_only_their_owners_output() {
    let mut world = OutputFixture::new(SMALL);
    for name in ["stdout.1", "stdout.2", "stdout.3"] {
        fs::create_dir(world.path(name)).unwrap();
        fs::write(world.path(name).join("full"), "").unwrap();
    }
    // None of them can be removed, so that there is only the newest file.
    world.write(&[b'x'; 3_500]);
    assert_eq!(fs::metadata(world.path("stdout")).unwrap().len(), 500);
    assert!(world.path("stdout.3/full").exists());
    fs::remove_file(world.path("stdout")).unwrap();
    fs::create_dir(world.path("stdout")).unwrap();
    fs::write(world.path("stdout/full"), "").unwrap();
    // Not even that now: output continues regardless.
    world.write(&[b'y'; 3_000]);
    for name in ["stdout", "stdout.1", "stdout.2", "stdout.3"] {
        fs::remove_dir_all(world.path(name)).unwrap();
    }
    world.write(&[b'z'; 5_000]);
    let (begin, bytes) = world.stored();
    assert_eq!(begin + bytes.len() as u64, 11_500);
    assert_eq!(bytes.last(), Some(&b'z'));
}

#[test]
fn without_a_record_nothing_is_rotated_and_loss_is_reported() {
    let directory = tempfile::tempdir().unwrap();
    let mut spec = spec(directory.path(), SMALL);
    spec.output_record = directory.path().join("missing/record");
    let (mut outputs, writers) = CommandOutput::create(&spec).unwrap();
    let mut writers = writers.map(File::from);
    let mut write = |bytes: &[u8]| {
        writers[0].write_all(bytes).unwrap();
        outputs.pump([true; 2], &mut Vec::new(), &mut |_, _| {});
    };
    write(&[b'x'; 1_700]);
    write(&[b'x'; 300]);
    let stdout = spec.sandbox.join("stdout");
    assert_eq!(fs::read(&stdout).unwrap(), [b'x'; 1_000]);
    assert!(!spec.sandbox.join(".stdout.next").exists());
    fs::create_dir(directory.path().join("missing")).unwrap();
    write(b"again");
    let text = fs::read_to_string(&stdout).unwrap();
    assert_eq!(
        text,
        "\n[argosy: 1000 bytes of output are missing here: they could not be written]\nagain"
    );
}

#[test]
fn files_of_an_earlier_attempt_are_replaced_and_others_rejected() {
    let directory = tempfile::tempdir().unwrap();
    let spec = spec(directory.path(), SMALL);
    let (stdout, kept) = (spec.sandbox.join("stdout"), directory.path().join("kept"));
    fs::write(&kept, "kept").unwrap();
    fs::hard_link(&kept, &stdout).unwrap();
    drop(CommandOutput::create(&spec).unwrap());
    assert_eq!(fs::read_to_string(&kept).unwrap(), "kept");
    assert_eq!(fs::read_to_string(&stdout).unwrap(), "");
    fs::remove_file(&stdout).unwrap();
    symlink("/dev/null", &stdout).unwrap();
    let error = CommandOutput::create(&spec).unwrap_err();
    let text = argosy_host::packets::error_chain(&error);
    assert!(
        text.contains("stdout") && text.contains("has a link"),
        "{text}"
    );
    let gone = LaunchSpec {
        sandbox: directory.path().join("gone"),
        ..spec
    };
    let error = CommandOutput::create(&gone).unwrap_err();
    let text = argosy_host::packets::error_chain(&error);
    assert!(
        text.contains("gone/stdout") && text.contains("No such file"),
        "{text}"
    );
}

#[test]
fn single_bytes_at_full_speed_are_recorded_as_few_spans() {
    let mut world = OutputFixture::new(SMALL);
    let began = Instant::now();
    for number in 0..20_000_u32 {
        world.write(&[number as u8]);
    }
    let spans = world.spans();
    let most = began.elapsed().as_millis() / SPAN_MS as u128 + 1;
    assert!(spans.len() as u128 <= most, "{} of {most}", spans.len());
    assert_eq!(spans[0].offset, 0);
    let (begin, bytes) = world.stored();
    assert_eq!(begin + bytes.len() as u64, 20_000);
    assert_eq!(world.names().len(), 5, "no file of times is in the sandbox");
}

#[test]
fn long_lines_and_binary_output_have_times_by_their_offsets() {
    let mut world = OutputFixture::new(OutputLimits {
        file_bytes: 4 * 1024 * 1024,
        ..SMALL
    });
    let before = wall_ms();
    world.write(&vec![b'x'; 10 * 1024 * 1024]);
    let all_bytes: Vec<u8> = (0..=255).collect();
    world.write(&all_bytes);
    let after = wall_ms();
    let spans = world.spans();
    assert_eq!(spans[0].offset, 0);
    for pair in spans.windows(2) {
        assert!(pair[0].offset < pair[1].offset);
    }
    let end = 10 * 1024 * 1024 + 256;
    for span in spans {
        assert!(span.offset < end && (before..=after).contains(&span.first_ms));
    }
}

fn wall_ms() -> i64 {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap();
    i64::try_from(since.as_millis()).unwrap()
}
