//! A store with an owner that keeps its records in a map.
//!
//! The owner stands for the registry: each command `key=value` sets a record, `key=` deletes it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::stream;
use openraft::storage::{RaftLogStorage, RaftLogStorageExt, RaftStateMachine};
use tokio::sync::mpsc;

use crate::fatal::{self, FatalHandler};
use crate::state_machine::{RequestedPurge, StateMachine};
use crate::storage::directory::OpenError;
use crate::storage::disk::memory::MemoryDisk;
use crate::storage::log::LogStore;
use crate::storage::store::{Store, StoreLocation};
use crate::types::{
    Batch, CommittedEntry, CommittedLeaderId, Entry, LeaderId, LogId, OwnerRequest, Payload,
    RecordWrite, Vote,
};

/// The value used in production.
pub(crate) const KEPT_ENTRIES: u64 = 10_000;

/// The requests to the owner, and its records.
#[derive(Debug, Default)]
pub(crate) struct OwnerHistory {
    pub(crate) loads: Vec<u64>,
    pub(crate) turns: Vec<usize>,
    pub(crate) applied: Vec<CommittedEntry>,
    pub(crate) records: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct TestOwner(pub(crate) Arc<Mutex<OwnerHistory>>);

impl TestOwner {
    pub(crate) fn start(&self) -> mpsc::Sender<OwnerRequest> {
        // When full, consensus waits for the owner, as in production.
        let (sender, mut inbox) = mpsc::channel(1);
        let owner = self.clone();
        tokio::spawn(async move {
            while let Some(request) = inbox.recv().await {
                owner.answer(request);
            }
        });
        sender
    }

    fn answer(&self, request: OwnerRequest) {
        let mut seen = self.0.lock().unwrap();
        match request {
            OwnerRequest::Load {
                last_index,
                records,
                done,
            } => {
                let text = |bytes| String::from_utf8(bytes).unwrap();
                let records = records.into_iter();
                seen.records = records
                    .map(|(key, value)| (text(key), text(value)))
                    .collect();
                seen.loads.push(last_index);
                let _ = done.send(());
            }
            OwnerRequest::Apply { entries, done } => {
                seen.turns
                    .push(entries.iter().map(|entry| entry.commands.len()).sum());
                let mut writes = Vec::new();
                for entry in entries {
                    for command in &entry.commands {
                        let command = std::str::from_utf8(command).unwrap();
                        let (key, value) = command.split_once('=').unwrap();
                        let value = (!value.is_empty()).then(|| value.to_owned());
                        match &value {
                            Some(value) => seen.records.insert(key.to_owned(), value.clone()),
                            None => seen.records.remove(key),
                        };
                        writes.push(RecordWrite {
                            key: key.to_owned().into(),
                            value: value.map(Into::into),
                        });
                    }
                    seen.applied.push(entry);
                }
                let _ = done.send(writes);
            }
        }
    }

    pub(crate) fn records(&self) -> Vec<(String, String)> {
        self.0.lock().unwrap().records.clone().into_iter().collect()
    }
}

/// One opened store with its parts.
pub(crate) struct OpenedStore {
    pub(crate) store: Store,
    pub(crate) log: LogStore,
    pub(crate) machine: StateMachine,
    pub(crate) requested: RequestedPurge,
    pub(crate) owner: TestOwner,
}

/// A kind of disk, and the location of its data during a test.
pub(crate) struct DiskFixture {
    pub(crate) location: StoreLocation,
    /// Deletes the directory at the end.
    pub(crate) _directory: Option<tempfile::TempDir>,
}

/// Returns a fixture for each kind of disk that this build has.
pub(crate) fn fixtures() -> Vec<DiskFixture> {
    let memory = DiskFixture {
        location: StoreLocation::Memory(MemoryDisk::default()),
        _directory: None,
    };
    let mut grounds = vec![memory];
    if cfg!(feature = "rocksdb") {
        grounds.push(on_disk());
    }
    grounds
}

pub(crate) fn on_disk() -> DiskFixture {
    let directory = tempfile::tempdir().unwrap();
    DiskFixture {
        location: StoreLocation::Directory(directory.path().join("master")),
        _directory: Some(directory),
    }
}

/// Fails the test if the store reports a fatal error.
pub(crate) fn panic_on_fatal() -> FatalHandler {
    Arc::new(|error| {
        panic!("{error}: {}", error.source);
    })
}

/// Records the fatal error instead of ending the process.
pub(crate) fn record_fatal() -> (FatalHandler, Arc<Mutex<Vec<String>>>) {
    let words = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&words);
    let fatal: FatalHandler = Arc::new(move |error: &fatal::FatalError| {
        let words = format!("{error}: {}", error.source);
        kept.lock().unwrap().push(words);
    });
    (fatal, words)
}

