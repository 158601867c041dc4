//! Tests of a reader with a concurrently rotating supervisor: each byte is determined by its
//! offset, so that no byte can be repeated or missed undetected.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::*;

const FILES: usize = 4;

/// Returns the byte at this offset.
fn byte(offset: u64) -> u8 {
    (offset.wrapping_mul(31) ^ (offset >> 8)) as u8
}

/// A supervisor's operations on the files of one stream.
struct StreamWriter {
    directory: PathBuf,
    parts: Vec<(FileId, u64)>,
    file: File,
    written: u64,
}

impl StreamWriter {
    fn begin(directory: &Path) -> Self {
        fs::create_dir_all(directory.join("sandbox")).unwrap();
        let file = File::create_new(directory.join("sandbox/stdout")).unwrap();
        let id = FileId::of(&file.metadata().unwrap());
        Self {
            directory: directory.to_owned(),
            parts: vec![(id, 0)],
            file,
            written: 0,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join("sandbox").join(name)
    }

    fn write(&mut self, count: u64) {
        let bytes: Vec<_> = (self.written..self.written + count).map(byte).collect();
        self.file.write_all(&bytes).unwrap();
        self.written += count;
    }

    fn save(&self) {
        let parts: Vec<_> = self
            .parts
            .iter()
            .map(|(id, begin)| serde_json::json!({ "file": id, "begin": begin }))
            .collect();
        let record = serde_json::json!({
            "version": 1,
            "stdout": { "parts": parts, "end": self.written },
            "stderr": { "parts": [], "end": 0 },
        });
        fs::write(self.directory.join("draft"), record.to_string()).unwrap();
        fs::rename(self.directory.join("draft"), self.directory.join("record")).unwrap();
    }

    fn rotate(&mut self) {
        let draft = self.path("draft");
        let mut options = OpenOptions::new();
        self.file = options.write(true).create_new(true).open(&draft).unwrap();
        let id = FileId::of(&self.file.metadata().unwrap());
        self.parts.push((id, self.written));
        let excess = self.parts.len().saturating_sub(FILES);
        self.parts.drain(..excess);
        self.save();
        for rotations in (1..FILES).rev() {
            let name = |rotations| self.path(&StreamName::Stdout.file(rotations));
            // Not created yet, or removed by the test.
            let _ = fs::rename(name(rotations - 1), name(rotations));
        }
        fs::rename(draft, self.path("stdout")).unwrap();
    }
}

fn reader(dir: &Path) -> StreamReader {
    let place = FilePath::parse("tasks/framework-1/web/stdout").unwrap();
    let sandbox = Sandbox {
        directory: dir.join("sandbox"),
        output_record: dir.join("record"),
        output_times: dir.join("times"),
        ended: false,
    };
    StreamReader::open(&place, &sandbox, &["stdout".to_owned()]).unwrap()
}

/// Reads the available bytes and checks each; returns the step at which it stopped.
fn read_available(reader: &mut StreamReader) -> ReadResult {
    loop {
        let offset = reader.offset();
        match reader.next(u64::MAX).unwrap() {
            ReadResult::Bytes(bytes) => {
                let expected: Vec<_> = (offset..reader.offset()).map(byte).collect();
                assert!(bytes == expected, "wrong bytes from {offset} on");
            }
            step @ (ReadResult::Nothing | ReadResult::Gap) => return step,
        }
    }
}

#[test]
fn a_fast_reader_receives_every_byte_once() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = StreamWriter::begin(directory.path());
    let mut reader = reader(directory.path());
    for round in 0..40 {
        writer.write(700);
        assert_eq!(read_available(&mut reader), ReadResult::Nothing);
        writer.write(300 + round);
        // Sometimes twice: each of the files that it has not seen yet is found.
        writer.rotate();
        if round % 3 == 0 {
            writer.write(50);
            writer.rotate();
        }
        assert_eq!(read_available(&mut reader), ReadResult::Nothing);
        assert_eq!(reader.offset(), writer.written);
    }
}

