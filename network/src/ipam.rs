//! IPAM: the addresses and ports of a host, in records that all its agents share.
//!
//! ```text
//! addresses/10.183.0.5   -> /var/lib/argosy#c-1              a container's
//! addresses/10.183.0.6   -> /var/lib/argosy#                 of a namespace that waits in the pool
//! ports/tcp-8080         -> /var/lib/argosy#c-1#10.183.0.5:80
//! cursors/0abcd          -> 7                                next address of the agent with this tag
//! owners/0abcd           -> /var/lib/argosy                  that agent's directory
//! subnets/0abcd          -> 10.183.0.0/16                    the subnet of its addresses
//! forwarding-cookie-4097 -> off eth0 eth1                    a namespace that forwarded nothing
//! forwarding6-cookie-4097                                    the same for IPv6, a file
//! ```
//! All others are symbolic links, as in `claims`. The directory is empty after a boot, as no
//! namespace survives one.

mod cursor;
mod note6;
mod notes;
mod recorded_subnet;

use self::cursor::AddressCursor;
pub(super) use self::note6::{DeviceSettings6, ForwardingRecord6};
pub(super) use self::notes::ForwardingRecord;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use argosy_host::ContainerId;
use argosy_host::claims::{self, SEPARATOR, split_holder};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::rules::PortMapping;
use super::{NetworkError, Protocol, Subnet, published};

/// The time for which one agent may block the startup and exit of the host's other agents.
const LOCK_TIMEOUT: Duration = Duration::from_secs(30);
/// The interval at which a held lock is retried.
const LOCK_RETRY: Duration = Duration::from_millis(20);

/// The records of one host, as seen by one of its agents.
#[derive(Debug)]
pub(super) struct Ipam {
    directory: PathBuf,
    owner: PathBuf,
    /// `None` before the first address is taken. A lock, since any thread may take an address.
    cursor: Mutex<Option<AddressCursor>>,
}

/// An address and its holder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AddressRecord {
    pub(super) address: Ipv4Addr,
    /// `None` while it waits in the pool.
    pub(super) container: Option<ContainerId>,
}

/// A published port and its holder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PortRecord {
    pub(super) mapping: PortMapping,
    pub(super) container: ContainerId,
}

/// The result of claiming a port.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ClaimResult {
    Granted,
    /// Another container holds the port, of this agent or of another one.
    Conflict(String),
}

impl Ipam {
    pub(super) fn open(dir: &Path, owner: &Path) -> Result<Self, NetworkError> {
        let records = Self {
            directory: dir.to_owned(),
            owner: owner.to_owned(),
            cursor: Mutex::default(),
        };
        for kind in ["addresses", "ports", "cursors", "owners", "subnets"] {
            let path = dir.join(kind);
            fs::create_dir_all(&path).map_err(record_error("create the directory", &path))?;
        }
        Ok(records)
    }

    /// Whether this agent has taken addresses since the boot and has not been cleared.
    pub(super) fn has_records(directory: &Path, owner: &Path) -> bool {
        directory.join("cursors").join(tag(owner)).is_symlink()
    }

    /// Returns the five letters that identify this agent's table and devices.
    pub(super) fn tag(&self) -> String {
        tag(&self.owner)
    }

    /// Assigns an address of the pool to a container.
    pub(super) fn assign(
        &self,
        address: Ipv4Addr,
        container: &ContainerId,
    ) -> Result<(), NetworkError> {
        replace(&self.address(address), &self.target(Some(container)))
    }

    pub(super) fn release_address(&self, address: Ipv4Addr) -> Result<(), NetworkError> {
        let path = self.address(address);
        remove(&draft_of(&path))?;
        remove(&path)
    }

    /// Returns this agent's addresses.
    pub(super) fn addresses(&self) -> Result<Vec<AddressRecord>, NetworkError> {
        let mut held = Vec::new();
        for (name, target) in self.links("addresses")? {
            let Some((owner, container)) = split_holder(&target) else {
                continue;
            };
            let Ok(address) = name.parse() else { continue };
            if owner == self.owner {
                let container = ContainerId::new(container).ok();
                held.push(AddressRecord { address, container });
            }
        }
        Ok(held)
    }

