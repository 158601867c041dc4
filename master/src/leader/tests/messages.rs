//! Tests of messages between a framework and its executor: forwarded immediately or lost, never in
//! the log.

use argosy_proto::v1;
use argosy_state::ids::TaskId;
use argosy_state::task::TaskSpec;
use argosy_state::testing::{executor, spec};
use expect_test::expect;

use super::fixture::{AGENT, FRAMEWORK, World};
use crate::leader::{FrameworkMessage, Input};
use crate::links::LinkId;

impl World {
    /// Like `with_offer`, with a task of the executor "e" launched on `agent-1`.
    fn with_executor() -> Self {
        let mut world = Self::with_offer();
        let task = TaskSpec {
            executor: Some(Box::new(executor("e", "cpus:0.5"))),
            ..spec("a", "cpus:1")
        };
        world.launch("1.1", vec![task]);
        world.clear_lines();
        world
    }

    fn message(&mut self, executor: &str, bytes: usize) {
        let request = self.request();
        let session = self.registry.framework(FRAMEWORK).unwrap().session;
        let message = FrameworkMessage {
            framework: FRAMEWORK,
            session,
            agent: AGENT,
            executor: TaskId::new(executor).unwrap(),
            data: vec![0; bytes],
        };
        let actor = self.actor.clone();
        self.feed(Input::Message {
            request,
            actor,
            message,
        });
    }

    fn executor_sends(&mut self, bytes: usize) {
        self.agent_sends("e", bytes);
    }

    fn agent_sends(&mut self, executor: &str, bytes: usize) {
        let message = v1::ExecutorMessage {
            framework_id: FRAMEWORK.to_string(),
            executor_id: executor.to_owned(),
            data: vec![0; bytes],
            ..v1::ExecutorMessage::default()
        };
        let link = LinkId(2);
        self.feed(Input::AgentMessage { link, message });
    }
}

#[test]
fn messages_pass_in_both_directions_without_a_log_entry() {
    let mut world = World::with_executor();
    let entries = world.entries();
    world.message("e", 5);
    world.message("nobody", 5);
    world.executor_sends(5);
    world.expect(&expect![[r#"
        link-2 <- message to e
        call-2: passed
        call-3: passed
        link-1 <- message of e on agent-1
    "#]]);
    assert_eq!(world.entries(), entries);
}

#[test]
fn messages_without_a_receiver_are_dropped() {
    let mut world = World::with_executor();
    world.feed(Input::FrameworkClosed { link: LinkId(1) });
    world.executor_sends(5);
    world.expect_nothing();
    world.feed(Input::AgentClosed { link: LinkId(2) });
    world.message("e", 5);
    world.expect(&expect![[r#"
        call-2: passed
    "#]]);
}

/// An agent must not speak for executors of other hosts.
#[test]
fn messages_of_executors_that_the_agent_does_not_run_are_dropped() {
    let mut world = World::with_executor();
    world.agent_sends("other", 5);
    world.agent_sends("", 5);
    world.expect_nothing();
}

#[test]
fn message_rate_limit_resets_each_second() {
    let mut world = World::with_executor();
    for _ in 0..17 {
        world.message("e", 65_536);
        world.executor_sends(65_536);
    }
    let output = world.take_lines();
    let count = |what: &str| output.iter().filter(|line| line.contains(what)).count();
    assert_eq!(count("message to e"), 16, "{output:?}");
    assert_eq!(count("message of e"), 16, "{output:?}");
    assert_eq!(count("too-many-requests"), 1, "{output:?}");
    world.advance_with(1_000, &[LinkId(2)]);
    world.clear_lines();
    world.message("e", 65_536);
    world.expect(&expect![[r#"
        link-2 <- message to e
        call-19: passed
    "#]]);
}
