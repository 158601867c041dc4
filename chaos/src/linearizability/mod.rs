//! Checks whether the operations on each register are linearizable: whether they could have
//! happened one at a time, each between its beginning and its end. It uses Wing and Gong's search
//! with Lowe's memory of states, for one register at a time.
//!
//! An operation of unknown outcome may take place at any time after its beginning, or never. The
//! search has a budget: "undecided" is neither a pass nor a failure.

mod register;
mod search;

use std::collections::BTreeMap;
use std::time::Instant;

use crate::history::{Consistency, EventKind, History, Operation};

pub use register::{RegisterCall, RegisterOp};
pub use search::{SearchOutcome, search};

/// The budget of the search for one register.
#[derive(Debug, Clone, Copy)]
pub enum Budget {
    /// This number of steps: the same result on every machine.
    Steps(u64),
    /// Until this moment.
    Deadline(Instant),
}

/// Returns the calls of every register, by its name, in the order in which they began. It leaves
/// out local reads, operations that did not take place, and reads without a response.
#[must_use]
pub fn registers(history: &History) -> BTreeMap<&str, Vec<RegisterCall<'_>>> {
    let mut all: BTreeMap<&str, Vec<RegisterCall<'_>>> = BTreeMap::new();
    for call in history.calls() {
        let key = match call.operation {
            Operation::Read { key, consistency } => {
                if *consistency == Consistency::Local {
                    continue;
                }
                key
            }
            Operation::Write { key, .. } | Operation::CompareAndSet { key, .. } => key,
            _ => continue,
        };
        let is_known = |what: &EventKind| matches!(what, EventKind::Ok { .. });
        let ended = call.end.filter(|(_, event)| is_known(&event.what));
        let action = register::action(call.operation, call.outcome());
        if let (Some(action), None) = (action, call.failure()) {
            all.entry(key).or_default().push(RegisterCall {
                start: call.position,
                end: ended.map(|(at, _)| at),
                action,
            });
        }
    }
    all
}

#[cfg(test)]
mod tests;
