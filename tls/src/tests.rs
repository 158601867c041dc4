//! Handshakes over loopback sockets, with certificates of a test CA.

mod bounds;
mod certificates;
mod issuing;
mod joining;
mod plaintext;
mod reloading;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use argosy_proto::transport::certificate_identity::ClusterName;
use argosy_proto::transport::{Connection, Dialer, ExpectedPeer, Listener, PeerIdentity};
use rustls::pki_types::UnixTime;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use crate::PlaintextPolicy;
use crate::application::{Application, PortKind};
use crate::authority::{self, Authority, NewAuthority, Validity};
use crate::credentials::{CredentialFiles, OwnFiles};
use crate::dialer;
use crate::listener::{self, AnonymousClients, TlsPort};
use crate::request::{self, CertificateNames, CertificateRequest};
use crate::store::CredentialStore;

/// The timeout of each wait, far above the time that any of them needs.
const TIMEOUT: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);
/// Certificates of the tests are valid for this number of days.
const DAYS: u16 = 30;

/// A certificate and its key in PEM.
struct Issued {
    certificate: String,
    key: String,
}

/// A CA and the directory of its files.
struct TestCa {
    directory: TempDir,
    new: NewAuthority,
    authority: Authority,
}

fn serial() -> authority::Serial {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let mut serial = [0; 16];
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    serial[8..].copy_from_slice(&next.to_be_bytes());
    serial
}

impl TestCa {
    fn new() -> Self {
        Self::of("prod")
    }

    /// Returns a CA that may have signed a certificate at any time in the tests.
    fn of(cluster: &str) -> Self {
        let begin = SystemTime::now() - DAY * 1_000;
        let validity = Validity::of_days(begin, 4_000);
        let cluster = ClusterName::new(cluster).unwrap();
        let new = authority::new_authority(&cluster, validity, serial()).unwrap();
        let authority =
            Authority::from_pem(new.certificate.as_bytes(), new.key.as_bytes()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("ca.crt"), &new.certificate).unwrap();
        Self {
            directory,
            new,
            authority,
        }
    }

    fn issue_at(&self, identity: &str, begin: SystemTime) -> Issued {
        let names = CertificateNames {
            identity: identity.parse().unwrap(),
            hosts: vec!["127.0.0.1".parse().unwrap()],
        };
        let made = request::new_request(&names).unwrap();
        let request = CertificateRequest::from_pem(made.request.as_bytes()).unwrap();
        let validity = Validity::of_days(begin, DAYS);
        Issued {
            certificate: self.authority.sign(&request, validity, serial()).unwrap(),
            key: made.key,
        }
    }

    fn issue(&self, identity: &str) -> Issued {
        self.issue_at(identity, SystemTime::now())
    }

    /// Writes the files of a process that trusts these CA certificates.
    fn files(&self, own: Option<&Issued>, trusted: &str) -> CredentialFiles {
        let name = u64::from_be_bytes(serial()[8..].try_into().unwrap());
        let path = |kind: &str| self.directory.path().join(format!("{name}.{kind}"));
        let files = CredentialFiles {
            own: own.map(|_| OwnFiles {
                certificate: path("crt"),
                key: path("key"),
            }),
            ca: path("ca"),
        };
        fs::write(&files.ca, trusted).unwrap();
        if let (Some(issued), Some(own)) = (own, &files.own) {
            fs::write(&own.certificate, &issued.certificate).unwrap();
            write_key(&own.key, &issued.key);
        }
        files
    }

    /// Returns the credentials of a process with a valid certificate.
    fn member(&self, identity: &str) -> Arc<CredentialStore> {
        let files = self.files(Some(&self.issue(identity)), &self.new.certificate);
        load(files)
    }

    /// Returns the credentials of a client without a certificate.
    fn anonymous(&self) -> Arc<CredentialStore> {
        load(self.files(None, &self.new.certificate))
    }
}

fn write_key(path: &Path, key: &str) {
    fs::write(path, key).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

fn load(files: CredentialFiles) -> Arc<CredentialStore> {
    Arc::new(CredentialStore::load(files, UnixTime::now()).unwrap())
}

/// Loads files at another time, at which their certificate is valid.
fn load_at(files: CredentialFiles, at: SystemTime) -> Arc<CredentialStore> {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let now = UnixTime::since_unix_epoch(since);
    Arc::new(CredentialStore::load(files, now).unwrap())
}

/// A server that returns the bytes of each accepted connection.
struct Echo {
    address: String,
    /// The peers of accepted connections.
    peers: Arc<Mutex<Vec<PeerIdentity>>>,
    _task: JoinSet<()>,
}

impl Echo {
    async fn start(
        credentials: Arc<CredentialStore>,
        kind: PortKind,
        plaintext: PlaintextPolicy,
    ) -> Self {
        let port = TlsPort {
            name: "test",
            kind,
            plaintext,
            anonymous: AnonymousClients::All,
            handshakes: 64,
        };
        Self::with(credentials, port).await
    }

    async fn with(credentials: Arc<CredentialStore>, port: TlsPort) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap().to_string();
        let inner = Listener::tcp(socket);
        let mut listener = listener::listen(inner, credentials, port, Handle::current());
        let peers = Arc::<Mutex<Vec<PeerIdentity>>>::default();
        let mut tasks = JoinSet::new();
        let accepted = peers.clone();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (connection, peer) = listener.accept().await;
                assert!(peer.address().is_some() && connection.addresses().is_some());
                accepted.lock().unwrap().push(peer);
                connections.spawn(echo(connection));
            }
        });
        Self {
            address,
            peers,
            _task: tasks,
        }
    }

    /// Takes the peers, as texts without addresses.
    fn take_peers(&self) -> Vec<String> {
        let peers = std::mem::take(&mut *self.peers.lock().unwrap());
        let names = peers.iter().map(|peer| peer.actor().to_string());
        names.collect()
    }

    fn last_peer(&self) -> PeerIdentity {
        self.peers.lock().unwrap().last().unwrap().clone()
    }
}

async fn echo(connection: Connection) {
    let (mut reads, mut writes) = tokio::io::split(connection);
    // The peer may end the connection at any time.
    let _ = tokio::io::copy(&mut reads, &mut writes).await;
}

/// A client of an API.
fn client(credentials: &Arc<CredentialStore>) -> Dialer {
    client_of(credentials, Application::Http2)
}

fn client_of(credentials: &Arc<CredentialStore>, application: Application) -> Dialer {
    let credentials = credentials.clone();
    dialer::dial(
        Dialer::tcp(),
        credentials,
        application,
        PlaintextPolicy::Rejected,
    )
}

/// Connects as a client that expects a master, and sends a byte forth and back.
async fn call(dialer: &Dialer, address: &str) -> Result<Connection, String> {
    call_expecting(dialer, address, &ExpectedPeer::MASTER).await
}

async fn call_expecting(
    dialer: &Dialer,
    address: &str,
    expected: &ExpectedPeer,
) -> Result<Connection, String> {
    let calling = async {
        let mut connection = dialer.dial(address, expected).await?;
        exchange(&mut connection).await?;
        Ok(connection)
    };
    let called: std::io::Result<Connection> = tokio::time::timeout(TIMEOUT, calling).await.unwrap();
    called.map_err(|error| error.to_string())
}

async fn exchange(connection: &mut Connection) -> std::io::Result<()> {
    connection.write_all(b"?").await?;
    connection.flush().await?;
    let mut answer = [0];
    connection.read_exact(&mut answer).await?;
    assert_eq!(&answer, b"?");
    Ok(())
}
