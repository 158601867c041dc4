//! Tests of container networks over IPv6: reachability, refusals, and the host's settings.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use argosy_network::Networks;
use argosy_network::{NetworkConfig, why_no_ipv6};

use crate::fixture::{RootFixture, TestCase, eventually, skip};
use crate::host::{
    CALL, HOST, HOST6, LinkedHost, METADATA6, OUTSIDE6, PYTHON, call, in_network_of, ip, on_a_host,
    run, web,
};
use crate::networks::{
    FamilyFixture, GATEWAY6, PREFIX6, ServingContainer, expect_no_spoofing, expect_reachable,
    leave_nothing, networks, served, settings, wired,
};

pub(crate) const CASES: &[TestCase] = &[
    (
        "containers_reach_the_internet_and_are_reachable_over_ipv6",
        reach,
    ),
    (
        "containers_are_isolated_from_each_other_and_from_the_host_over_ipv6",
        isolated,
    ),
    (
        "containers_reach_each_other_over_ipv6_if_the_operator_allows_it",
        open,
    ),
    (
        "a_container_cannot_spoof_the_ipv6_address_of_another",
        spoofing,
    ),
    (
        "router_advertisements_of_a_container_are_ignored",
        advertisements,
    ),
    (
        "enabling_ipv6_networks_keeps_the_hosts_default_route",
        forwarding,
    ),
    ("a_lost_agent_leaves_no_ipv6_rules_and_no_forwarding", lost),
    ("a_prefix_that_overlaps_a_route_is_refused", overlap),
    ("containers_have_no_ipv6_on_a_host_without_ipv6", none),
];

/// Sends one datagram to an address with another source address.
const SPOOF: &str = "import socket, struct, sys
def packed(address): return socket.inet_pton(socket.AF_INET6, address)
source, target, text = sys.argv[1], sys.argv[2], sys.argv[3].encode()
length = 8 + len(text)
ends = packed(source) + packed(target)
def datagram(check): return struct.pack('!HHHH', 999, 999, length, check) + text
summed = ends + struct.pack('!II', length, 17) + datagram(0)
summed += bytes(len(summed) % 2)
check = sum(struct.unpack(f'!{len(summed) // 2}H', summed))
while check >> 16: check = (check & 0xffff) + (check >> 16)
header = struct.pack('!IHBB', 6 << 28, length, 17, 64) + ends
raw = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW)
raw.sendto(header + datagram(~check & 0xffff or 0xffff), (target, 0))";

/// Prints the senders of datagrams, until the last one.
const RECEIVE: &str = "import socket
hearing = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
hearing.bind(('::', 999))
print('ready', flush=True)
text = b''
while text != b'last':
    text, address = hearing.recvfrom(100)
    print(address[0], 'says', text.decode(), flush=True)";

/// Advertises its sender as a router on a device, for this many seconds.
const ADVERTISE: &str = "import socket, struct, sys
device, target, seconds = socket.if_nametoindex(sys.argv[1]), sys.argv[2], int(sys.argv[3])
raw = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
for option in (socket.IPV6_UNICAST_HOPS, socket.IPV6_MULTICAST_HOPS):
    raw.setsockopt(socket.IPPROTO_IPV6, option, 255)
raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, device)
link = device if target.startswith('ff') else 0
raw.sendto(struct.pack('!BBHBBHII', 134, 0, 0, 64, 0, seconds, 0, 0), (target, 0, 0, link))";

const ALL_NODES: &str = "ff02::1";

fn on_a_host_with_ipv6(test: impl FnOnce(&mut LinkedHost) + Send) {
    if let Some(why) = why_no_ipv6() {
        skip(format!("needs IPv6: {why}"));
    }
    on_a_host(test);
}

fn setting(device: &str, name: &str) -> String {
    let path = format!("/proc/sys/net/ipv6/conf/{device}/{name}");
    fs::read_to_string(path).unwrap().trim().to_owned()
}

fn set(device: &str, name: &str, value: &str) {
    fs::write(format!("/proc/sys/net/ipv6/conf/{device}/{name}"), value).unwrap();
}

/// Returns the settings that enabling forwarding may not change permanently.
pub(crate) fn forwarding_settings() -> BTreeMap<String, String> {
    if why_no_ipv6().is_some() {
        return BTreeMap::new();
    }
    let devices = ["all", "default", "out"];
    let names = ["forwarding", "accept_ra"];
    let all = devices.iter().flat_map(|device| {
        names.map(|name| (format!("{name} of {device}"), setting(device, name)))
    });
    all.collect()
}

