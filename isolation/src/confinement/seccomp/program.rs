//! Compiles an action for each system call into a program of the kernel's packet filter (classic
//! BPF).

use libc::sock_filter;

use super::{ArgumentComparison, ArgumentTest};

/// The action on a call.
#[derive(Debug, Clone)]
pub(super) enum SyscallAction {
    Allow,
    /// EPERM.
    Deny,
    /// ENOSYS.
    NotImplemented,
    /// Allowed if all tests of one of these alternatives hold, else refused.
    AllowedIf(Vec<Vec<ArgumentTest>>),
}

// From linux/audit.h: the machine's number, 64 bits, little endian.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!(
    "name this architecture, as linux/audit.h does, and look through the table of system calls"
);

/// Numbers from here on are calls of the x32 table of x86-64.
const X32: u32 = 0x4000_0000;

// Offsets of the fields in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGUMENTS: u32 = 16;

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
const JUMP: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
const IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const IF_AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const IF_ANY_BIT: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;

/// The maximum offset of a conditional jump.
const MAX_JUMP: usize = u8::MAX as usize;

fn instruction(code: u16, k: u32) -> sock_filter {
    sock_filter {
        code,
        jt: 0,
        jf: 0,
        k,
    }
}

fn return_action(action: u32) -> sock_filter {
    instruction(RETURN, action)
}

fn deny() -> sock_filter {
    return_action(libc::SECCOMP_RET_ERRNO | libc::EPERM as u32)
}

fn not_implemented() -> sock_filter {
    return_action(libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32)
}

fn allow() -> sock_filter {
    return_action(libc::SECCOMP_RET_ALLOW)
}

/// Compiles the program; `rules` has an action for each number from 0 on. Later numbers are absent.
pub(super) fn compile(rules: &[SyscallAction]) -> Vec<sock_filter> {
    let ours = sock_filter {
        jt: 1,
        ..instruction(IF_EQUAL, ARCHITECTURE)
    };
    let mut program = vec![
        instruction(LOAD, ARCH),
        ours,
        return_action(libc::SECCOMP_RET_KILL_PROCESS),
        instruction(LOAD, NUMBER),
    ];
    // Adjacent numbers with the same action are one leaf.
    let mut leaves: Vec<(u32, Vec<sock_filter>)> = Vec::new();
    for (number, action) in (0..).zip(rules) {
        let code = leaf(action);
        let is_same = leaves
            .last()
            .is_some_and(|(_, last)| code.len() == 1 && last.len() == 1 && last[0].k == code[0].k);
        if !is_same {
            leaves.push((number, code));
        }
    }
    leaves.push((rules.len() as u32, vec![not_implemented()]));
    leaves.push((X32, vec![deny()]));
    program.extend(tree(&leaves));
    program
}

/// Finds the leaf of a number: the last one that does not start after it.
fn tree(leaves: &[(u32, Vec<sock_filter>)]) -> Vec<sock_filter> {
    if let [(_, code)] = leaves {
        return code.clone();
    }
    let (left, right) = leaves.split_at(leaves.len() / 2);
    let (below, above) = (tree(left), tree(right));
    let first = right[0].0;
    let mut code = Vec::with_capacity(below.len() + above.len() + 2);
    if below.len() <= MAX_JUMP {
        code.push(sock_filter {
            jt: below.len() as u8,
            ..instruction(IF_AT_LEAST, first)
        });
    } else {
        code.push(sock_filter {
            jf: 1,
            ..instruction(IF_AT_LEAST, first)
        });
        code.push(instruction(JUMP, below.len() as u32));
    }
    code.extend(below);
    code.extend(above);
    code
}

fn leaf(action: &SyscallAction) -> Vec<sock_filter> {
    match action {
        SyscallAction::Allow => vec![allow()],
        SyscallAction::Deny => vec![deny()],
        SyscallAction::NotImplemented => vec![not_implemented()],
        SyscallAction::AllowedIf(alternatives) => {
            let mut code: Vec<_> = alternatives
                .iter()
                .flat_map(|tests| alternative(tests))
                .collect();
            code.push(deny());
            code
        }
    }
}

