//! The transports of this program: TLS with the files that flags name, or plaintext.
//!
//! The crate `argosy_tls` decides which peers are accepted. Only this module wraps listeners and
//! dialers.

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use argosy_agent::{ClusterAuthorities, ClusterAuthoritySource};
use argosy_client::connector::ConnectorConfig;
use argosy_proto::http_client::HttpClient;
use argosy_proto::server::callers::AllowedCallers;
use argosy_proto::server::handshakes;
use argosy_proto::transport::certificate_identity::ClusterName;
use argosy_proto::transport::{Dialer, ExpectedPeer, Listener};
use argosy_state::access::TokenSecret;
use argosy_state::actor::PrincipalKind;
use argosy_tls::application::{Application, PortKind};
use argosy_tls::credentials::{CredentialFiles, Credentials, OwnFiles};
use argosy_tls::listener::{AnonymousClients, TlsPort};
use argosy_tls::store::{CredentialStore, follow_files};
use argosy_tls::{PlaintextPolicy, Time, dialer, listener};
use tokio::runtime::Handle;

use crate::args::{ClientTls, ServiceTls, TlsAnonymous, TlsMode};
use crate::exit::Failure;

/// Where the remedies are described.
const PAGE: &str = "docs/security.md describes how to create and replace certificates";

/// The transport of a master or agent.
#[derive(Debug, Clone)]
pub(crate) enum ServiceTransport {
    /// `--insecure-plaintext`.
    Plaintext,
    /// TLS.
    Tls(Tls),
}

/// Returns the newest CA certificates that a process trusts, in DER.
pub(crate) type TrustedAuthorities = Box<dyn Fn() -> Vec<Vec<u8>> + Send + Sync>;

/// TLS with the credentials of this process.
#[derive(Debug, Clone)]
pub(crate) struct Tls {
    credentials: Arc<CredentialStore>,
    plaintext: PlaintextPolicy,
    anonymous: AnonymousClients,
}

impl ServiceTransport {
    /// Reads the files of a process of this kind. `users` are those of `--api-user`.
    ///
    /// # Errors
    /// Neither TLS nor plaintext is chosen, or the files cannot be used.
    pub(crate) fn new(
        flags: &ServiceTls,
        kind: PrincipalKind,
        users: &[u32],
    ) -> Result<Self, Failure> {
        if flags.insecure_plaintext {
            return plaintext(flags);
        }
        let files = match (&flags.tls_cert, &flags.tls_key, &flags.tls_ca) {
            (None, None, None) => return Err(neither(kind)),
            (Some(certificate), Some(key), Some(ca)) => CredentialFiles {
                own: Some(OwnFiles {
                    certificate: certificate.clone(),
                    key: key.clone(),
                }),
                ca: ca.clone(),
            },
            (certificate, key, ca) => {
                return Err(incomplete(&[
                    ("--tls-cert", certificate.is_none()),
                    ("--tls-key", key.is_none()),
                    ("--tls-ca", ca.is_none()),
                ]));
            }
        };
        let credentials = load(files)?;
        let found = credentials.current();
        let identity = found.identity();
        if let Some(found) = identity.filter(|found| found.principal.kind != kind) {
            return Err(Failure::usage(format!(
                "--tls-cert: the certificate is of {found}, and this process is of the kind {kind}"
            ))
            .advise(format!("create one with argosy ca issue {kind}/NAME")));
        }
        Ok(Self::Tls(Tls {
            credentials,
            plaintext: match flags.tls {
                TlsMode::Required => PlaintextPolicy::Rejected,
                TlsMode::Optional => PlaintextPolicy::Accepted,
            },
            anonymous: match flags.tls_anonymous {
                TlsAnonymous::All => AnonymousClients::All,
                TlsAnonymous::Local => {
                    AnonymousClients::Local(AllowedCallers::users(users.iter().copied()))
                }
                TlsAnonymous::None => AnonymousClients::None,
            },
        }))
    }

    /// Checks that other masters will accept this master at its Raft address.
    pub(crate) fn check_raft_address(&self, address: &str) -> Result<(), Failure> {
        match self {
            Self::Tls(tls) if !tls.credentials.current().is_for(address) => {
                let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
                Err(Failure::usage(format!(
                    "--tls-cert: the certificate is not for the host of the Raft address {address}, so other masters would reject it"
                ))
                .advise(format!(
                    "create one with argosy ca issue master/NAME --host {host}, or name another address with --raft-advertise"
                )))
            }
            Self::Tls(_) | Self::Plaintext => Ok(()),
        }
    }

