//! A network namespace with a veth pair to the host's namespace. It exists as long as its
//! descriptor is open.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::Mode;
use nix::sys::statfs::{NSFS_MAGIC, statfs};

use super::link::{DeviceSettings, NetlinkSocket, NetworkDevice, PeerAddresses, VethPair};
use super::{NetworkError, network_error};
use argosy_host::crash_point;

/// The name of a container's end of the pair.
pub(super) const CONTAINER_DEVICE: &str = "eth0";

/// The calling thread's namespace.
const CURRENT: &str = "/proc/thread-self/ns/net";

/// The parameters of a new namespace.
#[derive(Debug, Clone)]
pub(super) struct NamespaceConfig {
    /// The host's end of the pair.
    pub(super) device: String,
    pub(super) address: Ipv4Addr,
    /// The host's address on the link.
    pub(super) gateway: Ipv4Addr,
    /// The IPv6 addresses; without them IPv6 is disabled.
    pub(super) ipv6: Option<NamespaceConfig6>,
}

/// The directory with the IPv6 settings of all devices of one network namespace.
///
/// It is kept open: below `/proc/sys/net` the kernel has the entries of all namespaces in one chain
/// per name, and a lookup by path scans that chain.
#[derive(Debug)]
pub(super) struct Ipv6SysctlDir {
    /// `None`: the kernel has no IPv6.
    directory: Option<OwnedFd>,
}

/// The IPv6 addresses of a link.
#[derive(Debug, Clone, Copy)]
pub(super) struct NamespaceConfig6 {
    /// The container's address.
    pub(super) address: Ipv6Addr,
    /// The host's address.
    pub(super) gateway: Ipv6Addr,
}

impl Ipv6SysctlDir {
    /// Opens the settings of the calling thread's namespace.
    pub(super) fn of_current() -> io::Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        match open("/proc/sys/net/ipv6/conf", flags, Mode::empty()) {
            Ok(dir) => Ok(Self {
                directory: Some(dir),
            }),
            Err(Errno::ENOENT) => Ok(Self { directory: None }),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Disables IPv6 for a device or, with the name `default`, for later devices of the namespace.
    /// Or enables it, without addresses and routes from router advertisements; link-local addresses
    /// are left to [`NetlinkSocket::apply_settings`].
    fn set_up(&self, device: &str, enabled: bool) -> io::Result<()> {
        if enabled {
            for name in ["accept_ra", "accept_redirects", "autoconf", "accept_dad"] {
                self.set(device, name, "0")?;
            }
        }
        self.set(device, "disable_ipv6", if enabled { "0" } else { "1" })
    }

    /// Writes a setting only if it differs. For `disable_ipv6` the kernel needs the lock of all
    /// network settings, and while another thread holds it, the kernel restarts the call in a loop.
    fn set(&self, device: &str, name: &str, value: &str) -> io::Result<()> {
        let Some(dir) = &self.directory else {
            return Ok(());
        };
        let path = format!("{device}/{name}");
        let flags = OFlag::O_RDWR | OFlag::O_CLOEXEC;
        let opened = match openat(dir, path.as_str(), flags, Mode::empty()) {
            Err(Errno::ENOENT) => return Ok(()),
            opened => opened?,
        };
        let mut file = File::from(opened);
        let mut present = [0; 16];
        let length = file.read(&mut present)?;
        if present[..length].trim_ascii() == value.as_bytes() {
            return Ok(());
        }
        file.rewind()?;
        file.write_all(value.as_bytes())
    }
}

/// Creates a namespace that is connected to the calling thread's, whose settings are `settings6`.
/// Runs in a separate thread, so that a failure leaves no other thread in the wrong namespace.
pub(super) fn create(
    config: &NamespaceConfig,
    settings6: &Ipv6SysctlDir,
) -> Result<OwnedFd, NetworkError> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("network".to_owned());
        let made = thread
            .spawn_scoped(scope, || create_here(config, settings6))
            .map_err(network_error("start a thread"))?;
        made.join()
            .expect("making a namespace does not panic: each failure is returned")
    })
}

/// Creates an unconnected namespace, also in a separate thread.
pub(super) fn create_isolated() -> Result<OwnedFd, NetworkError> {
    let make = || {
        enter_new()?;
        current().map_err(network_error("open a new network namespace"))
    };
    std::thread::scope(|scope| scope.spawn(make).join())
        .expect("making a namespace does not panic: each failure is returned")
}

/// Creates an unconnected namespace and binds it to a file, where it stays until it is unmounted;
/// also in a separate thread.
pub(super) fn bind(place: &Path) -> Result<(), NetworkError> {
    let bind = || -> Result<(), NetworkError> {
        File::create(place).map_err(network_error(format!("make {}", place.display())))?;
        crash_point!("cni.namespace-file-made");
        enter_new()?;
        let bind = MsFlags::MS_BIND;
        mount(Some(CURRENT), place, None::<&str>, bind, None::<&str>).map_err(network_error(
            format!("bind a namespace to {}", place.display()),
        ))
    };
    std::thread::scope(|scope| scope.spawn(bind).join())
        .expect("making a namespace does not panic: each failure is returned")
}

/// Returns whether a namespace is bound to this file.
pub(super) fn is_bound(place: &Path) -> bool {
    statfs(place).is_ok_and(|found| found.filesystem_type() == NSFS_MAGIC)
}

