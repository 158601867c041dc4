//! Three masters on an in-memory network that proves identities: the actor of a call reaches the
//! log by way of any master.

use std::collections::BTreeMap;
use std::io;
use std::sync::Mutex;

use argosy_proto::clock::WallClock;
use argosy_proto::http_client::HttpClient;
use argosy_proto::transport::{
    Connection, Credential, Dialer, ExpectedPeer, IdentifiedConnection, PeerIdentity,
};
use argosy_proto::v1::agents_client::AgentsClient;
use argosy_proto::v1::operator_client::OperatorClient;
use argosy_proto::v1::scheduler_client::SchedulerClient;
use argosy_proto::{convert, v1};
use argosy_state::access::KeyHash;
use argosy_state::encode;
use argosy_state::testing::{framework_info, registration};
use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, split,
};
use tokio::time::Instant;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use super::*;
use crate::certificate_issuer::CertificateIssuer;
use crate::secret_keys::SecretKeys;

const MASTERS: usize = 3;
const PIPE_BYTES: usize = 1 << 20;
pub(super) const HEADER: &str = "argosy-forwarded-actor";

/// The bytes of the frame of a ping, which connections of raft send every second.
const PING_BYTES: usize = 17;

/// Addresses, and the processes that listen there.
#[derive(Clone, Default)]
struct TestNetwork {
    hosts: Arc<Mutex<BTreeMap<String, ListeningMaster>>>,
    /// The master whose raft requests to the others are delayed, as are theirs to it.
    held: watch::Sender<Option<usize>>,
    /// Whether that master has sent a request that is delayed now.
    waits: watch::Sender<bool>,
}

/// A listening process, and the channel for its connections.
type ListeningMaster = (PeerIdentity, mpsc::UnboundedSender<IdentifiedConnection>);

/// Whether the network proves the identities of both ends of its connections.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ConnectionProof {
    Authenticated,
    Unauthenticated,
}

/// Returns the key of the certificate of a principal.
pub(super) fn key_of(principal: &str) -> KeyHash {
    use sha2::Digest as _;
    KeyHash(sha2::Sha256::digest(principal).into())
}

impl ConnectionProof {
    fn of(self, principal: &str) -> PeerIdentity {
        match self {
            Self::Authenticated if !principal.is_empty() => {
                let peer = PeerIdentity::authenticated(principal.parse().unwrap(), None);
                peer.with_credential(Credential::Key(key_of(principal)))
            }
            Self::Authenticated => PeerIdentity::unauthenticated(None).over_tls(),
            Self::Unauthenticated => PeerIdentity::unauthenticated(None),
        }
    }
}

impl TestNetwork {
    fn listen(&self, address: &str, own: PeerIdentity) -> Listener {
        let (sender, connections) = mpsc::unbounded_channel();
        let mut hosts = self.hosts.lock().unwrap();
        hosts.insert(address.to_owned(), (own, sender));
        Listener::new(tokio_stream::StreamExt::map(
            UnboundedReceiverStream::new(connections),
            Ok,
        ))
    }

    fn dialer(&self, own: PeerIdentity) -> Dialer {
        let network = self.clone();
        Dialer::new(move |address, _| {
            let hosts = network.hosts.lock().unwrap();
            let dialed = hosts.get(&address).and_then(|(peer, listener)| {
                let (near, mut far) = tokio::io::duplex(PIPE_BYTES);
                if let Some(callee) = (0..MASTERS).find(|place| raft(*place) == address) {
                    far = network.holdable(far, &own, callee);
                }
                let far = (Connection::new(far), own.clone());
                listener.send(far).ok()?;
                Some((Connection::new(near), peer.clone()))
            });
            let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
            std::future::ready(dialed.ok_or_else(refused))
        })
    }

    /// Returns the other end of a pipe whose requests wait while the caller or the callee is held.
    fn holdable(&self, far: DuplexStream, caller: &PeerIdentity, callee: usize) -> DuplexStream {
        let (near, returned) = tokio::io::duplex(PIPE_BYTES);
        let is_of = |place: &usize| caller.to_string().contains(&format!("master/m{place}"));
        let caller = (0..MASTERS).find(is_of);
        let (requests, mut answers) = split(far);
        let (mut answered, requested) = split(near);
        let network = self.clone();
        tokio::spawn(async move {
            // The end of either direction ends both.
            tokio::select! {
                _ = network.carry(requests, requested, (caller, callee)) => {}
                _ = tokio::io::copy(&mut answered, &mut answers) => {}
            }
        });
        returned
    }

