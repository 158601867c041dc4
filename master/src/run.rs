//! The assembly of one master: raft, the owner, services, one port. The only module that spawns.

mod surface;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use argosy_proto::metric_list;
use argosy_proto::server::{self, PortLimits as Connections};
use argosy_proto::transport::{Dialer, Listener};
use argosy_proto::v1::agents_server::AgentsServer;
use argosy_proto::v1::certificates_server::CertificatesServer;
use argosy_proto::v1::leadership_server::LeadershipServer;
use argosy_proto::v1::operator_server::OperatorServer;
use argosy_proto::v1::reigns_server::ReignsServer;
use argosy_proto::v1::scheduler_server::SchedulerServer;
use argosy_raft::{MemoryStore, Node, NodeConfig, NodeEnvironment, OwnerRequest, StartError};
use argosy_state::Registry;
use argosy_state::access::AccessFacts;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{error, info, warn};

use crate::api_router::ApiRouter;
use crate::change_ring::{self, ChangeRing};
use crate::comparison::{self, DigestComparison};
use crate::config::{LeaderTimeouts, MasterConfig};
use crate::error::MasterError;
use crate::inbox::{Inbox, LeaderStatus, OwnerCalls, StateQuery};
use crate::metrics::OwnerCounts;
use crate::owner_handle::OwnerHandle;
use crate::peer_revocation::PeerRevocation;
use crate::reads::{ReadBounds, ReadLimiter};
use crate::replica::{self, PublishedState, Replica};
use crate::service;
use crate::service::{MESSAGE_BYTES, MasterConnections, Services, health};
use crate::views::SharedView;
use crate::watchdog::{TurnCounter, Watchdog};
use crate::{http, lag, metrics};
use surface::{HttpFront, front, open_audit, services};

/// Parts of a master that its caller provides.
pub struct MasterParts {
    /// The listener of the API.
    pub api: Listener,
    /// Raft's listener, its connections to other masters, and its clock.
    pub raft: NodeEnvironment,
    /// The dialer of other masters' APIs.
    pub masters: Dialer,
    /// The dialer of agents' APIs, for HTTP/1.1.
    pub agents: Dialer,
    /// The runtime of raft and of the owner of the registry, preferably with one thread, so that a
    /// flood on the API cannot cost leadership.
    pub raft_runtime: Handle,
    /// The runtime that builds pages of lists: one thread that yields to all others is enough.
    pub readers: Handle,
    /// A store for log, registry and snapshots that replaces the directory, for simulations.
    pub memory: Option<MemoryStore>,
    /// The renderer of metrics; without it, `/metrics` returns 404.
    pub metrics: Option<PrometheusHandle>,
    /// Random bytes, new at every start.
    pub entropy: [u8; 32],
    /// Receives the turns of the owner's loop as soon as the API is served. A master that is
    /// stopped before drops it.
    pub serving: Option<oneshot::Sender<Arc<TurnCounter>>>,
}

/// Capacity for requests of raft to the owner. Raft waits for each answer, so there are never more.
const RAFT_REQUESTS: usize = 4;
/// Capacity for messages of links to the owner; senders wait when it is full.
const INBOX: usize = 16_384;
/// Capacity for queries of readers; readers wait when it is full.
const QUERIES: usize = 64;
/// Time for which a new leader waits for frameworks to present the offers that they hold, in
/// milliseconds.
const RESUME_MS: u64 = 100;
/// Time for which open calls may continue when this master stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// Runs a master until `stop`, after which it transfers leadership and ends.
///
/// # Errors
/// If the master cannot start, or must not continue.
pub async fn run(
    config: MasterConfig,
    parts: MasterParts,
    stop: CancellationToken,
) -> Result<(), MasterError> {
    metric_list::describe();
    let directory = parts.memory.is_none().then(|| config.directory.clone());
    let ended = lead_or_follow(config, parts, stop).await;
    if let (Err(MasterError::Diverged(why)), Some(directory)) = (&ended, directory) {
        // A restart would serve an incorrect registry.
        if let Err(source) = argosy_raft::forbid_start(&directory, &why.to_string()) {
            error!(%source, directory = %directory.display(), "this master must not be started again, and this cannot be recorded in its directory");
        }
    }
    ended
}

