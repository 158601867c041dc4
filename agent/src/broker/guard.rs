//! Checks an agent's requests as if the agent were compromised: no accepted request gives a process
//! root on the host.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use argosy_host::ContainerId;
use argosy_isolation::profile::IsolationLayers;
use argosy_isolation::{
    CgroupTree, HostPath, Image, Isolation, IsolationProfile, LaunchSpec, MountSpec, Namespaces,
    Network, RootFs, VolumeSource,
};
use argosy_state::ids::GroupId;
use argosy_state::task::SecurityOptions;

use crate::config::Config;
use crate::core::{ContainerName, task_key};
use crate::paths::Paths;

/// The network namespace of this process.
const OWN_NETWORK: &str = "/proc/self/ns/net";
/// Number of digits of a digest.
const DIGITS: usize = 64;

/// The operator's settings, and the paths of the agent.
pub(super) struct RequestPolicy {
    paths: Paths,
    tree: Option<CgroupTree>,
    /// Without full isolation tasks run as the agent's user, and an agent has only its own rights.
    isolation: Isolation,
    host_paths: Vec<PathBuf>,
    secret_dir: Option<PathBuf>,
    devices: BTreeSet<PathBuf>,
    allowed: SecurityOptions,
    /// The maximum size of the output that is kept of an ended task.
    max_kept_bytes: u64,
}

/// Checks the file with the secrets of a launch, which a process of root reads: reading another
/// kind of file may block.
pub(super) fn check_secrets(file: Option<&OwnedFd>) -> Result<(), String> {
    let Some(file) = file else {
        return Ok(());
    };
    let failed = |error: std::io::Error| format!("its secrets cannot be read: {error}");
    let file = File::from(file.try_clone().map_err(failed)?);
    match file.metadata().map_err(failed)?.is_file() {
        true => Ok(()),
        false => Err("its secrets are not in a file".to_owned()),
    }
}

impl RequestPolicy {
    pub(super) fn new(
        config: &Config,
        paths: &Paths,
        isolation: Isolation,
        tree: Option<CgroupTree>,
    ) -> Self {
        Self {
            paths: paths.clone(),
            tree,
            isolation,
            host_paths: config.host_paths.clone(),
            secret_dir: config.secret_dir.clone(),
            devices: config.devices.values().flatten().cloned().collect(),
            allowed: config.allowed_security_options.clone(),
            max_kept_bytes: crate::gc::max_kept_bytes(config),
        }
    }

    pub(super) fn host_paths(&self) -> &[PathBuf] {
        &self.host_paths
    }

    pub(super) fn secret_dir(&self) -> Option<&Path> {
        self.secret_dir.as_deref()
    }

    pub(super) fn max_kept_bytes(&self) -> u64 {
        self.max_kept_bytes
    }

    /// Checks a launch. `holds` returns which host user ids belong to this agent's containers.
    pub(super) fn check(
        &self,
        spec: &LaunchSpec,
        namespace: Option<&OwnedFd>,
        holds: impl Fn(u32) -> bool,
    ) -> Result<(), String> {
        if self.isolation != Isolation::Full {
            return Ok(());
        }
        let name: ContainerName = spec
            .id
            .as_str()
            .parse()
            .map_err(|error| format!("{error}"))?;
        let Some(profile) = &spec.profile else {
            return Err("it has no profile".to_owned());
        };
        if spec.isolation != Isolation::Full || spec.namespaces != Namespaces::ALL {
            return Err("it is not isolated in full".to_owned());
        }
        if spec.directory != self.paths.container(name) {
            return Err("its state directory is not that of this container".to_owned());
        }
        if spec.cgroup != self.group(&spec.id) {
            return Err("its cgroup is not that of this container".to_owned());
        }
        if !holds(profile.first_host_id) {
            return Err("its users do not belong to this agent".to_owned());
        }
        self.check_sandbox(spec, name)?;
        if let Some(dir) = &spec.shared_directory
            && !is_shared(&self.paths, dir)
        {
            return Err("its group directory is not that of a group".to_owned());
        }
        self.check_profile(profile, name)?;
        if let Some(device) = spec
            .devices
            .iter()
            .find(|path| !self.devices.contains(*path))
        {
            return Err(format!("{} is not a device for tasks", device.display()));
        }
        self.check_network(&spec.network, namespace)
    }

