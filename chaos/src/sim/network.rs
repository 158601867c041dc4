//! The simulated network: real gRPC over turmoil's TCP, and which links are cut.
//!
//! A connection attempt over a cut link hangs, as it does in a real network; only a host without the
//! process refuses.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::{Duration, UNIX_EPOCH};

use argosy_proto::clock::WallClock;
use argosy_proto::transport::{Connection, Dialer, Listener};
use futures::stream;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::sync::{mpsc, oneshot, watch};
use turmoil::net::{TcpListener, TcpStream};

use super::run;

/// What is on its way between a process and its host's network.
const PIPE_BYTES: usize = 64 * 1024;

/// Links over which nothing travels, by the names of their hosts: from, to.
#[derive(Debug, Clone)]
pub(super) struct Cuts {
    links: Arc<Mutex<Links>>,
    resets: watch::Sender<Pairs>,
}

/// Hosts, both ways round.
type Pairs = BTreeSet<(String, String)>;

#[derive(Debug, Default)]
struct Links {
    cut: Pairs,
    /// Where something may have been lost since connections were reset.
    lossy: Pairs,
}

impl Default for Cuts {
    fn default() -> Self {
        Self {
            links: Arc::default(),
            resets: watch::Sender::new(Pairs::new()),
        }
    }
}

impl Cuts {
    fn links(&self) -> MutexGuard<'_, Links> {
        self.links.lock().expect("no holder of the lock panics")
    }

    pub(super) fn cut(&self, from: &str, to: &str) {
        let mut links = self.links();
        links.cut.insert((from.to_owned(), to.to_owned()));
        links.lossy.insert((from.to_owned(), to.to_owned()));
        links.lossy.insert((to.to_owned(), from.to_owned()));
    }

    pub(super) fn mend(&self, from: &str, to: &str) {
        self.links().cut.remove(&(from.to_owned(), to.to_owned()));
    }

    /// Ends the connections over links that were cut and are not any more. turmoil sends nothing a second time, so
    /// they would be dead without a sign for ever, which is fair while faults come; once all is mended, TCP would
    /// carry on, or find out.
    pub(super) fn reset_connections(&self) {
        let mut links = self.links();
        let cut = links.cut.clone();
        let is_cut = |from: &String, to: &String| cut.contains(&(from.clone(), to.clone()));
        let (still, mended) = std::mem::take(&mut links.lossy)
            .into_iter()
            .partition(|(from, to)| is_cut(from, to) || is_cut(to, from));
        links.lossy = still;
        self.resets.send_replace(mended);
    }

    /// Whether a packet, or its answer, would be lost.
    pub(super) fn part(&self, one: &str, other: &str) -> bool {
        let links = self.links();
        let cut = |from: &str, to: &str| links.cut.contains(&(from.to_owned(), to.to_owned()));
        cut(one, other) || cut(other, one)
    }

    /// Returns when connections between these hosts are reset.
    fn reset(&self, own: &str, host: &str) -> impl Future<Output = ()> + Send + use<> {
        let mut resets = self.resets.subscribe();
        let pair = (own.to_owned(), host.to_owned());
        async move {
            while resets.changed().await.is_ok() {
                if resets.borrow_and_update().contains(&pair) {
                    return;
                }
            }
            std::future::pending().await
        }
    }
}

/// A connection that was opened here, until it is reset.
struct Dialled {
    stream: TcpStream,
    reset: Pin<Box<dyn Future<Output = ()> + Send>>,
    is_reset: bool,
}

impl Dialled {
    fn is_reset(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        self.is_reset = self.is_reset || self.reset.as_mut().poll(context).is_ready();
        match self.is_reset {
            true => Err(io::ErrorKind::ConnectionReset.into()),
            false => Ok(()),
        }
    }
}

