//! Applied records are written together, and before anything that relies on them.

use std::time::Duration;

use openraft::RaftSnapshotBuilder;
use openraft::storage::{RaftLogStorage, RaftStateMachine};
use tokio_util::sync::CancellationToken;

use super::harness::{OpenedStore, entries, entry, id, open, start};
use crate::storage::disk::memory::MemoryDisk;
use crate::storage::store::StoreLocation;
use crate::types::Entry;

async fn opened() -> (MemoryDisk, StoreLocation, OpenedStore) {
    let disk = MemoryDisk::default();
    let place = StoreLocation::Memory(disk.clone());
    let opened = open(&place).await;
    (disk, place, opened)
}

/// Returns entries that all change the same record.
fn rewrites(count: u64) -> Vec<Entry> {
    let rewrite = |index: u64| entry(index, &[&format!("key=v{index}")]);
    (0..count).map(rewrite).collect()
}

/// Waits until everything queued is written.
async fn drain(opened: &OpenedStore) {
    opened.store.unwritten().writer().drain().await.unwrap();
}

/// Returns how far the registry on the disk is applied, as a start would find it.
async fn applied_on(disk: MemoryDisk, place: &StoreLocation, opened: OpenedStore) -> Option<u64> {
    drop(opened);
    disk.cut_power(usize::MAX);
    let mut again = open(place).await;
    let (applied, _) = again.machine.applied_state().await.unwrap();
    applied.map(|id| id.index)
}

#[tokio::test]
async fn a_record_that_is_changed_again_is_written_once() {
    let (disk, place, mut opened) = opened().await;
    opened.append(rewrites(50)).await;
    for one in rewrites(50) {
        opened.apply(vec![one]).await;
    }
    drain(&opened).await;
    assert_eq!(disk.unsynced(), 0, "nothing is written yet");
    opened.store.unwritten().flush().await.unwrap();
    drain(&opened).await;
    assert_eq!(disk.unsynced(), 1, "all of it is one write");
    let records = opened.owner.records();
    assert_eq!(records, [("key".to_owned(), "v49".to_owned())]);
    opened.store.unwritten().flush().await.unwrap();
    drain(&opened).await;
    assert_eq!(disk.unsynced(), 1, "there is nothing more to write");
    assert_eq!(applied_on(disk, &place, opened).await, Some(49));
}

#[tokio::test(start_paused = true)]
async fn records_are_written_after_at_most_50_ms() {
    let (disk, place, mut opened) = opened().await;
    let stop = CancellationToken::new();
    let flusher = tokio::spawn(opened.store.unwritten().run(stop.clone()));
    opened.commit(entries(0..3)).await;
    tokio::time::sleep(Duration::from_millis(40)).await;
    assert_eq!(disk.unsynced(), 0);
    tokio::time::sleep(Duration::from_millis(11)).await;
    drain(&opened).await;
    assert_eq!(disk.unsynced(), 1);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(disk.unsynced(), 1, "an idle store writes nothing");
    stop.cancel();
    flusher.await.unwrap();
    assert_eq!(applied_on(disk, &place, opened).await, Some(2));
}

#[tokio::test]
async fn a_mebibyte_of_records_is_written_immediately() {
    let (disk, place, mut opened) = opened().await;
    let long = "x".repeat(100_000);
    let large = |index: u64| entry(index, &[&format!("key{index}={long}")]);
    let all: Vec<Entry> = (0..12).map(large).collect();
    opened.append(all.clone()).await;
    for one in all {
        opened.apply(vec![one]).await;
    }
    drain(&opened).await;
    assert_eq!(disk.unsynced(), 1);
    assert_eq!(applied_on(disk, &place, opened).await, Some(10));
}

#[tokio::test]
async fn purge_keeps_entries_of_unwritten_records() {
    for with_snapshot in [false, true] {
        let (disk, place, mut opened) = opened().await;
        opened.commit(entries(0..10)).await;
        if with_snapshot {
            let mut builder = opened.machine.get_snapshot_builder().await;
            builder.build_snapshot().await.unwrap();
            assert_eq!(disk.unsynced(), 0, "what it covers is synced");
        }
        opened.log.purge(id(1, 6)).await.unwrap();
        drop(opened);
        disk.cut_power(usize::MAX);
        let mut again = open(&place).await;
        assert_eq!(start(&mut again).await, Some(9));
        assert_eq!(again.owner.records().len(), 10);
        again.close().await;
    }
}

#[tokio::test]
async fn close_writes_all_records() {
    let (disk, place, mut opened) = opened().await;
    opened.commit(entries(0..10)).await;
    opened.store.close().await;
    assert_eq!(applied_on(disk, &place, opened).await, Some(9));
}

/// An installed snapshot also replaces the waiting records.
#[tokio::test]
async fn buffered_records_do_not_overwrite_an_installed_snapshot() {
    let image = {
        let (_disk, _place, mut opened) = opened().await;
        opened.commit(vec![entry(50, &["new=1"])]).await;
        let mut builder = opened.machine.get_snapshot_builder().await;
        let built = builder.build_snapshot().await.unwrap();
        built.snapshot.file().await.unwrap()
    };
    let (disk, place, mut opened) = opened().await;
    opened.commit(entries(0..10)).await;
    let meta = image.meta().clone();
    opened
        .machine
        .install_snapshot(&meta, image.into())
        .await
        .unwrap();
    opened.store.close().await;
    drop(opened);
    disk.cut_power(usize::MAX);
    let mut again = open(&place).await;
    let (applied, _) = again.machine.applied_state().await.unwrap();
    assert_eq!(applied, Some(id(1, 50)));
    assert_eq!(again.owner.records(), [("new".to_owned(), "1".to_owned())]);
}
