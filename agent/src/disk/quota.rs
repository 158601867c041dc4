//! Disk limits enforced by the kernel, if the operator enables that.
//!
//! The state is read from the disk itself, never from a setting: an agent that was started with
//! another setting continues with the limits of an earlier one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use argosy_isolation::Isolation;
use argosy_isolation::disk::{DiskError, DiskUsage, FileSystem, project};
use argosy_proto::v1;
use argosy_state::task::{Cause, Code};

use crate::broker_client::QuotaScope;
use crate::config::DiskEnforcement;
use crate::core::ContainerName;
use crate::paths::{Paths, all_container_directories};
use crate::wire;

/// The lock for the search of an unused project id, shared by all agents of the host.
const PROJECTS_LOCK: &str = "/run/argosy/projects";
/// The directory, in a container's state directory, of the changes of its image that have no
/// dedicated file system.
const CHANGES: &str = "changes";

/// Checks whether this host supports it in this isolation mode; the error has the reason.
pub(crate) fn check(
    enforcement: DiskEnforcement,
    isolation: Isolation,
    directory: &Path,
) -> Result<(), String> {
    match enforcement {
        DiskEnforcement::Measured => return Ok(()),
        DiskEnforcement::Quota | DiskEnforcement::Loop if isolation != Isolation::Full => {
            let why = "without separate users tasks could leave their project, and keep the mounts of others busy: \
                       start with --isolation full, or with --disk-enforcement measured";
            return Err(why.to_owned());
        }
        DiskEnforcement::Quota => project::supported(directory)?,
        DiskEnforcement::Loop => FileSystem::supported()?,
    }
    Ok(())
}

/// Returns the limit that the kernel enforces; `None` if it does not. An executor's tasks come and
/// go, with their limits, so its container is measured.
pub(crate) fn enforced_bytes(how: DiskEnforcement, task: &v1::TaskSpec) -> Option<u64> {
    match how {
        DiskEnforcement::Measured => None,
        DiskEnforcement::Quota | DiskEnforcement::Loop => {
            wire::disk_limit_bytes(task).filter(|_| task.executor.is_none())
        }
    }
}

/// Checks the usage before the start of a task. The agent fetches files into the sandbox, and no
/// quota limits the agent.
pub(crate) fn check_usage(usage: Option<DiskUsage>) -> Result<(), Cause> {
    match usage {
        Some(has) if has.used_bytes > has.limit_bytes => Err(Cause::new(
            Code::FetchedTooMuch,
            &[&has.used_bytes, &has.limit_bytes],
        )),
        Some(_) | None => Ok(()),
    }
}

/// The location and the method of the tasks' disk limits.
#[derive(Debug)]
pub(crate) struct DiskLimits {
    paths: Paths,
    enforcement: DiskEnforcement,
}

impl DiskLimits {
    pub(crate) fn new(paths: &Paths, enforcement: DiskEnforcement) -> Self {
        Self {
            paths: paths.clone(),
            enforcement,
        }
    }

    /// Whether a limit applies at a sandbox: a file system that is not mounted there yet limits
    /// nothing.
    pub(crate) fn is_limited(&self, name: ContainerName, sandbox: &Path) -> bool {
        let system = FileSystem::at(&self.paths.disk(name));
        system.is_sandbox_mounted(sandbox) || project::usage(sandbox).is_some()
    }

    /// Limits an existing, empty sandbox. Replaces the result of an earlier attempt. Blocks.
    pub(crate) fn limit(
        &self,
        name: ContainerName,
        sandbox: &Path,
        bytes: u64,
    ) -> Result<(), String> {
        let taken = match self.enforcement {
            DiskEnforcement::Measured => Ok(()),
            DiskEnforcement::Quota => project::assign(sandbox, bytes, Path::new(PROJECTS_LOCK)),
            DiskEnforcement::Loop => {
                let system = FileSystem::at(&self.paths.disk(name));
                let removed = system.remove(sandbox);
                removed.and_then(|()| system.make(bytes, sandbox))
            }
        };
        taken.map_err(|error| crate::error::error_chain(&error))
    }

    /// Returns the directory for a container's changes of its image.
    pub(crate) fn changes(&self, name: ContainerName) -> PathBuf {
        let system = FileSystem::at(&self.paths.disk(name));
        match system.is_mounted() {
            true => system.changes(),
            false => self.paths.container(name).join(CHANGES),
        }
    }

    /// Returns the directory of a container's group, if it is on the container's dedicated file
    /// system.
    pub(crate) fn group(&self, first: ContainerName) -> Option<PathBuf> {
        let system = FileSystem::at(&self.paths.disk(first));
        system.is_mounted().then(|| system.group())
    }

