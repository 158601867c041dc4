//! The certificate, key and CA certificates of a process, read at one time.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use argosy_proto::transport::certificate_identity::{CertificateIdentity, ClusterName};
use argosy_proto::transport::{ExpectedPeer, PeerIdentity};
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::application::{Application, PortKind};
use crate::description;
use crate::explanation;
use crate::peers::{ClientVerifier, ServerVerifier, hosts_of, identity_of};

/// The maximum size of a file of certificates or keys, in bytes.
const FILE_BYTES: u64 = 1 << 20;
/// The permissions that a file with a secret must not have: other users may not read it, and
/// neither they nor its group may write to it.
const OPEN_TO_OTHERS: u32 = 0o026;

/// The files from which a process takes its credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialFiles {
    /// The certificate and key of the process. A client may have none.
    pub own: Option<OwnFiles>,
    /// The trusted CA certificates, in PEM.
    pub ca: PathBuf,
}

/// The files of one certificate, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnFiles {
    /// The certificate, followed by those of intermediate CAs.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// The reason for which files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// A file cannot be read.
    #[error("cannot read {path}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file is too large to be one of certificates.
    #[error("{path} is larger than 1 MiB; name a file with certificates or a key in PEM", path = .0.display())]
    Large(PathBuf),
    /// Other users of the host can read a key or a token, or write another one.
    #[error("other users of this host can read {path}, or write to it; run: chmod g-w,o= {path}", path = .0.display())]
    Exposed(PathBuf),
    /// The content of a file is not as expected.
    #[error("{path} contains no {what} in PEM", path = path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What was expected.
        what: &'static str,
        /// The cause.
        source: pem::Error,
    },
    /// A file of certificates contains none.
    #[error("{path} contains no certificate", path = .0.display())]
    Empty(PathBuf),
    /// A certificate cannot be used.
    #[error("cannot use {path}: {why}", path = path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// The reason, with the remedy.
        why: String,
    },
    /// Files of another identity have replaced those of a running process.
    #[error("{path} is for {found}, but this process runs as {own}; restart it to change its identity", path = path.display())]
    Identity {
        /// The file.
        path: PathBuf,
        /// The identity in the file.
        found: CertificateIdentity,
        /// The identity of the process.
        own: CertificateIdentity,
    },
}

/// The credentials of a process.
pub struct Credentials {
    own: Option<OwnCredentials>,
    /// The cluster of the peers. A client without a certificate may not know it.
    cluster: Option<ClusterName>,
    anchors: Vec<CertificateDer<'static>>,
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

struct OwnCredentials {
    identity: CertificateIdentity,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    pair: Arc<SingleCertAndKey>,
    api: Arc<ServerConfig>,
    closed_api: Arc<ServerConfig>,
    raft: Arc<ServerConfig>,
}

impl Credentials {
    /// Reads the files. The own certificate must be valid now for a trusted CA, so that an error
    /// in the files is found at the start.
    ///
    /// # Errors
    /// [`CredentialError`].
    pub fn read(files: &CredentialFiles, now: UnixTime) -> Result<Self, CredentialError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let anchors = certificates(&files.ca)?;
        let mut roots = RootCertStore::empty();
        for anchor in &anchors {
            let added = roots.add(anchor.clone());
            added.map_err(|error| unusable(&files.ca, &error))?;
        }
        let roots = Arc::new(roots);
        let clients = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
            .build()
            .map_err(|error| CredentialError::Unusable {
                path: files.ca.clone(),
                why: error.to_string(),
            })?;
        let own = files.own.as_ref();
        let own = own
            .map(|files| own_credentials(files, &provider, &clients, now))
            .transpose()?;
        Ok(Self {
            cluster: own.as_ref().map(|own| own.identity.cluster.clone()),
            own,
            anchors,
            roots,
            provider,
        })
    }

    /// Returns the credentials of a client without a certificate that accepts members of this
    /// cluster, whose certificates these CAs have signed. Each CA is a certificate in DER.
    ///
    /// # Errors
    /// A CA certificate cannot be used. The error is a message.
    pub fn of_cluster(authorities: &[Vec<u8>], cluster: ClusterName) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        let anchors = authorities.iter().map(|der| der.clone().into());
        let anchors: Vec<CertificateDer<'static>> = anchors.collect();
        for anchor in &anchors {
            let added = roots.add(anchor.clone());
            added.map_err(|error| explanation::of_own(&error))?;
        }
        Ok(Self {
            own: None,
            cluster: Some(cluster),
            anchors,
            roots: Arc::new(roots),
            provider: Arc::new(aws_lc_rs::default_provider()),
        })
    }

    /// Returns the CA certificates, in DER.
    #[must_use]
    pub fn authorities(&self) -> &[CertificateDer<'static>] {
        &self.anchors
    }

    /// Returns the identity of this process, if it has a certificate.
    #[must_use]
    pub fn identity(&self) -> Option<&CertificateIdentity> {
        self.own.as_ref().map(|own| &own.identity)
    }

    /// Returns the last second of the own certificate's validity, since 1970.
    #[must_use]
    pub fn not_after(&self) -> Option<i64> {
        let own = self.own.as_ref()?;
        description::end_of(own.chain.first()?)
    }

    /// Returns whether the own certificate names the host of an address, `host:port`.
    #[must_use]
    pub fn is_for(&self, address: &str) -> bool {
        let own = self.own.as_ref();
        own.is_some_and(|own| {
            let hosts = own.chain.first().map(hosts_of).unwrap_or_default();
            let principal = own.identity.principal.clone();
            let peer = PeerIdentity::authenticated(principal, None);
            peer.with_hosts(hosts).may_be_at(address)
        })
    }

    /// Returns whether the files of both have the same content.
    pub(crate) fn has_content_of(&self, other: &Self) -> bool {
        let own = |of: &Self| {
            let own = of.own.as_ref();
            own.map(|own| (own.chain.clone(), own.key.secret_der().to_vec()))
        };
        self.anchors == other.anchors && own(self) == own(other)
    }

    /// Returns the settings of a server at this kind of port; `None` without a certificate.
    #[must_use]
    pub fn server(&self, port: PortKind) -> Option<Arc<ServerConfig>> {
        let own = self.own.as_ref()?;
        Some(match port {
            PortKind::Api => own.api.clone(),
            PortKind::ClosedApi => own.closed_api.clone(),
            PortKind::Raft => own.raft.clone(),
        })
    }

    /// Returns the settings of a client that expects this peer.
    #[must_use]
    pub fn client(&self, application: Application, expected: ExpectedPeer) -> ClientConfig {
        let verifier = ServerVerifier {
            roots: self.roots.clone(),
            provider: self.provider.clone(),
            cluster: self.cluster.clone(),
            expected,
        };
        let builder = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&TLS13])
            .expect("the provider has suites of TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match &self.own {
            Some(own) => builder.with_client_cert_resolver(own.pair.clone()),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![application.name().to_vec()];
        config.resumption = Resumption::disabled();
        config.enable_early_data = false;
        config
    }
}

