//! A history's facts by what they are about, for checkers to walk through.

use std::collections::{BTreeMap, BTreeSet};

use argosy_state::ids::{AgentId, Revision, TaskKey};
use argosy_state::task::TaskState;

use crate::history::{
    AgentFact, Audit, Event, Expectation, FaultKind, History, Observation, OfferFact, Phase,
    RaftFact, TaskFact,
};

/// What separate observers may be apart in saying when something happened. Within this, the order
/// of two things that two processes saw is not known.
pub(super) const APART_NS: u64 = 1_000_000_000;

/// Walks through the facts of one kind.
macro_rules! walk {
    ($(#[$doc:meta] $name:ident: $variant:ident($fact:ident);)*) => {$(
        #[$doc]
        pub(super) fn $name(history: &History) -> impl Iterator<Item = (usize, &Event, &$fact)> {
            history.observations().filter_map(|(at, event, seen)| match seen {
                Observation::$variant(fact) => Some((at, event, fact)),
                _ => None,
            })
        }
    )*};
}

walk! {
    /// About masters.
    of_masters: Raft(RaftFact);
    /// About agents.
    of_agents: Agent(AgentFact);
    /// About offers.
    of_offers: Offer(OfferFact);
    /// About tasks.
    of_tasks: Task(TaskFact);
    /// What must follow.
    expectations: Expect(Expectation);
    /// What was found at the end.
    audits: Audit(Audit);
}

/// Where the final phase begins; `None` if the run did not get there.
pub(super) fn final_phase(history: &History) -> Option<usize> {
    let phase = Phase::Final;
    expectations(history)
        .find(|(_, _, expected)| matches!(expected, Expectation::Phase { phase: now } if *now == phase))
        .map(|(at, _, _)| at)
}

/// A committed change of a task: masters tell of it each for themselves, and it is one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Change {
    pub(super) at: usize,
    pub(super) revision: Revision,
    pub(super) state: TaskState,
}

/// The committed changes of every task, in the order of their revisions. Those without a revision
/// are left out.
pub(super) fn changes(history: &History) -> BTreeMap<&TaskKey, Vec<Change>> {
    let mut all: BTreeMap<&TaskKey, Vec<Change>> = BTreeMap::new();
    for (at, event, fact) in of_tasks(history) {
        if let (TaskFact::Changed { task, state, .. }, Some(revision)) = (fact, event.revision) {
            let state = *state;
            all.entry(task).or_default().push(Change {
                at,
                revision,
                state,
            });
        }
    }
    for changes in all.values_mut() {
        changes.sort_by_key(|change| (change.revision, change.state));
        changes.dedup_by_key(|change| (change.revision, change.state));
    }
    all
}

/// Where every task was launched by a commit: position, fact and agent.
pub(super) fn launches(history: &History) -> BTreeMap<&TaskKey, (usize, &TaskFact, AgentId)> {
    let mut all = BTreeMap::new();
    for (at, _, fact) in of_tasks(history) {
        if let TaskFact::Launched { task, agent, .. } = fact {
            all.entry(task).or_insert((at, fact, *agent));
        }
    }
    all
}

/// Names as "agent-3" of everything that a kind of fault was done to, with its position.
pub(super) fn struck(history: &History, kind: FaultKind) -> Vec<(usize, &str)> {
    let of_kind = history.faults().filter(|(_, _, fault)| fault.kind == kind);
    of_kind
        .map(|(at, _, fault)| (at, fault.target.as_str()))
        .collect()
}

/// Tasks of the registry that have not ended, as the last audit has it.
pub(super) fn registered(history: &History) -> Option<(usize, BTreeSet<&TaskKey>)> {
    let found = audits(history).filter_map(|(at, _, audit)| match audit {
        Audit::Registry { tasks } => Some((at, tasks.iter().map(|task| &task.task).collect())),
        Audit::Host { .. } | Audit::Offers { .. } | Audit::Leftovers { .. } => None,
    });
    found.last()
}
