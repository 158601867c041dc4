//! Plaintext at a TLS port, and TLS at a plaintext port.

use super::*;

/// Sends bytes without TLS, and returns what comes back until the end.
async fn send(address: &str, bytes: &[u8]) -> Vec<u8> {
    let sending = async {
        let mut stream = tokio::net::TcpStream::connect(address).await?;
        stream.write_all(bytes).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok(answer)
    };
    let sent: std::io::Result<Vec<u8>> = tokio::time::timeout(TIMEOUT, sending).await.unwrap();
    sent.unwrap()
}

const HTTP1: &[u8] = b"GET /v1/cluster HTTP/1.1\r\nhost: m1\r\n\r\n";
const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[tokio::test]
async fn plaintext_gets_an_error_in_its_own_protocol() {
    let ca = TestCa::new();
    let server = ca.member("argosy://prod/master/m1");
    for kind in [PortKind::Api, PortKind::Raft] {
        let port = Echo::start(server.clone(), kind, PlaintextPolicy::Rejected).await;
        let answer = String::from_utf8(send(&port.address, HTTP1).await).unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 400 Bad Request\r\n"),
            "{answer}"
        );
        assert!(
            answer.ends_with("this port needs TLS: use https://\n"),
            "{answer}"
        );
        let answer = send(&port.address, HTTP2).await;
        assert!(answer.ends_with(b"this port needs TLS"), "{answer:?}");
        let answer = send(&port.address, b"\0argosy raft frames 1\n\n\n").await;
        assert_eq!(answer, b"");
        assert_eq!(port.take_peers(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_port_may_accept_both_while_a_cluster_moves_to_tls() {
    let ca = TestCa::new();
    let server = ca.member("argosy://prod/master/m1");
    for kind in [PortKind::Api, PortKind::Raft] {
        let port = Echo::start(server.clone(), kind, PlaintextPolicy::Accepted).await;
        let mut stream = tokio::net::TcpStream::connect(&port.address).await.unwrap();
        stream.write_all(HTTP2).await.unwrap();
        let mut answer = vec![0; HTTP2.len()];
        let read = stream.read_exact(&mut answer);
        tokio::time::timeout(TIMEOUT, read).await.unwrap().unwrap();
        assert_eq!(answer, HTTP2);
        assert_eq!(port.take_peers(), ["unauthenticated"]);
        let master = ca.member("argosy://prod/master/m2");
        let dialer = client_of(&master, kind.applications()[0]);
        call(&dialer, &port.address).await.unwrap();
        assert_eq!(port.take_peers(), ["master/m2"]);
        // Neither is a wrong certificate plaintext.
        let agent = client_of(&ca.member("argosy://prod/agent/a1"), Application::Raft);
        let refused = call(&agent, &port.address).await;
        assert!(refused.is_err(), "{kind:?}");
        assert_eq!(port.take_peers(), Vec::<String>::new());
    }
}

/// A server without TLS, which answers each connection with some bytes.
async fn plain_server(answer: &'static [u8]) -> (String, JoinSet<()>) {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap().to_string();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        loop {
            let (mut stream, _) = socket.accept().await.unwrap();
            let mut first = [0; 1024];
            let read = stream.read(&mut first).await.unwrap();
            if first[..read] == *b"?" {
                stream.write_all(b"?").await.unwrap();
            } else {
                stream.write_all(answer).await.unwrap();
            }
        }
    });
    (address, tasks)
}

#[tokio::test]
async fn tls_to_a_plaintext_port_is_an_error_with_a_remedy() {
    let ca = TestCa::new();
    let operator = client(&ca.member("argosy://prod/operator/alice"));
    // The answers of Argosy's servers to bytes that are no HTTP: HTTP/1.1, and none.
    let (address, _server) = plain_server(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    let refused = call(&operator, &address).await.err().unwrap();
    assert!(
        refused.contains("it speaks plaintext; check its port, and whether it was started with --insecure-plaintext"),
        "{refused}"
    );
    let (address, _server) = plain_server(b"").await;
    let refused = call(&operator, &address).await.err().unwrap();
    assert!(
        refused.contains("check its port, and whether it speaks TLS"),
        "{refused}"
    );
    // A port without a listener keeps the kind by which failover recognizes a dead process.
    let unused = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = unused.local_addr().unwrap().to_string();
    drop(unused);
    let error = operator.dial(&address, &ExpectedPeer::MASTER).await.err();
    assert_eq!(error.unwrap().kind(), std::io::ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn a_dialer_may_use_plaintext_while_a_cluster_moves_to_tls() {
    let ca = TestCa::new();
    let moving = |credentials| {
        dialer::dial(
            Dialer::tcp(),
            credentials,
            Application::Http2,
            PlaintextPolicy::Accepted,
        )
    };
    let operator = ca.member("argosy://prod/operator/alice");
    for answer in [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], b""] {
        let (address, _server) = plain_server(answer).await;
        call(&moving(operator.clone()), &address).await.unwrap();
    }
    // A server with another certificate has TLS, so there is no reason for plaintext.
    let foreign = TestCa::of("test");
    let server = foreign.member("argosy://test/master/m1");
    let port = Echo::start(server, PortKind::Api, PlaintextPolicy::Accepted).await;
    let refused = call(&moving(operator.clone()), &port.address).await;
    assert!(
        refused
            .err()
            .unwrap()
            .contains("no trusted CA has signed it")
    );
    assert_eq!(port.take_peers(), Vec::<String>::new());
    let server = ca.member("argosy://prod/master/m1");
    let port = Echo::start(server, PortKind::Api, PlaintextPolicy::Accepted).await;
    call(&moving(operator), &port.address).await.unwrap();
    assert_eq!(port.take_peers(), ["operator/alice"]);
}
