//! Byte streams between processes: TCP, or a simulated transport.
//!
//! Addresses are texts. The transport reports the proven identity of a peer. It does not interpret
//! the content of a stream.

pub mod certificate_identity;
mod ending;
mod identity;
mod kept;
#[cfg(test)]
mod tests;

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use argosy_state::access::TokenSecret;
use argosy_state::actor::PrincipalKind;
use futures::stream::{self, BoxStream, Stream, StreamExt as _};
use http::HeaderValue;
use hyper_util::rt::TokioIo;
use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tonic::transport::Uri;
use tower::util::BoxCloneSyncService;

pub use identity::{Credential, ExpectedPeer, PeerIdentity};
pub use kept::KeptHandshakes;
use kept::UNUSED_FOR;

/// The pause after a failed accept, whose usual cause is that too many files are open. The system
/// keeps waiting connections.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The minimum interval between two log lines about failed accepts.
const REPORT_EVERY: Duration = Duration::from_secs(10);
/// The time after the end of an attempt to connect from which on no call has waited for it.
const UNNOTICED_FOR: Duration = Duration::from_millis(100);
/// The time without a packet after which the kernel probes whether the peer exists.
const KEEPALIVE_IDLE_SECONDS: u32 = 60;
/// The interval of probes.
const KEEPALIVE_INTERVAL_SECONDS: u32 = 15;
/// The number of unanswered probes after which the kernel ends the connection.
const KEEPALIVE_PROBES: u32 = 4;

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A stream of bytes in both directions.
pub struct Connection {
    stream: Box<dyn Duplex>,
    addresses: Option<ConnectionAddresses>,
    /// Bytes that are read before those of the stream.
    prefix: Vec<u8>,
}

impl Connection {
    /// Wraps any byte stream.
    pub fn new(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        Self {
            stream: Box::new(stream),
            addresses: None,
            prefix: Vec::new(),
        }
    }

    /// Returns the same connection with these bytes, which were read already, to be read again.
    #[must_use]
    pub fn with_prefix(self, first: Vec<u8>) -> Self {
        Self {
            prefix: first,
            ..self
        }
    }

    /// Returns the same connection between these addresses.
    #[must_use]
    pub fn with_addresses(self, addresses: ConnectionAddresses) -> Self {
        Self {
            addresses: Some(addresses),
            ..self
        }
    }

    /// Returns its addresses, if they are known.
    #[must_use]
    pub fn addresses(&self) -> Option<ConnectionAddresses> {
        self.addresses
    }
}

