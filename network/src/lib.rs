//! Networks of containers: namespaces that are connected to the host, their addresses, published
//! ports and packet filters, and CNI plugins.
//!
//! ```text
//!  container                     host                                          world
//!  lo   eth0 10.183.0.5 ◀─veth─▶ argo… 10.183.0.1 ──▶ routing, one nft table ──▶ masqueraded
//!                                └ the only route to .5 ◀── host port 8080 ◀── any client
//! ```
//! With IPv6, each end has a second address: the same host part behind the prefix of the agent
//! (`subnet6`).
//!
//! The mode that users know as `bridge` needs no Ethernet bridge: each container's link is routed
//! separately. The route also binds an address to its link, no container receives another's frames,
//! and one table filters all traffic.
//!
//! Only descriptors and processes keep a namespace alive: the agent's while it waits in the pool,
//! later the container's. When its last holder exits, the kernel removes the namespace with both
//! ends of its link. State that can outlive its owner is recorded first (`ipam`) or derived from
//! the records (`rules`), and a sweep restores both.
//!
//! Reading order: `subnet`, `subnet6`, `published`, `netlink`, `netfilter`, `link`, `link_stats`,
//! `namespace`, `closed_addresses`, `rules`, `conntrack`, `ipam`, `host`, `forwarding`, `networks`,
//! `trial`, `cni`, `names`. Each imports only from those before it.

mod closed_addresses;
pub mod cni;
mod conntrack;
mod forwarding;
mod host;
mod ipam;
mod link;
mod link_stats;
pub mod names;
mod namespace;
mod netfilter;
mod netlink;
mod networks;
mod published;
mod rules;
mod subnet;
mod subnet6;
mod trial;

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use host::{is_own_address, why_no_ipv6};
pub use link::bring_up_loopback;
pub use link_stats::{LinkCounters, LinkStats};
pub use networks::Networks;
pub use published::PublishedPorts;
pub use rules::DEVICES;
pub use subnet::{Subnet, SubnetError};
pub use subnet6::{Subnet6, Subnet6Error};
pub use trial::check;

/// The directory in which the agents of one host record the addresses and ports of containers.
/// Empty after a boot.
pub const RECORDS_DIR: &str = "/run/argosy/networks";

/// A transport protocol with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    /// Returns the name that the kernel, nft and the records use.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// A published port: a port on all addresses of the host that leads to a container's port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortPublication {
    /// The task's name for the port; for messages.
    pub name: String,
    pub protocol: Protocol,
    /// On the host: 1 to 65535. The caller checks that the container may use it.
    pub host_port: u16,
    /// In the container: 1 to 65535.
    pub container_port: u16,
}

/// Whether containers of one agent reach each other without a published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InterContainerTraffic {
    /// No: tasks of different users share a host, and few of them expect connections from other
    /// tasks.
    Isolated,
    /// Yes, by their addresses.
    Open,
}

/// An operator's settings for an agent's networks.
#[derive(Debug, Clone)]
pub struct NetworkConfig {
    /// The agent's directory, absolute: its path identifies the owner of records. Records of an
    /// owner whose directory no longer exists are discarded.
    pub owner: PathBuf,
    /// The directory of records, shared by all agents of the host: [`RECORDS_DIR`].
    pub directory: PathBuf,
    /// The pool of containers' addresses. Nothing else on the host may have a route into it.
    pub subnet: Subnet,
    /// The prefix of containers' IPv6 addresses; `None`: they have IPv4 only, as on a host without
    /// IPv6 ([`why_no_ipv6`]).
    pub subnet6: Option<Subnet6>,
    /// The number of namespaces in the pool: 0 to create each on demand.
    pub pool_size: usize,
    /// Whether containers reach each other.
    pub traffic: InterContainerTraffic,
    /// Whether containers reach link-local addresses and the metadata services of clouds only by
    /// DNS, which some of them serve, too.
    pub blocks_metadata: bool,
    /// TCP services elsewhere that no container may reach, such as the masters'. The host's
    /// services are denied anyway.
    pub denied: Vec<SocketAddr>,
}

/// A network namespace with an address, for one container or for several that share it.
#[derive(Debug)]
pub struct ContainerNamespace {
    /// The namespace for the launch. Drop it then: its containers hold it.
    pub namespace: OwnedFd,
    pub address: Ipv4Addr,
    /// The container's IPv6 address, if it has one.
    pub address6: Option<Ipv6Addr>,
    /// The host's address from the container: it reaches published ports, and nothing else.
    pub gateway: Ipv4Addr,
}

/// Creates a network namespace with only a loopback device. It exists as long as a process holds
/// it: the caller, and the containers that are launched with it.
///
/// # Errors
/// If the host refuses it.
pub fn create_isolated() -> Result<OwnedFd, NetworkError> {
    namespace::create_isolated()
}

/// An error of setting up or removing a network.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The pool overlaps an existing route: packets would reach the wrong destination.
    #[error("the subnet {subnet} for containers overlaps {route} on {device}: give a free subnet")]
    Overlap {
        /// The pool.
        subnet: String,
        /// The route's destination.
        route: String,
        device: String,
    },
    /// All addresses are in use.
    #[error("all addresses of {subnet} are in use: give a larger subnet")]
    Exhausted {
        /// The pool.
        subnet: Subnet,
    },
    /// A container of an earlier run of the agent has an address of another subnet.
    #[error(
        "container {container} has the address {address}, and the subnet is now {subnet}: end the tasks with task networks, or keep the former subnet"
    )]
    SubnetChanged {
        /// The present subnet.
        subnet: Subnet,
        container: String,
        address: Ipv4Addr,
    },
    /// Another container has published the port.
    #[error("port {name:?} ({protocol} {port}) is already published for {holder}: choose another")]
    Published {
        /// The task's name for the port.
        name: String,
        protocol: Protocol,
        /// On the host.
        port: u16,
        /// The container that has published it.
        holder: String,
    },
    /// A process of the host listens on the port; publishing would divert its connections.
    #[error("port {name:?} ({protocol} {port}) is in use on this host: choose another")]
    Bound {
        /// The task's name for the port.
        name: String,
        protocol: Protocol,
        /// On the host.
        port: u16,
        /// The host's error.
        source: io::Error,
    },
    /// A published port is 0.
    #[error("port {name:?} is not valid: ports are 1 to 65535")]
    Zero {
        /// The task's name for the port.
        name: String,
    },
    /// The executable `nft` cannot be run.
    #[error("cannot run nft: install the package nftables")]
    NoNft { source: io::Error },
    /// The kernel rejects the rules.
    #[error("nft rejected the rules of containers' networks: {reason}")]
    Rules {
        /// The error of nft.
        reason: String,
    },
    /// A record cannot be read or written.
    #[error("cannot {what} {path}")]
    Record {
        /// The failed operation.
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// The kernel refused an operation.
    #[error("cannot {what}")]
    Kernel {
        /// The failed operation.
        what: String,
        source: io::Error,
    },
}

fn network_error<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> NetworkError {
    let what = what.into();
    move |source| NetworkError::Kernel {
        what,
        source: source.into(),
    }
}
