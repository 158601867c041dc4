//! One master's part in consensus: started, asked, stopped. Everything runs on the runtime that `Node::start` is called on.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use openraft::Raft;
use openraft::async_runtime::WatchReceiver as _;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::{Mutex, mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::disk::memory::MemoryDisk;
use crate::error::{MembershipError, ProposeError, ReadError, StartError};
use crate::failover::Watch;
use crate::fatal;
use crate::forming::{self, Beginning, Forming, Identity};
use crate::growth::Growth;
use crate::machine::Machine;
use crate::membership::{Change, Changes};
use crate::network::{Caller, Factory, Peers};
use crate::proposer::{Proposal, Queue};
use crate::reader::{Reader, Reads};
use crate::service::{self, Door, Formed};
use crate::settings::NodeConfig;
use crate::status::{self, Phases, Reporter, Status};
use crate::store::{self, Place, Store};
use crate::types::{Member, OwnerRequest, TypeConfig};

/// openraft, with our entries and our registry.
pub(crate) type Consensus = Raft<TypeConfig, Machine>;

/// A store in memory that outlives the node on it, for tests and simulations of restarts.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore(MemoryDisk);

/// A member of the group, as the list of masters shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedMember {
    /// Its id, given once and never used again.
    pub id: u64,
    /// Its addresses.
    pub member: Member,
    /// It votes; otherwise it is a learner.
    pub is_voter: bool,
    /// It leads, as far as this node knows.
    pub is_leader: bool,
    /// How many entries it lacks. Known at the leader only.
    pub lag: Option<u64>,
}

/// A running node. Cheap to clone; all clones are the same node.
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

struct Inner {
    identity: Identity,
    process_incarnation: u64,
    raft: Consensus,
    queue: Queue,
    reads: Reads,
    changes: Arc<Changes>,
    status: watch::Receiver<Status>,
    phases: Arc<watch::Sender<Phases>>,
    stop: CancellationToken,
    tasks: TaskTracker,
    runtime: Handle,
    /// The last clone of a node that is dropped stops it.
    _stop_with_last: DropGuard,
}

impl Node {
    /// Opens the store, finds or forms the group, and takes part in it. Returns once consensus runs; before that it waits as
    /// long as other masters are missing, and says in the log whom it waits for. `owner` is asked to load the registry first.
    /// The node ends when `stop` is cancelled, and is finished when [`Node::stop`] has returned.
    pub async fn start(
        config: NodeConfig,
        listener: TcpListener,
        owner: mpsc::Sender<OwnerRequest>,
        stop: CancellationToken,
    ) -> Result<Node, StartError> {
        let place = match &config.directory {
            Some(directory) => Place::Directory(directory.clone()),
            None => Place::Memory(MemoryDisk::default()),
        };
        start(config, place, listener, owner, stop).await
    }

    /// Like [`Node::start`], on a store in memory that may be used again by a later node. `config.directory` is not looked at.
    pub async fn start_in_memory(
        config: NodeConfig,
        memory: &MemoryStore,
        listener: TcpListener,
        owner: mpsc::Sender<OwnerRequest>,
        stop: CancellationToken,
    ) -> Result<Node, StartError> {
        start(
            config,
            Place::Memory(memory.0.clone()),
            listener,
            owner,
            stop,
        )
        .await
    }

    /// Puts a command into the queue for the next entry, and waits while the queue is full. That is no promise: it is committed
    /// when the owner sees it again in `Apply`, and lost, perhaps, when this node stops leading.
    pub async fn propose(&self, proposal: Proposal) -> Result<(), ProposeError> {
        self.inner.queue.propose(proposal).await
    }

    /// Like `propose`, and never waits: a full queue is an error.
    pub fn try_propose(&self, proposal: Proposal) -> Result<(), ProposeError> {
        self.inner.queue.try_propose(proposal)
    }

    /// Drops commands that wait in the queue: for an owner that has lost office although this node leads on. What is in flight
    /// may still be committed.
    pub fn forget_queued(&self) {
        self.inner.queue.forget();
    }

