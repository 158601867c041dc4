//! Replacing the limits of a running container: limits that are not named are lifted, and no
//! process is killed by the change.

use std::path::Path;

use super::{CPU_PERIOD_US, CgroupSetting, IfMissing, LimitsError, check, write};
use crate::cgroup::files::{self, read};
use crate::spec::limits::{IoMax, Limits, MissingControllers, MissingPolicy};

impl Limits {
    /// Replaces the limits of a running container: like `apply`, but a limit that is `None` here is
    /// lifted, including disks that are not named. Settings that are not limits stay: its CPU
    /// weight, its protected memory, and an empty list of processors.
    ///
    /// The change itself never kills the container: page cache beyond a lower `memory_max_bytes` is
    /// reclaimed first, and if that is not enough the limits are refused. The call lasts as long.
    ///
    /// # Errors
    /// As `apply`, and if it uses more memory than the new limit: then its limits are unchanged.
    /// They are also unchanged if one cannot be written, unless [`LimitsError::Partial`] names some
    /// that could not be restored.
    pub fn replace(
        &self,
        group: &Path,
        policy: MissingPolicy,
    ) -> Result<MissingControllers, LimitsError> {
        let mut settings = self.settings();
        let missing = check(&settings, group, policy)?;
        let lifted = self.reset_settings(group)?;
        settings.extend(
            lifted
                .into_iter()
                .filter(|setting| group.join(setting.file).exists()),
        );
        let former = PreviousLimits::read(&settings, group, &missing)?;
        let written = self
            .reclaim(group)
            .and_then(|()| write(settings, group, &missing));
        match written {
            Ok(()) => Ok(missing),
            Err(error) => Err(former.roll_back(group, error)),
        }
    }

    /// Returns the settings that lift the limits that are not among these.
    fn reset_settings(&self, group: &Path) -> Result<Vec<CgroupSetting>, LimitsError> {
        let own = self.settings();
        let defaults = [
            ("cpu", "cpu.max", format!("max {CPU_PERIOD_US}")),
            ("memory", "memory.high", "max".to_owned()),
            ("memory", "memory.max", "max".to_owned()),
            ("io", "io.weight", "100".to_owned()),
            ("io", "io.bfq.weight", "100".to_owned()),
            ("pids", "pids.max", "max".to_owned()),
        ];
        let mut lifted: Vec<_> = defaults
            .into_iter()
            .filter(|(_, file, _)| own.iter().all(|setting| setting.file != *file))
            .map(|(controller, file, value)| CgroupSetting {
                controller,
                file,
                value,
                if_missing: IfMissing::Ignore,
            })
            .collect();
        for disk in limited_disks(&group.join("io.max"))? {
            let is_kept = |kept: &IoMax| (kept.major, kept.minor) == (disk.major, disk.minor);
            if !self.io_max.iter().any(is_kept) {
                lifted.push(CgroupSetting {
                    controller: "io",
                    file: "io.max",
                    value: disk.line(),
                    if_missing: IfMissing::Ignore,
                });
            }
        }
        Ok(lifted)
    }

    /// Reclaims page cache until the container fits into its new memory limit. Until the limit
    /// applies, the container is throttled so that it does not grow again.
    fn reclaim(&self, group: &Path) -> Result<(), LimitsError> {
        let (high, current) = (group.join("memory.high"), group.join("memory.current"));
        let Some(limit_bytes) = self.memory_max_bytes.filter(|_| current.exists()) else {
            return Ok(());
        };
        let wanted = self.memory_high_bytes.unwrap_or(limit_bytes);
        files::write(high, &wanted.min(limit_bytes).to_string())?;
        let used = read(current)?;
        match used.trim().parse::<u64>() {
            Ok(used_bytes) if used_bytes > limit_bytes => Err(LimitsError::InUse {
                used_bytes,
                limit_bytes,
            }),
            Ok(_) | Err(_) => Ok(()),
        }
    }
}

