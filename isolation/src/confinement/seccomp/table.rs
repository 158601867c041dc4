//! The system calls that a command may make, by purpose.
//!
//! This is an allow-list: every other call is refused. These are deliberately left out, each
//! because it was used in a container escape: io_uring, bpf, perf, userfaultfd, the key store,
//! kexec, modules, all of mounting. Also namespaces, file handles, other processes' memory, quota,
//! accounting, swap, reboot, clocks, vmsplice, 16-bit code. `docs/isolation.md` compares it with
//! Docker's default profile, call by call.

use libc::c_long;

/// A number of all architectures that the libc crate does not define on each.
const FCHMODAT2: c_long = 452;
/// Likewise.
const QUOTACTL_FD: c_long = 443;
/// Not defined by the libc crate, and older than the common numbers of all architectures.
const IO_PGETEVENTS: c_long = if cfg!(target_arch = "x86_64") {
    333
} else {
    292
};

/// Allowed with any arguments, on every architecture.
pub(super) const ALWAYS: &[&[c_long]] = &[
    FILES,
    DIRECTORIES,
    DESCRIPTORS,
    MEMORY,
    PROCESSES,
    IDENTITY,
    SIGNALS,
    TIME,
    SOCKETS,
    MESSAGES,
    SYSTEM,
];

const FILES: &[c_long] = &[
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_copy_file_range,
    libc::SYS_fadvise64,
    libc::SYS_fallocate,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_lseek,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_preadv2,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_read,
    libc::SYS_readahead,
    libc::SYS_readv,
    libc::SYS_sendfile,
    libc::SYS_splice,
    libc::SYS_sync,
    libc::SYS_sync_file_range,
    libc::SYS_syncfs,
    libc::SYS_tee,
    libc::SYS_truncate,
    libc::SYS_write,
    libc::SYS_writev,
];

const DIRECTORIES: &[c_long] = &[
    libc::SYS_chdir,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fchdir,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    FCHMODAT2,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_fgetxattr,
    libc::SYS_flistxattr,
    libc::SYS_fremovexattr,
    libc::SYS_fsetxattr,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_getxattr,
    libc::SYS_inotify_add_watch,
    libc::SYS_inotify_init1,
    libc::SYS_inotify_rm_watch,
    libc::SYS_lgetxattr,
    libc::SYS_linkat,
    libc::SYS_listxattr,
    libc::SYS_llistxattr,
    libc::SYS_lremovexattr,
    libc::SYS_lsetxattr,
    libc::SYS_mkdirat,
    libc::SYS_mknodat,
    libc::SYS_newfstatat,
    libc::SYS_readlinkat,
    libc::SYS_removexattr,
    // On aarch64 as well, where the C libraries implement `rename` with it.
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_setxattr,
    libc::SYS_statfs,
    libc::SYS_statx,
    libc::SYS_symlinkat,
    libc::SYS_umask,
    libc::SYS_unlinkat,
    libc::SYS_utimensat,
];

const DESCRIPTORS: &[c_long] = &[
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_fcntl,
    libc::SYS_memfd_create,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_send_signal,
    libc::SYS_pipe2,
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    libc::SYS_signalfd4,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_gettime,
    libc::SYS_timerfd_settime,
];

const MEMORY: &[c_long] = &[
    libc::SYS_brk,
    libc::SYS_get_mempolicy,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_mincore,
    libc::SYS_mlock,
    libc::SYS_mlock2,
    libc::SYS_mlockall,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_msync,
    libc::SYS_munlock,
    libc::SYS_munlockall,
    libc::SYS_mseal,
    libc::SYS_munmap,
    libc::SYS_pkey_alloc,
    libc::SYS_pkey_free,
    libc::SYS_pkey_mprotect,
    libc::SYS_remap_file_pages,
    libc::SYS_shmat,
    libc::SYS_shmctl,
    libc::SYS_shmdt,
    libc::SYS_shmget,
];

const PROCESSES: &[c_long] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_futex_waitv,
    libc::SYS_get_robust_list,
    libc::SYS_getcpu,
    libc::SYS_getpriority,
    libc::SYS_getrlimit,
    libc::SYS_getrusage,
    libc::SYS_ioprio_get,
    libc::SYS_ioprio_set,
    libc::SYS_kill,
    libc::SYS_landlock_add_rule,
    libc::SYS_landlock_create_ruleset,
    libc::SYS_landlock_restrict_self,
    libc::SYS_prctl,
    libc::SYS_prlimit64,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_sched_get_priority_max,
    libc::SYS_sched_get_priority_min,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_getattr,
    libc::SYS_sched_getparam,
    libc::SYS_sched_getscheduler,
    libc::SYS_sched_rr_get_interval,
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_setattr,
    libc::SYS_sched_setparam,
    libc::SYS_sched_setscheduler,
    libc::SYS_sched_yield,
    libc::SYS_seccomp,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_setpriority,
    libc::SYS_setrlimit,
    libc::SYS_tgkill,
    libc::SYS_tkill,
    libc::SYS_wait4,
    libc::SYS_waitid,
];

