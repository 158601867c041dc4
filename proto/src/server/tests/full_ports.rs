//! A port whose connections are all in use: which peers still get in.

use std::net::{IpAddr, Ipv4Addr};

use tokio::io::DuplexStream;
use tokio::sync::mpsc;

use super::*;
use crate::transport::IdentifiedConnection;

const CONNECTIONS: usize = 4;

/// A port for [`CONNECTIONS`], of which one address may have half.
struct SmallPort {
    connections: mpsc::UnboundedSender<IdentifiedConnection>,
    stop: CancellationToken,
}

impl SmallPort {
    fn start() -> Self {
        let (sender, connections) = mpsc::unbounded_channel::<IdentifiedConnection>();
        let listener = Listener::new(futures::stream::unfold(connections, async |mut waiting| {
            Some((Ok(waiting.recv().await?), waiting))
        }));
        let limits = PortLimits {
            per_peer: CONNECTIONS / 2,
            ..limits(CONNECTIONS)
        };
        let stop = CancellationToken::new();
        let router = TestRoutes::new().router();
        tokio::spawn(serve(listener, router, limits, stop.clone()));
        Self {
            connections: sender,
            stop,
        }
    }

    /// Opens a connection from a host, and a stream on it that does not end; `None` if the
    /// connection is closed before that.
    async fn open(&self, principal: Option<&str>, host: u8) -> Option<DuplexStream> {
        let (mut near, far) = tokio::io::duplex(1 << 10);
        let address = Some((IpAddr::V4(Ipv4Addr::new(10, 0, 0, host)), 1).into());
        let peer = match principal {
            Some(principal) => PeerIdentity::authenticated(principal.parse().unwrap(), address),
            None => PeerIdentity::unauthenticated(address).over_tls(),
        };
        self.connections.send((Connection::new(far), peer)).unwrap();
        // It may be closed already.
        let _ = near
            .write_all(b"GET /quiet HTTP/1.1\r\nhost: x\r\n\r\n")
            .await;
        let first = timeout(STEP_TIMEOUT, near.read_u8()).await.unwrap();
        first.ok()?;
        let rest = timeout(STEP_TIMEOUT, read_until(&mut near, "first\r\n"));
        rest.await.unwrap();
        Some(near)
    }
}

/// Returns whether a connection is closed.
async fn is_closed(stream: &mut DuplexStream) -> bool {
    let read = timeout(STEP_TIMEOUT, stream.read_u8()).await;
    read.unwrap().is_err()
}

#[tokio::test]
async fn streams_of_two_hosts_without_certificates_lock_no_certificate_out() {
    let port = SmallPort::start();
    let mut streams = Vec::new();
    for host in [1, 1, 2, 2] {
        streams.push(port.open(None, host).await.unwrap());
    }
    assert!(port.open(None, 3).await.is_none(), "the port is full");
    let agent = port.open(Some("agent/a7"), 3).await;
    let agent = agent.expect("it takes the place of another one");
    // Also at an address that has its half of the port.
    let operator = port.open(Some("operator/alice"), 1).await;
    let operator = operator.expect("it takes the place of another one");
    assert!(
        is_closed(&mut streams[3]).await,
        "the newest of the largest host"
    );
    assert!(
        is_closed(&mut streams[1]).await,
        "the newest of its own host"
    );
    // Those with a certificate are not closed for others.
    let more = [("master/m1", 4), ("framework/web", 5)];
    let mut others = Vec::new();
    for (principal, host) in more {
        others.push(port.open(Some(principal), host).await.unwrap());
    }
    for stream in &mut streams {
        assert!(is_closed(stream).await);
    }
    assert!(port.open(None, 6).await.is_none());
    assert!(port.open(Some("agent/a8"), 6).await.is_none());
    drop((agent, operator, others));
    port.stop.cancel();
}
