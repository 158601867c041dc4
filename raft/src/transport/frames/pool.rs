//! The calling end of frames: a pool of connections to one address.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use argosy_proto::transport::{Dialer, ExpectedPeer};
use tokio::time::Instant;
use tonic::Status;
use tracing::debug;

use super::{FrameKind, FrameStatus, FramedConnection, broken, decoded, proto};
use crate::settings::Timing;

/// The time for which a peer that did not answer the greeting gets appends over HTTP/2, before it
/// is greeted again.
const REFUSED_FOR: Duration = Duration::from_secs(60);
/// The maximum number of connections that are kept for the next caller.
const MAX_IDLE: usize = 4;
/// A connection that was used within this time is reused without a check.
const REUSE_AGE: Duration = Duration::from_millis(200);

/// The connections of frames to one address. An append takes one out, and its caller keeps it for
/// the next append.
#[derive(Debug)]
pub(crate) struct FramePool {
    dialer: Dialer,
    address: String,
    timeout: Duration,
    // A plain lock, never held over an await.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Whether the peer has reported that it supports frames.
    supports_frames: bool,
    /// The time before which the peer is not greeted.
    refused_until: Option<Instant>,
    /// Whether a caller had to use HTTP/2.
    is_wanted: bool,
    idle: Vec<IdleConnection>,
}

impl State {
    fn may_greet(&self) -> bool {
        let is_refused = self.refused_until.is_some_and(|end| Instant::now() < end);
        self.supports_frames && !is_refused
    }

    fn take_idle(&mut self) -> Option<IdleConnection> {
        while let Some(mut spare) = self.idle.pop() {
            if spare.is_usable() {
                return Some(spare);
            }
        }
        None
    }
}

impl FramePool {
    pub(crate) fn new(dialer: Dialer, address: &str, timing: Timing) -> FramePool {
        FramePool {
            dialer,
            address: address.to_owned(),
            // The rest of an append's deadline is for HTTP/2.
            timeout: Duration::from_millis(timing.append_deadline_ms / 2),
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of the lock panics")
    }

    /// Records whether the peer supports frames. This changes when the peer is upgraded or
    /// downgraded.
    pub(crate) fn set_support(&self, knows_frames: bool) {
        let mut state = self.state();
        if state.supports_frames != knows_frames {
            *state = State {
                supports_frames: knows_frames,
                is_wanted: state.is_wanted,
                ..State::default()
            };
        }
    }

    /// Returns a connection that is open already.
    pub(crate) fn idle(&self) -> Option<IdleConnection> {
        self.state().take_idle()
    }

    /// Returns a connection; `None` if this append must use HTTP/2.
    pub(crate) async fn open(&self) -> Result<Option<IdleConnection>, Status> {
        {
            let mut state = self.state();
            if let Some(spare) = state.take_idle() {
                return Ok(Some(spare));
            }
            if !state.may_greet() {
                state.is_wanted = true;
                return Ok(None);
            }
        }
        self.connect().await
    }

    async fn connect(&self) -> Result<Option<IdleConnection>, Status> {
        let end = Instant::now() + self.timeout;
        let expected = ExpectedPeer::MASTER;
        let dialing = self.dialer.dial(&self.address, &expected);
        let dialed = tokio::time::timeout_at(end, dialing).await;
        let dialed = dialed.map_err(|_| Status::unavailable("no connection in time"))?;
        let mut frames = FramedConnection::new(dialed.map_err(|error| broken(&error))?);
        let greeting = async {
            frames.send_greeting().await?;
            frames.read_greeting().await
        };
        // A peer that does not know the greeting closes the connection in the middle of it; a proxy
        // may leave it unanswered.
        let answered = tokio::time::timeout_at(end, greeting).await;
        if matches!(answered, Ok(Ok(true))) {
            return Ok(Some(IdleConnection {
                frames,
                used: Instant::now(),
            }));
        }
        debug!(address = self.address, "this peer does not accept frames");
        let mut state = self.state();
        state.refused_until = Some(Instant::now() + REFUSED_FOR);
        state.is_wanted = true;
        Ok(None)
    }

    /// Keeps a connection for the next caller.
    pub(crate) fn put(&self, connection: IdleConnection) {
        let mut state = self.state();
        if state.idle.len() < MAX_IDLE {
            state.idle.push(connection);
        }
    }

    /// Opens a connection before it is needed.
    pub(crate) async fn preconnect(&self) {
        {
            let state = self.state();
            if !state.idle.is_empty() || !state.may_greet() {
                return;
            }
        }
        // An unreachable peer is reported by the append that needs it.
        if let Ok(Some(connection)) = self.connect().await {
            self.put(connection);
        }
    }

    /// Opens a connection if a caller had to use HTTP/2 for lack of one. The caller switches to it
    /// with its next append.
    pub(crate) async fn replace(&self) {
        {
            let mut state = self.state();
            if !state.is_wanted || !state.may_greet() {
                return;
            }
            state.is_wanted = false;
        }
        self.preconnect().await;
    }
}

/// A connection between two exchanges.
pub(crate) struct IdleConnection {
    frames: FramedConnection,
    used: Instant,
}

impl std::fmt::Debug for IdleConnection {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("FrameConnection")
    }
}

impl IdleConnection {
    /// Returns whether the connection is open, as far as this end knows.
    pub(crate) fn is_usable(&mut self) -> bool {
        self.used.elapsed() < REUSE_AGE || self.frames.is_quiet()
    }

    /// Sends a request and waits for its answer. An error ends the connection, and so does dropping
    /// the future.
    pub(crate) async fn exchange(
        mut self,
        request: &proto::AppendRequest,
    ) -> Result<(IdleConnection, proto::AppendResponse), Status> {
        let sent = self.frames.write(FrameKind::Append, request).await;
        sent.map_err(|error| broken(&error))?;
        match self.frames.read().await? {
            Some((FrameKind::Response, body)) => {
                let answer = decoded(body)?;
                self.used = Instant::now();
                Ok((self, answer))
            }
            Some((FrameKind::Error, body)) => Err(decoded::<FrameStatus>(body)?.into()),
            Some((FrameKind::Append, _)) => {
                Err(Status::internal("a request where an answer was due"))
            }
            None => Err(Status::unavailable("the peer closed the connection")),
        }
    }
}
