//! The audit of a host: snapshots before and after a test, and each difference by its name.
//!
//! It checks only the paths and processes of its own test, and no others. During the check the test
//! program is a subreaper: orphans of a container are reparented to it, not to process 1.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;
use std::time::{Duration, Instant};

use nix::sys::prctl::set_child_subreaper;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

/// The timeout for processes that are still exiting.
const TIMEOUT: Duration = Duration::from_secs(20);
/// The directory in which agents record the host ids of containers' users.
const IDS: &str = "/run/argosy/ids";
/// The kind of a network device in a snapshot.
const DEVICE: &str = "network device";
/// The name prefix of containers' devices.
const DEVICES: &str = "argo";

#[derive(Debug, Clone, Default)]
pub(crate) struct AuditScope {
    /// Directories of the test: everything mounted there, attached to a loop device from there, or
    /// named after them.
    pub(crate) directories: Vec<PathBuf>,
    /// Directories in which nothing may remain.
    pub(crate) emptied: Vec<PathBuf>,
    /// Cgroups: these and their descendants.
    pub(crate) groups: Vec<PathBuf>,
    /// Processes whose descriptors are counted.
    pub(crate) holders: Vec<u32>,
    /// Whether devices are counted regardless of their names: a running agent has a pool of them,
    /// with other names each time.
    pub(crate) devices_are_alike: bool,
    /// Whether the network namespace belongs to the test alone, so that all of its rules are
    /// checked.
    pub(crate) alone_in_network: bool,
}

/// A snapshot: kind, name and count of each object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostSnapshot(BTreeMap<(&'static str, String), usize>);

/// A test that checks what it leaves. It is a subreaper until it is dropped.
pub(crate) struct LeakAudit {
    scope: AuditScope,
    before: HostSnapshot,
}

impl LeakAudit {
    /// Takes the first snapshot, before the test starts.
    pub(crate) fn begin(scope: AuditScope) -> Self {
        set_child_subreaper(true).unwrap();
        let before = HostSnapshot::take(&scope);
        Self { scope, before }
    }

