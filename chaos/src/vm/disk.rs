//! A disk with a volatile write cache: data that was not flushed may be lost at a power cut, in
//! part, in any order, torn at sectors.
//!
//! A cut of the whole machine loses everything in the guest's memory, including its page cache. Of
//! the data that the guest had written to the disk and not flushed since, the seed chooses the
//! loss. It may be all, nothing, some 4 KiB blocks, or any version of any sector. Flushed data
//! stays. The first block is never torn: ext4 has its superblock there, in two sectors with one
//! checksum, and nothing repairs a torn one at boot. Not covered: a disk that loses or damages
//! flushed data (see `flakey` and the storage tests), and the timing of real disks.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use super::power_switch::PowerSwitch;
use crate::rng::Rng;

/// The unit that a disk writes atomically.
pub(crate) const SECTOR_BYTES: usize = 512;
const SECTORS_PER_BLOCK: u64 = 8;
/// Remembered versions of one sector. When full, the oldest one that is not durable is dropped.
const VERSIONS: usize = 4;
/// Sectors in the cache. When full, the disk writes everything back, as real disks do.
const CACHE_SECTORS: usize = 131_072;

type Sector = [u8; SECTOR_BYTES];

/// Data that is not durable yet: for each sector the durable content, then the later writes.
#[derive(Debug, Default)]
struct UnflushedSectors(BTreeMap<u64, Vec<Sector>>);

/// The effect of a cut on unflushed data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UnflushedLoss {
    /// All of it is lost.
    Everything,
    /// None is lost: the cache was written back just in time.
    Nothing,
    /// Each 4 KiB block is kept or lost as a whole.
    Blocks,
    /// Each sector has one of its versions, except those of the first block.
    Sectors,
}

impl UnflushedLoss {
    pub(crate) fn choose(rng: &mut Rng) -> Self {
        match rng.below(8) {
            0..=3 => Self::Everything,
            4 => Self::Nothing,
            5 => Self::Blocks,
            _ => Self::Sectors,
        }
    }
}

/// The effect of a flush on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flushes {
    /// All earlier writes become durable.
    Honoured,
    /// None, but the disk reports success. It shows that these tests can fail.
    Ignored,
}

/// Counts of one disk, for the summary.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct DiskCounts {
    /// Requested flushes.
    pub(crate) flushes: u64,
    /// Sectors that were not durable at a cut.
    pub(crate) at_risk: u64,
    /// Of those, the sectors that differ from the last write.
    pub(crate) lost: u64,
}

/// One disk, in a file that always has the content that the guest would read.
#[derive(Debug)]
pub(crate) struct Disk {
    file: File,
    bytes: u64,
    unflushed: UnflushedSectors,
    flushes: Flushes,
    powered: bool,
    /// The power of the whole machine.
    switch: Arc<PowerSwitch>,
    pub(crate) counts: DiskCounts,
}

impl Disk {
    /// Opens a file whose length is a multiple of the sector size.
    ///
    /// # Errors
    /// If it cannot be opened for reading and writing.
    pub(crate) fn open(
        path: &Path,
        flushes: Flushes,
        switch: Arc<PowerSwitch>,
    ) -> io::Result<Self> {
        let file = File::options().read(true).write(true).open(path)?;
        let bytes = file.metadata()?.len();
        Ok(Self {
            file,
            bytes,
            unflushed: UnflushedSectors::default(),
            flushes,
            powered: true,
            switch,
            counts: DiskCounts::default(),
        })
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    fn check(&self, offset: u64, length: usize) -> io::Result<()> {
        if !self.powered || self.is_machine_off() {
            return Err(io::Error::other("the disk has no power"));
        }
        let whole = |number: u64| number.is_multiple_of(SECTOR_BYTES as u64);
        let end = offset.checked_add(length as u64);
        if !whole(offset) || !whole(length as u64) || end.is_none_or(|end| end > self.bytes) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(())
    }

    pub(crate) fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.check(offset, buffer.len())?;
        self.file.read_exact_at(buffer, offset)
    }

    /// Writes data. `through` makes it durable immediately.
    pub(crate) fn write(&mut self, offset: u64, data: &[u8], through: WriteMode) -> io::Result<()> {
        self.check(offset, data.len())?;
        let mut before = vec![0; data.len()];
        self.file.read_exact_at(&mut before, offset)?;
        self.file.write_all_at(data, offset)?;
        let first = offset / SECTOR_BYTES as u64;
        let pairs = before
            .chunks_exact(SECTOR_BYTES)
            .zip(data.chunks_exact(SECTOR_BYTES));
        for (number, (before, after)) in (first..).zip(pairs) {
            if through == WriteMode::WriteThrough && self.flushes == Flushes::Honoured {
                self.unflushed.0.remove(&number);
            } else {
                self.unflushed.note(number, before, after);
            }
        }
        if self.unflushed.0.len() > CACHE_SECTORS {
            self.unflushed.0.clear();
        }
        self.switch.count_write();
        Ok(())
    }

