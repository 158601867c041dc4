//! Networks by the CNI plugins of the operator's: which there are is read when the agent starts; what a container was
//! added to is on disk before its first plugin runs.
//!
//! Plugins are programs of others and may be slow: they run apart from the making and removal of containers, so that
//! only tasks with such a network wait for them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use argosy_isolation::network::Publication;
use argosy_isolation::network::cni::{Added, Cni, List};
use argosy_isolation::{ContainerId, Isolation, crash_points};
use argosy_proto::v1;
use argosy_proto::v1::network::Mode;
use argosy_state::task::{Code, Explanation};
use tokio::sync::Semaphore;

use super::bridges::publications;
use super::description::{failed, needs_root};
use crate::broker::Broker;
use crate::core::{ContainerName, Refusal, Start};
use crate::error::{RunError, sentence};
use crate::paths::Paths;

/// Where namespaces of containers are bound, by agent; empty after a boot, as they are.
const NAMESPACES: &str = "/run/argosy/cni";
/// How long one plugin may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Containers whose plugins run at a time: some lock all their addresses for it.
const AT_A_TIME: usize = 8;

/// What an operator says of CNI.
#[derive(Debug, Clone)]
pub struct CniSettings {
    /// A folder whose files `*.conflist` are the networks that tasks may name; `None`: there are none.
    pub lists: Option<PathBuf>,
    /// Where plugins are looked up, in this order.
    pub plugins: Vec<PathBuf>,
}

impl Default for CniSettings {
    fn default() -> Self {
        let usual = ["/opt/cni/bin", "/usr/lib/cni"];
        Self {
            lists: None,
            plugins: usual.map(PathBuf::from).to_vec(),
        }
    }
}

/// The networks of plugins.
pub(crate) struct Plugs {
    cni: Cni,
    lists: BTreeMap<String, List>,
}

/// Who is in a network of plugins.
pub(super) struct Plugged {
    broker: Broker,
    /// Containers of which plugins may hold something: the others' ends cost no look at the disk. A lock, since many
    /// containers come and go at a time; nothing is awaited under it.
    holders: Mutex<BTreeSet<ContainerName>>,
    room: Semaphore,
}

impl Plugs {
    /// Reads the lists, and looks whether all of their plugins are here.
    pub(crate) fn open(paths: &Paths, wanted: &CniSettings) -> Result<Self, RunError> {
        let cni = Cni {
            plugins: wanted.plugins.clone(),
            records: paths.cni_records(),
            namespaces: Path::new(NAMESPACES).join(crate::start::tree_name(paths).as_str()),
            patience: PATIENCE,
        };
        let lists = match &wanted.lists {
            Some(folder) => lists(&cni, folder)?,
            None => BTreeMap::new(),
        };
        Ok(Self { cni, lists })
    }

    /// Makes a container's network, by the list of this name.
    pub(crate) fn add(
        &self,
        name: ContainerName,
        list: &str,
        ports: &[Publication],
    ) -> Result<Added, String> {
        let list = self.list(list)?;
        let added = self.cni.add(&id(name), list, ports);
        added.map_err(|error| sentence(&error))
    }

    /// Has plugins take back what they gave to a container.
    pub(crate) fn delete(&self, name: ContainerName) -> Result<(), String> {
        self.cni.delete(&id(name)).map_err(|error| sentence(&error))
    }

    /// Has plugins take back what containers have that are none of these.
    pub(crate) fn sweep(&self, known: &[ContainerName]) -> Result<(), String> {
        let known = known.iter().map(|name| id(*name)).collect();
        self.cni.sweep(&known).map_err(|error| sentence(&error))
    }

    /// Containers of which plugins hold something.
    pub(crate) fn held(&self) -> Result<Vec<ContainerName>, String> {
        let held = self.cni.held().map_err(|error| sentence(&error))?;
        let names = held.iter().filter_map(|id| id.as_str().parse().ok());
        Ok(names.collect())
    }

    /// Takes its folder off the host, if no container is left in it.
    pub(crate) fn remove(&self) {
        // One that is not there, or not empty, stays as it is.
        let _ = fs::remove_dir(&self.cni.namespaces);
        let _ = fs::remove_dir(NAMESPACES);
    }

    fn list(&self, name: &str) -> Result<&List, String> {
        self.lists.get(name).ok_or_else(|| {
            let others: Vec<_> = self.lists.keys().map(String::as_str).collect();
            let others = match others.as_slice() {
                [] => "none: its operator names a folder of them with --cni-config".to_owned(),
                some => some.join(", "),
            };
            format!("this agent has no network {name:?}; it has {others}")
        })
    }
}

impl Plugged {
    pub(super) fn new(broker: Broker) -> Arc<Self> {
        Arc::new(Self {
            broker,
            holders: Mutex::default(),
            room: Semaphore::new(AT_A_TIME),
        })
    }

    /// Knows again which of these containers of an earlier life have something of plugins'.
    pub(super) fn resume(&self, known: &BTreeSet<ContainerName>) -> Result<(), String> {
        let held = self.broker.plugged()?;
        let held = held.into_iter().filter(|name| known.contains(name));
        self.holders().extend(held);
        Ok(())
    }

    /// Has plugins take back what containers have that are no more. A plugin that fails keeps no agent from its work:
    /// what it could not take back is tried again at the next start.
    pub(super) fn sweep(&self, known: &BTreeSet<ContainerName>) {
        let known = known.iter().copied().collect();
        if let Err(why) = self.broker.sweep_plugged(known) {
            tracing::warn!(
                why,
                "a CNI network of a container that is gone cannot be deleted"
            );
        }
    }

