//! Ports of the host that a command in its network may bind.

use std::fs;

use argosy_isolation::network::Network;
use argosy_isolation::profile::Walls;
use argosy_isolation::{Outcome, Spec, port_filter};
use nix::sched::{CloneFlags, unshare};

use crate::entry::{end, output, sleeping};
use crate::inside::VERB;
use crate::profile::profiled;
use crate::world::{Case, World, skip, stderr, stdout};

pub(crate) const CASES: &[Case] = &[
    (
        "a_command_in_the_hosts_network_binds_its_own_ports",
        of_its_own,
    ),
    (
        "without_landlock_the_kernel_keeps_a_command_from_ports_all_the_same",
        without_landlock,
    ),
    ("a_command_without_ports_binds_none", none),
    ("who_may_bind_any_port_binds_any", any),
];

/// What this program is asked to bind, inside.
const ASKED: &str = "tcp4 31000 tcp6 31000 tcp4 31001 tcp6 31001 tcp4 0 \
    udp4 31000 udp6 31000 udp4 31001 udp6 31001 udp4 0 udp6 0";
const NOT_BY_LANDLOCK: &str = "EACCES";
const NOT_BY_FILTER: &str = "EPERM";

/// In a network of its own, which stands for the host's: so no port is taken.
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

/// A launch of this line by somebody who may bind these ports.
fn binding(world: &mut World, ports: Option<&[u16]>, landlock: bool, line: &str) -> Spec {
    let mut spec = profiled(world, line);
    fs::copy("/proc/self/exe", spec.sandbox.join("inside")).unwrap();
    spec.network = Network::Host {
        ports: ports.map(<[u16]>::to_vec),
    };
    spec.profile.as_mut().unwrap().walls = Walls {
        landlock,
        ..Walls::ALL
    };
    spec
}

/// What came of each, in the order in which it was asked.
fn bound(world: &mut World, spec: &Spec) -> Vec<String> {
    let exit = world.run(spec);
    assert_eq!(exit.outcome, Outcome::Exited(0), "{}", stderr(spec));
    words(&stdout(spec))
}

fn words(said: &str) -> Vec<String> {
    said.split_whitespace().map(str::to_owned).collect()
}

/// With this word for what is kept from TCP.
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
        let mut world = World::new();
        let refused = match port_filter::left_open(true) {
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
        let mut world = World::new();
        let spec = binding(&mut world, Some(&[31_000]), false, &line());
        assert_eq!(bound(&mut world, &spec), expected(NOT_BY_FILTER));
    });
}

fn none() {
    on_a_network(|| {
        let mut world = World::new();
        let spec = binding(&mut world, Some(&[]), false, &line());
        let found = bound(&mut world, &spec);
        let bound = found.iter().filter(|word| *word == "bound").count();
        assert_eq!(bound, 2, "any port of UDP, of each version: {found:?}");
    });
}

fn any() {
    on_a_network(|| {
        let mut world = World::new();
        let spec = binding(&mut world, None, true, &line());
        let found = bound(&mut world, &spec);
        assert!(found.iter().all(|word| word == "bound"), "{found:?}");
    });
}
