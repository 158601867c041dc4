//! Networks of this agent's containers: the host is prepared for them when the first task asks for one, or when an
//! earlier life of the agent has left some.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use argosy_content::fetcher::TaskSubnets;
use argosy_isolation::network::{
    self, Between, FOLDER, Joined, Protocol, Publication, PublishedPorts, Settings, Subnet,
    Traffic, why_no_ipv6,
};
use argosy_isolation::{ContainerId, Isolation, NetworkError, Networks};
use argosy_proto::v1;

use super::cni::CniSettings;
use super::subnet6::TaskSubnet6;
use crate::config::Config;
use crate::core::ContainerName;
use crate::error::sentence;

/// How many namespaces wait ready: as many as are made at a time.
const READY: usize = 8;

/// What an operator says of containers' networks.
#[derive(Debug, Clone)]
pub struct NetworkSettings {
    /// Where containers get their addresses from.
    pub subnet: Subnet,
    /// Where they get their IPv6 addresses from.
    pub subnet6: TaskSubnet6,
    /// Whether containers of this host reach each other by their addresses.
    pub between: Between,
    /// Networks that plugins make.
    pub cni: CniSettings,
}

impl Default for NetworkSettings {
    fn default() -> Self {
        Self {
            subnet: Subnet::USUAL,
            subnet6: TaskSubnet6::default(),
            between: Between::Isolated,
            cni: CniSettings::default(),
        }
    }
}

/// The networks of this agent's containers.
pub(crate) struct Bridges {
    settings: Settings,
    /// Why this agent cannot create networks at all.
    cannot: Option<&'static str>,
    /// Why containers have no IPv6 addresses, against the operator's wish.
    no_ipv6: Option<String>,
    /// Set after the first successful probe of the host.
    possible: OnceLock<()>,
    /// A lock, since launches come from many blocking threads.
    open: Mutex<Host>,
}

/// How far this host is prepared.
enum Host {
    /// Nobody needs a network yet, but for the containers of an earlier life of the agent, which keep theirs.
    Closed(BTreeSet<ContainerId>),
    Open(Arc<Networks>),
}

impl Bridges {
    /// For the agent of this directory. What `masters` say of themselves no container may reach.
    /// Only with full `isolation` are there networks.
    pub(crate) fn new(directory: &Path, config: &Config, isolation: Isolation) -> Self {
        let wanted = &config.networks;
        let owner = std::fs::canonicalize(directory).unwrap_or_else(|_| directory.to_owned());
        let cannot =
            (isolation != Isolation::Full).then_some("it is not root, or told to isolate less");
        let wanted_ipv6 = match (cannot, wanted.subnet6, why_no_ipv6()) {
            (Some(_), _, _) | (None, TaskSubnet6::Off, _) => Ok(None),
            (None, _, Some(why)) => Err(why.to_owned()),
            (None, subnet6, None) => subnet6.of(directory),
        };
        Self {
            cannot,
            no_ipv6: wanted_ipv6.as_ref().err().cloned(),
            possible: OnceLock::new(),
            settings: Settings {
                owner,
                folder: PathBuf::from(FOLDER),
                subnet: wanted.subnet,
                subnet6: wanted_ipv6.ok().flatten(),
                ready: READY,
                between: wanted.between,
                denied: config
                    .masters
                    .iter()
                    .filter_map(|master| plain(master))
                    .collect(),
            },
            open: Mutex::new(Host::Closed(BTreeSet::new())),
        }
    }

    /// Probes whether this host can give containers private networks, and returns the reason if it cannot. Blocks. Only
    /// success is cached.
    pub(crate) fn possible(&self) -> Result<(), String> {
        if let Some(why) = self.cannot {
            return Err(why.to_owned());
        }
        if self.possible.get().is_none() {
            network::check(self.settings.subnet, self.settings.subnet6)
                .map_err(|error| sentence(&error))?;
            self.possible.get_or_init(|| ());
        }
        Ok(())
    }

    /// Where containers get their addresses from, if this agent creates networks at all.
    pub(crate) fn subnets(&self) -> Option<TaskSubnets> {
        let Settings {
            subnet, subnet6, ..
        } = self.settings;
        let subnets = TaskSubnets {
            ipv4: subnet,
            ipv6: subnet6,
        };
        self.cannot.is_none().then_some(subnets)
    }

