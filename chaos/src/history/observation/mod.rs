//! Observed facts, recorded by the process that observes them. Requests are not facts.
//!
//! A fact carries the ids that it needs. The event around it carries time, observer, and the
//! revision if the registry assigned one.

mod agents;
mod audit;
mod frameworks;
mod offers;
mod raft;
mod tasks;
mod watch;

use serde::{Deserialize, Serialize};

pub use agents::{AgentFact, OrderAction};
pub use audit::{AuditFinding, Expectation, FinalTask, RunPhase};
pub use frameworks::{FrameworkFact, Removal};
pub use offers::{ListedOffer, OfferFact};
pub use raft::{Origin, RaftFact};
pub use tasks::{ProcessExit, TaskFact};
pub use watch::WatchFact;

/// A fact, or an expectation that the harness states.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "about", rename_all = "snake_case")]
pub enum Observation {
    /// A fact about a master, its log and its term.
    Raft(RaftFact),
    /// A fact about an agent and its orders.
    Agent(AgentFact),
    /// A fact about a framework.
    Framework(FrameworkFact),
    /// A fact about an offer, or about the allocation of a role.
    Offer(OfferFact),
    /// A fact about a task.
    Task(TaskFact),
    /// A message of the change feed.
    Watch(WatchFact),
    Expect(Expectation),
    /// A finding of the final audit.
    Audit(AuditFinding),
}

/// Converts each kind of fact into an `Observation`.
macro_rules! from_fact {
    ($($fact:ident => $variant:ident),*) => {$(
        impl From<$fact> for Observation {
            fn from(fact: $fact) -> Self {
                Self::$variant(fact)
            }
        }
    )*};
}

from_fact!(RaftFact => Raft, AgentFact => Agent, FrameworkFact => Framework, OfferFact => Offer, TaskFact => Task,
    WatchFact => Watch, Expectation => Expect, AuditFinding => Audit);
