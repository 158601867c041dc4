//! Streams of bytes between processes: TCP, or whatever a simulation puts in its place.
//!
//! Knows addresses as text, who is at the other end as far as that is proven, and nothing of what is said.

mod identity;

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::stream::{self, BoxStream, Stream, StreamExt as _};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tonic::transport::Uri;
use tower::Service;

pub use identity::{Expected, PeerIdentity};

/// The pause after a connection could not be accepted, most likely because too many files are open. Those that wait
/// are kept by the system.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// At most one line in this time reports that connections cannot be accepted.
const REPORT_EVERY: Duration = Duration::from_secs(10);

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A stream of bytes in both directions.
pub struct Connection {
    stream: Box<dyn Duplex>,
    ends: Option<Ends>,
    /// Bytes that are read before those of the stream.
    first: Vec<u8>,
}

impl Connection {
    /// Wraps any byte stream.
    pub fn new(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        Self {
            stream: Box::new(stream),
            ends: None,
            first: Vec::new(),
        }
    }

    /// The same connection, of which these bytes were read already and are read again.
    #[must_use]
    pub fn reading_again(self, first: Vec<u8>) -> Self {
        Self { first, ..self }
    }

    /// The same connection, between these addresses.
    #[must_use]
    pub fn between(self, ends: Ends) -> Self {
        Self {
            ends: Some(ends),
            ..self
        }
    }

    /// Its addresses, if they are known.
    #[must_use]
    pub fn ends(&self) -> Option<Ends> {
        self.ends
    }
}

/// The two addresses of a TCP connection that came in; among the extensions of its requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// Where it comes from.
    pub peer: SocketAddr,
    /// The address of this host that it was made to.
    pub own: SocketAddr,
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.first.is_empty() {
            let count = self.first.len().min(buffer.remaining());
            let first: Vec<u8> = self.first.drain(..count).collect();
            buffer.put_slice(&first);
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// A connection, and who is at its other end.
pub type Identified = (Connection, PeerIdentity);

type Dialing = Pin<Box<dyn Future<Output = io::Result<Identified>> + Send>>;

/// Opens byte streams to `host:port`. Cheap to clone.
#[derive(Clone)]
pub struct Dialer(Arc<dyn Fn(String, Expected) -> Dialing + Send + Sync>);

impl Dialer {
    /// Plain TCP, which proves no identity.
    #[must_use]
    pub fn tcp() -> Self {
        Self::new(|address, _| async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let peer = PeerIdentity::unauthenticated(stream.peer_addr().ok());
            Ok((Connection::new(stream), peer))
        })
    }

    /// Anything that opens a stream to an address, and finds out who is there.
    pub fn new<F, Fut>(dial: F) -> Self
    where
        F: Fn(String, Expected) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = io::Result<Identified>> + Send + 'static,
    {
        Self(Arc::new(move |address, expected| {
            Box::pin(dial(address, expected))
        }))
    }

    /// Opens one stream.
    ///
    /// # Errors
    /// As the operating system says it; `ConnectionRefused` means that no process listens there. `PermissionDenied` if
    /// another one than expected has proven its identity.
    pub async fn dial(&self, address: &str, expected: &Expected) -> io::Result<Connection> {
        let (connection, peer) = (self.0)(address.to_owned(), expected.clone()).await?;
        expected.admit(&peer, address)?;
        Ok(connection)
    }

    /// What a gRPC channel opens its connections with; each may take as long as `patience`.
    pub fn connector(
        &self,
        patience: Duration,
        expected: Expected,
    ) -> impl Service<
        Uri,
        Response = TokioIo<Connection>,
        Error = io::Error,
        Future = impl Future<Output = io::Result<TokioIo<Connection>>> + Send + use<>,
    > + Clone
    + Send
    + use<> {
        let dialer = self.clone();
        tower::service_fn(move |uri: Uri| {
            let address = uri.authority().map(ToString::to_string).unwrap_or_default();
            let (dialer, expected) = (dialer.clone(), expected.clone());
            async move {
                let dialing = dialer.dial(&address, &expected);
                let dialed = tokio::time::timeout(patience, dialing).await;
                let slow = |_| io::Error::new(io::ErrorKind::TimedOut, "no connection in time");
                dialed.map_err(slow)?.map(TokioIo::new)
            }
        })
    }
}

impl fmt::Debug for Dialer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Dialer")
    }
}

/// Where connections come in, each with who is at its other end.
pub struct Listener(BoxStream<'static, io::Result<Identified>>);

impl Listener {
    /// Plain TCP, which proves no identity. Never ends: what cannot be accepted is logged and passed over.
    #[must_use]
    pub fn tcp(listener: TcpListener) -> Self {
        let state = (listener, None);
        Self::new(stream::unfold(state, async |(listener, mut reported)| {
            let connection = accept(&listener, &mut reported).await;
            Some((Ok(connection), (listener, reported)))
        }))
    }

    /// Any stream of connections.
    pub fn new(connections: impl Stream<Item = io::Result<Identified>> + Send + 'static) -> Self {
        Self(connections.boxed())
    }

    /// The next connection. Waits for ever when no more will come.
    pub async fn accept(&mut self) -> Identified {
        loop {
            match self.0.next().await {
                Some(Ok(connection)) => return connection,
                Some(Err(error)) => tracing::warn!(%error, "a connection cannot be accepted"),
                None => std::future::pending().await,
            }
        }
    }
}

async fn accept(listener: &TcpListener, reported: &mut Option<Instant>) -> Identified {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                // Small messages must not wait for each other; a socket that refuses the option still works.
                let _ = stream.set_nodelay(true);
                // Without one it is gone already.
                if let Ok(own) = stream.local_addr() {
                    let connection = Connection::new(stream).between(Ends { peer, own });
                    return (connection, PeerIdentity::unauthenticated(Some(peer)));
                }
            }
            // It was gone before it was accepted.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionRefused
                        | io::ErrorKind::ConnectionAborted
                        | io::ErrorKind::ConnectionReset
                ) => {}
            Err(error) => {
                if reported.is_none_or(|at| at.elapsed() >= REPORT_EVERY) {
                    tracing::warn!(%error, "connections cannot be accepted");
                    *reported = Some(Instant::now());
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
