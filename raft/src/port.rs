//! The raft port: the requests that other masters may send to this one.
//!
//! Between members, every message names its cluster and its target node, and is rejected if either
//! is wrong: a forgotten data directory or a reused address must not impersonate another node. No
//! incoming message can cause a panic.

mod admission;
mod frames;
#[cfg(test)]
pub(crate) mod tests;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use argosy_proto::server::hosts::AllowedHosts;
use argosy_proto::server::{self, PortLimits};
use argosy_proto::transport::Listener;
use futures::Stream;
use futures::stream::{self, BoxStream, StreamExt as _};
use openraft::async_runtime::WatchReceiver as _;
use openraft::errors::Fatal;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};
use tracing::debug;

use admission::{Sender, received};

use crate::election::detector::LeaderDetector;
use crate::election::leader_contact::LeaderContact;
use crate::group::GroupHandle;
use crate::liveness::Liveness;
use crate::log_size::LogGrowth;
use crate::membership::{MemberChange, MemberChanger, forwarding};
use crate::read_index;
use crate::settings::Timing;
use crate::state_machine::Consensus;
use crate::storage::store::Store;
use crate::transport::snapshot_transfer::{self, SnapshotReceiver};
use crate::transport::versions;
use crate::transport::wire::{self, proto};
use crate::types::{Member, NodeIdentity, TypeConfig, Vote};

/// The time that connections get to end when the node stops.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(300);
const WINDOW_BYTES: u32 = 8 << 20;
/// The maximum idle time of another master's connection.
const IDLE: Duration = Duration::from_secs(3_600);

/// The maximum number of connections. Each of at most nine other masters holds four, and opens
/// others for single queries. An additional one is closed immediately, or replaces a silent one; a
/// master reconnects.
const CONNECTIONS: usize = 128;

/// The maximum number of streams per connection. A master uses fewer than twenty on each; an
/// additional one waits.
const STREAMS: u32 = 64;

/// The maximum number of incoming snapshots: a new leader need not wait until the transfer of the
/// former one times out. An additional one is rejected, and its sender retries.
const SNAPSHOTS: usize = 2;

/// An identity that the leader of a group offers to this empty node.
pub(crate) struct Invitation {
    pub(crate) identity: NodeIdentity,
    /// Completed once consensus runs under it.
    pub(crate) accepted: oneshot::Sender<()>,
}

/// The parts that exist once the node has an identity and consensus runs.
pub(crate) struct FormedNode {
    identity: NodeIdentity,
    raft: Consensus,
    store: Arc<Store>,
    /// The saved vote.
    votes: watch::Receiver<Option<Vote>>,
    changes: Arc<MemberChanger>,
    growth: LogGrowth,
    liveness: Liveness,
    timing: Timing,
    detector: LeaderDetector,
    /// The slots for incoming snapshots.
    snapshots: Arc<Semaphore>,
}

impl FormedNode {
    pub(crate) fn new(
        identity: NodeIdentity,
        group: &GroupHandle,
        store: Arc<Store>,
        changes: Arc<MemberChanger>,
        growth: LogGrowth,
        detector: LeaderDetector,
    ) -> FormedNode {
        FormedNode {
            identity,
            raft: group.raft.clone(),
            votes: store.log().votes(),
            store,
            changes,
            growth,
            liveness: group.liveness.clone(),
            timing: group.timing,
            detector,
            snapshots: Arc::new(Semaphore::new(SNAPSHOTS)),
        }
    }
}

/// The state from which the port answers.
pub(crate) struct RaftPort {
    pub(crate) process_incarnation: u64,
    pub(crate) member: Member,
    /// The list that this master was started with, sorted.
    pub(crate) peers: Vec<String>,
    /// Known as soon as it is on disk, before consensus runs.
    pub(crate) identity: OnceLock<NodeIdentity>,
    pub(crate) formed: OnceLock<FormedNode>,
    /// A master that sent a different list while this one was empty, and its list.
    pub(crate) unequal: OnceLock<(String, Vec<String>)>,
    /// One slot: a second invitation waits until the first is accepted or rejected.
    pub(crate) invitations: mpsc::Sender<Invitation>,
    /// The time at which the leader's last message arrived here.
    pub(crate) leader_contact: LeaderContact,
    pub(crate) stop: CancellationToken,
}

