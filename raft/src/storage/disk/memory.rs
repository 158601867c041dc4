//! A disk in memory that distinguishes what survives a power cut from what is lost.
//!
//! For tests and simulations: it follows the rules of the real disk, without a separate thread.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{self, BoxFuture};

use super::{
    ChangeBatch, Disk, DiskRead, Durability, KeyChange, KeySpace, PinnedView, ScanVisitor,
    ViewWork, system_entropy,
};
use crate::concurrency::{Mutex, MutexGuard};
use crate::storage::record::{self, DirectoryIdentity, VoteRecord};
use crate::storage::snapshot::KeyValue;
use crate::storage::{entry, install, log, registry, store};

/// The disk of one memory-only master. All clones share one disk: keep one, drop the store, open it
/// again.
#[derive(Clone, Debug, Default)]
pub(crate) struct MemoryDisk(Arc<Mutex<MemoryContents>>);

#[derive(Debug, Default)]
struct MemoryContents {
    /// The content that reads see.
    current: Families,
    /// The content that survives a power cut.
    durable: Families,
    /// The writes since the last sync, in order.
    unsynced: Vec<ChangeBatch>,
    /// Finished snapshots by name, like files that were synced before they got their name.
    images: BTreeMap<String, Bytes>,
    /// The total size of all snapshots ever stored here, in bytes.
    image_bytes: u64,
    /// The duration of a write.
    delay: Duration,
    /// The seed of random numbers; `None`: they come from the operating system.
    seed: Option<u64>,
    /// The number of writes that still succeed before all others fail; `None`: all succeed.
    writes_left: Option<usize>,
}

/// The state of a log entry after a power cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DurableEntry {
    /// The entry with its index and term: equal bytes mean equal entries.
    Entry(Bytes),
    /// The registry covers the entry.
    Covered,
    /// The entry is lost.
    Missing,
}

#[derive(Clone, Debug, Default)]
struct Families(BTreeMap<KeySpace, BTreeMap<Vec<u8>, Bytes>>);

