//! Resource limits of a container by cgroup v2, and the detection of limits that this host cannot
//! enforce.

mod missing;
mod replacing;

use std::io;
use std::path::{Path, PathBuf};

use crate::cgroup::files::{self, CgroupError};
use crate::spec::limits::{IoMax, Limits, MissingControllers, MissingPolicy};
use missing::find_missing;

/// The period of `cpu.max`, in microseconds: the kernel's default.
const CPU_PERIOD_US: u64 = 100_000;
/// The kernel's minimum quota.
const CPU_QUOTA_MINIMUM_US: u64 = 1_000;

impl IoMax {
    /// Returns all four values, so that a lifted limit is reset.
    fn line(&self) -> String {
        let most = |limit: Option<u64>| limit.map_or("max".to_owned(), |limit| limit.to_string());
        format!(
            "{}:{} rbps={} wbps={} riops={} wiops={}",
            self.major,
            self.minor,
            most(self.rbps),
            most(self.wbps),
            most(self.riops),
            most(self.wiops)
        )
    }
}

impl Limits {
    /// Returns the file and value of each limit, with its controller. The order lets memory be
    /// reclaimed before a lower limit kills for it.
    fn settings(&self) -> Vec<CgroupSetting> {
        let mut settings = Vec::new();
        let mut set = |controller, file, value: String, without| {
            settings.push(CgroupSetting {
                controller,
                file,
                value,
                if_missing: without,
            });
        };
        let weight = |weight: u64| weight.clamp(1, 10_000);
        if let Some(millis) = self.cpu_max_millis {
            let quota_us = millis.saturating_mul(CPU_PERIOD_US) / 1000;
            let quota_us = quota_us.max(CPU_QUOTA_MINIMUM_US);
            let quota = format!("{quota_us} {CPU_PERIOD_US}");
            set("cpu", "cpu.max", quota, IfMissing::Error);
        }
        if let Some(share) = self.cpu_weight {
            let share = weight(share).to_string();
            set("cpu", "cpu.weight", share, IfMissing::Error);
        }
        if !self.cpuset.is_empty() {
            let numbers: Vec<_> = self.cpuset.iter().map(u32::to_string).collect();
            set("cpuset", "cpuset.cpus", numbers.join(","), IfMissing::Error);
        }
        if let Some(bytes) = self.memory_low_bytes {
            set("memory", "memory.low", bytes.to_string(), IfMissing::Error);
        }
        if let Some(bytes) = self.memory_high_bytes {
            set("memory", "memory.high", bytes.to_string(), IfMissing::Error);
        }
        if let Some(bytes) = self.memory_max_bytes {
            // Swap first, so that memory above the limit cannot be swapped out. A kernel without
            // swap accounting has no swap limit.
            let (none, whole) = ("0".to_owned(), "1".to_owned());
            set("memory", "memory.swap.max", none, IfMissing::Ignore);
            set("memory", "memory.oom.group", whole, IfMissing::Error);
            set("memory", "memory.max", bytes.to_string(), IfMissing::Error);
        }
        if let Some(share) = self.io_weight {
            let share = weight(share);
            set("io", "io.weight", share.to_string(), IfMissing::Unenforced);
            let share = bfq_weight(share).to_string();
            set("io", "io.bfq.weight", share, IfMissing::Ignore);
        }
        for disk in &self.io_max {
            set("io", "io.max", disk.line(), IfMissing::Unenforced);
        }
        if let Some(count) = self.pids_max {
            set("pids", "pids.max", count.to_string(), IfMissing::Error);
        }
        settings
    }

    /// Returns the controllers that these limits need and that are not in `present`.
    #[must_use]
    pub fn missing(&self, present: &[String]) -> MissingControllers {
        find_missing(&self.settings(), present)
    }

    /// Writes the limits into the group at `group`. Returns the controllers that are missing, if
    /// the policy allows that.
    ///
    /// May be repeated, and may change the limits of a running container: each applies from then
    /// on. If `memory_max_bytes` is below the current usage, the kernel reclaims what it can, and
    /// otherwise kills the container as if it had grown; the call lasts as long.
    ///
    /// # Errors
    /// If a controller is missing and the policy requires all: then nothing was written. Or if a
    /// limit cannot be written: the limits before it apply.
    pub fn apply(
        &self,
        group: &Path,
        policy: MissingPolicy,
    ) -> Result<MissingControllers, LimitsError> {
        let settings = self.settings();
        if settings.is_empty() {
            return Ok(MissingControllers::default());
        }
        let missing = check(&settings, group, policy)?;
        write(settings, group, &missing)?;
        Ok(missing)
    }
}

