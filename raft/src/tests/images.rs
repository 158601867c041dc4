//! Snapshots: built while entries are applied, sent, rejected when damaged, installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use openraft::RaftLogReader;
use openraft::storage::{RaftLogStorage, RaftSnapshotBuilder, RaftStateMachine};
use tokio::time::{Instant, timeout};

use super::harness::{
    DiskFixture, KEPT_ENTRIES, OpenedStore, entries, entry, fixtures, id, kill, open, record_fatal,
    start, try_open,
};
use crate::state_machine::{RequestedPurge, Snapshot, StateMachine};
use crate::storage::directory::OpenError;
use crate::storage::image::SnapshotSource;
use crate::storage::restored::{LogPosition, read_store};
use crate::storage::snapshot_store::SnapshotFile;
use crate::storage::store::{Store, StoreLocation};
use crate::types::{Entry, Membership, Payload};

/// Builds a snapshot of everything applied, with its file written.
async fn build(opened: &mut OpenedStore) -> (Snapshot, SnapshotFile) {
    let mut builder = opened.machine.get_snapshot_builder().await;
    let snapshot = builder.build_snapshot().await.unwrap();
    let image = snapshot.snapshot.file().await.unwrap();
    (snapshot, image)
}

/// Returns the size of the snapshots on this store.
fn image_bytes(location: &StoreLocation) -> u64 {
    match location {
        StoreLocation::Memory(disk) => disk.image_bytes(),
        StoreLocation::Directory(_) => {
            let sizes = files(location)
                .into_iter()
                .map(|path| fs::metadata(path).unwrap().len());
            sizes.sum()
        }
    }
}

/// Sends a snapshot block by block, as the transport does.
async fn send(image: &SnapshotFile, to: &Store) -> SnapshotFile {
    let mut writer = to.receive_image(image.len()).unwrap();
    let mut offset = 0;
    loop {
        let block = image.read(offset, 1000).await.unwrap();
        if block.is_empty() {
            break;
        }
        offset += block.len() as u64;
        writer.write(block).await.unwrap();
    }
    assert_eq!(offset, image.len());
    writer.finish().await.unwrap()
}

fn files(location: &StoreLocation) -> Vec<PathBuf> {
    let StoreLocation::Directory(path) = location else {
        return Vec::new();
    };
    let files = fs::read_dir(path.join("snapshots")).unwrap();
    let mut files: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    files
}

