//! Journals as bytes, for tests of the effects of damage.

use std::ops::Range;
use std::path::Path;

use super::frame::{self, FRAME_BYTES, HEAD_BYTES, HeaderStatus, JournalHeader};
use super::storage::MemoryDisk;
use super::{Journal, JournalContents, JournalError, read, record};
use crate::core::{AgentState, JournalEffect, JournalRecord, SyncMode};

/// Returns the journal of these records. Each awaited record is written with those before it, and
/// synced.
pub(crate) fn journal_of(records: &[(JournalRecord, SyncMode)]) -> Vec<u8> {
    let requests = records.iter().zip(1..).map(|((record, sync), number)| {
        let request = JournalEffect::Append {
            number,
            record: Box::new(record.clone()),
            sync: *sync,
        };
        (request, (*sync == SyncMode::Awaited).then_some(number))
    });
    journal(requests.collect())
}

/// Returns the journal of these facts, just compacted.
pub(crate) fn compacted(facts: &AgentState) -> Vec<u8> {
    journal(vec![(JournalEffect::Compact(facts.snapshot()), None)])
}

/// Returns the output of a writer for these requests. Waits after each numbered one until that is
/// on disk.
fn journal(requests: Vec<(JournalEffect, Option<u64>)>) -> Vec<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let disk = MemoryDisk::default();
    runtime.block_on(async {
        let journal = Journal::in_memory(&disk, &JournalContents::default(), 42).unwrap();
        let mut progress = journal.progress();
        for (request, awaited) in requests {
            journal.request(request);
            if let Some(number) = awaited {
                let reached = progress.wait_for(|progress| progress.durable >= number);
                reached.await.unwrap();
            }
        }
        journal.close().await.unwrap();
    });
    disk.bytes().unwrap()
}

/// Returns each frame of an intact journal, and the record in it.
pub(crate) fn frames(bytes: &[u8]) -> Vec<(Range<usize>, JournalRecord)> {
    let HeaderStatus::Valid(JournalHeader { salt, .. }) = frame::read_head(bytes) else {
        panic!("it does not begin with the header of a journal");
    };
    let mut frames = Vec::new();
    let mut at = HEAD_BYTES;
    while at < bytes.len() {
        let payload = frame::get(&bytes[at..], salt).unwrap();
        let end = at + FRAME_BYTES + payload.len();
        frames.push((at..end, record::decode(payload).unwrap()));
        at = end;
    }
    frames
}

/// Reads these bytes as a journal.
pub(crate) fn parsed(bytes: &[u8]) -> Result<JournalContents, JournalError> {
    read::parse_journal(bytes, Path::new("journal"))
}
