//! What to run, in which confinement: the launch request, and the rules that make it valid.
//!
//! Checked by the caller before it is sent and by the supervisor after it is read.

mod rules;

use std::fmt;
use std::path::{Path, PathBuf};

use nix::sched::CloneFlags;
use serde::{Deserialize, Serialize};

use crate::disable_layer::{self, Wall};
use crate::limits::{Limits, MissingPolicy};
use crate::namespaces::{Isolation, Namespaces};
use crate::network::Network;
use crate::output::OutputLimits;
use crate::process::BootTime;
use crate::profile::Profile;
pub use rules::SpecError;

/// The longest single argument or variable the kernel takes, in bytes without its end mark.
pub const STRING_LIMIT_BYTES: usize = 128 * 1024 - 1;
/// The most that arguments and environment may hold together, in bytes: half of what the kernel takes with
/// the usual stack limit.
pub const STRINGS_LIMIT_BYTES: usize = 1024 * 1024;

/// A container's name: one file name of 1 to 128 letters, digits, `.`, `_`, `-`, not beginning with `.`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContainerId(String);

impl ContainerId {
    /// Checks the name. `supervisors` is taken by the tree itself.
    ///
    /// # Errors
    /// With the name and what a name may be.
    pub fn new(name: impl Into<String>) -> Result<Self, SpecError> {
        let name = name.into();
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let fits = (1..=128).contains(&name.len()) && name.bytes().all(allowed);
        if !fits || name.starts_with('.') || name == crate::cgroup::SUPERVISORS {
            return Err(SpecError::new(
                "id",
                &name,
                "use 1 to 128 letters, digits, '.', '_' or '-', not beginning with '.'",
            ));
        }
        Ok(Self(name))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ContainerId {
    type Error = SpecError;

    fn try_from(name: String) -> Result<Self, SpecError> {
        Self::new(name)
    }
}

impl From<ContainerId> for String {
    fn from(id: ContainerId) -> Self {
        id.0
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// What is executed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Program {
    /// A line for `/bin/sh -c`.
    Shell(String),
    /// A program and its arguments. A name without `/` is looked up in the *given* environment's `PATH`, or
    /// in the system's usual folders if that has none.
    Arguments(Vec<String>),
}

/// Whom the command runs as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// User number: with a profile of the container's own users, else of the host's.
    pub uid: u32,
    /// Main group's number.
    pub gid: u32,
    /// All further groups; the agent's own are dropped.
    pub groups: Vec<u32>,
}

impl User {
    /// Whether it is root, or in root's group.
    pub fn is_of_root(&self) -> bool {
        self.uid == 0 || self.gid == 0 || self.groups.contains(&0)
    }

    /// Who a container's user is on the host whose container begins with this one.
    #[must_use]
    pub fn on_host(&self, first: u32) -> Self {
        Self {
            uid: first + self.uid,
            gid: first + self.gid,
            groups: self.groups.iter().map(|group| first + group).collect(),
        }
    }

    /// The user of this name in the host's user database, with its groups. Not for the launcher.
    ///
    /// # Errors
    /// If there is no such user.
    pub fn named(name: &str) -> Result<Self, SpecError> {
        let unknown = || SpecError::new("user", name, "name a user that exists on this host");
        let plain = std::ffi::CString::new(name).map_err(|_| unknown())?;
        let user = nix::unistd::User::from_name(name)
            .ok()
            .flatten()
            .ok_or_else(unknown)?;
        let groups = nix::unistd::getgrouplist(&plain, user.gid).map_err(|_| unknown())?;
        Ok(Self {
            uid: user.uid.as_raw(),
            gid: user.gid.as_raw(),
            groups: groups.into_iter().map(nix::unistd::Gid::as_raw).collect(),
        })
    }
}

/// One resource limit of the command (`setrlimit`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceLimit {
    /// Name as in `ulimit`'s manual, in lower case: `nofile`, `core`, `nproc`, `memlock`, …
    pub name: String,
    /// What the command starts with; in the unit of `setrlimit(2)`.
    pub soft: u64,
    /// How far it may raise it itself.
    pub hard: u64,
}

impl ResourceLimit {
    /// This much and no more, or as much as this process has itself if that is less: only root of the host could give
    /// more. A name that is none is refused with the launch.
    #[must_use]
    pub fn at_most(name: &str, most: u64) -> Self {
        let own = crate::limits::resource(name)
            .and_then(|resource| nix::sys::resource::getrlimit(resource).ok());
        let most = own.map_or(most, |(_, hard)| most.min(hard));
        Self {
            name: name.to_owned(),
            soft: most,
            hard: most,
        }
    }
}

/// End the container unless the agent renews in time, so that a replacement elsewhere is safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopAfter {
    /// The first deadline; `Container::renew` moves it.
    pub deadline: BootTime,
    /// Time between TERM and KILL at the deadline, in milliseconds.
    pub grace_ms: u64,
}

/// A file that a container sees in place of the one that its root has at this path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnFile {
    /// Where: absolute. An image that has no file or link of this name gets one; the host's programs must have it.
    /// Readable by all, written by nobody.
    pub path: PathBuf,
    /// What it says.
    pub text: String,
}

