//! Translates a task's resources and limits to those of its cgroup.
//!
//! Resources are guaranteed to a task, limits are the maximum that it gets. Exclusive processors
//! are allocated by `cpuset`.

use argosy_isolation::limits::IoMax;
use argosy_isolation::{CgroupTree, Limits};
use argosy_proto::convert;
use argosy_proto::v1;
use argosy_state::task::{Code, Explanation};

use super::disks::BlockDevice;
use super::memory_high;
use crate::config::DefaultLimits;

/// `cpu.weight` of one cpu: the kernel's default.
const WEIGHT_PER_CPU: u64 = 100;
const MIB: u64 = 1024 * 1024;

/// Returns the limits of a task without its processors, or the reason for a refusal. `disk_of`
/// finds a disk by its name in the task.
pub(super) fn limits(
    task: &v1::TaskSpec,
    defaults: DefaultLimits,
    disk_of: impl Fn(&str) -> Result<BlockDevice, String>,
) -> Result<Limits, Explanation> {
    let wanted = task.limits.clone().map(convert::limits_from);
    let wanted = wanted.unwrap_or_default();
    let some = |amount: u64| (amount > 0).then_some(amount);
    let asked = some(amount_milli(task, "mem")).map(|mem| mem.saturating_mul(MIB) / 1000);
    let memory_max_bytes = match (asked, wanted.memory_bytes) {
        (Some(asked), Some(most)) => Some(most.max(asked)),
        (asked, most) => most.or(asked).or(some(defaults.memory_bytes)),
    };
    let mut io_max = Vec::new();
    for limit in wanted.io {
        let disk = disk_of(&limit.disk)
            .map_err(|why| Explanation::of(Code::DiskUnlimited, &[]).with_detail(why))?;
        io_max.push(IoMax {
            major: disk.major,
            minor: disk.minor,
            rbps: limit.read_bytes,
            wbps: limit.write_bytes,
            riops: limit.read_operations,
            wiops: limit.write_operations,
        });
    }
    Ok(Limits {
        cpu_weight: some(amount_milli(task, "cpus"))
            .map(|cpus| (cpus * WEIGHT_PER_CPU / 1000).clamp(1, 10_000)),
        cpu_max_millis: wanted.cpu_millis,
        cpuset: Vec::new(),
        memory_low_bytes: asked,
        memory_high_bytes: memory_max_bytes.map(memory_high::below),
        memory_max_bytes,
        io_weight: wanted.io_weight,
        io_max,
        pids_max: match (some(defaults.pids_max), wanted.pids) {
            (Some(most), Some(wanted)) => Some(most.min(wanted)),
            (most, wanted) => most.or(wanted),
        },
    })
}

/// Returns those of `limits` that the task requests explicitly, and not by its resources or its
/// agent's defaults.
pub(super) fn explicit_limits(task: &v1::TaskSpec, limits: &Limits) -> Limits {
    let wanted = task.limits.clone().unwrap_or_default();
    Limits {
        cpu_max_millis: limits.cpu_max_millis,
        memory_max_bytes: wanted.memory_bytes.and(limits.memory_max_bytes),
        io_weight: limits.io_weight,
        io_max: limits.io_max.clone(),
        pids_max: wanted.pids.and(limits.pids_max),
        ..Limits::default()
    }
}

/// Whether the cgroups of a tree count processes; an unreadable tree counts none.
pub(super) fn counts_pids(tree: &CgroupTree) -> bool {
    let limits = Limits {
        pids_max: Some(1),
        ..Limits::default()
    };
    let missing = tree.missing(&limits);
    missing.is_ok_and(|missing| missing.controllers.is_empty())
}

