//! The store of one master: opened, checked, and split into the log and the registry for openraft.
//!
//! A store that cannot be trusted is not opened. Opening waits for the disk: call it where blocking
//! is allowed.

use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::directory::{self, Directory, DirectoryLock, OpenError};
use super::disk::high_water::DataLossError;
use super::disk::memory::MemoryDisk;
use super::disk::{self, ChangeBatch, Disk, Durability, KeySpace};
use super::install::{self, ResumeError};
use super::log::{LogError, LogStore};
use super::parts::StoreParts;
use super::record::{self, DirectoryIdentity, RecordError};
use super::registry::{self, RegistryReadError};
use super::rejoin;
use super::snapshot::KeyValue;
use super::snapshot_store::{SnapshotStore, SnapshotWriter};
use super::unwritten::WriteBuffer;
use super::usage::StoreUsage;
use super::writer::DiskWriter;
use crate::fatal::{self, FatalHandler};
use crate::types::SnapshotMeta;

pub(crate) const IDENTITY: &[u8] = b"identity";
/// The interval at which the size of the store and the free space of its disk are measured.
const MEASURE_INTERVAL: Duration = Duration::from_secs(5);

/// The location of a master's data.
#[derive(Clone, Debug)]
pub(crate) enum StoreLocation {
    Directory(PathBuf),
    Memory(MemoryDisk),
}

impl StoreLocation {
    /// Returns whether opening it may wait for a device.
    pub(crate) fn may_block(&self) -> bool {
        matches!(self, StoreLocation::Directory(_))
    }

    /// Returns [`fatal::abort`], except for a store in memory: several nodes share such a process,
    /// and only the node whose store has failed may end.
    pub(crate) fn fatal_handler(&self) -> FatalHandler {
        match self {
            StoreLocation::Directory(_) => fatal::abort(),
            StoreLocation::Memory(_) => {
                Arc::new(|error| tracing::error!(cause = %error.source, "{error}"))
            }
        }
    }
}

pub(crate) struct Store {
    parts: StoreParts,
    log: LogStore,
    identity: Mutex<DirectoryIdentity>,
    unlocked: CancellationToken,
}

impl Store {
    /// Opens or creates the store: finishes what a crash interrupted and checks every entry of the
    /// log.
    pub(crate) fn open(location: &StoreLocation, fatal: FatalHandler) -> Result<Store, OpenError> {
        Store::check(open_location(location)?, fatal)
    }

    /// Opens the store of a directory that is locked already.
    pub(crate) fn open_locked(
        path: &Path,
        lock: DirectoryLock,
        fatal: FatalHandler,
    ) -> Result<Store, OpenError> {
        rejoin::refuse_forbidden(path)?;
        Store::check(open_directory(Directory::locked(path, lock))?, fatal)
    }

    fn check(parts: OpenedParts, fatal: FatalHandler) -> Result<Store, OpenError> {
        let OpenedParts {
            path,
            disk,
            snapshot_store,
            unlocked,
        } = parts;
        let refuse = |error: StoreError| error.into_open_error(&path);
        let identity = identity(disk.as_ref()).map_err(refuse)?;
        install::finish_interrupted(disk.as_ref(), &snapshot_store)
            .map_err(|error| refuse(error.into()))?;
        let writer = DiskWriter::start(Arc::clone(&disk), Arc::clone(&fatal));
        let writer = writer.map_err(OpenError::io("start a writer for", &path))?;
        let unwritten = WriteBuffer::new(writer.clone());
        let log = LogStore::open(Arc::clone(&disk), unwritten.clone(), Arc::clone(&fatal));
        let log = log.map_err(|error| refuse(error.into()))?;
        keep_high_water(disk.as_ref(), &log, &fatal).map_err(refuse)?;
        // A lagging master that received an older snapshot could not continue from it: the next one
        // is built immediately.
        snapshot_store.drop_before(log.purged());
        let parts = StoreParts {
            disk,
            unwritten,
            writer,
            snapshots: snapshot_store,
            fatal,
            write_lock: Arc::default(),
        };
        Ok(Store {
            parts,
            log,
            identity: Mutex::new(identity),
            unlocked,
        })
    }

