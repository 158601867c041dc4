//! Starts of containers, with the messages of the wire: descriptions of tasks are read from these.

use std::sync::Arc;

use argosy_proto::{convert, v1};
use argosy_state::ids::{TaskKey, Timestamp};

use super::task_secrets::DeliveredSecrets;
use crate::core::{self, ContainerName, GroupNetwork};
use crate::wire;

/// The description of a container to start: see [`core::ContainerStart`].
#[derive(Debug, Clone)]
pub(super) struct ContainerStart {
    pub(super) name: ContainerName,
    pub(super) key: TaskKey,
    pub(super) launch: Arc<v1::LaunchOrder>,
    pub(super) stop_at: Option<Timestamp>,
    pub(super) group: Option<Box<GroupStart>>,
    /// The containers and groups after whose removal it starts.
    pub(super) predecessors: Vec<ContainerName>,
    /// The secrets of the registry that it uses; `None` until they are received.
    pub(super) secrets: Option<Arc<DeliveredSecrets>>,
}

/// The resources that the containers of a group share: see [`core::GroupStart`].
#[derive(Debug, Clone)]
pub(super) struct GroupStart {
    pub(super) name: ContainerName,
    pub(super) id: String,
    /// `None` means the agent's default.
    pub(super) network: Option<v1::Network>,
    pub(super) first: Option<(ContainerName, TaskKey)>,
}

impl ContainerStart {
    /// Returns the name that owns its shareable resources: host user ids, and a network.
    pub(super) fn resource_owner(&self) -> ContainerName {
        self.group.as_ref().map_or(self.name, |group| group.name)
    }
}

impl From<core::ContainerStart> for ContainerStart {
    fn from(start: core::ContainerStart) -> Self {
        Self {
            name: start.name,
            key: start.key,
            launch: launch(&start.launch, &start.task_amounts),
            stop_at: start.stop_at,
            group: start.group.map(|group| Box::new((*group).into())),
            predecessors: start.predecessors,
            secrets: None,
        }
    }
}

impl From<core::GroupStart> for GroupStart {
    fn from(group: core::GroupStart) -> Self {
        let GroupNetwork { network, is_host } = group.network;
        Self {
            name: group.name,
            id: group.id.to_string(),
            network: convert::network(&network, is_host),
            first: group.first,
        }
    }
}

/// Returns a launch order whose resources include these amounts.
pub(super) fn launch(
    order: &core::LaunchOrder,
    task_amounts: &[argosy_state::resources::Resource],
) -> Arc<v1::LaunchOrder> {
    let mut launch = wire::launch(order);
    if let Some(spec) = &mut launch.spec {
        let amounts = task_amounts.iter().map(convert::resource);
        spec.resources.extend(amounts);
    }
    Arc::new(launch)
}
