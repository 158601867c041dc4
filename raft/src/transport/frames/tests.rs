//! Tests of frames over real and simulated connections, and with a peer that does not support them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use argosy_proto::transport::Dialer;
use openraft::network::{RPCOption, RaftNetworkFactory as _, RaftNetworkV2 as _};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::*;
use crate::log_size::LogRetention;
use crate::port::tests::TestPort;
use crate::settings::Timing;
use crate::transport::connections::{PeerConnections, Peers};
use crate::transport::member_addresses::MemberAddresses;
use crate::transport::network::{self, NetworkFactory, PeerNetwork};
use crate::transport::transfer_counts::TransferCounts;
use crate::transport::versions::{self, MasterVersions};
use crate::types::{LeaderId, Member, TypeConfig, Vote};

fn message() -> proto::Vote {
    proto::Vote {
        term: 7,
        node: 3,
        committed: true,
    }
}

/// Returns the bytes of one frame.
async fn frame() -> Vec<u8> {
    let (near, mut far) = tokio::io::duplex(1 << 10);
    let mut frames = FramedConnection::new(Connection::new(near));
    frames.write(FrameKind::Append, &message()).await.unwrap();
    drop(frames);
    let mut bytes = Vec::new();
    far.read_to_end(&mut bytes).await.unwrap();
    bytes
}

/// Returns the result of reading these bytes before the connection ends.
async fn read_of(bytes: &[u8]) -> Result<Option<(FrameKind, Bytes)>, Status> {
    let (near, mut far) = tokio::io::duplex(1 << 10);
    far.write_all(bytes).await.unwrap();
    drop(far);
    FramedConnection::new(Connection::new(near)).read().await
}

#[tokio::test]
async fn frames_round_trip_and_a_connection_ends_only_between_frames() {
    let (kind, body) = read_of(&frame().await).await.unwrap().unwrap();
    assert_eq!(kind, FrameKind::Append);
    assert_eq!(decoded::<proto::Vote>(body).unwrap(), message());
    assert_eq!(read_of(&[]).await.unwrap(), None);
}

#[tokio::test]
async fn flipped_bits_and_truncations_are_rejected() {
    let bytes = frame().await;
    for bit in 0..bytes.len() * 8 {
        let mut changed = bytes.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(read_of(&changed).await.is_err(), "bit {bit}");
    }
    for length in 1..bytes.len() {
        assert!(read_of(&bytes[..length]).await.is_err(), "{length} bytes");
    }
}

/// A leader of an earlier term that sends to this master through this address.
struct FormerLeader {
    network: PeerNetwork,
    peers: Peers,
    address: String,
}

impl FormerLeader {
    async fn new(port: &TestPort, address: &str) -> FormerLeader {
        let timing = Timing::testing();
        let peers = Peers::new(Dialer::tcp(), timing);
        let mut factory = NetworkFactory {
            caller: network::CallerIdentity {
                cluster_key: port.node.cluster_key(),
                id: 99,
            },
            peers: peers.clone(),
            addresses: watch::channel(MemberAddresses::new()).1,
            timing,
            retention: LogRetention::default(),
            transfers: TransferCounts::default(),
        };
        let member = Member {
            raft_address: address.to_owned(),
            ..Member::default()
        };
        let network = factory.new_client(port.node.id(), &member).await;
        FormerLeader {
            network,
            peers,
            address: address.to_owned(),
        }
    }

    /// Creates a caller that knows the versions of the peer.
    async fn informed(port: &TestPort, address: &str) -> FormerLeader {
        let caller = FormerLeader::new(port, address).await;
        caller.reported(versions::OWN);
        caller
    }

    fn connections(&self) -> Arc<PeerConnections> {
        self.peers.to(&self.address).unwrap()
    }

    fn reported(&self, versions: MasterVersions) {
        self.connections().reported(versions);
    }

    /// Returns whether an append is answered over frames.
    async fn uses_frames(&mut self) -> bool {
        assert!(is_answered(&mut self.network).await);
        self.network.uses_frames()
    }

    /// Sends appends until one is answered in a frame.
    async fn change_over(&mut self) {
        while !self.uses_frames().await {}
        assert!(self.uses_frames().await);
    }
}

