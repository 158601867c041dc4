//! The state machine that openraft drives: its owner applies committed entries, and `unwritten`
//! writes the changed records to disk.
//!
//! The content of a record is opaque here. Entries that are not committed never reach the owner.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::{Stream, StreamExt};
use openraft::storage::{ApplyResponder, EntryResponder, RaftStateMachine};
use openraft::{OptionalSend, Raft, RaftSnapshotBuilder};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::metrics;
use crate::storage::directory::OpenError;
use crate::storage::image::{self, SnapshotSource};
use crate::storage::install;
use crate::storage::log::LogStore;
use crate::storage::parts::StoreParts;
use crate::storage::snapshot_store::SnapshotFile;
use crate::storage::store::Store;
use crate::storage::unwritten::AppliedPosition;
use crate::types::{
    CommittedEntry, Entry, LogId, OwnerRequest, Payload, SnapshotMeta, StoredMembership, TypeConfig,
};

/// The maximum number of commands, and of bytes of commands, in one request to the owner and in one
/// entry. A request must stay short, and one entry is never split. To read and apply a launch takes
/// about 20 µs, an update 9 µs (state/tests/speed.rs on a busy machine), so these limits are 5 ms.
/// A single command may be larger.
pub(crate) const TURN_COMMANDS: usize = 256;
pub(crate) const TURN_BYTES: usize = 256 << 10;
/// The maximum work of the commands of one entry: 5 ms in units of about 1.2 µs. Bytes alone do not
/// bound it: 256 KiB hold 2,500 small launches. A single command may exceed it.
pub const TURN_WORK: u32 = 4_096;

/// openraft with the entries and the state machine of this crate.
pub(crate) type Consensus = Raft<TypeConfig, StateMachine>;

/// The last entry up to which a truncation of the log was requested. openraft executes the request
/// later if it is sending these entries, but sends them to no further follower. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct RequestedPurge(Arc<AtomicU64>);

impl RequestedPurge {
    /// Records a request. To be called before it is sent to openraft.
    pub(crate) fn record(&self, last: u64) {
        self.0.fetch_max(last, Ordering::Relaxed);
    }

