//! A proxy for one link between two masters. It delays, stalls, resets, or corrupts the data.
//!
//! It works above TCP: it cannot reorder or lose packets, and TCP checksums do not detect its
//! corruption.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Maximum number of bytes in one read.
const CHUNK_BYTES: usize = 16 * 1024;
/// Chunks in flight on a slow link. When the queue is full, the sender blocks, as on a real link.
const MAX_CHUNKS_IN_FLIGHT: usize = 256;

/// The behaviour of the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProxyMode {
    /// All data arrives later by this time.
    Delayed(Duration),
    /// It stays open, and after this time carries nothing more from the client.
    Silent(Duration),
    /// It is closed after this time, in the middle of any data.
    Closed(Duration),
    /// One bit in every this many bytes is flipped, counted for each connection and direction.
    Damaged(NonZeroUsize),
}

/// The position of a corrupting connection.
#[derive(Debug, Default)]
struct CorruptionOffset {
    position: usize,
}

impl CorruptionOffset {
    /// Flips one bit in every `every` bytes, a different one of the eight each time.
    fn corrupt(&mut self, every: NonZeroUsize, chunk: &mut [u8]) {
        for byte in chunk {
            self.position += 1;
            if self.position.is_multiple_of(every.get()) {
                *byte ^= 1 << (self.position / every.get() % 8);
            }
        }
    }
}

/// A proxy. Its connections end when this value is dropped.
pub(crate) struct Proxy {
    port: u16,
    _links: JoinSet<()>,
}

impl Proxy {
    /// Listens on a free port for connections to `target`.
    ///
    /// # Errors
    /// If no port is available.
    pub(crate) async fn start(
        own: Ipv4Addr,
        target: SocketAddr,
        mode: ProxyMode,
    ) -> std::io::Result<Self> {
        let listener = TcpListener::bind((own, 0)).await?;
        let port = listener.local_addr()?.port();
        let mut links = JoinSet::new();
        links.spawn(accept(listener, target, mode));
        Ok(Self {
            port,
            _links: links,
        })
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, mode: ProxyMode) {
    let mut links = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        links.spawn(link(client, target, mode));
        // Removes ended connections.
        while links.try_join_next().is_some() {}
    }
}

async fn link(client: TcpStream, target: SocketAddr, mode: ProxyMode) {
    let Ok(server) = TcpStream::connect(target).await else {
        return;
    };
    // Small messages must not wait for larger ones.
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let carry = async {
        tokio::select! {
            () = carry(from_client, to_server, mode, true) => {}
            () = carry(from_server, to_client, mode, false) => {}
        }
    };
    match mode {
        ProxyMode::Closed(after) => drop(tokio::time::timeout(after, carry).await),
        ProxyMode::Delayed(_) | ProxyMode::Silent(_) | ProxyMode::Damaged(_) => carry.await,
    }
}

/// Carries one direction until it ends.
async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mode: ProxyMode, asks: bool) {
    let begun = Instant::now();
    let (sender, mut under_way) = mpsc::channel::<(Instant, Vec<u8>)>(MAX_CHUNKS_IN_FLIGHT);
    let read = async {
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut damage = CorruptionOffset::default();
        while let Ok(length @ 1..) = from.read(&mut chunk).await {
            let arrives = match mode {
                ProxyMode::Delayed(delay) => Instant::now() + delay,
                ProxyMode::Silent(after) if asks && begun.elapsed() > after => {
                    // Reads nothing more, so that further data fills the buffers.
                    std::future::pending::<()>().await;
                    break;
                }
                ProxyMode::Silent(_) | ProxyMode::Closed(_) => Instant::now(),
                ProxyMode::Damaged(every) => {
                    damage.corrupt(every, &mut chunk[..length]);
                    Instant::now()
                }
            };
            if sender
                .send((arrives, chunk[..length].to_vec()))
                .await
                .is_err()
            {
                break;
            }
        }
        drop(sender);
    };
    let write = async {
        while let Some((arrives, bytes)) = under_way.recv().await {
            tokio::time::sleep_until(arrives).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(read, write);
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.into_split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        address
    }

    async fn through(manner: ProxyMode) -> (Proxy, TcpStream) {
        let proxy = Proxy::start(Ipv4Addr::LOCALHOST, echo().await, manner)
            .await
            .unwrap();
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port()))
            .await
            .unwrap();
        (proxy, stream)
    }

    #[tokio::test]
    async fn a_delay_applies_in_both_directions_of_a_link() {
        let delay = Duration::from_millis(40);
        let (_proxy, mut stream) = through(ProxyMode::Delayed(delay)).await;
        let begun = Instant::now();
        stream.write_all(b"x").await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'x');
        assert!(begun.elapsed() >= delay * 2, "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn a_blocked_link_stays_open_without_transferring_data() {
        let (_proxy, mut stream) = through(ProxyMode::Silent(Duration::ZERO)).await;
        stream.write_all(b"x").await.unwrap();
        let answer = tokio::time::timeout(Duration::from_millis(200), stream.read_u8()).await;
        assert!(answer.is_err(), "{answer:?}");
    }

    #[test]
    fn corruption_is_independent_of_chunk_boundaries() {
        let every = NonZeroUsize::new(100).unwrap();
        let mut bytes = [0; 1_000];
        let mut damage = CorruptionOffset::default();
        bytes
            .chunks_mut(77)
            .for_each(|chunk| damage.corrupt(every, chunk));
        for (place, byte) in bytes.iter().enumerate() {
            let changed = u32::from((place + 1) % 100 == 0);
            assert_eq!(byte.count_ones(), changed, "byte {place}");
        }
    }

    #[tokio::test]
    async fn a_closed_link_ends_its_connections() {
        let (_proxy, mut stream) = through(ProxyMode::Closed(Duration::from_millis(30))).await;
        let ended = tokio::time::timeout(Duration::from_secs(10), stream.read_u8()).await;
        assert!(ended.unwrap().is_err());
    }
}
