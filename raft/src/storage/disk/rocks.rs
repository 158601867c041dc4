//! The disk of a real master: one RocksDB.
//!
//! One write-ahead log orders the writes of all four families. Nothing here decides when to sync.
//! The files are checked before RocksDB opens them, see `recovery`, `wal` and `high_water`.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::FutureExt;
use futures::future::BoxFuture;
use rocksdb::properties::{CUR_SIZE_ALL_MEM_TABLES, DBSTATS, TOTAL_SST_FILES_SIZE};
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType,
    DBRawIterator, DBRecoveryMode, ErrorKind, LogLevel, Options, WriteBatch, WriteOptions,
};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::high_water::{self, HighWater, HighWaterRecord, HighWaterThread, StoreState};
use super::recovery::WalFiles;
use super::{
    ChangeBatch, Disk, DiskRead, Durability, KeyChange, KeySpace, PinnedView, ScanVisitor,
    ViewWork, recovery, system_entropy, wal,
};
use crate::fatal::FatalHandler;
use crate::storage::directory::{Directory, OpenError};
use crate::storage::usage::{self, StoreUsage};

const MIB: usize = 1 << 20;

/// A RocksDB and the lock of its directory.
pub(crate) struct RocksDisk {
    /// Dropped before the store is closed, and the store before the directory is unlocked: fields
    /// are dropped in this order.
    high_water: HighWaterThread,
    db: DB,
    directory: Directory,
    /// The key that distinguishes this store's marks from other bytes.
    key: u64,
    /// The sequence number up to which everything is synced.
    synced: AtomicU64,
}

impl KeySpace {
    fn name(self) -> &'static str {
        match self {
            KeySpace::Log => "log",
            KeySpace::Meta => "meta",
            KeySpace::Registry => "registry",
            KeySpace::RegistryMeta => "registry_meta",
        }
    }
}

impl RocksDisk {
    pub(crate) fn open(directory: Directory) -> Result<RocksDisk, OpenError> {
        let path = directory.store();
        let noted = high_water::read(&directory.high_water())?;
        let logs = recovery::prepare(&path, noted.as_ref())?;
        let db = open_db(&path)?;
        let sequence = db.latest_sequence_number();
        if let Some(noted) = &noted
            && sequence < noted.sequence
        {
            return Err(missing_end(&path, sequence, noted, &logs));
        }
        let key = match &noted {
            Some(noted) => noted.key,
            None => system_entropy().map_err(OpenError::io("draw a key for", &path))?,
        };
        let high_water = HighWater::new(noted, key, logs.names());
        // Recovery has synced what it found: `recovery::prepare` the logs, RocksDB the tables that
        // it made of them.
        high_water.record_sequence(sequence);
        Ok(RocksDisk {
            high_water: HighWaterThread::new(high_water),
            db,
            directory,
            key,
            synced: AtomicU64::new(sequence),
        })
    }

    fn family(&self, family: KeySpace) -> &ColumnFamily {
        let handle = self.db.cf_handle(family.name());
        handle.expect("every family was opened with the store")
    }
}

fn open_db(path: &Path) -> Result<DB, OpenError> {
    let cache = Cache::new_lru_cache(32 * MIB);
    let family = |family: KeySpace| {
        ColumnFamilyDescriptor::new(family.name(), family_options(family, &cache))
    };
    let opened = DB::open_cf_descriptors(&options(), path, KeySpace::ALL.map(family));
    opened.map_err(|error| refused(path, error))
}

/// Reports a store that ends before the synced sequence number. Both numbers count changes, over
/// all families.
fn missing_end(path: &Path, sequence: u64, noted: &HighWaterRecord, logs: &WalFiles) -> OpenError {
    OpenError::Damaged {
        path: path.to_owned(),
        what: format!(
            "it ends at write {sequence}, and write {} was synced before; its write-ahead logs are {}",
            noted.sequence,
            logs.names()
        ),
    }
}

fn options() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_paranoid_checks(true);
    // `recovery` has already truncated the torn end that a power cut leaves: anything that RocksDB
    // still rejects is damage. The manifest reveals missing or foreign files.
    options.set_wal_recovery_mode(DBRecoveryMode::AbsoluteConsistency);
    options.set_track_and_verify_wals_in_manifest(true);
    options.set_manual_wal_flush(false);
    options.set_unordered_write(false);
    options.set_recycle_log_file_num(0);
    options.set_max_total_wal_size(64 * MIB as u64);
    // `recovery` reads the whole manifest into memory.
    options.set_max_manifest_file_size(16 * MIB);
    options.set_max_open_files(256);
    options.set_max_background_jobs(2);
    options.set_keep_log_file_num(2);
    options.set_log_level(LogLevel::Warn);
    options.set_stats_dump_period_sec(0);
    options
}

fn family_options(family: KeySpace, cache: &Cache) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    let mut options = Options::default();
    options.set_block_based_table_factory(&table);
    options.set_paranoid_checks(true);
    options.set_compression_type(DBCompressionType::Lz4);
    let buffer = match family {
        KeySpace::Log | KeySpace::Registry => 16 * MIB,
        KeySpace::Meta | KeySpace::RegistryMeta => MIB,
    };
    options.set_write_buffer_size(buffer);
    options
}

fn refused(path: &Path, error: rocksdb::Error) -> OpenError {
    // A missing file is damage too; RocksDB reports causes as texts.
    let is_missing = error.as_ref().contains("No such file or directory");
    match error.kind() {
        kind if is_missing || kind == ErrorKind::Corruption => OpenError::Damaged {
            path: path.to_owned(),
            what: error.into_string(),
        },
        _ => OpenError::Io {
            what: "open",
            path: path.to_owned(),
            source: error.into(),
        },
    }
}

