//! Tests with files of other releases: older ones are read and rewritten, newer ones rejected and
//! left unchanged.

use super::*;

/// Returns a file of format 1, with the records below.
fn format_1() -> Vec<u8> {
    let path = "tests/format-1.journal";
    fs::read(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// Returns all kinds of records of format 1.
fn first_records() -> Vec<JournalRecord> {
    let instance = Instance {
        agent: AgentId(1),
        order: OrderIndex(1),
    };
    // Updates did not contain limits then.
    let mut without_limits = wire::update(&unhealthy());
    without_limits.limits = None;
    let without_limits = wire::update_from(without_limits).unwrap();
    let mut records = sample_records(3);
    records.extend([
        JournalRecord::OrderAccepted {
            order: OrderIndex(4),
            body: OrderBody::Kill {
                instance,
                grace_ms: 50,
            },
        },
        JournalRecord::OrderAccepted {
            order: OrderIndex(5),
            body: OrderBody::Nothing,
        },
        JournalRecord::Started {
            instance,
            fact: crate::core::StartedFact {
                pid: 12,
                at: argosy_state::ids::Timestamp(34),
            },
        },
        JournalRecord::Updated {
            instance,
            update: Box::new(without_limits),
        },
        JournalRecord::Retried { instance, run: 7 },
        JournalRecord::Committed {
            instance,
            number: 1,
        },
    ]);
    records
}

fn format(directory: &TestDir) -> u8 {
    fs::read(directory.path()).unwrap()[8]
}

#[test]
fn a_journal_of_the_previous_format_is_rewritten_before_appends() {
    let directory = TestDir::new();
    fs::write(directory.path(), format_1()).unwrap();
    let expected = facts(&first_records());
    assert_eq!(directory.read().facts, expected);
    assert_eq!(format(&directory), 1, "reading changes nothing");
    directory.write(&[]);
    assert_eq!(u32::from(format(&directory)), frame::VERSION);
    assert_eq!(directory.read().facts, expected);
    assert!(!directory.next().exists());
    // Later records follow it, and the next run reads all of them.
    directory.write(&[launch(6)]);
    let mut records = first_records();
    records.push(launch(6));
    assert_eq!(directory.read().facts, facts(&records));
}

#[test]
fn in_memory_journals_of_the_previous_format_are_rewritten() {
    let disk = MemoryDisk::of(&format_1());
    let contents = read_memory(&disk).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(async {
        let journal = Journal::in_memory(&disk, &contents, 42).unwrap();
        journal.close().await.unwrap();
    });
    let again = read_synced(&disk).unwrap();
    assert_eq!(again.facts, contents.facts);
    assert_eq!(again.end.unwrap().version, frame::VERSION);
}

#[test]
fn an_interrupted_rewrite_keeps_the_old_file() {
    let directory = TestDir::new();
    fs::write(directory.path(), format_1()).unwrap();
    fs::write(directory.next(), &format_1()[..40]).unwrap();
    let expected = facts(&first_records());
    assert_eq!(directory.read().facts, expected);
    directory.write(&[]);
    assert_eq!(directory.read().facts, expected);
}

#[test]
fn newer_and_foreign_files_are_rejected_unchanged_with_a_remedy() {
    let directory = TestDir::new();
    directory.write(&sample_records(1));
    let mut bytes = fs::read(directory.path()).unwrap();
    bytes[..frame::HEAD_BYTES].copy_from_slice(&frame::head(3, 42));
    fs::write(directory.path(), &bytes).unwrap();
    let newer = read(&directory.path()).unwrap_err().to_string();
    assert!(
        newer.contains("has format 3, this release reads up to 2: start the newer release again"),
        "{newer}"
    );
    assert_eq!(fs::read(directory.path()).unwrap(), bytes);
    for foreign in [
        &b""[..],
        b"ARGOSYJ\n",
        b"something else that is long enough",
    ] {
        fs::write(directory.path(), foreign).unwrap();
        let error = read(&directory.path()).unwrap_err();
        assert!(matches!(error, JournalError::Foreign { .. }), "{error}");
    }
}

#[test]
fn unknown_record_kinds_are_rejected() {
    let directory = TestDir::new();
    directory.write(&sample_records(1));
    let whole = fs::read(directory.path()).unwrap();
    // Field 200 of the record, a number: intact, and of another release.
    let mut bytes = whole.clone();
    frame::put(&mut bytes, 42, &[0xc0, 0x0c, 0x01]);
    fs::write(directory.path(), &bytes).unwrap();
    let refused = read(&directory.path()).unwrap_err();
    assert!(
        matches!(refused, JournalError::Unknown { offset, .. } if offset == whole.len() as u64),
        "{refused}"
    );
    assert_eq!(fs::read(directory.path()).unwrap(), bytes);
}