    async fn carry(
        &self,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
        (caller, callee): (Option<usize>, usize),
    ) -> io::Result<()> {
        let (mut held, mut bytes) = (self.held.subscribe(), vec![0; PIPE_BYTES]);
        loop {
            let read = from.read(&mut bytes).await?;
            if read == 0 {
                return Ok(());
            }
            let place = *held.borrow();
            if place.is_some() && place == caller && read > PING_BYTES {
                self.waits.send_replace(true);
            }
            let is_free = |place: &Option<usize>| {
                place.is_none_or(|place| Some(place) != caller && place != callee)
            };
            held.wait_for(is_free).await.map_err(io::Error::other)?;
            to.write_all(&bytes[..read]).await?;
        }
    }
}

pub(super) struct TestCluster {
    network: TestNetwork,
    proof: ConnectionProof,
    stores: Vec<MemoryStore>,
    stop: CancellationToken,
    running: Vec<JoinHandle<Result<(), MasterError>>>,
    /// Has a directory of each master.
    directory: tempfile::TempDir,
}

pub(super) fn api(place: usize) -> String {
    format!("m{place}:5050")
}

fn raft(place: usize) -> String {
    format!("m{place}:5052")
}

/// Returns the keys for secrets of all masters.
fn secret_keys() -> SecretKeys {
    SecretKeys::parse(&format!("k1:{}", "ab".repeat(32))).unwrap()
}

impl TestCluster {
    pub(super) fn start(proof: ConnectionProof) -> Self {
        Self::start_with(proof, |_| {})
    }

    /// Starts masters that enforce the rules of access.
    pub(super) fn start_enforcing() -> Self {
        Self::start_with(ConnectionProof::Authenticated, |config| {
            config.enforces_access = true;
        })
    }

    /// The same, without keys for secrets.
    pub(super) fn start_without_secret_keys() -> Self {
        Self::start_with(ConnectionProof::Authenticated, |config| {
            config.enforces_access = true;
            config.secret_keys = None;
        })
    }

    /// Starts masters that enforce the rules of access and issue certificates.
    pub(super) fn start_issuing(issuer: &CertificateIssuer) -> Self {
        Self::start_with(ConnectionProof::Authenticated, |config| {
            config.enforces_access = true;
            config.certificate_issuer = Some(issuer.clone());
        })
    }

    fn start_with(proof: ConnectionProof, adjust: impl Fn(&mut MasterConfig)) -> Self {
        let network = TestNetwork::default();
        let stop = CancellationToken::new();
        let (mut stores, mut running) = (Vec::new(), Vec::new());
        let directory = tempfile::tempdir().unwrap();
        for place in 0..MASTERS {
            let own = proof.of(&format!("master/m{place}"));
            let mut config = MasterConfig {
                peers: (0..MASTERS).map(raft).collect(),
                timing: Timing::wan(),
                seed: place as u64,
                audit_file_mib: 1,
                secret_keys: Some(Arc::new(secret_keys())),
                ..MasterConfig::new(directory.path().join(api(place)), api(place), raft(place))
            };
            adjust(&mut config);
            let store = MemoryStore::default();
            let parts = MasterParts {
                api: network.listen(&api(place), own.clone()),
                raft: NodeEnvironment {
                    listener: network.listen(&raft(place), own.clone()),
                    dialer: network.dialer(own.clone()),
                    wall: WallClock::system(),
                },
                masters: network.dialer(own.clone()),
                agents: network.dialer(own),
                raft_runtime: Handle::current(),
                readers: Handle::current(),
                memory: Some(store.clone()),
                metrics: None,
                entropy: [place as u8 + 1; 32],
                serving: None,
            };
            stores.push(store);
            running.push(tokio::spawn(run(config, parts, stop.clone())));
        }
        Self {
            network,
            proof,
            stores,
            stop,
            running,
            directory,
        }
    }

    /// Returns a connection of `principal` to the master at `place`.
    pub(super) fn channel(&self, principal: &str, place: usize) -> Channel {
        let dialer = self.network.dialer(self.proof.of(principal));
        let endpoint = Endpoint::from_shared(format!("http://{}", api(place))).unwrap();
        endpoint.connect_with_connector_lazy(dialer.connector(TIMEOUT, ExpectedPeer::MASTER))
    }

    /// Opens a connection of `principal` to the raft port of the master at `place`.
    pub(super) async fn raft_connection(&self, principal: &str, place: usize) -> Connection {
        let dialer = self.network.dialer(self.proof.of(principal));
        let dialed = dialer.dial(&raft(place), &ExpectedPeer::MASTER).await;
        dialed.unwrap()
    }

