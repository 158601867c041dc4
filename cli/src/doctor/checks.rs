//! The checks of `doctor`, one function each. Those that evaluate text are pure.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use argosy_isolation::{Isolation, cgroup, detect};
use argosy_network::Subnet;
use nix::sys::resource::{Resource, getrlimit};

use super::disk::{self, SyncLatency};
use super::{CheckStatus, Finding};
use crate::exit::chain;
use crate::parsers::{AGENT_PORT, API_PORT, RAFT_PORT};
use crate::{launcher, listen};

/// The oldest supported kernel, the first with `cgroup.kill`.
const KERNEL: (u32, u32) = (5, 14);
/// Controllers without which an agent starts only with `--allow-missing-controllers`.
const REQUIRED_CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];
/// Controllers that only tasks with these requests need.
const OPTIONAL_CONTROLLERS: [(&str, &str); 2] = [
    ("cpuset", "exclusive processors"),
    ("io", "shares or limits of disk IO"),
];
/// Number of open files that a busy master or agent may need.
const FILES: u64 = 8_192;
/// Sync time above which every commit is slow.
pub(super) const SLOW_SYNC: Duration = Duration::from_millis(10);
/// Sync time above which a single sync can cost leadership.
const STALL: Duration = Duration::from_millis(250);
/// Free space, in bytes, below which a warning is given.
const LOW_SPACE_BYTES: u64 = 2 * 1024 * 1024 * 1024;

pub(super) fn all(directory: &Path) -> Vec<Finding> {
    let mut findings = vec![
        kernel(&read("/proc/sys/kernel/osrelease")),
        cgroups(),
        controllers(&present_controllers(), &read("/proc/cgroups")),
        namespaces(),
        networks(can_make_networks(), argosy_network::why_no_ipv6()),
        clock(&read(
            "/sys/devices/system/clocksource/clocksource0/current_clocksource",
        )),
        time_sync(),
        open_files(),
        launcher(launcher::check()),
        space(directory),
        syncs(directory),
    ];
    let ports = [
        ("port 5050, masters' api", API_PORT),
        ("port 5051, agent's api", AGENT_PORT),
        ("port 5052, raft", RAFT_PORT),
    ];
    findings.extend(ports.map(|(name, port)| free_port(name, port)));
    findings
}

fn read(path: &str) -> String {
    fs::read_to_string(path)
        .unwrap_or_default()
        .trim()
        .to_owned()
}

fn kernel(release: &str) -> Finding {
    let mut numbers = release
        .split(['.', '-'])
        .map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version >= KERNEL {
        return Finding::ok("kernel", release);
    }
    Finding::new(
        "kernel",
        CheckStatus::Failed,
        format!("{release} is older than {}.{}", KERNEL.0, KERNEL.1),
        "install a newer kernel: containers are ended with cgroup.kill",
    )
}

fn launcher(found: Result<(), String>) -> Finding {
    match found {
        Ok(()) => Finding::ok("launcher", "argosy-launcher, next to this program"),
        Err(why) => Finding::new(
            "launcher",
            CheckStatus::Warning,
            format!("no argosy-launcher: {why}"),
            "install the one of this release next to this program, or containers cost more to start",
        ),
    }
}

fn cgroups() -> Finding {
    match cgroup::mount_point() {
        Ok(path) => Finding::ok("cgroup2", format!("mounted at {}", path.display())),
        Err(error) => Finding::new(
            "cgroup2",
            CheckStatus::Failed,
            error.to_string(),
            "boot with systemd.unified_cgroup_hierarchy=1, or mount -t cgroup2 none /sys/fs/cgroup",
        ),
    }
}

fn present_controllers() -> Vec<String> {
    let parent = cgroup::default_parent().ok();
    let text = parent.and_then(|parent| fs::read_to_string(parent.join("cgroup.controllers")).ok());
    text.unwrap_or_default()
        .split_ascii_whitespace()
        .map(str::to_owned)
        .collect()
}

/// `legacy` is `/proc/cgroups`. A controller with a hierarchy number there belongs to cgroup
/// version 1.
fn controllers(present: &[String], legacy: &str) -> Finding {
    let is_missing = |name: &str| !present.iter().any(|one| one == name);
    let missing: Vec<_> = REQUIRED_CONTROLLERS
        .into_iter()
        .filter(|name| is_missing(name))
        .collect();
    if missing.is_empty() {
        let mut found = REQUIRED_CONTROLLERS.join(", ");
        for (name, request) in OPTIONAL_CONTROLLERS {
            found.push_str(&match is_missing(name) {
                true => format!("; without {name} (optional), tasks cannot have {request}"),
                false => format!(", {name}"),
            });
        }
        return Finding::ok("controllers", found);
    }
    let in_version_1 = legacy.lines().any(|line| {
        let mut words = line.split_ascii_whitespace();
        let name = words.next().unwrap_or_default();
        let hierarchy = words.next().unwrap_or("0");
        hierarchy != "0" && missing.contains(&name)
    });
    let why = if in_version_1 {
        "belong to cgroup v1 here"
    } else {
        "are not delegated to this user"
    };
    let fix = if in_version_1 {
        "boot with systemd.unified_cgroup_hierarchy=1; until then agents need --allow-missing-controllers, and those limits are off"
    } else {
        "run the agent as root or with Delegate=yes in its unit; else --allow-missing-controllers, and those limits are off"
    };
    Finding::new(
        "controllers",
        CheckStatus::Warning,
        format!("{} {why}", missing.join(", ")),
        fix,
    )
}

