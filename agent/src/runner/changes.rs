//! Limits that change while a container runs: those of a task by an order, those of an executor with its tasks.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use argosy_isolation::{Group, Limits, Missing, MissingPolicy};
use argosy_proto::v1;
use argosy_state::ids::OrderIndex;

use super::disks::disk_of;
use super::limits::{limits, named};
use super::{Runner, Shared};
use crate::core::{ContainerName, Input, Instance};
use crate::error::sentence;

/// Changes that are under way.
#[derive(Default)]
pub(super) struct Changes {
    /// By container, the number of the newest change.
    newest: HashMap<Instance, (u64, Applied)>,
}

/// The number of the change that was applied last. A lock, since each is applied by a thread of its own, which may wait
/// for the kernel to take memory back.
type Applied = Arc<Mutex<u64>>;

impl Changes {
    fn next(&mut self, instance: Instance) -> (u64, Applied) {
        let (number, applied) = self.newest.entry(instance).or_default();
        *number += 1;
        (*number, applied.clone())
    }

    pub(super) fn forget(&mut self, instance: Instance) {
        self.newest.remove(&instance);
    }
}

impl Runner {
    /// Writes the limits of a running container anew; the last word wins, whichever thread is first.
    pub(super) fn limit(
        &mut self,
        name: ContainerName,
        launch: Arc<v1::LaunchOrder>,
        order: Option<OrderIndex>,
    ) {
        let instance = name.instance;
        let (number, applied) = self.changes.next(instance);
        let shared = self.shared.clone();
        self.spawn(async move {
            let slot = shared.slots.acquire().await;
            let worker = shared.clone();
            let written = tokio::task::spawn_blocking(move || {
                let mut newest = applied.lock().unwrap_or_else(PoisonError::into_inner);
                if *newest >= number {
                    return None;
                }
                *newest = number;
                let task = launch.spec.clone().unwrap_or_default();
                Some(match order {
                    Some(_) => worker.replace_limits(name, &launch, &task),
                    None => worker.follow_tasks(name, &task),
                })
            });
            let written = written.await.expect("writing limits never panics");
            drop(slot);
            match (written, order) {
                (Some(outcome), Some(order)) => {
                    let limited = Input::Limited {
                        instance,
                        order,
                        outcome,
                    };
                    shared.tell(limited).await;
                }
                (Some(Err(why)), None) => {
                    // It may just have ended, and its group with it.
                    tracing::warn!(container = %name, why, "limits of a container cannot be changed");
                }
                (Some(Ok(())), None) | (None, _) => {}
            }
        });
    }
}

impl Shared {
    /// All limits of a task's container; in words which are not kept.
    fn replace_limits(
        &self,
        name: ContainerName,
        launch: &v1::LaunchOrder,
        task: &v1::TaskSpec,
    ) -> Result<(), String> {
        let key = crate::core::task_key(&launch.framework_id, &task.task_id);
        let key = key.ok_or("it has no name")?;
        let sandbox = self.paths.sandbox(&key, name);
        let limits = limits(task, self.settings.pids_max, |disk| disk_of(disk, &sandbox))?;
        let asked = named(task, &limits);
        let Some(group) = self.group(name) else {
            let none =
                "the containers of this agent have no control groups: no limit of theirs is kept";
            return if asked == Limits::default() {
                Ok(())
            } else {
                Err(none.to_owned())
            };
        };
        let policy = match self.settings.allow_missing_controllers {
            true => MissingPolicy::AllowMissing,
            false => MissingPolicy::RequireAll,
        };
        let missing = limits.replace(group.path(), policy);
        let missing = missing.map_err(|error| sentence(&error))?;
        kept(&missing.of(&asked))
    }

    /// What bounds an executor's container follows from its tasks.
    fn follow_tasks(&self, name: ContainerName, task: &v1::TaskSpec) -> Result<(), String> {
        // Neither an executor nor its tasks have limits of disks.
        let no_disk = |name: &str| Err(format!("executors name no disks, and not {name}"));
        let mut limits = limits(task, self.settings.pids_max, no_disk)?;
        let Some(group) = self.group(name) else {
            return Ok(());
        };
        if holds_more(&group, limits.memory_max_bytes) {
            // What it holds of tasks that have ended is not the end of the others.
            (limits.memory_high_bytes, limits.memory_max_bytes) = (None, None);
        }
        // What the host lacks was accepted at the start.
        let applied = limits.apply(group.path(), MissingPolicy::AllowMissing);
        applied.map(drop).map_err(|error| sentence(&error))
    }
}

/// A host may lack controllers with its operator's leave; then what was asked for of them is not kept.
fn kept(missing: &Missing) -> Result<(), String> {
    if missing.controllers.is_empty() {
        return Ok(());
    }
    let names = missing.controllers.join(", ");
    Err(format!(
        "this host has no cgroup controllers {names}, and does not keep what needs them; the rest is in force"
    ))
}

fn holds_more(group: &Group, limit_bytes: Option<u64>) -> bool {
    let held = std::fs::read_to_string(group.path().join("memory.current"));
    let held = held.ok().and_then(|text| text.trim().parse::<u64>().ok());
    held.zip(limit_bytes)
        .is_some_and(|(held, limit)| held > limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_host_cannot_keep_is_named() {
        assert_eq!(kept(&Missing::default()), Ok(()));
        let missing = Missing {
            controllers: vec!["cpu".to_owned(), "io".to_owned()],
        };
        let why = kept(&missing).unwrap_err();
        assert!(why.contains("no cgroup controllers cpu, io"), "{why}");
    }
}
