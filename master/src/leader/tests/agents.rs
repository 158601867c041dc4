//! Tests of agents: hello, registration result, orders, orphans.

use argosy_state::agent::AgentMode;
use argosy_state::capability::{AgentCapability, CapabilityNames};
use argosy_state::command::{CallAction, HeldTask, OperatorOperation};
use argosy_state::digest::DigestKind;
use argosy_state::ids::{AgentId, ClusterId, Epoch, OrderIndex, Role};
use argosy_state::task::{KillSignal, TaskState};
use argosy_state::testing::spec;
use expect_test::expect;

use super::fixture::{AGENT, FRAMEWORK, World, new_agent, task_key};
use crate::leader::Input;
use crate::links::LinkId;

#[test]
fn a_first_hello_registers_an_agent_and_its_repeat_finds_it() {
    let mut world = World::new();
    world.hello(LinkId(1), new_agent(7, "cpus:4"));
    world.hello(LinkId(2), new_agent(7, "cpus:4"));
    world.expect(&expect![[r#"
        link-1 <- registered agent-1, equal
        link-1 closed
        link-2 <- registered agent-1, equal
    "#]]);
    assert_eq!(world.registry.agents().len(), 1);
}

#[test]
fn agent_with_equal_digest_is_admitted_without_an_entry() {
    let mut world = World::with_running_task();
    world.new_leader();
    let entries = world.entries();
    world.agent_returns(AGENT);
    world.expect(&expect![[r#"
        link-3 <- registered agent-1, equal
    "#]]);
    assert_eq!(world.entries(), entries);
}

#[test]
fn orders_are_sent_in_order_and_once() {
    let mut world = World::with_offer();
    world.accept("1.1", &["a", "b"]);
    world.kill("a");
    world.expect(&expect![[r#"
        link-2 <- order 1 launch framework-1/a
        link-2 <- order 2 launch framework-1/b
        call-1: called at 4.0
        link-2 <- order 3 kill framework-1/a in 3000 ms
        call-2: called at 5.0
    "#]]);
}

#[test]
fn orders_lost_with_a_link_are_resent_from_the_floor_of_the_next() {
    let mut world = World::with_offer();
    world.accept("1.1", &["a", "b", "c"]);
    world.clear_lines();
    world.feed(Input::AgentClosed { link: LinkId(2) });
    let mut hello = world.hello_of(AGENT);
    hello.floor = OrderIndex(1);
    hello.digests.insert(DigestKind::Task, 0);
    let link = world.link();
    world.hello(link, hello);
    world.expect(&expect![[r#"
        link-3 <- registered agent-1, different
        link-3 <- list your tasks
    "#]]);
    world.list(link, 1, &[("a", 1)]);
    world.expect(&expect![[r#"
        link-3 <- order 2 launch framework-1/b
        link-3 <- order 3 launch framework-1/c
    "#]]);
}

#[test]
fn a_task_killed_before_its_order_was_delivered_never_starts() {
    let mut world = World::with_offer();
    world.feed(Input::AgentClosed { link: LinkId(2) });
    world.accept("1.1", &["a"]);
    world.kill("a");
    world.clear_lines();
    let mut hello = world.hello_of(AGENT);
    hello.floor = OrderIndex(0);
    hello.digests.insert(DigestKind::Task, 0);
    let link = world.link();
    world.hello(link, hello);
    world.expect(&expect![[r#"
        link-3 <- registered agent-1, equal
        link-3 <- order 1 launch framework-1/a, never start
        link-3 <- order 2 kill framework-1/a in 3000 ms
    "#]]);
    world.report(link, "a", 1, TaskState::Killed);
    world.expect(&expect![[r#"
        link-1 <- update a KILLED at 6.0 (UNSPECIFIED)
        link-3 <- committed framework-1/a@1 #1 released
        link-1 <- offers 1.2 * agent-1 cpus:4;mem:4096
    "#]]);
}

#[test]
fn obsolete_order_is_sent_as_void() {
    let mut world = World::with_offer();
    world.accept("1.1", &["a", "b"]);
    world.report(LinkId(2), "a", 1, TaskState::Finished);
    world.acknowledge(&["a"]);
    world.clear_lines();
    let mut hello = world.hello_of(AGENT);
    hello.floor = OrderIndex(0);
    let link = world.link();
    world.hello(link, hello);
    world.list(link, 0, &[]);
    world.expect(&expect![[r#"
        link-2 closed
        link-3 <- registered agent-1, different
        link-3 <- list your tasks
        link-3 <- order 1 void
        link-3 <- order 2 launch framework-1/b
    "#]]);
}

#[test]
fn a_kill_with_a_shorter_grace_period_voids_the_previous_one() {
    let mut world = World::with_running_task();
    world.feed(Input::AgentClosed { link: LinkId(2) });
    world.kill("a");
    world.operate(OperatorOperation::KillTask {
        key: task_key("a"),
        grace_ms: Some(100),
    });
    world.clear_lines();
    let mut hello = world.hello_of(AGENT);
    hello.floor = OrderIndex(1);
    let link = world.link();
    world.hello(link, hello);
    world.expect(&expect![[r#"
        link-3 <- registered agent-1, equal
        link-3 <- order 2 void
        link-3 <- order 3 kill framework-1/a in 100 ms
    "#]]);
}

#[test]
fn a_new_hello_closes_the_previous_link() {
    let mut world = World::with_running_task();
    world.agent_returns(AGENT);
    world.expect(&expect![[r#"
        link-2 closed
        link-3 <- registered agent-1, equal
    "#]]);
    // Messages that were still read from it change nothing, nor does its end.
    world.report(LinkId(2), "a", 2, TaskState::Finished);
    world.feed(Input::AgentPing {
        link: LinkId(2),
        serial: 3,
    });
    world.feed(Input::AgentClosed { link: LinkId(2) });
    world.expect_nothing();
    assert_eq!(world.state_of("a"), TaskState::Running);
    world.kill("a");
    world.expect(&expect![[r#"
        link-3 <- order 2 kill framework-1/a in 3000 ms
        call-3: called at 7.0
    "#]]);
}

#[test]
fn a_task_missing_on_its_agent_is_gone_after_the_comparison() {
    let mut world = World::with_running_task();
    world.new_leader();
    world.framework_returns(FRAMEWORK, &[]);
    let mut hello = world.hello_of(AGENT);
    hello.digests.insert(DigestKind::Task, 0);
    let link = world.link();
    world.hello(link, hello);
    world.list(link, 1, &[]);
    world.expect(&expect![[r#"
        link-3 <- subscribed framework-1 session 101 epoch 7
        link-3 <- unmet in *: 1 no-link
        link-4 <- registered agent-1, different
        link-4 <- list your tasks
        link-3 <- update a GONE at 8.0 (TASK_MISSING_ON_AGENT)
        link-3 <- offers 7.1 * agent-1 cpus:4;mem:4096
    "#]]);
    assert_eq!(world.state_of("a"), TaskState::Gone);
}

#[test]
fn orphan_is_killed_without_an_order() {
    let mut world = World::with_offer();
    let mut hello = world.hello_of(AGENT);
    hello.digests.insert(DigestKind::Task, 99);
    let link = world.link();
    world.hello(link, hello);
    world.list(link, 0, &[("stranger", 0)]);
    world.expect(&expect![[r#"
        link-2 closed
        link-3 <- registered agent-1, different
        link-3 <- list your tasks
        link-3 <- kill stray framework-1/stranger@0
    "#]]);
}

#[test]
fn chunked_list_is_compared_when_complete() {
    let mut world = World::with_offer();
    world.accept("1.1", &["a", "b", "c"]);
    world.clear_lines();
    let mut hello = world.hello_of(AGENT);
    hello.floor = OrderIndex(2);
    let link = world.link();
    world.hello(link, hello);
    world.clear_lines();
    let held = |task: &str, order| HeldTask {
        key: task_key(task),
        order: OrderIndex(order),
    };
    world.feed(Input::AgentList {
        link,
        floor: OrderIndex(2),
        held: vec![held("a", 1)],
        last: false,
    });
    world.expect_nothing();
    world.feed(Input::AgentList {
        link,
        floor: OrderIndex(2),
        held: vec![held("b", 2)],
        last: true,
    });
    world.expect(&expect![[r#"
        link-3 <- order 3 launch framework-1/c
    "#]]);
}

#[test]
fn an_unsorted_task_list_closes_the_link() {
    let mut world = World::with_offer();
    let mut hello = world.hello_of(AGENT);
    hello.digests.insert(DigestKind::Task, 99);
    let link = world.link();
    world.hello(link, hello);
    world.clear_lines();
    world.list(link, 0, &[("b", 2), ("a", 1)]);
    world.expect(&expect![[r#"
        link-3 <- refused malformed: its list does not ascend, or a chunk is empty or too long
        link-3 closed
    "#]]);
}

#[test]
fn a_returning_agent_is_reachable_again_and_its_frameworks_are_notified() {
    let mut world = World::with_running_task();
    world.feed(Input::AgentClosed { link: LinkId(2) });
    world.advance(15_000);
    world.expect(&expect![[r#"
        link-1 <- unmet in *: 1 no-link
        link-1 <- agent-1 is unreachable
        link-1 <- update a UNREACHABLE at 7.1 (AGENT_UNREACHABLE)
    "#]]);
    assert_eq!(
        world.registry.agent(AGENT).unwrap().mode(),
        AgentMode::Unreachable
    );
    // It holds exactly what it should, but its tasks are compared because they are UNREACHABLE.
    let link = world.agent_returns(AGENT);
    world.expect(&expect![[r#"
        link-3 <- registered agent-1, different
        link-3 <- list your tasks
    "#]]);
    assert_eq!(world.state_of("a"), TaskState::Unreachable);
    world.list(link, 1, &[("a", 1)]);
    world.expect(&expect![[r#"
        link-1 <- update a RUNNING at 9.0 (AGENT_REREGISTERED)
        link-1 <- offers 1.2 * agent-1 cpus:3;mem:4096
    "#]]);
    assert_eq!(world.state_of("a"), TaskState::Running);
}

#[test]
fn a_launch_not_delivered_before_its_agent_was_lost_never_happens() {
    let mut world = World::with_offer();
    world.feed(Input::AgentClosed { link: LinkId(2) });
    world.accept("1.1", &["a"]);
    world.advance(15_000);
    world.clear_lines();
    let mut hello = world.hello_of(AGENT);
    hello.floor = OrderIndex(0);
    hello.digests.insert(DigestKind::Task, 0);
    let link = world.link();
    world.hello(link, hello);
    world.list(link, 0, &[]);
    world.expect(&expect![[r#"
        link-3 <- registered agent-1, different
        link-3 <- list your tasks
        link-1 <- update a DROPPED at 7.0 (LAUNCH_VOIDED)
        link-3 <- order 1 void
        link-1 <- offers 1.2 * agent-1 cpus:4;mem:4096
    "#]]);
    assert_eq!(world.state_of("a"), TaskState::Dropped);
}

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
    let (accept, tokens) = world.acceptance("1.1", vec![wanted, spec("b", "cpus:1")]);
    let call = world.call_of(CallAction::Accept(accept));
    world.send(call, tokens);
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
fn kills_for_an_unreachable_agent_are_executed_when_it_returns() {
    let mut world = World::with_running_task();
    world.feed(Input::AgentClosed { link: LinkId(2) });
    world.advance(15_000);
    world.kill("a");
    world.clear_lines();
    let mut hello = world.hello_of(AGENT);
    hello.floor = OrderIndex(1);
    let link = world.link();
    world.hello(link, hello);
    world.list(link, 1, &[("a", 1)]);
    world.expect(&expect![[r#"
        link-3 <- registered agent-1, different
        link-3 <- list your tasks
        link-1 <- update a RUNNING at 10.0 (AGENT_REREGISTERED)
        link-3 <- order 2 kill framework-1/a in 3000 ms
        link-1 <- offers 1.2 * agent-1 cpus:3;mem:4096
    "#]]);
}

#[test]
fn an_agent_of_another_cluster_or_a_later_history_is_rejected() {
    let mut world = World::with_offer();
    let mut hello = world.hello_of(AGENT);
    hello.cluster = Some(ClusterId(7));
    let link = world.link();
    world.hello(link, hello);
    let mut hello = world.hello_of(AGENT);
    hello.highest_epoch = Epoch(1_000);
    let link = world.link();
    world.hello(link, hello);
    let cluster = world.registry.cluster().facts.id.to_string();
    let said: String = world.take_lines().join("\n").replace(&cluster, "CLUSTER");
    expect![[r#"
        link-3 <- refused foreign-cluster: this is cluster CLUSTER; the agent belongs to another one: empty its --data-dir, or give it the right --masters
        link-3 closed
        link-4 <- refused epoch-above: the agent has seen epoch 1000, this master leads epoch 1: it was replaced, or its masters were set back
        link-4 closed"#]].assert_eq(&said);
}

#[test]
fn a_copy_of_a_disk_that_knows_the_newest_incarnation_is_refused_while_the_agent_is_heard() {
    let mut world = World::with_offer();
    // The disk was copied when the agent had stored this incarnation, and the copy tries one more.
    let mut copy = world.hello_of(AGENT);
    copy.tried = vec![77];
    copy.boot_id = "boot of another host".to_owned();
    let link = world.link();
    world.hello(link, copy.clone());
    world.expect(&expect![[r#"
        link-3 <- refused clone: another host is connected with this agent's id: the data directory was copied; empty its --data-dir. A host that has just restarted is accepted once its former connection is silent
        link-3 closed
    "#]]);
    // It is the same host, which has restarted: its former link is silent.
    world.advance(2_000);
    world.clear_lines();
    let link = world.link();
    world.hello(link, copy.clone());
    world.advance(100);
    let link = world.link();
    world.hello(link, copy);
    world.expect(&expect![[r#"
        link-4 <- refused clone: another host is connected with this agent's id: the data directory was copied; empty its --data-dir. A host that has just restarted is accepted once its former connection is silent
        link-4 closed
        link-2 closed
        link-5 <- registered agent-1, equal
    "#]]);
}

#[test]
fn a_copied_data_directory_is_rejected() {
    let mut world = World::with_offer();
    let mut hello = world.hello_of(AGENT);
    hello.confirmed = 5;
    hello.tried = vec![6];
    let link = world.link();
    world.hello(link, hello);
    world.expect(&expect![[r#"
        link-3 <- refused clone: agent-1 is registered with another incarnation: this looks like a copy of its disk
        link-3 closed
    "#]]);
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
fn an_already_committed_update_is_released_immediately() {
    let mut world = World::with_running_task();
    world.report(LinkId(2), "a", 1, TaskState::Running);
    world.report(LinkId(2), "stranger", 1, TaskState::Running);
    world.expect(&expect![[r#"
        link-2 <- committed framework-1/a@1 #1
        link-2 <- committed framework-1/stranger@1 #1 released
    "#]]);
}

#[test]
fn a_pong_contains_the_serial_of_its_ping() {
    let mut world = World::with_offer();
    world.feed(Input::AgentPing {
        link: LinkId(2),
        serial: 41,
    });
    world.expect(&expect![[r#"
        link-2 <- pong 41
    "#]]);
}

#[test]
fn an_agent_lost_under_the_former_leader_can_return_under_the_next() {
    let mut world = World::with_running_task();
    world.advance(15_000);
    world.new_leader();
    world.framework_returns(FRAMEWORK, &[]);
    world.clear_lines();
    let link = world.agent_returns(AGENT);
    world.list(link, 1, &[("a", 1)]);
    world.expect(&expect![[r#"
        link-4 <- registered agent-1, different
        link-4 <- list your tasks
        link-3 <- update a RUNNING at 10.0 (AGENT_REREGISTERED)
        link-3 <- offers 8.1 * agent-1 cpus:3;mem:4096
    "#]]);
}

#[test]
fn a_task_returns_even_if_its_framework_has_left_its_role() {
    let mut world = World::with_running_task();
    world.advance(15_000);
    let mut info = world.registry.framework(FRAMEWORK).unwrap().info.clone();
    info.roles = [Role::new("ops").unwrap()].into();
    world.call(CallAction::Update(info));
    world.clear_lines();
    let link = world.agent_returns(AGENT);
    world.list(link, 1, &[("a", 1)]);
    world.expect(&expect![[r#"
        link-3 <- registered agent-1, different
        link-3 <- list your tasks
        link-1 <- update a RUNNING at 10.0 (AGENT_REREGISTERED)
        link-1 <- offers 1.3 ops agent-1 cpus:3;mem:4096
    "#]]);
}

#[test]
fn an_ended_task_keeps_its_state_if_its_agent_forgets_it_or_is_lost() {
    let mut world = World::with_running_task();
    world.report(LinkId(2), "a", 2, TaskState::Finished);
    world.clear_lines();
    let mut hello = world.hello_of(AGENT);
    hello.digests.insert(DigestKind::Task, 99);
    let link = world.link();
    world.hello(link, hello);
    world.list(link, 1, &[]);
    world.expect(&expect![[r#"
        link-2 closed
        link-3 <- registered agent-1, different
        link-3 <- list your tasks
    "#]]);
    world.advance(15_000);
    world.clear_lines();
    let mode = world.registry.agent(AGENT).unwrap().mode();
    assert_eq!(mode, AgentMode::Unreachable);
    assert_eq!(world.state_of("a"), TaskState::Finished);
    // The update has not been acknowledged: a returning framework is sent the final state, without
    // the loss.
    world.framework_returns(FRAMEWORK, &[]);
    world.expect(&expect![[r#"
        link-1 closed
        link-4 <- subscribed framework-1 session 101 epoch 1
        link-4 <- update a FINISHED at 7.0 (UNSPECIFIED)
    "#]]);
}

#[test]
fn no_id_is_assigned_twice() {
    let mut world = World::new();
    world.agent("cpus:1;mem:1024");
    world.operate(OperatorOperation::MarkGone(AGENT));
    world.new_leader();
    world.agent("cpus:1;mem:1024");
    world.clear_lines();
    let ids: Vec<_> = world.registry.agents().map(|agent| agent.id).collect();
    assert_eq!(ids, [AgentId(1), AgentId(2)]);
}

#[test]
fn a_task_list_of_another_incarnation_closes_its_link() {
    let mut world = World::with_running_task();
    world.feed(Input::AgentClosed { link: LinkId(2) });
    let mut first = world.hello_of(AGENT);
    *first.digests.get_mut(&DigestKind::Task).unwrap() += 1;
    world.hello(LinkId(3), first.clone());
    // The agent starts again, and its stream breaks before its registration is committed.
    world.slow_log();
    let mut second = first;
    second.tried = vec![77];
    world.hello(LinkId(4), second);
    world.feed(Input::AgentClosed { link: LinkId(4) });
    world.list(LinkId(3), 1, &[("a", 1)]);
    world.commit();
    world.expect(&expect![[r#"
        link-3 <- registered agent-1, different
        link-3 <- list your tasks
        link-3 closed
    "#]]);
}

#[test]
fn a_second_hello_on_a_stream_closes_it() {
    let mut world = World::with_offer();
    let hello = world.hello_of(AGENT);
    world.hello(LinkId(2), hello);
    world.expect(&expect![[r#"
        link-2 <- refused malformed: a second hello on one stream
        link-2 closed
    "#]]);
}
