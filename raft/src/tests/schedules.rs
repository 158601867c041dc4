//! The writer, the write buffer and the log under many schedules of their threads.
//!
//! Run them with `cargo test -p argosy-raft --features shuttle --lib schedules`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use openraft::RaftLogReader as _;
use openraft::storage::{IOFlushed, RaftLogStorage as _, RaftLogStorageExt as _};
use shuttle::future::block_on;
use shuttle::sync::Mutex;
use shuttle::thread::{self, JoinHandle};

use super::harness::{entries, entry, id, panic_on_fatal, vote};
use crate::concurrency::explore;
use crate::fatal::FatalHandler;
use crate::storage::disk::memory::MemoryDisk;
use crate::storage::disk::{ChangeBatch, DiskRead as _, Durability, KeySpace};
use crate::storage::log::LogStore;
use crate::storage::unwritten::{AppliedPosition, WriteBuffer};
use crate::storage::writer::DiskWriter;
use crate::types::{Entry, LogId, RecordWrite};

fn put(key: &str, value: u8) -> ChangeBatch {
    let mut changes = ChangeBatch::default();
    changes.put(KeySpace::Registry, key, vec![value]);
    changes
}

fn value(disk: &MemoryDisk, key: &str) -> Option<u8> {
    let stored = disk.get(KeySpace::Registry, key.as_bytes()).unwrap();
    stored.map(|bytes| bytes[0])
}

fn writer(disk: &MemoryDisk, fatal: FatalHandler) -> DiskWriter {
    DiskWriter::start(Arc::new(disk.clone()), fatal).unwrap()
}

fn join<T>(threads: impl IntoIterator<Item = JoinHandle<T>>) -> Vec<T> {
    threads
        .into_iter()
        .map(|thread| thread.join().unwrap())
        .collect()
}

#[test]
fn schedules_of_senders_keep_the_order_of_each() {
    explore(|| {
        let disk = MemoryDisk::default();
        let writer = writer(&disk, panic_on_fatal());
        let senders = ["a", "b", "c"].map(|key| {
            let (writer, disk) = (writer.clone(), disk.clone());
            thread::spawn(move || {
                for number in 0..3 {
                    let write = writer.write(put(key, number), Durability::Buffered);
                    block_on(write).unwrap();
                    assert_eq!(value(&disk, key), Some(number));
                }
            })
        });
        join(senders);
        block_on(writer.close());
        assert!(block_on(writer.drain()).is_err(), "it is closed");
        assert_eq!(["a", "b", "c"].map(|key| value(&disk, key)), [Some(2); 3]);
    });
}

#[test]
fn schedules_of_a_power_cut_lose_nothing_that_was_answered_as_synced() {
    explore(|| {
        let disk = MemoryDisk::default();
        let writer = writer(&disk, panic_on_fatal());
        let answered = Arc::new(Mutex::new([None; 2]));
        let senders = [0, 1].map(|sender| {
            let (writer, answered) = (writer.clone(), Arc::clone(&answered));
            thread::spawn(move || {
                for number in 0..3 {
                    let changes = put(["a", "b"][sender], number);
                    // Merged writes have the durability of the strictest.
                    let durability = [Durability::Synced, Durability::Buffered];
                    let durability = durability[usize::from(number == 1)];
                    block_on(writer.write(changes, durability)).unwrap();
                    if durability == Durability::Synced {
                        answered.lock().unwrap()[sender] = Some(number);
                    }
                }
            })
        });
        let known = *answered.lock().unwrap();
        disk.cut_power(0);
        let left = ["a", "b"].map(|key| value(&disk, key));
        for (known, left) in known.iter().zip(&left) {
            assert!(left >= known, "{left:?} of {known:?}");
        }
        join(senders);
        drop(writer);
    });
}

