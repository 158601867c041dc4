//! Disk failures and power cuts at every write: everything that was acknowledged before survives.

use openraft::RaftLogReader;
use openraft::storage::{RaftLogStorage, RaftLogStorageExt, RaftSnapshotBuilder, RaftStateMachine};

use super::harness::{
    self, DiskFixture, OpenedStore, entries, id, record_fatal, start, try_open, vote,
};
use crate::storage::disk::memory::MemoryDisk;
use crate::storage::store::StoreLocation;
use crate::types::LogId;

/// The acknowledgements of the store so far.
#[derive(Debug, Default)]
struct AckedProgress {
    term: u64,
    /// The end of the logged entries, exclusive.
    logged: u64,
    purged: Option<u64>,
}

/// Runs a store up to its first error.
async fn live(
    opened: &mut OpenedStore,
    promised: &mut AckedProgress,
) -> Result<(), std::io::Error> {
    for round in 0..4 {
        let first = round * 10;
        opened.log.save_vote(&vote(round + 1, 1)).await?;
        promised.term = round + 1;
        opened
            .log
            .blocking_append(entries(first..first + 10))
            .await?;
        promised.logged = first + 10;
        opened.log.save_committed(Some(id(1, first + 7))).await?;
        let from = first.saturating_sub(2);
        let committed = entries(from..first + 8)
            .into_iter()
            .map(|entry| Ok((entry, None)));
        opened
            .machine
            .apply(futures::stream::iter(committed))
            .await?;
        // Uncommitted entries are replaced by equal ones: only the writes matter.
        promised.logged = first + 8;
        opened.log.truncate_after(Some(id(1, first + 7))).await?;
        opened
            .log
            .blocking_append(entries(first + 8..first + 10))
            .await?;
        promised.logged = first + 10;
        if round % 2 == 1 {
            let mut builder = opened.machine.get_snapshot_builder().await;
            let snapshot = builder.build_snapshot().await?;
            assert_eq!(snapshot.meta.last_log_id, Some(id(1, first + 7)));
            promised.purged = Some(first + 3);
            opened.log.purge(id(1, first + 3)).await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn acknowledged_data_survives_a_cut_at_any_write() {
    let mut finished = false;
    let mut cut = 0;
    while !finished {
        for kept in [0, 1, usize::MAX] {
            let disk = MemoryDisk::default();
            let place = StoreLocation::Memory(disk.clone());
            let (fatal, words) = record_fatal();
            let mut opened = try_open(&place, fatal).await.unwrap();
            let mut promised = AckedProgress::default();
            disk.fail_writes_after(cut);
            finished = live(&mut opened, &mut promised).await.is_ok();
            assert_eq!(words.lock().unwrap().is_empty(), finished);
            drop(opened);
            disk.cut_power(kept);
            check(&place, &promised, cut).await;
        }
        cut += 1;
    }
    assert!(cut > 20, "the life has writes enough: {cut}");
}

async fn check(location: &StoreLocation, promised: &AckedProgress, cut: usize) {
    let mut opened = harness::open(location).await;
    let last = start(&mut opened).await;
    let term = opened
        .log
        .read_vote()
        .await
        .unwrap()
        .map_or(0, |vote| vote.leader_id.term);
    // One more than acknowledged: written, and cut before the answer.
    assert!(
        (promised.term..=promised.term + 1).contains(&term),
        "cut {cut}: term {term}"
    );
    let logged = last.map_or(0, |last| last + 1);
    assert!(
        logged >= promised.logged,
        "cut {cut}: {logged} of {promised:?}"
    );
    let state = opened.log.get_log_state().await.unwrap();
    let purged = state.last_purged_log_id.map(|id| id.index);
    assert!(
        purged <= promised.purged,
        "cut {cut}: purged {purged:?} of {promised:?}"
    );
    let first = purged.map_or(0, |purged| purged + 1);
    let read = opened.log.try_get_log_entries(..).await.unwrap();
    assert_eq!(read, entries(first..logged), "cut {cut}");
    // The registry is exactly the result of the entries up to the applied one.
    let (applied, _) = opened.machine.applied_state().await.unwrap();
    let applied = applied.map_or(0, |id| id.index + 1);
    let record = |index| (format!("{index:05}"), format!("v{index}"));
    let expected: Vec<_> = (0..applied).map(record).collect();
    assert_eq!(opened.owner.records(), expected, "cut {cut}");
    assert!(
        applied >= first,
        "cut {cut}: purged {purged:?}, applied {applied}"
    );
}

#[tokio::test]
async fn an_install_cut_at_any_write_ends_as_the_old_or_the_new_registry() {
    let image = {
        let environment = DiskFixture {
            location: StoreLocation::Memory(MemoryDisk::default()),
            _directory: None,
        };
        let mut opened = harness::open(&environment.location).await;
        let long = "x".repeat(2000);
        let commands: Vec<String> = (0..2000)
            .map(|number| format!("new{number:05}={long}"))
            .collect();
        let commands: Vec<&str> = commands.iter().map(String::as_str).collect();
        opened.commit(vec![harness::entry(50, &commands)]).await;
        let mut builder = opened.machine.get_snapshot_builder().await;
        let snapshot = builder.build_snapshot().await.unwrap().snapshot;
        snapshot.file().await.unwrap()
    };
    let mut outcomes = [0, 0];
    let mut finished = false;
    let mut cut = 0;
    while !finished {
        for kept in [0, 1, 2, usize::MAX] {
            let disk = MemoryDisk::default();
            let place = StoreLocation::Memory(disk.clone());
            let (fatal, _words) = record_fatal();
            let mut opened = try_open(&place, fatal).await.unwrap();
            opened.commit(entries(0..10)).await;
            opened.store.unwritten().flush().await.unwrap();
            opened.append(entries(10..11)).await;
            assert_eq!(disk.unsynced(), 0);
            disk.fail_writes_after(cut);
            let installed = opened
                .machine
                .install_snapshot(image.meta(), image.clone().into())
                .await;
            finished = installed.is_ok();
            drop(opened);
            disk.cut_power(kept);

            let mut opened = harness::open(&place).await;
            let (applied, _) = opened.machine.applied_state().await.unwrap();
            let records = opened.owner.records();
            let new = applied == Some(id(1, 50));
            assert!(new || applied == Some(id(1, 9)), "cut {cut}: {applied:?}");
            assert!(new || !finished, "an install that was answered holds");
            let expected = if new { 2000 } else { 10 };
            let wanted = if new { "new" } else { "000" };
            assert_eq!(records.len(), expected, "cut {cut}");
            assert!(records.iter().all(|(key, _)| key.starts_with(wanted)));
            outcomes[usize::from(new)] += 1;
        }
        cut += 1;
    }
    // Deleting the old records, four batches of records, and the two records around them.
    assert!(
        cut >= 6 && outcomes[0] > 0 && outcomes[1] > 4,
        "{cut} {outcomes:?}"
    );
}

/// A former leader has entries that no other member has, and gets a snapshot of its successor.
#[tokio::test]
async fn an_install_cut_at_any_write_leaves_no_entries_that_conflict_with_it() {
    let image = {
        let location = StoreLocation::Memory(MemoryDisk::default());
        let mut opened = harness::open(&location).await;
        let mut newest = harness::entry(50, &["new=1"]);
        newest.log_id = id(2, 50);
        opened.commit(vec![newest]).await;
        let mut builder = opened.machine.get_snapshot_builder().await;
        let snapshot = builder.build_snapshot().await.unwrap().snapshot;
        snapshot.file().await.unwrap()
    };
    let mut found = 0;
    let mut finished = false;
    let mut cut = 0;
    while !finished {
        for kept in [0, 1, usize::MAX] {
            let disk = MemoryDisk::default();
            let place = StoreLocation::Memory(disk.clone());
            let (fatal, _words) = record_fatal();
            let mut opened = try_open(&place, fatal).await.unwrap();
            opened.commit(entries(0..10)).await;
            opened.store.unwritten().flush().await.unwrap();
            opened.append(entries(10..100)).await;
            assert_eq!(disk.unsynced(), 0);
            opened.log.truncate_after(Some(id(1, 9))).await.unwrap();
            disk.fail_writes_after(cut);
            let installed = opened
                .machine
                .install_snapshot(image.meta(), image.clone().into())
                .await;
            finished = installed.is_ok();
            drop(opened);
            disk.cut_power(kept);

            let mut opened = harness::open(&place).await;
            let last = opened.log.get_log_state().await.unwrap().last_log_id;
            let snapshot = opened.machine.get_current_snapshot().await.unwrap();
            let snapshot = snapshot.and_then(|snapshot| snapshot.meta.last_log_id);
            // Log ids are ordered by their terms first.
            let is_ordered = |last: LogId, snapshot: LogId| {
                (last < snapshot) == (last.index < snapshot.index) || last.index == snapshot.index
            };
            if let (Some(last), Some(snapshot)) = (last, snapshot) {
                assert!(
                    is_ordered(last, snapshot),
                    "cut {cut}, {kept} kept: {last} {snapshot}"
                );
            }
            found += usize::from(snapshot.is_some());
        }
        cut += 1;
    }
    assert!(cut >= 3 && found >= 3, "{cut} {found}");
}
