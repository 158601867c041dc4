//! A disk in memory, with what a power cut would keep told apart from what it would lose.
//!
//! For tests and simulations: the same rules as the real one, without a thread of its own.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{self, BoxFuture};

use super::{Change, Changes, Disk, Durability, Family, Pinned, Read, ViewWork, Visit};

/// The disk of one memory-only master. A clone is the same disk: keep one, drop the store, open it again.
#[derive(Clone, Debug, Default)]
pub(crate) struct MemoryDisk(Arc<Mutex<Contents>>);

#[derive(Debug, Default)]
struct Contents {
    /// What reads see.
    current: Families,
    /// What is left after a power cut.
    durable: Families,
    /// Written since the last sync, in order.
    unsynced: Vec<Changes>,
    /// Finished snapshots by name. Like files that were synced before they got their name.
    images: BTreeMap<String, Bytes>,
    /// Writes that still succeed before every further one fails; `None` for all.
    #[cfg(test)]
    writes_left: Option<usize>,
}

#[derive(Clone, Debug, Default)]
struct Families(BTreeMap<Family, BTreeMap<Vec<u8>, Bytes>>);

impl MemoryDisk {
    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.0.lock().expect("no holder of the lock panics")
    }

    pub(crate) fn images(&self) -> BTreeMap<String, Bytes> {
        self.contents().images.clone()
    }

    pub(crate) fn change_images(&self, change: impl FnOnce(&mut BTreeMap<String, Bytes>)) {
        change(&mut self.contents().images);
    }

    /// A power cut: of the writes since the last sync only the first `kept` are left.
    #[cfg(test)]
    pub(crate) fn cut_power(&self, kept: usize) {
        let mut contents = self.contents();
        let unsynced = std::mem::take(&mut contents.unsynced);
        for changes in unsynced.into_iter().take(kept) {
            contents.durable.apply(&changes);
        }
        contents.current = contents.durable.clone();
        contents.writes_left = None;
    }

    /// After `left` more writes every further one fails, until the power is cut.
    #[cfg(test)]
    pub(crate) fn break_after(&self, left: usize) {
        self.contents().writes_left = Some(left);
    }

    /// Writes since the last sync.
    #[cfg(test)]
    pub(crate) fn unsynced(&self) -> usize {
        self.contents().unsynced.len()
    }
}

impl Contents {
    #[cfg(test)]
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
    fn apply(&mut self, changes: &Changes) {
        for change in &changes.0 {
            match change {
                Change::Put { family, key, value } => {
                    let value = Bytes::from(value.clone());
                    self.0
                        .entry(*family)
                        .or_default()
                        .insert(key.clone(), value);
                }
                Change::Delete { family, key } => {
                    self.0.entry(*family).or_default().remove(key);
                }
                Change::DeleteRange { family, from, to } => {
                    let keys = self.0.entry(*family).or_default();
                    let mut rest = keys.split_off(from);
                    keys.append(&mut rest.split_off(to));
                }
            }
        }
    }

    fn get(&self, family: Family, key: &[u8]) -> Option<Bytes> {
        self.0.get(&family)?.get(key).cloned()
    }
}

impl Read for Families {
    fn get(&self, family: Family, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        Ok(Families::get(self, family, key).map(Vec::from))
    }

    fn scan(&self, family: Family, from: &[u8], visit: &mut Visit<'_>) -> io::Result<()> {
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

impl Read for MemoryDisk {
    fn get(&self, family: Family, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        Read::get(&self.contents().current, family, key)
    }

    fn scan(&self, family: Family, from: &[u8], visit: &mut Visit<'_>) -> io::Result<()> {
        self.contents().current.scan(family, from, visit)
    }
}

impl Disk for MemoryDisk {
    fn name(&self) -> String {
        "the memory store".to_owned()
    }

    fn may_block(&self) -> bool {
        false
    }

    fn write(&self, changes: Changes, durability: Durability) -> io::Result<()> {
        let mut contents = self.contents();
        #[cfg(test)]
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

    fn pin(self: Arc<Self>) -> BoxFuture<'static, io::Result<Box<dyn Pinned>>> {
        let view: Box<dyn Pinned> = Box::new(self.contents().current.clone());
        future::ready(Ok(view)).boxed()
    }
}

impl Pinned for Families {
    fn read(self: Box<Self>, work: ViewWork) -> BoxFuture<'static, io::Result<()>> {
        future::ready(work(self.as_ref())).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str) -> Changes {
        let mut changes = Changes::default();
        changes.put(Family::Meta, key, b"value".to_vec());
        changes
    }

    fn held(disk: &MemoryDisk) -> Vec<String> {
        let mut keys = Vec::new();
        disk.scan(Family::Meta, b"", &mut |key, _| {
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
        assert_eq!(held(&disk), ["a", "b", "c", "d"]);
        disk.cut_power(1);
        assert_eq!(held(&disk), ["a", "b", "c"]);
        disk.cut_power(0);
        assert_eq!(held(&disk), ["a", "b", "c"]);
    }

    #[test]
    fn a_range_is_deleted_up_to_its_end_not_including_it() {
        let disk = MemoryDisk::default();
        for key in ["a", "b", "c", "d"] {
            disk.write(put(key), Durability::Buffered).unwrap();
        }
        let mut changes = Changes::default();
        changes.delete_range(Family::Meta, b"b".to_vec(), b"d".to_vec());
        disk.write(changes, Durability::Buffered).unwrap();
        assert_eq!(held(&disk), ["a", "d"]);
    }
}
