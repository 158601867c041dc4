//! Container runtime: launcher, supervisor, namespaces, cgroups v2. Independent of clusters.
//!
//! ```text
//! agent ──exec──▶ launcher ──clone3──▶ supervisor ──clone3──▶ init ──exec──▶ command
//!   │  requests ──────▲                    │ ▲        namespaces and cgroup of the container
//!   └── one socket per container ──────────┘ └─ stdio, deadlines, exit status
//! ```
//! The interface for an agent is synchronous, around plain descriptors:
//!
//! ```text
//! // main of any program that is its own launcher, before any thread:
//! //   if this is the hidden verb "launcher" { return launcher::run_from_fd() }
//! let tree = CgroupTree::create(&cgroup::default_parent()?, &agent)?; // argosy/<agent>
//! let mut command = launcher::own_executable()?;
//! command.arg("launcher");
//! let mut launcher = Launcher::spawn(command, Some(&tree))?;
//!
//! let mut spec = LaunchSpec::new(id, &directory, &sandbox, Program::Shell("exit 7".into()));
//! spec.cgroup = Some(tree.group(&spec.id).path().to_owned());
//! let mut container = launcher.launch(&spec)?;  // does not wait; then, whenever it is readable:
//! match container.notice()? {                   //   Some(Started(handle))
//!     ..                                        //   Some(Exited(exit)): status or error
//! }                                             //   None: nothing now
//! container.kill(5_000)?;                       // TERM, after 5 s KILL; its end comes as a notice
//! container.destroy(timeout)?;                  // only state directory and sandbox are left
//!
//! let request = ExecRequest::new(ExecAction::Command(Program::Shell("ps".into())));
//! let mut session = container.exec(&request)?;  // another command, while the session is open
//! match session.notice()? {                     //   Some(Started(streams)), then Ended(outcome)
//!     ..
//! }
//!
//! match adopt(&directory)? {                    // after a restart of the agent
//!     Adoption::Running(container) => ..        // the same process, with handle
//!     Adoption::Exited(exit) => ..              // the true status
//!     Adoption::Gone { reason } => ..           // never started, or lost: destroy(..)
//! }
//! clean_up_abandoned(&tree, &known, timeout)?;  // groups of orphaned containers
//! ```
//! Modules, from the lowest layer to the highest; each imports only from those before it:
//!
//! - `testing`: hooks for tests.
//! - `spec`: the launch request, as plain data with its rules.
//! - `cgroup`, with `limits` and `oom`; `state_dir`: files that outlive the agent.
//! - `confinement`: `drop_privileges`, `seccomp`; `device_filter`, `port_filter` and `reach_filter`
//!   over `ebpf`; `service` runs untrusted parsing, `division` separates an agent without root from
//!   its broker.
//! - `rootfs`: `mounts` and `image` over `mount_calls`.
//! - `disk`: disk limits; `unpack`: extracts archives and image layers.
//! - `runtime`: `launcher`, `supervisor`, `init`, `command`, `container`, `exec`, `attachment`,
//!   `output`, `adoption`, `removal`. `termination` holds the supervisor's decisions.

pub mod cgroup;
mod confinement;
pub mod disk;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod rootfs;
mod runtime;
pub mod spec;
pub mod state_dir;
mod testing;
pub mod unpack;

pub use cgroup::limits::LimitsError;
pub use cgroup::oom::{OomKill, OomScope};
pub use cgroup::{
    Cgroup, CgroupError, CgroupStats, CgroupTree, IoStats, Pressure, StallShares, oom,
};
pub use confinement::{device_filter, division, port_filter, reach_filter, service};
pub use rootfs::image;
pub use rootfs::mounts::SecretError;
pub use runtime::adoption::{Adoption, AdoptionError, adopt};
pub use runtime::attachment::{Attachment, AttachmentError, AttachmentNotice};
pub use runtime::container::{Container, ContainerError};
pub use runtime::exec::{
    ExecAction, ExecNotice, ExecRequest, ExecSession, ExecSessionError, ExecStreams, Probe,
    ProbeKind, ProbeResult, Scheme, WindowSize,
};
pub use runtime::launcher::{LaunchDescriptors, LaunchError, Launcher, LauncherError};
pub use runtime::messages::SupervisorNotice;
pub use runtime::namespaces::{DetectedModes, detect};
pub use runtime::removal::{RemovalError, cancel_start, clean_up_abandoned, destroy};
pub use runtime::{
    adoption, attachment, container, exec, launcher, messages, namespaces, output, removal,
};
pub use spec::capabilities::Capabilities;
pub use spec::limits::{Limits, MissingControllers, MissingPolicy};
pub use spec::mounts::{
    DeliveredSecret, HostPath, MountSpec, OwnerMapping, SecretFile, Volume, VolumeSource,
};
pub use spec::profile::IsolationProfile;
pub use spec::{
    ContainerUser, GeneratedFile, Image, Isolation, LAYERS_MAX, LaunchSpec, Namespaces, Network,
    OutputLimits, Program, ResourceLimit, RootFs, SpecError, StopAfter, capabilities, limits,
    mounts, profile,
};
pub use state_dir::{CommandOutcome, Exit, Handle, LifetimeUsage, StateDirectoryError, StopReason};
pub use testing::{crash_steps, disable_layer};
