//! One master's part in consensus: started, asked, stopped. Everything runs on the runtime that `Node::start` is called on.

use std::sync::Arc;
use std::time::Duration;

use argosy_proto::clock::WallClock;
use argosy_state::level::{Level, Levels};
use openraft::async_runtime::WatchReceiver as _;
use openraft::{Raft, RaftMetrics, ServerState};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::bootstrap::decision::Identity;
use crate::bootstrap::startup::start;
use crate::election::liveness::Liveness;
use crate::error::{MembershipError, ProposeError, ReadError, StartError};
use crate::membership::{Change, Changes, HeldMembers};
use crate::progress::Progress;
use crate::proposer::{Proposal, Queue};
use crate::read_index::Reads;
use crate::settings::{NodeConfig, Surroundings, Timing};
use crate::state_machine::Machine;
use crate::status::{self, Phases, Status};
use crate::storage::disk::memory::{Durable, MemoryDisk};
use crate::storage::record::VoteRecord;
use crate::storage::store::Place;
use crate::transport::connections::Peers;
use crate::transport::network::Caller;
use crate::types::{Committed, Member, OwnerRequest, Payload, TypeConfig};

/// openraft, with our entries and our registry.
pub(crate) type Consensus = Raft<TypeConfig, Machine>;

/// A store in memory that outlives the node on it, for tests and simulations of restarts. A clone is the same store.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore(MemoryDisk);

/// Records of a registry by key.
pub type Records = Vec<(Vec<u8>, Vec<u8>)>;

impl MemoryStore {
    /// An empty store that makes its random numbers from `seed`, so that everything about it can be repeated.
    #[must_use]
    pub fn seeded(seed: u64) -> MemoryStore {
        MemoryStore(MemoryDisk::seeded(seed))
    }

    /// What a power cut would leave of the log entry at `index`.
    #[must_use]
    pub fn durable_entry(&self, index: u64) -> Durable {
        self.0.durable_entry(index)
    }

    /// The log entry at `index`, committed or not. `None` if the store does not hold it, or not any more.
    #[must_use]
    pub fn entry(&self, index: u64) -> Option<Committed> {
        let entry = self.0.entry(index)?.entry;
        let (at_ms, commands) = match entry.payload {
            Payload::Normal(batch) => (batch.at_ms, batch.commands),
            Payload::Blank | Payload::Membership(_) => (0, Vec::new()),
        };
        Some(Committed {
            index: entry.log_id.index,
            term: entry.log_id.leader_id.term,
            at_ms,
            commands,
        })
    }

    /// Term and index of the last log entry, committed or not. `None` if the log is empty.
    #[must_use]
    pub fn last_entry(&self) -> Option<(u64, u64)> {
        self.0.last_entry()
    }

    /// The id of the node on this store, as a power cut would leave it. `None` until a group has given it one.
    #[must_use]
    pub fn node_id(&self) -> Option<u64> {
        self.0.node_id()
    }

    /// The newest vote of the node on this store, as a power cut would leave it.
    #[must_use]
    pub fn vote(&self) -> Option<StoredVote> {
        let VoteRecord {
            term,
            voted_for,
            committed,
        } = self.0.vote()?;
        Some(StoredVote {
            term,
            voted_for,
            is_granted: committed,
        })
    }

    /// The last entry that is applied in the store. `None` before the first.
    #[must_use]
    pub fn applied(&self) -> Option<u64> {
        self.0.applied()
    }

    /// The registry as it lies in the store: up to which entry, and its records by key. `None` before the first entry, and
    /// while a snapshot takes its place.
    #[must_use]
    pub fn registry(&self) -> Option<(u64, Records)> {
        self.0.registry()
    }

    /// Bytes of all snapshot images that were ever written to the store.
    #[must_use]
    pub fn image_bytes(&self) -> u64 {
        self.0.image_bytes()
    }

    /// Changes a stored record of the registry behind everybody's back, as a defect of a disk would.
    pub fn replace_record(&self, key: Vec<u8>, value: Vec<u8>) {
        self.0.replace_record(key, value);
    }

