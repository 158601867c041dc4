//! Flags of `argosy run` for volumes, which a task sees in addition to its root and its sandbox.

use argosy_proto::v1;
use clap::Args;

use crate::parsers::{self, VolumeMount};

#[derive(Debug, Args)]
pub(crate) struct Volumes {
    /// File or directory of the host (agents must allow it with --host-path), or directory of the
    /// task's sandbox if it does not begin with /; read-only with :ro; may be repeated
    #[arg(long = "volume", value_name = "FROM:TASK[:ro]", value_parser = parsers::volume)]
    pub(crate) mounts: Vec<VolumeMount>,
    /// Directory that is kept in the task's memory, and its size limit; may be repeated
    #[arg(long = "tmpfs", value_name = "TASK:SIZE", value_parser = parsers::tmpfs)]
    pub(crate) tmpfs: Vec<v1::TaskVolume>,
    /// File with a secret: ROLE/NAME of the registry (see argosy secret), or NAME of the task's
    /// role from its agent (see the agent's --secret-dir); may be repeated
    #[arg(long = "secret", value_name = "NAME:TASK", value_parser = parsers::secret)]
    pub(crate) secrets: Vec<v1::TaskVolume>,
}

impl Volumes {
    pub(crate) fn host_paths(&self) -> Vec<v1::HostPath> {
        let mounts = self.mounts.iter();
        let of_host = mounts.filter_map(|mount| match mount {
            VolumeMount::Host(path) => Some(path.clone()),
            VolumeMount::Sandbox(_) => None,
        });
        of_host.collect()
    }

    pub(crate) fn volumes(&self) -> Vec<v1::TaskVolume> {
        let mounts = self.mounts.iter();
        let of_sandbox = mounts.filter_map(|mount| match mount {
            VolumeMount::Sandbox(volume) => Some(volume),
            VolumeMount::Host(_) => None,
        });
        let all = of_sandbox.chain(&self.tmpfs).chain(&self.secrets);
        all.cloned().collect()
    }
}
