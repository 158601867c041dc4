//! Networks of this agent's containers: the host is prepared for them when the first task asks for one, or when an
//! earlier life of the agent has left some.

use std::collections::BTreeSet;
use std::net::{SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use argosy_isolation::network::{
    Between, FOLDER, Joined, Protocol, Publication, Settings, Subnet, Traffic,
};
use argosy_isolation::{ContainerId, NetworkError, Networks};
use argosy_proto::v1;

use super::plugged::CniSettings;
use crate::core::ContainerName;

/// How many namespaces wait ready: as many as are made at a time.
const READY: usize = 8;

/// What an operator says of containers' networks.
#[derive(Debug, Clone)]
pub struct NetworkSettings {
    /// Where containers get their addresses from.
    pub subnet: Subnet,
    /// Whether containers of this host reach each other by their addresses.
    pub between: Between,
    /// Networks that plugins make.
    pub cni: CniSettings,
}

impl Default for NetworkSettings {
    fn default() -> Self {
        Self {
            subnet: Subnet::USUAL,
            between: Between::Isolated,
            cni: CniSettings::default(),
        }
    }
}

/// The networks of this agent's containers.
pub(crate) struct Bridges {
    settings: Settings,
    /// A lock, since launches come from many blocking threads. `None` until somebody needs a network.
    open: Mutex<Option<Arc<Networks>>>,
}

impl Bridges {
    /// For the agent of this directory. What `masters` say of themselves no container may reach.
    pub(super) fn new(directory: &Path, wanted: &NetworkSettings, masters: &[String]) -> Self {
        let owner = std::fs::canonicalize(directory).unwrap_or_else(|_| directory.to_owned());
        Self {
            settings: Settings {
                owner,
                folder: PathBuf::from(FOLDER),
                subnet: wanted.subnet,
                ready: READY,
                between: wanted.between,
                denied: masters.iter().filter_map(|master| plain(master)).collect(),
            },
            open: Mutex::new(None),
        }
    }

    /// Keeps the networks of the containers that an earlier life has left, and forgets the others.
    pub(super) fn resume(&self, known: &BTreeSet<ContainerName>) -> Result<(), NetworkError> {
        if !Networks::are_left(&self.settings) {
            return Ok(());
        }
        let known = known.iter().map(|name| id(*name)).collect();
        *self.lock() = Some(Arc::new(Networks::open(self.settings.clone(), &known)?));
        Ok(())
    }

    /// A network for this container, with these ports of the host leading to it.
    pub(super) fn take(
        &self,
        container: ContainerName,
        ports: &[Publication],
    ) -> Result<Joined, NetworkError> {
        let mut open = self.lock();
        let networks = match &*open {
            Some(networks) => Arc::clone(networks),
            // Nobody has had one yet: nothing is to be kept.
            None => {
                let networks = Networks::open(self.settings.clone(), &BTreeSet::new())?;
                Arc::clone(open.insert(Arc::new(networks)))
            }
        };
        drop(open);
        networks.take(&id(container), ports)
    }

    /// What passed the container's link; `None` without one, or if the kernel does not tell.
    pub(crate) fn statistics(&self, container: ContainerName) -> Option<Traffic> {
        // Under the lock, so that nobody but the agent holds them when it is taken off the host.
        let open = self.lock();
        let told = open.as_ref()?.statistics(&id(container));
        told.ok().flatten()
    }

    /// The container is gone. Nothing is wrong if it had none.
    pub(super) fn release(&self, container: ContainerName) -> Result<(), NetworkError> {
        let networks = self.lock().clone();
        networks.map_or(Ok(()), |networks| networks.release(&id(container)))
    }

    /// Takes the agent off the host, whose containers are all gone.
    pub(super) fn remove(&self) -> Result<(), NetworkError> {
        match self.lock().take().and_then(Arc::into_inner) {
            Some(networks) => networks.remove(),
            None => Ok(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Networks>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn id(container: ContainerName) -> ContainerId {
    ContainerId::new(container.to_string()).expect("digits and dashes make a name")
}

/// A master's address, if it is written in numbers.
fn plain(address: &str) -> Option<SocketAddrV4> {
    match address.parse() {
        Ok(SocketAddr::V4(address)) => Some(address),
        Ok(SocketAddr::V6(_)) | Err(_) => None,
    }
}

/// The ports that a task publishes, by the names that its messages have for them.
pub(super) fn publications(published: &[v1::PublishedPort]) -> Vec<Publication> {
    // The registry has judged them: what does not fit is 0, which is refused when it is published.
    let port = |number: u32| u16::try_from(number).unwrap_or(0);
    let publications = published.iter().map(|wire| Publication {
        name: format!("{}:{}", wire.host_port, wire.container_port),
        protocol: if wire.udp {
            Protocol::Udp
        } else {
            Protocol::Tcp
        },
        host_port: port(wire.host_port),
        container_port: port(wire.container_port),
    });
    publications.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_is_none_becomes_one_that_is_refused() {
        let wire = v1::PublishedPort {
            host_port: 70_000,
            container_port: 80,
            udp: true,
        };
        let published = publications(&[wire]);
        assert_eq!(published[0].host_port, 0);
        assert_eq!(published[0].protocol, Protocol::Udp);
    }

    #[test]
    fn masters_by_name_are_left_to_the_hosts_own_rules() {
        assert_eq!(plain("10.0.0.1:5050"), "10.0.0.1:5050".parse().ok());
        assert_eq!(plain("master.example:5050"), None);
    }
}
