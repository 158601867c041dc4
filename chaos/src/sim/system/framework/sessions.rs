//! Sessions of frameworks: begun, superseded by a rival, or begun as a new framework after a
//! removal.

use std::time::Duration;

use argosy_client::scheduler::{SchedulerConfig, SchedulerError, run};
use argosy_client::{ConnectorConfig, Masters};
use tokio_util::sync::CancellationToken;

use super::{SimFramework, SimFrameworkBehaviour};
use crate::sim::network;
use crate::sim::system::administrator;
use crate::sim::system::world::{
    HeldOffers, RIVAL, SHORT_FAILOVER_MS, SingleFault, World, framework_name,
};

/// Timeout of the offers of a framework that declines most of them, in milliseconds. Some expire in
/// each simulation.
const SHORT_OFFER_MS: u64 = 3_000;

/// Returns the failover timeout of a framework, in milliseconds: by its index, and by seed.
pub(super) fn failover_timeout_ms(world: &World, place: usize) -> u64 {
    const LONG: u64 = 3_600_000;
    match (SimFrameworkBehaviour::of(place), world.seed % 3) {
        (SimFrameworkBehaviour::Crasher, _) if world.single_fault == SingleFault::FrameworkLoss => {
            SHORT_FAILOVER_MS
        }
        (SimFrameworkBehaviour::Crasher, 0) => 0,
        (SimFrameworkBehaviour::Crasher, 1) => SHORT_FAILOVER_MS,
        _ => LONG,
    }
}

/// Runs a scheduler from its start until it is killed. After a removal it subscribes as a new
/// framework.
pub(in crate::sim::system) async fn framework(world: World, place: usize) -> turmoil::Result {
    loop {
        let is_over = scheduler(&world, place, framework_name(place)).await;
        if is_over {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Runs a second scheduler, which takes a framework over while the first one lives, and is
/// superseded again.
pub(in crate::sim::system) async fn rival(world: World) -> turmoil::Result {
    let rival = world.state().rival;
    if let Some(place) = rival {
        scheduler(&world, place, RIVAL.to_owned()).await;
    }
    std::future::pending().await
}

/// Runs one session. Returns whether it was ended on purpose.
async fn scheduler(world: &World, place: usize, name: String) -> bool {
    let mut rng = world.new_incarnation(&name);
    // Before that, no framework may register.
    administrator::await_rules(world).await;
    let masters = Masters::new(world.masters()).expect("the addresses are valid");
    let mut config = SchedulerConfig::new(masters, &framework_name(place));
    config.connector = ConnectorConfig {
        dialer: network::dialer(&name, &world.cuts),
        seed: rng.next(),
    };
    config.session = rng.next().max(1);
    config.info.failover_timeout_ms = Some(failover_timeout_ms(world, place));
    if SimFrameworkBehaviour::of(place) == SimFrameworkBehaviour::Decliner {
        config.info.offer_timeout_ms = SHORT_OFFER_MS;
    }
    config.tick = Duration::from_millis(300);
    config.first_subscription = None;
    config.framework_id = world
        .state()
        .frameworks
        .entry(place)
        .or_default()
        .framework
        .clone();
    let held = HeldOffers {
        session: config.session,
        ..HeldOffers::default()
    };
    world.state().held.insert(place, held);
    let mut scheduler = SimFramework::new(world, place, name, config.session, rng);
    match run(&mut scheduler, config, CancellationToken::new()).await {
        // The message was for an earlier incarnation and was delayed by the network, or the
        // framework has a rival.
        Err(SchedulerError::Superseded(why)) => {
            if world.state().had_rival.contains(&place) {
                world.notes.count("schedulers superseded");
                tokio::time::sleep(Duration::from_secs(2)).await;
            } else {
                let message = format!(
                    "{}: the newest session is superseded: {why}",
                    scheduler.name
                );
                world.notes.violation(message);
            }
        }
        Err(SchedulerError::Removed(_)) => {
            world.notes.count("frameworks registered again");
            world.state().frameworks.remove(&place);
        }
        Err(error) => {
            let message = format!("{} ended: {error}", scheduler.name);
            world.notes.violation(message);
        }
        Ok(()) => return true,
    }
    false
}
