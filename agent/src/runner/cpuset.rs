//! Exclusive and shared processors of containers.
//!
//! `CpuAllocator` is pure; `ContainerCpus` holds it, and writes its allocations to the cgroups. It
//! also writes a file to the state directory of each container with exclusive processors, which the
//! next run of the agent reads.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use argosy_isolation::{Cgroup, CgroupTree, Limits, MissingPolicy};
use argosy_proto::v1;
use argosy_state::task::{Code, Explanation};
use tokio::sync::Semaphore;

use super::limits::amount_milli;
use crate::broker_client::BrokerClient;
use crate::core::ContainerName;
use crate::paths::Paths;

/// Processor numbers.
pub(super) type CpuNumbers = BTreeSet<u32>;

/// The allocation of processors. A processor is exclusive to one container, or shared; the first
/// always stays shared, since the host runs there too.
#[derive(Debug, Default)]
struct CpuAllocator {
    all: CpuNumbers,
    allocated: BTreeMap<ContainerName, CpuNumbers>,
    /// The containers that are being started with fewer than all processors. Their cgroups may not
    /// exist when the others are released.
    narrowed: BTreeSet<ContainerName>,
}

impl CpuAllocator {
    /// Allocates exclusive processors to a container, the last ones first; repeated, the same.
    fn allocate(&mut self, name: ContainerName, count: usize) -> Result<CpuNumbers, Explanation> {
        if let Some(held) = self.allocated.get(&name) {
            return Ok(held.clone());
        }
        let shared = self.shared();
        if count == 0 || count >= shared.len() {
            let left = shared.len().saturating_sub(1);
            return Err(Explanation::of(Code::ProcessorsMissing, &[&count, &left]));
        }
        let cores: CpuNumbers = shared.into_iter().rev().take(count).collect();
        self.allocated.insert(name, cores.clone());
        Ok(cores)
    }

    fn release(&mut self, name: ContainerName) -> bool {
        self.narrowed.remove(&name);
        self.allocated.remove(&name).is_some()
    }

    /// Returns the processors of a container: its exclusive ones, or the shared ones.
    fn of(&self, name: ContainerName) -> CpuNumbers {
        self.allocated
            .get(&name)
            .cloned()
            .unwrap_or_else(|| self.shared())
    }

    fn shared(&self) -> CpuNumbers {
        let taken: CpuNumbers = self.allocated.values().flatten().copied().collect();
        self.all.difference(&taken).copied().collect()
    }
}

/// The processors of an agent's containers.
pub(super) struct ContainerCpus {
    tree: Option<CgroupTree>,
    /// Writes to the host's cgroups. `None` without cgroups.
    broker: Option<BrokerClient>,
    /// A lock, since containers are created and removed by many blocking threads. Held during
    /// broker calls, which may take long: only threads that may block wait for it.
    allocator: Mutex<CpuAllocator>,
    /// One start at a time waits for the allocator, so that a hung broker blocks only one thread.
    start_slot: Semaphore,
}

impl ContainerCpus {
    /// Returns the processors that the containers of `tree` may use; none if the host's cgroups do
    /// not support this.
    pub(super) fn of(tree: Option<CgroupTree>, broker: Option<BrokerClient>) -> Self {
        let text = tree
            .as_ref()
            .and_then(|tree| fs::read_to_string(tree.root().join("cpuset.cpus.effective")).ok());
        let all = text.and_then(|text| parse(&text)).unwrap_or_default();
        Self {
            tree,
            broker,
            allocator: Mutex::new(CpuAllocator {
                all,
                ..CpuAllocator::default()
            }),
            start_slot: Semaphore::new(1),
        }
    }

    /// Reads the allocations of an earlier run, before anything is started.
    pub(super) fn resume(&self, paths: &Paths, known: &BTreeSet<ContainerName>) {
        let mut book = self.lock();
        for name in known {
            let directory = paths.container(*name);
            if directory.join("exit.json").exists() {
                continue;
            }
            let noted = fs::read_to_string(paths.cpuset(*name)).ok();
            if let Some(cores) = noted.and_then(|text| parse(&text)) {
                book.allocated.insert(*name, cores);
            }
        }
        self.write(&book);
    }

