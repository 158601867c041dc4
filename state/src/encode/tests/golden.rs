//! Tests that the stored bytes of each version do not change, and that decoding never panics.
//!
//! `tests/golden/format-N.txt` holds one line for each sample: name, key if it is a record, bytes.
#![allow(
    clippy::disallowed_methods,
    reason = "a test reads its switches from the environment"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::samples;
use crate::Registry;
use crate::actor::Actor;
use crate::command::{Command, ProposedCommand};
use crate::encode::{DecodeError, key, read_command, record};
use crate::level::Level;

const NEWEST: u32 = Level::NEWEST.0;

fn command(proposed: &ProposedCommand) -> Vec<u8> {
    crate::encode::command(proposed, Level::NEWEST)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .chars()
        .map(|digit| u8::try_from(digit.to_digit(16).unwrap()).unwrap())
        .collect();
    digits
        .chunks(2)
        .map(|pair| pair[0] * 16 + pair[1])
        .collect()
}

fn golden_path() -> String {
    format!(
        "{}/tests/golden/format-{NEWEST}.txt",
        env!("CARGO_MANIFEST_DIR")
    )
}

fn stored() -> Vec<(Vec<u8>, Vec<u8>)> {
    let registry = samples::registry();
    samples::names::records()
        .iter()
        .map(|name| (key(name), record(&registry, name).unwrap()))
        .collect()
}

#[test]
fn stored_bytes_do_not_change() {
    let mut text = String::new();
    for (name, proposed) in samples::commands() {
        writeln!(text, "command {name} {}", hex(&command(&proposed))).unwrap();
    }
    for (key, value) in stored() {
        writeln!(text, "record {} {}", hex(&key), hex(&value)).unwrap();
    }
    if std::env::var_os("ARGOSY_BLESS").is_some() {
        std::fs::write(golden_path(), &text).unwrap();
    }
    let golden = std::fs::read_to_string(golden_path()).unwrap();
    for (wanted, found) in golden.lines().zip(text.lines()) {
        assert_eq!(wanted, found);
    }
    assert_eq!(golden, text);
}

#[test]
fn golden_bytes_decode_to_the_original_values() {
    let golden = std::fs::read_to_string(golden_path()).unwrap();
    let mut commands = samples::commands().into_iter();
    let mut records = Vec::new();
    for line in golden.lines() {
        let words: Vec<_> = line.split(' ').collect();
        match words[0] {
            "command" => {
                let (name, proposed) = commands.next().unwrap();
                assert_eq!(name, words[1]);
                assert_eq!(read_command(&unhex(words[2])), Ok(proposed), "{name}");
            }
            "record" => records.push((unhex(words[1]), unhex(words[2]))),
            other => panic!("{other:?} is no kind of sample"),
        }
    }
    assert_eq!(commands.next(), None);
    let wanted = samples::registry();
    let loaded = Registry::load(wanted.applied, records).unwrap();
    assert_eq!(loaded.time, wanted.time);
    assert_eq!(loaded.cluster, wanted.cluster);
    assert_eq!(loaded.weights, wanted.weights);
    assert_eq!(loaded.secrets, wanted.secrets);
    assert_eq!(loaded.agents, wanted.agents);
    assert_eq!(loaded.frameworks, wanted.frameworks);
    assert_eq!(loaded.tasks, wanted.tasks);
    assert_eq!(loaded.transitions, wanted.transitions);
    assert_eq!(loaded.answers, wanted.answers);
    assert_eq!(loaded.operator_answers, wanted.operator_answers);
    assert_eq!(loaded.finished_tasks, wanted.finished_tasks);
    assert_eq!(loaded.finished_frameworks, wanted.finished_frameworks);
    assert_eq!(loaded.access, wanted.access);
}

#[test]
fn encoded_bytes_have_no_spare_capacity() {
    for (name, proposed) in samples::commands() {
        let bytes = command(&proposed);
        assert_eq!(bytes.capacity(), bytes.len(), "{name}");
    }
    for (key, value) in stored() {
        assert_eq!(value.capacity(), value.len(), "{key:?}");
    }
}