fn name(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

/// The snapshot file may be newer than the moment that the snapshot names, and its records match
/// its own description.
#[tokio::test]
async fn a_snapshot_and_its_image_have_the_same_log_index() {
    for environment in fixtures() {
        let mut opened = open(&environment.location).await;
        opened.commit(entries(0..100)).await;
        let mut builder = opened.machine.get_snapshot_builder().await;
        opened.commit(entries(100..200)).await;
        let snapshot = builder.build_snapshot().await.unwrap();
        assert_eq!(snapshot.meta.last_log_id, Some(id(1, 99)));
        let last = entry(200, &["00005=", "00006=changed"]);
        opened.commit(vec![last.clone()]).await;
        let image = snapshot.snapshot.file().await.unwrap();
        assert_eq!(image.meta().last_log_id, Some(last.log_id));
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let records = image.records().unwrap().into_iter();
        let records: Vec<_> = records
            .map(|(key, value)| (text(key), text(value)))
            .collect();
        assert_eq!(records, opened.owner.records());
        // It is in the store now, and recent enough to be sent again.
        let current = opened.machine.get_current_snapshot().await.unwrap();
        assert_eq!(current.unwrap().meta, *image.meta());
        opened.close().await;
    }
}

/// Large entries are purged although fewer of them follow than the log may keep.
#[tokio::test]
async fn an_image_that_is_older_than_the_log_is_not_sent_again() {
    for environment in fixtures() {
        let mut opened = open(&environment.location).await;
        opened.commit(entries(0..100)).await;
        let (_, image) = build(&mut opened).await;
        opened.commit(entries(100..200)).await;
        opened.log.purge(id(1, 99)).await.unwrap();
        let current = opened.machine.get_current_snapshot().await.unwrap();
        assert_eq!(current.unwrap().meta, *image.meta(), "the log continues it");
        opened.log.purge(id(1, 100)).await.unwrap();
        let current = opened.machine.get_current_snapshot().await.unwrap();
        assert_eq!(current.unwrap().meta.last_log_id, Some(id(1, 199)));
        opened.close().await;
    }
}

/// openraft executes a requested truncation later if it is sending the entries.
#[tokio::test]
async fn an_image_that_is_older_than_a_requested_truncation_is_not_sent_again() {
    for environment in fixtures() {
        let mut opened = open(&environment.location).await;
        opened.commit(entries(0..100)).await;
        let (_, image) = build(&mut opened).await;
        opened.commit(entries(100..200)).await;
        opened.requested.record(99);
        let current = opened.machine.get_current_snapshot().await.unwrap();
        assert_eq!(current.unwrap().meta, *image.meta(), "the log continues it");
        opened.requested.record(100);
        let current = opened.machine.get_current_snapshot().await.unwrap();
        assert_eq!(current.unwrap().meta.last_log_id, Some(id(1, 199)));
        opened.close().await;
    }
}

/// A regression test: each of these once wrote the whole registry.
#[tokio::test]
async fn snapshots_that_are_not_sent_write_no_image() {
    for environment in fixtures() {
        let mut opened = open(&environment.location).await;
        let large = format!("large={}", "x".repeat(1_000_000));
        opened.commit(vec![entry(0, &[&large])]).await;
        for round in 0..20 {
            let index = 1 + round * 2;
            opened.commit(entries(index..index + 2)).await;
            let mut builder = opened.machine.get_snapshot_builder().await;
            let snapshot = builder.build_snapshot().await.unwrap();
            assert_eq!(snapshot.meta.last_log_id, Some(id(1, index + 1)));
            opened.log.purge(id(1, index)).await.unwrap();
        }
        assert_eq!(image_bytes(&environment.location), 0);
        let expected = opened.owner.records();
        let environment = kill(opened, environment).await;
        let mut opened = open(&environment.location).await;
        start(&mut opened).await;
        assert_eq!(opened.owner.records(), expected);
        opened.close().await;
    }
}

#[tokio::test]
async fn concurrent_followers_are_sent_the_same_image() {
    for environment in fixtures() {
        let mut opened = open(&environment.location).await;
        opened.commit(entries(0..100)).await;
        let first = opened
            .machine
            .get_current_snapshot()
            .await
            .unwrap()
            .unwrap();
        let second = opened
            .machine
            .get_current_snapshot()
            .await
            .unwrap()
            .unwrap();
        assert_eq!(image_bytes(&environment.location), 0, "nothing is sent yet");
        let (first, second) = tokio::join!(first.snapshot.file(), second.snapshot.file());
        let (first, second) = (first.unwrap(), second.unwrap());
        assert_eq!(first.meta(), second.meta());
        assert_eq!(image_bytes(&environment.location), first.len());
        opened.close().await;
    }
}

#[tokio::test]
async fn an_installed_snapshot_replaces_all_records_and_is_durable() {
    for (from, to) in fixtures().into_iter().zip(fixtures()) {
        let mut leader = open(&from.location).await;
        leader.commit(entries(0..500)).await;
        let (snapshot, image) = build(&mut leader).await;

        let mut follower = open(&to.location).await;
        follower
            .commit(vec![entry(0, &["own=1", "00001=other"])])
            .await;
        let image = send(&image, &follower.store).await;
        let installed = follower
            .machine
            .install_snapshot(&snapshot.meta, image.into())
            .await;
        installed.unwrap();
        follower.log.purge(id(1, 499)).await.unwrap();
        assert_eq!(follower.owner.records(), leader.owner.records());
        assert_eq!(follower.owner.0.lock().unwrap().loads, [0, 499]);
        follower.commit(entries(500..503)).await;

        let to = kill(follower, to).await;
        let mut follower = open(&to.location).await;
        let last = start(&mut follower).await;
        assert_eq!(last, Some(502));
        let (applied, _) = follower.machine.applied_state().await.unwrap();
        assert!(applied >= Some(id(1, 499)), "{applied:?}");
        let records = follower.owner.records();
        assert_eq!(records[..500], leader.owner.records());
        let current = follower.machine.get_current_snapshot().await.unwrap();
        assert_eq!(current.unwrap().meta, snapshot.meta);
        assert!(
            files(&to.location)
                .iter()
                .all(|path| name(path).ends_with(".snapshot"))
        );
        leader.close().await;
        follower.close().await;
    }
}

/// A follower ends after it has stored a received snapshot, and before it notes the install. The
/// log may end before the snapshot or continue it.
#[tokio::test]
async fn a_recovery_reads_a_stored_snapshot_that_is_newer_than_the_registry() {
    for logged in [0, 10, 510] {
        for (from, to) in fixtures().into_iter().zip(fixtures()) {
            let mut leader = open(&from.location).await;
            leader.commit(entries(0..500)).await;
            let (_, image) = build(&mut leader).await;

            let mut follower = open(&to.location).await;
            if logged > 0 {
                follower.commit(entries(0..10)).await;
            }
            if logged > 10 {
                follower.append(entries(10..logged)).await;
            }
            let image = send(&image, &follower.store).await;
            follower.store.parts().snapshots.put(&image).unwrap();
            follower.close().await;

            let follower = open(&to.location).await;
            let read = read_store(&follower.store, Path::new("master")).await;
            let read = read.unwrap();
            assert_eq!(
                read.applied,
                LogPosition {
                    index: 499,
                    term: 1
                }
            );
            let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
            let records = read.records.into_iter();
            let records: Vec<_> = records
                .map(|(key, value)| (text(key), text(value)))
                .collect();
            assert_eq!(records, leader.owner.records());
            let read: Vec<u64> = read.entries.iter().map(|entry| entry.index).collect();
            assert_eq!(read, (500..logged).collect::<Vec<u64>>());
            leader.close().await;
            follower.close().await;
        }
    }
}

/// Applied entries are written up to 50 ms later. A master that ends within its first 50 ms has all
/// of them in its log and no registry.
#[tokio::test]
async fn a_recovery_reads_a_log_whose_registry_was_never_written() {
    let founding = Entry {
        log_id: id(0, 0),
        payload: Payload::Membership(Membership::default()),
    };
    let read = async |logged: &[Entry], fixture: DiskFixture| {
        let mut master = open(&fixture.location).await;
        if !logged.is_empty() {
            master.append(logged.to_vec()).await;
        }
        master.close().await;
        let master = open(&fixture.location).await;
        let read = read_store(&master.store, Path::new("master")).await;
        master.close().await;
        read
    };
    for fixture in fixtures() {
        let mut logged = vec![founding.clone()];
        logged.extend(entries(1..4));
        let read = read(&logged, fixture).await.unwrap();
        assert_eq!(read.applied, LogPosition { index: 0, term: 0 });
        assert!(read.records.is_empty());
        let seen: Vec<_> = read
            .entries
            .iter()
            .map(|entry| (entry.index, &entry.commands[0][..]))
            .collect();
        assert_eq!(
            seen,
            [(1, &b"00001=v1"[..]), (2, b"00002=v2"), (3, b"00003=v3")]
        );
    }
    for fixture in fixtures() {
        let empty = read(&[], fixture).await;
        assert!(matches!(empty, Err(OpenError::Empty { .. })), "{empty:?}");
    }
    // The commands of a first entry would be lost.
    for fixture in fixtures() {
        let damaged = read(&entries(0..4), fixture).await;
        assert!(
            matches!(damaged, Err(OpenError::Damaged { .. })),
            "{damaged:?}"
        );
    }
}

#[tokio::test]
async fn older_snapshot_does_not_replace_a_newer_installed_one() {
    for (from, to) in fixtures().into_iter().zip(fixtures()) {
        let mut leader = open(&from.location).await;
        leader.commit(entries(0..500)).await;
        let (newer, image) = build(&mut leader).await;

        let mut follower = open(&to.location).await;
        follower.commit(entries(0..10)).await;
        let (older, late) = build(&mut follower).await;
        assert_eq!(older.meta.last_log_id, Some(id(1, 9)));
        let image = send(&image, &follower.store).await;
        let installed = follower
            .machine
            .install_snapshot(&newer.meta, image.into())
            .await;
        installed.unwrap();
        follower.log.purge(id(1, 499)).await.unwrap();
        let SnapshotSource::Registry(parts, _) = &older.snapshot else {
            panic!("it is made of the registry")
        };
        parts.snapshots.put(&late).unwrap();

        let current = follower.machine.get_current_snapshot().await.unwrap();
        assert_eq!(current.unwrap().meta, newer.meta);
        leader.close().await;
        follower.close().await;
    }
}

#[tokio::test]
async fn a_snapshot_corrupted_in_transfer_is_rejected_without_leftovers() {
    for (from, to) in fixtures().into_iter().zip(fixtures()) {
        let mut leader = open(&from.location).await;
        leader.commit(entries(0..500)).await;
        let (_, image) = build(&mut leader).await;
        let follower = open(&to.location).await;
        let whole = image.read(0, usize::MAX).await.unwrap();
        let mut flipped = whole.to_vec();
        flipped[whole.len() / 2] ^= 1;
        let cut = whole.slice(..whole.len() - 1);
        for bytes in [flipped.into(), cut] {
            let mut writer = follower.store.receive_image(0).unwrap();
            writer.write(bytes).await.unwrap();
            let refused = writer.finish().await.err().unwrap();
            assert!(
                refused.to_string().starts_with("the snapshot is damaged"),
                "{refused}"
            );
        }
        let mut writer = follower.store.receive_image(0).unwrap();
        writer.write(whole).await.unwrap();
        drop(writer);
        assert!(files(&to.location).is_empty());
        leader.close().await;
        follower.close().await;
    }
}

/// The leader may be lost while a block is written.
#[tokio::test]
async fn a_snapshot_whose_block_is_cancelled_leaves_no_file() {
    for environment in fixtures() {
        let follower = open(&environment.location).await;
        let mut writer = follower.store.receive_image(0).unwrap();
        let block = Bytes::from(vec![0; 9 << 20]);
        // The write begins, and is cancelled at its first wait.
        let _ = timeout(Duration::ZERO, writer.write(block)).await;
        drop(writer);
        let deadline = Instant::now() + Duration::from_secs(60);
        while !files(&environment.location).is_empty() {
            assert!(
                Instant::now() < deadline,
                "{:?}",
                files(&environment.location)
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        follower.close().await;
    }
}

#[tokio::test]
async fn a_snapshot_with_a_wrong_description_is_rejected() {
    for environment in fixtures() {
        let mut opened = open(&environment.location).await;
        opened.commit(entries(0..5)).await;
        let (mut snapshot, _) = build(&mut opened).await;
        snapshot.meta.last_log_id = Some(id(1, 9));
        let refused = opened
            .machine
            .install_snapshot(&snapshot.meta, snapshot.snapshot)
            .await;
        assert!(
            refused
                .unwrap_err()
                .to_string()
                .starts_with("the snapshot is of")
        );
        assert_eq!(opened.owner.0.lock().unwrap().loads, [0]);
        opened.close().await;
    }
}

#[tokio::test]
async fn two_snapshots_are_kept_and_a_removed_one_can_still_be_sent() {
    for environment in fixtures() {
        let mut opened = open(&environment.location).await;
        let mut images = Vec::new();
        for round in 0..4 {
            opened.commit(entries(round * 10..round * 10 + 10)).await;
            images.push(build(&mut opened).await.1);
        }
        if matches!(environment.location, StoreLocation::Directory(_)) {
            let names: Vec<String> = files(&environment.location)
                .iter()
                .map(|path| name(path).into())
                .collect();
            let expected = [29, 39].map(|index| format!("{index:020}-{:020}.snapshot", 1));
            assert_eq!(names, expected);
        }
        assert_eq!(images[0].records().unwrap().len(), 10);
        opened.close().await;
    }
}

#[tokio::test]
async fn a_snapshot_covers_only_synced_records_so_the_log_may_be_purged() {
    for environment in fixtures() {
        let mut opened = open(&environment.location).await;
        opened.commit(entries(0..50)).await;
        let mut builder = opened.machine.get_snapshot_builder().await;
        builder.build_snapshot().await.unwrap();
        let expected = opened.owner.records();
        let environment = kill(opened, environment).await;
        // Before anything is replayed: the applied records themselves were synced.
        let mut opened = open(&environment.location).await;
        assert_eq!(opened.owner.records(), expected);
        opened.log.purge(id(1, 49)).await.unwrap();
        let environment = kill(opened, environment).await;
        let mut opened = open(&environment.location).await;
        start(&mut opened).await;
        assert_eq!(opened.owner.records(), expected);
        opened.close().await;
    }
}

#[cfg(feature = "rocksdb")]
#[tokio::test]
async fn torn_snapshot_is_skipped_and_an_unfinished_one_deleted() {
    let environment = super::harness::on_disk();
    let mut opened = open(&environment.location).await;
    for round in 0..2 {
        opened.commit(entries(round * 10..round * 10 + 10)).await;
        build(&mut opened).await;
    }
    let expected = opened.owner.records();
    opened.close().await;
    let newest = files(&environment.location).pop().unwrap();
    let bytes = fs::read(&newest).unwrap();
    fs::write(&newest, &bytes[..bytes.len() - 5]).unwrap();
    fs::write(newest.with_file_name("3.unfinished"), b"half").unwrap();

    let mut opened = open(&environment.location).await;
    let current = opened.machine.get_current_snapshot().await.unwrap();
    assert_eq!(current.unwrap().meta.last_log_id, Some(id(1, 9)));
    assert_eq!(opened.owner.records(), expected);
    assert!(
        files(&environment.location)
            .iter()
            .all(|path| !name(path).contains("unfinished"))
    );
    // The next one of the same moment replaces the torn one.
    build(&mut opened).await;
    assert_eq!(fs::read(&newest).unwrap(), bytes);
    opened.close().await;
}

/// A symbolic link to a device without space stands for a full disk.
#[cfg(feature = "rocksdb")]
#[tokio::test]
async fn a_snapshot_that_finds_no_space_fails_alone_and_a_later_one_is_written() {
    let environment = super::harness::on_disk();
    let (fatal, words) = record_fatal();
    let mut opened = try_open(&environment.location, fatal).await.unwrap();
    opened.commit(entries(0..50)).await;
    let StoreLocation::Directory(directory) = &environment.location else {
        unreachable!("it is on disk");
    };
    let unfinished = directory.join("snapshots/0.unfinished");
    std::os::unix::fs::symlink("/dev/full", &unfinished).unwrap();
    let snapshot = opened.machine.get_current_snapshot().await.unwrap();
    let snapshot = snapshot.unwrap().snapshot;
    let refused = snapshot.file().await.err().unwrap();
    assert_eq!(refused.kind(), std::io::ErrorKind::StorageFull, "{refused}");
    assert!(words.lock().unwrap().is_empty(), "{words:?}");
    assert!(files(&environment.location).is_empty());
    opened.commit(entries(50..60)).await;
    let image = snapshot.file().await.unwrap();
    assert_eq!(image.records().unwrap().len(), 60);
    assert!(words.lock().unwrap().is_empty(), "{words:?}");
    opened.close().await;
}

#[cfg(feature = "rocksdb")]
#[tokio::test]
async fn a_snapshot_leaves_space_for_the_log() {
    let environment = super::harness::on_disk();
    let mut opened = open(&environment.location).await;
    opened.commit(entries(0..50)).await;
    let snapshot = opened.machine.get_current_snapshot().await.unwrap();
    let snapshot = snapshot.unwrap().snapshot;
    opened.store.snapshots().reserve_all(true);
    let own = snapshot.file().await.err().unwrap();
    // A larger one than any disk.
    opened.store.snapshots().reserve_all(false);
    let received = opened.store.receive_image(1 << 60).err().unwrap();
    for refused in [own, received] {
        assert_eq!(refused.kind(), std::io::ErrorKind::StorageFull, "{refused}");
        assert!(refused.to_string().contains("for the log"));
    }
    assert!(files(&environment.location).is_empty());
    let mut writer = opened.store.receive_image(0).unwrap();
    let block = Bytes::from(vec![0; 5 << 20]);
    writer.write(block.clone()).await.unwrap();
    opened.store.snapshots().reserve_all(true);
    let refused = writer.write(block).await.err().unwrap();
    assert_eq!(refused.kind(), std::io::ErrorKind::StorageFull, "{refused}");
    drop(writer);
    assert!(files(&environment.location).is_empty());
    opened.store.snapshots().reserve_all(false);
    let image = snapshot.file().await.unwrap();
    assert_eq!(image.records().unwrap().len(), 50);
    opened.close().await;
}

#[tokio::test]
async fn an_install_without_an_owner_aborts_without_data_loss() {
    for environment in fixtures() {
        let mut opened = open(&environment.location).await;
        opened.commit(entries(0..5)).await;
        // A snapshot of the registry holds the store.
        let meta = build(&mut opened).await.0.meta;
        opened.close().await;
        let (fatal, words) = record_fatal();
        let place = environment.location.clone();
        let store = tokio::task::spawn_blocking(move || Store::open(&place, fatal));
        let store = store.await.unwrap().unwrap();
        let (owner, inbox) = tokio::sync::mpsc::channel(1);
        drop(inbox);
        let refused = StateMachine::open(&store, KEPT_ENTRIES, RequestedPurge::default(), owner);
        let refused = refused.await;
        let refused = refused.err().unwrap();
        assert_eq!(
            refused.to_string(),
            "the owner of the registry ended before it had loaded it"
        );
        store.close().await;
        drop(store);
        let (fatal, _) = record_fatal();
        let mut opened = try_open(&environment.location, fatal).await.unwrap();
        assert_eq!(opened.owner.records().len(), 5);
        let read = opened.log.try_get_log_entries(..).await.unwrap();
        assert_eq!(read.len(), 5);
        assert_eq!(meta.last_log_id, Some(id(1, 4)));
        assert!(words.lock().unwrap().is_empty());
        opened.close().await;
    }
}
