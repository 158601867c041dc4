//! The store of snapshot files: the newest two finished ones under their names, unfinished ones
//! under names that the next start deletes.
//!
//! A file gets its name only when it is complete and synced, so a name never refers to a torn file.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use argosy_host::atomic_file::sync_directory;
use bytes::Bytes;

use super::disk;
use super::disk::memory::MemoryDisk;
use super::snapshot::{self, KeyValue, SnapshotError};
use crate::types::{LogId, SnapshotMeta};

/// The number of finished snapshots to keep; older ones are deleted when a newer one is finished.
const MAX_SNAPSHOTS: usize = 2;

/// A snapshot is synced each time this many bytes are written: one sync of all of it would block
/// the write-ahead log, which is on the same disk.
const SYNCED_BYTES: usize = 4 << 20;

/// The free bytes that a snapshot leaves on its disk, for the write-ahead log; on a small disk a
/// sixteenth of all bytes. A master whose log finds no space ends.
const RESERVE_BYTES: u64 = 256 << 20;

const SUFFIX: &str = ".snapshot";
const UNFINISHED: &str = ".unfinished";

/// A handle on the snapshot store; all clones share one store.
#[derive(Clone)]
pub(crate) struct SnapshotStore(Arc<Inner>);

struct Inner {
    location: SnapshotLocation,
    current: Mutex<Option<SnapshotFile>>,
    /// Makes the names of unfinished files unique.
    counter: AtomicU64,
    /// [`RESERVE_BYTES`], except in tests.
    reserve_bytes: Arc<AtomicU64>,
}

enum SnapshotLocation {
    Directory(PathBuf),
    Memory(MemoryDisk),
}

/// A complete, verified snapshot. All clones share it, and it stays readable after newer ones have
/// replaced it in the store.
#[derive(Clone)]
pub(crate) struct SnapshotFile(Arc<SnapshotFileInner>);

struct SnapshotFileInner {
    meta: SnapshotMeta,
    length: u64,
    body: SnapshotBody,
    /// The file while it has no final name; deleted with the last handle.
    unfinished: Mutex<Option<UnfinishedFile>>,
}

/// The path of a file without a final name. Dropping it deletes the file, also if the work on it is
/// cancelled.
pub(crate) struct UnfinishedFile(PathBuf);

impl Drop for UnfinishedFile {
    fn drop(&mut self) {
        // It does not exist any more once it has its final name; a file that remains is deleted at
        // the next start.
        let _ = fs::remove_file(&self.0);
    }
}

enum SnapshotBody {
    File(Arc<File>),
    Memory(Bytes),
}

impl SnapshotFile {
    pub(crate) fn meta(&self) -> &SnapshotMeta {
        &self.0.meta
    }

    /// Returns the size in bytes.
    pub(crate) fn len(&self) -> u64 {
        self.0.length
    }

    /// Reads up to `limit` bytes from `offset`; empty at the end.
    pub(crate) async fn read(&self, offset: u64, limit: usize) -> io::Result<Bytes> {
        let image = self.clone();
        disk::run(self.may_block(), move || image.read_now(offset, limit)).await
    }

    fn read_now(&self, offset: u64, limit: usize) -> io::Result<Bytes> {
        let left = self.0.length.saturating_sub(offset);
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(limit);
        match &self.0.body {
            SnapshotBody::Memory(bytes) => {
                let start = bytes
                    .len()
                    .min(usize::try_from(offset).unwrap_or(usize::MAX));
                Ok(bytes.slice(start..start + length))
            }
            SnapshotBody::File(file) => {
                let mut bytes = vec![0; length];
                file.read_exact_at(&mut bytes, offset)?;
                Ok(bytes.into())
            }
        }
    }

    /// Returns all records, read and verified once more.
    pub(crate) fn records(&self) -> Result<Vec<KeyValue>, SnapshotError> {
        let mut records = Vec::new();
        let mut visit = |record| records.push(record);
        match &self.0.body {
            SnapshotBody::Memory(bytes) => snapshot::decode(bytes.as_ref(), &mut visit)?,
            SnapshotBody::File(file) => {
                let from = SnapshotFileReader { file, offset: 0 };
                snapshot::decode(BufReader::with_capacity(1 << 20, from), &mut visit)?
            }
        };
        Ok(records)
    }

