//! Tests of closed destinations in every network: the cluster's ports and metadata services.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use argosy_isolation::Network;
use argosy_isolation::reach_filter::BlockedDestinations;
use argosy_network::{NetworkConfig, Networks};
use nix::sched::{CloneFlags, unshare};

use crate::escapes::PYTHON;
use crate::fixture::{RootFixture, TestCase, skip, stdout};
use crate::host::{METADATA, on_a_host};
use crate::networks::{leave_nothing, served, settings};
use crate::profile::profiled;

pub(crate) const CASES: &[TestCase] = &[
    (
        "a_command_in_the_host_network_cannot_reach_blocked_ports",
        in_the_hosts_network,
    ),
    (
        "a_separate_network_has_its_loopback_and_no_blocked_port_elsewhere",
        in_its_own,
    ),
    ("blocked_destinations_are_replaced_when_set_again", replaced),
    (
        "metadata_services_are_reachable_from_a_bridge_if_the_operator_allows_it",
        metadata_open,
    ),
];

const CLOSED: u16 = 5_051;

/// Listens at a port of its own network, then connects to it in every known way: one line each,
/// with name and answer.
const ATTEMPTS: &str = r#"exec /usr/bin/python3 -I -S - << 'END'
import errno, socket

def attempt(name, action):
    try:
        said = action() or "reached"
    except TimeoutError:
        said = "silence"
    except OSError as error:
        said = errno.errorcode[error.errno]
    print(name, said, flush=True)

def tcp(family, to, protocol=6, bind=None):
    with socket.socket(family, socket.SOCK_STREAM, protocol) as one:
        one.settimeout(2)
        if bind: one.bind(bind)
        one.connect(to)

def unblocked(family, to):
    with socket.socket(family, socket.SOCK_STREAM) as one:
        one.setblocking(False)
        error = one.connect_ex(to)
        if error not in (0, errno.EINPROGRESS): raise OSError(error, "")
        one.setblocking(True); one.settimeout(2); one.send(b"x")

def fast_open(family, to, protocol=6):
    with socket.socket(family, socket.SOCK_STREAM, protocol) as one:
        one.settimeout(2)
        one.sendto(b"x", 0x20000000, to)  # MSG_FASTOPEN

def late_fast_open(family, to):
    with socket.socket(family, socket.SOCK_STREAM) as one:
        one.settimeout(2)
        one.setsockopt(6, 30, 1)  # TCP_FASTOPEN_CONNECT
        one.connect(to); one.send(b"x")

def datagram(family, to, connected):
    with socket.socket(family, socket.SOCK_DGRAM) as one:
        if connected: one.connect(to); one.send(b"x")
        else: one.sendto(b"x", to)

def many(family, to):
    with socket.socket(family, socket.SOCK_DGRAM) as one:
        one.sendmsg([b"x"], [], 0, to)

CLOSED = PORT
WAYS = [("4", socket.AF_INET, "127.0.0.1"), ("4any", socket.AF_INET, "0.0.0.0"), ("6", socket.AF_INET6, "::1"),
        ("mapped", socket.AF_INET6, "::ffff:127.0.0.1"), ("own", socket.AF_INET, OWN),
        ("own6", socket.AF_INET6, SIX)]
for name, family, address in WAYS:
    to = (address, CLOSED)
    attempt("tcp" + name, lambda: tcp(family, to))
    attempt("mptcp" + name, lambda: tcp(family, to, 262))
    attempt("unblocked" + name, lambda: unblocked(family, to))
    attempt("fast" + name, lambda: fast_open(family, to))
    attempt("mptcpfast" + name, lambda: fast_open(family, to, 262))
    attempt("latefast" + name, lambda: late_fast_open(family, to))
    attempt("udp" + name, lambda: datagram(family, to, False))
    attempt("udpconnected" + name, lambda: datagram(family, to, True))
    attempt("udpmessage" + name, lambda: many(family, to))
attempt("metadata", lambda: datagram(socket.AF_INET, ("169.254.169.254", 80), True))
attempt("name server", lambda: datagram(socket.AF_INET, ("169.254.169.254", 53), True))
attempt("metadata mapped", lambda: datagram(socket.AF_INET6, ("::ffff:169.254.169.254", 80), True))
attempt("metadata six", lambda: datagram(socket.AF_INET6, ("fd00:ec2::254", 80), True))
attempt("metadata translated", lambda: datagram(socket.AF_INET6, ("64:ff9b::a9fe:a9fe", 80), True))
attempt("another port", lambda: datagram(socket.AF_INET, ("127.0.0.1", 80), True))
END"#;

/// A socket at a closed port, in a network that stands for the host's. Its other address stands for
/// other hosts.
struct ClosedEndpoint {
    _listeners: Vec<std::net::TcpListener>,
}

const OWN: &str = "192.0.2.7";
const OWN6: &str = "2001:db8::7";

