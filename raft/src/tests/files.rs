//! Damaged files of a closed store: the startup fails and names the file, or no acknowledged data
//! is missing or different. The state after a power cut is never rejected.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use openraft::RaftLogReader;
use openraft::storage::{RaftLogStorage, RaftSnapshotBuilder, RaftStateMachine};

use super::harness::{
    self, DiskFixture, OpenedStore, copy_tree, entries, entry, on_disk, open, panic_on_fatal,
    try_open, vote,
};
use crate::storage::snapshot_store::SnapshotFile;
use crate::storage::store::StoreLocation;
use crate::types::{Entry, LogId, Vote};

/// A change of a file by a faulty device.
#[derive(Clone, Copy, Debug)]
enum FileDamage {
    /// One bit at this offset is flipped.
    Flip(usize),
    /// Everything from there on is lost.
    Truncate(usize),
    /// 512 bytes are zeros.
    Zero(usize),
    /// The file is lost.
    Remove,
}

impl FileDamage {
    fn apply(self, path: &Path) {
        let mut bytes = fs::read(path).unwrap();
        match self {
            FileDamage::Flip(at) => bytes[at] ^= 1 << (at % 8),
            FileDamage::Truncate(at) => bytes.truncate(at),
            FileDamage::Zero(at) => {
                let end = bytes.len().min(at + 512);
                bytes[at..end].fill(0);
            }
            FileDamage::Remove => return fs::remove_file(path).unwrap(),
        }
        fs::write(path, bytes).unwrap();
    }

    /// Returns damage at every 4 KiB of a file, and at many offsets of a small one.
    fn kinds(length: usize) -> Vec<FileDamage> {
        let step = (length / 5).clamp(1, 4096);
        let mut kinds = vec![FileDamage::Remove];
        for at in (0..length).step_by(step) {
            // Not always at the start of a fragment.
            let inside = (at + at / 4096 * 37).min(length - 1);
            kinds.extend([
                FileDamage::Flip(inside),
                FileDamage::Truncate(at),
                FileDamage::Zero(inside),
            ]);
        }
        if let Some(last) = length.checked_sub(1) {
            kinds.extend([FileDamage::Flip(last), FileDamage::Truncate(last)]);
        }
        kinds
    }
}

/// The acknowledged state of a store.
#[derive(Debug, PartialEq)]
struct AckedStore {
    vote: Option<Vote>,
    purged: Option<LogId>,
    entries: Vec<Entry>,
    records: Vec<(String, String)>,
}

async fn acknowledged(opened: &mut OpenedStore) -> AckedStore {
    harness::start(opened).await;
    let state = opened.log.get_log_state().await.unwrap();
    AckedStore {
        vote: opened.log.read_vote().await.unwrap(),
        purged: state.last_purged_log_id,
        entries: opened.log.try_get_log_entries(..).await.unwrap(),
        records: opened.owner.records(),
    }
}

/// Returns entries of about a kilobyte.
fn long_entries(range: std::ops::Range<u64>) -> Vec<Entry> {
    let one = |index: u64| {
        let text = format!("{index:05}=").into_bytes();
        let noise = (0..1000).map(|at| b'a' + ((at * 7 + index * index) % 23) as u8);
        let command = String::from_utf8(text.into_iter().chain(noise).collect()).unwrap();
        entry(index, &[&command])
    };
    range.map(one).collect()
}

/// Commits each entry separately, so that the changes of each are one write.
async fn commit_each(opened: &mut OpenedStore, range: std::ops::Range<u64>) {
    for entry in long_entries(range) {
        opened.commit(vec![entry]).await;
        opened.store.unwritten().flush().await.unwrap();
    }
}

async fn snapshot(opened: &mut OpenedStore) -> crate::state_machine::Snapshot {
    let mut builder = opened.machine.get_snapshot_builder().await;
    builder.build_snapshot().await.unwrap()
}