    /// Returns a client of HTTP/1.1 of `principal`, and the address of the master at `place`.
    pub(super) fn http(&self, principal: &str, place: usize) -> (HttpClient, String) {
        let dialer = self.network.dialer(self.proof.of(principal));
        (HttpClient::new(dialer, TIMEOUT), api(place))
    }

    /// Returns the connections to an address at which this principal is.
    pub(super) fn listen(&self, address: &str, principal: &str) -> Listener {
        self.network.listen(address, self.proof.of(principal))
    }

    /// Holds the requests of the master at `place` to the raft ports of the others, and theirs to
    /// its own port.
    pub(super) fn hold(&self, place: usize) -> HeldMaster<'_> {
        self.network.waits.send_replace(false);
        self.network.held.send_replace(Some(place));
        HeldMaster(&self.network)
    }

    /// Returns a master that leads and one that does not.
    pub(super) async fn places(&self) -> (usize, usize) {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            for place in 0..MASTERS {
                let mut client = OperatorClient::new(self.channel("operator/root", place));
                let consistency = v1::Consistency::Local.into();
                let asked = client.get_cluster(v1::GetClusterRequest { consistency });
                let asked = tokio::time::timeout(Duration::from_secs(1), asked);
                if let Ok(Ok(seen)) = asked.await
                    && let seen = seen.into_inner()
                    && seen.epoch > 0
                    && seen.leader == seen.answered_by
                {
                    return (place, (place + 1) % MASTERS);
                }
            }
            assert!(Instant::now() < deadline, "no master leads");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Returns the actors of the commands that `pick` selects, in the order of the log of the
    /// master at `place`.
    pub(super) fn asked(&self, place: usize, pick: impl Fn(&Command) -> bool) -> Vec<String> {
        let entries = (1..).map_while(|index| self.stores[place].entry(index));
        let commands = entries.flat_map(|entry| entry.commands);
        let read = commands.map(|bytes| encode::read_command(&bytes).unwrap());
        read.filter(|proposed| pick(&proposed.command))
            .map(|proposed| proposed.actor.to_string())
            .collect()
    }

    /// Returns the directory with those of the masters.
    pub(super) async fn end(self) -> tempfile::TempDir {
        self.stop.cancel();
        for master in self.running {
            master.await.unwrap().unwrap();
        }
        self.directory
    }
}

/// A master that lags until this is dropped.
pub(super) struct HeldMaster<'a>(&'a TestNetwork);

impl HeldMaster<'_> {
    /// Waits until a request of this master to another one waits.
    pub(super) async fn has_request(&self) {
        let mut waits = self.0.waits.subscribe();
        let waited = tokio::time::timeout(TIMEOUT, waits.wait_for(|waits| *waits));
        waited.await.unwrap().unwrap();
    }
}

impl Drop for HeldMaster<'_> {
    fn drop(&mut self) {
        self.0.held.send_replace(None);
    }
}