fn io_error(error: rocksdb::Error) -> io::Error {
    let kind = match error.kind() {
        ErrorKind::Corruption => io::ErrorKind::InvalidData,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, error)
}

fn visit_all(
    mut keys: DBRawIterator<'_>,
    from: &[u8],
    visit: &mut ScanVisitor<'_>,
) -> io::Result<()> {
    keys.seek(from);
    while let Some((key, value)) = keys.item() {
        if visit(key, value)?.is_break() {
            return Ok(());
        }
        keys.next();
    }
    keys.status().map_err(io_error)
}

impl DiskRead for RocksDisk {
    fn get(&self, family: KeySpace, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        self.db.get_cf(self.family(family), key).map_err(io_error)
    }

    fn scan(&self, family: KeySpace, from: &[u8], visit: &mut ScanVisitor<'_>) -> io::Result<()> {
        visit_all(self.db.raw_iterator_cf(self.family(family)), from, visit)
    }
}

impl Disk for RocksDisk {
    fn name(&self) -> String {
        self.directory.path().display().to_string()
    }

    fn may_block(&self) -> bool {
        true
    }

    fn write(&self, changes: ChangeBatch, durability: Durability) -> io::Result<()> {
        let mut batch = WriteBatch::default();
        // First, so that the check of a damaged log finds it.
        batch.put_log_data(wal::mark(self.key, self.synced.load(Ordering::Relaxed)));
        for change in &changes.0 {
            match change {
                KeyChange::Put { family, key, value } => {
                    batch.put_cf(self.family(*family), key, value);
                }
                KeyChange::Delete { family, key } => batch.delete_cf(self.family(*family), key),
                KeyChange::DeleteRange { family, from, to } => {
                    batch.delete_range_cf(self.family(*family), from, to);
                }
            }
        }
        let mut options = WriteOptions::default();
        options.set_sync(durability == Durability::Synced);
        self.db.write_opt(batch, &options).map_err(io_error)?;
        if durability == Durability::Synced {
            // Writes come from one place: nothing else has been written since.
            let sequence = self.db.latest_sequence_number();
            self.synced.store(sequence, Ordering::Relaxed);
            self.high_water.high_water().record_sequence(sequence);
        }
        Ok(())
    }

    fn high_water(&self) -> Option<HighWater> {
        Some(self.high_water.high_water().clone())
    }

    fn start_high_water(&self, held: &StoreState, fatal: FatalHandler) -> io::Result<()> {
        let (path, store) = (self.directory.high_water(), self.directory.store());
        self.high_water.start(path, store, held, fatal)
    }

    fn usage(&self) -> io::Result<Option<StoreUsage>> {
        let mut family_bytes = Vec::with_capacity(KeySpace::ALL.len());
        for family in KeySpace::ALL {
            let mut bytes = 0;
            for property in [TOTAL_SST_FILES_SIZE, CUR_SIZE_ALL_MEM_TABLES] {
                let part = self.db.property_int_value_cf(self.family(family), property);
                bytes += part.map_err(io_error)?.unwrap_or(0);
            }
            family_bytes.push((family.name(), bytes));
        }
        let statistics = self.db.property_value(DBSTATS).map_err(io_error)?;
        let stalled = statistics.as_deref().and_then(usage::stalled);
        let (free_bytes, total_bytes) = argosy_host::disk_space(self.directory.path())?;
        Ok(Some(StoreUsage {
            family_bytes,
            stalled: stalled.unwrap_or_default(),
            free_bytes,
            total_bytes,
        }))
    }

    /// RocksDB's snapshot borrows the database, so it lives on the stack of a thread that is held
    /// until the work is done.
    fn pin(self: Arc<Self>) -> BoxFuture<'static, io::Result<Box<dyn PinnedView>>> {
        async move {
            let (pinned, ready) = oneshot::channel();
            let (work, next) = oneshot::channel::<ViewWork>();
            let thread = tokio::task::spawn_blocking(move || {
                let view = RocksView {
                    snapshot: self.db.snapshot(),
                    disk: &self,
                };
                // The requester may have been dropped: then there is no work either.
                let _ = pinned.send(());
                match next.blocking_recv() {
                    Ok(work) => work(&view),
                    Err(_) => Ok(()),
                }
            });
            ready.await.map_err(io::Error::other)?;
            let pinned: Box<dyn PinnedView> = Box::new(PinnedThread { work, thread });
            Ok(pinned)
        }
        .boxed()
    }
}

struct RocksView<'a> {
    snapshot: rocksdb::Snapshot<'a>,
    disk: &'a RocksDisk,
}

impl DiskRead for RocksView<'_> {
    fn get(&self, family: KeySpace, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let got = self.snapshot.get_cf(self.disk.family(family), key);
        got.map_err(io_error)
    }

    fn scan(&self, family: KeySpace, from: &[u8], visit: &mut ScanVisitor<'_>) -> io::Result<()> {
        let keys = self.snapshot.raw_iterator_cf(self.disk.family(family));
        visit_all(keys, from, visit)
    }
}

struct PinnedThread {
    work: oneshot::Sender<ViewWork>,
    thread: JoinHandle<io::Result<()>>,
}

impl PinnedView for PinnedThread {
    fn read(self: Box<Self>, work: ViewWork) -> BoxFuture<'static, io::Result<()>> {
        async move {
            let PinnedThread { work: send, thread } = *self;
            // If the thread has ended, the result below reports the cause.
            let _ = send.send(work);
            thread.await.map_err(io::Error::other)?
        }
        .boxed()
    }
}
