//! The serving end: connections that begin with the greeting are taken out of those that come in on the raft port.
//!
//! Every connection of the port passes here. One whose transport proves that it is no master is closed before it is read.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use argosy_proto::transport::{Connection, Expected, Identified, Listener, PeerIdentity};
use tokio::io::AsyncReadExt as _;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tracing::debug;

use super::{Frames, GREETING, Kind, Refusal, decoded};
use crate::transport::service::{self, Door, IDLE};

/// How long a connection may take to say what it is.
const FIRST_BYTES: Duration = Duration::from_secs(10);
/// Connections that have not said yet what they are. One more takes the place of the oldest.
const UNKNOWN: usize = 64;
/// Connections of frames: each of at most nine other masters holds one, and at most four that it keeps for later. One more takes
/// the place of the oldest that has had no answer: whoever only greets does not keep a master from its place. If all have had
/// one, it is closed, and its master uses HTTP/2.
const FRAMED: usize = 64;
/// Connections on their way to the server of HTTP/2. When full, the next ones wait.
const OTHERS: usize = 16;
/// How long the rest of a frame, and room for an answer, may take. As for messages of HTTP/2.
const MESSAGE: Duration = Duration::from_secs(30);

/// The connections that are not of frames, and the task that finds them.
pub(crate) fn divide(
    door: Arc<Door>,
    listener: Listener,
) -> (Listener, impl Future<Output = ()> + Send) {
    let (others, rest) = mpsc::channel(OTHERS);
    (
        Listener::new(ReceiverStream::new(rest)),
        sort(door, listener, others),
    )
}

type Others = mpsc::Sender<io::Result<Identified>>;

async fn sort(door: Arc<Door>, mut listener: Listener, others: Others) {
    let stop = door.stop.clone();
    // Bounded by what each task holds a place of. Dropped with this future, and all connections with it.
    let mut tasks = JoinSet::new();
    let mut unknown: VecDeque<AbortHandle> = VecDeque::new();
    let mut framed = Framed::default();
    loop {
        let connection = tokio::select! {
            () = stop.cancelled() => return,
            Some(looked) = tasks.join_next() => {
                let Ok(Some((frames, peer))) = looked else {
                    continue;
                };
                if !framed.make_room() {
                    debug!(%peer, "a connection of frames is refused: there are {FRAMED} already");
                    continue;
                }
                let door = door.clone();
                let is_answered = Arc::new(AtomicBool::new(false));
                let answered = is_answered.clone();
                let task = tasks.spawn(async move {
                    if let Err(why) = serve(&door, frames, &answered).await {
                        debug!(%peer, %why, "a connection of frames ends");
                    }
                    None
                });
                framed.0.push_back((task, is_answered));
                continue;
            }
            connection = listener.accept() => connection,
        };
        let peer = &connection.1;
        if !Expected::MASTER.admits(peer) {
            debug!(%peer, "a connection is closed: only masters may use this port");
            continue;
        }
        unknown.retain(|task| !task.is_finished());
        if unknown.len() >= UNKNOWN
            && let Some(oldest) = unknown.pop_front()
        {
            oldest.abort();
        }
        unknown.push_back(tasks.spawn(look(connection, others.clone())));
    }
}

/// The connections of frames, oldest first, and whether each has had an answer.
#[derive(Default)]
struct Framed(VecDeque<(AbortHandle, Arc<AtomicBool>)>);

impl Framed {
    /// False if there is no room for one more.
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

/// Frames if the connection begins with the greeting; any other one is handed on.
async fn look((connection, peer): Identified, others: Others) -> Option<(Frames, PeerIdentity)> {
    let (connection, first) = tokio::time::timeout(FIRST_BYTES, first_bytes(connection))
        .await
        .ok()?
        .ok()?;
    if first == GREETING {
        return Some((Frames::new(connection), peer));
    }
    let again = connection.reading_again(first);
    // The server has ended: so does the connection.
    let _ = others.send(Ok((again, peer))).await;
    None
}

/// Reads the greeting, or as much as shows that it is none.
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

async fn serve(door: &Door, frames: Frames, is_answered: &AtomicBool) -> Result<(), Status> {
    let served = answer_all(door, frames, is_answered);
    let stopped = door.stop.run_until_cancelled(served).await;
    stopped.unwrap_or(Ok(()))
}

/// One request at a time, in order: the next is read when this one is answered.
async fn answer_all(
    door: &Door,
    mut frames: Frames,
    is_answered: &AtomicBool,
) -> Result<(), Status> {
    in_time(frames.greet()).await?;
    loop {
        match tokio::time::timeout(IDLE, frames.begins()).await {
            Ok(begins) => {
                if !begins? {
                    return Ok(());
                }
            }
            Err(_idle) => return Ok(()),
        }
        let read = tokio::time::timeout(MESSAGE, frames.read()).await;
        let answered = match read.unwrap_or_else(|_| Err(late("a message"))) {
            Ok(None) => return Ok(()),
            Ok(Some((Kind::Append, body))) => {
                let message = decoded(body);
                tokio::select! {
                    biased;
                    answer = async { service::append(door, message?).await } => answer,
                    // The caller has given this request up; what it was for may go on in consensus.
                    () = frames.is_closed() => return Ok(()),
                }
            }
            Ok(Some((Kind::Answer | Kind::Refusal, _))) => {
                Err(Status::invalid_argument("this is no request"))
            }
            Err(status) => Err(status),
        };
        match answered {
            Ok(answer) => {
                in_time(frames.write(Kind::Answer, &answer)).await?;
                is_answered.store(true, Ordering::Relaxed);
            }
            Err(status) => {
                // The last frame of this connection. A peer that is gone needs no reason.
                let _ = in_time(frames.write(Kind::Refusal, &Refusal::from(&status))).await;
                return Err(status);
            }
        }
    }
}

/// A peer that reads nothing gives its place up.
async fn in_time(writing: impl Future<Output = io::Result<()>>) -> Result<(), Status> {
    match tokio::time::timeout(MESSAGE, writing).await {
        Ok(written) => written.map_err(|error| super::broken(&error)),
        Err(_late) => Err(late("an answer")),
    }
}

fn late(what: &str) -> Status {
    Status::deadline_exceeded(format!("{what} took longer than {} s", MESSAGE.as_secs()))
}
