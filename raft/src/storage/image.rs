//! The snapshot for a follower that needs one, and how its file is written.
//!
//! The registry in the store is the state on disk, so truncating the log writes no snapshot file. A
//! snapshot file of the whole registry is written only when it must be sent, only by the leader,
//! and at a bounded rate.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use argosy_state::bugs::{self, Bug};
use tokio::sync::{Mutex, oneshot};

use super::disk::{Family, Read};
use super::install;
use super::snapshot::{Encoder, ImageError};
use super::snapshot_store::{Image, Shelf};
use crate::fatal::FatalError;
use crate::state_machine::{self, Parts};
use crate::types::{LogId, SnapshotMeta};

/// The maximum rate of writing a snapshot, in bytes per second: the write-ahead log shares the
/// disk.
const RATE: u64 = 64 << 20;

/// The number of bytes between two readings of the clock.
const STRIDE: u64 = 1 << 20;

/// Held while a snapshot is written: a second follower that needs one waits and receives the same
/// file.
pub(crate) type Turn = Arc<Mutex<()>>;

/// The source of a snapshot.
#[derive(Clone)]
pub(crate) enum Source {
    /// A snapshot file that is written and verified.
    Image(Image),
    /// The registry, which is applied at least up to the log id.
    Registry(Parts, Option<LogId>),
}

impl From<Image> for Source {
    fn from(image: Image) -> Source {
        Source::Image(image)
    }
}

impl Source {
    /// Returns the snapshot file to send or install. One that is made from the registry covers at
    /// least what was announced, perhaps more.
    pub(crate) async fn image(&self) -> io::Result<Image> {
        match self {
            Source::Image(image) => Ok(image.clone()),
            Source::Registry(parts, least) => written(parts, *least).await,
        }
    }
}

async fn written(parts: &Parts, least: Option<LogId>) -> io::Result<Image> {
    let turn = Arc::clone(&parts.turn).lock_owned().await;
    if let Some(image) = parts.shelf.current()
        && image.meta().last_log_id >= least
    {
        return Ok(image);
    }
    // Applied records are written before they are announced: the view below contains them.
    parts.unwritten.flush().await?;
    parts.writer.drain().await?;
    let pinned = Arc::clone(&parts.disk).pin().await?;
    let shelf = parts.shelf.clone();
    let (finished, image) = oneshot::channel();
    let work = move |view: &dyn Read| -> io::Result<()> {
        // Held until the snapshot is written, even if the caller is dropped.
        let _turn = turn;
        // The batches of an install are not a consistent state. Its snapshot is in the store when
        // it is done.
        if install::is_under_way(view) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let image = write(view, &shelf).map_err(state_machine::invalid)?;
        shelf.put(&image)?;
        // The receiver may have been dropped; the next request finds the snapshot in the store.
        let _ = finished.send(image);
        Ok(())
    };
    match pinned.read(Box::new(work)).await {
        Ok(()) => image.await.map_err(io::Error::other),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
        Err(error) => {
            // A disk that rejects a snapshot will reject a vote too, and an fsync is never retried.
            (parts.fatal)(&FatalError {
                path: parts.disk.name(),
                what: "write a snapshot of",
                source: io::Error::new(error.kind(), error.to_string()),
            });
            Err(error)
        }
    }
}

fn write(view: &dyn Read, shelf: &Shelf) -> Result<Image, ImageError> {
    let applied = state_machine::applied(view);
    let meta = applied.map_err(|error| ImageError::Read(io::Error::other(error)))?;
    let sink = shelf.sink()?;
    let mut pace = sink.may_block().then(|| Pace::new(Instant::now()));
    let mut encoder = Encoder::new(sink, &described(meta))?;
    view.scan(Family::Registry, b"", &mut |key, value| {
        encoder.record(key, value)?;
        if let Some(pace) = &mut pace
            && let Some(pause) = pace.wrote(key.len() + value.len(), Instant::now)
        {
            std::thread::sleep(pause);
        }
        Ok(ControlFlow::Continue(()))
    })?;
    encoder.finish()?.finish()
}

/// Returns the description of a snapshot of the applied state, unless a mutant is enabled.
pub(crate) fn described(mut applied: SnapshotMeta) -> SnapshotMeta {
    let members_at = applied.last_membership.log_id().map_or(0, |id| id.index);
    if let Some(last) = &mut applied.last_log_id
        && bugs::is_on(Bug::SnapshotMetaEarly)
        && last.index > members_at + 1
    {
        last.index -= 1;
    }
    applied
}

/// A rate limit for a writer.
struct Pace {
    begun: Instant,
    written: u64,
    next_look: u64,
}

impl Pace {
    fn new(begun: Instant) -> Pace {
        Pace {
            begun,
            written: 0,
            next_look: STRIDE,
        }
    }

    /// Counts `bytes`, and returns how long the writer must pause if it is ahead of the rate.
    fn wrote(&mut self, bytes: usize, now: impl Fn() -> Instant) -> Option<Duration> {
        self.written += bytes as u64;
        if self.written < self.next_look {
            return None;
        }
        self.next_look = self.written + STRIDE;
        let due = Duration::from_micros(self.written.saturating_mul(1_000_000) / RATE);
        due.checked_sub(now().saturating_duration_since(self.begun))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writer_that_is_ahead_of_the_rate_pauses_and_a_slow_one_does_not() {
        let begun = Instant::now();
        let mut pace = Pace::new(begun);
        assert_eq!(pace.wrote(1_000, || begun), None, "too little to check");
        let pause = pace.wrote(8 << 20, || begun).unwrap();
        assert!(
            pause >= Duration::from_millis(125) && pause < Duration::from_millis(130),
            "{pause:?}"
        );
        let late = begun + Duration::from_secs(10);
        assert_eq!(pace.wrote(8 << 20, || late), None);
    }
}
