//! The store of one master: opened, checked, and split into the log and the registry for openraft.
//!
//! A store that cannot be trusted is not opened. Opening waits for the disk: call it where blocking
//! is allowed.

use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tokio::sync::mpsc;

use super::directory::{self, OpenError};
use super::disk::high_water::Behind;
use super::disk::memory::MemoryDisk;
use super::disk::{Changes, Disk, Durability, Family};
use super::install::{self, ResumeError};
use super::log::{LogError, LogStore};
use super::record::{self, Identity, RecordError};
use super::snapshot_store::{ImageWriter, Shelf};
use super::unwritten::Unwritten;
use super::writer::Writer;
use crate::fatal::Fatal;
use crate::state_machine::{Machine, MachineError, Parts};
use crate::types::OwnerRequest;

pub(crate) const IDENTITY: &[u8] = b"identity";

/// The place where a master stores its data.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    Directory(PathBuf),
    Memory(MemoryDisk),
}

impl Place {
    /// Returns whether opening it may wait for a device.
    pub(crate) fn may_block(&self) -> bool {
        matches!(self, Place::Directory(_))
    }
}

pub(crate) struct Store {
    parts: Parts,
    log: LogStore,
    identity: Mutex<Identity>,
}

impl Store {
    /// Opens or creates the store: finishes what a crash interrupted and checks every entry of the
    /// log.
    pub(crate) fn open(place: &Place, fatal: Fatal) -> Result<Store, OpenError> {
        let (path, disk, shelf) = open_place(place)?;
        let refuse = |error: Refusal| error.into_open_error(&path);
        let identity = identity(disk.as_ref()).map_err(refuse)?;
        install::finish_interrupted(disk.as_ref(), &shelf).map_err(|error| refuse(error.into()))?;
        let writer = Writer::start(Arc::clone(&disk), Arc::clone(&fatal));
        let writer = writer.map_err(OpenError::io("start a writer for", &path))?;
        let unwritten = Unwritten::new(writer.clone());
        let log = LogStore::open(Arc::clone(&disk), unwritten.clone(), Arc::clone(&fatal));
        let log = log.map_err(|error| refuse(error.into()))?;
        keep_high_water(disk.as_ref(), &log, &fatal).map_err(refuse)?;
        // A lagging master that received an older snapshot could not continue from it: the next one
        // is built immediately.
        shelf.forget_before(log.purged());
        let parts = Parts {
            disk,
            unwritten,
            writer,
            shelf,
            fatal,
            turn: Arc::default(),
        };
        Ok(Store {
            parts,
            log,
            identity: Mutex::new(identity),
        })
    }

    pub(crate) fn identity(&self) -> Identity {
        *self.identity.lock().expect("no holder of the lock panics")
    }

