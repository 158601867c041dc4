//! A listener of TLS connections on a listener of another transport.
//!
//! A connection is yielded when its handshake is complete, with the identity of the certificate
//! that was verified. Handshakes run in tasks, so a slow one delays no other, and each has a
//! deadline.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use argosy_proto::server::callers::AllowedCallers;
use argosy_proto::server::peer_network;
use argosy_proto::transport::{
    Connection, ConnectionAddresses, Credential, IdentifiedConnection, Listener, PeerIdentity,
};
use argosy_state::actor::{Principal, PrincipalKind, PrincipalName};
use futures::stream;
use metrics::counter;
use rustls::pki_types::CertificateDer;
use tokio::io::AsyncReadExt as _;
use tokio::runtime::Handle;
use tokio::task::{AbortHandle, Id, JoinSet};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

use crate::PlaintextPolicy;
use crate::application::{Application, PortKind};
use crate::explanation;
use crate::handshakes::HandshakeTable;
use crate::peers::{hosts_of, identity_of};
use crate::plaintext::{self, FirstBytes};
use crate::request::key_hash;
use crate::store::CredentialStore;

/// The maximum time from the accept of a connection to the end of its handshake.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// The number of bytes that are read to recognize the protocol: most first messages of TLS.
const FIRST_BYTES: usize = 2_048;
/// The name of the operator as which users of this host act.
const LOCAL_NAME: &str = "local";
/// The minimum interval between two log lines about rejected connections.
const REPORT_EVERY: Duration = Duration::from_secs(10);

/// The clients without a certificate that an API accepts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AnonymousClients {
    /// All that reach the port.
    All,
    /// Those that the kernel identifies as these users of this host. They act as `operator/local`.
    Local(AllowedCallers),
    /// None.
    None,
}

impl AnonymousClients {
    fn accept(&self, addresses: Option<ConnectionAddresses>) -> bool {
        match self {
            Self::All => true,
            Self::Local(users) => users.accept(addresses),
            Self::None => false,
        }
    }
}

/// The settings of one TLS port.
#[derive(Debug, Clone)]
pub struct TlsPort {
    /// The name of the port, for logs and metrics.
    pub name: &'static str,
    /// Which peers and protocols it accepts.
    pub kind: PortKind,
    /// Whether it accepts plaintext too. Such a peer has no identity.
    pub plaintext: PlaintextPolicy,
    /// The clients without a certificate that it accepts, if it is an API.
    pub anonymous: AnonymousClients,
    /// The maximum number of incomplete handshakes. Further connections wait, or end one of an
    /// address that has many, or one that is old.
    pub handshakes: usize,
}

/// The reason for which a connection is not yielded.
#[derive(Debug, thiserror::Error)]
enum HandshakeError {
    #[error("it has sent nothing")]
    Silent,
    #[error("it speaks plaintext, and this port needs TLS")]
    Plaintext,
    #[error("its handshake was not complete in time")]
    Late,
    #[error("this process has no certificate")]
    NoCertificate,
    #[error("{}", explanation::tls_error(.0).map_or_else(|| .0.to_string(), explanation::of_peer))]
    Failed(io::Error),
}

impl HandshakeError {
    /// Returns the reason in metrics; `None` for a peer that has only tested whether the port is
    /// open.
    fn reason(&self) -> Option<&'static str> {
        match self {
            Self::Silent => None,
            Self::Plaintext => Some("plaintext"),
            Self::Late => Some("handshake-late"),
            Self::NoCertificate | Self::Failed(_) => Some("handshake"),
        }
    }
}

/// Returns a listener of the connections whose handshakes are complete. Handshakes run on
/// `runtime`, which need not be that of the listener: their computations then delay nothing there.
#[must_use]
pub fn listen(
    inner: Listener,
    credentials: Arc<CredentialStore>,
    port: TlsPort,
    runtime: Handle,
) -> Listener {
    let accepting = TlsListener {
        inner,
        credentials,
        table: HandshakeTable::new(port.handshakes),
        port,
        runtime,
        ids: HashMap::new(),
        aborts: HashMap::new(),
        tasks: JoinSet::new(),
        reports: Reports::default(),
    };
    Listener::new(stream::unfold(accepting, async |mut accepting| {
        let connection = accepting.next().await;
        Some((Ok(connection), accepting))
    }))
}

struct TlsListener {
    inner: Listener,
    credentials: Arc<CredentialStore>,
    port: TlsPort,
    runtime: Handle,
    table: HandshakeTable,
    /// The handshakes of the tasks, by the numbers in the table.
    ids: HashMap<Id, u64>,
    aborts: HashMap<u64, AbortHandle>,
    // Bounded by the table, which also counts complete handshakes that are not yielded yet. One
    // task for each, so that a processor can compute several, and all end with the listener.
    tasks: JoinSet<Result<IdentifiedConnection, (PeerIdentity, HandshakeError)>>,
    reports: Reports,
}

impl TlsListener {
    async fn next(&mut self) -> IdentifiedConnection {
        loop {
            let wait = self.table.wait_until(Instant::now());
            let ended = tokio::select! {
                Some(ended) = self.tasks.join_next_with_id() => ended,
                connection = self.inner.accept(), if wait.is_none() => {
                    self.begin(connection);
                    continue;
                }
                () = sleep_until(wait), if wait.is_some() => continue,
            };
            match ended {
                Ok((task, result)) => {
                    self.end(task);
                    match result {
                        Ok(connection) => return connection,
                        Err((peer, error)) => self.reports.report(self.port.name, &peer, &error),
                    }
                }
                // It was evicted.
                Err(error) => self.end(error.id()),
            }
        }
    }

