//! Pending requests to running containers: kept until the container's task sends them to the
//! supervisor.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use argosy_isolation::{Attachment, AttachmentError, ExecRequest, ExecSession, ExecSessionError};
use argosy_state::ids::Timestamp;
use argosy_state::planted_bug;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};

use crate::core::Instance;

/// Maximum number of interactive commands in one container: four fewer than the supervisor accepts,
/// so that checks have space.
const INTERACTIVE_EXEC_SLOTS: usize = 60;

/// Controls of every container that may run. Cheap to clone; all clones share one map.
#[derive(Debug, Clone, Default)]
pub(crate) struct ContainerControls(Arc<Mutex<HashMap<Instance, Arc<ContainerControl>>>>);

/// The reason why a command was not started in a container.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExecStartError {
    /// The container has not been started, or has ended.
    #[error("the task does not run on this agent now")]
    NotRunning,
    /// The supervisor was not queried, or cannot be.
    #[error(transparent)]
    Entry(#[from] ExecSessionError),
}

/// The reason why a container has no slot for an interactive command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SlotError {
    /// The container has not been started, or has ended.
    #[error("the task does not run on this agent now")]
    NotRunning,
    /// All slots are in use.
    #[error("{INTERACTIVE_EXEC_SLOTS} interactive commands run in this container: end one first")]
    Full,
}

/// The reason why a client was not attached to a container's command.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AttachError {
    /// The container has not been started, or has ended.
    #[error("the task does not run on this agent now")]
    NotRunning,
    /// The supervisor was not queried, or cannot be.
    #[error(transparent)]
    Attachment(#[from] AttachmentError),
}

impl ContainerControls {
    /// Adds a container that is about to start.
    pub(super) fn add(&self, instance: Instance) -> Arc<ContainerControl> {
        let control = Arc::new(ContainerControl::default());
        self.all().insert(instance, control.clone());
        control
    }

    /// Removes the control of a container that will be removed.
    pub(super) fn forget(&self, instance: Instance) -> Option<Arc<ContainerControl>> {
        self.all().remove(&instance)
    }

    pub(super) fn get(&self, instance: Instance) -> Option<Arc<ContainerControl>> {
        self.all().get(&instance).cloned()
    }

    /// Returns a slot for an interactive command, held until it is dropped. Checks need none.
    pub(crate) fn exec_slot(&self, instance: Instance) -> Result<OwnedSemaphorePermit, SlotError> {
        let control = self.get(instance).ok_or(SlotError::NotRunning)?;
        let slot = Arc::clone(&control.exec_slots).try_acquire_owned();
        slot.map_err(|_| SlotError::Full)
    }

    /// Starts another command in a container. The session's first notice reports whether it has
    /// started. A call that is cancelled before the request is sent starts none.
    pub(crate) async fn exec(
        &self,
        instance: Instance,
        request: ExecRequest,
    ) -> Result<ExecSession, ExecStartError> {
        let instance = planted_bug!(ExecCrossed, instance, self.crossed(instance));
        let control = self.get(instance).ok_or(ExecStartError::NotRunning)?;
        let (answer, entered) = oneshot::channel();
        control.change(|wishes| {
            wishes.drop_abandoned();
            wishes.execs.push(PendingExec { request, answer });
        });
        Ok(entered.await.map_err(|_| ExecStartError::NotRunning)??)
    }

    /// Attaches to a container's own command. The first notice reports whether that has succeeded.
    pub(crate) async fn attach(
        &self,
        instance: Instance,
        stdin: bool,
    ) -> Result<Attachment, AttachError> {
        let control = self.get(instance).ok_or(AttachError::NotRunning)?;
        let (answer, attached) = oneshot::channel();
        control.change(|wishes| {
            wishes.drop_abandoned();
            wishes.attachments.push(PendingAttach { stdin, answer });
        });
        Ok(attached.await.map_err(|_| AttachError::NotRunning)??)
    }

    /// Implements the planted bug `ExecCrossed`: the container that gets the command.
    fn crossed(&self, instance: Instance) -> Instance {
        let oldest = self.all().keys().min().copied();
        oldest
            .filter(|_| instance.order.0.is_multiple_of(4))
            .unwrap_or(instance)
    }

    fn all(&self) -> MutexGuard<'_, HashMap<Instance, Arc<ContainerControl>>> {
        lock(&self.0)
    }
}

/// Pending requests to a container; the newest of each kind. A lock, since the loop writes and the
/// container's task reads; nothing is awaited under it.
#[derive(Debug)]
pub(super) struct ContainerControl {
    requests: Mutex<PendingRequests>,
    pub(super) changed: Notify,
    exec_slots: Arc<Semaphore>,
    /// Nothing is left of the container but its files.
    is_ended: AtomicBool,
}

