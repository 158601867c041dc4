//! Steps that wait for the journal: each is performed once all awaited records before it are on
//! disk.

use std::collections::VecDeque;

use super::executors::ExecutorMessage;
use super::facts::Instance;
use super::messages::AgentMessage;

/// An effect or step that waits for the journal.
#[derive(Debug)]
pub(super) enum DeferredStep {
    /// Connect to the leader after this many milliseconds.
    Dial(u64),
    /// Send a message on this link.
    Send(u64, Box<AgentMessage>),
    /// Continue a launch.
    Launch(Instance),
    /// Continue a kill.
    Kill(Instance),
    /// Apply changed limits of a task.
    Limit(Instance),
    /// Clean up a container whose end is recorded.
    Destroy(Instance),
    /// Create the container of an executor.
    Execute(Instance),
    /// Send a message to an executor.
    SendToExecutor(Instance, Box<ExecutorMessage>),
    /// Detach this task from its executor.
    DetachTask(Instance, Instance),
    /// Clean up an executor whose tasks' ends are recorded.
    ClearExecutor(Instance),
    /// Complete the registration on this link.
    Registered(u64),
}

/// The urgency of a record's sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncMode {
    /// An effect waits for the record.
    Awaited,
    /// The record is synced with the next awaited one: its loss costs a repetition, never a fact.
    Lazy,
}

/// The records that are on disk, and the steps that wait for others.
#[derive(Debug, Default)]
pub(super) struct Durability {
    /// Number of records appended to the journal so far.
    appended: u64,
    /// The newest record that a deferred step waits for.
    awaited: u64,
    /// Number of the newest record that is known to be on disk.
    durable: u64,
    /// Steps that wait for the journal, in order. Bounded by what the inputs before the next sync
    /// can cause.
    deferred: VecDeque<(u64, DeferredStep)>,
    /// Set while the disk is full. Only kills and ends of tasks are then recorded completely.
    is_full: bool,
}

impl Durability {
    /// Counts a record that is appended now, and returns its number.
    pub(super) fn append(&mut self, sync: SyncMode) -> u64 {
        self.appended += 1;
        if sync == SyncMode::Awaited {
            self.awaited = self.appended;
        }
        self.appended
    }

    /// Returns the step if it can be performed now. Otherwise it waits for every awaited record so
    /// far.
    pub(super) fn defer(&mut self, step: DeferredStep) -> Option<DeferredStep> {
        if self.durable >= self.awaited && self.deferred.is_empty() {
            return Some(step);
        }
        self.deferred.push_back((self.awaited, step));
        None
    }

    /// Records that all records up to this one are on disk.
    pub(super) fn synced(&mut self, number: u64) {
        self.durable = self.durable.max(number);
    }

    /// Removes the next step that no longer has to wait.
    pub(super) fn next_step(&mut self) -> Option<DeferredStep> {
        let durable = self.durable;
        let next = self.deferred.pop_front_if(|(until, _)| *until <= durable);
        next.map(|(_, step)| step)
    }

    pub(super) fn set_full(&mut self, is_full: bool) {
        self.is_full = is_full;
    }

    pub(super) fn is_full(&self) -> bool {
        self.is_full
    }
}
