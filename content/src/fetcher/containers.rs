//! Addresses of containers on this host: of this agent's subnets, and of all agents by the host's
//! routes.
//!
//! The kernel's route lists are opened once, because the service cannot open files later. Each
//! result reflects the time of the call.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use argosy_network::{DEVICES, Subnet, Subnet6};
use serde::{Deserialize, Serialize};

/// The number of bytes read at a time.
const CHUNK: usize = 64 * 1024;

/// The subnets of one agent's containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskSubnets {
    pub ipv4: Subnet,
    /// Their IPv6 prefix, if they have one.
    pub ipv6: Option<Subnet6>,
}

impl TaskSubnets {
    fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.ipv4.contains(address),
            IpAddr::V6(address) => self.ipv6.is_some_and(|subnet| subnet.contains(address)),
        }
    }
}

/// The check for container addresses; see the file header.
#[derive(Debug)]
pub(super) struct ContainerAddresses {
    subnets: Option<TaskSubnets>,
    routes: File,
    /// `None` where the kernel has no IPv6.
    routes6: Option<File>,
}

impl ContainerAddresses {
    /// Opens the routes of this process's network namespace. `subnets` are its agent's, if it has
    /// any.
    pub(super) fn open(subnets: Option<TaskSubnets>) -> io::Result<Self> {
        Self::listed(subnets, Path::new("/proc/net"))
    }

    pub(super) fn listed(subnets: Option<TaskSubnets>, directory: &Path) -> io::Result<Self> {
        let routes6 = match File::open(directory.join("ipv6_route")) {
            Ok(file) => Some(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        Ok(Self {
            subnets,
            routes: File::open(directory.join("route"))?,
            routes6,
        })
    }

    /// Whether the address is, or may become, a container's.
    pub(super) fn contains(&self, address: IpAddr) -> io::Result<bool> {
        if self
            .subnets
            .is_some_and(|subnets| subnets.contains(address))
        {
            return Ok(true);
        }
        Ok(match (address, &self.routes6) {
            (IpAddr::V4(address), _) => {
                let mut routes = Vec::new();
                read(&self.routes, &mut routes)?;
                lines(&routes).any(|line| leads_to(line, address))
            }
            (IpAddr::V6(address), Some(list)) => {
                let mut routes = Vec::new();
                read(list, &mut routes)?;
                lines(&routes).any(|line| leads_to_6(line, address))
            }
            (IpAddr::V6(_), None) => false,
        })
    }
}

/// Reads the list from its beginning.
fn read(list: &File, bytes: &mut Vec<u8>) -> io::Result<()> {
    loop {
        let done = bytes.len();
        bytes.resize(done + CHUNK, 0);
        let more = list.read_at(&mut bytes[done..], done as u64)?;
        bytes.truncate(done + more);
        if more == 0 {
            return Ok(());
        }
    }
}

fn lines(bytes: &[u8]) -> impl Iterator<Item = &str> {
    let lines = bytes.split(|byte| *byte == b'\n');
    lines.filter_map(|line| std::str::from_utf8(line).ok())
}

/// A line has the device, the destination and, as the eighth word, the mask; both in network byte
/// order.
fn leads_to(line: &str, address: Ipv4Addr) -> bool {
    let mut words = line.split_ascii_whitespace();
    let is_ours = words.next().is_some_and(|name| name.starts_with(DEVICES));
    let number = |word: &str| u32::from_str_radix(word, 16).ok().map(u32::from_be);
    let to = words.next().and_then(number);
    let mask = words.nth(5).and_then(number);
    let Some((to, mask)) = to.zip(mask).filter(|_| is_ours) else {
        return false;
    };
    u32::from(address) & mask == to & mask
}

/// A line has the destination, its prefix length and, as the last word, the device.
fn leads_to_6(line: &str, address: Ipv6Addr) -> bool {
    let mut words = line.split_ascii_whitespace();
    let to = words
        .next()
        .and_then(|word| u128::from_str_radix(word, 16).ok());
    let bits = words
        .next()
        .and_then(|word| u32::from_str_radix(word, 16).ok());
    let is_ours = words.last().is_some_and(|name| name.starts_with(DEVICES));
    let Some((to, bits)) = to.zip(bits).filter(|_| is_ours) else {
        return false;
    };
    let rest = 128_u32.saturating_sub(bits);
    let mask = u128::MAX.checked_shl(rest).unwrap_or_default();
    u128::from(address) & mask == to & mask
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTES: &str = "\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth0\t0000000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
argoabcde2\t0405B80A\t00000000\t0005\t0\t0\t0\tFFFFFFFF\t0\t0\t0
";
    const ROUTES_6: &str = "\
fd000000000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000002 00000000 00000001     eth0
fd120000000000000000000000b70005 80 00000000000000000000000000000000 00 00000000000000000000000000000000 00000400 00000001 00000000 00000001 argoabcde2
00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo
";

    fn listed(subnets: Option<TaskSubnets>, routes: &str, routes6: &str) -> ContainerAddresses {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("route"), routes).unwrap();
        std::fs::write(directory.path().join("ipv6_route"), routes6).unwrap();
        ContainerAddresses::listed(subnets, directory.path()).unwrap()
    }

    fn hold(containers: &ContainerAddresses, address: &str) -> bool {
        containers.contains(address.parse().unwrap()).unwrap()
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn containers_of_all_agents_are_found_by_their_routes() {
        let containers = listed(None, ROUTES, ROUTES_6);
        for address in ["10.184.5.4", "fd12::b7:5"] {
            assert!(hold(&containers, address), "{address}");
        }
        for address in [
            "10.184.5.5",
            "10.0.0.4",
            "192.0.2.1",
            "fd12::b7:6",
            "fd00::7",
            "2001:db8::1",
        ] {
            assert!(!hold(&containers, address), "{address}");
        }
    }

    #[test]
    fn every_address_of_the_task_subnets_counts_as_a_container() {
        let subnets = TaskSubnets {
            ipv4: Subnet::DEFAULT,
            ipv6: Some("fd12:3456:789a::/64".parse().unwrap()),
        };
        let containers = listed(Some(subnets), "", "");
        for address in ["10.183.0.0", "10.183.255.255", "fd12:3456:789a::1"] {
            assert!(hold(&containers, address), "{address}");
        }
        for address in ["10.184.0.1", "fd12:3456:789a:1::1"] {
            assert!(!hold(&containers, address), "{address}");
        }
    }

    #[test]
    fn a_long_route_list_is_read_completely() {
        let many = ROUTES.lines().nth(1).unwrap().to_owned() + "\n";
        let last = "argoabcde2\t00000000\t0\t0\t0\t0\t0\t00000000\t0\t0\t0\n";
        let containers = listed(None, &(many.repeat(CHUNK / 32) + last), "");
        assert!(hold(&containers, "192.0.2.1"));
    }

    #[test]
    fn the_lists_of_this_host_can_be_read() {
        let containers = ContainerAddresses::open(None).unwrap();
        assert!(!hold(&containers, "192.0.2.1"));
        assert!(!hold(&containers, "2001:db8::1"));
    }
}
