//! An ordered key-value store with four families and one write-ahead log: the disk interface of
//! storage.
//!
//! There are two kinds: memory for tests and simulation, RocksDB for production. The bytes are
//! opaque here.

#[cfg_attr(
    not(feature = "rocksdb"),
    allow(dead_code, reason = "only a store on disk has files to check")
)]
mod frames;
#[cfg_attr(
    not(feature = "rocksdb"),
    allow(dead_code, reason = "only a store on disk has files to check")
)]
pub(crate) mod high_water;
pub(crate) mod memory;
#[cfg_attr(
    not(feature = "rocksdb"),
    allow(dead_code, reason = "only a store on disk has files to check")
)]
mod recovery;
#[cfg(feature = "rocksdb")]
pub(crate) mod rocks;
#[cfg_attr(
    not(feature = "rocksdb"),
    allow(dead_code, reason = "only a store on disk has files to check")
)]
mod store_files;
#[cfg_attr(
    not(feature = "rocksdb"),
    allow(dead_code, reason = "only a store on disk has files to check")
)]
mod wal;

use std::fs::File;
use std::io::{self, Read as _};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;

use super::usage::StoreUsage;
use crate::concurrency;
use crate::fatal::FatalHandler;
use high_water::{HighWater, StoreState};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum KeySpace {
    /// Log entries by index, eight bytes big endian.
    Log,
    /// Vote, committed, purged, identity, an unfinished install.
    Meta,
    /// The records of the registry, as its owner wrote them.
    Registry,
    /// The position up to which the registry is applied.
    RegistryMeta,
}

impl KeySpace {
    pub(crate) const ALL: [KeySpace; 4] = [
        KeySpace::Log,
        KeySpace::Meta,
        KeySpace::Registry,
        KeySpace::RegistryMeta,
    ];
}

/// One change of a batch.
#[derive(Clone, Debug)]
pub(crate) enum KeyChange {
    Put {
        family: KeySpace,
        key: Bytes,
        value: Bytes,
    },
    Delete {
        family: KeySpace,
        key: Vec<u8>,
    },
    /// Deletes all keys from `from` up to, not including, `to`.
    DeleteRange {
        family: KeySpace,
        from: Vec<u8>,
        to: Vec<u8>,
    },
}

/// Changes that are written together or not at all.
#[derive(Clone, Debug, Default)]
pub(crate) struct ChangeBatch(pub(crate) Vec<KeyChange>);

impl ChangeBatch {
    pub(crate) fn put(&mut self, family: KeySpace, key: impl Into<Vec<u8>>, value: Vec<u8>) {
        self.put_shared(family, Bytes::from(key.into()), Bytes::from(value));
    }

    /// Adds a change like [`Self::put`], with shared bytes.
    pub(crate) fn put_shared(&mut self, family: KeySpace, key: Bytes, value: Bytes) {
        self.0.push(KeyChange::Put { family, key, value });
    }

    pub(crate) fn delete(&mut self, family: KeySpace, key: impl Into<Vec<u8>>) {
        let key = key.into();
        self.0.push(KeyChange::Delete { family, key });
    }

    pub(crate) fn delete_range(&mut self, family: KeySpace, from: Vec<u8>, to: Vec<u8>) {
        self.0.push(KeyChange::DeleteRange { family, from, to });
    }

    /// Deletes every key of the registry. Its keys begin with the kind of the record, which is
    /// below 0xff.
    pub(crate) fn clear_registry(&mut self) {
        self.delete_range(KeySpace::Registry, Vec::new(), vec![0xff]);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The condition for a write to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Durability {
    /// Passed to the operating system: survives the end of the process, but not of the machine.
    Buffered,
    /// On the disk, together with every write before it.
    Synced,
}

/// A callback for each key and value of a scan; it breaks to end the scan.
pub(crate) type ScanVisitor<'a> = dyn FnMut(&[u8], &[u8]) -> io::Result<ControlFlow<()>> + 'a;

/// Read access to a disk, or to a pinned view of it.
pub(crate) trait DiskRead {
    fn get(&self, family: KeySpace, key: &[u8]) -> io::Result<Option<Vec<u8>>>;

    /// Visits the keys from `from` in order, up to the end of the family or the break.
    fn scan(&self, family: KeySpace, from: &[u8], visit: &mut ScanVisitor<'_>) -> io::Result<()>;
}

/// Work on a pinned view.
pub(crate) type ViewWork = Box<dyn FnOnce(&dyn DiskRead) -> io::Result<()> + Send>;

/// A view of the disk at one moment. Dropping it releases the view.
pub(crate) trait PinnedView: Send + Sync {
    fn read(self: Box<Self>, work: ViewWork) -> BoxFuture<'static, io::Result<()>>;
}

/// An ordered key-value store. Writes come from one place only, see `writer`.
pub(crate) trait Disk: DiskRead + Send + Sync {
    /// Returns its path, for messages.
    fn name(&self) -> String;

    /// Returns whether calls may wait for a device, so that they belong on a separate thread.
    fn may_block(&self) -> bool;

    fn write(&self, changes: ChangeBatch, durability: Durability) -> io::Result<()>;

    /// Returns the handle that records what is synced; `None` for a disk without such a record.
    fn high_water(&self) -> Option<HighWater> {
        None
    }

    /// Starts to write that record: from then on the file includes at least what the store
    /// contains.
    fn start_high_water(&self, _held: &StoreState, _fatal: FatalHandler) -> io::Result<()> {
        Ok(())
    }

    /// Returns what the store takes on its disk; `None` for a store in memory. Blocks.
    fn usage(&self) -> io::Result<Option<StoreUsage>> {
        Ok(None)
    }

    /// Returns the additional duration of a write, on a disk that does not block.
    fn delay(&self) -> Duration {
        Duration::ZERO
    }

    /// Returns a random number that no other process or disk has.
    fn entropy(&self) -> io::Result<u64> {
        system_entropy()
    }

    /// Returns a view of the moment at which the future completes.
    fn pin(self: Arc<Self>) -> BoxFuture<'static, io::Result<Box<dyn PinnedView>>>;
}

fn system_entropy() -> io::Result<u64> {
    let mut bytes = [0; 8];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

/// Runs `work` on a blocking thread if this disk may block, otherwise inline (a simulation stays
/// repeatable).
pub(crate) async fn run<T: Send + 'static>(
    may_block: bool,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    if !may_block {
        return work();
    }
    concurrency::run_blocking(work).await
}

/// Checks write-ahead logs for a fuzz target: one in each part, or one whose fragments are the
/// parts, each with its kind as the first byte. Returns whether they are intact.
#[cfg(feature = "fuzzing")]
pub(crate) fn check_logs(is_raw: bool, parts: &[&[u8]]) -> bool {
    use wal::{WalCheckResult, WalChecker};

    let mut log = Vec::new();
    let fragments = parts.iter().filter_map(|part| part.split_first());
    fragments.for_each(|(kind, content)| frames::put(*kind, content, &mut log));
    let logs = if is_raw { parts } else { &[&log[..]][..] };
    let mut checker = WalChecker::new(Some(7), Some(1));
    logs.iter().for_each(|log| checker.read(log));
    match checker.result() {
        WalCheckResult::Intact => true,
        WalCheckResult::Torn(at) | WalCheckResult::Damaged { at, .. } => {
            assert!(at.offset <= logs[at.file].len(), "a position after the end");
            false
        }
    }
}