    /// Writes since the last sync.
    pub fn unsynced(&self) -> usize {
        self.0.unsynced()
    }

    /// A power cut, after the node on it has ended: of the writes since the last sync only the first `kept` are left.
    pub fn cut_power(&self, kept: usize) {
        self.0.cut_power(kept);
    }

    /// After `left` more writes every further one fails, until the power is cut: the disk is full, or dies.
    pub fn break_after(&self, left: usize) {
        self.0.break_after(left);
    }

    /// Whether a write has failed, or the next one will.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.0.is_broken()
    }

    /// A new, empty disk in its place, after the node on it has ended.
    pub fn wipe(&self) {
        self.0.wipe();
    }

    /// How long each further write takes.
    pub fn slow_down(&self, delay: Duration) {
        self.0.slow_down(delay);
    }
}

/// A vote as stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredVote {
    /// The term.
    pub term: u64,
    /// Id of the candidate.
    pub voted_for: u64,
    /// A quorum has granted it: the candidate leads the term.
    pub is_granted: bool,
}

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
    /// How long ago it last answered. Known at the leader only, and not of itself.
    pub heard_ago: Option<Duration>,
    /// The feature levels that it has reported. Known at the leader only.
    pub levels: Option<Levels>,
}

/// A running node. Cheap to clone; all clones are the same node.
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

/// What reads and changes of the group need of a node.
#[derive(Clone)]
pub(crate) struct Group {
    pub(crate) raft: Consensus,
    pub(crate) caller: Caller,
    pub(crate) peers: Peers,
    pub(crate) timing: Timing,
    pub(crate) status: watch::Receiver<Status>,
    pub(crate) liveness: Liveness,
}

/// What a node is made of.
pub(crate) struct Parts {
    pub(crate) identity: Identity,
    pub(crate) process_incarnation: u64,
    pub(crate) wall: WallClock,
    pub(crate) raft: Consensus,
    pub(crate) queue: Queue,
    pub(crate) reads: Reads,
    pub(crate) changes: Arc<Changes>,
    pub(crate) status: watch::Receiver<Status>,
    pub(crate) phases: Arc<watch::Sender<Phases>>,
    pub(crate) liveness: Liveness,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

struct Inner {
    parts: Parts,
    runtime: Handle,
    /// The last clone of a node that is dropped stops it.
    _stop_with_last: DropGuard,
}

impl Node {
    /// Opens the store, finds or forms the group, and takes part in it. Returns once consensus runs; before that it waits as
    /// long as other masters are missing, and says in the log whom it waits for. `owner` is asked to load the registry first.
    /// The node ends when `stop` is cancelled, and is finished when [`Node::stop`] has returned.
    ///
    /// # Errors
    /// If the directory cannot be used, the group refuses this node, or `stop` was cancelled before.
    pub async fn start(
        config: NodeConfig,
        surroundings: Surroundings,
        owner: mpsc::Sender<OwnerRequest>,
        stop: CancellationToken,
    ) -> Result<Node, StartError> {
        let place = match &config.directory {
            Some(directory) => Place::Directory(directory.clone()),
            None => Place::Memory(MemoryDisk::default()),
        };
        start(config, place, surroundings, owner, stop).await
    }

    /// Like [`Node::start`], on a store in memory that may be used again by a later node. `config.directory` is not looked at.
    ///
    /// # Errors
    /// As [`Node::start`].
    pub async fn start_in_memory(
        config: NodeConfig,
        memory: &MemoryStore,
        surroundings: Surroundings,
        owner: mpsc::Sender<OwnerRequest>,
        stop: CancellationToken,
    ) -> Result<Node, StartError> {
        start(
            config,
            Place::Memory(memory.0.clone()),
            surroundings,
            owner,
            stop,
        )
        .await
    }

    /// Puts a command into the queue for the next entry, and waits while the queue is full. That is no promise: it is committed
    /// when the owner sees it again in `Apply`, and lost, perhaps, when this node stops leading.
    ///
    /// # Errors
    /// If this node does not lead or has stopped, or the command is larger than an entry may be.
    pub async fn propose(&self, proposal: Proposal) -> Result<(), ProposeError> {
        self.inner.parts.queue.propose(proposal).await
    }

