//! What an agent is told at its start, and what the rooms below it need of that.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use argosy_isolation::{Isolation, OutputLimits, detect};
use argosy_proto::server::callers::Access;
use argosy_proto::server::hosts::Hosts;
use argosy_state::resources::Resources;
use argosy_state::task::{OptOuts, Sizes};

use crate::core::{ContainerName, DiskDefault};
use crate::error::RunError;
use crate::reach::TaskAllow;
use crate::runner::limits::Defaults;
use crate::runner::{Devices, NetworkSettings};
use argosy_content::fetcher::FetchAllow;
use argosy_content::images::ImageSettings;

/// The largest file that the fetcher brings unless told otherwise, in bytes: 8 GiB.
pub const FETCH_LIMIT_BYTES: u64 = 8 * 1024 * 1024 * 1024;
/// How much of what was fetched is kept unless told otherwise, in bytes: 2 GiB, as in Mesos.
pub const FETCH_CACHE_BYTES: u64 = 2 * 1024 * 1024 * 1024;
/// How long an executor may take to subscribe unless told otherwise, in milliseconds: a minute, as in Mesos.
pub const EXECUTOR_REGISTRATION_TIMEOUT_MS: u64 = 60_000;
/// Processes and threads of one task unless told otherwise.
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

/// How much of the disk is kept free of the sandboxes of ended tasks unless told otherwise, in per cent.
pub const SANDBOX_HEADROOM_PERCENT: u64 = 10;

/// How containers are confined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IsolationMode {
    /// The strongest that this host allows; never plain processes.
    #[default]
    Detect,
    /// The default profile: users of its own, a view of the host's programs, few system calls. As root.
    Full,
    /// Namespaces and cgroups alone: a task is a user of the host, and sees all of it. As root.
    Namespaces,
    /// Namespaces inside a user namespace, of the agent's own user.
    UserNamespaces,
    /// Plain processes: confines nothing, and must be asked for by name.
    Processes,
}

impl FromStr for IsolationMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "detect" => Ok(Self::Detect),
            "full" => Ok(Self::Full),
            "namespaces" => Ok(Self::Namespaces),
            "user-namespaces" => Ok(Self::UserNamespaces),
            "processes" => Ok(Self::Processes),
            _ => Err("use detect, full, namespaces, user-namespaces or processes".to_owned()),
        }
    }
}

/// What keeps tasks that ask for `disk` from taking more of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DiskEnforcement {
    /// The agent looks again and again, and kills who has more.
    #[default]
    Measured,
    /// A project quota of the agent's file system, which refuses more.
    Quota,
    /// A file system of its own for each, in a file behind a loop device.
    Loop,
}

impl DiskEnforcement {
    /// As `--disk-enforcement` names it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Measured => "measured",
            Self::Quota => "quota",
            Self::Loop => "loop",
        }
    }
}

/// How the root file system of a container with an image is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ImageRoots {
    /// An overlay, or a copy if overlay mounts fail in containers on this host. The first such container decides.
    #[default]
    Detect,
    /// An overlay mount over shared layers.
    Overlay,
    /// A copy of all layers. It counts towards the task's disk.
    Copy,
}

