//! The isolation modes that this host allows.

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;

use argosy_host::sys;
use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::sys::wait::{Id, WaitPidFlag, waitid};

use crate::spec::Isolation;

/// The modes that this host allows this process; an `Err` is a message with the cause.
#[derive(Debug, Clone)]
pub struct DetectedModes {
    /// Full isolation, which needs root, cgroups and user namespaces.
    pub full: Result<(), String>,
    pub user_namespaces: Result<(), String>,
    /// Whether this process is root, or has its capability CAP_SYS_ADMIN.
    pub is_root: bool,
}

impl DetectedModes {
    /// Returns the mode that is used if none is named, whether or not this host allows it: for root
    /// full isolation, since in user namespaces its tasks would be root of the host; for others
    /// user namespaces. Plain processes are never chosen.
    #[must_use]
    pub fn automatic(&self) -> Isolation {
        match self.is_root {
            true => Isolation::Full,
            false => Isolation::UserNamespaces,
        }
    }

    /// Checks that this host allows the mode.
    ///
    /// # Errors
    /// If it does not: a message with the cause.
    pub fn allows(&self, mode: Isolation) -> Result<(), String> {
        match mode {
            Isolation::Full => self.full.clone(),
            Isolation::UserNamespaces => self.user_namespaces.clone(),
            Isolation::Processes => Ok(()),
        }
    }

    /// Returns the automatic mode, if this host allows it.
    #[must_use]
    pub fn best(&self) -> Option<Isolation> {
        let mode = self.automatic();
        self.allows(mode).is_ok().then_some(mode)
    }
}

/// Inspects this process and its host. User namespaces are tested by creating one. A security
/// module can still forbid the rest, which only the first launch shows.
#[must_use]
pub fn detect() -> DetectedModes {
    let mut found = detect_in(Path::new("/proc"), &crate::cgroup::mount_point().map(drop));
    found.is_root |= nix::unistd::geteuid().is_root();
    if found.full.is_ok() || found.user_namespaces.is_ok() {
        let trial = try_user_namespace();
        found.full = found.full.and(trial.clone());
        found.user_namespaces = found.user_namespaces.and(trial);
    }
    found
}

/// Creates a user namespace with one process that exits immediately.
///
/// No file below `/proc` shows that the kernel refuses: it does so within a chroot
/// (user_namespaces(7)).
fn try_user_namespace() -> Result<(), String> {
    sys::clone_process(CloneFlags::CLONE_NEWUSER.bits(), None, || 0)
        .and_then(|child| waitid(Id::PIDFd(child.handle.as_fd()), WaitPidFlag::WEXITED))
        .map(drop)
        .map_err(|error| match error {
            Errno::EPERM => "the kernel refuses a user namespace (EPERM), as it does within a chroot or \
                             for a process that a security module or a filter of system calls confines: \
                             start the agent outside of it, or use pivot_root instead of chroot"
                .to_owned(),
            other => format!("the kernel refuses a user namespace ({other})"),
        })
}

fn detect_in(proc: &Path, cgroups: &Result<(), crate::cgroup::CgroupError>) -> DetectedModes {
    let read = |name: &str| fs::read_to_string(proc.join(name)).unwrap_or_default();
    let missing: Vec<_> = ["pid", "mnt", "ipc", "uts", "cgroup"]
        .into_iter()
        .filter(|name| proc.join("self/ns").join(name).symlink_metadata().is_err())
        .collect();
    let kernel = if missing.is_empty() {
        Ok(())
    } else {
        Err(format!(
            "this kernel has no {} namespaces",
            missing.join(", ")
        ))
    };
    let is_root = has_sys_admin(&read("self/status"));
    let is_not_zero = |switch: &str| match read(&format!("sys/{switch}")).trim() {
        "0" => {
            let name = switch.replace('/', ".");
            Err(format!(
                "the setting {name} is 0: an administrator must raise it"
            ))
        }
        _ => Ok(()),
    };
    let has_users = || match proc.join("self/ns/user").symlink_metadata() {
        Ok(_) => is_not_zero("user/max_user_namespaces"),
        Err(_) => Err("this kernel has no user namespaces".to_owned()),
    };
    let full = kernel.clone().and_then(|()| {
        if !is_root {
            return Err("it needs root (the capability CAP_SYS_ADMIN)".to_owned());
        }
        cgroups.as_ref().map_err(ToString::to_string)?;
        has_users()
    });
    let user_namespaces = kernel.and_then(|()| {
        has_users()?;
        is_not_zero("kernel/unprivileged_userns_clone")?;
        if read("sys/kernel/apparmor_restrict_unprivileged_userns").trim() == "1" {
            return Err(
                "the setting kernel.apparmor_restrict_unprivileged_userns is 1: \
                        an administrator must clear it"
                    .to_owned(),
            );
        }
        Ok(())
    });
    DetectedModes {
        full,
        user_namespaces,
        is_root,
    }
}

fn has_sys_admin(status: &str) -> bool {
    const CAP_SYS_ADMIN: u64 = 1 << 21;
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|text| u64::from_str_radix(text.trim(), 16).ok());
    effective.is_some_and(|set| set & CAP_SYS_ADMIN != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(capabilities: &str) -> tempfile::TempDir {
        let proc = tempfile::tempdir().unwrap();
        fs::create_dir_all(proc.path().join("self/ns")).unwrap();
        fs::create_dir_all(proc.path().join("sys/user")).unwrap();
        for name in ["pid", "mnt", "ipc", "uts", "cgroup", "user"] {
            fs::write(proc.path().join("self/ns").join(name), "").unwrap();
        }
        fs::write(
            proc.path().join("self/status"),
            format!("CapEff:\t{capabilities}\n"),
        )
        .unwrap();
        proc
    }

    #[test]
    fn root_gets_full_isolation_and_others_user_namespaces() {
        let root = detect_in(host("000001ffffffffff").path(), &Ok(()));
        assert_eq!(root.best(), Some(Isolation::Full));
        let user = detect_in(host("0000000000000000").path(), &Ok(()));
        assert_eq!(user.best(), Some(Isolation::UserNamespaces));
        assert!(user.full.unwrap_err().contains("needs root"));
    }

    #[test]
    fn the_setting_that_forbids_user_namespaces_is_reported() {
        let proc = host("0");
        fs::write(proc.path().join("sys/user/max_user_namespaces"), "0\n").unwrap();
        for (capabilities, mode) in [
            ("0", Isolation::UserNamespaces),
            ("000001ffffffffff", Isolation::Full),
        ] {
            let status = format!("CapEff:\t{capabilities}\n");
            fs::write(proc.path().join("self/status"), status).unwrap();
            let found = detect_in(proc.path(), &Ok(()));
            assert_eq!(found.best(), None);
            let why = found.allows(mode).unwrap_err();
            assert!(why.contains("user.max_user_namespaces is 0"), "{why}");
        }
    }

    #[test]
    fn a_missing_cgroup_mount_is_reported() {
        let missing = Err(crate::cgroup::CgroupError::NoMount);
        let found = detect_in(host("000001ffffffffff").path(), &missing);
        assert!(found.user_namespaces.is_ok());
        assert_eq!(found.best(), None, "root chooses nothing weaker");
        assert!(found.full.unwrap_err().contains("cgroup2"));
    }
}
