//! Groups that continue a registry that was copied from another group.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use argosy_raft::{
    LockedDirectory, LogPosition, OpenError, RegistryRecords, SavedSnapshotHeader, StartError,
};

use crate::host::{HostPlan, NodeHost, PendingNodeStart, addresses, equal, form, leader};

const LAST: LogPosition = LogPosition { index: 70, term: 9 };

/// Returns the records of an owner that has applied these commands.
fn records(commands: &[&str]) -> RegistryRecords {
    let count = ("count".to_owned(), (commands.len() as u64).to_be_bytes());
    let puts = commands
        .iter()
        .map(|command| ((*command).to_owned(), 5_u64.to_be_bytes()));
    let mut records: RegistryRecords = puts
        .chain([count])
        .map(|(key, value)| (key.into_bytes(), value.to_vec()))
        .collect();
    records.sort();
    records
}

fn restore(directory: &Path, commands: &[&str]) -> Result<(), OpenError> {
    LockedDirectory::open(directory)?.restore(&records(commands), LAST)
}

fn on_disk(plan: HostPlan, directory: &Path) -> HostPlan {
    HostPlan {
        directory: Some(directory.to_owned()),
        ..plan
    }
}

async fn start(plan: HostPlan) -> Result<NodeHost, StartError> {
    PendingNodeStart::begin(plan).finish().await
}

