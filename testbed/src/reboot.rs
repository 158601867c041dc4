//! A reboot of an agent's host: its processes end at once, and the agent returns in another boot.
//!
//! The kernel is that of this host, which is not rebooted. The agent runs in a separate
//! mount namespace, in which the file of the boot id is replaced. Firewall rules and devices that
//! earlier processes left in the network namespace remain.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use argosy_isolation::cgroup::{self, CgroupError};

use crate::leftovers::EXIT_TIMEOUT;
use crate::processes::{LaunchMethod, ManagedProcess};
use crate::run_directory::kill_all_in;

/// The reason why a host was not rebooted.
#[derive(Debug, thiserror::Error)]
pub enum RebootError {
    /// The agent has no control groups, or does not run.
    #[error("{0} has no control groups of its own")]
    NoTree(String),
    /// The host of this process is not its own.
    #[error("{0} shares the network of the harness")]
    NoHost(String),
    /// Processes remain.
    #[error("processes of {host} remain: {left}")]
    Remain { host: String, left: String },
    /// A control group remains.
    #[error(transparent)]
    Tree(#[from] CgroupError),
    /// The next boot has no id.
    #[error("cannot write {path}")]
    BootId { path: PathBuf, source: io::Error },
}

/// A host that can be switched off.
#[derive(Debug)]
pub struct AgentHost {
    name: String,
    namespace: String,
    /// The control groups of its tasks.
    tree: PathBuf,
}

impl AgentHost {
    /// Returns the host of a running agent.
    ///
    /// # Errors
    /// [`RebootError::NoTree`], [`RebootError::NoHost`]
    pub fn of(agent: &ManagedProcess) -> Result<Self, RebootError> {
        let name = agent.name().to_owned();
        let (LaunchMethod::InNamespace(namespace) | LaunchMethod::InBoot(namespace, _)) =
            &agent.spec.launch
        else {
            return Err(RebootError::NoHost(name));
        };
        let tree = agent.pid().and_then(cgroup::agent_tree);
        Ok(Self {
            namespace: namespace.clone(),
            tree: tree.ok_or_else(|| RebootError::NoTree(name.clone()))?,
            name,
        })
    }

    /// Ends all processes of the host, and removes the control groups of its tasks. The agent must
    /// have been killed.
    ///
    /// # Errors
    /// If processes or groups remain.
    pub fn switch_off(&self) -> Result<(), RebootError> {
        // Two of them may start processes: the broker, and the supervisors in the groups.
        let namespaces = [self.namespace.clone()];
        kill_all_in(&namespaces);
        cgroup::remove_agent_tree(&self.tree, EXIT_TIMEOUT)?;
        let left = kill_all_in(&namespaces);
        match left.is_empty() {
            true => Ok(()),
            false => Err(RebootError::Remain {
                host: self.name.clone(),
                left: left.join(", "),
            }),
        }
    }

    /// Returns how the agent is started in the next boot. `directory` has the ids of all boots.
    ///
    /// # Errors
    /// [`RebootError::BootId`]
    pub fn next_boot(&self, directory: &Path) -> Result<LaunchMethod, RebootError> {
        let path = directory.join(&self.name);
        let write = || {
            fs::create_dir_all(directory)?;
            // A running process may still see the former file.
            if path.exists() {
                fs::remove_file(&path)?;
            }
            fs::write(&path, fs::read("/proc/sys/kernel/random/uuid")?)
        };
        match write() {
            Ok(()) => Ok(LaunchMethod::InBoot(self.namespace.clone(), path)),
            Err(source) => Err(RebootError::BootId { path, source }),
        }
    }
}
