//! The processes of masters and agents: one incarnation of each, with the `run` functions that the
//! executable calls.

use std::path::PathBuf;

use argosy_agent::{BootClock, Environment, SimulatedHost};
use argosy_client::ConnectorConfig;
use argosy_raft::{NodeEnvironment, SnapshotPolicy, Timing};
use argosy_state::level::Level;
use futures::future::{FutureExt as _, LocalBoxFuture};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::agent_observer::AgentObserver;
use super::containers::SimContainers;
use super::machine::{CAPACITY, COPY, SimMachine};
use super::world::{AGENT_API, API, RAFT, World, agent_name, master_name};
use crate::rng::Rng;
use crate::sim::network::{self, ProcessEndpoint};
use crate::sim::run::now_ms;

/// The agent timeout, in milliseconds. It is short, so that much happens in little time.
pub(super) const AGENT_TIMEOUT_MS: u64 = 3_000;
/// The maximum time of an executor without a stream, in milliseconds.
const EXECUTOR_TIMEOUT_MS: u64 = 2_000;
/// The maximum silence of a scheduler, in milliseconds.
const FRAMEWORK_TIMEOUT_MS: u64 = 3_000;
/// The maximum time of a framework without a stream, in milliseconds.
pub(super) const FRAMEWORK_GRACE_MS: u64 = 2_000;

/// Runs a master from its start until it is killed.
pub(super) async fn master(world: World, place: usize) -> turmoil::Result {
    let name = master_name(place);
    let rng = world.new_incarnation(&name);
    let own = world.clone();
    let main = move |chance, seat| run_master(own, place, chance, seat).boxed_local();
    run_process(&world, &name, rng, [API, RAFT], main).await
}

/// Runs a separate process on this host, until it ends by itself.
async fn run_process<const PORTS: usize>(
    world: &World,
    name: &str,
    mut rng: Rng,
    ports: [u16; PORTS],
    main: impl FnOnce(Rng, ProcessEndpoint<PORTS>) -> LocalBoxFuture<'static, String> + Send + 'static,
) -> turmoil::Result {
    let (host, endpoint) = network::endpoints(name, (&world.cuts, &world.keys), ports);
    let seed = rng.next();
    let main = Box::new(move || main(rng, endpoint));
    let ended = tokio::select! {
        words = world.starts.run(name, seed, main) => words,
        error = host.run() => error.to_string(),
    };
    Err(format!("{name} ended: {ended}").into())
}

/// Returns the configuration of a master.
fn config(world: &World, place: usize, rng: &mut Rng) -> argosy_master::MasterConfig {
    let address = |place, port| format!("{}:{port}", master_name(place));
    let mut config = argosy_master::MasterConfig::new(
        PathBuf::from("/nowhere"),
        address(place, API),
        address(place, RAFT),
    );
    // A master that joins later names the founders and itself.
    config.peers = (0..world.stores.len())
        .filter(|one| *one < world.founders || *one == place)
        .map(|place| address(place, RAFT))
        .collect();
    config.timing = Timing::testing();
    // Small, so that snapshots are made and sent often.
    config.snapshot = SnapshotPolicy {
        entries: 40,
        bytes: 4 << 20,
    };
    config.agent_timeout_ms = AGENT_TIMEOUT_MS;
    config.framework_timeout_ms = FRAMEWORK_TIMEOUT_MS;
    config.framework_grace_ms = FRAMEWORK_GRACE_MS;
    config.enforces_access = world.enforces_access;
    config.leader_lease_ms = world.single_fault.lease_ms();
    if world.raise_at.is_some() {
        config.initial_level = Level::RELEASE_0_1;
    }
    config.seed = rng.next();
    config
}

