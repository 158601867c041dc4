//! An agent's containers' networks: namespaces that wait ready, who has which, and the sweep that forgets the rest.
//!
//! All calls come from threads in the host's network namespace. They block: taking costs nothing but a rename while the
//! pool lasts and nothing is published, else a few milliseconds for the kernel or for `nft`.

mod filling;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::forwarding::Closed;
use super::host::{list_devices, remove_devices};
use super::ipam::{Claimed, Published, Records};
use super::link::Link;
use super::link_stats::{self, Traffic};
use super::namespace::{self, Settings6, Wiring, Wiring6};
use super::rules::{self, DEVICES, Mapping, Table};
use super::{Joined, NetworkError, Publication, Settings, forwarding, host, refused};
use crate::crash_points;
use crate::spec::ContainerId;
use filling::refill;

/// An agent's networks. Dropping it lets the waiting namespaces go; containers keep theirs.
pub struct Networks {
    shared: Arc<Shared>,
}

/// What the thread that refills the pool has, too.
struct Shared {
    settings: Settings,
    records: Records,
    tag: String,
    closed_between: Closed,
    settings6: Settings6,
    /// A lock and no owner: calls come from any thread, and each is short.
    pool: Mutex<Pool>,
    /// Held while ports are recorded and their rules made: the table is made of the records when it is replaced.
    rules: Mutex<()>,
}

#[derive(Default)]
struct Pool {
    ready: VecDeque<Waiting>,
    /// Addresses that no container has yet: of the namespaces above and of those that are being made or given.
    unassigned: BTreeSet<Ipv4Addr>,
    containers: BTreeMap<ContainerId, Given>,
    filling: bool,
    filler: Option<JoinHandle<()>>,
    ended: bool,
}

struct Waiting {
    namespace: OwnedFd,
    address: Ipv4Addr,
}

#[derive(Debug, Clone)]
struct Given {
    address: Ipv4Addr,
    mappings: Vec<Mapping>,
}

impl Networks {
    /// Whether an earlier life of this agent has left something that is to be opened. Changes nothing.
    #[must_use]
    pub fn are_left(settings: &Settings) -> bool {
        Records::are_left(&settings.folder, &settings.owner)
    }

    /// Prepares the host: forwarding, the table, the pool. Keeps the networks of the containers that are known, whose
    /// agent was away, and forgets all others, as [`Networks::sweep`] does.
    ///
    /// Forwarding is switched on if it is off; the table then lets nothing pass between the devices of the host.
    ///
    /// # Errors
    /// If a subnet overlaps a route, `nft` is missing, or the host refuses something.
    pub fn open(
        mut settings: Settings,
        known: &BTreeSet<ContainerId>,
    ) -> Result<Self, NetworkError> {
        rules::is_installed().map_err(|source| NetworkError::NoNft { source })?;
        settings.subnet6 = host::possible(settings.subnet6);
        host::check_routes(settings.subnet, settings.subnet6)?;
        let records = Records::open(&settings.folder, &settings.owner)?;
        let _alone = records.alone()?;
        records.announce(settings.subnet)?;
        let shared = Shared {
            tag: records.tag(),
            closed_between: forwarding::switch_on(&records, settings.subnet6)?,
            settings6: Settings6::of_current()
                .map_err(refused("open the IPv6 settings of devices"))?,
            settings,
            records,
            pool: Mutex::default(),
            rules: Mutex::default(),
        };
        shared.forget_lost_owners()?;
        let networks = Self {
            shared: Arc::new(shared),
        };
        networks.sweep(known)?;
        networks.shared.load()?;
        refill(&networks.shared);
        Ok(networks)
    }