    /// Counts an empty directory to the limit of a sandbox.
    pub(crate) fn add_directory(&self, sandbox: &Path, directory: &Path) -> Result<(), String> {
        let shared = project::share(sandbox, directory);
        shared.map_err(|error| crate::error::error_chain(&error))
    }

    /// Adopts the file systems of an earlier run. File systems that are not mounted at their
    /// sandboxes are those of an earlier boot, or incomplete. Or an agent in another mount
    /// namespace has created them, at its tasks' sandboxes. Those are mounted here, too.
    pub(crate) fn resume(&self) {
        let entries = std::fs::read_dir(self.paths.disks());
        let entries = entries.into_iter().flatten().flatten();
        let directories: Vec<_> = entries.map(|entry| entry.path()).collect();
        if directories.is_empty() {
            return;
        }
        let sandboxes: BTreeMap<_, _> = all_container_directories(&self.paths.sandboxes())
            .into_iter()
            .collect();
        for directory in directories {
            let name = directory.file_name().and_then(|name| name.to_str());
            let sandbox = name.and_then(|name| sandboxes.get(&name.parse().ok()?));
            let system = FileSystem::at(&directory);
            // An agent may have crashed between the two steps of the adoption.
            if system.is_mounted()
                && sandbox.is_none_or(|sandbox| system.is_sandbox_mounted(sandbox))
            {
                continue;
            }
            if let Err(error) = resume(&system, sandbox) {
                let why = crate::error::error_chain(&error);
                tracing::warn!(path = %directory.display(), why, "a file system of an earlier task cannot be removed");
            }
        }
    }
}

/// Adopts a file system that is mounted elsewhere, or removes it: then it was mounted at no
/// sandbox, which is the last step of its creation.
fn resume(system: &FileSystem, sandbox: Option<&PathBuf>) -> Result<(), DiskError> {
    match sandbox {
        Some(sandbox) if system.recover(sandbox)? => {
            let path = sandbox.display();
            tracing::info!(%path, "a file system of another mount namespace is now mounted here, too");
            Ok(())
        }
        Some(sandbox) => system.remove(sandbox),
        None => system.remove(&system.sandbox()),
    }
}

/// Returns a container's disk usage as the kernel counts it; `None` if it does not.
pub(crate) fn usage(paths: &Paths, name: ContainerName, sandbox: &Path) -> Option<DiskUsage> {
    let system = FileSystem::at(&paths.disk(name));
    system.usage().or_else(|| project::usage(sandbox))
}

/// Returns the method by which a container's disk usage is limited.
pub(crate) fn scope(paths: &Paths, name: ContainerName, sandbox: &Path) -> QuotaScope {
    if FileSystem::at(&paths.disk(name)).is_mounted() {
        return QuotaScope::All;
    }
    match project::usage(sandbox) {
        Some(_) => QuotaScope::Users,
        None => QuotaScope::None,
    }
}

/// Removes the limit of a sandbox, before the sandbox is removed. It is no error if none exists.
pub(crate) fn release(paths: &Paths, sandbox: &Path) -> Result<(), DiskError> {
    let name = sandbox.file_name().and_then(|name| name.to_str());
    if let Some(name) = name.and_then(|name| name.parse().ok()) {
        FileSystem::at(&paths.disk(name)).remove(sandbox)?;
    }
    project::clear_limit(sandbox)
}

