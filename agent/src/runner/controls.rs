//! What is wanted of living containers: kept until the container's own task passes it on to the supervisor.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use argosy_isolation::{EntryError, EntryRequest, Session};
use argosy_state::ids::Timestamp;
use tokio::sync::{Notify, oneshot};

use crate::core::Instance;

/// How to reach every container that may live. Cheap to clone; all clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Controls(Arc<Mutex<HashMap<Instance, Arc<Control>>>>);

/// Why no command was let into a container.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EnterError {
    /// It has not been started, or has ended.
    #[error("the task does not run here now")]
    NotRunning,
    /// The supervisor was not asked, or cannot be.
    #[error(transparent)]
    Entry(#[from] EntryError),
}

impl Controls {
    /// A container that is about to live.
    pub(super) fn add(&self, instance: Instance) -> Arc<Control> {
        let control = Arc::new(Control::default());
        self.all().insert(instance, control.clone());
        control
    }

    /// It will be removed.
    pub(super) fn forget(&self, instance: Instance) {
        self.all().remove(&instance);
    }

    pub(super) fn get(&self, instance: Instance) -> Option<Arc<Control>> {
        self.all().get(&instance).cloned()
    }

    /// Lets a command into a container, beside its own. The session's first notice tells whether it has started.
    pub(crate) async fn enter(
        &self,
        instance: Instance,
        request: EntryRequest,
    ) -> Result<Session, EnterError> {
        let control = self.get(instance).ok_or(EnterError::NotRunning)?;
        let (answer, entered) = oneshot::channel();
        control.change(|wishes| wishes.entries.push(Entry { request, answer }));
        Ok(entered.await.map_err(|_| EnterError::NotRunning)??)
    }

    fn all(&self) -> MutexGuard<'_, HashMap<Instance, Arc<Control>>> {
        lock(&self.0)
    }
}

/// What is wanted of a container; the newest wish of each kind. A lock, since the loop writes and the
/// container's task reads; nothing is awaited under it.
#[derive(Debug, Default)]
pub(super) struct Control {
    wishes: Mutex<Wishes>,
    pub(super) changed: Notify,
}

#[derive(Debug, Default)]
pub(super) struct Wishes {
    pub(super) kill_grace_ms: Option<u64>,
    pub(super) stop_at: Option<Timestamp>,
    pub(super) entries: Vec<Entry>,
    /// Nobody passes anything on any more.
    over: bool,
}

/// A command that wants to enter, and who asked.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) request: EntryRequest,
    pub(super) answer: oneshot::Sender<Result<Session, EntryError>>,
}

impl Control {
    pub(super) fn kill(&self, grace_ms: u64) {
        self.change(|wishes| wishes.kill_grace_ms = Some(grace_ms));
    }

    pub(super) fn renew(&self, stop_at: Timestamp) {
        self.change(|wishes| wishes.stop_at = Some(stop_at));
    }

    pub(super) fn take(&self) -> Wishes {
        std::mem::take(&mut lock(&self.wishes))
    }

    /// The container has ended: whoever wants to enter is told, now and later.
    pub(super) fn close(&self) {
        *lock(&self.wishes) = Wishes {
            over: true,
            ..Wishes::default()
        };
    }

    fn change(&self, change: impl FnOnce(&mut Wishes)) {
        let mut wishes = lock(&self.wishes);
        if !wishes.over {
            change(&mut wishes);
            self.changed.notify_one();
        }
    }
}

/// No panic leaves any of what these locks guard half-changed.
fn lock<T>(guarded: &Mutex<T>) -> MutexGuard<'_, T> {
    guarded.lock().unwrap_or_else(PoisonError::into_inner)
}
