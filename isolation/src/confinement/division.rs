//! Privilege separation of an agent: it drops root permanently, and a broker process that was
//! forked before keeps root.
//!
//! ```text
//! agent (root) ──clone3──▶ broker (root)        before any thread of either
//!   │ a user namespace, whose users the broker maps
//!   ▼
//! agent (user argosy-agent)
//! ```
//! In its user namespace the agent owns the files of its own user, and may own those of containers'
//! users as they are on disk. Host root, the users of people and services, and their files are not
//! in the namespace: over these the agent has only the rights of its user. It keeps the four
//! capabilities that act on files of the namespace's users, and none that counts outside it.

use std::fs;
use std::io;
use std::ops::Range;
use std::path::Path;

use argosy_host::fork::check_single_threaded;
pub use argosy_host::fork::{ForkedChild, fork, wait};
use argosy_host::sys;
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};

use crate::confinement::seccomp::SeccompFilter;
use crate::confinement::service::SERVICE_HOST_ID;
use crate::spec::capabilities::Capabilities;
use crate::spec::profile::{END_HOST_ID, FIRST_HOST_ID};

/// The user of the agent, if the host has a user of this name.
pub const AGENT_USER: &str = "argosy-agent";
/// The user and group of the agent otherwise: the id after the runtime's other ids, so that no
/// account is needed.
pub const AGENT_HOST_ID: u32 = SERVICE_HOST_ID + 1;
/// The capabilities that the agent keeps in its user namespace: to own, read and write files of the
/// users there.
const KEPT_CAPABILITIES: [&str; 4] = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID"];
/// The maximum number of lines in the uid map of a user namespace.
const LINES: usize = 340;

/// A user of the host, and its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostUser {
    pub uid: u32,
    pub gid: u32,
}

impl HostUser {
    /// Returns the user of an agent that drops root.
    #[must_use]
    pub fn agent() -> Self {
        let named = nix::unistd::User::from_name(AGENT_USER).ok().flatten();
        let named = named.filter(|user| !user.uid.is_root() && user.gid.as_raw() != 0);
        named.map_or(
            Self {
                uid: AGENT_HOST_ID,
                gid: AGENT_HOST_ID,
            },
            |user| Self {
                uid: user.uid.as_raw(),
                gid: user.gid.as_raw(),
            },
        )
    }

    /// Returns the current user and group of this process.
    #[must_use]
    pub fn current() -> Self {
        Self {
            uid: nix::unistd::geteuid().as_raw(),
            gid: nix::unistd::getegid().as_raw(),
        }
    }
}

/// Drops root permanently. `map` runs [`map_users`] in a process that keeps root.
///
/// # Errors
/// The privilege that could not be dropped: this process must then exit.
pub fn drop_root(map: impl FnOnce() -> io::Result<()>) -> Result<(), String> {
    let words = |what: &'static str| move |errno: Errno| format!("cannot {what}: {}", errno.desc());
    check_single_threaded().map_err(|error| error.to_string())?;
    match sys::join_new_session_keyring() {
        // Without this system call there are no keyrings.
        Ok(()) | Err(Errno::ENOSYS | Errno::EPERM) => {}
        Err(errno) => return Err(words("leave root's session keyring")(errno)),
    }
    unshare(CloneFlags::CLONE_NEWUSER).map_err(words("make a user namespace"))?;
    map().map_err(|error| format!("cannot map its users: {error}"))?;
    let kept = Capabilities::named(KEPT_CAPABILITIES).map_err(|error| error.to_string())?;
    sys::bound_capabilities(kept.mask()).map_err(words("bound its capabilities"))?;
    sys::become_user(0, 0, &[]).map_err(words("become its user"))?;
    sys::set_capabilities(kept.mask(), 0).map_err(words("drop capabilities"))?;
    nix::sys::prctl::set_dumpable(false).map_err(words("hide its memory"))?;
    nix::sys::prctl::set_no_new_privs().map_err(words("forbid new privileges"))
}

/// Maps the users of a process's user namespace: `user` is its root, and containers' users map to
/// themselves, except those in `others`, which other software of the host uses. Call it as host
/// root.
///
/// # Errors
/// If there are too many of `others`, or the kernel refuses the map.
pub fn map_users(pid: i32, user: HostUser, others: &[Range<u32>]) -> io::Result<()> {
    let directory = Path::new("/proc").join(pid.to_string());
    for (name, number) in [("gid_map", user.gid), ("uid_map", user.uid)] {
        fs::write(directory.join(name), map(number, others)?)?;
    }
    Ok(())
}

