//! Tests of networks whose nft table is removed by other software while they are open, as root.
//! Each runs on a thread in a new network namespace, which is its host.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use argosy_host::ContainerId;
use argosy_network::{
    ContainerNamespace, InterContainerTraffic, NetworkConfig, Networks, PortPublication, Protocol,
    Subnet, bring_up_loopback,
};
use nix::sched::{CloneFlags, setns, unshare};

const HOST_PORT: u16 = 8080;
const CONTAINER_PORT: u16 = 80;
/// A service of the host.
const SERVICE_PORT: u16 = 7000;
/// Within one host only a rule drops packets.
const CALL_TIMEOUT: Duration = Duration::from_millis(500);

/// Held by the test that runs: until a new process executes its program, it holds the listeners of
/// all tests, and their ports count as used.
static ALONE: Mutex<()> = Mutex::new(());

/// Runs a test on a host without other networks.
fn on_a_host(test: impl FnOnce(&Path, Networks) + Send) {
    if !nix::unistd::geteuid().is_root() {
        return argosy_testing::skip("needs root");
    }
    if !Path::new("/usr/sbin/nft").exists() {
        return argosy_testing::skip("needs the package nftables");
    }
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            bring_up_loopback().unwrap();
            let directory = tempfile::tempdir().unwrap();
            let networks = Networks::open(settings(directory.path()), &BTreeSet::new()).unwrap();
            test(directory.path(), networks);
        });
    });
}

fn settings(directory: &Path) -> NetworkConfig {
    NetworkConfig {
        owner: directory.to_owned(),
        directory: directory.join("networks"),
        subnet: Subnet::DEFAULT,
        subnet6: Some("fd12:3456:789a::/64".parse().unwrap()),
        pool_size: 1,
        traffic: InterContainerTraffic::Isolated,
        blocks_metadata: true,
        denied: ["198.51.100.1:5050", "[2001:db8::1]:5050"]
            .map(|master| master.parse().unwrap())
            .into(),
    }
}

fn nft(arguments: &[&str]) -> String {
    let ended = Command::new("nft").args(arguments).output().unwrap();
    let error = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{arguments:?}: {error}");
    String::from_utf8(ended.stdout).unwrap()
}

/// Does what a reload of the host's firewall does.
fn flush() {
    nft(&["flush", "ruleset"]);
}

fn id(name: &str) -> ContainerId {
    ContainerId::new(name).unwrap()
}

fn web() -> PortPublication {
    PortPublication {
        name: "web".to_owned(),
        protocol: Protocol::Tcp,
        host_port: HOST_PORT,
        container_port: CONTAINER_PORT,
    }
}

/// Runs a function in the network of a container.
fn inside<T: Send>(container: &ContainerNamespace, run: impl FnOnce() -> T + Send) -> T {
    let run = || {
        setns(container.namespace.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
        run()
    };
    std::thread::scope(|scope| scope.spawn(run).join().unwrap())
}

/// Answers each connection with this name, until the test program exits.
fn serve(listener: TcpListener, name: &'static str) {
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let _ = client.unwrap().write_all(name.as_bytes());
        }
    });
}

fn listen(port: u16) -> TcpListener {
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap()
}

/// Returns the answer; empty if the address is not reachable.
fn call(address: Ipv4Addr, port: u16) -> String {
    let mut answer = String::new();
    let address = SocketAddr::from((address, port));
    if let Ok(mut server) = TcpStream::connect_timeout(&address, CALL_TIMEOUT) {
        let _ = server.read_to_string(&mut answer);
    }
    answer
}

/// Creates a container that answers at the host's port.
fn serving(networks: &Networks) -> ContainerNamespace {
    let container = networks.acquire(&id("web"), &[web()]).unwrap();
    serve(inside(&container, || listen(CONTAINER_PORT)), "web");
    assert_eq!(call(Ipv4Addr::LOCALHOST, HOST_PORT), "web");
    container
}

#[test]
fn a_start_restores_a_missing_table_before_the_container_has_a_network() {
    on_a_host(|_, networks| {
        serve(listen(SERVICE_PORT), "host");
        let first = serving(&networks);
        let from_first = || inside(&first, || call(first.gateway, SERVICE_PORT));
        assert_eq!(from_first(), "");
        flush();
        assert_eq!(from_first(), "host", "without the table it is not isolated");
        let second = networks.acquire(&id("second"), &[]).unwrap();
        assert_eq!(inside(&second, || call(second.gateway, SERVICE_PORT)), "");
        assert_eq!(inside(&second, || call(first.address, CONTAINER_PORT)), "");
        assert_eq!(from_first(), "");
        assert_eq!(call(Ipv4Addr::LOCALHOST, HOST_PORT), "web");
        assert!(networks.restore_table().unwrap(), "the start has found it");
        assert!(!networks.restore_table().unwrap());
        networks.remove().unwrap();
    });
}

#[test]
fn a_container_with_ports_is_released_although_the_table_is_missing() {
    on_a_host(|directory, networks| {
        let container = serving(&networks);
        flush();
        networks.release(&id("web")).unwrap();
        let ports = std::fs::read_dir(directory.join("networks/ports")).unwrap();
        assert_eq!(ports.count(), 0);
        assert_eq!(networks.address(&id("web")), None);
        let address = container.address.to_string();
        let ruleset = nft(&["list", "ruleset"]);
        assert!(!ruleset.contains(&address), "{ruleset}");
        // The port is free for another container.
        networks.acquire(&id("next"), &[web()]).unwrap();
        networks.remove().unwrap();
    });
}

#[test]
fn a_missing_table_is_restored_unchanged_without_a_start() {
    on_a_host(|_, networks| {
        let container = serving(&networks);
        let before = nft(&["list", "ruleset"]);
        for element in [
            "198.51.100.1 . 5050".to_owned(),
            "2001:db8::1 . 5050".to_owned(),
            format!("{} . {CONTAINER_PORT}", container.address),
        ] {
            assert!(before.contains(&element), "{element} in {before}");
        }
        assert!(!networks.restore_table().unwrap());
        flush();
        assert_eq!(call(Ipv4Addr::LOCALHOST, HOST_PORT), "");
        assert!(networks.restore_table().unwrap());
        assert_eq!(nft(&["list", "ruleset"]), before);
        assert_eq!(call(Ipv4Addr::LOCALHOST, HOST_PORT), "web");
        assert!(!networks.restore_table().unwrap());
        networks.remove().unwrap();
    });
}
