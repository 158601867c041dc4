//! The networks of an agent's containers: the pool of namespaces, their holders, and the sweep that
//! removes the rest.
//!
//! All calls come from threads in the host's network namespace. They block: taking a namespace
//! costs only a rename while the pool lasts and no port is published, else a few milliseconds for
//! the kernel or for `nft`, and tens of milliseconds for the lists of `conntrack`.

mod filling;
mod leftovers;
mod missing_table;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::conntrack;
use super::host::{list_devices, remove_devices};
use super::ipam::{ClaimResult, Ipam, PortRecord};
use super::link::NetworkDevice;
use super::link_stats::{self, LinkStats};
use super::namespace::{self, Ipv6SysctlDir, NamespaceConfig, NamespaceConfig6};
use super::rules::{self, DEVICES, ForwardingDenied, NftTable, PortMapping};
use super::{
    ContainerNamespace, NetworkConfig, NetworkError, PortPublication, forwarding, host,
    network_error,
};
use argosy_host::ContainerId;
use argosy_host::crash_point;
use filling::refill;

/// An agent's networks. Dropping it releases the waiting namespaces; containers keep theirs.
pub struct Networks {
    shared: Arc<NetworkState>,
}

/// State shared with the thread that refills the pool.
struct NetworkState {
    settings: NetworkConfig,
    records: Ipam,
    tag: String,
    forwarding_denied: ForwardingDenied,
    sysctl6: Ipv6SysctlDir,
    /// A lock and not an owner task: calls come from any thread, and each is short.
    pool: Mutex<NamespacePool>,
    /// Held while ports are recorded and their rules changed: the table is built from the records
    /// when it is replaced.
    rules: Mutex<()>,
    /// Whether a missing table was restored that [`Networks::restore_table`] has not reported.
    was_missing: AtomicBool,
}

#[derive(Default)]
struct NamespacePool {
    ready: VecDeque<PooledNamespace>,
    /// Addresses that are not assigned to a container yet: of the namespaces above, and of those
    /// that are being created or assigned.
    unassigned: BTreeSet<Ipv4Addr>,
    containers: BTreeMap<ContainerId, NetworkAssignment>,
    is_filling: bool,
    filler: Option<JoinHandle<()>>,
    is_closed: bool,
}

struct PooledNamespace {
    namespace: OwnedFd,
    address: Ipv4Addr,
}

#[derive(Debug, Clone)]
struct NetworkAssignment {
    address: Ipv4Addr,
    mappings: Vec<PortMapping>,
}

impl Networks {
    /// Whether an earlier run of this agent left state that must be opened. Changes nothing.
    #[must_use]
    pub fn has_leftovers(settings: &NetworkConfig) -> bool {
        Ipam::has_records(&settings.directory, &settings.owner)
    }

    /// Prepares the host: forwarding, the table, the pool. Keeps the networks of known containers
    /// that survived the agent, and removes all others, like [`Networks::sweep`].
    ///
    /// Forwarding is enabled if it is disabled; the table then drops packets between the devices of
    /// the host.
    ///
    /// # Errors
    /// If a subnet overlaps a route, a known container has an address of another subnet, `nft` is
    /// missing, or the host refuses an operation.
    pub fn open(
        mut settings: NetworkConfig,
        known: &BTreeSet<ContainerId>,
    ) -> Result<Self, NetworkError> {
        rules::is_installed().map_err(|source| NetworkError::NoNft { source })?;
        settings.subnet6 = host::possible(settings.subnet6);
        host::check_routes(settings.subnet, settings.subnet6)?;
        let records = Ipam::open(&settings.directory, &settings.owner)?;
        let _alone = records.lock()?;
        records.register(settings.subnet, known)?;
        let shared = NetworkState {
            tag: records.tag(),
            forwarding_denied: forwarding::enable(&records, settings.subnet6)?,
            sysctl6: Ipv6SysctlDir::of_current()
                .map_err(network_error("open the IPv6 settings of devices"))?,
            settings,
            records,
            pool: Mutex::default(),
            rules: Mutex::default(),
            was_missing: AtomicBool::default(),
        };
        leftovers::remove_lost_owners(&shared.records)?;
        let networks = Self {
            shared: Arc::new(shared),
        };
        networks.sweep(known)?;
        networks.shared.load()?;
        refill(&networks.shared);
        Ok(networks)
    }

