//! Tests of the limits of a running master's port, over real sockets.

use argosy_proto::clock::WallClock;
use argosy_proto::transport::{Connection, Dialer, PeerIdentity};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic::transport::Endpoint;

use super::*;
use crate::node::{MemoryStore, Node};
use crate::settings::{NodeConfig, NodeEnvironment, SnapshotPolicy, Timing};
use crate::transport::connections::{PeerClient, ask_request, client};
use crate::transport::frames::{FrameKind, FrameStatus, FramedConnection, GREETING, decoded};
use crate::types::OwnerRequest;

/// Longer than any step here takes on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A request that has to wait is not answered within this time.
const WAITING: Duration = Duration::from_millis(500);

/// An open call, which never ends by itself.
type Presence = Streaming<proto::AskResponse>;

/// A group of one master.
pub(crate) struct TestPort {
    pub(crate) address: String,
    pub(crate) node: Node,
}

impl TestPort {
    pub(crate) async fn start() -> TestPort {
        TestPort::start_for(PeerIdentity::unauthenticated(None)).await
    }

    /// Starts a port whose transport identifies every peer as `peer`.
    pub(crate) async fn start_for(peer: PeerIdentity) -> TestPort {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        TestPort::start_at(listener, address, Vec::new(), peer).await
    }

    /// Starts a master that is reached at `address`. With `peers` it waits until their leader adds
    /// it.
    pub(crate) async fn start_at(
        listener: TcpListener,
        address: String,
        peers: Vec<String>,
        peer: PeerIdentity,
    ) -> TestPort {
        let config = NodeConfig {
            directory: None,
            raft_address: address.clone(),
            api_address: address.clone(),
            bootstrap: peers.is_empty(),
            peers,
            timing: Timing::testing(),
            snapshot: SnapshotPolicy::default(),
            seed: 1,
        };
        let (owner, mut requests) = mpsc::channel(1);
        tokio::spawn(async move {
            while let Some(request) = requests.recv().await {
                match request {
                    OwnerRequest::Load { done, .. } => drop(done.send(())),
                    OwnerRequest::Apply { done, .. } => drop(done.send(Vec::new())),
                }
            }
        });
        let memory = MemoryStore::default();
        let connections = futures::stream::unfold(listener, move |listener| {
            let peer = peer.clone();
            async move {
                let accepted = listener.accept().await;
                let identified = accepted.map(|(stream, _)| (Connection::new(stream), peer));
                Some((identified, listener))
            }
        });
        let surroundings = NodeEnvironment {
            listener: Listener::new(connections),
            dialer: Dialer::tcp(),
            wall: WallClock::system(),
        };
        let stop = CancellationToken::new();
        let node = Node::start_in_memory(config, &memory, surroundings, owner, stop).await;
        let node = node.unwrap();
        TestPort { address, node }
    }

