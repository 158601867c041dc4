//! Frameworks on the public SDK, each with its behaviour. Only their stored state survives a
//! restart.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use argosy_client::resources;
use argosy_client::resources::Remainder;
use argosy_client::scheduler::{
    CallKey, CallOutcome, CallResult, Scheduler, SchedulerDriver, Subscription,
};
use argosy_proto::{convert, v1};
use argosy_state::ids::{FrameworkId, OfferId, TaskId, TaskKey};
use argosy_state::resources::Resources;

use super::world::World;
use crate::history::{CallId, CallName, FrameworkFact, LaunchedTask, OfferFact, Operation};
use crate::rng::Rng;
use crate::workload::calls::{offer_made, response};

/// Maximum number of tasks of a framework at the same time.
const MAX_LIVE_TASKS: usize = 12;
/// Used offers that a framework remembers.
const MAX_USED_OFFERS: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SimFrameworkBehaviour {
    /// Accepts every offer.
    Greedy,
    /// Declines most offers.
    Decliner,
    /// Does little, and is killed often.
    Crasher,
}

impl SimFrameworkBehaviour {
    fn of(place: usize) -> Self {
        [Self::Greedy, Self::Decliner, Self::Crasher][place % 3]
    }
}

mod forms;
mod off_sdk_calls;
mod sessions;

use forms::LaunchForm;
use sessions::failover_timeout_ms;
pub(super) use sessions::{framework, rival};

struct SimFramework {
    id: Option<FrameworkId>,
    incarnation: u64,
    /// The number of its recorded calls.
    call_number: u64,
    calls: BTreeMap<CallKey, CallId>,
    world: World,
    index: usize,
    name: String,
    behaviour: SimFrameworkBehaviour,
    rng: Rng,
    /// Whether it has revived offers after the last fault.
    is_revived: bool,
    /// The newest offers that were accepted.
    used_offers: VecDeque<v1::Offer>,
    /// The number of calls that bypass the SDK.
    off_sdk_calls: u64,
    /// Calls to which the SDK has assigned a number.
    sdk_calls: u64,
}

impl SimFramework {
    fn new(world: &World, place: usize, name: String, incarnation: u64, rng: Rng) -> Self {
        Self {
            id: None,
            incarnation,
            call_number: 0,
            calls: BTreeMap::new(),
            world: world.clone(),
            index: place,
            name,
            behaviour: SimFrameworkBehaviour::of(place),
            rng,
            is_revived: false,
            used_offers: VecDeque::new(),
            off_sdk_calls: 0,
            sdk_calls: 0,
        }
    }

    fn key(&self, task: &str) -> Option<TaskKey> {
        let framework = self.id?;
        let task = TaskId::new(task).ok()?;
        Some(TaskKey { framework, task })
    }

    /// Returns the stored tasks that may be alive.
    fn live(&self) -> Vec<String> {
        let state = self.world.state();
        let stored = state.frameworks.get(&self.index);
        let tasks = stored.into_iter().flat_map(|stored| &stored.tasks);
        let live = tasks.filter(|(_, is_over)| !**is_over);
        live.map(|(task, _)| task.clone()).collect()
    }

    /// Returns how many tasks it has created.
    fn count_made(&self) -> u64 {
        let state = self.world.state();
        let stored = state.frameworks.get(&self.index);
        stored.map_or(0, |stored| stored.task_count)
    }

