//! User and group ids of the host for containers: one range for each, without overlap.
//!
//! A range is allocated by a claim in a directory that all agents of the host share. The claim
//! names its container, so that an agent finds its own after a crash. A range is released once the
//! container's end was audited, and is reused only after all others were: files that a container
//! left in a shared directory keep an unused owner for long.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use argosy_host::claims;
use argosy_isolation::profile::{CONTAINER_IDS, END_HOST_ID, FIRST_HOST_ID};

use crate::core::ContainerName;
use crate::error::RunError;
use crate::paths::Paths;

/// The directory in which agents of one host coordinate their ranges. Empty after a boot, when no
/// containers exist either.
pub(crate) const DIRECTORY: &str = "/run/argosy/ids";
/// Ranges that other software of the host gives to its users, for their containers (subuid(5),
/// subgid(5)).
const SUBORDINATE: [&str; 2] = ["/etc/subuid", "/etc/subgid"];
/// The directory in which systemd-nspawn records the first users of its ranges.
const NSPAWN_DIR: &str = "/run/systemd/nspawn-uid";
/// The maximum number of containers on a host.
const RANGES: u32 = (END_HOST_ID - FIRST_HOST_ID) / CONTAINER_IDS;

/// The ranges of this agent's containers.
pub(crate) struct HostIdAllocator {
    shared_dir: PathBuf,
    foreign: ForeignIdRanges,
    directory: PathBuf,
    allocated: Mutex<AllocatedRanges>,
}

struct AllocatedRanges {
    ranges: BTreeMap<ContainerName, u32>,
    /// The start of the search for a free range.
    next: u32,
}

/// Opens the ranges of the agent with these paths.
pub(crate) fn open(paths: &Paths) -> Result<HostIdAllocator, RunError> {
    let directory = fs::canonicalize(paths.root()).unwrap_or_else(|_| paths.root().to_owned());
    let ids = HostIdAllocator::open(Path::new(DIRECTORY), &directory);
    let mut ids = ids.map_err(|source| RunError::Host {
        path: PathBuf::from(DIRECTORY),
        source,
    })?;
    ids.foreign = ForeignIdRanges::of_host();
    Ok(ids)
}

/// Returns the message for a container that gets no range.
pub(crate) fn none_free(error: &dyn std::fmt::Display) -> String {
    format!("no free host ids for it: {error}; check {DIRECTORY}")
}

/// Returns the host ids, among those for containers, that other software now uses.
pub(crate) fn foreign_ids() -> Vec<Range<u32>> {
    let ranges = ForeignIdRanges::of_host().delegated_ranges().into_iter();
    ranges
        .map(|range| first_id(range)..first_id(range + 1))
        .collect()
}

impl HostIdAllocator {
    /// Finds the ranges of earlier runs of the agent with this directory, and releases ranges of
    /// agents whose directory no longer exists, unless a process still runs as one of those users.
    pub(crate) fn open(dir: &Path, directory: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        // One agent at a time, until the end of this function. Otherwise a second agent could take
        // a range that this one has released, and a third could release it again because it still
        // read the former owner.
        let alone = fs::File::open(dir)?;
        alone.lock()?;
        let mut ranges = BTreeMap::new();
        let mut abandoned = BTreeSet::new();
        for (range, holder) in claims::list(dir)? {
            let Ok(range) = range.parse() else { continue };
            let Some((owner, name)) = split(&holder) else {
                continue;
            };
            if owner == directory {
                ranges.insert(name, range);
            } else if !owner.exists() {
                abandoned.insert(range);
            }
        }
        if !abandoned.is_empty() {
            let alive = ranges_in_use()?;
            for range in abandoned.difference(&alive) {
                fs::remove_file(dir.join(range.to_string()))?;
            }
        }
        // Agents of one host start their searches far from each other.
        let first = directory
            .as_os_str()
            .as_bytes()
            .iter()
            .fold(0_u32, |mixed, byte| {
                mixed.wrapping_mul(0x0100_0193) ^ u32::from(*byte)
            });
        let allocated = AllocatedRanges {
            ranges,
            next: first % RANGES,
        };
        Ok(Self {
            shared_dir: dir.to_owned(),
            foreign: ForeignIdRanges::default(),
            directory: directory.to_owned(),
            allocated: Mutex::new(allocated),
        })
    }

