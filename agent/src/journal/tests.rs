//! Tests on real files: groups, truncation at every byte, flipped bits, compaction under load, the
//! lock.

mod damage;
mod formats;
mod golden;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use argosy_proto::v1;
use argosy_state::ids::{AgentId, OrderIndex};
use argosy_state::task::TaskLimits;
use nix::errno::Errno;

use super::*;
use crate::core::{
    AgentIdentity, AgentState, Instance, JournalEffect, JournalRecord, NumberedUpdate, OrderBody,
    SyncMode,
};
use crate::wire;

struct TestDir {
    directory: tempfile::TempDir,
}

impl TestDir {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("journal")
    }

    fn next(&self) -> PathBuf {
        self.directory.path().join("journal.next")
    }

    fn read(&self) -> JournalContents {
        read(&self.path()).unwrap()
    }

    fn open(&self) -> Journal {
        Journal::open(&self.path(), &self.next(), &self.read(), 42).unwrap()
    }

    /// Writes these records, each synced, and closes the journal.
    fn write(&self, records: &[JournalRecord]) {
        let mut journal = self.open();
        for (at, record) in records.iter().enumerate() {
            journal.request(append(at as u64 + 1, record, SyncMode::Awaited));
        }
        journal.finish().unwrap();
    }
}

fn append(number: u64, record: &JournalRecord, sync: SyncMode) -> JournalEffect {
    JournalEffect::Append {
        number,
        record: Box::new(record.clone()),
        sync,
    }
}

fn launch(order: u64) -> JournalRecord {
    launch_line(order, "true")
}

fn launch_line(order: u64, line: &str) -> JournalRecord {
    let spec = v1::TaskSpec {
        task_id: format!("task-{order}"),
        shell: line.into(),
        ..v1::TaskSpec::default()
    };
    let launch = v1::LaunchOrder {
        framework_id: "framework-1".into(),
        spec: Some(spec),
        ..v1::LaunchOrder::default()
    };
    let launch = wire::launch_from(launch).unwrap();
    JournalRecord::OrderAccepted {
        order: OrderIndex(order),
        body: OrderBody::Launch {
            agent: Some(AgentId(1)),
            key: launch.key(),
            launch: Arc::new(launch),
            run: 1,
        },
    }
}

/// Returns an agent's registration, and launches up to this order.
fn sample_records(orders: u64) -> Vec<JournalRecord> {
    let identity = JournalRecord::Identity(AgentIdentity {
        agent: Some(AgentId(1)),
        nonce: 9,
        unconfirmed: vec![3, 4],
        run: 6,
        boot_id: "boot".into(),
        boot_run: 5,
        ..AgentIdentity::default()
    });
    std::iter::once(identity)
        .chain((1..=orders).map(launch))
        .collect()
}

fn facts(records: &[JournalRecord]) -> AgentState {
    let mut facts = AgentState::default();
    records.iter().for_each(|record| facts.apply(record));
    facts
}

/// Waits for this progress of the writer.
fn wait(journal: &Journal, reached: impl Fn(WriterProgress) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    let progress = journal.progress();
    while !reached(*progress.borrow()) {
        assert!(
            Instant::now() < deadline,
            "the writer is at {:?}",
            *progress.borrow()
        );
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Returns an update with all remembered fields.
fn unhealthy() -> NumberedUpdate {
    let update = v1::NumberedUpdate {
        framework_id: "framework-1".into(),
        task_id: "task-1".into(),
        number: 1,
        state: v1::TaskState::Killing.into(),
        reason: v1::Reason::HealthCheckFailed.into(),
        text: "it was not well".into(),
        wall_ms: 7,
        healthy: Some(false),
        ready: Some(true),
        limits: Some(v1::LimitsReport {
            order_index: 6,
            ..v1::LimitsReport::default()
        }),
        ..v1::NumberedUpdate::default()
    };
    wire::update_from(update).unwrap()
}

fn limited(instance: Instance) -> OrderBody {
    let limits = TaskLimits {
        pids: Some(9),
        ..TaskLimits::default()
    };
    OrderBody::Limits {
        instance,
        limits: Some(limits),
    }
}

#[test]
fn journal_write_errors_name_a_remedy() {
    for (errno, remedy) in [
        (Errno::ENFILE, "raise the limit of open files"),
        (Errno::EDQUOT, "make room"),
        (Errno::EIO, "check the disk"),
    ] {
        let path = PathBuf::from("/data/journal");
        let source = errno.into();
        let text = JournalError::Write { path, source }.to_string();
        assert!(text.contains(remedy), "{text}");
    }
}

#[test]
fn every_kind_of_record_round_trips() {
    let directory = TestDir::new();
    let instance = Instance {
        agent: AgentId(1),
        order: OrderIndex(1),
    };
    let mut records = sample_records(3);
    let start = crate::core::StartedFact {
        pid: 12,
        at: argosy_state::ids::Timestamp(34),
    };
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
        JournalRecord::OrderAccepted {
            order: OrderIndex(6),
            body: limited(instance),
        },
        JournalRecord::Started {
            instance,
            fact: start,
        },
        JournalRecord::Updated {
            instance,
            update: Box::new(unhealthy()),
        },
        JournalRecord::Retried { instance, run: 7 },
    ]);
    let before = facts(&records);
    records.extend(before.snapshot());
    directory.write(&records);
    assert_eq!(directory.read().facts, before);
    let frames = testing::frames(&fs::read(directory.path()).unwrap());
    assert_eq!(directory.read().records, frames.len() as u64);
    let rest = [
        JournalRecord::Committed {
            instance,
            number: 1,
        },
        JournalRecord::Orphaned { instance },
        JournalRecord::Released { instance },
        JournalRecord::IdentityReset(AgentIdentity::default()),
    ];
    directory.write(&rest);
    assert_eq!(
        directory.read().facts,
        facts(&[records.as_slice(), &rest].concat())
    );
}