/// Writes no key.
impl std::fmt::Debug for Credentials {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Credentials")
            .field("identity", &self.identity())
            .finish_non_exhaustive()
    }
}

fn own_credentials(
    files: &OwnFiles,
    provider: &Arc<CryptoProvider>,
    clients: &Arc<dyn ClientCertVerifier>,
    now: UnixTime,
) -> Result<OwnCredentials, CredentialError> {
    let chain = certificates(&files.certificate)?;
    let empty = || CredentialError::Empty(files.certificate.clone());
    let (certificate, intermediates) = chain.split_first().ok_or_else(empty)?;
    let pem = |source| CredentialError::Pem {
        path: files.key.clone(),
        what: "private key",
        source,
    };
    let key = PrivateKeyDer::from_pem_slice(&read_key(&files.key)?).map_err(pem)?;
    let certified = clients.verify_client_cert(certificate, intermediates, now);
    let identity = certified.and_then(|_| identity_of(certificate));
    let identity = identity.map_err(|error| unusable(&files.certificate, &error))?;
    let pair = CertifiedKey::from_der(chain.clone(), key.clone_key(), provider);
    let pair = pair.map_err(|error| unusable(&files.key, &error))?;
    let pair = Arc::new(SingleCertAndKey::from(pair));
    let verifier = |port| ClientVerifier {
        signatures: clients.clone(),
        cluster: identity.cluster.clone(),
        port,
    };
    Ok(OwnCredentials {
        api: server(&pair, provider, verifier(PortKind::Api)),
        closed_api: server(&pair, provider, verifier(PortKind::ClosedApi)),
        raft: server(&pair, provider, verifier(PortKind::Raft)),
        identity,
        chain,
        key,
        pair,
    })
}

/// Returns the settings of a server. Sessions are not resumed: each connection presents and
/// verifies certificates again.
fn server(
    pair: &Arc<SingleCertAndKey>,
    provider: &Arc<CryptoProvider>,
    verifier: ClientVerifier,
) -> Arc<ServerConfig> {
    let applications = verifier.port.applications().iter();
    let applications = applications.map(|one| one.name().to_vec()).collect();
    let mut config = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has suites of TLS 1.3")
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(pair.clone());
    config.alpn_protocols = applications;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Arc::new(config)
}

fn unusable(path: &Path, error: &rustls::Error) -> CredentialError {
    CredentialError::Unusable {
        path: path.to_owned(),
        why: explanation::of_own(error),
    }
}

/// Reads a file of certificates.
///
/// # Errors
/// [`CredentialError::Read`] and [`CredentialError::Large`].
pub fn read_certificates(path: &Path) -> Result<Vec<u8>, CredentialError> {
    content(path, 0)
}

/// Reads the file of a private key, or of a token.
///
/// # Errors
/// As [`read_certificates`], and [`CredentialError::Exposed`].
pub fn read_key(path: &Path) -> Result<Vec<u8>, CredentialError> {
    content(path, OPEN_TO_OTHERS)
}

/// Returns the certificates of a file, at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, CredentialError> {
    let pem = read_certificates(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let found = found.map_err(|source| CredentialError::Pem {
        path: path.to_owned(),
        what: "certificate",
        source,
    })?;
    if found.is_empty() {
        return Err(CredentialError::Empty(path.to_owned()));
    }
    Ok(found)
}

/// Reads a file, unless others have one of these permissions on it.
fn content(path: &Path, forbidden: u32) -> Result<Vec<u8>, CredentialError> {
    let failed = |source| CredentialError::Read {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.permissions().mode();
    if mode & forbidden != 0 {
        return Err(CredentialError::Exposed(path.to_owned()));
    }
    let mut bytes = Vec::new();
    let read = file.take(FILE_BYTES + 1).read_to_end(&mut bytes);
    if read.map_err(failed)? as u64 > FILE_BYTES {
        return Err(CredentialError::Large(path.to_owned()));
    }
    Ok(bytes)
}
