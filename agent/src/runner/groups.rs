//! Shared resources of a task group: host user ids, a network namespace and a directory.
//!
//! User ids and networks are held under the group's name, as if it were a container, until the last
//! task is removed. The directory is kept as long as their sandboxes: see `gc`.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use argosy_host::crash_point;
use argosy_isolation::mounts::SHARED;
use argosy_isolation::{ContainerUser, LaunchSpec};
use argosy_state::ids::GroupId;

use super::requests::{ContainerStart, GroupStart};
use super::{RETRY_DELAY, Runner, RunnerState, removing};
use crate::broker_client::BrokerClient;
use crate::core::{ContainerName, Input};
use crate::sandbox::ParentDirMode;

/// The network namespaces of groups whose containers are being started by this run of the agent. A
/// later run needs none: it starts all tasks of a group again, or ends those that were started.
#[derive(Default)]
pub(super) struct GroupNamespaces {
    /// A lock, since containers are created by several threads; held while a namespace is created,
    /// so that only one exists.
    namespaces: Mutex<BTreeMap<ContainerName, (OwnedFd, Vec<IpAddr>)>>,
}

impl GroupNamespaces {
    /// Returns the group's namespace and addresses; the first of its containers creates them.
    pub(super) fn group_namespace(
        &self,
        name: ContainerName,
        take: impl FnOnce() -> Result<(OwnedFd, Vec<IpAddr>), String>,
    ) -> Result<(OwnedFd, Vec<IpAddr>), String> {
        let mut all = self.lock();
        let (namespace, addresses) = match all.remove(&name) {
            Some(known) => known,
            None => take()?,
        };
        let again = namespace
            .try_clone()
            .map_err(|error| format!("cannot keep a network namespace: {error}"));
        all.insert(name, (namespace, addresses.clone()));
        Ok((again?, addresses))
    }

    /// Does the same for a group without a network.
    pub(super) fn without_network(
        &self,
        name: ContainerName,
        broker: &BrokerClient,
    ) -> Result<(OwnedFd, Vec<IpAddr>), String> {
        let own = vec![Ipv4Addr::LOCALHOST.into()];
        self.group_namespace(name, || Ok((broker.network_alone()?, own)))
    }

    fn forget(&self, name: ContainerName) {
        self.lock().remove(&name);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ContainerName, (OwnedFd, Vec<IpAddr>)>> {
        self.namespaces
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Creates the directory that a container shares with its group, as a part of its first task's disk
/// usage, and passes both to the container. Does nothing for a container without a group.
pub(super) fn share_directory(
    shared: &RunnerState,
    start: &ContainerStart,
    owner: Option<&ContainerUser>,
    spec: &mut LaunchSpec,
) -> Result<(), String> {
    let Some(group) = start.group.as_deref() else {
        return Ok(());
    };
    let GroupStart {
        name, id, first, ..
    } = group;
    let id = GroupId::new(id).map_err(|error| format!("group: {error}"))?;
    let profile = spec.profile.is_some();
    let directory = shared
        .broker
        .share_group(&start.key, (&id, *name), first.as_ref(), owner)?;
    let seen = if profile {
        Path::new(SHARED)
    } else {
        directory.as_path()
    };
    let seen = seen.to_string_lossy().into_owned();
    let reported = [
        ("ARGOSY_GROUP_ID", id.to_string()),
        ("ARGOSY_GROUP_DIR", seen.clone()),
        // Its former name, for one more release.
        ("ARGOSY_GROUP_FOLDER", seen),
    ];
    for (name, value) in reported {
        spec.environment.retain(|(known, _)| known != name);
        spec.environment.push((name.to_owned(), value));
    }
    if profile {
        spec.shared_directory = Some(directory);
    }
    Ok(())
}

/// Creates the group directory, or takes the existing one. If it gets an owner, all users of the
/// group's containers may write to it, and the directories above exclude others; else it is only
/// for the agent's own user, as a sandbox.
pub(crate) fn make(
    directory: &Path,
    owner: Option<&ContainerUser>,
    above: ParentDirMode,
) -> io::Result<()> {
    let own = if owner.is_some() { 0o777 } else { 0o750 };
    above.make_below(directory, DirBuilder::new().mode(0o700))?;
    // Its owner is the first user that it is given to; an interrupted launch may not have set the
    // owner.
    let is_given = fs::metadata(directory)?.uid() != nix::unistd::geteuid().as_raw();
    if let Some(user) = owner.filter(|_| !is_given) {
        chown(directory, Some(user.uid), Some(user.gid))?;
    }
    fs::set_permissions(directory, Permissions::from_mode(own))
}

impl Runner {
    /// Releases the shared resources of a group whose containers are all removed.
    pub(super) fn destroy_group(&mut self, name: ContainerName) {
        self.meter.end_group(name.instance);
        let removal = self.removals.of(name);
        let shared = self.shared.clone();
        self.spawn(async move {
            loop {
                let worker = shared.clone();
                let released = tokio::task::spawn_blocking(move || worker.release_group(name));
                match released.await.expect("releasing a group never panics") {
                    Ok(()) => break,
                    Err(why) => {
                        tracing::warn!(group = %name, why, "shared resources of a group cannot be released yet");
                        tokio::time::sleep(RETRY_DELAY).await;
                    }
                }
            }
            removing::complete(&removal);
            shared.report(Input::Destroyed { name }).await;
        });
    }
}

impl RunnerState {
    fn release_group(self: Arc<Self>, name: ContainerName) -> Result<(), String> {
        self.groups.forget(name);
        self.broker.release_network(name)?;
        crash_point!("group.network-released");
        self.broker.release_ids(name)?;
        crash_point!("group.users-returned");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_containers_of_a_group_have_one_namespace() {
        let groups = GroupNamespaces::default();
        let name: ContainerName = "1-5-0".parse().unwrap();
        let take = || {
            let null = fs::File::open("/dev/null").unwrap();
            Ok((null.into(), vec![Ipv4Addr::new(10, 0, 0, 2).into()]))
        };
        let (_first, address) = groups.group_namespace(name, take).unwrap();
        let again = || panic!("it is taken once");
        assert_eq!(groups.group_namespace(name, again).unwrap().1, address);
        groups.forget(name);
        groups.group_namespace(name, take).unwrap();
    }

    #[test]
    fn group_directories_are_accessible_only_to_their_users() {
        let host = tempfile::tempdir().unwrap();
        let directory = host.path().join("groups/framework-1/pod/1-5-0");
        let above = ParentDirMode::own().without_others();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        make(&directory, None, above).unwrap();
        assert_eq!(mode(&directory), 0o750);
        assert_eq!(mode(directory.parent().unwrap()), 0o700);
        let user = ContainerUser {
            uid: nix::unistd::geteuid().as_raw(),
            gid: nix::unistd::getegid().as_raw(),
            groups: Vec::new(),
        };
        make(&directory, Some(&user), above).unwrap();
        assert_eq!(mode(&directory), 0o777);
    }
}