async fn lead_or_follow(
    config: MasterConfig,
    parts: MasterParts,
    stop: CancellationToken,
) -> Result<(), MasterError> {
    let (owner, mut requests) = mpsc::channel(RAFT_REQUESTS);
    let raft_stop = CancellationToken::new();
    let (access, access_seen) = watch::channel(AccessFacts::default());
    let parts = without_revoked(parts, access_seen);
    let peers = MasterConnections::new(parts.masters.clone());
    let asked = MasterConnections::new(parts.masters);
    let has_threads = parts.memory.is_none();
    let stopped = raft_stop.clone();
    let starting = starting(config.clone(), parts.memory, parts.raft, owner, stopped);
    let starting = parts.raft_runtime.spawn(starting);
    let mut api = parts.api;
    let (node, registry) = tokio::select! {
        loaded = load(starting, (&mut requests, &access), &stop, &raft_stop) => loaded?,
        never = reject_connections(&mut api) => match never {},
    };
    let loaded = (registry, access);
    let RegistryOwner {
        replica,
        handle,
        inbox,
        queries,
        transfers,
        turn_counter,
    } = owner_of(&config, &node, loaded, (parts.entropy, parts.readers));
    let (audit, _audit_writer) = open_audit(&config)?;
    let replica = replica.with_threads(has_threads);
    let watchdog = run_watched(turn_counter.clone(), &node, has_threads)?;
    let _probe = AbortOnDropHandle::new(tokio::spawn(lag::probe(handle.inbox.clone())));
    let _sweeper = AbortOnDropHandle::new(handle.readers.spawn(handle.encodings.clone().sweep()));
    let others = vec![handle.reconciliations.clone()];
    let cutter = handle.reads.clone().cut_off_slow_readers(others);
    let _cutter = AbortOnDropHandle::new(tokio::spawn(cutter));
    let served = CancellationToken::new();
    let services = services(&config, handle, (peers, parts.agents));
    let _hub = run_feed(&services);
    let _exchange = run_exchange(&services, asked);
    let front = front(&config, &services, (parts.metrics, &parts.entropy), audit);
    let mut server = tokio::spawn(serve(services, api, front, served.clone()));
    // The receiver may have been dropped.
    let _ = parts.serving.map(|serving| serving.send(turn_counter));
    let hands = tokio::spawn(transfer_on_request(node.clone(), transfers));
    let inboxes = (requests, inbox, queries);
    let owner = run_owner(replica, inboxes, node.clone(), stop.clone());
    let mut owner = AbortOnDropHandle::new(parts.raft_runtime.spawn(owner));
    let ended = tokio::select! {
        ended = &mut owner => ended.unwrap_or_else(|why| Err(MasterError::Failed(format!("the owner of the registry ended: {why}")))),
        // The server ends only when it is stopped, and by then the owner has ended.
        ended = &mut server => Err(MasterError::Failed(format!("the API ended: {ended:?}"))),
    };
    drop(watchdog);
    served.cancel();
    hands.abort();
    node.stop().await;
    raft_stop.cancel();
    if !server.is_finished()
        && let Ok(Err(source)) = server.await
    {
        warn!(%source, "the API ended with an error");
    }
    ended
}

/// Returns the same parts, without connections of members whose keys these facts revoke.
fn without_revoked(parts: MasterParts, access: watch::Receiver<AccessFacts>) -> MasterParts {
    let revocation = PeerRevocation::new(access, parts.raft.wall.clone());
    MasterParts {
        raft: revocation.guard(parts.raft),
        masters: revocation.dialer(parts.masters),
        agents: revocation.dialer(parts.agents),
        ..parts
    }
}

/// Returns the seed of ids of requests. Ids are public, and the entropy is not.
fn trace_seed(entropy: &[u8; 32]) -> u64 {
    use sha2::Digest;
    let hash: [u8; 32] = sha2::Sha256::digest([&b"trace"[..], entropy].concat()).into();
    u64::from_be_bytes(hash[..8].try_into().expect("it is 32 bytes long"))
}

/// Runs the task that encodes changes for all subscribers.
fn run_feed(services: &Services) -> AbortOnDropHandle<()> {
    let hub = services.feed.clone().run(services.owner.clone());
    AbortOnDropHandle::new(services.owner.readers.spawn(hub))
}

/// Runs the task that asks the other masters for their failovers. Its connections are apart from
/// those to the leader, which would close when another master is asked.
fn run_exchange(services: &Services, asked: MasterConnections) -> AbortOnDropHandle<()> {
    let exchange = service::exchange_failovers(services.owner.clone(), asked);
    AbortOnDropHandle::new(tokio::spawn(exchange))
}

/// Runs on threads that are independent of the owner's; a simulation has one thread.
fn run_watched(
    pulse: Arc<TurnCounter>,
    node: &Node,
    has_threads: bool,
) -> Result<Watchdog, MasterError> {
    let give_up = step_down_handler(node.clone());
    if !has_threads {
        return Ok(Watchdog::task(pulse, give_up));
    }
    let started = Watchdog::thread(pulse, give_up);
    started.map_err(|why| MasterError::Failed(format!("the watchdog cannot start: {why}")))
}

