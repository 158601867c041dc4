//! Tests of frameworks: sessions, streams, absence.

use argosy_state::command::{CallAction, OperatorOperation};
use argosy_state::framework::{FrameworkInfo, SchedulerConnection};
use argosy_state::ids::{ClusterId, FrameworkId, OrderIndex, Role};
use argosy_state::task::TaskState;
use argosy_state::testing::framework_info;
use expect_test::expect;

use super::fixture::{AGENT, FRAMEWORK, World, new_framework};
use crate::leader::{Input, SchedulerHello};
use crate::links::LinkId;

fn in_roles(roles: &[&str]) -> FrameworkInfo {
    FrameworkInfo {
        roles: roles.iter().map(|role| Role::new(role).unwrap()).collect(),
        ..framework_info("web")
    }
}

#[test]
fn resubscription_of_a_session_needs_no_entry() {
    let mut world = World::with_offer();
    let entries = world.entries();
    world.feed(Input::FrameworkClosed { link: LinkId(1) });
    world.framework_returns(FRAMEWORK, &["1.1"]);
    world.expect(&expect![[r#"
        link-3 <- subscribed framework-1 session 101 epoch 1, kept 1.1
    "#]]);
    assert_eq!(world.entries(), entries);
}

#[test]
fn second_stream_of_a_session_replaces_the_first() {
    let mut world = World::with_offer();
    world.framework_returns(FRAMEWORK, &["1.1"]);
    world.expect(&expect![[r#"
        link-1 closed
        link-3 <- subscribed framework-1 session 101 epoch 1, kept 1.1
    "#]]);
    world.feed(Input::FrameworkClosed { link: LinkId(1) });
    world.advance_with(20_000, &[LinkId(2)]);
    world.expect_nothing();
}

#[test]
fn a_repeated_subscription_finds_the_framework_of_the_first() {
    let mut world = World::new();
    world.slow_log();
    world.subscribe_with(LinkId(1), new_framework(7, framework_info("web")));
    world.feed(Input::FrameworkClosed { link: LinkId(1) });
    world.subscribe_with(LinkId(2), new_framework(7, framework_info("web")));
    world.expect_nothing();
    world.commit();
    world.expect(&expect![[r#"
        link-2 <- subscribed framework-1 session 7 epoch 1
        link-2 <- unmet in *:
    "#]]);
    assert_eq!(world.registry.frameworks().len(), 1);
}

#[test]
fn a_new_session_supersedes_the_previous_one_and_voids_its_offers() {
    let mut world = World::with_offer();
    let mut next = world.subscription_of(FRAMEWORK, &["1.1"]);
    next.session = 777;
    let link = world.link();
    world.subscribe_with(link, next);
    world.expect(&expect![[r#"
        link-1 <- error superseded: another scheduler has taken over framework-1
        link-1 closed
        link-3 <- subscribed framework-1 session 777 epoch 1, rescinded 1.1
        link-3 <- offers 1.2 * agent-1 cpus:4;mem:4096
    "#]]);
}

/// Found by a seed: the network delivered the subscription of a killed process after that of its
/// successor, which was then superseded by a process that did not exist.
#[test]
fn a_late_subscription_of_a_killed_process_replaces_nobody() {
    let mut world = World::with_offer();
    let present = world.subscription_of(FRAMEWORK, &[]);
    let of = |session, replaces| SchedulerHello {
        session,
        replaces: Some(replaces),
        ..present.clone()
    };
    let [first, second] = [of(777, 0), of(777, present.session)];
    world.subscribe_with(LinkId(3), first);
    world.expect(&expect![[r#"
        link-3 <- error session-present: the framework has another session: name it, to replace it
        link-3 closed
    "#]]);
    world.subscribe_with(LinkId(4), second);
    world.expect(&expect![[r#"
        link-1 <- error superseded: another scheduler has taken over framework-1
        link-1 closed
        link-4 <- subscribed framework-1 session 777 epoch 1
        link-4 <- offers 1.2 * agent-1 cpus:4;mem:4096
    "#]]);
    // These were sent by a process that was killed before its successor was started.
    for (link, replaces) in [(LinkId(5), 0), (LinkId(6), present.session)] {
        world.subscribe_with(link, of(666, replaces));
    }
    world.expect(&expect![[r#"
        link-5 <- error session-present: the framework has another session: name it, to replace it
        link-5 closed
        link-6 <- error session-present: the framework has another session: name it, to replace it
        link-6 closed
    "#]]);
}

/// The number of a session is all that a call needs.
#[test]
fn the_session_is_not_disclosed_to_another_principal() {
    let mut world = World::with_offer();
    let mut other = world.subscription_of(FRAMEWORK, &[]);
    other.session = 777;
    other.replaces = Some(0);
    other.info.principal = "somebody-else".to_owned();
    world.subscribe_with(LinkId(3), other);
    world.expect(&expect![[r#"
        link-3 <- error refused: the principal of a framework cannot be changed (it is "")
        link-3 closed
    "#]]);
}

#[test]
fn a_subscription_is_not_replaced_while_another_one_is_committed() {
    let mut world = World::with_offer();
    let present = world.subscription_of(FRAMEWORK, &[]);
    world.slow_log();
    for (link, session) in [(LinkId(3), 777), (LinkId(4), 888)] {
        let subscription = SchedulerHello {
            session,
            replaces: Some(present.session),
            ..present.clone()
        };
        world.subscribe_with(link, subscription);
    }
    world.commit();
    world.expect(&expect![[r#"
        link-4 <- error session-present: the framework has another session: name it, to replace it
        link-4 closed
        link-1 <- error superseded: another scheduler has taken over framework-1
        link-1 closed
        link-3 <- subscribed framework-1 session 777 epoch 1
        link-3 <- offers 1.2 * agent-1 cpus:4;mem:4096
    "#]]);
}

#[test]
fn a_superseded_scheduler_is_refused_under_every_leader() {
    let mut world = World::with_running_task();
    let former = world.subscription_of(FRAMEWORK, &[]);
    let mut next = former.clone();
    next.session = 777;
    let kill = world.call_of(CallAction::Teardown);
    world.subscribe_with(LinkId(3), next);
    world.clear_lines();
    world.new_leader();
    world.subscribe_with(LinkId(4), former);
    world.expect(&expect![[r#"
        link-4 <- error superseded: another scheduler has taken over framework-1
        link-4 closed
    "#]]);
    world.send(kill, Vec::new());
    world.expect(&expect![[r#"
        call-3: refused superseded: another scheduler has taken over framework-1
    "#]]);
    assert_eq!(world.state_of("a"), TaskState::Running);
}

#[test]
fn a_returning_scheduler_gets_every_missed_update() {
    let mut world = World::with_running_task();
    world.feed(Input::FrameworkClosed { link: LinkId(1) });
    world.report(LinkId(2), "a", 2, TaskState::Finished);
    world.expect(&expect![[r#"
        link-2 <- committed framework-1/a@1 #2 released
    "#]]);
    world.new_leader();
    let mut next = world.subscription_of(FRAMEWORK, &[]);
    next.session = 777;
    world.subscribe_with(LinkId(3), next);
    world.expect(&expect![[r#"
        link-3 <- subscribed framework-1 session 777 epoch 8
        link-3 <- update a FINISHED at 7.0 (UNSPECIFIED)
        link-3 <- unmet in *: 1 no-link
    "#]]);
}

#[test]
fn a_disconnection_of_ten_seconds_is_recorded_and_ends_the_offers() {
    let mut world = World::with_offer();
    world.feed(Input::FrameworkClosed { link: LinkId(1) });
    world.advance_with(9_900, &[LinkId(2)]);
    let connection = |world: &World| world.registry.framework(FRAMEWORK).unwrap().connection;
    assert_eq!(connection(&world), SchedulerConnection::Connected);
    world.advance_with(100, &[LinkId(2)]);
    assert_ne!(connection(&world), SchedulerConnection::Connected);
    world.expect_nothing();
    world.framework_returns(FRAMEWORK, &["1.1"]);
    world.expect(&expect![[r#"
        link-3 <- subscribed framework-1 session 101 epoch 1, rescinded 1.1
        link-3 <- offers 1.2 * agent-1 cpus:4;mem:4096
    "#]]);
    assert_eq!(connection(&world), SchedulerConnection::Connected);
}

#[test]
fn a_framework_without_failover_timeout_is_removed_after_ten_seconds() {
    let mut world = World::new();
    let info = FrameworkInfo {
        failover_timeout_ms: 0,
        ..framework_info("now")
    };
    let link = world.link();
    world.subscribe_with(link, new_framework(7, info));
    world.agent("cpus:4;mem:4096");
    world.accept("1.1", &["a"]);
    world.report(LinkId(2), "a", 1, TaskState::Running);
    world.clear_lines();
    world.feed(Input::FrameworkClosed { link });
    world.advance_with(10_000, &[LinkId(2)]);
    world.expect(&expect![[r#"
        link-2 <- order 2 kill framework-1/a in 3000 ms
    "#]]);
    world.report(LinkId(2), "a", 2, TaskState::Killed);
    world.expect(&expect![[r#"
        link-2 <- committed framework-1/a@1 #2 released
    "#]]);
    assert!(world.registry.framework(FRAMEWORK).is_none());
}

#[test]
fn a_removed_framework_is_notified_and_cannot_return() {
    let mut world = World::with_running_task();
    let subscription = world.subscription_of(FRAMEWORK, &[]);
    world.operate(OperatorOperation::Teardown(FRAMEWORK));
    world.expect(&expect![[r#"
        link-1 <- error removed: framework-1 is being removed
        link-1 closed
        link-2 <- order 2 kill framework-1/a in 3000 ms
        call-3: operated: done
    "#]]);
    world.subscribe_with(LinkId(3), subscription.clone());
    world.expect(&expect![[r#"
        link-3 <- error removed: framework-1 is being removed
        link-3 closed
    "#]]);
    world.report(LinkId(2), "a", 2, TaskState::Killed);
    world.new_leader();
    world.clear_lines();
    world.subscribe_with(LinkId(4), subscription);
    world.expect(&expect![[r#"
        link-4 <- error removed: no framework-1 in this cluster: it was removed, or never was
        link-4 closed
    "#]]);
}

#[test]
fn a_framework_that_a_replaced_leader_does_not_know_is_not_told_that_it_was_removed() {
    let mut world = World::new();
    world.slow_log();
    // Registered under the next leader, and back at this one, which does not know either yet.
    let mut subscription = new_framework(7, framework_info("web"));
    subscription.framework = Some(FrameworkId(9));
    let link = world.link();
    world.subscribe_with(link, subscription);
    world.expect_nothing();
    world.commit();
    world.expect(&expect![[r#"
        link-1 <- error removed: no framework-9 in this cluster: it was removed, or never was
        link-1 closed
    "#]]);
}

#[test]
fn a_framework_of_another_cluster_is_refused() {
    let mut world = World::new();
    let mut subscription = new_framework(7, framework_info("web"));
    subscription.cluster = Some(ClusterId(7));
    world.subscribe_with(LinkId(1), subscription);
    let cluster = world.registry.cluster().facts.id.to_string();
    let said: String = world.take_lines().join("\n").replace(&cluster, "CLUSTER");
    expect![[r#"
        link-1 <- error refused: this is cluster CLUSTER; the framework belongs to another one: check its list of masters
        link-1 closed"#]].assert_eq(&said);
}

#[test]
fn leaving_a_role_rescinds_its_offers_and_joining_one_creates_new_ones() {
    let mut world = World::with_offer();
    world.call(CallAction::Update(in_roles(&["ops"])));
    world.expect(&expect![[r#"
        link-1 <- rescind 1.1: the framework has changed
        call-1: called at 4.0
        link-1 <- offers 1.2 ops agent-1 cpus:4;mem:4096
    "#]]);
}

#[test]
fn a_framework_update_without_a_change_has_no_effect() {
    let mut world = World::with_offer();
    let info = world.registry.framework(FRAMEWORK).unwrap().info.clone();
    world.call(CallAction::Update(info));
    world.expect(&expect![[r#"
        call-1: called at 4.0
    "#]]);
}

#[test]
fn framework_info_sent_after_a_failover_is_applied() {
    let mut world = World::with_offer();
    world.new_leader();
    let mut subscription = world.subscription_of(FRAMEWORK, &["1.1"]);
    subscription.info.failover_timeout_ms = 42;
    subscription.info.roles.insert(Role::new("ops").unwrap());
    world.subscribe_with(LinkId(3), subscription);
    world.expect(&expect![[r#"
        link-3 <- subscribed framework-1 session 101 epoch 4, kept 1.1
        link-3 <- unmet in ops: 1 no-link
    "#]]);
    let info = &world.registry.framework(FRAMEWORK).unwrap().info;
    assert_eq!((info.failover_timeout_ms, info.roles.len()), (42, 2));
}

#[test]
fn suppression_survives_a_failover_and_a_revive_ends_it() {
    let mut world = World::with_offer();
    world.call(CallAction::Suppress(Vec::new()));
    world.decline(&["1.1"], 0);
    world.clear_lines();
    world.new_leader();
    world.framework_returns(FRAMEWORK, &[]);
    world.agent_returns(AGENT);
    world.advance_with(3_000, &[LinkId(4)]);
    world.expect(&expect![[r#"
        link-3 <- subscribed framework-1 session 101 epoch 5
        link-4 <- registered agent-1, equal
    "#]]);
    world.call(CallAction::Revive(Vec::new()));
    world.expect(&expect![[r#"
        call-3: called at 6.0
        link-3 <- offers 5.1 * agent-1 cpus:4;mem:4096
    "#]]);
}

#[test]
fn a_framework_with_tasks_on_several_agents_is_kept_over_a_failover() {
    let mut world = World::with_running_task();
    let other = world.agent("cpus:1;mem:1024");
    world.clear_lines();
    world.accept("1.2", &["b"]);
    world.report(other, "b", 1, TaskState::Running);
    world.clear_lines();
    world.new_leader();
    for agent in 1..=2 {
        world.agent_returns(argosy_state::ids::AgentId(agent));
    }
    world.expect(&expect![[r#"
        link-4 <- registered agent-1, equal
        link-5 <- registered agent-2, equal
    "#]]);
    // Known, shown and ended without ever having returned.
    let frameworks: Vec<FrameworkId> = world.registry.frameworks().map(|one| one.id).collect();
    assert_eq!(frameworks, [FRAMEWORK]);
    assert_eq!(world.registry.tasks_of(FRAMEWORK).count(), 2);
    world.operate(OperatorOperation::Teardown(FRAMEWORK));
    world.expect(&expect![[r#"
        link-4 <- order 2 kill framework-1/a in 3000 ms
        link-5 <- order 2 kill framework-1/b in 3000 ms
        call-4: operated: done
    "#]]);
}

#[test]
fn a_scheduler_may_be_replaced_while_an_agent_is_unreachable() {
    let mut world = World::with_running_task();
    world.feed(Input::AgentClosed { link: LinkId(2) });
    let mut next = world.subscription_of(FRAMEWORK, &[]);
    next.session = 777;
    world.subscribe_with(LinkId(3), next);
    world.clear_lines();
    world.agent_returns(AGENT);
    world.expect(&expect![[r#"
        link-3 <- registered agent-1, equal
        link-3 <- offers 1.2 * agent-1 cpus:3;mem:4096
    "#]]);
    assert_eq!(world.state_of("a"), TaskState::Running);
}

#[test]
fn tasks_of_a_removed_framework_are_killed_when_their_agent_returns() {
    let mut world = World::with_running_task();
    world.feed(Input::AgentClosed { link: LinkId(2) });
    world.advance(15_000);
    world.operate(OperatorOperation::Teardown(FRAMEWORK));
    world.clear_lines();
    let mut hello = world.hello_of(AGENT);
    hello.floor = OrderIndex(1);
    let link = world.link();
    world.hello(link, hello);
    world.list(link, 1, &[("a", 1)]);
    world.expect(&expect![[r#"
        link-3 <- registered agent-1, different
        link-3 <- list your tasks
        link-3 <- order 2 kill framework-1/a in 3000 ms
    "#]]);
    world.report(link, "a", 2, TaskState::Killed);
    assert!(world.registry.framework(FRAMEWORK).is_none());
    world.clear_lines();
}

#[test]
fn a_stream_whose_framework_is_removed_in_the_same_entry_ends() {
    let mut world = World::new();
    world.slow_log();
    world.subscribe("web");
    world.operate(OperatorOperation::Teardown(FRAMEWORK));
    world.commit_together();
    world.expect(&expect![[r#"
        link-1 <- error removed: no framework-1 in this cluster: it was removed, or never was
        link-1 closed
        call-1: operated: done
    "#]]);
    world.shows_heartbeats = true;
    world.advance(3_000);
    world.expect_nothing();
}

#[test]
fn oversized_subscription_is_refused() {
    let mut world = World::new();
    world.slow_log();
    world.subscribe("web");
    world.too_large();
    world.expect(&expect![[r#"
        link-1 <- error refused: request: it takes 2000000 bytes in the log, more than an entry holds: split it
        link-1 closed
    "#]]);
}
