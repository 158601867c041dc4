//! Secrets of the registry: requested for a start, again on each link, and never recorded.

use argosy_proto::v1;
use argosy_proto::v1::to_agent::Message as ToAgent;
use argosy_state::task::{Explanation, Reason};

use super::world::{CoreFixture, instance, spec};
use crate::core::{CreateError, Input};

/// Returns an agent that starts the task "web" of order 1.
fn starting() -> CoreFixture {
    let mut world = CoreFixture::registered();
    world.launch_spec(1, spec("web"));
    world.sync();
    world.discard_effects();
    world
}

fn want(world: &mut CoreFixture) {
    let instance = instance(1);
    world.feed(Input::SecretsWanted { instance });
}

fn answer(world: &mut CoreFixture, order_index: u64, task: &str) {
    let secret = v1::TaskSecret {
        name: "eng/db".into(),
        value: b"hunter2".to_vec(),
        refusal: String::new(),
    };
    world.receive(ToAgent::TaskSecrets(v1::TaskSecrets {
        framework_id: "framework-1".into(),
        task_id: task.into(),
        order_index,
        secrets: vec![secret],
        refusal: String::new(),
    }));
}

const DELIVERED: &str = r#"deliver to 1: Ok([("eng/db", Ok([a secret of 7 bytes]))])"#;

#[test]
fn secrets_are_requested_for_a_start_and_delivered_once() {
    let mut world = starting();
    want(&mut world);
    world.expect_all(&["want secrets of web@1"]);
    // Of another task, and of another order.
    answer(&mut world, 1, "other");
    answer(&mut world, 2, "web");
    world.expect_all(&[]);
    answer(&mut world, 1, "web");
    // Nothing is recorded.
    world.expect_all(&[DELIVERED]);
    answer(&mut world, 1, "web");
    world.expect_all(&[]);
}

#[test]
fn an_unanswered_request_is_repeated_on_the_next_link() {
    let mut world = starting();
    want(&mut world);
    let why = "it broke".to_owned();
    world.feed(Input::Disconnected { link: 1, why });
    world.discard_effects();
    world.register(true);
    let requests = |world: &mut CoreFixture| {
        let lines = world.take_effects();
        let wanted = lines.into_iter().filter(|line| line.starts_with("want"));
        wanted.collect::<Vec<_>>()
    };
    assert_eq!(requests(&mut world), ["want secrets of web@1"]);
    answer(&mut world, 1, "web");
    world.expect_all(&[DELIVERED]);
    // An answered one is not.
    world.feed(Input::Disconnected {
        link: 2,
        why: "it broke".to_owned(),
    });
    world.register(true);
    assert_eq!(requests(&mut world), [""; 0]);
}

#[test]
fn a_request_without_a_link_waits_for_one() {
    let mut world = starting();
    let why = "it broke".to_owned();
    world.feed(Input::Disconnected { link: 1, why });
    world.discard_effects();
    want(&mut world);
    world.expect_all(&[]);
    world.register(true);
    let lines = world.take_effects();
    assert!(
        lines.contains(&"want secrets of web@1".to_owned()),
        "{lines:?}"
    );
}

#[test]
fn a_start_that_has_ended_gets_no_secrets() {
    let mut world = starting();
    want(&mut world);
    let refusal = CreateError {
        reason: Reason::ContainerLaunchFailed,
        why: Explanation::from("cancelled"),
    };
    world.feed(Input::NotStarted {
        instance: instance(1),
        refusal,
    });
    world.discard_effects();
    answer(&mut world, 1, "web");
    world.expect_all(&[]);
    want(&mut world);
    world.expect_all(&[]);
}
