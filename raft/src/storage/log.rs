//! The log and the vote, behind openraft's storage interface.
//!
//! A vote is durable when `save_vote` returns. Entries can be read when `append` returns and are
//! durable when its callback is called, so that the leader's own sync overlaps with those of the
//! followers. The content of an entry is opaque here.

mod recorded_state;
mod tail;
mod verify;

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, ControlFlow, RangeBounds};
use std::sync::Arc;

use argosy_state::planted_bug;
use futures::{Stream, stream};
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};
use tokio::sync::watch;

use super::disk::{self, ChangeBatch, Disk, Durability, KeySpace};
use super::entry::{self, EntryError, EntryHash};
use super::record::{self, LogIdRecord, PurgedRecord, VoteRecord};
use super::unwritten::WriteBuffer;
use super::writer::DiskWriter;
use crate::concurrency::{Mutex, MutexGuard};
use crate::fatal::{FatalError, FatalHandler};
use crate::types::{Entry, LogId, TypeConfig, Vote};

use tail::{LogTail, TailReadBudget};
pub(crate) use verify::LogError;

pub(crate) const VOTE: &[u8] = b"vote";
const COMMITTED: &[u8] = b"committed";
pub(crate) const PURGED: &[u8] = b"purged";
const TRUNCATIONS: &[u8] = b"truncations";

/// The maximum size of commands in one read, in bytes: the limit of one message and one request.
const READ_BYTES: usize = 1 << 20;

/// A handle on the log; all clones share one log.
#[derive(Clone)]
pub(crate) struct LogStore(Arc<Inner>);

struct Inner {
    disk: Arc<dyn Disk>,
    writer: DiskWriter,
    unwritten: WriteBuffer,
    fatal: FatalHandler,
    /// Separate, because queued writes refer to it: they must not keep the writer itself alive.
    state: Arc<Mutex<State>>,
}

/// The state of the log that is known without reading it. The lock is held for lookups and updates,
/// never while waiting.
struct State {
    /// The vote as stored. openraft's own may be ahead: a save waits until an incoming snapshot is
    /// installed.
    vote: watch::Sender<Option<Vote>>,
    committed: Option<LogId>,
    /// `committed` as stored: the next append updates it.
    committed_saved: Option<LogId>,
    /// The last purged entry, from which the chain continues.
    purged: Option<LogId>,
    base: EntryHash,
    /// The index of the first entry, present or future.
    first: u64,
    /// The last entry, or `purged`.
    last: Option<LogId>,
    link: EntryHash,
    tail: LogTail,
    /// The number of truncations, as stored. A read that overlapped with one is repeated, and the
    /// high-water record contains the number that it covers.
    truncations: Option<u64>,
}

fn key(index: u64) -> Vec<u8> {
    index.to_be_bytes().to_vec()
}

fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().expect("no holder of the lock panics")
}

fn next_of(id: Option<&LogId>) -> u64 {
    id.map_or(0, |id| id.index + 1)
}

