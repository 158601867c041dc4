//! The disk limit of a task, and the end of a task that exceeds it. Containers of executors:
//! `executors/lifecycle.rs`.
//!
//! Usage is measured elsewhere (`disk`), from the fetch of the files or the start of the command
//! on, and again after a restart of the agent.

use argosy_state::task::{Code, Explanation, Reason, TaskSpec, TaskState};
use nix::sys::signal::Signal;

use super::Core;
use super::effect::ContainerEffect;
use super::facts::{Instance, TaskFacts};
use super::input::{CommandExit, CommandStatus};
use super::lifecycle::InstancePhase;
use super::outcome::{FailureCause, TaskEnd};

/// Bytes of a MiB, the unit of `disk`.
const MIB: u64 = 1024 * 1024;

/// Returns a disk limit in bytes, from thousandths of `disk`; `None` if none is requested.
pub(crate) fn limit_bytes(milli: u64) -> Option<u64> {
    (milli > 0).then(|| milli.saturating_mul(MIB) / 1_000)
}

/// Returns the disk limit of a task in bytes; `None` if it requests no `disk`.
fn requested_bytes(spec: &TaskSpec) -> Option<u64> {
    limit_bytes(spec.resources.scalar_milli("disk").try_into().unwrap_or(0))
}

/// Disk limit of tasks that request no `disk`, in bytes; 0 means no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskDefault(pub u64);

impl DiskDefault {
    /// Returns the disk limit of a task, in bytes. A task of an executor has no default: the
    /// container of the executor has one.
    fn limit_bytes(self, spec: &TaskSpec) -> Option<u64> {
        match spec.executor {
            Some(_) => requested_bytes(spec),
            None => self.or(requested_bytes(spec)),
        }
    }

    /// Returns the requested amount, or else the default, in bytes.
    pub(crate) fn or(self, requested_bytes: Option<u64>) -> Option<u64> {
        requested_bytes.or((self.0 > 0).then_some(self.0))
    }
}

impl Core {
    /// Starts to measure the disk usage of a task whose files are fetched, or whose command runs.
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
        let spec = spec.map(|task| &task.launch.spec);
        let group = self.led(instance);
        let is_alone = spec.is_some_and(|spec| spec.host_paths.is_empty() && spec.group.is_none());
        let requested_bytes = spec.and_then(requested_bytes).unwrap_or(0);
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
        self.config.disk_default.limit_bytes(&task.launch.spec)
    }

    /// Kills a task that exceeds its disk limit without a grace period, in which it would only
    /// write more, as soon as an update with the reason is on disk. A task whose files are being
    /// fetched never starts. If it has already ended, and its group directory has grown since,
    /// another task of the group is killed.
    pub(super) fn disk_limit_exceeded(&mut self, first: Instance, mut why: Explanation) {
        if self.phase(first) == Some(InstancePhase::Fetching) {
            self.effects.push(ContainerEffect::CancelFetch(first));
            let end = TaskEnd::by_agent(TaskState::Failed, Reason::LimitDisk, why);
            return self.end(first, end);
        }
        let running = (self.phase(first) == Some(InstancePhase::Running)).then_some(first);
        let Some(instance) = running.or_else(|| self.answerable(first)) else {
            return;
        };
        if let Some(task) = self.facts.tasks.get(&first).filter(|_| instance != first) {
            why = Explanation::of(Code::GroupDirectory, &[&task.key.task]).then(why);
        }
        let Some(state) = self.instances.get_mut(&instance) else {
            return;
        };
        let failure = FailureCause::DiskLimitExceeded(why);
        let failure = state.failure.get_or_insert(failure);
        let is_cause = matches!(failure, FailureCause::DiskLimitExceeded(_));
        self.stop_checks(instance);
        self.mark_dirty(instance);
        // Otherwise the update performs the kill: see `update`.
        if !is_cause || !self.is_excess_recorded(instance) {
            let grace_ms = 0;
            self.effects
                .push(ContainerEffect::Kill { instance, grace_ms });
        }
    }

    /// Returns whether an update reports, or will report, why a running task is killed. No update
    /// does if the task is being killed for another reason, and a full disk may store none.
    fn is_excess_recorded(&self, instance: Instance) -> bool {
        let task = self.facts.tasks.get(&instance);
        let has_update =
            task.is_some_and(|task| task.failure.is_some() || task.state != TaskState::Killing);
        has_update && !self.is_unwanted(instance) && !self.durability.is_full()
    }

    /// Returns the grace period of a kill in milliseconds: none for a task that exceeds its disk
    /// limit.
    pub(super) fn grace_ms(&self, instance: Instance) -> u64 {
        let state = self.instances.get(&instance);
        match state.and_then(|state| state.failure.as_ref()) {
            Some(FailureCause::DiskLimitExceeded(_)) => 0,
            Some(FailureCause::DeadlineExceeded | FailureCause::Unhealthy(_)) | None => {
                let task = self.facts.tasks.get(&instance);
                task.map_or(0, TaskFacts::grace_ms)
            }
        }
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
    use argosy_state::ids::TaskId;
    use argosy_state::task::{CommandSpec, ExecutorSpec};

    use super::*;

    fn task(resources: &str) -> TaskSpec {
        TaskSpec {
            resources: resources.parse().unwrap(),
            ..TaskSpec::new(TaskId::new("t").unwrap(), CommandSpec::Image)
        }
    }

    #[test]
    fn disk_limits_are_requested_mebibytes() {
        let limit = |resources| requested_bytes(&task(resources));
        assert_eq!(limit("mem:1"), None);
        assert_eq!(limit("disk:0"), None);
        assert_eq!(limit("disk:1.5"), Some(3 * MIB / 2));
        let mut reserved = task("disk:1");
        let mut other = reserved.resources.iter().next().unwrap().clone();
        other.identity.revocable = true;
        other.value = argosy_state::resources::Value::Scalar(2_000);
        reserved.resources.add(&other).unwrap();
        assert_eq!(
            requested_bytes(&reserved),
            Some(3 * MIB),
            "some of it may be reserved"
        );
        assert!(limit_bytes(u64::MAX).is_some());
    }

    #[test]
    fn the_default_disk_limit_applies_without_a_request() {
        let agents = DiskDefault(7 * MIB);
        assert_eq!(agents.limit_bytes(&task("")), Some(7 * MIB));
        assert_eq!(DiskDefault(0).limit_bytes(&task("")), None);
        let executor = ExecutorSpec {
            executor: TaskId::new("e").unwrap(),
            resources: argosy_state::resources::Resources::none(),
            run: CommandSpec::Image,
            container: argosy_state::task::Container::default(),
            environment: std::collections::BTreeMap::new(),
            user: String::new(),
            uris: Vec::new(),
            grace_ms: 0,
        };
        let mut hosted = task("");
        hosted.executor = Some(Box::new(executor));
        assert_eq!(agents.limit_bytes(&hosted), None);
        hosted.resources = "disk:9".parse().unwrap();
        assert_eq!(agents.limit_bytes(&hosted), Some(9 * MIB));
    }
}