    /// Returns a namespace for this container, with these host ports leading to it. Its earlier
    /// network is released first: after a crash a launch may be repeated.
    ///
    /// # Errors
    /// If another container has a port, a port is to be published without the kernel module for it,
    /// all addresses are in use, or the host refuses an operation. Nothing is kept then.
    pub fn acquire(
        &self,
        container: &ContainerId,
        publications: &[PortPublication],
    ) -> Result<ContainerNamespace, NetworkError> {
        let shared = &self.shared;
        self.release(container)?;
        shared.restore_if_missing()?;
        let zero = publications
            .iter()
            .find(|port| port.host_port == 0 || port.container_port == 0);
        if let Some(zero) = zero {
            let name = zero.name.clone();
            return Err(NetworkError::Zero { name });
        }
        let waiting = shared.pool().ready.pop_front();
        refill(shared);
        let waiting = waiting.map_or_else(|| shared.make(), Ok)?;
        let address = waiting.address;
        let given = shared
            .assign(address, container)
            .and_then(|()| shared.publish(address, container, publications));
        if let Err(error) = given {
            drop(waiting);
            // The first failure is the one to return; the next sweep does what fails now.
            let _ = self.release(container);
            return Err(error);
        }
        Ok(ContainerNamespace {
            namespace: waiting.namespace,
            address,
            address6: shared.address6(address),
            gateway: shared.settings.subnet.gateway(),
        })
    }

    /// Releases the network of a container whose processes have all ended. Its ports are free
    /// immediately, and its address is reused after all others. The kernel removes its namespace in
    /// the background. Idempotent.
    ///
    /// # Errors
    /// If rules, connection tracking or records cannot be changed; repeat the call, or leave it to
    /// a sweep.
    pub fn release(&self, container: &ContainerId) -> Result<(), NetworkError> {
        let shared = &self.shared;
        let given = shared.pool().containers.get(container).cloned();
        let Some(given) = given else {
            return Ok(());
        };
        shared.withdraw(&given.mappings)?;
        shared.records.release_address(given.address)?;
        crash_point!("network.address-returned");
        shared.pool().containers.remove(container);
        Ok(())
    }

    /// Returns the container's address, if it has one.
    #[must_use]
    pub fn address(&self, container: &ContainerId) -> Option<Ipv4Addr> {
        let pool = self.shared.pool();
        pool.containers.get(container).map(|given| given.address)
    }

    /// Returns the traffic of the container's link since its creation; `None` if it has no link of
    /// this agent.
    ///
    /// # Errors
    /// If the kernel cannot be queried.
    pub fn statistics(&self, container: &ContainerId) -> Result<Option<LinkStats>, NetworkError> {
        let address = self.address(container);
        let device = address.and_then(|at| self.shared.device(at));
        device.map_or(Ok(None), |device| link_stats::of(&device))
    }

    /// Returns the size of the pool, for tests: they are separate programs, so `cfg(test)` would
    /// hide it.
    #[must_use]
    pub fn pool_size(&self) -> usize {
        self.shared.pool().ready.len()
    }

    /// Removes every device, rule and record of containers that are not known, and replaces the
    /// table, whatever its state. `known` has all containers that run or are being launched.
    /// Idempotent; after an interruption the next sweep continues.
    ///
    /// # Errors
    /// The first removal that failed.
    pub fn sweep(&self, known: &BTreeSet<ContainerId>) -> Result<(), NetworkError> {
        let shared = &self.shared;
        let _alone = lock(&shared.rules);
        let (mut published, mut withdrawn) = (Vec::new(), Vec::new());
        for port in shared.records.ports()? {
            if known.contains(&port.container) {
                published.push(port.mapping);
            } else {
                withdrawn.push(port.mapping);
            }
        }
        // Devices that are listed before the lock is taken were recorded before. So a namespace
        // that is being created is not mistaken for an orphan.
        let devices = devices_of(&shared.tag)?;
        let mut pool = shared.pool();
        let (mut kept, mut lost) = (pool.unassigned.clone(), Vec::new());
        for held in shared.records.addresses()? {
            if held.container.is_some_and(|name| known.contains(&name)) {
                kept.insert(held.address);
            } else if !kept.contains(&held.address) {
                lost.push(held.address);
            }
        }
        pool.containers.retain(|name, _| known.contains(name));
        drop(pool);
        let strays = devices.into_iter().filter(|device| {
            let address = shared.address(device);
            !address.is_some_and(|address| kept.contains(&address))
        });
        remove_devices(strays)?;
        shared.replace_table(&published)?;
        // Before the records: until nothing leads to a port or an address, no container may get it.
        conntrack::delete_withdrawn(&withdrawn)?;
        for mapping in &withdrawn {
            shared.records.release_port(mapping)?;
        }
        for address in lost {
            shared.records.release_address(address)?;
        }
        Ok(())
    }

