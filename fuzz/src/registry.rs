//! Stored commands and records of the registry, and texts of names, resources and rules.

use std::cell::RefCell;
use std::collections::BTreeMap;

use argosy_state::access::{GroupName, KeyHash, Policy, Rule, Subject, TokenId, TokenSecret};
use argosy_state::actor::{Actor, Principal};
use argosy_state::capability::AgentCapability;
use argosy_state::command::LogEntry;
use argosy_state::encode;
use argosy_state::ids::{AgentId, ClusterId, FrameworkId, NodeId, OfferId};
use argosy_state::level::Level;
use argosy_state::registry::Registry;
use argosy_state::resources::Resources;
use argosy_state::secret::SecretName;
use argosy_state::testing::World;

use crate::input::{parts, variant};
use crate::property::{check_error, text};

/// A command of the log.
pub fn command(bytes: &[u8]) -> bool {
    let read = match encode::read_command(bytes) {
        Ok(read) => read,
        Err(error) => {
            check_error(&error, bytes.len());
            return false;
        }
    };
    let written = encode::command(&read, Level::NEWEST);
    let again = encode::read_command(&written).expect("an encoded command is decoded");
    assert_eq!(again, read);
    assert_eq!(encode::command(&again, Level::NEWEST), written);
    true
}

/// The key of a record.
pub fn record_key(bytes: &[u8]) -> bool {
    match encode::read_key(bytes) {
        Ok(name) => {
            assert_eq!(encode::key(&name), bytes, "each key has one form");
            true
        }
        Err(error) => {
            check_error(&error, bytes.len());
            false
        }
    }
}

/// The records of a registry: each two parts are a key and a value.
pub fn records(bytes: &[u8]) -> bool {
    let parts = parts(bytes);
    let pairs = parts.chunks_exact(2);
    let pairs: BTreeMap<_, _> = pairs.map(|pair| (pair[0].to_vec(), pair[1])).collect();
    let owned = pairs.iter();
    let owned = owned.map(|(key, value)| (key.clone(), value.to_vec()));
    let registry = match Registry::load(9, owned) {
        Ok(registry) => registry,
        Err(error) => {
            check_error(&error, bytes.len());
            return false;
        }
    };
    // Records that were encoded by another program may break invariants, but not the check.
    let is_valid = registry.check().is_ok();
    let encoded = |registry: &Registry| -> BTreeMap<Vec<u8>, Vec<u8>> {
        let names = pairs.keys().filter_map(|key| encode::read_key(key).ok());
        let values = names.filter_map(|name| {
            let value = encode::record(registry, &name)?;
            Some((encode::key(&name), value))
        });
        values.collect()
    };
    let canonical = encoded(&registry);
    if is_valid {
        let again = Registry::load(9, canonical.clone()).expect("encoded records are decoded");
        assert_eq!(encoded(&again), canonical);
    }
    true
}

thread_local! {
    /// A registry with a running task, which each input changes.
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

/// Commands that are applied to a registry with an agent, a framework and a task. Every invariant
/// holds afterwards, and the registry is the same when its records are loaded.
pub fn apply(bytes: &[u8]) -> bool {
    let mut world = WORLD.with(|kept| {
        let mut kept = kept.borrow_mut();
        let world = kept.get_or_insert_with(|| World::with_running_task("web"));
        world.clone()
    });
    let mut is_any = false;
    for part in parts(bytes).into_iter().take(8) {
        let Ok(mut proposed) = encode::read_command(part) else {
            continue;
        };
        is_any = true;
        proposed.ticket = world.ticket();
        let entry = LogEntry {
            at: world.now,
            commands: vec![proposed],
        };
        world.apply_entry(&entry);
        world.pass(10);
    }
    if is_any {
        assert_eq!(world.reloaded().digest(), world.registry.digest());
    }
    is_any
}

/// A text of resources.
pub fn resources(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(text::<Resources>)
}

/// A file of access rules.
pub fn access_policy(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(text::<Policy>)
}

/// A name: the first byte selects its kind.
pub fn names(bytes: &[u8]) -> bool {
    let Some((kind, rest)) = bytes.split_first() else {
        return false;
    };
    let Ok(name) = std::str::from_utf8(rest) else {
        return false;
    };
    match kind {
        b'a' => text::<AgentId>(name),
        b'b' => text::<FrameworkId>(name),
        b'c' => text::<NodeId>(name),
        b'd' => text::<OfferId>(name),
        b'e' => text::<ClusterId>(name),
        b'f' => text::<Actor>(name),
        b'g' => text::<Principal>(name),
        b'h' => text::<Subject>(name),
        b'i' => text::<Rule>(name),
        b'j' => text::<GroupName>(name),
        b'k' => text::<TokenId>(name),
        b'l' => text::<KeyHash>(name),
        b'm' => text::<SecretName>(name),
        b'n' => text::<AgentCapability>(name),
        b't' => token(name),
        _ => false,
    }
}

/// A token. Neither an error nor its debug output contains the secret part.
fn token(name: &str) -> bool {
    match name.parse::<TokenSecret>() {
        Ok(token) => {
            assert_eq!(token.to_string(), name, "each token has one form");
            assert!(format!("{token:?}").len() < name.len());
            true
        }
        Err(error) => {
            check_error(&error, 0);
            false
        }
    }
}

/// A saved snapshot: its bytes, or its header and its records, from which it is made.
pub fn saved_snapshot(bytes: &[u8]) -> bool {
    use argosy_master::SavedSnapshot;
    use argosy_raft::{SavedSnapshotEncoder, SavedSnapshotHeader};
    use prost::Message as _;

    let (kind, parts) = variant(bytes);
    let made = match (kind, parts.as_slice()) {
        (0, _) => bytes.get(1..).unwrap_or_default().to_vec(),
        (_, [header, records @ ..]) => {
            let Ok(header) = SavedSnapshotHeader::decode(*header) else {
                return false;
            };
            let mut encoder = SavedSnapshotEncoder::new(Vec::new(), header).expect("it grows");
            for pair in records.chunks_exact(2) {
                encoder.record(pair[0], pair[1]).expect("records are short");
            }
            encoder.finish().expect("a vector grows")
        }
        (_, []) => return false,
    };
    match SavedSnapshot::read(made.as_slice()) {
        Ok((snapshot, registry)) => {
            assert_eq!(registry.applied(), snapshot.header.index);
            let restored = snapshot.restored(ClusterId(7), [7; 32]);
            if let Ok(restored) = restored {
                let index = restored.header.index;
                let loaded = Registry::load(index, restored.records);
                let loaded = loaded.expect("a restored registry is loaded");
                assert_eq!(loaded.cluster().facts.id, ClusterId(7));
            }
            true
        }
        Err(error) => {
            check_error(&error, made.len());
            false
        }
    }
}
