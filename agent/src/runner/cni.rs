//! CNI networks of the operator: the configurations are read when the agent starts; the record of a
//! container's network is on disk before its first plugin runs.
//!
//! Plugins are third-party programs and may be slow: they run separately from the creation and
//! removal of containers, so that only tasks with such a network wait for them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use argosy_host::{ContainerId, crash_point};
use argosy_isolation::Isolation;
use argosy_network::PortPublication;
use argosy_network::cni::{Cni, CniResult, NetworkConfList};
use argosy_proto::v1;
use argosy_proto::v1::network::Mode;
use argosy_state::task::{Code, Explanation};
use tokio::sync::Semaphore;

use super::bridges::publications;
use super::description::{failed, needs_root};
use super::requests::ContainerStart;
use crate::broker_client::BrokerClient;
use crate::config::CniSettings;
use crate::core::{ContainerName, CreateError};
use crate::error::{RunError, error_chain};
use crate::paths::Paths;

/// The directory of the bind-mounted network namespaces of containers, by agent; empty after a
/// boot.
const NAMESPACES: &str = "/run/argosy/cni";
const PLUGIN_TIMEOUT: Duration = Duration::from_secs(30);
/// Maximum number of containers whose plugins run concurrently: some plugins lock all their
/// addresses.
const MAX_CONCURRENT: usize = 8;

pub(crate) struct CniNetworks {
    cni: Cni,
    conf_lists: BTreeMap<String, NetworkConfList>,
}

/// The containers with CNI networks.
pub(super) struct CniContainers {
    broker: BrokerClient,
    /// Containers with possible CNI resources: the ends of other containers cost no disk access. A
    /// lock, since many containers come and go concurrently; nothing is awaited under it.
    holders: Mutex<BTreeSet<ContainerName>>,
    slots: Semaphore,
}

impl CniNetworks {
    /// Reads the configurations, and checks that all of their plugins exist.
    pub(crate) fn open(paths: &Paths, wanted: &CniSettings) -> Result<Self, RunError> {
        let cni = Cni {
            plugins: wanted.plugins.clone(),
            records: paths.cni_records(),
            namespaces: Path::new(NAMESPACES).join(paths.tree_name().as_str()),
            timeout: PLUGIN_TIMEOUT,
        };
        let conf_lists = match &wanted.conf_dir {
            Some(directory) => lists(&cni, directory)?,
            None => BTreeMap::new(),
        };
        Ok(Self { cni, conf_lists })
    }

    /// Creates a container's network, by the configuration of this name.
    pub(crate) fn add(
        &self,
        name: ContainerName,
        list: &str,
        ports: &[PortPublication],
    ) -> Result<CniResult, String> {
        let list = self.list(list)?;
        let added = self.cni.add(&id(name), list, ports);
        added.map_err(|error| error_chain(&error))
    }

    /// Runs the plugins that release the network of a container.
    pub(crate) fn delete(&self, name: ContainerName) -> Result<(), String> {
        self.cni
            .delete(&id(name))
            .map_err(|error| error_chain(&error))
    }

    /// Runs the plugins that release the networks of all containers but these.
    pub(crate) fn sweep(&self, known: &[ContainerName]) -> Result<(), String> {
        let known = known.iter().map(|name| id(*name)).collect();
        self.cni.sweep(&known).map_err(|error| error_chain(&error))
    }

    /// Returns the containers with CNI resources.
    pub(crate) fn containers(&self) -> Result<Vec<ContainerName>, String> {
        let held = self.cni.containers().map_err(|error| error_chain(&error))?;
        let names = held.iter().filter_map(|id| id.as_str().parse().ok());
        Ok(names.collect())
    }

    /// Removes its directory from the host, if it contains no container.
    pub(crate) fn remove(&self) {
        // A missing or non-empty directory is left unchanged.
        let _ = fs::remove_dir(&self.cni.namespaces);
        let _ = fs::remove_dir(NAMESPACES);
    }

    fn list(&self, name: &str) -> Result<&NetworkConfList, String> {
        self.conf_lists.get(name).ok_or_else(|| {
            let others: Vec<_> = self.conf_lists.keys().map(String::as_str).collect();
            let others = match others.as_slice() {
                [] => {
                    "none: its operator gives a directory of them with --cni-config-dir".to_owned()
                }
                some => some.join(", "),
            };
            format!("this agent has no network {name:?}; it has {others}")
        })
    }
}

impl CniContainers {
    pub(super) fn new(broker: BrokerClient) -> Arc<Self> {
        Arc::new(Self {
            broker,
            holders: Mutex::default(),
            slots: Semaphore::new(MAX_CONCURRENT),
        })
    }

    /// Finds which of these containers of an earlier run have CNI resources.
    pub(super) fn resume(&self, known: &BTreeSet<ContainerName>) -> Result<(), String> {
        let held = self.broker.cni_containers()?;
        let held = held.into_iter().filter(|name| known.contains(name));
        self.holders().extend(held);
        Ok(())
    }

    /// Releases the networks of containers that no longer exist. A plugin that fails does not stop
    /// the agent: the release is retried at the next start.
    pub(super) fn sweep(&self, known: &BTreeSet<ContainerName>) {
        let known = known.iter().copied().collect();
        if let Err(why) = self.broker.sweep_cni(known) {
            tracing::warn!(
                why,
                "a CNI network of a removed container cannot be deleted"
            );
        }
    }

