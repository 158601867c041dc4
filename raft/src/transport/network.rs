//! The caller's end of the raft transport: the messages of openraft to the other masters.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use openraft::RPCTypes;
use openraft::errors::{
    NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable,
};
use openraft::network::{Backoff, RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use tracing::{debug, error, info, warn};

use super::connections::{PeerConnections, Peers, client};
use super::frames::pool::IdleConnection;
use super::member_addresses::MemberAddresses;
use super::peer_progress::PeerProgress;
use super::snapshot_transfer;
use super::transfer_counts::TransferCounts;
use super::wire::{self, proto};
use crate::log_size::LogRetention;
use crate::settings::Timing;
use crate::state_machine::Snapshot;
use crate::storage::image::SnapshotSource;
use crate::types::{Member, TypeConfig, Vote};

/// The pause after a snapshot could not be written, or was not accepted. A disk without space is
/// not filled again at once.
const SNAPSHOT_RETRY_PAUSE: Duration = Duration::from_secs(3);

/// The identity of the caller: the header of each message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CallerIdentity {
    pub(crate) cluster_key: u64,
    pub(crate) id: u64,
}

impl CallerIdentity {
    /// Returns the header of a message to this master over these connections.
    pub(crate) fn header(self, to: u64, connections: &PeerConnections) -> proto::Header {
        proto::Header {
            format: connections.format(),
            cluster_key: self.cluster_key,
            from: self.id,
            to,
        }
    }
}

/// The factory of the clients that openraft requests.
#[derive(Clone, Debug)]
pub(crate) struct NetworkFactory {
    pub(crate) caller: CallerIdentity,
    pub(crate) peers: Peers,
    /// The addresses of the members, which may change during the life of a client.
    pub(crate) addresses: watch::Receiver<MemberAddresses>,
    pub(crate) timing: Timing,
    pub(crate) retention: LogRetention,
    pub(crate) transfers: TransferCounts,
}

#[derive(Clone, Copy, Debug)]
enum TrafficClass {
    Entries,
    Control,
}

impl NetworkFactory {
    fn network(&self, target: u64, member: &Member, lane: TrafficClass) -> PeerNetwork {
        PeerNetwork {
            target,
            caller: self.caller,
            timing: self.timing,
            connections: self.peers.to(&member.raft_address),
            address: member.raft_address.clone(),
            addresses: self.addresses.clone(),
            peers: self.peers.clone(),
            retention: self.retention.clone(),
            transfers: self.transfers.clone(),
            class: lane,
            open: Mutex::default(),
            progress: PeerProgress::default(),
        }
    }
}

impl RaftNetworkFactory<TypeConfig> for NetworkFactory {
    type Network = PeerNetwork;

    async fn new_client(&mut self, target: u64, node: &Member) -> PeerNetwork {
        self.network(target, node, TrafficClass::Entries)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &Member) -> PeerNetwork {
        self.network(target, node, TrafficClass::Control)
    }
}

/// The transport of appends. It is kept only between complete exchanges.
#[derive(Debug)]
enum AppendTransport {
    Frames(IdleConnection),
    Stream(OpenAppendStream),
}

impl AppendTransport {
    /// Returns the transport, unless the peer is known to have closed it.
    fn usable(mut self) -> Option<AppendTransport> {
        let usable = match &mut self {
            AppendTransport::Frames(connection) => connection.is_usable(),
            AppendTransport::Stream(_) => true,
        };
        usable.then_some(self)
    }
}

/// A stream of appends and its answers, to a peer that does not support frames.
#[derive(Debug)]
struct OpenAppendStream {
    requests: mpsc::Sender<proto::AppendRequest>,
    answers: Streaming<proto::AppendResponse>,
}

