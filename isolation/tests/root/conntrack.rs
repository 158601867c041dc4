//! Tests of the connection tracking entries of published ports: a client with a fixed source port
//! reaches the task that publishes the port now, and no other.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use argosy_isolation::LaunchSpec;
use argosy_network::{ContainerNamespace, Networks, PortPublication, Protocol, why_no_ipv6};

use crate::fixture::{RootFixture, TestCase, eventually};
use crate::host::{HOST, HOST6, LinkedHost, PYTHON, on_a_host, quoted, web};
use crate::networks::{ServingContainer, devices, joined, leave_nothing, serving, settings};

pub(crate) const CASES: &[TestCase] = &[
    (
        "a_udp_client_reaches_only_the_task_that_publishes_the_port_now",
        withdrawn,
    ),
    (
        "a_udp_client_reaches_no_task_after_the_agent_lost_the_publisher",
        lost,
    ),
];

/// Sends its name to every client, by UDP. Connections by TCP are established, but not accepted.
const SERVE: &str = "import socket, sys
both = socket.has_dualstack_ipv6()
served = socket.socket(socket.AF_INET6 if both else socket.AF_INET, socket.SOCK_DGRAM)
if both: served.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
listener = socket.create_server(('', 80))
served.bind(('', 80))
while True:
    text, client = served.recvfrom(100)
    served.sendto(sys.argv[1].encode(), client)";

/// Sends a datagram from port 5000 and prints the answer, or the error.
const SEND: &str = "import socket, sys
address = sys.argv[1]
client = socket.socket(socket.AF_INET6 if ':' in address else socket.AF_INET, socket.SOCK_DGRAM)
client.settimeout(1.5)
try:
    client.bind(('', 5000))
    client.connect((address, int(sys.argv[2])))
    client.send(b'who')
    print(client.recv(100).decode())
except OSError as error:
    print(type(error).__name__)";

/// Connects by TCP.
const CONNECT: &str = "import socket, sys
socket.create_connection((sys.argv[1], int(sys.argv[2])), 10)";

const PORT: u16 = 8053;

fn names() -> PortPublication {
    PortPublication {
        name: "names".to_owned(),
        protocol: Protocol::Udp,
        host_port: PORT,
        container_port: 80,
    }
}

/// An agent with few addresses, which are soon assigned again.
fn small_networks(world: &RootFixture) -> Networks {
    let mut settings = settings(world);
    settings.subnet = "10.183.0.0/28".parse().unwrap();
    settings.pool_size = 0;
    Networks::open(settings, &BTreeSet::new()).unwrap()
}

fn served(
    world: &mut RootFixture,
    name: &str,
    (spec, network): (LaunchSpec, ContainerNamespace),
) -> ServingContainer {
    serving(world, &spec, network, |address| {
        let client = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        client
            .set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        client.connect((address, 80)).unwrap();
        let mut answer = [0; 100];
        // The send fails if an earlier one was refused.
        let received = client.send(b"who").and_then(|_| client.recv(&mut answer));
        received.is_ok_and(|length| &answer[..length] == name.as_bytes())
    })
}

fn line(name: &str) -> String {
    format!("exec {} {name}", quoted(SERVE))
}

/// Starts a container that publishes no port and has this address, which was assigned before.
fn served_at(
    world: &mut RootFixture,
    name: &str,
    networks: &Networks,
    address: &str,
) -> ServingContainer {
    eventually("the former devices are removed", || devices().is_empty());
    for _ in 0..16 {
        let at = joined(world, &line(name), networks, &[]);
        if at.1.address.to_string() == address {
            return served(world, name, at);
        }
        networks.release(&at.0.id).unwrap();
    }
    panic!("{address} is not assigned again");
}

/// Returns the answers to the client with the fixed port, by IPv4 and, if the host has it, IPv6.
fn answers(host: &LinkedHost) -> Vec<String> {
    let six = why_no_ipv6().is_none().then_some(HOST6);
    let addresses = [HOST].into_iter().chain(six);
    let port = PORT.to_string();
    let answers = addresses.map(|address| host.outside(PYTHON, &["-c", SEND, address, &port]));
    answers.map(|answer| answer.trim().to_owned()).collect()
}

fn expect_answers(host: &LinkedHost, name: &str) {
    let answers = answers(host);
    assert!(answers.iter().all(|answer| answer == name), "{answers:?}");
}

fn expect_no_answer(host: &LinkedHost) {
    for answer in answers(host) {
        let refusals = ["ConnectionRefusedError", "TimeoutError"];
        assert!(refusals.contains(&answer.as_str()), "{answer}");
    }
}

/// Returns whether a TCP port of the host has entries; `None` if the kernel has no file for them.
fn has_tcp_entries(port: u16) -> Option<bool> {
    let entries = fs::read_to_string("/proc/thread-self/net/nf_conntrack").ok()?;
    let port = format!("dport={port} ");
    let mut lines = entries.lines();
    Some(lines.any(|line| line.contains(" tcp ") && line.contains(&port)))
}

fn withdrawn() {
    on_a_host(|host| {
        let mut world = RootFixture::new();
        let networks = small_networks(&world);
        // The entries of this client lead to the host itself.
        expect_no_answer(host);
        let at = joined(&mut world, &line("first"), &networks, &[names(), web(8081)]);
        let first = served(&mut world, "first", at);
        expect_answers(host, "first");
        host.outside(PYTHON, &["-c", CONNECT, HOST, "8081"]);
        assert_ne!(has_tcp_entries(8081), Some(false));
        let former = first.address.clone();
        first.end(&networks);
        assert_ne!(has_tcp_entries(8081), Some(true));
        // The next container with the address of the first publishes nothing.
        let other = served_at(&mut world, "other", &networks, &former);
        expect_no_answer(host);
        let at = joined(&mut world, &line("second"), &networks, &[names()]);
        let second = served(&mut world, "second", at);
        expect_answers(host, "second");
        second.end(&networks);
        other.end(&networks);
        leave_nothing(&world, networks);
    });
}

fn lost() {
    on_a_host(|host| {
        let mut world = RootFixture::new();
        let networks = small_networks(&world);
        let at = joined(&mut world, &line("first"), &networks, &[names()]);
        let first = served(&mut world, "first", at);
        expect_answers(host, "first");
        let former = first.address.clone();
        // As if the agent had been killed before it released the network.
        first.kill();
        networks.sweep(&BTreeSet::new()).unwrap();
        let other = served_at(&mut world, "other", &networks, &former);
        expect_no_answer(host);
        other.end(&networks);
        leave_nothing(&world, networks);
    });
}
