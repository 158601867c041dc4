//! System calls, processes and files of a host, without any notion of containers' settings or of
//! clusters. It holds the only unsafe code (`sys`).
//!
//! Modules, from the lowest layer to the highest; each imports only from those before it:
//!
//! - `sys`: system calls that no library offers with a safe signature.
//! - `crash_points`: hooks at which a test ends a process.
//! - `processes`: `process` identifies them, `fork`, `child` and `spawner` create them, `packets`
//!   carry messages between them.
//! - `atomic_file`: files that are written as a whole. `claims`: numbers and names that one holder
//!   of a host may have. `remove_tree`: removal of untrusted directory trees. `disk_space`: free
//!   space.
//! - `audit`: the audit log of a process. `secret_value`: values of secrets in memory.
//! - `container_id`: names of containers, by which crates find the records of one.

pub mod atomic_file;
pub mod audit;
pub mod claims;
pub mod container_id;
pub mod crash_points;
mod disk_space;
mod processes;
pub mod remove_tree;
pub mod secret_value;
#[expect(
    clippy::missing_errors_doc,
    reason = "the errors are those of the system call in the function's name or description"
)]
pub mod sys;

pub use container_id::ContainerId;
pub use disk_space::{disk_space, usable_space};
pub use processes::process::{BootTime, ProcessId};
pub use processes::{child, fork, packets, process, spawner};
