//! A store that is not what was written is rejected, with a helpful message.

use std::path::PathBuf;

use openraft::RaftLogReader;
use openraft::storage::{RaftLogStorage, RaftLogStorageExt};

use super::harness::{
    entries, fixtures, open, panic_on_fatal, record_fatal, tamper, try_open, vote,
};
use crate::storage::disk::memory::MemoryDisk;
use crate::storage::disk::{ChangeBatch, Disk, Durability, KeySpace};
use crate::storage::entry::{self, EntryHash};
use crate::storage::record::{self, DirectoryIdentity};
use crate::storage::store::StoreLocation;

fn key(index: u64) -> [u8; 8] {
    index.to_be_bytes()
}

fn put(disk: &dyn Disk, family: KeySpace, key: &[u8], value: Vec<u8>) {
    let mut changes = ChangeBatch::default();
    changes.put(family, key, value);
    disk.write(changes, Durability::Synced).unwrap();
}

fn flip(disk: &dyn Disk, family: KeySpace, key: &[u8]) {
    let mut value = disk.get(family, key).unwrap().unwrap();
    let middle = value.len() / 2;
    value[middle] ^= 4;
    put(disk, family, key, value);
}

/// Returns the error after `change` was made to a closed store of ten entries.
async fn refusal_after(change: fn(&dyn Disk)) -> Vec<(PathBuf, String)> {
    let mut refusals = Vec::new();
    for environment in fixtures() {
        let mut opened = open(&environment.location).await;
        opened.log.save_vote(&vote(1, 1)).await.unwrap();
        opened.commit(entries(0..10)).await;
        opened.close().await;
        tamper(&environment.location, change);
        let path = match &environment.location {
            StoreLocation::Directory(path) => path.clone(),
            StoreLocation::Memory(disk) => disk.name().into(),
        };
        let error = try_open(&environment.location, panic_on_fatal())
            .await
            .err()
            .unwrap();
        refusals.push((path, error.to_string()));
    }
    refusals
}

async fn is_refused(change: fn(&dyn Disk), what: &str) {
    for (path, text) in refusal_after(change).await {
        let path = path.display();
        let expected = format!(
            "the data in {path} is damaged: {what}; this master must not serve it: \
             move the directory away and join the group again as a new member (`argosy master rejoin`)"
        );
        assert_eq!(text, expected);
    }
}

#[tokio::test]
async fn a_flipped_bit_in_an_entry_is_refused() {
    let flip_entry: fn(&dyn Disk) = |disk| flip(disk, KeySpace::Log, &key(3));
    is_refused(
        flip_entry,
        "entry 3 of the log is damaged: its checksum is wrong",
    )
    .await;
}

#[tokio::test]
async fn a_missing_entry_is_refused() {
    let lose_entry: fn(&dyn Disk) = |disk| {
        let mut changes = ChangeBatch::default();
        changes.delete(KeySpace::Log, key(4));
        disk.write(changes, Durability::Synced).unwrap();
    };
    is_refused(lose_entry, "entry 4 of the log is missing").await;
}

#[tokio::test]
async fn an_entry_of_another_history_is_refused() {
    let swap_entry: fn(&dyn Disk) = |disk| {
        let opened = entry::open(5, disk.get(KeySpace::Log, &key(5)).unwrap().unwrap());
        let (bytes, _) = entry::seal(&EntryHash::ORIGIN, &opened.unwrap().entry);
        put(disk, KeySpace::Log, &key(5), bytes);
    };
    let what = "entry 5 of the log does not continue the entry before it";
    is_refused(swap_entry, what).await;
}

#[tokio::test]
async fn a_damaged_vote_is_refused() {
    let flip_vote: fn(&dyn Disk) = |disk| flip(disk, KeySpace::Meta, b"vote");
    let what = "the record \"vote\" of the log is damaged: its checksum is wrong";
    is_refused(flip_vote, what).await;
}

#[tokio::test]
async fn a_store_that_lost_its_identity_is_refused() {
    let forget: fn(&dyn Disk) = |disk| {
        let mut changes = ChangeBatch::default();
        changes.delete(KeySpace::Meta, *b"identity");
        disk.write(changes, Durability::Synced).unwrap();
    };
    is_refused(forget, "it contains data but no identity").await;
}

