//! What is wanted of living containers: kept until the container's own task passes it on to the supervisor.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use argosy_isolation::{Attachment, AttachmentError, EntryError, EntryRequest, Session};
use argosy_state::ids::Timestamp;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};

use crate::core::Instance;

/// Commands that people have in one container at a time: four fewer than it takes, so that checks find room.
const PLACES_FOR_PEOPLE: usize = 60;

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

/// Why a person finds no place in a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PlaceError {
    /// It has not been started, or has ended.
    #[error("the task does not run here now")]
    NotRunning,
    /// Others have come before.
    #[error("{PLACES_FOR_PEOPLE} commands have entered this container: end one first")]
    Full,
}

/// Why nobody was attached to a container's command.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AttachError {
    /// It has not been started, or has ended.
    #[error("the task does not run here now")]
    NotRunning,
    /// The supervisor was not asked, or cannot be.
    #[error(transparent)]
    Attachment(#[from] AttachmentError),
}

impl Controls {
    /// A container that is about to live.
    pub(super) fn add(&self, instance: Instance) -> Arc<Control> {
        let control = Arc::new(Control::default());
        self.all().insert(instance, control.clone());
        control
    }

    /// It will be removed.
    pub(super) fn forget(&self, instance: Instance) -> Option<Arc<Control>> {
        self.all().remove(&instance)
    }

    pub(super) fn get(&self, instance: Instance) -> Option<Arc<Control>> {
        self.all().get(&instance).cloned()
    }

    /// A place for a command of a person's, for as long as that is held. Checks enter without one.
    pub(crate) fn place(&self, instance: Instance) -> Result<OwnedSemaphorePermit, PlaceError> {
        let control = self.get(instance).ok_or(PlaceError::NotRunning)?;
        let place = Arc::clone(&control.places).try_acquire_owned();
        place.map_err(|_| PlaceError::Full)
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

    /// Attaches to a container's own command. The first notice tells whether that has worked.
    pub(crate) async fn attach(
        &self,
        instance: Instance,
        stdin: bool,
    ) -> Result<Attachment, AttachError> {
        let control = self.get(instance).ok_or(AttachError::NotRunning)?;
        let (answer, attached) = oneshot::channel();
        control.change(|wishes| wishes.attachments.push(Attach { stdin, answer }));
        Ok(attached.await.map_err(|_| AttachError::NotRunning)??)
    }

    fn all(&self) -> MutexGuard<'_, HashMap<Instance, Arc<Control>>> {
        lock(&self.0)
    }
}

/// What is wanted of a container; the newest wish of each kind. A lock, since the loop writes and the
/// container's task reads; nothing is awaited under it.
#[derive(Debug)]
pub(super) struct Control {
    wishes: Mutex<Wishes>,
    pub(super) changed: Notify,
    places: Arc<Semaphore>,
    /// Nothing is left of the container but its files.
    is_ended: AtomicBool,
}

impl Default for Control {
    fn default() -> Self {
        Self {
            wishes: Mutex::default(),
            changed: Notify::new(),
            places: Arc::new(Semaphore::new(PLACES_FOR_PEOPLE)),
            is_ended: AtomicBool::new(false),
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Wishes {
    pub(super) kill_grace_ms: Option<u64>,
    /// Its start is called off: it is to end without an order, or to say that it has started.
    pub(super) is_called_off: bool,
    pub(super) stop_at: Option<Timestamp>,
    pub(super) entries: Vec<Entry>,
    pub(super) attachments: Vec<Attach>,
    /// Nobody passes anything on any more.
    over: bool,
}

/// A command that wants to enter, and who asked.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) request: EntryRequest,
    pub(super) answer: oneshot::Sender<Result<Session, EntryError>>,
}

/// Somebody who wants to attach, perhaps to write to standard input, too.
#[derive(Debug)]
pub(super) struct Attach {
    pub(super) stdin: bool,
    pub(super) answer: oneshot::Sender<Result<Attachment, AttachmentError>>,
}

impl Control {
    pub(super) fn kill(&self, grace_ms: u64) {
        self.change(|wishes| wishes.kill_grace_ms = Some(grace_ms));
    }

    pub(super) fn call_off(&self) {
        self.change(|wishes| wishes.is_called_off = true);
    }

    /// What the supervisor did not take, unless something newer is wanted by now. Nobody is notified.
    pub(super) fn put_back(&self, kill_grace_ms: Option<u64>, stop_at: Option<Timestamp>) {
        let mut wishes = lock(&self.wishes);
        if !wishes.over {
            wishes.kill_grace_ms = wishes.kill_grace_ms.or(kill_grace_ms);
            wishes.stop_at = wishes.stop_at.or(stop_at);
        }
    }

    pub(super) fn renew(&self, stop_at: Timestamp) {
        self.change(|wishes| wishes.stop_at = Some(stop_at));
    }

    pub(super) fn take(&self) -> Wishes {
        std::mem::take(&mut lock(&self.wishes))
    }

    /// The container has ended in order, and its supervisor has exited.
    pub(super) fn note_end(&self) {
        self.is_ended.store(true, Ordering::Release);
    }

    pub(super) fn is_ended(&self) -> bool {
        self.is_ended.load(Ordering::Acquire)
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
