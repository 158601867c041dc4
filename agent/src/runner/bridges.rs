//! Bridge networks of this agent's containers: the host is prepared when the first task requests
//! one, or when an earlier run of the agent has left some.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use argosy_content::fetcher::TaskSubnets;
use argosy_host::ContainerId;
use argosy_isolation::Isolation;
use argosy_network::{
    ContainerNamespace, LinkStats, NetworkConfig, NetworkError, Networks, PortPublication,
    Protocol, PublishedPorts, RECORDS_DIR, why_no_ipv6,
};
use argosy_proto::v1;
use argosy_state::planted_bug;

use super::subnet6;
use crate::config::{Config, TaskAllow, TaskSubnet6};
use crate::core::ContainerName;
use crate::error::error_chain;

/// Number of namespaces kept ready: as many as are created at a time.
const NAMESPACE_POOL: usize = 8;

/// The networks of this agent's containers.
pub(crate) struct BridgeNetworks {
    settings: NetworkConfig,
    /// The reason why this agent cannot create networks at all.
    unsupported: Option<&'static str>,
    /// The reason why containers have no IPv6 addresses although the operator enabled them.
    no_ipv6: Option<String>,
    /// Set after the first successful probe of the host.
    probed: OnceLock<()>,
    /// A lock, since launches come from many blocking threads.
    host: Mutex<HostPreparation>,
}

/// The state of the host's preparation.
enum HostPreparation {
    /// No network is needed yet, except for containers of an earlier run of the agent, which keep
    /// theirs.
    Pending(BTreeSet<ContainerId>),
    Ready(Arc<Networks>),
}

impl BridgeNetworks {
    /// Returns the networks for the agent of this directory. Containers cannot connect to the
    /// advertised addresses of `masters`. Networks exist only with full `isolation`.
    pub(crate) fn new(directory: &Path, config: &Config, isolation: Isolation) -> Self {
        let wanted = &config.networks;
        let owner = std::fs::canonicalize(directory).unwrap_or_else(|_| directory.to_owned());
        let unsupported = (isolation != Isolation::Full)
            .then_some("it is not root, or is configured with less isolation");
        let wanted_ipv6 = match (unsupported, wanted.subnet6, why_no_ipv6()) {
            (Some(_), _, _) | (None, TaskSubnet6::Off, _) => Ok(None),
            (None, _, Some(why)) => Err(why.to_owned()),
            (None, subnet6, None) => subnet6::prefix(subnet6, directory),
        };
        Self {
            unsupported,
            no_ipv6: wanted_ipv6.as_ref().err().cloned(),
            probed: OnceLock::new(),
            settings: NetworkConfig {
                owner,
                directory: PathBuf::from(RECORDS_DIR),
                subnet: wanted.subnet,
                subnet6: wanted_ipv6.ok().flatten(),
                pool_size: NAMESPACE_POOL,
                traffic: wanted.inter_container,
                blocks_metadata: !config.task_allow.contains(&TaskAllow::Metadata),
                denied: config
                    .masters
                    .iter()
                    .filter_map(|master| numeric_address(master))
                    .collect(),
            },
            host: Mutex::new(HostPreparation::Pending(BTreeSet::new())),
        }
    }

    /// Probes whether this host can give containers private networks, and returns the reason if it
    /// cannot. Blocks. Only success is cached.
    pub(crate) fn check_support(&self) -> Result<(), String> {
        if let Some(why) = self.unsupported {
            return Err(why.to_owned());
        }
        if self.probed.get().is_none() {
            argosy_network::check(self.settings.subnet, self.settings.subnet6)
                .map_err(|error| error_chain(&error))?;
            self.probed.get_or_init(|| ());
        }
        Ok(())
    }

    /// Returns the address ranges of containers, if this agent creates networks at all.
    pub(crate) fn subnets(&self) -> Option<TaskSubnets> {
        let NetworkConfig {
            subnet, subnet6, ..
        } = self.settings;
        let subnets = TaskSubnets {
            ipv4: subnet,
            ipv6: subnet6,
        };
        self.unsupported.is_none().then_some(subnets)
    }

    /// Creates the directory in which a fetch process finds published ports. Blocks.
    pub(crate) fn prepare_records(&self) {
        if self.unsupported.is_some() {
            return;
        }
        if let Err(error) = PublishedPorts::prepare(&self.settings.directory) {
            let dir = self.settings.directory.display();
            tracing::warn!(%error, %dir, "tasks cannot fetch from published ports of this host");
        }
    }

    /// Returns the reason why containers have only IPv4, unless the operator configured that.
    pub(crate) fn why_no_ipv6(&self) -> Option<&str> {
        self.no_ipv6.as_deref()
    }

