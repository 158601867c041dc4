//! A master's replica of the Raft group. It runs on the runtime that calls `Node::start`.

use std::sync::Arc;
use std::time::Duration;

use argosy_proto::clock::WallClock;
use argosy_state::level::{Level, Levels};
use openraft::async_runtime::WatchReceiver as _;
use openraft::{RaftMetrics, ServerState};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::bootstrap::startup::{NodeParts, start};
use crate::error::{MembershipError, ProposeError, ReadError, StartError};
use crate::liveness;
use crate::membership::{MemberChange, MembershipGuard};
use crate::progress::LogProgress;
use crate::proposer::Proposal;
use crate::settings::{NodeConfig, NodeEnvironment};
use crate::status::RaftStatus;
use crate::storage::disk::memory::{DurableEntry, MemoryDisk};
use crate::storage::record::VoteRecord;
use crate::storage::store::StoreLocation;
use crate::storage::usage::StoreUsage;
use crate::types::{CommittedEntry, Member, OwnerRequest, Payload, TypeConfig};

/// A store in memory that outlives its node, for tests of restarts. All clones share one store.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore(MemoryDisk);

/// Records of a registry by key.
pub type RegistryRecords = Vec<(Vec<u8>, Vec<u8>)>;

impl MemoryStore {
    /// Returns an empty store with random numbers from `seed`, so that runs can be repeated.
    #[must_use]
    pub fn seeded(seed: u64) -> MemoryStore {
        MemoryStore(MemoryDisk::seeded(seed))
    }

    /// Returns what a power cut would leave of the log entry at `index`.
    #[must_use]
    pub fn durable_entry(&self, index: u64) -> DurableEntry {
        self.0.durable_entry(index)
    }

    /// Returns the log entry at `index`, committed or not. `None` if the store lacks it.
    #[must_use]
    pub fn entry(&self, index: u64) -> Option<CommittedEntry> {
        let entry = self.0.entry(index)?.entry;
        let (at_ms, commands) = match entry.payload {
            Payload::Normal(batch) => (batch.at_ms, batch.commands),
            Payload::Blank | Payload::Membership(_) => (0, Vec::new()),
        };
        Some(CommittedEntry {
            index: entry.log_id.index,
            term: entry.log_id.leader_id.term,
            at_ms,
            commands,
        })
    }

    /// Returns term and index of the last log entry, committed or not. `None` if the log is empty.
    #[must_use]
    pub fn last_entry(&self) -> Option<(u64, u64)> {
        self.0.last_entry()
    }

    /// Returns the node's id as a power cut would leave it. `None` until a group has assigned one.
    #[must_use]
    pub fn node_id(&self) -> Option<u64> {
        self.0.node_id()
    }

    /// Returns the newest vote of the node on this store, as a power cut would leave it.
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

    /// Returns the index of the last entry that is applied in the store. `None` before the first.
    #[must_use]
    pub fn applied(&self) -> Option<u64> {
        self.0.applied()
    }

    /// Returns the registry's index and records; `None` before the first entry or during an
    /// install.
    #[must_use]
    pub fn registry(&self) -> Option<(u64, RegistryRecords)> {
        self.0.registry()
    }

    /// Returns the bytes of all snapshots ever written to the store.
    #[must_use]
    pub fn image_bytes(&self) -> u64 {
        self.0.image_bytes()
    }

    /// Changes a stored record of the registry, unnoticed by the node, as a defective disk would.
    pub fn replace_record(&self, key: Vec<u8>, value: Vec<u8>) {
        self.0.replace_record(key, value);
    }

    /// Returns the number of writes since the last sync.
    pub fn unsynced(&self) -> usize {
        self.0.unsynced()
    }

    /// Cuts the power after the node has ended: only the first `kept` unsynced writes survive.
    pub fn cut_power(&self, kept: usize) {
        self.0.cut_power(kept);
    }

    /// Makes all writes after the next `left` ones fail, as on a full disk, until a power cut.
    pub fn fail_writes_after(&self, left: usize) {
        self.0.fail_writes_after(left);
    }

