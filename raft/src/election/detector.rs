//! Detection of a leader that is silent although none of its connections ended: frozen,
//! partitioned, or on a lost host.
//!
//! A follower that suspects its leader (`suspicion`) asks the other voters whether they suspect it
//! too. If a majority does, the follower starts an election immediately, as in a leadership
//! transfer. The suspicion of a single follower changes nothing, not even for that follower. Safety
//! does not depend on this module, and no read may rely on a lease: a majority that is wrong costs
//! one election.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use argosy_proto::clock::WallClock;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use openraft::async_runtime::WatchReceiver as _;
use openraft::raft::TransferLeaderRequest;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tracing::{debug, info};

use super::failover::{self, WatchedLeader};
use super::leader_contact::LeaderContact;
use super::suspicion::{Suspicion, Tick};
use crate::group::GroupHandle;
use crate::status::FailoverPhases;
use crate::transport::connections;
use crate::transport::wire::{self, proto};
use crate::types::{LogId, TypeConfig, Vote};

/// The leader detector of this node. Cheap to clone; all clones share one state.
#[derive(Clone)]
pub(crate) struct LeaderDetector(Arc<Inner>);

struct Inner {
    group: GroupHandle,
    leader_contact: LeaderContact,
    phases: Arc<watch::Sender<FailoverPhases>>,
    wall: WallClock,
    // A plain lock, never held over an await.
    suspicion: Mutex<Suspicion>,
}

impl LeaderDetector {
    pub(crate) fn new(
        group: &GroupHandle,
        contact: &LeaderContact,
        phases: &Arc<watch::Sender<FailoverPhases>>,
        wall: &WallClock,
    ) -> LeaderDetector {
        LeaderDetector(Arc::new(Inner {
            group: group.clone(),
            leader_contact: contact.clone(),
            phases: phases.clone(),
            wall: wall.clone(),
            suspicion: Mutex::new(Suspicion::new(group.timing)),
        }))
    }

