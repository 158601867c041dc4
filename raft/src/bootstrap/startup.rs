//! The startup of a node from its settings: opens the store, finds or forms the group, spawns the
//! tasks.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock, Weak};

use argosy_proto::clock::WallClock;
use futures::future::BoxFuture;
use openraft::Raft;
use openraft::async_runtime::WatchReceiver as _;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use super::run::{self, GroupFormation, InitialIdentity};
use crate::concurrency::AtomicU64;
use crate::election::detector::LeaderDetector;
use crate::election::failover::PresenceWatch;
use crate::election::leader_contact::LeaderContact;
use crate::election::prober::Prober;
use crate::error::StartError;
use crate::group::GroupHandle;
use crate::liveness::Liveness;
use crate::log_size::{LogGrowth, LogRetention};
use crate::membership::MemberChanger;
use crate::port::{self, FormedNode, RaftPort};
use crate::proposer::ProposalQueue;
use crate::read_index::{ReadIndexQueue, ReadIndexTask};
use crate::settings::{NodeConfig, NodeEnvironment};
use crate::state_machine::{Consensus, StateMachine};
use crate::status::{FailoverPhases, RaftStatus};
use crate::status_reporter::StatusReporter;
use crate::storage::disk;
use crate::storage::store::{Store, StoreLocation};
use crate::storage::usage::StoreUsage;
use crate::transport::connections::Peers;
use crate::transport::member_addresses::{MemberAddresses, follow_members};
use crate::transport::network::{CallerIdentity, NetworkFactory};
use crate::transport::transfer_counts::TransferCounts;
use crate::types::{Member, NodeIdentity, OwnerRequest};

/// The parts of a node that runs. Dropping them stops the node.
pub(crate) struct NodeParts {
    pub(crate) identity: NodeIdentity,
    pub(crate) process_incarnation: u64,
    pub(crate) wall: WallClock,
    pub(crate) raft: Consensus,
    pub(crate) queue: ProposalQueue,
    pub(crate) reads: ReadIndexQueue,
    pub(crate) changes: Arc<MemberChanger>,
    pub(crate) status: watch::Receiver<RaftStatus>,
    pub(crate) phases: Arc<watch::Sender<FailoverPhases>>,
    pub(crate) liveness: Liveness,
    pub(crate) leader_contact: LeaderContact,
    pub(crate) store_usage: watch::Receiver<StoreUsage>,
    /// Weak: a handle on a stopped node must not keep its directory locked.
    pub(crate) store: Weak<Store>,
    /// Cancelled when the directory of the store is unlocked.
    pub(crate) unlocked: CancellationToken,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
    /// The runtime of the tasks.
    pub(crate) runtime: Handle,
    _stop_when_dropped: DropGuard,
}

/// Starts the parts of a node. On failure, ends those that have started.
pub(crate) async fn start(
    config: NodeConfig,
    place: StoreLocation,
    surroundings: NodeEnvironment,
    owner: mpsc::Sender<OwnerRequest>,
    stop: CancellationToken,
) -> Result<NodeParts, StartError> {
    config.openraft()?;
    let may_block = place.may_block();
    let opening = move || Store::open(&place, place.fatal_handler());
    let store = Arc::new(disk::run(may_block, opening).await?);
    let own_stop = stop.child_token();
    let starting = NodeStartup {
        config,
        store: store.clone(),
        stop: own_stop.clone(),
        tasks: TaskTracker::new(),
        retention: LogRetention::default(),
        transfers: TransferCounts::default(),
    };
    let tasks = starting.tasks.clone();
    let started = starting.run(surroundings, owner).await;
    if started.is_err() {
        own_stop.cancel();
        tasks.close();
        tasks.wait().await;
        store.close().await;
    }
    started
}

struct NodeStartup {
    config: NodeConfig,
    store: Arc<Store>,
    stop: CancellationToken,
    tasks: TaskTracker,
    retention: LogRetention,
    transfers: TransferCounts,
}

