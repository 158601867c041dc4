//! Networks by CNI plugins, versions 1.0 and 1.1: executables of the operator that connect a
//! namespace to a network.
//!
//! A container's record is on disk before the first plugin runs, with the configuration of that
//! time. So the network can be deleted after any crash, and after the operator has changed the
//! list. The namespace is bound to a file: plugins receive its path, and may store it.

#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod list;
mod lock;
mod plugin;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use argosy_host::ContainerId;
use argosy_host::atomic_file::{self, Durability, WriteOptions};
use nix::mount::{MntFlags, umount2};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{NetworkError, PortPublication, ipam, namespace};
use argosy_host::crash_point;
pub use list::NetworkConfList;
use list::kind;
use lock::ContainerLock;
use plugin::PluginCall;

/// The name of the device in a container.
const DEVICE: &str = "eth0";

/// An error of a CNI operation.
#[derive(Debug, thiserror::Error)]
pub enum CniError {
    /// The operator's list is invalid.
    #[error("the CNI configuration {path} is not valid: {reason}")]
    Configuration {
        /// The path of the list.
        path: PathBuf,
        /// The error, and its remedy.
        reason: String,
    },
    /// A plugin does not exist.
    #[error(
        "there is no CNI plugin {plugin:?} in {directories}: install it, or name its directory"
    )]
    Missing {
        /// Its type.
        plugin: String,
        /// The directories that were searched.
        directories: String,
    },
    /// A plugin failed.
    #[error("the CNI plugin {plugin:?} failed at {verb} of {container}: {reason}")]
    Plugin {
        /// Its type.
        plugin: String,
        /// ADD or DEL.
        verb: &'static str,
        container: ContainerId,
        /// The plugin's error.
        reason: String,
    },
    /// Ports are requested, and no plugin publishes ports.
    #[error(
        "no plugin of the CNI network {network:?} publishes ports: add one with the capability portMappings, \
         or publish none"
    )]
    Ports {
        /// The list's name.
        network: String,
    },
    /// A record cannot be read or written.
    #[error("cannot {what} {path}")]
    Record {
        /// The failed operation.
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// The namespace cannot be created.
    #[error(transparent)]
    Namespace(#[from] NetworkError),
}

/// The data that is needed to delete a container's network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct CniRecord {
    version: u32,
    list: NetworkConfList,
    ports: Vec<PortPublication>,
    /// The result of the last plugin that was added; `None` before the first.
    result: Option<Value>,
}

/// The network that plugins created for a container.
#[derive(Debug)]
pub struct CniResult {
    /// The namespace for the launch.
    pub namespace: OwnedFd,
    /// The container's addresses, from the plugins' result.
    pub addresses: Vec<IpAddr>,
}

/// An agent's CNI runtime. It holds only paths of directories: all state is on disk.
#[derive(Debug, Clone)]
pub struct Cni {
    /// The search path of plugins, in order.
    pub plugins: Vec<PathBuf>,
    /// The agent's directory of records. It must survive a boot, as plugins' reservations do.
    /// Created if missing.
    pub records: PathBuf,
    /// The agent's directory of bound namespaces, below `/run`. Created if missing.
    pub namespaces: PathBuf,
    /// The timeout of one plugin.
    pub timeout: Duration,
}

impl Cni {
    /// Creates a namespace and runs the list's plugins on it, each with the previous result. An
    /// earlier network of the container is deleted first.
    ///
    /// # Errors
    /// If a plugin fails or is missing. Completed steps are then undone, immediately or by a sweep.
    pub fn add(
        &self,
        container: &ContainerId,
        list: &NetworkConfList,
        ports: &[PortPublication],
    ) -> Result<CniResult, CniError> {
        self.delete(container)?;
        if !ports.is_empty() && !list.publishes() {
            let network = list.name.clone();
            return Err(CniError::Ports { network });
        }
        // At this point nothing would have to be undone.
        self.find_plugins(list)?;
        let mut record = CniRecord {
            version: 1,
            list: list.clone(),
            ports: ports.to_vec(),
            result: None,
        };
        self.write(container, &record)?;
        crash_point!("cni.recorded");
        let added = self.run_add(container, &mut record);
        if added.is_err() {
            // The first failure is the one to return.
            let _ = self.delete(container);
        }
        added
    }