    pub(crate) fn may_block(&self) -> bool {
        matches!(self.0.body, SnapshotBody::File(_))
    }

    /// Takes ownership of the file if all of it is valid.
    fn verified(
        body: SnapshotBody,
        unfinished: Option<UnfinishedFile>,
    ) -> Result<SnapshotFile, SnapshotError> {
        // Created first, so that the file is deleted if it is rejected.
        let mut inner = SnapshotFileInner {
            meta: SnapshotMeta::default(),
            length: 0,
            body,
            unfinished: Mutex::new(unfinished),
        };
        match &inner.body {
            SnapshotBody::Memory(bytes) => {
                inner.length = bytes.len() as u64;
                inner.meta = snapshot::decode(bytes.as_ref(), &mut |_| {})?;
            }
            SnapshotBody::File(file) => {
                let from = SnapshotFileReader { file, offset: 0 };
                let from = BufReader::with_capacity(1 << 20, from);
                inner.length = file.metadata()?.len();
                inner.meta = snapshot::decode(from, &mut |_| {})?;
            }
        }
        Ok(SnapshotFile(Arc::new(inner)))
    }

    /// Returns index and term of the last entry that it covers: the larger, the newer.
    fn order(&self) -> (u64, u64) {
        let id = self.0.meta.last_log_id;
        id.map_or((0, 0), |id| (id.index, id.leader_id.term))
    }

    fn name(&self) -> String {
        let (index, term) = self.order();
        format!("{index:020}-{term:020}{SUFFIX}")
    }
}

/// A reader from the start of a file, independent of its cursor, which handles share.
struct SnapshotFileReader<'a> {
    file: &'a File,
    offset: u64,
}

impl io::Read for SnapshotFileReader<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(bytes, self.offset)?;
        self.offset += count as u64;
        Ok(count)
    }
}

/// The destination of a snapshot that is being made or received.
pub(crate) enum SnapshotSink {
    File {
        out: BufWriter<File>,
        path: UnfinishedFile,
        /// Bytes written since the last sync.
        unsynced: usize,
        reserve_bytes: Arc<AtomicU64>,
    },
    Memory(Vec<u8>),
}

impl Write for SnapshotSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            SnapshotSink::File {
                out,
                path,
                unsynced,
                reserve_bytes,
            } => {
                if *unsynced >= SYNCED_BYTES {
                    *unsynced = 0;
                    out.flush()?;
                    out.get_ref().sync_data()?;
                    check_space(&path.0, 0, reserve_bytes)?;
                }
                let count = out.write(bytes)?;
                *unsynced += count;
                Ok(count)
            }
            SnapshotSink::Memory(out) => out.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            SnapshotSink::File { out, .. } => out.flush(),
            SnapshotSink::Memory(_) => Ok(()),
        }
    }
}

impl SnapshotSink {
    /// Syncs and verifies the written bytes.
    pub(crate) fn finish(self) -> Result<SnapshotFile, SnapshotError> {
        match self {
            SnapshotSink::Memory(bytes) => {
                SnapshotFile::verified(SnapshotBody::Memory(bytes.into()), None)
            }
            SnapshotSink::File { out, path, .. } => {
                let synced = out.into_inner().map_err(io::IntoInnerError::into_error);
                let file = synced.and_then(|file| file.sync_all().map(|()| file))?;
                SnapshotFile::verified(SnapshotBody::File(Arc::new(file)), Some(path))
            }
        }
    }

    /// Returns whether writing to it may wait for a device.
    pub(crate) fn may_block(&self) -> bool {
        matches!(self, SnapshotSink::File { .. })
    }
}

/// A snapshot that is being received, block by block. Dropping it deletes the received part.
pub(crate) struct SnapshotWriter(Option<SnapshotSink>);

impl SnapshotWriter {
    pub(crate) async fn write(&mut self, bytes: Bytes) -> io::Result<()> {
        let Some(mut sink) = self.0.take() else {
            return Err(io::Error::other("an earlier block of this snapshot failed"));
        };
        let may_block = sink.may_block();
        let (sink, result) = disk::run(may_block, move || {
            let result = sink.write_all(&bytes);
            (sink, result)
        })
        .await;
        self.0 = Some(sink);
        result
    }

