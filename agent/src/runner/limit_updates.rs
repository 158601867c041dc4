//! Limits that change while a container runs: those of a task by an order, those of an executor
//! with its tasks.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use argosy_isolation::{Cgroup, Limits, MissingControllers, MissingPolicy};
use argosy_proto::convert::limits_from;
use argosy_proto::v1;
use argosy_state::ids::OrderIndex;
use argosy_state::task::{Code, Explanation};

use super::disks::disk_of;
use super::limits::{explicit_limits, limits};
use super::{Runner, RunnerState};
use crate::core::{ContainerName, Input, Instance, UnappliedLimits};

/// Changes in progress.
#[derive(Default)]
pub(super) struct LimitUpdates {
    /// The number of the newest change of each container.
    newest: HashMap<Instance, (u64, AppliedLimits)>,
}

/// The change that was applied last. A lock, since each is applied by a separate thread, which may
/// wait for the kernel to reclaim memory.
type AppliedLimits = Arc<Mutex<LastLimits>>;

#[derive(Default)]
struct LastLimits {
    number: u64,
    /// The limits that this run has applied; `None` if they are those of an earlier run.
    held: Option<v1::Limits>,
}

impl LimitUpdates {
    fn next(&mut self, instance: Instance) -> (u64, AppliedLimits) {
        let (number, applied) = self.newest.entry(instance).or_default();
        *number += 1;
        (*number, applied.clone())
    }

    pub(super) fn forget(&mut self, instance: Instance) {
        self.newest.remove(&instance);
    }
}

impl Runner {
    /// Writes the limits of a running container again; the newest change wins, in whatever order
    /// the threads run.
    pub(super) fn limit(
        &mut self,
        name: ContainerName,
        launch: Arc<v1::LaunchOrder>,
        order: Option<OrderIndex>,
    ) {
        let instance = name.instance;
        let (number, applied) = self.limit_updates.next(instance);
        let shared = self.shared.clone();
        self.spawn(async move {
            let slot = shared.slots.acquire().await;
            let worker = shared.clone();
            let written = tokio::task::spawn_blocking(move || {
                let mut newest = applied.lock().unwrap_or_else(PoisonError::into_inner);
                if newest.number >= number {
                    return None;
                }
                newest.number = number;
                let task = launch.spec.clone().unwrap_or_default();
                let written = match order {
                    Some(_) => worker.replace_limits(name, &launch, &task),
                    None => worker.follow_tasks(name, &task),
                };
                match &written {
                    Ok(()) => newest.held = Some(task.limits.unwrap_or_default()),
                    Err(LimitUpdateFailure { held: Some(part), .. }) => newest.held = Some((**part).clone()),
                    Err(LimitUpdateFailure { held: None, .. }) => {}
                }
                let held = newest.held.clone();
                Some(written.map_err(|LimitUpdateFailure { why, .. }| UnappliedLimits { why, held: held.map(limits_from) }))
            });
            let written = written.await.expect("writing limits never panics");
            drop(slot);
            match (written, order) {
                (Some(outcome), Some(order)) => {
                    let limited = Input::LimitsApplied {
                        instance,
                        order,
                        outcome,
                    };
                    shared.report(limited).await;
                }
                (Some(Err(UnappliedLimits { why, .. })), None) => {
                    // The container may just have ended, and its cgroup with it.
                    tracing::warn!(container = %name, %why, "limits of a container cannot be changed");
                }
                (Some(Ok(())), None) | (None, _) => {}
            }
        });
    }
}

impl RunnerState {
    /// Replaces all limits of a task's container.
    fn replace_limits(
        &self,
        name: ContainerName,
        launch: &v1::LaunchOrder,
        task: &v1::TaskSpec,
    ) -> Result<(), LimitUpdateFailure> {
        let key = crate::core::task_key(&launch.framework_id, &task.task_id);
        let key = key.ok_or_else(|| Explanation::from("it has no name"))?;
        let sandbox = self.paths.sandbox(&key, name);
        let limits = limits(task, self.settings.defaults, |disk| disk_of(disk, &sandbox))?;
        let explicit = explicit_limits(task, &limits);
        if self.tree.is_none() {
            return if explicit == Limits::default() {
                Ok(())
            } else {
                Err(LimitUpdateFailure {
                    why: Explanation::of(Code::ControlGroupsMissing, &[]),
                    held: Some(Box::default()),
                })
            };
        }
        let policy = match self.settings.allow_missing_controllers {
            true => MissingPolicy::AllowMissing,
            false => MissingPolicy::RequireAll,
        };
        let missing = self.broker.replace_limits(name, limits, policy)?;
        check_applied(
            &missing.needed_by(&explicit),
            task.limits.clone().unwrap_or_default(),
        )
    }