    /// A namespace for this container, with these ports of the host leading to it. What it had before is given back
    /// first: after a crash a launch may come twice.
    ///
    /// # Errors
    /// If a port is somebody else's, all addresses are in use, or the host refuses something. Nothing is kept then.
    pub fn take(
        &self,
        container: &ContainerId,
        publications: &[Publication],
    ) -> Result<Joined, NetworkError> {
        let shared = &self.shared;
        self.release(container)?;
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
            // The first failure is the one to tell; the next sweep does what cannot be done now.
            let _ = self.release(container);
            return Err(error);
        }
        Ok(Joined {
            namespace: waiting.namespace,
            address,
            address6: shared.address6(address),
            gateway: shared.settings.subnet.gateway(),
        })
    }

    /// The container is gone, with all its processes: its ports are free again, and so will be its address, after all
    /// others were used. Its namespace is removed by the kernel, in the background. Repeatable.
    ///
    /// # Errors
    /// If rules or records cannot be changed; to be repeated, or left to a sweep.
    pub fn release(&self, container: &ContainerId) -> Result<(), NetworkError> {
        let shared = &self.shared;
        let given = shared.pool().containers.get(container).cloned();
        let Some(given) = given else {
            return Ok(());
        };
        shared.withdraw(&given.mappings)?;
        shared.records.give_back_address(given.address)?;
        crash_points::passed("network.address-returned");
        shared.pool().containers.remove(container);
        Ok(())
    }

    /// The container's address, if it has one.
    #[must_use]
    pub fn address(&self, container: &ContainerId) -> Option<Ipv4Addr> {
        let pool = self.shared.pool();
        pool.containers.get(container).map(|given| given.address)
    }

    /// What passed the container's link since it was made; `None` if it has none of ours.
    ///
    /// # Errors
    /// If the kernel does not tell.
    pub fn statistics(&self, container: &ContainerId) -> Result<Option<Traffic>, NetworkError> {
        let device = self.address(container).map(|at| self.shared.device(at));
        device.map_or(Ok(None), |device| link_stats::of(&device))
    }

    /// How many namespaces wait ready, for tests: they are programs of their own, so that `cfg(test)` would hide it.
    #[must_use]
    pub fn ready(&self) -> usize {
        self.shared.pool().ready.len()
    }

    /// Removes every device, rule and record of containers that are not known, and replaces the table, whatever became
    /// of it. Known must be all that run or are being launched. Repeatable; where it was cut off, the next goes on.
    ///
    /// # Errors
    /// The first removal that failed.
    pub fn sweep(&self, known: &BTreeSet<ContainerId>) -> Result<(), NetworkError> {
        let shared = &self.shared;
        let _alone = lock(&shared.rules);
        for published in shared.records.ports()? {
            if !known.contains(&published.container) {
                shared.records.give_back_port(&published.mapping)?;
            }
        }
        // What is listed before the lock is taken was recorded before: nothing that is being made is mistaken for lost.
        let devices = shared.devices()?;
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
        for address in lost {
            shared.records.give_back_address(address)?;
        }
        shared.replace_table()
    }

    /// Takes the agent off the host: table, records and waiting namespaces are gone afterwards. For when no container is
    /// left: one that were would be cut off.
    ///
    /// # Errors
    /// The first step that failed.
    pub fn remove(self) -> Result<(), NetworkError> {
        self.shared.end();
        let _alone = lock(&self.shared.rules);
        remove_devices(self.shared.devices()?)?;
        crash_points::passed("network.devices-removed");
        rules::apply(&rules::remove(&self.shared.tag))?;
        crash_points::passed("network.table-removed");
        let _alone_on_host = self.shared.records.alone()?;
        forwarding::switch_off(&self.shared.records)?;
        self.shared.records.clear()
    }
}

impl Drop for Networks {
    fn drop(&mut self) {
        self.shared.end();
    }
}

impl fmt::Debug for Networks {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = formatter.debug_struct("Networks");
        shown.field("settings", &self.shared.settings);
        shown.finish_non_exhaustive()
    }
}