    /// Syncs the received bytes and verifies all of them.
    pub(crate) async fn finish(mut self) -> Result<SnapshotFile, SnapshotError> {
        let sink = self
            .0
            .take()
            .ok_or(SnapshotError::Damaged("it is truncated"))?;
        let may_block = sink.may_block();
        disk::run(may_block, move || sink.finish()).await
    }
}

impl SnapshotStore {
    /// Opens a directory of snapshots: deletes unfinished ones, and selects the newest valid one.
    /// An invalid one is kept and ignored, with a warning.
    #[cfg_attr(
        not(feature = "rocksdb"),
        allow(dead_code, reason = "only a store on disk has a directory")
    )]
    pub(crate) fn in_directory(path: PathBuf) -> io::Result<SnapshotStore> {
        fs::create_dir_all(&path)?;
        for name in names(&path)? {
            if name.ends_with(UNFINISHED) {
                fs::remove_file(path.join(name))?;
            }
        }
        let current = finished(&path)?.into_iter().rev().find_map(|name| {
            let path = path.join(name);
            match open_file(&path) {
                Ok(image) => Some(image),
                Err(error) => {
                    tracing::warn!(path = %path.display(), cause = %error, "ignoring an invalid snapshot");
                    None
                }
            }
        });
        Ok(SnapshotStore::new(
            SnapshotLocation::Directory(path),
            current,
        ))
    }

    pub(crate) fn in_memory(disk: MemoryDisk) -> SnapshotStore {
        let newest = disk.images().into_values().next_back();
        let current =
            newest.and_then(|bytes| SnapshotFile::verified(SnapshotBody::Memory(bytes), None).ok());
        SnapshotStore::new(SnapshotLocation::Memory(disk), current)
    }

    fn new(place: SnapshotLocation, current: Option<SnapshotFile>) -> SnapshotStore {
        SnapshotStore(Arc::new(Inner {
            location: place,
            current: Mutex::new(current),
            counter: AtomicU64::new(0),
            reserve_bytes: Arc::new(AtomicU64::new(RESERVE_BYTES)),
        }))
    }

    /// Reserves all space, or what is reserved usually.
    #[cfg(all(test, feature = "rocksdb"))]
    pub(crate) fn reserve_all(&self, all: bool) {
        let bytes = if all { u64::MAX } else { RESERVE_BYTES };
        self.0.reserve_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Returns the newest finished snapshot.
    pub(crate) fn current(&self) -> Option<SnapshotFile> {
        let current = self.0.current.lock();
        current.expect("no holder of the lock panics").clone()
    }

    /// Returns the snapshot with this name, if it exists and is valid.
    pub(crate) fn open_named(&self, name: &str) -> Result<SnapshotFile, SnapshotError> {
        match &self.0.location {
            SnapshotLocation::Directory(path) => open_file(&path.join(name)),
            SnapshotLocation::Memory(disk) => match disk.images().remove(name) {
                Some(bytes) => SnapshotFile::verified(SnapshotBody::Memory(bytes), None),
                None => Err(io::Error::from(io::ErrorKind::NotFound).into()),
            },
        }
    }

    /// Creates the destination of a new snapshot, which needs at least this many bytes.
    ///
    /// # Errors
    /// [`io::ErrorKind::StorageFull`] if it would leave too little space.
    pub(crate) fn sink(&self, bytes: u64) -> io::Result<SnapshotSink> {
        match &self.0.location {
            SnapshotLocation::Memory(_) => Ok(SnapshotSink::Memory(Vec::new())),
            SnapshotLocation::Directory(path) => {
                let reserve_bytes = Arc::clone(&self.0.reserve_bytes);
                check_space(path, bytes, &reserve_bytes)?;
                let number = self.0.counter.fetch_add(1, Ordering::Relaxed);
                let path = path.join(format!("{number}{UNFINISHED}"));
                let mut options = File::options();
                let file = options
                    .read(true)
                    .write(true)
                    .create(true)
                    .truncate(true)
                    .open(&path)?;
                let out = BufWriter::with_capacity(256 << 10, file);
                Ok(SnapshotSink::File {
                    out,
                    path: UnfinishedFile(path),
                    unsynced: 0,
                    reserve_bytes,
                })
            }
        }
    }

    /// Starts to receive a snapshot of this size from another master. Its installation writes the
    /// records once more.
    pub(crate) fn receive(&self, length_bytes: u64) -> io::Result<SnapshotWriter> {
        let sink = self.sink(length_bytes.saturating_mul(2))?;
        Ok(SnapshotWriter(Some(sink)))
    }

    /// Drops the current snapshot if the log does not continue from it: a master that lacks entries
    /// could not use it.
    pub(crate) fn drop_before(&self, purged: Option<LogId>) {
        let mut current = self.0.current.lock().expect("no holder of the lock panics");
        if let Some(image) = current.take_if(|image| image.meta().last_log_id < purged) {
            tracing::warn!(
                snapshot = image.name(),
                "ignoring the newest valid snapshot: it is older than the log, and a new one will be built"
            );
        }
    }

    /// Gives the snapshot its name, durably, makes it the current one unless a newer one exists,
    /// and deletes the oldest. Returns the name.
    pub(crate) fn put(&self, image: &SnapshotFile) -> io::Result<String> {
        let name = image.name();
        match (&self.0.location, &image.0.body) {
            (SnapshotLocation::Directory(directory), _) => {
                let mut unfinished = image
                    .0
                    .unfinished
                    .lock()
                    .expect("no holder of the lock panics");
                if let Some(from) = unfinished.as_ref() {
                    fs::rename(&from.0, directory.join(&name))?;
                    *unfinished = None;
                    sync_directory(directory)?;
                }
                let names = finished(directory)?;
                for name in &names[..names.len().saturating_sub(MAX_SNAPSHOTS)] {
                    match fs::remove_file(directory.join(name)) {
                        // A snapshot that was built and one that is installed may end together.
                        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                        removed => removed?,
                    }
                }
            }
            (SnapshotLocation::Memory(disk), SnapshotBody::Memory(bytes)) => {
                disk.change_images(|images| {
                    images.insert(name.clone(), bytes.clone());
                    while images.len() > MAX_SNAPSHOTS {
                        images.pop_first();
                    }
                })
            }
            (SnapshotLocation::Memory(_), SnapshotBody::File(_)) => {
                return Err(io::Error::other("a file is not for snapshots in memory"));
            }
        }
        let mut current = self.0.current.lock().expect("no holder of the lock panics");
        // A snapshot that took long to build may be finished after a newer one was installed.
        if current
            .as_ref()
            .is_none_or(|current| current.order() <= image.order())
        {
            *current = Some(image.clone());
        }
        drop(current);
        Ok(name)
    }
}

