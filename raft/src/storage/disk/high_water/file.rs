//! The file of the high-water record, and the thread that writes it.

use std::fs::{self, File};
use std::io;
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
    let Ok(Some(number)) = store_files::current_manifest(store) else {
        return Ok(known);
    };
    let path = store_files::manifest_path(store, number);
    let known_bytes = known
        .filter(|known| known.number == number)
        .map_or(0, |known| known.bytes);
    let file = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(known),
        file => file?,
    };
    if file.metadata()?.len() == known_bytes {
        return Ok(known);
    }
    let content = fs::read(&path)?;
    let mut end = known_bytes as usize;
    while let WalRead::Record { end: next, .. } = frames::next(&content, end) {
        end = next;
    }
    file.sync_data()?;
    let bytes = end as u64;
    Ok(Some(Manifest { number, bytes }))
}

#[cfg(test)]
mod tests {
    use super::*;

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
