//! What a container may use: cgroup v2 limits, and which of them this host cannot keep.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::resource::Resource;
use serde::{Deserialize, Serialize};

use crate::cgroup::CgroupError;

/// The period over which `cpu.max` is counted, in microseconds: the kernel's default.
const CPU_PERIOD_US: u64 = 100_000;
/// The kernel refuses a smaller quota.
const CPU_QUOTA_MINIMUM_US: u64 = 1_000;

/// Limits of one container; `None` leaves the kernel's default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Limits {
    /// The most processor time it gets, in thousandths of a processor (at least 10).
    pub cpu_max_millis: Option<u64>,
    /// Its share when processors are short: 1 to 10,000, the kernel's default is 100.
    pub cpu_weight: Option<u64>,
    /// The most memory it gets, in bytes, without swap; above it all its processes are killed together.
    pub memory_max_bytes: Option<u64>,
    /// The most processes and threads it gets.
    pub pids_max: Option<u64>,
}

/// What to do about a limit whose controller this host lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MissingPolicy {
    /// Refuse to start.
    RequireAll,
    /// Start without that limit, and say which is missing.
    AllowMissing,
}

/// Controllers that limits ask for and the host does not offer. Empty when all is well.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Missing {
    /// Their names, as the kernel spells them.
    pub controllers: Vec<String>,
}

impl Limits {
    /// The file and value of each limit, with its controller.
    fn settings(&self) -> Vec<Setting> {
        let mut settings = Vec::new();
        let mut set = |controller, file, value: String| {
            settings.push(Setting {
                controller,
                file,
                value,
            });
        };
        if let Some(millis) = self.cpu_max_millis {
            let quota_us = millis.saturating_mul(CPU_PERIOD_US) / 1000;
            let quota_us = quota_us.max(CPU_QUOTA_MINIMUM_US);
            set("cpu", "cpu.max", format!("{quota_us} {CPU_PERIOD_US}"));
        }
        if let Some(weight) = self.cpu_weight {
            set("cpu", "cpu.weight", weight.clamp(1, 10_000).to_string());
        }
        if let Some(bytes) = self.memory_max_bytes {
            // First the swap, so that memory pushed out by the limit has nowhere to go.
            set("memory", "memory.swap.max", "0".to_owned());
            set("memory", "memory.oom.group", "1".to_owned());
            set("memory", "memory.max", bytes.to_string());
        }
        if let Some(count) = self.pids_max {
            set("pids", "pids.max", count.to_string());
        }
        settings
    }

    /// Which of the controllers that these limits need are not among `present`.
    #[must_use]
    pub fn missing(&self, present: &[String]) -> Missing {
        let mut controllers = Vec::new();
        for setting in self.settings() {
            let known = |name: &String| name == setting.controller;
            if !present.iter().any(known) && !controllers.iter().any(known) {
                controllers.push(setting.controller.to_owned());
            }
        }
        Missing { controllers }
    }

    /// Writes the limits into the group at `group`; returns what could not be written for want of a
    /// controller, if the policy allows that.
    ///
    /// # Errors
    /// If a controller is missing and the policy wants all, or a limit cannot be written.
    pub fn apply(&self, group: &Path, policy: MissingPolicy) -> Result<Missing, LimitsError> {
        let settings = self.settings();
        if settings.is_empty() {
            return Ok(Missing::default());
        }
        let present = crate::cgroup::read_controllers(group)?;
        let missing = self.missing(&present);
        if policy == MissingPolicy::RequireAll && !missing.controllers.is_empty() {
            return Err(LimitsError::MissingControllers {
                controllers: missing.controllers.join(", "),
                group: group.to_owned(),
            });
        }
        for setting in settings {
            if missing
                .controllers
                .iter()
                .any(|name| name == setting.controller)
            {
                continue;
            }
            let path = group.join(setting.file);
            match fs::write(&path, &setting.value) {
                Ok(()) => {}
                // A kernel built without swap accounting: there is no swap limit to keep.
                Err(error)
                    if setting.file == "memory.swap.max"
                        && error.kind() == std::io::ErrorKind::NotFound => {}
                Err(source) => {
                    return Err(LimitsError::Cgroup(CgroupError::Write {
                        path,
                        value: setting.value,
                        source,
                    }));
                }
            }
        }
        Ok(missing)
    }
}

