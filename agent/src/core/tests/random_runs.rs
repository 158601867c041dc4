//! Thousands of random inputs, including crashes: invariants that hold after each of them.

use std::collections::{BTreeMap, BTreeSet};

use argosy_proto::v1;
use argosy_proto::v1::to_agent::Message as ToAgent;
use argosy_state::digest::{DigestKind, task_mark};
use argosy_state::ids::Timestamp;
use argosy_state::task::TaskState;

use super::world::{CoreFixture, ended, instance, spec};
use crate::core::checks::{CheckPurpose, CheckResult};
use crate::core::random::RandomSequence;
use crate::core::{CommandStatus, CreateError, Input, RecoveredContainer, StartedFact};

/// The state of the containers on a host.
#[derive(Default)]
struct SimulatedContainers {
    /// Every start ever, by name.
    started: BTreeSet<String>,
    /// Every command ever executed, by order: at most once.
    executed: BTreeMap<u64, u32>,
    /// Running commands.
    running: BTreeSet<u64>,
    /// Requested starts that are not yet performed.
    start_requests: Vec<u64>,
    /// Requested fetches.
    fetch_requests: Vec<u64>,
    /// Containers that are to be removed completely.
    destroyed: BTreeSet<u64>,
    /// Containers that could not be queried.
    unknown: Vec<u64>,
    /// Commands that were killed.
    killed: BTreeSet<u64>,
}

struct TestRng {
    world: CoreFixture,
    random: RandomSequence,
    containers: SimulatedContainers,
    orders: u64,
    /// Number of probes of running tasks.
    probes: u32,
}

/// Adds a check with frequent probes, which ends the task at its second failure.
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

