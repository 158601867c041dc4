//! Descriptors that come with a request, and the ends of connections.

use std::os::fd::{AsFd as _, OwnedFd};

use argosy_isolation::{LaunchSpec, Network};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Returns the network namespace and the secrets of a launch. Its description shows which of them
/// come with it.
pub(super) fn of_launch(
    spec: &LaunchSpec,
    descriptors: Vec<OwnedFd>,
) -> (Option<OwnedFd>, Option<OwnedFd>) {
    let mut rest = descriptors.into_iter();
    let mut next = |is_sent: bool| is_sent.then(|| rest.next()).flatten();
    let namespace = next(spec.network == Network::Joined);
    let secrets = next(spec.has_delivered_secrets());
    (namespace, secrets)
}

/// Returns whether the other end of a connection is closed.
pub(super) fn has_hung_up(end: &OwnedFd) -> bool {
    let mut watched = [PollFd::new(end.as_fd(), PollFlags::POLLIN)];
    // Nothing is ever written: readable means closed.
    poll(&mut watched, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}
