//! Delivery of updates to frameworks: a cursor over the registry's records, not a queue.
//!
//! The number of tasks in flight is bounded; the next ones are sent when those are acknowledged.

use std::ops::Bound;

use argosy_proto::{convert, v1};
use argosy_state::Registry;
use argosy_state::actor::Actor;
use argosy_state::buggify;
use argosy_state::command::{Acknowledge, ApplyOutcome, Command, RaiseLowWater};
use argosy_state::ids::{FrameworkId, Revision, TaskId, TaskKey};
use argosy_state::limits;
use argosy_state::planted_bug;
use argosy_state::task::{Reason, Task, TaskState, UpdateSource};

use super::frameworks::ReplayCursor;
use super::{Leader, LeaderTime, ProposalOrigin, ReconcileQuery, refused};
use crate::leader_reply::LeaderReply;
use crate::links::{LinkId, RequestId};

/// Maximum number of tasks of one framework with updates that are sent and not acknowledged.
const IN_FLIGHT: usize = 1_000;

impl Leader {
    /// Sends an update of a task that is in flight immediately; another task waits in line.
    pub(super) fn task_updated(&mut self, registry: &Registry, key: &TaskKey) {
        let Some(link) = self.linked_frameworks.get(&key.framework).copied() else {
            return;
        };
        let Some(state) = self.framework_links.get_mut(&link) else {
            return;
        };
        if state.in_flight.contains_key(&key.task) {
            self.send_updates(registry, link, key);
        } else {
            state.unsent.insert(key.task.clone());
            self.pump_updates(registry, link);
        }
    }

    /// Releases the slot of a task that no longer exists: it will not be acknowledged.
    pub(super) fn task_forgotten(&mut self, registry: &Registry, key: &TaskKey) {
        let Some(link) = self.linked_frameworks.get(&key.framework).copied() else {
            return;
        };
        let Some(state) = self.framework_links.get_mut(&link) else {
            return;
        };
        state.unsent.remove(&key.task);
        if state.in_flight.remove(&key.task).is_some() {
            self.pump_updates(registry, link);
        }
    }

    /// Sends waiting updates, as far as there is room.
    pub(super) fn pump_updates(&mut self, registry: &Registry, link: LinkId) {
        while let Some(state) = self.framework_links.get_mut(&link) {
            let Some(framework) = state.framework else {
                return;
            };
            if state.in_flight.len() >= buggify!(OneUpdateInFlight, IN_FLIGHT, 1) {
                return;
            }
            let waits = state.unsent.pop_first();
            let Some(task) =
                waits.or_else(|| next_replayed(registry, framework, &mut state.replay))
            else {
                return;
            };
            self.send_updates(registry, link, &TaskKey { framework, task });
        }
    }

    /// Sends the updates of a task that this stream has not been sent yet. The task is in flight
    /// then.
    fn send_updates(&mut self, registry: &Registry, link: LinkId, key: &TaskKey) {
        let Some(state) = self.framework_links.get_mut(&link) else {
            return;
        };
        let Some(task) = registry.task(key) else {
            return;
        };
        let sent = state.in_flight.get(&key.task).copied().unwrap_or_default();
        let unsent = task.unacknowledged.iter();
        let unsent: Vec<_> = unsent.filter(|update| update.revision > sent).collect();
        if let Some(last) = unsent.last() {
            state.in_flight.insert(key.task.clone(), last.revision);
        }
        for update in unsent {
            let status = convert::status(task, update);
            self.send_to_framework(link, v1::event::Event::Update(status));
        }
    }