    /// Makes the network of a task that names one; `None` if it does not.
    pub(super) async fn plug(
        self: &Arc<Self>,
        start: &Start,
        isolation: Isolation,
    ) -> Result<Option<Added>, Refusal> {
        let Some(wanted) = wanted(start) else {
            return Ok(None);
        };
        if isolation != Isolation::Full {
            return Err(needs_root());
        }
        let list = wanted.name.clone();
        let ports = publications(&wanted.published);
        let name = start.name;
        self.holders().insert(name);
        let added = self.apart(move |broker| broker.plug(name, list, ports));
        let added = added.await.map(Some);
        added.map_err(|why| failed(Explanation::of(Code::PluginsFailed, &[]).saying(why)))
    }

    /// Has plugins take back what they gave to a container that is gone. Nothing is wrong if that is nothing.
    pub(super) async fn unplug(self: &Arc<Self>, name: ContainerName) -> Result<(), String> {
        if !self.holders().contains(&name) {
            return Ok(());
        }
        self.apart(move |broker| broker.unplug(name)).await?;
        crash_points::passed("remove.unplugged");
        self.holders().remove(&name);
        Ok(())
    }

    /// Runs plugins on a thread that may wait for them.
    async fn apart<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Broker) -> Result<T, String> + Send + 'static,
    ) -> Result<T, String> {
        let _place = self.room.acquire().await;
        let own = Arc::clone(self);
        let done = tokio::task::spawn_blocking(move || work(&own.broker)).await;
        done.expect("running plugins never panics: each failure is returned")
    }

    fn holders(&self) -> MutexGuard<'_, BTreeSet<ContainerName>> {
        self.holders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The network of plugins that a task names.
pub(super) fn wanted(start: &Start) -> Option<&v1::CniNetwork> {
    let container = start.launch.spec.as_ref()?.container.as_ref()?;
    match container.network.as_ref()?.mode.as_ref()? {
        Mode::Cni(cni) => Some(cni),
        Mode::Host(_) | Mode::None(_) | Mode::Bridge(_) => None,
    }
}

fn lists(cni: &Cni, folder: &Path) -> Result<BTreeMap<String, List>, RunError> {
    let wrong = |value: &Path, remedy: String| RunError::Config {
        flag: "--cni-config",
        value: value.display().to_string(),
        remedy,
    };
    let entries = fs::read_dir(folder).map_err(|error| {
        let remedy = format!("{error}; name a folder with files *.conflist");
        wrong(folder, remedy)
    })?;
    let paths: Result<BTreeSet<_>, _> = entries.map(|entry| Ok(entry?.path())).collect();
    let paths = paths.map_err(|error: std::io::Error| wrong(folder, error.to_string()))?;
    let mut lists: BTreeMap<String, List> = BTreeMap::new();
    for path in paths {
        if path.extension().is_none_or(|end| end != "conflist") {
            continue;
        }
        let list = List::read(&path)?;
        cni.find_plugins(&list)?;
        let name = list.name().to_owned();
        if lists.insert(name.clone(), list).is_some() {
            let remedy = format!("another file there names its network {name:?}, too; rename one");
            return Err(wrong(&path, remedy));
        }
    }
    if lists.is_empty() {
        let remedy = "there is no file *.conflist in it".to_owned();
        return Err(wrong(folder, remedy));
    }
    Ok(lists)
}

fn id(container: ContainerName) -> ContainerId {
    ContainerId::new(container.to_string()).expect("digits and dashes make a name")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(folder: &Path) -> Result<Plugs, String> {
        let wanted = CniSettings {
            lists: Some(folder.join("lists")),
            plugins: vec![folder.join("plugins")],
        };
        let opened = Plugs::open(&Paths::new(folder), &wanted);
        opened.map_err(|error| sentence(&error))
    }

    /// A folder with a plugin and these lists.
    fn folder(lists: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in ["lists", "plugins"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        fs::write(folder.path().join("plugins/wire"), "").unwrap();
        for (file, text) in lists {
            fs::write(folder.path().join("lists").join(file), text).unwrap();
        }
        folder
    }

    fn list(name: &str, plugin: &str) -> String {
        format!(r#"{{"cniVersion":"1.0.0","name":"{name}","plugins":[{{"type":"{plugin}"}}]}}"#)
    }

    #[test]
    fn a_network_that_is_not_there_is_refused_with_those_that_are() {
        let (blue, green) = (list("blue", "wire"), list("green", "wire"));
        let folder = folder(&[("1.conflist", &green), ("2.conflist", &blue), ("x", "{")]);
        let plugged = opened(folder.path()).unwrap();
        assert_eq!(plugged.list("blue").unwrap().name(), "blue");
        assert_eq!(
            plugged.list("red").unwrap_err(),
            "this agent has no network \"red\"; it has blue, green"
        );
        let none = Plugs::open(&Paths::new(folder.path()), &CniSettings::default()).unwrap();
        let refused = none.list("red").unwrap_err();
        assert!(refused.ends_with("with --cni-config"), "{refused}");
    }

    #[test]
    fn lists_that_cannot_be_used_are_refused_at_the_start_by_their_file() {
        let blue = list("blue", "wire");
        for (lists, says) in [
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
            let folder = folder(&lists);
            let refused = opened(folder.path()).map(drop).unwrap_err();
            assert!(refused.contains(says), "{refused}");
        }
        let refused = opened(Path::new("/nonexistent")).map(drop).unwrap_err();
        assert!(refused.contains("--cni-config"), "{refused}");
    }
}
