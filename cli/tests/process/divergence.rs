//! A master whose stored registry differs from that of the others: it stops, is not started again,
//! and rejoins.

use std::fs;
use std::path::Path;

use argosy_proto::v1;
use argosy_state::encode;
use argosy_state::ids::Role;
use argosy_state::registry::RecordKey;
use nix::sys::signal::Signal;
use rocksdb::{DB, DBCompressionType, Options, WriteOptions};

use crate::cluster::{Cluster, TestMember, wait_until};
use crate::rejoin::{LONG, data_directory, ends_with, id, output_text, rejoin};

const ROLE: &str = "ops";
const WEIGHT_MILLI: u64 = 2_000;

/// Column families of a store, which are all opened.
const FAMILIES: [&str; 4] = ["log", "meta", "registry", "registry_meta"];

/// Opens the store of a stopped master.
fn open(directory: &Path) -> DB {
    let mut options = Options::default();
    // As a master does, so that it finds what it knows.
    options.set_track_and_verify_wals_in_manifest(true);
    options.set_compression_type(DBCompressionType::Lz4);
    DB::open_cf(&options, directory.join("store"), FAMILIES).expect("the store opens")
}

fn key() -> Vec<u8> {
    encode::key(&RecordKey::Weight(Role::new(ROLE).unwrap()))
}

/// Returns the stored record of the weight.
fn record(directory: &Path) -> Vec<u8> {
    let store = open(directory);
    let registry = store.cf_handle("registry").expect("it was opened");
    let record = store.get_cf(registry, key()).expect("it can be read");
    record.expect("the weight is stored")
}

/// Changes that record through RocksDB itself, so all checksums of the store are valid.
fn tamper(directory: &Path) {
    let mut changed = record(directory);
    *changed.last_mut().expect("it has a value") ^= 1;
    let store = open(directory);
    let registry = store.cf_handle("registry").expect("it was opened");
    let mut synced = WriteOptions::default();
    synced.set_sync(true);
    let written = store.put_cf_opt(registry, key(), changed, &synced);
    written.expect("it is written");
}

/// Sets the weight, and returns the index of the entry.
async fn set_weight(cluster: &Cluster) -> u64 {
    let weight = v1::SetWeight {
        role: ROLE.to_owned(),
        weight_milli: WEIGHT_MILLI,
    };
    let operation = v1::write_operation::Operation::SetWeight(weight);
    let operation = v1::WriteOperation {
        operation: Some(operation),
    };
    let batch = v1::WriteBatch {
        operations: vec![operation],
        ..Default::default()
    };
    let written = cluster.operator().write(batch).await;
    let revision = written.expect("the write is acknowledged").revision;
    revision.expect("it has a revision").index
}

/// Returns the value of one of its metrics.
async fn metric(master: &TestMember, name: &str) -> Option<u64> {
    let url = format!("http://{}/metrics", master.api());
    let text = reqwest::get(&url).await.ok()?.text().await.ok()?;
    let mut lines = text.lines().filter_map(|line| line.rsplit_once(' '));
    lines.find_map(|(found, value)| (found == name).then(|| value.parse().ok())?)
}

/// Makes another running master lead, which logs its digest.
async fn change_leader(cluster: &Cluster, stopped: usize) {
    let former = cluster.leader().await;
    let next = (0..3).find(|index| ![former, stopped].contains(index));
    let next = next.expect("two run");
    let node_id = id(cluster, next).await.expect("it is a member");
    wait_until("another one leads", LONG, async || {
        let request = v1::TransferLeaderRequest {
            node_id: node_id.clone(),
        };
        // Rejected while the group makes another change.
        let _ = cluster.operator().transfer_leader(request).await;
        (cluster.leader().await == next).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_with_a_diverged_registry_stops_until_it_rejoins() {
    let mut cluster = Cluster::start(0).await;
    let index = set_weight(&cluster).await;
    let place = (cluster.leader().await + 1) % 3;
    let directory = data_directory(&cluster, place);
    wait_until("the follower has applied it", LONG, async || {
        let applied = metric(&cluster.masters[place], "argosy_raft_applied_index").await?;
        (applied >= index).then_some(())
    })
    .await;
    let master = &mut cluster.masters[place];
    master.signal(Signal::SIGTERM);
    wait_until("it stops", LONG, async || master.has_ended().then_some(())).await;
    master.kill();
    let right = record(&directory);
    change_leader(&cluster, place).await;
    tamper(&directory);
    assert_ne!(record(&directory), right);

    // It compares its digest with the one that was logged in the meantime.
    ends_with(&mut cluster, place, "differs from that of the leader").await;
    let note = fs::read_to_string(directory.join("MUST-REJOIN")).expect("the reason is noted");
    let entry = note.split("after entry ").nth(1);
    let entry = entry.and_then(|rest| rest.split(' ').next()?.parse::<u64>().ok());
    assert!(entry.is_some_and(|entry| entry >= index), "{note}");
    assert!(cluster.masters[place].log().contains(note.trim()), "{note}");
    for _ in 0..2 {
        let refused = "must not be served: the registry of this master differs";
        ends_with(&mut cluster, place, refused).await;
    }
    assert_eq!(
        fs::read_to_string(directory.join("MUST-REJOIN")).ok(),
        Some(note)
    );

    let output = rejoin(&cluster, place, &[]).await;
    assert!(output.status.success(), "{}", output_text(&output));
    assert!(!directory.join("MUST-REJOIN").exists());
    cluster.masters[place].start();
    cluster.wait_caught_up().await;
    // The next leader's digest is its own.
    let equal = "argosy_digest_comparisons_total{result=\"equal\"}";
    let before = metric(&cluster.masters[place], equal).await.unwrap_or(0);
    cluster.fail_over().await;
    let master = &mut cluster.masters[place];
    wait_until("its digest is compared", LONG, async || {
        let after = metric(master, equal).await?;
        (after > before).then_some(())
    })
    .await;
    assert!(!master.has_ended(), "{}", master.log());
    master.signal(Signal::SIGTERM);
    wait_until("it stops", LONG, async || master.has_ended().then_some(())).await;
    master.kill();
    assert_eq!(record(&directory), right);
}