/// Returns a scalar resource, in thousandths.
pub(super) fn amount_milli(task: &v1::TaskSpec, name: &str) -> u64 {
    let named = task
        .resources
        .iter()
        .filter(|resource| resource.name == name);
    named
        .filter_map(|resource| match resource.value {
            Some(v1::resource::Value::ScalarMilli(milli)) => u64::try_from(milli).ok(),
            Some(v1::resource::Value::Ranges(_) | v1::resource::Value::Set(_)) | None => None,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULTS: DefaultLimits = DefaultLimits {
        pids_max: 4_096,
        memory_bytes: 96 * MIB,
    };
    const DISK: BlockDevice = BlockDevice {
        major: 254,
        minor: 16,
    };

    fn task(resources: &str, limits: Option<v1::Limits>) -> v1::TaskSpec {
        v1::TaskSpec {
            resources: convert::resources(&resources.parse().unwrap()),
            limits,
            ..v1::TaskSpec::default()
        }
    }

    fn of(resources: &str, wanted: v1::Limits) -> Limits {
        limits(&task(resources, Some(wanted)), DEFAULTS, |_| Ok(DISK)).unwrap()
    }

    #[test]
    fn without_limits_a_task_has_its_memory_and_shares_the_rest() {
        let limits = limits(&task("cpus:1.5;mem:64", None), DEFAULTS, |_| Ok(DISK)).unwrap();
        let expected = Limits {
            cpu_weight: Some(150),
            memory_low_bytes: Some(64 * MIB),
            memory_high_bytes: Some(memory_high::below(64 * MIB)),
            memory_max_bytes: Some(64 * MIB),
            pids_max: Some(4_096),
            ..Limits::default()
        };
        assert_eq!(limits, expected);
    }

    #[test]
    fn the_default_memory_limit_protects_nothing() {
        let plain = task("cpus:1", None);
        let limits = |defaults| limits(&plain, defaults, |_| Ok(DISK)).unwrap();
        let own = limits(DEFAULTS);
        assert_eq!(own.memory_max_bytes, Some(96 * MIB));
        assert_eq!(own.memory_high_bytes, Some(memory_high::below(96 * MIB)));
        assert_eq!(own.memory_low_bytes, None);
        assert_eq!(explicit_limits(&plain, &own), Limits::default());
        let memory_bytes = 0;
        let none = limits(DefaultLimits {
            memory_bytes,
            ..DEFAULTS
        });
        assert_eq!(
            (none.memory_max_bytes, none.memory_high_bytes),
            (None, None)
        );
        let wanted = v1::Limits {
            memory_bytes: Some(200 * MIB),
            ..v1::Limits::default()
        };
        assert_eq!(of("cpus:1", wanted).memory_max_bytes, Some(200 * MIB));
    }

    #[test]
    fn requests_are_protected_below_higher_limits() {
        let wanted = v1::Limits {
            cpu_millis: Some(2_000),
            memory_bytes: Some(256 * MIB),
            pids: Some(10),
            io_weight: Some(50),
            io: vec![v1::DiskLimit {
                write_bytes: Some(MIB),
                ..v1::DiskLimit::default()
            }],
            exclusive_cpus: false,
        };
        let limits = of("cpus:1;mem:64", wanted);
        assert_eq!(limits.cpu_weight, Some(100));
        assert_eq!(limits.cpu_max_millis, Some(2_000));
        assert_eq!(limits.memory_low_bytes, Some(64 * MIB));
        assert_eq!(limits.memory_max_bytes, Some(256 * MIB));
        assert_eq!(limits.pids_max, Some(10));
        assert_eq!(limits.io_weight, Some(50));
        let io = limits.io_max[0];
        assert_eq!((io.major, io.minor, io.wbps), (254, 16, Some(MIB)));
    }

    #[test]
    fn limits_stay_between_the_request_and_the_agents_maximum() {
        let wanted = v1::Limits {
            memory_bytes: Some(1),
            pids: Some(1_000_000),
            ..v1::Limits::default()
        };
        let limits = of("mem:64", wanted);
        assert_eq!(limits.memory_max_bytes, Some(64 * MIB));
        assert_eq!(limits.pids_max, Some(4_096));
    }

    #[test]
    fn explicit_limits_are_distinguished_from_derived_ones() {
        let plain = task("cpus:1;mem:64", None);
        let limits = limits(&plain, DEFAULTS, |_| Ok(DISK)).unwrap();
        assert_eq!(explicit_limits(&plain, &limits), Limits::default());
        let wanted = v1::Limits {
            memory_bytes: Some(65 * MIB),
            pids: Some(7),
            ..v1::Limits::default()
        };
        let asked = task("mem:64", Some(wanted.clone()));
        let asked = explicit_limits(&asked, &of("mem:64", wanted));
        let expected = Limits {
            memory_max_bytes: Some(65 * MIB),
            pids_max: Some(7),
            ..Limits::default()
        };
        assert_eq!(asked, expected);
    }

    #[test]
    fn a_limit_for_an_invalid_disk_is_rejected() {
        let wanted = v1::Limits {
            io: vec![v1::DiskLimit::default()],
            ..v1::Limits::default()
        };
        let refused = limits(&task("mem:1", Some(wanted)), DEFAULTS, |_| {
            Err("no".to_owned())
        });
        assert_eq!(refused.unwrap_err().to_string(), "limits.io: no");
    }
}