    /// Opens a separate connection.
    async fn connect(&self) -> Result<PeerClient, tonic::transport::Error> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address)).unwrap();
        endpoint.connect().await.map(client)
    }

    /// Opens a connection with an open call, if the port accepts it.
    async fn hold(&self) -> Option<Presence> {
        let mut client = self.connect().await.ok()?;
        present(&mut client).await.ok()
    }

    async fn hold_soon(&self) -> Presence {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            if let Some(held) = self.hold().await {
                return held;
            }
            assert!(Instant::now() < deadline, "no connection is taken");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Opens a call and waits for its first answer.
async fn present(client: &mut PeerClient) -> Result<Presence, Status> {
    let mut stream = client.presence(ask_request()).await?.into_inner();
    stream.message().await?.expect("it names itself");
    Ok(stream)
}

/// Starts a snapshot that stalls until the sender is dropped.
async fn begin_snapshot(
    client: &mut PeerClient,
    head: proto::SnapshotHead,
) -> Result<mpsc::Sender<proto::SnapshotPart>, Status> {
    let (sender, parts) = mpsc::channel(1);
    let head = proto::SnapshotPart {
        part: Some(proto::snapshot_part::Part::Head(head)),
    };
    sender.send(head).await.expect("there is room");
    client.snapshot(ReceiverStream::new(parts)).await?;
    Ok(sender)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_bounded_and_silent_ones_are_replaced() {
    let port = TestPort::start().await;
    // One address holds all of them: masters may share one address.
    let mut silent = Vec::new();
    for _ in 0..CONNECTIONS + 10 {
        silent.push(TcpStream::connect(&port.address).await.unwrap());
    }
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS {
        held.push(port.hold_soon().await);
    }
    for _ in 0..3 {
        assert!(port.hold().await.is_none(), "one more is taken");
    }
    // No connection with an open call was closed in favour of another one.
    for stream in &mut held {
        assert!(timeout(Duration::ZERO, stream.message()).await.is_err());
    }
    held.pop();
    port.hold_soon().await;
    port.node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_beyond_the_bound_of_its_connection_waits_until_one_ends() {
    let port = TestPort::start().await;
    let mut client = port.connect().await.unwrap();
    let mut held = Vec::new();
    for _ in 0..STREAMS {
        held.push(present(&mut client).await.unwrap());
    }
    let mut next = Box::pin(present(&mut client));
    assert!(timeout(WAITING, &mut next).await.is_err(), "it is answered");
    held.pop();
    let next = timeout(TIMEOUT, next).await.expect("it has its turn");
    next.unwrap();
    port.node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn third_concurrent_snapshot_is_rejected_until_one_ends() {
    let port = TestPort::start().await;
    let mut client = port.connect().await.unwrap();
    let answer = client.ask(ask_request()).await.unwrap().into_inner();
    let own = answer.identity.expect("it belongs to a group");
    let head = proto::SnapshotHead {
        header: Some(proto::Header {
            format: 1,
            cluster_key: own.cluster_key,
            from: own.id + 1,
            to: own.id,
        }),
        vote: Some(proto::Vote::default()),
        length_bytes: 1 << 20,
    };
    let mut held = Vec::new();
    for _ in 0..SNAPSHOTS {
        held.push(begin_snapshot(&mut client, head).await.unwrap());
    }
    let refused = begin_snapshot(&mut client, head).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(
        refused.message().contains("all snapshot slots are in use"),
        "{refused}"
    );
    held.pop();
    let deadline = Instant::now() + TIMEOUT;
    while begin_snapshot(&mut client, head).await.is_err() {
        assert!(Instant::now() < deadline, "its place is not free again");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    port.node.stop().await;
}

#[tokio::test]
async fn a_leader_supports_no_election_against_itself() {
    let port = TestPort::start().await;
    let mut status = port.node.status();
    let leads = status.wait_for(|status| status.is_leader);
    let term = timeout(TIMEOUT, leads).await.unwrap().unwrap().term;
    let mut client = port.connect().await.unwrap();
    let answer = client.ask(ask_request()).await.unwrap().into_inner();
    let own = answer.identity.expect("it belongs to a group");
    let request = |term| proto::SuspectRequest {
        header: Some(proto::Header {
            format: 1,
            cluster_key: own.cluster_key,
            from: own.id + 1,
            to: own.id,
        }),
        leader: Some(proto::Vote {
            term,
            node: own.id,
            committed: true,
        }),
        last_log: Some(proto::LogId {
            term: wire::POSITION_LIMIT,
            index: wire::POSITION_LIMIT,
        }),
    };
    for term in [0, term, wire::POSITION_LIMIT] {
        let answer = client.suspect(request(term)).await.unwrap().into_inner();
        assert!(!answer.supports, "{term}");
    }
    let nobody = proto::SuspectRequest {
        leader: None,
        ..request(term)
    };
    let refused = client.suspect(nobody).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(port.node.status().borrow().term, term);
}

/// A vote of the largest term would end elections: no later term exists.
#[tokio::test]
async fn terms_and_indexes_beyond_any_group_are_refused() {
    let port = TestPort::start().await;
    let mut status = port.node.status();
    let leads = status.wait_for(|status| status.is_leader);
    let term = timeout(TIMEOUT, leads).await.unwrap().unwrap().term;
    let mut client = port.connect().await.unwrap();
    let answer = client.ask(ask_request()).await.unwrap().into_inner();
    let own = answer.identity.expect("it belongs to a group");
    let header = Some(proto::Header {
        format: 1,
        cluster_key: own.cluster_key,
        from: own.id + 1,
        to: own.id,
    });
    let vote = |term| proto::Vote {
        term,
        node: own.id + 1,
        committed: false,
    };
    let request = |vote, last_log| proto::VoteRequest {
        header,
        vote: Some(vote),
        last_log: Some(last_log),
        leadership_transfer: true,
        pre_vote: false,
    };
    let log_id = |term, index| proto::LogId { term, index };
    for request in [
        request(vote(u64::MAX), log_id(u64::MAX, u64::MAX)),
        request(vote(wire::POSITION_LIMIT), log_id(term, 1)),
        request(vote(term + 1), log_id(u64::MAX, 1)),
        request(vote(term + 1), log_id(term, u64::MAX)),
    ] {
        let answer = client.vote(request).await;
        let refused = answer.expect_err("it is answered");
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    }
    let status = port.node.status().borrow().clone();
    assert!(status.is_leader && status.term == term, "{status:?}");
    port.node.confirm_read().await.unwrap();
    port.node.stop().await;
}

/// Sends messages with this sender and voter, and returns the refusals.
async fn send_as(port: &TestPort, from: u64, voter: u64) -> [Option<Status>; 4] {
    let mut client = port.connect().await.unwrap();
    let own = client.ask(ask_request()).await.unwrap().into_inner();
    let own = own.identity.expect("it belongs to a group");
    assert_eq!(own.id, 1);
    let header = Some(proto::Header {
        format: 1,
        cluster_key: own.cluster_key,
        from,
        to: own.id,
    });
    // Of an old term, so that it changes nothing.
    let vote = Some(proto::Vote {
        term: 0,
        node: voter,
        committed: false,
    });
    let asked = proto::VoteRequest {
        header,
        vote,
        ..proto::VoteRequest::default()
    };
    let alive = proto::AliveRequest { header, vote };
    let append = proto::AppendRequest {
        header,
        vote,
        ..proto::AppendRequest::default()
    };
    let framed = append_in_frame(port, &append).await;
    let answers = client.append(tokio_stream::once(append)).await.unwrap();
    [
        client.vote(asked).await.err(),
        client.alive(alive).await.err(),
        answers.into_inner().message().await.err(),
        framed.err(),
    ]
}

async fn append_in_frame(port: &TestPort, append: &proto::AppendRequest) -> Result<(), Status> {
    let mut stream = TcpStream::connect(&port.address).await.unwrap();
    stream.write_all(GREETING).await.unwrap();
    let mut greeting = [0; GREETING.len()];
    stream.read_exact(&mut greeting).await.unwrap();
    let mut frames = FramedConnection::new(Connection::new(stream));
    frames.write(FrameKind::Append, append).await.unwrap();
    match frames.read().await?.expect("it is answered") {
        (FrameKind::Error, body) => Err(decoded::<FrameStatus>(body)?.into()),
        (kind, _) => {
            assert_eq!(kind, FrameKind::Response);
            Ok(())
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_sends_only_as_the_member_of_its_certificate() {
    let master = |hosts: &[&str]| {
        let peer = PeerIdentity::authenticated("master/m2".parse().unwrap(), None);
        peer.with_hosts(hosts.iter().map(|host| (*host).to_owned()))
    };
    // The only member, number 1, is at 127.0.0.1.
    let (own, other, unknown) = (&["127.0.0.1"][..], &["10.0.0.2"][..], 99);
    let elsewhere = "its certificate is not for the host of 127.0.0.1:";
    for (peer, from, voter, refusal) in [
        (master(own), 1, 1, None),
        (master(other), 1, 1, Some(elsewhere)),
        (master(&[]), 1, 1, Some(elsewhere)),
        (master(other), unknown, unknown, None),
        (
            master(other),
            unknown,
            1,
            Some("as master 99 with a vote of master 1"),
        ),
        (
            master(own),
            1,
            unknown,
            Some("as master 1 with a vote of master 99"),
        ),
        (PeerIdentity::unauthenticated(None), 1, unknown, None),
    ] {
        let port = TestPort::start_for(peer).await;
        let mut status = port.node.status();
        let leads = status.wait_for(|status| status.is_leader);
        timeout(TIMEOUT, leads).await.unwrap().unwrap();
        for refused in send_as(&port, from, voter).await {
            match (&refused, refusal) {
                (None, None) => {}
                (Some(status), Some(expected)) => {
                    assert_eq!(status.code(), Code::PermissionDenied);
                    assert!(status.message().contains(expected), "{status}");
                }
                _ => panic!("{refused:?}, and not {refusal:?}"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_masters_may_use_an_authenticated_raft_port() {
    let port = |principal: &str| {
        TestPort::start_for(PeerIdentity::authenticated(
            principal.parse().unwrap(),
            None,
        ))
    };
    let greeted = async |port: &TestPort| {
        let mut stream = TcpStream::connect(&port.address).await.unwrap();
        stream.write_all(GREETING).await.unwrap();
        let mut answer = vec![0; GREETING.len()];
        let read = timeout(TIMEOUT, stream.read_exact(&mut answer)).await;
        read.expect("it is answered or closed").is_ok()
    };
    for (principal, is_admitted) in [
        ("agent/host-1", false),
        ("operator/alice", false),
        ("master/master-2", true),
    ] {
        let port = port(principal).await;
        assert_eq!(port.hold().await.is_some(), is_admitted, "{principal}");
        assert_eq!(greeted(&port).await, is_admitted, "{principal}");
    }
}