    /// Returns the connections of a port, whose handshakes run on `runtime`.
    pub(crate) fn listener(
        &self,
        inner: Listener,
        (name, kind): (&'static str, PortKind),
        runtime: Handle,
    ) -> Listener {
        let Self::Tls(tls) = self else {
            return inner;
        };
        let port = TlsPort {
            name,
            kind,
            plaintext: tls.plaintext,
            anonymous: tls.anonymous.clone(),
            handshakes: handshakes(),
        };
        listener::listen(inner, tls.credentials.clone(), port, runtime)
    }

    /// Returns whether every peer of a port proves its identity, or has none: plaintext is refused.
    pub(crate) fn proves_identities(&self) -> bool {
        match self {
            Self::Plaintext => false,
            Self::Tls(tls) => tls.plaintext == PlaintextPolicy::Rejected,
        }
    }

    /// Returns a dialer of connections that speak this protocol.
    pub(crate) fn dialer(&self, application: Application) -> Dialer {
        match self {
            Self::Plaintext => Dialer::tcp(),
            Self::Tls(tls) => {
                let credentials = tls.credentials.clone();
                dialer::dial(Dialer::tcp(), credentials, application, tls.plaintext)
            }
        }
    }

    /// Returns whether peers must use TLS. Then every member of the cluster is authenticated.
    pub(crate) fn is_required(&self) -> bool {
        match self {
            Self::Plaintext => false,
            Self::Tls(tls) => tls.plaintext == PlaintextPolicy::Rejected,
        }
    }

    /// Returns the cluster of this process, and a function for its newest trusted CAs; `None` if
    /// peers may use plaintext.
    pub(crate) fn authorities(&self) -> Option<(ClusterName, TrustedAuthorities)> {
        let Self::Tls(tls) = self else {
            return None;
        };
        if tls.plaintext == PlaintextPolicy::Accepted {
            return None;
        }
        let credentials = tls.credentials.clone();
        let cluster = credentials.current().identity()?.cluster.clone();
        let trusted = move || {
            let found = authorities_of(&credentials.current());
            found.map_or_else(Vec::new, |found| found.certificates)
        };
        Some((cluster, Box::new(trusted)))
    }

    /// Returns what proves to a process without certificate files that a server is a member of the
    /// cluster: always by the newest files.
    pub(crate) fn cluster(&self) -> ClusterAuthoritySource {
        match self {
            Self::Plaintext => ClusterAuthoritySource::none(),
            Self::Tls(tls) => {
                let credentials = tls.credentials.clone();
                ClusterAuthoritySource::new(move || authorities_of(&credentials.current()))
            }
        }
    }

    /// Returns the transport of this process as a client of the masters.
    pub(crate) fn client(&self) -> ClientTransport {
        ClientTransport {
            grpc: self.dialer(Application::Http2),
            http: self.dialer(Application::Http1),
            is_encrypted: match self {
                Self::Plaintext => false,
                Self::Tls(tls) => tls.plaintext == PlaintextPolicy::Rejected,
            },
        }
    }

    /// Logs the identity of this process, and uses changed files for new connections from now on,
    /// on the current runtime.
    pub(crate) fn begin(&self) {
        match self {
            Self::Plaintext => tracing::warn!(
                "--insecure-plaintext: nothing is encrypted or authenticated; every client that reaches a port can use it"
            ),
            Self::Tls(tls) => {
                let current = tls.credentials.current();
                let identity = current.identity().map(ToString::to_string);
                tracing::info!(identity, "TLS");
                if tls.plaintext == PlaintextPolicy::Accepted {
                    tracing::warn!(
                        "--tls optional: plaintext is accepted too, and no rule of access is enforced; start with --tls required once all processes use TLS"
                    );
                }
                // It ends with the runtime. The files are read for as long as the process runs.
                tokio::spawn(follow_files(tls.credentials.clone()));
            }
        }
    }
}

/// The transport of a client of the masters. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct ClientTransport {
    grpc: Dialer,
    http: Dialer,
    is_encrypted: bool,
}

impl ClientTransport {
    /// Returns one without TLS.
    pub(crate) fn plaintext() -> Self {
        Self {
            grpc: Dialer::tcp(),
            http: Dialer::tcp(),
            is_encrypted: false,
        }
    }

    /// Returns whether every connection uses TLS.
    pub(crate) fn is_encrypted(&self) -> bool {
        self.is_encrypted
    }

    /// Reads the files of a client. Without CA certificates, it speaks plaintext.
    pub(crate) fn new(flags: &ClientTls) -> Result<Self, Failure> {
        let own = match (&flags.tls_cert, &flags.tls_key) {
            (None, None) => None,
            (Some(certificate), Some(key)) => Some(OwnFiles {
                certificate: certificate.clone(),
                key: key.clone(),
            }),
            (certificate, key) => {
                return Err(incomplete(&[
                    ("--tls-cert", certificate.is_none()),
                    ("--tls-key", key.is_none()),
                ]));
            }
        };
        let ca: PathBuf = match (&flags.tls_ca, &own) {
            (Some(ca), _) => ca.clone(),
            (None, None) => return Ok(Self::plaintext()),
            (None, Some(_)) => return Err(incomplete(&[("--tls-ca", true)])),
        };
        let credentials = load(CredentialFiles { own, ca })?;
        let dialer = |application| {
            let plaintext = PlaintextPolicy::Rejected;
            dialer::dial(Dialer::tcp(), credentials.clone(), application, plaintext)
        };
        Ok(Self {
            grpc: dialer(Application::Http2),
            http: dialer(Application::Http1),
            is_encrypted: true,
        })
    }

