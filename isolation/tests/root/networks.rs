//! Tests of container networks: reachability, ownership of ports and addresses, and recovery after
//! crashes.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use argosy_host::ContainerId;
use argosy_isolation::{CommandOutcome, Container, GeneratedFile, LaunchSpec, Network, destroy};
use argosy_network::Networks;
use argosy_network::{
    ContainerNamespace, InterContainerTraffic, NetworkConfig, PortPublication, Subnet, names,
};

use crate::exec_confinement::output;
use crate::fixture::{RootFixture, TIMEOUT, TestCase, eventually, stderr, stdout};
use crate::host::{
    CALL, HOST, LinkedHost, METADATA, OUTSIDE, PYTHON, SERVE, call, in_network_of, ip, on_a_host,
    quoted, run, web,
};
use crate::profile::profiled;

pub(crate) const CASES: &[TestCase] = &[
    ("without_a_network_there_is_only_loopback", none),
    (
        "containers_reach_the_internet_and_are_reachable_at_published_ports",
        reach,
    ),
    (
        "containers_are_isolated_from_each_other_and_from_the_host",
        isolated,
    ),
    (
        "containers_reach_each_other_if_the_operator_allows_it",
        open,
    ),
    ("a_container_cannot_spoof_the_address_of_another", spoofing),
    ("a_port_has_one_owner", one_owner),
    ("an_address_is_usable_at_once_after_its_release", small),
    ("networks_are_unchanged_after_an_agent_restart", away),
    ("a_subnet_that_overlaps_a_route_is_refused", overlap),
    ("support_for_networks_is_detected_without_leftovers", trial),
    ("forwarding_between_host_devices_stays_off", forwarding),
    (
        "a_sweep_leaves_nothing_regardless_of_when_the_supervisor_dies",
        killed,
    ),
    ("two_hundred_containers_leave_nothing", many),
    ("a_container_resolves_its_own_names", own_names),
];

/// Sends one datagram to an address with another source address, as host root may in any namespace.
const SPOOF: &str = "import socket, struct, sys
def packed(address): return socket.inet_aton(address)
source, target, text = sys.argv[1], sys.argv[2], sys.argv[3].encode()
datagram = struct.pack('!HHHH', 999, 999, 8 + len(text), 0) + text
header = struct.pack('!BBHHHBBH4s4s', 0x45, 0, 28 + len(text), 1, 0, 64, 17, 0, packed(source), packed(target))
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
raw.sendto(header + datagram, (target, 0))";

/// Prints the senders of datagrams, until the last one.
const RECEIVE: &str = "import socket
hearing = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
hearing.bind(('', 999))
print('ready', flush=True)
text = b''
while text != b'last':
    text, address = hearing.recvfrom(100)
    print(address[0], 'says', text.decode(), flush=True)";

/// The IPv6 prefix of containers, and the gateway's address.
pub(crate) const PREFIX6: &str = "fd12:3456:789a::/64";
pub(crate) const GATEWAY6: &str = "fd12:3456:789a::ab7:1";

pub(crate) fn settings(world: &RootFixture) -> NetworkConfig {
    NetworkConfig {
        owner: world.work().to_owned(),
        directory: world.work().join("networks"),
        subnet: Subnet::DEFAULT,
        subnet6: Some(PREFIX6.parse().unwrap()),
        pool_size: 2,
        traffic: InterContainerTraffic::Isolated,
        blocks_metadata: true,
        denied: Vec::new(),
    }
}

pub(crate) fn networks(world: &RootFixture) -> Networks {
    Networks::open(settings(world), &BTreeSet::new()).unwrap()
}

/// A container that serves its port 80.
pub(crate) struct ServingContainer {
    container: Container,
    pub(crate) id: ContainerId,
    pub(crate) address: String,
    /// Empty if it has none.
    pub(crate) address6: String,
    pub(crate) init: i32,
}

impl ServingContainer {
    /// Returns the answer of an address to this container.
    pub(crate) fn call(&self, address: &str, port: u16) -> String {
        let port = port.to_string();
        let reported = in_network_of(self.init, PYTHON, &["-c", CALL, address, &port]);
        reported.trim().to_owned()
    }

    pub(crate) fn end(self, networks: &Networks) {
        let id = self.kill();
        networks.release(&id).unwrap();
    }