/// Two instructions per test, then the permission; a failed test jumps past the end.
fn alternative(tests: &[ArgumentTest]) -> Vec<sock_filter> {
    let mut code = Vec::new();
    for (at, test) in tests.iter().enumerate() {
        // The remaining tests, and the permission.
        let rest = (2 * (tests.len() - at - 1) + 1) as u8;
        let (condition, if_true, if_false) = match test.comparison {
            ArgumentComparison::Is(value) => (instruction(IF_EQUAL, value), 0, rest),
            ArgumentComparison::IsNot(value) => (instruction(IF_EQUAL, value), rest, 0),
            ArgumentComparison::HasNone(bits) => (instruction(IF_ANY_BIT, bits), rest, 0),
            ArgumentComparison::HasSome(bits) => (instruction(IF_ANY_BIT, bits), 0, rest),
        };
        code.push(instruction(LOAD, ARGUMENTS + 8 * test.argument));
        code.push(sock_filter {
            jt: if_true,
            jf: if_false,
            ..condition
        });
    }
    code.push(allow());
    code
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::confinement::seccomp::{SeccompFilter, table};
    use crate::spec::capabilities::Capabilities;
    use crate::spec::profile::IsolationLayers;

    /// Returns the kernel's result, and the number of instructions it takes.
    fn run(
        program: &[sock_filter],
        architecture: u32,
        number: u32,
        arguments: [u32; 6],
    ) -> (u32, usize) {
        let (mut at, mut value) = (0, 0);
        for steps in 1.. {
            let step = program[at];
            at += 1;
            let jump = |taken: bool| usize::from(if taken { step.jt } else { step.jf });
            match step.code {
                LOAD => {
                    value = match step.k {
                        NUMBER => number,
                        ARCH => architecture,
                        place => arguments[((place - ARGUMENTS) / 8) as usize],
                    }
                }
                RETURN => return (step.k, steps),
                JUMP => at += step.k as usize,
                IF_EQUAL => at += jump(value == step.k),
                IF_AT_LEAST => at += jump(value >= step.k),
                IF_ANY_BIT => at += jump(value & step.k != 0),
                other => panic!("no such step: {other}"),
            }
        }
        unreachable!("a program ends")
    }

    pub(in crate::confinement::seccomp) fn evaluate(
        number: libc::c_long,
        arguments: [u32; 6],
    ) -> u32 {
        run(
            &SeccompFilter::new().0,
            ARCHITECTURE,
            number as u32,
            arguments,
        )
        .0
    }

    pub(in crate::confinement::seccomp) const EPERM: u32 =
        libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
    const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
    pub(in crate::confinement::seccomp) const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;

    #[test]
    fn every_call_gets_its_action_in_few_instructions() {
        let program = SeccompFilter::new().0;
        let conditional = [
            libc::SYS_clone,
            libc::SYS_ioctl,
            libc::SYS_personality,
            libc::SYS_socket,
            libc::SYS_socketpair,
        ];
        for number in 0..=table::NEWEST + 50 {
            let listed = table::ALWAYS
                .iter()
                .copied()
                .chain([table::LEGACY])
                .flatten();
            let expected = if listed.into_iter().any(|call| *call == number) {
                ALLOW
            } else if number > table::NEWEST || number == libc::SYS_clone3 {
                ENOSYS
            } else {
                EPERM
            };
            let (found, steps) = run(&program, ARCHITECTURE, number as u32, [0; 6]);
            if !conditional.contains(&number) {
                assert_eq!(found, expected, "{number}");
                assert!(steps < 20, "{number} takes {steps}");
            }
        }
    }

    /// The calls on files that glibc and musl make on aarch64, which has none of the legacy calls.
    #[test]
    fn calls_of_c_libraries_on_aarch64_are_listed_for_all_architectures() {
        for call in [
            libc::SYS_faccessat,
            libc::SYS_fchmodat,
            libc::SYS_fchownat,
            libc::SYS_linkat,
            libc::SYS_mkdirat,
            libc::SYS_mknodat,
            libc::SYS_newfstatat,
            libc::SYS_openat,
            libc::SYS_readlinkat,
            libc::SYS_renameat,
            libc::SYS_symlinkat,
            libc::SYS_unlinkat,
            libc::SYS_utimensat,
            libc::SYS_dup3,
            libc::SYS_epoll_create1,
            libc::SYS_epoll_pwait,
            libc::SYS_eventfd2,
            libc::SYS_inotify_init1,
            libc::SYS_pipe2,
            libc::SYS_ppoll,
            libc::SYS_pselect6,
            libc::SYS_signalfd4,
        ] {
            let is_listed = table::ALWAYS.iter().any(|calls| calls.contains(&call));
            assert!(is_listed, "{call}");
        }
    }

    #[test]
    fn a_disabled_layer_allows_only_the_calls_that_need_it() {
        let answered = |isolation_layers: IsolationLayers, number: libc::c_long, arguments| {
            let filter = SeccompFilter::new().widened(isolation_layers);
            run(&filter.0, ARCHITECTURE, number as u32, arguments).0
        };
        let keeping = |name| IsolationLayers {
            capabilities: Capabilities::named([name]).unwrap(),
            ..IsolationLayers::ALL
        };
        let nested = IsolationLayers {
            user_namespaces: false,
            ..IsolationLayers::ALL
        };
        let packets = [libc::AF_PACKET as u32, 3, 0, 0, 0, 0];
        let users = [libc::CLONE_NEWUSER as u32, 0, 0, 0, 0, 0];
        for (isolation_layers, chroot, socket, clone) in [
            (IsolationLayers::ALL, EPERM, EPERM, EPERM),
            (keeping("CHOWN"), EPERM, EPERM, EPERM),
            (keeping("SYS_CHROOT"), ALLOW, EPERM, EPERM),
            (keeping("NET_RAW"), EPERM, ALLOW, EPERM),
            (nested, ALLOW, EPERM, ALLOW),
        ] {
            assert_eq!(answered(isolation_layers, libc::SYS_chroot, [0; 6]), chroot);
            assert_eq!(
                answered(isolation_layers, libc::SYS_socket, packets),
                socket
            );
            assert_eq!(answered(isolation_layers, libc::SYS_clone, users), clone);
            for call in [libc::SYS_mount, libc::SYS_bpf, libc::SYS_setns] {
                assert_eq!(answered(isolation_layers, call, [0; 6]), EPERM);
            }
        }
    }

    /// Some of the calls of a broker: without them the rest of the test would prove little.
    const FOR_BROKERS: [libc::c_long; 10] = [
        libc::SYS_bpf,
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_move_mount,
        libc::SYS_quotactl,
        libc::SYS_fchownat,
        libc::SYS_openat,
        libc::SYS_connect,
        libc::SYS_listen,
        libc::SYS_pidfd_send_signal,
    ];
    const NOT_FOR_BROKERS: [libc::c_long; 33] = [
        libc::SYS_acct,
        libc::SYS_add_key,
        libc::SYS_accept4,
        libc::SYS_capset,
        libc::SYS_chroot,
        libc::SYS_clock_settime,
        libc::SYS_delete_module,
        libc::SYS_execve,
        libc::SYS_execveat,
        libc::SYS_finit_module,
        libc::SYS_init_module,
        libc::SYS_io_uring_enter,
        libc::SYS_io_uring_register,
        libc::SYS_io_uring_setup,
        libc::SYS_kexec_file_load,
        libc::SYS_kexec_load,
        libc::SYS_keyctl,
        libc::SYS_name_to_handle_at,
        libc::SYS_open_by_handle_at,
        libc::SYS_perf_event_open,
        libc::SYS_pidfd_getfd,
        libc::SYS_pivot_root,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_ptrace,
        libc::SYS_reboot,
        libc::SYS_request_key,
        libc::SYS_settimeofday,
        libc::SYS_swapoff,
        libc::SYS_swapon,
        libc::SYS_syslog,
        libc::SYS_userfaultfd,
        libc::SYS_vmsplice,
    ];

    fn evaluate_broker(number: libc::c_long, arguments: &[(usize, i32)]) -> u32 {
        let mut all = [0; 6];
        for (at, value) in arguments {
            all[*at] = *value as u32;
        }
        run(
            &SeccompFilter::of_brokers().0,
            ARCHITECTURE,
            number as u32,
            all,
        )
        .0
    }

    #[test]
    fn a_broker_mounts_and_neither_executes_nor_accepts_connections() {
        let answered = evaluate_broker;
        for call in FOR_BROKERS {
            assert_eq!(answered(call, &[]), ALLOW, "{call}");
        }
        for call in NOT_FOR_BROKERS {
            assert_eq!(answered(call, &[]), EPERM, "{call}");
        }
        let of_internet = [libc::AF_INET, libc::AF_INET6];
        for family in 0..64 {
            for (call, is_allowed) in [
                (libc::SYS_socket, of_internet.contains(&family)),
                (libc::SYS_socketpair, false),
            ] {
                let expected = if is_allowed || family == libc::AF_UNIX {
                    ALLOW
                } else {
                    EPERM
                };
                // The audit family of netlink.
                let arguments = [(0, family), (1, 3), (2, libc::NETLINK_AUDIT)];
                assert_eq!(answered(call, &arguments), expected, "{call} {family}");
            }
        }
        let routes = [(0, libc::AF_NETLINK), (1, 3), (2, libc::NETLINK_ROUTE)];
        assert_eq!(answered(libc::SYS_socket, &routes), ALLOW);
    }

    #[test]
    fn a_broker_creates_only_threads_and_network_namespaces() {
        let answered = evaluate_broker;
        let thread = libc::CLONE_THREAD | libc::CLONE_VM;
        assert_eq!(answered(libc::SYS_clone, &[(0, thread)]), ALLOW);
        assert_eq!(answered(libc::SYS_clone, &[(0, libc::SIGCHLD)]), EPERM);
        assert_eq!(answered(libc::SYS_clone3, &[]), ENOSYS);
        for (call, at) in [(libc::SYS_unshare, 0), (libc::SYS_setns, 1)] {
            let network = libc::CLONE_NEWNET;
            assert_eq!(answered(call, &[(at, network)]), ALLOW, "{call}");
            assert_eq!(answered(call, &[(at, 0)]), EPERM, "{call}");
            for other in [libc::CLONE_NEWUSER, libc::CLONE_NEWNS, libc::CLONE_NEWPID] {
                for flags in [other, other | network] {
                    assert_eq!(answered(call, &[(at, flags)]), EPERM, "{call} {flags}");
                }
            }
        }
    }

    #[test]
    fn only_a_broker_changes_connection_tracking() {
        let sockets = |protocol: i32| {
            let arguments = [(0, libc::AF_NETLINK), (1, 3), (2, protocol)];
            evaluate_broker(libc::SYS_socket, &arguments)
        };
        assert_eq!(sockets(libc::NETLINK_NETFILTER), ALLOW);
        assert_eq!(sockets(libc::NETLINK_ROUTE), ALLOW);
        assert_eq!(sockets(libc::NETLINK_AUDIT), EPERM);
        let of_commands = [libc::AF_NETLINK, 3, libc::NETLINK_NETFILTER, 0, 0, 0];
        let of_commands = of_commands.map(|argument| argument as u32);
        assert_eq!(evaluate(libc::SYS_socket, of_commands), EPERM);
    }

    #[test]
    fn a_foreign_architecture_is_killed_and_x32_denied() {
        let program = SeccompFilter::new().0;
        let i386 = 0x4000_0003;
        assert_eq!(
            run(&program, i386, 20, [0; 6]).0,
            libc::SECCOMP_RET_KILL_PROCESS
        );
        assert_eq!(run(&program, ARCHITECTURE, X32 + 39, [0; 6]).0, EPERM);
        assert_eq!(run(&program, ARCHITECTURE, u32::MAX, [0; 6]).0, EPERM);
    }

    #[test]
    fn arguments_are_checked() {
        let socket = |family: i32, protocol: i32| {
            evaluate(
                libc::SYS_socket,
                [family as u32, 3, protocol as u32, 0, 0, 0],
            )
        };
        for family in [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6] {
            assert_eq!(socket(family, 9), ALLOW);
        }
        assert_eq!(socket(libc::AF_NETLINK, libc::NETLINK_ROUTE), ALLOW);
        assert_eq!(socket(libc::AF_NETLINK, libc::NETLINK_AUDIT), EPERM);
        assert_eq!(socket(libc::AF_PACKET, 0), EPERM);
        let pair = |family: i32| evaluate(libc::SYS_socketpair, [family as u32, 5, 0, 0, 0, 0]);
        for family in 0..64 {
            let expected = if family == libc::AF_UNIX {
                ALLOW
            } else {
                EPERM
            };
            assert_eq!(pair(family), expected, "{family}");
        }
        let clone = |flags: i32| evaluate(libc::SYS_clone, [flags as u32, 0, 0, 0, 0, 0]);
        assert_eq!(clone(libc::CLONE_VM | libc::SIGCHLD), ALLOW);
        assert_eq!(clone(libc::CLONE_NEWUSER | libc::SIGCHLD), EPERM);
        let ioctl = |request: u32| evaluate(libc::SYS_ioctl, [0, request, 0, 0, 0, 0]);
        assert_eq!(ioctl(0x5401), ALLOW);
        assert_eq!([ioctl(0x5412), ioctl(0x541c)], [EPERM; 2]);
        let personality = |kind: u32| evaluate(libc::SYS_personality, [kind, 0, 0, 0, 0, 0]);
        assert_eq!(personality(0xffff_ffff), ALLOW);
        assert_eq!(personality(0x0004_0000), EPERM);
    }
}
