//! The one writer: takes all waiting records, writes them together, syncs once, says how far.
//!
//! Compaction goes on beside it: the new file is written on a thread of its own while records still go
//! to the old one; then what came meanwhile is copied behind it, and a rename makes the switch.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::sync::watch;

use super::read::{Contents, End};
use super::{JournalError, frame, record};
use crate::core::{Record, Sync};

/// Records that may wait for the writer. When full, the agent's loop waits: it must not run ahead of its
/// memory.
const WAITING: usize = 16 * 1024;
/// Records written with one sync at most, so that nobody waits for an endless group.
const GROUP: usize = 4 * 1024;
/// A journal below this size is never compacted, in bytes.
const COMPACT_MINIMUM_BYTES: u64 = 4 * 1024 * 1024;
/// A journal is compacted when it has grown to so many times what it was after the last time.
const COMPACT_FACTOR: u64 = 4;

/// What the writer is asked.
#[derive(Debug)]
pub enum Request {
    /// Append a record.
    Append {
        /// Its number; one more than the one before.
        number: u64,
        /// The record.
        record: Box<Record>,
        /// Whether it is synced now.
        sync: Sync,
    },
    /// Start a file anew with these records, which say the same as all before.
    Compact(Vec<Record>),
}

/// How far the writer is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Records up to this number are on disk.
    pub durable: u64,
    /// Grows when a compaction is worth it.
    pub compactions_wanted: u64,
}

/// The agent's end of its journal. Dropping it ends the writer after everything was synced.
#[derive(Debug)]
pub struct Journal {
    requests: Option<SyncSender<Request>>,
    progress: watch::Receiver<Progress>,
    writer: Option<JoinHandle<Result<(), JournalError>>>,
}

impl Journal {
    /// Goes on where `contents` ended; a torn end is cut off.
    ///
    /// # Errors
    /// If the file cannot be made, cut or synced.
    pub fn open(
        path: &Path,
        next: &Path,
        contents: &Contents,
        salt: u64,
    ) -> Result<Self, JournalError> {
        let mut writer = Writer::open(path, next, contents.end, salt)?;
        let (requests, waiting) = sync_channel(WAITING);
        let (sender, progress) = watch::channel(Progress::default());
        let run = move || writer.run(&waiting, &sender);
        let spawned = std::thread::Builder::new()
            .name("journal".into())
            .spawn(run);
        let thread = spawned.map_err(|source| JournalError::Write {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            requests: Some(requests),
            progress,
            writer: Some(thread),
        })
    }

    /// Hands a request over. After a failure of the writer it is dropped: `failure` tells.
    pub fn request(&self, request: Request) {
        if let Some(requests) = &self.requests {
            // The writer has failed: its progress channel is closed, and whoever watches it stops.
            let _ = requests.send(request);
        }
    }

    /// Where to see how far it is; closed when the writer has ended.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    /// Writes and syncs everything, and ends.
    ///
    /// # Errors
    /// What made the writer fail, now or earlier.
    pub fn close(mut self) -> Result<(), JournalError> {
        self.finish()
    }

    fn finish(&mut self) -> Result<(), JournalError> {
        self.requests = None;
        match self.writer.take() {
            Some(writer) => writer.join().expect("the journal's writer never panics"),
            None => Ok(()),
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        // Whoever wants to know calls `close`.
        let _ = self.finish();
    }
}

#[derive(Debug)]
struct Writer {
    path: PathBuf,
    next: PathBuf,
    file: File,
    salt: u64,
    bytes: u64,
    /// Size after the last compaction.
    base_bytes: u64,
    asked: bool,
    compaction: Option<Compaction>,
    dirty: bool,
}

/// A new file in the making.
#[derive(Debug)]
struct Compaction {
    thread: JoinHandle<io::Result<(File, u64)>>,
    salt: u64,
    /// Records since it began, encoded. Bounded by what is written while the new file is.
    since: Vec<Vec<u8>>,
}

impl Writer {
    fn open(path: &Path, next: &Path, end: Option<End>, salt: u64) -> Result<Self, JournalError> {
        let failed = |source| JournalError::Write {
            path: path.to_owned(),
            source,
        };
        let (file, bytes, salt) = match end {
            Some(end) => {
                let mut file = OpenOptions::new().write(true).open(path).map_err(failed)?;
                file.set_len(end.offset).map_err(failed)?;
                file.seek(SeekFrom::End(0)).map_err(failed)?;
                file.sync_all().map_err(failed)?;
                (file, end.offset, end.salt)
            }
            None => {
                let (file, bytes) = create(next, salt, &[]).map_err(failed)?;
                replace(next, path).map_err(failed)?;
                (file, bytes, salt)
            }
        };
        Ok(Self {
            path: path.to_owned(),
            next: next.to_owned(),
            file,
            salt,
            bytes,
            base_bytes: bytes.min(COMPACT_MINIMUM_BYTES),
            asked: false,
            compaction: None,
            dirty: false,
        })
    }