/// Returns the host end of a container's link.
fn device_of(served: &ServingContainer) -> String {
    let line = run("ip", &["-6", "-o", "route", "get", &served.address6]);
    let mut words = line.split(' ').skip_while(|word| *word != "dev");
    words.nth(1).unwrap().to_owned()
}

fn reach() {
    on_a_host_with_ipv6(|host| {
        let mut world = RootFixture::new();
        let networks = networks(&world);
        host.serve("world", 7000, true);
        let first = served(&mut world, "first", &networks, &[web(8081)]);
        let second = served(&mut world, "second", &networks, &[web(8082)]);
        let ending = first.address6.strip_prefix("fd12:3456:789a::ab7:");
        assert!(ending.is_some(), "{}", first.address6);
        let own = in_network_of(first.init, "ip", &["-6", "-o", "address", "show", "eth0"]);
        assert_eq!(
            own.lines().count(),
            1,
            "no other, link-local neither: {own}"
        );
        assert!(
            own.contains(&first.address6) && !own.contains("tentative"),
            "{own}"
        );
        for name in ["accept_ra", "accept_redirects", "autoconf"] {
            let path = format!("/proc/sys/net/ipv6/conf/eth0/{name}");
            let inside = in_network_of(first.init, "cat", &[&path]);
            assert_eq!(inside.trim(), "0", "{name}");
            assert_eq!(setting(&device_of(&first), name), "0", "{name}");
        }

        let routes = in_network_of(first.init, "ip", &["-6", "route", "show"]);
        let ways = routes.lines().filter_map(|line| line.split(' ').next());
        let known = BTreeSet::from(["default", &first.address6, GATEWAY6]);
        assert_eq!(ways.collect::<BTreeSet<_>>(), known, "{routes}");

        let output = first.call(OUTSIDE6, 7000);
        assert_eq!(
            output,
            format!("world hears {HOST6}"),
            "by the host's address"
        );
        let from_outside = host.outside(PYTHON, &["-c", CALL, HOST6, "8081"]);
        assert_eq!(from_outside.trim(), format!("first hears {OUTSIDE6}"));
        for address in [HOST6, GATEWAY6] {
            let output = call(address, 8082);
            assert!(output.starts_with("second hears"), "{address}: {output}");
        }
        for caller in [&first, &second] {
            let output = caller.call(HOST6, 8082);
            assert_eq!(output, format!("second hears {GATEWAY6}"), "hairpin");
            let output = caller.call(GATEWAY6, 8081);
            assert_eq!(output, format!("first hears {GATEWAY6}"), "hairpin");
        }
        first.end(&networks);
        assert!(!call(HOST6, 8081).contains("first"));
        second.end(&networks);
        leave_nothing(&world, networks);
    });
}

fn isolated() {
    on_a_host_with_ipv6(|host| {
        let mut world = RootFixture::new();
        let mut settings = settings(&world);
        settings.denied = vec![format!("[{OUTSIDE6}]:7001").parse().unwrap()];
        let networks = Networks::open(settings, &BTreeSet::new()).unwrap();
        host.serve("agent", 5051, false);
        for port in [80, 7000, 7001] {
            host.serve("world", port, true);
        }
        let first = served(&mut world, "first", &networks, &[]);
        let second = served(&mut world, "second", &networks, &[web(8082)]);
        assert!(
            first.call(OUTSIDE6, 7000).starts_with("world"),
            "the control"
        );
        assert_eq!(call("::1", 5051), "agent hears ::1", "the control");
        assert!(call(GATEWAY6, 5051).starts_with("agent"), "the control");
        let output = host.outside(PYTHON, &["-c", CALL, METADATA6, "80"]);
        assert!(output.starts_with("world"), "the control: {output}");
        // A route for each, as on a router of the provider.
        ip(&format!("route add {METADATA6} via {OUTSIDE6}"));
        ip(&format!("route add 64:ff9b::/96 via {OUTSIDE6}"));
        assert!(call(METADATA6, 80).starts_with("world"), "the control");
        let denied = [
            (second.address6.as_str(), 80),
            (HOST6, 5051),
            (GATEWAY6, 5051),
            (METADATA6, 80),
            (OUTSIDE6, 7001),
            ("64:ff9b::a9fe:a9fe", 80),
        ];
        for (address, port) in denied {
            let output = first.call(address, port);
            assert_eq!(output, "TimeoutError", "{address} {port}");
        }
        // The kernel immediately refuses destinations without a route.
        let links = run("ip", &["-6", "-o", "address", "show", "scope", "link"]);
        let words: Vec<_> = links.split_whitespace().collect();
        let link_locals = words.iter().filter_map(|word| word.strip_suffix("/64"));
        let mapped = [HOST, &second.address].map(|four| format!("::ffff:{four}"));
        let forms = link_locals.map(|address| format!("{address}%eth0"));
        let forms: Vec<_> = forms.chain(mapped).collect();
        assert!(
            forms.len() > 2,
            "the host has link-local addresses: {links}"
        );
        for form in &forms {
            let output = first.call(form, if form.contains('%') { 5051 } else { 80 });
            assert!(!output.contains("hears"), "{form}: {output}");
            let output = first.call(form, 5051);
            assert!(!output.contains("hears"), "{form}: {output}");
        }
        // A neighbour of the host with a route to containers.
        host.outside("ip", &["route", "add", PREFIX6, "via", HOST6]);
        let output = host.outside(PYTHON, &["-c", CALL, &first.address6, "80"]);
        assert_eq!(output.trim(), "TimeoutError");
        let output = call(&first.address6, 80);
        assert_eq!(output, format!("first hears {GATEWAY6}"), "the control");
        first.end(&networks);
        second.end(&networks);
        leave_nothing(&world, networks);
    });
}

