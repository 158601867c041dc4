//! The check of the stored log, entry by entry.
//!
//! A master whose log is damaged must not vote or serve: entries that it acknowledged may be lost.

use std::error::Error;
use std::io;
use std::ops::ControlFlow;

use tokio::sync::watch;

use super::tail::LogTail;
use super::{COMMITTED, PURGED, State, TRUNCATIONS, VOTE, key, next_of};
use crate::storage::disk::{DiskRead, KeySpace};
use crate::storage::entry::{self, DecodedEntry, EntryError, EntryHash};
use crate::storage::record::{
    self, LogIdRecord, PurgedRecord, RecordError, TruncationsRecord, VoteRecord,
};
use crate::types::{LogId, Vote};

/// The error of a log that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    #[error("the log cannot be read")]
    Read(#[from] io::Error),
    #[error(transparent)]
    Entry(#[from] EntryError),
    #[error("the record {name:?} of the log is damaged")]
    Record {
        name: &'static str,
        source: RecordError,
    },
}

impl LogError {
    /// Returns the whole message, causes included.
    pub(crate) fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        text
    }
}

/// Reads everything once; only the newest entries stay in memory.
pub(super) fn read(disk: &dyn DiskRead) -> Result<State, LogError> {
    let vote: Option<VoteRecord> = meta(disk, VOTE, "vote")?;
    let committed: Option<LogIdRecord> = meta(disk, COMMITTED, "committed")?;
    let purged: Option<PurgedRecord> = meta(disk, PURGED, "purged")?;
    let truncations: Option<TruncationsRecord> = meta(disk, TRUNCATIONS, "truncations")?;
    let (purged, base) = match purged {
        None => (None, EntryHash::ORIGIN),
        Some(record) => {
            let name = "purged";
            let missing = |source| LogError::Record { name, source };
            let base =
                EntryHash::from_bytes(&record.link).ok_or(missing(RecordError::Missing("link")))?;
            let id = record
                .log_id
                .ok_or(missing(RecordError::Missing("log_id")))?;
            (Some(LogId::from(id)), base)
        }
    };
    let committed = committed.map(LogId::from);
    let mut state = State {
        vote: watch::Sender::new(vote.map(Vote::from)),
        committed,
        committed_saved: committed,
        purged,
        base,
        first: next_of(purged.as_ref()),
        last: purged,
        link: base,
        tail: LogTail::default(),
        truncations: truncations.map(|record| record.count),
    };
    read_entries(disk, &mut state)?;
    Ok(state)
}

fn read_entries(disk: &dyn DiskRead, state: &mut State) -> Result<(), LogError> {
    let mut wrong = None;
    let from = key(next_of(state.purged.as_ref()));
    disk.scan(KeySpace::Log, &from, &mut |key, value| {
        // The very first entry may have any index: nothing was purged before it.
        let expected = match (&state.last, <[u8; 8]>::try_from(key)) {
            (None, Ok(first)) => u64::from_be_bytes(first),
            (last, _) => next_of(last.as_ref()),
        };
        match link_by_link(key, value, expected, Some(&state.link)) {
            Ok(opened) => {
                if state.last.is_none() {
                    state.first = expected;
                }
                state.last = Some(opened.entry.log_id);
                state.link = opened.link;
                state.tail.push(opened.entry);
                state.tail.mark_written(expected + 1);
                Ok(ControlFlow::Continue(()))
            }
            Err(error) => {
                wrong = Some(error);
                Ok(ControlFlow::Break(()))
            }
        }
    })?;
    match wrong {
        Some(error) => Err(error.into()),
        None => Ok(()),
    }
}

/// Opens the entry that must be at `expected`, after the entry with the link `previous` if that is
/// known.
pub(super) fn link_by_link(
    key: &[u8],
    value: &[u8],
    expected: u64,
    previous: Option<&EntryHash>,
) -> Result<DecodedEntry, EntryError> {
    if key != expected.to_be_bytes() {
        return Err(EntryError::Missing { index: expected });
    }
    let opened = entry::open(expected, value.to_vec())?;
    if previous.is_some_and(|previous| *previous != opened.previous) {
        return Err(EntryError::Unchained { index: expected });
    }
    Ok(opened)
}

fn meta<M: prost::Message + Default>(
    disk: &dyn DiskRead,
    key: &[u8],
    name: &'static str,
) -> Result<Option<M>, LogError> {
    let Some(bytes) = disk.get(KeySpace::Meta, key)? else {
        return Ok(None);
    };
    let record = record::unseal(&bytes).map_err(|source| LogError::Record { name, source })?;
    Ok(Some(record))
}
