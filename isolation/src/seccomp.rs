//! The system calls that a command may make, as a filter for the kernel.
//!
//! Allowed is what the table lists. Everything else is refused with EPERM, but for calls that libraries probe for: those
//! look absent (ENOSYS), so that they fall back instead of giving up. A call of another architecture ends the process.
//!
//! The program is a search tree over the numbers, some ten instructions deep. When a filter is put on, the kernel runs
//! it once for each number to learn which calls need not be looked at: behind a list of comparisons that took 1.2 of
//! the 3.5 ms of a start.

#[cfg(all(test, target_arch = "x86_64"))]
mod docker;
mod program;
mod table;

use libc::sock_filter;
use nix::errno::Errno;

use self::program::{Verdict, compile};
use crate::profile::Walls;
use crate::sys;

/// All `CLONE_NEW*` flags that fit beside a signal number in `clone`: no further namespaces, a new user namespace least
/// of all.
const NAMESPACE_FLAGS: u32 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u32;
/// Types characters into a terminal as if its user had: CVE-2017-5226 and others.
const TIOCSTI: u32 = 0x5412;
/// The console's own variety of it.
const TIOCLINUX: u32 = 0x541c;
/// The usual personality, those of 32-bit addresses and of old programs, and the question which it is.
const PERSONALITIES: [u32; 5] = [0, 0x0008, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// What must hold of the lower half of an argument.
#[derive(Debug, Clone, Copy)]
struct Test {
    argument: u32,
    holds: Holds,
}

#[derive(Debug, Clone, Copy)]
enum Holds {
    Is(u32),
    IsNot(u32),
    /// None of these bits is set.
    HasNone(u32),
    /// One of these bits is.
    HasSome(u32),
}

/// A call, and tests of which all of one alternative must hold.
type Condition = (libc::c_long, Vec<Vec<Test>>);

/// A filter, ready for the kernel.
#[derive(Clone)]
pub(crate) struct Filter(Vec<sock_filter>);

impl Filter {
    /// Made once: it is the same for every command that is let off nothing.
    pub(crate) fn new() -> Self {
        Self::with(&[], conditions().into())
    }

    /// The same, and what is of use only to who is let off a wall.
    pub(crate) fn widened(&self, walls: Walls) -> Self {
        let mut calls: Vec<libc::c_long> = Vec::new();
        let mut conditions = Vec::from(conditions());
        if walls.capabilities.has("SYS_CHROOT") {
            calls.push(libc::SYS_chroot);
        }
        if !walls.user_namespaces {
            calls.extend([libc::SYS_chroot, libc::SYS_unshare, libc::SYS_clone]);
            conditions.retain(|(call, _)| *call != libc::SYS_clone);
        }
        if walls.capabilities.has("NET_RAW") {
            let sockets = conditions
                .iter_mut()
                .filter(|(call, _)| *call == libc::SYS_socket);
            for (_, alternatives) in sockets {
                let packets = Holds::Is(libc::AF_PACKET as u32);
                alternatives.push(vec![Test {
                    argument: 0,
                    holds: packets,
                }]);
            }
        } else if calls.is_empty() {
            return self.clone();
        }
        Self::with(&calls, conditions)
    }

    fn with(more: &[libc::c_long], conditions: Vec<Condition>) -> Self {
        let listed = table::ALWAYS.iter().copied().chain([table::LEGACY]);
        let mut rules = vec![Verdict::Refused; table::NEWEST as usize + 1];
        for call in listed.flatten().chain(more) {
            rules[*call as usize] = Verdict::Allowed;
        }
        rules[libc::SYS_clone3 as usize] = Verdict::Absent;
        for (call, alternatives) in conditions {
            rules[call as usize] = Verdict::AllowedIf(alternatives);
        }
        Self(compile(&rules))
    }

    /// A filter that allows these calls whatever their arguments, and refuses all others.
    pub(crate) fn only(calls: &[libc::c_long]) -> Self {
        let mut rules = vec![Verdict::Refused; table::NEWEST as usize + 1];
        for call in calls {
            rules[*call as usize] = Verdict::Allowed;
        }
        Self(compile(&rules))
    }

    /// That of a process which speaks and computes: as for a command, without what makes processes, executes, reaches
    /// other processes or waits for callers. It may make threads.
    pub(crate) fn of_services() -> Self {
        Self::of_ours(table::NOT_FOR_SERVICES, &[], conditions().into())
    }

    /// That of a process which does for an agent what needs root: as for a command, without what executes and makes
    /// processes and without accepting connections, but with mounts, quotas, programs of control groups, and network namespaces.
    pub(crate) fn of_brokers() -> Self {
        let is = |argument, value: i32| Test {
            argument,
            holds: Holds::Is(value as u32),
        };
        // Of sockets it needs those of the internet, too: it binds one to see whether a port of the host is free.
        let mut conditions = Vec::from(conditions());
        // No other namespaces than those of networks are made or entered.
        conditions.push((libc::SYS_unshare, vec![vec![is(0, libc::CLONE_NEWNET)]]));
        conditions.push((libc::SYS_setns, vec![vec![is(1, libc::CLONE_NEWNET)]]));
        Self::of_ours(table::NOT_FOR_BROKERS, table::FOR_BROKERS, conditions)
    }

    /// What commands may call without the first and with the second. Of processes it makes threads only.
    fn of_ours(
        refused: &[&[libc::c_long]],
        more: &[libc::c_long],
        conditions: Vec<Condition>,
    ) -> Self {
        let listed = table::ALWAYS.iter().copied().chain([table::LEGACY, more]);
        let mut rules = vec![Verdict::Refused; table::NEWEST as usize + 1];
        for call in listed.flatten() {
            rules[*call as usize] = Verdict::Allowed;
        }
        rules[libc::SYS_clone3 as usize] = Verdict::Absent;
        for (call, alternatives) in conditions {
            rules[call as usize] = Verdict::AllowedIf(alternatives);
        }
        let is_thread = Test {
            argument: 0,
            holds: Holds::HasSome(libc::CLONE_THREAD as u32),
        };
        rules[libc::SYS_clone as usize] = Verdict::AllowedIf(vec![vec![is_thread]]);
        for call in refused.iter().copied().flatten() {
            rules[*call as usize] = Verdict::Refused;
        }
        Self(compile(&rules))
    }

    /// For this thread of control and all that it becomes; never to be taken off. It must have forgone new privileges.
    pub(crate) fn put_on(&self) -> Result<(), Errno> {
        sys::filter_system_calls(&self.0)
    }
}

/// Calls that depend on their arguments: allowed when all tests of one alternative hold.
fn conditions() -> [Condition; 5] {
    let is = |argument, value: i32| Test {
        argument,
        holds: Holds::Is(value as u32),
    };
    let families = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6];
    let mut sockets: Vec<_> = families.map(|family| vec![is(0, family)]).into();
    // Interfaces and addresses are looked up there; everything else of netlink is for administrators.
    sockets.push(vec![is(0, libc::AF_NETLINK), is(2, libc::NETLINK_ROUTE)]);
    let no_namespace = Test {
        argument: 0,
        holds: Holds::HasNone(NAMESPACE_FLAGS),
    };
    let no_typing = [TIOCSTI, TIOCLINUX].map(|request| Test {
        argument: 1,
        holds: Holds::IsNot(request),
    });
    let personalities = PERSONALITIES.map(|personality| vec![is(0, personality as i32)]);
    [
        (libc::SYS_clone, vec![vec![no_namespace]]),
        (libc::SYS_ioctl, vec![no_typing.to_vec()]),
        (libc::SYS_personality, personalities.into()),
        (libc::SYS_socket, sockets),
        // The kernel makes both sockets, and loads the module of their family, before it asks whether that has pairs.
        (libc::SYS_socketpair, vec![vec![is(0, libc::AF_UNIX)]]),
    ]
}