    /// Takes the second snapshot, after all work was undone: fails with each remaining difference,
    /// after `when`.
    pub(crate) fn expect_nothing_left(&self, when: &str) {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let differences = self.before.differences(&HostSnapshot::take(&self.scope));
            if differences.is_empty() {
                return;
            }
            let all = differences.join("\n  ");
            assert!(
                Instant::now() < deadline,
                "{when}: the host is not as it was:\n  {all}"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for LeakAudit {
    fn drop(&mut self) {
        // It only affects the next test.
        let _ = set_child_subreaper(false);
    }
}

impl HostSnapshot {
    pub(crate) fn take(scope: &AuditScope) -> Self {
        let mut picture = Self(BTreeMap::new());
        picture.processes();
        for group in &scope.groups {
            picture.groups(group);
        }
        picture.mounts(scope);
        picture.devices(scope);
        picture.rules(scope);
        for holder in &scope.holders {
            picture.descriptors(*holder);
        }
        for directory in &scope.emptied {
            picture.directory(directory);
        }
        picture.links(scope);
        picture.loop_devices(scope);
        picture
    }

    /// Describes the differences: added and removed objects.
    pub(crate) fn differences(&self, later: &Self) -> Vec<String> {
        let keys = self.0.keys().chain(later.0.keys());
        let mut keys: Vec<_> = keys.collect();
        keys.sort();
        keys.dedup();
        let count = |picture: &Self, key| picture.0.get(key).copied().unwrap_or(0);
        let changed = keys.into_iter().filter_map(|key| {
            let (before, after) = (count(self, key), count(later, key));
            let (kind, what) = key;
            // The kernel removes devices some time after their namespace: those of an earlier test
            // may be in the first snapshot.
            let is_removed_late = *kind == DEVICE && after < before;
            (before != after && !is_removed_late)
                .then(|| format!("{kind}: {what}: {before} before, {after} after"))
        });
        changed.collect()
    }

    fn found(&mut self, kind: &'static str, what: impl Into<String>) {
        *self.0.entry((kind, what.into())).or_default() += 1;
    }

    /// Adds all descendants of the test, including orphans of its containers, and their namespaces.
    fn processes(&mut self) {
        reap();
        let own = std::process::id();
        let parents: BTreeMap<u32, u32> = numbers("/proc")
            .into_iter()
            .filter_map(|pid| Some((pid, parent(pid)?)))
            .collect();
        for pid in parents.keys() {
            let mut above = *pid;
            while let Some(parent) = parents.get(&above) {
                above = *parent;
                if above == own {
                    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                    self.found("process", format!("{pid} {}", name.trim()));
                    self.namespaces(*pid);
                    break;
                }
            }
        }
    }

    fn namespaces(&mut self, pid: u32) {
        for entry in entries(format!("/proc/{pid}/ns")) {
            if let Ok(target) = fs::read_link(&entry) {
                let name = target.display().to_string();
                self.0.insert(("namespace of a process", name), 1);
            }
        }
    }

    fn groups(&mut self, group: &Path) {
        if group.is_dir() {
            self.found("control group", group.display().to_string());
            entries(group)
                .iter()
                .filter(|path| path.is_dir())
                .for_each(|path| self.groups(path));
        }
    }

    fn mounts(&mut self, scope: &AuditScope) {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        for line in mounts.lines() {
            let ours = |directory: &PathBuf| line.contains(&directory.display().to_string());
            if scope.directories.iter().any(ours) {
                self.found("mount", line);
            }
        }
    }

    /// Adds the devices of the calling thread's network namespace.
    fn devices(&mut self, scope: &AuditScope) {
        let table = fs::read_to_string("/proc/thread-self/net/dev").unwrap();
        let names = table
            .lines()
            .skip(2)
            .filter_map(|line| line.split(':').next());
        for name in names
            .map(str::trim)
            .filter(|name| name.starts_with(DEVICES))
        {
            let name = if scope.devices_are_alike { "" } else { name };
            self.found(DEVICE, name);
        }
    }

    fn rules(&mut self, scope: &AuditScope) {
        if !scope.alone_in_network {
            return;
        }
        let listed = match Command::new("nft").args(["list", "ruleset"]).output() {
            Ok(listed) => listed,
            Err(error) if error.kind() == ErrorKind::NotFound => return skip_rules(),
            Err(error) => panic!("nft cannot be executed: {error}"),
        };
        for line in String::from_utf8_lossy(&listed.stdout).lines() {
            self.found("rule", line.trim());
        }
    }

    /// Adds the targets of descriptors, without the inode numbers of pipes and sockets.
    fn descriptors(&mut self, pid: u32) {
        for entry in entries(format!("/proc/{pid}/fd")) {
            // The descriptor of the listing itself is closed by now.
            if let Ok(target) = fs::read_link(&entry) {
                let target = target.display().to_string();
                let name = target.split(":[").next().unwrap_or_default();
                self.found("descriptor", format!("of process {pid}: {name}"));
            }
        }
    }

    fn directory(&mut self, directory: &Path) {
        for path in entries(directory) {
            self.found("file", path.display().to_string());
            if path.is_dir() && !path.is_symlink() {
                self.directory(&path);
            }
        }
    }

    /// Adds the host ids that belong to containers of these directories.
    fn links(&mut self, scope: &AuditScope) {
        for link in entries(IDS) {
            let target = fs::read_link(&link).unwrap_or_default();
            if scope
                .directories
                .iter()
                .any(|directory| target.starts_with(directory))
            {
                self.found(
                    "users of the host",
                    format!("{} for {}", link.display(), target.display()),
                );
            }
        }
    }

    fn loop_devices(&mut self, scope: &AuditScope) {
        for device in entries("/sys/block") {
            let behind = fs::read_to_string(device.join("loop/backing_file")).unwrap_or_default();
            if scope
                .directories
                .iter()
                .any(|directory| Path::new(behind.trim()).starts_with(directory))
            {
                self.found(
                    "loop device",
                    format!("{} on {}", device.display(), behind.trim()),
                );
            }
        }
    }
}

/// Counts the rules as a skip, once per run: the test still checks everything else.
fn skip_rules() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| println!("\ntest audit::rules ... SKIPPED: needs the package nftables"));
}

/// Reaps orphans that have ended. The test waits for its own children before the check.
fn reap() {
    while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            return;
        }
    }
}

fn entries(directory: impl AsRef<Path>) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

fn numbers(directory: &str) -> Vec<u32> {
    let names = entries(directory);
    names
        .iter()
        .filter_map(|path| path.file_name()?.to_str()?.parse().ok())
        .collect()
}

fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(1)?
        .parse()
        .ok()
}
