//! Tests of the host ports that a command in the host's network may bind.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use argosy_isolation::profile::IsolationLayers;
use argosy_isolation::{CommandOutcome, LaunchSpec, Network, port_filter};
use nix::sched::{CloneFlags, unshare};

use crate::bomb_programs::VERB;
use crate::escapes::PYTHON;
use crate::exec_confinement::{end, output, sleeping};
use crate::fixture::{RootFixture, TestCase, skip, stderr, stdout};
use crate::profile::profiled;

pub(crate) const CASES: &[TestCase] = &[
    (
        "a_command_in_the_host_network_binds_its_own_ports",
        of_its_own,
    ),
    (
        "without_landlock_the_kernel_keeps_a_command_from_ports_all_the_same",
        without_landlock,
    ),
    ("a_command_without_ports_cannot_bind_any", none),
    ("an_unrestricted_command_can_bind_any_port", any),
    (
        "listening_and_other_protocols_do_not_bypass_the_port_restriction",
        by_other_ways,
    ),
];

/// The ports that this program tries to bind, inside.
const ASKED: &str = "tcp4 31000 tcp6 31000 tcp4 31001 tcp6 31001 tcp4 0 \
    udp4 31000 udp6 31000 udp4 31001 udp6 31001 udp4 0 udp6 0";
/// Tries sockets of every kind, and listening at unbound ports: one line each, with the attempt and
/// its result.
const ATTEMPTS: &str = r#"exec /usr/bin/python3 -I -S - << 'END'
import errno, socket

KINDS = [("udplite", socket.SOCK_DGRAM, 136), ("sctp", socket.SOCK_STREAM, 132), ("sctp-packets", socket.SOCK_SEQPACKET, 132),
         ("dccp", 6, 33), ("tcp", socket.SOCK_STREAM, 6), ("mptcp", socket.SOCK_STREAM, 262), ("udp", socket.SOCK_DGRAM, 17)]
FAMILIES = [("4", socket.AF_INET, "127.0.0.1"), ("6", socket.AF_INET6, "::1")]

def attempt(name, action):
    try:
        said = action()
    except TimeoutError:
        said = "silence"
    except OSError as error:
        said = errno.errorcode[error.errno]
    print(name, said, flush=True)

# The kernel may close the sockets of an earlier attempt after their process has.
def bind(one, port):
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    one.bind(("", port))

def bound(family, kind, protocol, port):
    with socket.socket(family, kind, protocol) as one:
        bind(one, port)
    return "bound"

def heard(family, here, protocol, port):
    with socket.socket(family, socket.SOCK_STREAM, protocol) as one:
        if port:
            bind(one, port)
        one.listen()
        at = one.getsockname()[1]
        with socket.socket(family, socket.SOCK_STREAM) as other:
            other.settimeout(1)
            other.connect((here, at))
        one.settimeout(10)
        one.accept()[0].close()
    return "heard"

for version, family, here in FAMILIES:
    for name, kind, protocol in KINDS:
        attempt(f"{name}{version} made", lambda: socket.socket(family, kind, protocol).close())
    for port in (31000, 31001):
        attempt(f"mptcp{version} {port}", lambda: bound(family, socket.SOCK_STREAM, 262, port))
    for name, protocol in (("tcp", 6), ("mptcp", 262)):
        attempt(f"{name}{version} at its own", lambda: heard(family, here, protocol, 31000))
        attempt(f"{name}{version} at any", lambda: heard(family, here, protocol, 0))
END"#;
/// Errors for a protocol that the kernel does not support.
const ABSENT: [&str; 3] = ["EPROTONOSUPPORT", "ESOCKTNOSUPPORT", "ENOPROTOOPT"];
const NOT_BY_LANDLOCK: &str = "EACCES";
const NOT_BY_FILTER: &str = "EPERM";

/// Runs in a separate network that stands for the host's: so no port is taken.
fn on_a_network(test: impl FnOnce() + Send) {
    if let Err(error) = port_filter::supported() {
        skip(format!("this kernel has no filters of ports: {error}"));
    }
    let ended = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            test();
        });
        thread.join()
    });
    if let Err(cause) = ended {
        std::panic::resume_unwind(cause);
    }
}

fn line() -> String {
    format!("./inside {VERB} bind {ASKED}")
}

/// Returns a launch of this line by a user who may bind these ports.
fn binding(
    world: &mut RootFixture,
    ports: Option<&[u16]>,
    landlock: bool,
    line: &str,
) -> LaunchSpec {
    let mut spec = profiled(world, line);
    fs::copy("/proc/self/exe", spec.sandbox.join("inside")).unwrap();
    spec.network = Network::Host {
        ports: ports.map(<[u16]>::to_vec),
    };
    spec.profile.as_mut().unwrap().isolation_layers = IsolationLayers {
        landlock,
        ..IsolationLayers::ALL
    };
    spec
}

/// Returns the results, in the order of the attempts.
fn bound(world: &mut RootFixture, spec: &LaunchSpec) -> Vec<String> {
    let exit = world.run(spec);
    assert_eq!(exit.outcome, CommandOutcome::Exited(0), "{}", stderr(spec));
    words(&stdout(spec))
}

fn words(reported: &str) -> Vec<String> {
    reported.split_whitespace().map(str::to_owned).collect()
}