fn open() {
    on_a_host_with_ipv6(|_| expect_reachable(|served| &served.address6));
}

fn spoofing() {
    const BY_IPV6: FamilyFixture = FamilyFixture {
        spoof: SPOOF,
        receive: RECEIVE,
        address: |served| &served.address6,
        host: HOST6,
        outside: OUTSIDE6,
    };
    const SPOOFED: [&str; 6] = [
        "2001:db8::9",
        "fd12:3456:789a::9",
        HOST6,
        GATEWAY6,
        "::1",
        "::ffff:10.183.0.5",
    ];
    on_a_host_with_ipv6(|host| expect_no_spoofing(host, &BY_IPV6, &SPOOFED));
}

/// Checks that a host does not accept a container as a router: the rules and the device's setting
/// each prevent it.
fn advertisements() {
    on_a_host_with_ipv6(|_| {
        let mut world = RootFixture::new();
        let networks = networks(&world);
        let first = served(&mut world, "first", &networks, &[]);
        let device = device_of(&first);
        // No container has such an address: host root adds it.
        let add = ["address", "add", "fe80::99/64", "dev", "eth0", "nodad"];
        in_network_of(first.init, "ip", &add);
        let advertised = || {
            for target in [ALL_NODES, GATEWAY6] {
                let arguments = ["-c", ADVERTISE, "eth0", target, "1800"];
                in_network_of(first.init, PYTHON, &arguments);
            }
            // The container's next packets arrive later.
            assert!(call(&first.address6, 80).starts_with("first"));
            let routes = run("ip", &["-6", "route", "show", "default", "dev", &device]);
            routes.contains("fe80::99")
        };
        set(&device, "accept_ra", "2");
        assert!(!advertised(), "the rules hold");
        run("nft", &["flush", "ruleset"]);
        set(&device, "accept_ra", "0");
        assert!(!advertised(), "the setting holds");
        set(&device, "accept_ra", "2");
        eventually("without either the host follows", advertised);
        networks.sweep(&BTreeSet::from([first.id.clone()])).unwrap();
        first.end(&networks);
        leave_nothing(&world, networks);
    });
}

fn default_routes() -> String {
    run("ip", &["-6", "route", "show", "default", "proto", "ra"])
}

/// The world advertises itself as a router for so long.
fn advertise(host: &LinkedHost, seconds: &str) {
    host.outside(PYTHON, &["-c", ADVERTISE, "in", ALL_NODES, seconds]);
}

