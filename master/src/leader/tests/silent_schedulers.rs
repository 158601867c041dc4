//! Tests of schedulers that stop sending heartbeats while their connections stay open.

use argosy_state::framework::{FrameworkInfo, SchedulerConnection};
use argosy_state::ids::FrameworkId;
use argosy_state::testing::framework_info;
use expect_test::expect;

use super::fixture::{FRAMEWORK, LIMITS, World, new_framework};
use crate::leader::Input;
use crate::links::LinkId;

/// Returns a world in which `framework-1` on link-1 sends heartbeats and holds offer 1.1 of all of
/// `agent-1`, which is on link-2.
fn with_heartbeats(failover_timeout_ms: u64) -> World {
    let mut world = World::new();
    let link = world.link();
    let info = FrameworkInfo {
        failover_timeout_ms,
        ..framework_info("web")
    };
    let mut subscription = new_framework(7, info);
    subscription.sends_heartbeats = true;
    world.subscribe_with(link, subscription);
    world.agent("cpus:4;mem:4096");
    world.clear_lines();
    world
}

fn heartbeat(world: &mut World, session: u64) {
    let request = world.request();
    world.feed(Input::FrameworkHeartbeat {
        request,
        framework: FRAMEWORK,
        session,
    });
}

fn connection(world: &World, id: FrameworkId) -> SchedulerConnection {
    world.registry.framework(id).unwrap().connection
}

#[test]
fn silent_scheduler_is_disconnected_and_its_offers_rescinded() {
    let mut world = with_heartbeats(60_000);
    world.subscribe("other");
    world.clear_lines();
    world.advance_with(14_900, &[LinkId(2)]);
    world.expect_nothing();
    world.advance_with(100, &[LinkId(2)]);
    world.expect(&expect![[r#"
        link-1 <- rescind 1.1: its scheduler sends no heartbeats
        link-1 closed
        link-3 <- offers 1.2 * agent-1 cpus:4;mem:4096
    "#]]);
    // The end of its connection is reported later, or never.
    world.feed(Input::FrameworkClosed { link: LinkId(1) });
    world.advance_with(LIMITS.framework_grace_ms - 100, &[LinkId(2)]);
    assert_eq!(
        connection(&world, FRAMEWORK),
        SchedulerConnection::Connected
    );
    world.advance_with(100, &[LinkId(2)]);
    assert_ne!(
        connection(&world, FRAMEWORK),
        SchedulerConnection::Connected
    );
    world.advance_with(60_100, &[LinkId(2)]);
    assert_eq!(world.registry.framework(FRAMEWORK), None);
    world.clear_lines();
}

#[test]
fn without_failover_timeout_a_silent_scheduler_is_removed_after_a_delay() {
    let mut world = with_heartbeats(0);
    world.advance_with(LIMITS.framework_timeout_ms, &[LinkId(2)]);
    assert!(world.registry.framework(FRAMEWORK).is_some());
    world.advance_with(LIMITS.framework_grace_ms, &[LinkId(2)]);
    assert_eq!(world.registry.framework(FRAMEWORK), None);
    world.clear_lines();
}

#[test]
fn heartbeats_keep_a_stream_open_without_log_entries() {
    let mut world = with_heartbeats(60_000);
    let entries = world.entries();
    for _ in 0..10 {
        world.advance_with(5_000, &[LinkId(2)]);
        heartbeat(&mut world, 7);
    }
    let said = world.take_lines();
    assert!(said.iter().all(|line| line.ends_with("heard")), "{said:?}");
    assert_eq!(world.entries(), entries);
}

#[test]
fn heartbeats_of_other_sessions_are_ignored() {
    let mut world = with_heartbeats(60_000);
    world.advance_with(10_000, &[LinkId(2)]);
    heartbeat(&mut world, 8);
    let request = world.request();
    world.feed(Input::FrameworkHeartbeat {
        request,
        framework: FrameworkId(9),
        session: 7,
    });
    world.expect(&expect![[r#"
        call-1: heard
        call-2: heard
    "#]]);
    world.advance_with(5_000, &[LinkId(2)]);
    let said = world.take_lines().join("\n");
    assert!(said.contains("link-1 closed"), "{said}");
}

#[test]
fn a_scheduler_without_heartbeats_is_not_disconnected() {
    let mut world = World::with_offer();
    world.advance_with(50_000, &[LinkId(2)]);
    world.expect_nothing();
}

#[test]
fn leader_pause_does_not_count_as_scheduler_silence() {
    let mut world = with_heartbeats(60_000);
    world.advance_with(14_000, &[LinkId(2)]);
    world.pause();
    world.advance_with(14_900, &[LinkId(2)]);
    world.expect_nothing();
    world.advance_with(100, &[LinkId(2)]);
    let said = world.take_lines().join("\n");
    assert!(said.contains("link-1 closed"), "{said}");
}

#[test]
fn the_next_stream_of_a_silent_scheduler_has_its_own_timeout() {
    let mut world = with_heartbeats(60_000);
    world.advance_with(10_000, &[LinkId(2)]);
    let mut subscription = world.subscription_of(FRAMEWORK, &["1.1"]);
    subscription.sends_heartbeats = true;
    world.subscribe_with(LinkId(3), subscription);
    world.expect(&expect![[r#"
        link-1 closed
        link-3 <- subscribed framework-1 session 7 epoch 1, kept 1.1
    "#]]);
    world.advance_with(14_900, &[LinkId(2)]);
    world.expect_nothing();
    world.advance_with(100, &[LinkId(2)]);
    world.expect(&expect![[r#"
        link-3 <- rescind 1.1: its scheduler sends no heartbeats
        link-3 closed
    "#]]);
}