    /// Returns the processors that a task's container may run on; empty means all.
    pub(super) fn of_task(
        &self,
        name: ContainerName,
        task: &v1::TaskSpec,
    ) -> Result<Vec<u32>, Explanation> {
        let limits = task.limits.as_ref();
        if !limits.is_some_and(|limits| limits.exclusive_cpus) {
            return Ok(self.share(name));
        }
        let count = amount_milli(task, "cpus") / 1_000;
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        self.allocate(name, count)
    }

    /// Allocates exclusive processors to this container and records them in its directory; all
    /// other containers leave them.
    fn allocate(&self, name: ContainerName, count: usize) -> Result<Vec<u32>, Explanation> {
        let mut book = self.lock();
        if book.all.is_empty() {
            return Err(Explanation::of(Code::CpusetMissing, &[]));
        }
        let cores = book.allocate(name, count)?;
        let broker = self.broker.as_ref();
        let noted = broker.map_or(Ok(()), |broker| broker.record_cpus(name, list(&cores)));
        if let Err(why) = noted {
            book.release(name);
            return Err(Explanation::of(Code::ProcessorsFailed, &[]).with_detail(why));
        }
        self.write(&book);
        Ok(cores.into_iter().collect())
    }

    /// Returns the processors for a container without exclusive ones; empty means all.
    fn share(&self, name: ContainerName) -> Vec<u32> {
        let mut book = self.lock();
        if book.allocated.is_empty() {
            return Vec::new();
        }
        book.narrowed.insert(name);
        book.shared().into_iter().collect()
    }

    /// Applies changes that were made during the start of a container. Returns immediately; a later
    /// allocation is never undone, since the allocator is read when its state is applied.
    pub(super) fn started(self: &Arc<Self>, name: ContainerName) {
        if self.tree.is_none() || self.has_nothing_to_apply(name) {
            return;
        }
        let cores = Arc::clone(self);
        tokio::spawn(async move {
            let _turn = cores
                .start_slot
                .acquire()
                .await
                .expect("turns are never closed");
            let book = Arc::clone(&cores);
            let applied = tokio::task::spawn_blocking(move || book.write_one(name));
            applied.await.expect("applying the book never panics");
        });
    }

    /// Returns whether no task has exclusive processors, and none had at the start of this
    /// container; `false` if the allocator is locked. A change of allocations is applied to every
    /// container that has a cgroup by then.
    fn has_nothing_to_apply(&self, name: ContainerName) -> bool {
        let is_idle =
            |book: &CpuAllocator| book.allocated.is_empty() && !book.narrowed.contains(&name);
        match self.allocator.try_lock() {
            Ok(book) => is_idle(&book),
            Err(TryLockError::Poisoned(book)) => is_idle(&book.into_inner()),
            Err(TryLockError::WouldBlock) => false,
        }
    }

    /// Writes the cpuset of one container according to the allocator.
    fn write_one(&self, name: ContainerName) {
        let mut book = self.lock();
        let is_changed = book.narrowed.remove(&name) || !book.allocated.is_empty();
        if let Some(tree) = self.tree.as_ref().filter(|_| is_changed) {
            self.set(&group_of(tree, name), name, &book.of(name));
        }
    }

    /// Releases the processors of a container that is removed.
    pub(super) fn release(&self, name: ContainerName) {
        let mut book = self.lock();
        if book.release(name) {
            self.write(&book);
        }
    }