async fn stop(host: NodeHost) -> HostPlan {
    host.node.stop().await;
    host.kill()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_registry_continues_as_a_group_of_one_that_empty_masters_join() {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().join("first");
    restore(&directory, &["one", "two"]).unwrap();
    let addresses = addresses(2);
    // The empty master is there first: it must not take the other one for another empty master.
    let second = PendingNodeStart::begin(HostPlan::new(addresses[1], &addresses));
    let plan = on_disk(HostPlan::new(addresses[0], &addresses), &directory);
    let first = start(plan).await.unwrap();
    let restored = first.until_registry("the load", |registry| registry.loads == 1);
    let restored = restored.await;
    assert!(restored.has("one") && restored.index >= LAST.index);
    assert_eq!(restored.count(), 2);
    first.until("leadership", |status| status.is_leader).await;
    assert!(first.status().term > LAST.term);
    first.commit("three").await;
    let second = second.finish().await.unwrap();
    let hosts = [first, second];
    assert_eq!(equal(&hosts).await.count(), 3);
    assert_eq!(hosts[0].node.cluster_key(), hosts[1].node.cluster_key());
    // The directory is now one like any other.
    let [first, second] = hosts;
    drop(second.kill());
    let plan = stop(first).await;
    let again = start(plan).await.unwrap();
    let loaded = again.until_registry("what was committed", |registry| registry.has("three"));
    assert_eq!(loaded.await.count(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_registry_does_not_start_beside_its_former_cluster() {
    let place = tempfile::tempdir().unwrap();
    let addresses = addresses(2);
    let plan = HostPlan {
        bootstrap: true,
        ..HostPlan::new(addresses[0], &[])
    };
    let former = form(vec![plan]).await.remove(0);
    leader(std::slice::from_ref(&former)).await;
    restore(place.path(), &["one"]).unwrap();
    let plan = on_disk(HostPlan::new(addresses[1], &addresses), place.path());
    let refused = start(plan.clone()).await.map(|_| ());
    let Err(StartError::RestoredBeside { peer }) = refused else {
        panic!("not refused: {refused:?}")
    };
    assert_eq!(peer, addresses[0].to_string());
    drop(former.kill());
    // A listed master that is gone prevents nothing.
    let first = loop {
        match start(plan.clone()).await {
            Ok(first) => break first,
            Err(StartError::RestoredBeside { .. }) => {
                tokio::time::sleep(Duration::from_millis(5)).await
            }
            Err(error) => panic!("{error}"),
        }
    };
    first.commit_when_leading("two").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_registry_continues_although_a_lost_master_is_silent() {
    let place = tempfile::tempdir().unwrap();
    restore(place.path(), &["one"]).unwrap();
    // It accepts connections, and answers nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent_address = silent.local_addr().unwrap();
    let own = addresses(1)[0];
    let plan = on_disk(HostPlan::new(own, &[own, silent_address]), place.path());
    start(plan).await.unwrap().commit_when_leading("two").await;
}

#[test]
fn only_an_empty_directory_is_restored_into_and_others_are_not_changed() {
    let place = tempfile::tempdir().unwrap();
    let foreign = place.path().join("foreign");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("letters.txt"), "dear").unwrap();
    let refused = restore(&foreign, &["one"]).unwrap_err();
    assert!(matches!(refused, OpenError::NotMaster { .. }), "{refused}");
    assert_eq!(fs::read_dir(&foreign).unwrap().count(), 1);
    let used = place.path().join("used");
    restore(&used, &["one"]).unwrap();
    let refused = restore(&used, &["two"]).unwrap_err();
    assert!(matches!(refused, OpenError::NotEmpty { .. }), "{refused}");
    assert!(
        refused.to_string().contains("nothing was changed"),
        "{refused}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_restore_is_not_started_on_and_a_repeat_replaces_it() {
    let place = tempfile::tempdir().unwrap();
    restore(place.path(), &["one"]).unwrap();
    // The state before the last step of a restore.
    let marker = "an `argosy snapshot restore` into it was interrupted: run the same command again, or remove everything in this directory";
    argosy_raft::forbid_start(place.path(), marker).unwrap();
    let address = addresses(1);
    let plan = on_disk(HostPlan::new(address[0], &address), place.path());
    let refused = start(plan.clone())
        .await
        .map(|_| ())
        .unwrap_err()
        .to_string();
    assert!(refused.contains("argosy snapshot restore"), "{refused}");
    restore(place.path(), &["two", "three"]).unwrap();
    let host = start(plan).await.unwrap();
    let registry = host.until_registry("the load", |registry| registry.loads == 1);
    let registry = registry.await;
    assert!(registry.has("three") && !registry.has("one"));
    // The states before the marker has its name, and of a master that ended at its first start.
    for unfinished in ["MUST-REJOIN.unfinished", "FORMAT.unfinished"] {
        let place = tempfile::tempdir().unwrap();
        let left = place.path().join(unfinished);
        fs::write(&left, "an `argosy").unwrap();
        restore(place.path(), &["one"]).unwrap();
        assert!(!left.exists(), "{unfinished}");
    }
}

/// Makes a stopped master with these commands.
async fn stopped(directory: &Path, commands: &[&str]) -> HostPlan {
    let address = addresses(1);
    let plan = HostPlan {
        bootstrap: true,
        ..on_disk(HostPlan::new(address[0], &address), directory)
    };
    let host = start(plan).await.unwrap();
    for command in commands {
        host.commit_when_leading(command).await;
    }
    stop(host).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_data_of_a_stopped_master_is_read_and_replaced_by_recovered_data() {
    let place = tempfile::tempdir().unwrap();
    let plan = stopped(place.path(), &["one", "two"]).await;
    let former_id = {
        let directory = LockedDirectory::open(place.path()).unwrap();
        let read = directory.read().await.unwrap();
        let entries = read.entries.iter().flat_map(|entry| &entry.commands);
        let keys = read.records.iter().map(|(key, _)| &key[..]);
        let mut seen: Vec<&[u8]> = keys.chain(entries.map(|command| &command[..])).collect();
        seen.sort();
        assert!(seen.contains(&&b"one"[..]) && seen.contains(&&b"two"[..]));
        read.applied
    };
    let header = SavedSnapshotHeader {
        index: former_id.index + 10,
        term: former_id.term,
        ..SavedSnapshotHeader::default()
    };
    let directory = LockedDirectory::open(place.path()).unwrap();
    let kept = directory.former_data();
    directory
        .begin_recovery(header, &records(&["one", "new"]))
        .unwrap();
    // Interrupted here: no master starts.
    drop(directory);
    let refused = start(plan.clone())
        .await
        .map(|_| ())
        .unwrap_err()
        .to_string();
    assert!(refused.contains("argosy master recover"), "{refused}");
    for _ in 0..2 {
        let directory = LockedDirectory::open(place.path()).unwrap();
        assert!(directory.is_recovering().unwrap());
        // The first attempt is interrupted after the former data was moved.
        let blocker = place.path().join("FORMAT");
        if !kept.exists() {
            fs::remove_file(&blocker).unwrap();
            fs::create_dir(&blocker).unwrap();
            assert!(directory.finish_recovery().is_err());
            fs::remove_dir(&blocker).unwrap();
            continue;
        }
        directory.finish_recovery().unwrap();
    }
    assert!(kept.join("store").is_dir());
    let host = start(plan).await.unwrap();
    let registry = host.until_registry("the load", |registry| registry.loads == 1);
    let registry = registry.await;
    assert!(registry.has("new") && !registry.has("two"));
    host.commit_when_leading("after").await;
    let plan = stop(host).await;
    let directory = LockedDirectory::open(&plan.directory.unwrap()).unwrap();
    let again = directory.begin_recovery(SavedSnapshotHeader::default(), &[]);
    let again = again.unwrap_err().to_string();
    assert!(again.contains("before-recovery"), "{again}");
}

/// A service manager restarts the master while an operator confirms its recovery.
#[tokio::test(flavor = "multi_thread")]
async fn no_master_starts_between_the_reading_of_its_data_and_its_recovery() {
    let place = tempfile::tempdir().unwrap();
    let plan = stopped(place.path(), &["one"]).await;
    let directory = LockedDirectory::open(place.path()).unwrap();
    let read = directory.read().await.unwrap();
    match start(plan.clone()).await.map(|_| ()) {
        Err(StartError::Open(OpenError::Locked { .. })) => {}
        started => panic!("not refused: {started:?}"),
    }
    let header = SavedSnapshotHeader {
        index: read.applied.index + 10,
        term: read.applied.term,
        ..SavedSnapshotHeader::default()
    };
    directory.begin_recovery(header, &read.records).unwrap();
    directory.finish_recovery().unwrap();
    let host = start(plan).await.unwrap();
    host.commit_when_leading("two").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_registry_of_a_running_master_is_read_as_of_one_moment() {
    let place = tempfile::tempdir().unwrap();
    let address = addresses(2);
    for directory in [Some(place.path().to_owned()), None] {
        let plan = HostPlan {
            bootstrap: true,
            directory: directory.clone(),
            ..HostPlan::new(address[usize::from(directory.is_none())], &[])
        };
        let host = start(plan).await.unwrap();
        host.commit_when_leading("one").await;
        assert_eq!(host.node.is_in_memory(), directory.is_none());
        let least = host.registry().index;
        let seen = Arc::new(Mutex::new((0, Vec::new())));
        let out = Arc::clone(&seen);
        let node = host.node.clone();
        let read = host.runtime().spawn(async move {
            let read = node.read_registry(least, move |view| {
                assert!(view.get(b"one")?.is_some());
                let mut seen = out.lock().unwrap();
                seen.0 = view.index();
                view.visit(|key, _| {
                    seen.1.push(key.to_vec());
                    Ok(())
                })
            });
            read.await
        });
        read.await.unwrap().unwrap();
        let (index, keys) = seen.lock().unwrap().clone();
        assert!(index >= least);
        assert_eq!(keys, [b"count".to_vec(), b"one".to_vec()]);
        host.node.stop().await;
        let read = host.node.read_registry(0, |_| Ok(())).await;
        assert!(read.is_err(), "the node has stopped");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_master_has_unlocked_its_directory_even_if_it_was_being_read() {
    let place = tempfile::tempdir().unwrap();
    let address = addresses(1);
    let plan = HostPlan {
        bootstrap: true,
        ..on_disk(HostPlan::new(address[0], &address), place.path())
    };
    let host = start(plan).await.unwrap();
    host.commit_when_leading("one").await;
    let (begun, has_begun) = tokio::sync::oneshot::channel();
    let node = host.node.clone();
    let read = host.runtime().spawn(async move {
        let read = node.read_registry(0, move |_| {
            begun.send(()).unwrap();
            // Long enough that a stop which does not wait for it ends first.
            std::thread::sleep(Duration::from_millis(500));
            Ok(())
        });
        read.await
    });
    has_begun.await.unwrap();
    host.node.stop().await;
    LockedDirectory::open(place.path()).unwrap();
    read.await.unwrap().unwrap();
}
