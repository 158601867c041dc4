//! The system calls that a command may make, as a seccomp filter.
//!
//! The table lists the allowed calls. Every other call is refused with EPERM, except those that
//! libraries probe for: these fail with ENOSYS, so that libraries fall back instead of failing. A
//! call of another architecture kills the process.
//!
//! The program is a search tree over the numbers, some ten instructions deep. When a filter is
//! installed, the kernel runs it once for each number to learn which calls need no check: with a
//! list of comparisons that took 1.2 of the 3.5 ms of a start.

#[cfg(all(test, target_arch = "x86_64"))]
mod docker;
mod program;
mod table;

use argosy_host::sys;
use libc::sock_filter;
use nix::errno::Errno;

use self::program::{SyscallAction, compile};
use crate::spec::profile::IsolationLayers;

/// All `CLONE_NEW*` flags that `clone` can combine with a signal number. Commands may create no
/// namespaces, above all no user namespace.
const NAMESPACE_FLAGS: u32 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u32;
/// Inserts characters into a terminal's input: CVE-2017-5226 and others.
const TIOCSTI: u32 = 0x5412;
/// The console's variant of TIOCSTI.
const TIOCLINUX: u32 = 0x541c;
/// The default personality, those of 32-bit addresses and of old programs, and the query of the
/// current one.
const PERSONALITIES: [u32; 5] = [0, 0x0008, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// A condition on the lower half of an argument.
#[derive(Debug, Clone, Copy)]
struct ArgumentTest {
    argument: u32,
    comparison: ArgumentComparison,
}

#[derive(Debug, Clone, Copy)]
enum ArgumentComparison {
    Is(u32),
    IsNot(u32),
    /// None of these bits is set.
    HasNone(u32),
    /// One of these bits is set.
    HasSome(u32),
}

/// A call with its alternatives: all tests of one alternative must hold.
type SyscallRule = (libc::c_long, Vec<Vec<ArgumentTest>>);

/// A filter, ready for the kernel.
#[derive(Clone)]
pub(crate) struct SeccompFilter(Vec<sock_filter>);

impl SeccompFilter {
    /// Builds the filter of commands without security options. Built once.
    pub(crate) fn new() -> Self {
        Self::with(&[], conditions().into())
    }

    /// Returns the same filter with the calls that only commands with certain security options
    /// need.
    pub(crate) fn widened(&self, layers: IsolationLayers) -> Self {
        let mut calls: Vec<libc::c_long> = Vec::new();
        let mut conditions = Vec::from(conditions());
        if layers.capabilities.has("SYS_CHROOT") {
            calls.push(libc::SYS_chroot);
        }
        if !layers.user_namespaces {
            calls.extend([libc::SYS_chroot, libc::SYS_unshare, libc::SYS_clone]);
            conditions.retain(|(call, _)| *call != libc::SYS_clone);
        }
        if layers.capabilities.has("NET_RAW") {
            let sockets = conditions
                .iter_mut()
                .filter(|(call, _)| *call == libc::SYS_socket);
            for (_, alternatives) in sockets {
                let packets = ArgumentComparison::Is(libc::AF_PACKET as u32);
                alternatives.push(vec![ArgumentTest {
                    argument: 0,
                    comparison: packets,
                }]);
            }
        } else if calls.is_empty() {
            return self.clone();
        }
        Self::with(&calls, conditions)
    }

    fn with(more: &[libc::c_long], conditions: Vec<SyscallRule>) -> Self {
        let listed = table::ALWAYS.iter().copied().chain([table::LEGACY]);
        let mut rules = vec![SyscallAction::Deny; table::NEWEST as usize + 1];
        for call in listed.flatten().chain(more) {
            rules[*call as usize] = SyscallAction::Allow;
        }
        rules[libc::SYS_clone3 as usize] = SyscallAction::NotImplemented;
        for (call, alternatives) in conditions {
            rules[call as usize] = SyscallAction::AllowedIf(alternatives);
        }
        Self(compile(&rules))
    }

    /// Returns a filter that allows these calls with any arguments, and refuses all others.
    pub(crate) fn only(calls: &[libc::c_long]) -> Self {
        let mut rules = vec![SyscallAction::Deny; table::NEWEST as usize + 1];
        for call in calls {
            rules[*call as usize] = SyscallAction::Allow;
        }
        Self(compile(&rules))
    }

    /// Returns the filter of a process that only communicates and computes: as for a command,
    /// without calls that create processes, execute, access other processes or accept connections.
    /// It may create threads.
    pub(crate) fn of_services() -> Self {
        Self::for_helpers(table::NOT_FOR_SERVICES, &[], conditions().into())
    }

    /// Returns the filter of the broker, which performs an agent's root operations. It is that of a
    /// command, without calls that execute, create processes or accept connections, but with
    /// mounts, quotas, eBPF programs of cgroups, connection tracking, and network namespaces.
    pub(crate) fn of_brokers() -> Self {
        let is = |argument, value: i32| ArgumentTest {
            argument,
            comparison: ArgumentComparison::Is(value as u32),
        };
        // It also needs internet sockets: it binds one to check whether a port of the host is free.
        let mut conditions = Vec::from(conditions());
        // It deletes entries of connection tracking there.
        let netfilter = vec![is(0, libc::AF_NETLINK), is(2, libc::NETLINK_NETFILTER)];
        for (call, alternatives) in &mut conditions {
            if *call == libc::SYS_socket {
                alternatives.push(netfilter.clone());
            }
        }
        // No namespaces other than network namespaces are created or entered.
        conditions.push((libc::SYS_unshare, vec![vec![is(0, libc::CLONE_NEWNET)]]));
        conditions.push((libc::SYS_setns, vec![vec![is(1, libc::CLONE_NEWNET)]]));
        Self::for_helpers(table::NOT_FOR_BROKERS, table::FOR_BROKERS, conditions)
    }

    /// Returns the filter of commands without the calls `refused` and with the calls `more`. The
    /// process may create threads, but no processes.
    fn for_helpers(
        refused: &[&[libc::c_long]],
        more: &[libc::c_long],
        conditions: Vec<SyscallRule>,
    ) -> Self {
        let listed = table::ALWAYS.iter().copied().chain([table::LEGACY, more]);
        let mut rules = vec![SyscallAction::Deny; table::NEWEST as usize + 1];
        for call in listed.flatten() {
            rules[*call as usize] = SyscallAction::Allow;
        }
        rules[libc::SYS_clone3 as usize] = SyscallAction::NotImplemented;
        for (call, alternatives) in conditions {
            rules[call as usize] = SyscallAction::AllowedIf(alternatives);
        }
        let is_thread = ArgumentTest {
            argument: 0,
            comparison: ArgumentComparison::HasSome(libc::CLONE_THREAD as u32),
        };
        rules[libc::SYS_clone as usize] = SyscallAction::AllowedIf(vec![vec![is_thread]]);
        for call in refused.iter().copied().flatten() {
            rules[*call as usize] = SyscallAction::Deny;
        }
        Self(compile(&rules))
    }

    /// Installs the filter permanently for this thread and its descendants. The thread must have
    /// set `no_new_privs`.
    pub(crate) fn install(&self) -> Result<(), Errno> {
        sys::filter_system_calls(&self.0)
    }
}

/// Calls that depend on their arguments: allowed when all tests of one alternative hold.
fn conditions() -> [SyscallRule; 5] {
    let is = |argument, value: i32| ArgumentTest {
        argument,
        comparison: ArgumentComparison::Is(value as u32),
    };
    let families = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6];
    let mut sockets: Vec<_> = families.map(|family| vec![is(0, family)]).into();
    // Programs look up interfaces and addresses there; everything else of netlink is for
    // administrators.
    sockets.push(vec![is(0, libc::AF_NETLINK), is(2, libc::NETLINK_ROUTE)]);
    let no_namespace = ArgumentTest {
        argument: 0,
        comparison: ArgumentComparison::HasNone(NAMESPACE_FLAGS),
    };
    let no_typing = [TIOCSTI, TIOCLINUX].map(|request| ArgumentTest {
        argument: 1,
        comparison: ArgumentComparison::IsNot(request),
    });
    let personalities = PERSONALITIES.map(|personality| vec![is(0, personality as i32)]);
    [
        (libc::SYS_clone, vec![vec![no_namespace]]),
        (libc::SYS_ioctl, vec![no_typing.to_vec()]),
        (libc::SYS_personality, personalities.into()),
        (libc::SYS_socket, sockets),
        // The kernel creates both sockets, and loads the module of their family, before it checks
        // whether the family has pairs.
        (libc::SYS_socketpair, vec![vec![is(0, libc::AF_UNIX)]]),
    ]
}
