//! Immediate detection of a dead leader by the end of a connection, and the election that follows.
//!
//! Each follower holds one connection to its leader that carries no messages: the *presence*.
//! openraft opens and closes its streams at will, so their ends prove nothing. The presence ends
//! only when a process ends or a network breaks. The follower opens it, so it knows which leader
//! the connection was for. Its end alone proves nothing either: the follower then queries the
//! leader's port for the process behind it. Safety does not depend on this module, and no read may
//! rely on a lease: a lease that was disabled by mistake stays disabled until the vote changes.

use std::sync::Arc;
use std::time::Duration;

use argosy_proto::clock::WallClock;
use openraft::ServerState;
use openraft::async_runtime::WatchReceiver as _;
use openraft::raft::TransferLeaderRequest;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Status, Streaming};
use tracing::{debug, info};

use super::campaign::{Campaign, CampaignStep, TermView};
use crate::settings::Timing;
use crate::state_machine::Consensus;
use crate::status::FailoverPhases;
use crate::transport::connections::{self, Peers};
use crate::transport::versions::MasterVersions;
use crate::transport::wire::proto;
use crate::types::{Member, TypeConfig, Vote};

/// The time for which a port that gives no clear answer is queried: an exiting process may still
/// accept or reset connections for a while.
const PROBE_TIMEOUT: Duration = Duration::from_millis(200);
/// The pause between a reset connection and the next query.
const RESET_PAUSE: Duration = Duration::from_micros(300);
/// The pause between two attempts to reconnect to a live leader.
const RECONNECT_PAUSE: Duration = Duration::from_millis(50);

/// The parts of a node that the watch uses.
pub(crate) struct PresenceWatch {
    pub(crate) id: u64,
    pub(crate) raft: Consensus,
    pub(crate) peers: Peers,
    pub(crate) timing: Timing,
    pub(crate) phases: Arc<watch::Sender<FailoverPhases>>,
    pub(crate) seed: u64,
    pub(crate) wall: WallClock,
    pub(crate) tasks: TaskTracker,
}

/// The leader that is being watched.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct WatchedLeader {
    pub(crate) id: u64,
    member: Member,
    pub(crate) vote: Vote,
}

/// Returns the leader that the node `own` follows as a voter.
pub(crate) fn followed(raft: &Consensus, own: u64) -> Option<WatchedLeader> {
    let metrics = raft.server_metrics();
    let metrics = metrics.borrow_watched();
    let id = metrics.current_leader.filter(|id| *id != own)?;
    let votes = metrics.state != ServerState::Learner
        && metrics.membership_config.voter_ids().any(|one| one == own);
    let member = metrics.membership_config.get_node(&id).cloned()?;
    let leads = metrics.vote.committed && metrics.vote.leader_id.voted_for == id;
    (votes && leads).then_some(WatchedLeader {
        id,
        member,
        vote: metrics.vote,
    })
}

/// The state of a leader whose presence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LeaderLiveness {
    Dead,
    Alive,
    /// No answer: the host or the network may be down. The election timeout decides.
    Unknown,
}