/// The client that openraft uses for one peer.
#[derive(Debug)]
pub(crate) struct PeerNetwork {
    target: u64,
    caller: CallerIdentity,
    timing: Timing,
    connections: Result<Arc<PeerConnections>, Status>,
    /// The address to which `connections` lead.
    address: String,
    addresses: watch::Receiver<MemberAddresses>,
    peers: Peers,
    retention: LogRetention,
    transfers: TransferCounts,
    class: TrafficClass,
    // Locked only by tests: openraft requires its clients to be `Sync`, and a connection is not.
    open: Mutex<Option<AppendTransport>>,
    progress: PeerProgress,
}

impl PeerNetwork {
    #[cfg(test)]
    pub(crate) fn uses_frames(&self) -> bool {
        matches!(*self.open.lock().unwrap(), Some(AppendTransport::Frames(_)))
    }

    /// Uses the present address of the member from now on. openraft keeps its clients for a whole
    /// term, also when the membership gets another address for their member.
    fn follow_address(&mut self) {
        if !self.addresses.has_changed().unwrap_or(false) {
            return;
        }
        let present = self.addresses.borrow_and_update();
        let Some(address) = present.get(&self.target).cloned() else {
            return;
        };
        drop(present);
        if address == self.address {
            return;
        }
        debug!(
            peer = self.target,
            address, "the member has another address"
        );
        // Its connection leads to the former address, and is not kept.
        self.transport().take();
        self.connections = self.peers.to(&address);
        self.address = address;
    }

    fn connections(&self) -> Result<&Arc<PeerConnections>, RPCError<TypeConfig>> {
        self.connections
            .as_ref()
            .map_err(|status| RPCError::Unreachable(Unreachable::new(status)))
    }

    fn header(&self) -> Result<proto::Header, RPCError<TypeConfig>> {
        Ok(self.caller.header(self.target, self.connections()?))
    }

    fn transport(&mut self) -> &mut Option<AppendTransport> {
        self.open.get_mut().expect("no holder of the lock panics")
    }

    /// Takes the transport that is open already. A stream is replaced by frames as soon as a
    /// connection for them exists.
    fn take_open(&mut self) -> Option<AppendTransport> {
        let open = self.transport().take().and_then(AppendTransport::usable)?;
        let frames = match (&open, self.class, &self.connections) {
            (AppendTransport::Stream(_), TrafficClass::Entries, Ok(connections)) => {
                connections.frames.idle()
            }
            _ => None,
        };
        Some(frames.map_or(open, AppendTransport::Frames))
    }

    async fn exchange(
        &mut self,
        request: proto::AppendRequest,
    ) -> Result<proto::AppendResponse, Status> {
        // Taken out first: openraft cancels requests in the middle, and a transport with an
        // outstanding answer would return that answer to the next request.
        let (carrier, answer) = match self.take_open() {
            Some(AppendTransport::Frames(connection)) => over_frames(connection, &request).await?,
            Some(AppendTransport::Stream(open)) => {
                let sent = open.requests.send(request).await;
                sent.map_err(|_| ended())?;
                over_stream(open).await?
            }
            None => self.open(request).await?,
        };
        *self.transport() = Some(carrier);
        Ok(answer)
    }

    /// Opens a transport with its first exchange.
    async fn open(
        &self,
        request: proto::AppendRequest,
    ) -> Result<(AppendTransport, proto::AppendResponse), Status> {
        let connections = self.connections.as_ref().map_err(Clone::clone)?;
        let frames = match self.class {
            TrafficClass::Entries => connections.frames.open().await?,
            // openraft drops a late heartbeat, and its transport with it. A stream is opened again
            // without a round trip.
            TrafficClass::Control => None,
        };
        match frames {
            Some(connection) => over_frames(connection, &request).await,
            None => over_stream(self.open_append(request).await?).await,
        }
    }