/// Returns a store that has used every kind of file: tables of all families with deleted ranges,
/// two snapshots, and a write-ahead log of several blocks.
async fn used_store() -> (DiskFixture, AckedStore) {
    let elsewhere = on_disk();
    let mut leader = open(&elsewhere.location).await;
    commit_each(&mut leader, 0..40).await;
    let newer = snapshot(&mut leader).await;
    let image = newer.snapshot.file().await.unwrap();

    let environment = on_disk();
    let mut opened = open(&environment.location).await;
    opened.log.save_vote(&vote(1, 1)).await.unwrap();
    opened.commit(vec![entry(0, &["zzzzz=own"])]).await;
    opened.close().await;
    // Each start makes tables of the logs it finds.
    let mut opened = open(&environment.location).await;
    let mut writer = opened.store.receive_image(image.len()).unwrap();
    let bytes = image.read(0, usize::MAX).await.unwrap();
    writer.write(bytes).await.unwrap();
    let received = writer.finish().await.unwrap();
    let machine = &mut opened.machine;
    let installed = machine.install_snapshot(&newer.meta, received.into());
    installed.await.unwrap();
    opened.log.purge(harness::id(1, 39)).await.unwrap();
    opened.log.save_vote(&vote(2, 1)).await.unwrap();
    commit_each(&mut opened, 40..60).await;
    opened.close().await;
    let mut opened = open(&environment.location).await;
    let own = snapshot(&mut opened).await.snapshot;
    own.file().await.unwrap();
    // It holds the store.
    drop(own);
    opened.log.purge(harness::id(1, 49)).await.unwrap();
    commit_each(&mut opened, 60..70).await;
    opened.close().await;
    let mut opened = open(&environment.location).await;
    opened.log.save_vote(&vote(3, 1)).await.unwrap();
    commit_each(&mut opened, 70..110).await;
    let expected = acknowledged(&mut opened).await;
    // Synced, and with it everything applied before.
    opened.log.save_vote(&vote(3, 1)).await.unwrap();
    opened.close().await;
    leader.close().await;
    assert_eq!(expected.vote, Some(vote(3, 1)));
    assert_eq!(expected.entries, long_entries(50..110));
    assert_eq!(expected.records.len(), 110);
    (environment, expected)
}

fn path(fixture: &DiskFixture) -> &Path {
    match &fixture.location {
        StoreLocation::Directory(path) => path,
        StoreLocation::Memory(_) => unreachable!("it is on disk"),
    }
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for file in fs::read_dir(directory).unwrap() {
        let path = file.unwrap().path();
        match path.is_dir() {
            true => files.extend(self::files(&path)),
            false => files.push(path),
        }
    }
    files.sort();
    files
}

/// Returns the kind of a file: its name without numbers.
fn kind(path: &Path) -> String {
    let name = path.file_name().unwrap().to_str().unwrap();
    name.chars().filter(|char| !char.is_ascii_digit()).collect()
}

/// Opens a damaged copy. Returns the error, or `None` if all acknowledged data exists.
async fn check_open(fixture: &DiskFixture, expected: &AckedStore, what: &str) -> Option<String> {
    let mut opened = match try_open(&fixture.location, panic_on_fatal()).await {
        Ok(opened) => opened,
        Err(error) => return Some(error.to_string()),
    };
    let found = acknowledged(&mut opened).await;
    assert_eq!(found.vote, expected.vote, "{what}");
    assert_eq!(found.purged, expected.purged, "{what}");
    let (entries, records) = (found.entries.len(), found.records.len());
    // Not all of them: they are long.
    assert!(
        &found == expected,
        "{what}: {entries} entries, {records} records"
    );
    // A master that lags receives a snapshot from which the log continues.
    let current = opened.machine.get_current_snapshot().await.unwrap();
    let current = current.expect("there is a snapshot");
    assert!(current.meta.last_log_id >= expected.purged, "{what}");
    let image = current.snapshot.file().await.unwrap();
    // Each entry has made one record, so the first records are those of the first entries.
    let covered = current.meta.last_log_id.unwrap().index as usize + 1;
    assert!(
        records_of(&image) == expected.records[..covered],
        "{what}: the image of a snapshot has other records"
    );
    opened.close().await;
    None
}

fn records_of(image: &SnapshotFile) -> Vec<(String, String)> {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let records = image.records().unwrap().into_iter();
    records
        .map(|(key, value)| (text(key), text(value)))
        .collect()
}

async fn damaged_copy(fixture: &DiskFixture, file: &Path, damage: FileDamage) -> DiskFixture {
    let copy = on_disk();
    copy_tree(path(fixture), path(&copy));
    damage.apply(&path(&copy).join(file));
    copy
}

/// Damages every file of this kind in every way, one at a time. Returns the number of rejected
/// starts by kind of file.
async fn damage_all(selects: impl Fn(&str) -> bool) -> BTreeMap<String, (usize, usize)> {
    let (environment, expected) = used_store().await;
    let mut outcomes: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for file in files(path(&environment)) {
        let kind = kind(&file);
        if !selects(&kind) {
            continue;
        }
        let length = fs::metadata(&file).unwrap().len() as usize;
        let file = file.strip_prefix(path(&environment)).unwrap();
        let name = file.file_name().unwrap().to_str().unwrap();
        for damage in FileDamage::kinds(length) {
            let what = format!("{damage:?} in {} of {length} bytes", file.display());
            let copy = damaged_copy(&environment, file, damage).await;
            let outcome = outcomes.entry(kind.clone()).or_default();
            outcome.0 += 1;
            if let Some(error) = check_open(&copy, &expected, &what).await {
                outcome.1 += 1;
                // A directory without its format cannot be identified as a master's.
                let is_exempt = match kind.as_str() {
                    "FORMAT" => true,
                    // RocksDB does not name the table in this error.
                    ".sst" => error.contains("properties"),
                    _ => false,
                };
                assert!(is_exempt || error.contains(name), "{what}: {error}");
                // It stays rejected.
                if outcome.1 % 8 == 1 {
                    let again = check_open(&copy, &expected, &what).await;
                    assert!(again.is_some(), "{what}: the second start accepts it");
                }
            }
        }
    }
    outcomes
}