/// Starts a leadership transfer on the current runtime. It succeeds only if the owner alone stalls:
/// if its thread stalls, consensus does too, and the followers have elected another leader by then.
fn step_down_handler(node: Node) -> impl Fn() + Send + Sync + 'static {
    let on = Handle::current();
    move || {
        let node = node.clone();
        on.spawn(async move { transfer_leadership(&node).await });
    }
}

/// The owner of the registry and the ends of its channels.
struct RegistryOwner {
    replica: Replica,
    handle: OwnerHandle,
    inbox: Inbox,
    queries: mpsc::Receiver<StateQuery>,
    transfers: mpsc::Receiver<&'static str>,
    turn_counter: Arc<TurnCounter>,
}

/// The owner's receivers: raft's requests, messages, queries.
type Inboxes = (
    mpsc::Receiver<OwnerRequest>,
    Inbox,
    mpsc::Receiver<StateQuery>,
);

/// Returns the lease and the tick in which a leader notices that it has expired.
fn deposed_leader_ms(config: &MasterConfig) -> u64 {
    let longest = config.leader_lease() + replica::TICK;
    u64::try_from(longest.as_millis()).unwrap_or(u64::MAX)
}

fn owner_of(
    config: &MasterConfig,
    node: &Node,
    (registry, access): (Registry, watch::Sender<AccessFacts>),
    (entropy, readers): ([u8; 32], Handle),
) -> RegistryOwner {
    let (leadership, leadership_seen) = watch::channel(LeaderStatus::default());
    let (applied, applied_seen) = watch::channel(registry.applied());
    let (counts, counts_seen) = watch::channel(Arc::<OwnerCounts>::default());
    let access_seen = access.subscribe();
    access.send_replace(registry.access().clone());
    let (messages, links) = mpsc::channel(INBOX);
    let calls = OwnerCalls::new();
    let (query, queries) = mpsc::channel(QUERIES);
    let views = SharedView::default();
    let changes = ChangeRing::new(change_ring::RingBounds::default(), registry.applied());
    let (hand_over, transfers) = mpsc::channel(1);
    let limits = LeaderTimeouts {
        agent_timeout_ms: config.agent_timeout_ms,
        framework_timeout_ms: config.framework_timeout_ms,
        framework_grace_ms: config.framework_grace_ms,
        lost_agent_ms: config.lost_agent_ms,
        deposed_leader_ms: deposed_leader_ms(config),
        resume_ms: RESUME_MS,
    };
    let turn_counter = Arc::new(TurnCounter::default());
    let published = PublishedState {
        leader_status: leadership,
        applied,
        counts,
        access,
        views: views.clone(),
        changes: changes.clone(),
        turn_counter: Arc::clone(&turn_counter),
        calls: calls.clone(),
    };
    let replica = Replica::new(
        node.clone(),
        limits,
        config.leader_lease(),
        published,
        hand_over,
        registry,
        entropy,
    );
    let replica = replica
        .with_initial_level(config.initial_level)
        .with_secret_keys(config.secret_keys.clone())
        .with_enforcement(config.enforces_access);
    let handle = OwnerHandle::new(
        node.clone(),
        (messages, calls.clone(), query),
        (views, changes),
        (ReadLimiter::new(ReadBounds::default()), readers),
        (leadership_seen, applied_seen),
        (counts_seen, access_seen),
        config.api_address.clone(),
    );
    RegistryOwner {
        replica,
        handle: handle.with_enforcement(config.enforces_access),
        inbox: Inbox { links, calls },
        queries,
        transfers,
        turn_counter,
    }
}

/// Runs the owner until `stop`, and continues while leadership is transferred: entries committed
/// until then still take effect.
async fn run_owner(
    replica: Replica,
    (requests, inbox, queries): Inboxes,
    node: Node,
    stop: CancellationToken,
) -> Result<(), MasterError> {
    let owner_stop = CancellationToken::new();
    let owner = replica.run(requests, inbox, queries, owner_stop.clone());
    tokio::pin!(owner);
    tokio::select! {
        ended = &mut owner => return ended,
        () = stop.cancelled() => {}
    }
    tokio::select! {
        ended = &mut owner => ended,
        () = transfer_leadership(&node) => {
            owner_stop.cancel();
            owner.await
        }
    }
}

/// Starts raft on its runtime.
async fn starting(
    config: MasterConfig,
    memory: Option<MemoryStore>,
    surroundings: NodeEnvironment,
    owner: mpsc::Sender<OwnerRequest>,
    stop: CancellationToken,
) -> Result<Node, StartError> {
    let config = NodeConfig {
        directory: Some(config.directory),
        raft_address: config.raft_address,
        api_address: config.api_address,
        peers: config.peers,
        bootstrap: config.bootstrap,
        timing: config.timing,
        snapshot: config.snapshot,
        seed: config.seed,
    };
    match memory {
        Some(memory) => Node::start_in_memory(config, &memory, surroundings, owner, stop).await,
        None => Node::start(config, surroundings, owner, stop).await,
    }
}

