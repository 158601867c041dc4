//! Listening sockets, with errors that name the process that holds an address.
//!
//! Only this module of the program binds addresses.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs};
use std::path::Path;

use argosy_proto::server::callers::{AllowedCallers, ApiAccess};
use argosy_proto::transport::Listener;
use argosy_tls::application::PortKind;
use nix::sys::socket::Backlog;
use tokio::runtime::Handle;

use crate::exit::Failure;
use crate::transport::ServiceTransport;

/// Connections that may wait to be accepted, as far as `net.core.somaxconn` allows: all agents
/// connect together after an election. The kernel ignores further ones, and their hosts try again
/// after a second or more.
const WAITING: i32 = 4_096;

/// Binds a non-blocking socket that listens at `address`, ready for a runtime.
pub(crate) fn bind(address: &str, flag: &str) -> Result<TcpListener, Failure> {
    let resolved = resolve(address, flag)?;
    let listener = TcpListener::bind(resolved).map_err(|error| explain(&error, resolved, flag))?;
    let waiting = Backlog::new(WAITING).map_err(|error| Failure::of(&error))?;
    // It listens already. This only replaces the limit of 128 of the standard library.
    nix::sys::socket::listen(&listener, waiting).map_err(|error| Failure::of(&error))?;
    listener
        .set_nonblocking(true)
        .map_err(|error| Failure::of(&error))?;
    Ok(listener)
}

/// Returns the connections that arrive at the socket of an API, on the current runtime.
pub(crate) fn connections(
    socket: TcpListener,
    transport: &ServiceTransport,
) -> io::Result<Listener> {
    let listener = Listener::tcp(tokio::net::TcpListener::from_std(socket)?);
    Ok(transport.listener(listener, ("api", PortKind::Api), Handle::current()))
}

/// Resolves a host name or number to a socket address.
pub(crate) fn resolve(address: &str, flag: &str) -> Result<SocketAddr, Failure> {
    let mut found = address.to_socket_addrs().map_err(|error| {
        Failure::usage(format!(
            "{flag} {address}: the name cannot be resolved: {error}"
        ))
    })?;
    found
        .next()
        .ok_or_else(|| Failure::usage(format!("{flag} {address}: the name has no address")))
}

/// Returns the clients that may access tasks: these users of this host, or all clients where the
/// operator allows it.
pub(crate) fn access(users: &[u32], allow_exec: bool, allow_files: bool) -> ApiAccess {
    let mut access = ApiAccess::of_users(users.iter().copied());
    if allow_exec {
        access.exec = AllowedCallers::All;
    }
    if allow_files {
        access.files = AllowedCallers::All;
    }
    access
}

/// Returns the names by which web pages may reach this address: that of the address, the system's,
/// and those that the operator allows.
pub(crate) fn host_names(listen: &str, allowed: &[String]) -> Vec<String> {
    // A system without a name, or with one that is not UTF-8, contributes none.
    let own = nix::unistd::gethostname().ok();
    let own = own.and_then(|name| name.into_string().ok());
    let names = own.into_iter().chain(allowed.iter().cloned());
    std::iter::once(listen.to_owned()).chain(names).collect()
}

fn explain(error: &io::Error, address: SocketAddr, flag: &str) -> Failure {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            let owner = owner(address)
                .map_or_else(|| "another process".to_owned(), |owner| owner.to_string());
            Failure::failed(format!("{address} is taken by {owner}"))
                .advise(format!("stop that process, or give {flag} another address"))
        }
        io::ErrorKind::AddrNotAvailable => {
            Failure::failed(format!("{address} is not an address of this host"))
                .advise(format!("give {flag} one of those that `ip address` shows"))
        }
        io::ErrorKind::PermissionDenied => Failure::failed(format!(
            "{address}: permission denied; ports below 1024 need root"
        ))
        .advise(format!("give {flag} a port above 1023")),
        _ => Failure::failed(format!("cannot listen at {address}: {error}")),
    }
}

/// Checks whether the address can be bound now. If not, the failure names the process that holds
/// it.
pub(crate) fn is_free(address: &str, flag: &str) -> Result<(), Failure> {
    bind(address, flag).map(drop)
}

/// The process that holds an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AddressOwner {
    /// The process id.
    pub(crate) pid: i32,
    /// The command line, truncated.
    pub(crate) command: String,
}

impl std::fmt::Display for AddressOwner {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "process {} ({})", self.pid, self.command)
    }
}

/// Returns the process that listens at `address`, or at its port on all addresses. Returns `None`
/// if the process is not visible: it belongs to another user, or to another network namespace.
pub(crate) fn owner(address: SocketAddr) -> Option<AddressOwner> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"]
        .map(|path| fs::read_to_string(path).unwrap_or_default());
    let inodes: BTreeSet<_> = tables
        .iter()
        .flat_map(|table| listeners(table, address))
        .collect();
    if inodes.is_empty() {
        return None;
    }
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        holds(&entry.path(), &inodes).then(|| AddressOwner {
            pid,
            command: command(&entry.path()),
        })
    })
}

