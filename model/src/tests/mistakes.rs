//! Each law can fail: a mistake that is planted violates it, and without the mistake there is no
//! violation up to that depth.

use super::laws::{
    ACKNOWLEDGED, COMES_TO_REST, ENDED, ENDS_ONCE, OFFER_ONCE, ORDERED, SINGLE_START, STALE_EPOCH,
    UNITS_ONCE,
};
use super::{ONE_TASK, explore, trace};
use crate::{Bounds, Mistake};

fn assert_found(mistake: Mistake, law: &str, bounds: Bounds) {
    let planted = Bounds { mistake: Some(mistake), ..bounds };
    let explored = explore(planted, usize::MAX);
    let found = explored.violations.iter().find(|(violated, _)| *violated == law);
    let (_, path) = found.unwrap_or_else(|| panic!("{mistake:?}: not violated: {law}"));
    println!("{mistake:?} violates \"{law}\" after {} states:\n{}", explored.states, trace(path));
    let control = explore(bounds, explored.depth + 1);
    assert!(control.violations.is_empty(), "{law} is also violated without {mistake:?}");
}

/// Neither agents nor leaders compare epochs.
#[test]
fn an_epoch_that_is_not_checked() {
    let bounds = Bounds { budget: [1, 1, 2, 0, 2, 0], ..ONE_TASK };
    assert_found(Mistake::EpochNotChecked, STALE_EPOCH, bounds);
}

/// The floor is in the journal after the order.
#[test]
fn a_floor_that_is_not_journaled_with_its_order() {
    let bounds = Bounds { budget: [0, 1, 1, 1, 0, 0], ..ONE_TASK };
    assert_found(Mistake::FloorNotJournaled, SINGLE_START, bounds);
    assert_found(Mistake::FloorNotJournaled, ORDERED, bounds);
    assert_found(Mistake::FloorNotJournaled, ENDED, bounds);
}

/// A task starts before its order is on disk.
#[test]
fn an_order_that_is_not_synced_before_its_effect() {
    let bounds = Bounds { budget: [0, 1, 1, 1, 0, 0], ..ONE_TASK };
    assert_found(Mistake::OrderNotSynced, SINGLE_START, bounds);
}

/// A leader sends orders again after the comparison of a list, and the agent takes them again.
#[test]
fn a_launch_that_is_repeated() {
    let bounds = Bounds { budget: [0, 1, 1, 1, 0, 0], ..ONE_TASK };
    assert_found(Mistake::LaunchRepeated, SINGLE_START, bounds);
}

/// A leader counts orders as sent that are above the floor of an agent.
#[test]
fn an_agent_that_is_ready_with_unsent_orders() {
    let bounds = Bounds { budget: [0, 1, 1, 0, 1, 0], ..ONE_TASK };
    assert_found(Mistake::EqualWithUnsentOrder, COMES_TO_REST, bounds);
}

/// A leader compares the floor of an agent and not its tasks.
#[test]
fn a_digest_that_is_ignored() {
    let bounds = Bounds { budget: [0, 1, 1, 1, 0, 0], ..ONE_TASK };
    assert_found(Mistake::DigestIgnored, COMES_TO_REST, bounds);
}

/// A used offer stays in the book of its leader, and is in no window of used offers.
#[test]
fn a_used_offer_that_is_honoured() {
    let bounds = Bounds { tasks: 2, units: 2, budget: [0, 1, 2, 0, 0, 0], ..ONE_TASK };
    assert_found(Mistake::UsedOfferHonoured, OFFER_ONCE, bounds);
}

/// An acceptance does not check which resources are free.
#[test]
fn a_usage_that_is_not_checked() {
    let bounds = Bounds { tasks: 2, budget: [0, 2, 2, 0, 0, 0], ..ONE_TASK };
    assert_found(Mistake::UsageNotChecked, UNITS_ONCE, bounds);
}

/// A leader answers an acceptance before its entry is committed.
#[test]
fn an_answer_before_the_commit() {
    let bounds = Bounds { budget: [1, 1, 1, 0, 0, 0], ..ONE_TASK };
    assert_found(Mistake::AnswerBeforeCommit, ACKNOWLEDGED, bounds);
}

/// An agent counts an update as committed when it has sent it.
#[test]
fn an_update_that_is_settled_before_its_commit() {
    let bounds = Bounds { budget: [0, 1, 1, 0, 1, 0], ..ONE_TASK };
    assert_found(Mistake::SettledBeforeCommit, COMES_TO_REST, bounds);
}

/// An update that a lost acknowledgement repeats is committed twice.
#[test]
fn an_update_that_is_committed_twice() {
    let bounds = Bounds { budget: [0, 1, 1, 0, 1, 0], ..ONE_TASK };
    assert_found(Mistake::UpdateRepeated, ENDS_ONCE, bounds);
}

/// An agent that has been restarted does not repeat updates that are not committed.
#[test]
fn an_update_that_is_forgotten_by_a_restart() {
    let bounds = Bounds { budget: [0, 1, 1, 1, 0, 0], ..ONE_TASK };
    assert_found(Mistake::UpdateForgotten, COMES_TO_REST, bounds);
}
