//! The snapshot for a follower that needs one, and how its file is written.
//!
//! The registry in the store is the state on disk, so truncating the log writes no snapshot file. A
//! snapshot file of the whole registry is written only when it must be sent, only by the leader,
//! and at a bounded rate.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use argosy_proto::remedy;
use argosy_state::planted_bug;
use tokio::sync::oneshot;

use super::disk::{DiskRead, KeySpace};
use super::install;
use super::parts::StoreParts;
use super::registry;
use super::snapshot::{SnapshotEncoder, SnapshotError};
use super::snapshot_store::{SnapshotFile, SnapshotStore};
use crate::fatal::FatalError;
use crate::metrics;
use crate::types::{LogId, SnapshotMeta};

/// The maximum rate of writing a snapshot, in bytes per second: the write-ahead log shares the
/// disk.
const RATE: u64 = 64 << 20;

/// The number of bytes between two readings of the clock.
const STRIDE: u64 = 1 << 20;

#[derive(Clone)]
pub(crate) enum SnapshotSource {
    /// A snapshot file that is written and verified.
    File(SnapshotFile),
    /// The registry, which is applied at least up to the log id.
    Registry(StoreParts, Option<LogId>),
}

impl From<SnapshotFile> for SnapshotSource {
    fn from(image: SnapshotFile) -> SnapshotSource {
        SnapshotSource::File(image)
    }
}

impl SnapshotSource {
    /// Returns the snapshot file to send or install. One that is made from the registry covers at
    /// least what was announced, perhaps more.
    pub(crate) async fn file(&self) -> io::Result<SnapshotFile> {
        match self {
            SnapshotSource::File(image) => Ok(image.clone()),
            SnapshotSource::Registry(parts, least) => written(parts, *least).await,
        }
    }
}

async fn written(parts: &StoreParts, least: Option<LogId>) -> io::Result<SnapshotFile> {
    let write_lock = Arc::clone(&parts.write_lock).lock_owned().await;
    if let Some(image) = parts.snapshots.current()
        && image.meta().last_log_id >= least
    {
        return Ok(image);
    }
    // Applied records are written before they are announced: the view below contains them.
    parts.unwritten.flush().await?;
    parts.writer.drain().await?;
    let pinned = Arc::clone(&parts.disk).pin().await?;
    let snapshot_store = parts.snapshots.clone();
    let (finished, image) = oneshot::channel();
    let work = move |view: &dyn DiskRead| -> io::Result<()> {
        // Held until the snapshot is written, even if the caller is dropped.
        let _turn = write_lock;
        // The batches of an install are not a consistent state. Its snapshot is in the store when
        // it is done.
        if install::is_under_way(view) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let began = Instant::now();
        let image = write(view, &snapshot_store)?;
        metrics::snapshot("write", began.elapsed(), Some(image.len()));
        snapshot_store.put(&image)?;
        // The receiver may have been dropped; the next request finds the snapshot in the store.
        let _ = finished.send(image);
        Ok(())
    };
    match pinned.read(Box::new(work)).await {
        Ok(()) => image.await.map_err(io::Error::other),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
        // The unfinished file is deleted, and no record of the write-ahead log was lost: only the
        // follower waits. A vote or an entry that finds no space ends the process.
        Err(error) if is_refused(&error) => Err(error),
        Err(error) if remedy::is_exhausted(&error) => {
            let remedy = remedy::of_failed_write(&error);
            Err(io::Error::new(error.kind(), format!("{error}: {remedy}")))
        }
        Err(error) => {
            // A disk that fails at a snapshot will fail at a vote too, and an fsync is never
            // retried.
            (parts.fatal)(&FatalError {
                path: parts.disk.name(),
                what: "write a snapshot of",
                source: io::Error::new(error.kind(), error.to_string()),
            });
            Err(error)
        }
    }
}

/// Whether the store has refused a snapshot, with its remedy, before the disk was full.
fn is_refused(error: &io::Error) -> bool {
    error.raw_os_error().is_none() && error.kind() == io::ErrorKind::StorageFull
}

fn write(
    view: &dyn DiskRead,
    snapshot_store: &SnapshotStore,
) -> Result<SnapshotFile, SnapshotError> {
    let applied = registry::applied(view);
    let meta = applied.map_err(|error| SnapshotError::Read(io::Error::other(error)))?;
    let sink = snapshot_store.sink(0)?;
    let mut pace = sink
        .may_block()
        .then(|| WriteRateLimit::new(Instant::now()));
    let mut encoder = SnapshotEncoder::new(sink, &described(meta))?;
    view.scan(KeySpace::Registry, b"", &mut |key, value| {
        encoder.record(key, value)?;
        if let Some(pace) = &mut pace
            && let Some(pause) = pace.record(key.len() + value.len(), Instant::now)
        {
            std::thread::sleep(pause);
        }
        Ok(ControlFlow::Continue(()))
    })?;
    encoder.finish()?.finish()
}

/// Returns the description of a snapshot of the applied state.
pub(crate) fn described(applied: SnapshotMeta) -> SnapshotMeta {
    planted_bug!(SnapshotMetaEarly => return described_early(applied));
    applied
}

/// Implements the planted bug `SnapshotMetaEarly`.
fn described_early(mut applied: SnapshotMeta) -> SnapshotMeta {
    let members_at = applied.last_membership.log_id().map_or(0, |id| id.index);
    if let Some(last) = &mut applied.last_log_id
        && last.index > members_at + 1
    {
        last.index -= 1;
    }
    applied
}

/// A rate limit for a writer.
struct WriteRateLimit {
    started: Instant,
    written: u64,
    next_check: u64,
}

impl WriteRateLimit {
    fn new(begun: Instant) -> WriteRateLimit {
        WriteRateLimit {
            started: begun,
            written: 0,
            next_check: STRIDE,
        }
    }

    /// Counts `bytes`, and returns how long the writer must pause if it is ahead of the rate.
    fn record(&mut self, bytes: usize, now: impl Fn() -> Instant) -> Option<Duration> {
        self.written += bytes as u64;
        if self.written < self.next_check {
            return None;
        }
        self.next_check = self.written + STRIDE;
        let due = Duration::from_micros(self.written.saturating_mul(1_000_000) / RATE);
        due.checked_sub(now().saturating_duration_since(self.started))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writer_above_the_rate_limit_pauses_and_a_slow_one_does_not() {
        let begun = Instant::now();
        let mut pace = WriteRateLimit::new(begun);
        assert_eq!(pace.record(1_000, || begun), None, "too little to check");
        let pause = pace.record(8 << 20, || begun).unwrap();
        assert!(
            pause >= Duration::from_millis(125) && pause < Duration::from_millis(130),
            "{pause:?}"
        );
        let late = begun + Duration::from_secs(10);
        assert_eq!(pace.record(8 << 20, || late), None);
    }
}