    /// Creates a task from the remainder of an offer. It is stored before any message names it.
    fn new_task(&mut self, left: &mut Remainder) -> Option<v1::TaskSpec> {
        let size = ["cpus:0.5;mem:64", "cpus:0.5;mem:64", "cpus:1;mem:128"];
        let size = self.rng.pick(&size).copied().unwrap_or(size[0]);
        let size: Resources = size.parse().expect("the text is constant");
        // The lowest port, so that consecutive tasks use the same one.
        let port = left.take(&size).then(|| left.take_port()).flatten()?;
        let uses = size.plus(&resources::port_resource(port.into()))?;
        let mut state = self.world.state();
        let stored = state.frameworks.entry(self.index).or_default();
        stored.task_count += 1;
        let task_id = format!("t{}", stored.task_count);
        let is_checked = stored.task_count.is_multiple_of(3);
        let is_timed = is_timed(stored.task_count);
        stored.tasks.insert(task_id.clone(), false);
        drop(state);
        let shell = match self.rng.below(10) {
            // Only its agent ends it, when its time limit expires.
            _ if is_timed => "sim for-ever".to_owned(),
            0..=5 => format!("sim {} 0", self.rng.between(10, 3_000)),
            6 => format!("sim {} 3", self.rng.between(1, 500)),
            _ => "sim for-ever".to_owned(),
        };
        Some(v1::TaskSpec {
            task_id,
            shell,
            resources: resources::to_wire(&uses),
            stop_after_ms: match self.rng.percent(10) {
                true => 4_000,
                false => 0,
            },
            max_completion_ms: if is_timed { 2_000 } else { 0 },
            kill_policy: Some(v1::KillPolicy {
                grace_ms: 400,
                ..v1::KillPolicy::default()
            }),
            // Every third task has a health check, so that no other choice depends on it.
            health_check: is_checked.then(|| v1::HealthCheck {
                check: Some(check("sim fails 5")),
                grace_ms: Some(500),
                failures: Some(2),
            }),
            readiness_check: is_checked.then(|| check("sim fails 30")),
            ..Default::default()
        })
    }

    fn answer_offer(&mut self, driver: &SchedulerDriver, offer: &v1::Offer) {
        let live = self.live().len();
        let takes = match self.behaviour {
            SimFrameworkBehaviour::Greedy => true,
            SimFrameworkBehaviour::Decliner => self.rng.percent(25),
            SimFrameworkBehaviour::Crasher => self.rng.percent(60),
        };
        let mut left = Remainder::of(offer);
        let count = self
            .rng
            .between(1, 3)
            .min(MAX_LIVE_TASKS.saturating_sub(live) as u64);
        let mut tasks = Vec::new();
        let is_idle = {
            let state = self.world.state();
            state.draining || state.idle
        };
        let mut form = LaunchForm::Alone;
        if takes && !is_idle {
            form = LaunchForm::of(self.count_made()).fit(&mut left);
            let made = (0..count).map_while(|_| self.new_task(&mut left));
            tasks.extend(made.map(|task| form.apply(task)));
        }
        if tasks.is_empty() {
            self.world.notes.count("offers declined");
            let filter_ms = self.rng.between(0, 1_500);
            driver.decline(offer, Some(filter_ms));
            return;
        }
        self.world.notes.count("offers accepted");
        self.used_offers.push_back(offer.clone());
        if self.used_offers.len() > MAX_USED_OFFERS {
            self.used_offers.pop_front();
        }
        let first = tasks[0].task_id.clone();
        let operation = self.accept_operation(offer, &tasks);
        let invoked = operation.map(|operation| self.invoke(operation));
        let asked = self.launch(driver, offer, tasks, form);
        self.sdk_calls += 1;
        if let Some(invoked) = invoked {
            self.calls.insert(asked.key, invoked);
        }
        if self.rng.percent(8) {
            self.reconcile_early(&first);
        }
        // Some tasks are killed immediately after their launch.
        if self.rng.percent(10) {
            self.kill(driver, &first);
        }
    }

    /// Changes the held offers of this session. Those of a superseded session do not count.
    fn change_held(&self, change: impl FnOnce(&mut BTreeSet<OfferId>)) {
        let mut state = self.world.state();
        let held = state.held.get_mut(&self.index);
        if let Some(held) = held.filter(|held| held.session == self.incarnation) {
            change(&mut held.offers);
        }
    }

    fn invoke(&self, operation: Operation) -> CallId {
        self.world.notes.recorder.invoke(&*self.name, operation)
    }

    fn call_name(&mut self) -> Option<CallName> {
        self.call_number += 1;
        Some(CallName {
            framework: self.id?,
            session: self.incarnation,
            number: self.call_number,
        })
    }

