//! The agent's requests that create and end one container.

use argosy_isolation::ContainerUser;
use argosy_state::ids::TaskKey;

use super::client::{BrokerClient, BrokerResult, number, unexpected_reply};
use super::request::{BrokerRequest, TaskContainer};
use crate::core::ContainerName;

impl BrokerClient {
    pub(crate) fn make_container(&self, name: ContainerName) -> BrokerResult {
        self.done(BrokerRequest::MakeContainer(name))
    }

    pub(crate) fn void(&self, name: ContainerName) -> BrokerResult {
        self.done(BrokerRequest::CancelStart(name))
    }

    pub(crate) fn destroy(&self, name: ContainerName) -> BrokerResult {
        self.done(BrokerRequest::Destroy(name))
    }

    /// Allocates host user ids for a task, creates the directories of its container, and returns
    /// the first of the ids. `user` is its owner among them.
    pub(crate) fn begin(
        &self,
        key: &TaskKey,
        (name, holder): (ContainerName, ContainerName),
        user: ContainerUser,
    ) -> BrokerResult<u32> {
        let at = TaskContainer::new(key, name);
        let first = number(self.plain(BrokerRequest::Begin { at, holder, user })?)?;
        u32::try_from(first).map_err(|_| unexpected_reply())
    }

    /// Ends a container and releases its host resources. With `is_ended` its supervisor has exited
    /// normally.
    pub(crate) fn release(&self, name: ContainerName, is_ended: bool) -> BrokerResult {
        self.done(BrokerRequest::Release { name, is_ended })
    }

    pub(crate) fn remove_container(&self, name: ContainerName) -> BrokerResult {
        self.done(BrokerRequest::RemoveContainer(name))
    }
}