impl PresenceWatch {
    /// Watches the current leader until the node stops.
    pub(crate) async fn run(self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.watch_leaders() => {}
        }
    }

    async fn watch_leaders(&self) {
        let mut metrics = self.raft.server_metrics();
        loop {
            if let Some(leader) = self.leader() {
                self.preconnect();
                tokio::select! {
                    () = self.follow(&leader) => self.campaign(&leader).await,
                    () = self.leader_changes(&leader) => {}
                }
            } else if metrics.changed().await.is_err() {
                return;
            }
        }
    }

    fn leader(&self) -> Option<WatchedLeader> {
        followed(&self.raft, self.id)
    }

    async fn leader_changes(&self, leader: &WatchedLeader) {
        let mut metrics = self.raft.server_metrics();
        while self.leader().as_ref() == Some(leader) {
            if metrics.changed().await.is_err() {
                // Consensus has stopped. The stop token ends this task.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Opens the connections that an election and a new leader's first append need, before they are
    /// needed.
    fn preconnect(&self) {
        let metrics = self.raft.server_metrics();
        let membership = metrics.borrow_watched().membership_config.clone();
        for (id, member) in membership.nodes() {
            let Ok(connections) = self.peers.to(&member.raft_address) else {
                continue;
            };
            if *id == self.id {
                continue;
            }
            self.tasks.spawn(async move {
                let mut client = connections::client(connections.control.clone());
                let asking = client.ask(connections::ask_request());
                // Without an answer no connection can be opened.
                if let Ok(Ok(answer)) = tokio::time::timeout(PROBE_TIMEOUT, asking).await {
                    connections.reported(MasterVersions::of(answer.into_inner().versions));
                    connections.frames.preconnect().await;
                }
            });
        }
    }

    /// Holds the leader's presence. Returns when the leader is dead.
    async fn follow(&self, leader: &WatchedLeader) {
        let address = &leader.member.raft_address;
        let mut incarnation = None;
        loop {
            match self.open_presence(address).await {
                Ok((found, presence)) => {
                    // A restarted process never resumes its leadership: another incarnation means a
                    // dead leader.
                    if incarnation.is_some_and(|known| known != found) {
                        return;
                    }
                    incarnation = Some(found);
                    stream_end(presence).await;
                    debug!(
                        leader = leader.id,
                        address, "the leader's connection closed"
                    );
                }
                Err(status) => {
                    debug!(leader = leader.id, address, %status, "the leader's presence cannot be held")
                }
            }
            // Without an earlier connection a refusal proves nothing: only the path from this node
            // may be blocked.
            if let Some(known) = incarnation {
                match probe_leader(&self.peers, address, known).await {
                    LeaderLiveness::Dead => return,
                    LeaderLiveness::Alive => {}
                    LeaderLiveness::Unknown => debug!(
                        leader = leader.id,
                        address, "leader liveness unknown: its port gave no clear answer"
                    ),
                }
            }
            tokio::time::sleep(RECONNECT_PAUSE).await;
        }
    }

    async fn open_presence(
        &self,
        address: &str,
    ) -> Result<(u64, Streaming<proto::AskResponse>), Status> {
        let open = async {
            let channel = self.peers.connect(address).await?;
            let question = connections::ask_request();
            let mut presence = connections::client(channel)
                .presence(question)
                .await?
                .into_inner();
            let first = presence
                .message()
                .await?
                .ok_or_else(|| Status::unavailable("the stream ended without an answer"))?;
            Ok((first.process_incarnation, presence))
        };
        let timeout = Duration::from_millis(self.timing.append_deadline_ms);
        tokio::time::timeout(timeout, open)
            .await
            .unwrap_or_else(|_elapsed| Err(Status::deadline_exceeded("no answer")))
    }

    /// Campaigns until an entry of a newer term is applied here, or the leader proves to be alive.
    async fn campaign(&self, leader: &WatchedLeader) {
        let membership = self
            .raft
            .server_metrics()
            .borrow_watched()
            .membership_config
            .clone();
        let mut voters: Vec<u64> = membership
            .voter_ids()
            .filter(|id| *id != leader.id)
            .collect();
        voters.sort_unstable();
        let Some(rank) = voters.iter().position(|id| *id == self.id) else {
            return;
        };
        info!(
            leader = leader.id,
            term = leader.vote.leader_id.term,
            rank,
            "the leader is dead, starting an election"
        );
        self.phases.send_modify(|phases| {
            phases.record_dead_leader(leader.vote.leader_id.term, &self.wall)
        });
        self.drop_lease(leader).await;

        let now = Instant::now().into_std();
        let timeout = Duration::from_millis(4 * self.timing.election_max_ms);
        let mut campaign = Campaign::new(
            leader.vote.leader_id.term,
            rank as u32,
            self.seed ^ self.id,
            now,
            timeout,
        );
        let mut metrics = self.raft.metrics();
        loop {
            let view = {
                let metrics = metrics.borrow_and_update();
                TermView {
                    term: metrics.current_term,
                    applied_term: metrics
                        .last_applied
                        .as_ref()
                        .map_or(0, |id| id.leader_id.term),
                }
            };
            match campaign.step(Instant::now().into_std(), view) {
                CampaignStep::Done => return,
                // The call does not report the outcome: the lease of this node or of the others may
                // reject the election silently.
                CampaignStep::Elect => {
                    if self.raft.trigger().elect(true).await.is_err() {
                        return;
                    }
                }
                CampaignStep::WaitUntil(until) => {
                    // A change wakes the step early. A closed channel means that the node stops,
                    // and the stop token ends this task.
                    let _ =
                        tokio::time::timeout_at(Instant::from_std(until), metrics.changed()).await;
                }
            }
        }
    }

    /// Drops the lease under which this node does not vote against this leader. openraft does so
    /// when another node is named as the next leader, and only if the vote is unchanged.
    async fn drop_lease(&self, leader: &WatchedLeader) {
        let request = TransferLeaderRequest::<TypeConfig>::new(leader.vote, leader.id, None);
        if let Err(error) = self.raft.handle_transfer_leader(request).await {
            debug!(%error, "the lease was not dropped");
        }
    }
}

/// Returns when the presence has ended for any reason.
async fn stream_end(mut presence: Streaming<proto::AskResponse>) {
    while let Ok(Some(_)) = presence.message().await {}
}

/// Queries the port of a leader to find out whether its process still runs.
async fn probe_leader(peers: &Peers, address: &str, known: u64) -> LeaderLiveness {
    let deadline = Instant::now() + PROBE_TIMEOUT;
    loop {
        // A host that is cut off or frozen completes no connection.
        let probed = tokio::time::timeout_at(deadline, peers.probe(address)).await;
        match probed.unwrap_or_else(|_late| Err(std::io::ErrorKind::TimedOut.into())) {
            // No process listens there: the kernel reports it.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                return LeaderLiveness::Dead;
            }
            Err(error) => debug!(address, %error, "the leader's port cannot be reached"),
            Ok(()) => {
                let timeout = deadline.saturating_duration_since(Instant::now());
                match peers
                    .query(address, connections::ask_request(), timeout)
                    .await
                {
                    Ok(answer) if answer.process_incarnation == known => {
                        return LeaderLiveness::Alive;
                    }
                    Ok(_another) => return LeaderLiveness::Dead,
                    // Reset, closed or silent: both an exiting and a busy process do that. Query
                    // again.
                    Err(status) => {
                        debug!(address, %status, "the leader's port gives no clear answer")
                    }
                }
            }
        }
        if Instant::now() >= deadline {
            return LeaderLiveness::Unknown;
        }
        tokio::time::sleep(RESET_PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use argosy_proto::transport::Dialer;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_host_that_completes_no_connection_gives_no_answer_in_time() {
        let silent = Dialer::new(|_, _| std::future::pending());
        let peers = Peers::new(silent, Timing::testing());
        let probing = probe_leader(&peers, "m1.example:5052", 1);
        // The clock is virtual.
        let probed = tokio::time::timeout(10 * PROBE_TIMEOUT, probing).await;
        assert_eq!(probed.unwrap(), LeaderLiveness::Unknown);
    }
}