/// Returns whether an append gets the correct answer: the term is over.
async fn is_answered(network: &mut PeerNetwork) -> bool {
    let leader_id = LeaderId {
        term: 0,
        voted_for: 99,
    };
    let request = AppendEntriesRequest::<TypeConfig> {
        vote: Vote {
            leader_id,
            committed: true,
        },
        prev_log_id: None,
        entries: Vec::new(),
        leader_commit: None,
    };
    let option = RPCOption::new(Duration::from_secs(1));
    let answer = network.append_entries(request, option).await;
    matches!(answer, Ok(AppendEntriesResponse::HigherVote(_)))
}

#[tokio::test]
async fn appends_are_sent_in_frames_between_masters_that_support_them() {
    let port = TestPort::start().await;
    let mut caller = FormerLeader::informed(&port, &port.address).await;
    for _ in 0..3 {
        assert!(caller.uses_frames().await);
    }
}

#[tokio::test]
async fn a_stream_is_replaced_by_frames_once_the_peer_supports_them() {
    let port = TestPort::start().await;
    let mut caller = FormerLeader::new(&port, &port.address).await;
    let connections = caller.connections();
    assert!(!caller.uses_frames().await);
    connections.frames.replace().await;
    assert!(!caller.uses_frames().await, "it has reported nothing");
    caller.reported(versions::OWN);
    connections.frames.replace().await;
    for _ in 0..3 {
        assert!(caller.uses_frames().await);
    }
    // The peer is downgraded: connections that begin now carry no frames.
    caller.reported(MasterVersions::of(None));
    let mut caller = FormerLeader {
        network: FormerLeader::new(&port, &port.address).await.network,
        ..caller
    };
    assert!(!caller.uses_frames().await);
}

/// A port that closes connections whose first bytes are not HTTP/2, as release 0.1.0 does, and
/// counts them.
async fn older(port: &TestPort) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let behind = port.address.clone();
    let closed = Arc::new(AtomicUsize::new(0));
    let count = closed.clone();
    tokio::spawn(async move {
        loop {
            let (mut outer, _) = listener.accept().await.unwrap();
            let mut first = [1];
            if outer.peek(&mut first).await.is_err() || first == [0] {
                count.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            let mut inner = TcpStream::connect(&behind).await.unwrap();
            tokio::spawn(async move {
                // Either end may close it.
                let _ = tokio::io::copy_bidirectional(&mut outer, &mut inner).await;
            });
        }
    });
    (address, closed)
}

#[tokio::test]
async fn a_master_without_frame_support_gets_appends_over_http2() {
    let port = TestPort::start().await;
    let (address, closed) = older(&port).await;
    let mut caller = FormerLeader::new(&port, &address).await;
    caller.reported(MasterVersions::of(None));
    for _ in 0..3 {
        assert!(!caller.uses_frames().await);
        caller.connections().frames.replace().await;
    }
    assert_eq!(closed.load(Ordering::Relaxed), 0, "it is never greeted");
    // The peer was downgraded after it reported its versions.
    let mut caller = FormerLeader::informed(&port, &address).await;
    for _ in 0..3 {
        assert!(!caller.uses_frames().await);
        caller.connections().frames.replace().await;
    }
    assert_eq!(
        closed.load(Ordering::Relaxed),
        1,
        "it is greeted once a minute"
    );
}

#[tokio::test]
async fn silent_connections_block_no_master() {
    let port = TestPort::start().await;
    let mut silent = Vec::new();
    for _ in 0..80 {
        silent.push(TcpStream::connect(&port.address).await.unwrap());
    }
    let mut caller = FormerLeader::informed(&port, &port.address).await;
    assert!(caller.uses_frames().await);
    drop(silent);
}

/// Opens a connection to this master that has sent the greeting.
async fn greeted(port: &TestPort) -> FramedConnection {
    let dialed = TcpStream::connect(&port.address).await.unwrap();
    let mut frames = FramedConnection::new(Connection::new(dialed));
    frames.send_greeting().await.unwrap();
    frames
}

#[tokio::test]
async fn master_without_a_frame_slot_uses_http2() {
    let port = TestPort::start().await;
    let mut others = Vec::new();
    for _ in 0..64 {
        let mut other = FormerLeader::informed(&port, &port.address).await;
        other.change_over().await;
        others.push(other);
    }
    assert!(!greeted(&port).await.read_greeting().await.unwrap_or(false));
    let mut caller = FormerLeader::informed(&port, &port.address).await;
    assert!(!caller.uses_frames().await);
    // Slots are free again as soon as connections close.
    drop(others);
    let mut caller = FormerLeader::informed(&port, &port.address).await;
    while !caller.uses_frames().await {
        caller = FormerLeader::informed(&port, &port.address).await;
    }
}