impl RaftPort {
    /// Enables the port to answer for the group.
    pub(crate) fn open(&self, formed: FormedNode) {
        self.formed.get_or_init(|| formed);
    }

    /// Returns whether an operator has listed this address for this master.
    fn lists(&self, raft_address: &str) -> bool {
        self.peers.iter().any(|peer| peer == raft_address)
    }

    /// Records a listed master with another list: it will refuse to start, and this master must
    /// too.
    fn compare(&self, request: proto::AskRequest) {
        let listed = self.lists(&request.raft_address);
        if listed && self.identity.get().is_none() && request.peers != self.peers {
            self.unequal
                .get_or_init(|| (request.raft_address, request.peers));
        }
    }

    fn answer(&self) -> proto::AskResponse {
        let mut members = Vec::new();
        let mut initialized = false;
        if let Some(formed) = self.formed.get() {
            let metrics = formed.raft.server_metrics();
            let metrics = metrics.borrow_watched();
            members = metrics
                .membership_config
                .nodes()
                .map(|(id, member)| wire::node(*id, member))
                .collect();
            initialized = !members.is_empty();
        }
        let identity = self.identity.get();
        proto::AskResponse {
            format: versions::OWN.first_format(),
            versions: Some(versions::OWN.message()),
            process_incarnation: self.process_incarnation,
            member: Some(self.member.clone()),
            peers: self.peers.clone(),
            identity: identity.map(|own| proto::Identity {
                cluster_key: own.cluster_key,
                id: own.id,
            }),
            initialized,
            members,
        }
    }
}

fn ended(error: impl std::error::Error) -> Status {
    Status::unavailable(format!("consensus has ended: {error}"))
}

/// Serves the port until the node stops, and then closes it.
pub(crate) async fn serve(port: Arc<RaftPort>, listener: Listener) {
    let stop = port.stop.clone();
    let (listener, framed) = frames::separate_frames(port.clone(), listener);
    let service = proto::raft_server::RaftServer::from_arc(Arc::new(RaftService(port)))
        .max_decoding_message_size(wire::MESSAGE_LIMIT_BYTES)
        .max_encoding_message_size(wire::MESSAGE_LIMIT_BYTES);
    let limits = PortLimits {
        idle_timeout: IDLE,
        streams: STREAMS,
        stream_window: WINDOW_BYTES,
        connection_window: WINDOW_BYTES,
        ..PortLimits::of_this_process("raft").at_most(CONNECTIONS)
    };
    // Masters use HTTP/2 and may dial any name; web pages cannot.
    let routes = tonic::service::Routes::new(service);
    let router = AllowedHosts::default().guard(routes.into_axum_router());
    let serving = server::serve(listener, router, limits, stop.clone());
    let late = async {
        stop.cancelled().await;
        tokio::time::sleep(DRAIN_TIMEOUT).await;
    };
    tokio::select! {
        () = serving => {}
        // It ends with the node, and the connections of HTTP/2 after it.
        () = async { framed.await; std::future::pending().await } => {}
        () = late => debug!("closing connections that did not end in time"),
    }
}

struct RaftService(Arc<RaftPort>);

impl RaftService {
    /// Wraps the answers of a stream so that they end with the node.
    fn until_stopped<T: Send + 'static>(
        &self,
        answers: impl Stream<Item = Result<T, Status>> + Send + 'static,
    ) -> Response<BoxStream<'static, Result<T, Status>>> {
        Response::new(
            answers
                .take_until(self.0.stop.clone().cancelled_owned())
                .boxed(),
        )
    }
}

async fn append(
    raft_port: &RaftPort,
    message: proto::AppendRequest,
    sender: &Sender,
) -> Result<proto::AppendResponse, Status> {
    let header = message.header.as_ref();
    let formed = raft_port.admit_voter(header, message.vote.as_ref(), sender)?;
    let request = wire::append_from(message)?;
    let vote = formed.raft.server_metrics().borrow_watched().vote;
    if request.vote.leader_id.term >= vote.leader_id.term {
        raft_port
            .leader_contact
            .record_append(request.vote.leader_id.term);
    }
    let bytes = request.entries.iter().map(wire::commands_bytes).sum();
    formed.growth.add(request.entries.len() as u64, bytes);
    let answer = formed.raft.append_entries(request).await.map_err(ended)?;
    Ok(wire::append_answer(answer))
}