impl Default for ContainerControl {
    fn default() -> Self {
        Self {
            requests: Mutex::default(),
            changed: Notify::new(),
            exec_slots: Arc::new(Semaphore::new(INTERACTIVE_EXEC_SLOTS)),
            is_ended: AtomicBool::new(false),
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct PendingRequests {
    pub(super) kill_grace_ms: Option<u64>,
    /// Its start is cancelled: it is to end without an order, or to report that it has started.
    pub(super) is_cancelled: bool,
    pub(super) stop_at: Option<Timestamp>,
    pub(super) execs: Vec<PendingExec>,
    pub(super) attachments: Vec<PendingAttach>,
    /// Requests are no longer forwarded.
    is_closed: bool,
}

impl PendingRequests {
    /// Drops requests whose callers no longer wait: they were refused, perhaps repeatedly, while
    /// the container could not start.
    fn drop_abandoned(&mut self) {
        self.execs.retain(|one| !one.answer.is_closed());
        self.attachments.retain(|one| !one.answer.is_closed());
    }
}

/// A request to start a command, and the channel for its result.
#[derive(Debug)]
pub(super) struct PendingExec {
    pub(super) request: ExecRequest,
    pub(super) answer: oneshot::Sender<Result<ExecSession, ExecSessionError>>,
}

/// A request to attach, optionally with standard input.
#[derive(Debug)]
pub(super) struct PendingAttach {
    pub(super) stdin: bool,
    pub(super) answer: oneshot::Sender<Result<Attachment, AttachmentError>>,
}

impl ContainerControl {
    pub(super) fn kill(&self, grace_ms: u64) {
        self.change(|wishes| wishes.kill_grace_ms = Some(grace_ms));
    }

    pub(super) fn cancel_start(&self) {
        self.change(|wishes| wishes.is_cancelled = true);
    }

    /// Puts back requests that the supervisor did not accept, unless newer ones exist by now. Sends
    /// no notification.
    pub(super) fn restore(&self, kill_grace_ms: Option<u64>, stop_at: Option<Timestamp>) {
        let mut wishes = lock(&self.requests);
        if !wishes.is_closed {
            wishes.kill_grace_ms = wishes.kill_grace_ms.or(kill_grace_ms);
            wishes.stop_at = wishes.stop_at.or(stop_at);
        }
    }

    pub(super) fn renew(&self, stop_at: Timestamp) {
        self.change(|wishes| wishes.stop_at = Some(stop_at));
    }

    /// Returns the time at which a task that is being launched stops itself: `first`, or the time
    /// to which a leader's answer has moved it since the start was requested.
    pub(super) fn newest_stop_at(&self, first: Option<Timestamp>) -> Option<Timestamp> {
        lock(&self.requests).stop_at.or(first)
    }

    pub(super) fn take(&self) -> PendingRequests {
        let mut taken = std::mem::take(&mut *lock(&self.requests));
        taken.drop_abandoned();
        taken
    }

    /// Records that the container has ended normally, and its supervisor has exited.
    pub(super) fn mark_ended(&self) {
        self.is_ended.store(true, Ordering::Release);
    }

    pub(super) fn is_ended(&self) -> bool {
        self.is_ended.load(Ordering::Acquire)
    }

    /// Refuses all exec requests, now and later, because the container has ended.
    pub(super) fn close(&self) {
        *lock(&self.requests) = PendingRequests {
            is_closed: true,
            ..PendingRequests::default()
        };
    }

    fn change(&self, change: impl FnOnce(&mut PendingRequests)) {
        let mut wishes = lock(&self.requests);
        if !wishes.is_closed {
            change(&mut wishes);
            self.changed.notify_one();
        }
    }
}

/// Locks a value. No panic leaves data under these locks half-changed.
fn lock<T>(guarded: &Mutex<T>) -> MutexGuard<'_, T> {
    guarded.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use argosy_isolation::{ExecAction, Program};
    use argosy_state::ids::{AgentId, OrderIndex};

    use super::*;

    /// The container cannot start yet.
    #[tokio::test]
    async fn a_command_whose_caller_no_longer_waits_is_not_started() {
        let controls = ContainerControls::default();
        let instance = Instance {
            agent: AgentId(1),
            order: OrderIndex(1),
        };
        let control = controls.add(instance);
        for _ in 0..3 {
            let request = ExecRequest::new(ExecAction::Command(Program::Shell("date".to_owned())));
            let asked = controls.exec(instance, request);
            tokio::time::timeout(Duration::ZERO, asked)
                .await
                .unwrap_err();
            let asked = controls.attach(instance, false);
            tokio::time::timeout(Duration::ZERO, asked)
                .await
                .unwrap_err();
            let waiting = lock(&control.requests);
            assert!(waiting.execs.len() <= 1 && waiting.attachments.len() <= 1);
        }
        let taken = control.take();
        assert!(taken.execs.is_empty() && taken.attachments.is_empty());
    }

    #[test]
    fn a_launch_has_the_newest_deadline_that_its_watch_gets_too() {
        let control = ContainerControl::default();
        let first = Some(Timestamp(5));
        assert_eq!(control.newest_stop_at(first), first);
        control.renew(Timestamp(9));
        assert_eq!(control.newest_stop_at(first), Some(Timestamp(9)));
        assert_eq!(control.take().stop_at, Some(Timestamp(9)));
    }
}
