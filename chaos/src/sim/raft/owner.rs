//! The owner of a node's registry: registers that commands set.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;

use argosy_raft::{CommittedEntry, OwnerRequest, RecordWrite};
use argosy_state::ids::NodeId;
use sha2::{Digest as _, Sha256};
use tokio::sync::{mpsc, oneshot, watch};

use super::{AgreedEntry, RaftGroup, lock, name};
use crate::history::{Origin, RaftFact};

/// Entries between two records of the digest.
const DIGEST_EVERY: u64 = 25;

/// Registers by name, and the waiters for commands.
#[derive(Default)]
pub(super) struct RegisterTable {
    pub(super) registers: BTreeMap<String, String>,
    pub(super) waiting: BTreeMap<String, oneshot::Sender<u64>>,
    index: Option<u64>,
}

/// The registry of one node, shared with its clients on the same host.
#[derive(Clone)]
pub(super) struct Owner {
    pub(super) registry: Arc<Mutex<RegisterTable>>,
    pub(super) applied: watch::Sender<u64>,
}

impl Owner {
    pub(super) fn new() -> Self {
        Self {
            registry: Arc::default(),
            applied: watch::Sender::new(0),
        }
    }

    /// Serves Raft until the node has ended.
    pub(super) async fn run(
        self,
        group: RaftGroup,
        place: usize,
        mut requests: mpsc::Receiver<OwnerRequest>,
    ) {
        let mut origin = Origin::Replay;
        while let Some(request) = requests.recv().await {
            match request {
                OwnerRequest::Load {
                    last_index,
                    records,
                    done,
                } => {
                    self.load(last_index, records);
                    self.note_digest(&group, place, last_index, origin);
                    origin = Origin::Snapshot;
                    self.applied.send_replace(last_index);
                    let _ = done.send(());
                }
                OwnerRequest::Apply { entries, done } => {
                    let mut writes = Vec::new();
                    for entry in &entries {
                        self.apply(&group, place, entry, &mut writes);
                    }
                    let _ = done.send(writes);
                }
            }
        }
    }

    fn load(&self, last_index: u64, records: Vec<(Vec<u8>, Vec<u8>)>) {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let mut registry = lock(&self.registry);
        registry.registers = records
            .into_iter()
            .map(|(key, value)| (text(key), text(value)))
            .collect();
        registry.index = (last_index > 0).then_some(last_index);
    }

    fn apply(
        &self,
        group: &RaftGroup,
        place: usize,
        entry: &CommittedEntry,
        writes: &mut Vec<RecordWrite>,
    ) {
        let mut hash = Sha256::new();
        hash.update(entry.at_ms.to_be_bytes());
        let mut registry = lock(&self.registry);
        if registry.index.is_some_and(|index| entry.index != index + 1) {
            let (who, last) = (name(place), registry.index);
            let message = format!("{who} applied entry {} after {last:?}", entry.index);
            group.notes.violation(message);
        }
        registry.index = Some(entry.index);
        for command in &entry.commands {
            hash.update((command.len() as u64).to_be_bytes());
            hash.update(command);
            let text = String::from_utf8_lossy(command).into_owned();
            let (key, value) = text.split_once('=').unwrap_or((&text, ""));
            registry.registers.insert(key.to_owned(), value.to_owned());
            writes.push(RecordWrite {
                key: key.as_bytes().to_vec().into(),
                value: Some(value.as_bytes().to_vec().into()),
            });
            if let Some(waiter) = registry.waiting.remove(&text) {
                // The proposer may have timed out.
                let _ = waiter.send(entry.index);
            }
        }
        drop(registry);
        let hash = hex(&hash.finalize()[..8]);
        let fact = RaftFact::Applied {
            node: node(place),
            index: entry.index,
            term: entry.term,
            chain: hash.clone(),
        };
        group.notes.recorder.observe(&*name(place), fact);
        group.notes.count("applied");
        let term = entry.term;
        group.agree(place, entry.index, AgreedEntry { term, hash });
        group.with_status(place, |seen| seen.applied = entry.index);
        if entry.index.is_multiple_of(DIGEST_EVERY) {
            self.note_digest(group, place, entry.index, Origin::Log);
        }
        self.applied.send_replace(entry.index);
    }

    fn note_digest(&self, group: &RaftGroup, place: usize, index: u64, origin: Origin) {
        let mut hash = Sha256::new();
        for (key, value) in &lock(&self.registry).registers {
            hash.update(format!("{key}={value};"));
        }
        let fact = RaftFact::Digest {
            node: node(place),
            index,
            digest: hex(&hash.finalize()[..8]),
            origin,
        };
        group.notes.recorder.observe(&*name(place), fact);
    }
}

pub(super) fn node(place: usize) -> NodeId {
    NodeId(place as u64 + 1)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
