//! The additional mounts and variables of an executor's container: the directory with the agent's
//! socket.

use std::path::PathBuf;

use argosy_isolation::{ContainerUser, Isolation};
use argosy_proto::v1;
use argosy_state::task::{Code, Explanation};

use super::description::{command_user, failed};
use super::requests::ContainerStart;
use super::{RunnerState, image_rootfs};
use crate::broker_client::DirectoryAccess;
use crate::core::CreateError;
use crate::executors::ExecutorDirectory;

/// Number of host user ids of one container.
const HOST_IDS: u32 = 65_536;

/// Creates the socket directory of an executor, for its container; `None` for any other container.
pub(super) fn socket_directory(
    shared: &RunnerState,
    start: &ContainerStart,
    task: &v1::TaskSpec,
    user: Option<&ContainerUser>,
) -> Result<Option<PathBuf>, CreateError> {
    if task.executor.is_none() {
        return Ok(None);
    }
    let guest = match shared.settings.isolation {
        // Its container owns its files by an id-mapped mount, so on disk they have the container's
        // ids.
        Isolation::Full => {
            let first = shared.broker.allocate_ids(start.name).map_err(failed)?;
            let inside = command_user(user).uid;
            // The user of an image is known only inside the container.
            let is_known = image_rootfs::image_of(task).is_empty();
            DirectoryAccess {
                owner: is_known.then_some(inside),
                peers: if is_known {
                    first + inside..=first + inside
                } else {
                    first..=first + (HOST_IDS - 1)
                },
                is_hidden: true,
            }
        }
        // It runs as the agent's user.
        Isolation::UserNamespaces | Isolation::Processes => {
            let uid = nix::unistd::geteuid().as_raw();
            DirectoryAccess {
                owner: Some(uid),
                peers: uid..=uid,
                is_hidden: false,
            }
        }
    };
    let directory = shared.paths.executor(start.name);
    let made = shared.broker.make_socket_dir(start.name, &guest);
    made.map_err(|error| {
        let unmet = Explanation::of(Code::ExecutorUnmet, &[&directory.display()]);
        failed(unmet.with_detail(error))
    })?;
    Ok(Some(directory))
}

/// Returns the environment variables of an executor in addition to those of tasks.
pub(super) fn variables(shared: &RunnerState, start: &ContainerStart) -> Vec<(String, String)> {
    let spec = start.launch.spec.as_ref();
    if spec.is_none_or(|spec| spec.executor.is_none()) {
        let task = start.key.task.to_string();
        return vec![("ARGOSY_TASK_ID".to_owned(), task)];
    }
    let place = ExecutorDirectory::new(shared.paths.executor(start.name));
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    let all = [
        ("ARGOSY_EXECUTOR_ID", start.key.task.to_string()),
        ("ARGOSY_EXECUTOR_SOCKET", text(place.socket())),
        ("ARGOSY_EXECUTOR_TOKEN_FILE", text(place.token_file())),
    ];
    all.map(|(name, value)| (name.to_owned(), value)).into()
}
