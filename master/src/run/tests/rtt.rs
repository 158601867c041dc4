//! Three masters in this process, of which one is far away: its raft connections have a high
//! latency.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use argosy_proto::clock::WallClock;
use argosy_proto::transport::{Connection, Dialer, PeerIdentity};
use argosy_proto::v1;
use argosy_proto::v1::operator_client::OperatorClient;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use super::*;

/// One-way latency. Twice that is longer than a heartbeat may take, and shorter than an election.
const FAR: Duration = Duration::from_millis(100);
/// No master is far away.
const NO_MASTER: usize = usize::MAX;
/// Chunks in flight; the sender waits for more room.
const UNDER_WAY: usize = 256;

pub(super) struct TestMasters {
    pub(super) api: Vec<String>,
    pub(super) raft: Vec<String>,
    far: Arc<AtomicUsize>,
    stop: CancellationToken,
    /// One for each master.
    stops: Vec<CancellationToken>,
    running: Vec<JoinHandle<Result<(), MasterError>>>,
}

impl TestMasters {
    pub(super) async fn start() -> Self {
        Self::start_timed(Timing::testing()).await
    }

    pub(super) async fn start_timed(timing: Timing) -> Self {
        let far = Arc::new(AtomicUsize::new(NO_MASTER));
        let stop = CancellationToken::new();
        let mut sockets = Vec::new();
        for _ in 0..3 {
            let api = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let raft = TcpListener::bind("127.0.0.1:0").await.unwrap();
            sockets.push((api, raft));
        }
        let address = |socket: &TcpListener| socket.local_addr().unwrap().to_string();
        let api: Vec<String> = sockets.iter().map(|(api, _)| address(api)).collect();
        let raft: Vec<String> = sockets.iter().map(|(_, raft)| address(raft)).collect();
        let stops: Vec<_> = (0..3).map(|_| stop.child_token()).collect();
        let mut running = Vec::new();
        for (place, (api_socket, raft_socket)) in sockets.into_iter().enumerate() {
            let config = MasterConfig {
                peers: raft.clone(),
                timing,
                seed: place as u64,
                ..MasterConfig::new(Default::default(), api[place].clone(), raft[place].clone())
            };
            let parts = MasterParts {
                api: Listener::tcp(api_socket),
                raft: NodeEnvironment {
                    listener: Listener::tcp(raft_socket),
                    dialer: dialer(place, &raft, &far),
                    wall: WallClock::system(),
                },
                masters: dialer(place, &raft, &far),
                agents: Dialer::tcp(),
                raft_runtime: Handle::current(),
                readers: Handle::current(),
                memory: Some(MemoryStore::default()),
                metrics: None,
                entropy: [place as u8 + 1; 32],
                serving: None,
            };
            running.push(tokio::spawn(run(config, parts, stops[place].clone())));
        }
        Self {
            api,
            raft,
            far,
            stop,
            stops,
            running,
        }
    }

    /// Stops the master at `place`.
    pub(super) fn stop(&self, place: usize) {
        self.stops[place].cancel();
    }

    /// Returns the cluster as the master at `place` reports it, if it answers.
    pub(super) async fn seen(&self, place: usize) -> Option<v1::Cluster> {
        let address = format!("http://{}", self.api[place]);
        let endpoint = tonic::transport::Endpoint::from_shared(address).unwrap();
        let mut client = OperatorClient::new(endpoint.connect().await.ok()?);
        let mut request = tonic::Request::new(v1::GetClusterRequest {
            consistency: v1::Consistency::Local.into(),
        });
        request.set_timeout(Duration::from_secs(1));
        Some(client.get_cluster(request).await.ok()?.into_inner())
    }

    /// Waits for an active leader. Returns its index and its name.
    pub(super) async fn leader(&self) -> (usize, String) {
        let (place, seen) = self.active_leader().await;
        (place, seen.leader)
    }

    /// Returns the epoch of the active leader.
    pub(super) async fn epoch(&self) -> u64 {
        self.active_leader().await.1.epoch
    }

