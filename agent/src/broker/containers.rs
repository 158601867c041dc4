//! The agent's requests that create and end one container.

use argosy_isolation::User;
use argosy_state::ids::TaskKey;

use super::client::{Broker, Done, number, senseless};
use super::request::{Request, TaskContainer};
use crate::core::ContainerName;

impl Broker {
    pub(crate) fn make_container(&self, name: ContainerName) -> Done {
        self.done(Request::MakeContainer(name))
    }

    pub(crate) fn void(&self, name: ContainerName) -> Done {
        self.done(Request::Void(name))
    }

    pub(crate) fn destroy(&self, name: ContainerName) -> Done {
        self.done(Request::Destroy(name))
    }

    /// Allocates host user ids for a task, creates the directories of its container, and returns
    /// the first of the ids. `user` is its owner among them.
    pub(crate) fn begin(
        &self,
        key: &TaskKey,
        (name, holder): (ContainerName, ContainerName),
        user: User,
    ) -> Done<u32> {
        let at = TaskContainer::new(key, name);
        let first = number(self.plain(Request::Begin { at, holder, user })?)?;
        u32::try_from(first).map_err(|_| senseless())
    }

    /// Ends a container and releases its host resources. With `is_ended` its supervisor has exited
    /// normally.
    pub(crate) fn release(&self, name: ContainerName, is_ended: bool) -> Done {
        self.done(Request::Release { name, is_ended })
    }

    pub(crate) fn remove_container(&self, name: ContainerName) -> Done {
        self.done(Request::RemoveContainer(name))
    }
}