impl TestRng {
    fn random_step(&mut self) {
        let order = 1 + self.random.below(self.orders.max(1));
        match self.random.below(18) {
            0 | 1 => {
                self.orders += 1;
                // A name is sometimes used again.
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
            6 | 7 => self.perform_starts(),
            8 => self.exit(order),
            9 => self.commit_updates(order),
            10 => {
                if let Some(name) = self.world.core.facts().container(instance(order)) {
                    // Only a missing container can be reported so.
                    if !self.containers.running.contains(&order) {
                        self.world.feed(Input::Destroyed { name });
                    }
                }
            }
            11 => self.world.receive(ToAgent::ListTasks(v1::ListTasks {})),
            12 if self.random.below(4) == 0 => {
                self.world.receive(ToAgent::KillStray(v1::KillStray {
                    framework_id: "framework-1".into(),
                    task_id: format!("t-{}", order % 40),
                    order_index: order,
                }));
            }
            13 => self.finish_probe(order),
            14 => {
                self.world.wait(200);
                self.answer();
            }
            15 => self.launch_group(),
            _ => self.fetch(),
        }
        self.probe_running();
    }

    /// Delivers all orders of a group, though not all may be synced.
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

    /// Completes fetches, mostly with success.
    fn fetch(&mut self) {
        let Some(order) = self.containers.fetch_requests.pop() else {
            return;
        };
        let result = match self.random.below(8) {
            0 => Err(CreateError::fetch("gone")),
            _ => Ok(()),
        };
        let instance = instance(order);
        self.world.feed(Input::Fetched { instance, result });
    }

    /// Runs until nothing is left to do: killed commands end.
    fn converge(&mut self) {
        for _ in 0..100 {
            self.world.receive(ToAgent::ListTasks(v1::ListTasks {}));
            self.world.sync();
            self.probe_running();
            self.fetch();
            self.perform_starts();
            self.answer();
            let ends = self.containers.killed.pop_first();
            if let Some(order) = ends.filter(|order| self.containers.running.remove(order)) {
                self.world.exited(order, CommandStatus::Signal(15));
            }
            self.world.wait(5);
            self.probe_running();
        }
    }

    /// Checks that no task of a group continues to run when another one has failed, or is missing.
    fn check_groups(&self) {
        let facts = self.world.core.facts();
        for (own, task) in &facts.tasks {
            let spec = &task.launch.spec;
            let Some(group) = &spec.group else { continue };
            let first = own.order.0 - u64::from(group.place);
            let orders = first..first + u64::from(group.size);
            if orders.end > facts.floor.0 + 1 || !self.containers.running.contains(&own.order.0) {
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

    /// Delivers a result of a probe: the present one of a check, or an outdated one.
    fn finish_probe(&mut self, order: u64) {
        let kind = match self.random.below(2) {
            0 => CheckPurpose::Health,
            _ => CheckPurpose::Readiness,
        };
        let answer = match self.random.below(3) {
            0 => CheckResult::Failed("no".into()),
            _ => CheckResult::Passed,
        };
        let number = 1 + self.random.below(4);
        self.world.probe_finished(order, kind, number, answer);
    }

    /// Performs the requested starts.
    fn perform_starts(&mut self) {
        if self.containers.start_requests.is_empty() {
            return;
        }
        let at = usize::try_from(
            self.random
                .below(self.containers.start_requests.len() as u64),
        )
        .unwrap();
        let order = self.containers.start_requests.swap_remove(at);
        *self.containers.executed.entry(order).or_default() += 1;
        self.containers.running.insert(order);
        self.world.started(order);
    }

    fn exit(&mut self, order: u64) {
        // A container that could not be queried sends no notices.
        let is_watched = !self.containers.unknown.contains(&order);
        if self.containers.running.remove(&order) && is_watched {
            self.world.exited(order, CommandStatus::Code(0));
        }
    }

    /// Returns the state of a container of the previous run.
    fn found(&self, order: u64) -> RecoveredContainer {
        if self.containers.running.contains(&order) {
            let at = Timestamp(self.world.now);
            RecoveredContainer::Running(StartedFact { pid: 77, at })
        } else if self.containers.executed.contains_key(&order) {
            RecoveredContainer::Exited(ended(CommandStatus::Code(0)))
        } else {
            RecoveredContainer::NeverStarted
        }
    }

    /// Repeats the query of a container that could not be queried, mostly with success.
    fn answer(&mut self) {
        let Some(order) = self.containers.unknown.pop() else {
            return;
        };
        let found = match self.random.below(4) {
            0 => RecoveredContainer::Unknown,
            _ => self.found(order),
        };
        let is_unknown = found == RecoveredContainer::Unknown;
        self.world.found(order, found);
        self.probe_running();
        let is_given_up = self.containers.destroyed.contains(&order);
        if is_unknown && !is_given_up {
            self.containers.unknown.push(order);
        }
    }

    /// Commits all updates of one task.
    fn commit_updates(&mut self, order: u64) {
        let Some(task) = self.world.core.facts().tasks.get(&instance(order)) else {
            return;
        };
        let (name, made, ended) = (
            task.key.task.to_string(),
            task.newest_update,
            task.state.is_terminal(),
        );
        self.world.committed(order, &name, made, ended);
    }

    fn probe_running(&mut self) {
        for line in std::mem::take(&mut self.world.effects) {
            if let Some(name) = line.strip_prefix("start ") {
                assert!(
                    self.containers.started.insert(name.to_owned()),
                    "{name} was started twice"
                );
                let order = name.split('-').nth(1).unwrap().parse().unwrap();
                self.containers.start_requests.push(order);
            }
            if let Some(name) = line.strip_prefix("destroy ")
                && !name.starts_with("group")
            {
                let order = name.split('-').nth(1).unwrap().parse().unwrap();
                self.containers.running.remove(&order);
                self.containers.destroyed.insert(order);
            }
            if let Some(name) = line.strip_prefix("fetch for ") {
                let order = name.split('-').nth(1).unwrap().parse().unwrap();
                self.containers.fetch_requests.push(order);
            }
            if let Some(reported) = line.strip_prefix("kill ") {
                let order = reported.split(' ').next().unwrap().parse().unwrap();
                self.containers.killed.insert(order);
            }
            assert!(!line.starts_with("hang up"), "{line}");
            if let Some(looked_at) = line.strip_prefix("probe at ") {
                let order = looked_at.split('\'').next().unwrap().parse().unwrap();
                assert!(self.containers.running.contains(&order), "{line}");
                self.probes += 1;
            }
        }
        let facts = self.world.core.facts();
        let sum = facts.by_key.iter().fold(0_u128, |sum, (key, instance)| {
            sum.wrapping_add(task_mark(
                key,
                instance.order,
                facts.tasks[instance].committed,
            ))
        });
        assert_eq!(
            sum,
            facts.digests.of(DigestKind::Task),
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
        let world = std::mem::replace(&mut self.world, CoreFixture::new());
        self.containers.fetch_requests.clear();
        self.containers.killed.clear();
        // Starts in progress may complete or not: half of them do.
        for order in std::mem::take(&mut self.containers.start_requests) {
            if self.random.below(2) == 0 {
                *self.containers.executed.entry(order).or_default() += 1;
                self.containers.running.insert(order);
            }
        }
        self.world = world.restart("boot-1");
        self.orders = self.world.core.facts().floor.0;
        let finding: Vec<_> = self
            .world
            .effects
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
                0 => RecoveredContainer::Unknown,
                _ => self.found(order),
            };
            if found == RecoveredContainer::Unknown {
                self.containers.unknown.push(order);
            }
            self.world.found(order, found);
        }
        self.probe_running();
        self.world.register(false);
        self.probe_running();
        self
    }
}

#[test]
fn random_runs_start_nothing_twice_and_match_the_journal() {
    for seed in 0..20 {
        let mut chance = TestRng {
            world: CoreFixture::registered(),
            random: RandomSequence::new(seed),
            containers: SimulatedContainers::default(),
            orders: 0,
            probes: 0,
        };
        for _ in 0..6 {
            for _ in 0..80 {
                chance.random_step();
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
        assert!(chance.probes > 10, "seed {seed}: too little was looked at");
    }
}
