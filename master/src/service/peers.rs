//! Connections to other masters, shared by the calls and streams that are forwarded over them.
//!
//! One HTTP/2 connection carries a bounded number of them, and each has its own flow control: a
//! client that does not read its stream fills that stream's window and blocks no other stream. The
//! window of the connection is larger than the windows of all its streams, because it is shared:
//! with a smaller one, one stream could stall the others. From it, h2 derives a limit for unread
//! small frames. Beyond that limit, h2 closes the whole connection with every stream on it. Unary
//! calls have separate connections.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use argosy_proto::transport::{Dialer, ExpectedPeer};
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use super::forward::name_leader;
use super::forwarded_caller::is_forwarding_key_refused;
use crate::owner_handle::unavailable;

/// Timeout of connecting to another master.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ConnectionUse {
    /// Calls with one answer.
    Calls,
    /// Streams that stay open.
    Streams,
}

/// The limits of the connections for one use.
struct ConnectionLimits {
    /// Users of one connection, as long as there may be more connections.
    users_per_connection: usize,
    /// Maximum users of one connection.
    max_users: usize,
    /// Maximum connections to one master.
    max_connections: usize,
    stream_window: u32,
    connection_window: u32,
}

impl ConnectionUse {
    const fn limits(self) -> ConnectionLimits {
        match self {
            Self::Calls => ConnectionLimits {
                users_per_connection: 100,
                max_users: 400,
                max_connections: 16,
                stream_window: 1 << 20,
                connection_window: 128 << 20,
            },
            Self::Streams => ConnectionLimits {
                users_per_connection: 64,
                max_users: 64,
                max_connections: 256,
                stream_window: 128 << 10,
                connection_window: 1 << 30,
            },
        }
    }
}

/// Connections by address and use.
type ConnectionMap = BTreeMap<(String, ConnectionUse), Vec<SharedConnection>>;

/// Connections to other masters, opened when first needed.
#[derive(Clone)]
pub(crate) struct MasterConnections {
    dialer: Dialer,
    // Held for a lookup; nothing is awaited under it.
    shared: Arc<Mutex<ConnectionMap>>,
}

/// One connection. Its users hold clones of the reference, which counts them.
struct SharedConnection {
    channel: Channel,
    users: Arc<()>,
}

impl SharedConnection {
    fn users(&self) -> usize {
        Arc::strong_count(&self.users) - 1
    }

    fn lease(&self) -> ConnectionLease {
        ConnectionLease {
            channel: self.channel.clone(),
            _user: Arc::clone(&self.users),
        }
    }
}

/// A lease of a connection, for one call or stream; released when it is dropped.
pub(crate) struct ConnectionLease {
    channel: Channel,
    _user: Arc<()>,
}

impl ConnectionLease {
    /// Returns the connection. A clone must not outlive the lease.
    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }
}

impl MasterConnections {
    pub(crate) fn new(dialer: Dialer) -> Self {
        Self {
            dialer,
            shared: Arc::default(),
        }
    }