/// Checks that the disk of this path has more free space than `bytes` and the reserve.
fn check_space(path: &Path, bytes: u64, reserve_bytes: &AtomicU64) -> io::Result<()> {
    let (free, total) = argosy_host::disk_space(path)?;
    let reserve = match reserve_bytes.load(Ordering::Relaxed) {
        RESERVE_BYTES => RESERVE_BYTES.min(total / 16),
        other => other,
    };
    if free >= bytes.saturating_add(reserve) {
        return Ok(());
    }
    let text = format!(
        "{free} bytes are free, of which a snapshot leaves {reserve} for the log, and needs at least \
         {bytes}: make room on the disk"
    );
    Err(io::Error::new(io::ErrorKind::StorageFull, text))
}

fn open_file(path: &Path) -> Result<SnapshotFile, SnapshotError> {
    SnapshotFile::verified(SnapshotBody::File(Arc::new(File::open(path)?)), None)
}

fn names(path: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for file in fs::read_dir(path)? {
        // Names that are not valid UTF-8 are not those of snapshots.
        names.extend(file?.file_name().into_string());
    }
    Ok(names)
}

/// Returns the names of finished snapshots, oldest first.
fn finished(path: &Path) -> io::Result<Vec<String>> {
    let mut names = names(path)?;
    names.retain(|name| name.ends_with(SUFFIX));
    names.sort_unstable();
    Ok(names)
}
