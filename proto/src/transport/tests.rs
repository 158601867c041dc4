//! Tests of TCP connections, against the tables of the kernel, and of attempts to connect.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tonic::transport::Uri;
use tower::{Service as _, ServiceExt as _};

use super::{
    Connection, Dialer, ExpectedPeer, GrpcConnector, KEEPALIVE_IDLE_SECONDS, Listener, PeerIdentity,
};

const TIMEOUT: Duration = Duration::from_secs(2);

/// The kernel's number of a keepalive timer, and the state of an open connection.
const KEEPALIVE_TIMER: &str = "02";
const ESTABLISHED: &str = "01";
/// The unit of times in the table, on all systems.
const TICKS_PER_SECOND: u32 = 100;

/// Returns an address in the form of the table.
fn written(address: SocketAddr) -> String {
    let SocketAddr::V4(address) = address else {
        panic!("{address} is no IPv4 address");
    };
    let word = u32::from_ne_bytes(address.ip().octets());
    format!("{word:08X}:{:04X}", address.port())
}

/// Returns the timer of a connection, and its remaining time in ticks.
fn timer(own: SocketAddr, peer: SocketAddr) -> (String, u32) {
    let table = fs::read_to_string("/proc/self/net/tcp").unwrap();
    let ends = [written(own), written(peer)];
    let line = table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        (fields[1..3] == ends && fields[3] == ESTABLISHED).then_some(fields)
    });
    let fields = line.expect("the connection is open");
    let (timer, ticks) = fields[5].split_once(':').unwrap();
    (timer.to_owned(), u32::from_str_radix(ticks, 16).unwrap())
}

#[tokio::test]
async fn the_kernel_probes_the_peers_of_accepted_connections() {
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let own = socket.local_addr().unwrap();
    let peer = TcpStream::connect(own).await.unwrap();
    let (_accepted, _) = Listener::tcp(socket).accept().await;
    let (timer, ticks) = timer(own, peer.local_addr().unwrap());
    assert_eq!(timer, KEEPALIVE_TIMER);
    assert!(ticks <= KEEPALIVE_IDLE_SECONDS * TICKS_PER_SECOND);
}

#[tokio::test]
async fn the_kernel_probes_the_peers_of_outgoing_connections() {
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let peer = socket.local_addr().unwrap();
    let dialer = Dialer::tcp();
    let _dialed = dialer
        .dial(&peer.to_string(), &ExpectedPeer::MASTER)
        .await
        .unwrap();
    let (_accepted, own) = socket.accept().await.unwrap();
    let (timer, ticks) = timer(own, peer);
    assert_eq!(timer, KEEPALIVE_TIMER);
    assert!(ticks <= KEEPALIVE_IDLE_SECONDS * TICKS_PER_SECOND);
}

/// The first attempt of a connector. Later ones succeed at once.
#[derive(Clone, Copy, Debug, PartialEq)]
enum FirstAttempt {
    Hangs,
    SucceedsLate,
    FailsLate,
}

/// Returns a connector, and the number of its attempts.
fn connector(first: FirstAttempt) -> (GrpcConnector, Arc<AtomicUsize>) {
    let attempts = Arc::new(AtomicUsize::new(0));
    let counted = attempts.clone();
    let dialer = Dialer::new(move |_, _| {
        let is_first = counted.fetch_add(1, Ordering::Relaxed) == 0;
        async move {
            if is_first && first == FirstAttempt::Hangs {
                std::future::pending::<()>().await;
            }
            if is_first {
                tokio::time::sleep(TIMEOUT / 4 * 3).await;
            }
            if is_first && first == FirstAttempt::FailsLate {
                return Err(std::io::ErrorKind::HostUnreachable.into());
            }
            let peer = PeerIdentity::unauthenticated(None);
            Ok((Connection::new(tokio::io::empty()), peer))
        }
    });
    (dialer.connector(TIMEOUT, ExpectedPeer::MASTER), attempts)
}

#[tokio::test(start_paused = true)]
async fn an_attempt_whose_end_came_unnoticed_begins_again() {
    use FirstAttempt::{FailsLate, Hangs, SucceedsLate};
    for first in [Hangs, SucceedsLate, FailsLate] {
        let (mut connector, attempts) = connector(first);
        let uri = Uri::from_static("http://a:1");
        let mut opening = pin!(connector.ready().await.unwrap().call(uri));
        let call = tokio::time::timeout(TIMEOUT / 2, &mut opening).await;
        assert!(call.is_err(), "this call gives up first");
        tokio::time::sleep(TIMEOUT * 2).await;
        assert!(opening.await.is_ok(), "{first:?}");
        assert_eq!(attempts.load(Ordering::Relaxed), 2, "{first:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_attempt_for_which_a_call_waits_ends_in_time() {
    let (mut connector, attempts) = connector(FirstAttempt::Hangs);
    let uri = Uri::from_static("http://a:1");
    let opened = connector.ready().await.unwrap().call(uri).await;
    let error = opened.err().expect("it hangs");
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    assert_eq!(attempts.load(Ordering::Relaxed), 1);
}
