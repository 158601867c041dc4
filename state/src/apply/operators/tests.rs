//! Tests of the space for remembered answers to several principals.
//!
//! The counters are set, as if there were answers: real ones would take minutes.

use super::*;
use crate::testing::World;

/// Counts answers to a principal until it has no more space. Returns their bytes.
fn fill(registry: &mut Registry, principal: &str, operations: usize) -> u64 {
    let bytes = usage::most_of_answer(operations);
    let mut all = 0;
    while registry.has_room_for_answer(principal, operations) {
        let own = registry
            .index
            .answers_by_principal
            .or_default(principal.to_owned());
        own.records += 1;
        own.bytes += bytes;
        registry.index.bytes.operator_answers += bytes;
        all += bytes;
    }
    all
}

#[test]
fn one_principal_leaves_space_for_answers_to_others() {
    let mut registry = World::new().registry;
    let bound = limits::OPERATOR_ANSWER_BYTES;
    let alice = fill(&mut registry, "alice", limits::OPERATIONS_PER_BATCH);
    assert!(alice > bound / 10 * 7 && alice <= bound / 5 * 4, "{alice}");
    // There may still be space for a short answer.
    fill(&mut registry, "alice", 0);
    assert!(!registry.has_room_for_answer("alice", 0));
    let bob = fill(&mut registry, "bob", 1);
    assert!(bob > bound / 10, "{bob}");
    assert!(registry.has_room_for_answer("carol", 1));
}

#[test]
fn the_number_of_answers_to_one_principal_is_bounded() {
    let mut registry = World::new().registry;
    let share = limits::OPERATOR_ANSWERS / 5 * 4;
    let own = registry
        .index
        .answers_by_principal
        .or_default("alice".to_owned());
    own.records = share - 1;
    let answer = OperatorAnswer {
        hash: 1,
        at: Timestamp(0),
        revision: Revision::default(),
        outcomes: Vec::new(),
    };
    for at in 1..share {
        let name = ("others".to_owned(), at.to_string());
        registry.operator_answers.insert(name, answer.clone());
    }
    assert!(registry.has_room_for_answer("alice", 0));
    let name = ("others".to_owned(), "last".to_owned());
    registry.operator_answers.insert(name, answer);
    assert!(!registry.has_room_for_answer("alice", 0));
    assert!(registry.has_room_for_answer("bob", 0));
}
