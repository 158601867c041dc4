//! Container runtime: launcher, supervisor, namespaces, cgroups v2. Independent of clusters; it
//! holds the only unsafe code (`sys`).
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
//! networks.sweep(&known)?;                      // their devices, ports and addresses
//! ```
//! Reading order:
//!
//! - Lifecycle: `spec`, `state_dir`, `launcher`, `supervisor`, `init`, `command`, `container`,
//!   `exec`, `attachment`, `adoption`, `removal`. `termination` holds the supervisor's decisions.
//! - Isolation: `profile`, `capabilities`, `mounts`, `image`, `drop_privileges`, `seccomp`;
//!   `device_filter`, `port_filter` and `reach_filter` over `ebpf`.
//! - Resources: `cgroup`, `limits`, `oom`, `disk`, `namespaces`, `network`, `output`; `remove_tree`
//!   removes untrusted directory trees.
//! - Other processes: `unpack` extracts archives and image layers, `service` runs untrusted
//!   parsing, `division` separates an agent without root from its broker, `spawner` executes the
//!   broker's programs.
//! - Tests: `crash_points` and `disable_layer`.

pub mod adoption;
pub mod attachment;
pub mod capabilities;
pub mod cgroup;
mod child;
mod command;
pub mod container;
pub mod crash_points;
pub mod device_filter;
pub mod disable_layer;
pub mod disk;
pub mod division;
mod drop_privileges;
mod ebpf;
pub mod exec;
pub mod image;
mod init;
pub mod launcher;
pub mod limits;
pub mod messages;
pub mod mounts;
pub mod namespaces;
pub mod network;
pub mod oom;
pub mod output;
pub mod port_filter;
pub mod process;
pub mod profile;
pub mod reach_filter;
pub mod removal;
pub mod remove_tree;
mod seccomp;
pub mod service;
pub mod spawner;
pub mod spec;
pub mod state_dir;
mod supervisor;
mod sys;
mod termination;
pub mod unpack;

pub use adoption::{Adoption, AdoptionError, adopt};
pub use attachment::{Attachment, AttachmentError, AttachmentNotice};
pub use capabilities::Capabilities;
pub use cgroup::{Cgroup, CgroupError, CgroupStats, CgroupTree, IoStats, Pressure, StallShares};
pub use container::{Container, ContainerError};
pub use exec::{
    ExecAction, ExecNotice, ExecRequest, ExecSession, ExecSessionError, ExecStreams, Probe,
    ProbeKind, ProbeResult, Scheme, WindowSize,
};
pub use image::{Image, LAYERS_MAX, RootFs};
pub use launcher::{LaunchError, Launcher, LauncherError};
pub use limits::{Limits, LimitsError, MissingControllers, MissingPolicy};
pub use messages::SupervisorNotice;
pub use mounts::{
    HostPath, MountSpec, OwnerMapping, SecretError, SecretFile, Volume, VolumeSource,
};
pub use namespaces::{DetectedModes, Isolation, Namespaces, detect};
pub use network::{Network, NetworkError, Networks};
pub use oom::{OomKill, OomScope};
pub use output::OutputLimits;
pub use process::{BootTime, ProcessId};
pub use profile::IsolationProfile;
pub use removal::{RemovalError, cancel_start, clean_up_abandoned, destroy};
pub use spec::{
    ContainerId, ContainerUser, GeneratedFile, LaunchSpec, Program, ResourceLimit, SpecError,
    StopAfter,
};
pub use state_dir::{CommandOutcome, Exit, Handle, LifetimeUsage, StateDirectoryError, StopReason};