/// The two addresses of an incoming TCP connection; an extension of its requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionAddresses {
    /// The address of the peer.
    pub peer: SocketAddr,
    /// The local address of the connection.
    pub own: SocketAddr,
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.prefix.is_empty() {
            let count = self.prefix.len().min(buffer.remaining());
            let prefix: Vec<u8> = self.prefix.drain(..count).collect();
            buffer.put_slice(&prefix);
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

/// A connection, and the identity of its peer.
pub type IdentifiedConnection = (Connection, PeerIdentity);

type DialFuture = Pin<Box<dyn Future<Output = io::Result<IdentifiedConnection>> + Send>>;
type OpenStream = dyn Fn(String, ExpectedPeer) -> DialFuture + Send + Sync;
type ShakeHands = dyn Fn(Connection, String, ExpectedPeer) -> DialFuture + Send + Sync;

/// A dialer that opens byte streams to `host:port`. Cheap to clone.
#[derive(Clone)]
pub struct Dialer {
    open: Arc<OpenStream>,
    /// The handshake on an open stream; `None` for plaintext.
    handshake: Option<Arc<ShakeHands>>,
    /// The value of the header `authorization` of requests on its connections.
    authorization: Option<HeaderValue>,
}

impl Dialer {
    /// Returns a dialer of plain TCP, which proves no identity.
    #[must_use]
    pub fn tcp() -> Self {
        Self::new(|address, _| async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            // A socket that rejects an option still works.
            let _ = keep_alive(&stream);
            let peer = PeerIdentity::unauthenticated(stream.peer_addr().ok());
            Ok((Connection::new(stream), peer))
        })
    }

    /// Returns a dialer from a function that opens a stream to an address and identifies the peer.
    pub fn new<F, Fut>(dial: F) -> Self
    where
        F: Fn(String, ExpectedPeer) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = io::Result<IdentifiedConnection>> + Send + 'static,
    {
        let open = move |address, expected| -> DialFuture { Box::pin(dial(address, expected)) };
        Self {
            open: Arc::new(open),
            handshake: None,
            authorization: None,
        }
    }

    /// Returns a dialer that opens streams as `self` does, then makes this handshake, which
    /// identifies the peer.
    #[must_use]
    pub fn with_handshake<F, Fut>(self, shake_hands: F) -> Self
    where
        F: Fn(Connection, String, ExpectedPeer) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = io::Result<IdentifiedConnection>> + Send + 'static,
    {
        let handshake = move |connection, address, expected| -> DialFuture {
            Box::pin(shake_hands(connection, address, expected))
        };
        Self {
            handshake: Some(Arc::new(handshake)),
            ..self
        }
    }

    /// Returns the same dialer for requests with this bearer token. Only masters that prove their
    /// identity see it: any process that has it can act in its holder's place.
    #[must_use]
    pub fn with_token(self, token: &TokenSecret) -> Self {
        let value = HeaderValue::try_from(format!("Bearer {token}"));
        let mut value = value.expect("a token is plain ASCII");
        value.set_sensitive(true);
        Self {
            authorization: Some(value),
            ..self
        }
    }

    /// Returns the same dialer, whose connections pass this check first.
    #[must_use]
    pub fn with_check(
        self,
        check: impl Fn(IdentifiedConnection) -> io::Result<IdentifiedConnection> + Send + Sync + 'static,
    ) -> Self {
        let check = Arc::new(check);
        let authorization = self.authorization.clone();
        let checked = match self.handshake.clone() {
            Some(handshake) => self.with_handshake(move |connection, address, expected| {
                let (shaking, check) = (handshake(connection, address, expected), check.clone());
                async move { check(shaking.await?) }
            }),
            None => Self::new(move |address, expected| {
                let (opening, check) = ((self.open)(address, expected), check.clone());
                async move { check(opening.await?) }
            }),
        };
        Self {
            authorization,
            ..checked
        }
    }

    /// Returns the header `authorization` that requests to this peer have.
    #[must_use]
    pub fn authorization(&self, peer: &ExpectedPeer) -> Option<&HeaderValue> {
        let is_master = peer.kind == PrincipalKind::Master;
        self.authorization.as_ref().filter(|_| is_master)
    }

    /// Opens one stream.
    ///
    /// # Errors
    /// An error of the operating system; `ConnectionRefused` means that no process listens there.
    /// `PermissionDenied` if the peer has proven another identity than the expected one, or none
    /// and requests to it have a token.
    pub async fn dial(&self, address: &str, expected: &ExpectedPeer) -> io::Result<Connection> {
        let opened = (self.open)(address.to_owned(), expected.clone()).await?;
        let identified = match &self.handshake {
            Some(shake_hands) => {
                shake_hands(opened.0, address.to_owned(), expected.clone()).await?
            }
            None => opened,
        };
        self.admit(identified, address, expected)
    }

    /// Returns the connection to an expected peer.
    fn admit(
        &self,
        (connection, peer): IdentifiedConnection,
        address: &str,
        expected: &ExpectedPeer,
    ) -> io::Result<Connection> {
        expected.admit(&peer, address)?;
        if self.authorization(expected).is_some() && peer.principal().is_none() {
            let text = format!(
                "{address} has not proved its identity, so the token is not sent there: use TLS (--tls-ca)"
            );
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        }
        Ok(connection)
    }

    /// Returns a connector for a gRPC channel; each connection may take as long as `timeout`.
    pub fn connector(&self, timeout: Duration, expected: ExpectedPeer) -> GrpcConnector {
        let dialer = self.clone();
        connector(move |address| {
            let (dialer, expected) = (dialer.clone(), expected.clone());
            async move { within(timeout, || dialer.dial(&address, &expected)).await }
        })
    }

    /// Returns a connector whose streams are opened within `timeout`. A handshake takes as long as
    /// the dialer permits, also if no call waits for the connection any more: the next one to the
    /// address begins with it. So a busy peer does not compute it in vain.
    pub fn keeping_connector(
        &self,
        timeout: Duration,
        expected: ExpectedPeer,
        kept: KeptHandshakes,
    ) -> GrpcConnector {
        let dialer = self.clone();
        connector(move |address| {
            let (dialer, expected, kept) = (dialer.clone(), expected.clone(), kept.clone());
            async move {
                dialer
                    .dial_keeping(&address, &expected, (&kept, timeout))
                    .await
            }
        })
    }

    async fn dial_keeping(
        &self,
        address: &str,
        expected: &ExpectedPeer,
        (kept, timeout): (&KeptHandshakes, Duration),
    ) -> io::Result<Connection> {
        let Some(shake_hands) = &self.handshake else {
            return within(timeout, || self.dial(address, expected)).await;
        };
        let identified = loop {
            let (handshake, is_continued) = match kept.take(address) {
                Some(handshake) => (handshake, true),
                None => {
                    let open = || (self.open)(address.to_owned(), expected.clone());
                    let (opened, _) = within(timeout, open).await?;
                    let shaking = shake_hands(opened, address.to_owned(), expected.clone());
                    (kept.begin(address, shaking), false)
                }
            };
            match handshake.ended().await {
                (Ok(identified), age) if age < UNUSED_FOR => break identified,
                // One that failed while no call waited for it is no answer to this call.
                (Err(error), age) if !is_continued && age < UNNOTICED_FOR => return Err(error),
                (Ok(_) | Err(_), _) => {}
            }
        };
        self.admit(identified, address, expected)
    }
}