#[test]
fn schedules_of_a_failing_disk_refuse_every_write_after_the_first_failure() {
    explore(|| {
        let disk = MemoryDisk::default();
        let reports = Arc::new(AtomicUsize::new(0));
        let reported = Arc::clone(&reports);
        let fatal: FatalHandler = Arc::new(move |_| {
            reported.fetch_add(1, Ordering::Relaxed);
        });
        let writer = writer(&disk, fatal);
        disk.fail_writes_after(1);
        let senders = ["a", "b"].map(|key| {
            let (writer, disk) = (writer.clone(), disk.clone());
            thread::spawn(move || {
                let mut failed = false;
                for number in 0..2 {
                    let write = writer.write(put(key, number), Durability::Synced);
                    let is_written = block_on(write).is_ok();
                    assert!(!(failed && is_written), "a write was retried");
                    assert_eq!(is_written, value(&disk, key) == Some(number));
                    failed |= !is_written;
                    // As if the disk recovered: the writer must not.
                    if failed {
                        disk.fail_writes_after(8);
                    }
                }
                failed
            })
        });
        let failed = join(senders).into_iter().any(|failed| failed);
        assert_eq!(reports.load(Ordering::Relaxed), usize::from(failed));
    });
}

#[test]
fn schedules_of_a_close_answer_every_write_and_leave_the_disk_alone_after_it() {
    explore(|| {
        let disk = MemoryDisk::default();
        let writer = writer(&disk, panic_on_fatal());
        let senders = ["a", "b"].map(|key| {
            let (writer, disk) = (writer.clone(), disk.clone());
            thread::spawn(move || {
                let write = block_on(writer.write(put(key, 1), Durability::Synced));
                assert_eq!(write.is_ok(), value(&disk, key).is_some(), "{write:?}");
            })
        });
        block_on(writer.close());
        let left = ["a", "b"].map(|key| value(&disk, key));
        join(senders);
        assert_eq!(["a", "b"].map(|key| value(&disk, key)), left);
    });
}

#[test]
fn schedules_of_a_dropped_store_write_what_was_queued() {
    explore(|| {
        let disk = MemoryDisk::default();
        let writer = writer(&disk, panic_on_fatal());
        let senders = ["a", "b"].map(|key| {
            let writer = writer.clone();
            thread::spawn(move || {
                let queued = writer.write_then(put(key, 1), Durability::Buffered, |_| {});
                block_on(queued).unwrap();
            })
        });
        drop(writer);
        join(senders);
        assert_eq!(["a", "b"].map(|key| value(&disk, key)), [Some(1); 2]);
    });
}

/// The registry on the disk is always that of one applied index.
#[test]
fn schedules_of_the_write_buffer_never_separate_records_from_their_position() {
    explore(|| {
        let disk = MemoryDisk::default();
        let writer = writer(&disk, panic_on_fatal());
        let buffer = WriteBuffer::new(writer.clone());
        let owner = buffer.clone();
        let owner = thread::spawn(move || {
            for index in 1..5_u8 {
                // Two records that must be equal, of which the first changes each time.
                let records = ["a", "b"].map(|key| RecordWrite {
                    key: key.into(),
                    value: Some(vec![index].into()),
                });
                let reached = AppliedPosition {
                    last: Some(id(1, index.into())),
                    members: None,
                };
                block_on(owner.add(records.into(), reached)).unwrap();
            }
        });
        let timer = buffer.clone();
        let timer = thread::spawn(move || {
            for _ in 0..2 {
                block_on(timer.flush()).unwrap();
            }
        });
        let snapshot = buffer.clone();
        let snapshot = thread::spawn(move || {
            block_on(snapshot.sync(Box::new(|result| result.unwrap()))).unwrap();
        });
        for _ in 0..3 {
            check_registry(&disk);
            thread::yield_now();
        }
        join([owner, timer, snapshot]);
        block_on(buffer.flush()).unwrap();
        block_on(writer.drain()).unwrap();
        assert_eq!(disk.applied(), Some(4));
        check_registry(&disk);
        drop((buffer, writer));
    });
}

fn check_registry(disk: &MemoryDisk) {
    let Some((applied, records)) = disk.registry() else {
        return;
    };
    let values: Vec<u64> = records.iter().map(|(_, value)| value[0].into()).collect();
    assert_eq!(values, [applied, applied]);
}

fn log(disk: &MemoryDisk, writer: &DiskWriter, fatal: FatalHandler) -> LogStore {
    let buffer = WriteBuffer::new(writer.clone());
    LogStore::open(Arc::new(disk.clone()), buffer, fatal).unwrap()
}