/// Returns the expected results, with this word for refused TCP ports.
fn expected(refused: &str) -> Vec<String> {
    let tcp = ["bound", "bound", refused, refused, refused];
    let filter = NOT_BY_FILTER;
    let udp = ["bound", "bound", filter, filter, "bound", "bound"];
    tcp.iter()
        .chain(&udp)
        .map(|word| (*word).to_owned())
        .collect()
}

fn of_its_own() {
    on_a_network(|| {
        let mut world = RootFixture::new();
        let refused = match port_filter::unenforced_name(true) {
            "udp-ports" => NOT_BY_LANDLOCK,
            _ => NOT_BY_FILTER,
        };
        let spec = binding(&mut world, Some(&[31_000]), true, &line());
        assert_eq!(bound(&mut world, &spec), expected(refused));
        let spec = sleeping(binding(&mut world, Some(&[31_000]), true, ""));
        let (container, handle) = world.start(&spec);
        let missing = &handle.missing.controllers;
        assert!(
            !missing.iter().any(|name| name.ends_with("ports")),
            "{missing:?}"
        );
        let entered = words(&output(&container, &line()));
        assert_eq!(entered, expected(refused), "nor does one that enters");
        end(container);
    });
}

fn without_landlock() {
    on_a_network(|| {
        let mut world = RootFixture::new();
        let spec = binding(&mut world, Some(&[31_000]), false, &line());
        assert_eq!(bound(&mut world, &spec), expected(NOT_BY_FILTER));
    });
}

fn none() {
    on_a_network(|| {
        let mut world = RootFixture::new();
        let spec = binding(&mut world, Some(&[]), false, &line());
        let found = bound(&mut world, &spec);
        let bound = found.iter().filter(|word| *word == "bound").count();
        assert_eq!(bound, 2, "any port of UDP, of each version: {found:?}");
    });
}

fn any() {
    on_a_network(|| {
        let mut world = RootFixture::new();
        let spec = binding(&mut world, None, true, &line());
        let found = bound(&mut world, &spec);
        assert!(found.iter().all(|word| word == "bound"), "{found:?}");
    });
}

/// Returns the result of each attempt, by its name, for a user who may bind these ports.
fn tried(world: &mut RootFixture, ports: Option<&[u16]>) -> BTreeMap<String, String> {
    let spec = binding(world, ports, true, ATTEMPTS);
    let exit = world.run(&spec);
    assert_eq!(exit.outcome, CommandOutcome::Exited(0), "{}", stderr(&spec));
    let reported = stdout(&spec);
    let lines = reported.lines().map(|line| line.rsplit_once(' ').unwrap());
    lines
        .map(|(name, outcome)| (name.to_owned(), outcome.to_owned()))
        .collect()
}

/// Compares with a command without restrictions, which shows what this kernel supports.
fn by_other_ways() {
    if !Path::new(PYTHON).exists() {
        skip("needs the package python3".to_owned());
    }
    on_a_network(|| {
        let up = Command::new("ip")
            .args(["link", "set", "lo", "up"])
            .status();
        assert!(up.unwrap().success());
        let mut world = RootFixture::new();
        let open = tried(&mut world, None);
        let done = ["None", "bound", "heard"];
        for (name, outcome) in &open {
            let known = done.contains(&outcome.as_str()) || ABSENT.contains(&outcome.as_str());
            assert!(known, "{name}: {outcome}");
        }
        let absent: Vec<_> = open
            .iter()
            .filter(|(_, outcome)| ABSENT.contains(&outcome.as_str()))
            .map(|(name, _)| name.as_str())
            .collect();
        if !absent.is_empty() {
            println!("this kernel has nothing of: {}", absent.join(", "));
        }
        let found = tried(&mut world, Some(&[31_000]));
        let is_there = |name: &str| !absent.contains(&name);
        listening(&is_there, &found);
        protocols(&is_there, &found);
    });
}

fn listening(is_there: &dyn Fn(&str) -> bool, found: &BTreeMap<String, String>) {
    for protocol in ["tcp4", "tcp6", "mptcp4", "mptcp6"] {
        let of = |what: &str| format!("{protocol} {what}");
        if is_there(&of("at any")) {
            assert_eq!(found[&of("at its own")], "heard", "{protocol}");
            assert_eq!(found[&of("at any")], "silence", "{protocol}");
        }
    }
}

fn protocols(is_there: &dyn Fn(&str) -> bool, found: &BTreeMap<String, String>) {
    for version in ["4", "6"] {
        for refused in ["udplite", "sctp", "sctp-packets", "dccp"] {
            let made = format!("{refused}{version} made");
            if is_there(&made) {
                assert_eq!(found[&made], NOT_BY_FILTER, "{made}");
            }
        }
        for allowed in ["tcp", "udp"] {
            assert_eq!(found[&format!("{allowed}{version} made")], "None");
        }
        let paths = |port: u16| &found[&format!("mptcp{version} {port}")];
        if is_there(&format!("mptcp{version} 31000")) {
            assert_eq!(paths(31_000), "bound");
            assert!([NOT_BY_FILTER, NOT_BY_LANDLOCK].contains(&paths(31_001).as_str()));
        }
    }
}
