//! Networks by CNI plugins, version 1.0 and 1.1: executables of the operator's that join a namespace to something.
//!
//! What a container was added to is on disk before the first plugin runs, with the configuration of that day, so that it
//! can be deleted after any crash and after the operator has changed the list. The namespace is bound to a file: plugins
//! are told its name, and may remember it.

mod list;
mod lock;
mod plugin;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::mount::{MntFlags, umount2};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{NetworkError, Publication, ipam, namespace};
use crate::crash_points;
use crate::spec::ContainerId;
pub use list::List;
use list::kind;
use lock::Turn;
use plugin::Call;

/// What a container calls its device.
const DEVICE: &str = "eth0";

/// Why plugins did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum CniError {
    /// The operator's list is not right.
    #[error("the CNI configuration {path} is not valid: {reason}")]
    Configuration {
        /// The list.
        path: PathBuf,
        /// What is wrong with it, and how it would be right.
        reason: String,
    },
    /// A plugin is nowhere.
    #[error("there is no CNI plugin {plugin:?} in {folders}: install it, or name its folder")]
    Missing {
        /// Its type.
        plugin: String,
        /// Where it was looked for.
        folders: String,
    },
    /// A plugin refused.
    #[error("the CNI plugin {plugin:?} failed at {verb} of {container}: {reason}")]
    Plugin {
        /// Its type.
        plugin: String,
        /// ADD or DEL.
        verb: &'static str,
        /// Whose network.
        container: ContainerId,
        /// What it says.
        reason: String,
    },
    /// Ports were to be published, and no plugin does that.
    #[error(
        "no plugin of the CNI network {network:?} publishes ports: add one with the capability portMappings, \
         or publish none"
    )]
    Ports {
        /// The list's name.
        network: String,
    },
    /// A record could not be kept or read.
    #[error("cannot {what} {path}")]
    Record {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The namespace could not be made.
    #[error(transparent)]
    Namespace(#[from] NetworkError),
}

/// What must be known to delete a container's network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Record {
    version: u32,
    list: List,
    ports: Vec<Publication>,
    /// What the last plugin answered; `None` until then.
    result: Option<Value>,
}

/// The network that plugins made for a container.
#[derive(Debug)]
pub struct Added {
    /// To be launched with.
    pub namespace: OwnedFd,
    /// The container's addresses, as the plugins tell.
    pub addresses: Vec<IpAddr>,
}

/// An agent's use of CNI plugins. Holds nothing but names of folders: all that it knows is on disk.
#[derive(Debug, Clone)]
pub struct Cni {
    /// Where plugins are looked up, in this order.
    pub plugins: Vec<PathBuf>,
    /// Where records are kept, the agent's own: must outlive a boot, as what plugins reserve does. Is made.
    pub records: PathBuf,
    /// Where namespaces are bound, the agent's own, below `/run`. Is made.
    pub namespaces: PathBuf,
    /// How long one plugin may take.
    pub patience: Duration,
}

impl Cni {
    /// Makes a namespace and has the list's plugins join it, each told what the one before answered. What the container
    /// had before is deleted first.
    ///
    /// # Errors
    /// If a plugin fails or is missing. What was done is undone then, or is by a sweep.
    pub fn add(
        &self,
        container: &ContainerId,
        list: &List,
        ports: &[Publication],
    ) -> Result<Added, CniError> {
        self.delete(container)?;
        if !ports.is_empty() && !list.publishes() {
            let network = list.name.clone();
            return Err(CniError::Ports { network });
        }
        // Now nothing would have to be undone.
        self.find_plugins(list)?;
        let mut record = Record {
            version: 1,
            list: list.clone(),
            ports: ports.to_vec(),
            result: None,
        };
        self.write(container, &record)?;
        crash_points::passed("cni.recorded");
        let added = self.join(container, &mut record);
        if added.is_err() {
            // The first failure is the one to tell.
            let _ = self.delete(container);
        }
        added
    }

    /// Looks whether all plugins of a list are here.
    ///
    /// # Errors
    /// The first that is nowhere.
    pub fn find_plugins(&self, list: &List) -> Result<(), CniError> {
        let mut plugins = list.plugins.iter();
        plugins.try_for_each(|plugin| self.executable(plugin).map(drop))
    }

    fn join(&self, container: &ContainerId, record: &mut Record) -> Result<Added, CniError> {
        let place = self.namespace(container);
        fs::create_dir_all(&self.namespaces)
            .map_err(failed("make the folder", &self.namespaces))?;
        namespace::bind(&place)?;
        crash_points::passed("cni.namespace-bound");
        for plugin in &record.list.plugins {
            let before = record.result.as_ref();
            let input = record.list.input(plugin, &record.ports, before);
            let answer = self.call("ADD", container, plugin, &input)?;
            crash_points::passed("cni.plugin-added");
            record.result = Some(answer);
        }
        self.write(container, record)?;
        crash_points::passed("cni.result-kept");
        let namespace = File::open(&place).map_err(failed("open", &place))?;
        Ok(Added {
            namespace: namespace.into(),
            addresses: record.result.as_ref().map_or_else(Vec::new, addresses),
        })
    }

