//! Limits that replace others while their container runs: what is not named is lifted, and nothing is ended by it.

use std::path::Path;

use super::{CPU_PERIOD_US, IoMax, Limits, LimitsError, Missing, MissingPolicy, Setting, Without};
use super::{check, write};
use crate::cgroup::{self, read};

impl Limits {
    /// Gives a container that runs these limits in the place of those it has: as `apply`, but one that is `None` here is
    /// lifted, disks that are not named included. What is no limit stays: its share of processors, its protected
    /// memory, and an empty list of processors.
    ///
    /// It is never ended by the change itself: page cache beyond a lower `memory_max_bytes` is taken back first, and if
    /// that is not enough the limits are refused. The call lasts as long.
    ///
    /// # Errors
    /// As `apply`, and if it uses more memory than it is to have: then it has the limits that it had.
    pub fn replace(&self, group: &Path, policy: MissingPolicy) -> Result<Missing, LimitsError> {
        let mut settings = self.settings();
        let missing = check(&settings, group, policy)?;
        let lifted = self.lifted(group)?;
        settings.extend(
            lifted
                .into_iter()
                .filter(|setting| group.join(setting.file).exists()),
        );
        self.make_room(group)?;
        write(settings, group, &missing)?;
        Ok(missing)
    }

    /// What lifts the limits that are not among these.
    fn lifted(&self, group: &Path) -> Result<Vec<Setting>, LimitsError> {
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
            .map(|(controller, file, value)| Setting {
                controller,
                file,
                value,
                without: Without::Harmless,
            })
            .collect();
        for disk in limited_disks(&group.join("io.max"))? {
            let is_kept = |kept: &IoMax| (kept.major, kept.minor) == (disk.major, disk.minor);
            if !self.io_max.iter().any(is_kept) {
                lifted.push(Setting {
                    controller: "io",
                    file: "io.max",
                    value: disk.line(),
                    without: Without::Harmless,
                });
            }
        }
        Ok(lifted)
    }

    /// Takes page cache back until the container fits into its new memory limit. Meanwhile, and until the limit holds, it
    /// is slowed rather than let grow again.
    fn make_room(&self, group: &Path) -> Result<(), LimitsError> {
        let (high, current) = (group.join("memory.high"), group.join("memory.current"));
        let Some(limit_bytes) = self.memory_max_bytes.filter(|_| current.exists()) else {
            return Ok(());
        };
        let former = read(high.clone())?;
        let wanted = self.memory_high_bytes.unwrap_or(limit_bytes);
        cgroup::write(high.clone(), &wanted.min(limit_bytes).to_string())?;
        let used = read(current)?;
        match used.trim().parse::<u64>() {
            Ok(used_bytes) if used_bytes > limit_bytes => {
                cgroup::write(high, former.trim())?;
                Err(LimitsError::InUse {
                    used_bytes,
                    limit_bytes,
                })
            }
            Ok(_) | Err(_) => Ok(()),
        }
    }
}

/// The disks that `io.max` names, without their limits.
fn limited_disks(file: &Path) -> Result<Vec<IoMax>, LimitsError> {
    if !file.exists() {
        return Ok(Vec::new());
    }
    let text = read(file.to_owned())?;
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
    Ok(text.lines().filter_map(disk).collect())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A group whose files say what the kernel's would; it uses so much memory.
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
    fn what_is_not_named_is_lifted_and_shares_and_protection_stay() {
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
    fn what_is_named_is_written() {
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
            assert_eq!(missing.unwrap(), Missing::default());
            assert_eq!(read_all(&group, &FILES), written);
        }
    }

    #[test]
    fn a_disk_that_is_not_named_any_more_is_free() {
        let group = group(0, "254:0 rbps=1 wbps=max riops=max wiops=max\n");
        Limits::default()
            .replace(group.path(), MissingPolicy::RequireAll)
            .unwrap();
        let free = "254:0 rbps=max wbps=max riops=max wiops=max";
        assert_eq!(read_all(&group, &["io.max"]), [free]);
    }

    #[test]
    fn less_memory_than_is_used_is_refused_and_nothing_is_changed() {
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
        assert_eq!(missing.of(&limits).controllers, ["pids"]);
        let cpu_only = Limits {
            pids_max: None,
            ..limits
        };
        assert_eq!(missing.of(&cpu_only), Missing::default());
        assert_eq!(read_all(&group, &["cpu.max"]), ["200000 100000"]);
    }
}
