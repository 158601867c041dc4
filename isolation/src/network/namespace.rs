//! A network namespace with a wire to the host's: made here, held by whoever has the descriptor.

use std::fs::{self, File};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

use super::link::{Ends, Links, Pair, raise_loopback};
use super::{NetworkError, refused};
use crate::crash;

/// What a container calls its end of the wire.
pub(super) const INNER: &str = "eth0";

/// The calling thread's namespace.
const CURRENT: &str = "/proc/thread-self/ns/net";

/// A namespace to be made.
#[derive(Debug, Clone)]
pub(super) struct Wiring {
    /// The host's end of the wire.
    pub(super) device: String,
    /// The container's address.
    pub(super) address: Ipv4Addr,
    /// The host's address on the wire.
    pub(super) gateway: Ipv4Addr,
}

/// Makes it, joined to the calling thread's namespace. By a thread of its own: whatever fails, no other thread is found in
/// the wrong namespace.
pub(super) fn make(wiring: &Wiring) -> Result<OwnedFd, NetworkError> {
    let wiring = wiring.clone();
    let thread = std::thread::Builder::new().name("network".to_owned());
    let made = thread
        .spawn(move || make_here(&wiring))
        .map_err(refused("start a thread"))?;
    made.join()
        .expect("making a namespace does not panic: each failure is returned")
}

/// Makes one that is joined to nothing. By a thread of its own, too.
pub(super) fn alone() -> Result<OwnedFd, NetworkError> {
    let make = || {
        begin()?;
        current().map_err(refused("open a new network namespace"))
    };
    std::thread::scope(|scope| scope.spawn(make).join())
        .expect("making a namespace does not panic: each failure is returned")
}

/// Makes one that is joined to nothing, and binds it to a file, where it stays until that is unmounted. By a thread of its
/// own, too.
pub(super) fn bind(place: &Path) -> Result<(), NetworkError> {
    let bind = || -> Result<(), NetworkError> {
        File::create(place).map_err(refused(format!("make {}", place.display())))?;
        begin()?;
        let bind = MsFlags::MS_BIND;
        mount(Some(CURRENT), place, None::<&str>, bind, None::<&str>)
            .map_err(refused(format!("bind a namespace to {}", place.display())))
    };
    std::thread::scope(|scope| scope.spawn(bind).join())
        .expect("making a namespace does not panic: each failure is returned")
}

/// Puts the calling thread into a new namespace that commands can live in.
pub(super) fn begin() -> Result<(), NetworkError> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(refused("make a network namespace"))?;
    raise_loopback().map_err(refused("raise a loopback device"))?;
    // A container's user 0 is not root of this namespace, and a web server wants port 80.
    let low_ports = "net/ipv4/ip_unprivileged_port_start";
    set(low_ports, "0").map_err(refused("open ports below 1024"))
}

fn make_here(wiring: &Wiring) -> Result<OwnedFd, NetworkError> {
    let mut outside = Links::open().map_err(refused("talk to the kernel about devices"))?;
    let home = current().map_err(refused("open the host's network namespace"))?;
    begin()?;
    let namespace = current().map_err(refused("open a new network namespace"))?;
    crash::passed("network.namespace-made");
    let mut inside = Links::open().map_err(refused("talk to the kernel about devices"))?;
    set_if_there("net/ipv6/conf/default/disable_ipv6", "1")
        .map_err(refused("switch IPv6 off in a container"))?;
    setns(&home, CloneFlags::CLONE_NEWNET).map_err(refused("return to the host's network"))?;

    let device = &wiring.device;
    let pair = Pair {
        outer: device,
        inner: INNER,
        namespace: namespace.as_fd(),
    };
    outside
        .add_pair(&pair)
        .map_err(refused(format!("make the device {device}")))?;
    crash::passed("network.device-made");
    let mut connect = || -> io::Result<()> {
        set_if_there(&format!("net/ipv6/conf/{device}/disable_ipv6"), "1")?;
        // Who calls 127.0.0.1 on the host reaches published ports; from the container nothing gets there, by the rules.
        set(&format!("net/ipv4/conf/{device}/route_localnet"), "1")?;
        let index = outside.index(device)?;
        let (own, peer) = (wiring.gateway, wiring.address);
        outside.connect(index, Ends { own, peer })?;
        let index = inside.index(INNER)?;
        let (own, peer) = (wiring.address, wiring.gateway);
        inside.connect(index, Ends { own, peer })?;
        inside.raise(index)?;
        inside.route_all(wiring.gateway)
    };
    connect().map_err(refused(format!("connect the device {device}")))?;
    crash::passed("network.connected");
    Ok(namespace)
}

pub(super) fn current() -> io::Result<OwnedFd> {
    Ok(File::open(CURRENT)?.into())
}

/// Writes a setting of the calling thread's namespace.
pub(super) fn set(name: &str, value: &str) -> io::Result<()> {
    fs::write(format!("/proc/sys/{name}"), value)
}

fn set_if_there(name: &str, value: &str) -> io::Result<()> {
    match set(name, value) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
