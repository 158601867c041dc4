//! Flags by which tasks ask to be let off parts of the default profile, and operators allow it.

use argosy_state::task::{Capability, OptOuts};
use clap::Args;

fn capability(name: &str) -> Result<Capability, String> {
    Capability::named(name)
}

/// What a task is let off.
#[derive(Debug, Args)]
#[command(next_help_heading = "Opt-outs (the agent must allow each)")]
pub(crate) struct AskedOptOuts {
    /// Capability in its container, as CHOWN or SETUID, and none on the host; may be repeated
    #[arg(long = "capability", value_name = "NAME", value_delimiter = ',', value_parser = capability)]
    capabilities: Vec<Capability>,
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
            capabilities: self.capabilities.iter().copied().collect(),
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
    /// Tasks may have these capabilities in their containers, as CHOWN,SETUID,SETGID; none on the host
    #[arg(long = "allow-capabilities", env = "ARGOSY_AGENT_ALLOW_CAPABILITIES", value_name = "NAME,…", value_delimiter = ',', value_parser = capability)]
    capabilities: Vec<Capability>,
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
            let names: Vec<_> = self.capabilities.iter().map(|one| one.name()).collect();
            flags.extend(["--allow-capabilities".to_owned(), names.join(",")]);
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
            capabilities: self.capabilities.iter().copied().collect(),
            unconfined_seccomp: self.unconfined_seccomp,
            new_privileges: self.new_privileges,
            nested_user_namespaces: self.nested_user_namespaces,
            host_network: self.host_network,
        }
    }
}