    /// Opens the stream with its first request in it, which saves a round trip.
    async fn open_append(&self, request: proto::AppendRequest) -> Result<OpenAppendStream, Status> {
        let connections = self.connections.as_ref().map_err(Clone::clone)?;
        let channel = match self.class {
            TrafficClass::Entries => &connections.entries,
            TrafficClass::Control => &connections.control,
        };
        // One request is in flight at a time: the second slot is never used, and a full channel
        // would only wait.
        let (requests, outgoing) = mpsc::channel(2);
        requests
            .send(request)
            .await
            .map_err(|_| Status::internal("a new channel takes a request"))?;
        let answers = client(channel.clone())
            .append(ReceiverStream::new(outgoing))
            .await?
            .into_inner();
        Ok(OpenAppendStream { requests, answers })
    }

    /// Returns an error instead of sending entries to a peer that lags by more than the log may
    /// keep. openraft then truncates the log, and sends a snapshot.
    fn check_lag(
        &self,
        request: &AppendEntriesRequest<TypeConfig>,
    ) -> Result<(), RPCError<TypeConfig>> {
        let last = request.prev_log_id.map_or(0, |id| id.index);
        if request.entries.is_empty() || !self.retention.refuses_entries_after(last) {
            return Ok(());
        }
        info!(
            peer = self.target,
            last, "the peer lags by more than the log keeps: it gets a snapshot"
        );
        let status = Status::out_of_range("the peer lags by more than the log keeps");
        Err(self.error(RPCTypes::AppendEntries, &status))
    }

    /// Logs the required action once, and treats the peer as unreachable.
    fn peer_lost_entries(&mut self) -> RPCError<TypeConfig> {
        let text = self.progress.refusal(self.target);
        if self.progress.is_first_report() {
            error!(peer = self.target, "{text}");
        }
        RPCError::Unreachable(Unreachable::new(&Status::data_loss(text)))
    }

    fn error(&self, action: RPCTypes, status: &Status) -> RPCError<TypeConfig> {
        match status.code() {
            // The peer is unreachable, or rejects the message: back off.
            Code::Unavailable
            | Code::FailedPrecondition
            | Code::InvalidArgument
            | Code::PermissionDenied => RPCError::Unreachable(Unreachable::new(status)),
            Code::DeadlineExceeded => RPCError::Timeout(Timeout {
                action,
                id: self.caller.id,
                target: self.target,
                timeout: Duration::from_millis(self.timing.append_deadline_ms),
            }),
            _ => RPCError::Network(NetworkError::new(status)),
        }
    }

    async fn request_vote(
        &self,
        request: VoteRequest<TypeConfig>,
        pre_vote: bool,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let message = wire::vote_request(self.header()?, &request, pre_vote);
        let answer = client(self.connections()?.control.clone())
            .vote(message)
            .await;
        answer
            .and_then(|answer| wire::vote_answer_from(answer.into_inner()))
            .map_err(|status| self.error(RPCTypes::Vote, &status))
    }
}

/// Keeps a connection of frames for the next client of this peer.
impl Drop for PeerNetwork {
    fn drop(&mut self) {
        if let Some(AppendTransport::Frames(connection)) = self.transport().take()
            && let Ok(connections) = &self.connections
        {
            connections.frames.put(connection);
        }
    }
}

fn ended() -> Status {
    Status::unavailable("the peer ended the stream")
}

async fn over_frames(
    connection: IdleConnection,
    request: &proto::AppendRequest,
) -> Result<(AppendTransport, proto::AppendResponse), Status> {
    let (connection, answer) = connection.exchange(request).await?;
    Ok((AppendTransport::Frames(connection), answer))
}

async fn over_stream(
    mut open: OpenAppendStream,
) -> Result<(AppendTransport, proto::AppendResponse), Status> {
    let answer = open.answers.message().await?.ok_or_else(ended)?;
    Ok((AppendTransport::Stream(open), answer))
}

