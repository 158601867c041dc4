//! The queue and the thread of a log.
//!
//! Callers put entries into the queue and never wait. One thread writes them, and syncs at least
//! each second while there are new lines. An entry that finds the queue full is lost, and counted.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::entry::{AuditEntry, AuditEvent};
use super::lines::{Bounds, LineWriter, LogEnd, Storage};
use super::numbering::name;
use super::repeats::Repeats;
use super::storage::{Directory, Remains};

/// Maximum number of entries that wait to be written; further ones are lost.
const QUEUE: usize = 4_096;
/// The interval of syncs, and of the lines that stand for several entries.
const TICK: Duration = Duration::from_secs(1);
/// The time for which the end of a process waits for the last lines. A disk that hangs must not
/// keep it running.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// The reason of entries that were dropped because the queue was full.
const QUEUE_FULL: &str = "queue full";

/// Where a log is, and its bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditSettings {
    /// The directory, which only its files use.
    pub directory: PathBuf,
    /// The size of a file, in bytes, after which the next one begins.
    pub file_bytes: u64,
    /// The number of files that are kept; at least 2.
    pub files: u64,
}

impl AuditSettings {
    /// The name of the directory, in the data directory of a process.
    pub const DIRECTORY: &'static str = "audit";
    /// The default size of a file, in MiB.
    pub const FILE_MIB: u64 = 64;
    /// The default number of files.
    pub const FILES: u64 = 10;

    /// Returns the settings of a process with this data directory; `None` if the size is 0.
    #[must_use]
    pub fn below(data_directory: &std::path::Path, file_mib: u64) -> Option<Self> {
        (file_mib > 0).then(|| Self {
            directory: data_directory.join(Self::DIRECTORY),
            file_bytes: file_mib.saturating_mul(1 << 20),
            files: Self::FILES,
        })
    }
}