    pub(crate) fn identity(&self) -> DirectoryIdentity {
        *self.identity.lock().expect("no holder of the lock panics")
    }

    /// Saves the id that the group assigned to this node, and the key of the group. Durable on
    /// return.
    pub(crate) async fn save_identity(&self, node_id: u64, cluster_key: u64) -> io::Result<()> {
        let mut identity = self.identity();
        identity.node_id = Some(node_id);
        identity.cluster_key = Some(cluster_key);
        let mut changes = ChangeBatch::default();
        changes.put(KeySpace::Meta, IDENTITY, record::seal(&identity));
        self.parts.writer.write(changes, Durability::Synced).await?;
        *self.identity.lock().expect("no holder of the lock panics") = identity;
        Ok(())
    }

    /// Returns a random number that no other process or directory has.
    pub(crate) fn entropy(&self) -> io::Result<u64> {
        self.parts.disk.entropy()
    }

    pub(crate) fn log(&self) -> LogStore {
        self.log.clone()
    }

    pub(crate) fn parts(&self) -> StoreParts {
        self.parts.clone()
    }

    /// Returns a token that is cancelled when the directory is unlocked: all handles of the store
    /// are dropped, also those of the log and the state machine. It is cancelled already if the
    /// store is in memory.
    pub(crate) fn unlocked(&self) -> CancellationToken {
        self.unlocked.clone()
    }

    /// Returns the records of the registry, and the position up to which they are applied.
    pub(crate) async fn read_registry(&self) -> Result<(SnapshotMeta, Vec<KeyValue>), OpenError> {
        let disk = Arc::clone(&self.parts.disk);
        let read = move || registry::read(disk.as_ref());
        let read = disk::run(self.parts.disk.may_block(), read).await;
        let path = PathBuf::from(self.parts.disk.name());
        read.map_err(|error| StoreError::from(error).into_open_error(&path))
    }

    #[cfg(all(test, feature = "rocksdb"))]
    pub(crate) fn snapshots(&self) -> &SnapshotStore {
        &self.parts.snapshots
    }

    /// Starts to receive a snapshot of this size from another master.
    pub(crate) fn receive_image(&self, length_bytes: u64) -> io::Result<SnapshotWriter> {
        self.parts.snapshots.receive(length_bytes)
    }

    /// Returns the applied records that are not written yet.
    pub(crate) fn unwritten(&self) -> WriteBuffer {
        self.parts.unwritten.clone()
    }

    /// Measures the store at intervals until the node stops, or once if it is in memory. A reader
    /// of the results waits for no disk.
    pub(crate) async fn measure(
        self: Arc<Self>,
        usage: watch::Sender<StoreUsage>,
        stop: CancellationToken,
    ) {
        let measuring = async {
            loop {
                let disk = Arc::clone(&self.parts.disk);
                let may_block = disk.may_block();
                match disk::run(may_block, move || disk.usage()).await {
                    Ok(Some(found)) => drop(usage.send_replace(found)),
                    Ok(None) => return,
                    Err(error) => tracing::warn!(%error, "the store cannot be measured"),
                }
                tokio::time::sleep(MEASURE_INTERVAL).await;
            }
        };
        stop.run_until_cancelled(measuring).await;
    }

    /// Writes applied and queued records and ends the writer.
    pub(crate) async fn close(&self) {
        // A store that can no longer be written has reported the cause.
        let _ = self.parts.unwritten.flush().await;
        self.parts.writer.close().await;
    }
}

struct OpenedParts {
    path: PathBuf,
    disk: Arc<dyn Disk>,
    snapshot_store: SnapshotStore,
    unlocked: CancellationToken,
}

fn open_location(location: &StoreLocation) -> Result<OpenedParts, OpenError> {
    match location {
        StoreLocation::Memory(disk) => {
            let unlocked = CancellationToken::new();
            unlocked.cancel();
            Ok(OpenedParts {
                path: PathBuf::from(disk.name()),
                disk: Arc::new(disk.clone()),
                snapshot_store: SnapshotStore::in_memory(disk.clone()),
                unlocked,
            })
        }
        StoreLocation::Directory(path) => open_directory(Directory::open(path)?),
    }
}