/// A connector for a gRPC channel.
pub type GrpcConnector = BoxCloneSyncService<Uri, TokioIo<Connection>, io::Error>;

fn connector<F, Fut>(dial: F) -> GrpcConnector
where
    F: Fn(String) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = io::Result<Connection>> + Send + 'static,
{
    BoxCloneSyncService::new(tower::service_fn(move |uri: Uri| {
        let dialing = dial(uri.authority().map(ToString::to_string).unwrap_or_default());
        async move { dialing.await.map(TokioIo::new) }
    }))
}

/// Opens a connection within `timeout`. A gRPC channel polls an attempt only while a call waits for
/// a connection. So the network may have changed since an attempt whose end came unnoticed, and its
/// peer may have closed the connection: the next call begins another one.
async fn within<T, Fut>(timeout: Duration, dial: impl Fn() -> Fut) -> io::Result<T>
where
    Fut: Future<Output = io::Result<T>>,
{
    loop {
        let end = Instant::now() + timeout;
        match tokio::time::timeout_at(end, dial()).await {
            _ if end.elapsed() >= UNNOTICED_FOR => {}
            Ok(dialed) => return dialed,
            Err(_) => {
                let error = "no connection in time";
                return Err(io::Error::new(io::ErrorKind::TimedOut, error));
            }
        }
    }
}

impl fmt::Debug for Dialer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Dialer")
    }
}

/// A source of incoming connections, each with the identity of its peer.
pub struct Listener(BoxStream<'static, io::Result<IdentifiedConnection>>);

impl Listener {
    /// Returns a listener of plain TCP, which proves no identity. It never ends: failed accepts are
    /// logged and skipped.
    #[must_use]
    pub fn tcp(listener: TcpListener) -> Self {
        let state = (listener, None);
        Self::new(stream::unfold(state, async |(listener, mut reported)| {
            let connection = accept(&listener, &mut reported).await;
            Some((Ok(connection), (listener, reported)))
        }))
    }

    /// Returns a listener from any stream of connections.
    pub fn new(
        connections: impl Stream<Item = io::Result<IdentifiedConnection>> + Send + 'static,
    ) -> Self {
        Self(connections.boxed())
    }

    /// Returns the next connection. Pending forever when the stream has ended.
    pub async fn accept(&mut self) -> IdentifiedConnection {
        loop {
            match self.0.next().await {
                Some(Ok(connection)) => return connection,
                Some(Err(error)) => tracing::warn!(%error, "cannot accept a connection"),
                None => std::future::pending().await,
            }
        }
    }
}

/// Enables keepalive: the kernel ends the connection when the host of its peer is gone.
///
/// There is no `TCP_USER_TIMEOUT`: it would also end the connection of a peer that exists and reads
/// nothing for a while, as the terminal of an exec session may.
fn keep_alive(stream: &TcpStream) -> nix::Result<()> {
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &KEEPALIVE_IDLE_SECONDS)?;
    setsockopt(
        stream,
        sockopt::TcpKeepInterval,
        &KEEPALIVE_INTERVAL_SECONDS,
    )?;
    setsockopt(stream, sockopt::TcpKeepCount, &KEEPALIVE_PROBES)
}

async fn accept(listener: &TcpListener, reported: &mut Option<Instant>) -> IdentifiedConnection {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                // Small messages must not wait for each other. A socket that rejects an option
                // still works.
                let _ = stream.set_nodelay(true);
                let _ = keep_alive(&stream);
                // Without a local address the connection is closed already.
                if let Ok(own) = stream.local_addr() {
                    let connection =
                        Connection::new(stream).with_addresses(ConnectionAddresses { peer, own });
                    return (connection, PeerIdentity::unauthenticated(Some(peer)));
                }
            }
            // The connection was closed before it was accepted.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionRefused
                        | io::ErrorKind::ConnectionAborted
                        | io::ErrorKind::ConnectionReset
                ) => {}
            Err(error) => {
                if reported.is_none_or(|at| at.elapsed() >= REPORT_EVERY) {
                    tracing::warn!(%error, "cannot accept connections");
                    *reported = Some(Instant::now());
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