impl NodeStartup {
    async fn run(
        self,
        surroundings: NodeEnvironment,
        owner: mpsc::Sender<OwnerRequest>,
    ) -> Result<NodeParts, StartError> {
        let NodeEnvironment {
            listener,
            dialer,
            wall,
        } = surroundings;
        let peers = Peers::new(dialer, self.config.timing);
        let kept = self.store.identity();
        let identity_failed = |source| StartError::Identity { source };
        let (invitations, invited) = mpsc::channel(1);
        let process_incarnation = self.store.entropy().map_err(identity_failed)?;
        let raft_port = Arc::new(self.port(process_incarnation, kept.incarnation, invitations));
        let known = kept
            .cluster_key
            .zip(kept.node_id)
            .map(|(cluster_key, id)| NodeIdentity { cluster_key, id });
        let is_restored = self.store.is_restored().map_err(identity_failed)?;
        let is_alone = is_restored || self.config.bootstrap;
        let announced = known.or_else(|| is_alone.then(|| run::alone(&raft_port.member)));
        if let Some(announced) = announced {
            // Reported from the start: a founder that restarts, or forms a group of one, must not
            // be reported as empty to the others, which may form a group at the same time.
            raft_port.identity.get_or_init(|| announced);
        }
        self.tasks.spawn(port::serve(raft_port.clone(), listener));
        let beginning = tokio::select! {
            () = self.stop.cancelled() => return Err(StartError::Stopped),
            beginning = self.begin(&raft_port, &peers, known, invited) => beginning?,
        };
        let identity = beginning.identity;
        if known.is_none() {
            self.store
                .save_identity(identity.id, identity.cluster_key)
                .await
                .map_err(identity_failed)?;
            raft_port.identity.get_or_init(|| identity);
        }
        let raft = self.build(identity, &peers, owner).await?;
        let parts = self.assemble(identity, raft, peers.clone(), &raft_port, wall);
        parts.raft.run();
        self.first_status(&parts).await;
        if let Some(founders) = beginning.founders {
            initialize(&parts.raft, founders).await;
        } else if known.is_some() {
            self.finish_forming(&parts, identity, raft_port, peers);
        }
        if let Some(accepted) = beginning.accepted {
            // The leader that waits for this may have been dropped; it will find the node by its id
            // later.
            let _ = accepted.send(());
        }
        info!(
            id = identity.id,
            cluster_key = format!("{:016x}", identity.cluster_key),
            "this master runs as a member of its group"
        );
        Ok(parts)
    }

    /// Waits until the status includes everything that the store contains, so that no reader sees
    /// less.
    async fn first_status(&self, parts: &NodeParts) {
        let seen = async {
            // Returns once consensus has read the store. An error is reported in the status as the
            // failure.
            let _ = parts.raft.is_initialized().await;
            let term = parts.raft.metrics().borrow_watched().current_term;
            let mut status = parts.status.clone();
            let reported =
                status.wait_for(|status| status.term >= term || status.failure.is_some());
            // Closed: the node has ended, and its status reports that.
            let _ = reported.await;
        };
        // If the node was stopped in between, its users learn that from the node.
        let _ = self.stop.run_until_cancelled(seen).await;
    }

    async fn begin(
        &self,
        raft_port: &Arc<RaftPort>,
        peers: &Peers,
        known: Option<NodeIdentity>,
        invitations: mpsc::Receiver<port::Invitation>,
    ) -> Result<InitialIdentity, StartError> {
        let timing = self.config.timing;
        if let Some(identity) = known {
            run::check_peers(raft_port, peers, timing, identity.cluster_key).await?;
            return Ok(InitialIdentity {
                identity,
                founders: None,
                accepted: None,
            });
        }
        let forming = GroupFormation {
            port: raft_port.clone(),
            peers: peers.clone(),
            invitations,
        };
        let is_restored = self.store.is_restored();
        if is_restored.map_err(|source| StartError::Identity { source })? {
            forming.continue_alone(&self.store).await
        } else if self.config.bootstrap {
            forming.bootstrap().await
        } else {
            forming.run().await
        }
    }

