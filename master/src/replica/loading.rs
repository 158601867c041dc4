//! Loading the registry of an installed snapshot on another thread: a large one takes seconds, and
//! consensus shares the owner's thread.

use argosy_state::Registry;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::Replica;
use crate::checks::CheckProgress;
use crate::clock::ClusterClock;
use crate::comparison::DigestComparison;
use crate::error::MasterError;

type LoadResult = Result<Registry, MasterError>;

/// A loaded registry that replaces the present one.
pub(super) struct LoadedRegistry {
    registry: Registry,
    done: oneshot::Sender<()>,
}

/// The registry that is being loaded, if there is one.
#[derive(Default)]
pub(super) struct RegistryLoad {
    /// False in a simulation, which has one thread.
    has_threads: bool,
    reader: Option<(JoinHandle<LoadResult>, oneshot::Sender<()>)>,
}

impl RegistryLoad {
    /// Returns whether a registry is being loaded. Nothing is applied and no epoch is opened during
    /// that time: the present registry is out of date.
    pub(super) fn is_loading(&self) -> bool {
        self.reader.is_some()
    }

    /// Waits until the registry is loaded. May be dropped at any time.
    pub(super) async fn loaded(&mut self) -> Result<LoadedRegistry, MasterError> {
        let Some((reading, _)) = &mut self.reader else {
            return std::future::pending().await;
        };
        let read = reading.await;
        let registry = read.map_err(|why| MasterError::unreadable(&why))??;
        let (_, done) = self.reader.take().expect("it was there a moment ago");
        Ok(LoadedRegistry { registry, done })
    }
}

impl Replica {
    /// Sets whether snapshots are loaded on other threads.
    pub(crate) fn with_threads(mut self, has_threads: bool) -> Self {
        self.loading.has_threads = has_threads;
        self
    }

    /// Starts loading. Raft sends no other request until `done` is answered.
    pub(super) fn load(
        &mut self,
        last_index: u64,
        records: Vec<(Vec<u8>, Vec<u8>)>,
        done: oneshot::Sender<()>,
    ) -> Result<(), MasterError> {
        let read = move || {
            let read = Registry::load(last_index, records);
            read.map_err(|why| MasterError::unreadable(&why))
        };
        if self.loading.has_threads {
            self.loading.reader = Some((tokio::task::spawn_blocking(read), done));
        } else {
            let registry = read()?;
            self.take_loaded(LoadedRegistry { registry, done });
        }
        Ok(())
    }

    pub(super) fn take_loaded(&mut self, loaded: LoadedRegistry) {
        self.turn.begin();
        let former = std::mem::replace(&mut self.registry, loaded.registry);
        let facts = self.registry.access().clone();
        self.published.access.send_replace(facts);
        if self.loading.has_threads {
            // Freeing a large registry takes as long as a turn may, and longer.
            drop(tokio::task::spawn_blocking(move || drop(former)));
        }
        (self.comparison, self.checks) = (
            DigestComparison::of(&self.registry),
            CheckProgress::default(),
        );
        self.node.set_level(self.registry.level());
        self.clock = ClusterClock::new(self.registry.time());
        self.failovers.record_epoch(self.registry.cluster().into());
        self.published.changes.restart(self.registry.applied());
        self.published.applied.send_replace(self.registry.applied());
        // Its epoch may be later, with the same leader.
        self.publish_leader_status();
        // Raft stops with the process, and so do its waiters.
        let _ = loaded.done.send(());
    }
}