pub(crate) async fn open(location: &StoreLocation) -> OpenedStore {
    try_open(location, panic_on_fatal()).await.unwrap()
}

pub(crate) async fn try_open(
    place: &StoreLocation,
    fatal: FatalHandler,
) -> Result<OpenedStore, OpenError> {
    let place = place.clone();
    let store = tokio::task::spawn_blocking(move || Store::open(&place, fatal));
    let store = store.await.unwrap()?;
    let owner = TestOwner::default();
    let requested = RequestedPurge::default();
    let machine =
        StateMachine::open(&store, KEPT_ENTRIES, requested.clone(), owner.start()).await?;
    let log = store.log();
    Ok(OpenedStore {
        store,
        log,
        machine,
        requested,
        owner,
    })
}

impl OpenedStore {
    /// Closes the store cleanly.
    pub(crate) async fn close(self) {
        self.store.close().await;
    }

    /// Logs the entries, then applies them, as a follower does.
    pub(crate) async fn commit(&mut self, entries: Vec<Entry>) {
        let last = entries.last().unwrap().log_id;
        self.append(entries.clone()).await;
        self.log.save_committed(Some(last)).await.unwrap();
        self.apply(entries).await;
    }

    pub(crate) async fn append(&mut self, entries: Vec<Entry>) {
        self.log.blocking_append(entries).await.unwrap();
    }

    pub(crate) async fn apply(&mut self, entries: Vec<Entry>) {
        let entries = entries.into_iter().map(|entry| Ok((entry, None)));
        self.machine.apply(stream::iter(entries)).await.unwrap();
    }
}

pub(crate) fn id(term: u64, index: u64) -> LogId {
    LogId {
        leader_id: CommittedLeaderId::new(term),
        index,
    }
}

pub(crate) fn vote(term: u64, voted_for: u64) -> Vote {
    Vote {
        leader_id: LeaderId { term, voted_for },
        committed: false,
    }
}

pub(crate) fn entry(index: u64, commands: &[&str]) -> Entry {
    let commands = commands
        .iter()
        .map(|command| Bytes::from((*command).to_owned()));
    let commands = commands.collect();
    Entry {
        log_id: id(1, index),
        payload: Payload::Normal(Batch {
            at_ms: index * 10,
            commands,
        }),
    }
}

/// Returns entries that each set a record named by their index.
pub(crate) fn entries(range: std::ops::Range<u64>) -> Vec<Entry> {
    let one = |index| entry(index, &[&format!("{index:05}=v{index}")]);
    range.map(one).collect()
}

/// Does what openraft does first at startup: applies committed entries to the registry. Returns the
/// last log index.
pub(crate) async fn start(opened: &mut OpenedStore) -> Option<u64> {
    let helper = openraft::StorageHelper::new(&mut opened.log, &mut opened.machine);
    let state = helper.with_id(1).get_initial_state().await.unwrap();
    state.log_ids.last().map(|id| id.index)
}

/// Simulates a kill of the process. Memory loses unsynced data; a directory has the content of a
/// copy that is taken while the store is open.
pub(crate) async fn kill(opened: OpenedStore, fixture: DiskFixture) -> DiskFixture {
    match &fixture.location {
        StoreLocation::Memory(disk) => {
            drop(opened);
            disk.cut_power(0);
            fixture
        }
        StoreLocation::Directory(path) => {
            let copy = on_disk();
            let StoreLocation::Directory(to) = &copy.location else {
                unreachable!("it is on disk");
            };
            copy_tree(path, to);
            drop(opened);
            copy
        }
    }
}

pub(crate) fn copy_tree(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        let to = to.join(file.file_name());
        match file.file_type().unwrap().is_dir() {
            true => copy_tree(&file.path(), &to),
            false => {
                std::fs::copy(file.path(), to).unwrap();
            }
        }
    }
}

/// Changes the bytes of a closed store directly.
pub(crate) fn tamper(
    location: &StoreLocation,
    change: impl FnOnce(&dyn crate::storage::disk::Disk),
) {
    match location {
        StoreLocation::Memory(disk) => change(disk),
        #[cfg(feature = "rocksdb")]
        StoreLocation::Directory(path) => {
            let directory = crate::storage::directory::Directory::open(path).unwrap();
            change(&crate::storage::disk::rocks::RocksDisk::open(directory).unwrap());
        }
        #[cfg(not(feature = "rocksdb"))]
        StoreLocation::Directory(_) => unreachable!("this build has no disks"),
    }
}
