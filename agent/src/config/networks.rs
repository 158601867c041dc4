//! The operator's settings of container networks, and of the endpoints closed to tasks.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use argosy_network::{InterContainerTraffic, Subnet, Subnet6, Subnet6Error};

const GENERATED: &str = "auto";
const OFF: &str = "none";

/// The operator's settings of container networks.
#[derive(Debug, Clone)]
pub struct NetworkSettings {
    /// The address range of containers.
    pub subnet: Subnet,
    /// The IPv6 address range of containers.
    pub subnet6: TaskSubnet6,
    /// Whether containers of this host can connect to each other's addresses.
    pub inter_container: InterContainerTraffic,
    /// The CNI settings.
    pub cni: CniSettings,
}

impl Default for NetworkSettings {
    fn default() -> Self {
        Self {
            subnet: Subnet::DEFAULT,
            subnet6: TaskSubnet6::default(),
            inter_container: InterContainerTraffic::Isolated,
            cni: CniSettings::default(),
        }
    }
}

/// The operator's CNI settings.
#[derive(Debug, Clone)]
pub struct CniSettings {
    /// A directory whose files `*.conflist` are the networks that tasks may name; `None`: none
    /// exist.
    pub conf_dir: Option<PathBuf>,
    /// The search path of plugins, in order.
    pub plugins: Vec<PathBuf>,
}

impl Default for CniSettings {
    fn default() -> Self {
        let usual = ["/opt/cni/bin", "/usr/lib/cni"];
        Self {
            conf_dir: None,
            plugins: usual.map(PathBuf::from).to_vec(),
        }
    }
}

/// The operator's setting for IPv6 addresses of containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TaskSubnet6 {
    /// A unique local prefix (RFC 4193) of this agent alone.
    #[default]
    Generated,
    /// This prefix.
    Given(Subnet6),
    /// Containers have only IPv4.
    Off,
}

impl FromStr for TaskSubnet6 {
    type Err = Subnet6Error;

    fn from_str(text: &str) -> Result<Self, Subnet6Error> {
        match text {
            GENERATED => Ok(Self::Generated),
            OFF => Ok(Self::Off),
            prefix => prefix.parse().map(Self::Given),
        }
    }
}

impl fmt::Display for TaskSubnet6 {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Generated => formatter.write_str(GENERATED),
            Self::Off => formatter.write_str(OFF),
            Self::Given(subnet) => subnet.fmt(formatter),
        }
    }
}

/// A cluster or host endpoint to which tasks may connect: one `--task-allow`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TaskAllow {
    /// This port, at every address.
    Port(u16),
    /// Link-local addresses and other addresses of metadata services.
    Metadata,
}

impl FromStr for TaskAllow {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "metadata" {
            return Ok(Self::Metadata);
        }
        let port = text.parse().ok().filter(|port| *port > 0);
        port.map(Self::Port).ok_or_else(|| {
            format!("{text:?} is not a port; write a number from 1 to 65535, or metadata")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_settings_round_trip_through_display() {
        for text in ["auto", "none", "fd12:3456:789a::/64"] {
            assert_eq!(text.parse::<TaskSubnet6>().unwrap().to_string(), text);
        }
        assert!("on".parse::<TaskSubnet6>().is_err());
    }

    #[test]
    fn invalid_ports_are_rejected_with_a_remedy() {
        for text in ["0", "65536", "http", "", "5050-5052"] {
            let refused = TaskAllow::from_str(text).unwrap_err();
            assert!(refused.contains("65535, or metadata"), "{refused}");
        }
    }
}