#[tokio::test]
async fn a_newer_format_of_records_is_refused() {
    let renew: fn(&dyn Disk) = |disk| {
        let mut bytes = record::seal(&DirectoryIdentity::default());
        bytes[4] = record::FORMAT + 1;
        let checksum = crc_fast::crc32_iscsi(&bytes[4..]);
        bytes[..4].copy_from_slice(&checksum.to_le_bytes());
        put(disk, KeySpace::Meta, b"identity", bytes);
    };
    for (path, text) in refusal_after(renew).await {
        let path = path.display();
        let expected = format!(
            "{path} has format 2, this program knows up to format 1: start a newer argosy on it"
        );
        assert_eq!(text, expected);
    }
}

#[tokio::test]
async fn an_unfinished_install_without_its_snapshot_is_refused() {
    let lose: fn(&dyn Disk) = |disk| {
        let name = "7-1.snapshot".to_owned();
        let record = record::seal(&record::SnapshotNameRecord { name });
        put(disk, KeySpace::Meta, b"installing", record);
    };
    for (_, text) in refusal_after(lose).await {
        let expected =
            "is damaged: the snapshot 7-1.snapshot, whose install was interrupted, cannot be used";
        assert!(text.contains(expected), "{text}");
    }
}

#[tokio::test]
async fn damage_found_while_reading_stops_the_process_with_its_location() {
    let disk = MemoryDisk::default();
    let (fatal, words) = record_fatal();
    let mut opened = try_open(&StoreLocation::Memory(disk.clone()), fatal)
        .await
        .unwrap();
    // More than stay in memory, so that the first ones are read from the disk.
    opened.append(entries(0..5000)).await;
    assert_eq!(
        opened.log.try_get_log_entries(10..12).await.unwrap(),
        entries(10..12)
    );
    flip(&disk, KeySpace::Log, &key(11));
    let error = opened.log.try_get_log_entries(10..12).await.unwrap_err();
    let what = "entry 11 of the log is damaged: its checksum is wrong";
    assert_eq!(error.to_string(), what);
    let expected = format!("cannot read the log in the memory store: {what}");
    assert_eq!(*words.lock().unwrap(), [expected]);
}

#[tokio::test]
async fn a_failed_write_is_final_and_never_retried() {
    let disk = MemoryDisk::default();
    let (fatal, words) = record_fatal();
    let mut opened = try_open(&StoreLocation::Memory(disk.clone()), fatal)
        .await
        .unwrap();
    opened.append(entries(0..2)).await;
    disk.fail_writes_after(0);
    opened.log.blocking_append(entries(2..3)).await.unwrap_err();
    // The disk would work again, but nothing is written to it.
    disk.fail_writes_after(100);
    opened.log.blocking_append(entries(3..4)).await.unwrap_err();
    opened.log.save_vote(&vote(9, 1)).await.unwrap_err();
    assert_eq!(opened.log.read_vote().await.unwrap(), None);
    let expected = "cannot write to the memory store: the disk is broken";
    assert_eq!(*words.lock().unwrap(), [expected]);
    drop(opened);
    let mut opened = open(&StoreLocation::Memory(disk)).await;
    let read = opened.log.try_get_log_entries(..).await.unwrap();
    assert_eq!(read, entries(0..2));
}

#[cfg(feature = "rocksdb")]
#[tokio::test]
async fn second_process_gets_the_pid_of_the_first() {
    let environment = super::harness::on_disk();
    let opened = open(&environment.location).await;
    let error = try_open(&environment.location, panic_on_fatal())
        .await
        .err()
        .unwrap();
    let pid = std::process::id();
    let text = error.to_string();
    assert!(
        text.contains(&format!("is in use by process {pid}: stop that process")),
        "{text}"
    );
    opened.close().await;
    open(&environment.location).await.close().await;
}

#[cfg(not(feature = "rocksdb"))]
#[tokio::test]
async fn a_build_without_rocksdb_reports_it() {
    let environment = super::harness::on_disk();
    let error = try_open(&environment.location, panic_on_fatal())
        .await
        .err()
        .unwrap();
    assert!(
        error
            .to_string()
            .contains("built without the feature rocksdb")
    );
}
