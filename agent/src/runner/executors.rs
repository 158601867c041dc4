//! The additional mounts and variables of an executor's container: the directory with the agent's
//! socket.

use std::path::PathBuf;

use argosy_isolation::User;
use argosy_proto::v1;
use argosy_state::task::{Code, Explanation};

use super::description::{command_user, failed};
use super::{Shared, image_rootfs};
use crate::core::{Refusal, Start};
use crate::executors::{Guest, Place};

/// Number of host user ids of one container.
const USERS: u32 = 65_536;

/// Creates the socket directory of an executor, for its container; `None` for any other container.
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
    let guest = match shared.settings.profile {
        // Its container owns its files by an id-mapped mount, so on disk they have the container's
        // ids.
        true => {
            let first = shared.broker.take_users(start.name).map_err(failed)?;
            let inside = command_user(user).uid;
            // The user of an image is known only inside the container.
            let is_known = image_rootfs::image_of(task).is_empty();
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
        false => {
            let uid = user.map_or(own, |user| user.uid);
            Guest {
                owner: Some(uid),
                peers: uid..=uid,
                is_hidden: false,
            }
        }
    };
    let folder = shared.paths.executor(start.name);
    let made = shared.broker.make_place(start.name, &guest);
    made.map_err(|error| {
        let unmet = Explanation::of(Code::ExecutorUnmet, &[&folder.display()]);
        failed(unmet.saying(error))
    })?;
    Ok(Some(folder))
}

/// Returns the environment variables of an executor in addition to those of tasks.
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