/// Returns the newest vote of this node. openraft's vote may be ahead of the saved one, and the
/// saved one ahead of openraft's report.
fn newest_vote(formed: &FormedNode) -> Vote {
    let reported = formed.raft.server_metrics().borrow_watched().vote;
    match *formed.votes.borrow() {
        Some(saved) if saved.leader_id.term > reported.leader_id.term => saved,
        _ => reported,
    }
}

#[tonic::async_trait]
impl proto::raft_server::Raft for RaftService {
    type AppendStream = BoxStream<'static, Result<proto::AppendResponse, Status>>;
    type SnapshotStream = BoxStream<'static, Result<proto::SnapshotProgress, Status>>;
    type PresenceStream = BoxStream<'static, Result<proto::AskResponse, Status>>;

    async fn append(
        &self,
        request: Request<Streaming<proto::AppendRequest>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        let (requests, sender) = received(request);
        let state = Some((self.0.clone(), requests, sender));
        // One request at a time, in order: the next is read when this one is answered.
        let answers = stream::unfold(state, async |state| {
            let (raft_port, mut requests, sender) = state?;
            let answer = match requests.next().await? {
                Ok(message) => append(&raft_port, message, &sender).await,
                Err(status) => Err(status),
            };
            let next = answer.is_ok().then_some((raft_port, requests, sender));
            Some((answer, next))
        });
        Ok(self.until_stopped(answers))
    }

    async fn vote(
        &self,
        request: Request<proto::VoteRequest>,
    ) -> Result<Response<proto::VoteResponse>, Status> {
        let (message, sender) = received(request);
        let header = message.header.as_ref();
        let formed = self.0.admit_voter(header, message.vote.as_ref(), &sender)?;
        let pre_vote = message.pre_vote;
        let request = wire::vote_request_from(message)?;
        let answer = if pre_vote {
            formed.raft.pre_vote(request).await
        } else {
            formed.raft.vote(request).await
        };
        Ok(Response::new(wire::vote_answer(&answer.map_err(ended)?)))
    }

    async fn transfer(
        &self,
        request: Request<proto::TransferRequest>,
    ) -> Result<Response<proto::TransferResponse>, Status> {
        let (message, sender) = received(request);
        let formed = self.0.admit(message.header.as_ref(), &sender)?;
        let answer = formed
            .raft
            .handle_transfer_leader(wire::transfer_from(message)?)
            .await;
        let answer = answer.map_err(|error: Fatal<TypeConfig>| ended(error))?;
        Ok(Response::new(wire::transfer_answer(answer)))
    }

    async fn snapshot(
        &self,
        request: Request<Streaming<proto::SnapshotPart>>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        let (mut parts, sender) = received(request);
        let head = snapshot_transfer::head(&mut parts).await?;
        let header = head.header.as_ref();
        let formed = self.0.admit_voter(header, head.vote.as_ref(), &sender)?;
        let Ok(place) = formed.snapshots.clone().try_acquire_owned() else {
            return Err(Status::unavailable("all snapshot slots are in use"));
        };
        let raft = formed.raft.clone();
        let receiver = SnapshotReceiver::new(raft, &formed.store, &head, place)?;
        Ok(self.until_stopped(receiver.receive(parts)))
    }

    async fn ask(
        &self,
        request: Request<proto::AskRequest>,
    ) -> Result<Response<proto::AskResponse>, Status> {
        let question = request.into_inner();
        versions::check(&question)?;
        self.0.compare(question);
        Ok(Response::new(self.0.answer()))
    }

    async fn presence(
        &self,
        request: Request<proto::AskRequest>,
    ) -> Result<Response<Self::PresenceStream>, Status> {
        versions::check(request.get_ref())?;
        let answer = stream::iter([Ok(self.0.answer())]);
        Ok(self.until_stopped(answer.chain(stream::pending())))
    }

    async fn alive(
        &self,
        request: Request<proto::AliveRequest>,
    ) -> Result<Response<proto::AliveResponse>, Status> {
        let (message, sender) = received(request);
        let header = message.header.as_ref();
        let formed = self.0.admit_voter(header, message.vote.as_ref(), &sender)?;
        let leader = wire::vote_from(message.vote)?;
        let newest = newest_vote(formed);
        if leader.committed && leader.leader_id.term >= newest.leader_id.term {
            self.0.leader_contact.record_alive(leader.leader_id.term);
        }
        let vote = Some(wire::vote(&newest));
        let versions = Some(versions::OWN.message());
        Ok(Response::new(proto::AliveResponse { vote, versions }))
    }