    /// Returns a lease of a connection to the master at `address`. Excess calls share the
    /// connections further and wait, up to a bound; excess streams are rejected, because they do
    /// not end.
    pub(crate) fn lease(
        &self,
        address: &str,
        kind: ConnectionUse,
    ) -> Result<ConnectionLease, Status> {
        let shape = kind.limits();
        let mut all = self.shared.lock().expect("no holder of the lock panics");
        // Another master may have led before: its connections close with their last users.
        all.retain(|(of, _), shared| {
            shared.retain(|shared| of == address || shared.users() > 0);
            !shared.is_empty()
        });
        let key = (address.to_owned(), kind);
        let shared = all.entry(key).or_default();
        if let Some(with_room) = shared
            .iter()
            .find(|one| one.users() < shape.users_per_connection)
        {
            let lease = with_room.lease();
            let is_unused = |one: &SharedConnection| one.users() == 0;
            // The first with room is taken, so the last ones become unused; one of them is kept for
            // the next peak.
            if shared.len() > 2 && shared[shared.len() - 2..].iter().all(is_unused) {
                shared.pop();
            }
            return Ok(lease);
        }
        if shared.len() < shape.max_connections {
            let channel = self.channel(address, &shape)?;
            let new = SharedConnection {
                channel,
                users: Arc::default(),
            };
            let lease = new.lease();
            shared.push(new);
            return Ok(lease);
        }
        let least_used = shared.iter().min_by_key(|one| one.users());
        if let Some(with_room) = least_used.filter(|one| one.users() < shape.max_users) {
            return Ok(with_room.lease());
        }
        let mut status = unavailable(&format!(
            "this master forwards {} {} to the leader, which is as many as it can: connect to the leader at {address}",
            shape.max_users * shape.max_connections,
            match kind {
                ConnectionUse::Calls => "calls",
                ConnectionUse::Streams => "streams",
            }
        ));
        name_leader(status.metadata_mut(), address);
        Err(status)
    }

    /// Returns the answer to a forwarded call. If the leader has refused the key of this master,
    /// later calls use other connections.
    pub(super) async fn renewing<T>(
        &self,
        address: &str,
        answered: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Status> {
        let answer = answered.await;
        if answer.as_ref().is_err_and(is_forwarding_key_refused) {
            self.renew(address);
        }
        answer
    }

    /// Uses no open connection to the master at `address` any more: it refuses the key that they
    /// prove. The certificate may have been renewed since they were opened.
    pub(super) fn renew(&self, address: &str) {
        let mut all = self.shared.lock().expect("no holder of the lock panics");
        all.retain(|(of, _), _| of != address);
    }

    fn channel(&self, address: &str, shape: &ConnectionLimits) -> Result<Channel, Status> {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|why| {
            unavailable(&format!(
                "the leader's address {address:?} is not usable: {why}"
            ))
        })?;
        let endpoint = endpoint
            // A connection that fails silently ends within three seconds: later calls get a new
            // one.
            .http2_keep_alive_interval(Duration::from_secs(1))
            .keep_alive_timeout(Duration::from_secs(2))
            .keep_alive_while_idle(true)
            .initial_stream_window_size(shape.stream_window)
            .initial_connection_window_size(shape.connection_window);
        let connector = self.dialer.connector(CONNECT_TIMEOUT, ExpectedPeer::MASTER);
        Ok(endpoint.connect_with_connector_lazy(connector))
    }
}

#[cfg(test)]
mod tests {
    use argosy_proto::v1;
    use argosy_proto::v1::leadership_client::LeadershipClient;

    use super::*;

    /// Bytes of the smallest message of a stream: five of gRPC, two of an event without fields.
    const SMALLEST_FRAME: u32 = 7;
    /// The size that h2 counts for a smaller frame.
    const COUNTED: u32 = 256;

    fn connections(peers: &MasterConnections, address: &str, kind: ConnectionUse) -> usize {
        let all = peers.shared.lock().unwrap();
        all.get(&(address.to_owned(), kind)).map_or(0, Vec::len)
    }

    /// All streams of a connection, none of them read, full of the smallest frames.
    #[test]
    fn unread_streams_never_exhaust_the_window_of_their_connection() {
        let shape = ConnectionUse::Streams.limits();
        let of_one =
            u64::from(shape.stream_window / SMALLEST_FRAME) * u64::from(COUNTED - SMALLEST_FRAME);
        let budget = u64::from(shape.connection_window) / 2;
        assert!(of_one * shape.users_per_connection as u64 <= budget);
        for shape in [
            ConnectionUse::Streams.limits(),
            ConnectionUse::Calls.limits(),
        ] {
            let windows = u64::from(shape.stream_window) * shape.users_per_connection as u64;
            assert!(windows <= u64::from(shape.connection_window));
        }
    }