impl Shared {
    fn pool(&self) -> MutexGuard<'_, Pool> {
        lock(&self.pool)
    }

    /// Whom earlier lives of this agent gave what, after a sweep.
    fn load(&self) -> Result<(), NetworkError> {
        let ports = self.records.ports()?;
        let mut pool = self.pool();
        for held in self.records.addresses()? {
            let Some(container) = held.container else {
                continue;
            };
            let of_it = ports.iter().filter(|port| port.container == container);
            let given = Given {
                address: held.address,
                mappings: of_it.map(|port| port.mapping).collect(),
            };
            pool.containers.insert(container, given);
        }
        Ok(())
    }

    fn device(&self, address: Ipv4Addr) -> String {
        let number = self.settings.subnet.number(address);
        let number = number.expect("addresses come from the subnet");
        format!("{DEVICES}{}{number:06x}", self.tag)
    }

    fn address6(&self, address: Ipv4Addr) -> Option<Ipv6Addr> {
        let subnet6 = self.settings.subnet6;
        subnet6.map(|subnet6| subnet6.address(address))
    }

    /// Makes a namespace. Its address is recorded before there is anything that has it.
    fn make(&self) -> Result<Waiting, NetworkError> {
        let subnet = self.settings.subnet;
        let mut pool = self.pool();
        let address = self.records.take_address(subnet)?;
        pool.unassigned.insert(address);
        drop(pool);
        crash_points::passed("network.address-taken");
        let wiring = Wiring {
            device: self.device(address),
            address,
            gateway: subnet.gateway(),
            ipv6: self.settings.subnet6.map(|subnet6| Wiring6 {
                address: subnet6.address(address),
                gateway: subnet6.address(subnet.gateway()),
            }),
        };
        match namespace::make(&wiring, &self.settings6) {
            Ok(namespace) => Ok(Waiting { namespace, address }),
            Err(error) => {
                self.abandon(address);
                Err(error)
            }
        }
    }

    /// What cannot be given back now is given back by a sweep.
    fn abandon(&self, address: Ipv4Addr) {
        let _ = self.records.give_back_address(address);
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
        let given = Given { address, mappings };
        pool.containers.insert(container.clone(), given);
        crash_points::passed("network.assigned");
        Ok(())
    }

    fn publish(
        &self,
        address: Ipv4Addr,
        container: &ContainerId,
        publications: &[Publication],
    ) -> Result<(), NetworkError> {
        if publications.is_empty() {
            return Ok(());
        }
        let _alone = lock(&self.rules);
        let mut mappings = Vec::new();
        for publication in publications {
            let mapping = Mapping {
                protocol: publication.protocol,
                host_port: publication.host_port,
                to: SocketAddrV4::new(address, publication.container_port),
            };
            let wanted = Published {
                mapping,
                container: container.clone(),
            };
            // Before there is a record: by that, others take the port for the container's.
            host::check_free(publication, self.settings.subnet6)?;
            let claimed = self.records.claim_port(&wanted)?;
            if let Claimed::Theirs(holder) = claimed {
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
            crash_points::passed("network.port-recorded");
        }
        rules::apply(&rules::publish(&self.tag, &mappings, self.settings.subnet6))?;
        crash_points::passed("network.published");
        Ok(())
    }

    fn withdraw(&self, mappings: &[Mapping]) -> Result<(), NetworkError> {
        if mappings.is_empty() {
            return Ok(());
        }
        let _alone = lock(&self.rules);
        rules::apply(&rules::withdraw(&self.tag, mappings, self.settings.subnet6))?;
        crash_points::passed("network.withdrawn");
        for mapping in mappings {
            self.records.give_back_port(mapping)?;
            crash_points::passed("network.port-returned");
        }
        Ok(())
    }

    fn replace_table(&self) -> Result<(), NetworkError> {
        let ports = self.records.ports()?;
        let mappings: Vec<_> = ports.iter().map(|port| port.mapping).collect();
        let table = Table {
            tag: &self.tag,
            subnet: self.settings.subnet,
            subnet6: self.settings.subnet6,
            between: self.settings.between,
            denied: &self.settings.denied,
            closed_between: &self.closed_between,
            mappings: &mappings,
        };
        rules::apply(&table.script())?;
        crash_points::passed("network.table-replaced");
        Ok(())
    }

    /// This agent's devices.
    fn devices(&self) -> Result<Vec<Link>, NetworkError> {
        let begin = format!("{DEVICES}{}", self.tag);
        let mut links = list_devices()?;
        links.retain(|link| link.name.starts_with(&begin));
        Ok(links)
    }

    /// Whose address leads to a device of this agent; the reverse of [`Shared::device`].
    fn address(&self, device: &Link) -> Option<Ipv4Addr> {
        let subnet = self.settings.subnet;
        let number = device.name.get(DEVICES.len() + self.tag.len()..)?;
        let number = u32::from_str_radix(number, 16).ok()?;
        (number < subnet.capacity()).then(|| subnet.address(number))
    }

    /// What agents left whose directories are gone, unless a container of theirs still has its device.
    fn forget_lost_owners(&self) -> Result<(), NetworkError> {
        let owners = self.records.lost_owners()?;
        if owners.is_empty() {
            return Ok(());
        }
        let links = list_devices()?;
        for owner in owners {
            let records = self.records.of(&owner);
            let tag = records.tag();
            let devices = format!("{DEVICES}{tag}");
            if tag != self.tag && !links.iter().any(|link| link.name.starts_with(&devices)) {
                rules::apply(&rules::remove(&tag))?;
                records.clear()?;
            }
        }
        Ok(())
    }

    /// Lets the waiting namespaces go.
    fn end(&self) {
        let mut pool = self.pool();
        pool.ended = true;
        let filler = pool.filler.take();
        drop(pool);
        if let Some(filler) = filler {
            // It ends at the namespace that it is at; it does not panic.
            let _ = filler.join();
        }
        let ready = std::mem::take(&mut self.pool().ready);
        for waiting in ready {
            self.abandon(waiting.address);
        }
    }
}

/// No panic leaves any of what these locks guard half-changed.
fn lock<T>(guarded: &Mutex<T>) -> MutexGuard<'_, T> {
    guarded.lock().unwrap_or_else(PoisonError::into_inner)
}