/// Returns the entries from `index` of a later term.
fn rewritten(indexes: std::ops::Range<u64>) -> Vec<Entry> {
    let rewrite = |index| Entry {
        log_id: id(2, index),
        ..entry(index, &["again=1"])
    };
    indexes.map(rewrite).collect()
}

/// Checks a read of the range: entries without a gap, of which none of the former term follows one
/// of the later term.
fn check_read(read: &[Entry], start: u64) {
    let ids: Vec<LogId> = read.iter().map(|entry| entry.log_id).collect();
    for pair in ids.windows(2) {
        assert_eq!(pair[1].index, pair[0].index + 1, "{ids:?}");
        assert!(pair[1].leader_id >= pair[0].leader_id, "{ids:?}");
    }
    assert!(ids.first().is_none_or(|first| first.index >= start));
}

#[test]
fn schedules_of_reads_beside_a_purge_find_no_damage() {
    explore(|| {
        let disk = MemoryDisk::default();
        let writer = writer(&disk, panic_on_fatal());
        let mut log = log(&disk, &writer, panic_on_fatal());
        block_on(log.blocking_append(entries(0..6))).unwrap();
        let mut reader = log.clone();
        let reader = thread::spawn(move || {
            for start in [0, 2] {
                let read = block_on(reader.try_get_log_entries(start..6)).unwrap();
                check_read(&read, start);
                let read = block_on(reader.limited_get_log_entries(start, 6)).unwrap();
                assert!(read.first().is_none_or(|first| first.log_id.index == start));
                check_read(&read, start);
            }
        });
        block_on(log.purge(id(1, 1))).unwrap();
        block_on(log.append(entries(6..8), IOFlushed::noop())).unwrap();
        block_on(log.purge(id(1, 3))).unwrap();
        join([reader]);
        assert_eq!(
            block_on(log.try_get_log_entries(0..9)).unwrap(),
            entries(4..8)
        );
        drop((log, writer));
    });
}

#[test]
fn schedules_of_reads_beside_a_truncation_find_no_damage() {
    explore(|| {
        let disk = MemoryDisk::default();
        let writer = writer(&disk, panic_on_fatal());
        let mut log = log(&disk, &writer, panic_on_fatal());
        block_on(log.blocking_append(entries(0..6))).unwrap();
        let mut reader = log.clone();
        let reader = thread::spawn(move || {
            for start in [0, 3] {
                let read = block_on(reader.try_get_log_entries(start..7)).unwrap();
                check_read(&read, start);
            }
        });
        block_on(log.truncate_after(Some(id(1, 3)))).unwrap();
        block_on(log.append(rewritten(4..7), IOFlushed::noop())).unwrap();
        join([reader]);
        let left = [entries(0..4), rewritten(4..7)].concat();
        assert_eq!(block_on(log.try_get_log_entries(0..9)).unwrap(), left);
        drop((log, writer));
    });
}

/// After a power cut, the disk has the acknowledged entries and the saved vote.
#[test]
fn schedules_of_appends_and_votes_keep_what_was_acknowledged_in_a_power_cut() {
    explore(|| {
        let disk = MemoryDisk::default();
        let writer = writer(&disk, panic_on_fatal());
        let mut log = log(&disk, &writer, panic_on_fatal());
        let known = Arc::new(Mutex::new((None, None)));
        let acknowledged = Arc::clone(&known);
        let mut store = log.clone();
        let consensus = thread::spawn(move || {
            block_on(store.save_vote(&vote(1, 1))).unwrap();
            acknowledged.lock().unwrap().0 = Some(1);
            for index in 0..3 {
                block_on(store.blocking_append(entries(index..index + 1))).unwrap();
                acknowledged.lock().unwrap().1 = Some(index);
            }
        });
        let mut buffered = ChangeBatch::default();
        buffered.put(KeySpace::Registry, "key", vec![1]);
        block_on(writer.write(buffered, Durability::Buffered)).unwrap();
        let (term, last) = *known.lock().unwrap();
        disk.cut_power(0);
        assert!(disk.vote().map(|vote| vote.term) >= term);
        assert!(disk.last_entry().map(|(_, index)| index) >= last);
        join([consensus]);
        assert!(block_on(log.get_log_state()).unwrap().last_log_id == Some(id(1, 2)));
        drop((log, writer));
    });
}