    /// Allocates the container's user 0 on the host: the same one each time until it is released.
    pub(crate) fn allocate(&self, name: ContainerName) -> io::Result<u32> {
        let mut allocated = self
            .allocated
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(range) = allocated.ranges.get(&name) {
            return Ok(first_id(*range));
        }
        let holder = claims::holder(&self.directory, &name.to_string());
        let given = self.foreign.delegated_ranges();
        for _ in 0..RANGES {
            let range = allocated.next;
            allocated.next = (range + 1) % RANGES;
            if given.contains(&range) || self.foreign.is_in_use(range) {
                continue;
            }
            if claims::claim(&self.shared_dir.join(range.to_string()), &holder)? {
                allocated.ranges.insert(name, range);
                return Ok(first_id(range));
            }
        }
        Err(io::Error::other(format!(
            "all {RANGES} ranges of users are in use"
        )))
    }

    /// Whether a host id belongs to a container of this agent.
    pub(crate) fn owns(&self, number: u32) -> bool {
        let allocated = self
            .allocated
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let is_of = |range: &u32| (first_id(*range)..first_id(*range + 1)).contains(&number);
        allocated.ranges.values().any(is_of)
    }

    /// Releases the range of a container that is removed, with all its processes.
    pub(crate) fn release(&self, name: ContainerName) -> io::Result<()> {
        let mut allocated = self
            .allocated
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let Some(range) = allocated.ranges.get(&name) else {
            return Ok(());
        };
        claims::release(&self.shared_dir.join(range.to_string()))?;
        allocated.ranges.remove(&name);
        Ok(())
    }

    /// Releases the ranges of all containers but these.
    pub(crate) fn retain(&self, known: &BTreeSet<ContainerName>) -> io::Result<()> {
        let allocated = self
            .allocated
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let names: Vec<_> = allocated.ranges.keys().copied().collect();
        drop(allocated);
        names
            .into_iter()
            .filter(|name| !known.contains(name))
            .try_for_each(|name| self.release(name))
    }
}

/// Other software of the host that allocates ranges of users to containers.
#[derive(Debug, Default)]
struct ForeignIdRanges {
    subordinate: Vec<PathBuf>,
    nspawn_dir: PathBuf,
}

impl ForeignIdRanges {
    fn of_host() -> Self {
        Self {
            subordinate: SUBORDINATE.map(PathBuf::from).into(),
            nspawn_dir: PathBuf::from(NSPAWN_DIR),
        }
    }

    /// Returns ranges that overlap with those given to a user of the host. Missing files give none,
    /// and neither do lines that the tools that read them ignore.
    fn delegated_ranges(&self) -> BTreeSet<u32> {
        let texts = self.subordinate.iter().map(fs::read_to_string);
        let texts: Vec<_> = texts.filter_map(Result::ok).collect();
        let lines = texts.iter().flat_map(|text| text.lines());
        lines.filter_map(ranges_of).flatten().collect()
    }

    fn is_in_use(&self, range: u32) -> bool {
        self.nspawn_dir.join(first_id(range).to_string()).exists()
    }
}

/// Parses a line `user:first:count`.
fn ranges_of(line: &str) -> Option<Range<u32>> {
    let mut numbers = line.split(':').skip(1).map(str::parse::<u32>);
    let (first, count) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    let end = first.saturating_add(count).min(END_HOST_ID);
    let first = first.max(FIRST_HOST_ID);
    let ranges = |id: u32| (id - FIRST_HOST_ID) / CONTAINER_IDS;
    (first < end).then(|| ranges(first)..ranges(end - 1) + 1)
}

fn first_id(range: u32) -> u32 {
    FIRST_HOST_ID + range * CONTAINER_IDS
}

fn split(holder: &str) -> Option<(PathBuf, ContainerName)> {
    let (owner, name) = claims::split_holder(holder)?;
    Some((owner, name.parse().ok()?))
}

