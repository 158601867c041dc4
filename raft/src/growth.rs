//! How much the log has grown since the last snapshot was asked for: openraft counts entries only, and entries may be large.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::node::Consensus;

/// Counts bytes of commands that came into the log. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Growth(Arc<Inner>);

struct Inner {
    grown: AtomicU64,
    limit: u64,
    full: Notify,
}

impl Growth {
    pub(crate) fn new(limit: u64) -> Growth {
        Growth(Arc::new(Inner {
            grown: AtomicU64::new(0),
            limit,
            full: Notify::new(),
        }))
    }

    pub(crate) fn add(&self, bytes: u64) {
        let grown = self.0.grown.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if grown >= self.0.limit {
            self.0.grown.store(0, Ordering::Relaxed);
            self.0.full.notify_one();
        }
    }

    /// Asks for a snapshot whenever the limit is passed, until the node stops.
    pub(crate) async fn run(self, raft: Consensus, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.0.full.notified() => if raft.trigger().snapshot().await.is_err() {
                    return;
                },
            }
        }
    }
}