    /// Has the plugins take back what they gave, last first, and lets the namespace go. Repeatable.
    ///
    /// # Errors
    /// The first plugin that fails; the record is kept, so that it is tried again.
    pub fn delete(&self, container: &ContainerId) -> Result<(), CniError> {
        if let Some(record) = self.read(container)? {
            for plugin in record.list.plugins.iter().rev() {
                let input = record
                    .list
                    .input(plugin, &record.ports, record.result.as_ref());
                self.call("DEL", container, plugin, &input)?;
                crash_points::passed("cni.plugin-deleted");
            }
        }
        let place = self.namespace(container);
        if place.exists() {
            // Nothing is mounted there if a crash came between file and mount.
            let _ = umount2(&place, MntFlags::MNT_DETACH);
            fs::remove_file(&place).map_err(failed("remove", &place))?;
            crash_points::passed("cni.namespace-removed");
        }
        // The record last: as long as it is there somebody comes back.
        let (turn, draft) = (self.turn(container), self.draft(container));
        for path in [turn, draft, self.record(container)] {
            match fs::remove_file(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => other.map_err(failed("remove", &path))?,
            }
        }
        crash_points::passed("cni.record-removed");
        Ok(())
    }

    /// Deletes what containers have that are not known. Goes on after a failure and returns the first at the end.
    ///
    /// # Errors
    /// The first deletion that failed, or the folders if they cannot be read.
    pub fn sweep(&self, known: &BTreeSet<ContainerId>) -> Result<(), CniError> {
        let mut failure = None;
        for container in self.held()?.difference(known) {
            if let Err(error) = self.delete(container) {
                failure.get_or_insert(error);
            }
        }
        failure.map_or(Ok(()), Err)
    }

    /// The containers of which something is on disk, added or half-way.
    ///
    /// # Errors
    /// If a folder cannot be read.
    pub fn held(&self) -> Result<BTreeSet<ContainerId>, CniError> {
        let mut found = BTreeSet::new();
        let (records, namespaces) = (&self.records, &self.namespaces);
        let ends = [(records, ".json"), (records, ".draft"), (records, ".turn")];
        for (folder, end) in ends.into_iter().chain([(namespaces, "")]) {
            let entries = match fs::read_dir(folder) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                entries => entries.map_err(failed("read", folder))?,
            };
            for entry in entries {
                let name = entry.map_err(failed("read", folder))?.file_name();
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
        // After a boot or a crash there may be none: plugins must do without.
        let namespace = if place.exists() {
            place
        } else {
            PathBuf::new()
        };
        let call = Call {
            executable: &executable,
            environment: vec![
                ("CNI_COMMAND", verb.into()),
                // Containers of two agents may have one name, and plugins know no agents.
                (
                    "CNI_CONTAINERID",
                    format!("argosy-{}-{container}", ipam::tag(&self.records)).into(),
                ),
                ("CNI_NETNS", namespace.into()),
                ("CNI_IFNAME", DEVICE.into()),
                ("CNI_PATH", self.folders(":").into()),
            ],
            patience: self.patience,
        };
        let turn = self.turn(container);
        let mut turn = Turn::take(&turn, self.patience).map_err(failed(
            "run a plugin beside an earlier agent's that has",
            &turn,
        ))?;
        call.perform(input, &mut turn)
            .map_err(|reason| CniError::Plugin {
                plugin: kind(plugin).unwrap_or_default().to_owned(),
                verb,
                container: container.clone(),
                reason,
            })
    }

    fn executable(&self, plugin: &Map<String, Value>) -> Result<PathBuf, CniError> {
        let kind = kind(plugin).expect("the list was checked");
        let mut places = self.plugins.iter().map(|folder| folder.join(kind));
        let found = places.find(|path| path.is_file());
        found.ok_or_else(|| CniError::Missing {
            plugin: kind.to_owned(),
            folders: self.folders(", "),
        })
    }

    fn folders(&self, between: &str) -> String {
        let folders = self.plugins.iter().map(|folder| folder.to_string_lossy());
        folders.collect::<Vec<_>>().join(between)
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

    fn turn(&self, container: &ContainerId) -> PathBuf {
        self.records.join(format!("{container}.turn"))
    }

    fn read(&self, container: &ContainerId) -> Result<Option<Record>, CniError> {
        let path = self.record(container);
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text.map_err(failed("read", &path))?,
        };
        let record = serde_json::from_slice(&text).map_err(io::Error::from);
        record.map(Some).map_err(failed("make sense of", &path))
    }

    /// Whole and on disk before it returns, or as it was.
    fn write(&self, container: &ContainerId, record: &Record) -> Result<(), CniError> {
        let path = self.record(container);
        let draft = self.draft(container);
        let write = || -> io::Result<()> {
            fs::create_dir_all(&self.records)?;
            // Results of plugins may have what only root is to know.
            let mut new = File::options();
            new.create(true).truncate(true).write(true).mode(0o600);
            let mut file = new.open(&draft)?;
            file.write_all(&serde_json::to_vec(record)?)?;
            file.sync_all()?;
            fs::rename(&draft, &path)?;
            File::open(&self.records)?.sync_all()
        };
        write().map_err(failed("write", &path))
    }
}

/// Of a result; what else it says is between plugins.
fn addresses(result: &Value) -> Vec<IpAddr> {
    let all = result.get("ips").and_then(Value::as_array);
    let all = all.into_iter().flatten();
    let texts = all.filter_map(|ip| ip.get("address")?.as_str());
    let texts = texts.filter_map(|text| text.split('/').next()?.parse().ok());
    texts.collect()
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CniError {
    let path = path.to_owned();
    move |source| CniError::Record { what, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_result_says_beyond_addresses_is_passed_over() {
        let result = serde_json::json!({ "cniVersion": "1.0.0", "new": [1], "ips": [
            { "address": "10.1.0.5/16", "gateway": "10.1.0.1", "interface": 2 },
            { "address": "fd00::5/64" }, { "address": 7 }
        ] });
        let expected: [IpAddr; 2] = ["10.1.0.5".parse().unwrap(), "fd00::5".parse().unwrap()];
        assert_eq!(addresses(&result), expected);
        assert!(addresses(&Value::Null).is_empty());
    }
}