struct Setting {
    controller: &'static str,
    file: &'static str,
    value: String,
}

/// Limits that cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum LimitsError {
    /// The host lacks controllers and the policy requires them.
    #[error(
        "the cgroup controllers {controllers} are not available in {group}: enable them on this host, \
         or allow missing controllers to run without these limits"
    )]
    MissingControllers {
        /// Their names.
        controllers: String,
        /// Where they were looked for.
        group: PathBuf,
    },
    /// A file of the group could not be read or written.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
}

/// The kernel's number for a resource limit's lower-case name.
pub(crate) fn resource(name: &str) -> Option<Resource> {
    Some(match name {
        "as" => Resource::RLIMIT_AS,
        "core" => Resource::RLIMIT_CORE,
        "cpu" => Resource::RLIMIT_CPU,
        "data" => Resource::RLIMIT_DATA,
        "fsize" => Resource::RLIMIT_FSIZE,
        "locks" => Resource::RLIMIT_LOCKS,
        "memlock" => Resource::RLIMIT_MEMLOCK,
        "msgqueue" => Resource::RLIMIT_MSGQUEUE,
        "nice" => Resource::RLIMIT_NICE,
        "nofile" => Resource::RLIMIT_NOFILE,
        "nproc" => Resource::RLIMIT_NPROC,
        "rss" => Resource::RLIMIT_RSS,
        "rtprio" => Resource::RLIMIT_RTPRIO,
        "rttime" => Resource::RLIMIT_RTTIME,
        "sigpending" => Resource::RLIMIT_SIGPENDING,
        "stack" => Resource::RLIMIT_STACK,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Limits = Limits {
        cpu_max_millis: Some(1500),
        cpu_weight: Some(200),
        memory_max_bytes: Some(64 << 20),
        pids_max: Some(512),
    };

    fn group(controllers: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("cgroup.controllers"), controllers).unwrap();
        folder
    }

    #[test]
    fn limits_are_written_where_the_controllers_are() {
        let group = group("cpu io memory pids\n");
        let missing = ALL.apply(group.path(), MissingPolicy::RequireAll).unwrap();
        assert!(missing.controllers.is_empty());
        let read = |file: &str| fs::read_to_string(group.path().join(file)).unwrap();
        assert_eq!(read("cpu.max"), "150000 100000");
        assert_eq!(read("cpu.weight"), "200");
        assert_eq!(read("memory.max"), "67108864");
        assert_eq!(read("memory.swap.max"), "0");
        assert_eq!(read("memory.oom.group"), "1");
        assert_eq!(read("pids.max"), "512");
    }

    #[test]
    fn a_missing_controller_is_refused_by_name_unless_allowed() {
        let group = group("cpu\n");
        let refused = ALL
            .apply(group.path(), MissingPolicy::RequireAll)
            .unwrap_err();
        assert!(refused.to_string().contains("memory, pids"), "{refused}");
        assert!(
            !group.path().join("cpu.max").exists(),
            "nothing is written before a refusal"
        );
        let missing = ALL
            .apply(group.path(), MissingPolicy::AllowMissing)
            .unwrap();
        assert_eq!(missing.controllers, ["memory", "pids"]);
        assert!(group.path().join("cpu.max").exists());
    }

    #[test]
    fn no_limits_need_no_controllers() {
        let nothing = Limits::default();
        let folder = tempfile::tempdir().unwrap();
        assert!(
            nothing
                .apply(folder.path(), MissingPolicy::RequireAll)
                .is_ok()
        );
    }

    #[test]
    fn a_tiny_share_of_a_processor_is_what_the_kernel_takes_at_least() {
        let group = group("cpu");
        let limits = Limits {
            cpu_max_millis: Some(1),
            ..Limits::default()
        };
        limits
            .apply(group.path(), MissingPolicy::RequireAll)
            .unwrap();
        let written = fs::read_to_string(group.path().join("cpu.max")).unwrap();
        assert_eq!(written, "1000 100000");
    }
}
