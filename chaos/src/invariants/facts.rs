//! A history's facts by what they are about, for checkers to walk through.

use std::collections::{BTreeMap, BTreeSet};

use argosy_state::ids::{AgentId, FrameworkId, Revision, TaskKey};
use argosy_state::task::TaskState;

use crate::history::{
    AgentFact, Audit, Event, Expectation, FaultKind, FrameworkFact, History, Observation,
    OfferFact, Operation, Phase, RaftFact, Removal, TaskFact,
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
    /// About frameworks.
    of_frameworks: Framework(FrameworkFact);
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

/// A framework whose removal a history records.
pub(super) struct Removed {
    /// Where its removal was asked for or, by a deadline, committed.
    pub(super) at: usize,
    pub(super) framework: FrameworkId,
    /// Why nothing excuses it, and the event that shows that; `None` for a removal that had to come.
    pub(super) wrong: Option<(usize, String)>,
}

/// Every removal that was committed; of a history that records no facts about frameworks, every teardown that was asked
/// for. A teardown must have been asked for, and a deadline excuses a removal if the framework was disconnected for all
/// of its failover timeout, by cluster time.
pub(super) fn removals(history: &History) -> Vec<Removed> {
    let calls = history.calls();
    let asked: Vec<(usize, FrameworkId)> = calls
        .iter()
        .filter_map(|call| match call.operation {
            Operation::Teardown { framework, .. } => Some((call.position, *framework)),
            _ => None,
        })
        .collect();
    if of_frameworks(history).next().is_none() {
        let removed = |(at, framework)| Removed {
            at,
            framework,
            wrong: None,
        };
        return asked.into_iter().map(removed).collect();
    }
    let mut removals = Vec::new();
    let mut timeouts = BTreeMap::new();
    let mut absences = BTreeMap::new();
    for (at, _, fact) in of_frameworks(history) {
        match fact {
            FrameworkFact::Subscribed {
                framework,
                failover_timeout_ms,
            } => {
                timeouts.insert(*framework, *failover_timeout_ms);
            }
            FrameworkFact::Disconnected { framework, at_ms } => {
                absences.insert(*framework, (at, *at_ms));
            }
            FrameworkFact::Removing {
                framework,
                by,
                at_ms,
            } => {
                let was_asked = |(asked, of): &(usize, FrameworkId)| of == framework && *asked < at;
                let wrong = match by {
                    Removal::Teardown if asked.iter().any(was_asked) => None,
                    Removal::Teardown => {
                        Some((at, "by a teardown that nobody asked for".to_owned()))
                    }
                    Removal::Deadline => {
                        early(timeouts.get(framework), absences.get(framework), *at_ms)
                    }
                    // It had no tasks.
                    Removal::Room => None,
                };
                removals.push(Removed {
                    at,
                    framework: *framework,
                    wrong,
                });
            }
        }
    }
    removals
}

/// What is wrong with a removal by a deadline. A framework that was killed before it heard of its subscription, or
/// whose disconnection no master could show, is not judged.
fn early(
    timeout_ms: Option<&u64>,
    absence: Option<&(usize, u64)>,
    at_ms: u64,
) -> Option<(usize, String)> {
    let (timeout_ms, (since, since_ms)) = (timeout_ms?, absence?);
    let away_ms = at_ms.saturating_sub(*since_ms);
    (away_ms < *timeout_ms).then(|| {
        let words =
            format!("{away_ms} ms after it was disconnected, and may be away for {timeout_ms} ms");
        (*since, words)
    })
}

/// Frameworks whose tasks may end because they were removed.
pub(super) fn removed(history: &History) -> BTreeSet<FrameworkId> {
    let excused = removals(history)
        .into_iter()
        .filter(|one| one.wrong.is_none());
    excused.map(|one| one.framework).collect()
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
