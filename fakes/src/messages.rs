//! Parts of messages that fake masters read and send.

use argosy_proto::{convert, v1};
use argosy_state::resources::Resources;

/// Parses resources, such as `cpus:0.1;mem:32`.
pub(super) fn wire(text: &str) -> Vec<v1::Resource> {
    convert::resources(&text.parse().expect("a test writes valid resources"))
}

/// Adds up resources; `None` if they are invalid or overlap.
pub(super) fn resources(wire: &[v1::Resource]) -> Option<Resources> {
    convert::offered_from("resources", wire).ok()
}

/// Returns whether a task has ended.
pub(super) fn has_ended(task: &v1::TaskStatus) -> bool {
    convert::state_from(task.state).is_ok_and(|state| state.is_terminal())
}

/// Returns the options that agents of the fake cluster allow: the host's network.
pub(super) fn host_network() -> v1::OptOuts {
    v1::OptOuts {
        host_network: true,
        ..v1::OptOuts::default()
    }
}