#[tokio::test]
async fn damage_of_a_write_ahead_log_is_refused() {
    let outcomes = damage_all(|kind| kind == ".log").await;
    let (all, refused) = outcomes[".log"];
    assert!(all > 30, "the log has several blocks: {all}");
    assert_eq!(all, refused, "all of it was synced");
}

#[tokio::test]
async fn damage_of_tables_is_refused_or_harmless() {
    let outcomes = damage_all(|kind| kind == ".sst").await;
    let (all, refused) = outcomes[".sst"];
    assert!(refused > all / 2, "{refused} of {all}");
}

#[tokio::test]
async fn damage_of_manifest_files_is_refused_or_harmless() {
    let kinds = ["CURRENT", "MANIFEST-", "high-water", "FORMAT"];
    let outcomes = damage_all(|kind| kinds.contains(&kind)).await;
    for kind in kinds {
        let (all, refused) = outcomes[kind];
        assert!(refused > 0, "{kind}: {refused} of {all}");
    }
    let (all, refused) = outcomes["MANIFEST-"];
    assert_eq!(all, refused);
}

#[tokio::test]
async fn damage_of_other_files_loses_nothing() {
    let kinds = [
        "CURRENT",
        "MANIFEST-",
        "high-water",
        "FORMAT",
        ".log",
        ".sst",
    ];
    let outcomes = damage_all(|kind| !kinds.contains(&kind)).await;
    assert!(outcomes.contains_key("-.snapshot"), "{outcomes:?}");
    assert!(outcomes.contains_key("OPTIONS-"), "{outcomes:?}");
    assert!(
        outcomes.values().all(|(_, refused)| *refused == 0),
        "{outcomes:?}"
    );
}

fn newest_log(directory: &Path) -> PathBuf {
    let mut logs = files(directory).into_iter();
    logs.rfind(|path| kind(path) == ".log").unwrap()
}

/// A follower must not forget entries that it acknowledged, and so must not start.
#[tokio::test]
async fn one_flipped_bit_in_the_middle_of_a_write_ahead_log_is_refused() {
    let environment = on_disk();
    let mut opened = open(&environment.location).await;
    opened.log.save_vote(&vote(1, 1)).await.unwrap();
    opened.commit(entries(0..900)).await;
    opened.log.save_vote(&vote(2, 2)).await.unwrap();
    for index in 900..1000 {
        opened.append(entries(index..index + 1)).await;
    }
    opened.close().await;
    let log = newest_log(path(&environment));
    let middle = fs::metadata(&log).unwrap().len() as usize / 2;
    FileDamage::Flip(middle).apply(&log);
    // The rejected start leaves the file unchanged for examination.
    let before = fs::read(&log).unwrap();
    let error = try_open(&environment.location, panic_on_fatal())
        .await
        .err()
        .unwrap();
    let error = error.to_string();
    assert!(error.contains(log.to_str().unwrap()), "{error}");
    assert!(error.contains("shows that it had been synced"), "{error}");
    assert!(error.contains("argosy master rejoin"), "{error}");
    assert_eq!(fs::read(&log).unwrap(), before);
}