    /// Makes the folder in which a process that fetches finds published ports. Blocks.
    pub(crate) fn prepare_records(&self) {
        if self.cannot.is_some() {
            return;
        }
        if let Err(error) = PublishedPorts::prepare(&self.settings.folder) {
            let folder = self.settings.folder.display();
            tracing::warn!(%error, %folder, "nothing is fetched from ports of this host that tasks publish");
        }
    }

    /// Why containers have IPv4 only, unless the operator wants that.
    pub(crate) fn why_no_ipv6(&self) -> Option<&str> {
        self.no_ipv6.as_deref()
    }

    /// Keeps the networks of the containers that an earlier life has left, and forgets the others. On a failure the
    /// containers keep their networks, others get none until [`Bridges::retry`] or a launch succeeds.
    pub(crate) fn resume(&self, known: &BTreeSet<ContainerName>) -> Result<(), NetworkError> {
        *self.lock() = Host::Closed(known.iter().map(|name| id(*name)).collect());
        self.retry()
    }

    /// Tries again what [`Bridges::resume`] could not do. Nothing is done if it has, or if nothing was left.
    pub(crate) fn retry(&self) -> Result<(), NetworkError> {
        let mut host = self.lock();
        match *host {
            Host::Closed(_) if Networks::are_left(&self.settings) => {
                self.opened(&mut host).map(drop)
            }
            Host::Closed(_) | Host::Open(_) => Ok(()),
        }
    }

    fn opened(&self, host: &mut Host) -> Result<Arc<Networks>, NetworkError> {
        let known = match host {
            Host::Open(networks) => return Ok(Arc::clone(networks)),
            Host::Closed(known) => known,
        };
        let networks = Arc::new(Networks::open(self.settings.clone(), known)?);
        *host = Host::Open(Arc::clone(&networks));
        Ok(networks)
    }

    /// A network for this container, with these ports of the host leading to it.
    pub(crate) fn take(
        &self,
        container: ContainerName,
        ports: &[Publication],
    ) -> Result<Joined, NetworkError> {
        let networks = self.opened(&mut self.lock())?;
        networks.take(&id(container), ports)
    }

    /// What passed the container's link; `None` without one, or if the kernel does not tell.
    pub(crate) fn statistics(&self, container: ContainerName) -> Option<Traffic> {
        // Under the lock, so that nobody but the agent holds them when it is taken off the host.
        let open = self.lock();
        let Host::Open(networks) = &*open else {
            return None;
        };
        networks.statistics(&id(container)).ok().flatten()
    }

    /// The container is gone. Nothing is wrong if it had none.
    pub(crate) fn release(&self, container: ContainerName) -> Result<(), NetworkError> {
        let networks = match &mut *self.lock() {
            Host::Open(networks) => Arc::clone(networks),
            Host::Closed(known) => {
                // It is forgotten by the sweep when the host is opened.
                known.remove(&id(container));
                return Ok(());
            }
        };
        networks.release(&id(container))
    }

    /// Takes the agent off the host, whose containers are all gone.
    pub(crate) fn remove(&self) -> Result<(), NetworkError> {
        let closed = Host::Closed(BTreeSet::new());
        match std::mem::replace(&mut *self.lock(), closed) {
            Host::Open(networks) => {
                Arc::into_inner(networks).map_or(Ok(()), |networks| networks.remove())
            }
            Host::Closed(_) => Ok(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Host> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn id(container: ContainerName) -> ContainerId {
    ContainerId::new(container.to_string()).expect("digits and dashes make a name")
}

/// A master's address, if it is written in numbers.
fn plain(address: &str) -> Option<SocketAddr> {
    let address: SocketAddr = address.parse().ok()?;
    // An IPv4 address in the form of IPv6 is denied as what it is.
    Some(SocketAddr::new(address.ip().to_canonical(), address.port()))
}

/// The ports that a task publishes, by the names that its messages have for them.
pub(crate) fn publications(published: &[v1::PublishedPort]) -> Vec<Publication> {
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
        assert_eq!(
            plain("[2001:db8::1]:5050"),
            "[2001:db8::1]:5050".parse().ok()
        );
        assert_eq!(
            plain("[::ffff:10.0.0.1]:5050"),
            "10.0.0.1:5050".parse().ok()
        );
        assert_eq!(plain("master.example:5050"), None);
    }
}