    #[tokio::test]
    async fn connections_grow_with_their_users_up_to_a_bound_and_shrink_again() {
        let peers = MasterConnections::new(Dialer::tcp());
        let shape = ConnectionUse::Streams.limits();
        let lease = || peers.lease("a:1", ConnectionUse::Streams);
        let mut leases: Vec<_> = (0..shape.users_per_connection)
            .map(|_| lease().unwrap())
            .collect();
        assert_eq!(connections(&peers, "a:1", ConnectionUse::Streams), 1);
        leases.push(lease().unwrap());
        assert_eq!(connections(&peers, "a:1", ConnectionUse::Streams), 2);
        // Calls do not use these connections.
        let call = peers.lease("a:1", ConnectionUse::Calls).unwrap();
        assert_eq!(connections(&peers, "a:1", ConnectionUse::Calls), 1);
        while leases.len() < shape.users_per_connection * shape.max_connections {
            leases.push(lease().unwrap());
        }
        let full = lease().err().expect("it is full");
        assert_eq!(full.code(), tonic::Code::Unavailable);
        assert!(full.message().contains("a:1"), "{full}");
        drop(leases);
        for _ in 0..shape.max_connections {
            lease().unwrap();
        }
        assert_eq!(connections(&peers, "a:1", ConnectionUse::Streams), 2);
        // Another leader: connections with users stay.
        let _other = peers.lease("b:1", ConnectionUse::Calls).unwrap();
        assert_eq!(connections(&peers, "a:1", ConnectionUse::Streams), 0);
        assert_eq!(connections(&peers, "a:1", ConnectionUse::Calls), 1);
        drop(call);
    }

    #[tokio::test]
    async fn calls_beyond_the_bound_share_connections_until_full() {
        let peers = MasterConnections::new(Dialer::tcp());
        let shape = ConnectionUse::Calls.limits();
        let leases: Vec<_> = (0..shape.max_users * shape.max_connections)
            .map(|_| peers.lease("a:1", ConnectionUse::Calls).unwrap())
            .collect();
        assert_eq!(
            connections(&peers, "a:1", ConnectionUse::Calls),
            shape.max_connections
        );
        let full = peers
            .lease("a:1", ConnectionUse::Calls)
            .err()
            .expect("all are full");
        assert!(full.message().contains("6400 calls"), "{full}");
        drop(leases);
        peers.lease("a:1", ConnectionUse::Calls).unwrap();
    }

    #[tokio::test]
    async fn renewed_connections_leave_those_to_other_masters() {
        let peers = MasterConnections::new(Dialer::tcp());
        let lease = |address, kind| peers.lease(address, kind).unwrap();
        let _held = lease("b:1", ConnectionUse::Calls);
        let former = [ConnectionUse::Calls, ConnectionUse::Streams].map(|kind| lease("a:1", kind));
        peers.renew("a:1");
        for kind in [ConnectionUse::Calls, ConnectionUse::Streams] {
            assert_eq!(connections(&peers, "a:1", kind), 0);
        }
        assert_eq!(connections(&peers, "b:1", ConnectionUse::Calls), 1);
        let _next = lease("a:1", ConnectionUse::Calls);
        assert_eq!(connections(&peers, "a:1", ConnectionUse::Calls), 1);
        drop(former);
        assert_eq!(connections(&peers, "a:1", ConnectionUse::Calls), 1);
    }

    /// Simulates a partitioned host: the connection stays open, and its peer does not read.
    #[tokio::test]
    async fn dead_connection_ends_by_keepalive() {
        let host = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = host.local_addr().unwrap().to_string();
        let lease = MasterConnections::new(Dialer::tcp())
            .lease(&address, ConnectionUse::Calls)
            .unwrap();
        let mut client = LeadershipClient::new(lease.channel());
        let call = client.watch(v1::WatchReigns {});
        let status = tokio::time::timeout(Duration::from_secs(30), call).await;
        let status = status.expect("it waits without a limit").unwrap_err();
        assert_eq!(
            super::super::forward::connection_lost(status, &address).code(),
            tonic::Code::Unavailable
        );
        drop(host);
    }
}