/// How one agent runs.
#[derive(Debug, Clone)]
pub struct Config {
    /// Its directory: journal, sandboxes, containers. Made if it is not there.
    pub directory: PathBuf,
    /// API addresses of masters, `host:port`.
    pub masters: Vec<String>,
    /// Its own API's address as others reach it, `host:port`.
    pub address: String,
    /// Of its host, for people.
    pub host_name: String,
    /// The address that its tasks are told to listen at; `None` takes the host part of `address`.
    pub task_address: Option<String>,
    /// What it gives; see [`crate::inventory::detect`].
    pub resources: Resources,
    /// Free text by which frameworks choose.
    pub attributes: BTreeMap<String, String>,
    /// How containers are confined.
    pub isolation: IsolationMode,
    /// Start although limits cannot be enforced.
    pub allow_missing_controllers: bool,
    /// Folders of the host of which, and below which, a task may ask to see; empty means none.
    pub host_paths: Vec<PathBuf>,
    /// Who may reach into its tasks by its API.
    pub access: Access,
    /// Host names that its API answers to in requests that could be those of web pages, beside those of `address`,
    /// `host_name`, `localhost` and IP addresses.
    pub host_names: Vec<String>,
    /// A client of such a command, or of a task's own, that has said nothing for so long is gone.
    pub session_silence: Duration,
    /// What tasks may be let off of the default profile.
    pub allowed_opt_outs: OptOuts,
    /// The largest sizes that its tasks may ask for.
    pub largest_sizes: Sizes,
    /// Seed of jitter and nonces; 0 takes one from the kernel. Two agents must not share one.
    pub seed: u64,
    /// The largest file that is fetched for a task, in bytes.
    pub fetch_limit_bytes: u64,
    /// Tasks may fetch files of this host that are below one of these, and that their own user can read.
    pub fetch_folders: Vec<PathBuf>,
    /// Servers that tasks may fetch from although they are this host's, the cluster's or metadata services.
    pub fetch_allow: Vec<FetchAllow>,
    /// What tasks may connect to although it is the cluster's or knows the host's credentials.
    pub task_allow: Vec<TaskAllow>,
    /// Ports that tasks cannot connect to, besides those of this agent and of its masters.
    pub task_deny: Vec<u16>,
    /// The port on which the agent's API listens, if it is another one than that of `address`.
    pub api_port: Option<u16>,
    /// How much of what was fetched is kept for other tasks, in bytes.
    pub fetch_cache_bytes: u64,
    /// URIs whose files stay among those: none makes room for another.
    pub fetch_cache_pins: Vec<String>,
    /// Processes and threads of one task; 0 means no limit.
    pub pids_max: u64,
    /// Memory limit of tasks that request no `mem`, in bytes; 0 means no limit.
    pub default_memory_bytes: u64,
    /// Disk limit of tasks, and of executors with all their tasks, that request no `disk`, in bytes; 0 means no limit.
    pub default_disk_bytes: u64,
    /// The largest file of each of a task's stdout and stderr before it is rotated, in bytes; at least 65,536.
    pub log_file_bytes: u64,
    /// How many such files there are of each, the one that is being written included; 1 to 100.
    pub log_files: u32,
    /// Where the operator keeps secrets for tasks, as `ROLE/NAME`; a folder that only the agent's user may enter. `None`:
    /// there are none.
    pub secret_folder: Option<PathBuf>,
    /// Sandboxes of ended tasks go, the oldest first, when less of the disk is free; in per cent.
    pub sandbox_headroom_percent: u64,
    /// Tasks that have more on the disk than they requested are evicted while less than this is free, in bytes; 0 means never.
    /// `None`: 5 % of the disk, at most 1 GiB.
    pub disk_floor_bytes: Option<u64>,
    /// What keeps tasks that ask for `disk` from taking more of it.
    pub disk_enforcement: DiskEnforcement,
    /// Where images come from, and how long they stay.
    pub images: ImageSettings,
    /// How the root file system of a container with an image is made.
    pub image_roots: ImageRoots,
    /// Devices of the host that tasks may have: what the items of the resource `devices` stand for.
    pub devices: Devices,
    /// Where containers with a network of their own are.
    pub networks: NetworkSettings,
    /// How long an executor may take to subscribe, after its start and after the end of a stream, in milliseconds.
    pub executor_registration_timeout_ms: u64,
}