    /// Checks that all plugins of a list exist.
    ///
    /// # Errors
    /// The first missing plugin.
    pub fn find_plugins(&self, list: &NetworkConfList) -> Result<(), CniError> {
        let mut plugins = list.plugins.iter();
        plugins.try_for_each(|plugin| self.executable(plugin).map(drop))
    }

    fn run_add(
        &self,
        container: &ContainerId,
        record: &mut CniRecord,
    ) -> Result<CniResult, CniError> {
        let place = self.namespace(container);
        fs::create_dir_all(&self.namespaces)
            .map_err(record_error("create the directory", &self.namespaces))?;
        namespace::bind(&place)?;
        crash_point!("cni.namespace-bound");
        for plugin in &record.list.plugins {
            let before = record.result.as_ref();
            let input = record.list.input(plugin, &record.ports, before);
            let answer = self.call("ADD", container, plugin, &input)?;
            crash_point!("cni.plugin-added");
            record.result = Some(answer);
            // Plugins release by this what they have added, also if a later one fails.
            self.write(container, record)?;
            crash_point!("cni.result-kept");
        }
        let namespace = File::open(&place).map_err(record_error("open", &place))?;
        Ok(CniResult {
            namespace: namespace.into(),
            addresses: record.result.as_ref().map_or_else(Vec::new, addresses),
        })
    }

    /// Runs the plugins' DEL, last first, and releases the namespace. Idempotent.
    ///
    /// # Errors
    /// The first plugin that fails; the record is kept, so that deletion is retried.
    pub fn delete(&self, container: &ContainerId) -> Result<(), CniError> {
        if let Some(record) = self.read(container)? {
            for plugin in record.list.plugins.iter().rev() {
                let input = record
                    .list
                    .input(plugin, &record.ports, record.result.as_ref());
                self.call("DEL", container, plugin, &input)?;
                crash_point!("cni.plugin-deleted");
            }
        }
        let place = self.namespace(container);
        if place.exists() {
            // Nothing is mounted there if a crash came between file and mount.
            let _ = umount2(&place, MntFlags::MNT_DETACH);
            fs::remove_file(&place).map_err(record_error("remove", &place))?;
            crash_point!("cni.namespace-removed");
        }
        // The record is removed last: while it exists, deletion is retried.
        let (turn, draft) = (self.lock_path(container), self.draft(container));
        for path in [turn, draft, self.record(container)] {
            match fs::remove_file(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => other.map_err(record_error("remove", &path))?,
            }
        }
        crash_point!("cni.record-removed");
        Ok(())
    }

    /// Deletes the networks of containers that are not known. Continues after a failure and returns
    /// the first one at the end.
    ///
    /// # Errors
    /// The first deletion that failed, or the directories if they cannot be read.
    pub fn sweep(&self, known: &BTreeSet<ContainerId>) -> Result<(), CniError> {
        let mut failure = None;
        for container in self.containers()?.difference(known) {
            if let Err(error) = self.delete(container) {
                failure.get_or_insert(error);
            }
        }
        failure.map_or(Ok(()), Err)
    }

