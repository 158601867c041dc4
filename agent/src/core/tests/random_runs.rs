//! Thousands of random inputs, crashes included: what must hold after every one of them.

use std::collections::{BTreeMap, BTreeSet};

use argosy_proto::v1;
use argosy_proto::v1::to_agent::Message as Say;
use argosy_state::digest::{HeldKind, task_mark};
use argosy_state::ids::Timestamp;
use argosy_state::task::TaskState;

use super::world::{World, ended, instance, spec};
use crate::core::checks::{Answer, Kind};
use crate::core::random::Random;
use crate::core::{Found, How, Input, StartedFact};

/// What a host would know: which containers were started, and how they are.
#[derive(Default)]
struct Containers {
    /// Every start ever, by name.
    started: BTreeSet<String>,
    /// Every command ever executed, by order: at most once.
    executed: BTreeMap<u64, u32>,
    /// Living commands.
    living: BTreeSet<u64>,
    /// Starts that were asked for and not yet carried out.
    asked: Vec<u64>,
    /// Files that were asked for.
    fetched: Vec<u64>,
    /// Those of which nothing is to be left.
    destroyed: BTreeSet<u64>,
    /// Those that could not be asked what became of them.
    unknown: Vec<u64>,
    /// Commands that were told to end.
    told: BTreeSet<u64>,
}

struct Chance {
    world: World,
    random: Random,
    containers: Containers,
    orders: u64,
    /// Looks at running tasks.
    looks: u32,
}

/// Looked at often, and ended by its second failure.
fn checked(wanted: &mut v1::TaskSpec) {
    let check = v1::Check {
        kind: Some(v1::check::Kind::Tcp(v1::TcpCheck { port: 80 })),
        delay_ms: Some(0),
        interval_ms: Some(100),
        timeout_ms: Some(1_000),
    };
    wanted.readiness_check = Some(check.clone());
    wanted.health_check = Some(v1::HealthCheck {
        check: Some(check),
        grace_ms: Some(0),
        failures: Some(2),
    });
}

impl Chance {
    fn turn(&mut self) {
        let order = 1 + self.random.below(self.orders.max(1));
        match self.random.below(18) {
            0 | 1 => {
                self.orders += 1;
                // A name is used again now and then.
                let task = format!("t-{}", self.orders % 40);
                let mut wanted = spec(&task);
                if self.random.below(2) == 0 {
                    checked(&mut wanted);
                }
                self.world.launch_spec(self.orders, wanted);
            }
            2 => {
                self.orders += 1;
                self.world
                    .kill(self.orders, &format!("t-{}", order % 40), 5);
            }
            3 | 4 => self.world.sync(),
            5 => self.world.wait(3),
            6 | 7 => self.carry_out(),
            8 => self.exit(order),
            9 => self.settle(order),
            10 => {
                if let Some(name) = self.world.core.facts().container(instance(order)) {
                    // Only a container that is not there any more can be reported so.
                    if !self.containers.living.contains(&order) {
                        self.world.feed(Input::Destroyed { name });
                    }
                }
            }
            11 => self.world.hear(Say::ListTasks(v1::ListTasks {})),
            12 if self.random.below(4) == 0 => {
                self.world.hear(Say::KillStray(v1::KillStray {
                    framework_id: "framework-1".into(),
                    task_id: format!("t-{}", order % 40),
                    order_index: order,
                }));
            }
            13 => self.find(order),
            14 => {
                self.world.wait(200);
                self.answer();
            }
            15 => self.launch_group(),
            _ => self.fetch(),
        }
        self.look();
    }

    /// All of its orders come, though not all may come to the disk.
    fn launch_group(&mut self) {
        let size = 1 + self.random.below(3) as u32;
        let group_id = format!("g-{}", self.orders);
        for place in 0..size {
            self.orders += 1;
            let group_id = group_id.clone();
            let mut wanted = spec(&format!("t-{}", self.orders));
            wanted.group = Some(v1::TaskGroup {
                group_id,
                place,
                size,
            });
            self.world.launch_spec(self.orders, wanted);
        }
    }