    /// Removes the agent from the host: its table, records and waiting namespaces. Call it when no
    /// container is left, because the containers would be disconnected.
    ///
    /// # Errors
    /// The first step that failed.
    pub fn remove(self) -> Result<(), NetworkError> {
        self.shared.close();
        let _alone = lock(&self.shared.rules);
        leftovers::clear_host(&self.shared.records)
    }
}

impl Drop for Networks {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl fmt::Debug for Networks {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = formatter.debug_struct("Networks");
        shown.field("settings", &self.shared.settings);
        shown.finish_non_exhaustive()
    }
}

impl NetworkState {
    fn pool(&self) -> MutexGuard<'_, NamespacePool> {
        lock(&self.pool)
    }

    /// Loads the assignments of earlier runs of this agent, after a sweep.
    fn load(&self) -> Result<(), NetworkError> {
        let ports = self.records.ports()?;
        let mut pool = self.pool();
        for held in self.records.addresses()? {
            let Some(container) = held.container else {
                continue;
            };
            let of_it = ports.iter().filter(|port| port.container == container);
            let given = NetworkAssignment {
                address: held.address,
                mappings: of_it.map(|port| port.mapping).collect(),
            };
            pool.containers.insert(container, given);
        }
        Ok(())
    }

    /// Returns the device that leads to an address of the subnet.
    fn device(&self, address: Ipv4Addr) -> Option<String> {
        let number = self.settings.subnet.number(address)?;
        Some(format!("{DEVICES}{}{number:06x}", self.tag))
    }

    fn address6(&self, address: Ipv4Addr) -> Option<Ipv6Addr> {
        let subnet6 = self.settings.subnet6;
        subnet6.map(|subnet6| subnet6.address(address))
    }

    /// Creates a namespace. Its address is recorded before any device has it.
    fn make(&self) -> Result<PooledNamespace, NetworkError> {
        let subnet = self.settings.subnet;
        let mut pool = self.pool();
        let address = self.records.take_address(subnet)?;
        pool.unassigned.insert(address);
        drop(pool);
        crash_point!("network.address-taken");
        let wiring = NamespaceConfig {
            device: self
                .device(address)
                .expect("addresses come from the subnet"),
            address,
            gateway: subnet.gateway(),
            ipv6: self.settings.subnet6.map(|subnet6| NamespaceConfig6 {
                address: subnet6.address(address),
                gateway: subnet6.address(subnet.gateway()),
            }),
        };
        match namespace::create(&wiring, &self.sysctl6) {
            Ok(namespace) => Ok(PooledNamespace { namespace, address }),
            Err(error) => {
                self.abandon(address);
                Err(error)
            }
        }
    }

    /// A sweep releases what cannot be released now.
    fn abandon(&self, address: Ipv4Addr) {
        let _ = self.records.release_address(address);
        self.pool().unassigned.remove(&address);
    }

    fn assign(&self, address: Ipv4Addr, container: &ContainerId) -> Result<(), NetworkError> {
        if let Err(error) = self.records.assign(address, container) {
            self.abandon(address);
            return Err(error);
        }
        let mut pool = self.pool();
        pool.unassigned.remove(&address);
        let mappings = Vec::new();
        let given = NetworkAssignment { address, mappings };
        pool.containers.insert(container.clone(), given);
        crash_point!("network.assigned");
        Ok(())
    }

    fn publish(
        &self,
        address: Ipv4Addr,
        container: &ContainerId,
        publications: &[PortPublication],
    ) -> Result<(), NetworkError> {
        if publications.is_empty() {
            return Ok(());
        }
        // Otherwise the ports could not be withdrawn.
        conntrack::check()?;
        let _alone = lock(&self.rules);
        let mut mappings = Vec::new();
        for publication in publications {
            let mapping = PortMapping {
                protocol: publication.protocol,
                host_port: publication.host_port,
                to: SocketAddrV4::new(address, publication.container_port),
            };
            let wanted = PortRecord {
                mapping,
                container: container.clone(),
            };
            // Before the record exists: with a record, other agents treat the port as the
            // container's.
            host::check_port_free(publication, self.settings.subnet6)?;
            let claimed = self.records.claim_port(&wanted)?;
            if let ClaimResult::Conflict(holder) = claimed {
                return Err(NetworkError::Published {
                    name: publication.name.clone(),
                    protocol: publication.protocol,
                    port: publication.host_port,
                    holder,
                });
            }
            mappings.push(mapping);
            if let Some(given) = self.pool().containers.get_mut(container) {
                given.mappings.push(mapping);
            }
            crash_point!("network.port-recorded");
        }
        self.change_table(&rules::publish(&self.tag, &mappings, self.settings.subnet6))?;
        redirect_clients(&mappings);
        crash_point!("network.published");
        Ok(())
    }

    fn withdraw(&self, mappings: &[PortMapping]) -> Result<(), NetworkError> {
        if mappings.is_empty() {
            return Ok(());
        }
        let _alone = lock(&self.rules);
        self.change_table(&rules::withdraw(&self.tag, mappings, self.settings.subnet6))?;
        crash_point!("network.withdrawn");
        // A failure keeps the records of ports and address, so that no other container gets them.
        conntrack::delete_withdrawn(mappings)?;
        for mapping in mappings {
            self.records.release_port(mapping)?;
            crash_point!("network.port-returned");
        }
        Ok(())
    }

    fn replace_table(&self, mappings: &[PortMapping]) -> Result<(), NetworkError> {
        let table = NftTable {
            tag: &self.tag,
            subnet: self.settings.subnet,
            subnet6: self.settings.subnet6,
            traffic: self.settings.traffic,
            blocks_metadata: self.settings.blocks_metadata,
            denied: &self.settings.denied,
            forwarding_denied: &self.forwarding_denied,
            mappings,
        };
        rules::apply(&table.script())?;
        redirect_clients(mappings);
        crash_point!("network.table-replaced");
        Ok(())
    }

    /// Returns the address that leads to a device of this agent; the inverse of
    /// [`NetworkState::device`].
    fn address(&self, device: &NetworkDevice) -> Option<Ipv4Addr> {
        let subnet = self.settings.subnet;
        let number = device.name.get(DEVICES.len() + self.tag.len()..)?;
        let number = u32::from_str_radix(number, 16).ok()?;
        (number < subnet.capacity()).then(|| subnet.address(number))
    }

    /// Releases the waiting namespaces.
    fn close(&self) {
        let mut pool = self.pool();
        pool.is_closed = true;
        let filler = pool.filler.take();
        drop(pool);
        if let Some(filler) = filler {
            // The thread stops after its current namespace; it does not panic.
            let _ = filler.join();
        }
        let ready = std::mem::take(&mut self.pool().ready);
        for waiting in ready {
            self.abandon(waiting.address);
        }
    }
}

/// Redirects clients that sent to ports before these were published.
fn redirect_clients(mappings: &[PortMapping]) {
    // A failure is no reason to fail a task that all other clients reach. These clients reach it
    // after a pause.
    let _ = conntrack::delete_earlier(mappings);
}

/// Returns the devices of the agent with this tag.
fn devices_of(tag: &str) -> Result<Vec<NetworkDevice>, NetworkError> {
    let begin = format!("{DEVICES}{tag}");
    let mut links = list_devices()?;
    links.retain(|link| link.name.starts_with(&begin));
    Ok(links)
}

/// A panic leaves nothing that these locks guard half-changed.
fn lock<T>(guarded: &Mutex<T>) -> MutexGuard<'_, T> {
    guarded.lock().unwrap_or_else(PoisonError::into_inner)
}
