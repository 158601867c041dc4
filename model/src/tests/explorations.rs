//! Explorations of all reachable states of small systems.

use super::laws::{ENDS_UNSTARTED, FINISHED, OFFER_KEPT, VOIDED};
use super::{ONE_TASK, explore, trace};
use crate::Bounds;

/// No depth is reached after this one.
const ANY_DEPTH: usize = 1_000;

/// Explores a system without a mistake, and prints how much that was. Fails at a violation, if a
/// situation is not reached, and if there were fewer states than expected.
fn check(name: &str, bounds: Bounds, depth: usize, least: usize, situations: &[&str]) {
    let explored = explore(bounds, depth);
    let (states, depth) = (explored.states, explored.depth);
    let [elections, offers, calls, crashes, losses, timeouts] = bounds.budget;
    println!(
        "{name}: {states} states, depth {depth}: {} tasks, {elections} elections, {offers} offers, \
         {calls} calls, {crashes} crashes, {losses} losses, {timeouts} timeouts",
        bounds.tasks
    );
    let violations = explored.violations.iter();
    let violations: Vec<_> =
        violations.map(|(law, path)| format!("violated: {law}\n{}", trace(path))).collect();
    assert!(violations.is_empty(), "{name}:\n{}", violations.join("\n"));
    for situation in situations {
        assert!(explored.situations.contains(situation), "{name}: not reached: {situation}");
    }
    assert!(states >= least, "{name}: {states} states, fewer than {least}");
}

#[test]
fn a_replaced_leader_and_a_crash() {
    let bounds = Bounds { budget: [1, 1, 1, 1, 1, 0], ..ONE_TASK };
    let situations = [FINISHED, OFFER_KEPT, ENDS_UNSTARTED];
    check("a replaced leader and a crash", bounds, ANY_DEPTH, 200_000, &situations);
}

#[test]
fn two_replaced_leaders() {
    let bounds = Bounds { budget: [2, 1, 1, 0, 1, 0], ..ONE_TASK };
    check("two replaced leaders", bounds, ANY_DEPTH, 90_000, &[FINISHED, OFFER_KEPT]);
}

#[test]
fn an_unreachable_agent_and_a_replaced_leader() {
    let bounds = Bounds { budget: [1, 1, 1, 1, 0, 1], ..ONE_TASK };
    let situations = [FINISHED, OFFER_KEPT, ENDS_UNSTARTED, VOIDED];
    check("an unreachable agent and a replaced leader", bounds, ANY_DEPTH, 240_000, &situations);
}

#[test]
fn an_unreachable_agent_that_crashes() {
    let bounds = Bounds { budget: [0, 1, 1, 1, 1, 1], ..ONE_TASK };
    let situations = [FINISHED, ENDS_UNSTARTED, VOIDED];
    check("an unreachable agent that crashes", bounds, ANY_DEPTH, 120_000, &situations);
}

#[test]
fn a_killed_task() {
    let crash = Bounds { budget: [0, 1, 2, 1, 1, 0], ..ONE_TASK };
    check("a killed task and a crash", crash, ANY_DEPTH, 50_000, &[FINISHED, ENDS_UNSTARTED]);
    let election = Bounds { budget: [1, 1, 2, 0, 1, 0], ..ONE_TASK };
    let situations = [FINISHED, OFFER_KEPT, ENDS_UNSTARTED];
    check("a killed task and a replaced leader", election, ANY_DEPTH, 80_000, &situations);
}

#[test]
fn two_tasks_and_a_replaced_leader() {
    let bounds = Bounds { tasks: 2, units: 2, budget: [1, 2, 2, 0, 0, 0], ..ONE_TASK };
    let situations = [FINISHED, OFFER_KEPT, ENDS_UNSTARTED];
    check("two tasks and a replaced leader", bounds, ANY_DEPTH, 700_000, &situations);
}

/// Larger systems: the first ones completely, the others up to a depth.
#[test]
fn larger_systems() {
    if std::env::var_os("ARGOSY_LONG").is_none() {
        eprintln!("set ARGOSY_LONG=1: it takes minutes and gigabytes");
        return;
    }
    let two = Bounds { tasks: 2, units: 2, ..ONE_TASK };
    let one_unit = Bounds { units: 1, ..two };
    let scopes = [
        ("each fault", ONE_TASK, [1, 1, 1, 1, 1, 1], ANY_DEPTH, 3_800_000),
        ("two elections, a crash", ONE_TASK, [2, 1, 1, 1, 1, 0], ANY_DEPTH, 1_200_000),
        ("a killed task, an election, a crash", ONE_TASK, [1, 1, 2, 1, 1, 0], ANY_DEPTH, 1_100_000),
        ("a killed task, a timeout, a crash", ONE_TASK, [0, 1, 2, 1, 1, 1], ANY_DEPTH, 600_000),
        ("one unit, an election, a timeout", one_unit, [1, 2, 2, 0, 0, 1], ANY_DEPTH, 2_600_000),
        ("two tasks, a crash", two, [0, 2, 2, 1, 0, 0], ANY_DEPTH, 600_000),
        ("two tasks, a lost link", two, [0, 2, 2, 0, 1, 0], ANY_DEPTH, 1_100_000),
        ("two tasks, an election, a timeout", two, [1, 2, 2, 0, 0, 1], 26, 1_000_000),
        ("one unit, three offers", one_unit, [1, 3, 3, 0, 0, 0], 30, 1_000_000),
    ];
    for (name, sizes, budget, depth, least) in scopes {
        check(name, Bounds { budget, ..sizes }, depth, least, &[]);
    }
}