fn forwarding() {
    on_a_host_with_ipv6(|host| {
        let world = RootFixture::new();
        let known = wired(host, "more", "198.51.100");
        wire_ipv6("more", known, "2001:db8:a");
        host.outside("ip", &["-6", "route", "add", "default", "via", HOST6]);
        host.serve("world", 7000, true);
        // The host has its default route from the world's advertisements, and an operator's own
        // setting.
        set("more", "forwarding", "1");
        let before = forwarding_settings();
        assert_eq!(before["accept_ra of out"], "1");
        let link_local = ["address", "add", "fe80::77/64", "dev", "in", "nodad"];
        host.outside("ip", &link_local);
        eventually("the host hears of a router", || {
            advertise(host, "1800");
            default_routes().contains("via fe80::")
        });
        let called = |from| in_network_of(from, PYTHON, &["-c", CALL, OUTSIDE6, "7000"]);

        let networks = networks(&world);
        let mut switched = before.clone();
        switched.insert("forwarding of all".to_owned(), "1".to_owned());
        assert_eq!(forwarding_settings(), switched, "nothing else");
        assert_eq!(setting("more", "forwarding"), "1");
        assert!(default_routes().contains("via fe80::"), "the route is kept");
        assert_eq!(called(known).trim(), "TimeoutError");
        // Like Docker's bridge, or a VPN.
        let later = wired(host, "later", "203.0.113");
        wire_ipv6("later", later, "2001:db8:b");
        assert_eq!(setting("later", "forwarding"), "0", "as a new device was");
        assert_eq!(called(later).trim(), "world hears 2001:db8:b::2");
        eventually("the host still hears", || {
            advertise(host, "0");
            default_routes().is_empty()
        });
        networks.remove().unwrap();
        assert_eq!(setting("all", "forwarding"), "1", "what has come needs it");
        let output = called(known);
        assert_eq!(output.trim(), "world hears 2001:db8:a::2", "the control");
        let networks = crate::networks::networks(&world);
        assert_eq!(called(known).trim(), "TimeoutError", "it is noted");
        ip("link delete later");
        networks.remove().unwrap();
        assert_eq!(forwarding_settings(), before, "as it was");
        assert_eq!(setting("more", "forwarding"), "1");
        let notes = fs::read_dir(settings(&world).directory).unwrap().flatten();
        let notes = notes.filter(|entry| {
            let name = entry.file_name();
            name.to_string_lossy().contains("forwarding")
        });
        assert_eq!(notes.count(), 0);
    });
}

/// Adds IPv6 to a network from `wired`.
fn wire_ipv6(device: &str, beyond: i32, prefix: &str) {
    ip(&format!("address add {prefix}::1/64 dev {device} nodad"));
    let address = format!("{prefix}::2/64");
    let add = ["address", "add", &address, "dev", "in", "nodad"];
    in_network_of(beyond, "ip", &add);
    let gateway = format!("{prefix}::1");
    let add = ["-6", "route", "add", "default", "via", &gateway];
    in_network_of(beyond, "ip", &add);
}

/// Removes the state of an agent that was killed without tasks, and whose directory was deleted.
fn lost() {
    on_a_host_with_ipv6(|_| {
        let world = RootFixture::new();
        let before = forwarding_settings();
        let owner = world.work().join("lost");
        fs::create_dir(&owner).unwrap();
        let lost = NetworkConfig {
            owner: owner.clone(),
            pool_size: 0,
            ..settings(&world)
        };
        drop(Networks::open(lost, &BTreeSet::new()).unwrap());
        fs::remove_dir(&owner).unwrap();
        assert_eq!(setting("all", "forwarding"), "1");
        leave_nothing(&world, networks(&world));
        assert_eq!(forwarding_settings(), before);
    });
}

fn overlap() {
    on_a_host_with_ipv6(|_| {
        let world = RootFixture::new();
        ip("route add unreachable fd00::/8");
        networks(&world).remove().unwrap();
        ip(&format!("route add {PREFIX6} via {OUTSIDE6}"));
        let error = Networks::open(settings(&world), &BTreeSet::new()).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "the subnet {PREFIX6} for containers overlaps {PREFIX6} on out: give a free subnet"
            )
        );
        assert_eq!(run("nft", &["list", "ruleset"]), "");
    });
}

fn none() {
    on_a_host_with_ipv6(|host| {
        let mut world = RootFixture::new();
        host.serve("world", 7000, true);
        set("all", "disable_ipv6", "1");
        assert!(why_no_ipv6().unwrap().contains("disable_ipv6"));
        let networks = networks(&world);
        let first = served(&mut world, "first", &networks, &[web(8081)]);
        assert_eq!(first.address6, "");
        let own = in_network_of(first.init, "ip", &["-6", "-o", "address", "show", "eth0"]);
        assert_eq!(own, "");
        assert_eq!(setting("all", "forwarding"), "0");
        assert_eq!(
            first.call(crate::host::OUTSIDE, 7000),
            format!("world hears {HOST}")
        );
        assert!(call(HOST, 8081).starts_with("first"));
        first.end(&networks);
        leave_nothing(&world, networks);
    });
}