    fn last(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

pub(crate) struct StateMachine {
    parts: StoreParts,
    log: LogStore,
    /// The number of applied entries that stay in the log, unless they are large.
    kept_entries: u64,
    /// The truncation that was requested last.
    requested: RequestedPurge,
    owner: mpsc::Sender<OwnerRequest>,
}

impl StateMachine {
    /// Sends the stored registry to its owner. The log keeps `kept_entries` of the applied entries.
    pub(crate) async fn open(
        store: &Store,
        kept_entries: u64,
        requested: RequestedPurge,
        owner: mpsc::Sender<OwnerRequest>,
    ) -> Result<StateMachine, OpenError> {
        let (applied, records) = store.read_registry().await?;
        let parts = store.parts();
        parts.unwritten.reset(applied);
        let machine = StateMachine {
            parts,
            log: store.log(),
            kept_entries,
            requested,
            owner,
        };
        let loaded = machine.load(records).await;
        loaded.map_err(|OwnerGone| OpenError::Owner)?;
        Ok(machine)
    }

    async fn load(&self, records: Vec<(Vec<u8>, Vec<u8>)>) -> Result<(), OwnerGone> {
        let (done, answer) = oneshot::channel();
        let last_index = self.parts.unwritten.last().map_or(0, |id| id.index);
        let request = OwnerRequest::Load {
            last_index,
            records,
            done,
        };
        self.owner.send(request).await.map_err(|_| OwnerGone)?;
        answer.await.map_err(|_| OwnerGone)
    }

    fn snapshot_of_registry(&self) -> Snapshot {
        let meta = image::described(self.parts.unwritten.applied());
        let snapshot = SnapshotSource::Registry(self.parts.clone(), meta.last_log_id);
        Snapshot { meta, snapshot }
    }

    /// Performs one request to the owner.
    async fn perform(&mut self, batch: ApplyBatch) -> io::Result<()> {
        let (done, answer) = oneshot::channel();
        let request = OwnerRequest::Apply {
            entries: batch.entries,
            done,
        };
        self.owner.send(request).await.map_err(|_| OwnerGone)?;
        let records = answer.await.map_err(|_| OwnerGone)?;
        let reached = AppliedPosition {
            last: batch.last,
            members: batch.membership,
        };
        self.parts.unwritten.add(records, reached).await?;
        for responder in batch.responders {
            responder.send(());
        }
        Ok(())
    }
}

/// The entries of one request to the owner.
#[derive(Default)]
struct ApplyBatch {
    entries: Vec<CommittedEntry>,
    responders: Vec<ApplyResponder<TypeConfig>>,
    commands: usize,
    bytes: usize,
    last: Option<LogId>,
    membership: Option<StoredMembership>,
}

impl ApplyBatch {
    /// Returns whether `entry` belongs to the next request.
    fn is_too_full_for(&self, entry: &Entry) -> bool {
        let (commands, bytes) = match &entry.payload {
            Payload::Normal(batch) => (batch.commands.len(), batch.bytes()),
            Payload::Blank | Payload::Membership(_) => (0, 0),
        };
        let full = self.commands + commands > TURN_COMMANDS || self.bytes + bytes > TURN_BYTES;
        // Entries without commands also cost the owner a step each.
        !self.entries.is_empty() && (full || self.entries.len() >= TURN_COMMANDS)
    }

    fn push(&mut self, entry: Entry, responder: Option<ApplyResponder<TypeConfig>>) {
        let id = entry.log_id;
        let mut committed = CommittedEntry {
            index: id.index,
            term: id.leader_id.term,
            at_ms: 0,
            commands: Vec::new(),
        };
        match entry.payload {
            Payload::Blank => {}
            Payload::Normal(batch) => {
                self.commands += batch.commands.len();
                self.bytes += batch.bytes();
                committed.at_ms = batch.at_ms;
                committed.commands = batch.commands;
            }
            Payload::Membership(members) => {
                self.membership = Some(StoredMembership::new(Some(id), members));
            }
        }
        self.entries.push(committed);
        self.responders.extend(responder);
        self.last = Some(id);
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotSource;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let SnapshotMeta {
            last_log_id,
            last_membership,
        } = self.parts.unwritten.applied();
        Ok((last_log_id, last_membership))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let mut batch = ApplyBatch::default();
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            if batch.is_too_full_for(&entry) {
                self.perform(std::mem::take(&mut batch)).await?;
            }
            batch.push(entry, responder);
        }
        match batch.entries.is_empty() {
            true => Ok(()),
            false => self.perform(batch).await,
        }
    }

    /// Returns a builder for a snapshot at the applied index. The registry in the store is that
    /// snapshot, so the log may be truncated up to there once everything applied is synced. The
    /// sync is queued here, before anything more is applied, and the builder waits for it.
    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        let began = Instant::now();
        let (done, synced) = oneshot::channel();
        let written = move |result| {
            // The builder may have been dropped with the node.
            let _ = done.send(result);
        };
        let queued = self.parts.unwritten.sync(Box::new(written)).await;
        SnapshotBuilder {
            snapshot: self.snapshot_of_registry(),
            synced: Some(queued.map(|()| synced)),
            began,
        }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        source: SnapshotSource,
    ) -> Result<(), io::Error> {
        let began = Instant::now();
        let image = source.file().await?;
        if image.meta() != meta {
            let text = format!("the snapshot is of {} and not of {meta}", image.meta());
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        // Queued before the install begins. Otherwise these records would overwrite what is
        // installed.
        self.parts.unwritten.flush().await?;
        let records = install::install(&self.parts, image).await?;
        self.parts.unwritten.reset(meta.clone());
        self.load(records).await?;
        metrics::snapshot("install", began.elapsed(), None);
        Ok(())
    }

    /// Returns a snapshot for a follower that lacks entries which the log no longer contains. Reads
    /// and writes nothing: the snapshot is written when it is sent.
    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        let Some(applied) = self.parts.unwritten.last() else {
            return Ok(None);
        };
        // A snapshot from the older half of the kept log is too old: the log may lose the entries
        // after it before the transfer begins. If entries are large, the log keeps fewer: a
        // follower could never continue from a snapshot that is older than the log. openraft takes
        // entries for truncated as soon as that is requested.
        let newer_half = applied.index.saturating_sub(self.kept_entries / 2);
        let purged = self.log.purged().map_or(0, |purged| purged.index);
        let least = newer_half.max(purged).max(self.requested.last());
        let recent = self.parts.snapshots.current().filter(|image| {
            let last = image.meta().last_log_id;
            last.is_some_and(|last| last.index >= least)
        });
        Ok(Some(match recent {
            Some(image) => image.into(),
            None => self.snapshot_of_registry(),
        }))
    }
}

pub(crate) type Snapshot = openraft::alias::SnapshotOf<TypeConfig, SnapshotSource>;

impl From<SnapshotFile> for Snapshot {
    fn from(image: SnapshotFile) -> Self {
        Snapshot {
            meta: image.meta().clone(),
            snapshot: image.into(),
        }
    }
}

/// A snapshot builder that waits until everything applied is synced. It writes no snapshot file.
pub(crate) struct SnapshotBuilder {
    snapshot: Snapshot,
    synced: Option<io::Result<oneshot::Receiver<io::Result<()>>>>,
    began: Instant,
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = SnapshotSource;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let synced = self.synced.take();
        let synced = synced.ok_or_else(|| io::Error::other("the snapshot was built already"))??;
        synced.await.map_err(io::Error::other)??;
        metrics::snapshot("sync", self.began.elapsed(), None);
        Ok(self.snapshot.clone())
    }
}

/// The error of a request to an owner of the registry that has ended: this node is stopping.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the owner of the registry has ended")]
struct OwnerGone;

impl From<OwnerGone> for io::Error {
    fn from(gone: OwnerGone) -> Self {
        io::Error::new(io::ErrorKind::BrokenPipe, gone)
    }
}