#[test]
fn a_missing_file_is_an_empty_journal() {
    let directory = TestDir::new();
    assert_eq!(directory.read().facts, AgentState::default());
    directory.write(&[]);
    assert_eq!(directory.read().records, 0);
    assert!(!directory.next().exists());
}

#[test]
fn queued_records_share_syncs_and_lazy_ones_wait() {
    let directory = TestDir::new();
    let mut journal = directory.open();
    journal.request(append(1, &launch(1), SyncMode::Lazy));
    for number in 2..=5_000 {
        journal.request(append(number, &launch(number), SyncMode::Awaited));
    }
    wait(&journal, |progress| progress.durable == 5_000);
    journal.request(append(5_001, &launch(5_001), SyncMode::Lazy));
    journal.finish().unwrap();
    assert_eq!(
        directory.read().facts.tasks.len(),
        5_001,
        "what is lazy is on disk at the latest at the end"
    );
}

#[test]
fn a_torn_write_loses_only_its_record() {
    let directory = TestDir::new();
    directory.write(&sample_records(2));
    let two = fs::read(directory.path()).unwrap();
    directory.write(&[launch(3)]);
    let three = fs::read(directory.path()).unwrap();
    let frames = testing::frames(&three);
    for length in two.len()..three.len() {
        fs::write(directory.path(), &three[..length]).unwrap();
        let contents = directory.read();
        let ends = frames.iter().map(|(range, _)| range.end);
        let whole = ends.filter(|end| *end <= length).max().unwrap();
        let orders = if whole == two.len() { 2 } else { 3 };
        assert_eq!(
            contents.facts,
            facts(&sample_records(orders)),
            "cut at {length}"
        );
        assert_eq!(contents.torn_bytes, (length - whole) as u64);
        assert!(contents.damage.is_empty());
        directory.write(&[launch(3)]);
        assert_eq!(
            directory.read().facts,
            facts(&sample_records(3)),
            "written again after a cut at {length}"
        );
    }
}

#[test]
fn a_flipped_bit_loses_one_record_and_reports_its_position() {
    let directory = TestDir::new();
    directory.write(&sample_records(3));
    let whole = fs::read(directory.path()).unwrap();
    let frames = testing::frames(&whole);
    let is_second = |record: &JournalRecord| *record == launch(2);
    let (second, _) = frames.iter().find(|(_, record)| is_second(record)).unwrap();
    let mut without = sample_records(3);
    without.retain(|record| !is_second(record));
    for at in second.clone() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        fs::write(directory.path(), &bytes).unwrap();
        let contents = directory.read();
        let mut wanted = facts(&without);
        wanted.skip_numbers((second.len() / frame::FRAME_BYTES) as u64);
        assert_eq!(contents.facts, wanted, "bit flipped at {at}");
        assert_eq!(contents.torn_bytes, 0);
        let lost = CorruptRange {
            offset: second.start as u64,
            bytes: second.len() as u64,
        };
        assert_eq!(contents.damage, [lost]);
    }
}

#[test]
fn task_bytes_are_never_parsed_as_records() {
    let other = TestDir::new();
    other.write(&[launch(66)]);
    let forged = fs::read(other.path()).unwrap()[frame::HEAD_BYTES..].to_vec();
    let mut bytes = frame::head(frame::VERSION, 43).to_vec();
    let torn = bytes.len();
    frame::put(&mut bytes, 43, &forged);
    bytes[torn] ^= 1;
    let directory = TestDir::new();
    fs::write(directory.path(), &bytes).unwrap();
    assert_eq!(
        directory.read().records,
        0,
        "another file's salt does not fit"
    );
}

