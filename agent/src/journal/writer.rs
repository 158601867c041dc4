//! The journal's only writer: takes all waiting records, writes them together, syncs once, and
//! reports its progress.
//!
//! Compaction runs concurrently (`compaction`); a rename makes the switch.

use std::io;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use argosy_host::crash_point;
use argosy_state::buggify;
use tokio::sync::{mpsc, watch};

use super::compaction::{CompactedJournal, Compaction, create};
use super::read::JournalContents;
use super::seal::{Seal, copies};
use super::storage::{AppendTarget, JournalStorage, MemoryDisk};
use super::{JournalError, frame, record};
use crate::core::{JournalEffect, JournalRecord, SyncMode};

/// Maximum number of records that wait for the writer. When the queue is full, the agent's loop
/// waits: it must not run ahead of its durable state.
const WAITING: usize = 16 * 1024;
/// Maximum number of records written with one sync, so that no record waits for an endless group.
const GROUP_RECORDS: usize = 4 * 1024;
/// A journal below this size is never compacted, in bytes.
const COMPACT_MINIMUM_BYTES: u64 = 4 * 1024 * 1024;
/// A journal is compacted when it has grown to this multiple of its size after the last compaction.
const COMPACT_FACTOR: u64 = 4;
/// After a failed compaction, the next one begins when the journal has grown by this size, in
/// bytes.
const RETRY_BYTES: u64 = 512 * 1024;
/// The interval of checks of a full disk while there is nothing to write.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WriterProgress {
    /// Records up to this number are on disk.
    pub durable: u64,
    /// A counter that grows when a compaction is worthwhile.
    pub compactions_wanted: u64,
    /// Whether the disk is full: the remaining space is reserved for kills and the ends of tasks.
    pub is_full: bool,
}

/// The agent's end of its journal. Dropping it ends the writer after everything was synced.
#[derive(Debug)]
pub struct Journal {
    handle: WriterHandle,
    progress: watch::Receiver<WriterProgress>,
}

/// The channel to the writer.
#[derive(Debug)]
enum WriterHandle {
    Thread {
        requests: Option<SyncSender<JournalEffect>>,
        writer: Option<JoinHandle<Result<(), JournalError>>>,
    },
    /// Memory does not block: an asynchronous task, so that a simulation stays repeatable.
    Task {
        requests: mpsc::Sender<JournalEffect>,
        writer: tokio::task::JoinHandle<Result<(), JournalError>>,
    },
}

impl Journal {
    /// Continues at the end of `contents`; a torn end is truncated. A file of an earlier format is
    /// first rewritten: no release may misinterpret appended records.
    ///
    /// # Errors
    /// If the file cannot be created, truncated or synced.
    pub fn open(
        path: &Path,
        next: &Path,
        contents: &JournalContents,
        salt: u64,
    ) -> Result<Self, JournalError> {
        let (path, next) = (path.to_owned(), next.to_owned());
        match std::fs::remove_file(&next) {
            // An interrupted compaction: the file that it was to replace is complete.
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(JournalError::Write { path: next, source }),
        }
        let storage = JournalStorage::Files { path, next };
        let mut writer = JournalWriter::open(storage, contents, salt)?;
        let (requests, waiting) = sync_channel(WAITING);
        let (sender, progress) = watch::channel(WriterProgress {
            is_full: writer.file.is_short(),
            ..WriterProgress::default()
        });
        let failed = writer.failure();
        let run = move || writer.run(&waiting, &sender);
        let spawned = std::thread::Builder::new()
            .name("journal".into())
            .spawn(run);
        let handle = WriterHandle::Thread {
            requests: Some(requests),
            writer: Some(spawned.map_err(failed)?),
        };
        Ok(Self { handle, progress })
    }

    /// Does the same on a disk in memory; the writer is a task of the present runtime.
    ///
    /// # Errors
    /// None today.
    pub fn in_memory(
        disk: &MemoryDisk,
        contents: &JournalContents,
        salt: u64,
    ) -> Result<Self, JournalError> {
        let writer = JournalWriter::open(JournalStorage::Memory(disk.clone()), contents, salt)?;
        let (requests, waiting) = mpsc::channel(WAITING);
        let (sender, progress) = watch::channel(WriterProgress::default());
        let writer = tokio::spawn(writer.run_as_task(disk.clone(), waiting, sender));
        let handle = WriterHandle::Task { requests, writer };
        Ok(Self { handle, progress })
    }

