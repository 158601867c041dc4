//! How clients reach the masters of a cluster: addresses, and the transports of connections.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use argosy_client::{Connector, ConnectorConfig, Masters};
use argosy_proto::transport::{Connection, Dialer, PeerIdentity};
use argosy_state::actor::PrincipalKind;
use argosy_testbed::certificates::ClusterCertificates;
use argosy_testbed::command_lines::MemberTransport;
use argosy_testbed::transport::ClientTransport;
use tokio::net::TcpSocket;

/// The addresses of emulated agents.
const HOSTS: u32 = 50_000;

/// The transports of a cluster: those of its masters, and those of clients by identity.
#[derive(Debug)]
pub(super) struct Transports {
    certificates: Option<ClusterCertificates>,
    /// That of operators and frameworks.
    pub(super) operator: ClientTransport,
    agent: ClientTransport,
}

impl Transports {
    pub(super) fn plaintext() -> Self {
        Self {
            certificates: None,
            operator: ClientTransport::default(),
            agent: ClientTransport::default(),
        }
    }

    /// Creates a CA below this directory, and certificates of clients.
    ///
    /// # Errors
    /// If they cannot be created.
    pub(super) fn tls(directory: &Path) -> Result<Self> {
        let certificates = ClusterCertificates::create(&directory.join("tls"))?;
        let operator = client(&certificates, PrincipalKind::Operator, "bench-operator")?;
        let files = certificates.issue(PrincipalKind::Agent, "bench-agent", None)?;
        let agent = ClientTransport::tls_over(&many_hosts(), &files.load()?);
        Ok(Self {
            certificates: Some(certificates),
            operator,
            agent,
        })
    }

    /// Returns that of a further operator with this name; `None` without TLS, where a caller has no
    /// name.
    ///
    /// # Errors
    /// If its certificate cannot be created.
    pub(super) fn of_operator(&self, name: &str) -> Result<Option<ClientTransport>> {
        let certificates = self.certificates.as_ref();
        let issue = |all| client(all, PrincipalKind::Operator, name);
        certificates.map(issue).transpose()
    }

    /// Returns that of a master with this Raft address.
    ///
    /// # Errors
    /// If its certificate cannot be created.
    pub(super) fn of_master(&self, name: &str, raft: &str) -> Result<MemberTransport> {
        let Some(certificates) = &self.certificates else {
            return Ok(MemberTransport::Plaintext);
        };
        let address: SocketAddr = raft.parse().context("the Raft address")?;
        let files = certificates.issue(PrincipalKind::Master, name, Some(address.ip()))?;
        Ok(MemberTransport::Tls(files))
    }
}

/// Returns a dialer whose connections have separate loopback addresses, as those of many hosts:
/// masters limit what one address may do.
fn many_hosts() -> Dialer {
    let next = Arc::new(AtomicU32::new(0));
    Dialer::new(move |address, _| {
        let number = next.fetch_add(1, Ordering::Relaxed) % HOSTS;
        let [.., high, low] = (number + 1).to_be_bytes();
        async move {
            let socket = TcpSocket::new_v4()?;
            socket.bind((Ipv4Addr::new(127, 80, high, low), 0).into())?;
            let address: SocketAddr = address.parse().map_err(std::io::Error::other)?;
            let stream = socket.connect(address).await?;
            stream.set_nodelay(true)?;
            let peer = PeerIdentity::unauthenticated(Some(address));
            Ok((Connection::new(stream), peer))
        }
    })
}

fn client(
    certificates: &ClusterCertificates,
    kind: PrincipalKind,
    name: &str,
) -> Result<ClientTransport> {
    let files = certificates.issue(kind, name, None)?;
    Ok(ClientTransport::tls(&files.load()?))
}

/// The masters of a cluster, for clients. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct MasterAccess {
    masters: Masters,
    operator: ClientTransport,
    agent: ClientTransport,
}

impl MasterAccess {
    pub(super) fn new(masters: Masters, transports: &Transports) -> Self {
        Self {
            masters,
            operator: transports.operator.clone(),
            agent: transports.agent.clone(),
        }
    }

    /// Returns the list of masters.
    pub(crate) fn masters(&self) -> &Masters {
        &self.masters
    }

    /// Returns the transport of operators and frameworks.
    pub(crate) fn operator(&self) -> &ClientTransport {
        &self.operator
    }

    /// Returns the settings of new connections of an operator or a framework, with a random seed.
    pub(crate) fn config(&self) -> ConnectorConfig {
        self.operator.connector()
    }

    /// Returns new connections of an operator.
    pub(crate) fn connector(&self) -> Connector {
        Connector::new(self.masters.clone(), self.config())
    }

    /// Returns new connections of an agent.
    pub(crate) fn agent_connector(&self) -> Connector {
        Connector::new(self.masters.clone(), self.agent.connector())
    }
}
