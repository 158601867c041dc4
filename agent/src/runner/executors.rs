//! What the container of an executor has that others have not: a place to meet its agent, and limits that change.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use argosy_isolation::{Group, MissingPolicy, User};
use argosy_proto::v1;

use super::description::{command_user, failed};
use super::limits::limits;
use super::{Runner, Shared, imaged};
use crate::core::{ContainerName, Instance, Refusal, Start};
use crate::executors::{Guest, Place};

/// How many users of the host one container has.
const USERS: u32 = 65_536;

/// Makes the place of an executor, for its container to see; `None` for any other container.
pub(super) fn place(
    shared: &Shared,
    start: &Start,
    task: &v1::TaskSpec,
    user: Option<&User>,
) -> Result<Option<PathBuf>, Refusal> {
    if task.executor.is_none() {
        return Ok(None);
    }
    let own = nix::unistd::geteuid().as_raw();
    let guest = match &shared.host_ids {
        // Its files are its container's by mapped owners, so that on the disk they have the container's numbers.
        Some(host_ids) => {
            let taken = host_ids.take(start.name);
            let first = taken.map_err(|error| failed(error.to_string()))?;
            let inside = command_user(user).uid;
            // Whom an image names is known only inside.
            let is_known = imaged::image_of(task).is_empty();
            Guest {
                owner: is_known.then_some(inside),
                peers: if is_known {
                    first + inside..=first + inside
                } else {
                    first..=first + (USERS - 1)
                },
                is_hidden: true,
            }
        }
        None => {
            let uid = user.map_or(own, |user| user.uid);
            Guest {
                owner: Some(uid),
                peers: uid..=uid,
                is_hidden: false,
            }
        }
    };
    let folder = shared.paths.executor(start.name);
    let made = Place::new(folder.clone()).make(&guest);
    made.map_err(|error| {
        let folder = folder.display();
        failed(format!(
            "cannot make {folder}, where it would meet its agent: {error}"
        ))
    })?;
    Ok(Some(folder))
}

/// What an executor is told by its environment beside what tasks are.
pub(super) fn variables(shared: &Shared, start: &Start) -> Vec<(String, String)> {
    let spec = start.launch.spec.as_ref();
    if spec.is_none_or(|spec| spec.executor.is_none()) {
        let task = start.key.task.to_string();
        return vec![("ARGOSY_TASK_ID".to_owned(), task)];
    }
    let place = Place::new(shared.paths.executor(start.name));
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    let all = [
        ("ARGOSY_EXECUTOR_ID", start.key.task.to_string()),
        ("ARGOSY_EXECUTOR_SOCKET", text(place.socket())),
        ("ARGOSY_EXECUTOR_TOKEN_FILE", text(place.token_file())),
    ];
    all.map(|(name, value)| (name.to_owned(), value)).into()
}

/// Changes of limits that are under way.
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

fn holds_more(group: &Group, limit_bytes: Option<u64>) -> bool {
    let held = std::fs::read_to_string(group.path().join("memory.current"));
    let held = held.ok().and_then(|text| text.trim().parse::<u64>().ok());
    held.zip(limit_bytes)
        .is_some_and(|(held, limit)| held > limit)
}

impl Runner {
    /// Writes the limits of a running container anew; the last word wins, whichever thread is first.
    pub(super) fn limit(&mut self, name: ContainerName, launch: Arc<v1::LaunchOrder>) {
        let Some((group, spec)) = self.shared.group(name).zip(launch.spec.clone()) else {
            return;
        };
        // Neither an executor nor its tasks have limits of disks.
        let no_disk = |name: &str| Err(format!("executors name no disks, and not {name}"));
        let Ok(mut limits) = limits(&spec, self.shared.settings.pids_max, no_disk) else {
            return;
        };
        let (number, applied) = self.changes.next(name.instance);
        let shared = self.shared.clone();
        self.spawn(async move {
            let slot = shared.slots.acquire().await;
            let written = tokio::task::spawn_blocking(move || {
                let mut newest = applied.lock().unwrap_or_else(PoisonError::into_inner);
                if *newest >= number {
                    return Ok(());
                }
                *newest = number;
                if holds_more(&group, limits.memory_max_bytes) {
                    // What it holds of tasks that have ended is not the end of the others.
                    (limits.memory_high_bytes, limits.memory_max_bytes) = (None, None);
                }
                // What the host lacks was accepted at the start.
                limits
                    .apply(group.path(), MissingPolicy::AllowMissing)
                    .map(drop)
            });
            let written = written.await.expect("writing limits never panics");
            drop(slot);
            if let Err(error) = written {
                // It may just have ended, and its group with it.
                let why = crate::error::sentence(&error);
                tracing::warn!(container = %name, why, "limits of a container cannot be changed");
            }
        });
    }
}