    /// Returns whether a write has failed or the next one will.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.0.is_broken()
    }

    /// Replaces the store by a new, empty disk, after the node on it has ended.
    pub fn wipe(&self) {
        self.0.wipe();
    }

    /// Delays each further write by `delay`.
    pub fn slow_down(&self, delay: Duration) {
        self.0.slow_down(delay);
    }
}

/// A vote as stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredVote {
    pub term: u64,
    /// The id of the candidate.
    pub voted_for: u64,
    /// Whether a quorum has granted the vote: the candidate leads the term.
    pub is_granted: bool,
}

/// A member of the group, as the list of masters shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedMember {
    /// The id of the member, assigned once and never reused.
    pub id: u64,
    /// The addresses of the member.
    pub member: Member,
    /// Whether the member votes; otherwise it is a learner.
    pub is_voter: bool,
    /// Whether the member leads, as far as this node knows.
    pub is_leader: bool,
    /// The number of entries that the member lacks. Known at the leader only.
    pub lag: Option<u64>,
    /// The time since its last answer. Known at the leader only, and not for the leader itself.
    pub acked_ago: Option<Duration>,
    /// The feature levels that the member has reported. Known at the leader only.
    pub levels: Option<Levels>,
}

/// A running node. Cheap to clone; all clones are the same node.
#[derive(Clone)]
pub struct Node {
    parts: Arc<NodeParts>,
}

impl Node {
    /// Starts a node. Returns once consensus runs; until then it waits for missing masters and logs
    /// their addresses. `owner` first receives a request to load the registry. The node ends when
    /// `stop` is cancelled; [`Node::stop`] waits for the end.
    ///
    /// # Errors
    /// If the directory cannot be used, the group rejects this node, or `stop` was cancelled.
    pub async fn start(
        config: NodeConfig,
        surroundings: NodeEnvironment,
        owner: mpsc::Sender<OwnerRequest>,
        stop: CancellationToken,
    ) -> Result<Node, StartError> {
        let location = match &config.directory {
            Some(directory) => StoreLocation::Directory(directory.clone()),
            None => StoreLocation::Memory(MemoryDisk::default()),
        };
        Node::start_at(config, location, surroundings, owner, stop).await
    }

    /// Starts a node on a reusable store in memory. `config.directory` is ignored.
    ///
    /// # Errors
    /// As [`Node::start`].
    pub async fn start_in_memory(
        config: NodeConfig,
        memory: &MemoryStore,
        surroundings: NodeEnvironment,
        owner: mpsc::Sender<OwnerRequest>,
        stop: CancellationToken,
    ) -> Result<Node, StartError> {
        let location = StoreLocation::Memory(memory.0.clone());
        Node::start_at(config, location, surroundings, owner, stop).await
    }

    async fn start_at(
        config: NodeConfig,
        location: StoreLocation,
        surroundings: NodeEnvironment,
        owner: mpsc::Sender<OwnerRequest>,
        stop: CancellationToken,
    ) -> Result<Node, StartError> {
        let parts = start(config, location, surroundings, owner, stop).await?;
        Ok(Node {
            parts: Arc::new(parts),
        })
    }

    /// Queues a command for the next entry; waits while the queue is full. It is committed only
    /// when the owner receives it in `Apply`, and may be lost when this node stops leading.
    ///
    /// # Errors
    /// If this node does not lead or has stopped, or the command is larger than an entry may be.
    pub async fn propose(&self, proposal: Proposal) -> Result<(), ProposeError> {
        self.parts.queue.propose(proposal).await
    }

    /// Queues a command like `propose`, but never waits: a full queue is an error.
    ///
    /// # Errors
    /// As [`Node::propose`], and if the queue is full.
    pub fn try_propose(&self, proposal: Proposal) -> Result<(), ProposeError> {
        self.parts.queue.try_propose(proposal)
    }

    /// Drops the commands that wait in the queue, for an owner that is no longer the active leader
    /// although this node still leads. Commands in flight may still be committed.
    pub fn clear_queue(&self) {
        self.parts.queue.clear();
    }

