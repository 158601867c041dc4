//! Tests of TCP connections, against the tables of the kernel.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::{TcpListener, TcpStream};

use super::{Dialer, ExpectedPeer, KEEPALIVE_IDLE_SECONDS, Listener};

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