    pub(super) fn acknowledge(
        &mut self,
        registry: &Registry,
        request: RequestId,
        actor: Actor,
        acknowledge: Acknowledge,
    ) {
        let framework = acknowledge.framework;
        let most = limits::ACKNOWLEDGEMENTS_PER_COMMAND;
        if acknowledge.updates.len() > most {
            let count = acknowledge.updates.len();
            let message = format!("{count} acknowledgements; at most {most} in one command");
            return self.answer(
                request,
                LeaderReply::Refused {
                    code: "invalid",
                    message,
                },
            );
        }
        // A leader that was deposed without noticing has not seen the update: its absence proves
        // nothing.
        let applied = registry.applied();
        let stored = |(task, revision): &(TaskId, Revision)| {
            let task = registry.task(&TaskKey {
                framework,
                task: task.clone(),
            });
            let waits = task.is_some_and(|task| {
                let mut updates = task.unacknowledged.iter();
                updates.any(|update| update.revision <= *revision)
            });
            !waits && revision.index <= applied
        };
        // A repeat, or an acknowledgement of a task that was removed long ago, needs no entry.
        let known = registry
            .framework(framework)
            .is_some_and(|known| known.session == acknowledge.session);
        if known && acknowledge.updates.iter().all(stored) {
            return self.answer(request, LeaderReply::Acknowledged);
        }
        self.propose(
            actor,
            Command::Acknowledge(acknowledge.clone()),
            ProposalOrigin::Acknowledge(request, acknowledge),
        );
    }

    pub(super) fn acknowledge_applied(
        &mut self,
        registry: &Registry,
        request: RequestId,
        acknowledge: &Acknowledge,
        outcome: ApplyOutcome,
    ) {
        if let Err(why) = outcome {
            return self.answer(request, refused(&why));
        }
        self.answer(request, LeaderReply::Acknowledged);
        let Some(link) = self.linked_frameworks.get(&acknowledge.framework).copied() else {
            return;
        };
        let Some(state) = self.framework_links.get_mut(&link) else {
            return;
        };
        for (task, revision) in &acknowledge.updates {
            if state
                .in_flight
                .get(task)
                .is_some_and(|sent| sent <= revision)
            {
                state.in_flight.remove(task);
            }
        }
        self.pump_updates(registry, link);
    }

    /// Answers immediately from the registry. UNKNOWN is a guarantee, so it waits for a commit. So
    /// does a rejection: a leader that was deposed without noticing may not know the framework, or
    /// its newest session.
    pub(super) fn reconcile(
        &mut self,
        registry: &Registry,
        now: LeaderTime,
        request: RequestId,
        actor: Actor,
        reconcile: ReconcileQuery,
    ) {
        let is_known = |task: &TaskId| {
            let key = TaskKey {
                framework: reconcile.framework,
                task: task.clone(),
            };
            registry.task(&key).is_some() || registry.finished_task(&key).is_some()
        };
        if reconcile.tasks.len() > limits::RECORDS_PER_COMMAND {
            let message = format!(
                "{} tasks in one question; at most {}",
                reconcile.tasks.len(),
                limits::RECORDS_PER_COMMAND
            );
            let code = "invalid";
            return self.answer(request, LeaderReply::Refused { code, message });
        }
        let framework = registry.framework(reconcile.framework);
        let current = framework.filter(|framework| framework.session == reconcile.session);
        if current.is_some_and(|framework| {
            reconcile.tasks.iter().all(is_known)
                || framework.low_water >= reconcile.next_number
                || planted_bug!(UnknownTooEarly)
        }) {
            return self.answer(request, statuses(registry, now, &reconcile));
        }
        let raise = RaiseLowWater {
            framework: reconcile.framework,
            session: reconcile.session,
            to: reconcile.next_number,
        };
        self.propose(
            actor,
            Command::RaiseLowWater(raise),
            ProposalOrigin::Reconcile(request, reconcile),
        );
    }

    pub(super) fn reconcile_applied(
        &mut self,
        registry: &Registry,
        now: LeaderTime,
        request: RequestId,
        reconcile: &ReconcileQuery,
        outcome: ApplyOutcome,
    ) {
        match outcome {
            Ok(_) => self.answer(request, statuses(registry, now, reconcile)),
            Err(why) => self.answer(request, refused(&why)),
        }
    }
}

