//! Descriptors that the runtime waits on.

use std::io;
use std::os::fd::AsRawFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Has the runtime wait on a descriptor, which its owner keeps open and never exchanges: all that are given here are
/// owners by type, and show the same one always. That is what the newer, unsafe constructor asks for.
#[allow(
    deprecated,
    reason = "the replacement is unsafe, and unsafe code lives in isolation only"
)]
pub(crate) fn watched<T: AsRawFd>(owner: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(owner, interest)
}
