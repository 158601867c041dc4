//! The configuration of an agent.

mod networks;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use argosy_isolation::{DetectedModes, Isolation, OutputLimits, detect};
use argosy_proto::server::callers::ApiAccess;
use argosy_proto::server::hosts::AllowedHosts;
use argosy_state::resources::Resources;
use argosy_state::task::{SecurityOptions, Sizes};

use crate::core::{Adoption, ContainerName, DiskDefault};
use crate::error::RunError;
use argosy_content::fetcher::FetchAllow;
use argosy_content::images::ImageSettings;
use argosy_content::service::ClusterAuthoritySource;
pub use networks::{CniSettings, NetworkSettings, TaskAllow, TaskSubnet6};

/// Default maximum size of a fetched file, in bytes: 8 GiB.
pub const FETCH_LIMIT_BYTES: u64 = 8 * 1024 * 1024 * 1024;
/// Default size of the fetch cache, in bytes: 2 GiB, as in Mesos.
pub const FETCH_CACHE_BYTES: u64 = 2 * 1024 * 1024 * 1024;
/// Default timeout of an executor's subscription, in milliseconds: a minute, as in Mesos.
pub const EXECUTOR_REGISTRATION_TIMEOUT_MS: u64 = 60_000;
/// Default limit of the processes and threads of one task.
pub const PIDS_MAX: u64 = 4_096;
/// Default of `--default-mem`, in bytes.
pub const DEFAULT_MEMORY_BYTES: u64 = 512 * 1024 * 1024;
/// Default of `--default-disk`, in bytes.
pub const DEFAULT_DISK_BYTES: u64 = 1024 * 1024 * 1024;

/// Defaults of `--max-open-files`, `--max-shm-size` and `--max-tmp-size`.
pub const LARGEST_SIZES: Sizes = Sizes {
    open_files: Some(65_536),
    shm_bytes: Some(1024 * 1024 * 1024),
    tmp_bytes: Some(1024 * 1024 * 1024),
};

/// Default time for which the output of an ended task is kept after its sandbox is removed.
pub const LOG_RETENTION: Duration = Duration::from_secs(7 * 86_400);
/// Default maximum size of that output, in bytes.
pub const LOG_RETENTION_BYTES: u64 = 1 << 30;

/// Default part of the disk that is kept free of the sandboxes of ended tasks, in per cent.
pub const SANDBOX_HEADROOM_PERCENT: u64 = 10;

/// The isolation mode of containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IsolationMode {
    /// Full isolation for root, user namespaces for others; never plain processes.
    #[default]
    Detect,
    /// Namespaces and cgroups with the default profile: separate users, a view of the host's
    /// programs, few system calls. As root.
    Full,
    /// Namespaces inside a user namespace, of the agent's own user.
    UserNamespaces,
    /// Plain processes: no isolation. Must be requested explicitly.
    Processes,
}

impl IsolationMode {
    /// Returns the mode to use on a host that allows `found`. A named mode is never replaced by
    /// another one.
    fn choose(self, found: &DetectedModes) -> Result<Isolation, RunError> {
        let mode = match self {
            Self::Detect => found.automatic(),
            Self::Full => Isolation::Full,
            Self::UserNamespaces => Isolation::UserNamespaces,
            Self::Processes => Isolation::Processes,
        };
        let remedy = match (self, mode) {
            (Self::Detect, Isolation::Full) => {
                "; to run with less isolation, name another --isolation"
            }
            (Self::Detect, _) => {
                "; to run plain processes without isolation, set --isolation processes"
            }
            _ => "",
        };
        let allowed = found.allows(mode).map(|()| mode);
        allowed.map_err(|why| RunError::Isolation {
            mode: mode.name(),
            why: format!("{why}{remedy}"),
        })
    }
}

