//! Flags by which tasks ask to be let off parts of the default profile, and operators allow it.

use std::collections::BTreeSet;

use argosy_state::task::{Capability, OptOuts};
use clap::Args;

/// What one name stands for: a capability, or a set of them.
#[derive(Debug, Clone)]
struct Named(Vec<Capability>);

fn capability(name: &str) -> Result<Named, String> {
    Capability::all_named(name).map(Named)
}

fn all(named: &[Named]) -> BTreeSet<Capability> {
    named
        .iter()
        .flat_map(|named| named.0.iter().copied())
        .collect()
}

/// What a task is let off.
#[derive(Debug, Args)]
#[command(next_help_heading = "Opt-outs (the agent must allow each)")]
pub(crate) struct AskedOptOuts {
    /// Capability in its container, as CHOWN or SETUID, and none on the host; SERVER are those of servers that start as root
    /// and change their user, as official images do; may be repeated
    #[arg(long = "capability", value_name = "NAME", value_delimiter = ',', value_parser = capability)]
    capabilities: Vec<Named>,
    /// Make any system call; the kernel has more to defend then
    #[arg(long)]
    unconfined_seccomp: bool,
    /// Have set-user-id programs of its image work, within the container
    #[arg(long)]
    new_privileges: bool,
    /// Make user namespaces of its own
    #[arg(long)]
    nested_user_namespaces: bool,
}

impl AskedOptOuts {
    pub(crate) fn opt_outs(&self) -> OptOuts {
        OptOuts {
            capabilities: all(&self.capabilities),
            unconfined_seccomp: self.unconfined_seccomp,
            new_privileges: self.new_privileges,
            nested_user_namespaces: self.nested_user_namespaces,
            // Asked for by --network host.
            host_network: false,
        }
    }
}

/// What an agent's tasks may be let off.
#[derive(Debug, Args)]
pub(crate) struct AllowedOptOuts {
    /// Tasks may have these capabilities in their containers, as CHOWN,SETUID, or SERVER for those of servers that start as
    /// root and change their user; none on the host
    #[arg(long = "allow-capabilities", env = "ARGOSY_AGENT_ALLOW_CAPABILITIES", value_name = "NAME,…", value_delimiter = ',', value_parser = capability)]
    capabilities: Vec<Named>,
    /// Tasks may make any system call: less stands between them and a defect of the kernel
    #[arg(
        long = "allow-unconfined-seccomp",
        env = "ARGOSY_AGENT_ALLOW_UNCONFINED_SECCOMP"
    )]
    unconfined_seccomp: bool,
    /// Set-user-id programs of images may work, within their containers
    #[arg(
        long = "allow-new-privileges",
        env = "ARGOSY_AGENT_ALLOW_NEW_PRIVILEGES"
    )]
    new_privileges: bool,
    /// Tasks may make user namespaces of their own, in which they have all capabilities
    #[arg(
        long = "allow-nested-user-namespaces",
        env = "ARGOSY_AGENT_ALLOW_NESTED_USER_NAMESPACES"
    )]
    nested_user_namespaces: bool,
    /// Tasks may be in the network of this host; where it gives tasks none of their own, those that name none are in it
    #[arg(long = "allow-host-network", env = "ARGOSY_AGENT_ALLOW_HOST_NETWORK")]
    pub(crate) host_network: bool,
}

impl AllowedOptOuts {
    /// The same flags for an agent that is started from here: those that are on, and the capabilities in words.
    pub(crate) fn flags(&self) -> Vec<String> {
        let mut flags = Vec::new();
        if !self.capabilities.is_empty() {
            let names = Capability::list(&all(&self.capabilities));
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

    pub(crate) fn opt_outs(&self) -> OptOuts {
        OptOuts {
            capabilities: all(&self.capabilities),
            unconfined_seccomp: self.unconfined_seccomp,
            new_privileges: self.new_privileges,
            nested_user_namespaces: self.nested_user_namespaces,
            host_network: self.host_network,
        }
    }
}
