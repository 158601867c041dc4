//! The network of a container, as its launch requests it.

use serde::{Deserialize, Serialize};

/// The network of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// The host's network.
    Host {
        /// The TCP ports that its command may bind, where 0 stands for any port that the kernel
        /// picks; `None`: all. Enforced by Landlock and `port_filter`.
        ports: Option<Vec<u16>>,
    },
    /// A separate namespace with only a loopback device.
    None,
    /// The namespace that comes with the launch ([`crate::Launcher::launch_joined`]).
    Joined,
}
