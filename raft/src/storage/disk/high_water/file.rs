//! The file of the high-water record, and the thread that writes it.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use super::{HighWater, HighWaterRecord, Manifest, Shared, StoreState};
use crate::fatal::{FatalError, FatalHandler};
use crate::storage::directory::OpenError;
use crate::storage::disk::frames::{self, WalRead};
use crate::storage::disk::store_files;
use crate::storage::durable_file;
use crate::storage::record;

/// A page apart, so that no device tears both slots in one write.
const SLOT: usize = 4096;
const SLOTS: u64 = 2;

/// The maximum number of attempts to open the manifest in use.
const MANIFEST_ATTEMPTS: usize = 3;

/// Reads the file; `None` if it does not exist.
pub(in crate::storage::disk) fn read(path: &Path) -> Result<Option<HighWaterRecord>, OpenError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(OpenError::io("read", path)(error)),
    };
    let slots = bytes.chunks(SLOT).take(SLOTS as usize);
    let newest = slots
        .filter_map(|slot| {
            let (length, rest) = slot.split_first_chunk::<4>()?;
            let sealed = rest.get(..u32::from_le_bytes(*length) as usize)?;
            record::unseal::<HighWaterRecord>(sealed).ok()
        })
        .max_by_key(|record| record.count);
    match newest {
        Some(record) => Ok(Some(record)),
        None => Err(OpenError::Damaged {
            path: path.to_owned(),
            what: "neither copy of the high-water record can be read".to_owned(),
        }),
    }
}

fn slot(record: &HighWaterRecord) -> Vec<u8> {
    let sealed = record::seal(record);
    let length = u32::try_from(sealed.len()).expect("a record is small");
    let mut slot = length.to_le_bytes().to_vec();
    slot.extend(sealed);
    slot.resize(SLOT, 0);
    slot
}

/// Creates the file, durably, with the record in both slots.
fn create(path: &Path, record: &HighWaterRecord) -> io::Result<()> {
    let slots = slot(record).repeat(SLOTS as usize);
    durable_file::write(path, &slots)
}

/// The thread that writes the file. Dropping it writes the recorded state and ends the thread.
pub(in crate::storage::disk) struct HighWaterThread {
    high_water: HighWater,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl HighWaterThread {
    pub(in crate::storage::disk) fn new(high_water: HighWater) -> HighWaterThread {
        let thread = Mutex::new(None);
        HighWaterThread { high_water, thread }
    }

    pub(in crate::storage::disk) fn high_water(&self) -> &HighWater {
        &self.high_water
    }

    /// Writes the state of the store, and from then on each recorded change.
    pub(in crate::storage::disk) fn start(
        &self,
        path: PathBuf,
        store: PathBuf,
        held: &StoreState,
        fatal: FatalHandler,
    ) -> io::Result<()> {
        let mut record = {
            let mut noted = self.high_water.0.lock();
            noted.record.update(held);
            noted.record
        };
        record.manifest = synced_manifest(&store, None)?;
        record.newest_log = newest_log(&store);
        record.count += 1;
        if !path.exists() {
            create(&path, &record)?;
        }
        let file = File::options().write(true).open(&path)?;
        let mut hand = HighWaterWriter {
            file,
            store,
            written: record,
        };
        hand.put(record)?;
        let shared = Arc::clone(&self.high_water.0);
        let work = move || {
            if let Err(source) = hand.work(&shared) {
                let path = path.display().to_string();
                let what = "write";
                fatal(&FatalError { path, what, source });
            }
        };
        let thread = std::thread::Builder::new().name("raft-high-water".to_owned());
        let thread = thread.spawn(work)?;
        *self.thread.lock().expect("no holder of the lock panics") = Some(thread);
        Ok(())
    }
}

impl Drop for HighWaterThread {
    fn drop(&mut self) {
        self.high_water.0.lock().is_closed = true;
        self.high_water.0.changed.notify_all();
        let thread = self.thread.get_mut().expect("no holder of the lock panics");
        if let Some(thread) = thread.take() {
            // The thread has printed its panic, if any.
            let _ = thread.join();
        }
    }
}

/// The only writer of the file.
struct HighWaterWriter {
    file: File,
    store: PathBuf,
    written: HighWaterRecord,
}

impl HighWaterWriter {
    fn work(&mut self, shared: &Shared) -> io::Result<()> {
        loop {
            let (mut record, is_last) = shared.next();
            record.manifest = synced_manifest(&self.store, self.written.manifest)?;
            record.newest_log = newest_log(&self.store);
            record.count = self.written.count;
            if record != self.written {
                record.count += 1;
                self.put(record)?;
            }
            if is_last {
                return Ok(());
            }
            shared.pause();
        }
    }

