//! The serving end of frames: separates connections that begin with the greeting from the other
//! connections of the raft port.
//!
//! Every connection of the port passes here. A connection whose transport proves that its peer is
//! not a master is closed before it is read.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use argosy_proto::transport::{
    Connection, ExpectedPeer, IdentifiedConnection, Listener, PeerIdentity,
};
use tokio::io::AsyncReadExt as _;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tracing::debug;

use super::admission::Sender;
use super::{IDLE, RaftPort, append};
use crate::transport::frames::{
    FrameKind, FrameStatus, FramedConnection, GREETING, broken, decoded,
};

/// The maximum time until a connection sends its first bytes.
const FIRST_BYTES: Duration = Duration::from_secs(10);
/// The maximum number of connections whose kind is not yet known. An additional one replaces the
/// oldest.
const MAX_UNDETECTED: usize = 64;
/// The maximum number of connections of frames: each of at most nine other masters holds one, and
/// at most four spare ones. An additional one replaces the oldest that has had no answer, so a peer
/// that only sends greetings cannot lock a master out. If all have had an answer, the additional
/// one is closed, and its master uses HTTP/2.
const FRAMED: usize = 64;
/// The maximum number of connections that wait for the HTTP/2 server. When the queue is full,
/// further ones wait.
const MAX_HTTP: usize = 16;
/// The maximum time for the rest of a frame, and for writing an answer. As for messages of HTTP/2.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(30);

/// Returns a listener of the connections without frames, and the task that separates them.
pub(crate) fn separate_frames(
    port: Arc<RaftPort>,
    listener: Listener,
) -> (Listener, impl Future<Output = ()> + Send) {
    let (others, rest) = mpsc::channel(MAX_HTTP);
    (
        Listener::new(ReceiverStream::new(rest)),
        dispatch(port, listener, others),
    )
}

type PlainConnections = mpsc::Sender<io::Result<IdentifiedConnection>>;

async fn dispatch(port: Arc<RaftPort>, mut listener: Listener, others: PlainConnections) {
    let stop = port.stop.clone();
    // Bounded by the limits on the tasks. Dropped with this future, and all connections with it.
    let mut tasks = JoinSet::new();
    let mut unknown: VecDeque<AbortHandle> = VecDeque::new();
    let mut framed = FramedConnections::default();
    loop {
        let connection = tokio::select! {
            () = stop.cancelled() => return,
            Some(looked) = tasks.join_next() => {
                let Ok(Some((frames, peer))) = looked else {
                    continue;
                };
                if !framed.make_room() {
                    debug!(%peer, "rejecting a connection of frames: there are {FRAMED} already");
                    continue;
                }
                let port = port.clone();
                let is_answered = Arc::new(AtomicBool::new(false));
                let answered = is_answered.clone();
                let task = tasks.spawn(async move {
                    let sender = Sender::new(&peer);
                    if let Err(why) = serve(&port, frames, (&sender, &answered)).await {
                        debug!(%peer, %why, "a connection of frames ended");
                    }
                    None
                });
                framed.0.push_back((task, is_answered));
                continue;
            }
            connection = listener.accept() => connection,
        };
        let peer = &connection.1;
        if !ExpectedPeer::MASTER.admits(peer) {
            debug!(%peer, "a connection is closed: only masters may use this port");
            continue;
        }
        unknown.retain(|task| !task.is_finished());
        if unknown.len() >= MAX_UNDETECTED
            && let Some(oldest) = unknown.pop_front()
        {
            oldest.abort();
        }
        unknown.push_back(tasks.spawn(detect_frames(connection, others.clone())));
    }
}

/// The connections of frames, oldest first, and whether each has had an answer.
#[derive(Default)]
struct FramedConnections(VecDeque<(AbortHandle, Arc<AtomicBool>)>);

