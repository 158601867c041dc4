//! The simulated hosts: network namespaces on one bridge, each with its own address.
//!
//! The harness itself runs in the namespace of the bridge. The machine's own network is not
//! touched, and every run may use the same addresses. Names contain the run's id. Everything with
//! such a name is removed with the run.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use nix::sched::{CloneFlags, setns};

use crate::host_tools::{self, ToolError};
use crate::partitions::{HostIndex, NetworkDisturbances};

/// The directory in which `ip netns` keeps its handles.
const HANDLES: &str = "/run/netns";
/// Address of the harness.
pub const OWN_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 254);

/// An error of the network setup.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// A tool failed.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// The namespace cannot be entered.
    #[error("cannot enter the network namespace {name}")]
    Enter {
        name: String,
        source: std::io::Error,
    },
}

/// The network of one host of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkHost {
    /// As "master-1".
    pub name: String,
    pub address: Ipv4Addr,
    pub namespace: String,
}

/// The bridge and all hosts.
#[derive(Debug)]
pub struct Network {
    prefix: String,
    hosts: Vec<NetworkHost>,
    disturbances: NetworkDisturbances,
    /// The hosts with a limited sending rate.
    limited: BTreeSet<HostIndex>,
}

impl Network {
    /// Creates the bridge, and moves the calling thread into its namespace. Threads that are
    /// created later are in it, too. Must be called while there is only one thread.
    ///
    /// # Errors
    /// [`NetworkError`]
    pub fn create(prefix: &str) -> Result<Self, NetworkError> {
        let switch = format!("{prefix}-switch");
        ip(&["netns", "add", &switch])?;
        enter(&switch)?;
        let own = format!("{OWN_ADDRESS}/24");
        ip(&["link", "set", "lo", "up"])?;
        ip(&["link", "add", "bridge0", "type", "bridge"])?;
        ip(&["address", "add", &own, "dev", "bridge0"])?;
        ip(&["link", "set", "bridge0", "up"])?;
        Ok(Self {
            prefix: prefix.to_owned(),
            hosts: Vec::new(),
            disturbances: NetworkDisturbances::default(),
            limited: BTreeSet::new(),
        })
    }

    /// Creates a host and returns its index.
    ///
    /// # Errors
    /// [`NetworkError`]
    pub fn add(&mut self, name: &str, number: u8) -> Result<HostIndex, NetworkError> {
        let namespace = format!("{}-{name}", self.prefix);
        let address = Ipv4Addr::new(10, 99, 0, number);
        let outer = format!("h{number}");
        ip(&["netns", "add", &namespace])?;
        ip(&[
            "link", "add", &outer, "type", "veth", "peer", "name", "eth0", "netns", &namespace,
        ])?;
        ip(&["link", "set", &outer, "master", "bridge0", "up"])?;
        ip(&["-n", &namespace, "link", "set", "lo", "up"])?;
        let with_mask = format!("{address}/24");
        ip(&[
            "-n", &namespace, "address", "add", &with_mask, "dev", "eth0",
        ])?;
        ip(&["-n", &namespace, "link", "set", "eth0", "up"])?;
        self.hosts.push(NetworkHost {
            name: name.to_owned(),
            address,
            namespace,
        });
        Ok(self.hosts.len() - 1)
    }

    pub fn host(&self, place: HostIndex) -> &NetworkHost {
        &self.hosts[place]
    }

    pub fn hosts(&self) -> &[NetworkHost] {
        &self.hosts
    }

    /// Applies these disturbances and removes all others.
    ///
    /// # Errors
    /// [`NetworkError`]. Some hosts may have the new rules then, and the next call repairs that.
    pub fn disturb(&mut self, cuts: NetworkDisturbances) -> Result<(), NetworkError> {
        let addresses: Vec<Ipv4Addr> = self.hosts.iter().map(|host| host.address).collect();
        for place in cuts.changed(&self.disturbances, &addresses, OWN_ADDRESS) {
            let rules = cuts.rules(place, &addresses, OWN_ADDRESS);
            let namespace = &self.hosts[place].namespace;
            execute_inside(namespace, "nft", &["-f", "-"], &rules)?;
        }
        self.disturbances = cuts;
        Ok(())
    }

    /// Limits the sending rate of a host to `rate`, such as "500kbit". `None` removes the limit.
    ///
    /// # Errors
    /// [`NetworkError`]
    pub fn limit_rate(&mut self, place: HostIndex, rate: Option<&str>) -> Result<(), NetworkError> {
        let namespace = &self.hosts[place].namespace;
        let words: Vec<&str> = match rate {
            Some(rate) => vec![
                "qdisc", "replace", "dev", "eth0", "root", "tbf", "rate", rate, "burst", "4kb",
                "latency", "300ms",
            ],
            None => vec!["qdisc", "del", "dev", "eth0", "root"],
        };
        execute_inside(namespace, "tc", &words, "")?;
        match rate {
            Some(_) => self.limited.insert(place),
            None => self.limited.remove(&place),
        };
        Ok(())
    }

    /// Returns whether the sending rate of a host is limited.
    pub fn is_rate_limited(&self, place: HostIndex) -> bool {
        self.limited.contains(&place)
    }
}

/// Executes a program in a namespace. The path is resolved outside, because the search path inside
/// may lack its directory.
///
/// # Errors
/// [`ToolError`]
pub fn execute_inside(
    namespace: &str,
    program: &str,
    args: &[&str],
    input: &str,
) -> Result<(), ToolError> {
    let mut line = vec![
        OsString::from(inside(namespace)),
        host_tools::path(program).into_os_string(),
    ];
    line.extend(args.iter().map(OsString::from));
    host_tools::run_with_input("nsenter", &line, input).map(drop)
}

/// Returns the option of `nsenter` that enters a namespace.
pub fn inside(namespace: &str) -> String {
    format!("--net={HANDLES}/{namespace}")
}

fn enter(namespace: &str) -> Result<(), NetworkError> {
    let failed = |source| NetworkError::Enter {
        name: namespace.to_owned(),
        source,
    };
    let handle = File::open(format!("{HANDLES}/{namespace}")).map_err(failed)?;
    setns(handle, CloneFlags::CLONE_NEWNET).map_err(|errno| failed(errno.into()))
}

fn ip(args: &[&str]) -> Result<(), ToolError> {
    host_tools::run("ip", args).map(drop)
}

/// Returns the namespaces whose names begin with the prefix.
pub fn namespaces(prefix: &str) -> Vec<String> {
    let mut found: Vec<String> = fs::read_dir(HANDLES)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with(prefix))
        .collect();
    found.sort();
    found
}

/// Returns the identity of a namespace in the kernel: equal for it and for every process in it.
pub fn identity(namespace: &str) -> Option<(u64, u64)> {
    let found = fs::metadata(PathBuf::from(HANDLES).join(namespace)).ok()?;
    Some((found.dev(), found.ino()))
}

/// Removes a namespace. All processes in it must have ended.
///
/// # Errors
/// [`ToolError`]
pub fn remove(namespace: &str) -> Result<(), ToolError> {
    ip(&["netns", "del", namespace])
}