/// The method by which the disk limits of tasks are enforced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DiskEnforcement {
    /// The agent measures repeatedly, and kills tasks that exceed their limits.
    #[default]
    Measured,
    /// A project quota of the agent's file system, which refuses further writes.
    Quota,
    /// A dedicated file system for each task, in a file behind a loop device.
    Loop,
}

impl DiskEnforcement {
    /// Returns the name that `--disk-enforcement` uses.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Measured => "measured",
            Self::Quota => "quota",
            Self::Loop => "loop",
        }
    }
}

/// The method by which the root file system of a container with an image is created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ImageRoots {
    /// An overlay, or a copy if overlay mounts fail in containers on this host. The first such
    /// container decides.
    #[default]
    Detect,
    Overlay,
    /// A copy of all layers. It counts towards the task's disk.
    Copy,
}

/// The devices of each item of the resource `devices`: paths below `/dev`.
pub type Devices = BTreeMap<String, Vec<PathBuf>>;

#[derive(Debug, Clone)]
pub struct Config {
    /// The directory for journal, sandboxes and containers. Created if it is missing.
    pub directory: PathBuf,
    /// API addresses of masters, `host:port`.
    pub masters: Vec<String>,
    /// The address of its own API for other hosts, `host:port`.
    pub address: String,
    /// The name of its host, for display.
    pub host_name: String,
    /// The restored cluster that it follows, as its operator has confirmed.
    pub adoption: Option<Adoption>,
    /// The address at which its tasks should listen; `None` takes the host part of `address`.
    pub task_address: Option<String>,
    /// The resources that it offers; see [`crate::inventory::detect`].
    pub resources: Resources,
    /// Free text by which frameworks select agents.
    pub attributes: BTreeMap<String, String>,
    /// The isolation mode of containers.
    pub isolation: IsolationMode,
    /// Whether it starts although limits cannot be enforced.
    pub allow_missing_controllers: bool,
    /// Host directories that tasks may request, with everything below them; empty means none.
    pub host_paths: Vec<PathBuf>,
    /// The size of a file of the audit log in the directory, in MiB; 0 means that there is no log.
    pub audit_file_mib: u64,
    /// The permission for interactive access to tasks through its API.
    pub access: ApiAccess,
    /// The CA certificates by which this agent verifies other agents of its cluster.
    pub cluster: ClusterAuthoritySource,
    /// Host names that its API accepts in requests that could come from web pages, in addition to
    /// those of `address`, `host_name`, `localhost` and IP addresses.
    pub host_names: Vec<String>,
    /// The timeout after which a silent client of an interactive session is considered gone.
    pub session_timeout: Duration,
    /// The security options that tasks may request.
    pub allowed_security_options: SecurityOptions,
    /// The largest sizes that its tasks may request.
    pub largest_sizes: Sizes,
    /// Seed of jitter and nonces; 0 takes one from the kernel. Two agents must not share one.
    pub seed: u64,
    /// Maximum size of a file that is fetched for a task, in bytes.
    pub fetch_limit_bytes: u64,
    /// Directories of this host from which tasks may fetch files that their own user can read.
    pub fetch_dirs: Vec<PathBuf>,
    /// Servers from which tasks may fetch although they belong to this host, to the cluster or to
    /// metadata services.
    pub fetch_allow: Vec<FetchAllow>,
    /// Endpoints to which tasks may connect although they belong to the cluster or serve the host's
    /// credentials.
    pub task_allow: Vec<TaskAllow>,
    /// Ports to which tasks cannot connect, in addition to those of this agent and of its masters.
    pub task_deny: Vec<u16>,
    /// The port on which the agent's API listens, if it differs from that of `address`.
    pub api_port: Option<u16>,
    /// Maximum size of the shared fetch cache, in bytes.
    pub fetch_cache_bytes: u64,
    /// URIs whose files are never evicted from the cache.
    pub fetch_cache_pins: Vec<String>,
    /// Limit of the processes and threads of one task; 0 means no limit.
    pub pids_max: u64,
    /// Memory limit of tasks that request no `mem`, in bytes; 0 means no limit.
    pub default_memory_bytes: u64,
    /// Disk limit of tasks, and of executors with all their tasks, that request no `disk`, in
    /// bytes; 0 means no limit.
    pub default_disk_bytes: u64,
    /// The size at which each of a task's stdout and stderr is rotated, in bytes; at least 65,536.
    pub log_file_bytes: u64,
    /// Number of files of each stream, including the current one; 1 to 100.
    pub log_files: u32,
    /// The time for which the output of an ended task is kept after its sandbox is removed; zero
    /// means not at all.
    pub log_retention: Duration,
    /// The maximum size of the output that is kept so, in bytes; the oldest is removed first.
    pub log_retention_bytes: u64,
    /// The operator's directory of secrets for tasks, as `ROLE/NAME`; only the agent's user may
    /// have access. `None`: no secrets.
    pub secret_dir: Option<PathBuf>,
    /// The free part of the disk below which sandboxes of ended tasks are removed, the oldest
    /// first; in per cent.
    pub sandbox_headroom_percent: u64,
    /// The free space below which tasks that exceed their disk requests are evicted, in bytes; 0
    /// means never. `None`: 5 % of the disk, at most 1 GiB.
    pub disk_floor_bytes: Option<u64>,
    /// The method by which the disk limits of tasks are enforced.
    pub disk_enforcement: DiskEnforcement,
    /// The sources of images, and their retention.
    pub images: ImageSettings,
    /// The method by which the root file system of a container with an image is created.
    pub image_roots: ImageRoots,
    /// Devices of the host that tasks may use: the devices of each item of the resource `devices`.
    pub devices: Devices,
    /// The settings of container networks.
    pub networks: NetworkSettings,
    /// Timeout of an executor's subscription, after its start and after the end of a stream, in
    /// milliseconds.
    pub executor_registration_timeout_ms: u64,
}

