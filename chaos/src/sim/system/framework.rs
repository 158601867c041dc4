//! Frameworks on the public SDK, each with a habit. What they store outlives them; the rest does not.

use std::collections::BTreeMap;
use std::time::Duration;

use argosy_client::scheduler::{
    Answer, CallKey, Driver, Outcome, Scheduler, SchedulerConfig, SchedulerError, Subscription, run,
};
use argosy_client::{ConnectorConfig, Masters, resources};
use argosy_proto::{convert, v1};
use argosy_state::ids::{FrameworkId, Role, TaskId, TaskKey};
use tokio_util::sync::CancellationToken;

use super::world::{World, framework_name};
use crate::chance::Chance;
use crate::history::{self, CallId, CallName, Launch, OfferFact, Operation, Refusal};
use crate::sim::network;

/// Tasks that a framework has at a time.
const LIVE: usize = 12;

/// What a framework is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Habit {
    /// Takes whatever it is offered.
    Greedy,
    /// Gives most of it back.
    Decliner,
    /// Does little, and is killed often.
    Crasher,
}

/// A scheduler from its start until it is killed. One that is removed begins anew.
pub(super) async fn framework(world: World, place: usize) -> turmoil::Result {
    loop {
        let name = framework_name(place);
        let mut chance = world.new_life(&name);
        let masters = Masters::new(world.masters()).expect("the addresses are plain");
        let mut config = SchedulerConfig::new(masters, &name);
        config.connector = ConnectorConfig {
            dialer: network::dialer(&name, &world.cuts),
            seed: chance.next(),
        };
        config.session = chance.next().max(1);
        config.info.failover_timeout_ms = Some(3_600_000);
        config.tick = Duration::from_millis(300);
        config.first_subscription = None;
        config.framework_id = world
            .kept()
            .frameworks
            .entry(place)
            .or_default()
            .framework
            .clone();
        let habit = [Habit::Greedy, Habit::Decliner, Habit::Crasher][place % 3];
        let mut scheduler = Simulated {
            id: None,
            life: config.session,
            number: 0,
            calls: BTreeMap::new(),
            world: world.clone(),
            place,
            name,
            habit,
            chance,
        };
        match run(&mut scheduler, config, CancellationToken::new()).await {
            // An earlier life of it, which the network has kept until now, was told.
            Err(SchedulerError::Superseded(why)) => {
                let words = format!(
                    "{}: the newest session is superseded: {why}",
                    scheduler.name
                );
                world.notes.violation(words);
            }
            Err(SchedulerError::Removed(_)) => {
                world.notes.count("frameworks begun anew");
                world.kept().frameworks.remove(&place);
            }
            Err(error) => {
                let words = format!("{} ended: {error}", scheduler.name);
                world.notes.violation(words);
            }
            Ok(()) => return Ok(()),
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

struct Simulated {
    id: Option<FrameworkId>,
    life: u64,
    /// Counts its recorded calls.
    number: u64,
    calls: BTreeMap<CallKey, CallId>,
    world: World,
    place: usize,
    name: String,
    habit: Habit,
    chance: Chance,
}

impl Simulated {
    fn key(&self, task: &str) -> Option<TaskKey> {
        let framework = self.id?;
        let task = TaskId::new(task).ok()?;
        Some(TaskKey { framework, task })
    }

    /// Tasks that may live, as stored.
    fn live(&self) -> Vec<String> {
        let kept = self.world.kept();
        let stored = kept.frameworks.get(&self.place);
        let tasks = stored.into_iter().flat_map(|stored| &stored.tasks);
        let live = tasks.filter(|(_, is_over)| !**is_over);
        live.map(|(task, _)| task.clone()).collect()
    }

    /// Stores a new task before anybody hears of it.
    fn new_task(&mut self) -> v1::TaskSpec {
        let mut kept = self.world.kept();
        let stored = kept.frameworks.entry(self.place).or_default();
        stored.made += 1;
        let task_id = format!("t{}", stored.made);
        stored.tasks.insert(task_id.clone(), false);
        drop(kept);
        let shell = match self.chance.below(10) {
            0..=5 => format!("sim {} 0", self.chance.between(10, 3_000)),
            6 => format!("sim {} 3", self.chance.between(1, 500)),
            _ => "sim for-ever".to_owned(),
        };
        v1::TaskSpec {
            task_id,
            shell,
            resources: resources::resources("cpus:0.5;mem:64").expect("the text is constant"),
            stop_after_ms: match self.chance.percent(10) {
                true => 4_000,
                false => 0,
            },
            kill_policy: Some(v1::KillPolicy { grace_ms: 200 }),
            ..Default::default()
        }
    }

    fn answer_offer(&mut self, driver: &Driver, offer: &v1::Offer) {
        let live = self.live().len();
        let takes = match self.habit {
            Habit::Greedy => true,
            Habit::Decliner => self.chance.percent(25),
            Habit::Crasher => self.chance.percent(60),
        };
        let room = room(offer);
        if self.world.kept().quiet || live >= LIVE || !takes || room == 0 {
            self.world.notes.count("offers declined");
            let filter_ms = self.chance.between(0, 1_500);
            driver.decline(offer, Some(filter_ms));
            return;
        }
        let most = room.min((LIVE - live) as u64).min(3);
        let count = self.chance.between(1, most);
        let tasks: Vec<_> = (0..count).map(|_| self.new_task()).collect();
        self.world.notes.count("offers accepted");
        let operation = self.accepting(offer, &tasks);
        let invoked = operation.map(|operation| self.invoke(operation));
        let asked = driver.accept(offer, tasks);
        if let Some(invoked) = invoked {
            self.calls.insert(asked.key, invoked);
        }
    }

    fn invoke(&self, operation: Operation) -> CallId {
        self.world.notes.recorder.invoke(&*self.name, operation)
    }

    fn call_name(&mut self) -> Option<CallName> {
        self.number += 1;
        Some(CallName {
            framework: self.id?,
            session: self.life,
            number: self.number,
        })
    }

    fn accepting(&mut self, offer: &v1::Offer, tasks: &[v1::TaskSpec]) -> Option<Operation> {
        let launch = |task: &v1::TaskSpec| {
            Some(Launch {
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

    fn kill(&mut self, driver: &Driver, task: &str) {
        let name = self.call_name();
        let operation = self.key(task).map(|task| Operation::Kill { name, task });
        let invoked = operation.map(|operation| self.invoke(operation));
        let asked = driver.kill(task, None);
        if let Some(invoked) = invoked {
            self.calls.insert(asked.key, invoked);
        }
    }

    fn made(&self, offer: &v1::Offer) -> Option<OfferFact> {
        Some(OfferFact::Made {
            offer: offer.offer_id.parse().ok()?,
            framework: self.id?,
            session: self.life,
            agent: offer.agent_id.parse().ok()?,
            role: Role::new(&offer.role).ok()?,
            resources: resources::from_wire(&offer.resources)?,
        })
    }

    /// Notes the end of a call.
    fn conclude(&mut self, answer: &Answer) {
        let Some(call) = self.calls.remove(&answer.call) else {
            return;
        };
        let recorder = &self.world.notes.recorder;
        match &answer.outcome {
            Outcome::Done { revision, refused } => {
                let is_accept = !answer.task_ids.is_empty();
                let refusal = |one: &v1::Refused| Refusal {
                    position: one.position,
                    code: one.code.clone(),
                };
                let refused = refused.iter().map(refusal).collect();
                let outcome = match is_accept {
                    true => history::Outcome::Accepted { refused },
                    false => history::Outcome::Done,
                };
                let revision = convert::revision_from(Some(*revision));
                recorder.ok(call, outcome, Some(revision));
            }
            Outcome::Refused(refusal) => recorder.fail(call, refusal.reason.clone()),
            Outcome::NotSent(why) => recorder.fail(call, why.clone()),
            Outcome::Lost(refusal) => recorder.info(call, refusal.reason.clone()),
        }
    }
}

/// How many of our tasks an offer holds.
fn room(offer: &v1::Offer) -> u64 {
    let milli = |name| {
        let named = offer.resources.iter().filter(|one| one.name == name);
        let values = named.filter_map(|one| match one.value {
            Some(v1::resource::Value::ScalarMilli(milli)) => u64::try_from(milli).ok(),
            _ => None,
        });
        values.sum::<u64>()
    };
    (milli("cpus") / 500).min(milli("mem") / 64_000)
}

impl Scheduler for Simulated {
    fn registered(&mut self, driver: &Driver, subscription: &Subscription) {
        self.id = subscription.framework_id.parse().ok();
        let id = subscription.framework_id.clone();
        self.world
            .kept()
            .frameworks
            .entry(self.place)
            .or_default()
            .framework = Some(id);
        self.world.notes.count("sessions begun");
        let live = self.live();
        if !live.is_empty() {
            drop(driver.reconcile(live));
        }
    }

    fn offers(&mut self, driver: &Driver, offers: Vec<v1::Offer>) {
        for offer in offers {
            if let Some(fact) = self.made(&offer) {
                self.world.notes.recorder.observe(&*self.name, fact);
            }
            // Some offers are held for a while.
            if self.chance.percent(90) {
                self.answer_offer(driver, &offer);
            }
        }
    }

    fn rescinded(&mut self, _driver: &Driver, offer_id: &str, _reason: &str) {
        self.world.notes.count("offers rescinded");
        if let Ok(offer) = offer_id.parse() {
            let fact = OfferFact::Rescinded { offer };
            self.world.notes.recorder.observe(&*self.name, fact);
        }
    }

    fn update(&mut self, _driver: &Driver, status: &v1::TaskStatus) {
        let Some(key) = self.key(&status.task_id) else {
            return;
        };
        self.world.ledger.told(&self.name, self.life, &key, status);
        let state = v1::TaskState::try_from(status.state).unwrap_or_default();
        let is_unknown = state == v1::TaskState::Unknown;
        if argosy_client::scheduler::is_terminal(state) || is_unknown {
            let mut kept = self.world.kept();
            if let Some(stored) = kept.frameworks.get_mut(&self.place) {
                stored.tasks.insert(status.task_id.clone(), true);
            }
        }
    }

    fn answered(&mut self, _driver: &Driver, answer: &Answer) {
        self.conclude(answer);
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
                let mut kept = self.world.kept();
                if let Some(stored) = kept.frameworks.get_mut(&self.place) {
                    stored.tasks.insert(task.clone(), true);
                }
            } else if let Outcome::Done { .. } = answer.outcome
                && let Some(key) = self.key(task)
            {
                self.world.ledger.accepted(key);
            }
        }
        self.world.notes.count(match &answer.outcome {
            Outcome::Done { .. } => "accepts done",
            Outcome::Refused(_) => "accepts refused",
            Outcome::Lost(_) => "accepts lost",
            Outcome::NotSent(_) => "accepts not sent",
        });
    }

    fn tick(&mut self, driver: &Driver) {
        let live = self.live();
        if self.world.kept().quiet {
            // Services are ended, and what nobody speaks of is asked for.
            for task in &live {
                self.kill(driver, task);
            }
            if !live.is_empty() {
                drop(driver.reconcile(live));
            }
            return;
        }
        if self.chance.percent(30)
            && let Some(task) = self.chance.pick(&live)
        {
            self.world.notes.count("kills");
            let task = task.clone();
            self.kill(driver, &task);
        }
        match self.chance.below(100) {
            0..=2 => drop(driver.suppress(Vec::new())),
            3..=12 => drop(driver.revive(Vec::new())),
            13..=15 => drop(driver.reconcile(Vec::new())),
            _ => {}
        }
    }
}
