//! Updates on their way to frameworks: a cursor over the registry's records, not a queue.
//!
//! At most so many tasks are in flight; the next ones are sent when those are acknowledged.

use argosy_proto::{convert, v1};
use argosy_state::Registry;
use argosy_state::command::{Acknowledge, Command, Outcome, RaiseLowWater};
use argosy_state::ids::{Revision, TaskKey};
use argosy_state::limits;
use argosy_state::task::{Reason, Source, Task, TaskState};

use super::{Answer, Leader, Now, Reconcile, Route, refused};
use crate::links::{LinkId, RequestId};

/// Tasks of one framework with updates sent and not acknowledged.
const IN_FLIGHT: usize = 1_000;

impl Leader {
    pub(super) fn task_updated(&mut self, registry: &Registry, key: &TaskKey) {
        let Some(link) = self.linked_frameworks.get(&key.framework).copied() else {
            return;
        };
        let Some(state) = self.framework_links.get_mut(&link) else {
            return;
        };
        state.unsent.insert(key.task.clone());
        self.pump_updates(registry, link);
    }

    /// Sends what waits, as far as there is room.
    pub(super) fn pump_updates(&mut self, registry: &Registry, link: LinkId) {
        let mut statuses = Vec::new();
        let Some(state) = self.framework_links.get_mut(&link) else {
            return;
        };
        let Some(framework) = state.framework else {
            return;
        };
        let mut blocked = Vec::new();
        while let Some(name) = state.unsent.pop_first() {
            if state.in_flight.len() >= IN_FLIGHT && !state.in_flight.contains_key(&name) {
                blocked.push(name);
                break;
            }
            let key = TaskKey {
                framework,
                task: name,
            };
            let Some(task) = registry.task(&key) else {
                continue;
            };
            let sent = state.in_flight.get(&key.task).copied().unwrap_or_default();
            for update in task
                .unacknowledged
                .iter()
                .filter(|update| update.revision > sent)
            {
                statuses.push(convert::status(task, update));
                state.in_flight.insert(key.task.clone(), update.revision);
            }
        }
        state.unsent.extend(blocked);
        for status in statuses {
            self.tell_framework(link, v1::event::Event::Update(status));
        }
    }

    pub(super) fn acknowledge(
        &mut self,
        registry: &Registry,
        request: RequestId,
        acknowledge: Acknowledge,
    ) {
        let framework = acknowledge.framework;
        if acknowledge.updates.len() > limits::RECORDS_PER_COMMAND {
            let message = format!(
                "{} acknowledgements; at most {} in one call",
                acknowledge.updates.len(),
                limits::RECORDS_PER_COMMAND
            );
            return self.answer(
                request,
                Answer::Refused {
                    code: "invalid",
                    message,
                },
            );
        }
        let stored = |(task, revision): &(argosy_state::ids::TaskId, Revision)| {
            let task = registry.task(&TaskKey {
                framework,
                task: task.clone(),
            });
            task.is_none_or(|task| {
                task.unacknowledged
                    .iter()
                    .all(|update| update.revision > *revision)
            })
        };
        // A repeat, or one for what is long forgotten, needs no entry.
        let known = registry
            .framework(framework)
            .is_some_and(|known| known.session == acknowledge.session);
        if known && acknowledge.updates.iter().all(stored) {
            return self.answer(request, Answer::Acknowledged);
        }
        self.propose(
            Command::Acknowledge(acknowledge.clone()),
            Route::Acknowledge(request, acknowledge),
        );
    }

    pub(super) fn acknowledged(
        &mut self,
        registry: &Registry,
        request: RequestId,
        acknowledge: &Acknowledge,
        outcome: Outcome,
    ) {
        if let Err(why) = outcome {
            return self.answer(request, refused(&why));
        }
        self.answer(request, Answer::Acknowledged);
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

    /// Answers at once from the registry. UNKNOWN is a promise, so it waits for a commit.
    pub(super) fn reconcile(
        &mut self,
        registry: &Registry,
        now: Now,
        request: RequestId,
        reconcile: Reconcile,
    ) {
        let Some(framework) = registry.framework(reconcile.framework) else {
            let why = argosy_state::command::Rejection::UnknownFramework(reconcile.framework);
            return self.answer(request, refused(&why));
        };
        if framework.session != reconcile.session {
            let why = argosy_state::command::Rejection::Superseded(reconcile.framework);
            return self.answer(request, refused(&why));
        }
        let is_known = |task: &argosy_state::ids::TaskId| {
            let key = TaskKey {
                framework: reconcile.framework,
                task: task.clone(),
            };
            registry.task(&key).is_some() || registry.finished_task(&key).is_some()
        };
        if reconcile.tasks.iter().all(is_known) || framework.low_water >= reconcile.next_number {
            let reply = statuses(registry, now, &reconcile);
            return self.answer(request, Answer::Reconciled(reply));
        }
        let raise = RaiseLowWater {
            framework: reconcile.framework,
            session: reconcile.session,
            to: reconcile.next_number,
        };
        self.propose(
            Command::RaiseLowWater(raise),
            Route::Reconcile(request, reconcile),
        );
    }

    pub(super) fn reconciled(
        &mut self,
        registry: &Registry,
        now: Now,
        request: RequestId,
        reconcile: &Reconcile,
        outcome: Outcome,
    ) {
        match outcome {
            Ok(_) => self.answer(
                request,
                Answer::Reconciled(statuses(registry, now, reconcile)),
            ),
            Err(why) => self.answer(request, refused(&why)),
        }
    }
}

/// One answer a task: the state that the framework was last told, or UNKNOWN.
fn statuses(registry: &Registry, now: Now, reconcile: &Reconcile) -> v1::ReconcileReply {
    let statuses = if reconcile.tasks.is_empty() {
        registry
            .tasks_of(reconcile.framework)
            .filter(|task| !task.is_terminal())
            .map(answer)
            .collect()
    } else {
        reconcile
            .tasks
            .iter()
            .map(|task| one(registry, now, reconcile, task))
            .collect()
    };
    let revision = Revision {
        index: registry.applied(),
        position: 0,
    };
    v1::ReconcileReply {
        statuses,
        revision: Some(convert::revision(revision)),
    }
}

fn one(
    registry: &Registry,
    now: Now,
    reconcile: &Reconcile,
    task: &argosy_state::ids::TaskId,
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
            source: v1::Source::from(Source::Master).into(),
            reason: v1::Reason::from(Reason::TaskUnknown).into(),
            message: "the cluster does not know this task; no earlier call can start it any more"
                .to_owned(),
            wall_ms: now.wall_ms,
            ..v1::TaskStatus::default()
        },
        answer,
    )
}

/// The present state of a task. Answers are not acknowledged, so they carry no revision.
fn answer(task: &Task) -> v1::TaskStatus {
    let status = convert::status(task, &task.latest);
    v1::TaskStatus {
        revision: None,
        reason: v1::Reason::from(Reason::Reconciliation).into(),
        ..status
    }
}
