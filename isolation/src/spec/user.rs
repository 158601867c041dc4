//! Users of commands, by numbers and by names.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::error::SpecError;

/// The user of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerUser {
    /// User id: with a profile in the container's user namespace, else on the host.
    pub uid: u32,
    /// Id of the main group.
    pub gid: u32,
    /// All supplementary groups; the agent's groups are dropped.
    pub groups: Vec<u32>,
}

impl ContainerUser {
    /// Whether it is root, or in root's group.
    pub fn is_of_root(&self) -> bool {
        self.uid == 0 || self.gid == 0 || self.groups.contains(&0)
    }

    /// Returns whether both have the same user id and the same groups: none has rights that the
    /// other lacks. Accounts may list the main group among the supplementary ones or not.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let groups = |user: &Self| -> BTreeSet<u32> {
            let groups = user.groups.iter().copied();
            groups.chain([user.gid]).collect()
        };
        self.uid == other.uid && self.gid == other.gid && groups(self) == groups(other)
    }

    /// Returns the host user of a container's user, for a container whose ids start at `first`.
    #[must_use]
    pub fn on_host(&self, first: u32) -> Self {
        Self {
            uid: first + self.uid,
            gid: first + self.gid,
            groups: self.groups.iter().map(|group| first + group).collect(),
        }
    }

    /// Looks up the user of this name in the host's user database, with its groups. Not for the
    /// launcher.
    ///
    /// # Errors
    /// If there is no such user.
    pub fn named(name: &str) -> Result<Self, SpecError> {
        let unknown = || SpecError::new("user", name, "name a user that exists on this host");
        let plain = std::ffi::CString::new(name).map_err(|_| unknown())?;
        let user = nix::unistd::User::from_name(name)
            .ok()
            .flatten()
            .ok_or_else(unknown)?;
        let groups = nix::unistd::getgrouplist(&plain, user.gid).map_err(|_| unknown())?;
        Ok(Self {
            uid: user.uid.as_raw(),
            gid: user.gid.as_raw(),
            groups: groups.into_iter().map(nix::unistd::Gid::as_raw).collect(),
        })
    }
}

/// The requested user of a command: `USER` or `USER:GROUP`, each a name or a number.
pub(crate) struct UserSpec<'a> {
    pub(crate) user: &'a str,
    pub(crate) group: Option<&'a str>,
}

impl<'a> UserSpec<'a> {
    /// Returns `None` if the text is invalid. Empty text means root, as in images.
    pub(crate) fn parse(text: &'a str) -> Option<Self> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        let plain = |name: &str| !name.contains([':', '\n', '\0']) && name.len() <= 256;
        let known = plain(user) && group.is_none_or(|group| plain(group) && !group.is_empty());
        let user = if user.is_empty() { "0" } else { user };
        known.then_some(Self { user, group })
    }
}
