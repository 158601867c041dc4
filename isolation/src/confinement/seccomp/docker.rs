//! The comparison with Docker's default profile in `docs/isolation.md` follows the table.

use super::program::tests::{ALLOW, EPERM, evaluate};
use super::table;

/// The page names every call on which the default profiles of Argosy and Docker differ. Both
/// columns follow the table.
#[test]
fn the_page_lists_calls_that_only_docker_allows() {
    let page = include_str!("../../../../docs/isolation.md");
    let section = page.split("### Compared with Docker").nth(1).unwrap();
    let section = section.split("\n## ").next().unwrap();
    // Columns: call, Docker, Argosy, reason.
    let named = |action: &str| -> Vec<&str> {
        let rows = section
            .lines()
            .map(|line| line.split('|').collect::<Vec<_>>())
            .filter(|cells| cells.get(3).is_some_and(|cell| cell.trim() == action));
        let calls = rows.flat_map(|cells| cells[1].split('`').skip(1).step_by(2));
        let mut calls: Vec<_> = calls.collect();
        calls.sort_unstable();
        calls
    };
    let refused = [
        ("adjtimex", libc::SYS_adjtimex),
        ("clock_adjtime", libc::SYS_clock_adjtime),
        ("epoll_ctl_old", libc::SYS_epoll_ctl_old),
        ("epoll_wait_old", libc::SYS_epoll_wait_old),
        ("fanotify_mark", libc::SYS_fanotify_mark),
        ("get_thread_area", libc::SYS_get_thread_area),
        ("io_uring_enter", libc::SYS_io_uring_enter),
        ("io_uring_register", libc::SYS_io_uring_register),
        ("io_uring_setup", libc::SYS_io_uring_setup),
        ("memfd_secret", libc::SYS_memfd_secret),
        ("modify_ldt", libc::SYS_modify_ldt),
        ("name_to_handle_at", libc::SYS_name_to_handle_at),
        ("process_mrelease", libc::SYS_process_mrelease),
        ("process_vm_readv", libc::SYS_process_vm_readv),
        ("process_vm_writev", libc::SYS_process_vm_writev),
        ("set_thread_area", libc::SYS_set_thread_area),
        ("vmsplice", libc::SYS_vmsplice),
    ];
    assert_eq!(named("refused"), refused.map(|(name, _)| name));
    for (name, call) in refused {
        assert_eq!(evaluate(call, [0; 6]), EPERM, "{name}");
    }
    let only_here = [
        ("fchmodat2", 452),
        ("get_mempolicy", libc::SYS_get_mempolicy),
        ("mseal", libc::SYS_mseal),
    ];
    assert_eq!(named("allowed"), only_here.map(|(name, _)| name));
    for (name, call) in only_here {
        assert_eq!(evaluate(call, [0; 6]), ALLOW, "{name}");
    }
    let listed = table::ALWAYS.iter().chain([&table::LEGACY]);
    let always: usize = listed.map(|calls| calls.len()).sum();
    let sum = format!("{always} calls with any arguments");
    assert!(section.contains(&sum), "{sum}");
}