    fn suspicion(&self) -> MutexGuard<'_, Suspicion> {
        let suspicion = self.0.suspicion.lock();
        suspicion.expect("no holder of the lock panics")
    }

    fn own(&self) -> u64 {
        self.0.group.caller.id
    }

    fn followed(&self) -> Option<WatchedLeader> {
        failover::followed(&self.0.group.raft, self.own())
    }

    /// Watches the current leader until the node stops.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(self.suspicion().period());
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // At most one round of requests at a time. Dropping the set cancels it.
        let mut asking = JoinSet::new();
        loop {
            let due = tokio::select! {
                () = stop.cancelled() => return,
                due = ticks.tick() => due,
                Some(asked) = asking.join_next() => {
                    match asked {
                        Ok(Some(leader)) => self.start_election(&leader).await,
                        Ok(None) | Err(_) => self.suspicion().set_asking(false),
                    }
                    continue;
                }
            };
            if let Some(leader) = self.tick(due)
                && asking.is_empty()
            {
                self.suspicion().set_asking(true);
                let detector = self.clone();
                asking.spawn(async move {
                    let is_supported = detector.ask_voters(&leader).await;
                    is_supported.then_some(leader)
                });
            }
        }
    }

    /// Records a firing of the timer. Returns the leader if this node suspects it and may ask the
    /// other voters now.
    fn tick(&self, due: Instant) -> Option<WatchedLeader> {
        let leader = self.followed();
        let term = leader.as_ref().map(|leader| leader.vote.leader_id.term);
        let heard = term.and_then(|term| self.0.leader_contact.contact_of(term));
        let mut suspicion = self.suspicion();
        suspicion.tick(Tick {
            due,
            now: Instant::now(),
            term,
            last_contact: heard,
        });
        let leader = leader?;
        let rank = self.rank(&leader)?;
        suspicion.requests_election(rank).then_some(leader)
    }

    /// Returns the position of this node among the other voters.
    fn rank(&self, leader: &WatchedLeader) -> Option<u32> {
        let metrics = self.0.group.raft.server_metrics();
        let membership = metrics.borrow_watched().membership_config.clone();
        let others: BTreeSet<u64> = membership
            .voter_ids()
            .filter(|id| *id != leader.id)
            .collect();
        let rank = others.iter().position(|id| *id == self.own())?;
        u32::try_from(rank).ok()
    }

    /// Returns whether a majority suspects the leader and would vote for this node.
    async fn ask_voters(&self, leader: &WatchedLeader) -> bool {
        let group = &self.0.group;
        let metrics = group.raft.server_metrics();
        let membership = metrics.borrow_watched().membership_config.clone();
        let Ok(last_log) = self.last_log().await else {
            return false;
        };
        let mut answers = FuturesUnordered::new();
        for (id, member) in membership.nodes() {
            let is_asked = *id != self.own() && *id != leader.id;
            let Ok(connections) = group.peers.to(&member.raft_address) else {
                continue;
            };
            if !is_asked {
                continue;
            }
            let request = proto::SuspectRequest {
                header: Some(group.caller.header(*id, &connections)),
                leader: Some(wire::vote(&leader.vote)),
                last_log: last_log.as_ref().map(wire::log_id),
            };
            let id = *id;
            answers.push(async move {
                let mut client = connections::client(connections.control.clone());
                let answer = client.suspect(request).await;
                // A master of release 0.1 does not know the request, which counts as no support.
                answer
                    .is_ok_and(|answer| answer.into_inner().supports)
                    .then_some(id)
            });
        }
        let mut supporters = BTreeSet::from([self.own()]);
        let counting = async {
            while let Some(answer) = answers.next().await {
                supporters.extend(answer);
                // During a member change, both quorums must agree.
                let mut quorums = membership.get_joint_config().iter();
                if quorums.all(|voters| is_majority(voters, &supporters)) {
                    return true;
                }
            }
            false
        };
        let timeout = Duration::from_millis(group.timing.heartbeat_ms);
        tokio::time::timeout(timeout, counting)
            .await
            .unwrap_or(false)
    }

    /// Starts an election, unless a message of the leader arrived while the others were asked.
    /// Voters do not wait for the end of openraft's leader lease, because the request is that of a
    /// leadership transfer.
    async fn start_election(&self, leader: &WatchedLeader) {
        let (term, now) = (leader.vote.leader_id.term, Instant::now());
        let last_contact = self.0.leader_contact.contact_of(term);
        let timeout = {
            let mut suspicion = self.suspicion();
            let still = suspicion.supports(now, last_contact);
            suspicion.set_asking(still);
            still.then(|| suspicion.timeout())
        };
        let Some(timeout) = timeout else {
            return;
        };
        info!(
            leader = leader.id,
            term,
            timeout_ms = timeout.as_millis(),
            "a majority receives nothing from the leader, starting an election"
        );
        self.0
            .phases
            .send_modify(|phases| phases.record_dead_leader(term, &self.0.wall));
        let request = TransferLeaderRequest::<TypeConfig>::new(leader.vote, self.own(), None);
        if let Err(error) = self.0.group.raft.handle_transfer_leader(request).await {
            debug!(%error, "the election was not started");
        }
    }

    /// Returns whether this node suspects the leader too, and would vote for the requesting node.
    pub(crate) async fn supports(&self, request: proto::SuspectRequest) -> Result<bool, Status> {
        let suspected = wire::vote_from(request.leader)?;
        let last_log = request.last_log.map(wire::log_id_from).transpose()?;
        let from = request.header.map_or(0, |header| header.from);
        if !self.suspects(&suspected, from) {
            return Ok(false);
        }
        let own = self.last_log().await?;
        Ok(last_log >= own)
    }

    fn suspects(&self, suspected: &Vote, from: u64) -> bool {
        if self
            .followed()
            .is_none_or(|leader| leader.vote != *suspected)
        {
            return false;
        }
        let last_contact = self.0.leader_contact.contact_of(suspected.leader_id.term);
        let suspicion = self.suspicion();
        let is_rival = suspicion.has_requested_election() && self.own() < from;
        suspicion.supports(Instant::now(), last_contact) && !is_rival
    }

    /// Returns the id of the last entry in this node's log.
    async fn last_log(&self) -> Result<Option<LogId>, Status> {
        let raft = &self.0.group.raft;
        let last = raft.with_raft_state(|state| state.log_ids.last().copied());
        last.await
            .map_err(|error| Status::unavailable(error.to_string()))
    }
}

fn is_majority(voters: &BTreeSet<u64>, supporters: &BTreeSet<u64>) -> bool {
    voters.intersection(supporters).count() > voters.len() / 2
}