    /// Claims a port for a container, if no other container holds it.
    pub(super) fn claim_port(&self, published: &PortRecord) -> Result<ClaimResult, NetworkError> {
        let path = self.port(&published.mapping);
        let target = format!(
            "{}{SEPARATOR}{}",
            self.target(Some(&published.container)),
            published.mapping.to
        );
        match claims::claim(&path, &target) {
            Ok(true) => Ok(ClaimResult::Granted),
            Ok(false) => {
                let holder = fs::read_link(&path).unwrap_or_default();
                let holder = holder.to_string_lossy();
                let holder = match port_target(&holder) {
                    Some((owner, container, _)) if Path::new(owner) == self.owner => {
                        format!("container {container}")
                    }
                    Some((owner, container, _)) => {
                        format!("container {container} of the agent in {owner}")
                    }
                    None => "an unknown container".to_owned(),
                };
                Ok(ClaimResult::Conflict(holder))
            }
            Err(source) => Err(record_error("make the link", &path)(source)),
        }
    }

    pub(super) fn release_port(&self, mapping: &PortMapping) -> Result<(), NetworkError> {
        remove(&self.port(mapping))
    }

    /// Returns this agent's ports.
    pub(super) fn ports(&self) -> Result<Vec<PortRecord>, NetworkError> {
        let links = self.links("ports")?;
        let found = links.iter().filter_map(|(name, target)| {
            let (owner, container, to) = port_target(target)?;
            let (protocol, port) = name.split_once('-')?;
            let protocol = [Protocol::Tcp, Protocol::Udp]
                .into_iter()
                .find(|known| known.name() == protocol)?;
            let mapping = PortMapping {
                protocol,
                host_port: port.parse().ok()?,
                to,
            };
            let container = ContainerId::new(container).ok()?;
            (Path::new(owner) == self.owner).then_some(PortRecord { mapping, container })
        });
        Ok(found.collect())
    }

    /// Returns owners other than this agent whose directories no longer exist.
    pub(super) fn lost_owners(&self) -> Result<Vec<PathBuf>, NetworkError> {
        let addresses = self.links("addresses")?;
        let holders = addresses
            .iter()
            .filter_map(|(_, target)| Some(split_holder(target)?.0));
        // An agent that was killed after its tasks had ended may have no address, but still its
        // table.
        let announced = self.links("owners")?;
        let announced = announced.iter().map(|(_, target)| PathBuf::from(target));
        let mut owners: Vec<_> = holders
            .chain(announced)
            .filter(|owner| *owner != self.owner && !owner.exists())
            .collect();
        owners.sort();
        owners.dedup();
        Ok(owners)
    }

    /// Returns the same records as seen by another owner.
    pub(super) fn for_owner(&self, owner: &Path) -> Self {
        Self {
            directory: self.directory.clone(),
            owner: owner.to_owned(),
            cursor: Mutex::default(),
        }
    }

    /// Removes all records of this agent.
    pub(super) fn clear(&self) -> Result<(), NetworkError> {
        for published in self.ports()? {
            self.release_port(&published.mapping)?;
        }
        for held in self.addresses()? {
            self.release_address(held.address)?;
        }
        remove(&self.cursor_path())?;
        remove(&self.subnet_path())?;
        remove(&self.directory.join("owners").join(self.tag()))
    }

    /// Takes the lock that one agent of the host holds at a time, during startup or exit. A stopped
    /// agent keeps the others waiting for at most [`LOCK_TIMEOUT`].
    pub(super) fn lock(&self) -> Result<Flock<File>, NetworkError> {
        self.lock_for(LOCK_TIMEOUT)
    }

    fn lock_for(&self, timeout: Duration) -> Result<Flock<File>, NetworkError> {
        let dir = File::open(&self.directory)
            .map_err(record_error("open the directory", &self.directory))?;
        let locked = lock_within(dir, timeout);
        locked
            .map_err(|(_, errno)| record_error("lock the directory", &self.directory)(errno.into()))
    }

    /// Registers this agent, before it takes an address.
    ///
    /// # Errors
    /// If one of the `known` containers has an address of another subnet, or a record cannot be
    /// written.
    pub(super) fn register(
        &self,
        subnet: Subnet,
        known: &BTreeSet<ContainerId>,
    ) -> Result<(), NetworkError> {
        let begin = PathBuf::from(self.first_number(subnet).to_string());
        for (kind, target) in [("owners", &self.owner), ("cursors", &begin)] {
            let path = self.directory.join(kind).join(self.tag());
            // An existing one is from an earlier run of this agent.
            claims::claim(&path, target).map_err(record_error("make the link", &path))?;
        }
        self.record_subnet(subnet, known)
    }

