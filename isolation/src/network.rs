//! A container's network: the host's, none, or a namespace of its own that is joined to the host.
//!
//! ```text
//!  container                     host                                          world
//!  lo   eth0 10.183.0.5 ◀─veth─▶ argo… 10.183.0.1 ──▶ routing, one nft table ──▶ masqueraded
//!                                └ the only route to .5 ◀── host port 8080 ◀── anybody
//! ```
//! With IPv6, each end has a second address: the same one behind the prefix of the agent (`subnet6`).
//!
//! The mode that users know as `bridge` needs no Ethernet bridge: each container's link is routed by itself. Then the
//! route is at once what binds an address to its link, no container hears another's frames, and one table sees all.
//!
//! A namespace belongs to nobody but the descriptors and processes that hold it: the agent's while it waits in the pool,
//! the container's later. Whoever dies, the kernel removes it with both ends of its link. What could outlive its owner is
//! written down first (`records`) or follows from what is written down (`rules`), and a sweep makes both true again.

pub mod cni;
mod forwarding;
mod host;
mod ipam;
mod link;
mod link_stats;
pub mod names;
mod namespace;
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
pub(crate) use link::raise_loopback;
pub use link_stats::{Flow, Traffic};
pub use networks::Networks;
pub use published::PublishedPorts;
pub use rules::DEVICES;
pub use subnet::{Subnet, SubnetError};
pub use subnet6::{Subnet6, Subnet6Error};
pub use trial::check;

/// Where agents of one host write down addresses and ports that they gave to containers. Empty after a boot.
pub const FOLDER: &str = "/run/argosy/networks";

/// Which network a container is in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// The host's.
    Host {
        /// The TCP ports that its command may bind, 0 standing for any that the kernel picks; `None`: all. Kept by
        /// Landlock and `port_filter`.
        ports: Option<Vec<u16>>,
    },
    /// A namespace of its own with nothing but a loopback device.
    None,
    /// The namespace that comes with the launch ([`crate::Launcher::launch_joined`]).
    Joined,
}

/// A transport protocol that has ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// As the kernel, nft and our records name it.
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

/// A port of the host, at all its addresses, that leads to a container's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publication {
    /// What the task calls it; for messages.
    pub name: String,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// On the host: 1 to 65535. The caller checks that it is the container's to use.
    pub host_port: u16,
    /// In the container: 1 to 65535.
    pub container_port: u16,
}

/// Whether containers of one agent reach each other without a published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Between {
    /// No: tasks of different people share a host, and few of them expect callers that they did not invite.
    Isolated,
    /// Yes, by their addresses.
    Open,
}

/// What an operator decides about an agent's networks.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The agent's own directory, absolute: its name tells in records whose they are. What is recorded for an owner whose
    /// directory is gone is given up.
    pub owner: PathBuf,
    /// Where records are kept, shared by all agents of the host: [`FOLDER`].
    pub folder: PathBuf,
    /// Where containers' addresses come from. Nothing else on the host may have a route into it.
    pub subnet: Subnet,
    /// What containers' IPv6 addresses begin with; `None`: they have IPv4 only, as on a host without IPv6
    /// ([`why_no_ipv6`]).
    pub subnet6: Option<Subnet6>,
    /// How many namespaces wait ready to be used: 0 to make each when it is wanted.
    pub ready: usize,
    /// Whether containers reach each other.
    pub between: Between,
    /// TCP services elsewhere that no container may reach, such as the masters'. The host's own are denied anyway.
    pub denied: Vec<SocketAddr>,
}

/// A network namespace with an address, for one container or for several that share it.
#[derive(Debug)]
pub struct Joined {
    /// To be launched with. Drop it then: its containers hold it.
    pub namespace: OwnedFd,
    /// The container's address.
    pub address: Ipv4Addr,
    /// Its IPv6 address, if it has one.
    pub address6: Option<Ipv6Addr>,
    /// The host's, as the container reaches it: published ports, and nothing else.
    pub gateway: Ipv4Addr,
}

/// A network namespace with nothing but a loopback device, for containers that are alone together. It belongs to whoever
/// holds it: the caller, and the containers that are launched with it ([`Network::Joined`]).
///
/// # Errors
/// If the host refuses it.
pub fn alone() -> Result<OwnedFd, NetworkError> {
    namespace::alone()
}

/// Why a network could not be made or taken down.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// Packets for containers would go astray, or those for others to containers.
    #[error("the subnet {subnet} for containers overlaps {route} on {device}: give a free subnet")]
    Overlap {
        /// The pool.
        subnet: String,
        /// The route's destination.
        route: String,
        /// Its device.
        device: String,
    },
    /// All addresses are in use.
    #[error("all addresses of {subnet} are in use: give a larger subnet")]
    Exhausted {
        /// The pool.
        subnet: Subnet,
    },
    /// Another container has the port.
    #[error("port {name:?} ({protocol} {port}) is already published for {holder}: choose another")]
    Published {
        /// What the task calls it.
        name: String,
        /// Its protocol.
        protocol: Protocol,
        /// On the host.
        port: u16,
        /// The container that has it.
        holder: String,
    },
    /// A process of the host listens there; publishing would take its callers away.
    #[error("port {name:?} ({protocol} {port}) is in use on this host: choose another")]
    Bound {
        /// What the task calls it.
        name: String,
        /// Its protocol.
        protocol: Protocol,
        /// On the host.
        port: u16,
        /// What the host says.
        source: io::Error,
    },
    /// A port that is none.
    #[error("port {name:?} is not valid: ports are 1 to 65535")]
    Zero {
        /// What the task calls it.
        name: String,
    },
    /// The executable `nft` cannot be run.
    #[error("cannot run nft: install the package nftables")]
    NoNft {
        /// Why.
        source: io::Error,
    },
    /// The kernel does not take the rules.
    #[error("the rules of containers' networks were refused: {reason}")]
    Rules {
        /// What nft says.
        reason: String,
    },
    /// What is to be kept in mind cannot be.
    #[error("cannot {what} {path}")]
    Record {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel refused something.
    #[error("cannot {what}")]
    Kernel {
        /// What was tried.
        what: String,
        /// Why.
        source: io::Error,
    },
}

fn refused<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> NetworkError {
    let what = what.into();
    move |source| NetworkError::Kernel {
        what,
        source: source.into(),
    }
}