#[cfg(test)]
mod tests {
    use argosy_testing::skip;
    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};

    use super::*;

    #[test]
    fn output_under_other_names_is_measured_in_addition_to_the_quota() {
        let above = |quota_scope: QuotaScope| quota_scope.measured_above(100, 30);
        assert_eq!(above(QuotaScope::None), Some(100));
        assert_eq!(above(QuotaScope::Users), Some(130));
        assert_eq!(above(QuotaScope::All), None);
    }

    fn task(mebibytes: i64) -> v1::TaskSpec {
        v1::TaskSpec {
            resources: vec![v1::Resource {
                name: "disk".to_owned(),
                value: Some(v1::resource::Value::ScalarMilli(mebibytes * 1_000)),
                ..v1::Resource::default()
            }],
            ..v1::TaskSpec::default()
        }
    }

    #[test]
    fn only_disk_requests_are_limited_where_configured() {
        let bounds = |how| DiskLimits::new(&Paths::new(Path::new("/nowhere")), how);
        let looped = bounds(DiskEnforcement::Loop);
        let bytes = |task| enforced_bytes(DiskEnforcement::Loop, &task);
        assert_eq!(bytes(task(4)), Some(4 << 20));
        assert_eq!(bytes(v1::TaskSpec::default()), None);
        assert_eq!(enforced_bytes(DiskEnforcement::Measured, &task(4)), None);
        let name = "1-2-3".parse().unwrap();
        let changes = Path::new("/nowhere/containers/1-2-3/changes");
        assert_eq!(looped.changes(name), changes, "until it is made");
    }

    #[test]
    fn tasks_without_host_ids_are_measured() {
        let directory = tempfile::tempdir().unwrap();
        for how in [DiskEnforcement::Quota, DiskEnforcement::Loop] {
            let why = check(how, Isolation::Processes, directory.path()).unwrap_err();
            assert!(why.contains("--isolation full"), "{why}");
        }
        check(
            DiskEnforcement::Measured,
            Isolation::Processes,
            directory.path(),
        )
        .unwrap();
    }

    /// Whether this host cannot create file systems for tasks.
    fn impossible() -> bool {
        let why = match nix::unistd::geteuid().is_root() {
            true => FileSystem::supported()
                .err()
                .map(|why| format!("this kernel has no loop devices: {why}")),
            false => Some("needs root".to_owned()),
        };
        if let Some(why) = &why {
            skip(why);
        }
        why.is_some()
    }

    #[test]
    fn a_file_system_in_another_mount_namespace_is_found_and_kept() {
        if impossible() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let paths = Paths::new(directory.path());
        let sandbox = paths.sandboxes().join("framework-1/web/1-2-3");
        std::fs::create_dir_all(&sandbox).unwrap();
        let system = FileSystem::at(&paths.disk("1-2-3".parse().unwrap()));
        let (end, ended) = std::sync::mpsc::channel::<()>();
        std::thread::scope(|scope| {
            let (made, is_made) = std::sync::mpsc::channel();
            let (system, sandbox) = (&system, &sandbox);
            scope.spawn(move || {
                unshare(CloneFlags::CLONE_NEWNS).unwrap();
                let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
                mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
                system.make(4 << 20, sandbox).unwrap();
                std::fs::write(sandbox.join("file"), "kept").unwrap();
                made.send(()).unwrap();
                // An error means that the test has ended.
                let _ = ended.recv();
            });
            is_made.recv().unwrap();
            let bounds = DiskLimits::new(&paths, DiskEnforcement::Loop);
            let name = "1-2-3".parse().unwrap();
            assert!(!bounds.is_limited(name, sandbox), "not for this agent");
            bounds.resume();
            bounds.resume();
            let seen = std::fs::read_to_string(sandbox.join("file"));
            let bounded = bounds.is_limited(name, sandbox);
            system.remove(sandbox).unwrap();
            drop(end);
            assert_eq!(seen.unwrap(), "kept");
            assert!(bounded);
        });
    }

    #[test]
    fn a_mounted_file_system_is_bound_to_its_sandbox_again() {
        if impossible() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let paths = Paths::new(directory.path());
        let sandbox = paths.sandboxes().join("framework-1/web/1-2-3");
        std::fs::create_dir_all(&sandbox).unwrap();
        let bounds = DiskLimits::new(&paths, DiskEnforcement::Loop);
        let name = "1-2-3".parse().unwrap();
        bounds.limit(name, &sandbox, 4 << 20).unwrap();
        std::fs::write(sandbox.join("file"), "kept").unwrap();
        nix::mount::umount(&sandbox).unwrap();
        let hidden = bounds.is_limited(name, &sandbox);
        bounds.resume();
        let seen = std::fs::read_to_string(sandbox.join("file"));
        FileSystem::at(&paths.disk(name)).remove(&sandbox).unwrap();
        assert!(!hidden);
        assert_eq!(seen.unwrap(), "kept");
    }

    #[test]
    fn a_sandbox_without_its_mounted_file_system_is_not_limited() {
        if impossible() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let paths = Paths::new(directory.path());
        let bounds = DiskLimits::new(&paths, DiskEnforcement::Loop);
        let (sandbox, other) = (
            directory.path().join("sandbox"),
            directory.path().join("other"),
        );
        for path in [&sandbox, &other] {
            std::fs::create_dir(path).unwrap();
        }
        let name = "1-2-3".parse().unwrap();
        bounds.limit(name, &sandbox, 4 << 20).unwrap();
        let group = bounds.group(name);
        let found = [&sandbox, &other].map(|path| bounds.is_limited(name, path));
        FileSystem::at(&paths.disk(name)).remove(&sandbox).unwrap();
        assert_eq!(found, [true, false]);
        assert!(group.is_some_and(|group| group.starts_with(paths.disk(name))));
        assert_eq!(bounds.group(name), None);
    }

    #[test]
    fn leftovers_of_an_earlier_boot_are_removed_at_start() {
        let directory = tempfile::tempdir().unwrap();
        let paths = Paths::new(directory.path());
        let left = paths.disk("1-2-3".parse().unwrap());
        std::fs::create_dir_all(left.join("root")).unwrap();
        std::fs::write(left.join("file"), "x").unwrap();
        DiskLimits::new(&paths, DiskEnforcement::Measured).resume();
        assert_eq!(std::fs::read_dir(paths.disks()).unwrap().count(), 0);
    }
}
