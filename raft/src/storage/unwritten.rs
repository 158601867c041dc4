//! Applied records that are not written yet.
//!
//! They are written together: when there are many, when the oldest is 50 ms old, and before
//! anything that relies on them (a snapshot, a snapshot file, an install, the shutdown). A record
//! that changes repeatedly in between is written once. A crash loses at most these records. They
//! are recovered from the log, which is synced and never truncated beyond a snapshot.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use argosy_state::planted_bug;
use bytes::Bytes;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::disk::{ChangeBatch, Durability, KeySpace};
use super::registry::{APPLIED, seal_applied};
use super::writer::{DiskWriter, WriteCallback};
use crate::concurrency::{Mutex, MutexGuard};
use crate::types::{LogId, RecordWrite, SnapshotMeta, StoredMembership};

/// The maximum size of the records that may wait, in bytes.
const MAX_BYTES: usize = 1 << 20;

/// The maximum time for which a record may wait.
const MAX_AGE: Duration = Duration::from_millis(50);

/// A mutant writes batches with more records than this in two parts.
const LONG_BATCH: usize = 4;

/// The waiting records, and the position up to which the registry is applied with them. Cheap to
/// clone; all clones share one state.
#[derive(Clone)]
pub(crate) struct WriteBuffer(Arc<Inner>);

struct Inner {
    writer: DiskWriter,
    // A plain lock, never held over an await. A batch is taken and queued under it, so that batches
    // keep their order.
    state: Mutex<State>,
    /// Notified when the first record waits.
    first_record: Notify,
}

#[derive(Default)]
struct State {
    applied: SnapshotMeta,
    /// The changed records; `None` deletes a record.
    records: BTreeMap<Bytes, Option<Bytes>>,
    bytes: usize,
    /// Whether `applied` is newer than what is queued.
    is_pending: bool,
}

/// The position that the owner reached with one request.
pub(crate) struct AppliedPosition {
    pub(crate) last: Option<LogId>,
    /// The members, if the request changed them.
    pub(crate) members: Option<StoredMembership>,
}

impl WriteBuffer {
    pub(crate) fn new(writer: DiskWriter) -> WriteBuffer {
        WriteBuffer(Arc::new(Inner {
            writer,
            state: Mutex::default(),
            first_record: Notify::new(),
        }))
    }

    pub(crate) fn writer(&self) -> &DiskWriter {
        &self.0.writer
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().expect("no holder of the lock panics")
    }

    /// Returns the position up to which the registry is applied.
    pub(crate) fn applied(&self) -> SnapshotMeta {
        self.state().applied.clone()
    }

    /// Returns the same position without the members.
    pub(crate) fn last(&self) -> Option<LogId> {
        self.state().applied.last_log_id
    }

    /// Sets the position up to which the stored registry is applied: no records wait.
    pub(crate) fn reset(&self, applied: SnapshotMeta) {
        *self.state() = State {
            applied,
            ..State::default()
        };
    }

    /// Adds the records that a request to the owner changed. Returns when there is room for more.
    pub(crate) async fn add(
        &self,
        records: Vec<RecordWrite>,
        reached: AppliedPosition,
    ) -> io::Result<()> {
        let waiting = self.state().add(records, reached);
        match waiting {
            BufferFill::First => self.0.first_record.notify_one(),
            BufferFill::More => {}
            BufferFill::Full => self.flush().await?,
        }
        Ok(())
    }

    /// Queues the waiting records. The write is not awaited: records that a crash loses are applied
    /// again from the log.
    pub(crate) async fn flush(&self) -> io::Result<()> {
        planted_bug!(AppliedBeforeRecords => self.write_early().await?);
        let slot = self.0.writer.reserve_slot().await?;
        let mut state = self.state();
        if state.is_pending {
            slot.queue(state.take(), Durability::Buffered, None);
        }
        Ok(())
    }

    /// Queues the waiting records and, in any case, the applied position, to be synced; `done` is
    /// called after that.
    pub(crate) async fn sync(&self, done: WriteCallback) -> io::Result<()> {
        planted_bug!(AppliedBeforeRecords => self.write_early().await?);
        let slot = self.0.writer.reserve_slot().await?;
        let changes = self.state().take();
        slot.queue(changes, Durability::Synced, Some(done));
        Ok(())
    }

    /// Implements the planted bug `AppliedBeforeRecords`: a crash between the two writes leaves
    /// records that are older than the applied position.
    async fn write_early(&self) -> io::Result<()> {
        let sealed = {
            let state = self.state();
            let is_long = state.records.len() > LONG_BATCH;
            is_long.then(|| seal_applied(&state.applied))
        };
        let Some(sealed) = sealed else { return Ok(()) };
        let mut first = ChangeBatch::default();
        first.put(KeySpace::RegistryMeta, APPLIED, sealed);
        self.0.writer.write(first, Durability::Buffered).await
    }

    /// Writes records that have waited for too long, until the node stops.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let always = async {
            loop {
                self.0.first_record.notified().await;
                tokio::time::sleep(MAX_AGE).await;
                if self.flush().await.is_err() {
                    // The writer has reported the cause, or is closed.
                    return;
                }
            }
        };
        // Records that still wait at the end are written when the store is closed.
        stop.run_until_cancelled(always).await;
    }
}

/// The waiting records after an addition.
enum BufferFill {
    First,
    More,
    Full,
}

impl State {
    fn add(&mut self, records: Vec<RecordWrite>, reached: AppliedPosition) -> BufferFill {
        self.applied.last_log_id = reached.last;
        if let Some(members) = reached.members {
            self.applied.last_membership = members;
        }
        for RecordWrite { key, value } in records {
            debug_assert!(
                key.first() < Some(&0xff),
                "keys begin with the kind of a record"
            );
            // Counts replaced values as well: an upper bound, not an exact sum.
            self.bytes += key.len() + value.as_ref().map_or(0, Bytes::len);
            self.records.insert(key, value);
        }
        let first = !std::mem::replace(&mut self.is_pending, true);
        match (self.bytes >= MAX_BYTES, first) {
            (true, _) => BufferFill::Full,
            (false, true) => BufferFill::First,
            (false, false) => BufferFill::More,
        }
    }

    fn take(&mut self) -> ChangeBatch {
        let mut changes = ChangeBatch::default();
        for (key, value) in std::mem::take(&mut self.records) {
            match value {
                Some(value) => changes.put_shared(KeySpace::Registry, key, value),
                None => changes.delete(KeySpace::Registry, key),
            }
        }
        changes.put(KeySpace::RegistryMeta, APPLIED, seal_applied(&self.applied));
        (self.bytes, self.is_pending) = (0, false);
        changes
    }
}