    /// Returns the containers with state on disk, complete or partial.
    ///
    /// # Errors
    /// If a directory cannot be read.
    pub fn containers(&self) -> Result<BTreeSet<ContainerId>, CniError> {
        let mut found = BTreeSet::new();
        let (records, namespaces) = (&self.records, &self.namespaces);
        let ends = [(records, ".json"), (records, ".draft"), (records, ".turn")];
        for (directory, end) in ends.into_iter().chain([(namespaces, "")]) {
            let entries = match fs::read_dir(directory) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                entries => entries.map_err(record_error("read", directory))?,
            };
            for entry in entries {
                let name = entry.map_err(record_error("read", directory))?.file_name();
                let name = name.to_str().and_then(|name| name.strip_suffix(end));
                found.extend(name.and_then(|name| ContainerId::new(name).ok()));
            }
        }
        Ok(found)
    }

    fn call(
        &self,
        verb: &'static str,
        container: &ContainerId,
        plugin: &Map<String, Value>,
        input: &Value,
    ) -> Result<Value, CniError> {
        let executable = self.executable(plugin)?;
        let place = self.namespace(container);
        // After a boot or a crash the namespace may be gone: plugins must handle that. But a file
        // that is none is an error for them.
        let namespace = if namespace::is_bound(&place) {
            place
        } else {
            PathBuf::new()
        };
        let call = PluginCall {
            executable: &executable,
            environment: vec![
                ("CNI_COMMAND", verb.into()),
                // Containers of two agents may have the same name, and plugins know no agents.
                (
                    "CNI_CONTAINERID",
                    format!("argosy-{}-{container}", ipam::tag(&self.records)).into(),
                ),
                ("CNI_NETNS", namespace.into()),
                ("CNI_IFNAME", DEVICE.into()),
                ("CNI_PATH", self.search_path(":").into()),
            ],
            timeout: self.timeout,
        };
        let turn = self.lock_path(container);
        let mut turn = ContainerLock::take(&turn, self.timeout).map_err(record_error(
            "run a plugin while an earlier agent's plugin uses",
            &turn,
        ))?;
        call.run(input, &mut turn)
            .map_err(|reason| CniError::Plugin {
                plugin: kind(plugin).unwrap_or_default().to_owned(),
                verb,
                container: container.clone(),
                reason,
            })
    }

    fn executable(&self, plugin: &Map<String, Value>) -> Result<PathBuf, CniError> {
        let kind = kind(plugin).expect("the list was checked");
        let mut places = self.plugins.iter().map(|directory| directory.join(kind));
        let found = places.find(|path| path.is_file());
        found.ok_or_else(|| CniError::Missing {
            plugin: kind.to_owned(),
            directories: self.search_path(", "),
        })
    }

    fn search_path(&self, between: &str) -> String {
        let directories = self
            .plugins
            .iter()
            .map(|directory| directory.to_string_lossy());
        directories.collect::<Vec<_>>().join(between)
    }

    fn namespace(&self, container: &ContainerId) -> PathBuf {
        self.namespaces.join(container.as_str())
    }

    fn record(&self, container: &ContainerId) -> PathBuf {
        self.records.join(format!("{container}.json"))
    }

    fn draft(&self, container: &ContainerId) -> PathBuf {
        self.records.join(format!("{container}.draft"))
    }

    fn lock_path(&self, container: &ContainerId) -> PathBuf {
        self.records.join(format!("{container}.turn"))
    }

    fn read(&self, container: &ContainerId) -> Result<Option<CniRecord>, CniError> {
        let path = self.record(container);
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text.map_err(record_error("read", &path))?,
        };
        let record = serde_json::from_slice(&text).map_err(io::Error::from);
        record
            .map(Some)
            .map_err(record_error("make sense of", &path))
    }

    /// Writes the record atomically: it is on disk when this returns, or unchanged.
    fn write(&self, container: &ContainerId, record: &CniRecord) -> Result<(), CniError> {
        let path = self.record(container);
        let draft = self.draft(container);
        let options = WriteOptions {
            // Results of plugins may contain data that only root may read.
            mode: 0o600,
            durability: Durability::Synced,
        };
        let write = || -> io::Result<()> {
            fs::create_dir_all(&self.records)?;
            let bytes = serde_json::to_vec(record)?;
            atomic_file::replace(&path, &draft, &bytes, options)
        };
        write().map_err(record_error("write", &path))
    }
}

/// Extracts the addresses of a result; the rest is for other plugins.
fn addresses(result: &Value) -> Vec<IpAddr> {
    let all = result.get("ips").and_then(Value::as_array);
    let all = all.into_iter().flatten();
    let texts = all.filter_map(|ip| ip.get("address")?.as_str());
    let texts = texts.filter_map(|text| text.split('/').next()?.parse().ok());
    texts.collect()
}

fn record_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CniError {
    let path = path.to_owned();
    move |source| CniError::Record { what, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_addresses_of_a_result_are_read() {
        let result = serde_json::json!({ "cniVersion": "1.0.0", "new": [1], "ips": [
            { "address": "10.1.0.5/16", "gateway": "10.1.0.1", "interface": 2 },
            { "address": "fd00::5/64" }, { "address": 7 }
        ] });
        let expected: [IpAddr; 2] = ["10.1.0.5".parse().unwrap(), "fd00::5".parse().unwrap()];
        assert_eq!(addresses(&result), expected);
        assert!(addresses(&Value::Null).is_empty());
    }
}
