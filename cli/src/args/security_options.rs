//! Flags by which tasks request security options, and by which operators allow them.

use std::collections::BTreeSet;

use argosy_state::task::{LinuxCapability, SecurityOptions};
use clap::Args;

/// The capabilities that one name stands for: a single one, or a set.
#[derive(Debug, Clone)]
struct CapabilityName(Vec<LinuxCapability>);

fn capability(name: &str) -> Result<CapabilityName, String> {
    LinuxCapability::all_named(name).map(CapabilityName)
}

fn all(named: &[CapabilityName]) -> BTreeSet<LinuxCapability> {
    named
        .iter()
        .flat_map(|named| named.0.iter().copied())
        .collect()
}

/// Security options that a task requests.
#[derive(Debug, Args)]
#[command(next_help_heading = "Security options (the agent must allow each)")]
pub(crate) struct RequestedSecurityOptions {
    /// Capability inside the container, as CHOWN or SETUID, and none on the host; SERVER is the set
    /// for servers that start as root and change their user, as official images do; may be repeated
    #[arg(long = "capability", value_name = "NAME", value_delimiter = ',', value_parser = capability)]
    capabilities: Vec<CapabilityName>,
    /// Disable the seccomp filter; exposes more of the kernel
    #[arg(long)]
    unconfined_seccomp: bool,
    /// Let set-user-id programs of the image gain privileges within the container
    #[arg(long)]
    new_privileges: bool,
    /// Allow the task to create user namespaces
    #[arg(long)]
    nested_user_namespaces: bool,
}

impl RequestedSecurityOptions {
    pub(crate) fn options(&self) -> SecurityOptions {
        SecurityOptions {
            capabilities: all(&self.capabilities),
            unconfined_seccomp: self.unconfined_seccomp,
            new_privileges: self.new_privileges,
            nested_user_namespaces: self.nested_user_namespaces,
            // `--network host` requests it.
            host_network: false,
        }
    }
}

/// Security options that an agent allows its tasks.
#[derive(Debug, Args)]
pub(crate) struct AllowedSecurityOptions {
    /// Allow tasks these capabilities inside their containers, as CHOWN,SETUID, or SERVER for the
    /// set of servers that start as root and change their user; none on the host
    #[arg(long = "allow-capabilities", env = "ARGOSY_AGENT_ALLOW_CAPABILITIES", value_name = "NAME,…", value_delimiter = ',', value_parser = capability)]
    capabilities: Vec<CapabilityName>,
    /// Allow tasks to disable the seccomp filter; exposes more of the kernel
    #[arg(
        long = "allow-unconfined-seccomp",
        env = "ARGOSY_AGENT_ALLOW_UNCONFINED_SECCOMP"
    )]
    unconfined_seccomp: bool,
    /// Allow set-user-id programs of images to gain privileges within their containers
    #[arg(
        long = "allow-new-privileges",
        env = "ARGOSY_AGENT_ALLOW_NEW_PRIVILEGES"
    )]
    new_privileges: bool,
    /// Allow tasks to create user namespaces, in which they have all capabilities
    #[arg(
        long = "allow-nested-user-namespaces",
        env = "ARGOSY_AGENT_ALLOW_NESTED_USER_NAMESPACES"
    )]
    nested_user_namespaces: bool,
    /// Allow tasks to use the network of this host; it is the default where the agent has no other
    /// network for tasks
    #[arg(long = "allow-host-network", env = "ARGOSY_AGENT_ALLOW_HOST_NETWORK")]
    pub(crate) host_network: bool,
}

impl AllowedSecurityOptions {
    /// Returns these flags for an agent that this process starts: those that are set, and the
    /// capabilities by name.
    pub(crate) fn flags(&self) -> Vec<String> {
        let mut flags = Vec::new();
        if !self.capabilities.is_empty() {
            let names = LinuxCapability::list(&all(&self.capabilities));
            flags.extend(["--allow-capabilities".to_owned(), names]);
        }
        for (is_on, flag) in [
            (self.unconfined_seccomp, "--allow-unconfined-seccomp"),
            (self.new_privileges, "--allow-new-privileges"),
            (
                self.nested_user_namespaces,
                "--allow-nested-user-namespaces",
            ),
            (self.host_network, "--allow-host-network"),
        ] {
            flags.extend(is_on.then(|| flag.to_owned()));
        }
        flags
    }

    pub(crate) fn options(&self) -> SecurityOptions {
        SecurityOptions {
            capabilities: all(&self.capabilities),
            unconfined_seccomp: self.unconfined_seccomp,
            new_privileges: self.new_privileges,
            nested_user_namespaces: self.nested_user_namespaces,
            host_network: self.host_network,
        }
    }
}
