//! An append returns before it is durable: the entries that can be read then, and those that a
//! power cut may still lose.

use std::time::Duration;

use openraft::RaftLogReader;
use openraft::storage::{IOFlushed, RaftLogStorage, RaftStateMachine};
use openraft::type_config::TypeConfigExt;
use openraft::type_config::alias::OneshotReceiverOf;

use super::harness::{self, OpenedStore, entries, entry, id, open};
use crate::storage::disk::memory::MemoryDisk;
use crate::storage::store::StoreLocation;
use crate::types::{Entry, TypeConfig};

const SLOW: Duration = Duration::from_secs(1);

type SyncReceiver = OneshotReceiverOf<TypeConfig, Result<(), std::io::Error>>;

/// Creates a store whose writes each take a second of simulated time.
async fn slow() -> (MemoryDisk, StoreLocation, OpenedStore) {
    let disk = MemoryDisk::default();
    let place = StoreLocation::Memory(disk.clone());
    let opened = open(&place).await;
    disk.slow_down(SLOW);
    (disk, place, opened)
}

async fn start_append(opened: &mut OpenedStore, entries: Vec<Entry>) -> SyncReceiver {
    let (done, synced) = TypeConfig::oneshot();
    let callback = IOFlushed::signal(done);
    opened.log.append(entries, callback).await.unwrap();
    synced
}

#[tokio::test(start_paused = true)]
async fn entries_are_readable_before_and_durable_after_the_callback() {
    let (disk, place, mut opened) = slow().await;
    let mut synced = start_append(&mut opened, entries(0..3)).await;
    assert_eq!(
        opened.log.try_get_log_entries(..).await.unwrap(),
        entries(0..3)
    );
    assert!(synced.try_recv().is_err(), "it is not reported yet");
    synced.await.unwrap().unwrap();
    drop(opened);
    disk.cut_power(0);
    let mut opened = open(&place).await;
    assert_eq!(
        opened.log.try_get_log_entries(..).await.unwrap(),
        entries(0..3)
    );
}

#[tokio::test(start_paused = true)]
async fn a_power_cut_before_the_callback_loses_entries_and_their_effects() {
    let (disk, place, mut opened) = slow().await;
    start_append(&mut opened, entries(0..3))
        .await
        .await
        .unwrap()
        .unwrap();
    let mut synced = start_append(&mut opened, entries(3..6)).await;
    // The two other masters have committed them, so they are applied before this disk has the
    // entries.
    opened.log.save_committed(Some(id(1, 5))).await.unwrap();
    opened.apply(entries(0..6)).await;
    assert!(synced.try_recv().is_err());
    drop(opened);
    disk.cut_power(usize::MAX);
    let mut opened = open(&place).await;
    assert_eq!(
        opened.log.try_get_log_entries(..).await.unwrap(),
        entries(0..3)
    );
    let (applied, _) = opened.machine.applied_state().await.unwrap();
    assert!(
        applied <= Some(id(1, 2)),
        "applied past its log: {applied:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn appends_truncations_votes_and_callbacks_keep_their_order() {
    let (disk, place, mut opened) = slow().await;
    let first = start_append(&mut opened, entries(0..4)).await;
    let mut second = start_append(&mut opened, entries(4..8)).await;
    opened.log.truncate_after(Some(id(1, 5))).await.unwrap();
    assert!(
        second.try_recv().is_ok(),
        "entries are not reported after they are lost"
    );
    let other = entry(6, &["other=6"]);
    let third = start_append(&mut opened, vec![other.clone()]).await;
    opened.log.save_vote(&harness::vote(9, 2)).await.unwrap();
    first.await.unwrap().unwrap();
    third.await.unwrap().unwrap();
    drop(opened);
    disk.cut_power(0);
    let mut opened = open(&place).await;
    let mut expected = entries(0..6);
    expected.push(other);
    assert_eq!(opened.log.try_get_log_entries(..).await.unwrap(), expected);
}

#[tokio::test(start_paused = true)]
async fn entries_beyond_the_cache_are_readable_until_they_are_written() {
    let (_disk, _place, mut opened) = slow().await;
    let mut waiting = Vec::new();
    for block in 0..10 {
        let first = block * 1000;
        waiting.push(start_append(&mut opened, entries(first..first + 1000)).await);
    }
    assert_eq!(
        opened.log.try_get_log_entries(..).await.unwrap(),
        entries(0..10_000)
    );
    for synced in waiting {
        synced.await.unwrap().unwrap();
        assert_eq!(
            opened.log.try_get_log_entries(..).await.unwrap(),
            entries(0..10_000)
        );
    }
}