fn map(number: u32, others: &[Range<u32>]) -> io::Result<String> {
    let mut lines = vec![format!("0 {number} 1")];
    let mut others: Vec<_> = others.to_vec();
    others.sort_by_key(|range| range.start);
    let mut first = FIRST_HOST_ID;
    others.push(END_HOST_ID..END_HOST_ID);
    for other in others {
        let end = other.start.clamp(FIRST_HOST_ID, END_HOST_ID);
        if end > first {
            lines.push(format!("{first} {first} {}", end - first));
        }
        first = first.max(other.end.min(END_HOST_ID));
    }
    if lines.len() > LINES {
        return Err(io::Error::other(format!(
            "the files subuid and subgid give {} separate ranges of users to other software, and the kernel takes {LINES}",
            lines.len() - 1
        )));
    }
    Ok(lines.join("\n"))
}

/// Installs the broker's seccomp filter (`SeccompFilter::of_brokers`) permanently, for this thread
/// and all later ones. From then on another process must execute its programs
/// ([`argosy_host::spawner`]).
///
/// # Errors
/// If this process has threads, or the host refuses the filter.
pub fn confine() -> Result<(), String> {
    let words = |what: &'static str| move |errno: Errno| format!("cannot {what}: {}", errno.desc());
    check_single_threaded().map_err(|error| error.to_string())?;
    nix::sys::prctl::set_no_new_privs().map_err(words("forbid new privileges"))?;
    SeccompFilter::of_brokers()
        .install()
        .map_err(words("filter system calls"))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};

    use super::*;

    #[test]
    fn container_users_are_mapped_except_reserved_ranges() {
        let whole = END_HOST_ID - FIRST_HOST_ID;
        let expected = format!("0 997 1\n{FIRST_HOST_ID} {FIRST_HOST_ID} {whole}");
        assert_eq!(map(997, &[]).unwrap(), expected);
        let (first, end) = (FIRST_HOST_ID, END_HOST_ID);
        let others = [first + 9..first + 10, 0..first + 3, end - 1..u32::MAX];
        let expected = format!(
            "0 7 1\n{a} {a} 6\n{b} {b} {count}",
            a = first + 3,
            b = first + 10,
            count = end - 1 - (first + 10)
        );
        assert_eq!(map(7, &others).unwrap(), expected);
        let all = [first..end - 5, end - 5..end];
        assert_eq!(map(7, &all).unwrap(), "0 7 1");
    }

    #[test]
    fn too_many_id_ranges_are_rejected_with_a_message() {
        let others: Vec<_> = (0..400)
            .map(|at| FIRST_HOST_ID + at * 2..FIRST_HOST_ID + at * 2 + 1)
            .collect();
        let refused = map(7, &others).unwrap_err().to_string();
        assert!(refused.contains("subuid"), "{refused}");
    }

    /// Returns a bit mask of what a copy of this process may do. Nothing here allocates, because
    /// other threads may hold locks.
    fn allowed_operations(filter: Option<&SeccompFilter>) -> i32 {
        let copy = sys::clone_process(0, None, || {
            if let Some(filter) = filter
                && (nix::sys::prctl::set_no_new_privs().is_err() || filter.install().is_err())
            {
                return 255;
            }
            let socket =
                |family| socket(family, SockType::Datagram, SockFlag::empty(), None).is_ok();
            let tried = [
                socket(AddressFamily::Unix),
                nix::unistd::chdir(c"/").is_ok(),
                socket(AddressFamily::Inet),
                sys::clone_process(0, None, || 0).is_ok(),
                sys::join_new_session_keyring().is_ok(),
            ];
            (0..).zip(tried).map(|(at, can)| i32::from(can) << at).sum()
        });
        match waitid(
            Id::PIDFd(copy.unwrap().handle.as_fd()),
            WaitPidFlag::WEXITED,
        )
        .unwrap()
        {
            WaitStatus::Exited(_, code) => code,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_filter_denies_a_broker_unneeded_operations() {
        assert_eq!(allowed_operations(None), 0b1_1111, "so this test can fail");
        assert_eq!(
            allowed_operations(Some(&SeccompFilter::of_brokers())),
            0b111
        );
    }
}