/// Returns which of these settings a group does not support.
fn check(
    settings: &[CgroupSetting],
    group: &Path,
    policy: MissingPolicy,
) -> Result<MissingControllers, LimitsError> {
    let present = files::read_controllers(group)?;
    let mut missing = find_missing(settings, &present);
    for setting in settings {
        if setting.if_missing == IfMissing::Unenforced
            && !missing.covers(setting)
            && !group.join(setting.file).exists()
        {
            missing.controllers.push(setting.file.to_owned());
        }
    }
    if policy == MissingPolicy::RequireAll && !missing.controllers.is_empty() {
        return Err(LimitsError::MissingControllers {
            controllers: missing.controllers.join(", "),
            group: group.to_owned(),
        });
    }
    Ok(missing)
}

fn write(
    settings: Vec<CgroupSetting>,
    group: &Path,
    missing: &MissingControllers,
) -> Result<(), LimitsError> {
    for setting in settings {
        if missing.covers(&setting) {
            continue;
        }
        match files::write(group.join(setting.file), &setting.value) {
            Err(CgroupError::Write { source, .. })
                if setting.if_missing == IfMissing::Ignore
                    && source.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
    }
    Ok(())
}

struct CgroupSetting {
    controller: &'static str,
    file: &'static str,
    value: String,
    if_missing: IfMissing,
}

/// The meaning of a missing file whose controller exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum IfMissing {
    /// Every kernel has the file.
    Error,
    /// Some kernels do not have it; the limit is then not enforced.
    Unenforced,
    /// Some kernels do not have it; there is then nothing to enforce.
    Ignore,
}

/// Converts the weight to bfq's range, which ends at 1,000 and has the same default.
fn bfq_weight(weight: u64) -> u64 {
    match weight.checked_sub(100) {
        Some(above) => 100 + above * 900 / 9_900,
        None => weight,
    }
}

