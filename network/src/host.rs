//! Requirements of a host for container networks, and its devices.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket};
use std::path::Path;

use netlink_packet_route::AddressFamily;

use super::link::{NetlinkSocket, NetworkDevice, Route};
use super::rules::DEVICES;
use super::{NetworkError, PortPublication, Protocol, Subnet, Subnet6, network_error};

/// IPv6 routes of at most this prefix length lead to the whole internet, or to all unique local
/// addresses.
const EVERYWHERE_6: u8 = 8;

/// Returns the reason why containers cannot have IPv6 addresses on this host; `None` if they can.
#[must_use]
pub fn why_no_ipv6() -> Option<&'static str> {
    why_none_by(Path::new("/proc/sys/net/ipv6/conf/all"))
}

fn why_none_by(settings: &Path) -> Option<&'static str> {
    if !settings.join("forwarding").exists() {
        return Some("the kernel of this host has no IPv6, or was started with ipv6.disable=1");
    }
    // A kernel without the setting has IPv6 enabled.
    fs::read_to_string(settings.join("disable_ipv6"))
        .is_ok_and(|value| value.trim() == "1")
        .then_some("IPv6 is switched off on this host by net.ipv6.conf.all.disable_ipv6")
}

/// Returns the prefix, unless this host has no IPv6.
pub(super) fn possible(wanted: Option<Subnet6>) -> Option<Subnet6> {
    wanted.filter(|_| why_no_ipv6().is_none())
}

/// Checks that only containers have a route into their subnets.
pub(super) fn check_routes(subnet: Subnet, subnet6: Option<Subnet6>) -> Result<(), NetworkError> {
    let mut links = NetlinkSocket::open().map_err(network_error("open a netlink socket"))?;
    let mut devices = links.list().map_err(network_error("list devices"))?;
    let mut check = |family, pool: String, overlaps: &dyn Fn(&Route) -> bool| {
        for route in links.routes(family).map_err(network_error("list routes"))? {
            if !overlaps(&route) {
                continue;
            }
            let list = || links.list().map_err(network_error("list devices"));
            match device_of(&route, &mut devices, list)? {
                Some(device) if !device.starts_with(DEVICES) => {
                    return Err(NetworkError::Overlap {
                        subnet: pool,
                        route: format!("{}/{}", route.to, route.bits),
                        device: device.to_owned(),
                    });
                }
                Some(_) | None => {}
            }
        }
        Ok(())
    };
    check(
        AddressFamily::Inet,
        subnet.to_string(),
        &|route| matches!(route.to, IpAddr::V4(to) if subnet.overlaps(to, route.bits)),
    )?;
    let Some(subnet6) = subnet6 else {
        return Ok(());
    };
    check(AddressFamily::Inet6, subnet6.to_string(), &|route| {
        let is_narrow = route.bits > EVERYWHERE_6;
        is_narrow && matches!(route.to, IpAddr::V6(to) if subnet6.overlaps(to, route.bits))
    })
}

/// Returns the name of a route's device; `None` if the device has been removed, and the route with
/// it. `devices` may be older than the route: other agents on this host add and remove devices. If
/// they do not have it, they are listed again.
fn device_of<'a>(
    route: &Route,
    devices: &'a mut Vec<NetworkDevice>,
    list: impl FnOnce() -> Result<Vec<NetworkDevice>, NetworkError>,
) -> Result<Option<&'a str>, NetworkError> {
    if route.device == 0 {
        return Ok(Some("no device"));
    }
    if devices.iter().all(|link| link.index != route.device) {
        *devices = list()?;
    }
    let device = devices.iter().find(|link| link.index == route.device);
    Ok(device.map(|link| link.name.as_str()))
}

