//! Connections to the other masters, kept open and shared. The only file that opens a socket.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::TcpStream;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::settings::Timing;
use crate::wire::{self, proto};

pub(crate) type Client = proto::raft_client::RaftClient<Channel>;

/// A connection that answers no ping for this long is given up, so that a healed network is used again at once instead
/// of when TCP's own patience ends.
const KEEP_ALIVE: Duration = Duration::from_secs(1);

/// Room for the largest message, so that an entry never waits for a window.
const WINDOW_BYTES: u32 = 8 << 20;

/// How to reach `address`; nothing is opened yet.
pub(crate) fn endpoint(address: &str, timing: Timing) -> Result<Endpoint, Status> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| Status::invalid_argument(format!("{address:?} is no address: {error}")))?;
    Ok(endpoint
        .tcp_nodelay(true)
        .connect_timeout(Duration::from_millis(timing.append_deadline_ms))
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true))
}

/// A client over a connection of its own or a shared one, with the transport's limits.
pub(crate) fn client(channel: Channel) -> Client {
    Client::new(channel)
        .max_decoding_message_size(wire::MESSAGE_LIMIT_BYTES)
        .max_encoding_message_size(wire::MESSAGE_LIMIT_BYTES)
}

/// A question without more in it.
pub(crate) fn question() -> proto::AskRequest {
    proto::AskRequest {
        format: wire::FORMAT,
        ..proto::AskRequest::default()
    }
}

/// A question over a fresh connection, which is closed afterwards.
pub(crate) async fn ask(
    address: &str,
    question: proto::AskRequest,
    timing: Timing,
    patience: Duration,
) -> Result<proto::AskResponse, Status> {
    let asking = async {
        let channel = endpoint(address, timing)?.connect().await;
        let channel = channel.map_err(|error| Status::unavailable(chain(&error)))?;
        let answer = client(channel).ask(question).await?.into_inner();
        if answer.format == wire::FORMAT {
            return Ok(answer);
        }
        let (theirs, ours) = (answer.format, wire::FORMAT);
        Err(Status::failed_precondition(format!(
            "{address} speaks raft transport format {theirs}, this build {ours}"
        )))
    };
    match tokio::time::timeout(patience, asking).await {
        Ok(answer) => answer,
        Err(_elapsed) => Err(Status::deadline_exceeded(format!(
            "no answer within {} ms",
            patience.as_millis()
        ))),
    }
}

/// An error with its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
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

/// Whether something listens at `address`: connects, says nothing, and hangs up.
pub(crate) async fn knock(address: &str) -> io::Result<()> {
    TcpStream::connect(address).await.map(drop)
}

/// The connections to one address, shared by everything in this node that talks to it.
#[derive(Debug)]
pub(crate) struct Connections {
    pub(crate) entries: Channel,
    /// For what must never wait behind entries: heartbeats, votes, questions.
    pub(crate) control: Channel,
    pub(crate) snapshots: Channel,
}

/// The connections to all peers, shared inside the node. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Peers {
    timing: Timing,
    // A plain lock, never held over an await: a lookup that every client of openraft makes once.
    open: Arc<Mutex<BTreeMap<String, Arc<Connections>>>>,
}

impl Peers {
    pub(crate) fn new(timing: Timing) -> Peers {
        Peers {
            timing,
            open: Arc::default(),
        }
    }

    /// The connections to `address`, which connect when first used and again whenever they broke.
    pub(crate) fn to(&self, address: &str) -> Result<Arc<Connections>, Status> {
        let mut open = self
            .open
            .lock()
            .expect("nobody panics while holding the lock");
        if let Some(connections) = open.get(address) {
            return Ok(connections.clone());
        }
        let endpoint = endpoint(address, self.timing)?;
        let connections = Arc::new(Connections {
            entries: endpoint.connect_lazy(),
            control: endpoint.connect_lazy(),
            snapshots: endpoint.connect_lazy(),
        });
        open.insert(address.to_owned(), connections.clone());
        Ok(connections)
    }

    /// Forgets the connections to everyone who is no member any more.
    pub(crate) fn retain(&self, members: &[&str]) {
        let mut open = self
            .open
            .lock()
            .expect("nobody panics while holding the lock");
        open.retain(|address, _| members.contains(&address.as_str()));
    }
}
