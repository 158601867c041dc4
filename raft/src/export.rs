//! Reading of the whole registry of a running node, from a view of one moment.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use crate::node::Node;
use crate::storage::disk::{DiskRead, KeySpace};
use crate::storage::install;
use crate::storage::registry;
use crate::types::SnapshotMeta;

/// The registry as stored at one moment.
pub struct RegistryView<'a> {
    view: &'a dyn DiskRead,
    applied: SnapshotMeta,
}

impl RegistryView<'_> {
    /// Returns the log index of the last entry that the records contain; 0 for an empty registry.
    #[must_use]
    pub fn index(&self) -> u64 {
        self.applied.last_log_id.map_or(0, |id| id.index)
    }

    /// Returns the term of that entry.
    #[must_use]
    pub fn term(&self) -> u64 {
        self.applied.last_log_id.map_or(0, |id| id.leader_id.term)
    }

    /// Returns the value of a record.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn get(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        self.view.get(KeySpace::Registry, key)
    }

    /// Visits all records in the order of their keys, until the first error.
    ///
    /// # Errors
    /// If the store cannot be read, and that of `visit`.
    pub fn visit(&self, mut visit: impl FnMut(&[u8], &[u8]) -> io::Result<()>) -> io::Result<()> {
        self.view.scan(KeySpace::Registry, b"", &mut |key, value| {
            visit(key, value)?;
            Ok(ControlFlow::Continue(()))
        })
    }
}

/// Time for an entry that the owner has applied to reach the store's queue.
const APPLY_TIMEOUT: Duration = Duration::from_secs(10);

impl Node {
    /// Returns whether the store is in memory: a read of it must not wait.
    #[must_use]
    pub fn is_in_memory(&self) -> bool {
        let store = self.parts().store.upgrade();
        store.is_none_or(|store| !store.parts().disk.may_block())
    }

    /// Reads the registry as of a moment after this call, with at least the entries up to `least`.
    /// Later changes do not alter the view. `read` runs on a thread where it may wait, except for a
    /// store in memory ([`Node::is_in_memory`]).
    ///
    /// # Errors
    /// If the node has stopped, is installing a snapshot, or the store cannot be read; and that of
    /// `read`.
    pub async fn read_registry(
        &self,
        least: u64,
        read: impl FnOnce(&RegistryView<'_>) -> io::Result<()> + Send + 'static,
    ) -> io::Result<()> {
        let applied = self.parts().raft.wait(Some(APPLY_TIMEOUT));
        let applied = applied.applied_index_at_least(Some(least), "the registry is read");
        applied.await.map_err(io::Error::other)?;
        let parts = self.parts().store.upgrade().ok_or_else(stopped)?.parts();
        // Applied records are written before they are announced: the view below contains them.
        parts.unwritten.flush().await?;
        parts.writer.drain().await?;
        let pinned = Arc::clone(&parts.disk).pin().await?;
        drop(parts);
        let work = move |view: &dyn DiskRead| -> io::Result<()> {
            if install::is_under_way(view) {
                let text = "this master is installing a snapshot";
                return Err(io::Error::new(io::ErrorKind::Interrupted, text));
            }
            let applied = registry::applied(view).map_err(io::Error::other)?;
            read(&RegistryView { view, applied })
        };
        pinned.read(Box::new(work)).await
    }
}

fn stopped() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "this master is stopping")
}
