//! The simulated network: real gRPC over turmoil's TCP, and the cut links.
//!
//! A connection attempt over a cut link hangs, as in a real network. Only a host without the
//! process refuses.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::{Duration, UNIX_EPOCH};

use argosy_proto::clock::WallClock;
use argosy_proto::transport::{Connection, Dialer, IdentifiedConnection, Listener, PeerIdentity};
use argosy_state::access::KeyHash;
use argosy_state::actor::{Principal, PrincipalKind, PrincipalName};
use futures::stream;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::sync::{mpsc, oneshot};
use tokio_util::io::InspectReader;
use turmoil::net::{TcpListener, TcpStream};

use super::host_keys::{CountedEnd, HostKeys, SharedCount};
use super::run;

/// Buffer between a process and its host's network.
const PIPE_BYTES: usize = 64 * 1024;

/// Links that lose all packets, by the names of their hosts: from, to.
#[derive(Debug, Clone, Default)]
pub(super) struct CutLinks(Arc<Mutex<BTreeSet<(String, String)>>>);

impl CutLinks {
    fn links(&self) -> MutexGuard<'_, BTreeSet<(String, String)>> {
        self.0.lock().expect("no holder of the lock panics")
    }

    pub(super) fn cut(&self, from: &str, to: &str) {
        self.links().insert((from.to_owned(), to.to_owned()));
    }

    pub(super) fn repair(&self, from: &str, to: &str) {
        self.links().remove(&(from.to_owned(), to.to_owned()));
    }

    /// Whether a packet, or its response, would be lost.
    pub(super) fn is_cut(&self, one: &str, other: &str) -> bool {
        let set = self.links();
        let cut = |from: &str, to: &str| set.contains(&(from.to_owned(), to.to_owned()));
        cut(one, other) || cut(other, one)
    }
}

/// Returns the identity that the simulated network assigns to a host, as if a certificate had
/// proved it.
pub(super) fn identity_of(host: &str) -> PeerIdentity {
    let kind = match host.split('-').next().unwrap_or_default() {
        "master" => PrincipalKind::Master,
        "host" | "copy" => PrincipalKind::Agent,
        "framework" | "rival" => PrincipalKind::Framework,
        "operator" | "admin" | "hand" | "lister" | "prober" | "watcher" => PrincipalKind::Operator,
        // Its processes have no certificate.
        _ => return PeerIdentity::unauthenticated(None),
    };
    // A copied disk contains the certificate of its origin. So all agents have the same one, and
    // only their incarnations distinguish a copy.
    let name = match kind {
        PrincipalKind::Agent => "host",
        PrincipalKind::Master | PrincipalKind::Framework | PrincipalKind::Operator => host,
    };
    let name = PrincipalName::new(name).expect("host names are valid principal names");
    PeerIdentity::authenticated(Principal { kind, name }, None)
}

/// Returns the name of the host at this address; empty if there is none.
fn name_of(address: IpAddr) -> String {
    turmoil::reverse_lookup(address).unwrap_or_default()
}

/// Returns the host of `host:port`.
fn host_of(address: &str) -> &str {
    address.split(':').next().unwrap_or_default()
}

/// Returns the port of `host:port`; 0 if there is none.
fn port_of(address: &str) -> u16 {
    let port = address.split(':').nth(1);
    port.and_then(|port| port.parse().ok()).unwrap_or(0)
}

/// Returns the incoming connections of this host.
pub(super) async fn listener(port: u16) -> io::Result<Listener> {
    let listener = TcpListener::bind(("0.0.0.0", port)).await?;
    Ok(Listener::new(stream::unfold(listener, async |listener| {
        let accepted = listener.accept().await;
        let identified = |(one, from): (_, SocketAddr)| {
            let peer = identity_of(&name_of(from.ip()));
            (Connection::new(one), peer)
        };
        let accepted = accepted.map(identified);
        Some((accepted, listener))
    })))
}

/// Returns a dialer for the host called `own`.
pub(super) fn dialer(own: &str, cuts: &CutLinks) -> Dialer {
    let (own, cuts) = (own.to_owned(), cuts.clone());
    Dialer::new(move |address, _| {
        let (own, cuts) = (own.clone(), cuts.clone());
        let peer = identity_of(host_of(&address));
        async move { Ok((Connection::new(connect(&own, &cuts, address).await?), peer)) }
    })
}

