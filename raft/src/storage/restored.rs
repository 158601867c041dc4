//! Data directories that are made from the records of a registry: the master that starts on one
//! forms a group of one, which continues at the log index of the records.
//!
//! Until a directory is complete, a marker forbids every start on it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use openraft::RaftLogReader as _;

use super::directory::{FORMAT_FILE, OpenError, check_format};
use super::disk::{self, ChangeBatch, Disk, Durability, KeySpace};
use super::entry::EntryHash;
use super::install;
use super::log::{LogStore, PURGED, VOTE};
use super::record::{self, LogIdRecord, PurgedRecord, VoteRecord};
use super::registry::{self, APPLIED};
use super::rejoin::LockedDirectory;
use super::snapshot::KeyValue;
use super::store::{Store, identity};
use crate::fatal;
use crate::types::{CommittedEntry, Member, Membership, StoredMembership};
use crate::types::{CommittedLeaderId, LogId, Payload, SnapshotMeta};

/// The id of the only member of a restored group. No id of the former group matters: the groups
/// have different keys.
pub(crate) const FOUNDER: u64 = 1;

/// The size of one batch of records, in bytes.
const BATCH_BYTES: usize = 1 << 20;

/// The position of a registry in the log of its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogPosition {
    /// The log index of the last entry that the records contain.
    pub index: u64,
    /// The term of that entry.
    pub term: u64,
}

impl LogPosition {
    fn log_id(self) -> LogId {
        LogId {
            leader_id: CommittedLeaderId::new(self.term),
            index: self.index,
        }
    }
}

/// The data of a stopped master.
#[derive(Debug)]
pub struct StoppedData {
    /// The records of the registry.
    pub records: Vec<KeyValue>,
    /// The position up to which they are applied.
    pub applied: LogPosition,
    /// The entries of the log after that, committed or not.
    pub entries: Vec<CommittedEntry>,
}

impl LockedDirectory {
    /// Reads the data of a stopped master, and checks all of it. Changes only what every start
    /// changes. The directory stays locked, so that no master adds to the data before a recovery
    /// replaces it.
    ///
    /// # Errors
    /// [`OpenError`]; also if there is no registry in the directory.
    pub async fn read(&self) -> Result<StoppedData, OpenError> {
        let path = self.path().to_owned();
        let format = path.join(FORMAT_FILE);
        let text = match fs::read_to_string(&format) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(OpenError::Empty { path });
            }
            read => read.map_err(OpenError::io("read", &format))?,
        };
        check_format(&path, &text)?;
        let lock = self.lock();
        let open = move || Store::open_locked(&path, lock, fatal::abort());
        let opened = disk::run(true, open).await?;
        let read = read_store(&opened, self.path()).await;
        opened.close().await;
        let closed = opened.unlocked();
        drop(opened);
        closed.cancelled().await;
        read
    }
}

/// Reads the data of an open store. Installs the newest snapshot first if it is newer than the
/// registry, as openraft does at each start: the master ended before it had installed it, or a
/// power cut took later writes.
pub(crate) async fn read_store(store: &Store, path: &Path) -> Result<StoppedData, OpenError> {
    let parts = store.parts();
    let (mut meta, mut records) = store.read_registry().await?;
    if let Some(image) = parts.snapshots.current()
        && image.meta().last_log_id > meta.last_log_id
    {
        let newer = image.meta().clone();
        let installed = install::install(&parts, image).await;
        records = installed.map_err(OpenError::io("install the newest snapshot in", path))?;
        meta = newer;
    }
    let mut log = store.log();
    let last = match meta.last_log_id {
        Some(last) => last,
        None => first_entry(&mut log, path).await?,
    };
    check_continues(&log, last, path)?;
    let entries = log.try_get_log_entries(last.index + 1..).await;
    let entries = entries.map_err(OpenError::io("read the log in", path))?;
    let committed = entries.into_iter().map(|entry| {
        let (at_ms, commands) = match entry.payload {
            Payload::Normal(batch) => (batch.at_ms, batch.commands),
            Payload::Blank | Payload::Membership(_) => (0, Vec::new()),
        };
        CommittedEntry {
            index: entry.log_id.index,
            term: entry.log_id.leader_id.term,
            at_ms,
            commands,
        }
    });
    Ok(StoppedData {
        records,
        applied: LogPosition {
            index: last.index,
            term: last.leader_id.term,
        },
        entries: committed.collect(),
    })
}