    /// Like `propose`, and never waits: a full queue is an error.
    ///
    /// # Errors
    /// As [`Node::propose`], and if the queue is full.
    pub fn try_propose(&self, proposal: Proposal) -> Result<(), ProposeError> {
        self.inner.parts.queue.try_propose(proposal)
    }

    /// Drops commands that wait in the queue: for an owner that has lost office although this node leads on. What is in flight
    /// may still be committed.
    pub fn forget_queued(&self) {
        self.inner.parts.queue.forget();
    }

    /// What this node knows, now and whenever it changes.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.inner.parts.status.clone()
    }

    /// How far this node is, now.
    pub fn progress(&self) -> Progress {
        Progress::of(&self.inner.parts.raft.metrics().borrow_watched())
    }

    /// How long ago a message was sent that a quorum has answered as followers of this leader; `None` while it does not lead,
    /// or when a voter has answered with a newer term. The answers wait for no disk. Beyond the election maximum another
    /// master may lead.
    pub fn quorum_acked_ago(&self) -> Option<Duration> {
        let metrics = self.inner.parts.raft.metrics();
        let metrics = metrics.borrow_watched();
        let phases = *self.inner.parts.phases.borrow();
        status::quorum_heard_ago(&metrics, phases, &self.inner.parts.liveness).filter(|_| {
            !self
                .inner
                .parts
                .liveness
                .is_deposed(&metrics.vote.leader_id)
        })
    }

    /// Whether this leader is so far away from a majority of the voters that it confirms no read: again and again they take
    /// longer than a heartbeat may to answer what waits for no disk. `None` while this node does not lead.
    pub fn is_far_away(&self) -> Option<bool> {
        let metrics = self.inner.parts.raft.metrics();
        let metrics = metrics.borrow_watched();
        let leads = metrics.state == ServerState::Leader;
        let config = metrics.membership_config.get_joint_config();
        leads.then(|| {
            let mut quorums = config.iter();
            quorums.any(|voters| {
                self.inner
                    .parts
                    .liveness
                    .distances()
                    .is_far(metrics.id, voters)
            })
        })
    }

    /// The index up to which the registry must be applied for a linearizable read that begins now; a quorum has confirmed it.
    ///
    /// # Errors
    /// If there is no leader, or it cannot reach a quorum in time.
    pub async fn confirm_read(&self) -> Result<u64, ReadError> {
        let confirmed = self.inner.parts.reads.confirm().await?;
        Ok(confirmed.index)
    }

    /// The term in which this node has led without a break until a moment after this call began, as a quorum has confirmed;
    /// `None` if another one leads. What was true in that term before the call was committed by nobody else meanwhile.
    ///
    /// # Errors
    /// As [`Node::confirm_read`].
    pub async fn confirm_term(&self) -> Result<Option<u64>, ReadError> {
        let confirmed = self.inner.parts.reads.confirm().await?;
        Ok(confirmed.own_term)
    }

    /// Takes the waiting master at `raft_address` into the group: first as a learner and, when it has caught up, as a voter. A
    /// member that had this address with another data directory is replaced. Returns its id.
    ///
    /// # Errors
    /// If that master does not answer or belongs elsewhere, another change is under way, or there is no leader. Only
    /// after [`MembershipError::Unfinished`] has something changed.
    pub async fn join(&self, raft_address: &str) -> Result<u64, MembershipError> {
        let raft_address = raft_address.to_owned();
        let promote = true;
        let change = Change::Join {
            raft_address,
            promote,
        };
        self.change(change).await
    }

    /// Removes a member. A leader hands over first.
    ///
    /// # Errors
    /// If it is no member, the rest would have no quorum, another change is under way, or there is no leader.
    pub async fn remove(&self, id: u64) -> Result<(), MembershipError> {
        self.change(Change::Remove(id)).await.map(|_id| ())
    }

