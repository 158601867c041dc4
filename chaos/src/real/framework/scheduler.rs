//! The framework's reactions to offers, updates and time.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use argosy_client::SchedulerConfig;
use argosy_client::resources::from_wire;
use argosy_client::scheduler::{
    Accept, CallKey, CallOutcome as Ending, CallResult, OfferOperation, Scheduler, SchedulerDriver,
    SchedulerError, Subscription, is_terminal,
};
use argosy_host::atomic_file::{self, WriteOptions};
use argosy_proto::convert::revision_from;
use argosy_proto::v1;
use argosy_state::ids::{FrameworkId, TaskId, TaskKey};
use argosy_testbed::schedulers::{FrameworkBehaviour, WorkPhase};

use super::facts::{exit_of, log_failure, offer_ids, state_of};
use super::journal::FrameworkJournal;
use super::limits::LimitChanges;
use super::open_task::OpenTask;
use super::queue::WorkQueue;
use super::tasks::{TaskKind, group_members, group_of, has_changed_limits, service_lifetime};
use super::{FrameworkArguments, FrameworkProgress};
use crate::history::{
    CallId, CallName, LaunchedTask, OfferFact, Operation, OperationResponse, ProcessName, Recorder,
    TaskFact,
};
use crate::rng::Rng;
use crate::workload::calls::{offer_made, response};

/// Interval of reconciliations of open tasks.
const RECONCILE_EVERY: Duration = Duration::from_secs(10);
/// Maximum time for which a greedy framework holds an offer.
const MAX_HOLD_MS: u64 = 4_000;

/// An offer that the framework holds.
struct HeldOffer {
    offer: v1::Offer,
    use_at: Instant,
}

/// The state of the framework.
pub(super) struct ChaosScheduler {
    name: String,
    behaviour: FrameworkBehaviour,
    directory: PathBuf,
    /// This executable, which also starts services.
    executable: PathBuf,
    progress_file: PathBuf,
    process: ProcessName,
    journal: FrameworkJournal,
    recorder: Recorder,
    rng: Rng,
    session: u64,
    framework: Option<FrameworkId>,
    open_tasks: BTreeMap<String, OpenTask>,
    offers: BTreeMap<String, HeldOffer>,
    queue: WorkQueue,
    limits: LimitChanges,
    /// Open calls. A kill has its task.
    calls: BTreeMap<CallKey, (CallId, Option<String>)>,
    calls_made: u64,
    phase: WorkPhase,
    reconciled_at: Instant,
}

impl ChaosScheduler {
    pub(super) fn new(
        arguments: &FrameworkArguments,
        config: &SchedulerConfig,
        journal: FrameworkJournal,
        recorder: Recorder,
        mut rng: Rng,
        progress_file: PathBuf,
        executable: PathBuf,
    ) -> Self {
        let open = journal.tasks().iter().filter(|(_, entry)| !entry.ended);
        let mut kill_times = BTreeMap::new();
        let open = open.map(|(id, entry)| {
            let kill_at = Instant::now() + service_lifetime(&mut rng);
            let together = group_of(id).unwrap_or(id);
            let kill_at = *kill_times.entry(together).or_insert(kill_at);
            let open = OpenTask {
                must_end: entry.kill_requested,
                kill_at: TaskKind::is_service(id).then_some(kill_at),
                ..OpenTask::default()
            };
            (id.clone(), open)
        });
        let open_tasks = open.collect();
        Self {
            name: arguments.name.clone(),
            behaviour: arguments.habit,
            directory: arguments.directory.clone(),
            executable,
            limits: LimitChanges::continued(FrameworkProgress::read(&progress_file).limit_reports),
            progress_file,
            process: ProcessName::new(&format!("{}.{}", arguments.name, journal.incarnation())),
            open_tasks,
            queue: WorkQueue::new(&arguments.name, journal.incarnation()),
            framework: None,
            journal,
            recorder,
            rng,
            session: config.session,
            offers: BTreeMap::new(),
            calls: BTreeMap::new(),
            calls_made: 0,
            phase: WorkPhase::Work,
            reconciled_at: Instant::now(),
        }
    }

    fn key(&self, task: &str) -> Option<TaskKey> {
        Some(TaskKey {
            framework: self.framework?,
            task: TaskId::new(task).ok()?,
        })
    }