/// Returns the next task of a stream's replay. A task that is in flight by then is sent nothing
/// twice.
fn next_replayed(
    registry: &Registry,
    framework: FrameworkId,
    replay: &mut ReplayCursor,
) -> Option<TaskId> {
    let from = match replay {
        ReplayCursor::Start => Bound::Unbounded,
        ReplayCursor::After(last) => Bound::Excluded(&*last),
        ReplayCursor::Done => return None,
    };
    let next = registry.framework_index(framework).and_then(|index| {
        let mut waiting = index
            .unacknowledged
            .range::<TaskId, _>((from, Bound::Unbounded));
        waiting.next().cloned()
    });
    *replay = next.clone().map_or(ReplayCursor::Done, ReplayCursor::After);
    next
}

/// Returns one answer for each task: the state that the framework was last sent, or UNKNOWN. Of all
/// tasks, it returns a bounded part.
fn statuses(registry: &Registry, now: LeaderTime, reconcile: &ReconcileQuery) -> LeaderReply {
    let (statuses, more) = if reconcile.tasks.is_empty() {
        statuses_page(registry, reconcile)
    } else {
        let named = reconcile.tasks.iter();
        let named = named.map(|task| task_status(registry, now, reconcile, task));
        (named.collect(), None)
    };
    let revision = Revision {
        index: registry.applied(),
        position: 0,
    };
    let reply = v1::ReconcileReply {
        statuses,
        revision: Some(convert::revision(revision)),
        next_page_token: String::new(),
    };
    LeaderReply::Reconciled { reply, more }
}

fn statuses_page(
    registry: &Registry,
    reconcile: &ReconcileQuery,
) -> (Vec<v1::TaskStatus>, Option<TaskId>) {
    let framework = reconcile.framework;
    let from = reconcile
        .after
        .as_ref()
        .map_or(Bound::Unbounded, Bound::Excluded);
    let tasks = registry
        .framework_index(framework)
        .map(|index| &index.tasks);
    let names: Vec<&TaskId> = tasks
        .into_iter()
        .flat_map(|tasks| tasks.range::<TaskId, _>((from, Bound::Unbounded)))
        .take(limits::RECORDS_PER_COMMAND)
        .collect();
    let tasks = names.iter().filter_map(|task| {
        let task = (*task).clone();
        registry.task(&TaskKey { framework, task })
    });
    let statuses = tasks.filter(|task| !task.is_terminal()).map(current_status);
    let more = names
        .last()
        .filter(|_| names.len() == limits::RECORDS_PER_COMMAND);
    (statuses.collect(), more.map(|task| (*task).clone()))
}

fn task_status(
    registry: &Registry,
    now: LeaderTime,
    reconcile: &ReconcileQuery,
    task: &TaskId,
) -> v1::TaskStatus {
    let key = TaskKey {
        framework: reconcile.framework,
        task: task.clone(),
    };
    let known = registry
        .task(&key)
        .or_else(|| registry.finished_task(&key).map(|finished| &finished.task));
    known.map_or_else(
        || v1::TaskStatus {
            framework_id: key.framework.to_string(),
            task_id: key.task.to_string(),
            state: v1::TaskState::from(TaskState::Unknown).into(),
            source: v1::Source::from(UpdateSource::Master).into(),
            reason: v1::Reason::from(Reason::TaskUnknown).into(),
            message: "the cluster does not know this task; no earlier call can start it any more"
                .to_owned(),
            wall_ms: now.wall_ms,
            ..v1::TaskStatus::default()
        },
        current_status,
    )
}

/// Returns the current state of a task. Answers are not acknowledged, so they carry no revision.
fn current_status(task: &Task) -> v1::TaskStatus {
    let status = convert::status(task, &task.latest);
    v1::TaskStatus {
        revision: None,
        reason: v1::Reason::from(Reason::Reconciliation).into(),
        ..status
    }
}
