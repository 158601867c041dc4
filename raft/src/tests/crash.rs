//! The state of the store after its process was killed.

use openraft::RaftLogReader;
use openraft::storage::{RaftLogStorage, RaftStateMachine};

use super::harness::{entries, entry, fixtures, id, kill, open, start, vote};

#[tokio::test]
async fn vote_and_log_survive_a_kill() {
    for environment in fixtures() {
        let mut opened = open(&environment.location).await;
        let incarnation = opened.store.identity().incarnation;
        opened.store.save_identity(7, 99).await.unwrap();
        opened.log.save_vote(&vote(3, 2)).await.unwrap();
        opened.append(entries(0..20)).await;

        let environment = kill(opened, environment).await;
        let mut opened = open(&environment.location).await;
        assert_eq!(opened.log.read_vote().await.unwrap(), Some(vote(3, 2)));
        let read = opened.log.try_get_log_entries(..).await.unwrap();
        assert_eq!(read, entries(0..20));
        let identity = opened.store.identity();
        assert_eq!(identity.incarnation, incarnation);
        assert_eq!(
            (identity.node_id, identity.cluster_key),
            (Some(7), Some(99))
        );
        opened.close().await;
    }
}

#[tokio::test]
async fn new_store_has_no_identity() {
    for (one, other) in fixtures().into_iter().zip(fixtures()) {
        let one = open(&one.location).await;
        let other = open(&other.location).await;
        let incarnations = (one.store.identity(), other.store.identity());
        assert_ne!(incarnations.0.incarnation, incarnations.1.incarnation);
    }
}

#[tokio::test]
async fn a_restart_applies_only_committed_entries() {
    for environment in fixtures() {
        let mut opened = open(&environment.location).await;
        opened.append(entries(0..5)).await;
        opened.log.save_committed(Some(id(1, 4))).await.unwrap();
        // Saves the committed id, and is itself not committed.
        opened.append(entries(5..9)).await;
        opened.apply(entries(0..3)).await;

        let environment = kill(opened, environment).await;
        let mut opened = open(&environment.location).await;
        assert_eq!(start(&mut opened).await, Some(8));
        let keys: Vec<String> = opened
            .owner
            .records()
            .into_iter()
            .map(|(key, _)| key)
            .collect();
        assert_eq!(keys, ["00000", "00001", "00002", "00003", "00004"]);
        let (applied, _) = opened.machine.applied_state().await.unwrap();
        assert_eq!(applied, Some(id(1, 4)));
        let loaded = opened.owner.0.lock().unwrap().loads.clone();
        let applied: Vec<u64> = {
            let seen = opened.owner.0.lock().unwrap();
            seen.applied.iter().map(|entry| entry.index).collect()
        };
        // The owner saw every entry once: as a loaded record, or applied.
        let first = applied.first().copied().unwrap();
        assert_eq!(applied, (first..5).collect::<Vec<_>>());
        assert_eq!(loaded, [first.saturating_sub(1)]);
        opened.close().await;
    }
}

#[tokio::test]
async fn a_committed_index_waits_for_the_next_append() {
    for environment in fixtures() {
        let mut opened = open(&environment.location).await;
        opened.append(entries(0..2)).await;
        opened.log.save_committed(Some(id(1, 1))).await.unwrap();
        let environment = kill(opened, environment).await;
        let mut opened = open(&environment.location).await;
        assert_eq!(opened.log.read_committed().await.unwrap(), None);
        opened.log.save_committed(Some(id(1, 1))).await.unwrap();
        opened.append(entries(2..3)).await;
        let environment = kill(opened, environment).await;
        let mut opened = open(&environment.location).await;
        assert_eq!(opened.log.read_committed().await.unwrap(), Some(id(1, 1)));
        opened.close().await;
    }
}

#[tokio::test]
async fn truncated_entries_stay_deleted_and_the_hash_chain_continues() {
    for environment in fixtures() {
        let mut opened = open(&environment.location).await;
        opened.append(entries(0..10)).await;
        opened.log.truncate_after(Some(id(1, 5))).await.unwrap();
        let other = entry(6, &["other=1"]);
        opened.append(vec![other.clone()]).await;

        let environment = kill(opened, environment).await;
        let mut opened = open(&environment.location).await;
        let mut expected = entries(0..6);
        expected.push(other);
        assert_eq!(opened.log.try_get_log_entries(..).await.unwrap(), expected);
        opened.log.truncate_after(None).await.unwrap();
        opened.append(entries(0..2)).await;
        let environment = kill(opened, environment).await;
        let mut opened = open(&environment.location).await;
        let read = opened.log.try_get_log_entries(..).await.unwrap();
        assert_eq!(read, entries(0..2));
        opened.close().await;
    }
}

#[tokio::test]
async fn purged_entries_stay_deleted_and_the_hash_chain_continues() {
    for environment in fixtures() {
        let mut opened = open(&environment.location).await;
        opened.commit(entries(0..10)).await;
        opened.log.purge(id(1, 6)).await.unwrap();
        opened.append(entries(10..12)).await;

        let environment = kill(opened, environment).await;
        let mut opened = open(&environment.location).await;
        let state = opened.log.get_log_state().await.unwrap();
        assert_eq!(state.last_purged_log_id, Some(id(1, 6)));
        assert_eq!(state.last_log_id, Some(id(1, 11)));
        let read = opened.log.try_get_log_entries(..).await.unwrap();
        assert_eq!(read, entries(7..12));
        // A late, repeated purge changes nothing.
        opened.log.purge(id(1, 3)).await.unwrap();
        opened.log.truncate_after(Some(id(1, 6))).await.unwrap();
        opened.append(entries(7..8)).await;
        // A purge beyond the end: a snapshot covers entries that were never logged here.
        opened.log.purge(id(1, 20)).await.unwrap();
        opened.append(entries(21..23)).await;

        let environment = kill(opened, environment).await;
        let mut opened = open(&environment.location).await;
        let state = opened.log.get_log_state().await.unwrap();
        assert_eq!(state.last_purged_log_id, Some(id(1, 20)));
        let read = opened.log.try_get_log_entries(..).await.unwrap();
        assert_eq!(read, entries(21..23));
        opened.close().await;
    }
}

#[tokio::test]
async fn deleted_records_stay_deleted() {
    for environment in fixtures() {
        let mut opened = open(&environment.location).await;
        opened.commit(entries(0..3)).await;
        opened
            .commit(vec![entry(3, &["00001=", "00002=new"])])
            .await;
        let expected = opened.owner.records();
        opened.store.unwritten().flush().await.unwrap();
        // Synced, so that memory keeps the applied records.
        opened.append(entries(4..5)).await;
        let environment = kill(opened, environment).await;
        let opened = open(&environment.location).await;
        assert_eq!(opened.owner.records(), expected);
        assert_eq!(expected.len(), 2);
        opened.close().await;
    }
}