const IDENTITY: &[c_long] = &[
    libc::SYS_capget,
    libc::SYS_capset,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getgroups,
    libc::SYS_getpgid,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getresgid,
    libc::SYS_getresuid,
    libc::SYS_getsid,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_setfsgid,
    libc::SYS_setfsuid,
    libc::SYS_setgid,
    libc::SYS_setgroups,
    libc::SYS_setpgid,
    libc::SYS_setregid,
    libc::SYS_setresgid,
    libc::SYS_setresuid,
    libc::SYS_setreuid,
    libc::SYS_setsid,
    libc::SYS_setuid,
];

const SIGNALS: &[c_long] = &[
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigpending,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigsuspend,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_sigaltstack,
];

const TIME: &[c_long] = &[
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_getitimer,
    libc::SYS_gettimeofday,
    libc::SYS_nanosleep,
    libc::SYS_setitimer,
    libc::SYS_timer_create,
    libc::SYS_timer_delete,
    libc::SYS_timer_getoverrun,
    libc::SYS_timer_gettime,
    libc::SYS_timer_settime,
    libc::SYS_times,
];

const SOCKETS: &[c_long] = &[
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_listen,
    libc::SYS_recvfrom,
    libc::SYS_recvmmsg,
    libc::SYS_recvmsg,
    libc::SYS_sendmmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
];

const MESSAGES: &[c_long] = &[
    libc::SYS_mq_getsetattr,
    libc::SYS_mq_notify,
    libc::SYS_mq_open,
    libc::SYS_mq_timedreceive,
    libc::SYS_mq_timedsend,
    libc::SYS_mq_unlink,
    libc::SYS_msgctl,
    libc::SYS_msgget,
    libc::SYS_msgrcv,
    libc::SYS_msgsnd,
    libc::SYS_semctl,
    libc::SYS_semget,
    libc::SYS_semop,
    libc::SYS_semtimedop,
];

const SYSTEM: &[c_long] = &[
    libc::SYS_getrandom,
    libc::SYS_io_cancel,
    libc::SYS_io_destroy,
    libc::SYS_io_getevents,
    IO_PGETEVENTS,
    libc::SYS_io_setup,
    libc::SYS_io_submit,
    libc::SYS_ptrace,
    libc::SYS_sysinfo,
    libc::SYS_uname,
];

/// Calls that only older architectures have.
#[cfg(target_arch = "x86_64")]
pub(super) const LEGACY: &[c_long] = &[
    libc::SYS_access,
    libc::SYS_alarm,
    libc::SYS_arch_prctl,
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_creat,
    libc::SYS_dup2,
    libc::SYS_epoll_create,
    libc::SYS_epoll_wait,
    libc::SYS_eventfd,
    libc::SYS_fork,
    libc::SYS_futimesat,
    libc::SYS_getdents,
    libc::SYS_getpgrp,
    libc::SYS_inotify_init,
    libc::SYS_lchown,
    libc::SYS_link,
    libc::SYS_lstat,
    libc::SYS_mkdir,
    libc::SYS_mknod,
    libc::SYS_open,
    libc::SYS_pause,
    libc::SYS_pipe,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_rename,
    libc::SYS_rmdir,
    libc::SYS_select,
    libc::SYS_signalfd,
    libc::SYS_stat,
    libc::SYS_symlink,
    libc::SYS_time,
    libc::SYS_unlink,
    libc::SYS_utime,
    libc::SYS_utimes,
    libc::SYS_vfork,
];
#[cfg(not(target_arch = "x86_64"))]
pub(super) const LEGACY: &[c_long] = &[];

/// Calls that a command may make and a service may not: see [`super::SeccompFilter::of_services`].
pub(super) const NOT_FOR_SERVICES: &[&[c_long]] = &[
    &[
        libc::SYS_accept,
        libc::SYS_accept4,
        libc::SYS_capset,
        libc::SYS_execve,
        libc::SYS_execveat,
        libc::SYS_kill,
        libc::SYS_listen,
        libc::SYS_pidfd_open,
        libc::SYS_pidfd_send_signal,
        libc::SYS_ptrace,
        libc::SYS_rt_sigqueueinfo,
        libc::SYS_rt_tgsigqueueinfo,
        libc::SYS_shmat,
        libc::SYS_shmctl,
        libc::SYS_shmget,
        libc::SYS_tkill,
    ],
    MESSAGES,
    MAKES_PROCESSES,
];