/// Whichever unsynced blocks survive a power cut, in any order: synced data exists, and the store
/// opens.
#[tokio::test]
async fn unsynced_blocks_after_a_power_cut_are_never_refused() {
    let environment = on_disk();
    let mut opened = open(&environment.location).await;
    opened.log.save_vote(&vote(1, 1)).await.unwrap();
    commit_each(&mut opened, 0..50).await;
    let log = newest_log(path(&environment));
    // Applied records are not synced. Each is a write.
    let synced = fs::read(&log).unwrap();
    for entry in long_entries(20..50) {
        opened.apply(vec![entry]).await;
        opened.store.unwritten().flush().await.unwrap();
    }
    // The writer takes them from a queue.
    let deadline = Instant::now() + Duration::from_secs(20);
    while fs::metadata(&log).unwrap().len() <= (synced.len() + 4 * 4096) as u64 {
        assert!(Instant::now() < deadline, "nothing is written");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let cut = on_disk();
    copy_tree(path(&environment), path(&cut));
    opened.close().await;
    let log = newest_log(path(&cut));
    let written = fs::read(&log).unwrap();
    for seed in 0..24_u64 {
        let copy = on_disk();
        copy_tree(path(&cut), path(&copy));
        fs::write(
            newest_log(path(&copy)),
            after_power_cut(&synced, &written, seed),
        )
        .unwrap();
        let what = format!("seed {seed}");
        let mut opened = open(&copy.location).await;
        let found = acknowledged(&mut opened).await;
        assert_eq!(found.vote, Some(vote(1, 1)), "{what}");
        assert!(found.entries == long_entries(0..50), "{what}");
        // The commit of the last one waits for the next append.
        assert!(found.records.len() >= 49, "{what}");
        commit_each(&mut opened, 50..60).await;
        opened.close().await;
        // No part of it remains that would be taken for damage later.
        let mut opened = open(&copy.location).await;
        let found = acknowledged(&mut opened).await;
        assert!(found.entries == long_entries(0..60), "{what}");
        opened.close().await;
    }
}

/// Combines, for each unsynced sector, either the old content or the written one.
fn after_power_cut(synced: &[u8], written: &[u8], seed: u64) -> Vec<u8> {
    let mut before = synced.to_vec();
    before.resize(written.len(), 0);
    let unit = [512, 4096, 512, 32 << 10][seed as usize % 4];
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut left = before.clone();
    for (number, part) in written.chunks(unit).enumerate() {
        // Xorshift.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        if state.is_multiple_of(2) {
            left[number * unit..][..part.len()].copy_from_slice(part);
        }
    }
    // The length may be older than the content.
    if seed.is_multiple_of(3) {
        left.truncate(synced.len() + (left.len() - synced.len()) / 2);
    }
    left
}

/// A truncation removes entries intentionally: a crash right after it is not a loss.
#[tokio::test]
async fn a_log_that_was_truncated_is_not_behind() {
    let environment = on_disk();
    let mut opened = open(&environment.location).await;
    opened.append(entries(0..100)).await;
    opened
        .log
        .truncate_after(Some(harness::id(1, 59)))
        .await
        .unwrap();
    let environment = harness::kill(opened, environment).await;
    let mut opened = open(&environment.location).await;
    let read = opened.log.try_get_log_entries(..).await.unwrap();
    assert_eq!(read, entries(0..60));
    opened.close().await;
}

/// Combines an older copy of the store with the newer high-water record.
#[tokio::test]
async fn rolled_back_store_is_refused() {
    let environment = on_disk();
    let mut opened = open(&environment.location).await;
    opened.append(entries(0..10)).await;
    opened.close().await;
    let older = on_disk();
    copy_tree(path(&environment), path(&older));
    let mut opened = open(&environment.location).await;
    opened.append(entries(10..20)).await;
    opened.close().await;
    fs::copy(
        path(&environment).join("high-water"),
        path(&older).join("high-water"),
    )
    .unwrap();
    let error = try_open(&older.location, panic_on_fatal())
        .await
        .err()
        .unwrap();
    let error = error.to_string();
    assert!(
        error.contains("was synced before") || error.contains("was in use before"),
        "{error}"
    );
}

/// A store of a release without the record continues, and has one afterwards.
#[tokio::test]
async fn a_store_without_a_high_water_record_gets_one_and_must_keep_it() {
    let environment = on_disk();
    let mut opened = open(&environment.location).await;
    opened.append(entries(0..10)).await;
    opened.close().await;
    harness::tamper(&environment.location, |disk| {
        let mut changes = crate::storage::disk::ChangeBatch::default();
        changes.delete(crate::storage::disk::KeySpace::Meta, *b"truncations");
        disk.write(changes, crate::storage::disk::Durability::Synced)
            .unwrap();
    });
    let record = path(&environment).join("high-water");
    fs::remove_file(&record).unwrap();
    let mut opened = open(&environment.location).await;
    let read = opened.log.try_get_log_entries(..).await.unwrap();
    assert_eq!(read, entries(0..10));
    opened.close().await;
    assert!(record.exists());
    fs::remove_file(&record).unwrap();
    let error = try_open(&environment.location, panic_on_fatal())
        .await
        .err()
        .unwrap();
    assert!(error.to_string().contains("high-water"), "{error}");
}

#[tokio::test]
async fn the_usage_of_a_store_is_measured_by_family() {
    let environment = on_disk();
    let mut opened = open(&environment.location).await;
    opened.append(entries(0..10)).await;
    let disk = opened.store.parts().disk;
    let usage = disk.usage().unwrap().expect("it is on a disk");
    let families: Vec<&str> = usage.family_bytes.iter().map(|(name, _)| *name).collect();
    assert_eq!(families, ["log", "meta", "registry", "registry_meta"]);
    assert!(usage.family_bytes[0].1 > 0, "{usage:?}");
    assert!(0 < usage.free_bytes && usage.free_bytes <= usage.total_bytes);
    assert_eq!(usage.stalled, Duration::ZERO, "the statistics are read");
    drop(disk);
    opened.close().await;
}