#[tokio::test]
async fn idle_frame_connections_are_evicted_for_a_master() {
    let port = TestPort::start().await;
    let mut silent = Vec::new();
    for _ in 0..64 {
        let mut frames = greeted(&port).await;
        assert!(frames.read_greeting().await.unwrap());
        silent.push(frames);
    }
    let mut caller = FormerLeader::informed(&port, &port.address).await;
    caller.change_over().await;
    let mut oldest = silent.remove(0);
    assert!(!matches!(oldest.read().await, Ok(Some(_))), "it is closed");
    // The next ones replace silent ones, and never that of the master.
    for _ in 0..80 {
        let mut frames = greeted(&port).await;
        assert!(frames.read_greeting().await.unwrap());
        silent.push(frames);
    }
    assert!(caller.uses_frames().await);
}

#[tokio::test]
async fn an_incomplete_frame_is_rejected_at_a_deadline() {
    let port = TestPort::start().await;
    let mut frames = greeted(&port).await;
    assert!(frames.read_greeting().await.unwrap());
    frames.connection.write_all(&[9, 0, 0, 0, 1]).await.unwrap();
    tokio::time::pause();
    let begun = tokio::time::Instant::now();
    let (kind, body) = frames.read().await.unwrap().unwrap();
    assert_eq!(kind, FrameKind::Error);
    let status = Status::from(decoded::<FrameStatus>(body).unwrap());
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    assert_eq!(frames.read().await.unwrap(), None, "it is closed then");
    let waited = begun.elapsed().as_secs();
    assert!((29..60).contains(&waited), "after {waited} s");
}

#[tokio::test]
async fn memory_grows_with_received_not_announced_bytes() {
    let (near, mut far) = tokio::io::duplex(1 << 10);
    let mut frames = FramedConnection::new(Connection::new(near));
    let length = u32::try_from(wire::MESSAGE_LIMIT_BYTES).unwrap();
    far.write_all(&length.to_le_bytes()).await.unwrap();
    assert!(frames.wait_for_frame().await.unwrap());
    assert!(frames.read().now_or_never().is_none());
    assert!(frames.incoming.capacity() <= 2 * BUFFER_BYTES);
    for length in [u32::MAX, length + 6, 4, 0] {
        assert!(read_of(&length.to_le_bytes()).await.is_err(), "{length}");
    }
}

#[tokio::test]
async fn retained_small_frames_share_memory() {
    let (near, mut far) = tokio::io::duplex(1 << 16);
    let mut frames = FramedConnection::new(Connection::new(near));
    let mut kept = Vec::new();
    let frame = frame().await;
    for _ in 0..100 {
        far.write_all(&frame).await.unwrap();
        kept.push(frames.read().await.unwrap().unwrap().1);
    }
    let places: Vec<usize> = kept.iter().map(|body| body.as_ptr() as usize).collect();
    let is_adjacent = |pair: &&[usize]| pair[0].abs_diff(pair[1]) == frame.len();
    assert!(places.windows(2).filter(is_adjacent).count() > 90);
}

#[tokio::test]
async fn request_ends_with_its_connection_despite_trailing_data() {
    let (near, mut far) = tokio::io::duplex(1 << 10);
    let mut frames = FramedConnection::new(Connection::new(near));
    let bytes = frame().await;
    far.write_all(&bytes).await.unwrap();
    frames.read().await.unwrap().unwrap();
    far.write_all(&bytes).await.unwrap();
    assert!(frames.is_closed().now_or_never().is_none());
    assert!(
        frames.read().await.unwrap().is_some(),
        "it is read in its turn"
    );
    drop(far);
    frames.is_closed().await;
}

#[tokio::test]
async fn a_request_for_another_master_is_rejected_with_a_reason() {
    let port = TestPort::start().await;
    let dialed = TcpStream::connect(&port.address).await.unwrap();
    let mut frames = FramedConnection::new(Connection::new(dialed));
    frames.send_greeting().await.unwrap();
    assert!(frames.read_greeting().await.unwrap());
    let message = proto::AppendRequest::default();
    frames.write(FrameKind::Append, &message).await.unwrap();
    let (kind, body) = frames.read().await.unwrap().unwrap();
    assert_eq!(kind, FrameKind::Error);
    let status = Status::from(decoded::<FrameStatus>(body).unwrap());
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    assert_eq!(frames.read().await.unwrap(), None, "it is closed then");
}
