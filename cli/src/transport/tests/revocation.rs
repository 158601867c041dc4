//! Three masters with TLS on their ports, and a master whose key is revoked.

use argosy_master::{MasterConfig, MasterError, MasterParts};
use argosy_proto::clock::WallClock;
use argosy_proto::transport::Connection;
use argosy_proto::v1;
use argosy_proto::v1::write_operation::Operation;
use argosy_raft::{MemoryStore, NodeEnvironment, Timing};
use argosy_tls::credentials::read_certificates;
use argosy_tls::request;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;

const TIMEOUT: Duration = Duration::from_secs(60);
/// The first bytes of an HTTP/2 client: its preface, and empty settings.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// A running master.
struct RunningMaster {
    api: String,
    raft: String,
    _task: JoinHandle<Result<(), MasterError>>,
}

fn transport(directory: &Path, name: &str) -> ServiceTransport {
    ServiceTransport::new(&flags(directory, name), PrincipalKind::Master, &[]).unwrap()
}

/// Starts masters with the certificates of `master/m1` to `master/m3`.
async fn start(directory: &Path, stop: &CancellationToken) -> Vec<RunningMaster> {
    let mut sockets = Vec::new();
    for _ in 0..3 {
        let api = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let raft = TcpListener::bind("127.0.0.1:0").await.unwrap();
        sockets.push((api, raft));
    }
    let address = |socket: &TcpListener| socket.local_addr().unwrap().to_string();
    let peers: Vec<_> = sockets.iter().map(|(_, raft)| address(raft)).collect();
    let mut running = Vec::new();
    for (place, (api, raft)) in (1..).zip(sockets) {
        let transport = transport(directory, &format!("master-m{place}"));
        let (api_address, raft_address) = (address(&api), address(&raft));
        let data = directory.join(format!("data-{place}"));
        let config = MasterConfig {
            peers: peers.clone(),
            timing: Timing::testing(),
            seed: place,
            ..MasterConfig::new(data, api_address.clone(), raft_address.clone())
        };
        let listener = |socket, port| {
            let handle = Handle::current();
            transport.listener(Listener::tcp(socket), port, handle)
        };
        let parts = MasterParts {
            api: listener(api, ("api", PortKind::Api)),
            raft: NodeEnvironment {
                listener: listener(raft, ("raft", PortKind::Raft)),
                dialer: transport.dialer(Application::Raft),
                wall: WallClock::system(),
            },
            masters: transport.dialer(Application::Http2),
            agents: transport.dialer(Application::Http1),
            raft_runtime: Handle::current(),
            readers: Handle::current(),
            memory: Some(MemoryStore::default()),
            metrics: None,
            entropy: [place as u8; 32],
            serving: None,
        };
        running.push(RunningMaster {
            api: api_address,
            raft: raft_address,
            _task: tokio::spawn(argosy_master::run(config, parts, stop.clone())),
        });
    }
    running
}

/// Opens a connection to a raft port, and returns it if it is answered.
async fn greeted(transport: &ServiceTransport, address: &str) -> Option<Connection> {
    let dialer = transport.dialer(Application::Raft);
    let mut connection = dialer.dial(address, MASTER).await.ok()?;
    // The port may have closed it already.
    let _ = connection.write_all(PREFACE).await;
    let mut first = [0; 9];
    let read = timeout(TIMEOUT, connection.read_exact(&mut first)).await;
    read.expect("it is answered or closed").ok()?;
    Some(connection)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn masters_with_a_revoked_key_are_refused_over_tls() {
    let place = place();
    for name in ["m2", "m3", "m4"] {
        let words = format!("issue master/{name} --host 127.0.0.1 --ca @/ca --dir @");
        place.run(&words).unwrap();
    }
    let directory = place.path("");
    let stop = CancellationToken::new();
    let masters = start(&directory, &stop).await;
    let addresses = masters.iter().map(|master| master.api.as_str());
    let addresses = Masters::new(addresses).unwrap();
    let alice = ClientTransport::new(&client_flags(&directory, Some("operator-alice"))).unwrap();
    let operator = ClusterClient::to(addresses, TIMEOUT, alice);
    let text = read_certificates(&directory.join("master-m3.crt")).unwrap();
    let certificate = request::first_certificate(&text).unwrap();
    let key_hash = request::key_hash(&certificate).unwrap().to_string();

    let (_, others) = masters.split_last().unwrap();
    let stolen = transport(&directory, "master-m3");
    let mut held = Vec::new();
    for other in others {
        held.push(greeted(&stolen, &other.raft).await.expect("it is a master"));
    }
    let revoke = Operation::RevokeKey(v1::RevokeKey { key_hash });
    operator.write(None, revoke).await.unwrap();
    for mut connection in held {
        let mut rest = Vec::new();
        // An error is an end, too.
        let read = timeout(TIMEOUT, connection.read_to_end(&mut rest)).await;
        let _ = read.expect("it is closed");
    }
    for other in others {
        assert!(greeted(&stolen, &other.raft).await.is_none());
        // A certificate of another key is accepted.
        let another = transport(&directory, "master-m4");
        assert!(greeted(&another, &other.raft).await.is_some());
    }
    // The others have a majority without it.
    let set = v1::SetWeight {
        role: "eng".to_owned(),
        weight_milli: 2_000,
    };
    let rest = others.iter().map(|master| master.api.as_str());
    let alice = ClientTransport::new(&client_flags(&directory, Some("operator-alice"))).unwrap();
    let operator = ClusterClient::to(Masters::new(rest).unwrap(), TIMEOUT, alice);
    operator
        .write(None, Operation::SetWeight(set))
        .await
        .unwrap();
    stop.cancel();
}
