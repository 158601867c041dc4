//! The process on this host that listens at an address.

use std::fs;
use std::net::SocketAddr;

use anyhow::{Context, Result, bail};
use argosy_host::ProcessId;
use argosy_testbed::leftovers::is_alive;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// State of a listening socket in the kernel's tables.
const LISTENING: &str = "0A";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ListeningProcess(ProcessId);

impl ListeningProcess {
    /// Sends a signal, if it is still the same process.
    pub(super) fn send(self, signal: Signal) -> Result<()> {
        if !is_alive(self.0) {
            bail!("process {} has ended", self.0.pid);
        }
        kill(Pid::from_raw(self.0.pid), signal)
            .with_context(|| format!("cannot send {signal} to process {}", self.0.pid))
    }
}

/// Returns the master that listens at `address`, or a message if none does on this host.
pub(super) fn listener(address: &str) -> Result<ListeningProcess, String> {
    let absent = || {
        format!(
            "no master listens at {address} on this host: from here only transfer-leader can be done"
        )
    };
    let wanted: SocketAddr = address.parse().map_err(|_| absent())?;
    let inode = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .find_map(|table| socket_in(&fs::read_to_string(table).ok()?, wanted))
        .ok_or_else(absent)?;
    let link = format!("socket:[{inode}]");
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let holder = entries
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .find(|pid| holds(*pid, &link) && is_master(*pid));
    let process = holder
        .and_then(|pid| ProcessId::of(pid).ok())
        .ok_or_else(absent)?;
    Ok(ListeningProcess(process))
}

fn holds(pid: i32, link: &str) -> bool {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten()
        .flatten();
    descriptors
        .filter_map(|descriptor| fs::read_link(descriptor.path()).ok())
        .any(|target| target.as_os_str() == link)
}

/// Whether it is an Argosy master. No other process is ever signalled.
fn is_master(pid: i32) -> bool {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
    words
        .windows(2)
        .any(|pair| pair == [b"master".as_slice(), b"start".as_slice()])
}

/// Returns the inode of the socket that listens at an address, or at all addresses with its port.
fn socket_in(table: &str, wanted: SocketAddr) -> Option<u64> {
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let (host, port) = fields.get(1)?.split_once(':')?;
        let port = u16::from_str_radix(port, 16).ok()?;
        let is_any = host.bytes().all(|byte| byte == b'0');
        let is_wanted = host.eq_ignore_ascii_case(&in_hexadecimal(wanted)) || is_any;
        let listens = fields.get(3) == Some(&LISTENING);
        (listens && port == wanted.port() && is_wanted).then(|| fields.get(9)?.parse().ok())?
    })
}

/// Formats an address as the kernel does: each group of four bytes in the machine's byte order.
fn in_hexadecimal(address: SocketAddr) -> String {
    let bytes = match address {
        SocketAddr::V4(address) => address.ip().octets().to_vec(),
        SocketAddr::V6(address) => address.ip().octets().to_vec(),
    };
    bytes
        .chunks(4)
        .map(|four| {
            let four: [u8; 4] = four
                .try_into()
                .expect("addresses have groups of four bytes");
            format!("{:08X}", u32::from_ne_bytes(four))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:13BA 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1
   1: 0100007F:13BB 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0        0 4712 1
";

    #[test]
    fn only_a_socket_that_listens_there_is_found() {
        let at = |text: &str| socket_in(TABLE, text.parse().unwrap());
        assert_eq!(at("127.0.0.1:5050"), Some(4711));
        assert_eq!(at("127.0.0.2:5050"), None);
        assert_eq!(at("127.0.0.1:5051"), None);
    }

    #[test]
    fn a_listener_that_is_not_a_master_is_rejected() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap().to_string();
        let error = listener(&address).unwrap_err();
        assert!(
            error.contains(&address) && error.contains("transfer-leader"),
            "{error}"
        );
    }
}
