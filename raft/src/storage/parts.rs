//! The parts of an open store that the state machine, snapshot files and installs share.

use std::sync::Arc;

use tokio::sync::Mutex;

use super::disk::Disk;
use super::snapshot_store::SnapshotStore;
use super::unwritten::WriteBuffer;
use super::writer::DiskWriter;
use crate::fatal::FatalHandler;

/// Handles on the parts of one store; all clones share them.
#[derive(Clone)]
pub(crate) struct StoreParts {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) writer: DiskWriter,
    pub(crate) unwritten: WriteBuffer,
    pub(crate) snapshots: SnapshotStore,
    pub(crate) fatal: FatalHandler,
    /// Allows one snapshot to be written at a time.
    pub(crate) write_lock: SnapshotWriteLock,
}

/// Held while a snapshot is written: a second follower that needs one waits and receives the same
/// file.
pub(crate) type SnapshotWriteLock = Arc<Mutex<()>>;