#[test]
fn compaction_under_load_loses_nothing_and_shrinks_the_file() {
    let directory = TestDir::new();
    let mut journal = directory.open();
    let mut all = facts(&[]);
    let mut number = 0;
    let mut compacted = 0;
    let mut put = |journal: &Journal, all: &mut AgentState, record: JournalRecord| {
        number += 1;
        all.apply(&record);
        journal.request(append(number, &record, SyncMode::Awaited));
        number
    };
    for record in sample_records(0) {
        put(&journal, &mut all, record);
    }
    let started = Instant::now();
    let line = "x".repeat(16 * 1024);
    let mut order = 0;
    // Tasks come and go: the journal grows, its live content does not.
    while compacted < 2 {
        order += 1;
        put(&journal, &mut all, launch_line(order, &line));
        let instance = Instance {
            agent: AgentId(1),
            order: OrderIndex(order.saturating_sub(50)),
        };
        let number = put(&journal, &mut all, JournalRecord::Released { instance });
        if order % 100 == 0 {
            // Like the agent's loop, which waits for records that it needs on disk.
            wait(&journal, |progress| progress.durable == number);
        }
        if journal.progress().borrow().compactions_wanted > compacted {
            compacted += 1;
            journal.request(JournalEffect::Compact(all.snapshot()));
        }
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "{compacted} compactions"
        );
    }
    // The switch to the new file comes with a later record.
    let large = fs::metadata(directory.path()).unwrap().len();
    while fs::metadata(directory.path()).unwrap().len() > 8 * 1024 * 1024 {
        order += 1;
        let number = put(&journal, &mut all, launch(order));
        wait(&journal, |progress| progress.durable == number);
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "{large} bytes do not shrink"
        );
    }
    journal.finish().unwrap();
    assert_eq!(directory.read().facts, all);
}

#[test]
fn a_journal_that_closes_during_a_compaction_leaves_no_new_file() {
    let directory = TestDir::new();
    let records = sample_records(2_000);
    let journal = directory.open();
    for (number, record) in (1..).zip(&records) {
        journal.request(append(number, record, SyncMode::Lazy));
    }
    journal.request(JournalEffect::Compact(facts(&records).snapshot()));
    drop(journal);
    assert!(!directory.next().exists());
    assert_eq!(
        directory.read().facts.snapshot(),
        facts(&records).snapshot()
    );
}

#[test]
fn an_interrupted_compaction_keeps_the_old_file() {
    let directory = TestDir::new();
    directory.write(&sample_records(2));
    fs::write(directory.next(), b"half of a new journal").unwrap();
    assert_eq!(directory.read().facts, facts(&sample_records(2)));
    directory.write(&[launch(3)]);
    assert_eq!(directory.read().facts, facts(&sample_records(3)));
}

#[test]
fn a_write_error_ends_the_writer_and_names_the_path() {
    let directory = TestDir::new();
    let mut journal = directory.open();
    // A descriptor that cannot be written to, in place of a full disk.
    drop(journal.finish());
    let full = PathBuf::from("/dev/full");
    if !full.exists() {
        return;
    }
    let contents = directory.read();
    let journal = Journal::open(&full, &directory.next(), &contents, 1);
    let error = match journal {
        Ok(mut journal) => {
            journal.request(append(1, &launch(1), SyncMode::Awaited));
            journal.finish().unwrap_err()
        }
        Err(error) => error,
    };
    assert!(error.to_string().contains("/dev/full"), "{error}");
}

#[tokio::test]
async fn a_failing_memory_disk_ends_the_writer_and_keeps_synced_bytes() {
    // A record takes an append and a sync: they fail in the middle of the third, or between two of
    // them.
    for (left, safe) in [(4, 2), (5, 2), (0, 0)] {
        let disk = MemoryDisk::default();
        let journal = Journal::in_memory(&disk, &JournalContents::default(), 42).unwrap();
        disk.break_after(left);
        let mut progress = journal.progress();
        for (at, record) in sample_records(9).iter().enumerate() {
            journal.request(append(at as u64 + 1, record, SyncMode::Awaited));
            // Each in a separate group; the channel closes when the writer has failed.
            let _ = progress
                .wait_for(|progress| progress.durable > at as u64)
                .await;
        }
        let error = journal.close().await.unwrap_err();
        assert!(error.to_string().contains("in memory"), "{error}");
        assert!(disk.is_broken());
        assert_eq!(progress.borrow().durable, safe);

        disk.cut_power(disk.unsynced_bytes());
        assert!(!disk.is_broken());
        let contents = read_synced(&disk).unwrap();
        let records = sample_records(9);
        let known = |count: usize| facts(&records[..count]);
        let safe = safe as usize;
        // A record whose sync, or the rest of whose append, failed may exist; half of one never
        // does.
        let may_be = [known(safe), known(safe + 1)];
        assert!(may_be.contains(&contents.facts), "{:?}", contents.facts);
    }
}

#[test]
fn a_second_agent_on_a_directory_is_rejected_with_the_pid_of_the_first() {
    let directory = TestDir::new();
    let path = directory.directory.path().join("lock");
    let lock = DirectoryLock::take(&path).unwrap();
    let refused = DirectoryLock::take(&path).unwrap_err().to_string();
    assert!(
        refused.contains(&format!("process {}", std::process::id())),
        "{refused}"
    );
    drop(lock);
    DirectoryLock::take(&path).unwrap();
}
