//! Tests of agents: hello, registration result, orders, orphans.

use argosy_state::capability::{AgentCapability, CapabilityNames};
use argosy_state::command::OperatorOperation;
use argosy_state::digest::DigestKind;
use argosy_state::ids::{AgentId, OrderIndex};
use argosy_state::task::{KillSignal, TaskState};
use argosy_state::testing::spec;
use expect_test::expect;

use super::fixture::{AGENT, FRAMEWORK, LIMITS, World};
use crate::leader::Input;

#[test]
fn a_launch_that_needs_a_missing_agent_capability_is_never_sent() {
    let mut world = World::with_offer();
    let hello_with = |world: &World, capabilities: CapabilityNames| {
        let mut hello = world.hello_of(AGENT);
        hello.info.capabilities = capabilities;
        hello.floor = OrderIndex(0);
        hello.digests.insert(DigestKind::Task, 0);
        hello
    };
    let link = world.link();
    world.hello(link, hello_with(&world, AgentCapability::announced()));
    world.feed(Input::AgentClosed { link });
    let mut wanted = spec("a", "cpus:1");
    wanted.kill_signal = Some(KillSignal::Int);
    world.launch("1.1", vec![wanted, spec("b", "cpus:1")]);
    assert_eq!(world.state_of("a"), TaskState::Staging);
    world.clear_lines();
    // It returns as release 0.1.0.
    let link = world.link();
    world.hello(link, hello_with(&world, CapabilityNames::new()));
    world.list(link, 0, &[]);
    world.expect(&expect![[r#"
        link-4 <- registered agent-1, different
        link-4 <- list your tasks
        link-1 <- update a DROPPED at 7.0 (AGENT_INCAPABLE)
        link-4 <- order 1 void
        link-4 <- order 2 launch framework-1/b
        link-1 <- offers 1.2 * agent-1 cpus:3;mem:4096
    "#]]);
    assert_eq!(world.state_of("a"), TaskState::Dropped);
    assert_eq!(world.state_of("b"), TaskState::Staging);
}

#[test]
fn an_unknown_or_gone_agent_kills_its_tasks_and_registers_as_a_new_agent() {
    let mut world = World::with_running_task();
    let gone = world.hello_of(AGENT);
    let mut unknown = gone.clone();
    unknown.agent = Some(AgentId(9));
    let link = world.link();
    world.hello(link, unknown);
    world.expect(&expect![[r#"
        link-3 <- shutdown: this agent is not known here, or was declared gone
        link-3 closed
    "#]]);
    world.operate(OperatorOperation::MarkGone(AGENT));
    world.expect(&expect![[r#"
        link-2 <- shutdown: an operator declared this agent gone
        link-2 closed
        link-1 <- agent-1 is gone
        link-1 <- update a GONE_BY_OPERATOR at 7.1 (AGENT_REMOVED_BY_OPERATOR)
        call-3: operated: done
    "#]]);
    let link = world.link();
    world.hello(link, gone);
    world.expect(&expect![[r#"
        link-4 <- shutdown: this agent is not known here, or was declared gone
        link-4 closed
    "#]]);
}

#[test]
fn frameworks_are_notified_once_that_an_agent_is_unreachable() {
    let notice = "<- agent-1 is unreachable";
    let notices = |world: &mut World| {
        let lines = world.take_lines();
        lines.iter().filter(|line| line.ends_with(notice)).count()
    };
    let change = |world: &mut World, value: &str| {
        world.operate(OperatorOperation::SetAttribute {
            agent: AGENT,
            name: "rack".to_owned(),
            value: value.to_owned(),
        });
    };
    let mut world = World::with_running_task();
    world.advance(LIMITS.agent_timeout_ms);
    assert_eq!(notices(&mut world), 1);
    change(&mut world, "1");
    world.operate(OperatorOperation::Deactivate(AGENT));
    world.operate(OperatorOperation::Reactivate(AGENT));
    assert_eq!(notices(&mut world), 0);
    // It is not news under another leader, either.
    world.new_leader();
    world.framework_returns(FRAMEWORK, &[]);
    change(&mut world, "2");
    assert_eq!(notices(&mut world), 0);
    let link = world.agent_returns(AGENT);
    world.list(link, 1, &[("a", 1)]);
    change(&mut world, "3");
    assert_eq!(notices(&mut world), 0);
    world.advance(LIMITS.agent_timeout_ms);
    assert_eq!(notices(&mut world), 1, "it was reachable again");
}