    fn call_name(&mut self) -> Option<CallName> {
        self.calls_made += 1;
        Some(CallName {
            framework: self.framework?,
            session: self.session,
            number: self.calls_made,
        })
    }

    fn subscribed(&mut self, subscription: &Subscription) {
        let Ok(framework) = subscription.framework_id.parse::<FrameworkId>() else {
            return;
        };
        let known = self
            .framework
            .or_else(|| self.journal.framework_id()?.parse().ok());
        let kept = offer_ids(&subscription.kept_offers);
        let call = self.recorder.invoke(
            &self.process,
            Operation::Subscribe {
                framework: known,
                session: self.session,
                principal: self.name.clone(),
                held: kept.clone(),
            },
        );
        let outcome = OperationResponse::Subscribed {
            framework,
            kept: kept.clone(),
            rescinded: Vec::new(),
        };
        self.recorder.ok(call, outcome, None);
        for offer in kept {
            self.recorder
                .observe(&self.process, OfferFact::Revalidated { offer });
        }
        self.framework = Some(framework);
        self.journal.registered(&subscription.framework_id);
    }

    /// Returns the target number of open tasks of each kind.
    fn targets(&self) -> (usize, usize) {
        match (self.phase, self.behaviour) {
            (WorkPhase::Drain | WorkPhase::End, _) => (0, 0),
            (WorkPhase::Work, FrameworkBehaviour::Steady) => (6, 6),
            (WorkPhase::Work, FrameworkBehaviour::Greedy) => (2, 10),
            (WorkPhase::Work, FrameworkBehaviour::Decliner) => (3, 4),
        }
    }

    fn refill(&mut self) {
        let targets = self.targets();
        let open = self.open_tasks.keys().map(String::as_str);
        self.queue.refill(open, targets, &mut self.rng);
    }

    /// Accepts or declines the offers whose hold time is over.
    fn use_offers(&mut self, driver: &SchedulerDriver) {
        let now = Instant::now();
        let due = self.offers.iter().filter(|(_, held)| held.use_at <= now);
        let due: Vec<String> = due.map(|(id, _)| id.clone()).collect();
        for id in due {
            let Some(held) = self.offers.remove(&id) else {
                continue;
            };
            let gives_back = self.behaviour == FrameworkBehaviour::Decliner && self.rng.percent(60);
            let operations = if gives_back {
                Vec::new()
            } else {
                self.queue
                    .fit(&held.offer, &self.directory, &self.executable)
            };
            if operations.is_empty() {
                self.decline(driver, &held.offer);
            } else {
                self.accept(driver, &held.offer, operations);
            }
        }
    }

    fn accept(
        &mut self,
        driver: &SchedulerDriver,
        offer: &v1::Offer,
        operations: Vec<OfferOperation>,
    ) {
        let Some(call) = self.call_name() else { return };
        let mut launches = Vec::new();
        for operation in &operations {
            // All tasks of a group are killed together.
            let group_kill_at = Instant::now() + service_lifetime(&mut self.rng);
            for task in operation.tasks() {
                self.journal.launch(&task.task_id);
                let kill_at = match operation {
                    OfferOperation::LaunchGroup { .. } => group_kill_at,
                    OfferOperation::Launch(_) => Instant::now() + service_lifetime(&mut self.rng),
                };
                let open = OpenTask {
                    kill_at: TaskKind::is_service(&task.task_id).then_some(kill_at),
                    ..OpenTask::default()
                };
                self.open_tasks.insert(task.task_id.clone(), open);
                let resources = from_wire(&task.resources).unwrap_or_default();
                launches.extend(
                    self.key(&task.task_id)
                        .map(|task| LaunchedTask { task, resources }),
                );
            }
        }
        let offers = offer_ids(std::slice::from_ref(&offer.offer_id));
        let invoked = self.recorder.invoke(
            &self.process,
            Operation::Accept {
                name: call,
                offers,
                launches,
                all_or_nothing: false,
            },
        );
        let asked = driver.accept_with(Accept {
            offer_ids: vec![offer.offer_id.clone()],
            operations,
            filter_ms: Some(0),
            all_or_nothing: false,
        });
        self.calls.insert(asked.key, (invoked, None));
    }