/// Checks that the port is free. Publishing takes precedence over listening: a process that listens
/// there would receive no more connections.
pub(super) fn check_port_free(
    publication: &PortPublication,
    subnet6: Option<Subnet6>,
) -> Result<(), NetworkError> {
    let four = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let six = subnet6.map(|_| IpAddr::V6(Ipv6Addr::UNSPECIFIED));
    for address in [four].into_iter().chain(six) {
        let port = (address, publication.host_port);
        let bound: io::Result<()> = match publication.protocol {
            Protocol::Tcp => TcpListener::bind(port).map(drop),
            Protocol::Udp => UdpSocket::bind(port).map(drop),
        };
        bound.map_err(|source| NetworkError::Bound {
            name: publication.name.clone(),
            protocol: publication.protocol,
            port: publication.host_port,
            source,
        })?;
    }
    Ok(())
}

/// Whether this host delivers packets for this address to its own processes, whichever device has
/// it. Needs no privileges.
///
/// # Errors
/// If the kernel does not answer.
pub fn is_own_address(address: IpAddr) -> io::Result<bool> {
    NetlinkSocket::open()?.is_local(address)
}

/// Lists all devices of the host.
pub(super) fn list_devices() -> Result<Vec<NetworkDevice>, NetworkError> {
    let mut links = NetlinkSocket::open().map_err(network_error("open a netlink socket"))?;
    links.list().map_err(network_error("list devices"))
}

/// Removes devices. A namespace exists until its last holder exits; if that process cannot be
/// killed, it has no network any more.
pub(super) fn remove_devices(
    devices: impl IntoIterator<Item = NetworkDevice>,
) -> Result<(), NetworkError> {
    let mut links = NetlinkSocket::open().map_err(network_error("open a netlink socket"))?;
    for device in devices {
        match links.remove(device.index) {
            // The kernel has removed it already, with its namespace.
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {}
            other => other.map_err(network_error(format!("remove the device {}", device.name)))?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_that_is_newer_than_the_list_of_devices_has_its_device() {
        let device = |index: u32, name: &str| NetworkDevice {
            index,
            name: name.to_owned(),
            mac: Vec::new(),
        };
        let now = || Ok(vec![device(3, "argosy-b"), device(4, "eth0")]);
        for (index, expected) in [
            (0, Some("no device")),
            (2, Some("argosy-a")),
            (3, Some("argosy-b")),
            (4, Some("eth0")),
            // It was removed, and the route with it.
            (5, None),
        ] {
            let mut before = vec![device(2, "argosy-a")];
            let route = Route {
                to: Ipv4Addr::new(10, 183, 0, 9).into(),
                bits: 32,
                device: index,
            };
            let found = device_of(&route, &mut before, now).unwrap();
            assert_eq!(found, expected, "{index}");
        }
    }

    #[test]
    fn local_addresses_are_recognized_by_the_kernel() {
        let is_own = |address: &str| is_own_address(address.parse().unwrap()).unwrap();
        for address in ["127.0.0.1", "127.7.7.7"] {
            assert!(is_own(address), "{address}");
        }
        for address in ["192.0.2.1", "2001:db8::1"] {
            assert!(!is_own(address), "{address}");
        }
        // The kernel selects the address from which a datagram would leave.
        for (from, to) in [("0.0.0.0:0", "192.0.2.1:9"), ("[::]:0", "[2001:db8::1]:9")] {
            let socket = UdpSocket::bind(from).and_then(|socket| {
                socket.connect(to)?;
                socket.local_addr()
            });
            if let Ok(own) = socket {
                assert!(is_own(&own.ip().to_string()), "{own}");
            }
        }
    }

    #[test]
    fn missing_ipv6_is_reported_with_the_reason() {
        let settings = tempfile::tempdir().unwrap();
        let set = |name: &str, value: &str| fs::write(settings.path().join(name), value).unwrap();
        let why = || why_none_by(settings.path());
        assert!(why().unwrap().contains("ipv6.disable=1"));
        set("forwarding", "0\n");
        assert_eq!(why(), None);
        set("disable_ipv6", "0\n");
        assert_eq!(why(), None);
        set("disable_ipv6", "1\n");
        assert!(why().unwrap().contains("disable_ipv6"));
    }
}
