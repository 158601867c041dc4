//! Reads of the log, and requests to the owner.

use futures::TryStreamExt;
use openraft::RaftLogReader;
use openraft::storage::RaftLogStorage;

use super::harness::{entries, entry, fixtures, id, open};
use crate::types::Entry;

#[tokio::test]
async fn a_read_across_disk_and_memory_has_no_gap() {
    for environment in fixtures() {
        let mut opened = open(&environment.location).await;
        opened.append(entries(0..6000)).await;
        for (start, end) in [
            (0, 6000),
            (1800, 2000),
            (1903, 1905),
            (5990, 7000),
            (6000, 7000),
        ] {
            let read = opened.log.try_get_log_entries(start..end).await.unwrap();
            assert_eq!(read, entries(start..end.min(6000)));
            let stream = opened.log.entries_stream(start..end).await;
            let streamed: Vec<Entry> = stream.try_collect().await.unwrap();
            assert_eq!(streamed, read);
        }
        opened.close().await;
    }
}

#[cfg(feature = "rocksdb")]
#[test]
fn read_of_a_slow_device_does_not_block_its_thread() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(1)
        .build()
        .unwrap();
    runtime.block_on(async {
        let environment = super::harness::on_disk();
        let mut opened = open(&environment.location).await;
        opened.append(entries(0..6000)).await;
        // The only blocking thread is occupied: work that needs it cannot end before it is free.
        let (free, taken) = std::sync::mpsc::channel::<()>();
        let waiter = tokio::task::spawn_blocking(move || taken.recv());
        let in_memory = opened.log.try_get_log_entries(5_990..6_000).await.unwrap();
        assert_eq!(in_memory, entries(5_990..6_000));
        let mut on_disk = Box::pin(opened.log.try_get_log_entries(0..100));
        assert!(futures::poll!(&mut on_disk).is_pending(), "it is read here");
        free.send(()).unwrap();
        assert_eq!(on_disk.await.unwrap(), entries(0..100));
        waiter.await.unwrap().unwrap();
        opened.close().await;
    });
}

#[tokio::test]
async fn a_limited_read_returns_about_a_mebibyte_and_at_least_one_entry() {
    for environment in fixtures() {
        let mut opened = open(&environment.location).await;
        let large = format!("key={}", "x".repeat(300_000));
        let huge = format!("key={}", "x".repeat(3_000_000));
        let mut all: Vec<Entry> = (0..100).map(|index| entry(index, &[&large])).collect();
        all.push(entry(100, &[&huge]));
        opened.append(all).await;
        // The first come from the disk, the last from memory.
        for start in [0, 95] {
            let read = opened
                .log
                .limited_get_log_entries(start, 101)
                .await
                .unwrap();
            assert_eq!(read.len(), 3);
            assert_eq!(read[0].log_id.index, start);
        }
        let read = opened.log.limited_get_log_entries(100, 101).await.unwrap();
        assert_eq!(read.len(), 1);
        opened.close().await;
    }
}

#[tokio::test]
async fn the_owner_gets_every_entry_once_in_bounded_batches() {
    for environment in fixtures() {
        let mut opened = open(&environment.location).await;
        let commands: Vec<String> = (0..400).map(|number| format!("{number}=1")).collect();
        let commands: Vec<&str> = commands.iter().map(String::as_str).collect();
        let large = format!("large={}", "x".repeat(700_000));
        let mut all: Vec<Entry> = (0..4).map(|index| entry(index, &commands)).collect();
        all.push(entry(4, &[&large]));
        all.push(entry(5, &[&large]));
        opened.commit(all).await;
        let seen = opened.owner.0.lock().unwrap();
        assert_eq!(seen.turns, [400, 400, 400, 400, 1, 1]);
        let indexes: Vec<u64> = seen.applied.iter().map(|entry| entry.index).collect();
        assert_eq!(indexes, [0, 1, 2, 3, 4, 5]);
        assert_eq!(seen.applied[3].at_ms, 30);
    }
}

#[tokio::test]
async fn missing_entries_are_never_skipped() {
    for environment in fixtures() {
        let mut opened = open(&environment.location).await;
        opened.commit(entries(0..10)).await;
        opened.log.purge(id(1, 4)).await.unwrap();
        let sent = opened.log.limited_get_log_entries(3, 8).await.unwrap();
        assert!(sent.is_empty(), "a follower would see a gap");
        let sent = opened.log.limited_get_log_entries(5, 8).await.unwrap();
        assert_eq!(sent, entries(5..8));
        let stream = opened.log.entries_stream(3..8).await;
        let error = stream.try_collect::<Vec<Entry>>().await.unwrap_err();
        assert_eq!(error.to_string(), "entry 3 of the log is missing");
        opened.close().await;
    }
}