impl AsyncRead for Dialled {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.is_reset(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Dialled {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.is_reset(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Connections that come in at this host.
pub(super) async fn listener(port: u16) -> io::Result<Listener> {
    let listener = TcpListener::bind(("0.0.0.0", port)).await?;
    Ok(Listener::new(stream::unfold(listener, async |listener| {
        let accepted = listener.accept().await;
        Some((accepted.map(|(one, _)| Connection::new(one)), listener))
    })))
}

/// Opens connections from the host called `own`.
pub(super) fn dialer(own: &str, cuts: &Cuts) -> Dialer {
    let (own, cuts) = (own.to_owned(), cuts.clone());
    Dialer::new(move |address| {
        let (own, cuts) = (own.clone(), cuts.clone());
        async move { Ok(Connection::new(connect(&own, &cuts, address).await?)) }
    })
}

async fn connect(own: &str, cuts: &Cuts, address: String) -> io::Result<Dialled> {
    let host = address.split(':').next().unwrap_or_default().to_owned();
    match TcpStream::connect(address).await {
        Ok(stream) => Ok(Dialled {
            stream,
            reset: Box::pin(cuts.reset(own, &host)),
            is_reset: false,
        }),
        // turmoil refuses what it has dropped; a network says nothing.
        Err(_) if cuts.part(own, &host) => std::future::pending().await,
        Err(error) => Err(error),
    }
}

/// The end of a process that has a runtime of its own: what it listens and dials with.
pub(super) struct Seat<const PORTS: usize> {
    /// In the order of the ports.
    pub(super) listeners: [Listener; PORTS],
    pub(super) dialer: Dialer,
}

/// The host's end: carries bytes between the network and the process, whether that runs or not.
pub(super) struct Card {
    own: String,
    cuts: Cuts,
    ports: Vec<(u16, mpsc::Sender<io::Result<Connection>>)>,
    dials: mpsc::Receiver<Dial>,
}

struct Dial {
    address: String,
    answer: oneshot::Sender<io::Result<DuplexStream>>,
}

/// Both ends, for a host that listens at these ports.
pub(super) fn card<const PORTS: usize>(
    own: &str,
    cuts: &Cuts,
    ports: [u16; PORTS],
) -> (Card, Seat<PORTS>) {
    let mut senders = Vec::new();
    let listeners = ports.map(|port| {
        // When full, whoever connects waits in the host's queue.
        let (sender, mut connections) = mpsc::channel(64);
        senders.push((port, sender));
        Listener::new(stream::poll_fn(move |context| {
            connections.poll_recv(context)
        }))
    });
    // When full, dialing waits.
    let (asks, dials) = mpsc::channel::<Dial>(64);
    let dialer = Dialer::new(move |address| {
        let asks = asks.clone();
        async move {
            let (answer, answered) = oneshot::channel();
            let gone = || io::Error::from(io::ErrorKind::NetworkDown);
            let asked = asks.send(Dial { address, answer }).await;
            asked.map_err(|_| gone())?;
            let stream = answered.await.map_err(|_| gone())??;
            Ok(Connection::new(stream))
        }
    });
    let card = Card {
        own: own.to_owned(),
        cuts: cuts.clone(),
        ports: senders,
        dials,
    };
    (card, Seat { listeners, dialer })
}

impl Card {
    /// Until its host goes down, or cannot listen.
    pub(super) async fn run(self) -> io::Error {
        match self.carry_all().await {
            // The process has ended, and says so itself.
            Ok(()) => std::future::pending().await,
            Err(error) => error,
        }
    }

    async fn carry_all(mut self) -> io::Result<()> {
        for (port, process) in self.ports {
            let listener = TcpListener::bind(("0.0.0.0", port)).await?;
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let connection = Connection::new(carry(stream));
                    if process.send(Ok(connection)).await.is_err() {
                        return;
                    }
                }
            });
        }
        while let Some(Dial {
            address,
            mut answer,
        }) = self.dials.recv().await
        {
            let (own, cuts) = (self.own.clone(), self.cuts.clone());
            tokio::spawn(async move {
                tokio::select! {
                    biased;
                    () = answer.closed() => {}
                    connected = connect(&own, &cuts, address) => {
                        // Whoever asked may have given up.
                        let _ = answer.send(connected.map(carry));
                    }
                }
            });
        }
        Ok(())
    }
}

/// The process's end of a connection of its host.
fn carry(mut stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> DuplexStream {
    let (mut outside, inside) = tokio::io::duplex(PIPE_BYTES);
    tokio::spawn(async move {
        // However it ends, both ends are told.
        let _ = tokio::io::copy_bidirectional(&mut stream, &mut outside).await;
    });
    inside
}

/// How far the wall clocks of hosts are off, in milliseconds, by name.
#[derive(Debug, Clone, Default)]
pub(super) struct WallClocks(Arc<Mutex<BTreeMap<String, i64>>>);

impl WallClocks {
    /// The clock jumps, forwards or backwards.
    pub(super) fn jump(&self, host: &str, by_ms: i64) {
        let mut off = self.0.lock().expect("no holder of the lock panics");
        *off.entry(host.to_owned()).or_default() += by_ms;
    }

    /// The clock of one host.
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
    use tokio::io::AsyncReadExt as _;

    use super::*;

    #[test]
    fn a_connection_over_a_link_that_was_cut_ends_once_all_is_mended() {
        let cuts = Cuts::default();
        let mut sim = turmoil::Builder::new().build();
        sim.host("there", || async {
            let listener = TcpListener::bind(("0.0.0.0", 1)).await?;
            let mut kept = Vec::new();
            loop {
                kept.push(listener.accept().await?);
            }
        });
        sim.client("here", async move {
            let mut stream = connect("here", &cuts, "there:1".to_owned()).await?;
            let mut byte = [0];
            let mut ends = async |cuts: &Cuts| {
                cuts.reset_connections();
                let read = stream.read(&mut byte);
                let read = tokio::time::timeout(Duration::from_millis(50), read).await;
                read.ok().map(|read| read.unwrap_err().kind())
            };
            assert_eq!(ends(&cuts).await, None, "nothing was cut");
            cuts.cut("there", "here");
            assert_eq!(ends(&cuts).await, None, "it is still cut");
            cuts.mend("there", "here");
            assert_eq!(ends(&cuts).await, Some(io::ErrorKind::ConnectionReset));
            Ok(())
        });
        sim.run().unwrap();
    }
}
