//! Tests of the verification against each kind of change.

use std::fs;

use super::*;
use crate::audit::entry::AuditEntry;
use crate::audit::lines::{Bounds, LineWriter, LogEnd};
use crate::audit::storage::Directory;

/// A log of three files with four lines each, in a temporary directory.
struct Log {
    directory: tempfile::TempDir,
}

impl Log {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (storage, end, remains) = Directory::open(directory.path()).unwrap();
        assert_eq!((&end, &remains), (&LogEnd::NONE, &None));
        let bounds = Bounds {
            file_bytes: 600,
            files: 10,
        };
        let mut writer = LineWriter::new(storage, bounds, end);
        for number in 0..9 {
            let entry = AuditEntry {
                object: format!("framework-1/task-{number}"),
                ..AuditEntry::new(number, AuditEvent::Exec)
            };
            writer.write(entry).unwrap();
        }
        writer.sync().unwrap();
        let log = Self { directory };
        let verified = log.verify().unwrap();
        assert_eq!((verified.files, verified.lines), (3, 12));
        log
    }

    fn path(&self, number: u64) -> PathBuf {
        self.directory.path().join(name(number))
    }

    fn lines(&self, number: u64) -> Vec<String> {
        let text = fs::read_to_string(self.path(number)).unwrap();
        text.split_inclusive('\n').map(str::to_owned).collect()
    }

    fn change(&self, number: u64, change: impl FnOnce(&mut Vec<String>)) {
        let mut lines = self.lines(number);
        change(&mut lines);
        fs::write(self.path(number), lines.concat()).unwrap();
    }

    fn verify_noted(&self, noted: Option<ChainValue>) -> Result<VerifiedLog, Break> {
        verify(&[self.directory.path().to_owned()], noted, |_| ())
    }

    fn verify(&self) -> Result<VerifiedLog, Break> {
        self.verify_noted(None)
    }

    /// Returns the file, the line and the reason of the first break.
    fn broken(&self) -> (u64, u64, BreakReason) {
        let Break { file, line, reason } = self.verify().unwrap_err();
        (number_of(file.file_name().unwrap()).unwrap(), line, reason)
    }
}

#[test]
fn a_change_of_any_byte_is_found() {
    let log = Log::new();
    for number in 1..=3 {
        let intact = fs::read(log.path(number)).unwrap();
        for at in 0..intact.len() {
            let mut changed = intact.clone();
            changed[at] ^= 1;
            fs::write(log.path(number), &changed).unwrap();
            let broken = log.verify().unwrap_err();
            assert_eq!(broken.file, log.path(number), "byte {at} of file {number}");
        }
        fs::write(log.path(number), intact).unwrap();
    }
    log.verify().unwrap();
}

#[test]
fn a_line_with_a_matching_hash_of_its_own_is_found_at_the_next_line() {
    let log = Log::new();
    log.change(2, |lines| {
        let line = lines[1].trim_end().replace("task-3", "task-9");
        let (body, _) = ChainValue::unseal(&line).unwrap();
        let (_, before) = ChainValue::unseal(lines[0].trim_end()).unwrap();
        lines[1] = before.next(&body).seal(&body);
    });
    assert_eq!(log.broken(), (2, 3, BreakReason::Chain));
}

#[test]
fn a_removed_line_is_found() {
    let log = Log::new();
    for (number, at, former, found) in [(1, 1, 1, 3), (2, 2, 6, 8), (3, 2, 10, 12)] {
        let intact = log.lines(number);
        log.change(number, |lines| drop(lines.remove(at)));
        let reason = BreakReason::Serial { former, found };
        assert_eq!(log.broken(), (number, at as u64 + 1, reason));
        log.change(number, |lines| *lines = intact);
    }
}

#[test]
fn a_removed_first_or_last_line_of_a_file_is_found() {
    let log = Log::new();
    let intact = log.lines(2);
    log.change(2, |lines| drop(lines.remove(0)));
    assert_eq!(log.broken(), (2, 1, BreakReason::NoBegin));
    log.change(2, |lines| *lines = intact[..3].to_vec());
    let reason = BreakReason::Serial {
        former: 7,
        found: 9,
    };
    assert_eq!(log.broken(), (3, 1, reason));
    log.change(2, Vec::clear);
    assert_eq!(log.broken(), (2, 1, BreakReason::NoBegin));
}

#[test]
fn inserted_and_swapped_lines_are_found() {
    let log = Log::new();
    let intact = log.lines(2);
    log.change(2, |lines| lines.insert(2, intact[1].clone()));
    let reason = BreakReason::Serial {
        former: 6,
        found: 6,
    };
    assert_eq!(log.broken(), (2, 3, reason));
    log.change(2, |lines| {
        lines.clone_from(&intact);
        lines.swap(1, 2);
    });
    let reason = BreakReason::Serial {
        former: 5,
        found: 7,
    };
    assert_eq!(log.broken(), (2, 2, reason));
    log.change(2, |lines| {
        lines.clone_from(&intact);
        lines.insert(1, intact[0].clone());
    });
    assert_eq!(log.broken(), (2, 2, BreakReason::BeginsAgain));
    log.change(2, |lines| {
        lines.clone_from(&intact);
        lines.insert(1, "{}\n".to_owned());
    });
    let (number, line, reason) = log.broken();
    assert_eq!((number, line), (2, 2));
    assert!(matches!(reason, BreakReason::NoLine(_)), "{reason}");
}

