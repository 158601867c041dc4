//! The launch request: what to run, with which confinement, and the rules for valid requests.
//!
//! The caller validates it before it is sent, and the supervisor after it is read.
//! Plain data: the modules that perform a request import these types, never the reverse.

pub mod capabilities;
mod error;
mod image;
pub mod limits;
pub mod mounts;
mod namespaces;
mod network;
mod output;
pub mod profile;
mod rules;
mod user;

use std::path::{Path, PathBuf};

use argosy_host::{BootTime, ContainerId};
use nix::sched::CloneFlags;
use nix::sys::resource::Resource;
use serde::{Deserialize, Serialize};

use crate::testing::disable_layer::layer_disabled;
pub use error::SpecError;
pub use image::{Image, LAYERS_MAX, RootFs};
use limits::{Limits, MissingPolicy};
pub use namespaces::{Isolation, Namespaces};
pub use network::Network;
pub use output::OutputLimits;
use profile::IsolationProfile;
pub use user::ContainerUser;
pub(crate) use user::UserSpec;

/// The kernel's maximum length of a single argument or variable, in bytes without its terminator.
pub const STRING_LIMIT_BYTES: usize = 128 * 1024 - 1;
/// The maximum total size of arguments and environment, in bytes: half of the kernel's limit with
/// the default stack limit.
pub const STRINGS_LIMIT_BYTES: usize = 1024 * 1024;

/// The program to execute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Program {
    /// A line for `/bin/sh -c`.
    Shell(String),
    /// A program and its arguments. A name without `/` is looked up in the `PATH` of the *given*
    /// environment, or in the system's default directories if that has none.
    Arguments(Vec<String>),
}

/// One resource limit of the command (`setrlimit`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceLimit {
    /// The lower-case name, as in `ulimit`'s manual: `nofile`, `core`, `nproc`, `memlock`, …
    pub name: String,
    /// The initial value; in the unit of `setrlimit(2)`.
    pub soft: u64,
    /// The value up to which the command may raise it.
    pub hard: u64,
}

impl ResourceLimit {
    /// Returns a limit of this value, or of this process's hard limit if that is lower: only host
    /// root could raise it. The launch rejects an unknown name.
    #[must_use]
    pub fn at_most(name: &str, most: u64) -> Self {
        let own = resource(name).and_then(|resource| nix::sys::resource::getrlimit(resource).ok());
        let most = own.map_or(most, |(_, hard)| most.min(hard));
        Self {
            name: name.to_owned(),
            soft: most,
            hard: most,
        }
    }
}

/// Returns the kernel's number of a resource limit by its lower-case name.
pub(crate) fn resource(name: &str) -> Option<Resource> {
    Some(match name {
        "as" => Resource::RLIMIT_AS,
        "core" => Resource::RLIMIT_CORE,
        "cpu" => Resource::RLIMIT_CPU,
        "data" => Resource::RLIMIT_DATA,
        "fsize" => Resource::RLIMIT_FSIZE,
        "locks" => Resource::RLIMIT_LOCKS,
        "memlock" => Resource::RLIMIT_MEMLOCK,
        "msgqueue" => Resource::RLIMIT_MSGQUEUE,
        "nice" => Resource::RLIMIT_NICE,
        "nofile" => Resource::RLIMIT_NOFILE,
        "nproc" => Resource::RLIMIT_NPROC,
        "rss" => Resource::RLIMIT_RSS,
        "rtprio" => Resource::RLIMIT_RTPRIO,
        "rttime" => Resource::RLIMIT_RTTIME,
        "sigpending" => Resource::RLIMIT_SIGPENDING,
        "stack" => Resource::RLIMIT_STACK,
        _ => return None,
    })
}

/// A deadline that ends the container unless the agent renews it, so that a replacement elsewhere
/// is safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopAfter {
    /// The first deadline; `Container::renew` extends it.
    pub deadline: BootTime,
    /// The grace period between TERM and KILL at the deadline, in milliseconds.
    pub grace_ms: u64,
}

/// A generated file that a container sees in place of the one in its root at this path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GeneratedFile {
    /// The absolute path. An image that has no file or link of this name gets one; the host's
    /// programs must have it. Readable for all, writable for none.
    pub path: PathBuf,
    pub text: String,
}

