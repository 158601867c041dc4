//! An agent of a lost cluster under a restored one.

use argosy_proto::v1;
use argosy_proto::v1::to_agent::Message as ToAgent;
use argosy_state::ids::ClusterId;
use metrics_exporter_prometheus::PrometheusBuilder;

use super::tasks::last_update;
use super::world::{CoreFixture, instance};
use crate::core::{Adoption, Input, RecoveredContainer};

const RESTORED: &str = "000000000000000000000000000000bb";

/// Returns an agent with the running tasks "web" and "db" under orders 1 and 2, whose link has
/// ended. All updates are committed.
fn lost(adoption: Option<Adoption>) -> CoreFixture {
    let mut world = CoreFixture::running();
    world.launch(2, "db");
    world.sync();
    world.started(2);
    world.report();
    world.committed(2, "db", 1, false);
    world.core.config.adoption = adoption;
    let link = world.link;
    let why = "the masters are lost".to_owned();
    world.feed(Input::Disconnected { link, why });
    world.cluster = RESTORED;
    world.epoch = 2;
    world.discard_effects();
    world
}

fn adoption(ends_quarantine: bool) -> Adoption {
    Adoption {
        cluster: RESTORED.parse().unwrap(),
        ends_quarantine,
    }
}

/// Returns the same agent after the restored cluster has registered it.
fn followed(ends_quarantine: bool) -> CoreFixture {
    let mut world = lost(Some(adoption(ends_quarantine)));
    world.register(false);
    world
}

fn stray(world: &mut CoreFixture, task: &str, order_index: u64) {
    world.receive(ToAgent::KillStray(v1::KillStray {
        framework_id: "framework-1".into(),
        task_id: task.into(),
        order_index,
    }));
    world.sync();
}

fn kills(world: &mut CoreFixture) -> Vec<String> {
    let effects = world.take_effects().into_iter();
    effects
        .filter(|effect| effect.starts_with("kill"))
        .collect()
}

/// Returns the orders of these tasks, which the metric counts, too.
fn quarantined(world: &CoreFixture) -> Vec<u64> {
    let all = world.core.containers();
    let quarantined = all.iter().filter(|container| container.quarantined);
    let orders: Vec<u64> = quarantined.map(|container| container.order).collect();
    let recorder = PrometheusBuilder::new().build_recorder();
    metrics::with_local_recorder(&recorder, || crate::metrics::publish_containers(&all));
    let line = format!("argosy_agent_quarantined_containers {}", orders.len());
    let page = recorder.handle().render();
    assert!(page.contains(&line), "{line} is not in {page}");
    orders
}

#[test]
fn a_restored_cluster_is_refused_until_the_operator_confirms() {
    let mut world = lost(None);
    world.register(false);
    assert!(!world.core.is_registered());
    let other = Adoption {
        cluster: ClusterId(0xcc),
        ..adoption(false)
    };
    let mut world = lost(Some(other));
    world.register(false);
    assert!(!world.core.is_registered());
    // Only a registration proves that the master knows this agent.
    let mut world = lost(Some(adoption(false)));
    world.connect();
    world.receive(ToAgent::Shutdown(v1::Shutdown::default()));
    world.sync();
    assert_eq!(kills(&mut world), Vec::<String>::new());
    assert_ne!(world.core.facts().identity.cluster, Some(ClusterId(0xbb)));
}

#[test]
fn a_follower_starts_epochs_anew_and_reports_every_task_again() {
    let mut world = followed(false);
    let identity = &world.core.facts().identity;
    assert_eq!(identity.cluster, Some(ClusterId(0xbb)));
    assert_eq!(identity.epoch.0, 2);
    assert_eq!(world.core.facts().floor.0, 2, "orders continue");
    let updates = world.core.facts().tasks.values();
    let numbers: Vec<_> = updates
        .map(|task| (task.newest_update, task.committed))
        .collect();
    assert_eq!(numbers, [(2, 1), (2, 1)]);
    world.check_snapshot();
    // It does not follow the same cluster twice.
    assert_eq!(world.core.confirmed_successor(), None);
    // The next order of the new leader is taken.
    world.launch(3, "next");
    world.sync();
    assert_eq!(world.core.facts().floor.0, 3);
}

#[test]
fn tasks_that_the_restored_registry_lacks_are_kept_and_shown() {
    let mut world = followed(false);
    world.committed(1, "web", 2, false);
    stray(&mut world, "db", 2);
    assert_eq!(kills(&mut world), Vec::<String>::new());
    assert_eq!(quarantined(&world), [2]);
    // The registry answers updates of unknown tasks so.
    world.committed(2, "db", 2, true);
    world.sync();
    assert_eq!(kills(&mut world), Vec::<String>::new());
    // A task that the registry has is one like any other from then on.
    stray(&mut world, "web", 1);
    assert_eq!(kills(&mut world), ["kill 1 in 3000"]);
    world.check_snapshot();
}

#[test]
fn a_quarantined_task_that_ends_is_cleaned_up() {
    let mut world = followed(false);
    stray(&mut world, "db", 2);
    world.exited(2, crate::core::CommandStatus::Code(0));
    world.report();
    let last = world.core.facts().tasks[&instance(2)].newest_update;
    world.committed(2, "db", last, true);
    world.sync();
    let effects = world.take_effects();
    assert!(
        effects.iter().any(|effect| effect.starts_with("destroy")),
        "{effects:?}"
    );
    assert_eq!(quarantined(&world), Vec::<u64>::new());
}

#[test]
fn a_launch_of_the_former_cluster_that_never_started_is_not_started() {
    let mut world = CoreFixture::registered();
    world.launch(1, "web");
    let mut world = world.restart_synced("boot-1");
    world.core.config.adoption = Some(adoption(false));
    world.cluster = RESTORED;
    world.epoch = 2;
    world.found(1, RecoveredContainer::NeverStarted);
    world.sync();
    world.register(false);
    world.report();
    assert!(world.core.is_registered());
    let effects = world.take_effects();
    let starts = |effect: &&String| effect.starts_with("start");
    assert_eq!(effects.iter().find(starts), None);
    assert_eq!(last_update(&world, 1).state(), v1::TaskState::Failed);
}

#[test]
fn the_operator_can_have_such_tasks_ended() {
    let mut world = followed(true);
    stray(&mut world, "db", 2);
    assert_eq!(kills(&mut world), ["kill 2 in 3000"]);
}