#[test]
fn missing_and_renamed_files_are_found() {
    let log = Log::new();
    let aside = log.directory.path().join("aside");
    fs::rename(log.path(2), &aside).unwrap();
    assert_eq!(log.broken(), (3, 1, BreakReason::MissingFile(2)));
    fs::copy(log.path(1), log.path(2)).unwrap();
    assert_eq!(log.broken(), (2, 1, BreakReason::OtherFile(1)));
    fs::rename(&aside, log.path(2)).unwrap();
    fs::rename(log.path(1), &aside).unwrap();
    assert_eq!(log.broken(), (2, 1, BreakReason::MissingFile(1)));
    // Files that are named alone are verified alone.
    let alone = verify(&[log.path(2), log.path(3)], None, |_| ()).unwrap();
    assert_eq!(alone.lines, 8);
}

#[test]
fn a_truncated_end_is_found_by_a_noted_chain_value() {
    let log = Log::new();
    let noted = log.verify().unwrap().head;
    assert_eq!(log.verify_noted(Some(noted)).unwrap().head, noted);
    log.change(3, |lines| drop(lines.pop()));
    // Nothing in the files shows it.
    let shorter = log.verify().unwrap();
    assert_eq!(shorter.lines, 11);
    let broken = log.verify_noted(Some(noted)).unwrap_err();
    assert_eq!(
        (broken.line, &broken.reason),
        (3, &BreakReason::MissingHead(noted))
    );
    // A later line is no harm to the value that was noted before it.
    log.verify_noted(Some(shorter.head)).unwrap();
    log.change(3, |lines| {
        lines[2].pop();
    });
    assert_eq!(log.broken(), (3, 3, BreakReason::Incomplete));
}

#[test]
fn a_log_that_was_written_again_is_found_by_a_noted_chain_value() {
    let log = Log::new();
    let noted = log.verify().unwrap().head;
    let mut chain = ChainValue::ZERO;
    for number in 1..=3 {
        log.change(number, |lines| {
            for line in lines {
                let (body, _) = ChainValue::unseal(line.trim_end()).unwrap();
                let body = body.replace("task-7", "task-8");
                let mut parsed: AuditLine = serde_json::from_str(&body).unwrap();
                if let Some(file) = &mut parsed.file {
                    file.previous = chain;
                }
                let body = parsed.body();
                chain = chain.next(&body);
                *line = chain.seal(&body);
            }
        });
    }
    assert_eq!(log.verify().unwrap().lines, 12);
    let broken = log.verify_noted(Some(noted)).unwrap_err();
    assert_eq!(broken.reason, BreakReason::MissingHead(noted));
}

#[test]
fn messages_name_file_line_and_reason() {
    let log = Log::new();
    log.change(2, |lines| drop(lines.remove(1)));
    let text = log.verify().unwrap_err().to_string();
    let path = log.path(2);
    let expected = format!(
        "{}, line 2: serial number 7 follows 5: lines were removed, inserted or moved, or a number was changed",
        path.display()
    );
    assert_eq!(text, expected);
    let nothing = tempfile::tempdir().unwrap();
    let broken = verify(&[nothing.path().to_owned()], None, |_| ()).unwrap_err();
    assert_eq!(broken.reason, BreakReason::NoFiles);
    let other = nothing.path().join("syslog");
    fs::write(&other, "").unwrap();
    let broken = verify(&[other], None, |_| ()).unwrap_err();
    assert!(broken.to_string().contains("audit-NUMBER.log"), "{broken}");
}

#[test]
fn lines_are_read_without_a_verification() {
    let log = Log::new();
    log.change(1, |lines| lines[1] = "changed\n".to_owned());
    let (mut lines, mut broken) = (0, Vec::new());
    read(&[log.directory.path().to_owned()], |read| match read {
        AuditRead::Line(..) => lines += 1,
        AuditRead::Broken(one) => broken.push((one.file, one.line)),
    })
    .unwrap();
    assert_eq!((lines, broken), (11, vec![(log.path(1), 2)]));
}

#[test]
fn no_line_follows_the_last_serial_number() {
    let mut verifier = Verifier::default();
    verifier.begin_file(1);
    let first = AuditLine {
        serial: u64::MAX,
        entry: AuditEntry::new(0, AuditEvent::FileBegun),
        file: Some(FileHead {
            format: FORMAT,
            number: 1,
            oldest: 1,
            previous: ChainValue::ZERO,
        }),
    };
    let second = AuditLine {
        serial: 0,
        entry: AuditEntry::new(1, AuditEvent::Exec),
        file: None,
    };
    let mut chain = ChainValue::ZERO;
    let mut sealed = |line: &AuditLine| {
        let body = line.body();
        chain = chain.next(&body);
        chain.seal(&body)
    };
    let [first, second] = [first, second].map(|line| sealed(&line));
    assert!(verifier.line(first.as_bytes()).is_ok());
    let reason = verifier.line(second.as_bytes()).unwrap_err();
    let (former, found) = (u64::MAX, 0);
    assert_eq!(reason, BreakReason::Serial { former, found });
}