#[test]
fn a_slow_reader_receives_open_files_and_the_next_offset() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = StreamWriter::begin(directory.path());
    writer.write(1_000);
    writer.rotate();
    writer.write(500);
    let mut slow = reader(directory.path());
    assert_eq!(slow.size(), 1_500);
    writer.write(500);
    for _ in 0..FILES + 2 {
        writer.rotate();
        writer.write(1_000);
    }
    // Both of its files have been removed by now.
    assert_eq!(read_available(&mut slow), ReadResult::Gap);
    assert_eq!(slow.offset(), 2_000);
    let mut next = reader(directory.path());
    next.seek(2_000, false).unwrap();
    assert_eq!(next.offset(), 4_000);
    assert_eq!(read_available(&mut next), ReadResult::Nothing);
    assert_eq!(next.offset(), writer.written);
}

#[test]
fn a_reader_loses_nothing_during_a_rotation() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = StreamWriter::begin(directory.path());
    let mut reader = reader(directory.path());
    let over = std::sync::atomic::AtomicBool::new(false);
    let (mut gaps, mut offset) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..2_000_u64 {
                writer.write(100 + round % 90);
                if round % 4 == 3 {
                    writer.rotate();
                }
            }
            writer.save();
            over.store(true, std::sync::atomic::Ordering::Release);
        });
        loop {
            let is_last = over.load(std::sync::atomic::Ordering::Acquire);
            let step = read_available(&mut reader);
            offset = reader.offset();
            if step == ReadResult::Gap {
                gaps += 1;
                reader = self::reader(directory.path());
                reader.seek(offset, is_last).unwrap();
                assert!(is_last || reader.offset() >= offset);
            } else if is_last {
                break;
            }
        }
    });
    assert_eq!(offset, writer.written, "after {gaps} gaps");
}

#[test]
fn replaced_output_files_are_not_read() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = StreamWriter::begin(directory.path());
    let secret = directory.path().join("secret");
    fs::write(&secret, "secret").unwrap();
    for _ in 0..3 {
        writer.write(100);
        writer.rotate();
    }
    writer.write(100);
    // Held open, so that their inode numbers are not reused immediately.
    let _held = ["stdout", "stdout.1", "stdout.2"].map(|name| File::open(writer.path(name)));
    fs::remove_file(writer.path("stdout.2")).unwrap();
    symlink(&secret, writer.path("stdout.2")).unwrap();
    fs::remove_file(writer.path("stdout.1")).unwrap();
    fs::write(writer.path("stdout.1"), "x".repeat(100)).unwrap();
    let mut reader = reader(directory.path());
    reader.seek(0, false).unwrap();
    assert_eq!(read_available(&mut reader), ReadResult::Gap);
    assert_eq!(reader.offset(), 100);
    reader.seek(100, false).unwrap();
    assert_eq!(reader.offset(), 300, "two files are gone");
    assert_eq!(read_available(&mut reader), ReadResult::Nothing);
    assert_eq!(reader.offset(), 400);
    // Renamed files are still recognized.
    fs::rename(writer.path("stdout.3"), writer.path("stdout.1")).unwrap();
    let mut reader = self::reader(directory.path());
    assert_eq!(read_available(&mut reader), ReadResult::Gap);
    assert_eq!(reader.offset(), 100);
    fs::remove_file(writer.path("stdout")).unwrap();
    nix::unistd::mkfifo(&writer.path("stdout"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut reader = self::reader(directory.path());
    reader.seek(100, false).unwrap();
    assert_eq!(
        read_available(&mut reader),
        ReadResult::Nothing,
        "it may come yet"
    );
    reader.seek(100, true).unwrap();
    assert_eq!(
        reader.offset(),
        300,
        "it was as long when that was recorded"
    );
}

#[test]
fn a_truncated_file_is_reported_as_a_gap() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = StreamWriter::begin(directory.path());
    writer.write(1_000);
    writer.rotate();
    writer.write(1_000);
    let cut = OpenOptions::new().write(true).open(writer.path("stdout.1"));
    cut.unwrap().set_len(400).unwrap();
    let mut reader = reader(directory.path());
    assert_eq!(read_available(&mut reader), ReadResult::Gap);
    assert_eq!(reader.offset(), 400);
    reader.seek(400, false).unwrap();
    assert_eq!(reader.offset(), 1_000);
    assert_eq!(reader.seek_whole(0).unwrap(), 2_000);
    assert_eq!(reader.offset(), 1_000, "what is whole begins after it");
}