    /// Applies the allocations to every container with a cgroup. A container that is being started
    /// gets its processors after the start.
    fn write(&self, allocator: &CpuAllocator) {
        let Some(tree) = self.tree.as_ref().filter(|_| !allocator.all.is_empty()) else {
            return;
        };
        let containers = tree.containers().unwrap_or_default();
        let names = containers.iter().filter_map(|id| id.as_str().parse().ok());
        for name in names {
            self.set(&group_of(tree, name), name, &allocator.of(name));
        }
    }

    /// Sets the processors of a container. A missing cgroup is ignored; any other failure costs
    /// that container its exclusive processors, and is logged.
    fn set(&self, group: &Path, name: ContainerName, cores: &CpuNumbers) {
        let Some(broker) = &self.broker else { return };
        let limits = Limits {
            cpuset: cores.iter().copied().collect(),
            ..Limits::default()
        };
        if let Err(why) = broker.apply_limits(name, limits, MissingPolicy::RequireAll)
            && group.exists()
        {
            tracing::warn!(group = %group.display(), why, "a container cannot be moved to other processors");
        }
    }

    fn lock(&self) -> MutexGuard<'_, CpuAllocator> {
        // No panic leaves the allocator half-changed.
        self.allocator
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn group_of(tree: &CgroupTree, name: ContainerName) -> PathBuf {
    let id = argosy_host::ContainerId::new(name.to_string());
    let group: Cgroup = tree.group(&id.expect("digits and dashes make a name"));
    group.path().to_owned()
}

/// Parses the kernel's format of sets: `0-2,5`.
fn parse(text: &str) -> Option<CpuNumbers> {
    let mut found = CpuNumbers::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        found.extend(first.parse::<u32>().ok()?..=last.parse().ok()?);
    }
    Some(found)
}