async fn connect(own: &str, cuts: &CutLinks, address: String) -> io::Result<TcpStream> {
    let host = host_of(&address).to_owned();
    match TcpStream::connect(address).await {
        Ok(stream) => Ok(stream),
        // turmoil refuses connections whose packets it drops. A real network does not respond.
        Err(_) if cuts.is_cut(own, &host) => std::future::pending().await,
        Err(error) => Err(error),
    }
}

/// The process's end of the network, with listeners and a dialer, for a process in a separate
/// runtime.
pub(super) struct ProcessEndpoint<const PORTS: usize> {
    /// In the order of the ports.
    pub(super) listeners: [Listener; PORTS],
    pub(super) dialer: Dialer,
}

/// The host's end of the network. It carries bytes between network and process, whether the process
/// runs or not.
pub(super) struct HostEndpoint {
    host: String,
    cuts: CutLinks,
    keys: HostKeys,
    ports: Vec<(u16, mpsc::Sender<io::Result<IdentifiedConnection>>)>,
    dials: mpsc::Receiver<DialRequest>,
}

struct DialRequest {
    address: String,
    /// The key that the host at the address proves.
    key: KeyHash,
    answer: oneshot::Sender<io::Result<ProcessStream>>,
}

/// Returns both ends, for a host that listens on these ports.
pub(super) fn endpoints<const PORTS: usize>(
    own: &str,
    (cuts, keys): (&CutLinks, &HostKeys),
    ports: [u16; PORTS],
) -> (HostEndpoint, ProcessEndpoint<PORTS>) {
    let mut senders = Vec::new();
    let listeners = ports.map(|port| {
        // When full, further connections wait in the host's queue.
        let (sender, mut connections) = mpsc::channel(64);
        senders.push((port, sender));
        Listener::new(stream::poll_fn(move |context| {
            connections.poll_recv(context)
        }))
    });
    // When full, dialing waits.
    let (asks, dials) = mpsc::channel::<DialRequest>(64);
    let peers = keys.clone();
    let dialer = Dialer::new(move |address, _| {
        let asks = asks.clone();
        let peer = peers.identity_of(host_of(&address));
        let key = peers.of(host_of(&address));
        async move {
            let (answer, answered) = oneshot::channel();
            let gone = || io::Error::from(io::ErrorKind::NetworkDown);
            let request = DialRequest {
                address,
                key,
                answer,
            };
            asks.send(request).await.map_err(|_| gone())?;
            let stream = answered.await.map_err(|_| gone())??;
            Ok((Connection::new(stream), peer))
        }
    });
    let card = HostEndpoint {
        host: own.to_owned(),
        cuts: cuts.clone(),
        keys: keys.clone(),
        ports: senders,
        dials,
    };
    (card, ProcessEndpoint { listeners, dialer })
}

impl HostEndpoint {
    /// Runs until its host goes down, or cannot listen.
    pub(super) async fn run(self) -> io::Error {
        match self.carry_all().await {
            // The process has ended, and reports that itself.
            Ok(()) => std::future::pending().await,
            Err(error) => error,
        }
    }

    async fn carry_all(mut self) -> io::Result<()> {
        for (port, process) in self.ports {
            let listener = TcpListener::bind(("0.0.0.0", port)).await?;
            let keys = self.keys.clone();
            tokio::spawn(async move {
                while let Ok((stream, from)) = listener.accept().await {
                    let host = name_of(from.ip());
                    let counted = keys.count(port, keys.of(&host));
                    let connection = Connection::new(carry(stream, counted));
                    let connection = (connection, keys.identity_of(&host));
                    if process.send(Ok(connection)).await.is_err() {
                        return;
                    }
                }
            });
        }
        while let Some(DialRequest {
            address,
            key,
            mut answer,
        }) = self.dials.recv().await
        {
            let (own, cuts, keys) = (self.host.clone(), self.cuts.clone(), self.keys.clone());
            let port = port_of(&address);
            tokio::spawn(async move {
                tokio::select! {
                    biased;
                    () = answer.closed() => {}
                    connected = connect(&own, &cuts, address) => {
                        let connected = connected.map(|stream| carry(stream, keys.count(port, key)));
                        // The caller may have timed out.
                        let _ = answer.send(connected);
                    }
                }
            });
        }
        Ok(())
    }
}

/// A process's end of a connection of its host. It is counted until the process drops it, which the
/// host may notice only at its next write, or the network has ended it.
struct ProcessStream {
    stream: DuplexStream,
    counted: SharedCount,
}

impl Drop for ProcessStream {
    fn drop(&mut self) {
        self.counted.end();
    }
}

