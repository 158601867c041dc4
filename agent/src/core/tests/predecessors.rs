//! Tests of starts that wait for the removal of the former holders of their ports and processors.

use argosy_proto::v1;

use super::executors::executed;
use super::groups::{fetched, member};
use super::world::{CoreFixture, spec};
use crate::core::{CommandStatus, Input};

fn ports(begin: u64, end: u64) -> v1::Resource {
    let range = vec![v1::Range { begin, end }];
    v1::Resource {
        name: "ports".into(),
        value: Some(v1::resource::Value::Ranges(v1::Ranges { range })),
        ..v1::Resource::default()
    }
}

fn with_ports(task: v1::TaskSpec, begin: u64, end: u64) -> v1::TaskSpec {
    v1::TaskSpec {
        resources: vec![ports(begin, end)],
        ..task
    }
}

fn exclusive(task: &str) -> v1::TaskSpec {
    v1::TaskSpec {
        resources: vec![v1::Resource {
            name: "cpus".into(),
            value: Some(v1::resource::Value::ScalarMilli(1_000)),
            ..v1::Resource::default()
        }],
        limits: Some(v1::Limits {
            exclusive_cpus: true,
            ..v1::Limits::default()
        }),
        ..spec(task)
    }
}

/// Lets a task end, and its end be reported.
fn report_end(world: &mut CoreFixture, order: u64) {
    world.exited(order, CommandStatus::Code(0));
    world.report();
    world.sync();
}

/// Lets a task end, and its end be committed.
fn end(world: &mut CoreFixture, order: u64, task: &str) {
    report_end(world, order);
    world.committed(order, task, 2, true);
}

/// Returns a fixture in which this task runs as the first one, and is reported.
fn running(task: v1::TaskSpec) -> CoreFixture {
    let mut world = CoreFixture::registered();
    world.launch_spec(1, task);
    world.sync();
    world.started(1);
    world.report();
    world.committed(1, "former", 1, false);
    world
}

/// Returns the start that follows from a launch under this order.
fn launched(world: &mut CoreFixture, order: u64, task: v1::TaskSpec) -> Vec<String> {
    world.discard_effects();
    world.launch_spec(order, task);
    world.sync();
    let effects = world.take_effects().into_iter();
    effects
        .filter(|effect| effect.starts_with("start"))
        .collect()
}

#[test]
fn a_start_waits_for_the_removal_of_the_former_holder_of_its_ports() {
    let mut world = running(with_ports(spec("former"), 31_000, 31_002));
    end(&mut world, 1, "former");
    let overlapping = with_ports(spec("next"), 31_002, 31_003);
    assert_eq!(
        launched(&mut world, 2, overlapping),
        ["start 1-2-1 after 1-1-1"]
    );
}

#[test]
fn a_start_waits_for_no_container_with_other_ports_or_without_an_end() {
    let former = || running(with_ports(spec("former"), 31_000, 31_002));
    let overlapping = || with_ports(spec("next"), 31_002, 31_003);
    // Masters do not offer its ports. A start that asks for them fails.
    assert_eq!(launched(&mut former(), 2, overlapping()), ["start 1-2-1"]);
    for other in [
        with_ports(spec("next"), 31_003, 31_004),
        spec("next"),
        exclusive("next"),
    ] {
        let mut world = former();
        end(&mut world, 1, "former");
        assert_eq!(launched(&mut world, 2, other), ["start 1-2-1"]);
    }
    let mut world = former();
    end(&mut world, 1, "former");
    world.destroyed(1);
    assert_eq!(launched(&mut world, 2, overlapping()), ["start 1-2-1"]);
}

#[test]
fn a_start_with_exclusive_processors_waits_for_the_removal_of_their_former_holder() {
    let mut world = running(exclusive("former"));
    end(&mut world, 1, "former");
    assert_eq!(
        launched(&mut world, 2, exclusive("next")),
        ["start 1-2-1 after 1-1-1"]
    );
}

/// Returns a fixture with the running group a, b, whose first task has a port.
fn running_group() -> CoreFixture {
    let mut world = CoreFixture::registered();
    world.launch_spec(1, with_ports(member("a", 0, 2), 31_000, 31_000));
    world.launch_spec(2, member("b", 1, 2));
    world.sync();
    (1..=2).for_each(|order| fetched(&mut world, order, Ok(())));
    (1..=2).for_each(|order| world.started(order));
    world.report();
    for (order, task) in [(1, "a"), (2, "b")] {
        world.committed(order, task, 2, false);
    }
    world
}

#[test]
fn a_start_waits_for_the_network_of_a_group_once_all_its_tasks_have_ended() {
    let mut world = running_group();
    let next = || with_ports(spec("next"), 31_000, 31_000);
    end(&mut world, 1, "a");
    world.destroyed(1);
    end(&mut world, 2, "b");
    assert_eq!(launched(&mut world, 3, next()), ["start 1-3-1 after 1-1-0"]);
    world.destroyed(2);
    assert_eq!(launched(&mut world, 4, next()), ["start 1-4-1 after 1-1-0"]);
}

#[test]
fn a_start_does_not_wait_for_a_released_group_whose_ends_are_not_committed() {
    let mut world = running_group();
    for order in [1, 2] {
        report_end(&mut world, order);
        world.destroyed(order);
    }
    let name = "1-1-0".parse().unwrap();
    world.feed(Input::Destroyed { name });
    let next = with_ports(spec("next"), 31_000, 31_000);
    assert_eq!(launched(&mut world, 3, next), ["start 1-3-1"]);
}

#[test]
fn a_start_waits_for_an_executor_without_tasks_until_it_is_removed() {
    let mut world = CoreFixture::registered();
    let mut executor = executed("former");
    executor.executor.as_mut().unwrap().resources = vec![ports(31_000, 31_000)];
    world.launch_spec(1, executor);
    world.sync();
    world.sync();
    let next = || with_ports(spec("next"), 31_000, 31_000);
    assert_eq!(launched(&mut world, 2, next()), ["start 1-2-1"]);
    // The masters offer its port once its only task has ended.
    world.kill(3, "former", 0);
    world.sync();
    assert_eq!(launched(&mut world, 4, next()), ["start 1-4-1 after 1-1-1"]);
}