impl MemoryDisk {
    fn contents(&self) -> MutexGuard<'_, MemoryContents> {
        self.0.lock().expect("no holder of the lock panics")
    }

    pub(crate) fn images(&self) -> BTreeMap<String, Bytes> {
        self.contents().images.clone()
    }

    pub(crate) fn change_images(&self, change: impl FnOnce(&mut BTreeMap<String, Bytes>)) {
        let mut contents = self.contents();
        let names: Vec<String> = contents.images.keys().cloned().collect();
        change(&mut contents.images);
        let added = contents
            .images
            .iter()
            .filter(|(name, _)| !names.contains(name));
        let added: u64 = added.map(|(_, image)| image.len() as u64).sum();
        contents.image_bytes += added;
    }

    /// Returns the total size of all snapshots ever stored here, in bytes.
    pub(crate) fn image_bytes(&self) -> u64 {
        self.contents().image_bytes
    }

    pub(crate) fn seeded(seed: u64) -> MemoryDisk {
        let disk = MemoryDisk::default();
        disk.contents().seed = Some(seed);
        disk
    }

    pub(crate) fn slow_down(&self, delay: Duration) {
        self.contents().delay = delay;
    }

    /// Simulates a power cut: of the writes since the last sync only the first `kept` survive.
    pub(crate) fn cut_power(&self, kept: usize) {
        let mut contents = self.contents();
        let unsynced = std::mem::take(&mut contents.unsynced);
        for changes in unsynced.into_iter().take(kept) {
            contents.durable.apply(&changes);
        }
        contents.current = contents.durable.clone();
        contents.writes_left = None;
    }

    /// Makes every write after the next `left` ones fail, until the power is cut.
    pub(crate) fn fail_writes_after(&self, left: usize) {
        self.contents().writes_left = Some(left);
    }

    /// Returns what a power cut would leave of the log entry at `index`: its bytes, or the fact
    /// that a snapshot covers it.
    pub(crate) fn durable_entry(&self, index: u64) -> DurableEntry {
        let contents = self.contents();
        let log = contents.durable.0.get(&KeySpace::Log);
        let key = index.to_be_bytes();
        let mut rest = log.into_iter().flat_map(|log| log.range(key.to_vec()..));
        match rest.next() {
            // The link before the content is specific to this disk: only the content is equal on
            // all masters.
            Some((found, bytes)) if found[..] == key => {
                DurableEntry::Entry(bytes.slice(entry::HEAD.min(bytes.len())..))
            }
            Some(_later) => DurableEntry::Covered,
            // The log is truncated only below the applied index, and both are in one write-ahead
            // log.
            None => {
                let applied = registry::applied(&contents.durable).ok();
                let applied = applied.and_then(|applied| applied.last_log_id);
                let applied = applied.map(|last| last.index);
                // An install is finished at the next start. Names begin with the index, in twenty
                // digits.
                let newest = contents.images.keys().next_back();
                let image = newest.and_then(|name| name.get(..20)?.parse::<u64>().ok());
                match applied.max(image).is_some_and(|last| last >= index) {
                    true => DurableEntry::Covered,
                    false => DurableEntry::Missing,
                }
            }
        }
    }

    /// Returns the log entry at `index`, as reads see it. `None` if it does not exist, or no longer
    /// does.
    pub(crate) fn entry(&self, index: u64) -> Option<entry::DecodedEntry> {
        let contents = self.contents();
        let bytes = contents.current.get(KeySpace::Log, &index.to_be_bytes())?;
        drop(contents);
        entry::open(index, bytes.into()).ok()
    }

    /// Returns term and index of the last log entry, as reads see it. `None` if the log is empty.
    pub(crate) fn last_entry(&self) -> Option<(u64, u64)> {
        let contents = self.contents();
        let log = contents.current.0.get(&KeySpace::Log)?;
        let key = log.last_key_value()?.0;
        let index = u64::from_be_bytes(key.as_slice().try_into().ok()?);
        drop(contents);
        let log_id = self.entry(index)?.entry.log_id;
        Some((log_id.leader_id.term, log_id.index))
    }

    /// Returns the id that the group assigned to the node on this disk, as a power cut would leave
    /// it.
    pub(crate) fn node_id(&self) -> Option<u64> {
        let bytes = self
            .contents()
            .durable
            .get(KeySpace::Meta, store::IDENTITY)?;
        record::unseal::<DirectoryIdentity>(&bytes).ok()?.node_id
    }

    /// Returns the newest vote, as a power cut would leave it.
    pub(crate) fn vote(&self) -> Option<VoteRecord> {
        let bytes = self.contents().durable.get(KeySpace::Meta, log::VOTE)?;
        record::unseal(&bytes).ok()
    }

    /// Returns the last applied entry, as reads see it.
    pub(crate) fn applied(&self) -> Option<u64> {
        let contents = self.contents();
        let applied = registry::applied(&contents.current).ok()?;
        Some(applied.last_log_id?.index)
    }

    /// Returns the registry as reads see it: the index of its last applied entry, and its records.
    /// `None` before the first entry, and while a snapshot replaces it.
    pub(crate) fn registry(&self) -> Option<(u64, Vec<KeyValue>)> {
        let contents = self.contents();
        if install::is_under_way(&contents.current) {
            return None;
        }
        let applied = registry::applied(&contents.current).ok()?.last_log_id?;
        let records = contents.current.0.get(&KeySpace::Registry);
        let records = records
            .into_iter()
            .flatten()
            .map(|(key, value)| (key.clone(), value.to_vec()))
            .collect();
        Some((applied.index, records))
    }

    /// Replaces the value of a stored record of the registry, durable immediately.
    pub(crate) fn replace_record(&self, key: Vec<u8>, value: Vec<u8>) {
        let mut changes = ChangeBatch::default();
        changes.put(KeySpace::Registry, key, value);
        let mut contents = self.contents();
        contents.current.apply(&changes);
        contents.durable.apply(&changes);
    }

    /// Replaces the disk by a new, empty one.
    pub(crate) fn wipe(&self) {
        let mut contents = self.contents();
        *contents = MemoryContents {
            seed: contents.seed,
            ..MemoryContents::default()
        };
    }

    /// Returns whether a write has failed or the next one will.
    pub(crate) fn is_broken(&self) -> bool {
        self.contents().writes_left == Some(0)
    }

    /// Returns the number of writes since the last sync.
    pub(crate) fn unsynced(&self) -> usize {
        self.contents().unsynced.len()
    }
}

impl MemoryContents {
    fn count_write(&mut self) -> io::Result<()> {
        match &mut self.writes_left {
            None => Ok(()),
            Some(0) => Err(io::Error::other("the disk is broken")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
        }
    }
}

impl Families {
    fn apply(&mut self, changes: &ChangeBatch) {
        for change in &changes.0 {
            match change {
                KeyChange::Put { family, key, value } => {
                    self.0
                        .entry(*family)
                        .or_default()
                        .insert(key.to_vec(), value.clone());
                }
                KeyChange::Delete { family, key } => {
                    self.0.entry(*family).or_default().remove(key);
                }
                KeyChange::DeleteRange { family, from, to } => {
                    let keys = self.0.entry(*family).or_default();
                    let mut rest = keys.split_off(from);
                    keys.append(&mut rest.split_off(to));
                }
            }
        }
    }

