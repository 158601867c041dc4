//! Tests of output: rotation and rate limits, whatever commands do to the files.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::{Duration, Instant};

use argosy_isolation::output::{FileId, OutputRecord, StreamName, TimesReader, times_path};
use argosy_isolation::{CommandOutcome, ContainerUser, LaunchSpec, OutputLimits};

use crate::fixture::{RootFixture, TestCase, stderr, stdout};
use crate::profile::profiled;

pub(crate) const CASES: &[TestCase] = &[
    ("rotated_output_is_stored_without_loss", rotated),
    (
        "a_flood_of_output_beyond_its_limit_is_dropped_without_blocking",
        flood,
    ),
    (
        "a_command_that_replaces_its_output_files_affects_only_itself",
        hostile,
    ),
    (
        "output_files_are_readable_and_not_writable_for_the_command",
        guarded,
    ),
    ("output_streams_can_be_opened_by_path", by_name),
];

const MIB: u64 = 1024 * 1024;

/// Returns the stored part of a stream, by its record: its start offset, and its content.
fn kept(spec: &LaunchSpec, stream: StreamName) -> (u64, Vec<u8>) {
    let record = OutputRecord::read(&spec.output_record).unwrap().unwrap();
    let parts = &record.of(stream).parts;
    let mut bytes = Vec::new();
    for (at, part) in parts.iter().rev().enumerate().rev() {
        let path = spec.sandbox.join(stream.file(at));
        let file = FileId::of(&fs::metadata(&path).unwrap());
        assert_eq!(file, part.file, "{path:?}");
        assert_eq!(parts[0].begin + bytes.len() as u64, part.begin, "{path:?}");
        bytes.extend(fs::read(path).unwrap());
    }
    assert_eq!(record.of(stream).end, parts[0].begin + bytes.len() as u64);
    (parts[0].begin, bytes)
}

fn rotated() {
    let mut world = RootFixture::new();
    let mut spec = world.spec("seq 1000000; seq 10 >&2");
    spec.output = OutputLimits {
        file_bytes: MIB,
        files: 3,
        bytes_per_second: 1024 * MIB,
    };
    assert_eq!(world.run(&spec).outcome, CommandOutcome::Exited(0));
    let all: String = (1..=1_000_000)
        .map(|number| format!("{number}\n"))
        .collect();
    let (begin, bytes) = kept(&spec, StreamName::Stdout);
    assert!((2 * MIB..=3 * MIB).contains(&(bytes.len() as u64)));
    assert!(
        bytes == all.as_bytes()[begin as usize..],
        "the tail, exactly"
    );
    assert_eq!(stderr(&spec).lines().count(), 10);
    let entries = fs::read_dir(&spec.sandbox).unwrap().count();
    assert_eq!(entries, 4, "three files of one stream and one of the other");
}

fn flood() {
    let mut world = RootFixture::new();
    let mut spec = world.spec("head -c 500000000 /dev/zero && echo end > done");
    spec.output.bytes_per_second = 16 * MIB;
    let begun = Instant::now();
    assert_eq!(
        world.run(&spec).outcome,
        CommandOutcome::Exited(0),
        "no SIGPIPE"
    );
    assert!(begun.elapsed() < Duration::from_secs(20), "it was held up");
    assert!(spec.sandbox.join("done").exists());
    let (begin, bytes) = kept(&spec, StreamName::Stdout);
    let usual = OutputLimits::DEFAULT;
    assert!(bytes.len() as u64 <= usual.file_bytes * u64::from(usual.files));
    // Rotated files are not counted here: a flood of a second or less loses nothing.
    if begin == 0 {
        let zeros = bytes.iter().filter(|byte| **byte == 0).count();
        let text = String::from_utf8_lossy(&bytes).replace('\0', "");
        let reported = text.split("[argosy: ").skip(1);
        let reported =
            reported.map(|note| note.split(' ').next().unwrap().parse::<usize>().unwrap());
        assert_eq!(zeros + reported.sum::<usize>(), 500_000_000);
    }
}

fn hostile() {
    let mut world = RootFixture::new();
    let victim = world.work().join("victim");
    fs::write(&victim, "untouched").unwrap();
    fs::set_permissions(&victim, fs::Permissions::from_mode(0o666)).unwrap();
    let line = format!(
        "for round in $(seq 40); do \
           rm -rf stdout stdout.1 .stdout.next; \
           case $((round % 4)) in \
             0) ln -s {0} stdout; ln -s {0} stdout.1; ln -s {0} .stdout.next;; \
             1) mkdir -p stdout/full stdout.1/full .stdout.next/full;; \
             2) mkfifo stdout; mkfifo .stdout.next;; \
             3) ln -s /nowhere stdout; touch stdout.1 && chmod 0 stdout.1;; \
           esac; \
           head -c 70000 /dev/zero; \
         done; rm -rf stdout* .stdout.next; head -c 200000 /dev/zero; echo over",
        victim.display()
    );
    let mut spec = profiled(&mut world, &line);
    spec.output.file_bytes = 64 * 1024;
    let exit = world.run(&spec);
    assert_eq!(exit.outcome, CommandOutcome::Exited(0), "{}", stderr(&spec));
    assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
    assert!(stdout(&spec).ends_with("over\n"), "it healed");
    let record = OutputRecord::read(&spec.output_record).unwrap().unwrap();
    let end = record.of(StreamName::Stdout).end;
    assert!(end > 30 * 70_000 + 200_000, "nearly all got through: {end}");
}

fn guarded() {
    let mut world = RootFixture::new();
    let line = "cat stdout; for try in 'echo > stdout' 'chmod 777 stdout' 'truncate -s 0 stdout' 'ln stdout other'; do \
        eval \"$try\" 2>/dev/null || echo refused; done; until grep -c refused stdout; do sleep 0.02; done";
    for uid in [65_534, 0] {
        let mut spec = profiled(&mut world, line);
        let (gid, groups) = (uid, Vec::new());
        spec.user = Some(ContainerUser { uid, gid, groups });
        crate::profile::give_sandbox(&spec);
        let exit = world.run(&spec);
        assert_eq!(exit.outcome, CommandOutcome::Exited(0), "{}", stderr(&spec));
        // The last one depends on a kernel setting.
        let received = stdout(&spec);
        assert!(
            received.starts_with("refused\nrefused\nrefused\n"),
            "{received}"
        );
        let owner = fs::metadata(spec.sandbox.join("stdout")).unwrap().uid();
        assert_eq!(owner, 0, "the supervisor's");
    }
}

fn by_name() {
    let mut world = RootFixture::new();
    let spec = profiled(
        &mut world,
        "echo out > /dev/stdout; echo err > /dev/stderr; echo more >> /proc/self/fd/1",
    );
    let exit = world.run(&spec);
    assert_eq!(exit.outcome, CommandOutcome::Exited(0), "{}", stderr(&spec));
    assert_eq!(
        (stdout(&spec), stderr(&spec)),
        ("out\nmore\n".into(), "err\n".into())
    );
    let times = times_path(&spec.output_record);
    let mut record = TimesReader::open(&times).unwrap().unwrap();
    let mut begins = Vec::new();
    while let Some((stream, span)) = record.next_span().unwrap() {
        begins.extend((span.offset == 0).then_some(stream));
    }
    begins.sort_by_key(|stream| stream.name());
    assert_eq!(begins, [StreamName::Stderr, StreamName::Stdout]);
    assert_eq!(fs::metadata(times).unwrap().uid(), 0);
}
