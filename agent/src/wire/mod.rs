//! Conversion between messages of the wire and the types of the core. The links to masters and
//! executors, the journal and the containers use it; the core never sees a wire message.
//!
//! Reading order: `launches`, `updates`, `masters`, `executors`.

mod executors;
mod launches;
mod masters;
#[cfg(test)]
mod tests;
mod updates;

use argosy_proto::v1;
use argosy_state::task::TaskState;

pub use executors::{executor_task, executor_update, to_executor};
pub use launches::{launch, launch_from};
pub(crate) use masters::ticket_keys;
pub use masters::{from_master, hello, to_master};

pub(crate) use updates::{task_state, update, update_from};

/// Returns a state on the wire.
pub(crate) fn state_number(state: TaskState) -> i32 {
    v1::TaskState::from(state).into()
}

/// Returns the disk limit of a task in bytes; `None` if it requests no `disk`.
pub(crate) fn disk_limit_bytes(task: &v1::TaskSpec) -> Option<u64> {
    let named = task.resources.iter();
    let named = named.filter(|resource| resource.name == "disk");
    let milli = named.filter_map(|resource| match resource.value {
        Some(v1::resource::Value::ScalarMilli(milli)) => u64::try_from(milli).ok(),
        Some(v1::resource::Value::Ranges(_) | v1::resource::Value::Set(_)) | None => None,
    });
    crate::core::disk_limit_bytes(milli.fold(0, u64::saturating_add))
}
