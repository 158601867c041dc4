//! Updates: numbered for each task, on disk before they are sent, kept until a master has committed
//! them.

use std::collections::BTreeSet;

use argosy_state::buggify;
use argosy_state::task::{Code, Explanation, Reason, ReportedText, TaskState, UpdateSource};

use super::check_schedule::TaskChecks;
use super::facts::{Instance, JournalRecord, TaskFacts};
use super::lifecycle::{InstancePhase, InstanceState};
use super::limits::LimitUpdateResult;
use super::messages::{AgentMessage, HeldTask};
use super::numbered_update::NumberedUpdate;
use super::outcome::{FailureCause, TaskEnd};
use super::{Core, DeferredStep, SyncMode};

/// Maximum number of updates in one message.
const UPDATES_PER_MESSAGE: usize = 500;
/// Maximum number of uncommitted updates of one task, except for a new state. Later check results
/// are reported, with their then current values, when fewer are waiting.
const MAX_UNCOMMITTED: usize = 8;
/// Tasks in one chunk of a list.
const TASKS_PER_CHUNK: usize = 500;

impl Core {
    pub(super) fn mark_dirty(&mut self, instance: Instance) {
        self.updates.mark(instance, self.now);
    }

    /// Marks a task that has started for a report.
    pub(super) fn mark_started(&mut self, instance: Instance) {
        self.updates.mark_started(instance, self.now);
    }

    /// Marks a task that has ended for a report.
    pub(super) fn mark_ended(&mut self, instance: Instance) {
        self.updates.mark_ended(instance, self.now);
    }

    /// Makes updates of everything that has changed.
    pub(super) fn report(&mut self) {
        let dirty = self.updates.take_all(self.now);
        self.update(dirty);
    }

    /// Makes updates of the tasks that have ended.
    pub(super) fn report_ends(&mut self) {
        let instances = &self.instances;
        let has_ended = |instance| {
            let state = instances.get(&instance);
            state.is_some_and(InstanceState::has_ended)
        };
        let ended = self.updates.take_ended(self.now, has_ended);
        self.update(ended);
    }

    fn update(&mut self, dirty: BTreeSet<Instance>) {
        let mut updates = Vec::new();
        let mut ended = Vec::new();
        let mut failed = Vec::new();
        for instance in dirty {
            let update = self.next_update(instance);
            // Reported, or older than the next report.
            if let Some(state) = self.instances.get_mut(&instance) {
                state.fetch_progress = None;
                if update.is_some() {
                    state.limit_update.result = None;
                }
            }
            if let Some(update) = update {
                if update.state.is_terminal() {
                    ended.push(instance);
                }
                if update.failure().is_some() {
                    failed.push(instance);
                }
                let update = Box::new(update);
                updates.push((*update).clone());
                self.persist(
                    JournalRecord::Updated { instance, update },
                    SyncMode::Awaited,
                );
                self.mark_updated(instance);
            }
            self.settle(instance);
        }
        self.send_updates(updates);
        for instance in ended {
            self.when_durable(DeferredStep::Destroy(instance));
        }
        for instance in failed {
            self.when_durable(DeferredStep::Kill(instance));
        }
    }

    fn next_update(&self, instance: Instance) -> Option<NumberedUpdate> {
        let state = self.instances.get(&instance)?;
        let task = self.facts.tasks.get(&instance).filter(|task| task.held)?;
        let draft = observe(state, task)?;
        let standing = state
            .checks
            .as_ref()
            .map_or(task.check_results, TaskChecks::results);
        let hosted = state.hosted.as_deref();
        let has_words = hosted.is_some_and(|hosted| hosted.has_new_explanation(task, self.now));
        let is_news = standing != task.check_results
            || state.fetch_progress.is_some()
            || state.limit_update.result.is_some()
            || has_words;
        let is_new = draft.state != task.state || (is_news && task.updates.len() < MAX_UNCOMMITTED);
        if !is_new || !task.state.may_become(draft.state) {
            return None;
        }
        Some(NumberedUpdate {
            key: task.key.clone(),
            order: instance.order,
            number: task.newest_update + 1,
            state: draft.state,
            source: draft.source,
            reason: draft.reason,
            text: ReportedText::of(draft.why),
            exit: draft.exit,
            wall_ms: self.wall_ms(),
            check_results: standing,
            verbatim: None,
            limits: state
                .limit_update
                .result
                .as_ref()
                .map(LimitUpdateResult::report),
        })
    }

    /// Reports the present state of every held task once more, under a new number.
    pub(super) fn restate(&mut self) {
        let held: Vec<_> = self.facts.by_key.values().copied().collect();
        for instance in held {
            let Some(task) = self.facts.tasks.get(&instance) else {
                continue;
            };
            if task.newest_update == 0 {
                continue;
            }
            let update = Box::new(NumberedUpdate {
                key: task.key.clone(),
                order: instance.order,
                number: task.newest_update + 1,
                state: task.state,
                source: UpdateSource::Agent,
                reason: Reason::None,
                text: ReportedText::of(Explanation::default()),
                exit: None,
                wall_ms: self.wall_ms(),
                check_results: task.check_results,
                verbatim: None,
                limits: None,
            });
            let updated = JournalRecord::Updated { instance, update };
            self.persist(updated, SyncMode::Awaited);
            self.mark_updated(instance);
        }
    }

