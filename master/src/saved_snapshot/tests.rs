//! Saved snapshots of the registry of a small cluster.

use std::collections::BTreeMap;

use argosy_raft::{CommittedEntry, SavedSnapshotEncoder};
use argosy_state::command::{Command, Operate, OperatorOperation};
use argosy_state::encode;
use argosy_state::ids::Role;
use argosy_state::testing::World;

use super::*;

fn weight(role: &str) -> Command {
    Command::Operate(Operate {
        request: None,
        hash: 1,
        operations: vec![OperatorOperation::SetWeight {
            role: Role::new(role).unwrap(),
            weight_milli: 2_000,
        }],
        wall_ms: 5,
    })
}

/// Returns a world with the weight of a role.
fn world(role: &str) -> World {
    let mut world = World::new();
    world.apply(weight(role)).outcome.unwrap();
    world
}

fn header(registry: &Registry) -> SavedSnapshotHeader {
    SavedSnapshotHeader {
        cluster_id: registry.cluster().facts.id.to_string(),
        feature_level: registry.level().0,
        index: registry.applied(),
        term: 2,
        epoch: registry.epoch().0,
        ..SavedSnapshotHeader::default()
    }
}

fn file(header: SavedSnapshotHeader, stored: &BTreeMap<Vec<u8>, Vec<u8>>) -> Vec<u8> {
    let mut encoder = SavedSnapshotEncoder::new(Vec::new(), header).unwrap();
    for (key, value) in stored {
        encoder.record(key, value).unwrap();
    }
    encoder.finish().unwrap()
}

fn refused(bytes: &[u8]) -> String {
    SavedSnapshot::read(bytes).unwrap_err().to_string()
}

#[test]
fn a_saved_snapshot_becomes_the_registry_of_another_cluster() {
    let world = world("eng");
    let bytes = file(header(&world.registry), &world.stored);
    let (snapshot, registry) = SavedSnapshot::read(&*bytes).unwrap();
    assert_eq!(registry.digest(), world.registry.digest());
    let id = ClusterId(77);
    let restored = snapshot.restored(id, [9; 32]).unwrap();
    assert_eq!(restored.header.cluster_id, id.to_string());
    assert_eq!(restored.position().index, world.registry.applied());
    let new = Registry::load(restored.header.index, restored.records).unwrap();
    assert_eq!(new.cluster().facts.id, id);
    assert_eq!(new.cluster().facts.offer_key, [9; 32]);
    let former = world.registry.cluster().facts.id;
    assert!(new.cluster().descends_from(former));
    let weights = |registry: &Registry| {
        let weights = registry.weights();
        weights
            .map(|(role, weight)| (role.clone(), weight))
            .collect::<Vec<_>>()
    };
    assert_eq!(weights(&new), weights(&world.registry));
    assert_eq!(new.time(), world.registry.time());
}

#[test]
fn a_header_that_contradicts_the_records_is_rejected() {
    let world = world("eng");
    let good = header(&world.registry);
    let wrong = |change: fn(&mut SavedSnapshotHeader)| {
        let mut header = good.clone();
        change(&mut header);
        refused(&file(header, &world.stored))
    };
    for (text, name) in [
        (wrong(|header| header.cluster_id.push('0')), "cluster"),
        (wrong(|header| header.feature_level += 1), "feature level"),
        (wrong(|header| header.epoch += 1), "epoch"),
    ] {
        assert!(text.contains(&format!("another {name} than")), "{text}");
    }
    let mut stored = world.stored.clone();
    stored.insert(vec![200], vec![1]);
    let text = refused(&file(good, &stored));
    assert!(text.contains("are not a registry"), "{text}");
}

#[test]
fn a_stopped_master_is_saved_with_all_of_its_log() {
    let mut world = world("eng");
    let stored = world.stored.clone();
    let applied = LogPosition {
        index: world.registry.applied(),
        term: 2,
    };
    world.log = Some(Vec::new());
    for role in ["ops", "web"] {
        world.apply(weight(role)).outcome.unwrap();
    }
    let level = world.registry.level();
    let log = world.log.take().unwrap();
    let entries = (applied.index + 1..).zip(&log);
    let entries = entries.map(|(index, entry)| CommittedEntry {
        index,
        term: 3,
        at_ms: entry.at.0,
        commands: entry
            .commands
            .iter()
            .map(|command| encode::command(command, level).into())
            .collect(),
    });
    let mut entries: Vec<_> = entries.collect();
    let data = StoppedData {
        records: stored.clone().into_iter().collect(),
        applied,
        entries: entries.clone(),
    };
    let saved = SavedSnapshot::of_stopped(data).unwrap();
    assert_eq!(saved.position().index, world.registry.applied());
    assert_eq!(saved.position().term, 3);
    let registry = Registry::load(saved.header.index, saved.records).unwrap();
    assert_eq!(registry.digest(), world.registry.digest());
    // An entry that this program cannot read.
    entries[0].commands = vec![vec![0xff].into()];
    let data = StoppedData {
        records: stored.into_iter().collect(),
        applied,
        entries,
    };
    let error = SavedSnapshot::of_stopped(data).unwrap_err();
    assert!(matches!(error, UnusableSnapshot::Entry(_)), "{error}");
}
