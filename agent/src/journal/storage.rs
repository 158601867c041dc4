//! Storage of a journal: two files, or memory that separates synced from unsynced bytes.
//!
//! This module handles bytes and syncs, not frames. Memory is for simulations: the same rules
//! without a thread.

use std::fs::OpenOptions;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use argosy_host::atomic_file::sync_directory;

use super::reserve::AppendFile;

/// A disk in memory that holds one journal and outlives the agent on it. All clones share one disk.
#[derive(Debug, Clone, Default)]
pub struct MemoryDisk(Arc<Mutex<MemoryDiskState>>);

#[derive(Debug, Default)]
struct MemoryDiskState {
    journal: Option<MemoryFile>,
    next: Option<MemoryFile>,
    delay: Duration,
    /// Number of appends and syncs that still succeed before every further one fails; `None` for
    /// all.
    operations_left: Option<usize>,
}

#[derive(Debug, Default)]
struct MemoryFile {
    bytes: Vec<u8>,
    /// Number of bytes that survive a power loss.
    synced: usize,
}

impl MemoryDisk {
    fn lock(&self) -> MutexGuard<'_, MemoryDiskState> {
        self.0.lock().expect("no holder of the lock panics")
    }

    /// Returns a disk with a journal of these bytes.
    #[cfg(test)]
    pub(super) fn of(bytes: &[u8]) -> Self {
        let journal = Some(MemoryFile {
            bytes: bytes.to_vec(),
            synced: bytes.len(),
        });
        let state = MemoryDiskState {
            journal,
            ..MemoryDiskState::default()
        };
        Self(Arc::new(Mutex::new(state)))
    }

    /// Returns the number of bytes that are written and not synced.
    #[must_use]
    pub fn unsynced_bytes(&self) -> usize {
        let state = self.lock();
        let journal = state.journal.as_ref();
        journal.map_or(0, |file| file.bytes.len() - file.synced)
    }

    /// Simulates a power loss, after the agent on the disk has ended: of the unsynced bytes only
    /// the first `kept` remain. A broken disk is repaired.
    pub fn cut_power(&self, kept: usize) {
        let mut state = self.lock();
        state.operations_left = None;
        state.next = None;
        if let Some(file) = &mut state.journal {
            file.bytes.truncate(file.synced + kept);
            file.synced = file.bytes.len();
        }
    }

    /// Sets the time that each further group of records takes to be written and synced.
    pub fn slow_down(&self, delay: Duration) {
        self.lock().delay = delay;
    }

    /// Makes every append and sync fail after `left` more, until the power loss: the disk is full,
    /// or broken. Of the failing append one half is written.
    pub fn break_after(&self, left: usize) {
        self.lock().operations_left = Some(left);
    }

    /// Whether an append or a sync has failed, or the next one will.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.lock().operations_left == Some(0)
    }

    pub(super) fn delay(&self) -> Duration {
        self.lock().delay
    }

    /// Returns another disk with the content that a power loss would leave of this one.
    #[must_use]
    pub fn copy(&self) -> MemoryDisk {
        let journal = self.synced().map(|bytes| MemoryFile {
            synced: bytes.len(),
            bytes,
        });
        let state = MemoryDiskState {
            journal,
            ..MemoryDiskState::default()
        };
        MemoryDisk(Arc::new(Mutex::new(state)))
    }

    /// Returns the content of the journal after a power loss; `None` if there is none.
    pub(super) fn synced(&self) -> Option<Vec<u8>> {
        let state = self.lock();
        let journal = state.journal.as_ref();
        journal.map(|file| file.bytes[..file.synced].to_vec())
    }

    /// Returns the content of the journal; `None` if there is none.
    pub(super) fn bytes(&self) -> Option<Vec<u8>> {
        let state = self.lock();
        state.journal.as_ref().map(|file| file.bytes.clone())
    }
}

/// The location of a journal and of its successor in progress.
#[derive(Debug, Clone)]
pub(super) enum JournalStorage {
    Files { path: PathBuf, next: PathBuf },
    Memory(MemoryDisk),
}

