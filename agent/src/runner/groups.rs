//! What the containers of a group have in common: users of the host, a network namespace and a folder.
//!
//! Users and networks are held under the group's own name, as if it were a container, until the last one is gone. The
//! folder stays as long as their sandboxes: see `gc`.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use argosy_isolation::network::{NetworkError, alone};
use argosy_isolation::view::SHARED;
use argosy_isolation::{Spec, User, crash};
use argosy_state::ids::GroupId;

use super::{Runner, Shared, TRY_AGAIN};
use crate::core::{ContainerName, GroupStart, Input, Start};

/// The network namespaces of groups whose containers are being started by this life of the agent. A later one needs none:
/// it starts all of a group anew, or ends what was started.
#[derive(Default)]
pub(super) struct Groups {
    /// A lock, since containers are made by several threads; held while a namespace is made, so that there is only one.
    namespaces: Mutex<BTreeMap<ContainerName, (OwnedFd, Vec<IpAddr>)>>,
}

impl Groups {
    /// The group's namespace and addresses; the first of its containers takes it.
    pub(super) fn joined(
        &self,
        name: ContainerName,
        take: impl FnOnce() -> Result<(OwnedFd, Vec<IpAddr>), NetworkError>,
    ) -> Result<(OwnedFd, Vec<IpAddr>), NetworkError> {
        let mut all = self.lock();
        let (namespace, addresses) = match all.remove(&name) {
            Some(known) => known,
            None => take()?,
        };
        let again = namespace
            .try_clone()
            .map_err(|source| NetworkError::Kernel {
                what: "keep a network namespace".to_owned(),
                source,
            });
        all.insert(name, (namespace, addresses.clone()));
        Ok((again?, addresses))
    }

    /// The same of a group that is alone.
    pub(super) fn alone(
        &self,
        name: ContainerName,
    ) -> Result<(OwnedFd, Vec<IpAddr>), NetworkError> {
        self.joined(name, || Ok((alone()?, vec![Ipv4Addr::LOCALHOST.into()])))
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

/// Makes the folder that a container shares with its group, as a part of its first task's disk, and tells the container of
/// both. Nothing for one without.
pub(super) fn share(
    shared: &Shared,
    start: &Start,
    owner: Option<&User>,
    spec: &mut Spec,
) -> Result<(), String> {
    let Some(group) = start.group.as_deref() else {
        return Ok(());
    };
    let GroupStart {
        name, id, first, ..
    } = group;
    let id = GroupId::new(id).map_err(|error| format!("group: {error}"))?;
    let on_its_own = first
        .as_ref()
        .and_then(|(first, _)| shared.bounds.group(*first));
    let folder = on_its_own.unwrap_or_else(|| shared.paths.group(start.key.framework, &id, *name));
    let profile = spec.profile.is_some();
    make(&folder, owner, profile).map_err(|error| {
        let folder = folder.display();
        format!("cannot make the group's folder {folder}: {error}; mend the disk or make room")
    })?;
    if let Some((first, key)) = first {
        let sandbox = shared.paths.sandbox(key, *first);
        shared.bounds.share(&sandbox, &folder)?;
    }
    let seen = if profile {
        Path::new(SHARED)
    } else {
        folder.as_path()
    };
    let told = [
        ("ARGOSY_GROUP_ID", id.to_string()),
        ("ARGOSY_GROUP_FOLDER", seen.to_string_lossy().into_owned()),
    ];
    for (name, value) in told {
        spec.environment.retain(|(known, _)| known != name);
        spec.environment.push((name.to_owned(), value));
    }
    if profile {
        spec.shared_folder = Some(folder);
    }
    Ok(())
}

/// One that is there already is taken. With the profile all users of the group's containers may write to it, and nobody
/// else comes near it; without, it is the first one's user's, as a sandbox is.
fn make(folder: &Path, owner: Option<&User>, profile: bool) -> io::Result<()> {
    let (above, own) = if profile {
        (0o700, 0o777)
    } else {
        (0o711, 0o750)
    };
    let parent = folder.parent().unwrap_or(folder);
    DirBuilder::new()
        .mode(above)
        .recursive(true)
        .create(parent)?;
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        Ok(()) | Err(_) => {}
    }
    // Its owner is the first that it is given to; a launch that was cut off may not have come to that.
    let is_given = fs::metadata(folder)?.uid() != nix::unistd::geteuid().as_raw();
    if let Some(user) = owner.filter(|_| !is_given) {
        chown(folder, Some(user.uid), Some(user.gid))?;
    }
    fs::set_permissions(folder, Permissions::from_mode(own))
}

impl Runner {
    /// Gives back what a group's containers had in common, which are all gone.
    pub(super) fn destroy_group(&self, name: ContainerName) {
        self.meter.end_group(name.instance);
        let shared = self.shared.clone();
        self.spawn(async move {
            loop {
                let worker = shared.clone();
                let released = tokio::task::spawn_blocking(move || worker.release_group(name));
                match released.await.expect("releasing a group never panics") {
                    Ok(()) => break,
                    Err(why) => {
                        tracing::warn!(group = %name, why, "what a group shared cannot be released yet");
                        tokio::time::sleep(TRY_AGAIN).await;
                    }
                }
            }
            shared.tell(Input::Destroyed { name }).await;
        });
    }
}

impl Shared {
    fn release_group(self: Arc<Self>, name: ContainerName) -> Result<(), String> {
        self.groups.forget(name);
        let released = self.bridges.release(name);
        released.map_err(|error| crate::error::sentence(&error))?;
        crash::passed("group.network-released");
        let given_back = self.host_ids.as_ref().map(|ids| ids.give_back(name));
        let given_back = given_back.transpose().map(drop);
        given_back.map_err(|error| error.to_string())?;
        crash::passed("group.users-returned");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_containers_of_a_group_have_one_namespace() {
        let groups = Groups::default();
        let name: ContainerName = "1-5-0".parse().unwrap();
        let take = || {
            let null = fs::File::open("/dev/null").unwrap();
            Ok((null.into(), vec![Ipv4Addr::new(10, 0, 0, 2).into()]))
        };
        let (_first, address) = groups.joined(name, take).unwrap();
        let again = || panic!("it is taken once");
        assert_eq!(groups.joined(name, again).unwrap().1, address);
        groups.forget(name);
        groups.joined(name, take).unwrap();
    }

    #[test]
    fn a_groups_folder_is_closed_to_the_host_and_open_to_all_its_users() {
        let host = tempfile::tempdir().unwrap();
        let folder = host.path().join("groups/framework-1/pod/1-5-0");
        make(&folder, None, true).unwrap();
        make(&folder, None, true).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&folder), 0o777);
        assert_eq!(mode(folder.parent().unwrap()), 0o700);
    }
}
