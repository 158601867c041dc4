//! The simulated network: real gRPC over turmoil's TCP, and the cut links.
//!
//! A connection attempt over a cut link hangs, as in a real network. Only a host without the
//! process refuses.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, UNIX_EPOCH};

use argosy_proto::clock::WallClock;
use argosy_proto::transport::{Connection, Dialer, IdentifiedConnection, Listener, PeerIdentity};
use argosy_state::actor::{Principal, PrincipalKind, PrincipalName};
use futures::stream;
use tokio::io::DuplexStream;
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

fn identity_at(address: IpAddr) -> PeerIdentity {
    let host = turmoil::reverse_lookup(address);
    host.map_or(PeerIdentity::unauthenticated(None), |host| {
        identity_of(&host)
    })
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
        let accepted = accepted.map(|(one, from)| (Connection::new(one), identity_at(from.ip())));
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
    ports: Vec<(u16, mpsc::Sender<io::Result<IdentifiedConnection>>)>,
    dials: mpsc::Receiver<DialRequest>,
}

struct DialRequest {
    address: String,
    answer: oneshot::Sender<io::Result<DuplexStream>>,
}

/// Returns both ends, for a host that listens on these ports.
pub(super) fn endpoints<const PORTS: usize>(
    own: &str,
    cuts: &CutLinks,
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
    let dialer = Dialer::new(move |address, _| {
        let asks = asks.clone();
        let peer = identity_of(host_of(&address));
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
            tokio::spawn(async move {
                while let Ok((stream, from)) = listener.accept().await {
                    let connection = (Connection::new(carry(stream)), identity_at(from.ip()));
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
                        let _ = answer.send(connected.map(carry));
                    }
                }
            });
        }
        Ok(())
    }
}

/// Returns the process's end of a connection of its host.
fn carry(mut stream: TcpStream) -> DuplexStream {
    let (mut outside, inside) = tokio::io::duplex(PIPE_BYTES);
    tokio::spawn(async move {
        // Any end of the copy closes both sides.
        let _ = tokio::io::copy_bidirectional(&mut stream, &mut outside).await;
    });
    inside
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