    /// Applies the limits of an executor's container, which follow from its tasks.
    fn follow_tasks(
        &self,
        name: ContainerName,
        task: &v1::TaskSpec,
    ) -> Result<(), LimitUpdateFailure> {
        // Neither an executor nor its tasks have disk I/O limits.
        let no_disk = |name: &str| Err(format!("executors must not name disks such as {name}"));
        let mut limits = limits(task, self.settings.defaults, no_disk)?;
        let Some(group) = self.group(name) else {
            return Ok(());
        };
        if exceeds_limit(&group, limits.memory_max_bytes) {
            // Memory that it holds for ended tasks must not kill the others.
            (limits.memory_high_bytes, limits.memory_max_bytes) = (None, None);
        }
        // Controllers that the host lacks were accepted at the start.
        let policy = MissingPolicy::AllowMissing;
        let applied = self.broker.apply_limits(name, limits, policy);
        applied.map(drop).map_err(LimitUpdateFailure::from)
    }
}

/// Limits that are not, or not all, in force.
#[derive(Debug, PartialEq)]
struct LimitUpdateFailure {
    why: Explanation,
    /// Those that are in force; `None`: the former limits.
    held: Option<Box<v1::Limits>>,
}

impl From<Explanation> for LimitUpdateFailure {
    fn from(why: Explanation) -> Self {
        Self { why, held: None }
    }
}

/// The failure that a message of the broker describes.
impl From<String> for LimitUpdateFailure {
    fn from(why: String) -> Self {
        Explanation::from(why).into()
    }
}

/// Checks the applied limits. A host may lack controllers if its operator allows that; then limits
/// that need them are not in force.
fn check_applied(
    missing: &MissingControllers,
    wanted: v1::Limits,
) -> Result<(), LimitUpdateFailure> {
    if missing.controllers.is_empty() {
        return Ok(());
    }
    let names = missing.controllers.join(", ");
    let mut part = wanted;
    for name in &missing.controllers {
        match name.as_str() {
            "cpu" => part.cpu_millis = None,
            "memory" => part.memory_bytes = None,
            "pids" => part.pids = None,
            "io.weight" => part.io_weight = None,
            "io.max" => part.io.clear(),
            "io" => {
                part.io_weight = None;
                part.io.clear();
            }
            // These limits cannot change.
            _ => {}
        }
    }
    Err(LimitUpdateFailure {
        why: Explanation::of(Code::ControllersMissing, &[&names]),
        held: Some(Box::new(part)),
    })
}

fn exceeds_limit(group: &Cgroup, limit_bytes: Option<u64>) -> bool {
    let held = std::fs::read_to_string(group.path().join("memory.current"));
    let held = held.ok().and_then(|text| text.trim().parse::<u64>().ok());
    held.zip(limit_bytes)
        .is_some_and(|(held, limit)| held > limit)
}

#[cfg(test)]
mod tests {
    use argosy_state::task::Cause;

    use super::*;

    #[test]
    fn limits_without_controllers_are_named_and_not_in_force() {
        let wanted = v1::Limits {
            cpu_millis: Some(500),
            memory_bytes: Some(1 << 20),
            pids: Some(9),
            io_weight: Some(10),
            io: vec![v1::DiskLimit::default()],
            exclusive_cpus: true,
        };
        assert_eq!(
            check_applied(&MissingControllers::default(), wanted.clone()),
            Ok(())
        );
        let missing = MissingControllers {
            controllers: vec!["cpu".to_owned(), "io".to_owned()],
        };
        let LimitUpdateFailure { why, held: part } =
            check_applied(&missing, wanted.clone()).unwrap_err();
        assert_eq!(
            why.causes,
            [Cause::new(Code::ControllersMissing, &[&"cpu, io"])]
        );
        let expected = v1::Limits {
            cpu_millis: None,
            io_weight: None,
            io: Vec::new(),
            ..wanted
        };
        assert_eq!(part.as_deref(), Some(&expected));
    }
}
