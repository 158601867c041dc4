//! Tests of the queue and the thread, over real directories and over files that block.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Condvar;

use super::*;
use crate::audit::numbering::paths;
use crate::audit::verify::{BreakReason, verify};
use crate::audit::{AuditLine, VerifiedLog};

fn settings(directory: &Path, file_bytes: u64) -> AuditSettings {
    AuditSettings {
        directory: directory.join("audit"),
        file_bytes,
        files: 3,
    }
}

/// Opens the log below this directory. The bytes of recovered lines are sent to `recovered`.
fn open(directory: &Path, file_bytes: u64) -> (AuditLog, AuditWriter, Receiver<u64>) {
    let (sender, recovered) = mpsc::channel();
    let report = move |notice: &AuditNotice<'_>| {
        if let AuditNotice::Recovered(bytes) = notice {
            sender.send(*bytes).unwrap();
        }
    };
    let settings = settings(directory, file_bytes);
    let (log, writer) = AuditLog::open(&settings, || 5_000, report).unwrap();
    (log, writer, recovered)
}

fn exec(object: &str) -> AuditEntry {
    AuditEntry {
        object: object.to_owned(),
        ..AuditEntry::new(5_000, AuditEvent::Exec)
    }
}

/// Writes these commands, and ends the log.
fn write(directory: &Path, file_bytes: u64, objects: &[&str]) {
    let (log, writer, _recovered) = open(directory, file_bytes);
    objects.iter().for_each(|object| log.record(exec(object)));
    drop(writer);
}

fn lines(directory: &Path) -> (VerifiedLog, Vec<AuditLine>) {
    let mut lines = Vec::new();
    let places = [directory.join("audit")];
    let verified = verify(&places, None, |line| lines.push(line.clone())).unwrap();
    (verified, lines)
}

fn events(directory: &Path) -> Vec<AuditEvent> {
    let (_, lines) = lines(directory);
    lines.iter().map(|line| line.entry.event).collect()
}

#[test]
fn entries_are_lines_when_the_log_has_ended() {
    let directory = tempfile::tempdir().unwrap();
    write(
        directory.path(),
        1 << 20,
        &["framework-1/a", "framework-1/b"],
    );
    let (verified, lines) = lines(directory.path());
    assert_eq!((verified.files, verified.lines, verified.serial), (1, 3, 3));
    let objects: Vec<_> = lines
        .iter()
        .map(|line| line.entry.object.as_str())
        .collect();
    assert_eq!(objects, ["", "framework-1/a", "framework-1/b"]);
    let audit = directory.path().join("audit");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&audit), 0o700);
    assert_eq!(mode(&audit.join(name(1))), 0o600);
}

#[test]
fn a_log_continues_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    for object in ["a", "b", "c"] {
        write(directory.path(), 1 << 20, &[object]);
    }
    use AuditEvent::{Exec, FileBegun};
    assert_eq!(events(directory.path()), [FileBegun, Exec, Exec, Exec]);
}

#[test]
fn files_are_rotated_and_the_oldest_are_removed() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), 1, &["a", "b", "c"]);
    write(directory.path(), 1, &["d", "e"]);
    let files = paths(&directory.path().join("audit")).unwrap();
    assert_eq!(files.into_keys().collect::<Vec<_>>(), [3, 4, 5]);
    let (verified, lines) = lines(directory.path());
    assert_eq!((verified.files, verified.serial), (3, 10));
    assert_eq!(lines.last().unwrap().entry.object, "e");
}

#[test]
fn an_incomplete_line_is_recovered_and_reported() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), 1 << 20, &["a"]);
    let file = directory.path().join("audit").join(name(1));
    let whole = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("{whole}{{\"serial\":3,\"at")).unwrap();
    let (log, writer, recovered) = open(directory.path(), 1 << 20);
    log.record(exec("b"));
    drop(writer);
    assert_eq!(recovered.recv(), Ok(15));
    let (_, lines) = lines(directory.path());
    let line = &lines[2].entry;
    assert_eq!(line.event, AuditEvent::Recovered);
    assert_eq!(line.object, "{\"serial\":3,\"at");
    assert_eq!(line.outcome, "15 bytes of an incomplete line");
    assert_eq!(lines[3].entry.object, "b");
}

#[test]
fn a_file_without_a_whole_line_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), 1, &["a", "b"]);
    for remains in ["", "{\"serial\":"] {
        let (verified, _) = lines(directory.path());
        let next = name(verified.files as u64 + 1);
        fs::write(directory.path().join("audit").join(next), remains).unwrap();
        write(directory.path(), 1 << 20, &[]);
    }
    use AuditEvent::{Exec, FileBegun, Recovered};
    let expected = [FileBegun, Exec, FileBegun, Exec, Recovered];
    assert_eq!(events(directory.path()), expected);
}