impl ClosedEndpoint {
    fn new() -> Self {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        for arguments in [
            "link set lo up",
            "addr add 192.0.2.7/32 dev lo",
            "route add 169.254.0.0/16 dev lo",
            "addr add 2001:db8::7/128 dev lo",
            "route add fd00:ec2::/32 dev lo",
            "route add 64:ff9b::/96 dev lo",
        ] {
            let done = Command::new("ip").args(arguments.split(' ')).status();
            assert!(done.unwrap().success(), "{arguments}");
        }
        // TCP Fast Open: 1 for clients, and 2 for listeners.
        std::fs::write("/proc/sys/net/ipv4/tcp_fastopen", "3").unwrap();
        Self {
            _listeners: vec![std::net::TcpListener::bind(("::", CLOSED)).unwrap()],
        }
    }
}

fn on_a_network(test: impl FnOnce(&ClosedEndpoint) + Send) {
    if !Path::new(PYTHON).exists() {
        skip("needs the package python3".to_owned());
    }
    let ended = std::thread::scope(|scope| scope.spawn(|| test(&ClosedEndpoint::new())).join());
    if let Err(cause) = ended {
        std::panic::resume_unwind(cause);
    }
}

fn usual() -> BlockedDestinations {
    BlockedDestinations {
        ports: vec![CLOSED],
        metadata: true,
    }
}

/// Returns the result of each way.
fn tried(world: &mut RootFixture, network: Network) -> BTreeMap<String, String> {
    let line = ATTEMPTS
        .replace("PORT\n", &format!("{CLOSED}\n"))
        .replace("OWN)", &format!("\"{OWN}\")"))
        .replace("SIX)", &format!("\"{OWN6}\")"));
    let mut spec = profiled(world, &line);
    spec.network = network;
    let exit = world.run(&spec);
    let output = stdout(&spec);
    let answers: BTreeMap<_, _> = output
        .lines()
        .filter_map(|line| line.rsplit_once(' '))
        .map(|(name, answer)| (name.to_owned(), answer.to_owned()))
        .collect();
    assert_eq!(
        answers.len(),
        60,
        "{exit:?} {output} {}",
        crate::fixture::stderr(&spec)
    );
    answers
}

fn hosts() -> Network {
    Network::Host { ports: None }
}

/// Returns the ways to the closed port that the filter did not refuse.
fn open(answers: &BTreeMap<String, String>) -> Vec<&str> {
    let is_other = |name: &str| ["name server", "another port"].contains(&name);
    let open = answers.iter().filter(|(name, answer)| {
        !is_other(name) && *answer != "EPERM" && *answer != "EPROTONOSUPPORT"
    });
    open.map(|(name, _)| name.as_str()).collect()
}

fn in_the_hosts_network() {
    on_a_network(|_ground| {
        let mut world = RootFixture::new();
        // The control: each way succeeds as long as nothing is closed.
        let before = tried(&mut world, hosts());
        let refused: Vec<_> = before
            .iter()
            .filter(|(_, answer)| *answer == "EPERM")
            .collect();
        assert_eq!(refused, [], "{before:?}");
        usual().apply(world.tree.root()).unwrap();
        let after = tried(&mut world, hosts());
        assert_eq!(open(&after), [""; 0], "{after:?}");
        for other in ["name server", "another port"] {
            assert_ne!(after[other], "EPERM", "{after:?}");
        }
    });
}

fn in_its_own() {
    on_a_network(|_ground| {
        let mut world = RootFixture::new();
        usual().apply(world.tree.root()).unwrap();
        let after = tried(&mut world, Network::None);
        let loopback = |name: &str| {
            ["4", "4any", "6", "mapped"]
                .iter()
                .any(|end| name.ends_with(end))
        };
        for (name, answer) in &after {
            let is_own = name.ends_with("own") || name.ends_with("own6");
            let is_closed = is_own || name.starts_with("metadata");
            assert_eq!(answer == "EPERM", is_closed, "{name} {after:?}");
            assert!(
                is_closed || loopback(name) || !name.contains("tcp"),
                "{name}"
            );
        }
    });
}

fn replaced() {
    on_a_network(|_ground| {
        let mut world = RootFixture::new();
        usual().apply(world.tree.root()).unwrap();
        let nothing = BlockedDestinations {
            ports: Vec::new(),
            metadata: false,
        };
        nothing.apply(world.tree.root()).unwrap();
        let after = tried(&mut world, hosts());
        assert!(after.values().all(|answer| answer != "EPERM"), "{after:?}");
        usual().apply(world.tree.root()).unwrap();
        assert_eq!(open(&tried(&mut world, hosts())), [""; 0]);
    });
}

fn metadata_open() {
    on_a_host(|host| {
        let mut world = RootFixture::new();
        let settings = NetworkConfig {
            blocks_metadata: false,
            ..settings(&world)
        };
        let networks = Networks::open(settings, &BTreeSet::new()).unwrap();
        host.serve("world", 80, true);
        let first = served(&mut world, "first", &networks, &[]);
        let reported = first.call(METADATA, 80);
        assert!(reported.starts_with("world"), "{reported}");
        first.end(&networks);
        leave_nothing(&world, networks);
    });
}