    fn put(&mut self, record: HighWaterRecord) -> io::Result<()> {
        let offset = record.count % SLOTS * SLOT as u64;
        self.file.write_all_at(&slot(&record), offset)?;
        self.file.sync_data()?;
        self.written = record;
        Ok(())
    }
}

fn newest_log(store: &Path) -> u64 {
    // For messages only: without it they are less precise.
    let logs = store_files::numbered(store, ".log").unwrap_or_default();
    logs.iter().map(|(number, _)| *number).max().unwrap_or(0)
}

/// Syncs the manifest in use, up to its last whole edit. `known` is synced already.
fn synced_manifest(store: &Path, known: Option<Manifest>) -> io::Result<Option<Manifest>> {
    // RocksDB may be replacing it right now: the next check finds the new one.
    let Some((number, file)) = open_manifest(store)? else {
        return Ok(known);
    };
    let known_bytes = known
        .filter(|known| known.number == number)
        .map_or(0, |known| known.bytes);
    if file.metadata()?.len() == known_bytes {
        return Ok(known);
    }
    let bytes = last_edit_end(&file, known_bytes)?;
    file.sync_data()?;
    Ok(Some(Manifest { number, bytes }))
}

/// Opens the manifest in use, and returns it with its number. RocksDB deletes a manifest that it
/// has replaced: `CURRENT` is then read again. `None` without a manifest after the last attempt.
fn open_manifest(store: &Path) -> io::Result<Option<(u64, File)>> {
    for _ in 0..MANIFEST_ATTEMPTS {
        // An error may mean that the manifest was deleted after `CURRENT` had been read.
        let Ok(Some(number)) = store_files::current_manifest(store) else {
            continue;
        };
        match File::open(store_files::manifest_path(store, number)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            file => return Ok(Some((number, file?))),
        }
    }
    Ok(None)
}

/// Returns the end of the last whole edit of a manifest. `known` is the end of an earlier edit, or
/// 0.
///
/// Reads only from the start of the block that contains `known`. Fragments are parsed by their
/// position in a block, so the edits after `known` are parsed as in the whole file.
fn last_edit_end(mut manifest: impl Read + Seek, known: u64) -> io::Result<u64> {
    let block_start = known - known % frames::BLOCK as u64;
    manifest.seek(SeekFrom::Start(block_start))?;
    let mut content = Vec::new();
    manifest.read_to_end(&mut content)?;
    let mut end = (known - block_start) as usize;
    while let WalRead::Record { end: next, .. } = frames::next(&content, end) {
        end = next;
    }
    Ok(block_start + end as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::disk::frames::tests::FrameWriter;

    /// A reader that counts the bytes that it reads from a file.
    struct CountingReader {
        file: File,
        bytes: u64,
    }

    impl Read for CountingReader {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = self.file.read(buffer)?;
            self.bytes += count as u64;
            Ok(count)
        }
    }

    impl Seek for CountingReader {
        fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
            self.file.seek(position)
        }
    }