impl LogStore {
    /// Opens the log: reads it from front to end and checks every entry.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        unwritten: WriteBuffer,
        fatal: FatalHandler,
    ) -> Result<Self, LogError> {
        let state = verify::read(disk.as_ref())?;
        Ok(Self(Arc::new(Inner {
            disk,
            writer: unwritten.writer().clone(),
            unwritten,
            fatal,
            state: Arc::new(Mutex::new(state)),
        })))
    }

    /// Returns a watch of the saved vote.
    pub(crate) fn votes(&self) -> watch::Receiver<Option<Vote>> {
        self.state().vote.subscribe()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        locked(&self.0.state)
    }

    /// Returns the stored entries of `[start, end)`, as many as the budget allows. Entries that are
    /// only on disk are read on a thread where waiting for a device delays neither heartbeats nor
    /// votes.
    async fn read(&self, start: u64, end: u64, bytes: Option<usize>) -> io::Result<Vec<Entry>> {
        loop {
            let mut entries = Vec::new();
            let mut budget = TailReadBudget::new(bytes);
            let mut recent = Vec::new();
            let (start, disk_end, truncations) = {
                let state = self.state();
                let start = start.max(state.first);
                let end = end.min(next_of(state.last.as_ref()));
                if start >= end {
                    return Ok(entries);
                }
                let first = state.tail.first().unwrap_or(end);
                if start >= first {
                    state.tail.take(start, end, &mut budget, &mut entries);
                    return Ok(entries);
                }
                // Read under the same lock as the bounds of the disk part: no gap and no overlap
                // between the two.
                if bytes.is_none() && first < end {
                    state.tail.take(first, end, &mut budget, &mut recent);
                }
                (start, end.min(first), state.truncations)
            };
            let disk = Arc::clone(&self.0.disk);
            let read = move || read_disk(disk.as_ref(), start, disk_end, budget);
            let read = disk::run(self.0.disk.may_block(), read).await;
            let overlapped = {
                let state = self.state();
                state.truncations != truncations || state.first > start
            };
            if overlapped {
                continue;
            }
            let mut entries = read.map_err(|error| self.damaged(error))?;
            entries.append(&mut recent);
            return Ok(entries);
        }
    }

    /// Returns the link of an entry that is written.
    async fn link_of(&self, index: u64) -> io::Result<EntryHash> {
        let disk = Arc::clone(&self.0.disk);
        let read = move || -> Result<EntryHash, LogError> {
            let bytes = disk.get(KeySpace::Log, &key(index))?;
            let bytes = bytes.ok_or(EntryError::Missing { index })?;
            Ok(entry::open(index, bytes)?.link)
        };
        let read = disk::run(self.0.disk.may_block(), read).await;
        read.map_err(|error| self.damaged(error))
    }

    /// Stops the process: a log that cannot be read as it was written must not be served.
    fn damaged(&self, error: LogError) -> io::Error {
        let text = error.chain();
        let source = io::Error::new(io::ErrorKind::InvalidData, text.clone());
        (self.0.fatal)(&FatalError {
            path: self.0.disk.name(),
            what: "read the log in",
            source,
        });
        io::Error::new(io::ErrorKind::InvalidData, text)
    }

    /// Returns the changes that append `entries`, the link of the last of them, and the committed
    /// id that will be saved. Only one task appends, so the values read here are still valid when
    /// the write is done.
    fn seal_entries(
        &self,
        entries: &[Entry],
    ) -> io::Result<(ChangeBatch, EntryHash, Option<LogId>)> {
        let (mut link, mut last, committed, saved) = {
            let state = self.state();
            (
                state.link,
                state.last,
                state.committed,
                state.committed_saved,
            )
        };
        let mut changes = ChangeBatch::default();
        for entry in entries {
            let index = entry.log_id.index;
            if last.is_some_and(|last| index != last.index + 1) {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!("entry {index} does not follow {last:?}"),
                ));
            }
            let (bytes, next) = entry::seal(&link, entry);
            changes.put(KeySpace::Log, key(index), bytes);
            link = next;
            last = Some(entry.log_id);
        }
        if committed != saved
            && let Some(committed) = &committed
        {
            let record = LogIdRecord::from(committed);
            changes.put(KeySpace::Meta, COMMITTED, record::seal(&record));
        }
        Ok((changes, link, committed))
    }
}

/// Reads entries of `[start, end)` from the disk, as many as the budget allows, and checks each
/// against the previous one.
fn read_disk(
    disk: &dyn Disk,
    start: u64,
    end: u64,
    mut budget: TailReadBudget,
) -> Result<Vec<Entry>, LogError> {
    let mut entries = Vec::new();
    let mut expected = start;
    let mut previous: Option<EntryHash> = None;
    let mut wrong = None;
    let mut full = false;
    disk.scan(KeySpace::Log, &key(start), &mut |key, value| {
        if expected >= end {
            return Ok(ControlFlow::Break(()));
        }
        let opened = match verify::link_by_link(key, value, expected, previous.as_ref()) {
            Ok(opened) => opened,
            Err(error) => {
                wrong = Some(error);
                return Ok(ControlFlow::Break(()));
            }
        };
        if !budget.spend(&opened.entry) {
            full = true;
            return Ok(ControlFlow::Break(()));
        }
        previous = Some(opened.link);
        entries.push(opened.entry);
        expected += 1;
        Ok(ControlFlow::Continue(()))
    })?;
    match wrong {
        Some(error) => Err(error.into()),
        None if expected < end && !full => Err(EntryError::Missing { index: expected }.into()),
        None => Ok(entries),
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let (start, end) = bounds(&range);
        self.read(start, end, None).await
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(*self.state().vote.borrow())
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, io::Error> {
        let entries = self.read(start, end, Some(READ_BYTES)).await?;
        // A follower must never get entries with a gap before them: nothing would reveal that it
        // needs a snapshot.
        match entries.first() {
            Some(first) if first.log_id.index == start => Ok(entries),
            _ => Ok(Vec::new()),
        }
    }

    /// Reads block by block: the entries to apply may far exceed the memory.
    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = Result<Entry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = bounds(&range);
        let cursor = (self.clone(), start, end, VecDeque::new());
        Box::pin(stream::try_unfold(
            cursor,
            |(log, start, end, mut block)| async move {
                if block.is_empty() {
                    block = log.read(start, end, Some(READ_BYTES)).await?.into();
                }
                let Some(entry): Option<Entry> = block.pop_front() else {
                    return Ok(None);
                };
                // Entries are applied in order or not at all: a missing entry must not be skipped.
                if entry.log_id.index != start {
                    let missing = EntryError::Missing { index: start };
                    return Err(io::Error::new(io::ErrorKind::NotFound, missing));
                }
                let next = entry.log_id.index + 1;
                Ok(Some((entry, (log, next, end, block))))
            },
        ))
    }
}

fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let state = self.state();
        Ok(LogState {
            last_purged_log_id: state.purged,
            last_log_id: state.last,
        })
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let mut changes = ChangeBatch::default();
        changes.put(KeySpace::Meta, VOTE, record::seal(&VoteRecord::from(vote)));
        let durability = planted_bug!(VoteNotSynced, Durability::Synced, Durability::Buffered);
        self.0.writer.write(changes, durability).await?;
        if let Some(high_water) = self.0.disk.high_water() {
            high_water.record_vote(vote);
        }
        self.state().vote.send_replace(Some(*vote));
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.state().committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.state().committed)
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: IOFlushed<TypeConfig>,
    ) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let (changes, link, committed) = self.seal_entries(&entries)?;
        let durability = planted_bug!(AppendNotSynced, Durability::Synced, Durability::Buffered);
        let last = entries.last().map(|entry| entry.log_id);
        let high_water = self.0.disk.high_water();
        {
            let mut state = self.state();
            state.link = link;
            state.committed_saved = committed;
            for entry in entries {
                if state.last.is_none() {
                    state.first = entry.log_id.index;
                }
                state.last = Some(entry.log_id);
                state.tail.push(entry);
            }
        }
        let state = Arc::clone(&self.0.state);
        let written = move |result: io::Result<()>| {
            if let (Ok(()), Some(last)) = (&result, last) {
                locked(&state).tail.mark_written(last.index + 1);
                if let Some(high_water) = high_water {
                    high_water.record_append(&last);
                }
            }
            callback.io_completed(result);
        };
        self.0.writer.write_then(changes, durability, written).await
    }

    async fn truncate_after(&mut self, kept: Option<LogId>) -> Result<(), io::Error> {
        let (first, end, boundary) = {
            let state = self.state();
            let first = next_of(kept.as_ref()).max(state.first);
            let end = next_of(state.last.as_ref());
            (first, end, first == state.first)
        };
        if first >= end {
            return Ok(());
        }
        // Waits for queued appends. They must be on disk for the lookup, and their callbacks must
        // not run later.
        self.0.writer.drain().await?;
        let link = match boundary {
            true => self.state().base,
            false => self.link_of(first - 1).await?,
        };
        let mut changes = ChangeBatch::default();
        for index in first..end {
            changes.delete(KeySpace::Log, key(index));
        }
        let truncations = self.state().truncations.unwrap_or(0) + 1;
        recorded_state::count(&mut changes, truncations);
        let last = {
            // Before the write: a read that misses a deleted entry finds that it overlapped with
            // this, and does not take it for damage.
            let mut state = self.state();
            state.tail.drop_from(first);
            state.truncations = Some(truncations);
            state.last = if boundary { state.purged } else { kept };
            state.link = link;
            if state.last.is_none() {
                state.first = 0;
            }
            state.last
        };
        self.0.writer.write(changes, Durability::Buffered).await?;
        if let Some(high_water) = self.0.disk.high_water() {
            high_water.record_truncation(last.as_ref(), truncations);
        }
        Ok(())
    }

    async fn purge(&mut self, purged: LogId) -> Result<(), io::Error> {
        let (first, last, base) = {
            let state = self.state();
            if state.purged >= Some(purged) {
                return Ok(());
            }
            (state.first, state.last, state.base)
        };
        let held = last.is_some_and(|last| purged.index <= last.index);
        // A snapshot has already done this for everything that it covers. This does not rely on it,
        // because a log truncated beyond the applied index cannot be repaired.
        self.0.unwritten.flush().await?;
        self.0.writer.drain().await?;
        let base = match held {
            true if purged.index < first => base,
            true => self.link_of(purged.index).await?,
            false => EntryHash::after_snapshot(&purged),
        };
        let mut changes = ChangeBatch::default();
        let first = first.min(purged.index);
        changes.delete_range(KeySpace::Log, key(first), key(purged.index + 1));
        let record = PurgedRecord {
            log_id: Some(LogIdRecord::from(&purged)),
            link: base.as_bytes().to_vec(),
        };
        changes.put(KeySpace::Meta, PURGED, record::seal(&record));
        {
            // Before the write, as in `truncate_after`.
            let mut state = self.state();
            state.tail.drop_through(purged.index);
            state.purged = Some(purged);
            state.first = purged.index + 1;
            state.base = base;
            if !held {
                state.last = Some(purged);
                state.link = base;
            }
        }
        // There is one write-ahead log: after a power cut, a purge never exists without the applied
        // records that precede it.
        self.0.writer.write(changes, Durability::Buffered).await?;
        Ok(())
    }
}