#[cfg(feature = "rocksdb")]
fn open_directory(directory: Directory) -> Result<OpenedParts, OpenError> {
    use super::disk::rocks::RocksDisk;

    let path = directory.path().to_owned();
    let snapshots = directory.snapshots();
    let unlocked = directory.unlocked();
    let disk = RocksDisk::open(directory)?;
    let snapshot_store = SnapshotStore::in_directory(snapshots.clone());
    let snapshot_store =
        snapshot_store.map_err(OpenError::io("open the snapshots in", &snapshots))?;
    Ok(OpenedParts {
        path,
        disk: Arc::new(disk),
        snapshot_store,
        unlocked,
    })
}

#[cfg(not(feature = "rocksdb"))]
fn open_directory(directory: Directory) -> Result<OpenedParts, OpenError> {
    Err(OpenError::NoDisk {
        path: directory.path().to_owned(),
    })
}

/// Returns the identity of this store. A new store gets a random incarnation, so that a wiped
/// master is not taken for its predecessor.
pub(crate) fn identity(disk: &dyn Disk) -> Result<DirectoryIdentity, StoreError> {
    if let Some(bytes) = disk.get(KeySpace::Meta, IDENTITY)? {
        return Ok(record::unseal(&bytes)?);
    }
    for family in KeySpace::ALL {
        let mut used = false;
        disk.scan(family, b"", &mut |_, _| {
            used = true;
            Ok(ControlFlow::Break(()))
        })?;
        if used {
            return Err(StoreError::NoIdentity);
        }
    }
    let identity = DirectoryIdentity {
        incarnation: disk.entropy()?,
        node_id: None,
        cluster_key: None,
    };
    let mut changes = ChangeBatch::default();
    changes.put(KeySpace::Meta, IDENTITY, record::seal(&identity));
    disk.write(changes, Durability::Synced)?;
    Ok(identity)
}

/// Rejects a log or vote that is behind what was synced before, and starts to record what is synced
/// from now on.
fn keep_high_water(
    disk: &dyn Disk,
    log: &LogStore,
    fatal: &FatalHandler,
) -> Result<(), StoreError> {
    let Some(high_water) = disk.high_water() else {
        return Ok(());
    };
    let state = log.store_state();
    high_water.check(&state)?;
    disk.start_high_water(&state, Arc::clone(fatal))?;
    if state.truncations.is_none() {
        log.count_truncations()?;
    }
    Ok(())
}

/// The error of a store that is not opened, before the path is known.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("it cannot be read or written")]
    Disk(#[from] io::Error),
    #[error("the record of its identity is damaged")]
    Identity(#[from] RecordError),
    #[error("it contains data but no identity")]
    NoIdentity,
    #[error(transparent)]
    Behind(#[from] DataLossError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Resume(#[from] ResumeError),
    #[error(transparent)]
    Registry(#[from] RegistryReadError),
}

impl StoreError {
    fn into_open_error(self, path: &Path) -> OpenError {
        let path = path.to_owned();
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(&self);
        let mut newer = None;
        if let StoreError::Identity(RecordError::Newer(format)) = &self {
            newer = Some(*format);
        }
        let mut plain = None;
        while let Some(error) = cause {
            if let Some(RecordError::Newer(format)) = error.downcast_ref() {
                newer = Some(*format);
            }
            if let Some(error) = error.downcast_ref::<io::Error>() {
                plain = Some(error.kind());
            }
            text = format!("{text}: {error}");
            cause = error.source();
        }
        if let Some(format) = newer {
            return directory::newer(&path, format.to_string());
        }
        match plain {
            // Corruption that the disk itself has detected is reported as invalid data.
            Some(kind) if kind != io::ErrorKind::InvalidData && kind != io::ErrorKind::NotFound => {
                OpenError::Io {
                    what: "read or write",
                    path,
                    source: text.into(),
                }
            }
            _ => OpenError::Damaged { path, what: text },
        }
    }
}