/// Returns the ranges whose users own a running process.
fn ranges_in_use() -> io::Result<BTreeSet<u32>> {
    let mut ranges = BTreeSet::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let is_process = entry
            .file_name()
            .to_str()
            .is_some_and(|name| name.parse::<u32>().is_ok());
        // The process has ended since.
        let Ok(status) = fs::read_to_string(entry.path().join("status")) else {
            continue;
        };
        let uids = status
            .lines()
            .find_map(|line| line.strip_prefix("Uid:"))
            .filter(|_| is_process);
        let users = uids.into_iter().flat_map(str::split_ascii_whitespace);
        let users = users.filter_map(|user| user.parse::<u32>().ok());
        let users = users.filter(|user| (FIRST_HOST_ID..END_HOST_ID).contains(user));
        ranges.extend(users.map(|user| (user - FIRST_HOST_ID) / CONTAINER_IDS));
    }
    Ok(ranges)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ContainerName {
        text.parse().unwrap()
    }

    #[test]
    fn the_user_ids_of_containers_of_a_host_never_overlap() {
        let shared = tempfile::tempdir().unwrap();
        let [mine, yours] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let open = |directory: &tempfile::TempDir| {
            HostIdAllocator::open(shared.path(), directory.path()).unwrap()
        };
        let (ids, others) = (open(&mine), open(&yours));
        let names: Vec<_> = (1..=20)
            .map(|order| name(&format!("1-{order}-0")))
            .collect();
        let taken = names
            .iter()
            .flat_map(|name| [&ids, &others].map(|ids| ids.allocate(*name).unwrap()));
        let distinct: BTreeSet<_> = taken.collect();
        assert_eq!(distinct.len(), 40);
        let again = ids.allocate(names[3]).unwrap();
        assert_eq!(
            open(&mine).allocate(names[3]).unwrap(),
            again,
            "after a crash"
        );
    }

    #[test]
    fn id_ranges_used_by_other_software_are_not_allocated() {
        let shared = tempfile::tempdir().unwrap();
        let mine = tempfile::tempdir().unwrap();
        let mut ids = HostIdAllocator::open(shared.path(), mine.path()).unwrap();
        let next = ids.allocated.lock().unwrap().next;
        let [given, half, picked, free] = [0, 1, 2, 3].map(|more| (next + more) % RANGES);
        let host = tempfile::tempdir().unwrap();
        let subuid = host.path().join("subuid");
        let lines = format!(
            "# none\nold:100000:65536\nworker:{}:{CONTAINER_IDS}\nsmall:{}:1\nwrong:x:y\nlast:4294967295:9\n",
            first_id(given),
            first_id(half) + 9,
        );
        fs::write(&subuid, lines).unwrap();
        fs::write(host.path().join(first_id(picked).to_string()), "").unwrap();
        ids.foreign = ForeignIdRanges {
            subordinate: vec![subuid, host.path().join("absent")],
            nspawn_dir: host.path().to_owned(),
        };
        assert_eq!(ids.allocate(name("1-1-0")).unwrap(), first_id(free));
        // It keeps a range that it already has: its container runs.
        let first = first_id(free);
        let also = format!("late:{first}:{CONTAINER_IDS}\n");
        fs::write(host.path().join("subuid"), also).unwrap();
        assert_eq!(ids.allocate(name("1-1-0")).unwrap(), first);
    }

    #[test]
    fn agents_that_start_at_once_free_what_a_dead_one_held() {
        let shared = tempfile::tempdir().unwrap();
        let dead = tempfile::tempdir().unwrap();
        let ids = HostIdAllocator::open(shared.path(), dead.path()).unwrap();
        for order in 1..=200 {
            ids.allocate(name(&format!("1-{order}-0"))).unwrap();
        }
        let gone = dead.path().to_owned();
        drop(dead);
        let agents = [(); 8].map(|()| tempfile::tempdir().unwrap());
        std::thread::scope(|scope| {
            for agent in &agents {
                let open = || HostIdAllocator::open(shared.path(), agent.path()).unwrap();
                scope.spawn(move || open().allocate(name("1-1-0")).unwrap());
            }
        });
        // A container that runs on this host may use these ranges by chance: such a range is kept.
        let in_use = ranges_in_use().unwrap();
        let (mut kept, mut taken) = (0, 0);
        for (range, holder) in claims::list(shared.path()).unwrap() {
            let (owner, _) = split(&holder).unwrap();
            let range = range.parse().unwrap();
            match owner == gone {
                true => kept += usize::from(!in_use.contains(&range)),
                false => taken += 1,
            }
        }
        assert_eq!((kept, taken), (0, agents.len()));
    }

    #[test]
    fn released_id_ranges_are_reused() {
        let shared = tempfile::tempdir().unwrap();
        let mine = tempfile::tempdir().unwrap();
        let ids = HostIdAllocator::open(shared.path(), mine.path()).unwrap();
        let count = || fs::read_dir(shared.path()).unwrap().count();
        let first = ids.allocate(name("1-1-0")).unwrap();
        ids.allocate(name("1-2-0")).unwrap();
        ids.release(name("1-1-0")).unwrap();
        assert_eq!(count(), 1);
        assert_ne!(ids.allocate(name("1-3-0")).unwrap(), first, "not soon");
        ids.retain(&BTreeSet::from([name("1-3-0")])).unwrap();
        assert_eq!(count(), 1);
        let path = mine.path().to_owned();
        drop(mine);
        assert!(!path.exists());
        let other = tempfile::tempdir().unwrap();
        HostIdAllocator::open(shared.path(), other.path()).unwrap();
        assert_eq!(count(), 0, "of an agent whose directory is gone");
    }
}
