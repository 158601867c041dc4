//! The facts of a history by subject, as iterators for checkers.

use std::collections::{BTreeMap, BTreeSet};

use argosy_state::ids::{AgentId, FrameworkId, Revision, TaskKey};
use argosy_state::task::TaskState;

use crate::history::{
    AgentFact, AuditFinding, Expectation, FaultKind, FrameworkFact, History, HistoryEvent,
    Observation, OfferFact, Operation, RaftFact, Removal, RunPhase, TaskFact, WatchFact,
};

/// The maximum difference between the times at which separate observers record an event. Within it,
/// the order of two events that two processes recorded is unknown.
pub(super) const SKEW_NS: u64 = 1_000_000_000;

/// Defines an iterator over the facts of one kind.
macro_rules! walk {
    ($(#[$doc:meta] $name:ident: $variant:ident($fact:ident);)*) => {$(
        #[$doc]
        pub(super) fn $name(history: &History) -> impl Iterator<Item = (usize, &HistoryEvent, &$fact)> {
            history.observations().filter_map(|(at, event, seen)| match seen {
                Observation::$variant(fact) => Some((at, event, fact)),
                _ => None,
            })
        }
    )*};
}

walk! {
    /// Returns the facts about masters.
    of_masters: Raft(RaftFact);
    /// Returns the facts about agents.
    of_agents: Agent(AgentFact);
    /// Returns the facts about frameworks.
    of_frameworks: Framework(FrameworkFact);
    /// Returns the facts about offers.
    of_offers: Offer(OfferFact);
    /// Returns the facts about tasks.
    of_tasks: Task(TaskFact);
    /// Returns the messages that readers of the change feed received.
    of_watches: Watch(WatchFact);
    /// Returns the expectations that the harness stated.
    expectations: Expect(Expectation);
    /// Returns the findings of audits.
    audits: Audit(AuditFinding);
}

/// Returns the position at which the final phase begins; `None` if the run did not reach it.
pub(super) fn final_phase(history: &History) -> Option<usize> {
    let phase = RunPhase::Final;
    expectations(history)
        .find(|(_, _, expected)| matches!(expected, Expectation::Phase { phase: now } if *now == phase))
        .map(|(at, _, _)| at)
}

/// A committed change of a task. Each master records it separately, and it counts once.
#[derive(Debug, Clone, Copy)]
pub(super) struct StateChange {
    pub(super) at: usize,
    pub(super) revision: Revision,
    pub(super) state: TaskState,
}

/// Returns the committed changes of every task, in the order of their revisions. Changes without a
/// revision are left out.
pub(super) fn changes(history: &History) -> BTreeMap<&TaskKey, Vec<StateChange>> {
    let mut all: BTreeMap<&TaskKey, Vec<StateChange>> = BTreeMap::new();
    for (at, event, fact) in of_tasks(history) {
        if let (TaskFact::Changed { task, state, .. }, Some(revision)) = (fact, event.revision) {
            let state = *state;
            all.entry(task).or_default().push(StateChange {
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

/// Returns the position, fact and agent of every committed launch.
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
pub(super) struct FrameworkRemoval {
    /// The position at which its removal was requested or, by a deadline, committed.
    pub(super) at: usize,
    pub(super) framework: FrameworkId,
    /// The reason why the removal is wrong, and the event that shows it; `None` for a justified
    /// removal.
    pub(super) violation: Option<(usize, String)>,
}

/// Returns every committed removal. If a history records no facts about frameworks, it returns
/// every requested teardown. A teardown must have been requested. A deadline justifies a removal if
/// the framework was disconnected for its whole failover timeout, by cluster time.
pub(super) fn removals(history: &History) -> Vec<FrameworkRemoval> {
    let calls = history.calls();
    let requested: Vec<(usize, FrameworkId)> = calls
        .iter()
        .filter_map(|call| match call.operation {
            Operation::Teardown { framework, .. } => Some((call.position, *framework)),
            _ => None,
        })
        .collect();
    if of_frameworks(history).next().is_none() {
        let removed = |(at, framework)| FrameworkRemoval {
            at,
            framework,
            violation: None,
        };
        return requested.into_iter().map(removed).collect();
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
                    Removal::Teardown if requested.iter().any(was_asked) => None,
                    Removal::Teardown => {
                        Some((at, "by a teardown that was not requested".to_owned()))
                    }
                    Removal::Deadline => {
                        early_reason(timeouts.get(framework), absences.get(framework), *at_ms)
                    }
                    // Such a framework had no tasks.
                    Removal::Quota => None,
                };
                removals.push(FrameworkRemoval {
                    at,
                    framework: *framework,
                    violation: wrong,
                });
            }
        }
    }
    removals
}

/// Returns the reason why a removal by a deadline came too early, if it did. A framework that was
/// killed before it received its subscription, or whose disconnection no master could record, is
/// not checked.
fn early_reason(
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

/// Returns the frameworks whose tasks may end because they were removed.
pub(super) fn removed(history: &History) -> BTreeSet<FrameworkId> {
    let excused = removals(history)
        .into_iter()
        .filter(|one| one.violation.is_none());
    excused.map(|one| one.framework).collect()
}

/// Returns the targets of a kind of fault, such as "agent-3", with the positions of the faults.
pub(super) fn faults_of_kind(history: &History, kind: FaultKind) -> Vec<(usize, &str)> {
    let of_kind = history.faults().filter(|(_, _, fault)| fault.kind == kind);
    of_kind
        .map(|(at, _, fault)| (at, fault.target.as_str()))
        .collect()
}

/// Returns the tasks of the registry that have not ended, according to the last audit.
pub(super) fn registered(history: &History) -> Option<(usize, BTreeSet<&TaskKey>)> {
    let found = audits(history).filter_map(|(at, _, audit)| match audit {
        AuditFinding::Registry { tasks } => {
            Some((at, tasks.iter().map(|task| &task.task).collect()))
        }
        AuditFinding::Host { .. }
        | AuditFinding::Offers { .. }
        | AuditFinding::Leftovers { .. } => None,
    });
    found.last()
}
