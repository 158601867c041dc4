//! An HTTP server on a [`Listener`]: HTTP/1.1 and HTTP/2 on one port, with a limit for every
//! resource that a peer can hold.
//!
//! The content of requests is opaque here. Reading order: [`PortLimits`], [`serve`], then
//! `admission` (which connection is accepted, and which one is evicted for it), `activity` (the
//! state of a connection) and `connection` (the task of one connection) with `calls` (its calls).
//! Last, `incomplete_messages` and `stalls` (limits on slow senders and on slow readers);
//! `unread_bodies` (what a refused request still sends); `hosts` (the host names of a server),
//! `callers` (access to tasks), `audit` (the record of callers), and `call_rate` (the rate of
//! calls).

mod activity;
mod admission;
pub mod audit;
pub mod call_rate;
pub mod callers;
mod calls;
mod connection;
mod guarded_body;
pub mod hosts;
mod incomplete_messages;
mod stalls;
#[cfg(test)]
mod tests;
mod unread_bodies;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use metrics::{counter, gauge};
use nix::sys::resource::{Resource, getrlimit};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::transport::{IdentifiedConnection, Listener};
use activity::WatchedStream;
pub use admission::peer_network;
use admission::{AdmissionDecision, ConnectionAdmission, PortFull};
use connection::PortState;
pub use guarded_body::GuardedBody;
use stalls::StallLimit;

/// The minimum number of descriptors that a port leaves for files and for connections to other
/// hosts.
const MIN_RESERVE: u64 = 512;
/// The minimum number of connections of a port, however few descriptors there are.
const MIN_CONNECTIONS: u64 = 64;
/// The maximum number of connections of a port.
const MAX_CONNECTIONS: u64 = 1 << 20;
/// The limit of descriptors that is assumed if the system does not report one.
const USUAL_DESCRIPTORS: u64 = 1_024;
/// The maximum number of incomplete handshakes of a port, however many descriptors there are.
const MAX_HANDSHAKES: usize = 1_024;
/// The minimum interval between two log lines about rejected and evicted connections.
const REPORT_EVERY: Duration = Duration::from_secs(10);

/// The limits on the peers of one port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortLimits {
    /// The name of the port, for logs and metrics.
    pub port: &'static str,
    /// The maximum number of connections.
    pub connections: usize,
    /// The maximum number of connections of one address; an IPv6 address counts by its first 64
    /// bits.
    pub per_peer: usize,
    /// The time for the first request, or for the preface of HTTP/2, and for the head of each later
    /// request of HTTP/1.1.
    pub head_timeout: Duration,
    /// The maximum time for which a connection may stay open without a request.
    pub idle_timeout: Duration,
    /// The interval of HTTP/2 pings.
    pub ping_interval: Duration,
    /// The timeout of the answer to a ping, after which the peer counts as lost.
    pub ping_timeout: Duration,
    /// The maximum number of open requests on one HTTP/2 connection.
    pub streams: u32,
    /// The maximum number of HTTP/2 streams that the peer has reset before they were accepted; one
    /// more ends the connection.
    pub early_resets: usize,
    /// The maximum number of streams that this side has reset because of errors of the peer, and
    /// that it still remembers; one more ends the connection.
    pub error_resets: usize,
    /// The bytes that one HTTP/2 stream may send ahead of its reader.
    pub stream_window: u32,
    /// The same for all streams of a connection. Half of it limits the memory that small unread
    /// frames use.
    pub connection_window: u32,
    /// The maximum size of a request's head, in bytes.
    pub head_bytes: u32,
    /// The maximum size of the incomplete messages of all connections, in bytes.
    pub incomplete_bytes: usize,
    /// The maximum size of the incomplete messages of one connection, in bytes.
    pub incomplete_bytes_of_connection: usize,
    /// The maximum time from the first byte of a message to its last.
    pub message_timeout: Duration,
    /// The time in which a peer must read something of the output that waits for it: of its
    /// connection, and of each answer over HTTP/2. WebSockets have their own limit.
    pub stall_timeout: Duration,
}

impl PortLimits {
    /// Returns the limits of a public API in a process with this limit of descriptors. A quarter of
    /// them, and at least 512, is reserved for files, for the group's own port and for outgoing
    /// connections. One address may have half of the connections.
    #[must_use]
    pub fn of_descriptors(port: &'static str, descriptors: u64) -> Self {
        let left = descriptors.saturating_sub(reserve(descriptors));
        let connections = left.clamp(MIN_CONNECTIONS, MAX_CONNECTIONS) as usize;
        Self {
            port,
            connections,
            per_peer: connections / 2,
            head_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            ping_interval: Duration::from_secs(5),
            // A lost scheduler is detected by its missing heartbeats within 15 s, which releases
            // its offers immediately. If its connection were closed before, the offers would wait
            // for its return.
            ping_timeout: Duration::from_secs(20),
            streams: 1_000,
            early_resets: 20,
            error_resets: 256,
            stream_window: 1 << 20,
            connection_window: 16 << 20,
            head_bytes: 128 << 10,
            incomplete_bytes: 512 << 20,
            incomplete_bytes_of_connection: 128 << 20,
            message_timeout: Duration::from_secs(30),
            // Longer than the limits of single calls, such as the minute of a subscriber of
            // changes: the peer gets their reasons, and would not get this one.
            stall_timeout: Duration::from_secs(120),
        }
    }