/// The content of a group's files before the change.
struct PreviousLimits(Vec<(&'static str, String)>);

impl PreviousLimits {
    /// Reads the files that these settings are written to, in their order.
    fn read(
        settings: &[CgroupSetting],
        group: &Path,
        missing: &MissingControllers,
    ) -> Result<Self, LimitsError> {
        let mut former: Vec<(&'static str, String)> = Vec::new();
        for setting in settings.iter().filter(|setting| !missing.covers(setting)) {
            let file = group.join(setting.file);
            if former.iter().any(|(known, _)| *known == setting.file) || !file.exists() {
                continue;
            }
            former.push((setting.file, read(file)?));
        }
        // Restored in reverse order: the memory limit is raised before throttling ends.
        former.reverse();
        Ok(Self(former))
    }

    /// Restores the former content. Returns the original error, or [`LimitsError::Partial`] with
    /// the files that could not be restored.
    fn roll_back(&self, group: &Path, error: LimitsError) -> LimitsError {
        let is_left = |(file, text): &&(&'static str, String)| {
            let now = read(group.join(file)).ok();
            now.as_ref() != Some(text) && restore(group, file, text).is_err()
        };
        let left: Vec<_> = self
            .0
            .iter()
            .filter(is_left)
            .map(|(file, _)| *file)
            .collect();
        if left.is_empty() {
            return error;
        }
        LimitsError::Partial {
            left: left.join(", "),
            source: Box::new(error),
        }
    }
}

/// Writes the former content of a file, in as many pieces as the kernel accepts at a time.
fn restore(group: &Path, file: &str, text: &str) -> Result<(), LimitsError> {
    let path = group.join(file);
    if file == "io.max" {
        // A disk that the file does not name has no limit.
        let named = disks_of(text);
        let now = limited_disks(&path)?;
        let free = now.iter().filter(|disk| !named.contains(disk));
        let lines = free.map(IoMax::line).chain(text.lines().map(str::to_owned));
        for line in lines {
            files::write(path.clone(), &line)?;
        }
        return Ok(());
    }
    // Restoring the former limit must not kill a container that has grown since.
    if file == "memory.max"
        && let Ok(limit_bytes) = text.trim().parse::<u64>()
        && let Ok(used_bytes) = read(group.join("memory.current"))?.trim().parse::<u64>()
        && used_bytes > limit_bytes
    {
        return Err(LimitsError::InUse {
            used_bytes,
            limit_bytes,
        });
    }
    // Any further lines are about single disks, which this module does not set.
    let value = text.lines().next().unwrap_or_default();
    Ok(files::write(path, value)?)
}

/// Returns the disks that `io.max` names, without their limits.
fn limited_disks(file: &Path) -> Result<Vec<IoMax>, LimitsError> {
    if !file.exists() {
        return Ok(Vec::new());
    }
    Ok(disks_of(&read(file.to_owned())?))
}

fn disks_of(text: &str) -> Vec<IoMax> {
    let disk = |line: &str| {
        let (major, minor) = line.split_whitespace().next()?.split_once(':')?;
        Some(IoMax {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
            rbps: None,
            wbps: None,
            riops: None,
            wiops: None,
        })
    };
    text.lines().filter_map(disk).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A fake group with kernel-like files and this memory usage.
    fn group(used_bytes: u64, io_max: &str) -> tempfile::TempDir {
        let group = tempfile::tempdir().unwrap();
        for (file, value) in [
            ("cgroup.controllers", "cpu io memory pids"),
            ("cpu.max", "50000 100000"),
            ("cpu.weight", "50"),
            ("memory.low", "1048576"),
            ("memory.high", "9437184"),
            ("memory.max", "10485760"),
            ("memory.swap.max", "0"),
            ("memory.oom.group", "1"),
            ("memory.current", &used_bytes.to_string()),
            ("io.weight", "default 400"),
            ("io.max", io_max),
            ("pids.max", "20"),
        ] {
            fs::write(group.path().join(file), value).unwrap();
        }
        group
    }

    fn read_all(group: &tempfile::TempDir, files: &[&str]) -> Vec<String> {
        let file = |name: &&str| fs::read_to_string(group.path().join(name)).unwrap();
        files.iter().map(file).collect()
    }

    const FILES: [&str; 5] = [
        "cpu.max",
        "memory.high",
        "memory.max",
        "io.weight",
        "pids.max",
    ];

    #[test]
    fn unset_limits_are_lifted_and_weights_are_kept() {
        let group = group(0, "");
        Limits::default()
            .replace(group.path(), MissingPolicy::RequireAll)
            .unwrap();
        let lifted = ["max 100000", "max", "max", "100", "max"];
        assert_eq!(read_all(&group, &FILES), lifted);
        let kept = ["cpu.weight", "memory.low", "memory.swap.max"];
        assert_eq!(read_all(&group, &kept), ["50", "1048576", "0"]);
    }

    #[test]
    fn set_limits_are_written() {
        let group = group(0, "");
        let limits = Limits {
            cpu_max_millis: Some(2_000),
            memory_high_bytes: Some(18 << 20),
            memory_max_bytes: Some(20 << 20),
            io_weight: Some(200),
            pids_max: Some(40),
            ..Limits::default()
        };
        let written = ["200000 100000", "18874368", "20971520", "200", "40"];
        for _ in 0..2 {
            let missing = limits.replace(group.path(), MissingPolicy::RequireAll);
            assert_eq!(missing.unwrap(), MissingControllers::default());
            assert_eq!(read_all(&group, &FILES), written);
        }
    }

    #[test]
    fn the_limits_of_an_omitted_disk_are_lifted() {
        let group = group(0, "254:0 rbps=1 wbps=max riops=max wiops=max\n");
        Limits::default()
            .replace(group.path(), MissingPolicy::RequireAll)
            .unwrap();
        let free = "254:0 rbps=max wbps=max riops=max wiops=max";
        assert_eq!(read_all(&group, &["io.max"]), [free]);
    }

    #[test]
    fn a_limit_below_memory_in_use_is_rejected_without_a_change() {
        let group = group(6 << 20, "");
        let before = read_all(&group, &FILES);
        let limits = Limits {
            memory_high_bytes: Some(3 << 20),
            memory_max_bytes: Some(4 << 20),
            ..Limits::default()
        };
        let refused = limits.replace(group.path(), MissingPolicy::RequireAll);
        let text = refused.unwrap_err().to_string();
        assert!(text.contains("uses 6 MiB"), "{text}");
        assert!(text.contains("would be 4 MiB"), "{text}");
        assert_eq!(read_all(&group, &FILES), before);
    }

    #[test]
    fn without_a_controller_nothing_is_written_unless_that_is_allowed() {
        let group = group(0, "");
        fs::write(group.path().join("cgroup.controllers"), "cpu memory io").unwrap();
        let before = read_all(&group, &FILES);
        let limits = Limits {
            cpu_max_millis: Some(2_000),
            pids_max: Some(40),
            ..Limits::default()
        };
        let refused = limits.replace(group.path(), MissingPolicy::RequireAll);
        assert!(refused.unwrap_err().to_string().contains("pids"));
        assert_eq!(read_all(&group, &FILES), before);
        let missing = limits.replace(group.path(), MissingPolicy::AllowMissing);
        let missing = missing.unwrap();
        assert_eq!(missing.needed_by(&limits).controllers, ["pids"]);
        let cpu_only = Limits {
            pids_max: None,
            ..limits
        };
        assert_eq!(missing.needed_by(&cpu_only), MissingControllers::default());
        assert_eq!(read_all(&group, &["cpu.max"]), ["200000 100000"]);
    }

    /// All files, so that the state after a failed change can be compared with the state before.
    const ALL: [&str; 8] = [
        "cpu.max",
        "cpu.weight",
        "memory.high",
        "memory.max",
        "memory.oom.group",
        "memory.swap.max",
        "io.weight",
        "io.max",
    ];

    fn twice() -> Limits {
        Limits {
            cpu_max_millis: Some(2_000),
            memory_high_bytes: Some(18 << 20),
            memory_max_bytes: Some(20 << 20),
            io_weight: Some(200),
            pids_max: Some(40),
            ..Limits::default()
        }
    }

    #[test]
    fn a_failed_change_is_rolled_back() {
        let group = group(0, "254:0 rbps=1 wbps=max riops=max wiops=max");
        let before = read_all(&group, &ALL);
        // This file is written last.
        fs::remove_file(group.path().join("pids.max")).unwrap();
        let failed = twice().replace(group.path(), MissingPolicy::RequireAll);
        let text = failed.unwrap_err().to_string();
        assert!(text.contains("pids.max"), "{text}");
        assert_eq!(read_all(&group, &ALL), before);
    }

    #[test]
    fn limits_that_cannot_be_rolled_back_are_reported() {
        let group = group(0, "");
        let settings = twice().settings();
        let former =
            PreviousLimits::read(&settings, group.path(), &MissingControllers::default()).unwrap();
        write(settings, group.path(), &MissingControllers::default()).unwrap();
        // The container has grown under its new limit of 20 MiB; the former limit was 10.
        fs::write(group.path().join("memory.current"), "11534336").unwrap();
        let cause = LimitsError::InUse {
            used_bytes: 1,
            limit_bytes: 1,
        };
        let left = former.roll_back(group.path(), cause).to_string();
        assert!(left.contains("written to memory.max could not"), "{left}");
        let files = ["memory.max", "memory.high", "pids.max"];
        let now = read_all(&group, &files);
        assert_eq!(now, ["20971520", "9437184", "20"]);
    }
}