    fn accept_operation(&mut self, offer: &v1::Offer, tasks: &[v1::TaskSpec]) -> Option<Operation> {
        let launch = |task: &v1::TaskSpec| {
            Some(LaunchedTask {
                task: self.key(&task.task_id)?,
                resources: resources::from_wire(&task.resources)?,
            })
        };
        let launches = tasks.iter().map(launch).collect::<Option<_>>()?;
        Some(Operation::Accept {
            name: self.call_name()?,
            offers: vec![offer.offer_id.parse().ok()?],
            launches,
            all_or_nothing: false,
        })
    }

    fn kill(&mut self, driver: &SchedulerDriver, task: &str) {
        let name = self.call_name();
        let operation = self.key(task).map(|task| Operation::Kill { name, task });
        let invoked = operation.map(|operation| self.invoke(operation));
        let asked = driver.kill(task, None);
        self.sdk_calls += 1;
        if let Some(invoked) = invoked {
            self.calls.insert(asked.key, invoked);
        }
    }

    /// Records the end of a call.
    fn end_call(&mut self, answer: &CallResult) {
        let Some(call) = self.calls.remove(&answer.call) else {
            return;
        };
        let recorder = &self.world.notes.recorder;
        match &answer.outcome {
            CallOutcome::Done { revision, refused } => {
                let outcome = response(answer, refused);
                let revision = convert::revision_from(Some(*revision));
                recorder.ok(call, outcome, Some(revision));
            }
            CallOutcome::Refused(refusal) => recorder.fail(call, refusal.reason.clone()),
            CallOutcome::NotSent(why) => recorder.fail(call, why.clone()),
            CallOutcome::Lost(refusal) => recorder.info(call, refusal.reason.clone()),
        }
    }
}

impl Scheduler for SimFramework {
    fn registered(&mut self, driver: &SchedulerDriver, subscription: &Subscription) {
        self.id = subscription.framework_id.parse().ok();
        let id = subscription.framework_id.clone();
        self.world
            .state()
            .frameworks
            .entry(self.index)
            .or_default()
            .framework = Some(id);
        self.world.notes.count("sessions begun");
        self.world.note_stream(&self.name);
        if let Some(framework) = self.id {
            let failover_timeout_ms = failover_timeout_ms(&self.world, self.index);
            let fact = FrameworkFact::Subscribed {
                framework,
                failover_timeout_ms,
            };
            self.world.notes.recorder.observe(&*self.name, fact);
        }
        {
            let mut state = self.world.state();
            let held = state.held.entry(self.index).or_default();
            if held.session != self.incarnation {
                held.session = self.incarnation;
                held.offers.clear();
            }
        }
        let live = self.live();
        if !live.is_empty() {
            drop(driver.reconcile(live));
        }
    }

    fn reconnected(&mut self, _: &SchedulerDriver, _: &Subscription) {
        self.world.note_stream(&self.name);
    }

    fn offers(&mut self, driver: &SchedulerDriver, offers: Vec<v1::Offer>) {
        for offer in offers {
            let made = |id| offer_made(&offer, id, self.incarnation);
            if let Some(fact) = self.id.and_then(made) {
                self.world.notes.recorder.observe(&*self.name, fact);
            }
            // Some offers are held until they are invalid.
            if self.rng.percent(90) {
                self.answer_offer(driver, &offer);
            } else if let Ok(id) = offer.offer_id.parse() {
                self.change_held(|held| {
                    held.insert(id);
                });
            }
        }
    }

    fn rescinded(&mut self, _driver: &SchedulerDriver, offer_id: &str, _reason: &str) {
        self.world.notes.count("offers rescinded");
        if let Ok(offer) = offer_id.parse() {
            let fact = OfferFact::Rescinded { offer };
            self.world.notes.recorder.observe(&*self.name, fact);
            self.change_held(|held| {
                held.remove(&offer);
            });
        }
    }

    fn update(&mut self, _driver: &SchedulerDriver, status: &v1::TaskStatus) {
        let Some(key) = self.key(&status.task_id) else {
            return;
        };
        self.world
            .oracle
            .update_received(&self.name, self.incarnation, &key, status);
        let state = v1::TaskState::try_from(status.state).unwrap_or_default();
        let is_unknown = state == v1::TaskState::Unknown;
        if argosy_client::scheduler::is_terminal(state) || is_unknown {
            let mut kept = self.world.state();
            if let Some(stored) = kept.frameworks.get_mut(&self.index) {
                stored.tasks.insert(status.task_id.clone(), true);
            }
        }
    }