#[test]
fn a_log_with_an_unreadable_end_is_kept_and_continues_in_another_file() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), 1 << 20, &["a"]);
    let audit = directory.path().join("audit");
    let damaged = fs::read_to_string(audit.join(name(1))).unwrap() + "damaged\n";
    fs::write(audit.join(name(1)), &damaged).unwrap();
    write(directory.path(), 1 << 20, &["b"]);
    assert_eq!(fs::read_to_string(audit.join(name(1))).unwrap(), damaged);
    let next = fs::read_to_string(audit.join(name(2))).unwrap();
    let expected = format!(
        "\"object\":\"{}\",\"outcome\":\"its end cannot be read\"",
        name(1)
    );
    assert!(next.contains(&expected), "{next}");
    let broken = verify(&[audit], None, |_| ()).unwrap_err();
    assert_eq!(broken.line, 3);
    assert!(matches!(broken.reason, BreakReason::NoLine(_)), "{broken}");
}

#[test]
fn repeated_refusals_are_two_lines() {
    let directory = tempfile::tempdir().unwrap();
    let (log, writer, _recovered) = open(directory.path(), 1 << 20);
    for _ in 0..1_000 {
        log.record(AuditEntry::new(5_000, AuditEvent::CallRefused));
    }
    drop(writer);
    let (_, lines) = lines(directory.path());
    let counts: Vec<_> = lines.iter().map(|line| line.entry.count).collect();
    assert_eq!(counts, [1, 1, 999]);
}

/// Whether operations may continue, and the lines.
type Gate = (Mutex<(bool, Vec<AuditLine>)>, Condvar);

/// Files whose operations wait until the gate is open.
#[derive(Clone, Default)]
struct GatedFiles(Arc<Gate>);

impl GatedFiles {
    fn open(&self) {
        let (state, changed) = &*self.0;
        state.lock().unwrap().0 = true;
        changed.notify_all();
    }
}

impl Storage for GatedFiles {
    fn begin(&mut self, _: u64, line: &str) -> io::Result<()> {
        self.append(line)
    }

    fn append(&mut self, line: &str) -> io::Result<()> {
        let (state, changed) = &*self.0;
        let state = state.lock().unwrap();
        let mut state = changed.wait_while(state, |(is_open, _)| !*is_open).unwrap();
        state.1.push(serde_json::from_str(line).unwrap());
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn remove_before(&mut self, _: u64) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_queue_loses_entries_that_are_counted_in_the_log_and_in_notices() {
    let (files, reported) = (GatedFiles::default(), Arc::new(AtomicU64::new(0)));
    let counted = Arc::clone(&reported);
    let report = move |notice: &AuditNotice<'_>| {
        if let AuditNotice::QueueFull(entries) = notice {
            counted.fetch_add(*entries, Ordering::Relaxed);
        }
    };
    let bounds = Bounds {
        file_bytes: 1 << 30,
        files: 3,
    };
    let parts = (files.clone(), bounds, LogEnd::NONE);
    let (log, writer) = AuditLog::start(parts, None, || 5_000, Box::new(report)).unwrap();
    let total = QUEUE as u64 + 1_000;
    for _ in 0..total {
        // Returns although the disk blocks.
        log.record(exec("a"));
    }
    let lost = reported.load(Ordering::Relaxed);
    assert!((999..=1_000).contains(&lost), "{lost}");
    files.open();
    drop(writer);
    let lines = &files.0.0.lock().unwrap().1;
    let count = |event| {
        let lines = lines.iter().filter(move |line| line.entry.event == event);
        lines.map(|line| line.entry.count).sum::<u64>()
    };
    assert_eq!(count(AuditEvent::Lost), lost);
    assert_eq!(count(AuditEvent::Exec), total - lost);
    let line = lines
        .iter()
        .find(|line| line.entry.event == AuditEvent::Lost);
    assert_eq!(line.unwrap().entry.outcome, QUEUE_FULL);
}

#[test]
fn a_directory_that_cannot_be_created_is_an_error_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("audit"), "").unwrap();
    let settings = settings(directory.path(), 1 << 20);
    assert!(AuditLog::open(&settings, || 0, |_| ()).is_err());
}

#[test]
fn lines_that_the_disk_refuses_are_reported() {
    let directory = tempfile::tempdir().unwrap();
    let (sender, notices) = mpsc::channel();
    let settings = settings(directory.path(), 1 << 20);
    let report = move |notice: &AuditNotice<'_>| {
        if let AuditNotice::NotWritten(entries, error) = notice {
            // The receiver ends before the last notice.
            let _ = sender.send((*entries, error.kind()));
        }
    };
    let (log, writer) = AuditLog::open(&settings, || 5_000, report).unwrap();
    // The name of the first file is taken.
    fs::write(settings.directory.join(name(1)), "").unwrap();
    log.record(exec("a"));
    assert_eq!(notices.recv(), Ok((1, io::ErrorKind::AlreadyExists)));
    fs::remove_file(settings.directory.join(name(1))).unwrap();
    log.record(exec("b"));
    drop(writer);
    use AuditEvent::{Exec, FileBegun, Lost};
    assert_eq!(events(directory.path()), [FileBegun, Lost, Exec]);
}