    /// Creates the network of a task that names one; `None` if it does not.
    pub(super) async fn attach(
        self: &Arc<Self>,
        start: &ContainerStart,
        isolation: Isolation,
    ) -> Result<Option<CniResult>, CreateError> {
        let Some(wanted) = cni_network(start) else {
            return Ok(None);
        };
        if isolation != Isolation::Full {
            return Err(needs_root());
        }
        let list = wanted.name.clone();
        let ports = publications(&wanted.published);
        let name = start.name;
        self.holders().insert(name);
        let added = self.run_blocking(move |broker| broker.add_cni(name, list, ports));
        let added = added.await.map(Some);
        added.map_err(|why| failed(Explanation::of(Code::PluginsFailed, &[]).with_detail(why)))
    }

    /// Releases the network of a container that is removed. It is no error if none exists.
    pub(super) async fn detach(self: &Arc<Self>, name: ContainerName) -> Result<(), String> {
        if !self.holders().contains(&name) {
            return Ok(());
        }
        self.run_blocking(move |broker| broker.delete_cni(name))
            .await?;
        crash_point!("remove.unplugged");
        self.holders().remove(&name);
        Ok(())
    }

    /// Runs plugins on a blocking thread.
    async fn run_blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&BrokerClient) -> Result<T, String> + Send + 'static,
    ) -> Result<T, String> {
        let _place = self.slots.acquire().await;
        let own = Arc::clone(self);
        let done = tokio::task::spawn_blocking(move || work(&own.broker)).await;
        done.expect("running plugins never panics: each failure is returned")
    }

    fn holders(&self) -> MutexGuard<'_, BTreeSet<ContainerName>> {
        self.holders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the CNI network that a task names.
pub(super) fn cni_network(start: &ContainerStart) -> Option<&v1::CniNetwork> {
    let container = start.launch.spec.as_ref()?.container.as_ref()?;
    match container.network.as_ref()?.mode.as_ref()? {
        Mode::Cni(cni) => Some(cni),
        Mode::Host(_) | Mode::None(_) | Mode::Bridge(_) => None,
    }
}

fn lists(cni: &Cni, directory: &Path) -> Result<BTreeMap<String, NetworkConfList>, RunError> {
    let wrong = |value: &Path, remedy: String| RunError::Config {
        flag: "--cni-config-dir",
        value: value.display().to_string(),
        remedy,
    };
    let entries = fs::read_dir(directory).map_err(|error| {
        let remedy = format!("{error}; give a directory with files *.conflist");
        wrong(directory, remedy)
    })?;
    let paths: Result<BTreeSet<_>, _> = entries.map(|entry| Ok(entry?.path())).collect();
    let paths = paths.map_err(|error: std::io::Error| wrong(directory, error.to_string()))?;
    let mut lists: BTreeMap<String, NetworkConfList> = BTreeMap::new();
    for path in paths {
        if path.extension().is_none_or(|end| end != "conflist") {
            continue;
        }
        let list = NetworkConfList::read(&path)?;
        cni.find_plugins(&list)?;
        let name = list.name().to_owned();
        if lists.insert(name.clone(), list).is_some() {
            let remedy = format!("another file there names its network {name:?}, too; rename one");
            return Err(wrong(&path, remedy));
        }
    }
    if lists.is_empty() {
        let remedy = "there is no file *.conflist in it".to_owned();
        return Err(wrong(directory, remedy));
    }
    Ok(lists)
}

fn id(container: ContainerName) -> ContainerId {
    ContainerId::new(container.to_string()).expect("digits and dashes make a name")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(directory: &Path) -> Result<CniNetworks, String> {
        let wanted = CniSettings {
            conf_dir: Some(directory.join("lists")),
            plugins: vec![directory.join("plugins")],
        };
        let opened = CniNetworks::open(&Paths::new(directory), &wanted);
        opened.map_err(|error| error_chain(&error))
    }

    /// Returns a directory with a plugin and these configurations.
    fn directory(lists: &[(&str, &str)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for name in ["lists", "plugins"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        fs::write(directory.path().join("plugins/wire"), "").unwrap();
        for (file, text) in lists {
            fs::write(directory.path().join("lists").join(file), text).unwrap();
        }
        directory
    }

    fn list(name: &str, plugin: &str) -> String {
        format!(r#"{{"cniVersion":"1.0.0","name":"{name}","plugins":[{{"type":"{plugin}"}}]}}"#)
    }

    #[test]
    fn unknown_networks_are_rejected_with_the_known_ones() {
        let (blue, green) = (list("blue", "wire"), list("green", "wire"));
        let directory = directory(&[("1.conflist", &green), ("2.conflist", &blue), ("x", "{")]);
        let plugged = opened(directory.path()).unwrap();
        assert_eq!(plugged.list("blue").unwrap().name(), "blue");
        assert_eq!(
            plugged.list("red").unwrap_err(),
            "this agent has no network \"red\"; it has blue, green"
        );
        let none =
            CniNetworks::open(&Paths::new(directory.path()), &CniSettings::default()).unwrap();
        let refused = none.list("red").unwrap_err();
        assert!(refused.ends_with("with --cni-config-dir"), "{refused}");
    }

    #[test]
    fn invalid_network_lists_are_rejected_at_start_by_file() {
        let blue = list("blue", "wire");
        for (lists, expected) in [
            (vec![("1.conflist", "{")], "1.conflist"),
            (
                vec![("1.conflist", list("blue", "absent").as_str())],
                "no CNI plugin \"absent\"",
            ),
            (
                vec![("1.conflist", blue.as_str()), ("2.conflist", blue.as_str())],
                "2.conflist",
            ),
            (vec![], "no file *.conflist"),
        ] {
            let directory = directory(&lists);
            let refused = opened(directory.path()).map(drop).unwrap_err();
            assert!(refused.contains(expected), "{refused}");
        }
        let refused = opened(Path::new("/nonexistent")).map(drop).unwrap_err();
        assert!(refused.contains("--cni-config-dir"), "{refused}");
    }
}