    /// What this node knows, now and whenever it changes.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.inner.status.clone()
    }

    /// How long ago a quorum last answered this leader; `None` while it does not lead. Beyond the election maximum somebody else
    /// may lead by now.
    pub fn quorum_acked_ago(&self) -> Option<Duration> {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        status::quorum_acked_ago(&metrics, *self.inner.phases.borrow())
    }

    /// The index up to which the registry must be applied for a linearizable read that begins now; a quorum has confirmed it.
    pub async fn confirm_read(&self) -> Result<u64, ReadError> {
        self.inner.reads.confirm().await
    }

    /// Takes the waiting master at `raft_address` into the group: first as a learner and, when it has caught up, as a voter. A
    /// member that had this address with another data directory is replaced. Returns its id.
    pub async fn join(&self, raft_address: &str) -> Result<u64, MembershipError> {
        let change = Change::Join {
            raft_address: raft_address.to_owned(),
            promote: true,
        };
        self.inner.changes.change(change, false).await
    }

    /// Removes a member. A leader hands over first.
    pub async fn remove(&self, id: u64) -> Result<(), MembershipError> {
        self.inner
            .changes
            .change(Change::Remove(id), false)
            .await
            .map(|_id| ())
    }

    /// Hands leadership to this voter, or to the one that is furthest. Returns who leads then.
    pub async fn transfer(&self, to: Option<u64>) -> Result<u64, MembershipError> {
        self.change(Change::Transfer(to)).await
    }

    /// In a task on the node's own runtime: whoever asked may go, a change that has begun is brought to its end, and the
    /// connections it makes live where consensus does.
    async fn change(&self, change: Change) -> Result<u64, MembershipError> {
        let changes = self.inner.changes.clone();
        let changing = self.inner.tasks.spawn_on(
            async move { changes.change(change, false).await },
            &self.inner.runtime,
        );
        changing.await.unwrap_or(Err(MembershipError::Stopped))
    }

    /// The members of the group as this node knows them, voters first.
    pub fn members(&self) -> Vec<ListedMember> {
        let status = self.inner.status.borrow();
        let leader = status.leader.as_ref().map(|(id, _)| *id);
        let list = |(id, member): &(u64, Member), is_voter| {
            let lag = if status.is_leader && *id == status.id {
                Some(0)
            } else {
                status.lag.get(id).copied()
            };
            ListedMember {
                id: *id,
                member: member.clone(),
                is_voter,
                is_leader: leader == Some(*id),
                lag,
            }
        };
        let voters = status.voters.iter().map(|one| list(one, true));
        voters
            .chain(status.learners.iter().map(|one| list(one, false)))
            .collect()
    }

    /// The id of this node in the group.
    pub fn id(&self) -> u64 {
        self.inner.identity.id
    }

    /// Random, new with every start of the process.
    pub fn incarnation(&self) -> u64 {
        self.inner.process_incarnation
    }

    /// Tells this group from others on the wire.
    pub fn cluster_key(&self) -> u64 {
        self.inner.identity.cluster_key
    }

    /// Stops the node, and returns when everything of it has ended and its store is closed.
    pub async fn stop(&self) {
        self.inner.stop.cancel();
        self.inner.tasks.wait().await;
    }
}

/// Starts what a node consists of; on failure everything that has begun is ended.
async fn start(
    config: NodeConfig,
    place: Place,
    listener: TcpListener,
    owner: mpsc::Sender<OwnerRequest>,
    stop: CancellationToken,
) -> Result<Node, StartError> {
    config.openraft()?;
    let opened = tokio::task::spawn_blocking(move || Store::open(&place, fatal::abort())).await;
    let store = Arc::new(opened.map_err(|error| StartError::Consensus {
        reason: error.to_string(),
    })??);
    let own_stop = stop.child_token();
    let starting = Starting {
        config,
        store: store.clone(),
        stop: own_stop.clone(),
        tasks: TaskTracker::new(),
    };
    let tasks = starting.tasks.clone();
    let started = starting.run(listener, owner).await;
    if started.is_err() {
        own_stop.cancel();
        tasks.close();
        tasks.wait().await;
        store.close().await;
    }
    started
}