/// Sends an operator's change on a separate connection, with the given `headers`.
pub(super) async fn write(
    cluster: &TestCluster,
    (principal, place): (&str, usize),
    headers: &[(&'static str, &str)],
) -> Result<(), Status> {
    let weight = v1::SetWeight {
        role: "ops".to_owned(),
        weight_milli: 2_000,
    };
    let operation = v1::write_operation::Operation::SetWeight(weight);
    let mut request = Request::new(v1::WriteBatch {
        // A claim, which proves nothing.
        principal: "mallory".to_owned(),
        request_id: String::new(),
        operations: vec![v1::WriteOperation {
            operation: Some(operation),
        }],
    });
    for (name, value) in headers {
        request.metadata_mut().insert(*name, value.parse().unwrap());
    }
    let mut client = OperatorClient::new(cluster.channel(principal, place));
    let written = tokio::time::timeout(TIMEOUT, client.write_one(request));
    written.await.unwrap().map(drop)
}

pub(super) async fn subscribe(cluster: &TestCluster, principal: &str, place: usize) {
    let mut client = SchedulerClient::new(cluster.channel(principal, place));
    let request = v1::SubscribeRequest {
        protocol: protocol(),
        session: 7 + place as u64,
        info: Some(convert::framework_info(&framework_info("web"))),
        ..Default::default()
    };
    let mut events = client.subscribe(request).await.unwrap().into_inner();
    let first = tokio::time::timeout(TIMEOUT, events.message());
    let first = first.await.unwrap().unwrap().unwrap().event;
    assert!(
        matches!(first, Some(v1::event::Event::Subscribed(_))),
        "{first:?}"
    );
}

pub(super) async fn register(cluster: &TestCluster, principal: &str, place: usize) {
    drop(link(cluster, principal, place).await);
}

/// An agent's ends of its stream.
pub(super) type AgentEnds = (
    mpsc::UnboundedSender<v1::FromAgent>,
    tonic::Streaming<v1::ToAgent>,
);

/// Registers an agent. The stream stays open.
pub(super) async fn link(cluster: &TestCluster, principal: &str, place: usize) -> AgentEnds {
    let agent = (9 + place as u64, "cpus:4;mem:4096");
    link_agent(cluster, principal, place, agent).await
}

/// Links an agent with a nonce and resources.
pub(super) async fn link_agent(
    cluster: &TestCluster,
    principal: &str,
    place: usize,
    (nonce, resources): (u64, &str),
) -> AgentEnds {
    let registration = registration(nonce, resources);
    let hello = v1::Hello {
        protocol: protocol(),
        tried_incarnations: registration.tried,
        nonce: registration.nonce,
        boot_id: registration.boot_id,
        info: Some(convert::agent_info(&registration.info)),
        ..Default::default()
    };
    let hello = v1::FromAgent {
        message: Some(v1::from_agent::Message::Hello(hello)),
    };
    let (sender, messages) = mpsc::unbounded_channel();
    sender.send(hello).unwrap();
    let mut client = AgentsClient::new(cluster.channel(principal, place));
    let opened = client.connect(UnboundedReceiverStream::new(messages));
    let mut answers = opened.await.unwrap().into_inner();
    let first = tokio::time::timeout(TIMEOUT, answers.message());
    let first = first.await.unwrap().unwrap().unwrap().message;
    assert!(
        matches!(first, Some(v1::to_agent::Message::Registered(_))),
        "{first:?}"
    );
    (sender, answers)
}

pub(super) fn protocol() -> Option<v1::Protocol> {
    Some(argosy_proto::versions::VersionRange::OWN.first_message())
}

fn is_operate(command: &Command) -> bool {
    matches!(command, Command::Operate(_))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_names_the_actor_via_any_master() {
    let cluster = TestCluster::start(ConnectionProof::Authenticated);
    let (leader, follower) = cluster.places().await;
    for place in [leader, follower] {
        write(&cluster, ("operator/alice", place), &[])
            .await
            .unwrap();
        write(&cluster, ("", place), &[]).await.unwrap();
        subscribe(&cluster, "framework/web", place).await;
        register(&cluster, "agent/host-1", place).await;
    }
    let asked = |pick: fn(&Command) -> bool| cluster.asked(leader, pick);
    let both = ["operator/alice", "unauthenticated"];
    assert_eq!(asked(is_operate), both.repeat(2));
    let subscriptions = asked(|command| matches!(command, Command::Subscribe(_)));
    assert_eq!(subscriptions, ["framework/web"; 2]);
    let registrations = asked(|command| matches!(command, Command::RegisterAgent(_)));
    assert_eq!(registrations, ["agent/host-1"; 2]);
    let epochs = asked(|command| matches!(command, Command::OpenEpoch(_)));
    assert!(!epochs.is_empty() && epochs.iter().all(|who| who == "cluster"));
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn actor_named_by_a_client_is_rejected() {
    let cluster = TestCluster::start(ConnectionProof::Authenticated);
    let (leader, follower) = cluster.places().await;
    let forged = [("argosy-forwarded", "1"), (HEADER, "operator/bob")];
    for place in [leader, follower] {
        for principal in ["operator/alice", "framework/web", ""] {
            for headers in [&forged[..], &forged[1..]] {
                let written = write(&cluster, (principal, place), headers).await;
                let refused = written.unwrap_err();
                assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
                assert!(refused.message().contains("operator/bob"), "{refused}");
            }
        }
    }
    assert_eq!(cluster.asked(leader, is_operate), [""; 0]);
    // A master may name another actor.
    write(&cluster, ("master/m7", leader), &forged)
        .await
        .unwrap();
    assert_eq!(cluster.asked(leader, is_operate), ["operator/bob"]);
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_authentication_callers_are_anonymous() {
    let cluster = TestCluster::start(ConnectionProof::Unauthenticated);
    let (leader, follower) = cluster.places().await;
    for place in [leader, follower] {
        write(&cluster, ("operator/alice", place), &[])
            .await
            .unwrap();
        for named in ["operator/bob", "cluster", "master/m0"] {
            let refused = write(&cluster, ("", place), &[(HEADER, named)]).await;
            assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
        }
    }
    let asked = cluster.asked(leader, is_operate);
    assert_eq!(asked, ["unauthenticated"; 2]);
    cluster.end().await;
}
