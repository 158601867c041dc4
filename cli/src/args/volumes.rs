//! The flags of `argosy run` for what a task sees beside its root and its sandbox.

use argosy_proto::v1;
use clap::Args;

use crate::parsers::{self, Mount};

/// Volumes of a task.
#[derive(Debug, Args)]
pub(crate) struct Volumes {
    /// File or directory of the host (agents must allow it with --host-path), or directory of the task's sandbox if it does not begin
    /// with /; with :ro it is not written to; may be repeated
    #[arg(long = "volume", value_name = "FROM:TASK[:ro]", value_parser = parsers::volume)]
    pub(crate) mounts: Vec<Mount>,
    /// Directory of the task that is in its memory, and how much that may hold; may be repeated
    #[arg(long = "tmpfs", value_name = "TASK:SIZE", value_parser = parsers::tmpfs)]
    pub(crate) tmpfs: Vec<v1::TaskVolume>,
    /// File of the task with what its role's secret of this name holds on the agent (see agent's --secret-folder); may be repeated
    #[arg(long = "secret", value_name = "NAME:TASK", value_parser = parsers::secret)]
    pub(crate) secrets: Vec<v1::TaskVolume>,
}

impl Volumes {
    pub(crate) fn host_paths(&self) -> Vec<v1::HostPath> {
        let mounts = self.mounts.iter();
        let of_host = mounts.filter_map(|mount| match mount {
            Mount::Host(path) => Some(path.clone()),
            Mount::Sandbox(_) => None,
        });
        of_host.collect()
    }

    pub(crate) fn volumes(&self) -> Vec<v1::TaskVolume> {
        let mounts = self.mounts.iter();
        let of_sandbox = mounts.filter_map(|mount| match mount {
            Mount::Sandbox(volume) => Some(volume),
            Mount::Host(_) => None,
        });
        let all = of_sandbox.chain(&self.tmpfs).chain(&self.secrets);
        all.cloned().collect()
    }
}