    fn wall_ms(&self) -> i64 {
        i64::try_from(self.now.0)
            .unwrap_or(i64::MAX)
            .saturating_add(self.config.wall_offset_ms)
    }

    /// Sends updates. An unregistered agent sends nothing: it sends all updates right after the
    /// registration.
    pub(super) fn send_updates(&mut self, updates: Vec<NumberedUpdate>) {
        let Some(link) = self.link.registered() else {
            return;
        };
        let most = buggify!(OneUpdateAMessage, UPDATES_PER_MESSAGE, 1);
        for chunk in updates.chunks(most) {
            let report = AgentMessage::Report(chunk.to_vec());
            self.when_durable(DeferredStep::Send(link, Box::new(report)));
        }
    }

    pub(super) fn resend_updates(&mut self) {
        let tasks = self.facts.tasks.values().filter(|task| task.held);
        let updates = tasks
            .flat_map(|task| task.updates.iter().cloned())
            .collect();
        self.send_updates(updates);
    }

    /// Sends all held tasks, in the order in which the registry compares them.
    pub(super) fn list_tasks(&mut self, link: u64) {
        let held: Vec<_> = self
            .facts
            .by_key
            .values()
            .filter_map(|instance| Some((instance, self.facts.tasks.get(instance)?)))
            .map(|(instance, task)| held_task(*instance, task))
            .collect();
        let floor = self.facts.floor;
        let most = buggify!(OneTaskAChunk, TASKS_PER_CHUNK, 1);
        let chunks = held.len().div_ceil(most).max(1);
        for at in 0..chunks {
            let tasks = held.iter().skip(at * most).take(most);
            let list = AgentMessage::TaskList {
                floor,
                tasks: tasks.cloned().collect(),
                last: at + 1 == chunks,
            };
            self.when_durable(DeferredStep::Send(link, Box::new(list)));
        }
    }
}

fn held_task(instance: Instance, task: &TaskFacts) -> HeldTask {
    HeldTask {
        key: task.key.clone(),
        order: instance.order,
        committed: task.committed,
        state: task.state,
    }
}

/// Returns the reportable state of an instance, if it has one.
fn observe(current: &InstanceState, task: &TaskFacts) -> Option<TaskEnd> {
    let now = |state, reason, why: Explanation| TaskEnd::by_agent(state, reason, why);
    let quiet = Reason::None;
    let nothing = Explanation::default;
    if let Some(hosted) = current.hosted.as_deref().filter(|_| !current.has_ended()) {
        return hosted.observe(task);
    }
    match current.phase {
        InstancePhase::Waiting
        | InstancePhase::Recovering
        | InstancePhase::Unknown
        | InstancePhase::Starting => None,
        InstancePhase::Fetching | InstancePhase::Prepared => {
            let known = current.fetch_progress.clone();
            let what = known.unwrap_or_else(|| Explanation::of(Code::Fetching, &[]));
            Some(now(TaskState::Starting, quiet, what))
        }
        InstancePhase::Running if task.kill_grace_ms.is_some() => {
            let why = current.group.why();
            Some(now(TaskState::Killing, Reason::TaskKilled, why))
        }
        InstancePhase::Running
            if let (None, Some(limited)) = (&current.failure, &current.limit_update.result) =>
        {
            // A master keeps only the newest update, so its text contains the check results, too.
            let watch = current.checks.as_ref();
            let untold = watch.filter(|watch| watch.results() != task.check_results);
            let news = untold.and_then(|watch| watch.change.as_ref());
            let why = match news {
                Some((_, found)) => found.clone().then(limited.explanation()),
                None => limited.explanation(),
            };
            Some(now(TaskState::Running, Reason::LimitsUpdated, why))
        }
        InstancePhase::Running => Some(match (&current.failure, &current.checks) {
            (Some(FailureCause::DeadlineExceeded), _) => {
                now(TaskState::Killing, Reason::MaxCompletionTime, nothing())
            }
            (Some(FailureCause::Unhealthy(why)), _) => {
                now(TaskState::Killing, Reason::HealthCheckFailed, why.clone())
            }
            (Some(FailureCause::DiskLimitExceeded(why)), _) => {
                now(TaskState::Killing, Reason::LimitDisk, why.clone())
            }
            (
                None,
                Some(TaskChecks {
                    change: Some((reason, why)),
                    ..
                }),
            ) => now(TaskState::Running, *reason, why.clone()),
            (None, _) => now(TaskState::Running, quiet, nothing()),
        }),
        InstancePhase::Ended => current.end.clone(),
    }
}