    /// Returns the same transport for requests with this bearer token.
    pub(crate) fn with_token(self, token: &TokenSecret) -> Self {
        Self {
            grpc: self.grpc.with_token(token),
            http: self.http.with_token(token),
            is_encrypted: self.is_encrypted,
        }
    }

    /// Returns the settings of connections to masters.
    pub(crate) fn connector(&self) -> ConnectorConfig {
        ConnectorConfig {
            dialer: self.grpc.clone(),
            ..ConnectorConfig::default()
        }
    }

    /// Returns a client of HTTP/1.1; opening a connection may take as long as `connect_timeout`.
    pub(crate) fn http(&self, connect_timeout: Duration) -> HttpClient {
        HttpClient::new(self.http.clone(), connect_timeout)
    }
}

/// The largest size of CA certificates that are passed on, in bytes: they fit into a message.
const AUTHORITIES_BYTES: usize = 24 << 10;

/// Returns the trusted CAs, as many as fit into a message.
fn authorities_of(credentials: &Credentials) -> Option<ClusterAuthorities> {
    let mut bytes = 0;
    let authorities = credentials.authorities().iter();
    let authorities = authorities.take_while(|authority| {
        bytes += authority.len();
        bytes <= AUTHORITIES_BYTES
    });
    Some(ClusterAuthorities {
        cluster: credentials.identity()?.cluster.to_string(),
        certificates: authorities.map(|one| one.to_vec()).collect(),
    })
}

/// Adds TLS to a dialer, whose peers then are members of the cluster of these authorities.
///
/// # Errors
/// The authorities cannot be used. The error is a message.
pub(crate) fn cluster_tls(
    inner: Dialer,
    authorities: &ClusterAuthorities,
) -> Result<Dialer, String> {
    let cluster = ClusterName::new(&authorities.cluster).map_err(|error| error.to_string())?;
    let credentials = Credentials::of_cluster(&authorities.certificates, cluster)?;
    let credentials = Arc::new(credentials);
    Ok(dialer::dial_with(inner, credentials, Application::Http1))
}

/// The time for one master to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The peers that are expected at the addresses of masters and agents.
pub(crate) const MASTER: &ExpectedPeer = &ExpectedPeer::MASTER;
pub(crate) const AGENT: &ExpectedPeer = &ExpectedPeer::any(PrincipalKind::Agent);

/// Masters, for requests of HTTP/1.1: files and streams of tasks. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct HttpMasters {
    /// Their addresses.
    pub(crate) addresses: Vec<String>,
    /// The client for requests to one of them.
    pub(crate) http: HttpClient,
}

impl HttpMasters {
    pub(crate) fn new(addresses: Vec<String>, transport: &ClientTransport) -> Self {
        Self {
            addresses,
            http: transport.http(CONNECT_TIMEOUT),
        }
    }
}

fn load(files: CredentialFiles) -> Result<Arc<CredentialStore>, Failure> {
    let loaded = CredentialStore::load(files, Time::now());
    let loaded = loaded.map_err(|error| Failure::of(&error).advise(PAGE))?;
    Ok(Arc::new(loaded))
}

fn plaintext(flags: &ServiceTls) -> Result<ServiceTransport, Failure> {
    let files = [&flags.tls_cert, &flags.tls_key, &flags.tls_ca];
    if files.into_iter().any(Option::is_some)
        || flags.tls == TlsMode::Optional
        || flags.tls_anonymous != TlsAnonymous::All
    {
        return Err(Failure::usage(
            "--insecure-plaintext excludes --tls-cert, --tls-key, --tls-ca, --tls optional and --tls-anonymous",
        )
        .advise("omit it; while a cluster moves to TLS, use --tls optional"));
    }
    Ok(ServiceTransport::Plaintext)
}

fn neither(kind: PrincipalKind) -> Failure {
    Failure::usage(format!(
        "this {kind} has no certificate: without TLS, every client that reaches its port can run commands on every agent and read all output"
    ))
    .advise(format!(
        "create a certificate with argosy ca issue {kind}/NAME, and name --tls-cert, --tls-key and --tls-ca"
    ))
    .advise("in a trusted network, or for tests, use plaintext with --insecure-plaintext")
}

fn incomplete(flags: &[(&str, bool)]) -> Failure {
    let missing = flags.iter().filter(|(_, is_missing)| *is_missing);
    let missing: Vec<&str> = missing.map(|(flag, _)| *flag).collect();
    Failure::usage(format!("TLS also needs {}", missing.join(" and "))).advise(PAGE)
}