    /// Ends the container. Its network is not released.
    pub(crate) fn kill(mut self) -> ContainerId {
        self.container.kill(0).unwrap();
        self.container.wait(TIMEOUT).unwrap();
        self.id
    }
}

pub(crate) fn joined(
    world: &mut RootFixture,
    line: &str,
    networks: &Networks,
    ports: &[PortPublication],
) -> (LaunchSpec, ContainerNamespace) {
    let mut spec = profiled(world, line);
    spec.network = Network::Joined;
    let network = networks.acquire(&spec.id, ports).unwrap();
    (spec, network)
}

fn launch(world: &mut RootFixture, spec: &LaunchSpec, network: ContainerNamespace) -> Container {
    use std::os::fd::AsFd;
    let launcher = world.launcher.as_mut().unwrap();
    launcher
        .launch_joined(spec, network.namespace.as_fd())
        .unwrap()
}

pub(crate) fn served(
    world: &mut RootFixture,
    name: &str,
    networks: &Networks,
    ports: &[PortPublication],
) -> ServingContainer {
    let line = format!("exec {} 80 {name}", quoted(SERVE));
    let (spec, network) = joined(world, &line, networks, ports);
    serving(world, &spec, network, |address| {
        call(address, 80).starts_with(name)
    })
}

/// Launches a container in its network, and waits until the host is served at its address.
pub(crate) fn serving(
    world: &mut RootFixture,
    spec: &LaunchSpec,
    network: ContainerNamespace,
    is_served: impl Fn(&str) -> bool,
) -> ServingContainer {
    let address = network.address.to_string();
    let address6 = network
        .address6
        .map_or(String::new(), |six| six.to_string());
    let mut container = launch(world, spec, network);
    let handle = container.wait_started(TIMEOUT).unwrap().unwrap();
    eventually("the container serves", || is_served(&address));
    ServingContainer {
        container,
        id: spec.id.clone(),
        address,
        address6,
        init: handle.init.pid,
    }
}

/// Returns the devices of containers.
pub(crate) fn devices() -> Vec<String> {
    let links = run("ip", &["-o", "link"]);
    let names = links.lines().filter_map(|line| line.split(": ").nth(1));
    let names = names.filter_map(|name| name.split('@').next());
    names
        .filter(|name| name.starts_with("argo"))
        .map(str::to_owned)
        .collect()
}