    /// Whether another agent is registered.
    pub(super) fn has_other_owners(&self) -> Result<bool, NetworkError> {
        let path = self.directory.join("cursors");
        let entries = fs::read_dir(&path).map_err(record_error("list the directory", &path))?;
        let own = self.tag();
        for entry in entries {
            let entry = entry.map_err(record_error("list the directory", &path))?;
            if *entry.file_name() != *own {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Returns the number at which the search for a free address starts. Agents that share a subnet
    /// start far apart.
    fn first_number(&self, subnet: Subnet) -> u32 {
        hash(&self.owner) % subnet.capacity()
    }

    fn address(&self, address: Ipv4Addr) -> PathBuf {
        self.directory.join("addresses").join(address.to_string())
    }

    fn port(&self, mapping: &PortMapping) -> PathBuf {
        let name = published::record(mapping.protocol, mapping.host_port);
        published::ports(&self.directory).join(name)
    }

    fn target(&self, container: Option<&ContainerId>) -> String {
        claims::holder(&self.owner, container.map_or("", ContainerId::as_str))
    }

    /// Returns names and targets of one kind.
    fn links(&self, kind: &str) -> Result<Vec<(String, String)>, NetworkError> {
        let dir = self.directory.join(kind);
        claims::list(&dir).map_err(record_error("read the directory", &dir))
    }
}

/// Locks a file within this time, or returns it with the error: [`Errno::EWOULDBLOCK`] if another
/// process holds the lock.
pub(super) fn lock_within(mut file: File, timeout: Duration) -> Result<Flock<File>, (File, Errno)> {
    let deadline = Instant::now() + timeout;
    loop {
        file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Err((file, Errno::EWOULDBLOCK)) if Instant::now() < deadline => file,
            done => return done,
        };
        std::thread::sleep(LOCK_RETRY);
    }
}

fn port_target(target: &str) -> Option<(&str, &str, SocketAddrV4)> {
    let (rest, to) = target.rsplit_once(SEPARATOR)?;
    let (owner, container) = rest.rsplit_once(SEPARATOR)?;
    Some((owner, container, to.parse().ok()?))
}

/// Returns a hash of the owner; collisions are rare enough.
fn hash(owner: &Path) -> u32 {
    let bytes = owner.as_os_str().as_encoded_bytes().iter();
    bytes.fold(0x811c_9dc5, |mixed: u32, byte| {
        (mixed ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    })
}

pub(super) fn tag(owner: &Path) -> String {
    let mixed = hash(owner);
    format!("{:05x}", (mixed >> 20) ^ (mixed & 0xf_ffff))
}

/// Creates a link, or changes its target atomically. The draft's name is the same each time, so the
/// next call removes a leftover of a crash. `atomic_file` writes only files, and these are links.
fn replace(path: &Path, target: &str) -> Result<(), NetworkError> {
    let draft = draft_of(path);
    remove(&draft)?;
    symlink(target, &draft).map_err(record_error("make the link", &draft))?;
    fs::rename(&draft, path).map_err(record_error("change the link", path))
}

fn draft_of(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}"))
}

fn remove(path: &Path) -> Result<(), NetworkError> {
    claims::release(path).map_err(record_error("remove", path))
}

fn record_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> NetworkError {
    let path = path.to_owned();
    move |source| NetworkError::Record { what, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_for_the_lock_times_out() {
        let directory = tempfile::tempdir().unwrap();
        let records = Ipam::open(directory.path(), Path::new("/a")).unwrap();
        let other = Ipam::open(directory.path(), Path::new("/b")).unwrap();
        let held = other.lock().unwrap();
        let refused = records.lock_for(Duration::from_millis(50));
        assert!(matches!(
            refused,
            Err(NetworkError::Record {
                what: "lock the directory",
                ..
            })
        ));
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| records.lock().is_ok());
            drop(held);
            assert!(waits.join().unwrap());
        });
    }

    fn id(name: &str) -> ContainerId {
        ContainerId::new(name).unwrap()
    }

