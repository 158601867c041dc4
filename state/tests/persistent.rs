//! Tests that persistent maps behave like ordered maps, and that their copies do not change.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use argosy_state::persistent::{Map, Set, Table};
use argosy_state::task::TaskState;
use argosy_state::testing::{World, spec};
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Step {
    Insert(u16, u32),
    Remove(u16),
    Change(u16),
    OrDefault(u16),
    PopFirst,
    Copy,
    DropCopy,
}

fn step() -> impl Strategy<Value = Step> {
    let key = 0..300_u16;
    prop_oneof![
        6 => (key.clone(), any::<u32>()).prop_map(|(key, value)| Step::Insert(key, value)),
        4 => key.clone().prop_map(Step::Remove),
        3 => key.clone().prop_map(Step::Change),
        1 => key.prop_map(Step::OrDefault),
        1 => Just(Step::PopFirst),
        1 => Just(Step::Copy),
        1 => Just(Step::DropCopy),
    ]
}

type Collections = (Table<u16, u32>, Map<u16, u32>, Set<u16>);

/// The three collections at one moment, and a model of their contents.
type CollectionCopy = (Collections, BTreeMap<u16, u32>);

fn are_equal((table, map, set): &Collections, model: &BTreeMap<u16, u32>) {
    assert!(table.iter().eq(model.iter()), "{table:?}, {model:?}");
    assert!(map.iter().eq(model.iter()) && set.iter().eq(model.keys()));
    assert_eq!((table.len(), map.len(), set.len()), {
        (model.len(), model.len(), model.len())
    });
    assert_eq!(table.is_empty(), model.is_empty());
    assert!(table.values().rev().eq(model.values().rev()));
    assert_eq!(table.first_key_value(), model.first_key_value());
    assert_eq!(table.last_key_value(), model.last_key_value());
    assert_eq!(
        (set.first(), set.last()),
        (model.keys().next(), model.keys().last())
    );
    for key in [0_u16, 17, 150, 299] {
        let behind = (Bound::Excluded(key), Bound::Unbounded);
        assert!(table.range(behind).eq(model.range(behind)));
        assert!(map.range(behind).eq(model.range(behind)));
        let keys: BTreeSet<u16> = model.keys().copied().collect();
        assert!(set.range(behind).eq(keys.range(behind)));
        assert_eq!(table.get(&key), model.get(&key));
        assert_eq!(map.contains_key(&key), model.contains_key(&key));
        assert_eq!(set.contains(&key), model.contains_key(&key));
    }
}

fn apply((table, map, set): &mut Collections, model: &mut BTreeMap<u16, u32>, step: &Step) {
    match *step {
        Step::Insert(key, value) => {
            table.insert(key, value);
            assert_eq!(map.insert(key, value), model.insert(key, value));
            set.insert(key);
        }
        Step::Remove(key) => {
            let former = model.remove(&key);
            assert_eq!((table.remove(&key), map.remove(&key)), (former, former));
            set.remove(&key);
        }
        Step::Change(key) => {
            let mut found = 0;
            for value in [table.get_mut(&key), map.get_mut(&key), model.get_mut(&key)] {
                found += value.map_or(0, |value| {
                    *value = value.wrapping_add(1);
                    1
                });
            }
            assert!(found == 0 || found == 3);
        }
        Step::OrDefault(key) => {
            *table.or_default(key) |= 1;
            *map.or_default(key) |= 1;
            *model.entry(key).or_default() |= 1;
            set.insert(key);
        }
        Step::PopFirst => {
            let first = model.pop_first();
            assert_eq!(table.pop_first(), first);
            assert_eq!(set.pop_first(), first.map(|(key, _)| key));
            if let Some((key, _)) = first {
                map.remove(&key);
            }
        }
        Step::Copy | Step::DropCopy => {}
    }
}

proptest! {
    #[test]
    fn maps_match_ordered_maps_and_copies_do_not_change(
        steps in proptest::collection::vec(step(), 1..600),
    ) {
        let mut now = Collections::default();
        let mut model = BTreeMap::new();
        let mut kept: Vec<CollectionCopy> = Vec::new();
        for step in &steps {
            match step {
                Step::Copy => kept.push((now.clone(), model.clone())),
                Step::DropCopy => drop(kept.pop()),
                other => apply(&mut now, &mut model, other),
            }
        }
        are_equal(&now, &model);
        for (copy, model) in &kept {
            are_equal(copy, model);
        }
    }
}

#[test]
fn a_snapshot_is_unchanged_while_commands_are_applied() {
    let mut world = World::new();
    let agent = world.register("cpus:64;mem:65536");
    let framework = world.subscribe("load");
    let launch = |world: &mut World, names: std::ops::Range<u32>| {
        let offer = world.offer(framework, agent, "cpus:10;mem:1000");
        let specs = names.map(|at| spec(&format!("task-{at:04}"), "cpus:0.01;mem:1"));
        world.accept(framework, vec![offer], specs.collect());
    };
    launch(&mut world, 0..200);
    let snapshot = world.registry.snapshot();
    // A copy that shares nothing.
    let tasks: Vec<_> = snapshot.tasks().cloned().collect();
    let index = snapshot.agent_index(agent).cloned();
    let (applied, digest) = (snapshot.applied(), snapshot.digest());
    let keys: Vec<_> = tasks.iter().map(|task| task.key.clone()).collect();
    for key in &keys[..100] {
        world.update(key, TaskState::Finished);
    }
    launch(&mut world, 200..300);
    assert!(snapshot.tasks().eq(&tasks));
    assert_eq!(snapshot.agent_index(agent).cloned(), index);
    assert_eq!((snapshot.applied(), snapshot.digest()), (applied, digest));
    assert!(snapshot.check().is_ok());
    assert!(world.registry.applied() > applied && world.registry.tasks().len() > tasks.len());
    assert_eq!(world.registry.snapshot().digest(), world.registry.digest());
}