impl Config {
    /// Returns a configuration with all defaults.
    #[must_use]
    pub fn new(directory: PathBuf, masters: Vec<String>, address: String) -> Self {
        Self {
            directory,
            masters,
            address,
            host_name: nix::unistd::gethostname()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default(),
            adoption: None,
            task_address: None,
            resources: Resources::none(),
            attributes: BTreeMap::new(),
            isolation: IsolationMode::Detect,
            allow_missing_controllers: false,
            host_paths: Vec::new(),
            audit_file_mib: 0,
            access: ApiAccess::default(),
            cluster: ClusterAuthoritySource::none(),
            host_names: Vec::new(),
            session_timeout: argosy_proto::exec::SILENCE_LIMIT,
            allowed_security_options: SecurityOptions::default(),
            largest_sizes: LARGEST_SIZES,
            seed: 0,
            fetch_limit_bytes: FETCH_LIMIT_BYTES,
            fetch_dirs: Vec::new(),
            fetch_allow: Vec::new(),
            task_allow: Vec::new(),
            task_deny: Vec::new(),
            api_port: None,
            fetch_cache_bytes: FETCH_CACHE_BYTES,
            fetch_cache_pins: Vec::new(),
            pids_max: PIDS_MAX,
            default_memory_bytes: DEFAULT_MEMORY_BYTES,
            default_disk_bytes: DEFAULT_DISK_BYTES,
            log_file_bytes: OutputLimits::DEFAULT.file_bytes,
            log_files: OutputLimits::DEFAULT.files,
            log_retention: LOG_RETENTION,
            log_retention_bytes: LOG_RETENTION_BYTES,
            secret_dir: None,
            sandbox_headroom_percent: SANDBOX_HEADROOM_PERCENT,
            disk_floor_bytes: None,
            disk_enforcement: DiskEnforcement::default(),
            images: ImageSettings::default(),
            image_roots: ImageRoots::default(),
            devices: Devices::new(),
            networks: NetworkSettings::default(),
            executor_registration_timeout_ms: EXECUTOR_REGISTRATION_TIMEOUT_MS,
        }
    }

