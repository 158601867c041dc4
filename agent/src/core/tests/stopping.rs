//! Tests of an agent that is stopped together with its tasks.

use super::world::CoreFixture;
use crate::core::{CommandStatus, Input};

#[test]
fn all_tasks_are_killed_on_request() {
    let mut world = CoreFixture::running();
    world.feed(Input::KillAll);
    world.sync();
    world.expect(&["kill 1 in 3000"]);
    world.exited(1, CommandStatus::Signal(15));
    world.report();
    world.expect(&["report web 2 Killed", "destroy 1-1-1"]);
}

#[test]
fn orders_that_arrive_after_a_request_to_kill_all_tasks_are_left_to_the_next_run() {
    let mut world = CoreFixture::running();
    world.feed(Input::KillAll);
    world.sync();
    world.discard_effects();
    world.launch(2, "again");
    world.sync();
    // A later order is no gap: the link stays open.
    world.kill(3, "web", 0);
    world.sync();
    world.expect(&[]);
    world.exited(1, CommandStatus::Signal(15));
    world.report();
    world.expect(&["report web 2 Killed", "destroy 1-1-1"]);
    world.destroyed(1);
    assert!(world.core.is_empty());
    assert_eq!(world.core.facts().floor.0, 1);
    // A new link of the same run starts nothing either.
    world.register(true);
    world.launch(2, "again");
    world.report();
    assert!(world.core.is_empty());
    let mut world = world.restart("boot-1");
    world.register(true);
    world.discard_effects();
    world.launch(2, "again");
    world.sync();
    world.expect(&["start 1-2-2"]);
}
