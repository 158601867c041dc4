//! A store with an owner that keeps its records in a map.
//!
//! The owner stands for the registry: each command `key=value` sets a record, `key=` deletes it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::stream;
use openraft::storage::{RaftLogStorage, RaftLogStorageExt, RaftStateMachine};
use tokio::sync::mpsc;

use crate::directory::OpenError;
use crate::disk::memory::MemoryDisk;
use crate::fatal::{self, Fatal};
use crate::log::LogStore;
use crate::machine::Machine;
use crate::store::{Place, Store};
use crate::types::{
    Batch, Committed, CommittedLeaderId, Entry, LeaderId, LogId, OwnerRequest, Payload,
    RecordWrite, Vote,
};

/// What the owner was asked and what it holds.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) loads: Vec<u64>,
    pub(crate) turns: Vec<usize>,
    pub(crate) applied: Vec<Committed>,
    pub(crate) records: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Owner(pub(crate) Arc<Mutex<Seen>>);

impl Owner {
    pub(crate) fn start(&self) -> mpsc::Sender<OwnerRequest> {
        // Full: consensus waits for the owner, as in production.
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
                            key: key.into(),
                            value: value.map(String::into_bytes),
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
pub(crate) struct Opened {
    pub(crate) store: Store,
    pub(crate) log: LogStore,
    pub(crate) machine: Machine,
    pub(crate) owner: Owner,
}

/// A kind of disk, and where its data is during a test.
pub(crate) struct Ground {
    pub(crate) place: Place,
    /// Deletes the directory at the end.
    pub(crate) _directory: Option<tempfile::TempDir>,
}

/// A place of each kind that this build has.
pub(crate) fn grounds() -> Vec<Ground> {
    let memory = Ground {
        place: Place::Memory(MemoryDisk::new()),
        _directory: None,
    };
    let mut grounds = vec![memory];
    if cfg!(feature = "rocksdb") {
        grounds.push(on_disk());
    }
    grounds
}

pub(crate) fn on_disk() -> Ground {
    let directory = tempfile::tempdir().unwrap();
    Ground {
        place: Place::Directory(directory.path().join("master")),
        _directory: Some(directory),
    }
}

/// Ends the test if the store gives up.
pub(crate) fn not_expected() -> Fatal {
    Arc::new(|error| {
        panic!("{error}: {}", error.source);
    })
}

/// Keeps the last words instead of ending the process.
pub(crate) fn observed() -> (Fatal, Arc<Mutex<Vec<String>>>) {
    let words = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&words);
    let fatal: Fatal = Arc::new(move |error: &fatal::FatalError| {
        let words = format!("{error}: {}", error.source);
        kept.lock().unwrap().push(words);
    });
    (fatal, words)
}

pub(crate) async fn open(place: &Place) -> Opened {
    try_open(place, not_expected()).await.unwrap()
}

pub(crate) async fn try_open(place: &Place, fatal: Fatal) -> Result<Opened, OpenError> {
    let place = place.clone();
    let store = tokio::task::spawn_blocking(move || Store::open(&place, fatal));
    let store = store.await.unwrap()?;
    let owner = Owner::default();
    let machine = store.machine(owner.start()).await?;
    let log = store.log();
    Ok(Opened {
        store,
        log,
        machine,
        owner,
    })
}

impl Opened {
    /// An orderly end.
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

/// Entries that each set a record named by their index.
pub(crate) fn entries(range: std::ops::Range<u64>) -> Vec<Entry> {
    let one = |index| entry(index, &[&format!("{index:05}=v{index}")]);
    range.map(one).collect()
}
