//! Addresses for clusters in the network of this program.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU8, Ordering};

/// Number of networks of this process.
static NETWORKS: AtomicU8 = AtomicU8::new(0);
/// Maximum number of them.
const MOST: u8 = 50;

/// Loopback addresses that no other cluster of this process has, and none of a process that was
/// started at about the same time.
#[derive(Debug, Clone, Copy)]
pub struct LoopbackNetwork([u8; 3]);

impl LoopbackNetwork {
    /// Returns the next network.
    ///
    /// # Panics
    /// If this process has used 50 of them.
    pub fn next() -> Self {
        let number = NETWORKS.fetch_add(1, Ordering::Relaxed);
        assert!(number < MOST, "there are more clusters than networks");
        Self::of(std::process::id(), number)
    }

    fn of(pid: u32, number: u8) -> Self {
        let within = |most: u32, value: u32| u8::try_from(value % most).expect("it is small");
        let third = within(5, pid / 100) * MOST + number;
        Self([127, 100 + within(100, pid), third])
    }

    pub fn address(&self, host: u8) -> Ipv4Addr {
        let [first, second, third] = self.0;
        Ipv4Addr::new(first, second, third, host)
    }

    /// Returns a port of the hosts 1 to `count`, as a list for a flag.
    pub fn list(&self, count: u8, port: u16) -> String {
        let hosts = (1..=count).map(|host| format!("{}:{port}", self.address(host)));
        hosts.collect::<Vec<_>>().join(",")
    }
}

/// Returns free ports of an address, as `host:port`. No process holds them afterwards: a program
/// that takes one before the process under test does makes the start of that process fail.
///
/// # Errors
/// If there is none.
pub fn free_addresses(host: &str, count: usize) -> io::Result<Vec<String>> {
    let listeners = (0..count).map(|_| TcpListener::bind((host, 0)));
    let listeners: Vec<TcpListener> = listeners.collect::<io::Result<_>>()?;
    listeners
        .iter()
        .map(|listener| Ok(listener.local_addr()?.to_string()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_of_one_process_have_different_addresses() {
        let (first, second) = (LoopbackNetwork::next(), LoopbackNetwork::next());
        assert_ne!(first.address(1), second.address(1));
        let network = LoopbackNetwork::of(54_321, 49);
        assert_eq!(
            network.list(2, 5050),
            "127.121.199.1:5050,127.121.199.2:5050"
        );
    }

    #[test]
    fn free_addresses_are_different() {
        let addresses = free_addresses("127.0.0.1", 3).unwrap();
        assert!(
            addresses[0] != addresses[1] && addresses[1] != addresses[2],
            "{addresses:?}"
        );
    }
}