    fn get(&self, family: KeySpace, key: &[u8]) -> Option<Bytes> {
        self.0.get(&family)?.get(key).cloned()
    }
}

impl DiskRead for Families {
    fn get(&self, family: KeySpace, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        Ok(Families::get(self, family, key).map(Vec::from))
    }

    fn scan(&self, family: KeySpace, from: &[u8], visit: &mut ScanVisitor<'_>) -> io::Result<()> {
        let Some(keys) = self.0.get(&family) else {
            return Ok(());
        };
        for (key, value) in keys.range(from.to_vec()..) {
            if visit(key, value)?.is_break() {
                break;
            }
        }
        Ok(())
    }
}

impl DiskRead for MemoryDisk {
    fn get(&self, family: KeySpace, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        DiskRead::get(&self.contents().current, family, key)
    }

    fn scan(&self, family: KeySpace, from: &[u8], visit: &mut ScanVisitor<'_>) -> io::Result<()> {
        self.contents().current.scan(family, from, visit)
    }
}

impl Disk for MemoryDisk {
    fn name(&self) -> String {
        "the memory store".to_owned()
    }

    /// Tests of schedules need the threads of a real disk.
    fn may_block(&self) -> bool {
        cfg!(feature = "shuttle")
    }

    fn write(&self, changes: ChangeBatch, durability: Durability) -> io::Result<()> {
        let mut contents = self.contents();
        contents.count_write()?;
        contents.current.apply(&changes);
        contents.unsynced.push(changes);
        if durability == Durability::Synced {
            for changes in std::mem::take(&mut contents.unsynced) {
                contents.durable.apply(&changes);
            }
        }
        Ok(())
    }

    fn delay(&self) -> Duration {
        self.contents().delay
    }

    fn entropy(&self) -> io::Result<u64> {
        let mut contents = self.contents();
        let Some(seed) = &mut contents.seed else {
            drop(contents);
            return system_entropy();
        };
        // SplitMix64.
        *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (*seed ^ (*seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Ok(mixed ^ (mixed >> 31))
    }

    fn pin(self: Arc<Self>) -> BoxFuture<'static, io::Result<Box<dyn PinnedView>>> {
        let view: Box<dyn PinnedView> = Box::new(self.contents().current.clone());
        future::ready(Ok(view)).boxed()
    }
}

impl PinnedView for Families {
    fn read(self: Box<Self>, work: ViewWork) -> BoxFuture<'static, io::Result<()>> {
        future::ready(work(self.as_ref())).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str) -> ChangeBatch {
        let mut changes = ChangeBatch::default();
        changes.put(KeySpace::Meta, key, b"value".to_vec());
        changes
    }

    fn keys(disk: &MemoryDisk) -> Vec<String> {
        let mut keys = Vec::new();
        disk.scan(KeySpace::Meta, b"", &mut |key, _| {
            keys.push(String::from_utf8(key.to_vec()).unwrap());
            Ok(std::ops::ControlFlow::Continue(()))
        })
        .unwrap();
        keys
    }

    #[test]
    fn a_power_cut_keeps_the_synced_and_a_prefix_of_the_rest() {
        let disk = MemoryDisk::default();
        disk.write(put("a"), Durability::Buffered).unwrap();
        disk.write(put("b"), Durability::Synced).unwrap();
        disk.write(put("c"), Durability::Buffered).unwrap();
        disk.write(put("d"), Durability::Buffered).unwrap();
        assert_eq!(keys(&disk), ["a", "b", "c", "d"]);
        disk.cut_power(1);
        assert_eq!(keys(&disk), ["a", "b", "c"]);
        disk.cut_power(0);
        assert_eq!(keys(&disk), ["a", "b", "c"]);
    }

    #[test]
    fn a_deleted_range_excludes_its_end() {
        let disk = MemoryDisk::default();
        for key in ["a", "b", "c", "d"] {
            disk.write(put(key), Durability::Buffered).unwrap();
        }
        let mut changes = ChangeBatch::default();
        changes.delete_range(KeySpace::Meta, b"b".to_vec(), b"d".to_vec());
        disk.write(changes, Durability::Buffered).unwrap();
        assert_eq!(keys(&disk), ["a", "d"]);
    }
}