struct Starting {
    config: NodeConfig,
    store: Arc<Store>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Starting {
    async fn run(
        self,
        listener: TcpListener,
        owner: mpsc::Sender<OwnerRequest>,
    ) -> Result<Node, StartError> {
        let peers = Peers::new(self.config.timing);
        let kept = self.store.identity();
        let identity_failed = |source| StartError::Identity { source };
        let (invitations, invited) = mpsc::channel(1);
        let door = Arc::new(Door {
            process_incarnation: store::entropy().map_err(identity_failed)?,
            member: Member {
                raft_address: self.config.raft_address.clone(),
                api_address: self.config.api_address.clone(),
                incarnation: kept.incarnation,
            },
            peers: self.config.listed(),
            identity: OnceLock::new(),
            formed: OnceLock::new(),
            invitations,
            stop: self.stop.clone(),
        });
        let known = kept
            .cluster_key
            .zip(kept.node_id)
            .map(|(cluster_key, id)| Identity { cluster_key, id });
        if let Some(known) = known {
            // Said from the first moment: a founder that comes back must not look empty to the others.
            door.identity.get_or_init(|| known);
        }
        self.tasks.spawn(service::serve(door.clone(), listener));
        let beginning = tokio::select! {
            () = self.stop.cancelled() => return Err(StartError::Stopped),
            beginning = self.begin(&door, &peers, known, invited) => beginning?,
        };
        let identity = beginning.identity;
        if known.is_none() {
            self.store
                .remember(identity.id, identity.cluster_key)
                .await
                .map_err(identity_failed)?;
            door.identity.get_or_init(|| identity);
        }
        let raft = self.build(identity, &peers, owner).await?;
        let node = self.assemble(identity, raft, peers, &door);
        node.inner.raft.run();
        if let Some(founders) = beginning.founders {
            initialize(&node.inner.raft, founders).await;
        } else if known.is_some() {
            self.finish_forming(&node, door);
        }
        if let Some(accepted) = beginning.accepted {
            // The leader that waits for this may have gone; it will find the node by its id later.
            let _ = accepted.send(());
        }
        info!(
            id = identity.id,
            cluster_key = format!("{:016x}", identity.cluster_key),
            "this master takes part in its group"
        );
        Ok(node)
    }

    async fn begin(
        &self,
        door: &Arc<Door>,
        peers: &Peers,
        known: Option<Identity>,
        invitations: mpsc::Receiver<service::Invitation>,
    ) -> Result<Beginning, StartError> {
        let timing = self.config.timing;
        if let Some(identity) = known {
            forming::check_peers(door, timing, identity.cluster_key).await?;
            return Ok(Beginning {
                identity,
                founders: None,
                accepted: None,
            });
        }
        let forming = Forming {
            door: door.clone(),
            peers: peers.clone(),
            timing,
            invitations,
        };
        if self.config.bootstrap {
            forming.bootstrap().await
        } else {
            forming.run().await
        }
    }

    async fn build(
        &self,
        identity: Identity,
        peers: &Peers,
        owner: mpsc::Sender<OwnerRequest>,
    ) -> Result<Consensus, StartError> {
        let caller = Caller {
            cluster_key: identity.cluster_key,
            id: identity.id,
        };
        let factory = Factory {
            caller,
            peers: peers.clone(),
            timing: self.config.timing,
        };
        let machine = self.store.machine(owner).await?;
        let config = Arc::new(self.config.openraft()?);
        let built = Raft::build(identity.id, config, factory, self.store.log(), machine).await;
        built.map_err(|error| StartError::Consensus {
            reason: error.to_string(),
        })
    }

    /// Spawns the node's tasks. Nothing is answered before `door.formed` is set, which is the last step.
    fn assemble(
        &self,
        identity: Identity,
        raft: Consensus,
        peers: Peers,
        door: &Arc<Door>,
    ) -> Node {
        let (timing, stop) = (self.config.timing, &self.stop);
        let caller = Caller {
            cluster_key: identity.cluster_key,
            id: identity.id,
        };
        let leading_term = Arc::new(AtomicU64::new(0));
        let (queue, proposer) = Queue::new(leading_term.clone());
        let (reads, requests) = Reads::new();
        let growth = Growth::new(self.config.snapshot.bytes.max(1));
        let phases = Arc::new(watch::Sender::new(Phases::default()));
        let first = Status {
            id: identity.id,
            ..Status::default()
        };
        let (status_sender, status) = watch::channel(first);
        let changes = Arc::new(Changes {
            raft: raft.clone(),
            caller,
            peers: peers.clone(),
            timing,
            status: status.clone(),
            changing: Mutex::new(()),
        });
        let reporter = Reporter {
            raft: raft.clone(),
            status: status_sender,
            phases: phases.clone(),
            leading_term,
            failed: stop.clone(),
        };
        let reader = Reader {
            raft: raft.clone(),
            caller,
            peers: peers.clone(),
            timing,
            status: status.clone(),
        };
        let watch = Watch {
            id: identity.id,
            raft: raft.clone(),
            peers,
            timing,
            phases: phases.clone(),
            seed: self.config.seed,
            tasks: self.tasks.clone(),
        };
        self.tasks.spawn(reporter.run(stop.clone()));
        self.tasks
            .spawn(proposer.run(raft.clone(), growth.clone(), stop.clone()));
        self.tasks.spawn(reader.run(requests, stop.clone()));
        self.tasks.spawn(watch.run(stop.clone()));
        self.tasks
            .spawn(growth.clone().run(raft.clone(), stop.clone()));
        self.tasks
            .spawn(end(raft.clone(), self.store.clone(), stop.clone()));
        self.tasks.close();
        let store = self.store.clone();
        let formed = Formed {
            identity,
            raft: raft.clone(),
            store,
            changes: changes.clone(),
            growth,
        };
        door.formed.get_or_init(|| formed);
        let stop = stop.clone();
        let _stop_with_last = stop.clone().drop_guard();
        let inner = Inner {
            identity,
            process_incarnation: door.process_incarnation,
            raft,
            queue,
            reads,
            changes,
            status,
            phases,
            stop,
            tasks: self.tasks.clone(),
            runtime: Handle::current(),
            _stop_with_last,
        };
        Node {
            inner: Arc::new(inner),
        }
    }

    /// If the group was never initialized, it may be this node's turn, as soon as the other founders are there.
    fn finish_forming(&self, node: &Node, door: Arc<Door>) {
        let (raft, identity) = (node.inner.raft.clone(), node.inner.identity);
        let (timing, stop) = (self.config.timing, self.stop.clone());
        let finishing = async move {
            if matches!(raft.is_initialized().await, Ok(false))
                && let Some(founders) = forming::finish(&door, timing, identity).await
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
        // It runs already: somebody was elected meanwhile.
        warn!(%error, "the group was not initialized again");
    }
}

/// When the node stops, consensus ends before the store is closed.
async fn end(raft: Consensus, store: Arc<Store>, stop: CancellationToken) {
    stop.cancelled().await;
    if let Err(error) = raft.shutdown().await {
        warn!(%error, "consensus did not end in order");
    }
    store.close().await;
}