    fn decline(&mut self, driver: &SchedulerDriver, offer: &v1::Offer) {
        let filter_ms = self.rng.between(100, 2_000);
        if let Some(framework) = self.framework {
            let offers = offer_ids(std::slice::from_ref(&offer.offer_id));
            let call = self
                .recorder
                .invoke(&self.process, Operation::Decline { framework, offers });
            // Declines have no response, so no master is known to have received one.
            self.recorder.info(call, "declines are not answered");
        }
        driver.decline(offer, Some(filter_ms));
    }

    fn kill_due(&mut self, driver: &SchedulerDriver) {
        let now = Instant::now();
        let open = self.open_tasks.iter();
        let due = open.filter(|(id, open)| open.is_due(TaskKind::is_service(id), self.phase, now));
        let due: Vec<String> = due.map(|(id, _)| id.clone()).collect();
        // All requests are recorded before the first is made: the kill of one task of a group ends
        // the others.
        let mut invoked = Vec::new();
        for id in due {
            let (Some(task), Some(call)) = (self.key(&id), self.call_name()) else {
                break;
            };
            self.journal.kill(&id);
            if let Some(open) = self.open_tasks.get_mut(&id) {
                open.kill_requested = true;
            }
            let name = Some(call);
            let kill = Operation::Kill { name, task };
            invoked.push((self.recorder.invoke(&self.process, kill), id));
        }
        for (call, id) in invoked {
            let asked = driver.kill(&id, Some(300));
            self.calls.insert(asked.key, (call, Some(id)));
        }
    }

    /// Changes the limits of some services.
    fn change_limits(&mut self, driver: &SchedulerDriver) {
        if self.phase != WorkPhase::Work {
            return;
        }
        for (id, open) in &self.open_tasks {
            let may_change = open.running && !open.kill_requested && has_changed_limits(id);
            if may_change && self.rng.percent(5) {
                self.limits.request(driver, id);
            }
        }
    }

    /// Handles a rejected kill: the task is unknown and never starts, or the kill must be repeated.
    fn kill_refused(&mut self, task: &str, reason: &str) {
        if reason == "unknown-task" {
            self.ended(task);
        } else if let Some(open) = self.open_tasks.get_mut(task) {
            open.kill_requested = false;
        }
    }

    fn reconcile(&mut self, driver: &SchedulerDriver) {
        let open: Vec<String> = self.open_tasks.keys().take(500).cloned().collect();
        self.reconciled_at = Instant::now();
        if !open.is_empty() {
            drop(driver.reconcile(open));
        }
    }

    fn ended(&mut self, task: &str) {
        self.open_tasks.remove(task);
        self.limits.ended(task);
        self.journal.ended(task);
    }

    /// Returns the groups of which some tasks have ended and others have not.
    fn broken_groups(&self) -> Vec<String> {
        let groups = self.open_tasks.keys().filter_map(|id| group_of(id));
        let mut broken: Vec<String> = groups
            .filter(|group_id| {
                let mut members = group_members(group_id).into_iter();
                members.any(|member| !self.open_tasks.contains_key(&member))
            })
            .map(str::to_owned)
            .collect();
        broken.dedup();
        broken
    }

    fn write_progress(&self) {
        let ended = self.journal.tasks().values().filter(|entry| entry.ended);
        let ids = |is_meant: &dyn Fn(&str, &OpenTask) -> bool| {
            let open = self.open_tasks.iter();
            let meant = open.filter(|(id, open)| is_meant(id, open));
            meant.map(|(id, _)| id.clone()).collect()
        };
        let is_kept = |open: &OpenTask| open.running && !open.is_killed();
        let progress = FrameworkProgress {
            framework_id: self.framework.map(|id| id.to_string()).unwrap_or_default(),
            wanted: self.phase.word().to_owned(),
            launched: self.journal.tasks().len() as u64,
            ended: ended.count() as u64,
            open: self.open_tasks.keys().cloned().collect(),
            services: ids(&|id, open| TaskKind::is_service(id) && is_kept(open)),
            killed: ids(&|_, open| open.is_killed()),
            offers_held: self.offers.len() as u64,
            broken_groups: self.broken_groups(),
            unreported_limits: self.limits.unreported(),
            limit_reports: self.limits.reports(),
        };
        let text = serde_json::to_vec(&progress).expect("progress has a JSON form");
        let draft = self.progress_file.with_extension("new");
        // The next tick writes it again.
        let _ = atomic_file::replace(&self.progress_file, &draft, &text, WriteOptions::CACHED);
    }