    /// Keeps the networks of these containers of an earlier run, and removes the others. On a
    /// failure the containers keep their networks; others get none until [`BridgeNetworks::retry`]
    /// or a launch succeeds.
    pub(crate) fn resume(&self, known: &BTreeSet<ContainerName>) -> Result<(), NetworkError> {
        *self.lock() = HostPreparation::Pending(known.iter().map(|name| id(*name)).collect());
        planted_bug!(NetworkForgotten => *self.lock() = HostPreparation::Pending(BTreeSet::new()));
        self.retry()
    }

    /// Retries [`BridgeNetworks::resume`]. Does nothing if it has succeeded, or if no networks were
    /// left.
    pub(crate) fn retry(&self) -> Result<(), NetworkError> {
        let mut host = self.lock();
        match *host {
            HostPreparation::Pending(_) if Networks::has_leftovers(&self.settings) => {
                self.open_networks(&mut host).map(drop)
            }
            HostPreparation::Pending(_) | HostPreparation::Ready(_) => Ok(()),
        }
    }

    fn open_networks(&self, host: &mut HostPreparation) -> Result<Arc<Networks>, NetworkError> {
        let known = match host {
            HostPreparation::Ready(networks) => return Ok(Arc::clone(networks)),
            HostPreparation::Pending(known) => known,
        };
        let networks = Arc::new(Networks::open(self.settings.clone(), known)?);
        *host = HostPreparation::Ready(Arc::clone(&networks));
        Ok(networks)
    }

    /// Creates a network for this container, with these published host ports.
    pub(crate) fn allocate(
        &self,
        container: ContainerName,
        ports: &[PortPublication],
    ) -> Result<ContainerNamespace, NetworkError> {
        let networks = self.open_networks(&mut self.lock())?;
        networks.acquire(&id(container), ports)
    }

    /// Restores the rules of open networks if they are missing; see [`Networks::restore_table`].
    pub(crate) fn restore_rules(&self) -> Result<bool, NetworkError> {
        // Under the lock for the reason in `statistics`.
        match &*self.lock() {
            HostPreparation::Ready(networks) => networks.restore_table(),
            HostPreparation::Pending(_) => Ok(false),
        }
    }

    /// Returns the traffic of the container's link; `None` without a link, or if the kernel does
    /// not report it.
    pub(crate) fn statistics(&self, container: ContainerName) -> Option<LinkStats> {
        // Under the lock, so that only the agent holds the networks when they are removed from the
        // host.
        let open = self.lock();
        let HostPreparation::Ready(networks) = &*open else {
            return None;
        };
        networks.statistics(&id(container)).ok().flatten()
    }

    /// Releases the network of a container that is removed. It is no error if it had none.
    pub(crate) fn release(&self, container: ContainerName) -> Result<(), NetworkError> {
        let networks = match &mut *self.lock() {
            HostPreparation::Ready(networks) => Arc::clone(networks),
            HostPreparation::Pending(known) => {
                // The sweep removes it when the host is opened.
                known.remove(&id(container));
                return Ok(());
            }
        };
        networks.release(&id(container))
    }

    /// Removes the agent's networks from the host. All of its containers are removed.
    pub(crate) fn remove(&self) -> Result<(), NetworkError> {
        let closed = HostPreparation::Pending(BTreeSet::new());
        match std::mem::replace(&mut *self.lock(), closed) {
            HostPreparation::Ready(networks) => {
                Arc::into_inner(networks).map_or(Ok(()), |networks| networks.remove())
            }
            HostPreparation::Pending(_) => Ok(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HostPreparation> {
        self.host.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn id(container: ContainerName) -> ContainerId {
    ContainerId::new(container.to_string()).expect("digits and dashes make a name")
}

/// Returns a master's address, if it is numeric.
fn numeric_address(address: &str) -> Option<SocketAddr> {
    let address: SocketAddr = address.parse().ok()?;
    // An IPv4 address in the form of IPv6 is denied as IPv4.
    Some(SocketAddr::new(address.ip().to_canonical(), address.port()))
}

/// Returns the ports that a task publishes.
pub(crate) fn publications(published: &[v1::PublishedPort]) -> Vec<PortPublication> {
    // The registry has validated them: an invalid one is 0, which is refused when it is published.
    let port = |number: u32| u16::try_from(number).unwrap_or(0);
    let publications = published.iter().map(|wire| PortPublication {
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
    fn invalid_ports_become_rejected_ports() {
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
    fn named_masters_are_not_blocked_by_address() {
        assert_eq!(
            numeric_address("10.0.0.1:5050"),
            "10.0.0.1:5050".parse().ok()
        );
        assert_eq!(
            numeric_address("[2001:db8::1]:5050"),
            "[2001:db8::1]:5050".parse().ok()
        );
        assert_eq!(
            numeric_address("[::ffff:10.0.0.1]:5050"),
            "10.0.0.1:5050".parse().ok()
        );
        assert_eq!(numeric_address("master.example:5050"), None);
    }
}