fn holds(process: &Path, inodes: &BTreeSet<u64>) -> bool {
    let Ok(descriptors) = fs::read_dir(process.join("fd")) else {
        return false;
    };
    descriptors.flatten().any(|entry| {
        let target = fs::read_link(entry.path()).unwrap_or_default();
        let inode = target.to_str().and_then(|text| {
            text.strip_prefix("socket:[")?
                .strip_suffix(']')?
                .parse()
                .ok()
        });
        inode.is_some_and(|inode: u64| inodes.contains(&inode))
    })
}

fn command(process: &Path) -> String {
    let words = fs::read(process.join("cmdline")).unwrap_or_default();
    let text = String::from_utf8_lossy(&words).replace('\0', " ");
    let text: String = text
        .trim()
        .chars()
        .filter(|letter| !letter.is_control())
        .take(80)
        .collect();
    if text.is_empty() {
        "unknown command".to_owned()
    } else {
        text
    }
}

/// Returns the inodes of sockets that listen at the same port, on the same or any address.
fn listeners(table: &str, address: SocketAddr) -> Vec<u64> {
    let lines = table.lines().skip(1);
    lines
        .filter_map(|line| {
            let fields: Vec<_> = line.split_ascii_whitespace().collect();
            let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
            let (ip, port) = endpoint(local)?;
            let same = port == address.port()
                && (ip == address.ip() || ip.is_unspecified() || address.ip().is_unspecified());
            // 0A: listening.
            (same && *state == "0A").then(|| inode.parse().ok())?
        })
        .collect()
}

/// Parses `0100007F:13BA`: groups of four bytes, each in the host's order.
fn endpoint(text: &str) -> Option<(IpAddr, u16)> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| {
        u32::from_str_radix(ip.get(at..at + 8)?, 16)
            .ok()
            .map(u32::to_ne_bytes)
    };
    let ip = match ip.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut bytes = [0; 16];
            for group in 0..4 {
                bytes[group * 4..group * 4 + 4].copy_from_slice(&word(group * 8)?);
            }
            let ip = Ipv6Addr::from(bytes);
            ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4)
        }
        _ => return None,
    };
    Some((ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_in_use_is_an_error_with_its_owner() {
        let ours = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = ours.local_addr().unwrap();
        let failure = bind(&address.to_string(), "--listen").unwrap_err();
        let start = format!("{address} is taken by process {} (", std::process::id());
        assert!(failure.message.starts_with(&start), "{failure}");
        assert_eq!(
            failure.advice,
            ["stop that process, or give --listen another address"]
        );
    }

    #[test]
    fn a_listener_on_all_addresses_owns_each_of_them() {
        let ours = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = ours.local_addr().unwrap().port();
        let found = owner(SocketAddr::from(([127, 0, 0, 1], port))).unwrap();
        assert_eq!(found.pid, std::process::id() as i32);
    }

    #[test]
    fn an_address_of_another_host_is_named_as_such() {
        let failure = bind("192.0.2.1:5050", "--listen").unwrap_err();
        assert!(
            failure.message.contains("not an address of this host"),
            "{failure}"
        );
    }

    #[test]
    fn a_name_that_does_not_exist_is_a_usage_error() {
        let failure = bind("no-such-host.invalid:5050", "--listen").unwrap_err();
        assert_eq!(failure.code, crate::exit::FailureCode::Usage);
    }

    #[test]
    fn each_part_of_the_api_has_its_own_access_flag() {
        let users = AllowedCallers::users([1_001]);
        let closed = ApiAccess {
            exec: users.clone(),
            files: users,
            status: AllowedCallers::All,
        };
        assert_eq!(access(&[1_001], false, false), closed);
        let opened = ApiAccess {
            exec: AllowedCallers::All,
            ..closed.clone()
        };
        assert_eq!(access(&[1_001], true, false), opened);
        let opened = ApiAccess {
            files: AllowedCallers::All,
            ..closed
        };
        assert_eq!(access(&[1_001], false, true), opened);
    }

    #[test]
    fn the_socket_tables_of_the_kernel_are_parsed() {
        assert_eq!(
            endpoint("0100007F:13BA"),
            Some(("127.0.0.1".parse().unwrap(), 5_050))
        );
        assert_eq!(
            endpoint("00000000000000000000000001000000:0050"),
            Some(("::1".parse().unwrap(), 80))
        );
        assert_eq!(endpoint("garbage"), None);
        assert_eq!(endpoint("01:13BA"), None);
    }
}
