//! The memory of agents' messages that wait for the owner, bounded for each stream and for all.
//!
//! The lane of links holds thousands of messages, and each may have 4 MiB. A stream reserves the
//! bytes of a message before it sends it to the owner, and waits if there is no room, which slows
//! its agent down. Waiting streams are served first come, first served.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Maximum bytes of the waiting messages of one stream: two of the longest.
const STREAM_BYTES: usize = 8 << 20;
/// Maximum bytes of the waiting messages of all streams.
const LANE_BYTES: usize = 64 << 20;

const NEVER_CLOSED: &str = "no budget is ever closed";

/// The budget of all streams; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct LinkMemory {
    lane: Arc<Semaphore>,
}

impl Default for LinkMemory {
    fn default() -> Self {
        Self {
            lane: Arc::new(Semaphore::new(LANE_BYTES)),
        }
    }
}

impl LinkMemory {
    /// Returns the budget of a new stream.
    pub(crate) fn stream(&self) -> StreamMemory {
        StreamMemory {
            stream: Arc::new(Semaphore::new(STREAM_BYTES)),
            lane: Arc::clone(&self.lane),
        }
    }
}

/// The budget of one stream.
#[derive(Debug)]
pub(crate) struct StreamMemory {
    stream: Arc<Semaphore>,
    lane: Arc<Semaphore>,
}

/// The bytes of one message, reserved until this is dropped.
#[derive(Debug)]
pub(crate) struct ReservedBytes {
    _stream: OwnedSemaphorePermit,
    _lane: OwnedSemaphorePermit,
}

impl StreamMemory {
    /// Waits for room for a message of `bytes` on the wire. A message that is longer than the
    /// budget of its stream reserves all of it.
    pub(crate) async fn reserve(&self, bytes: usize) -> ReservedBytes {
        let bytes = u32::try_from(bytes.min(STREAM_BYTES)).unwrap_or(u32::MAX);
        // In this order: a stream that has used up its budget takes no place in line for the lane.
        let stream = Arc::clone(&self.stream).acquire_many_owned(bytes).await;
        let lane = Arc::clone(&self.lane).acquire_many_owned(bytes).await;
        ReservedBytes {
            _stream: stream.expect(NEVER_CLOSED),
            _lane: lane.expect(NEVER_CLOSED),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn reserve(stream: &StreamMemory, bytes: usize) -> Option<ReservedBytes> {
        stream.reserve(bytes).now_or_never()
    }

    #[test]
    fn a_stream_has_a_budget_of_its_own() {
        let memory = LinkMemory::default();
        let (greedy, other) = (memory.stream(), memory.stream());
        let first = reserve(&greedy, STREAM_BYTES / 2).unwrap();
        let _second = reserve(&greedy, STREAM_BYTES / 2).unwrap();
        assert!(reserve(&greedy, 1).is_none());
        assert!(reserve(&other, STREAM_BYTES / 2).is_some());
        drop(first);
        assert!(reserve(&greedy, STREAM_BYTES / 2).is_some());
    }

    #[test]
    fn all_streams_share_a_budget() {
        let memory = LinkMemory::default();
        let held: Vec<_> = (0..LANE_BYTES / STREAM_BYTES)
            .map(|_| reserve(&memory.stream(), STREAM_BYTES).unwrap())
            .collect();
        let next = memory.stream();
        assert!(reserve(&next, 1).is_none());
        drop(held);
        assert!(reserve(&next, 1).is_some());
    }

    #[test]
    fn a_message_longer_than_all_budgets_takes_that_of_its_stream() {
        let memory = LinkMemory::default();
        let stream = memory.stream();
        let reserved = reserve(&stream, usize::MAX).unwrap();
        assert!(reserve(&stream, 1).is_none());
        drop(reserved);
        assert!(reserve(&stream, STREAM_BYTES).is_some());
    }
}