    async fn build(
        &self,
        identity: NodeIdentity,
        peers: &Peers,
        owner: mpsc::Sender<OwnerRequest>,
    ) -> Result<Consensus, StartError> {
        let (publisher, addresses) = watch::channel(MemberAddresses::new());
        let factory = NetworkFactory {
            caller: caller(identity),
            peers: peers.clone(),
            addresses,
            timing: self.config.timing,
            retention: self.retention.clone(),
            transfers: self.transfers.clone(),
        };
        let kept_entries = self.config.snapshot.entries;
        let requested = self.retention.requested();
        let machine = StateMachine::open(&self.store, kept_entries, requested, owner).await?;
        let config = Arc::new(self.config.openraft()?);
        let built = Raft::build(identity.id, config, factory, self.store.log(), machine).await;
        let raft = built.map_err(|error| StartError::Consensus {
            reason: error.to_string(),
        })?;
        let stop = self.stop.clone();
        self.tasks
            .spawn(follow_members(raft.clone(), peers.clone(), publisher, stop));
        Ok(raft)
    }

    /// Creates the state from which the port answers while the node has no identity.
    fn port(
        &self,
        process_incarnation: u64,
        incarnation: u64,
        invitations: mpsc::Sender<port::Invitation>,
    ) -> RaftPort {
        RaftPort {
            process_incarnation,
            member: Member {
                raft_address: self.config.raft_address.clone(),
                api_address: self.config.api_address.clone(),
                incarnation,
            },
            peers: self.config.sorted_peers(),
            identity: OnceLock::new(),
            formed: OnceLock::new(),
            unequal: OnceLock::new(),
            invitations,
            leader_contact: LeaderContact::new(self.config.timing),
            stop: self.stop.clone(),
        }
    }

    /// Spawns the node's tasks, and enables the port to answer for the group.
    fn assemble(
        &self,
        identity: NodeIdentity,
        raft: Consensus,
        peers: Peers,
        raft_port: &Arc<RaftPort>,
        wall: WallClock,
    ) -> NodeParts {
        let stop = self.stop.clone();
        let leading_term = Arc::new(AtomicU64::new(0));
        let (queue, proposer) = ProposalQueue::new(leading_term.clone());
        let (reads, requests) = ReadIndexQueue::new();
        let growth = LogGrowth::new(self.config.snapshot, self.retention.clone());
        let phases = Arc::new(watch::Sender::new(FailoverPhases::default()));
        let (status_sender, status) = watch::channel(RaftStatus::of(identity.id));
        let group = self.group(identity, &raft, peers, &status);
        let changes = Arc::new(MemberChanger::new(group.clone(), self.transfers.clone()));
        let store = self.store.clone();
        let reporter = StatusReporter {
            own: raft_port.member.clone(),
            raft: raft.clone(),
            status: status_sender,
            votes: store.log().votes(),
            phases: phases.clone(),
            leader_contact: raft_port.leader_contact.clone(),
            wall: wall.clone(),
            leading_term,
            failed: stop.clone(),
        };
        let (watch, prober) = self.watchers(&group, &phases, &wall);
        let detector = LeaderDetector::new(&group, &raft_port.leader_contact, &phases, &wall);
        let (measured, store_usage) = watch::channel(StoreUsage::default());
        self.spawn([
            Box::pin(reporter.run(stop.clone())),
            Box::pin(proposer.run(raft.clone(), growth.clone(), stop.clone())),
            Box::pin(ReadIndexTask::new(group.clone()).run(requests, stop.clone())),
            Box::pin(watch.run(stop.clone())),
            Box::pin(detector.clone().run(stop.clone())),
            Box::pin(prober.run(stop.clone())),
            Box::pin(changes.clone().finish_interrupted(stop.clone())),
            Box::pin(growth.clone().run(raft.clone(), stop.clone())),
            Box::pin(store.unwritten().run(stop.clone())),
            Box::pin(store.clone().measure(measured, stop.clone())),
            Box::pin(end(raft.clone(), store.clone(), stop.clone())),
        ]);
        let (weak_store, unlocked) = (Arc::downgrade(&store), store.unlocked());
        let formed = FormedNode::new(identity, &group, store, changes.clone(), growth, detector);
        raft_port.open(formed);
        NodeParts {
            identity,
            process_incarnation: raft_port.process_incarnation,
            wall,
            raft,
            queue,
            reads,
            changes,
            status,
            phases,
            liveness: group.liveness,
            leader_contact: raft_port.leader_contact.clone(),
            store_usage,
            store: weak_store,
            unlocked,
            tasks: self.tasks.clone(),
            runtime: Handle::current(),
            _stop_when_dropped: stop.clone().drop_guard(),
            stop,
        }
    }

