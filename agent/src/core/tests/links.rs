//! Tests of fencing, registration, lists and heartbeats.

use argosy_proto::v1;
use argosy_proto::v1::to_agent::Message as ToAgent;
use argosy_proto::versions::VersionRange;
use argosy_state::digest::DigestKind;

use super::groups::{fetched, member};
use super::world::CoreFixture;
use crate::core::{CommandStatus, Input};
use crate::wire;

#[test]
fn the_first_hello_waits_until_its_incarnation_is_durable() {
    let mut world = CoreFixture::new();
    world.expect_all(&["persist epoch 0 run 1", "persist epoch 0 run 1"]);
    world.sync();
    world.expect_all(&["dial"]);
    let identity = &world.core.facts().identity;
    assert_ne!(identity.nonce, 0);
    assert_eq!(identity.unconfirmed.len(), 1);
}

#[test]
fn confirmed_incarnations_are_not_sent_again() {
    let world = CoreFixture::registered();
    let identity = &world.core.facts().identity;
    assert_ne!(identity.confirmed, 0);
    assert!(identity.unconfirmed.is_empty());
}

#[test]
fn a_lower_epoch_is_refused() {
    let mut world = CoreFixture::running();
    world.epoch = 4;
    world.launch(2, "late");
    world.sync();
    world.expect(&[
        "hang up: refused: epoch 4 has ended, epoch 5 was seen",
        "dial",
    ]);
    assert_eq!(world.core.facts().floor.0, 1);
}

#[test]
fn a_higher_epoch_is_durable_before_its_messages_take_effect() {
    let mut world = CoreFixture::running();
    world.epoch = 6;
    world.kill(2, "web", 0);
    world.expect_all(&["persist epoch 6 run 1", "persist order 2: kill 1"]);
    world.sync();
    world.expect(&["kill 1 in 0"]);
}

#[test]
fn a_master_without_a_common_protocol_version_is_rejected() {
    let registered = |oldest, newest| {
        let versions = VersionRange { oldest, newest };
        let mut world = CoreFixture::new();
        world.connect();
        world.discard_effects();
        world.receive(ToAgent::Registered(v1::Registered {
            agent_id: "agent-1".into(),
            incarnation: world.core.facts().identity.unconfirmed[0],
            heartbeat_interval_ms: 1_000,
            equal: true,
            protocol: Some(versions.first_message()),
            ticket_keys: Vec::new(),
        }));
        world.sync();
        world
    };
    let newest = VersionRange::OWN.newest;
    let world = registered(newest + 1, newest + 2);
    let release = env!("CARGO_PKG_VERSION");
    let why = format!(
        "hang up: this agent refuses the master (protocol-version): protocol: the master of release {release:?} speaks versions 2 to 3 of argosy.v1, and this program version 1: upgrade this program"
    );
    assert!(world.effects.contains(&why), "{:?}", world.effects);
    assert_eq!(world.core.facts().identity.agent, None);
    let world = registered(1, newest + 1);
    assert!(world.core.facts().identity.agent.is_some());
}

#[test]
fn a_master_of_another_cluster_is_refused() {
    let mut world = CoreFixture::running();
    let message = wire::from_master(v1::ToAgent {
        epoch: 99,
        cluster_id: "000000000000000000000000000000bb".into(),
        message: Some(ToAgent::Shutdown(v1::Shutdown::default())),
    });
    let message = Box::new(message);
    world.feed(Input::Message { link: 1, message });
    world.sync();
    assert_eq!(world.effects.len(), 2, "{:?}", world.effects);
    assert!(
        world.effects[0].contains("this agent belongs to"),
        "{:?}",
        world.effects
    );
    assert_eq!(world.core.facts().identity.epoch.0, 5);
}

#[test]
fn revoked_keys_of_the_master_are_passed_on_without_malformed_ones() {
    let mut world = CoreFixture::running();
    world.discard_effects();
    world.receive(ToAgent::RevokedKeys(v1::RevokedKeys {
        key_hashes: vec![vec![7; 32], Vec::new(), vec![8; 33], vec![9; 32]],
    }));
    assert_eq!(world.effects, ["revoke 2 keys"]);
}

#[test]
fn messages_of_a_previous_link_are_ignored() {
    let mut world = CoreFixture::running();
    world.feed(Input::Disconnected {
        link: 1,
        why: "gone".into(),
    });
    world.register(true);
    world.discard_effects();
    world.link = 1;
    world.kill(2, "web", 0);
    world.expect_all(&[]);
}

#[test]
fn an_order_before_the_registration_closes_the_link() {
    let mut world = CoreFixture::new();
    world.connect();
    world.discard_effects();
    world.launch(1, "web");
    world.sync();
    assert_eq!(world.core.facts().floor.0, 0);
    assert!(
        world.effects.iter().any(|line| line.starts_with("hang up")),
        "{:?}",
        world.effects
    );
}

/// Returns a refused agent, and its wait before it dials again, in milliseconds.
fn refused(code: &str) -> (CoreFixture, u64) {
    let mut world = CoreFixture::new();
    world.connect();
    world.discard_effects();
    world.receive(ToAgent::Refused(v1::RefusedAgent {
        code: code.into(),
        text: "no".into(),
    }));
    world.sync();
    let hang_up = format!("hang up: the master refuses this agent ({code}): no");
    world.expect(&[&hang_up, "dial"]);
    let after_ms = world.dialled_after_ms;
    (world, after_ms)
}

