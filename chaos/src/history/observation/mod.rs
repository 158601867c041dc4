//! What was seen to happen, by whoever could see it: never what somebody wanted.
//!
//! A fact carries the names that it needs; when and by whom stands in the event around it, and the
//! revision too, where the registry gave it one.

mod agents;
mod audit;
mod frameworks;
mod offers;
mod raft;
mod tasks;

use serde::{Deserialize, Serialize};

pub use agents::{AgentFact, OrderAction};
pub use audit::{Audit, Expectation, FinalTask, Phase};
pub use frameworks::{FrameworkFact, Removal};
pub use offers::{ListedOffer, OfferFact};
pub use raft::{Origin, RaftFact};
pub use tasks::{End, TaskFact};

/// One fact, or what the harness holds the cluster to from now on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "about", rename_all = "snake_case")]
pub enum Observation {
    /// About a master, its log and its term.
    Raft(RaftFact),
    /// About an agent and its orders.
    Agent(AgentFact),
    /// About a framework.
    Framework(FrameworkFact),
    /// About an offer, or what roles were given.
    Offer(OfferFact),
    /// About a task.
    Task(TaskFact),
    /// What must follow.
    Expect(Expectation),
    /// What was found at the end.
    Audit(Audit),
}

/// Lets a recorder take any of the facts.
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
    Expectation => Expect, Audit => Audit);