    /// Saves the id that the group assigned to this node, and the key of the group. Durable on
    /// return.
    pub(crate) async fn remember(&self, node_id: u64, cluster_key: u64) -> io::Result<()> {
        let mut identity = self.identity();
        identity.node_id = Some(node_id);
        identity.cluster_key = Some(cluster_key);
        let mut changes = Changes::default();
        changes.put(Family::Meta, IDENTITY, record::seal(&identity));
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

    /// Sends the stored registry to its owner and returns the state machine that continues from it.
    /// The log keeps `kept_entries` of the applied entries.
    pub(crate) async fn machine(
        &self,
        owner: mpsc::Sender<OwnerRequest>,
        kept_entries: u64,
    ) -> Result<Machine, OpenError> {
        let path = PathBuf::from(self.parts.disk.name());
        let machine = Machine::open(self.parts.clone(), kept_entries, owner).await;
        machine.map_err(|error| Refusal::from(error).into_open_error(&path))
    }

    /// Starts to receive a snapshot from another master.
    pub(crate) fn receive_image(&self) -> io::Result<ImageWriter> {
        self.parts.shelf.receive()
    }

    /// Returns the applied records that are not written yet.
    pub(crate) fn unwritten(&self) -> Unwritten {
        self.parts.unwritten.clone()
    }

    /// Writes applied and queued records and ends the writer. The directory is unlocked when the
    /// handles of log and state machine are dropped too.
    pub(crate) async fn close(&self) {
        // A store that can no longer be written has reported the cause.
        let _ = self.parts.unwritten.flush().await;
        self.parts.writer.close().await;
    }
}

type Opened = (PathBuf, Arc<dyn Disk>, Shelf);

fn open_place(place: &Place) -> Result<Opened, OpenError> {
    match place {
        Place::Memory(disk) => {
            let shelf = Shelf::in_memory(disk.clone());
            let path = PathBuf::from(disk.name());
            Ok((path, Arc::new(disk.clone()), shelf))
        }
        Place::Directory(path) => open_directory(path),
    }
}

#[cfg(feature = "rocksdb")]
fn open_directory(path: &Path) -> Result<Opened, OpenError> {
    use super::directory::Directory;
    use super::disk::rocks::RocksDisk;

    let directory = Directory::open(path)?;
    let snapshots = directory.snapshots();
    let disk = RocksDisk::open(directory)?;
    let shelf = Shelf::in_directory(snapshots.clone());
    let shelf = shelf.map_err(OpenError::io("open the snapshots in", &snapshots))?;
    Ok((path.to_owned(), Arc::new(disk), shelf))
}

#[cfg(not(feature = "rocksdb"))]
fn open_directory(path: &Path) -> Result<Opened, OpenError> {
    Err(OpenError::NoDisk {
        path: path.to_owned(),
    })
}

/// Returns the identity of this store. A new store gets a random incarnation, so that a wiped
/// master is not taken for its predecessor.
fn identity(disk: &dyn Disk) -> Result<Identity, Refusal> {
    if let Some(bytes) = disk.get(Family::Meta, IDENTITY)? {
        return Ok(record::unseal(&bytes)?);
    }
    for family in Family::ALL {
        let mut used = false;
        disk.scan(family, b"", &mut |_, _| {
            used = true;
            Ok(ControlFlow::Break(()))
        })?;
        if used {
            return Err(Refusal::Nameless);
        }
    }
    let identity = Identity {
        incarnation: disk.entropy()?,
        node_id: None,
        cluster_key: None,
    };
    let mut changes = Changes::default();
    changes.put(Family::Meta, IDENTITY, record::seal(&identity));
    disk.write(changes, Durability::Synced)?;
    Ok(identity)
}

/// Rejects a log or vote that is behind what was synced before, and starts to record what is synced
/// from now on.
fn keep_high_water(disk: &dyn Disk, log: &LogStore, fatal: &Fatal) -> Result<(), Refusal> {
    let Some(high_water) = disk.high_water() else {
        return Ok(());
    };
    let held = log.held();
    high_water.check(&held)?;
    disk.keep_high_water(&held, Arc::clone(fatal))?;
    if held.truncations.is_none() {
        log.count_truncations()?;
    }
    Ok(())
}

/// The error of a store that is not opened, before the path is known.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("it cannot be read or written")]
    Disk(#[from] io::Error),
    #[error("the record of its identity is damaged")]
    Identity(#[from] RecordError),
    #[error("it contains data but no identity")]
    Nameless,
    #[error(transparent)]
    Behind(#[from] Behind),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Resume(#[from] ResumeError),
    #[error(transparent)]
    Machine(#[from] MachineError),
}

impl Refusal {
    fn into_open_error(self, path: &Path) -> OpenError {
        let path = path.to_owned();
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(&self);
        let mut newer = None;
        if let Refusal::Identity(RecordError::Newer(format)) = &self {
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
        if matches!(self, Refusal::Machine(MachineError::Owner(_))) {
            return OpenError::Owner;
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
