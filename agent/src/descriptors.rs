//! Descriptors in the event loop of the runtime.

use std::io;
use std::os::fd::AsRawFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers a descriptor, which its owner keeps open and never exchanges: all callers pass owners
/// by type, which always return the same descriptor. The newer, unsafe constructor requires exactly
/// that.
#[allow(
    deprecated,
    reason = "the replacement is unsafe, and unsafe code lives in argosy-host only"
)]
pub(crate) fn watched<T: AsRawFd>(owner: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(owner, interest)
}
