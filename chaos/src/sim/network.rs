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
use argosy_proto::transport::{
    Connection, Credential, Dialer, IdentifiedConnection, Listener, PeerIdentity,
};
use argosy_state::access::KeyHash;
use argosy_state::actor::{Principal, PrincipalKind, PrincipalName};
use futures::stream;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::sync::{mpsc, oneshot};
use turmoil::net::{TcpListener, TcpStream};

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

/// The keys that hosts prove to processes in separate runtimes, as if certificates had them. Cheap
/// to clone; all clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct HostKeys(Arc<Mutex<HostKeysState>>);

#[derive(Debug, Default)]
struct HostKeysState {
    /// The number of renewals, by host.
    renewals: BTreeMap<String, u64>,
    /// The number of open connections to each port at one of whose ends this key was proved.
    open: BTreeMap<(u16, KeyHash), usize>,
}

impl HostKeys {
    fn state(&self) -> MutexGuard<'_, HostKeysState> {
        self.0.lock().expect("no holder of the lock panics")
    }

    /// Returns the key that new connections of a host prove.
    fn of(&self, host: &str) -> KeyHash {
        let renewals = self.state().renewals.get(host).copied().unwrap_or(0);
        KeyHash(Sha256::digest(format!("{host} {renewals}")).into())
    }

    /// Gives a host a new key for new connections. Open ones keep the former key, which is
    /// returned.
    pub(super) fn renew(&self, host: &str) -> KeyHash {
        let former = self.of(host);
        *self.state().renewals.entry(host.to_owned()).or_default() += 1;
        former
    }

    /// Returns the number of open connections to this port of any host that prove this key.
    pub(super) fn open_connections(&self, port: u16, key: KeyHash) -> usize {
        self.state().open.get(&(port, key)).copied().unwrap_or(0)
    }

    fn identity_of(&self, host: &str) -> PeerIdentity {
        let peer = identity_of(host);
        match peer.principal() {
            Some(_) => peer.with_credential(Credential::Key(self.of(host))),
            None => peer,
        }
    }

    /// Counts a connection between these hosts until the result is dropped.
    fn count(&self, port: u16, hosts: [&str; 2]) -> CountedConnection {
        let ends = hosts.map(|host| (port, self.of(host)));
        for end in ends {
            *self.state().open.entry(end).or_default() += 1;
        }
        let keys = self.clone();
        CountedConnection { keys, ends }
    }
}

/// A connection that is open.
struct CountedConnection {
    keys: HostKeys,
    ends: [(u16, KeyHash); 2],
}

impl Drop for CountedConnection {
    fn drop(&mut self) {
        let mut state = self.keys.state();
        for end in &self.ends {
            let left = state.open.get_mut(end).expect("it was counted");
            *left -= 1;
            if *left == 0 {
                state.open.remove(end);
            }
        }
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
        async move {
            let (answer, answered) = oneshot::channel();
            let gone = || io::Error::from(io::ErrorKind::NetworkDown);
            let asked = asks.send(DialRequest { address, answer }).await;
            asked.map_err(|_| gone())?;
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
            let (own, keys) = (self.host.clone(), self.keys.clone());
            tokio::spawn(async move {
                while let Ok((stream, from)) = listener.accept().await {
                    let host = name_of(from.ip());
                    let counted = keys.count(port, [&own, &host]);
                    let connection = Connection::new(carry(stream, Some(counted)));
                    let connection = (connection, keys.identity_of(&host));
                    if process.send(Ok(connection)).await.is_err() {
                        return;
                    }
                }
            });
        }
        while let Some(DialRequest {
            address,
            mut answer,
        }) = self.dials.recv().await
        {
            let (own, cuts) = (self.host.clone(), self.cuts.clone());
            tokio::spawn(async move {
                tokio::select! {
                    biased;
                    () = answer.closed() => {}
                    connected = connect(&own, &cuts, address) => {
                        // The caller may have timed out.
                        let _ = answer.send(connected.map(|stream| carry(stream, None)));
                    }
                }
            });
        }
        Ok(())
    }
}

/// A process's end of a connection of its host. It is counted until the process drops it; the host
/// may notice that only at its next write.
struct ProcessStream {
    stream: DuplexStream,
    _counted: Option<CountedConnection>,
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

/// Returns the process's end of a connection of its host, which may be counted.
fn carry(mut stream: TcpStream, counted: Option<CountedConnection>) -> ProcessStream {
    let (mut outside, inside) = tokio::io::duplex(PIPE_BYTES);
    tokio::spawn(async move {
        // Any end of the copy closes both sides.
        let _ = tokio::io::copy_bidirectional(&mut stream, &mut outside).await;
    });
    ProcessStream {
        stream: inside,
        _counted: counted,
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
    use super::*;

    #[test]
    fn a_renewed_key_proves_the_same_principal() {
        let keys = HostKeys::default();
        let (before, other) = (keys.identity_of("host-1"), keys.identity_of("host-2"));
        let former = keys.renew("host-1");
        let after = keys.identity_of("host-1");
        assert_eq!(before.credential(), Some(Credential::Key(former)));
        assert!(
            after
                .credential()
                .is_some_and(|key| key != Credential::Key(former))
        );
        assert_eq!(before.principal(), after.principal());
        assert_eq!(keys.identity_of("host-2"), other);
        assert_ne!(before.credential(), other.credential());
        assert_eq!(keys.identity_of("elsewhere").credential(), None);
    }

    #[test]
    fn connections_are_counted_with_the_keys_of_both_ends_until_they_end() {
        const PORT: u16 = 5052;
        let keys = HostKeys::default();
        let first = keys.count(PORT, ["master-1", "master-2"]);
        let former = keys.renew("master-1");
        let second = keys.count(PORT, ["master-2", "master-1"]);
        let kept = keys.of("master-2");
        assert_eq!(keys.open_connections(PORT, former), 1);
        assert_eq!(keys.open_connections(PORT, kept), 2);
        assert_eq!(keys.open_connections(PORT + 1, former), 0);
        drop(first);
        assert_eq!(keys.open_connections(PORT, former), 0);
        drop(second);
        assert_eq!(keys.open_connections(PORT, kept), 0);
    }
}
