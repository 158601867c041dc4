//! Tests of statistics of a running container that need no controller: processor time, pressure,
//! network.

use std::fs;
use std::path::Path;

use argosy_host::ContainerId;
use argosy_isolation::CgroupStats;

use crate::fixture::{RootFixture, TIMEOUT, TestCase, eventually, skip};
use crate::host::{OUTSIDE, PYTHON, call, in_network_of, on_a_host, web};
use crate::networks::{leave_nothing, networks, served};

pub(crate) const CASES: &[TestCase] = &[
    ("processor_time_is_reported_by_kind", processor_time),
    ("pressure_is_reported_if_the_kernel_supports_it", pressure),
    ("network_traffic_of_a_container_is_reported", traffic),
];

fn processor_time() {
    let mut world = RootFixture::new();
    let spec =
        world.spec("while :; do :; done & while :; do head -c 1000000 /dev/zero > /dev/null; done");
    let (mut container, _) = world.start(&spec);
    let mut seen = CgroupStats::default();
    eventually("time is counted in its own code and in the kernel", || {
        seen = container.stats();
        seen.cpu_user_us > Some(20_000) && seen.cpu_system_us > Some(20_000)
    });
    assert!(seen.cpu_us > seen.cpu_user_us, "{seen:?}");
    container.kill(0).unwrap();
    container.wait(TIMEOUT).unwrap();
    eventually("a container that has ended uses nothing", || {
        container.stats() == CgroupStats::default()
    });
}

fn pressure() {
    if !Path::new("/proc/pressure").exists() {
        skip("this kernel has no accounting of pressure".to_owned());
    }
    let mut world = RootFixture::new();
    let at_once = 2 * std::thread::available_parallelism().unwrap().get();
    let line = format!("for i in $(seq {at_once}); do (while :; do :; done) & done; wait");
    let spec = world.spec(&line);
    let (mut container, _) = world.start(&spec);
    // How much of the wait is counted depends on the kernel: 6.18 counted a hundredth of it. The
    // report is compared with two reads of the kernel's file around it.
    let file = spec.cgroup.as_ref().unwrap().join("cpu.pressure");
    let counted = || {
        let text = fs::read_to_string(&file).unwrap();
        let (_, total) = text.lines().next().unwrap().split_once("total=").unwrap();
        total.parse::<u64>().unwrap()
    };
    eventually("its processes wait for each other", || counted() > 1_000);
    let before = counted();
    let stats = container.stats();
    let some = stats.cpu_pressure.unwrap().some;
    assert!((before..=counted()).contains(&some.total_us), "{some:?}");
    assert!(
        (0.0..=100.0).contains(&some.average_10s_percent),
        "{some:?}"
    );
    assert!(stats.io_pressure.is_some() && stats.memory_pressure.is_some());
    container.kill(0).unwrap();
    container.wait(TIMEOUT).unwrap();
}

/// Sends a hundred datagrams of a thousand bytes to an address without a server.
const TALK: &str = "import socket, sys
talking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for number in range(100): talking.sendto(b'x' * 1000, (sys.argv[1], 9))";

fn traffic() {
    on_a_host(|_| {
        let mut world = RootFixture::new();
        let networks = networks(&world);
        let served = served(&mut world, "web", &networks, &[web(8081)]);
        let of = |id: &ContainerId| networks.statistics(id).unwrap();
        let before = of(&served.id).expect("it has a network");
        assert!(call(&served.address, 80).starts_with("web"));
        let called = of(&served.id).unwrap();
        // A handshake, a line and a close are some packets in each direction.
        for (before, after) in [
            (before.received, called.received),
            (before.sent, called.sent),
        ] {
            assert!(after.packets >= before.packets + 3, "{before:?} {after:?}");
            assert!(after.bytes > before.bytes + 150, "{before:?} {after:?}");
        }
        in_network_of(served.init, PYTHON, &["-c", TALK, OUTSIDE]);
        let talked = of(&served.id).unwrap();
        assert!(
            talked.sent.bytes >= called.sent.bytes + 100_000,
            "{talked:?}"
        );
        assert!(talked.sent.packets >= called.sent.packets + 100);
        assert!(
            talked.received.bytes < called.received.bytes + 50_000,
            "{talked:?}"
        );
        let other = ContainerId::new("in-the-hosts-network").unwrap();
        assert_eq!(of(&other), None);
        let id = served.id.clone();
        served.end(&networks);
        assert_eq!(of(&id), None);
        leave_nothing(&world, networks);
    });
}
