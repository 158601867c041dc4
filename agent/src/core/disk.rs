//! The disk limit of a task, and the end of a task that exceeds it. Containers of executors:
//! `executors/lifecycle.rs`.
//!
//! Usage is measured elsewhere (`disk`), from the start of the command on, and again after a
//! restart of the agent.

use argosy_proto::v1;
use argosy_state::task::{Code, Explanation};
use nix::sys::signal::Signal;

use super::Core;
use super::effect::ContainerEffect;
use super::facts::Instance;
use super::input::{CommandExit, CommandStatus};
use super::lifecycle::{FailureCause, InstancePhase};

/// Bytes of a MiB, the unit of `disk`.
const MIB: u64 = 1024 * 1024;

/// Returns the disk limit of a task in bytes; `None` if it requests no `disk`.
pub(crate) fn limit_bytes(spec: &v1::TaskSpec) -> Option<u64> {
    let named = spec
        .resources
        .iter()
        .filter(|resource| resource.name == "disk");
    let milli = named.filter_map(|resource| match resource.value {
        Some(v1::resource::Value::ScalarMilli(milli)) => u64::try_from(milli).ok(),
        Some(v1::resource::Value::Ranges(_) | v1::resource::Value::Set(_)) | None => None,
    });
    let milli: u64 = milli.fold(0, u64::saturating_add);
    (milli > 0).then(|| milli.saturating_mul(MIB) / 1_000)
}

/// Disk limit of tasks that request no `disk`, in bytes; 0 means no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskDefault(pub u64);

impl DiskDefault {
    /// Returns the disk limit of a task, in bytes. A task of an executor has no default: the
    /// container of the executor has one.
    pub(crate) fn limit_bytes(self, spec: &v1::TaskSpec) -> Option<u64> {
        match spec.executor {
            Some(_) => limit_bytes(spec),
            None => self.or(limit_bytes(spec)),
        }
    }

    /// Returns the requested amount, or else the default, in bytes.
    pub(super) fn or(self, requested_bytes: Option<u64>) -> Option<u64> {
        requested_bytes.or((self.0 > 0).then_some(self.0))
    }
}

impl Core {
    /// Starts to measure the disk usage of a task whose command runs.
    pub(super) fn measure(&mut self, instance: Instance) {
        self.measure_container(instance);
        // The group directory counts toward the disk usage of a task that an earlier run of the
        // agent has measured.
        if let Some(first) = self.late_first(instance) {
            self.measure_container(first);
        }
    }

    fn measure_container(&mut self, instance: Instance) {
        let most_bytes = self.disk_limit(instance).unwrap_or(u64::MAX);
        let name = self.facts.container(instance);
        let key = self.facts.tasks.get(&instance).map(|task| task.key.clone());
        let spec = self.facts.tasks.get(&instance);
        let spec = spec.and_then(|task| task.launch.spec.as_ref());
        let group = self.led(instance);
        let is_alone = spec.is_some_and(|spec| spec.host_paths.is_empty() && spec.group.is_none());
        let requested_bytes = spec.and_then(limit_bytes).unwrap_or(0);
        if let (Some(name), Some(key)) = (name, key) {
            self.effects.push(ContainerEffect::Measure {
                name,
                key,
                limit_bytes: most_bytes,
                requested_bytes,
                counts_unlinked: is_alone,
                group,
            });
        }
    }

    fn disk_limit(&self, instance: Instance) -> Option<u64> {
        let task = self.facts.tasks.get(&instance)?;
        let spec = task.launch.spec.as_ref()?;
        self.config.disk_default.limit_bytes(spec)
    }

    /// Kills a task that exceeds its disk limit immediately: during a grace period it would only
    /// write more. If it has already ended, and its group directory has grown since, another task
    /// of the group is killed.
    pub(super) fn disk_limit_exceeded(&mut self, first: Instance, mut why: Explanation) {
        let running = (self.phase(first) == Some(InstancePhase::Running)).then_some(first);
        let Some(instance) = running.or_else(|| self.answerable(first)) else {
            return;
        };
        if let Some(task) = self.facts.tasks.get(&first).filter(|_| instance != first) {
            why = Explanation::of(Code::GroupFolder, &[&task.key.task]).then(why);
        }
        if let Some(state) = self.instances.get_mut(&instance) {
            state
                .failure
                .get_or_insert(FailureCause::DiskLimitExceeded(why));
        }
        self.stop_checks(instance);
        let grace_ms = 0;
        self.effects
            .push(ContainerEffect::Kill { instance, grace_ms });
        self.mark_dirty(instance);
    }

    /// Whether it ended because one of its files reached its limit, which is the total limit of the
    /// task.
    pub(super) fn disk_failure(
        &self,
        instance: Instance,
        ended: &CommandExit,
    ) -> Option<FailureCause> {
        let limit_bytes = self.disk_limit(instance)?;
        if ended.status != CommandStatus::Signal(Signal::SIGXFSZ as i32) {
            return None;
        }
        let why = Explanation::of(Code::FileLimitReached, &[&limit_bytes]);
        Some(FailureCause::DiskLimitExceeded(why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn amount(name: &str, milli: i64) -> v1::Resource {
        v1::Resource {
            name: name.to_owned(),
            value: Some(v1::resource::Value::ScalarMilli(milli)),
            ..v1::Resource::default()
        }
    }

    #[test]
    fn disk_limits_are_requested_mebibytes() {
        let limit = |resources: &[v1::Resource]| {
            limit_bytes(&v1::TaskSpec {
                resources: resources.to_vec(),
                ..v1::TaskSpec::default()
            })
        };
        assert_eq!(limit(&[amount("mem", 1_000)]), None);
        assert_eq!(limit(&[amount("disk", 0)]), None);
        assert_eq!(limit(&[amount("disk", 1_500)]), Some(3 * MIB / 2));
        let reserved = [amount("disk", 1_000), amount("disk", 2_000)];
        assert_eq!(
            limit(&reserved),
            Some(3 * MIB),
            "some of it may be reserved"
        );
        assert_eq!(limit(&[amount("disk", -5)]), None);
        assert!(limit(&[amount("disk", i64::MAX)]).is_some());
    }

    #[test]
    fn the_default_disk_limit_applies_without_a_request() {
        let mut task = v1::TaskSpec::default();
        let agents = DiskDefault(7 * MIB);
        assert_eq!(agents.limit_bytes(&task), Some(7 * MIB));
        assert_eq!(DiskDefault(0).limit_bytes(&task), None);
        task.executor = Some(v1::ExecutorSpec::default());
        assert_eq!(agents.limit_bytes(&task), None);
        task.resources = vec![amount("disk", 9_000)];
        assert_eq!(agents.limit_bytes(&task), Some(9 * MIB));
    }
}