    fn record_update(&self, status: &v1::TaskStatus) {
        let (Some(task), Some(revision)) = (self.key(&status.task_id), status.revision) else {
            return;
        };
        let Some(state) = state_of(status.state()) else {
            return;
        };
        let update = revision_from(Some(revision));
        let end = exit_of(status);
        log_failure(status);
        let fact = TaskFact::UpdateReceived {
            task,
            update,
            state,
            end,
        };
        self.recorder.observe_at(&self.process, fact, update);
    }
}

impl Scheduler for ChaosScheduler {
    fn registered(&mut self, driver: &SchedulerDriver, subscription: &Subscription) {
        self.subscribed(subscription);
        self.reconcile(driver);
    }

    fn reconnected(&mut self, _: &SchedulerDriver, subscription: &Subscription) {
        self.subscribed(subscription);
    }

    fn offers(&mut self, driver: &SchedulerDriver, offers: Vec<v1::Offer>) {
        for offer in offers {
            let framework = offer.framework_id.parse().ok();
            let made = framework.and_then(|id| offer_made(&offer, id, self.session));
            if let Some(made) = made {
                self.recorder.observe(&self.process, made);
            }
            let hold_ms = match self.behaviour {
                FrameworkBehaviour::Greedy => self.rng.below(MAX_HOLD_MS),
                FrameworkBehaviour::Steady | FrameworkBehaviour::Decliner => 0,
            };
            let use_at = Instant::now() + Duration::from_millis(hold_ms);
            self.offers
                .insert(offer.offer_id.clone(), HeldOffer { offer, use_at });
        }
        self.use_offers(driver);
    }

    fn rescinded(&mut self, _: &SchedulerDriver, offer_id: &str, _: &str) {
        self.offers.remove(offer_id);
        if let Ok(offer) = offer_id.parse() {
            self.recorder
                .observe(&self.process, OfferFact::Rescinded { offer });
        }
    }

    fn update(&mut self, _: &SchedulerDriver, status: &v1::TaskStatus) {
        self.record_update(status);
        self.limits.update(status);
        let state = status.state();
        if is_terminal(state) || (state == v1::TaskState::Unknown && status.revision.is_none()) {
            self.ended(&status.task_id);
        } else if let Some(open) = self.open_tasks.get_mut(&status.task_id) {
            open.running = state == v1::TaskState::Running;
        }
    }

    fn answered(&mut self, driver: &SchedulerDriver, answer: &CallResult) {
        if self.limits.answered(answer) {
            return;
        }
        let Some((call, killed)) = self.calls.remove(&answer.call) else {
            return;
        };
        match &answer.outcome {
            Ending::Done { revision, refused } => {
                let at = revision_from(Some(*revision));
                let outcome = response(answer, refused);
                self.recorder.ok(call, outcome, Some(at));
            }
            Ending::Refused(refusal) => {
                self.recorder.fail(call, refusal.reason.clone());
                if let Some(task) = killed {
                    self.kill_refused(&task, &refusal.reason);
                }
            }
            Ending::NotSent(why) => self.recorder.fail(call, format!("not sent: {why}")),
            Ending::Lost(refusal) => self.recorder.info(call, refusal.message.clone()),
        }
        let refused: Vec<String> = answer
            .not_launched()
            .into_iter()
            .map(|(id, _)| id.to_owned())
            .collect();
        for id in refused {
            self.ended(&id);
        }
        if matches!(answer.outcome, Ending::Lost(_)) && !answer.task_ids.is_empty() {
            drop(driver.reconcile(answer.task_ids.clone()));
        }
    }

    fn tick(&mut self, driver: &SchedulerDriver) {
        self.phase = WorkPhase::read(&self.directory);
        self.refill();
        self.use_offers(driver);
        self.kill_due(driver);
        self.change_limits(driver);
        if self.reconciled_at.elapsed() > RECONCILE_EVERY {
            self.reconcile(driver);
        }
        self.write_progress();
    }

    fn error(&mut self, _: &SchedulerDriver, error: &SchedulerError) {
        eprintln!("the session ended: {error}");
    }
}