fn namespaces() -> Finding {
    let detected = detect();
    match detected.best() {
        Some(Isolation::Full) => {
            Finding::ok("isolation", "full: namespaces, cgroups and the profile")
        }
        Some(other) => Finding::new(
            "isolation",
            CheckStatus::Warning,
            format!(
                "{}; full is not possible: {}",
                other.name(),
                detected.full.err().unwrap_or_default()
            ),
            "run the agent as root for full isolation",
        ),
        None if detected.is_root => Finding::new(
            "isolation",
            CheckStatus::Failed,
            format!(
                "full is not possible, and an agent chooses no weaker mode by itself: {}",
                detected.full.err().unwrap_or_default()
            ),
            "remove this cause, or name another mode with --isolation",
        ),
        None => Finding::new(
            "isolation",
            CheckStatus::Failed,
            format!(
                "no namespaces: {}",
                detected.user_namespaces.err().unwrap_or_default()
            ),
            "run the agent as root, or allow user namespaces; --isolation processes confines nothing",
        ),
    }
}

fn can_make_networks() -> Result<(), String> {
    if detect().best() != Some(Isolation::Full) {
        return Err("they need root and full isolation".to_owned());
    }
    argosy_network::check(Subnet::DEFAULT, None).map_err(|error| chain(&error))
}

fn networks(possible: Result<(), String>, no_ipv6: Option<&str>) -> Finding {
    match possible {
        Ok(()) => Finding::ok(
            "networks",
            match no_ipv6 {
                None => "tasks have private networks".to_owned(),
                Some(why) => format!("tasks have private networks, with IPv4 only: {why}"),
            },
        ),
        Err(why) => Finding::new(
            "networks",
            CheckStatus::Warning,
            format!("tasks cannot have private networks: {why}"),
            "remove the cause, or start the agent with --allow-host-network: then tasks use the host's",
        ),
    }
}

fn clock(source: &str) -> Finding {
    match source {
        "" => Finding::new(
            "clock",
            CheckStatus::Warning,
            "the clock source is unknown",
            "mount /sys",
        ),
        "tsc" | "kvm-clock" | "arch_sys_counter" | "hyperv_clocksource_tsc_page" | "xen" => {
            Finding::ok("clock", format!("source {source}"))
        }
        slow => Finding::new(
            "clock",
            CheckStatus::Warning,
            format!("source {slow} takes microseconds per reading"),
            "use a machine with a stable tsc, or boot with clocksource=tsc",
        ),
    }
}

/// Deadlines never use wall time, so clock skew affects only displayed times.
fn time_sync() -> Finding {
    let signs = [
        "/run/systemd/timesync/synchronized",
        "/run/chrony/chronyd.pid",
        "/run/ntpd.pid",
    ];
    match signs.iter().find(|path| Path::new(path).exists()) {
        Some(_) => Finding::ok("time", "synchronised with other hosts"),
        None => Finding::new(
            "time",
            CheckStatus::Warning,
            "no time synchronisation was found; times in logs of several hosts will not match",
            "install chrony or enable systemd-timesyncd",
        ),
    }
}

fn open_files() -> Finding {
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, _)) if soft >= FILES => Finding::ok("open files", format!("limit {soft}")),
        Ok((soft, hard)) => Finding::new(
            "open files",
            CheckStatus::Warning,
            format!("limit {soft} (may be raised to {hard})"),
            "ulimit -n 65536, or LimitNOFILE=65536 in the unit",
        ),
        Err(errno) => Finding::new("open files", CheckStatus::Warning, errno.desc(), ""),
    }
}

fn space(directory: &Path) -> Finding {
    let name = directory.display();
    match nix::sys::statvfs::statvfs(directory) {
        Ok(found) => {
            let free = found
                .blocks_available()
                .saturating_mul(found.fragment_size());
            let text = format!("{} free in {name}", crate::output::bytes(free));
            if free >= LOW_SPACE_BYTES {
                Finding::ok("disk space", text)
            } else {
                Finding::new(
                    "disk space",
                    CheckStatus::Warning,
                    text,
                    "free some, or use another disk with --data-dir",
                )
            }
        }
        Err(errno) => Finding::new(
            "disk space",
            CheckStatus::Failed,
            format!("{name}: {}", errno.desc()),
            "create the directory",
        ),
    }
}

