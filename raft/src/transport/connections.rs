//! Connections to the other masters, kept open and shared. The environment of the node provides the
//! dialer.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use argosy_proto::transport::{Dialer, ExpectedPeer};
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use super::frames::pool::FramePool;
use super::versions::{self, MasterVersions};
use super::wire::{self, proto};
use crate::settings::Timing;

pub(crate) type PeerClient = proto::raft_client::RaftClient<Channel>;

/// A connection that answers no ping for this long is closed, so that a repaired network is used
/// immediately instead of after TCP's own timeout.
const KEEP_ALIVE: Duration = Duration::from_secs(1);

/// Room for the largest message, so that an entry never waits for a window.
const WINDOW_BYTES: u32 = 8 << 20;

/// The time for which h2 remembers streams that this end has cancelled, and their maximum number.
/// h2 measures by the machine's clock, and an answer that arrives later is answered with a reset.
/// With h2's default of a second, the result of a simulation therefore depended on the speed of the
/// machine.
const CANCELLED_STREAMS: (Duration, usize) = (Duration::from_secs(600), 1_024);

/// Returns the endpoint of `address`; nothing is opened yet.
fn endpoint(address: &str) -> Result<Endpoint, Status> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| Status::invalid_argument(format!("{address:?} is invalid: {error}")))?;
    Ok(endpoint
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .http2_reset_stream_duration(CANCELLED_STREAMS.0)
        .http2_max_concurrent_reset_streams(CANCELLED_STREAMS.1)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true))
}

/// Returns a client over a separate or shared connection, with the transport's limits.
pub(crate) fn client(channel: Channel) -> PeerClient {
    PeerClient::new(channel)
        .max_decoding_message_size(wire::MESSAGE_LIMIT_BYTES)
        .max_encoding_message_size(wire::MESSAGE_LIMIT_BYTES)
}

/// Returns an `AskRequest` without optional fields.
pub(crate) fn ask_request() -> proto::AskRequest {
    proto::AskRequest {
        format: versions::OWN.first_format(),
        versions: Some(versions::OWN.message()),
        ..proto::AskRequest::default()
    }
}

/// Returns an error with its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// The connections to one address, shared by all parts of this node that use it.
#[derive(Debug)]
pub(crate) struct PeerConnections {
    /// For appends.
    pub(crate) frames: FramePool,
    /// For appends to a peer that does not support frames.
    pub(crate) entries: Channel,
    /// For messages that must never wait behind entries: heartbeats, votes, queries.
    pub(crate) control: Channel,
    pub(crate) snapshots: Channel,
    /// The format of the messages on them.
    format: AtomicU32,
}

impl PeerConnections {
    /// Returns the format of the next message: the oldest until the other master has reported a
    /// newer one.
    pub(crate) fn format(&self) -> u32 {
        self.format.load(Ordering::Relaxed)
    }

    /// Records the versions of the peer. From now on messages have the newest common format, and
    /// appends use frames if both masters support them.
    pub(crate) fn reported(&self, theirs: MasterVersions) {
        if let Some(format) = versions::OWN.common_format(theirs) {
            self.format.store(format, Ordering::Relaxed);
        }
        self.frames.set_support(theirs.supports_frames());
    }
}

/// The connections to all peers, shared inside the node. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Peers {
    dialer: Dialer,
    timing: Timing,
    // A plain lock, never held over an await: each client of openraft performs one lookup.
    open: Arc<Mutex<BTreeMap<String, Arc<PeerConnections>>>>,
}

impl Peers {
    pub(crate) fn new(dialer: Dialer, timing: Timing) -> Peers {
        Peers {
            dialer,
            timing,
            open: Arc::default(),
        }
    }

    fn connect_timeout(&self) -> Duration {
        Duration::from_millis(self.timing.append_deadline_ms)
    }

    /// Checks whether something listens at `address`: connects and closes the connection without
    /// sending.
    pub(crate) async fn probe(&self, address: &str) -> io::Result<()> {
        self.dialer
            .dial(address, &ExpectedPeer::MASTER)
            .await
            .map(drop)
    }

    /// Returns whether `address` refuses connections: then no master runs there.
    pub(crate) async fn is_refused_by(&self, address: &str) -> bool {
        let probed = tokio::time::timeout(self.connect_timeout(), self.probe(address)).await;
        matches!(probed, Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused)
    }

    /// Opens a new connection that is not shared.
    pub(crate) async fn connect(&self, address: &str) -> Result<Channel, Status> {
        let connector = self
            .dialer
            .connector(self.connect_timeout(), ExpectedPeer::MASTER);
        let channel = endpoint(address)?.connect_with_connector(connector).await;
        channel.map_err(|error| Status::unavailable(chain(&error)))
    }

    /// Sends a request over a new connection, which is closed afterwards.
    pub(crate) async fn query(
        &self,
        address: &str,
        question: proto::AskRequest,
        timeout: Duration,
    ) -> Result<proto::AskResponse, Status> {
        let asking = async {
            let channel = self.connect(address).await?;
            let answer = client(channel).ask(question).await?.into_inner();
            let theirs = MasterVersions::of(answer.versions);
            match versions::OWN.common_format(theirs) {
                Some(_) => Ok(answer),
                None => Err(Status::failed_precondition(format!(
                    "{address} speaks {} of the raft transport, this build {}",
                    theirs.formats(),
                    versions::OWN.formats()
                ))),
            }
        };
        match tokio::time::timeout(timeout, asking).await {
            Ok(answer) => answer,
            Err(_elapsed) => Err(Status::deadline_exceeded(format!(
                "no answer within {} ms",
                timeout.as_millis()
            ))),
        }
    }

    /// Returns the connections to `address`, which connect when first used and again after a
    /// failure.
    pub(crate) fn to(&self, address: &str) -> Result<Arc<PeerConnections>, Status> {
        let mut open = self
            .open
            .lock()
            .expect("no task panics while holding the lock");
        if let Some(connections) = open.get(address) {
            return Ok(connections.clone());
        }
        let endpoint = endpoint(address)?;
        let lazy = || {
            let connector = self
                .dialer
                .connector(self.connect_timeout(), ExpectedPeer::MASTER);
            endpoint.connect_with_connector_lazy(connector)
        };
        let connections = Arc::new(PeerConnections {
            frames: FramePool::new(self.dialer.clone(), address, self.timing),
            entries: lazy(),
            control: lazy(),
            snapshots: lazy(),
            format: AtomicU32::new(versions::OWN.first_format()),
        });
        open.insert(address.to_owned(), connections.clone());
        Ok(connections)
    }

    /// Closes the connections to an address, as soon as no request uses them.
    pub(crate) fn close(&self, address: &str) {
        let mut open = self
            .open
            .lock()
            .expect("no task panics while holding the lock");
        open.remove(address);
    }
}