fn list(cores: &CpuNumbers) -> String {
    let numbers: Vec<_> = cores.iter().map(u32::to_string).collect();
    numbers.join(",")
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::time::Duration;

    use argosy_isolation::MissingControllers;

    use super::*;
    use crate::broker_client::request::{BrokerReply, BrokerRequest, OperationResult};

    fn name(order: u64) -> ContainerName {
        format!("1-{order}-1").parse().unwrap()
    }

    fn book(text: &str) -> CpuAllocator {
        CpuAllocator {
            all: parse(text).unwrap(),
            ..CpuAllocator::default()
        }
    }

    #[test]
    fn exclusive_processors_are_disjoint_and_one_stays_shared() {
        let mut book = book("0-3");
        assert_eq!(book.allocate(name(1), 1), Ok(CpuNumbers::from([3])));
        assert_eq!(
            book.allocate(name(1), 1),
            Ok(CpuNumbers::from([3])),
            "repeated"
        );
        assert_eq!(book.allocate(name(2), 2), Ok(CpuNumbers::from([1, 2])));
        assert_eq!(book.shared(), CpuNumbers::from([0]));
        let refused = book.allocate(name(3), 1).unwrap_err();
        assert_eq!(refused, Explanation::of(Code::ProcessorsMissing, &[&1, &0]));
        assert_eq!(book.of(name(2)), CpuNumbers::from([1, 2]));
        assert_eq!(book.of(name(9)), CpuNumbers::from([0]));
        assert!(book.release(name(2)));
        assert!(!book.release(name(2)));
        assert_eq!(book.shared(), CpuNumbers::from([0, 1, 2]));
    }

    #[test]
    fn cpusets_parse_in_the_kernel_format() {
        assert_eq!(parse("0-2,5\n"), Some(CpuNumbers::from([0, 1, 2, 5])));
        assert_eq!(parse("\n"), Some(CpuNumbers::new()));
        assert_eq!(parse("x"), None);
        assert_eq!(list(&CpuNumbers::from([2, 3])), "2,3");
        assert_eq!(
            parse(&list(&CpuNumbers::from([2, 3]))),
            Some(CpuNumbers::from([2, 3]))
        );
    }

    #[test]
    fn without_the_controller_nothing_is_allocated() {
        let cores = ContainerCpus::of(None, None);
        let refused = cores.allocate(name(1), 1).unwrap_err();
        assert_eq!(refused, Explanation::of(Code::CpusetMissing, &[]));
        assert_eq!(cores.share(name(9)), [0; 0]);
    }

    #[test]
    fn processor_allocations_are_restored_from_their_records() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::new(root.path());
        for (order, ended) in [(1, false), (2, true)] {
            let directory = paths.container(name(order));
            fs::create_dir_all(&directory).unwrap();
            fs::write(paths.cpuset(name(order)), format!("{order}")).unwrap();
            if ended {
                fs::write(directory.join("exit.json"), "{}").unwrap();
            }
        }
        let cores = ContainerCpus {
            tree: None,
            broker: None,
            allocator: Mutex::new(book("0-3")),
            start_slot: Semaphore::new(1),
        };
        cores.resume(&paths, &[name(1), name(2), name(3)].into());
        assert_eq!(cores.share(name(9)), [0, 2, 3]);
        cores.release(name(1));
        assert_eq!(cores.share(name(9)), [0; 0], "all of them");
    }

    #[tokio::test]
    async fn a_hung_broker_does_not_block_starts() {
        let directory = tempfile::tempdir().unwrap();
        let mut book = book("0-3");
        book.allocate(name(1), 1).unwrap();
        let cores = Arc::new(ContainerCpus {
            tree: Some(CgroupTree::at(directory.path())),
            broker: None,
            allocator: Mutex::new(book),
            start_slot: Semaphore::new(1),
        });
        // As a thread holds it that waits for the broker.
        let hanging = cores.lock();
        for order in 2..10 {
            cores.started(name(order));
        }
        assert_eq!(Arc::strong_count(&cores), 9, "each is still to be applied");
        drop(hanging);
        let applied = async {
            while Arc::strong_count(&cores) > 1 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let in_time = tokio::time::timeout(Duration::from_secs(60), applied).await;
        in_time.expect("each start is applied");
        cores.release(name(1));
        cores.started(name(2));
        assert_eq!(Arc::strong_count(&cores), 1, "no task has exclusive ones");
    }

    #[tokio::test]
    async fn a_task_that_starts_during_a_release_gets_the_released_processors() {
        let directory = tempfile::tempdir().unwrap();
        let (send, mut sent) = tokio::sync::mpsc::unbounded_channel();
        let perform = move |request: BrokerRequest, _: Vec<OwnedFd>| -> OperationResult {
            if let BrokerRequest::ApplyLimits(name, limits, _) = request {
                send.send((name, limits.cpuset)).unwrap();
                let missing = MissingControllers::default();
                return Ok((BrokerReply::Missing(missing), Vec::new()));
            }
            Ok((BrokerReply::Done, Vec::new()))
        };
        let cores = Arc::new(ContainerCpus {
            tree: Some(CgroupTree::at(directory.path())),
            broker: Some(BrokerClient::Local(Arc::new(perform))),
            allocator: Mutex::new(book("0-3")),
            start_slot: Semaphore::new(1),
        });
        cores.allocate(name(1), 1).unwrap();
        let narrowed = cores.of_task(name(2), &v1::TaskSpec::default());
        assert_eq!(narrowed, Ok(vec![0, 1, 2]));
        // Its cgroup does not exist yet.
        cores.release(name(1));
        assert!(sent.try_recv().is_err());
        cores.started(name(2));
        let applied = tokio::time::timeout(Duration::from_secs(60), sent.recv()).await;
        let applied = applied.expect("the start is applied");
        assert_eq!(applied, Some((name(2), vec![0, 1, 2, 3])));
        // Later starts have nothing to apply, nor has one that was removed.
        cores.allocate(name(3), 1).unwrap();
        cores.of_task(name(4), &v1::TaskSpec::default()).unwrap();
        cores.release(name(4));
        cores.release(name(3));
        assert!(cores.has_nothing_to_apply(name(2)));
        assert!(cores.has_nothing_to_apply(name(4)));
    }
}