    fn message(&mut self, _driver: &SchedulerDriver, message: &v1::ExecutorMessage) {
        self.received(message);
    }

    fn answered(&mut self, driver: &SchedulerDriver, answer: &CallResult) {
        self.end_call(answer);
        if answer.task_ids.is_empty() {
            return;
        }
        let not_launched: Vec<String> = answer
            .not_launched()
            .into_iter()
            .map(|(task, _)| task.to_owned())
            .collect();
        for task in &answer.task_ids {
            let refused = not_launched.contains(task);
            if refused {
                let mut state = self.world.state();
                if let Some(stored) = state.frameworks.get_mut(&self.index) {
                    stored.tasks.insert(task.clone(), true);
                }
            } else if let CallOutcome::Done { .. } = answer.outcome
                && let Some(key) = self.key(task)
            {
                self.world.oracle.accepted(key);
                if self.rng.percent(10) && !is_left_to_agent(task) {
                    self.kill(driver, task);
                }
            }
        }
        self.world.notes.count(match &answer.outcome {
            CallOutcome::Done { .. } => "accepts done",
            CallOutcome::Refused(_) => "accepts refused",
            CallOutcome::Lost(_) => "accepts lost",
            CallOutcome::NotSent(_) => "accepts not sent",
        });
    }

    fn tick(&mut self, driver: &SchedulerDriver) {
        let live = self.live();
        if self.world.state().healing && !self.is_revived {
            self.is_revived = true;
            self.sdk_calls += 1;
            drop(driver.revive(Vec::new()));
        }
        if self.world.state().idle {
            return;
        }
        if self.world.state().draining {
            // Ends services, and reconciles tasks without recent updates.
            for task in &live {
                self.kill(driver, task);
            }
            if !live.is_empty() {
                drop(driver.reconcile(live));
            }
            return;
        }
        if self.rng.percent(30)
            && let Some(task) = self.rng.pick(&live)
            && !is_left_to_agent(task)
        {
            self.world.notes.count("kills");
            let task = task.clone();
            self.kill(driver, &task);
        }
        if self.rng.percent(40)
            && let Some(task) = self.rng.pick(&live)
        {
            self.world.notes.count("limits requested");
            let limits = v1::Limits {
                pids: Some(self.rng.between(1, 1_000)),
                ..v1::Limits::default()
            };
            self.sdk_calls += 1;
            drop(driver.update_limits(task, limits));
        }
        if self.rng.percent(20) {
            self.accept_again();
        }
        match self.rng.below(100) {
            _ if self.world.state().healing => {}
            0..=2 => {
                self.sdk_calls += 1;
                drop(driver.suppress(Vec::new()));
            }
            3..=12 => {
                self.sdk_calls += 1;
                drop(driver.revive(Vec::new()));
            }
            13..=15 => drop(driver.reconcile(Vec::new())),
            _ => {}
        }
    }
}

/// Whether the task with this number has a time limit, and does not end by itself.
fn is_timed(number: u64) -> bool {
    number % 7 == 2
}

/// Whether no framework kills this task before the cluster comes to rest: every second task with a
/// time limit. An agent that forgets the limit lets the task run until then.
fn is_left_to_agent(task: &str) -> bool {
    let number = task.strip_prefix('t').and_then(|text| text.parse().ok());
    number.is_some_and(|number: u64| is_timed(number) && number.is_multiple_of(2))
}

/// Returns a check with an interval of one second. The text of its command determines the result on
/// the simulated machine.
fn check(line: &str) -> v1::Check {
    v1::Check {
        kind: Some(v1::check::Kind::Command(v1::CommandCheck {
            shell: line.to_owned(),
            argv: Vec::new(),
        })),
        delay_ms: Some(100),
        interval_ms: Some(1_000),
        timeout_ms: Some(400),
    }
}