/// Rejects connections while raft starts. Raft loads the registry before it answers, so this code
/// handles the owner's requests until then. A client cannot be answered before raft has started,
/// and for a master that belongs to no group yet that may never happen. Clients see the connection
/// end, and use another master.
async fn reject_connections(api: &mut Listener) -> std::convert::Infallible {
    loop {
        drop(api.accept().await);
    }
}

async fn load(
    starting: JoinHandle<Result<Node, StartError>>,
    (requests, access): (
        &mut mpsc::Receiver<OwnerRequest>,
        &watch::Sender<AccessFacts>,
    ),
    stop: &CancellationToken,
    raft_stop: &CancellationToken,
) -> Result<(Node, Registry), MasterError> {
    tokio::pin!(starting);
    let mut registry = Registry::new();
    let mut compared = DigestComparison::of(&registry);
    loop {
        tokio::select! {
            () = stop.cancelled() => {
                raft_stop.cancel();
                return Err(StartError::Stopped.into());
            }
            node = &mut starting => {
                let node = node.map_err(|why| MasterError::Failed(format!("raft's start ended: {why}")))??;
                return Ok((node, registry));
            }
            // When raft's start fails, its channel closes; the start returns the actual error.
            Some(request) = requests.recv() => {
                serve_startup_requests(&mut registry, &mut compared, request)?;
                access.send_replace(registry.access().clone());
            }
        }
    }
}

/// Handles raft's requests before the owner runs: to load, and to apply entries that were committed
/// before.
fn serve_startup_requests(
    registry: &mut Registry,
    compared: &mut DigestComparison,
    request: OwnerRequest,
) -> Result<(), MasterError> {
    match request {
        OwnerRequest::Load {
            last_index,
            records,
            done,
        } => {
            let loaded = Registry::load(last_index, records);
            *registry = loaded.map_err(|why| MasterError::unreadable(&why))?;
            *compared = DigestComparison::of(registry);
            let _ = done.send(());
        }
        OwnerRequest::Apply { entries, done } => {
            let mut writes = Vec::new();
            for entry in &entries {
                let all = comparison::apply_quietly(registry, entry, &mut writes)
                    .map_err(|why| MasterError::unreadable(&why))?;
                metrics::compared(&compared.applied(registry, &all)?);
            }
            let _ = done.send(writes);
        }
    }
    Ok(())
}

async fn transfer_leadership(node: &Node) {
    if !node.status().borrow().is_leader {
        return;
    }
    match tokio::time::timeout(Duration::from_secs(3), node.transfer(None)).await {
        Ok(Ok(to)) => info!(to, "leadership transferred"),
        Ok(Err(why)) => warn!(%why, "leadership could not be transferred"),
        Err(_) => warn!("the leadership transfer did not complete in 3 s"),
    }
}

async fn transfer_on_request(node: Node, mut requests: mpsc::Receiver<&'static str>) {
    while let Some(why) = requests.recv().await {
        warn!("{why}");
        transfer_leadership(&node).await;
    }
}

async fn serve(
    services: Services,
    socket: Listener,
    (pages, hosts, trace_seed, audit): HttpFront,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let reflection = service::reflection().map_err(std::io::Error::other)?;
    let lists = service::list_routes(&services);
    let watch = service::watch_routes(&services);
    let mut routes = tonic::service::Routes::builder();
    routes
        .add_service(
            SchedulerServer::new(services.clone()).max_decoding_message_size(MESSAGE_BYTES),
        )
        .add_service(AgentsServer::new(services.clone()).max_decoding_message_size(MESSAGE_BYTES))
        .add_service(OperatorServer::new(services.clone()).max_decoding_message_size(MESSAGE_BYTES))
        .add_service(
            CertificatesServer::new(services.clone())
                .max_decoding_message_size(service::CERTIFICATE_REQUEST_BYTES),
        )
        .add_service(LeadershipServer::new(services.clone()))
        .add_service(ReignsServer::new(services.clone()))
        .add_service(health(services.owner.clone()));
    let router = routes
        .routes()
        .into_axum_router()
        .merge(lists)
        .merge(watch)
        .merge(reflection)
        .merge(pages)
        .fallback(http::unknown);
    let front = ApiRouter::new(router, services.owner, hosts, trace_seed).with_audit(audit);
    let connections = Connections::of_this_process("api");
    tokio::select! {
        () = server::serve(socket, front, connections, stop.clone()) => {}
        // Streams end with the owner; those that are still open after a second are cut.
        () = async { stop.cancelled().await; tokio::time::sleep(DRAIN_TIMEOUT).await } => {}
    }
    Ok(())
}