/// A launch request: everything the supervisor needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// The container's name.
    pub id: ContainerId,
    /// Drawn by the caller for this launch; comes back in the handle.
    pub nonce: u64,
    /// The container's hand-off folder. Absolute; must exist, private to the agent and empty.
    pub directory: PathBuf,
    /// The container's own folder, in which the supervisor keeps `stdout`, `stderr` and the files they are rotated into.
    /// Absolute; must exist.
    pub sandbox: PathBuf,
    /// A folder that it shares with containers that have the same users, and sees at [`crate::mounts::SHARED`]. Absolute; must
    /// exist. Only with a profile.
    #[serde(default)]
    pub shared_folder: Option<PathBuf>,
    /// Where the command begins, as it sees it; `None`: in its sandbox. It must be allowed to enter it.
    pub working_dir: Option<PathBuf>,
    /// What is executed.
    pub program: Program,
    /// The command's whole environment: nothing of the agent's is added.
    pub environment: Vec<(String, String)>,
    /// Whom the command runs as; `None`: the agent's own user.
    pub user: Option<User>,
    /// Whom it runs as by the names of its image, in place of `user`: `USER` or `USER:GROUP`, each a name in the image's
    /// `/etc/passwd` and `/etc/group` or a number; empty for its root. Its sandbox must belong to the container's root,
    /// and is given to that user.
    pub image_user: Option<String>,
    /// How it is confined.
    pub isolation: Isolation,
    /// Which namespaces it gets.
    pub namespaces: Namespaces,
    /// What keeps it from the host beyond its namespaces; `None`: nothing. Only with full isolation.
    pub profile: Option<Profile>,
    /// Which network it is in.
    pub network: Network,
    /// Small files that it sees in place of those of its root: `/etc/hosts` and such. Only with a profile.
    pub files: Vec<OwnFile>,
    /// Its host name in a uts namespace of its own; `None` leaves the host's.
    pub hostname: Option<String>,
    /// The container's own group, as made by `Tree::group`. `None` only without cgroups.
    pub cgroup: Option<PathBuf>,
    /// Limits for that group.
    pub limits: Limits,
    /// What to do about limits this host has no controller for.
    pub missing: MissingPolicy,
    /// Devices of the host that it has beside the usual ones, at their own paths below `/dev`: no links. Only with a profile.
    pub devices: Vec<PathBuf>,
    /// Resource limits of the command.
    pub resource_limits: Vec<ResourceLimit>,
    /// How much is kept of each of `stdout` and `stderr`; see `output`.
    pub output: OutputLimits,
    /// Where it is noted at which byte of its stream each file begins, once there is more than one ([`Record`]). Absolute; in
    /// a folder that the command cannot write to, so that a reader can rely on it.
    ///
    /// [`Record`]: crate::output::Record
    pub output_record: PathBuf,
    /// End it unless renewed.
    pub stop_after: Option<StopAfter>,
    /// The signal, 1 to 64, that asks it to end, before the grace; `None`: TERM. Images name one.
    #[serde(default)]
    pub stop_signal: Option<i32>,
    /// Give the command a terminal for its streams instead of pipes. All that it writes is `stdout` then.
    pub tty: bool,
    /// Let those who attach write to its standard input. Else it reads the end of it at once, or at a terminal nothing.
    pub stdin: bool,
}

impl Spec {
    /// Whether it gets users of its own.
    pub(crate) fn has_user_namespace(&self) -> bool {
        let own_users = self.profile.is_some() && disable_layer::stands(Wall::Users);
        own_users || self.isolation == Isolation::UserNamespaces
    }

    /// Flags of `clone3` for its first process.
    pub(crate) fn clone_flags(&self) -> i32 {
        let flags = self.namespaces.clone_flags(self.has_user_namespace());
        match self.network {
            Network::None => flags | CloneFlags::CLONE_NEWNET.bits(),
            Network::Host { .. } | Network::Joined => flags,
        }
    }

    /// Who its command is on the host, if not the agent's own user. One that is named by an image is known only
    /// inside: until then it is the container's root.
    #[must_use]
    pub fn host_user(&self) -> Option<User> {
        let first = self
            .profile
            .as_ref()
            .map_or(0, |profile| profile.first_host_id);
        if self.image_user.is_some() {
            let (uid, gid, groups) = (0, 0, Vec::new());
            return Some(User { uid, gid, groups }.on_host(first));
        }
        let user = self.user.as_ref()?;
        Some(user.on_host(first))
    }

    /// A launch with defaults: all namespaces, no limits, no user change, the usual limits of output, noted
    /// in its hand-off folder.
    #[must_use]
    pub fn new(id: ContainerId, directory: &Path, sandbox: &Path, program: Program) -> Self {
        Self {
            id,
            nonce: 0,
            directory: directory.to_owned(),
            sandbox: sandbox.to_owned(),
            shared_folder: None,
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
            output: OutputLimits::USUAL,
            output_record: directory.join("output.json"),
            stop_after: None,
            stop_signal: None,
            tty: false,
            stdin: false,
        }
    }
}