    /// Sends a request. After a failure of the writer it is dropped: `failure` returns the error.
    ///
    /// # Panics
    /// In memory, if the queue is full: a simulation is not that large.
    pub fn request(&self, request: JournalEffect) {
        match &self.handle {
            WriterHandle::Thread {
                requests: Some(requests),
                ..
            } => {
                // The writer has failed: its progress channel is closed, and its observers stop.
                let _ = requests.send(request);
            }
            WriterHandle::Thread { requests: None, .. } => {}
            WriterHandle::Task { requests, .. } => match requests.try_send(request) {
                Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => {}
                Err(mpsc::error::TrySendError::Full(_)) => {
                    panic!("{WAITING} records wait for a disk in memory")
                }
            },
        }
    }

    /// Returns the progress; its channel is closed when the writer has ended.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<WriterProgress> {
        self.progress.clone()
    }

    /// Writes and syncs everything, and ends.
    ///
    /// # Errors
    /// The error of the writer, now or earlier.
    ///
    /// # Panics
    /// If the writer panicked.
    pub async fn close(mut self) -> Result<(), JournalError> {
        if let WriterHandle::Thread { .. } = self.handle {
            let closed = tokio::task::spawn_blocking(move || self.finish()).await;
            return closed.expect("closing the journal never panics");
        }
        let stopped = WriterHandle::Thread {
            requests: None,
            writer: None,
        };
        let WriterHandle::Task { requests, writer } = std::mem::replace(&mut self.handle, stopped)
        else {
            return Ok(());
        };
        drop(requests);
        writer.await.expect("the journal's writer never panics")
    }

    /// Does the same, blocking.
    pub(super) fn finish(&mut self) -> Result<(), JournalError> {
        let WriterHandle::Thread { requests, writer } = &mut self.handle else {
            return Ok(());
        };
        *requests = None;
        match writer.take() {
            Some(writer) => writer.join().expect("the journal's writer never panics"),
            None => Ok(()),
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        // Callers that need the result use `close`.
        let _ = self.finish();
    }
}

#[derive(Debug)]
struct JournalWriter {
    storage: JournalStorage,
    file: AppendTarget,
    salt: u64,
    bytes: u64,
    /// Size after the last compaction.
    base_bytes: u64,
    compaction_requested: bool,
    /// The size at which the next compaction is requested after a failed one.
    retry_at_bytes: u64,
    compaction: Option<Compaction>,
    seal: Seal,
    dirty: bool,
}

impl JournalWriter {
    fn open(
        storage: JournalStorage,
        contents: &JournalContents,
        salt: u64,
    ) -> Result<Self, JournalError> {
        let path = storage.path().to_owned();
        let failed = |source| JournalError::Write { path, source };
        let begin_new = |records: &[JournalRecord]| {
            let (mut file, bytes) = create(&storage, salt, records)?;
            storage.replace(&mut file)?;
            Ok((file, bytes, salt))
        };
        let begin = || match contents.end {
            Some(end) if end.version < frame::VERSION || contents.is_fragile() => {
                begin_new(&contents.facts.snapshot())
            }
            Some(end) => Ok((storage.reopen(end.offset)?, end.offset, end.salt)),
            None => begin_new(&[]),
        };
        let (file, bytes, salt) = begin().map_err(failed)?;
        Ok(Self {
            storage,
            file,
            salt,
            bytes,
            base_bytes: bytes.min(COMPACT_MINIMUM_BYTES),
            compaction_requested: false,
            retry_at_bytes: 0,
            compaction: None,
            seal: Seal::of(&contents.facts),
            dirty: false,
        })
    }

    /// Returns the conversion of a disk error to a journal error.
    fn failure(&self) -> impl FnOnce(io::Error) -> JournalError + use<> {
        let path = self.storage.path().to_owned();
        move |source| JournalError::Write { path, source }
    }

    async fn run_as_task(
        mut self,
        disk: MemoryDisk,
        mut waiting: mpsc::Receiver<JournalEffect>,
        progress: watch::Sender<WriterProgress>,
    ) -> Result<(), JournalError> {
        let mut group = Vec::new();
        let most = || buggify!(OneRecordAGroup, GROUP_RECORDS, 1);
        while waiting.recv_many(&mut group, most()).await > 0 {
            // Later requests wait for the next group, as on a real disk.
            tokio::time::sleep(disk.delay()).await;
            self.write_and_report(std::mem::take(&mut group), &progress)?;
        }
        self.finish()
    }