#[test]
fn a_rejected_agent_retries_later() {
    let (_, after_ms) = refused("clone");
    assert_eq!(after_ms, 5_000);
}

/// As in seed 1200091 of the simulation: the agent reconnected to a leader that did not know yet
/// that it was replaced, waited five seconds after its rejection, and was considered lost by then.
#[test]
fn an_agent_that_a_former_leader_refuses_asks_another_master_at_once() {
    let (_, after_ms) = refused("epoch-above");
    assert!(after_ms <= 15, "{after_ms} ms");
}

#[test]
fn an_agent_disconnects_from_a_silent_master() {
    let mut world = CoreFixture::running();
    world.wait(2_000);
    world.discard_effects();
    world.wait(1_001);
    world.sync();
    assert!(
        world.effects[0].starts_with("hang up: no message from the master for"),
        "{:?}",
        world.effects
    );
    assert_eq!(world.effects.last().unwrap(), "dial");
}

#[test]
fn a_link_with_heartbeats_stays_open() {
    let mut world = CoreFixture::running();
    for serial in 1..=20 {
        world.wait(1_000);
        world.receive(ToAgent::Pong(v1::Ping { serial }));
    }
    assert!(world.core.is_registered());
    assert_eq!(
        world.effects.len(),
        20,
        "a ping each second and nothing else: {:?}",
        world.effects
    );
}

#[test]
fn a_task_list_is_sorted_chunked_and_contains_its_floor() {
    let mut world = CoreFixture::registered();
    for order in 1..=501 {
        world.launch(order, &format!("t-{}", 1_000 - order));
    }
    world.sync();
    world.discard_effects();
    world.receive(ToAgent::ListTasks(v1::ListTasks {}));
    assert_eq!(world.effects.len(), 2);
    assert!(
        world.effects[0].starts_with("list at 501: framework-1/t-499:501 framework-1/t-500:500")
    );
    assert_eq!(world.effects[1], "list at 501: framework-1/t-999:1 last");
}

#[test]
fn frameworks_are_sorted_by_number_and_empty_lists_are_sent() {
    let mut world = CoreFixture::registered();
    world.receive(ToAgent::ListTasks(v1::ListTasks {}));
    world.expect(&["list at 0:  last"]);
    for (order, framework) in [(1, "framework-10"), (2, "framework-9")] {
        world.order(
            order,
            v1::order::Order::Launch(v1::LaunchOrder {
                framework_id: framework.into(),
                spec: Some(super::world::spec("t")),
                ..v1::LaunchOrder::default()
            }),
        );
    }
    world.receive(ToAgent::ListTasks(v1::ListTasks {}));
    world.expect(&[]);
    world.sync();
    let list = world
        .effects
        .iter()
        .find(|line| line.starts_with("list"))
        .unwrap();
    assert_eq!(
        list, "list at 2: framework-9/t:2 framework-10/t:1 last",
        "and not before it is on disk"
    );
}

#[test]
fn orphans_are_killed_without_updates_and_not_listed() {
    let mut world = CoreFixture::running();
    world.receive(ToAgent::KillStray(v1::KillStray {
        framework_id: "framework-1".into(),
        task_id: "web".into(),
        order_index: 1,
    }));
    world.expect_all(&["persist stray 1"]);
    world.sync();
    world.receive(ToAgent::ListTasks(v1::ListTasks {}));
    world.expect(&["kill 1 in 3000", "list at 1:  last"]);
    world.exited(1, CommandStatus::Signal(15));
    world.report();
    world.expect(&["destroy 1-1-1"]);
}

#[test]
fn a_shutdown_kills_all_tasks_before_the_agent_registers_as_a_new_one() {
    let mut world = CoreFixture::running();
    let former = world.core.facts().identity.clone();
    world.receive(ToAgent::Shutdown(v1::Shutdown {
        reason: "gone".into(),
    }));
    world.sync();
    world.expect(&[
        "hang up: ordered to end all tasks and register again: gone",
        "kill 1 in 3000",
    ]);
    world.exited(1, CommandStatus::Signal(15));
    world.expect(&["destroy 1-1-1"]);
    world.destroyed(1);
    world.sync();
    world.expect(&["dial"]);
    let identity = &world.core.facts().identity;
    assert_eq!((identity.agent, identity.confirmed), (None, 0));
    assert_ne!(identity.nonce, former.nonce);
    assert_eq!(
        (identity.epoch, identity.cluster),
        (former.epoch, former.cluster)
    );
    assert_eq!(
        (
            world.core.facts().floor.0,
            world.core.facts().digests.of(DigestKind::Task)
        ),
        (0, 0)
    );
}

#[test]
fn an_agent_registers_as_a_new_one_when_its_former_groups_are_released() {
    let mut world = CoreFixture::registered();
    world.launch_spec(1, member("a", 0, 1));
    world.sync();
    fetched(&mut world, 1, Ok(()));
    world.started(1);
    world.receive(ToAgent::Shutdown(v1::Shutdown::default()));
    world.sync();
    world.exited(1, CommandStatus::Signal(15));
    world.discard_effects();
    world.destroyed(1);
    world.sync();
    world.expect(&["destroy group 1-1-0"]);
    let name = "1-1-0".parse().unwrap();
    world.feed(Input::Destroyed { name });
    world.sync();
    world.expect(&["dial"]);
}
