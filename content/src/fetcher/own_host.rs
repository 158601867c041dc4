//! Addresses of this host, and the ports of it that lead to tasks.

use std::io;
use std::net::SocketAddr;
use std::path::Path;

use argosy_network::{PublishedPorts, RECORDS_DIR, is_own_address};

/// The check for the host's addresses; see the file header.
#[derive(Debug)]
pub(super) struct HostAddresses {
    published: PublishedPorts,
    /// Whether tasks publish their ports at IPv6 addresses as well.
    has_ipv6: bool,
}

impl HostAddresses {
    /// Returns the check for the host on which this process runs. Opens a directory.
    pub(super) fn open(has_ipv6: bool) -> io::Result<Self> {
        Self::listed(has_ipv6, Path::new(RECORDS_DIR))
    }

    pub(super) fn listed(has_ipv6: bool, records: &Path) -> io::Result<Self> {
        Ok(Self {
            published: PublishedPorts::open(records)?,
            has_ipv6,
        })
    }

    /// Whether the host itself answers there, and not a task that has published the port.
    pub(super) fn answers(&self, server: SocketAddr) -> io::Result<bool> {
        let (address, port) = (server.ip(), server.port());
        if !is_own_address(address)? {
            return Ok(false);
        }
        let may_be_published = address.is_ipv4() || self.has_ipv6;
        Ok(!(may_be_published && self.published.has_tcp(port)?))
    }
}