fn syncs(directory: &Path) -> Finding {
    match disk::measure(directory) {
        Ok(syncs) => check_syncs(syncs, directory),
        Err(error) => Finding::new(
            "disk sync",
            CheckStatus::Failed,
            format!("cannot write in {}: {error}", directory.display()),
            "make the directory writable, or name another with --data-dir",
        ),
    }
}

fn check_syncs(syncs: SyncLatency, directory: &Path) -> Finding {
    let ms = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1_000.0);
    let found = format!(
        "median {}, slowest {} in {}",
        ms(syncs.median),
        ms(syncs.slowest),
        directory.display()
    );
    if syncs.slowest >= STALL {
        let fix = "use a dedicated disk for masters: a stall like this can cost leadership";
        return Finding::new("disk sync", CheckStatus::Warning, found, fix);
    }
    if syncs.median >= SLOW_SYNC {
        let fix = "use a faster disk for masters: every commit waits for two of these";
        return Finding::new("disk sync", CheckStatus::Warning, found, fix);
    }
    Finding::ok("disk sync", found)
}

fn free_port(check: &'static str, port: u16) -> Finding {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    if listen::is_free(&address.to_string(), "--listen").is_ok() {
        return Finding::ok(check, "free");
    }
    let owner = listen::owner(address)
        .map_or_else(|| "another process".to_owned(), |owner| owner.to_string());
    Finding::new(
        check,
        CheckStatus::Warning,
        format!("taken by {owner}"),
        "fine if that is argosy; else stop it or choose another port with --listen",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_kernel_fails() {
        assert_eq!(kernel("6.1.0-28-amd64").status, CheckStatus::Ok);
        assert_eq!(kernel("5.14.0").status, CheckStatus::Ok);
        assert_eq!(kernel("5.10.0-33-amd64").status, CheckStatus::Failed);
        assert_eq!(kernel("").status, CheckStatus::Failed);
    }

    #[test]
    fn controllers_bound_to_version_1_are_named() {
        let legacy =
            "#subsys_name hierarchy num_cgroups enabled\ncpu 3 5 1\nmemory 4 9 1\nio 5 1 1\n";
        let finding = controllers(&["pids".to_owned()], legacy);
        assert_eq!(finding.status, CheckStatus::Warning);
        assert_eq!(finding.found, "cpu, memory belong to cgroup v1 here");
        assert!(finding.fix.contains("--allow-missing-controllers"));
    }

    #[test]
    fn controllers_that_agents_require_pass_without_the_optional_ones() {
        let mut present = REQUIRED_CONTROLLERS.map(str::to_owned).to_vec();
        let finding = controllers(&present, "");
        assert_eq!(finding.status, CheckStatus::Ok);
        for lost in ["exclusive processors", "disk IO"] {
            assert!(finding.found.contains(lost), "{finding:?}");
        }
        present.extend(OPTIONAL_CONTROLLERS.map(|(name, _)| name.to_owned()));
        let finding = controllers(&present, "");
        assert_eq!(finding.status, CheckStatus::Ok);
        assert_eq!(finding.found, "cpu, memory, pids, cpuset, io");
    }

    #[test]
    fn a_slow_disk_is_reported_with_its_effect() {
        let syncs = |median, slowest| SyncLatency {
            median: Duration::from_millis(median),
            slowest: Duration::from_millis(slowest),
        };
        let check = |syncs| check_syncs(syncs, Path::new("/data"));
        assert_eq!(check(syncs(1, 9)).status, CheckStatus::Ok);
        assert!(check(syncs(12, 30)).fix.contains("faster disk"));
        assert!(check(syncs(1, 400)).fix.contains("leadership"));
    }

    #[test]
    fn a_host_without_networks_is_reported_with_the_remedy() {
        let finding = networks(Err("no nft".to_owned()), None);
        assert_eq!(finding.status, CheckStatus::Warning);
        assert!(finding.fix.contains("--allow-host-network"));
        for no_ipv6 in [None, Some("it is switched off")] {
            assert_eq!(networks(Ok(()), no_ipv6).status, CheckStatus::Ok);
        }
    }

    #[test]
    fn every_failed_check_has_a_fix() {
        let directory = tempfile::tempdir().unwrap();
        for finding in all(directory.path()) {
            assert!(
                finding.status == CheckStatus::Ok || !finding.fix.is_empty(),
                "{finding:?}"
            );
        }
    }
}
