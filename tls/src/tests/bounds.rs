//! Bounds on handshakes that are not complete.

use futures::StreamExt as _;
use futures::stream::{self, FuturesUnordered};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::net::{TcpSocket, TcpStream};

use super::*;
use crate::listener::HANDSHAKE_TIMEOUT;

const LIMIT: usize = 8;

fn port(kind: PortKind) -> TlsPort {
    TlsPort {
        name: "test",
        kind,
        plaintext: PlaintextPolicy::Rejected,
        anonymous: AnonymousClients::All,
        handshakes: LIMIT,
    }
}

/// Connects from an address of this host.
async fn connect_from(own: &str, to: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{own}:0").parse().unwrap()).unwrap();
    socket.connect(to.parse().unwrap()).await.unwrap()
}

/// Waits until the other side has ended a connection.
async fn is_ended(stream: &mut TcpStream) {
    let mut byte = [0];
    let read = tokio::time::timeout(TIMEOUT, stream.read(&mut byte)).await;
    assert!(matches!(read, Ok(Ok(0) | Err(_))), "{read:?}");
}

#[tokio::test]
async fn half_open_connections_of_one_address_end_only_each_other() {
    let ca = TestCa::new();
    let server = ca.member("argosy://prod/master/m1");
    let api = Echo::with(server, port(PortKind::Api)).await;
    // It begins before the flood, and completes after it.
    let honest = connect_from("127.0.0.3", &api.address).await;
    let mut flood = Vec::new();
    for count in 0..10 * LIMIT {
        let mut stream = connect_from("127.0.0.2", &api.address).await;
        // Some are silent, and some stop within their first message.
        if count % 2 == 0 {
            stream.write_all(b"\x16\x03\x01\x02\x00").await.unwrap();
        }
        flood.push(stream);
    }
    let ended = flood.len() - (LIMIT - 1);
    for stream in &mut flood[..ended] {
        is_ended(stream).await;
    }
    for stream in &mut flood[ended..] {
        let mut byte = [0];
        assert!(
            stream
                .try_read(&mut byte)
                .is_err_and(|error| { error.kind() == std::io::ErrorKind::WouldBlock })
        );
    }
    let dialer = Dialer::new({
        let stream = Arc::new(Mutex::new(None));
        honest.set_nodelay(true).unwrap();
        *stream.lock().unwrap() = Some(honest);
        move |_, _| {
            let taken = stream.lock().unwrap().take();
            async move {
                let peer = PeerIdentity::unauthenticated(None);
                Ok((Connection::new(taken.unwrap()), peer))
            }
        }
    });
    let operator = ca.member("argosy://prod/operator/alice");
    let plaintext = PlaintextPolicy::Rejected;
    let dialer = dialer::dial(dialer, operator, Application::Http2, plaintext);
    call(&dialer, &api.address).await.unwrap();
    // So do clients that connect during the flood.
    let operator = client(&ca.member("argosy://prod/operator/alice"));
    call(&operator, &api.address).await.unwrap();
    assert_eq!(api.take_peers(), ["operator/alice", "operator/alice"]);
}