    fn group(&self, id: &ContainerId) -> Option<PathBuf> {
        let tree = self.tree.as_ref()?;
        Some(tree.group(id).path().to_owned())
    }

    fn check_sandbox(&self, spec: &LaunchSpec, name: ContainerName) -> Result<(), String> {
        let names = names_below(&self.paths.sandboxes(), &spec.sandbox);
        let key = names.as_deref().and_then(|names| match names {
            [framework, task, last] if *last == name.to_string() => task_key(framework, task),
            _ => None,
        });
        let key = key.ok_or("its sandbox is not that of this container")?;
        if spec.output_record != self.paths.output_record(&key, name) {
            return Err("its output record is not that of this container".to_owned());
        }
        Ok(())
    }

    fn check_profile(&self, profile: &IsolationProfile, name: ContainerName) -> Result<(), String> {
        let IsolationProfile {
            view,
            isolation_layers,
            ..
        } = profile;
        self.check_layers(*isolation_layers)?;
        let MountSpec {
            root,
            host_paths,
            volumes,
            ..
        } = view;
        self.check_root(root, name)?;
        let own = self.paths.executor(name);
        if let Some(path) = host_paths
            .iter()
            .find(|path| !is_at(path, &own) && !self.is_allowed_path(&path.from))
        {
            return Err(format!("{} is not a path for tasks", path.from.display()));
        }
        for volume in volumes {
            let VolumeSource::Secret(secret) = &volume.source else {
                continue;
            };
            let is_one = secret.name.components().count() >= 2 && is_plain(&secret.name);
            if Some(&secret.directory) != self.secret_dir.as_ref() || !is_one {
                return Err("its secret is not in the operator's directory".to_owned());
            }
        }
        Ok(())
    }

    /// Whether a path is below one that the operator has opened; links on the path are detected
    /// when it is opened.
    fn is_allowed_path(&self, path: &Path) -> bool {
        let is_below = |open: &PathBuf| {
            let open = std::fs::canonicalize(open);
            open.is_ok_and(|open| path.strip_prefix(open).is_ok_and(is_plain_or_itself))
        };
        self.host_paths.iter().any(is_below)
    }

    fn check_layers(&self, isolation_layers: IsolationLayers) -> Result<(), String> {
        let SecurityOptions {
            capabilities,
            new_privileges,
            unconfined_seccomp,
            nested_user_namespaces,
            host_network: _,
        } = &self.allowed;
        let has = Vec::<String>::from(isolation_layers.capabilities);
        let may = |name: &String| capabilities.iter().any(|one| one.name() == name);
        let is_within = has.iter().all(may)
            && (isolation_layers.privileges || *new_privileges)
            && isolation_layers.landlock
            && (isolation_layers.system_calls || *unconfined_seccomp)
            && isolation_layers.masks
            && (isolation_layers.user_namespaces || *nested_user_namespaces);
        if is_within {
            return Ok(());
        }
        Err("it has security options that the operator does not allow".to_owned())
    }

    fn check_root(&self, root: &RootFs, name: ContainerName) -> Result<(), String> {
        let is_own = |path: &Path| {
            let disk = self.paths.disk(name).join("root/changes");
            let usual = self.paths.container(name).join("changes");
            path.parent()
                .is_some_and(|above| above == disk || above == usual)
        };
        match root {
            RootFs::Host => Ok(()),
            RootFs::Directory(directory) if is_own(directory) && is_plain_name(directory) => Ok(()),
            RootFs::Image(Image {
                layers,
                upper,
                work,
            }) if is_own(upper) && is_own(work) => layers
                .iter()
                .try_for_each(|layer| is_layer(&self.paths, layer)),
            RootFs::Directory(_) | RootFs::Image(_) => {
                Err("its root is not that of this container".to_owned())
            }
        }
    }

    fn check_network(&self, network: &Network, namespace: Option<&OwnedFd>) -> Result<(), String> {
        match (network, namespace) {
            (Network::Host { ports }, None) => {
                if !self.allowed.host_network {
                    return Err("the host's network is not allowed for tasks".to_owned());
                }
                match ports {
                    Some(_) => Ok(()),
                    None => Err("it names no ports in the host's network".to_owned()),
                }
            }
            (Network::None, None) => Ok(()),
            (Network::Joined, Some(namespace)) => {
                let failed = |error: std::io::Error| format!("its network cannot be read: {error}");
                let own = std::fs::metadata(OWN_NETWORK).map_err(failed)?;
                let file = File::from(namespace.try_clone().map_err(failed)?);
                let joined = file.metadata().map_err(failed)?;
                if joined.dev() != own.dev() {
                    return Err(
                        "the descriptor that it joins is not a network namespace".to_owned()
                    );
                }
                if joined.ino() == own.ino() {
                    return Err("the host's network must not be joined".to_owned());
                }
                Ok(())
            }
            (Network::Joined, None) | (Network::Host { .. } | Network::None, Some(_)) => {
                Err("it must have a network descriptor exactly if it joins a network".to_owned())
            }
        }
    }
}