    /// Hands leadership to this voter, or to the one that is furthest. Returns who leads then.
    ///
    /// # Errors
    /// If it is no voter, has not answered lately or is not elected in time: the present leader leads on.
    pub async fn transfer(&self, to: Option<u64>) -> Result<u64, MembershipError> {
        self.change(Change::Transfer(to)).await
    }

    /// In a task on the node's own runtime: whoever asked may go, a change that has begun is brought to its end, and the
    /// connections it makes live where consensus does.
    async fn change(&self, change: Change) -> Result<u64, MembershipError> {
        let changes = self.inner.parts.changes.clone();
        let changing = self.inner.parts.tasks.spawn_on(
            async move { changes.change(change, false).await },
            &self.inner.runtime,
        );
        changing.await.unwrap_or(Err(MembershipError::Stopped))
    }

    /// The members of the group as this node knows them, voters first.
    pub fn members(&self) -> Vec<ListedMember> {
        let metrics = self.inner.parts.raft.metrics();
        let metrics = metrics.borrow_watched();
        let progress = Progress::of(&metrics);
        let status = self.inner.parts.status.borrow();
        let leader = status.leader.as_ref().map(|(id, _)| *id);
        let list = |(id, member): &(u64, Member), is_voter| {
            let lag = if status.is_leader && *id == status.id {
                Some(0)
            } else {
                progress.lag.get(id).copied()
            };
            ListedMember {
                id: *id,
                member: member.clone(),
                is_voter,
                is_leader: leader == Some(*id),
                lag,
                heard_ago: status::heard_ago(&metrics, &self.inner.parts.liveness, *id),
                levels: self.reported_levels(&metrics, *id),
            }
        };
        let voters = status.voters.iter().map(|one| list(one, true));
        voters
            .chain(status.learners.iter().map(|one| list(one, false)))
            .collect()
    }

    fn reported_levels(&self, metrics: &RaftMetrics<TypeConfig>, id: u64) -> Option<Levels> {
        let leads = metrics.state == ServerState::Leader;
        match id == metrics.id {
            true => Some(Levels::OWN),
            false => {
                let levels = self
                    .inner
                    .parts
                    .liveness
                    .levels(&metrics.vote.leader_id, id);
                levels.filter(|_| leads)
            }
        }
    }

    /// The feature level of the cluster: a master that does not know it cannot join.
    pub fn set_level(&self, level: Level) {
        self.inner.parts.changes.set_level(level);
    }

    /// Holds the group as it is until the result is dropped, and asks each member which feature levels it knows.
    ///
    /// # Errors
    /// If this node does not lead, or another change of the group is under way.
    pub async fn hold_members(&self) -> Result<HeldMembers, MembershipError> {
        let changes = self.inner.parts.changes.clone();
        let holding = self
            .inner
            .parts
            .tasks
            .spawn_on(async move { changes.hold().await }, &self.inner.runtime);
        holding.await.unwrap_or(Err(MembershipError::Stopped))
    }

    /// The id of this node in the group.
    pub fn id(&self) -> u64 {
        self.inner.parts.identity.id
    }

    /// The time of day, as this node was given it.
    pub fn wall(&self) -> &WallClock {
        &self.inner.parts.wall
    }

    /// Random, new with every start of the process.
    pub fn incarnation(&self) -> u64 {
        self.inner.parts.process_incarnation
    }

    /// Tells this group from others on the wire.
    pub fn cluster_key(&self) -> u64 {
        self.inner.parts.identity.cluster_key
    }

    /// Stops the node, and returns when everything of it has ended and its store is closed.
    pub async fn stop(&self) {
        self.inner.parts.stop.cancel();
        self.inner.parts.tasks.wait().await;
    }

    /// On the runtime that this is called on.
    pub(crate) fn assemble(parts: Parts) -> Node {
        let inner = Inner {
            _stop_with_last: parts.stop.clone().drop_guard(),
            runtime: Handle::current(),
            parts,
        };
        Node {
            inner: Arc::new(inner),
        }
    }

    pub(crate) fn consensus(&self) -> &Consensus {
        &self.inner.parts.raft
    }
}
