//! A dialer of TLS connections over a dialer of another transport.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use argosy_proto::transport::{
    Connection, Credential, Dialer, ExpectedPeer, IdentifiedConnection, PeerIdentity,
};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::PlaintextPolicy;
use crate::application::Application;
use crate::credentials::Credentials;
use crate::explanation;
use crate::peers::{hosts_of, identity_of};
use crate::request::key_hash;
use crate::store::CredentialStore;

/// The maximum time of a handshake. Callers that need an earlier answer have deadlines of their
/// own.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Returns a dialer whose connections speak this protocol inside of TLS. The peer must present a
/// certificate of the expected peer.
#[must_use]
pub fn dial(
    inner: Dialer,
    credentials: Arc<CredentialStore>,
    application: Application,
    plaintext: PlaintextPolicy,
) -> Dialer {
    let again = inner.clone();
    inner.with_handshake(move |connection, address, expected| {
        let (inner, credentials) = (again.clone(), credentials.current());
        async move {
            let shaken =
                shake_hands(connection, &address, &expected, (&credentials, application)).await;
            match shaken {
                Err(error) if plaintext == PlaintextPolicy::Accepted && has_no_tls(&error) => {
                    let connection = inner.dial(&address, &expected).await?;
                    Ok((connection, PeerIdentity::unauthenticated(None)))
                }
                shaken => shaken.map_err(|error| explanation::explained(error, &address)),
            }
        }
    })
}

/// Returns a dialer as [`dial`] does, without plaintext, and with credentials that do not change.
#[must_use]
pub fn dial_with(inner: Dialer, credentials: Arc<Credentials>, application: Application) -> Dialer {
    inner.with_handshake(move |connection, address, expected| {
        let credentials = credentials.clone();
        async move {
            let with = (&*credentials, application);
            let shaken = shake_hands(connection, &address, &expected, with).await;
            shaken.map_err(|error| explanation::explained(error, &address))
        }
    })
}

/// Returns whether the answer of a peer proves that it does not speak TLS. A slow peer, a rejected
/// certificate and a wrong certificate prove nothing.
fn has_no_tls(error: &io::Error) -> bool {
    let is_closed = matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
    );
    explanation::is_plaintext(error) || is_closed
}

async fn shake_hands(
    connection: Connection,
    address: &str,
    expected: &ExpectedPeer,
    (credentials, application): (&Credentials, Application),
) -> io::Result<IdentifiedConnection> {
    let config = credentials.client(application, expected.clone());
    let connector = TlsConnector::from(Arc::new(config));
    let connecting = connector.connect(server_name(address), connection);
    let connected = tokio::time::timeout(HANDSHAKE_TIMEOUT, connecting).await;
    let late = |_| {
        let text = format!("no TLS with {address}: its handshake was not complete in time");
        io::Error::new(io::ErrorKind::TimedOut, text)
    };
    let stream = connected
        .map_err(late)?
        .map_err(|error| closed(error, address))?;
    let (_, session) = stream.get_ref();
    if session.alpn_protocol() != Some(application.name()) {
        let text = format!("no TLS with {address}: it is no port of an Argosy process");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    let certificate = session.peer_certificates().and_then(<[_]>::first);
    let certificate =
        certificate.ok_or_else(|| io::Error::other(rustls::Error::NoCertificatesPresented))?;
    let identity = identity_of(certificate).map_err(io::Error::other)?;
    let key = key_hash(certificate).map_err(io::Error::other)?;
    let peer = PeerIdentity::authenticated(identity.principal, None);
    let peer = peer.with_credential(Credential::Key(key));
    // A master that another one dials is the member at that address.
    let peer = match application {
        Application::Raft => peer.with_hosts(hosts_of(certificate)),
        Application::Http2 | Application::Http1 => peer,
    };
    if !peer.may_be_at(address) {
        let text = format!(
            "no TLS with {address}: the certificate of {peer} is not for this host; issue it again with --host"
        );
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    let stream = ExplainedStream {
        stream,
        address: address.into(),
    };
    Ok((Connection::new(stream), peer))
}

/// Adds a sentence to the error of a connection that has ended during the handshake. The kind of
/// the error does not change.
fn closed(error: io::Error, address: &str) -> io::Error {
    if explanation::tls_error(&error).is_some() {
        return error;
    }
    let text = format!(
        "no TLS with {address}: it has ended the connection during the handshake ({error}); check its port, and whether it speaks TLS"
    );
    io::Error::new(error.kind(), text)
}

/// Returns the name by which a server can be chosen among several behind one address. The
/// certificate is not compared with it, so a name that TLS does not allow is replaced by an
/// address, which is never sent.
pub(crate) fn server_name(address: &str) -> ServerName<'static> {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let unnamed = || ServerName::from(std::net::IpAddr::from([0, 0, 0, 0]));
    ServerName::try_from(host.to_owned()).unwrap_or_else(|_| unnamed())
}

/// A stream that adds an explanation to alerts. The server verifies the client's certificate after
/// the client has completed its handshake, so a rejection is an error of the first read.
struct ExplainedStream {
    stream: TlsStream<Connection>,
    address: Arc<str>,
}

impl AsyncRead for ExplainedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        read.map_err(|error| explanation::explained(error, &self.address))
    }
}

impl AsyncWrite for ExplainedStream {
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