    /// Returns whether the whole machine has lost its power: nothing more is answered.
    pub(crate) fn is_machine_off(&self) -> bool {
        self.switch.is_off()
    }

    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.check(0, 0)?;
        self.counts.flushes += 1;
        if self.flushes == Flushes::Honoured {
            self.unflushed.0.clear();
        }
        Ok(())
    }

    /// Cuts the power. Until it is back, all operations fail.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(crate) fn cut(&mut self, loss: UnflushedLoss, rng: &mut Rng) -> io::Result<()> {
        self.powered = false;
        let unflushed = std::mem::take(&mut self.unflushed);
        for (number, versions) in unflushed.settle(loss, rng) {
            self.counts.at_risk += 1;
            let Some(content) = versions else { continue };
            self.counts.lost += 1;
            self.file
                .write_all_at(&content[..], number * SECTOR_BYTES as u64)?;
        }
        Ok(())
    }

    pub(crate) fn power_on(&mut self) {
        self.powered = true;
    }
}

/// The path of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WriteMode {
    /// Through the cache, as usual.
    WriteBack,
    /// Forced unit access.
    WriteThrough,
}

impl UnflushedSectors {
    fn note(&mut self, number: u64, before: &[u8], after: &[u8]) {
        let sector = |bytes: &[u8]| {
            let sector: Sector = bytes.try_into().expect("chunks are of a sector's length");
            sector
        };
        let versions = self.0.entry(number).or_insert_with(|| vec![sector(before)]);
        if versions.len() == VERSIONS {
            versions.remove(1);
        }
        versions.push(sector(after));
    }

