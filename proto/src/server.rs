//! An HTTP server on a [`Listener`]: HTTP/1.1 and HTTP/2 on one port, with a bound for everything that a
//! peer can hold open.
//!
//! Knows connections and requests, and nothing of what is asked. Reading order: [`Limits`], [`serve`], then
//! `admission` (which connection is let in, and which one makes room), `activity` (what a connection does) and
//! `connection` (the task of one connection) with `calls` (what it is asked); `arriving` (limits on incomplete messages); `hosts` (the names that a server
//! answers to), `callers` (who may reach into tasks).

mod activity;
mod admission;
mod arriving;
pub mod callers;
mod calls;
mod connection;
mod holding;
pub mod hosts;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};
use nix::sys::resource::{Resource, getrlimit};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::transport::{Identified, Listener};
use activity::Watched;
use admission::{Admission, Decision, Refusal};
use connection::Door;
pub use holding::Holding;

/// Descriptors kept back from a port at least, for files and for connections to other hosts.
const LEAST_RESERVE: u64 = 512;
/// Connections that a port takes at least, however few descriptors there are.
const LEAST_CONNECTIONS: u64 = 64;
/// Connections that a port takes at most.
const MOST_CONNECTIONS: u64 = 1 << 20;
/// What is assumed of a system that does not report its limit of descriptors.
const USUAL_DESCRIPTORS: u64 = 1_024;
/// At most one line in this time reports refused and evicted connections.
const REPORT_EVERY: Duration = Duration::from_secs(10);

/// What the peers of one port may hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Name of the port, for logs and metrics.
    pub port: &'static str,
    /// Connections in total.
    pub connections: usize,
    /// Connections of one address; an IPv6 address counts by its first 64 bits.
    pub per_peer: usize,
    /// Time for the first request, or for the preface of HTTP/2; and for the head of each later request of
    /// HTTP/1.1.
    pub head: Duration,
    /// How long a connection may stay open without a request.
    pub idle: Duration,
    /// Interval of HTTP/2 pings.
    pub ping_interval: Duration,
    /// How long the answer to a ping may take before the peer counts as lost.
    pub ping_timeout: Duration,
    /// Requests that one HTTP/2 connection may have open at a time.
    pub streams: u32,
    /// Bytes that one HTTP/2 stream may send ahead of its reader.
    pub stream_window: u32,
    /// The same for all streams of a connection. Half of it bounds what small unread frames cost in memory.
    pub connection_window: u32,
    /// Largest head of a request, in bytes.
    pub head_bytes: u32,
    /// Bytes of incomplete messages of all connections.
    pub incomplete_bytes: usize,
    /// The same of one connection.
    pub incomplete_bytes_of_connection: usize,
    /// Maximum time from the first byte of a message to its last.
    pub message: Duration,
}

impl Limits {
    /// Limits of a public API in a process that may open so many descriptors: a quarter of them, and at least
    /// 512, is kept back for files, for the group's own port and for outgoing connections. One address may have
    /// half of the connections.
    #[must_use]
    pub fn of_descriptors(port: &'static str, descriptors: u64) -> Self {
        let left = descriptors.saturating_sub(reserve(descriptors));
        let connections = left.clamp(LEAST_CONNECTIONS, MOST_CONNECTIONS) as usize;
        Self {
            port,
            connections,
            per_peer: connections / 2,
            head: Duration::from_secs(10),
            idle: Duration::from_secs(60),
            ping_interval: Duration::from_secs(5),
            // A scheduler that vanishes is found by its missing heartbeats within 15 s, which frees its offers at once:
            // if its connection were closed before, they would wait for it to return.
            ping_timeout: Duration::from_secs(20),
            streams: 1_000,
            stream_window: 1 << 20,
            connection_window: 16 << 20,
            head_bytes: 128 << 10,
            incomplete_bytes: 512 << 20,
            incomplete_bytes_of_connection: 128 << 20,
            message: Duration::from_secs(30),
        }
    }

    /// The same, for the limit of this process.
    #[must_use]
    pub fn of_this_process(port: &'static str) -> Self {
        Self::of_descriptors(port, descriptors())
    }

    /// The same with no more than so many connections.
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
    (descriptors / 4).max(LEAST_RESERVE)
}

/// Connections that this process may open at a time on behalf of its clients, each with a descriptor that is kept
/// back from its ports: at most `most`.
#[must_use]
pub fn outgoing(most: usize) -> usize {
    most.min((reserve(descriptors()) / 4) as usize)
}

/// What answers requests: a router, or layers around one. Cloned for each request, so that it should be cheap to clone.
pub trait Service:
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

impl<S> Service for S where
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

/// Serves `service` until `stop`; returns when every connection has ended then. A caller that drops the future
/// cuts the connections that are left.
pub async fn serve(
    mut listener: Listener,
    service: impl Service,
    limits: Limits,
    stop: CancellationToken,
) {
    let port = limits.port;
    let admission = Arc::new(Admission::new(limits.connections, limits.per_peer));
    let door = Arc::new(Door::new(limits, service, stop.clone()));
    let mut reports = Reports::default();
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
            &door,
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
fn show(admission: &Admission, port: &'static str) {
    gauge!("argosy_connections", "port" => port).set(admission.taken() as f64);
}

fn admit(
    admission: &Arc<Admission>,
    door: &Arc<Door<impl Service>>,
    (connection, peer): Identified,
    reports: &mut Reports,
    connections: &mut JoinSet<()>,
) {
    let port = door.limits.port;
    let ends = connection.ends();
    let address = peer.address();
    let (decision, evicted) = admission.admit(address.map(|address| address.ip()));
    if evicted {
        counter!("argosy_connections_closed_total", "port" => port, "reason" => "evicted")
            .increment(1);
        reports.report(port, "an unused one made room");
    }
    match decision {
        Decision::Admitted(seat) => {
            let (io, watch) = Watched::new(connection, seat);
            connections.spawn(Arc::clone(door).drive(io, watch, (ends, peer)));
        }
        Decision::Refused(refusal) => {
            let reason = match refusal {
                Refusal::Full => "full",
                Refusal::PeerFull => "peer-full",
            };
            counter!("argosy_connections_refused_total", "port" => port, "reason" => reason)
                .increment(1);
            reports.report(port, reason);
            debug!(port, %peer, reason, "a connection is refused");
        }
    }
}

/// Log lines about a full port, few enough to read.
#[derive(Default)]
struct Reports {
    last: Option<tokio::time::Instant>,
    since: u64,
}

impl Reports {
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
            "this port has as many connections as it takes; raise the limit of open files (LimitNOFILE) if they are wanted"
        );
        self.last = Some(now);
        self.since = 0;
    }
}

/// Help texts of this module's metrics, once a process.
pub fn describe() {
    describe_gauge!(
        "argosy_connections",
        Unit::Count,
        "Open connections by port"
    );
    describe_counter!(
        "argosy_connections_refused_total",
        "Connections that a full port did not take"
    );
    describe_counter!(
        "argosy_connections_closed_total",
        "Connections that this process closed: silent, idle, a slow head, or to make room"
    );
    describe_counter!(
        "argosy_requests_refused_total",
        "Requests refused before they were read, by reason: host is a name that --allow-host does not list, incomplete and late are the limits on incomplete messages"
    );
}