    fn run(
        &mut self,
        waiting: &Receiver<Request>,
        progress: &watch::Sender<Progress>,
    ) -> Result<(), JournalError> {
        while let Ok(first) = waiting.recv() {
            let mut group = vec![first];
            while group.len() < GROUP {
                match waiting.try_recv() {
                    Ok(request) => group.push(request),
                    Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
                }
            }
            let result = self.write(group);
            let (durable, wants) = result.map_err(|source| JournalError::Write {
                path: self.path.clone(),
                source,
            })?;
            progress.send_if_modified(|progress| {
                let before = *progress;
                progress.durable = durable.unwrap_or(progress.durable);
                progress.compactions_wanted += u64::from(wants);
                *progress != before
            });
        }
        let finish = |writer: &mut Self| -> io::Result<()> {
            if let Some(compaction) = writer.compaction.take() {
                // The old file is complete; the new one is not needed any more.
                let _ = compaction.thread.join();
            }
            if writer.dirty {
                writer.file.sync_data()
            } else {
                Ok(())
            }
        };
        finish(self).map_err(|source| JournalError::Write {
            path: self.path.clone(),
            source,
        })
    }

    /// Writes one group; returns up to which record everything is on disk, and whether it has grown large.
    fn write(&mut self, group: Vec<Request>) -> io::Result<(Option<u64>, bool)> {
        let mut bytes = Vec::new();
        let mut last = 0;
        let mut awaited = false;
        for request in group {
            match request {
                Request::Append {
                    number,
                    record,
                    sync,
                } => {
                    let payload = record::encode(&record);
                    frame::put(&mut bytes, self.salt, &payload);
                    if let Some(compaction) = &mut self.compaction {
                        compaction.since.push(payload);
                    }
                    last = number;
                    awaited |= sync == Sync::Awaited;
                }
                Request::Compact(records) => {
                    self.put(&std::mem::take(&mut bytes))?;
                    self.compact(records);
                }
            }
        }
        self.put(&bytes)?;
        if awaited {
            let begun = Instant::now();
            self.file.sync_data()?;
            metrics::histogram!("argosy_agent_checkpoint_duration_seconds")
                .record(begun.elapsed().as_secs_f64());
            self.dirty = false;
        }
        self.switch_if_ready()?;
        let large = self.bytes > COMPACT_FACTOR * self.base_bytes.max(COMPACT_MINIMUM_BYTES);
        let wants = large && !self.asked;
        self.asked |= wants;
        Ok((awaited.then_some(last), wants))
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.dirty = true;
        self.bytes += bytes.len() as u64;
        self.file.write_all(bytes)
    }

    fn compact(&mut self, records: Vec<Record>) {
        if self.compaction.is_some() {
            return;
        }
        let next = self.next.clone();
        let salt = self
            .salt
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(31);
        let write = move || create(&next, salt, &records);
        // Not being able to make a thread only means that the file goes on growing.
        if let Ok(thread) = std::thread::Builder::new()
            .name("compaction".into())
            .spawn(write)
        {
            self.compaction = Some(Compaction {
                thread,
                salt,
                since: Vec::new(),
            });
        } else {
            self.asked = false;
        }
    }

    fn switch_if_ready(&mut self) -> io::Result<()> {
        let Some(compaction) = self
            .compaction
            .take_if(|compaction| compaction.thread.is_finished())
        else {
            return Ok(());
        };
        let made = compaction.thread.join().expect("a compaction never panics");
        let (mut file, mut bytes) = made?;
        let mut rest = Vec::new();
        for payload in &compaction.since {
            frame::put(&mut rest, compaction.salt, payload);
        }
        file.write_all(&rest)?;
        file.sync_data()?;
        replace(&self.next, &self.path)?;
        bytes += rest.len() as u64;
        self.file = file;
        self.salt = compaction.salt;
        self.bytes = bytes;
        self.base_bytes = bytes;
        self.asked = false;
        self.dirty = false;
        Ok(())
    }
}

/// A whole new file with these records, on disk.
fn create(path: &Path, salt: u64, records: &[Record]) -> io::Result<(File, u64)> {
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    let mut bytes = frame::head(salt).to_vec();
    let mut written = 0;
    for record in records {
        frame::put(&mut bytes, salt, &record::encode(record));
        if bytes.len() > 1 << 20 {
            file.write_all(&bytes)?;
            written += bytes.len() as u64;
            bytes.clear();
        }
    }
    file.write_all(&bytes)?;
    file.sync_all()?;
    Ok((file, written + bytes.len() as u64))
}

/// Puts the new file in the old one's place, on disk.
fn replace(next: &Path, path: &Path) -> io::Result<()> {
    std::fs::rename(next, path)?;
    let folder = path.parent().unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}