    fn group(
        &self,
        identity: NodeIdentity,
        raft: &Consensus,
        peers: Peers,
        status: &watch::Receiver<RaftStatus>,
    ) -> GroupHandle {
        GroupHandle {
            raft: raft.clone(),
            caller: caller(identity),
            peers,
            timing: self.config.timing,
            status: status.clone(),
            liveness: Liveness::default(),
        }
    }

    fn spawn<const COUNT: usize>(&self, tasks: [BoxFuture<'static, ()>; COUNT]) {
        for task in tasks {
            self.tasks.spawn(task);
        }
        self.tasks.close();
    }

    /// Creates the tasks that watch the leader while this node follows, and the voters while it
    /// leads.
    fn watchers(
        &self,
        group: &GroupHandle,
        phases: &Arc<watch::Sender<FailoverPhases>>,
        wall: &WallClock,
    ) -> (PresenceWatch, Prober) {
        let watch = PresenceWatch {
            id: group.caller.id,
            raft: group.raft.clone(),
            peers: group.peers.clone(),
            timing: group.timing,
            phases: phases.clone(),
            seed: self.config.seed,
            wall: wall.clone(),
            tasks: self.tasks.clone(),
        };
        let prober = Prober {
            group: group.clone(),
            phases: phases.clone(),
        };
        (watch, prober)
    }

    /// Initializes the group if that has never happened and is this node's part, as soon as the
    /// other founders answer.
    fn finish_forming(
        &self,
        parts: &NodeParts,
        identity: NodeIdentity,
        raft_port: Arc<RaftPort>,
        peers: Peers,
    ) {
        let raft = parts.raft.clone();
        let stop = self.stop.clone();
        let finishing = async move {
            if matches!(raft.is_initialized().await, Ok(false))
                && let Some(founders) = run::finish(&raft_port, &peers, identity).await
            {
                initialize(&raft, founders).await;
            }
        };
        self.tasks
            .spawn(async move { stop.run_until_cancelled(finishing).await });
    }
}

async fn initialize(raft: &Consensus, founders: BTreeMap<u64, Member>) {
    info!(members = founders.len(), "the group is formed");
    if let Err(error) = raft.initialize(founders).await {
        // It runs already: a leader was elected in between.
        warn!(%error, "the group is already initialized");
    }
}

/// Shuts consensus down when the node stops, and then closes the store.
async fn end(raft: Consensus, store: Arc<Store>, stop: CancellationToken) {
    stop.cancelled().await;
    if let Err(error) = raft.shutdown().await {
        warn!(%error, "consensus did not shut down cleanly");
    }
    store.close().await;
}

fn caller(identity: NodeIdentity) -> CallerIdentity {
    CallerIdentity {
        cluster_key: identity.cluster_key,
        id: identity.id,
    }
}