/// Runs a master. Returns why it ended.
async fn run_master(
    world: World,
    place: usize,
    mut rng: Rng,
    endpoint: ProcessEndpoint<2>,
) -> String {
    let config = config(&world, place, &mut rng);
    let mut entropy = [0; 32];
    for part in entropy.chunks_mut(8) {
        part.copy_from_slice(&rng.next().to_be_bytes());
    }
    let [api, listener] = endpoint.listeners;
    let parts = argosy_master::MasterParts {
        api,
        raft: NodeEnvironment {
            listener,
            dialer: endpoint.dialer.clone(),
            wall: world.clocks.of(&master_name(place)),
        },
        masters: endpoint.dialer.clone(),
        agents: endpoint.dialer,
        raft_runtime: Handle::current(),
        readers: Handle::current(),
        memory: Some(world.stores[place].clone()),
        metrics: None,
        entropy,
        serving: None,
    };
    let mut freezes = world.freezes.subscribe();
    let frozen = async {
        while freezes.changed().await.is_ok() {
            let gap = *freezes.borrow_and_update();
            tokio::time::advance(gap).await;
        }
        std::future::pending::<()>().await;
    };
    let ended = tokio::select! {
        ended = argosy_master::run(config, parts, CancellationToken::new()) => ended,
        () = frozen => Ok(()),
    };
    if world.stores[place].is_broken() {
        // As intended: it stops until an operator has repaired the disk.
        world.notes.count("masters stopped by their disk");
        return std::future::pending().await;
    }
    ended.map_or_else(
        |why| error_chain(&why),
        |()| "it was not requested".to_owned(),
    )
}

/// Runs an agent from its start until it is killed.
pub(super) async fn agent(world: World, place: usize) -> turmoil::Result {
    let machine = world.machines[place].clone();
    serve(world, agent_name(place), machine).await
}

/// Runs a host with a copy of another one's disk, once there is one.
pub(super) async fn copy(world: World) -> turmoil::Result {
    let copied = world.state().copy.clone();
    match copied {
        Some(machine) => serve(world, COPY.to_owned(), machine).await,
        None => std::future::pending().await,
    }
}

async fn serve(world: World, name: String, machine: SimMachine) -> turmoil::Result {
    let rng = world.new_incarnation(&name);
    let (own, named) = (world.clone(), name.clone());
    let main = move |chance, seat| run_agent(own, named, machine, chance, seat).boxed_local();
    run_process(&world, &name, rng, [AGENT_API], main).await
}

/// Runs an agent. Returns why it ended.
async fn run_agent(
    world: World,
    name: String,
    machine: SimMachine,
    mut rng: Rng,
    endpoint: ProcessEndpoint<1>,
) -> String {
    let mut config = argosy_agent::Config::new(
        PathBuf::from("/nowhere"),
        world.masters(),
        format!("{name}:{AGENT_API}"),
    );
    config.host_name.clone_from(&name);
    config.resources = CAPACITY.parse().expect("the text is constant");
    config.seed = rng.next().max(1);
    config.executor_registration_timeout_ms = EXECUTOR_TIMEOUT_MS;
    let (clock, containers) = (machine.clone(), machine.clone());
    let (disk, notes) = (machine.disk.clone(), world.notes.clone());
    let agent_observer = AgentObserver::new(machine.clone(), world.clone());
    let made_up = SimulatedHost {
        boot_id: machine.boot_id(),
        boot_clock: BootClock::new(move || clock.boot_now(now_ms())),
        wall_clock: world.clocks.of(&name),
        disk: machine.disk.clone(),
        containers: Box::new(move |events, known| {
            Box::new(SimContainers::new(containers, notes, events, &known))
        }),
        observer: Box::new(agent_observer),
    };
    let [api] = endpoint.listeners;
    let parts = argosy_agent::AgentDependencies {
        api,
        environment: Environment::Simulated(made_up),
        connector: ConnectorConfig {
            dialer: endpoint.dialer,
            seed: rng.next(),
        },
        metrics: None,
        end_tasks: CancellationToken::new(),
        serving: None,
    };
    let ended = argosy_agent::run(config, parts, CancellationToken::new()).await;
    if disk.is_broken() {
        // As intended: it stops until an operator has repaired the disk.
        world.notes.count("agents stopped by their disk");
        return std::future::pending().await;
    }
    ended.map_or_else(
        |why| error_chain(&why),
        |()| "it was not requested".to_owned(),
    )
}

fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