    fn run(
        &mut self,
        waiting: &Receiver<JournalEffect>,
        progress: &watch::Sender<WriterProgress>,
    ) -> Result<(), JournalError> {
        loop {
            let next = match progress.borrow().is_full {
                true => waiting.recv_timeout(CHECK_INTERVAL),
                false => waiting.recv().map_err(RecvTimeoutError::from),
            };
            let mut group = match next {
                Ok(first) => vec![first],
                Err(RecvTimeoutError::Timeout) => {
                    self.report_space(progress);
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => break,
            };
            while group.len() < GROUP_RECORDS {
                match waiting.try_recv() {
                    Ok(request) => group.push(request),
                    Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
                }
            }
            self.write_and_report(group, progress)?;
        }
        self.finish()
    }

    fn write_and_report(
        &mut self,
        group: Vec<JournalEffect>,
        progress: &watch::Sender<WriterProgress>,
    ) -> Result<(), JournalError> {
        let (durable, wants) = self.write(group).map_err(self.failure())?;
        progress.send_if_modified(|progress| {
            let before = *progress;
            progress.durable = durable.unwrap_or(progress.durable);
            progress.compactions_wanted += u64::from(wants);
            *progress != before
        });
        self.report_space(progress);
        Ok(())
    }

    fn report_space(&mut self, progress: &watch::Sender<WriterProgress>) {
        let is_full = self.file.is_short();
        metrics::gauge!("argosy_agent_journal_full").set(f64::from(u8::from(is_full)));
        progress.send_if_modified(|progress| {
            std::mem::replace(&mut progress.is_full, is_full) != is_full
        });
    }

    fn finish(&mut self) -> Result<(), JournalError> {
        if let Some(compaction) = self.compaction.take() {
            // The old file is complete without it.
            compaction.abandon();
            self.storage.discard();
        }
        if self.dirty {
            self.file.sync().map_err(self.failure())?;
        }
        Ok(())
    }

    /// Writes one group; returns the number of the last durable record, and whether the file has
    /// grown large.
    fn write(&mut self, group: Vec<JournalEffect>) -> io::Result<(Option<u64>, bool)> {
        let mut bytes = Vec::new();
        let mut last = 0;
        let mut awaited = false;
        for request in group {
            match request {
                JournalEffect::Append {
                    number,
                    record,
                    sync,
                } => {
                    self.seal.apply(&record);
                    self.append(&mut bytes, &record);
                    last = number;
                    awaited |= sync == SyncMode::Awaited;
                }
                JournalEffect::Compact(records) => {
                    self.put(&std::mem::take(&mut bytes))?;
                    self.compact(records);
                }
            }
        }
        if awaited {
            let [identity, floor] = self.seal.records();
            self.append(&mut bytes, &identity);
            self.append(&mut bytes, &floor);
        }
        self.put(&bytes)?;
        crash_point!("journal.appended");
        if awaited {
            let started_at = Instant::now();
            self.file.sync()?;
            crash_point!("journal.synced");
            metrics::histogram!("argosy_agent_journal_sync_duration_seconds")
                .record(started_at.elapsed().as_secs_f64());
            self.dirty = false;
        }
        self.switch_if_ready()?;
        let least = buggify!(EarlyCompaction, COMPACT_MINIMUM_BYTES, 64);
        let large = self.bytes > COMPACT_FACTOR * self.base_bytes.max(least);
        let wants = large && !self.compaction_requested && self.bytes >= self.retry_at_bytes;
        self.compaction_requested |= wants;
        Ok((awaited.then_some(last), wants))
    }

    /// Appends the frames of a record to `bytes`, and to the records for a successor in progress.
    fn append(&mut self, bytes: &mut Vec<u8>, record: &JournalRecord) {
        let payload = record::encode(record);
        for _ in 0..copies(record) {
            frame::put(bytes, self.salt, &payload);
            if let Some(compaction) = &mut self.compaction {
                compaction.append(payload.clone());
            }
        }
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.dirty = true;
        self.bytes += bytes.len() as u64;
        self.file.append(bytes)
    }

    fn compact(&mut self, records: Vec<JournalRecord>) {
        if self.compaction.is_none() {
            self.compaction = Compaction::begin(&self.storage, self.salt, records);
            self.compaction_requested = self.compaction.is_some();
        }
    }

    /// Replaces the journal by a complete successor. A successor that cannot be written, on a full
    /// disk for example, is discarded: the journal is complete without it.
    fn switch_if_ready(&mut self) -> io::Result<()> {
        let Some(compaction) = self.compaction.take_if(|compaction| compaction.is_ready()) else {
            return Ok(());
        };
        let CompactedJournal {
            mut file,
            bytes,
            salt,
        } = match compaction.finish() {
            Ok(successor) => successor,
            Err(why) => {
                tracing::warn!(%why, "the journal could not be compacted; retrying later");
                self.storage.discard();
                self.compaction_requested = false;
                self.retry_at_bytes = self.bytes + RETRY_BYTES;
                return Ok(());
            }
        };
        crash_point!("journal.successor-synced");
        self.storage.replace(&mut file)?;
        crash_point!("journal.replaced");
        self.file = file;
        self.salt = salt;
        self.bytes = bytes;
        self.base_bytes = bytes;
        self.compaction_requested = false;
        self.retry_at_bytes = 0;
        self.dirty = false;
        Ok(())
    }
}