/// Returns the number of a command's kind. A new kind must be given a sample.
fn kind(command: &Command) -> u32 {
    match command {
        Command::OpenEpoch(_) => 0,
        Command::RegisterAgent(_) => 1,
        Command::AgentUnreachable(_) => 2,
        Command::ReconcileAgent(_) => 3,
        Command::UpdateTasks(_) => 4,
        Command::Subscribe(_) => 5,
        Command::DisconnectFramework(_) => 6,
        Command::ExpireFramework(_) => 7,
        Command::Call(_) => 8,
        Command::Acknowledge(_) => 9,
        Command::RaiseLowWater(_) => 10,
        Command::Operate(_) => 11,
        Command::Sweep(_) => 12,
        Command::Tick => 13,
        Command::PruneAgent(_) => 14,
        Command::MassLoss => 16,
        Command::CompareDigest(_) => 15,
        Command::TasksStopped(_) => 17,
        Command::RaiseLevel { .. } => 18,
    }
}

#[test]
fn every_kind_of_command_and_record_has_golden_bytes() {
    let commands: BTreeSet<u32> = samples::commands()
        .iter()
        .map(|(_, proposed)| kind(&proposed.command))
        .collect();
    assert_eq!(commands, (0..=18).collect());
    let records: BTreeSet<u8> = stored().iter().map(|(key, _)| key[0]).collect();
    let whole = [3, 6];
    assert_eq!(
        records,
        (1..=25)
            .filter(|kind| !whole.contains(kind))
            .chain(30..=34)
            .chain([40])
            .collect()
    );
}

#[test]
fn bytes_of_a_newer_release_are_rejected_with_a_message() {
    // Field 1 is the format in every format.
    let error = read_command(&[8, 9, 0xfa, 0x07, 1, 0]).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("written in format 9; this release reads up to {NEWEST}: install a newer one")
    );
    let mut registry = samples::registry();
    registry.cluster.level = Level(NEWEST + 1);
    let name = crate::registry::RecordKey::Cluster;
    let records = [(key(&name), record(&registry, &name).unwrap())];
    let error = Registry::load(1, records).unwrap_err();
    let found = NEWEST + 1;
    assert_eq!(error, DecodeError::NewerFormat { found });
}

#[test]
fn bytes_of_an_earlier_release_round_trip() {
    (1..NEWEST).for_each(earlier_bytes_are_read);
}

fn earlier_bytes_are_read(format: u32) {
    let directory = env!("CARGO_MANIFEST_DIR");
    let path = format!("{directory}/tests/golden/format-{format}.txt");
    let golden = std::fs::read_to_string(path).unwrap();
    let commands: BTreeMap<_, _> = samples::commands().into_iter().collect();
    let mut records = Vec::new();
    for line in golden.lines() {
        let words: Vec<_> = line.split(' ').collect();
        match words[0] {
            "command" => {
                let read = read_command(&unhex(words[2]));
                assert_eq!(read.as_ref(), Ok(&commands[words[1]]), "{}", words[1]);
            }
            "record" => records.push((unhex(words[1]), unhex(words[2]))),
            other => panic!("{other:?} is no kind of sample"),
        }
    }
    let loaded = Registry::load(1, records.clone()).unwrap();
    // The samples of the first two formats are of a cluster at level 1.
    let is_whole = Level(format) < Level::RELEASE_0_2;
    let (level, names) = match is_whole {
        true => (Level::FIRST, samples::names::whole_records()),
        false => (Level(format), samples::names::records()),
    };
    assert_eq!(loaded.level(), level);
    for name in names {
        let stored = records.iter().find(|(stored, _)| *stored == key(&name));
        let written = record(&loaded, &name);
        assert_eq!(stored.map(|(_, value)| value), written.as_ref(), "{name:?}");
    }
}

/// Release 0.1.0 does not know actors.
#[test]
fn below_level_3_no_actor_is_stored() {
    let samples = samples::commands();
    let unnamed = |proposed: &ProposedCommand| ProposedCommand {
        actor: Actor::default(),
        ..proposed.clone()
    };
    let mut named = 0;
    for (name, proposed) in &samples {
        let plain = unnamed(proposed);
        let stored = crate::encode::command(proposed, Level::RELEASE_0_1);
        assert_eq!(
            stored,
            crate::encode::command(&plain, Level::RELEASE_0_1),
            "{name}"
        );
        let actor = read_command(&stored).map(|read| read.actor);
        assert_eq!(actor, Ok(Actor::default()), "{name}");
        if plain != *proposed {
            named += 1;
            assert_ne!(command(proposed), command(&plain), "{name}");
            assert_eq!(read_command(&command(proposed)).as_ref(), Ok(proposed));
        }
    }
    assert_eq!(named, 5);
}