/// Returns the records of addresses and ports, and their drafts.
fn records(world: &RootFixture) -> Vec<PathBuf> {
    let kinds = ["addresses", "ports"].map(|kind| world.work().join("networks").join(kind));
    let entries = kinds.iter().flat_map(|kind| fs::read_dir(kind).unwrap());
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// Returns the number of namespaces that this process, as the agent, holds open.
fn held_namespaces() -> usize {
    let open = fs::read_dir("/proc/self/fd").unwrap().flatten();
    let open = open.filter_map(|entry| fs::read_link(entry.path()).ok());
    open.filter(|target| target.to_string_lossy().starts_with("net:["))
        .count()
}

/// Removes the agent from its host, and checks that nothing is left.
pub(crate) fn leave_nothing(world: &RootFixture, networks: Networks) {
    networks.remove().unwrap();
    assert_eq!(records(world), Vec::<PathBuf>::new());
    assert_eq!(run("nft", &["list", "ruleset"]), "");
    eventually("no device is left", || devices().is_empty());
    eventually("no namespace is held", || held_namespaces() == 0);
}

fn none() {
    let mut world = RootFixture::new();
    let line = format!(
        "tail -n +3 /proc/net/dev | cut -d: -f1; {} 8000 me & until {} 127.0.0.1 8000 | grep hears; do :; done; kill $!",
        quoted(SERVE),
        quoted(CALL)
    );
    let mut spec = profiled(&mut world, &line);
    spec.network = Network::None;
    let exit = world.run(&spec);
    assert_eq!(
        exit.outcome,
        CommandOutcome::Exited(0),
        "{exit:?} {}",
        stderr(&spec)
    );
    let seen = stdout(&spec);
    let lines: Vec<_> = seen.lines().map(str::trim).collect();
    assert_eq!(lines, ["lo", "me hears 127.0.0.1"]);
}

fn reach() {
    on_a_host(|host| {
        let mut world = RootFixture::new();
        let networks = networks(&world);
        host.serve("world", 7000, true);
        let line = format!("{} {OUTSIDE} 7000", quoted(CALL));
        let (spec, network) = joined(&mut world, &line, &networks, &[]);
        let exit = launch(&mut world, &spec, network).wait(TIMEOUT).unwrap();
        assert_eq!(exit.outcome, CommandOutcome::Exited(0), "{}", stderr(&spec));
        assert_eq!(
            stdout(&spec),
            format!("world hears {HOST}\n"),
            "by the host's address"
        );
        networks.release(&spec.id).unwrap();

        let first = served(&mut world, "first", &networks, &[web(8081)]);
        let second = served(&mut world, "second", &networks, &[web(8082)]);
        let reported = output(&first.container, &line);
        assert_eq!(
            reported,
            format!("world hears {HOST}\n"),
            "from an entered one"
        );
        let from_outside = host.outside(PYTHON, &["-c", CALL, HOST, "8081"]);
        assert_eq!(from_outside.trim(), format!("first hears {OUTSIDE}"));
        for address in ["127.0.0.1", HOST, "10.183.0.1"] {
            let reported = call(address, 8082);
            assert!(
                reported.starts_with("second hears"),
                "{address}: {reported}"
            );
        }
        for caller in [&first, &second] {
            let reported = caller.call(HOST, 8082);
            assert!(reported.starts_with("second hears"), "hairpin: {reported}");
            let reported = caller.call("10.183.0.1", 8081);
            assert!(reported.starts_with("first hears"), "hairpin: {reported}");
        }
        first.end(&networks);
        assert!(!call(HOST, 8081).contains("first"));
        second.end(&networks);
        leave_nothing(&world, networks);
    });
}

fn isolated() {
    on_a_host(|host| {
        let mut world = RootFixture::new();
        let mut settings = settings(&world);
        settings.denied = vec![format!("{OUTSIDE}:7001").parse().unwrap()];
        let networks = Networks::open(settings, &BTreeSet::new()).unwrap();
        host.serve("agent", 5051, false);
        for port in [53, 80, 7000, 7001] {
            host.serve("world", port, true);
        }
        let first = served(&mut world, "first", &networks, &[]);
        let second = served(&mut world, "second", &networks, &[web(8082)]);
        assert!(
            first.call(OUTSIDE, 7000).starts_with("world"),
            "the control"
        );
        assert_eq!(
            call("127.0.0.1", 5051),
            "agent hears 127.0.0.1",
            "the control"
        );
        let reported = first.call(METADATA, 53);
        assert!(reported.starts_with("world"), "a name server: {reported}");
        let denied = [
            (second.address.as_str(), 80),
            (HOST, 5051),
            ("10.183.0.1", 5051),
            (METADATA, 80),
            (OUTSIDE, 7001),
        ];
        for (address, port) in denied {
            let reported = first.call(address, port);
            assert_eq!(reported, "TimeoutError", "{address} {port}");
        }
        let reported = host.outside(PYTHON, &["-c", CALL, METADATA, "80"]);
        assert!(reported.starts_with("world"), "the control: {reported}");
        // A neighbour of the host with a route to containers.
        host.outside("ip", &["route", "add", "10.183.0.0/16", "via", HOST]);
        let reported = host.outside(PYTHON, &["-c", CALL, &first.address, "80"]);
        assert_eq!(reported.trim(), "TimeoutError");
        first.end(&networks);
        second.end(&networks);
        leave_nothing(&world, networks);
    });
}

fn open() {
    on_a_host(|_| expect_reachable(|served| &served.address));
}

/// Checks that containers of an agent without isolation between them reach each other, by their
/// addresses of one kind.
pub(crate) fn expect_reachable(address: fn(&ServingContainer) -> &str) {
    let mut world = RootFixture::new();
    let mut settings = settings(&world);
    settings.traffic = InterContainerTraffic::Open;
    let networks = Networks::open(settings, &BTreeSet::new()).unwrap();
    let first = served(&mut world, "first", &networks, &[]);
    let second = served(&mut world, "second", &networks, &[]);
    let reported = first.call(address(&second), 80);
    assert_eq!(reported, format!("second hears {}", address(&first)));
    first.end(&networks);
    second.end(&networks);
    leave_nothing(&world, networks);
}

fn spoofing() {
    const SPOOFED: [&str; 4] = ["203.0.113.9", HOST, "10.183.0.1", "127.0.0.1"];
    on_a_host(|host| expect_no_spoofing(host, &INTERNET, &SPOOFED));
}

/// The means of a test for one version of the internet protocol.
pub(crate) struct FamilyFixture {
    /// Sends one datagram to an address with another source address.
    pub(crate) spoof: &'static str,
    /// Prints the senders of datagrams, until the last one.
    pub(crate) receive: &'static str,
    pub(crate) address: fn(&ServingContainer) -> &str,
    pub(crate) host: &'static str,
    pub(crate) outside: &'static str,
}

const INTERNET: FamilyFixture = FamilyFixture {
    spoof: SPOOF,
    receive: RECEIVE,
    address: |served| &served.address,
    host: HOST,
    outside: OUTSIDE,
};

/// Checks that the world receives only a container's datagrams with its own source address, and
/// none with its neighbour's or with `strangers`.
pub(crate) fn expect_no_spoofing(host: &LinkedHost, by: &FamilyFixture, others: &[&str]) {
    let mut world = RootFixture::new();
    let networks = networks(&world);
    let first = served(&mut world, "first", &networks, &[]);
    let second = served(&mut world, "second", &networks, &[]);
    let outside = host.world.id().to_string();
    let mut hearing = Command::new("nsenter")
        .args(["-t", &outside, "-n", PYTHON, "-c", by.receive])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut heard = hearing.stdout.take().unwrap();
    let mut ready = [0; 6];
    heard.read_exact(&mut ready).unwrap();
    let send = |source: &str, text: &str| {
        let arguments = ["-c", by.spoof, source, by.outside, text];
        in_network_of(first.init, PYTHON, &arguments);
    };
    let neighbour = (by.address)(&second);
    for unknown in [neighbour].iter().chain(others) {
        send(unknown, "spoofed");
    }
    send((by.address)(&first), "last");
    let mut rest = String::new();
    heard.read_to_string(&mut rest).unwrap();
    hearing.wait().unwrap();
    assert_eq!(
        rest,
        format!("{} says last\n", by.host),
        "its own alone, masqueraded"
    );
    first.end(&networks);
    second.end(&networks);
    leave_nothing(&world, networks);
}

/// All but one of the addresses are held, so that one is given again while the kernel removes the
/// namespace of its former user.
fn small() {
    on_a_host(|_| {
        let world = RootFixture::new();
        let config = NetworkConfig {
            subnet: "10.183.0.0/28".parse().unwrap(),
            pool_size: 0,
            ..settings(&world)
        };
        let networks = Networks::open(config, &BTreeSet::new()).unwrap();
        let id = |number| ContainerId::new(format!("1-{number}-1")).unwrap();
        let held: Vec<_> = (0..12)
            .map(|number| networks.acquire(&id(number), &[]).unwrap())
            .collect();
        for number in 12..112 {
            drop(networks.acquire(&id(number), &[]).unwrap());
            networks.release(&id(number)).unwrap();
        }
        drop(held);
        (0..12).for_each(|number| networks.release(&id(number)).unwrap());
        leave_nothing(&world, networks);
    });
}

fn one_owner() {
    on_a_host(|_| {
        let mut world = RootFixture::new();
        let networks = networks(&world);
        let first = served(&mut world, "first", &networks, &[web(8080)]);
        let id = ContainerId::new("other").unwrap();
        let refusal = networks
            .acquire(&id, &[web(9000), web(8080)])
            .unwrap_err()
            .to_string();
        let expected = format!(
            "port \"web\" (tcp 8080) is already published for container {}: choose another",
            first.id
        );
        assert_eq!(refusal, expected);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let refusal = networks.acquire(&id, &[web(port)]).unwrap_err().to_string();
        assert!(refusal.contains("is in use on this host"), "{refusal}");
        // Resources that were taken before the refusal are free again.
        networks.acquire(&id, &[web(9000)]).unwrap();
        networks.release(&id).unwrap();
        networks.release(&id).unwrap();
        assert!(call(HOST, 8080).starts_with("first"));
        first.end(&networks);
        leave_nothing(&world, networks);
    });
}

fn away() {
    on_a_host(|_| {
        let mut world = RootFixture::new();
        let before = networks(&world);
        let kept = served(&mut world, "kept", &before, &[web(8080)]);
        let lost = ContainerId::new("lost").unwrap();
        before.acquire(&lost, &[web(8081)]).unwrap();
        eventually("the pool is full", || before.pool_size() == 2);
        // From here on that agent does nothing more, as if it had been killed.
        run("nft", &["flush", "ruleset"]);
        let known = BTreeSet::from([kept.id.clone()]);
        let mut settings = settings(&world);
        settings.pool_size = 0;
        let networks = Networks::open(settings, &known).unwrap();
        assert_eq!(
            networks.address(&kept.id).unwrap().to_string(),
            kept.address
        );
        assert_eq!(networks.address(&lost), None);
        assert!(call(HOST, 8080).starts_with("kept"));
        assert_eq!(devices().len(), 1, "of the one that is known");
        let links = records(&world);
        assert_eq!(links.len(), 2, "its address and port: {links:?}");
        kept.end(&networks);
        drop(before);
        leave_nothing(&world, networks);
    });
}

fn overlap() {
    on_a_host(|_| {
        let world = RootFixture::new();
        ip("route add 10.183.4.0/24 via 192.0.2.2");
        let error = Networks::open(settings(&world), &BTreeSet::new()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the subnet 10.183.0.0/16 for containers overlaps 10.183.4.0/24 on out: give a free subnet"
        );
        assert_eq!(run("nft", &["list", "ruleset"]), "");
    });
}

fn trial() {
    on_a_host(|_| {
        assert_eq!(
            argosy_network::check(Subnet::DEFAULT, PREFIX6.parse().ok())
                .map_err(|error| error.to_string()),
            Ok(())
        );
        assert_eq!(devices(), Vec::<String>::new());
        assert_eq!(run("nft", &["list", "ruleset"]), "");
        ip("route add 10.183.4.0/24 via 192.0.2.2");
        let error = argosy_network::check(Subnet::DEFAULT, None).unwrap_err();
        assert!(
            error.to_string().contains("overlaps 10.183.4.0/24"),
            "{error}"
        );
    });
}

/// Returns the only record of forwarding.
fn note_on_forwarding(world: &RootFixture) -> PathBuf {
    let found = fs::read_dir(settings(world).directory).unwrap().flatten();
    let mut notes = found.filter(|entry| {
        let name = entry.file_name();
        name.to_string_lossy().starts_with("forwarding-")
    });
    let note = notes.next().unwrap().path();
    assert!(notes.next().is_none(), "there is one");
    note
}

/// Creates a network behind a separate veth pair, with this prefix of 24 bits; returns a process in
/// it.
pub(crate) fn wired(host: &mut LinkedHost, device: &str, prefix: &str) -> i32 {
    let mut command = Command::new("unshare");
    let beyond = command.args(["--net", "sleep", "1000"]).spawn().unwrap();
    let process = beyond.id();
    host.servers.push(beyond);
    let own = fs::read_link("/proc/thread-self/ns/net").unwrap();
    eventually("the other network begins", || {
        let theirs = fs::read_link(format!("/proc/{process}/ns/net"));
        theirs.is_ok_and(|theirs| theirs != own)
    });
    ip(&format!(
        "link add {device} type veth peer name in netns {process}"
    ));
    ip(&format!("address add {prefix}.1/24 dev {device}"));
    ip(&format!("link set {device} up"));
    let process = process as i32;
    let beyond = |line: &str| in_network_of(process, "ip", &line.split(' ').collect::<Vec<_>>());
    beyond(&format!("address add {prefix}.2/24 dev in"));
    beyond("link set in up");
    beyond(&format!("route add default via {prefix}.1"));
    process
}

fn forwarding() {
    on_a_host(|host| {
        const SETTING: &str = "/proc/sys/net/ipv4/ip_forward";
        let forwards = || fs::read_to_string(SETTING).unwrap().trim() == "1";
        let world = RootFixture::new();
        fs::write(SETTING, "0").unwrap();
        // The host would route from one to the other, if it forwarded.
        let known = wired(host, "more", "198.51.100");
        host.outside("ip", &["route", "add", "default", "via", HOST]);
        host.serve("world", 7000, true);
        let called = |from| in_network_of(from, PYTHON, &["-c", CALL, OUTSIDE, "7000"]);
        let networks = networks(&world);
        assert!(forwards());
        assert_eq!(called(known).trim(), "TimeoutError");
        // Like Docker's bridge, or a VPN.
        let later = wired(host, "later", "203.0.113");
        assert_eq!(called(later).trim(), "world hears 203.0.113.2");
        networks.remove().unwrap();
        assert!(forwards(), "what has come needs it");
        assert_eq!(
            called(known).trim(),
            "world hears 198.51.100.2",
            "the control"
        );
        // The next agent knows it from the record, even from one of an earlier build that
        // identified namespaces by inode.
        let note = note_on_forwarding(&world);
        let inode = fs::metadata("/proc/thread-self/ns/net").unwrap().ino();
        fs::rename(&note, note.with_file_name(format!("forwarding-{inode}"))).unwrap();
        let networks = Networks::open(settings(&world), &BTreeSet::new()).unwrap();
        assert_eq!(note_on_forwarding(&world), note);
        assert_eq!(called(known).trim(), "TimeoutError");
        ip("link delete later");
        networks.remove().unwrap();
        assert!(!forwards(), "as it was");
        assert!(!note.exists());
    });
}

fn killed() {
    on_a_host(|_| {
        let mut world = RootFixture::new();
        let networks = networks(&world);
        for moment in 0..40 {
            let (spec, network) = joined(&mut world, "sleep 1000", &networks, &[web(8080)]);
            let container = launch(&mut world, &spec, network);
            let supervisor = world.supervisor_of(&spec.id);
            // Earlier and later in the supervisor's run; no result depends on the exact moment.
            std::thread::sleep(Duration::from_micros(moment * 250));
            assert!(supervisor.kill(TIMEOUT).unwrap(), "it has ended");
            drop(container);
            destroy(&spec.directory, spec.cgroup.as_deref(), TIMEOUT).unwrap();
            networks.sweep(&BTreeSet::new()).unwrap();
            assert_eq!(networks.address(&spec.id), None);
            let table = run("nft", &["list", "ruleset"]);
            assert!(!table.contains("8080"), "moment {moment}: {table}");
            assert!(
                !records(&world)
                    .iter()
                    .any(|path| path.ends_with("tcp-8080"))
            );
            eventually("only devices of the pool are left", || {
                networks.pool_size() == 2 && devices().len() == 2
            });
            assert_eq!(records(&world).len(), 2);
        }
        leave_nothing(&world, networks);
    });
}

fn many() {
    on_a_host(|_| {
        let mut world = RootFixture::new();
        let networks = networks(&world);
        let mut addresses = BTreeSet::new();
        for number in 0..200 {
            let ports = if number % 20 == 0 {
                vec![web(8080)]
            } else {
                vec![]
            };
            let (spec, network) = joined(&mut world, "true", &networks, &ports);
            addresses.insert(network.address);
            let exit = launch(&mut world, &spec, network).wait(TIMEOUT).unwrap();
            assert_eq!(exit.outcome, CommandOutcome::Exited(0), "{}", exit.reason);
            destroy(&spec.directory, spec.cgroup.as_deref(), TIMEOUT).unwrap();
            networks.release(&spec.id).unwrap();
        }
        assert_eq!(addresses.len(), 200, "no address is used again soon");
        eventually("the pool is full, and there is nothing else", || {
            networks.pool_size() == 2 && devices().len() == 2 && records(&world).len() == 2
        });
        assert_eq!(held_namespaces(), 2);
        leave_nothing(&world, networks);
    });
}

fn own_names() {
    let mut world = RootFixture::new();
    let resolvers = names::resolvers("nameserver 192.0.2.53\n", None, &[]);
    let address = "10.183.0.5".parse().unwrap();
    let files = [
        (names::HOSTS, names::hosts("web-1", &[address])),
        (names::RESOLVERS, resolvers.text),
        (names::HOSTNAME, names::hostname("web-1")),
    ];
    let files = files.into_iter();
    let files: Vec<_> = files
        .filter(|(path, _)| fs::symlink_metadata(path).is_ok())
        .collect();
    let expected: String = files.iter().map(|(_, text)| text.as_str()).collect();
    let shown: Vec<_> = files.iter().map(|(path, _)| *path).collect();
    let line = format!(
        "cat {}; ls /tmp; echo > {} || echo refused",
        shown.join(" "),
        shown[0]
    );
    let mut spec = profiled(&mut world, &line);
    let own = files.into_iter().map(|(path, text)| GeneratedFile {
        path: path.into(),
        text,
    });
    spec.files = own.collect();
    let exit = world.run(&spec);
    assert_eq!(
        exit.outcome,
        CommandOutcome::Exited(0),
        "{exit:?} {}",
        stderr(&spec)
    );
    assert_eq!(stdout(&spec), format!("{expected}refused\n"));
}