    /// Returns the isolation mode to use, if this host allows it.
    pub(crate) fn isolation(&self) -> Result<Isolation, RunError> {
        self.isolation.choose(&detect())
    }

    /// Returns the host names that its API accepts.
    pub(crate) fn hosts(&self) -> AllowedHosts {
        let own = [&self.address, &self.host_name];
        AllowedHosts::new(own.into_iter().chain(&self.host_names))
    }

    /// Returns the address given to tasks.
    pub(crate) fn task_address(&self) -> String {
        let host = self
            .address
            .rsplit_once(':')
            .map_or(self.address.as_str(), |(host, _)| host);
        self.task_address.clone().unwrap_or_else(|| host.to_owned())
    }
}

/// Limits of tasks that request none; 0 means no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DefaultLimits {
    /// Processes and threads. Also the highest limit that a task can request.
    pub(crate) pids_max: u64,
    pub(crate) memory_bytes: u64,
}

/// The settings for the creation of containers.
#[derive(Debug, Clone)]
pub(crate) struct ContainerSettings {
    pub(crate) address: String,
    pub(crate) task_address: String,
    pub(crate) isolation: Isolation,
    pub(crate) allow_missing_controllers: bool,
    pub(crate) secret_dir: Option<PathBuf>,
    pub(crate) allowed_security_options: SecurityOptions,
    pub(crate) largest_sizes: Sizes,
    pub(crate) devices: Devices,
    pub(crate) defaults: DefaultLimits,
    pub(crate) disk_default: DiskDefault,
    pub(crate) disk_floor_bytes: Option<u64>,
    pub(crate) output: OutputLimits,
    pub(crate) seed: u64,
}

impl ContainerSettings {
    /// Returns a number that identifies a launch at its adoption. Names are unique on this host, so
    /// this only separates agents of two directories.
    pub(crate) fn nonce(&self, name: ContainerName) -> u64 {
        let parts = [name.instance.agent.0, name.instance.order.0, name.run];
        parts.into_iter().fold(self.seed, |mixed, part| {
            (mixed ^ part)
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .rotate_left(29)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(full: bool, user_namespaces: bool, is_root: bool) -> DetectedModes {
        let is_possible = |possible: bool, why: &str| match possible {
            true => Ok(()),
            false => Err(why.to_owned()),
        };
        DetectedModes {
            full: is_possible(full, "no cgroup2 is mounted"),
            user_namespaces: is_possible(user_namespaces, "max_user_namespaces is 0"),
            is_root,
        }
    }

    #[test]
    fn root_gets_full_isolation_or_an_error_with_a_remedy() {
        let choose = |found: DetectedModes| IsolationMode::Detect.choose(&found);
        assert!(matches!(
            choose(found(true, true, true)),
            Ok(Isolation::Full)
        ));
        let why = choose(found(false, true, true)).unwrap_err().to_string();
        assert!(why.contains("another --isolation"), "{why}");
    }

    #[test]
    fn other_users_get_user_namespaces_and_never_plain_processes() {
        let choose = |found: DetectedModes| IsolationMode::Detect.choose(&found);
        assert!(matches!(
            choose(found(false, true, false)),
            Ok(Isolation::UserNamespaces)
        ));
        let why = choose(found(false, false, false)).unwrap_err();
        let why = why.to_string();
        assert!(why.contains("--isolation processes"), "{why}");
    }

    #[test]
    fn a_named_mode_is_used_or_refused() {
        let host = found(false, true, true);
        let why = IsolationMode::Full.choose(&host).unwrap_err().to_string();
        assert!(why.ends_with("no cgroup2 is mounted"), "{why}");
        for (named, mode) in [
            (IsolationMode::UserNamespaces, Isolation::UserNamespaces),
            (IsolationMode::Processes, Isolation::Processes),
        ] {
            assert!(matches!(named.choose(&host), Ok(chosen) if chosen == mode));
        }
    }
}