/// Returns the position of the log's first entry, for a registry that is not written yet: applied
/// entries are written up to 50 ms later, and a master may end before. The first entry of a cluster
/// names its members and has no commands, so the registry is empty after it.
async fn first_entry(log: &mut LogStore, path: &Path) -> Result<LogId, OpenError> {
    let path = path.to_owned();
    if log.store_state().last.is_none() {
        return Err(OpenError::Empty { path });
    }
    if log.purged().is_none() {
        let first = log.try_get_log_entries(..1).await;
        let first = first.map_err(OpenError::io("read the log in", &path))?;
        if let [entry] = &first[..]
            && matches!(entry.payload, Payload::Membership(_))
        {
            return Ok(entry.log_id);
        }
    }
    let what = "there is no registry, and the log does not begin with the first members";
    Err(OpenError::Damaged {
        path,
        what: what.to_owned(),
    })
}

/// Checks that the log contradicts no registry that is applied up to `applied`, and has no gap
/// after it. The log may end before.
fn check_continues(log: &LogStore, applied: LogId, path: &Path) -> Result<(), OpenError> {
    let damaged = |what| {
        Err(OpenError::Damaged {
            path: path.to_owned(),
            what,
        })
    };
    let index = applied.index;
    if let Some(purged) = log.purged().filter(|purged| purged.index > index) {
        return damaged(format!(
            "the registry is applied up to entry {index}, and the log begins after entry {}",
            purged.index
        ));
    }
    match log.store_state().last {
        Some(last) if last.index >= index && last < applied => damaged(format!(
            "the log contradicts the registry, which is applied up to entry {index}"
        )),
        _ => Ok(()),
    }
}

/// Writes the records into an empty disk, as those of a registry that is applied up to `last`.
/// Synced on return.
#[cfg_attr(
    not(feature = "rocksdb"),
    allow(dead_code, reason = "only a store on disk is restored")
)]
pub(crate) fn write(disk: &dyn Disk, records: &[KeyValue], last: LogPosition) -> io::Result<()> {
    identity(disk).map_err(io::Error::other)?;
    let mut changes = ChangeBatch::default();
    let mut bytes = 0;
    for (key, value) in records {
        bytes += key.len() + value.len();
        changes.put(KeySpace::Registry, key.clone(), value.clone());
        if bytes >= BATCH_BYTES {
            disk.write(std::mem::take(&mut changes), Durability::Buffered)?;
            bytes = 0;
        }
    }
    // The last batch: with the applied position, the registry is complete.
    let log_id = last.log_id();
    let purged = PurgedRecord {
        log_id: Some(LogIdRecord::from(&log_id)),
        link: EntryHash::after_snapshot(&log_id).as_bytes().to_vec(),
    };
    changes.put(KeySpace::Meta, PURGED, record::seal(&purged));
    // The next term must not be lower than that of the records.
    let vote = VoteRecord {
        term: last.term,
        voted_for: FOUNDER,
        committed: false,
    };
    changes.put(KeySpace::Meta, VOTE, record::seal(&vote));
    let applied = SnapshotMeta {
        last_log_id: Some(log_id),
        last_membership: StoredMembership::default(),
    };
    changes.put(
        KeySpace::RegistryMeta,
        APPLIED,
        registry::seal_applied(&applied),
    );
    disk.write(changes, Durability::Synced)?;
    let (read, stored) = registry::read(disk).map_err(io::Error::other)?;
    if read != applied || stored != records {
        let text = "the records that were read again differ from those that were written";
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    Ok(())
}

impl Store {
    /// Returns whether this is the store of a restored directory on which no master has run.
    pub(crate) fn is_restored(&self) -> io::Result<bool> {
        let is_new = self.identity().node_id.is_none();
        let applied = registry::applied(self.parts().disk.as_ref()).map_err(io::Error::other)?;
        Ok(is_new && applied.last_log_id.is_some())
    }

    /// Makes this node the only member of a restored group. Durable on return. Can be repeated
    /// until the identity is saved.
    pub(crate) async fn found_alone(&self, member: Member) -> io::Result<()> {
        let parts = self.parts();
        let disk = Arc::clone(&parts.disk);
        let mut applied = registry::applied(disk.as_ref()).map_err(io::Error::other)?;
        let nodes = BTreeMap::from([(FOUNDER, member)]);
        let members = Membership::new(vec![[FOUNDER].into()], nodes);
        let members = members.map_err(|error| io::Error::other(error.to_string()))?;
        applied.last_membership = StoredMembership::new(applied.last_log_id, members);
        let mut changes = ChangeBatch::default();
        changes.put(
            KeySpace::RegistryMeta,
            APPLIED,
            registry::seal_applied(&applied),
        );
        parts.writer.write(changes, Durability::Synced).await
    }
}