    /// Files come, mostly.
    fn fetch(&mut self) {
        let Some(order) = self.containers.fetched.pop() else {
            return;
        };
        let result = match self.random.below(8) {
            0 => Err("gone".to_owned()),
            _ => Ok(()),
        };
        let instance = instance(order);
        let result = result.map_err(Into::into);
        self.world.feed(Input::Fetched { instance, result });
    }

    /// Until nothing is left to do: who is told to end does.
    fn converge(&mut self) {
        for _ in 0..100 {
            self.world.hear(Say::ListTasks(v1::ListTasks {}));
            self.world.sync();
            self.look();
            self.fetch();
            self.carry_out();
            self.answer();
            let ends = self.containers.told.pop_first();
            if let Some(order) = ends.filter(|order| self.containers.living.remove(order)) {
                self.world.exited(order, How::Signal(15));
            }
            self.world.wait(5);
            self.look();
        }
    }

    /// No task of a group lives on when another one has ended badly, or is not there.
    fn check_groups(&self) {
        let facts = self.world.core.facts();
        for (own, task) in &facts.tasks {
            let spec = task.launch.spec.as_ref().unwrap();
            let Some(group) = &spec.group else { continue };
            let first = own.order.0 - u64::from(group.place);
            let orders = first..first + u64::from(group.size);
            if orders.end > facts.floor.0 + 1 || !self.containers.living.contains(&own.order.0) {
                continue;
            }
            for order in orders {
                let other = facts.tasks.get(&instance(order));
                let is_well = other.is_some_and(|task| {
                    task.state == TaskState::Finished || !task.state.is_terminal()
                });
                assert!(
                    is_well,
                    "{} lives, {order} does not: {other:?}",
                    own.order.0
                );
            }
        }
    }

    /// Some look has an answer: the present one of a check, or none that anybody waits for.
    fn find(&mut self, order: u64) {
        let kind = match self.random.below(2) {
            0 => Kind::Health,
            _ => Kind::Readiness,
        };
        let answer = match self.random.below(3) {
            0 => Answer::Failed("no".into()),
            _ => Answer::Passed,
        };
        let number = 1 + self.random.below(4);
        self.world.looked(order, kind, number, answer);
    }

    /// Starts what was asked for.
    fn carry_out(&mut self) {
        if self.containers.asked.is_empty() {
            return;
        }
        let at = usize::try_from(self.random.below(self.containers.asked.len() as u64)).unwrap();
        let order = self.containers.asked.swap_remove(at);
        *self.containers.executed.entry(order).or_default() += 1;
        self.containers.living.insert(order);
        self.world.started(order);
    }

    fn exit(&mut self, order: u64) {
        // Of one that could not be asked nothing is heard.
        let is_watched = !self.containers.unknown.contains(&order);
        if self.containers.living.remove(&order) && is_watched {
            self.world.exited(order, How::Code(0));
        }
    }

    /// What became of a container of the life before.
    fn found(&self, order: u64) -> Found {
        if self.containers.living.contains(&order) {
            let at = Timestamp(self.world.now);
            Found::Running(StartedFact { pid: 77, at })
        } else if self.containers.executed.contains_key(&order) {
            Found::Exited(ended(How::Code(0)))
        } else {
            Found::NeverStarted
        }
    }

    /// One that could not be asked is asked again, mostly with success.
    fn answer(&mut self) {
        let Some(order) = self.containers.unknown.pop() else {
            return;
        };
        let found = match self.random.below(4) {
            0 => Found::Unknown,
            _ => self.found(order),
        };
        let is_unknown = found == Found::Unknown;
        self.world.found(order, found);
        self.look();
        let is_given_up = self.containers.destroyed.contains(&order);
        if is_unknown && !is_given_up {
            self.containers.unknown.push(order);
        }
    }

    /// A master commits everything that one task has said.
    fn settle(&mut self, order: u64) {
        let Some(task) = self.world.core.facts().tasks.get(&instance(order)) else {
            return;
        };
        let (name, made, ended) = (
            task.key.task.to_string(),
            task.made,
            task.state.is_terminal(),
        );
        self.world.committed(order, &name, made, ended);
    }

