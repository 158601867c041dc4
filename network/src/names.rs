//! The content of a container's `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf`. Pure: text
//! in, text out.

use std::fmt::Write as _;
use std::net::IpAddr;

/// The path of a container's hosts file.
pub const HOSTS: &str = "/etc/hosts";
/// The path of its host name.
pub const HOSTNAME: &str = "/etc/hostname";
/// The path of its resolver configuration.
pub const RESOLVERS: &str = "/etc/resolv.conf";

/// The resolvers of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolvers {
    /// The content of the file.
    pub text: String,
    /// The host's resolvers that the container cannot reach and that are left out: they listen only
    /// on the host's loopback device, are link-local, or use IPv6 and the container does not. The
    /// caller reports them if no resolver is left.
    pub unreachable: Vec<IpAddr>,
}

/// Returns the content of `/etc/hosts`: the container's name, with its loopback and other
/// addresses.
#[must_use]
pub fn hosts(hostname: &str, addresses: &[IpAddr]) -> String {
    let mut text = String::from("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n");
    for address in addresses {
        let _ = writeln!(text, "{address}\t{hostname}");
    }
    if addresses.is_empty() {
        let _ = writeln!(text, "127.0.1.1\t{hostname}");
    }
    text
}

/// Returns the content of `/etc/hostname`.
#[must_use]
pub fn hostname(name: &str) -> String {
    format!("{name}\n")
}

/// Returns the content of `/etc/resolv.conf` for a container with these addresses. `host` is the
/// host's file. Where that names a resolver on loopback, as systemd's does, the servers of
/// `upstream` replace it (`/run/systemd/resolve/resolv.conf`).
#[must_use]
pub fn resolvers(host: &str, upstream: Option<&str>, addresses: &[IpAddr]) -> Resolvers {
    let has_ipv6 = addresses.iter().any(IpAddr::is_ipv6);
    let is_local = |text: &str| nameservers(text).any(|server| server.is_loopback());
    let host = match upstream {
        Some(upstream) if is_local(host) => upstream,
        _ => host,
    };
    let mut kept = Resolvers {
        text: String::new(),
        unreachable: Vec::new(),
    };
    for line in host.lines() {
        match nameserver(line) {
            Some(server) if !is_reachable(server, has_ipv6) => {
                kept.unreachable.push(server);
            }
            Some(server) => {
                let _ = writeln!(kept.text, "nameserver {server}");
            }
            None if is_copied(line) => {
                let _ = writeln!(kept.text, "{}", line.trim());
            }
            None => {}
        }
    }
    kept
}

/// Whether a container reaches a resolver of its host. It shares no link with the host's
/// neighbours.
fn is_reachable(server: IpAddr, has_ipv6: bool) -> bool {
    let is_on_link = matches!(server, IpAddr::V6(server) if server.is_unicast_link_local());
    !server.is_loopback() && !is_on_link && (has_ipv6 || server.is_ipv4())
}

/// Whether a line is copied: those that mean the same in a container. Comments describe the host.
fn is_copied(line: &str) -> bool {
    let keyword = line.split_ascii_whitespace().next().unwrap_or_default();
    ["search", "domain", "options", "sortlist"].contains(&keyword)
}

fn nameservers(text: &str) -> impl Iterator<Item = IpAddr> {
    text.lines().filter_map(nameserver)
}

fn nameserver(line: &str) -> Option<IpAddr> {
    let mut words = line.split_ascii_whitespace();
    if words.next() != Some("nameserver") {
        return None;
    }
    // An IPv6 address may name a device of the host.
    let address = words.next()?.split('%').next()?;
    address.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_resolves_its_own_name() {
        let address = "10.183.0.5".parse().unwrap();
        let text = hosts("web-1", &[address]);
        assert!(text.ends_with("10.183.0.5\tweb-1\n"), "{text}");
        assert!(hosts("web-1", &[]).ends_with("127.0.1.1\tweb-1\n"));
        assert_eq!(hostname("web-1"), "web-1\n");
    }

    #[test]
    fn reachable_resolvers_of_the_host_are_used() {
        let host = "# of the host\nsearch example.org\nnameserver 9.9.9.9\nnameserver fe80::1%eth0\noptions edns0\n";
        let found = resolvers(host, None, &[]);
        let text = "search example.org\nnameserver 9.9.9.9\noptions edns0\n";
        assert_eq!(found.text, text);
        assert_eq!(found.unreachable, ["fe80::1".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn ipv6_resolvers_are_used_only_by_containers_with_ipv6() {
        let host = "nameserver 2001:db8::53\nnameserver fe80::1%eth0\nnameserver ::1\n";
        let four: IpAddr = "10.183.0.5".parse().unwrap();
        let six: IpAddr = "fd12::5".parse().unwrap();
        assert_eq!(resolvers(host, None, &[four]).unreachable.len(), 3);
        let found = resolvers(host, None, &[four, six]);
        assert_eq!(found.text, "nameserver 2001:db8::53\n");
        assert_eq!(found.unreachable.len(), 2);
    }

    #[test]
    fn a_loopback_resolver_is_replaced_by_its_upstream_resolvers() {
        let stub = "nameserver 127.0.0.53\noptions trust-ad\n";
        let behind = "nameserver 192.0.2.1\nsearch lan\n";
        let found = resolvers(stub, Some(behind), &[]);
        assert_eq!(found.text, "nameserver 192.0.2.1\nsearch lan\n");
        assert_eq!(found.unreachable, Vec::<IpAddr>::new());
        let alone = resolvers(stub, None, &[]);
        assert_eq!(alone.text, "options trust-ad\n");
        assert_eq!(alone.unreachable, ["127.0.0.53".parse::<IpAddr>().unwrap()]);
        let plain = resolvers("nameserver 9.9.9.9\n", Some(behind), &[]);
        assert_eq!(plain.text, "nameserver 9.9.9.9\n", "nothing to replace");
    }
}