/// An error of applying limits.
#[derive(Debug, thiserror::Error)]
pub enum LimitsError {
    /// The host lacks controllers and the policy requires them.
    #[error(
        "the cgroup controllers {controllers} are not available in {group}: enable them on this host, \
         or allow missing controllers to run without these limits"
    )]
    MissingControllers {
        controllers: String,
        /// The group whose controllers were checked.
        group: PathBuf,
    },
    /// The container uses more memory than the new limit, and it cannot be reclaimed.
    #[error(
        "it uses {} MiB of memory that cannot be reclaimed, and the limit would be {} MiB: it would be killed; \
         give it a higher limit, or end it",
        .used_bytes.div_ceil(1 << 20), .limit_bytes >> 20
    )]
    InUse {
        /// Usage after page cache was reclaimed, in bytes.
        used_bytes: u64,
        /// The requested limit, in bytes.
        limit_bytes: u64,
    },
    /// A change failed halfway, and not every written value could be restored.
    #[error("the change failed, and what was written to {left} could not be restored")]
    Partial {
        /// The files that keep the new value.
        left: String,
        /// The error that made the change fail.
        source: Box<LimitsError>,
    },
    /// A file of the group cannot be read or written.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn all() -> Limits {
        Limits {
            cpu_max_millis: Some(1500),
            cpu_weight: Some(200),
            cpuset: vec![0, 3],
            memory_low_bytes: Some(8 << 20),
            memory_high_bytes: Some(60 << 20),
            memory_max_bytes: Some(64 << 20),
            io_weight: Some(10_000),
            io_max: vec![IoMax {
                wbps: Some(1 << 20),
                wiops: Some(100),
                ..disk(16)
            }],
            pids_max: Some(512),
        }
    }

    fn disk(minor: u32) -> IoMax {
        IoMax {
            major: 254,
            minor,
            rbps: None,
            wbps: None,
            riops: None,
            wiops: None,
        }
    }

    /// A fake group with the files of these controllers, to inspect after limits were written.
    struct FakeCgroup(tempfile::TempDir);

    impl FakeCgroup {
        fn with(controllers: &str) -> Self {
            let group = Self(tempfile::tempdir().unwrap());
            fs::write(group.0.path().join("cgroup.controllers"), controllers).unwrap();
            for setting in all().settings() {
                if controllers
                    .split(' ')
                    .any(|name| name == setting.controller)
                {
                    fs::write(group.0.path().join(setting.file), "").unwrap();
                }
            }
            group
        }

        fn apply(
            &self,
            limits: &Limits,
            policy: MissingPolicy,
        ) -> Result<MissingControllers, LimitsError> {
            limits.apply(self.0.path(), policy)
        }

        fn read(&self, file: &str) -> String {
            fs::read_to_string(self.0.path().join(file)).unwrap()
        }

        fn lacks(&self, file: &str) {
            fs::remove_file(self.0.path().join(file)).unwrap();
        }
    }

    #[test]
    fn limits_are_written_where_the_controllers_are() {
        let group = FakeCgroup::with("cpu cpuset io memory pids");
        let missing = group.apply(&all(), MissingPolicy::RequireAll).unwrap();
        assert!(missing.controllers.is_empty());
        for (file, value) in [
            ("cpu.max", "150000 100000"),
            ("cpu.weight", "200"),
            ("cpuset.cpus", "0,3"),
            ("memory.low", "8388608"),
            ("memory.high", "62914560"),
            ("memory.max", "67108864"),
            ("memory.swap.max", "0"),
            ("memory.oom.group", "1"),
            ("io.weight", "10000"),
            ("io.bfq.weight", "1000"),
            ("io.max", "254:16 rbps=max wbps=1048576 riops=max wiops=100"),
            ("pids.max", "512"),
        ] {
            assert_eq!(group.read(file), value, "{file}");
        }
    }

    #[test]
    fn applying_limits_is_idempotent_and_keeps_other_files() {
        let group = FakeCgroup::with("cpu cpuset io memory pids");
        for _ in 0..2 {
            group.apply(&all(), MissingPolicy::RequireAll).unwrap();
        }
        assert_eq!(group.read("memory.max"), "67108864");
        let lower = Limits {
            memory_max_bytes: Some(1 << 20),
            ..Limits::default()
        };
        group.apply(&lower, MissingPolicy::RequireAll).unwrap();
        assert_eq!(group.read("memory.max"), "1048576");
        assert_eq!(group.read("pids.max"), "512");
    }

    #[test]
    fn memory_is_reclaimed_before_a_lower_limit_applies() {
        let settings = all().settings();
        let at = |file| settings.iter().position(|setting| setting.file == file);
        assert!(at("memory.high") < at("memory.max"));
        assert!(at("memory.swap.max") < at("memory.max"));
    }

    #[test]
    fn a_missing_controller_is_refused_by_name_unless_allowed() {
        let group = FakeCgroup::with("cpu");
        let refused = group.apply(&all(), MissingPolicy::RequireAll).unwrap_err();
        assert!(
            refused.to_string().contains("cpuset, memory, io, pids"),
            "{refused}"
        );
        assert_eq!(
            group.read("cpu.max"),
            "",
            "nothing is written before a refusal"
        );
        let missing = group.apply(&all(), MissingPolicy::AllowMissing).unwrap();
        assert_eq!(missing.controllers, ["cpuset", "memory", "io", "pids"]);
        assert_eq!(group.read("cpu.max"), "150000 100000");
    }

    #[test]
    fn a_missing_controller_file_is_reported_by_name() {
        let group = FakeCgroup::with("cpu cpuset io memory pids");
        group.lacks("io.weight");
        let refused = group.apply(&all(), MissingPolicy::RequireAll).unwrap_err();
        assert!(refused.to_string().contains("io.weight"), "{refused}");
        assert_eq!(group.read("pids.max"), "", "nothing is written");
        let missing = group.apply(&all(), MissingPolicy::AllowMissing).unwrap();
        assert_eq!(missing.controllers, ["io.weight"]);
        assert_eq!(group.read("pids.max"), "512");
    }

    #[test]
    fn a_kernel_without_swap_accounting_has_no_swap_to_limit() {
        let group = FakeCgroup::with("cpu cpuset io memory pids");
        group.lacks("memory.swap.max");
        let missing = group.apply(&all(), MissingPolicy::RequireAll).unwrap();
        assert!(missing.controllers.is_empty());
        assert!(!group.0.path().join("memory.swap.max").exists());
        group.lacks("memory.max");
        let error = group.apply(&all(), MissingPolicy::RequireAll).unwrap_err();
        assert!(error.to_string().contains("memory.max"), "{error}");
    }

    #[test]
    fn no_limits_need_no_controllers() {
        let nothing = Limits::default();
        let directory = tempfile::tempdir().unwrap();
        assert!(
            nothing
                .apply(directory.path(), MissingPolicy::RequireAll)
                .is_ok()
        );
    }

    #[test]
    fn a_tiny_cpu_share_is_raised_to_the_kernels_minimum() {
        let group = FakeCgroup::with("cpu");
        let limits = Limits {
            cpu_max_millis: Some(1),
            ..Limits::default()
        };
        group.apply(&limits, MissingPolicy::RequireAll).unwrap();
        assert_eq!(group.read("cpu.max"), "1000 100000");
    }

    #[test]
    fn weights_keep_their_order_when_scaled_to_bfq() {
        let measured: Vec<_> = [1, 99, 100, 5_050, 10_000].map(bfq_weight).into();
        assert_eq!(measured, [1, 99, 100, 550, 1_000]);
    }
}