impl Config {
    /// A configuration with defaults for everything that has one.
    #[must_use]
    pub fn new(directory: PathBuf, masters: Vec<String>, address: String) -> Self {
        Self {
            directory,
            masters,
            address,
            host_name: nix::unistd::gethostname()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default(),
            task_address: None,
            resources: Resources::none(),
            attributes: BTreeMap::new(),
            isolation: IsolationMode::Detect,
            allow_missing_controllers: false,
            host_paths: Vec::new(),
            access: Access::default(),
            host_names: Vec::new(),
            session_silence: argosy_proto::exec::SILENCE_LIMIT,
            allowed_opt_outs: OptOuts::default(),
            largest_sizes: LARGEST_SIZES,
            seed: 0,
            fetch_limit_bytes: FETCH_LIMIT_BYTES,
            fetch_folders: Vec::new(),
            fetch_allow: Vec::new(),
            task_allow: Vec::new(),
            task_deny: Vec::new(),
            api_port: None,
            fetch_cache_bytes: FETCH_CACHE_BYTES,
            fetch_cache_pins: Vec::new(),
            pids_max: PIDS_MAX,
            default_memory_bytes: DEFAULT_MEMORY_BYTES,
            default_disk_bytes: DEFAULT_DISK_BYTES,
            log_file_bytes: OutputLimits::USUAL.file_bytes,
            log_files: OutputLimits::USUAL.files,
            secret_folder: None,
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

    /// The mode that this host allows, and whether the default profile is part of it.
    pub(crate) fn isolation(&self) -> Result<(Isolation, bool), RunError> {
        let found = detect();
        let impossible = |mode, why: &String| RunError::Isolation {
            mode,
            why: why.clone(),
        };
        match self.isolation {
            IsolationMode::Processes => Ok((Isolation::Processes, false)),
            IsolationMode::Full => match &found.profile {
                Ok(()) => Ok((Isolation::Full, true)),
                Err(why) => Err(impossible("full", why)),
            },
            IsolationMode::Namespaces => match &found.full {
                Ok(()) => Ok((Isolation::Full, false)),
                Err(why) => Err(impossible("namespaces", why)),
            },
            IsolationMode::UserNamespaces => match &found.user_namespaces {
                Ok(()) => Ok((Isolation::UserNamespaces, false)),
                Err(why) => Err(impossible("user-namespaces", why)),
            },
            // Never less because of one setting of the kernel: a task would be a user of the host.
            IsolationMode::Detect if found.full.is_ok() => match &found.profile {
                Ok(()) => Ok((Isolation::Full, true)),
                Err(why) => {
                    let remedy = "; to do without, say --isolation namespaces";
                    Err(impossible("full", &format!("{why}{remedy}")))
                }
            },
            IsolationMode::Detect => found.best().map(|mode| (mode, false)).ok_or_else(|| {
                let why = [found.full.clone(), found.user_namespaces.clone()]
                    .into_iter()
                    .filter_map(Result::err)
                    .collect::<Vec<_>>()
                    .join("; ");
                let remedy =
                    "; to run plain processes, which confines nothing, say --isolation processes";
                impossible("full or user-namespaces", &(why + remedy))
            }),
        }
    }

    /// The names that its API answers to.
    pub(crate) fn hosts(&self) -> Hosts {
        let own = [&self.address, &self.host_name];
        Hosts::new(own.into_iter().chain(&self.host_names))
    }

    /// The address given to tasks.
    pub(crate) fn task_address(&self) -> String {
        let host = self
            .address
            .rsplit_once(':')
            .map_or(self.address.as_str(), |(host, _)| host);
        self.task_address.clone().unwrap_or_else(|| host.to_owned())
    }
}

/// What containers are made with.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) address: String,
    pub(crate) task_address: String,
    pub(crate) isolation: Isolation,
    /// The default profile is part of it.
    pub(crate) profile: bool,
    pub(crate) allow_missing_controllers: bool,
    pub(crate) secret_folder: Option<PathBuf>,
    pub(crate) allowed_opt_outs: OptOuts,
    pub(crate) largest_sizes: Sizes,
    pub(crate) devices: Devices,
    pub(crate) defaults: Defaults,
    pub(crate) disk_default: DiskDefault,
    pub(crate) disk_floor_bytes: Option<u64>,
    pub(crate) output: OutputLimits,
    pub(crate) seed: u64,
}

impl Settings {
    /// A number that an adopter knows a launch by. Names are unique on this host, so this only keeps
    /// agents of two directories apart.
    pub(crate) fn nonce(&self, name: ContainerName) -> u64 {
        let parts = [name.instance.agent.0, name.instance.order.0, name.life];
        parts.into_iter().fold(self.seed, |mixed, part| {
            (mixed ^ part)
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .rotate_left(29)
        })
    }
}