    async fn active_leader(&self) -> (usize, v1::Cluster) {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            for place in 0..self.api.len() {
                let seen = self.seen(place).await;
                let leads = |seen: &v1::Cluster| seen.epoch > 0 && seen.leader == seen.answered_by;
                if let Some(seen) = seen.filter(leads) {
                    return (place, seen);
                }
            }
            assert!(Instant::now() < deadline, "no master leads");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Writes continuously, a little at a time, through the master at `place`.
    fn load(&self, place: usize) -> tokio_util::task::AbortOnDropHandle<()> {
        let address = format!("http://{}", self.api[place]);
        let endpoint = tonic::transport::Endpoint::from_shared(address).unwrap();
        let client = OperatorClient::new(endpoint.connect_lazy());
        tokio_util::task::AbortOnDropHandle::new(tokio::spawn(async move {
            for weight_milli in 1_000.. {
                let weight = v1::SetWeight {
                    role: "ops".to_owned(),
                    weight_milli,
                };
                let operation = v1::write_operation::Operation::SetWeight(weight);
                let mut request = tonic::Request::new(v1::WriteBatch {
                    operations: vec![v1::WriteOperation {
                        operation: Some(operation),
                    }],
                    ..Default::default()
                });
                request.set_timeout(Duration::from_millis(500));
                // Rejected writes do not matter: they only keep the log busy.
                let _ = client.clone().write_one(request).await;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }))
    }

    pub(super) async fn end(self) {
        self.far.store(NO_MASTER, Ordering::Relaxed);
        self.stop.cancel();
        for master in self.running {
            master.await.unwrap().unwrap();
        }
    }
}

/// Returns the connections of the master at `own`: slow if it, or the peer, is far away.
fn dialer(own: usize, raft: &[String], far: &Arc<AtomicUsize>) -> Dialer {
    let (raft, far) = (raft.to_vec(), Arc::clone(far));
    Dialer::new(move |address, _| {
        let other = raft.iter().position(|raft| *raft == address);
        let far = Arc::clone(&far);
        let is_far = move || {
            let far = far.load(Ordering::Relaxed);
            far == own || Some(far) == other
        };
        async move {
            let socket = TcpStream::connect(address).await?;
            socket.set_nodelay(true)?;
            let (near, inner) = tokio::io::duplex(1 << 20);
            let (from_socket, to_socket) = socket.into_split();
            let (from_near, to_near) = tokio::io::split(inner);
            let away = is_far.clone();
            tokio::spawn(async move {
                // The end of either direction ends both, as when a process ends.
                tokio::select! {
                    _ = carry(from_near, to_socket, away) => {}
                    _ = carry(from_socket, to_near, is_far) => {}
                }
            });
            let peer = PeerIdentity::unauthenticated(None);
            Ok((Connection::new(near), peer))
        }
    })
}

async fn carry(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    is_far: impl Fn() -> bool,
) -> io::Result<()> {
    let (sender, mut under_way) = mpsc::channel::<(Instant, Vec<u8>)>(UNDER_WAY);
    let read = async move {
        let mut chunk = vec![0; 16 << 10];
        while let Ok(length @ 1..) = from.read(&mut chunk).await {
            let wait = if is_far() { FAR } else { Duration::ZERO };
            let chunk = (Instant::now() + wait, chunk[..length].to_vec());
            if sender.send(chunk).await.is_err() {
                return;
            }
        }
    };
    let write = async move {
        while let Some((arrives, bytes)) = under_way.recv().await {
            tokio::time::sleep_until(arrives).await;
            to.write_all(&bytes).await?;
        }
        Ok(())
    };
    tokio::join!(read, write).1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_with_too_high_latency_is_replaced_by_a_stable_one() {
    let masters = TestMasters::start().await;
    let (far, name) = masters.leader().await;
    masters.far.store(far, Ordering::Relaxed);
    let near = (far + 1) % 3;
    let _load = (masters.load(near), masters.load(near), masters.load(far));
    // This many consecutive reads see the same epoch of another master: a leader that repeatedly
    // loses and regains its lease opens one after the other.
    let (mut epoch_record, mut steady) = (0, 0);
    let deadline = Instant::now() + TIMEOUT;
    while steady < 20 {
        assert!(
            Instant::now() < deadline,
            "no epoch lasts; the newest is {epoch_record}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
        let Some(seen) = masters.seen(near).await else {
            continue;
        };
        let is_led = !seen.leader.is_empty() && seen.leader != name;
        steady = if seen.epoch == epoch_record && is_led {
            steady + 1
        } else {
            0
        };
        epoch_record = seen.epoch;
    }
    masters.end().await;
}