/// Calls that a broker may make and a command may not: see [`super::SeccompFilter::of_brokers`].
pub(super) const FOR_BROKERS: &[c_long] = &[
    // An eBPF program of their cgroup closes ports to tasks.
    libc::SYS_bpf,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_quotactl,
    QUOTACTL_FD,
    libc::SYS_umount2,
];

/// Calls that a command may make and an agent's broker may not. Another process executes its
/// programs.
pub(super) const NOT_FOR_BROKERS: &[&[c_long]] = &[
    &[
        libc::SYS_accept,
        libc::SYS_accept4,
        libc::SYS_capset,
        libc::SYS_execve,
        libc::SYS_execveat,
        libc::SYS_ptrace,
        libc::SYS_rt_sigqueueinfo,
        libc::SYS_shmat,
        libc::SYS_shmctl,
        libc::SYS_shmget,
    ],
    MESSAGES,
    MAKES_PROCESSES,
];

#[cfg(target_arch = "x86_64")]
const MAKES_PROCESSES: &[c_long] = &[libc::SYS_fork, libc::SYS_vfork];
#[cfg(not(target_arch = "x86_64"))]
const MAKES_PROCESSES: &[c_long] = &[];

/// The newest call of this list. Libraries fall back, since later ones do not exist for a command.
pub(super) const NEWEST: c_long = libc::SYS_mseal;

/// On arm64 only, under an emulator: see `scripts/test-arm64`.
#[cfg(all(test, target_arch = "aarch64"))]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// The macros of `asm/unistd.h` for arm64.
    const HEADERS: &str = include_str!(env!("ARGOSY_ARM64_CALLS"));

    fn of_headers() -> BTreeMap<&'static str, c_long> {
        let lines = HEADERS.lines().map(|line| line.split_whitespace());
        let defined: BTreeMap<_, _> = lines
            .filter_map(|mut words| Some((words.nth(1)?, words.next()?)))
            .collect();
        // Some macros refer to other names for 32-bit and 64-bit machines.
        let number = |value: &&str| defined.get(value).unwrap_or(value).parse().ok();
        let numbers = defined.iter().map(|(name, value)| (*name, number(value)));
        numbers
            .filter_map(|(name, number)| Some((name.strip_prefix("__NR_")?, number?)))
            .collect()
    }

    /// Returns the names in a list of the source, in order.
    fn named(list: &str) -> Vec<&'static str> {
        let source = include_str!("table.rs");
        let begin = format!("const {list}: &[c_long] = &[\n");
        let rest = source.split(&begin).nth(1).expect(list);
        let lines = rest.split("];").next().unwrap().lines();
        let names = lines.filter_map(|line| line.trim().strip_suffix(','));
        names
            .map(|name| name.trim_start_matches("libc::SYS_"))
            .collect()
    }

    #[test]
    fn the_table_has_the_numbers_of_the_kernels_headers() {
        let headers = of_headers();
        assert!(headers.len() > 300, "{}", headers.len());
        assert_eq!(headers["openat"], 56);
        let lists = [
            ("FILES", FILES),
            ("DIRECTORIES", DIRECTORIES),
            ("DESCRIPTORS", DESCRIPTORS),
            ("MEMORY", MEMORY),
            ("PROCESSES", PROCESSES),
            ("IDENTITY", IDENTITY),
            ("SIGNALS", SIGNALS),
            ("TIME", TIME),
            ("SOCKETS", SOCKETS),
            ("MESSAGES", MESSAGES),
            ("SYSTEM", SYSTEM),
            ("FOR_BROKERS", FOR_BROKERS),
        ];
        assert_eq!(lists.len(), ALWAYS.len() + 1);
        let mut compared = 0;
        for (list, numbers) in lists {
            let names = named(list);
            assert_eq!(names.len(), numbers.len(), "{list}: {names:?}");
            for (name, number) in names.into_iter().zip(numbers) {
                let known = match name {
                    // Since Linux 5.1 new calls have one number on all architectures.
                    "FCHMODAT2" => 452,
                    "mseal" => 462,
                    "QUOTACTL_FD" => headers["quotactl_fd"],
                    "IO_PGETEVENTS" => headers["io_pgetevents"],
                    name => *headers
                        .get(name)
                        .unwrap_or_else(|| panic!("the headers have no {name:?} of {list}")),
                };
                assert_eq!(*number, known, "{name}");
                compared += 1;
            }
        }
        assert!(compared > 200, "{compared}");
        assert!(LEGACY.is_empty() && MAKES_PROCESSES.is_empty());
    }
}