/// A launch request: everything the supervisor needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchSpec {
    pub id: ContainerId,
    /// A random number that the caller generates for this launch; the handle contains it.
    pub nonce: u64,
    /// The container's state directory. Absolute; must exist, be private to the agent and empty.
    pub directory: PathBuf,
    /// The container's sandbox, in which the supervisor keeps `stdout`, `stderr` and their rotated
    /// files. Absolute; must exist.
    pub sandbox: PathBuf,
    /// A directory that it shares with containers of the same users, mounted at
    /// [`mounts::SHARED`]. Absolute; must exist. Only with a profile.
    #[serde(default, rename = "shared_folder")]
    pub shared_directory: Option<PathBuf>,
    /// The command's working directory, as it sees it; `None`: its sandbox. The command must be
    /// allowed to enter it.
    pub working_dir: Option<PathBuf>,
    pub program: Program,
    /// The command's whole environment: nothing of the agent's is added.
    pub environment: Vec<(String, String)>,
    /// The user of the command; `None`: the agent's user.
    pub user: Option<ContainerUser>,
    /// The user by the names of its image, in place of `user`: `USER` or `USER:GROUP`, each a name
    /// in the image's `/etc/passwd` and `/etc/group` or a number; empty for its root. Its sandbox
    /// must belong to the container's root, and is given to that user.
    pub image_user: Option<String>,
    /// The isolation mode.
    pub isolation: Isolation,
    /// The namespaces of the container.
    pub namespaces: Namespaces,
    /// The confinement in addition to its namespaces. Only with full isolation, of which it is a
    /// part except in tests.
    pub profile: Option<IsolationProfile>,
    /// The network of the container.
    pub network: Network,
    /// Generated files that it sees in place of those of its root, such as `/etc/hosts`. Only with
    /// a profile.
    pub files: Vec<GeneratedFile>,
    /// Its host name in a separate uts namespace; `None` keeps the host's.
    pub hostname: Option<String>,
    /// The container's cgroup, as from `CgroupTree::group`. `None` only without cgroups.
    pub cgroup: Option<PathBuf>,
    /// Limits for that group.
    pub limits: Limits,
    /// The policy for limits whose controller this host lacks.
    pub missing: MissingPolicy,
    /// Host devices in addition to the usual ones, at their paths below `/dev`: no links. Only with
    /// a profile.
    pub devices: Vec<PathBuf>,
    /// Resource limits of the command.
    pub resource_limits: Vec<ResourceLimit>,
    /// The limits on the stored `stdout` and `stderr`; see `output`.
    pub output: OutputLimits,
    /// The path of the record of stream offsets, written once there is more than one file
    /// ([`OutputRecord`]). Absolute; in a directory that the command cannot write to, so that a
    /// reader can rely on it.
    ///
    /// [`OutputRecord`]: crate::output::OutputRecord
    pub output_record: PathBuf,
    /// The renewable deadline of the container.
    pub stop_after: Option<StopAfter>,
    /// The stop signal, 1 to 64, sent before the grace period; `None`: TERM. Images name one.
    #[serde(default)]
    pub stop_signal: Option<i32>,
    /// Whether the command gets a terminal for its streams instead of pipes. All its output is then
    /// `stdout`.
    pub tty: bool,
    /// Whether attached clients may write to its standard input. Otherwise it reads end of file
    /// immediately, or at a terminal nothing.
    pub stdin: bool,
}

impl LaunchSpec {
    /// Whether it gets a user namespace.
    pub(crate) fn has_user_namespace(&self) -> bool {
        let own_users = self.profile.is_some() && !layer_disabled!(User);
        own_users || self.isolation == Isolation::UserNamespaces
    }

    /// Removes the namespaces that a test disables from a validated request, which could not have
    /// requested fewer.
    pub(crate) fn drop_disabled_layers(&mut self) {
        let namespaces = &mut self.namespaces;
        namespaces.pid &= !layer_disabled!(Pid);
        namespaces.ipc &= !layer_disabled!(Ipc);
        namespaces.uts &= !layer_disabled!(Uts);
        namespaces.cgroup &= !layer_disabled!(Cgroup);
    }

    /// Returns the flags of `clone3` for its first process.
    pub(crate) fn clone_flags(&self) -> i32 {
        let flags = self.namespaces.clone_flags(self.has_user_namespace());
        match self.network {
            Network::None => flags | CloneFlags::CLONE_NEWNET.bits(),
            Network::Host { .. } | Network::Joined => flags,
        }
    }

    /// Returns whether a file with secrets comes with it.
    #[must_use]
    pub fn has_delivered_secrets(&self) -> bool {
        let volumes = self
            .profile
            .iter()
            .flat_map(|profile| &profile.view.volumes);
        let mut sources = volumes.map(|volume| &volume.source);
        sources.any(|source| matches!(source, mounts::VolumeSource::Delivered(_)))
    }

    /// Returns the host user of its command, if it is not the agent's. A user that an image names
    /// is known only inside: until then it is the container's root.
    #[must_use]
    pub fn host_user(&self) -> Option<ContainerUser> {
        let first = self
            .profile
            .as_ref()
            .map_or(0, |profile| profile.first_host_id);
        if self.image_user.is_some() {
            let (uid, gid, groups) = (0, 0, Vec::new());
            return Some(ContainerUser { uid, gid, groups }.on_host(first));
        }
        let user = self.user.as_ref()?;
        Some(user.on_host(first))
    }

    /// Creates a request with defaults: all namespaces, no limits, no user change, the default
    /// limits of output, recorded in its state directory.
    #[must_use]
    pub fn new(id: ContainerId, directory: &Path, sandbox: &Path, program: Program) -> Self {
        Self {
            id,
            nonce: 0,
            directory: directory.to_owned(),
            sandbox: sandbox.to_owned(),
            shared_directory: None,
            working_dir: None,
            program,
            environment: Vec::new(),
            user: None,
            image_user: None,
            isolation: Isolation::Full,
            namespaces: Namespaces::ALL,
            profile: None,
            network: Network::Host { ports: None },
            files: Vec::new(),
            hostname: None,
            cgroup: None,
            limits: Limits::default(),
            missing: MissingPolicy::RequireAll,
            devices: Vec::new(),
            resource_limits: Vec::new(),
            output: OutputLimits::DEFAULT,
            output_record: directory.join("output.json"),
            stop_after: None,
            stop_signal: None,
            tty: false,
            stdin: false,
        }
    }
}