#[test]
fn a_command_with_an_invalid_actor_is_rejected() {
    // Level 3, a tick, and a principal of kind 9, of no kind, and with a name that contains a
    // space.
    let tick = [8, 3, 0x8a, 0x01, 0];
    for principal in [
        &b"\x08\x09\x12\x01a"[..],
        b"\x12\x01a",
        b"\x08\x04\x12\x03a b",
    ] {
        let mut bytes = tick.to_vec();
        bytes.extend([0xaa, 0x06, u8::try_from(principal.len()).unwrap()]);
        bytes.extend(principal);
        let error = read_command(&bytes).unwrap_err().to_string();
        assert!(error.contains("of principal"), "{error}");
    }
}

#[test]
fn a_registry_keeps_the_highest_level_of_its_leaders() {
    let mut world = crate::testing::World::empty();
    assert_eq!(world.registry.level(), Level::FIRST);
    let newest = Level::NEWEST;
    for (level, expected) in [
        (Level(0), Level::FIRST),
        (newest, newest),
        (Level(0), newest),
    ] {
        world.apply(Command::OpenEpoch(crate::command::OpenEpoch {
            node: crate::ids::NodeId(1),
            process: 1,
            term: 1,
            entropy: [7; 32],
            wall_ms: 0,
            level,
        }));
        assert_eq!(world.registry.level(), expected);
        assert_eq!(world.reloaded().level(), expected);
    }
}

#[test]
fn a_command_that_only_a_newer_release_knows_is_an_error() {
    // Format 1, followed by a field 90 that holds a message.
    let error = read_command(&[8, 1, 0xd2, 0x05, 0]).unwrap_err();
    assert_eq!(error.to_string(), "the command has no valid kind");
}

#[test]
fn records_with_dangling_references_are_rejected() {
    for left_out in [5, 18, 21, 22, 23] {
        let records = stored().into_iter().filter(|(key, _)| key[0] != left_out);
        assert!(
            Registry::load(1, records).is_err(),
            "without kind {left_out}"
        );
    }
    let (key, _) = stored().remove(3);
    let (_, value) = stored().remove(4);
    assert!(Registry::load(1, [(key, value)]).is_err());
}

/// A generator with a seed, so that a failing case can be replayed.
fn next(seed: &mut u64) -> usize {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*seed ^ (*seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    usize::try_from(mixed >> 33).unwrap()
}

/// Changes, cuts, duplicates or inserts a few bytes.
fn damage(bytes: &mut Vec<u8>, seed: &mut u64) {
    for _ in 0..=next(seed) % 3 {
        let at = next(seed) % (bytes.len() + 1);
        let byte = u8::try_from(next(seed) % 256).unwrap();
        match next(seed) % 4 {
            0 if at < bytes.len() => bytes[at] = byte,
            1 => bytes.truncate(at),
            2 => bytes.insert(at, byte),
            _ => {
                let part: Vec<u8> = bytes[at..].to_vec();
                bytes.extend(part);
            }
        }
    }
}

#[test]
fn damaged_commands_are_rejected_or_round_trip() {
    let mut seed = 1;
    let commands = samples::commands();
    let mut read = 0;
    for round in 0..40_000 {
        let (name, proposed) = &commands[round % commands.len()];
        let mut bytes = command(proposed);
        damage(&mut bytes, &mut seed);
        if let Ok(proposed) = read_command(&bytes) {
            let again = read_command(&command(&proposed));
            assert_eq!(again, Ok(proposed), "{name} in round {round}");
            read += 1;
        }
    }
    assert!(read > 1_000, "most damage hits a field that is still valid");
}

#[test]
fn damaged_records_are_refused_or_loaded_without_a_panic() {
    let mut seed = 2;
    let mut loaded = 0;
    for round in 0..20_000 {
        let mut records = stored();
        let at = round % records.len();
        let (key, value) = &mut records[at];
        if next(&mut seed).is_multiple_of(8) {
            damage(key, &mut seed);
        } else {
            damage(value, &mut seed);
        }
        if let Ok(registry) = Registry::load(1, records) {
            // The invariants report what is wrong with the registry, also without a panic.
            drop(registry.check());
            loaded += 1;
        }
    }
    assert!(loaded > 100);
}