impl FramedConnections {
    /// Makes room for one more connection; returns false if that is not possible.
    fn make_room(&mut self) -> bool {
        self.0.retain(|(task, _)| !task.is_finished());
        if self.0.len() < FRAMED {
            return true;
        }
        let mut all = self.0.iter();
        let Some(at) = all.position(|(_, is_answered)| !is_answered.load(Ordering::Relaxed)) else {
            return false;
        };
        if let Some((task, _)) = self.0.remove(at) {
            task.abort();
        }
        true
    }
}

/// Returns frames if the connection begins with the greeting. Passes any other connection on.
async fn detect_frames(
    (connection, peer): IdentifiedConnection,
    others: PlainConnections,
) -> Option<(FramedConnection, PeerIdentity)> {
    let (connection, first) = tokio::time::timeout(FIRST_BYTES, first_bytes(connection))
        .await
        .ok()?
        .ok()?;
    if first == GREETING {
        return Some((FramedConnection::new(connection), peer));
    }
    let again = connection.with_prefix(first);
    // If the server has ended, the connection ends too.
    let _ = others.send(Ok((again, peer))).await;
    None
}

/// Reads the greeting, or as many bytes as prove that it is another protocol.
async fn first_bytes(mut connection: Connection) -> io::Result<(Connection, Vec<u8>)> {
    let mut first = Vec::with_capacity(GREETING.len());
    while first.len() < GREETING.len() && GREETING.starts_with(&first) {
        let left = (GREETING.len() - first.len()) as u64;
        if (&mut connection).take(left).read_buf(&mut first).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok((connection, first))
}

async fn serve(
    port: &RaftPort,
    frames: FramedConnection,
    peer: (&Sender, &AtomicBool),
) -> Result<(), Status> {
    let served = answer_all(port, frames, peer);
    let stopped = port.stop.run_until_cancelled(served).await;
    stopped.unwrap_or(Ok(()))
}

/// Answers one request at a time, in order: the next is read when this one is answered.
async fn answer_all(
    port: &RaftPort,
    mut frames: FramedConnection,
    (sender, is_answered): (&Sender, &AtomicBool),
) -> Result<(), Status> {
    in_time(frames.send_greeting()).await?;
    loop {
        match tokio::time::timeout(IDLE, frames.wait_for_frame()).await {
            Ok(begins) => {
                if !begins? {
                    return Ok(());
                }
            }
            Err(_idle) => return Ok(()),
        }
        let read = tokio::time::timeout(MESSAGE_TIMEOUT, frames.read()).await;
        let answered = match read.unwrap_or_else(|_| Err(late("a message"))) {
            Ok(None) => return Ok(()),
            Ok(Some((FrameKind::Append, body))) => {
                let message = decoded(body);
                tokio::select! {
                    biased;
                    answer = async { append(port, message?, sender).await } => answer,
                    // The caller has dropped this request; consensus may still complete it.
                    () = frames.is_closed() => return Ok(()),
                }
            }
            Ok(Some((FrameKind::Response | FrameKind::Error, _))) => {
                Err(Status::invalid_argument("expected a request"))
            }
            Err(status) => Err(status),
        };
        match answered {
            Ok(answer) => {
                in_time(frames.write(FrameKind::Response, &answer)).await?;
                is_answered.store(true, Ordering::Relaxed);
            }
            Err(status) => {
                // The last frame of this connection. A peer that has closed it needs no reason.
                let _ = in_time(frames.write(FrameKind::Error, &FrameStatus::from(&status))).await;
                return Err(status);
            }
        }
    }
}

/// Limits the time of a write: a peer that does not read loses its connection.
async fn in_time(writing: impl Future<Output = io::Result<()>>) -> Result<(), Status> {
    match tokio::time::timeout(MESSAGE_TIMEOUT, writing).await {
        Ok(written) => written.map_err(|error| broken(&error)),
        Err(_late) => Err(late("an answer")),
    }
}

fn late(what: &str) -> Status {
    Status::deadline_exceeded(format!(
        "{what} took longer than {} s",
        MESSAGE_TIMEOUT.as_secs()
    ))
}