#[tokio::test(start_paused = true)]
async fn five_thousand_half_open_connections_use_a_bounded_number_of_places() {
    const FLOOD: usize = 5_000;
    const PLACES: usize = 1_024;
    // The clock does not advance while this thread waits, so that no deadline ends a handshake.
    let (_stop, stopped) = std::sync::mpsc::channel::<()>();
    tokio::task::spawn_blocking(move || stopped.recv());
    // Both ends are in this process.
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let ca = TestCa::new();
    let server = ca.member("argosy://prod/master/m1");
    let port = TlsPort {
        handshakes: PLACES,
        ..port(PortKind::Api)
    };
    let api = Echo::with(server, port).await;
    let mut flood = Vec::new();
    for count in 0..FLOOD {
        let own = format!("127.0.1.{}", count % 100 + 1);
        let mut stream = connect_from(&own, &api.address).await;
        if count % 2 == 0 {
            stream.write_all(b"\x16\x03\x01\x02\x00").await.unwrap();
        }
        flood.push(stream);
    }
    let ends = flood.iter_mut().map(is_ended);
    let mut ends: FuturesUnordered<_> = ends.collect();
    for _ in PLACES..FLOOD {
        ends.next().await.unwrap();
    }
    drop(ends);
    let is_open = |stream: &TcpStream| {
        let read = stream.try_read(&mut [0]);
        read.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    };
    let open = flood.iter().filter(|stream| is_open(stream)).count();
    assert_eq!(open, PLACES);
    let operator = client(&ca.member("argosy://prod/operator/alice"));
    call(&operator, &api.address).await.unwrap();
    assert_eq!(api.take_peers(), ["operator/alice"]);
}

#[tokio::test]
async fn complete_handshakes_free_their_places() {
    let ca = TestCa::new();
    let server = ca.member("argosy://prod/master/m1");
    let api = Echo::with(server, port(PortKind::Api)).await;
    let operator = client(&ca.member("argosy://prod/operator/alice"));
    let mut open = Vec::new();
    for _ in 0..3 * LIMIT {
        open.push(call(&operator, &api.address).await.unwrap());
    }
    for connection in &mut open {
        exchange(connection).await.unwrap();
    }
    assert_eq!(api.take_peers().len(), 3 * LIMIT);
}

#[tokio::test(start_paused = true)]
async fn a_slow_handshake_ends_at_its_deadline() {
    let ca = TestCa::new();
    let credentials = ca.member("argosy://prod/master/m1");
    let begun = tokio::time::Instant::now();
    let (mut ends, mut connections) = (Vec::new(), Vec::new());
    for first in [&b""[..], b"\x16", b"\x16\x03\x01\x02\x00\x01"] {
        let (mut near, far) = tokio::io::duplex(1_024);
        near.write_all(first).await.unwrap();
        ends.push(near);
        let peer = PeerIdentity::unauthenticated(None);
        connections.push(Ok((Connection::new(far), peer)));
    }
    let inner = Listener::new(stream::iter(connections));
    let port = port(PortKind::Api);
    let mut listener = listener::listen(inner, credentials, port, Handle::current());
    let mut accepting = JoinSet::new();
    accepting.spawn(async move {
        listener.accept().await;
    });
    for end in &mut ends {
        let mut rest = Vec::new();
        end.read_to_end(&mut rest).await.unwrap();
        // This test uses virtual time.
        assert_eq!(begun.elapsed().as_secs(), HANDSHAKE_TIMEOUT.as_secs());
    }
    assert!(accepting.try_join_next().is_none());
}

#[tokio::test]
async fn garbage_ends_a_connection_and_nothing_else() {
    let ca = TestCa::new();
    let server = ca.member("argosy://prod/master/m1");
    let api = Echo::with(server, port(PortKind::Api)).await;
    let mut number = 0x9e37_79b9_7f4a_7c15_u64;
    for round in 0..200_usize {
        let mut bytes = vec![22, 3, 1];
        for _ in 0..round * 4 {
            // The generator xorshift64.
            number ^= number << 13;
            number ^= number >> 7;
            number ^= number << 17;
            bytes.push(number as u8);
        }
        let mut stream = TcpStream::connect(&api.address).await.unwrap();
        // The server may end the connection before it has read everything.
        let _ = stream.write_all(&bytes).await;
        let _ = stream.shutdown().await;
        let mut rest = Vec::new();
        let read = tokio::time::timeout(TIMEOUT, stream.read_to_end(&mut rest)).await;
        let _ended = read.expect("the connection ends");
    }
    let operator = client(&ca.member("argosy://prod/operator/alice"));
    call(&operator, &api.address).await.unwrap();
    assert_eq!(api.take_peers(), ["operator/alice"]);
}