    /// Returns the limits for the descriptors of this process.
    #[must_use]
    pub fn of_this_process(port: &'static str) -> Self {
        Self::of_descriptors(port, descriptors())
    }

    /// Returns the same limits with at most this many connections.
    #[must_use]
    pub fn at_most(self, connections: usize) -> Self {
        let connections = connections.min(self.connections);
        Self {
            connections,
            per_peer: self.per_peer.min(connections),
            ..self
        }
    }
}

fn descriptors() -> u64 {
    let soft = getrlimit(Resource::RLIMIT_NOFILE).map(|(soft, _hard)| soft);
    soft.unwrap_or(USUAL_DESCRIPTORS)
}

fn reserve(descriptors: u64) -> u64 {
    (descriptors / 4).max(MIN_RESERVE)
}

/// Returns how many handshakes a port may have that are not complete. Their descriptors are among
/// those that the ports leave free.
#[must_use]
pub fn handshakes() -> usize {
    outgoing(MAX_HANDSHAKES)
}

/// Returns how many connections this process may open at a time on behalf of its clients, at most
/// `most`. Their descriptors are among those that its ports leave free.
#[must_use]
pub fn outgoing(most: usize) -> usize {
    most.min((reserve(descriptors()) / 4) as usize)
}

/// A handler of requests: a router, or layers around one. Cloned for each request, so it should be
/// cheap to clone.
pub trait HttpService:
    tower::Service<
        http::Request<Body>,
        Response = http::Response<Body>,
        Error = Infallible,
        Future: Send + 'static,
    > + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S> HttpService for S where
    S: tower::Service<
            http::Request<Body>,
            Response = http::Response<Body>,
            Error = Infallible,
            Future: Send + 'static,
        > + Clone
        + Send
        + Sync
        + 'static
{
}

/// Serves `service` until `stop`, and returns when every connection has ended. Dropping the future
/// closes the remaining connections.
pub async fn serve(
    mut listener: Listener,
    service: impl HttpService,
    limits: PortLimits,
    stop: CancellationToken,
) {
    let port = limits.port;
    let admission = Arc::new(ConnectionAdmission::new(
        limits.connections,
        limits.per_peer,
    ));
    let state = Arc::new(PortState::new(limits, service, stop.clone()));
    let mut reports = FullPortReports::default();
    // Bounded by the admission.
    let mut connections = JoinSet::new();
    loop {
        let connection = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(_ended) = connections.join_next() => {
                show(&admission, port);
                continue;
            }
            connection = listener.accept() => connection,
        };
        admit(
            &admission,
            &state,
            connection,
            &mut reports,
            &mut connections,
        );
        show(&admission, port);
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

#[allow(clippy::cast_precision_loss, reason = "gauges are floating point")]
fn show(admission: &ConnectionAdmission, port: &'static str) {
    gauge!("argosy_connections", "port" => port).set(admission.count() as f64);
}

fn admit(
    admission: &Arc<ConnectionAdmission>,
    state: &Arc<PortState<impl HttpService>>,
    (connection, peer): IdentifiedConnection,
    reports: &mut FullPortReports,
    connections: &mut JoinSet<()>,
) {
    let port = state.limits.port;
    let ends = connection.addresses();
    let (decision, evicted) = admission.admit(&peer);
    if evicted {
        counter!("argosy_connections_closed_total", "port" => port, "reason" => "evicted")
            .increment(1);
        reports.report(port, "another one was evicted");
    }
    match decision {
        AdmissionDecision::Admitted(seat) => {
            let limit = StallLimit::of(&state.limits);
            let (io, watch) = WatchedStream::new(connection, seat, limit);
            connections.spawn(Arc::clone(state).drive(io, watch, (ends, peer)));
        }
        AdmissionDecision::Refused(refusal) => {
            let reason = match refusal {
                PortFull::Port => "full",
                PortFull::Peer => "peer-full",
            };
            counter!("argosy_connections_refused_total", "port" => port, "reason" => reason)
                .increment(1);
            reports.report(port, reason);
            debug!(port, %peer, reason, "rejecting a connection");
        }
    }
}

/// Rate-limited log lines about a full port.
#[derive(Default)]
struct FullPortReports {
    last: Option<tokio::time::Instant>,
    since: u64,
}

impl FullPortReports {
    fn report(&mut self, port: &str, reason: &str) {
        self.since += 1;
        let now = tokio::time::Instant::now();
        if self.last.is_some_and(|last| now - last < REPORT_EVERY) {
            return;
        }
        warn!(
            port,
            reason,
            count = self.since,
            "this port has reached its limit of connections; raise the limit of open files (LimitNOFILE) if they are expected"
        );
        self.last = Some(now);
        self.since = 0;
    }
}