    fn web(container: &str) -> PortRecord {
        PortRecord {
            mapping: PortMapping {
                protocol: Protocol::Tcp,
                host_port: 8080,
                to: "10.183.0.5:80".parse().unwrap(),
            },
            container: id(container),
        }
    }

    #[test]
    fn addresses_are_unique_and_not_reused_soon() {
        let directory = tempfile::tempdir().unwrap();
        let open = |owner: &str| Ipam::open(directory.path(), Path::new(owner)).unwrap();
        let subnet: Subnet = "10.9.0.0/26".parse().unwrap();
        let (ours, theirs) = (open("/a#1"), open("/b"));
        let mut taken = BTreeSet::new();
        for _ in 0..20 {
            taken.insert(ours.take_address(subnet).unwrap());
            taken.insert(theirs.take_address(subnet).unwrap());
        }
        assert_eq!(taken.len(), 40);
        for held in ours.addresses().unwrap() {
            ours.release_address(held.address).unwrap();
        }
        let next = open("/a#1").take_address(subnet).unwrap();
        assert!(!taken.contains(&next), "not soon, even after a restart");
        let left = subnet.capacity() - 21;
        for _ in 0..left {
            ours.take_address(subnet).unwrap();
        }
        let error = ours.take_address(subnet).unwrap_err().to_string();
        assert!(error.contains("all addresses of 10.9.0.0/26"), "{error}");
    }

    #[test]
    fn an_address_records_its_owner() {
        let directory = tempfile::tempdir().unwrap();
        let records = Ipam::open(directory.path(), Path::new("/a#1")).unwrap();
        let address = records.take_address(Subnet::DEFAULT).unwrap();
        let held = |container| AddressRecord { address, container };
        assert_eq!(records.addresses().unwrap(), [held(None)]);
        records.assign(address, &id("c")).unwrap();
        assert_eq!(records.addresses().unwrap(), [held(Some(id("c")))]);
        let other = records.for_owner(Path::new("/b"));
        assert_eq!(other.addresses().unwrap(), []);
        assert!(Ipam::has_records(directory.path(), Path::new("/a#1")));
        records.clear().unwrap();
        assert!(!Ipam::has_records(directory.path(), Path::new("/a#1")));
        assert_eq!(records.addresses().unwrap(), []);
    }

    #[test]
    fn a_port_belongs_to_one_container_of_the_host() {
        let directory = tempfile::tempdir().unwrap();
        let ours = Ipam::open(directory.path(), Path::new("/a")).unwrap();
        let theirs = ours.for_owner(Path::new("/b"));
        assert_eq!(ours.claim_port(&web("c")).unwrap(), ClaimResult::Granted);
        let held = "container c".to_owned();
        assert_eq!(
            ours.claim_port(&web("d")).unwrap(),
            ClaimResult::Conflict(held)
        );
        let held = "container c of the agent in /a".to_owned();
        assert_eq!(
            theirs.claim_port(&web("d")).unwrap(),
            ClaimResult::Conflict(held)
        );
        assert_eq!(ours.ports().unwrap(), [web("c")]);
        assert_eq!(theirs.ports().unwrap(), []);
        ours.release_port(&web("c").mapping).unwrap();
        assert_eq!(theirs.claim_port(&web("d")).unwrap(), ClaimResult::Granted);
    }

    #[test]
    fn owners_whose_directories_are_gone_are_found() {
        let directory = tempfile::tempdir().unwrap();
        let here = tempfile::tempdir().unwrap();
        let lost = Ipam::open(directory.path(), Path::new("/nowhere/at/all")).unwrap();
        lost.take_address(Subnet::DEFAULT).unwrap();
        let records = lost.for_owner(here.path());
        records.take_address(Subnet::DEFAULT).unwrap();
        assert_eq!(records.lost_owners().unwrap(), [lost.owner]);
        let idle = records.for_owner(Path::new("/nowhere/without/addresses"));
        idle.register(Subnet::DEFAULT, &BTreeSet::new()).unwrap();
        records.register(Subnet::DEFAULT, &BTreeSet::new()).unwrap();
        assert!(records.lost_owners().unwrap().contains(&idle.owner));
        idle.clear().unwrap();
        assert!(!records.lost_owners().unwrap().contains(&idle.owner));
    }
}