/// What the log reports to its process.
#[derive(Debug)]
pub enum AuditNotice<'a> {
    /// A line was written.
    Written,
    /// This number of entries was lost, because the queue was full.
    QueueFull(u64),
    /// This number of entries was lost, because they could not be written.
    NotWritten(u64, &'a io::Error),
    /// Lines could not be synced.
    NotSynced(&'a io::Error),
    /// Old files could not be removed.
    NotRemoved(&'a io::Error),
    /// This number of bytes was found at the end of the log that are no whole line of it.
    Recovered(u64),
}

/// The receiver of notices. It is called by any thread, and must not wait.
type Report = Box<dyn Fn(&AuditNotice<'_>) + Send + Sync>;

/// A log that entries are added to. Cheap to clone.
#[derive(Clone)]
pub struct AuditLog(Arc<Shared>);

struct Shared {
    /// `None` only wakes the thread.
    queue: SyncSender<Option<AuditEntry>>,
    /// A lock, because any thread adds entries. It is held for a few comparisons.
    repeats: Mutex<Repeats>,
    /// Entries that were dropped because the queue was full, and that no line reports yet.
    lost: AtomicU64,
    is_closing: AtomicBool,
    report: Report,
}

impl fmt::Debug for AuditLog {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("AuditLog")
    }
}

/// The end of a log: when it is dropped, the remaining lines are written and synced. Waits for them
/// up to two seconds.
#[derive(Debug)]
pub struct AuditWriter {
    log: AuditLog,
    ended: Receiver<()>,
}

impl AuditLog {
    /// Opens a log, and starts its thread. `now_ms` is the time of day, in milliseconds since 1970.
    ///
    /// # Errors
    /// If the directory cannot be created or read, or the thread cannot start. A full disk is no
    /// error: the log begins when there is space.
    pub fn open(
        settings: &AuditSettings,
        now_ms: impl Fn() -> i64 + Send + 'static,
        report: impl Fn(&AuditNotice<'_>) + Send + Sync + 'static,
    ) -> io::Result<(Self, AuditWriter)> {
        let (directory, end, remains) = Directory::open(&settings.directory)?;
        let bounds = Bounds {
            file_bytes: settings.file_bytes,
            files: settings.files.max(2),
        };
        let recovered = remains.map(|remains| (now_ms(), remains));
        Self::start(
            (directory, bounds, end),
            recovered,
            now_ms,
            Box::new(report),
        )
    }

    fn start<S: Storage + Send + 'static>(
        (storage, bounds, end): (S, Bounds, LogEnd),
        recovered: Option<(i64, Remains)>,
        now_ms: impl Fn() -> i64 + Send + 'static,
        report: Report,
    ) -> io::Result<(Self, AuditWriter)> {
        // When it is full, entries are lost and counted: no caller waits for a disk.
        let (queue, entries) = mpsc::sync_channel(QUEUE);
        let shared = Arc::new(Shared {
            queue,
            repeats: Mutex::default(),
            lost: AtomicU64::new(0),
            is_closing: AtomicBool::new(false),
            report,
        });
        let (has_ended, ended) = mpsc::channel();
        let mut thread = WriterThread {
            lines: LineWriter::new(storage, bounds, end),
            shared: Arc::clone(&shared),
            entries,
            now_ms,
        };
        // A thread, because each line may wait for the disk.
        std::thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || {
                thread.run(recovered);
                // Nothing waits for it any more if this fails.
                let _ = has_ended.send(());
            })?;
        let log = Self(shared);
        let writer = AuditWriter {
            log: log.clone(),
            ended,
        };
        Ok((log, writer))
    }

    /// Adds an entry. Never waits: it is lost, and counted, if too many wait to be written.
    pub fn record(&self, entry: AuditEntry) {
        let mut repeats = self
            .0
            .repeats
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let admitted = repeats.admit(entry);
        drop(repeats);
        let Some(entry) = admitted else {
            return;
        };
        let count = entry.count;
        if self.0.queue.try_send(Some(entry)).is_err() {
            self.0.lost.fetch_add(count, Ordering::Relaxed);
            (self.0.report)(&AuditNotice::QueueFull(count));
        }
    }
}

impl Drop for AuditWriter {
    fn drop(&mut self) {
        self.log.0.is_closing.store(true, Ordering::Release);
        // If the queue is full, the thread is awake.
        let _ = self.log.0.queue.try_send(None);
        // If it takes longer, the lines that wait are lost with the process.
        let _ = self.ended.recv_timeout(CLOSE_TIMEOUT);
    }
}

struct WriterThread<S, F> {
    lines: LineWriter<S>,
    shared: Arc<Shared>,
    entries: Receiver<Option<AuditEntry>>,
    now_ms: F,
}

impl<S: Storage, F: Fn() -> i64> WriterThread<S, F> {
    fn run(&mut self, recovered: Option<(i64, Remains)>) {
        if let Some((at_ms, Remains { bytes, text, kept })) = recovered {
            (self.shared.report)(&AuditNotice::Recovered(bytes));
            let (object, outcome) = match kept {
                None => (text, format!("{bytes} bytes of an incomplete line")),
                Some(file) => (name(file), "its end cannot be read".to_owned()),
            };
            self.write(AuditEntry {
                object,
                outcome,
                ..AuditEntry::new(at_ms, AuditEvent::Recovered)
            });
        }
        let mut ticked = Instant::now();
        loop {
            let rest = TICK.saturating_sub(ticked.elapsed());
            match self.entries.recv_timeout(rest) {
                Ok(Some(entry)) => self.write(entry),
                Ok(None) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if self.shared.is_closing.load(Ordering::Acquire) {
                break;
            }
            if ticked.elapsed() >= TICK {
                self.tick((self.now_ms)());
                ticked = Instant::now();
            }
        }
        while let Ok(entry) = self.entries.try_recv() {
            entry.into_iter().for_each(|entry| self.write(entry));
        }
        // All that are joined end now.
        self.tick(i64::MAX);
    }

    /// Writes what has waited for the end of a second, and syncs.
    fn tick(&mut self, until_ms: i64) {
        let repeats = &self.shared.repeats;
        let mut repeats = repeats.lock().unwrap_or_else(PoisonError::into_inner);
        let joined = repeats.expire(until_ms);
        drop(repeats);
        for entry in joined {
            self.write(entry);
        }
        self.take_lost();
        if let Err(error) = self.lines.report_missing((self.now_ms)()) {
            (self.shared.report)(&AuditNotice::NotWritten(0, &error));
        }
        if let Err(error) = self.lines.sync() {
            (self.shared.report)(&AuditNotice::NotSynced(&error));
        }
    }

    fn write(&mut self, entry: AuditEntry) {
        self.take_lost();
        let count = entry.count;
        match self.lines.write(entry) {
            Ok(()) => (self.shared.report)(&AuditNotice::Written),
            Err(error) => (self.shared.report)(&AuditNotice::NotWritten(count, &error)),
        }
        if let Some(error) = self.lines.take_not_removed() {
            (self.shared.report)(&AuditNotice::NotRemoved(&error));
        }
    }

    fn take_lost(&mut self) {
        let lost = self.shared.lost.swap(0, Ordering::Relaxed);
        self.lines.miss(lost, QUEUE_FULL);
    }
}

#[cfg(test)]
mod tests;