impl RaftNetworkV2<TypeConfig> for PeerNetwork {
    type SnapshotData = SnapshotSource;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        // The deadline is the transport's own: that of openraft is the heartbeat interval, which is
        // shorter than a disk's stall.
        let deadline = Duration::from_millis(self.timing.append_deadline_ms);
        self.follow_address();
        self.check_lag(&request)?;
        let (message, taken) = wire::append(self.header()?, &request);
        let answer = match tokio::time::timeout(deadline, self.exchange(message)).await {
            Ok(answer) => answer.and_then(wire::append_answer_from),
            Err(_elapsed) => Err(Status::deadline_exceeded("no answer to an append")),
        };
        let last = request.entries[..taken].last().map(|entry| entry.log_id);
        let last = last.or(request.prev_log_id);
        match &answer {
            Ok(AppendEntriesResponse::Success) => self.progress.acknowledged(request.vote, last),
            Ok(AppendEntriesResponse::PartialSuccess(last)) => {
                self.progress.acknowledged(request.vote, *last);
            }
            Ok(AppendEntriesResponse::Conflict | AppendEntriesResponse::HigherVote(_)) | Err(_) => {
            }
        }
        match answer {
            Ok(AppendEntriesResponse::Success) if taken < request.entries.len() => {
                Ok(AppendEntriesResponse::PartialSuccess(last))
            }
            // openraft would retry without end, and report a bug in openraft.
            Ok(AppendEntriesResponse::Conflict)
                if self
                    .progress
                    .has_lost_entries(request.vote, request.prev_log_id) =>
            {
                Err(self.peer_lost_entries())
            }
            // openraft assumes that nothing conflicts with "before the first entry".
            Ok(AppendEntriesResponse::Conflict) if request.prev_log_id.is_none() => {
                let status =
                    Status::data_loss("the peer reports a conflict before the first entry");
                Err(RPCError::Unreachable(Unreachable::new(&status)))
            }
            Ok(answer) => Ok(answer),
            Err(status) => Err(self.error(RPCTypes::AppendEntries, &status)),
        }
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.request_vote(request, false).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.request_vote(request, true).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let unreachable = |status: &Status| StreamingError::Unreachable(Unreachable::new(status));
        self.follow_address();
        let connections = self.connections.as_ref().map_err(&unreachable)?;
        let client = client(connections.snapshots.clone());
        let header = self.caller.header(self.target, connections);
        let last = snapshot.meta.last_log_id.map_or(0, |id| id.index);
        let transfer = self.retention.begin_transfer(self.target, last);
        let counted = self.transfers.begin(self.target);
        let sending = async {
            let sent =
                snapshot_transfer::send(client, header, vote, snapshot, self.timing, counted);
            let sent = sent.await;
            match &sent {
                Err(status) if status.code() == Code::Unavailable => {
                    debug!(peer = self.target, %status, "snapshot transfer failed, retrying");
                }
                Err(status) => {
                    let cause = status.message();
                    warn!(
                        peer = self.target,
                        cause, "snapshot transfer failed, retrying"
                    );
                    tokio::time::sleep(SNAPSHOT_RETRY_PAUSE).await;
                }
                Ok(_) => {}
            }
            sent
        };
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = sending => match sent {
                Ok(vote) => {
                    transfer.succeed();
                    Ok(SnapshotResponse::new(vote))
                }
                Err(status) => Err(unreachable(&status)),
            },
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        let message = wire::transfer(self.header()?, &request);
        let answer = client(self.connections()?.control.clone())
            .transfer(message)
            .await;
        answer
            .and_then(|answer| wire::transfer_answer_from(&request, answer.into_inner()))
            .map_err(|status| self.error(RPCTypes::TransferLeader, &status))
    }

    /// A master that restarts is found within a heartbeat or two; a query of a dead one costs a
    /// refused connection.
    fn backoff(&self) -> Option<Backoff> {
        Some(Backoff::new(std::iter::repeat(Duration::from_millis(
            self.timing.heartbeat_ms,
        ))))
    }
}