    /// Writes `edits` at `offset` of a new manifest and makes it the current one. The part before
    /// them takes no space.
    fn put_manifest(store: &Path, number: u64, edits: &[u8], offset: u64) {
        let path = store_files::manifest_path(store, number);
        let file = File::create(&path).unwrap();
        file.write_all_at(edits, offset).unwrap();
        let current = format!("{}\n", store_files::name(&path));
        fs::write(store.join(store_files::CURRENT), current).unwrap();
    }

    #[test]
    fn only_the_end_of_a_long_manifest_is_read() {
        let start: u64 = 4 << 30;
        let mut edits = FrameWriter::default();
        edits.record(b"an edit that is known");
        let known = start + edits.0.len() as u64;
        // It spans four blocks.
        edits.record(&[7; 100_000]);
        let end = start + edits.0.len() as u64;
        edits.0.extend(b"half of an edit");
        let dir = tempfile::tempdir().unwrap();
        put_manifest(dir.path(), 5, &edits.0, start);
        let file = File::open(store_files::manifest_path(dir.path(), 5)).unwrap();
        let mut reader = CountingReader { file, bytes: 0 };
        assert_eq!(last_edit_end(&mut reader, known).unwrap(), end);
        assert_eq!(reader.bytes, edits.0.len() as u64);
        let synced = |bytes| Some(Manifest { number: 5, bytes });
        let found = synced_manifest(dir.path(), synced(known)).unwrap();
        assert_eq!(found, synced(end));
    }

    #[test]
    fn edits_are_found_from_every_known_end_around_the_end_of_a_block() {
        for first in frames::BLOCK - 20..frames::BLOCK + 10 {
            let mut edits = FrameWriter::default();
            let mut ends = vec![0];
            for length in [first, 0, 5, frames::BLOCK, 1] {
                edits.record(&vec![7; length]);
                ends.push(edits.0.len() as u64);
            }
            for known in ends {
                let found = last_edit_end(io::Cursor::new(&edits.0), known).unwrap();
                assert_eq!(found, edits.0.len() as u64, "{first}, {known}");
            }
        }
    }

    #[test]
    fn a_manifest_that_is_deleted_during_a_check_causes_no_error() {
        let dir = tempfile::tempdir().unwrap();
        let mut edits = FrameWriter::default();
        edits.record(b"an edit");
        let bytes = edits.0.len() as u64;
        put_manifest(dir.path(), 5, &edits.0, 0);
        let (number, file) = open_manifest(dir.path()).unwrap().unwrap();
        fs::remove_file(store_files::manifest_path(dir.path(), 5)).unwrap();
        assert_eq!((number, last_edit_end(&file, 0).unwrap()), (5, bytes));
        // `CURRENT` does not name the next one yet.
        let known = Some(Manifest { number, bytes });
        assert_eq!(synced_manifest(dir.path(), known).unwrap(), known);
        put_manifest(dir.path(), 6, &edits.0, 0);
        let next = Some(Manifest { number: 6, bytes });
        assert_eq!(synced_manifest(dir.path(), known).unwrap(), next);
    }

    #[test]
    fn one_torn_slot_is_ignored_and_two_are_rejected() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("high-water");
        assert_eq!(read(&path).unwrap(), None);
        let older = HighWaterRecord {
            sequence: 7,
            ..HighWaterRecord::default()
        };
        create(&path, &older).unwrap();
        let newer = HighWaterRecord { count: 1, ..older };
        let mut bytes = fs::read(&path).unwrap();
        bytes[SLOT..].copy_from_slice(&slot(&newer));
        fs::write(&path, &bytes).unwrap();
        assert_eq!(read(&path).unwrap(), Some(newer));
        bytes[SLOT + 6] ^= 1;
        fs::write(&path, &bytes).unwrap();
        assert_eq!(read(&path).unwrap(), Some(older));
        bytes[6] ^= 1;
        fs::write(&path, &bytes).unwrap();
        let text = read(&path).unwrap_err().to_string();
        assert!(
            text.contains("high-water is damaged: neither copy"),
            "{text}"
        );
    }
}