/// Moves the calling thread into a new namespace with the settings that commands need.
pub(super) fn enter_new() -> Result<NetlinkSocket, NetworkError> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(network_error("make a network namespace"))?;
    let mut links = NetlinkSocket::open().map_err(network_error("open a netlink socket"))?;
    links
        .bring_up_loopback()
        .map_err(network_error("set up a loopback device"))?;
    // A container's user 0 is not root of this namespace, and a web server needs port 80.
    let low_ports = "net/ipv4/ip_unprivileged_port_start";
    set(low_ports, "0").map_err(network_error("open ports below 1024"))?;
    Ok(links)
}

fn create_here(
    config: &NamespaceConfig,
    settings6: &Ipv6SysctlDir,
) -> Result<OwnedFd, NetworkError> {
    let mut outside = NetlinkSocket::open().map_err(network_error("open a netlink socket"))?;
    let home = current().map_err(network_error("open the host's network namespace"))?;
    let mut inside = enter_new()?;
    let namespace = current().map_err(network_error("open a new network namespace"))?;
    crash_point!("network.namespace-made");
    Ipv6SysctlDir::of_current()
        .and_then(|settings6| settings6.set_up("default", config.ipv6.is_some()))
        .map_err(network_error("set up IPv6 in a container"))?;
    setns(&home, CloneFlags::CLONE_NEWNET)
        .map_err(network_error("return to the host's network"))?;

    let device = &config.device;
    let pair = VethPair {
        outer: device,
        inner: CONTAINER_DEVICE,
        namespace: namespace.as_fd(),
    };
    add_pair(&mut outside, &pair).map_err(network_error(format!("make the device {device}")))?;
    crash_point!("network.device-made");
    let link_local = config.ipv6.is_none();
    let mut connect = || -> io::Result<()> {
        settings6.set_up(device, config.ipv6.is_some())?;
        let outer = outside.find(device)?;
        // A client of 127.0.0.1 on the host reaches published ports; the rules drop such packets
        // from a container.
        let conduct = DeviceSettings {
            route_localnet: true,
            link_local,
        };
        outside.apply_settings(outer.index, conduct)?;
        let (own, peer) = (config.gateway.into(), config.address.into());
        outside.connect(outer.index, PeerAddresses { own, peer })?;
        let inner = inside.find(CONTAINER_DEVICE)?;
        let conduct = DeviceSettings {
            route_localnet: false,
            link_local,
        };
        inside.apply_settings(inner.index, conduct)?;
        let (own, peer) = (config.address.into(), config.gateway.into());
        inside.connect(inner.index, PeerAddresses { own, peer })?;
        inside.bring_up(inner.index)?;
        inside.set_default_route(inner.index, config.gateway.into())?;
        let Some(ipv6) = config.ipv6 else {
            return Ok(());
        };
        connect_ipv6(ipv6, (&mut outside, &outer), (&mut inside, &inner))
    };
    connect().map_err(network_error(format!("connect the device {device}")))?;
    crash_point!("network.connected");
    Ok(namespace)
}

/// Adds a pair. The name comes from the address, which has no other user. So a device of that name
/// is of a released namespace that the kernel has yet to remove.
fn add_pair(outside: &mut NetlinkSocket, pair: &VethPair<'_>) -> io::Result<()> {
    match outside.add_pair(pair) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        added => return added,
    }
    // It may have been removed by now.
    let _ = outside
        .find(pair.outer)
        .and_then(|former| outside.remove(former.index));
    outside.add_pair(pair)
}

/// Sets up IPv6 on both ends. Both have each other's hardware address, so no neighbour is ever
/// queried: the rules drop all neighbour discovery messages of a container.
fn connect_ipv6(
    wiring: NamespaceConfig6,
    (outside, outer): (&mut NetlinkSocket, &NetworkDevice),
    (inside, inner): (&mut NetlinkSocket, &NetworkDevice),
) -> io::Result<()> {
    let (gateway, address) = (wiring.gateway, wiring.address);
    let ends = |own: Ipv6Addr, peer: Ipv6Addr| PeerAddresses {
        own: own.into(),
        peer: peer.into(),
    };
    outside.connect(outer.index, ends(gateway, address))?;
    outside.add_neighbour(outer.index, address, &inner.mac)?;
    inside.connect(inner.index, ends(address, gateway))?;
    inside.add_neighbour(inner.index, gateway, &outer.mac)?;
    inside.set_default_route(inner.index, gateway.into())
}

pub(super) fn current() -> io::Result<OwnedFd> {
    Ok(File::open(CURRENT)?.into())
}

/// Writes a setting of the calling thread's namespace.
pub(super) fn set(name: &str, value: &str) -> io::Result<()> {
    fs::write(format!("/proc/sys/{name}"), value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_written_only_if_it_differs() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("eth0");
        fs::create_dir(&place).unwrap();
        let settings6 = Ipv6SysctlDir {
            directory: Some(File::open(dir.path()).unwrap().into()),
        };
        let set_to = |present: &str| {
            let path = place.join("disable_ipv6");
            fs::write(&path, present).unwrap();
            settings6.set("eth0", "disable_ipv6", "0").unwrap();
            fs::read_to_string(path).unwrap()
        };
        assert_eq!(set_to("1\n"), "0\n");
        assert_eq!(set_to(" 0\n"), " 0\n", "a write would begin with 0");
        // A kernel without the setting, or without IPv6.
        settings6.set("eth0", "accept_dad", "0").unwrap();
        let none = Ipv6SysctlDir { directory: None };
        none.set_up("eth0", true).unwrap();
    }
}