/// A file to which records are appended.
#[derive(Debug)]
pub(super) enum AppendTarget {
    File(AppendFile),
    /// The journal of this disk, or its successor in progress.
    Memory(MemoryDisk, JournalFile),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum JournalFile {
    Current,
    Next,
}

impl JournalStorage {
    /// Returns the path, for messages.
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Files { path, .. } => path,
            Self::Memory(_) => Path::new("in memory"),
        }
    }

    /// Opens the journal for appending, truncated at `end`.
    pub(super) fn reopen(&self, end: u64) -> io::Result<AppendTarget> {
        match self {
            Self::Files { path, .. } => {
                let mut file = OpenOptions::new().write(true).open(path)?;
                if file.metadata()?.len() > end {
                    // Frees the reserved space, too: it is reserved again next.
                    file.set_len(end)?;
                }
                file.seek(SeekFrom::End(0))?;
                file.sync_all()?;
                Ok(AppendTarget::File(AppendFile::new(file, end)))
            }
            Self::Memory(disk) => {
                let mut state = disk.lock();
                let file = state.journal.get_or_insert_default();
                file.bytes
                    .truncate(usize::try_from(end).unwrap_or(usize::MAX));
                file.synced = file.bytes.len();
                drop(state);
                Ok(AppendTarget::Memory(disk.clone(), JournalFile::Current))
            }
        }
    }

    /// Creates an empty successor.
    pub(super) fn create(&self) -> io::Result<AppendTarget> {
        match self {
            Self::Files { next, .. } => {
                let mut options = OpenOptions::new();
                options.write(true).create(true).truncate(true).mode(0o600);
                Ok(AppendTarget::File(AppendFile::new(options.open(next)?, 0)))
            }
            Self::Memory(disk) => {
                disk.lock().next = Some(MemoryFile::default());
                Ok(AppendTarget::Memory(disk.clone(), JournalFile::Next))
            }
        }
    }

    /// Removes a successor that cannot be finished, and frees its space. If it cannot be removed,
    /// the next one replaces it.
    pub(super) fn discard(&self) {
        match self {
            Self::Files { next, .. } => drop(std::fs::remove_file(next)),
            Self::Memory(disk) => disk.lock().next = None,
        }
    }

    /// Replaces the journal by the successor, durably. Not by `atomic_file`: records are appended
    /// to the successor over many turns, and to it alone afterwards.
    pub(super) fn replace(&self, successor: &mut AppendTarget) -> io::Result<()> {
        match self {
            Self::Files { path, next } => {
                std::fs::rename(next, path)?;
                let directory = path.parent().unwrap_or(Path::new("."));
                sync_directory(directory)
            }
            Self::Memory(disk) => {
                let mut state = disk.lock();
                state.journal = state.next.take();
                *successor = AppendTarget::Memory(disk.clone(), JournalFile::Current);
                Ok(())
            }
        }
    }

    /// Whether writing waits for a device, and so needs a thread.
    pub(super) fn may_block(&self) -> bool {
        matches!(self, Self::Files { .. })
    }
}

impl AppendTarget {
    pub(super) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::File(file) => file.append(bytes),
            Self::Memory(disk, which) => {
                let mut state = disk.lock();
                let counted = state.count();
                let written = match counted {
                    Ok(()) => bytes,
                    Err(_) => &bytes[..bytes.len() / 2],
                };
                state.file(*which)?.bytes.extend_from_slice(written);
                counted
            }
        }
    }

    /// Whether the disk is full, so that only the reserved space is left.
    pub(super) fn is_short(&mut self) -> bool {
        match self {
            Self::File(file) => file.is_short(),
            Self::Memory(..) => false,
        }
    }

    /// Syncs all appended bytes.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        match self {
            Self::File(file) => file.sync(),
            Self::Memory(disk, which) => {
                let mut state = disk.lock();
                state.count()?;
                let file = state.file(*which)?;
                file.synced = file.bytes.len();
                Ok(())
            }
        }
    }
}

impl MemoryDiskState {
    /// Counts an append or sync.
    fn count(&mut self) -> io::Result<()> {
        match &mut self.operations_left {
            None => Ok(()),
            Some(0) => Err(io::Error::other("the disk is broken")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
        }
    }

    fn file(&mut self, which: JournalFile) -> io::Result<&mut MemoryFile> {
        let file = match which {
            JournalFile::Current => &mut self.journal,
            JournalFile::Next => &mut self.next,
        };
        file.as_mut()
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }
}