/// Whether the host path is mounted at the same path.
fn is_at(path: &HostPath, own: &Path) -> bool {
    path.from == own && path.to == own
}

/// Returns the names between a directory and a path below it; `None` if it is not clearly below.
fn names_below<'a>(directory: &Path, path: &'a Path) -> Option<Vec<&'a str>> {
    let names = path.strip_prefix(directory).ok()?.components();
    names
        .map(|part| match part {
            Component::Normal(name) => name.to_str(),
            _ => None,
        })
        .collect()
}

fn is_plain(path: &Path) -> bool {
    !path.as_os_str().is_empty() && is_plain_or_itself(path)
}

fn is_plain_or_itself(path: &Path) -> bool {
    path.components()
        .all(|part| matches!(part, Component::Normal(_)))
}

fn is_plain_name(path: &Path) -> bool {
    path.file_name().is_some()
}

fn is_container(name: &str) -> bool {
    name.parse::<ContainerName>().is_ok()
}

/// Whether a path is three levels below the directory, and ends in the name of a container or a
/// group.
fn is_container_path(directory: &Path, path: &Path) -> bool {
    let names = names_below(directory, path);
    names.is_some_and(|names| names.len() == 3 && is_container(names[2]))
}

fn is_shared(paths: &Paths, path: &Path) -> bool {
    let on_a_disk = || {
        let names = names_below(&paths.disks(), path);
        names
            .is_some_and(|names| matches!(names[..], [name, "root", "group"] if is_container(name)))
    };
    is_container_path(&paths.groups(), path) || on_a_disk()
}

/// Returns the directory of a group, computed from valid names.
pub(super) fn group_dir(
    paths: &Paths,
    framework: &str,
    group: &str,
    name: ContainerName,
) -> Result<PathBuf, String> {
    let group = GroupId::new(group).map_err(|error| format!("group: {error}"))?;
    // Any task name serves to check the framework's.
    let key = task_key(framework, group.as_str()).ok_or("group: invalid framework")?;
    Ok(paths.group(key.framework, &group, name))
}

/// Checks that a path is a sandbox, or the directory of a group.
pub(super) fn is_removable(paths: &Paths, path: &Path) -> Result<(), String> {
    if is_container_path(&paths.sandboxes(), path) || is_container_path(&paths.groups(), path) {
        return Ok(());
    }
    Err(format!("{} is not a sandbox", path.display()))
}

/// Checks the same, or that it is a container's changes of its image.
pub(super) fn is_measurable(paths: &Paths, path: &Path) -> Result<(), String> {
    let changes = names_below(&paths.containers(), path);
    let is_changes =
        changes.is_some_and(|names| matches!(names[..], [name, "changes"] if is_container(name)));
    let disk = names_below(&paths.disks(), path);
    let is_on_disk = disk.is_some_and(
        |names| matches!(names[..], [name, "root", "changes" | "group"] if is_container(name)),
    );
    if is_changes || is_on_disk {
        return Ok(());
    }
    is_removable(paths, path)
}

/// Checks that a path contains the files of a stored layer.
pub(super) fn is_layer(paths: &Paths, path: &Path) -> Result<(), String> {
    let names = names_below(&paths.image_layers(), path);
    let is_one =
        names.is_some_and(|names| matches!(names[..], [digest, "root"] if is_digest(digest)));
    match is_one {
        true => Ok(()),
        false => Err(format!("{} is not a layer", path.display())),
    }
}

pub(super) fn is_digest(name: &str) -> bool {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    name.len() == DIGITS && name.bytes().all(is_digit)
}

/// Whether an entry of the layer store is incomplete or being removed.
pub(super) fn is_draft(name: &str) -> bool {
    let number = name.strip_prefix(argosy_content::images::DRAFT);
    number.is_some_and(|number| {
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}