    async fn suspect(
        &self,
        request: Request<proto::SuspectRequest>,
    ) -> Result<Response<proto::SuspectResponse>, Status> {
        let (message, sender) = received(request);
        let formed = self.0.admit(message.header.as_ref(), &sender)?;
        let supports = formed.detector.supports(message).await?;
        Ok(Response::new(proto::SuspectResponse { supports }))
    }

    async fn read_index(
        &self,
        request: Request<proto::ReadIndexRequest>,
    ) -> Result<Response<proto::ReadIndexResponse>, Status> {
        let (message, sender) = received(request);
        let formed = self.0.admit(message.header.as_ref(), &sender)?;
        let confirmed = read_index::read_index(&formed.raft, &formed.liveness, formed.timing)
            .await
            .map_err(|error| Status::unavailable(error.to_string()))?;
        let index = confirmed.index;
        Ok(Response::new(proto::ReadIndexResponse { index }))
    }

    async fn change(
        &self,
        request: Request<proto::ChangeRequest>,
    ) -> Result<Response<proto::ChangeResponse>, Status> {
        use proto::change_request::Change as Wire;
        let message = request.into_inner();
        versions::check_format(message.format)?;
        let formed = self.0.formed()?;
        // A request without a key comes from an empty node, which may only request to join as a
        // learner.
        if message.cluster_key != formed.identity.cluster_key && message.cluster_key != 0 {
            return Err(Status::failed_precondition(
                "the request comes from another cluster",
            ));
        }
        let change = match message.change {
            Some(Wire::Join(join))
                if message.cluster_key == 0 && !self.0.lists(&join.raft_address) =>
            {
                return Err(Status::permission_denied(format!(
                    "no operator has requested this master; run `argosy master join {}`",
                    join.raft_address
                )));
            }
            Some(Wire::Join(join)) => MemberChange::Join {
                raft_address: join.raft_address,
                promote: join.promote && message.cluster_key != 0,
            },
            Some(Wire::Remove(id)) if message.cluster_key != 0 => MemberChange::Remove(id),
            Some(Wire::Transfer(to)) if message.cluster_key != 0 => {
                MemberChange::Transfer((to.id != 0).then_some(to.id))
            }
            Some(_) => {
                return Err(Status::permission_denied(
                    "only a member may change the group",
                ));
            }
            None => {
                return Err(Status::invalid_argument(
                    "the message lacks the field change",
                ));
            }
        };
        // Spawned, so that a change that has begun is completed even if the caller is dropped.
        let changes = formed.changes.clone();
        let forwarded = message.forwarded;
        let changed =
            TaskTracker::new().spawn(async move { changes.change(change, forwarded).await });
        let changed = changed
            .await
            .map_err(|_ended| Status::unavailable("the master is stopping"))?;
        let id = changed.map_err(|error| forwarding::refusal(&error))?;
        Ok(Response::new(proto::ChangeResponse { id }))
    }

    async fn invite(
        &self,
        request: Request<proto::InviteRequest>,
    ) -> Result<Response<proto::InviteResponse>, Status> {
        let message = request.into_inner();
        versions::check_format(message.format)?;
        let identity = message
            .identity
            .ok_or_else(|| Status::invalid_argument("the message lacks the field identity"))?;
        let identity = NodeIdentity {
            cluster_key: identity.cluster_key,
            id: identity.id,
        };
        if message.incarnation != self.0.member.incarnation {
            return Err(Status::failed_precondition(
                "the data directory was recreated in between; try again",
            ));
        }
        if let Some(own) = self.0.identity.get() {
            if *own == identity {
                return Ok(Response::new(proto::InviteResponse {}));
            }
            return Err(Status::failed_precondition(
                "this master belongs to a group already",
            ));
        }
        let (accepted, running) = oneshot::channel();
        let invitation = Invitation { identity, accepted };
        if self.0.invitations.send(invitation).await.is_err() {
            return Err(Status::unavailable("this master is forming a group"));
        }
        running
            .await
            .map_err(|_dropped| Status::unavailable("this master did not accept the identity"))?;
        Ok(Response::new(proto::InviteResponse {}))
    }
}
