//! The history format of the simulation and of real processes: events in order of time, as JSON
//! lines. It is the only input of the checkers.
//!
//! ```
//! use argosy_chaos::history::{
//!     Consistency, Fault, FaultKind, Operation, OperationResponse, ProcessName, RaftFact, Recorder,
//! };
//! use argosy_state::ids::NodeId;
//!
//! // The clock is any function that returns nanoseconds since the run began.
//! let (recorder, recording) = Recorder::in_memory(|| 7);
//! let client = ProcessName::new("operator-1");
//! let call = recorder.invoke(&client, Operation::Read {
//!     key: "agent-1/zone".into(),
//!     consistency: Consistency::Linearizable,
//! });
//! recorder.ok(call, OperationResponse::Value { value: None }, None);
//! recorder.fault(Fault::new(FaultKind::Crash, "master-1").with("the leader"));
//! let fact = RaftFact::Led { node: NodeId(2), term: 5, last_index: 40 };
//! recorder.observe(&ProcessName::new("master-2"), fact);
//! let history = recording.finish().unwrap();
//! assert_eq!(history.events.len(), 4);
//! ```
//! An operation ends as `ok` (it took place), `fail` (it did not and never will) or `info` (its
//! outcome is unknown: a timeout is always `info`, never `fail`). A process name identifies the
//! actor or the observer: "master-2", "agent-3", "greedy-1". If a name is checked for
//! linearizability, it has at most one open operation.

mod fault;
mod observation;
mod operation;
mod reader;
mod recorder;
mod text;
pub mod witness;

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use argosy_state::ids::Revision;

pub use fault::{Fault, FaultKind};
pub use observation::{
    AgentFact, AuditFinding, Expectation, FinalTask, FrameworkFact, ListedOffer, Observation,
    OfferFact, OrderAction, Origin, ProcessExit, RaftFact, Removal, RunPhase, TaskFact, WatchFact,
};
pub use operation::{
    CallName, Consistency, DecidedBy, LaunchedTask, Operation, OperationResponse, ReconciledTask,
    RejectedLaunch, UpdateName,
};
pub use reader::{HistoryError, read_file};
pub use recorder::{CallId, RecordError, Recorder, Recording};

/// The actor or observer of an event. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct ProcessName(Arc<str>);

impl ProcessName {
    /// Returns the process called `name`.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for ProcessName {
    fn from(name: String) -> Self {
        Self(name.into())
    }
}

impl From<&str> for ProcessName {
    fn from(name: &str) -> Self {
        Self::new(name)
    }
}

impl From<&ProcessName> for ProcessName {
    fn from(process: &ProcessName) -> Self {
        process.clone()
    }
}

impl From<ProcessName> for String {
    fn from(process: ProcessName) -> Self {
        process.0.as_ref().to_owned()
    }
}

impl fmt::Display for ProcessName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One line of a history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEvent {
    /// Nanoseconds since the run began.
    pub time_ns: u64,
    /// The actor or observer.
    pub process: ProcessName,
    /// The revision at which it became true in the registry, if that is known.
    #[serde(
        with = "text::option",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub revision: Option<Revision>,
    /// The content of the event.
    #[serde(flatten)]
    pub what: EventKind,
}

/// The content of an event. `call` joins the end of an operation to its beginning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum EventKind {
    /// An operation begins.
    Invoke {
        /// Unique in the history.
        call: u64,
        /// The request.
        #[serde(flatten)]
        operation: Operation,
    },
    /// The operation took place.
    Ok {
        call: u64,
        #[serde(flatten)]
        outcome: OperationResponse,
    },
    /// The operation did not take place, and never will.
    Fail {
        call: u64,
        /// `Rejection::code` if the cluster rejected it, otherwise a text.
        reason: String,
    },
    /// The outcome of the operation is unknown.
    Info {
        call: u64,
        /// The known part of the reason.
        reason: String,
    },
    /// The harness injects a fault.
    Fault(Fault),
    /// Something was observed.
    Observation(Observation),
}

/// All events of a run, in order of time.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct History {
    /// Ascending by time. Events with equal times are in the order in which they were recorded.
    pub events: Vec<HistoryEvent>,
}

/// An operation with its end.
#[derive(Debug, Clone, Copy)]
pub struct CallView<'a> {
    /// The position of its beginning among the events.
    pub position: usize,
    /// The event of its beginning.
    pub start: &'a HistoryEvent,
    /// The request.
    pub operation: &'a Operation,
    /// The position and the event of its end; absent if the run ended before.
    pub end: Option<(usize, &'a HistoryEvent)>,
}

impl<'a> CallView<'a> {
    /// Returns the response, if the operation took place.
    #[must_use]
    pub fn outcome(&self) -> Option<&'a OperationResponse> {
        match self.end {
            Some((
                _,
                HistoryEvent {
                    what: EventKind::Ok { outcome, .. },
                    ..
                },
            )) => Some(outcome),
            _ => None,
        }
    }

    /// Returns why the operation did not take place, if that is certain.
    #[must_use]
    pub fn failure(&self) -> Option<&'a str> {
        match self.end {
            Some((
                _,
                HistoryEvent {
                    what: EventKind::Fail { reason, .. },
                    ..
                },
            )) => Some(reason),
            _ => None,
        }
    }
}

impl History {
    /// Sorts the events by time.
    #[must_use]
    pub fn new(mut events: Vec<HistoryEvent>) -> Self {
        events.sort_by_key(|event| event.time_ns);
        Self { events }
    }

    /// Returns every operation with its end, in the order of their beginnings.
    #[must_use]
    pub fn calls(&self) -> Vec<CallView<'_>> {
        let mut calls: Vec<CallView<'_>> = Vec::new();
        let mut places = std::collections::BTreeMap::new();
        for (position, event) in self.events.iter().enumerate() {
            match &event.what {
                EventKind::Invoke { call, operation } => {
                    places.insert(*call, calls.len());
                    calls.push(CallView {
                        position,
                        start: event,
                        operation,
                        end: None,
                    });
                }
                EventKind::Ok { call, .. }
                | EventKind::Fail { call, .. }
                | EventKind::Info { call, .. } => {
                    if let Some(place) = places.get(call) {
                        calls[*place].end.get_or_insert((position, event));
                    }
                }
                EventKind::Fault(_) | EventKind::Observation(_) => {}
            }
        }
        calls
    }

    /// Returns every observation with its position and event.
    pub fn observations(&self) -> impl Iterator<Item = (usize, &HistoryEvent, &Observation)> {
        let events = self.events.iter().enumerate();
        events.filter_map(|(position, event)| match &event.what {
            EventKind::Observation(observation) => Some((position, event, observation)),
            _ => None,
        })
    }

    /// Returns every fault with its position and event.
    pub fn faults(&self) -> impl Iterator<Item = (usize, &HistoryEvent, &Fault)> {
        let events = self.events.iter().enumerate();
        events.filter_map(|(position, event)| match &event.what {
            EventKind::Fault(fault) => Some((position, event, fault)),
            _ => None,
        })
    }

    /// Returns a hash over all lines, as 32 hexadecimal digits. A replay of the seed returns the
    /// same hash.
    ///
    /// # Panics
    /// Never: every event has a JSON form.
    #[must_use]
    pub fn hash(&self) -> String {
        let mut hash = Sha256::new();
        for event in &self.events {
            hash.update(recorder::line(event));
        }
        let bytes = hash.finalize();
        bytes[..16]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }
}

#[cfg(test)]
mod tests;