impl AsyncRead for ProcessStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for ProcessStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Returns the process's end of a connection of its host, which is counted.
fn carry(stream: TcpStream, counted: CountedEnd) -> ProcessStream {
    let (mut outside, inside) = tokio::io::duplex(PIPE_BYTES);
    let counted = SharedCount::new(counted);
    let (closed, broken) = (counted.clone(), counted.clone());
    // An empty read is the end of the connection: the other host has closed it.
    let mut network = InspectReader::new(stream, move |read: &[u8]| {
        if read.is_empty() {
            closed.end();
        }
    });
    tokio::spawn(async move {
        // Any end of the copy closes both sides.
        let _ = tokio::io::copy_bidirectional(&mut network, &mut outside).await;
        broken.end();
    });
    ProcessStream {
        stream: inside,
        counted,
    }
}

/// The offsets of the hosts' wall clocks in milliseconds, by name.
#[derive(Debug, Clone, Default)]
pub(super) struct WallClocks(Arc<Mutex<BTreeMap<String, i64>>>);

impl WallClocks {
    /// Moves the clock of a host forwards or backwards.
    pub(super) fn jump(&self, host: &str, by_ms: i64) {
        let mut off = self.0.lock().expect("no holder of the lock panics");
        *off.entry(host.to_owned()).or_default() += by_ms;
    }

    /// Returns the clock of one host.
    pub(super) fn of(&self, host: &str) -> WallClock {
        let (clocks, host) = (self.clone(), host.to_owned());
        WallClock::new(move || {
            let since = run::BEGAN + run::elapsed();
            let off = clocks.0.lock().expect("no holder of the lock panics");
            let off_ms = off.get(&host).copied().unwrap_or(0);
            let off = Duration::from_millis(off_ms.unsigned_abs());
            match off_ms < 0 {
                true => UNIX_EPOCH + since.saturating_sub(off),
                false => UNIX_EPOCH + since + off,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use argosy_proto::transport::ExpectedPeer;

    use super::*;

    #[test]
    fn a_connection_that_one_end_has_closed_is_not_counted() {
        let (cuts, keys) = (CutLinks::default(), HostKeys::default());
        let mut simulation = turmoil::Builder::new().build();
        let (network, known) = (cuts.clone(), keys.clone());
        simulation.host("master-3", move || {
            let (host, mut process) = endpoints("master-3", (&network, &known), [5052]);
            async move {
                tokio::spawn(host.run());
                drop(process.listeners[0].accept().await);
                std::future::pending().await
            }
        });
        let known = keys.clone();
        simulation.client("master-1", async move {
            let (host, process) = endpoints("master-1", (&cuts, &known), [5052]);
            tokio::spawn(host.run());
            let expected = ExpectedPeer::MASTER;
            let _unread = process.dialer.dial("master-3:5052", &expected).await?;
            tokio::time::sleep(Duration::from_secs(1)).await;
            let open =
                ["master-1", "master-3"].map(|host| known.open_connections(5052, known.of(host)));
            assert_eq!(open, [0, 0]);
            Ok(())
        });
        simulation.run().unwrap();
    }

    #[test]
    fn an_end_that_its_peer_has_left_counts_for_the_key_of_the_peer_only() {
        let (cuts, keys) = (CutLinks::default(), HostKeys::default());
        let mut simulation = turmoil::Builder::new().build();
        let (network, known) = (cuts.clone(), keys.clone());
        simulation.host("master-3", move || {
            let (host, mut process) = endpoints("master-3", (&network, &known), [5052]);
            async move {
                tokio::spawn(host.run());
                // It holds its end, and does not read.
                let _end = process.listeners[0].accept().await;
                std::future::pending().await
            }
        });
        let known = keys.clone();
        simulation.client("master-1", async move {
            let (host, process) = endpoints("master-1", (&cuts, &known), [5052]);
            tokio::spawn(host.run());
            let open = |host: &str| known.open_connections(5052, known.of(host));
            let expected = ExpectedPeer::MASTER;
            let dialed = process.dialer.dial("master-3:5052", &expected).await?;
            while open("master-1") == 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            assert_eq!(open("master-3"), 1);
            // Its host is cut off: the other one never learns of the end.
            turmoil::partition("master-1", "master-3");
            drop(dialed);
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert_eq!((open("master-3"), open("master-1")), (0, 1));
            Ok(())
        });
        simulation.run().unwrap();
    }
}