    fn look(&mut self) {
        for line in std::mem::take(&mut self.world.said) {
            if let Some(name) = line.strip_prefix("start ") {
                assert!(
                    self.containers.started.insert(name.to_owned()),
                    "{name} was started twice"
                );
                let order = name.split('-').nth(1).unwrap().parse().unwrap();
                self.containers.asked.push(order);
            }
            if let Some(name) = line.strip_prefix("destroy ")
                && !name.starts_with("group")
            {
                let order = name.split('-').nth(1).unwrap().parse().unwrap();
                self.containers.living.remove(&order);
                self.containers.destroyed.insert(order);
            }
            if let Some(name) = line.strip_prefix("fetch for ") {
                let order = name.split('-').nth(1).unwrap().parse().unwrap();
                self.containers.fetched.push(order);
            }
            if let Some(told) = line.strip_prefix("kill ") {
                let order = told.split(' ').next().unwrap().parse().unwrap();
                self.containers.told.insert(order);
            }
            assert!(!line.starts_with("hang up"), "{line}");
            if let Some(looked_at) = line.strip_prefix("look at ") {
                let order = looked_at.split('\'').next().unwrap().parse().unwrap();
                assert!(self.containers.living.contains(&order), "{line}");
                self.looks += 1;
            }
        }
        let facts = self.world.core.facts();
        let sum = facts.held.iter().fold(0_u128, |sum, (key, instance)| {
            sum.wrapping_add(task_mark(
                key,
                instance.order,
                facts.tasks[instance].committed,
            ))
        });
        assert_eq!(
            sum,
            facts.digests.of(HeldKind::Task),
            "the digest is that of what is held"
        );
        for task in facts.tasks.values() {
            let numbers: Vec<_> = task.updates.iter().map(|update| update.number).collect();
            assert!(task.updates.len() <= 12, "{numbers:?}");
            assert!(
                numbers.windows(2).all(|pair| pair[1] == pair[0] + 1),
                "{numbers:?}"
            );
        }
    }

    fn crash(mut self) -> Self {
        self.world.check_snapshot();
        let world = std::mem::replace(&mut self.world, World::new());
        self.containers.fetched.clear();
        self.containers.told.clear();
        // Requests under way may still start, or not: half of them do.
        for order in std::mem::take(&mut self.containers.asked) {
            if self.random.below(2) == 0 {
                *self.containers.executed.entry(order).or_default() += 1;
                self.containers.living.insert(order);
            }
        }
        self.world = world.restart("boot-1");
        self.orders = self.world.core.facts().floor.0;
        let finding: Vec<_> = self
            .world
            .said
            .iter()
            .filter_map(|line| {
                line.strip_prefix("find ")?
                    .split('-')
                    .nth(1)?
                    .parse::<u64>()
                    .ok()
            })
            .collect();
        self.containers.unknown.clear();
        for order in finding {
            let found = match self.random.below(4) {
                0 => Found::Unknown,
                _ => self.found(order),
            };
            if found == Found::Unknown {
                self.containers.unknown.push(order);
            }
            self.world.found(order, found);
        }
        self.look();
        self.world.register(false);
        self.look();
        self
    }
}

#[test]
fn whatever_happens_nothing_starts_twice_and_memory_is_what_the_journal_says() {
    for seed in 0..20 {
        let mut chance = Chance {
            world: World::registered(),
            random: Random::new(seed),
            containers: Containers::default(),
            orders: 0,
            looks: 0,
        };
        for _ in 0..6 {
            for _ in 0..80 {
                chance.turn();
            }
            chance = chance.crash();
        }
        chance.converge();
        chance.check_groups();
        let twice: Vec<_> = chance
            .containers
            .executed
            .iter()
            .filter(|(_, times)| **times > 1)
            .collect();
        assert!(
            twice.is_empty(),
            "seed {seed}: executed more than once: {twice:?}"
        );
        assert!(
            chance.containers.executed.len() > 10,
            "seed {seed}: too little happened"
        );
        assert!(chance.looks > 10, "seed {seed}: too little was looked at");
    }
}