    /// Returns the content after the cut of each sector at risk; `None` if it is the newest
    /// version.
    fn settle(self, loss: UnflushedLoss, rng: &mut Rng) -> Vec<(u64, Option<Sector>)> {
        let mut settled = Vec::new();
        let (mut block, mut keep_block) = (u64::MAX, true);
        for (number, mut versions) in self.0 {
            if number / SECTORS_PER_BLOCK != block {
                block = number / SECTORS_PER_BLOCK;
                keep_block = rng.below(2) == 0;
            }
            let newest = versions.len() - 1;
            let kept = match loss {
                UnflushedLoss::Everything => 0,
                UnflushedLoss::Nothing => newest,
                UnflushedLoss::Blocks if keep_block => newest,
                UnflushedLoss::Blocks => 0,
                UnflushedLoss::Sectors if block == 0 && keep_block => newest,
                UnflushedLoss::Sectors if block == 0 => 0,
                UnflushedLoss::Sectors => rng.below(versions.len() as u64) as usize,
            };
            let content = (kept != newest).then(|| versions.swap_remove(kept));
            settled.push((number, content));
        }
        settled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(flushes: Flushes) -> (tempfile::NamedTempFile, Disk) {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(64 * SECTOR_BYTES as u64).unwrap();
        let disk = Disk::open(file.path(), flushes, Arc::default()).unwrap();
        (file, disk)
    }

    fn put(disk: &mut Disk, sector: u64, byte: u8, through: WriteMode) {
        let offset = sector * SECTOR_BYTES as u64;
        disk.write(offset, &[byte; SECTOR_BYTES], through).unwrap();
    }

    fn get(disk: &Disk, sector: u64) -> u8 {
        let mut buffer = [0; SECTOR_BYTES];
        disk.read(sector * SECTOR_BYTES as u64, &mut buffer)
            .unwrap();
        assert!(
            buffer.iter().all(|byte| *byte == buffer[0]),
            "a torn sector"
        );
        buffer[0]
    }

    #[test]
    fn flushed_sectors_survive_and_the_others_are_lost() {
        let (_file, mut disk) = disk(Flushes::Honoured);
        put(&mut disk, 3, 1, WriteMode::WriteBack);
        disk.flush().unwrap();
        put(&mut disk, 3, 2, WriteMode::WriteBack);
        put(&mut disk, 4, 2, WriteMode::WriteBack);
        put(&mut disk, 5, 2, WriteMode::WriteThrough);
        assert_eq!(get(&disk, 3), 2, "what was written is read");
        disk.cut(UnflushedLoss::Everything, &mut Rng::new(1))
            .unwrap();
        assert!(disk.read(0, &mut [0; SECTOR_BYTES]).is_err());
        assert!(disk.flush().is_err());
        disk.power_on();
        assert_eq!((get(&disk, 3), get(&disk, 4), get(&disk, 5)), (1, 0, 2));
        assert_eq!((disk.counts.at_risk, disk.counts.lost), (2, 2));
    }

    #[test]
    fn a_cut_at_a_write_stops_all_disks_of_the_machine_with_that_write_unflushed() {
        let switch = Arc::<PowerSwitch>::default();
        let (_file, mut first) = disk(Flushes::Honoured);
        let (_other_file, mut second) = disk(Flushes::Honoured);
        first.switch = Arc::clone(&switch);
        second.switch = Arc::clone(&switch);
        put(&mut first, 0, 1, WriteMode::WriteBack);
        first.flush().unwrap();
        switch.cut_at_write(2);
        put(&mut first, 1, 1, WriteMode::WriteBack);
        first.flush().unwrap();
        put(&mut second, 2, 1, WriteMode::WriteBack);
        assert!(second.is_machine_off());
        for disk in [&mut first, &mut second] {
            assert!(disk.flush().is_err() && disk.read(0, &mut [0; SECTOR_BYTES]).is_err());
            disk.cut(UnflushedLoss::Everything, &mut Rng::new(1))
                .unwrap();
        }
        switch.turn_on();
        first.power_on();
        second.power_on();
        assert_eq!((get(&first, 0), get(&first, 1), get(&second, 2)), (1, 1, 0));
        assert_eq!((first.counts.at_risk, second.counts.at_risk), (0, 1));
        put(&mut second, 2, 2, WriteMode::WriteBack);
    }

    #[test]
    fn a_disk_that_ignores_flushes_loses_them() {
        let (_file, mut disk) = disk(Flushes::Ignored);
        put(&mut disk, 3, 1, WriteMode::WriteThrough);
        disk.flush().unwrap();
        disk.cut(UnflushedLoss::Everything, &mut Rng::new(1))
            .unwrap();
        disk.power_on();
        assert_eq!(get(&disk, 3), 0);
    }

    #[test]
    fn blocks_are_kept_completely_and_sectors_individually() {
        for seed in 0..50 {
            let (_file, mut disk) = disk(Flushes::Honoured);
            (0..64).for_each(|sector| put(&mut disk, sector, 1, WriteMode::WriteBack));
            disk.cut(UnflushedLoss::Blocks, &mut Rng::new(seed))
                .unwrap();
            disk.power_on();
            for block in 0..8 {
                let first = get(&disk, block * 8);
                assert!((1..8).all(|at| get(&disk, block * 8 + at) == first));
            }
        }
        let (_file, mut disk) = disk(Flushes::Honoured);
        for version in 1..=9 {
            (0..64).for_each(|sector| put(&mut disk, sector, version, WriteMode::WriteBack));
        }
        disk.cut(UnflushedLoss::Sectors, &mut Rng::new(7)).unwrap();
        disk.power_on();
        let found: std::collections::BTreeSet<_> = (8..64).map(|at| get(&disk, at)).collect();
        assert_eq!(found, [0, 7, 8, 9].into(), "the durable one and the newest");
    }

    /// As at seed 1796013001005 of `power-cuts --loaded`: a file system could not be mounted.
    #[test]
    fn the_superblock_is_not_torn() {
        for seed in 0..50 {
            let (_file, mut disk) = disk(Flushes::Honoured);
            for sector in [2, 3] {
                put(&mut disk, sector, 1, WriteMode::WriteBack);
            }
            disk.cut(UnflushedLoss::Sectors, &mut Rng::new(seed))
                .unwrap();
            disk.power_on();
            assert_eq!(get(&disk, 2), get(&disk, 3), "seed {seed}");
        }
    }

    #[test]
    fn partial_and_out_of_range_sectors_are_rejected() {
        let (_file, mut disk) = disk(Flushes::Honoured);
        assert!(
            disk.write(1, &[0; SECTOR_BYTES], WriteMode::WriteBack)
                .is_err()
        );
        assert!(disk.write(0, &[0; 5], WriteMode::WriteBack).is_err());
        let end = disk.bytes();
        assert!(disk.read(end, &mut [0; SECTOR_BYTES]).is_err());
        assert!(disk.read(u64::MAX - 511, &mut [0; SECTOR_BYTES]).is_err());
    }
}