    fn begin(&mut self, (connection, peer): IdentifiedConnection) {
        let address = peer.address().map(|address| peer_network(address.ip()));
        let begun = self.table.begin(address, Instant::now());
        if let Some(evicted) = begun.evicted
            && let Some(task) = self.aborts.remove(&evicted)
        {
            task.abort();
            let port = self.port.name;
            counter!("argosy_connections_refused_total", "port" => port, "reason" => "handshakes")
                .increment(1);
        }
        let (credentials, port) = (self.credentials.clone(), self.port.clone());
        let handshake = async move {
            let shaking = shake_hands(connection, &peer, &credentials, &port);
            let shaken = tokio::time::timeout(HANDSHAKE_TIMEOUT, shaking).await;
            let shaken = shaken.unwrap_or(Err(HandshakeError::Late));
            shaken.map_err(|error| (peer, error))
        };
        let task = self.tasks.spawn_on(handshake, &self.runtime);
        self.ids.insert(task.id(), begun.id);
        self.aborts.insert(begun.id, task);
    }

    fn end(&mut self, task: Id) {
        if let Some(id) = self.ids.remove(&task) {
            self.table.end(id);
            self.aborts.remove(&id);
        }
    }
}

/// Waits until this time, or forever.
async fn sleep_until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

async fn shake_hands(
    mut connection: Connection,
    peer: &PeerIdentity,
    credentials: &CredentialStore,
    port: &TlsPort,
) -> Result<IdentifiedConnection, HandshakeError> {
    let addresses = connection.addresses();
    let kind = match port.kind {
        PortKind::Api if !port.anonymous.accept(addresses) => PortKind::ClosedApi,
        kind => kind,
    };
    let mut first = Vec::with_capacity(FIRST_BYTES);
    let read = connection.read_buf(&mut first).await;
    if read.map_err(HandshakeError::Failed)? == 0 {
        return Err(HandshakeError::Silent);
    }
    let protocol = FirstBytes::of(&first);
    let again = connection.with_prefix(first);
    match (protocol, port.plaintext) {
        (FirstBytes::Tls, _) => {}
        // A plaintext connection has no certificate.
        (_, PlaintextPolicy::Accepted) if kind != PortKind::ClosedApi => {
            return Ok((again, peer.clone()));
        }
        (protocol, _) => {
            plaintext::reject(again, protocol).await;
            return Err(HandshakeError::Plaintext);
        }
    }
    let config = credentials.current().server(kind);
    let config = config.ok_or(HandshakeError::NoCertificate)?;
    let accepting = TlsAcceptor::from(config).accept(again).into_fallible();
    let stream = match accepting.await {
        Ok(stream) => stream,
        Err((error, connection)) => {
            // The peer reads the alert after its own last messages.
            plaintext::close(connection).await;
            return Err(HandshakeError::Failed(error));
        }
    };
    let (_, session) = stream.get_ref();
    let spoken = session.alpn_protocol();
    if kind == PortKind::Raft && spoken != Some(Application::Raft.name()) {
        let error = rustls::Error::NoApplicationProtocol;
        return Err(HandshakeError::Failed(io::Error::other(error)));
    }
    let certificate = session.peer_certificates().and_then(<[_]>::first);
    let identity = match (certificate, &port.anonymous) {
        // The kernel has identified one of these users of this host.
        (None, AnonymousClients::Local(_)) if kind == PortKind::Api => {
            PeerIdentity::authenticated(local_operator(), peer.address())
        }
        _ => identified(certificate, peer, kind).map_err(HandshakeError::Failed)?,
    };
    let connection = Connection::new(stream);
    let connection = match addresses {
        Some(addresses) => connection.with_addresses(addresses),
        None => connection,
    };
    Ok((connection, identity))
}

/// Returns the identity of the users of this host that an API accepts without a certificate: they
/// could read the key of the server.
fn local_operator() -> Principal {
    let name = PrincipalName::new(LOCAL_NAME).expect("it is a valid name");
    let kind = PrincipalKind::Operator;
    Principal { kind, name }
}

/// Returns the identity of a peer by its certificate, which was verified.
fn identified(
    certificate: Option<&CertificateDer<'_>>,
    peer: &PeerIdentity,
    port: PortKind,
) -> io::Result<PeerIdentity> {
    let address = peer.address();
    let Some(certificate) = certificate else {
        return Ok(PeerIdentity::unauthenticated(address).over_tls());
    };
    let identity = identity_of(certificate).map_err(io::Error::other)?;
    let peer = PeerIdentity::authenticated(identity.principal, address);
    let key = key_hash(certificate).map_err(io::Error::other)?;
    let peer = peer.with_credential(Credential::Key(key));
    match port {
        PortKind::Api | PortKind::ClosedApi => Ok(peer),
        // Masters are the members at the addresses of the group.
        PortKind::Raft => Ok(peer.with_hosts(hosts_of(certificate))),
    }
}

/// A rate limit of log lines about rejected connections.
#[derive(Default)]
struct Reports {
    last: Option<Instant>,
    since: u64,
}

impl Reports {
    fn report(&mut self, port: &'static str, peer: &PeerIdentity, error: &HandshakeError) {
        debug!(port, %peer, %error, "a connection is rejected before its first request");
        let Some(reason) = error.reason() else {
            return;
        };
        counter!("argosy_connections_refused_total", "port" => port, "reason" => reason)
            .increment(1);
        self.since += 1;
        let now = Instant::now();
        if self.last.is_some_and(|last| now - last < REPORT_EVERY) {
            return;
        }
        warn!(
            port,
            %peer,
            %error,
            count = self.since,
            "connections are rejected before their first request; this is the newest"
        );
        self.last = Some(now);
        self.since = 0;
    }
}