    /// Returns a watch of the node's status.
    pub fn status(&self) -> watch::Receiver<RaftStatus> {
        self.parts.status.clone()
    }

    /// Returns the current indexes of this node.
    pub fn progress(&self) -> LogProgress {
        LogProgress::of(&self.parts.raft.metrics().borrow_watched())
    }

    /// Returns what the store took on its disk when it was last measured; nothing for a store in
    /// memory.
    pub fn store_usage(&self) -> watch::Ref<'_, StoreUsage> {
        self.parts.store_usage.borrow()
    }

    /// Returns the time since the newest contact with other members, by id: for a leader, since
    /// sending what each of them has answered; for a follower, since the newest message of its
    /// leader. Members that were never heard are left out.
    pub fn last_contacts(&self) -> Vec<(u64, Duration)> {
        let metrics = self.parts.raft.metrics();
        let metrics = metrics.borrow_watched();
        if metrics.state == ServerState::Leader {
            let others = metrics.membership_config.nodes().map(|(id, _)| *id);
            let others = others.filter(|id| *id != metrics.id);
            let liveness = &self.parts.liveness;
            let acked = |id| Some((id, liveness::acked_ago(&metrics, liveness, id)?));
            return others.filter_map(acked).collect();
        }
        let leader = metrics.current_leader.filter(|id| *id != metrics.id);
        let contact = self.parts.leader_contact.contact_of(metrics.current_term);
        let contact = leader.zip(contact);
        contact
            .map(|(id, at)| (id, at.elapsed()))
            .into_iter()
            .collect()
    }

    /// Returns the time since sending the newest message that a quorum has answered as followers of
    /// this leader. `None` while this node does not lead, or when a voter has answered with a newer
    /// term. The answers wait for no disk. Beyond the election maximum another master may lead.
    pub fn quorum_acked_ago(&self) -> Option<Duration> {
        let metrics = self.parts.raft.metrics();
        let metrics = metrics.borrow_watched();
        let phases = *self.parts.phases.borrow();
        liveness::quorum_acked_ago(&metrics, phases, &self.parts.liveness)
            .filter(|_| !self.parts.liveness.is_deposed(&metrics.vote.leader_id))
    }

    /// Returns whether too many voters are too far away to confirm reads: requests that wait for no
    /// disk repeatedly take longer than a heartbeat may. `None` while this node does not lead.
    pub fn is_far_away(&self) -> Option<bool> {
        let metrics = self.parts.raft.metrics();
        let metrics = metrics.borrow_watched();
        let leads = metrics.state == ServerState::Leader;
        let config = metrics.membership_config.get_joint_config();
        leads.then(|| {
            let mut quorums = config.iter();
            quorums.any(|voters| self.parts.liveness.rtts().is_far(metrics.id, voters))
        })
    }

    /// Returns the index that a linearizable read from now on must wait for, confirmed by a quorum.
    ///
    /// # Errors
    /// If there is no leader, or it cannot reach a quorum in time.
    pub async fn confirm_read(&self) -> Result<u64, ReadError> {
        let confirmed = self.parts.reads.confirm().await?;
        Ok(confirmed.index)
    }

    /// Returns the term that this node has led without a break until after this call began, as a
    /// quorum confirmed; `None` if another leads. No other node has committed in that time.
    ///
    /// # Errors
    /// As [`Node::confirm_read`].
    pub async fn confirm_term(&self) -> Result<Option<u64>, ReadError> {
        let confirmed = self.parts.reads.confirm().await?;
        Ok(confirmed.own_term)
    }

    /// Adds the waiting master at `raft_address` as a learner and, once it has caught up, as a
    /// voter. It replaces a member with this address and another data directory. Returns its id.
    ///
    /// # Errors
    /// If that master does not answer or belongs to another group, another change is under way, or
    /// there is no leader. Only after [`MembershipError::Unfinished`] may something have changed.
    pub async fn join(&self, raft_address: &str) -> Result<u64, MembershipError> {
        let raft_address = raft_address.to_owned();
        let promote = true;
        let change = MemberChange::Join {
            raft_address,
            promote,
        };
        self.change(change).await
    }

    /// Removes a member. A leader transfers leadership first.
    ///
    /// # Errors
    /// If it is not a member, no quorum would remain, another change runs, or there is no leader.
    pub async fn remove(&self, id: u64) -> Result<(), MembershipError> {
        self.change(MemberChange::Remove(id)).await.map(|_id| ())
    }

    /// Transfers leadership to this voter, or to the most advanced one that answers. Returns the
    /// new leader.
    ///
    /// # Errors
    /// If it is not a voter, has not answered lately, or is not elected in time.
    pub async fn transfer(&self, to: Option<u64>) -> Result<u64, MembershipError> {
        self.change(MemberChange::Transfer(to)).await
    }

    /// Runs the change in a task on the node's runtime, where its connections belong. Once begun,
    /// it is completed even if the caller is dropped, unless the node stops: then a leader
    /// completes it.
    async fn change(&self, change: MemberChange) -> Result<u64, MembershipError> {
        let changes = self.parts.changes.clone();
        let stop = self.parts.stop.clone();
        let change = async move {
            let changed = stop.run_until_cancelled(changes.change(change, false));
            changed.await.unwrap_or_else(|| {
                Err(MembershipError::Unfinished {
                    reason: "this master is stopping".to_owned(),
                })
            })
        };
        let changing = self.parts.tasks.spawn_on(change, &self.parts.runtime);
        changing.await.unwrap_or(Err(MembershipError::Stopped))
    }

    /// Returns the members of the group as this node knows them, voters first.
    pub fn members(&self) -> Vec<ListedMember> {
        let metrics = self.parts.raft.metrics();
        let metrics = metrics.borrow_watched();
        let progress = LogProgress::of(&metrics);
        let status = self.parts.status.borrow();
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
                acked_ago: liveness::acked_ago(&metrics, &self.parts.liveness, *id),
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
                let levels = self.parts.liveness.levels(&metrics.vote.leader_id, id);
                levels.filter(|_| leads)
            }
        }
    }

    /// Sets the feature level of the cluster: a master that does not know it cannot join.
    pub fn set_level(&self, level: Level) {
        self.parts.changes.set_level(level);
    }

    /// Keeps the group unchanged until the result is dropped. Returns each member's levels too.
    ///
    /// # Errors
    /// If this node does not lead, or another change of the group is under way.
    pub async fn lock_members(&self) -> Result<MembershipGuard, MembershipError> {
        let changes = self.parts.changes.clone();
        let holding = self.parts.tasks.spawn_on(
            async move { changes.lock_members().await },
            &self.parts.runtime,
        );
        holding.await.unwrap_or(Err(MembershipError::Stopped))
    }

    /// Returns the id of this node in the group.
    pub fn id(&self) -> u64 {
        self.parts.identity.id
    }

    /// Returns the wall clock that this node was started with.
    pub fn wall_clock(&self) -> &WallClock {
        &self.parts.wall
    }

    /// Returns the incarnation of the process: random, new with every start.
    pub fn incarnation(&self) -> u64 {
        self.parts.process_incarnation
    }

    /// Returns the key that distinguishes this group from others on the wire.
    pub fn cluster_key(&self) -> u64 {
        self.parts.identity.cluster_key
    }

    /// Stops the node. Returns when all its tasks have ended, its store is closed and its directory
    /// is unlocked: a read of the registry that is under way ([`Node::read_registry`]) delays it.
    pub async fn stop(&self) {
        self.parts.stop.cancel();
        self.parts.tasks.wait().await;
        // Openraft ends its task of the state machine without waiting for it, and a measurement of
        // the store finishes on its thread.
        self.parts.unlocked.cancelled().await;
    }

    pub(crate) fn parts(&self) -> &NodeParts {
        &self.parts
    }

    #[cfg(test)]
    pub(crate) fn consensus(&self) -> &crate::state_machine::Consensus {
        &self.parts.raft
    }
}
