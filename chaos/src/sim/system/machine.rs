//! The machine of an agent: a boot clock, a disk, and containers that survive the agent.
//!
//! The state of a container is a function of time. It is evaluated on request and after every step.
//! No task of the agent's runtime carries it, so it survives the agent.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use argosy_agent::core::checks::CheckResult;
use argosy_agent::core::{
    CommandExit, CommandStatus, ContainerName, ContainerStart, Instance, LaunchOrder,
    RecoveredContainer, StartedFact, StopCause,
};
use argosy_agent::journal::MemoryDisk;
use argosy_state::ids::{AgentId, Epoch, OrderIndex, TaskKey, Timestamp};
use argosy_state::resources::Resources;
use argosy_state::task::{CheckKind, CommandSpec, Explanation};

use super::task_oracle::TaskOracle;
use crate::history::witness;
use crate::rng::Rng;
use executors::SimExecutor;
use groups::SimTaskGroups;

/// Resources of every host.
pub(super) const CAPACITY: &str = "cpus:4;mem:1024;disk:4096;ports:[31000-31015]";
/// The host that uses a copied disk.
pub(super) const COPY: &str = "copy";

pub(super) mod executors;
mod groups;
mod host_inspection;

/// One host. A clone is the same host.
#[derive(Clone)]
pub(super) struct SimMachine {
    pub(super) name: Arc<str>,
    pub(super) disk: MemoryDisk,
    // One thread runs the simulation. The lock satisfies the types of asynchronous code.
    inner: Arc<Mutex<MachineState>>,
}

struct MachineState {
    oracle: TaskOracle,
    boots: u64,
    booted_ms: u64,
    /// The time up to which its containers have run.
    advanced_ms: u64,
    pids: i32,
    rng: Rng,
    containers: BTreeMap<ContainerName, SimContainer>,
    groups: SimTaskGroups,
    /// Containers of earlier boots whose files still exist, without a supervisor.
    leftovers: BTreeSet<ContainerName>,
    capacity: Resources,
    /// The epoch that was last read from its disk, and the agent that stored it.
    epoch: Epoch,
    epoch_of: Option<AgentId>,
    /// The incarnation of the agent that acted on each launch.
    started_by: BTreeMap<Instance, u64>,
    /// The newest stored update of each launch, from any incarnation of the agent.
    newest_updates: BTreeMap<Instance, u64>,
    /// The time at which its agent last obeyed a master.
    obeyed_ms: u64,
}

/// The behaviour of a command, from its text: `sim MS CODE`, or `sim for-ever`.
#[derive(Debug, Clone, Copy)]
struct Script {
    run_ms: Option<u64>,
    code: i32,
}

#[derive(Debug)]
struct SimContainer {
    key: TaskKey,
    script: Script,
    resources: Resources,
    /// The executor, if tasks run in the container.
    executor: Option<Box<SimExecutor>>,
    /// The group of the task, if it is in one.
    group: Option<ContainerName>,
    phase: ContainerPhase,
    /// The time at which TERM or KILL ends it, and the cause.
    stop: Option<(u64, StopCause)>,
    /// `stop_after` on the boot clock, followed by the grace period.
    stop_at: Option<Timestamp>,
    grace_ms: u64,
    /// `max_completion_ms`, which its agent enforces; 0 for none.
    complete_ms: u64,
    limits: ContainerLimits,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct ContainerLimits {
    /// The maximum number of processes.
    pub(super) pids: Option<u64>,
    /// The order that set the limits.
    pub(super) order: OrderIndex,
}

#[derive(Debug, Clone)]
enum ContainerPhase {
    /// The launcher is preparing it.
    Preparing {
        at_ms: u64,
    },
    Running {
        pid: i32,
        since_ms: u64,
    },
    Ended(CommandExit),
}

/// The observable state of a container.
#[derive(Debug, Clone)]
pub(super) enum ContainerState {
    /// Nothing changes before this moment.
    Preparing {
        at_ms: u64,
    },
    /// Started, and nothing changes before this moment.
    Running {
        fact: StartedFact,
        until_ms: Option<u64>,
    },
    Ended(CommandExit),
    Gone,
}

fn pids_limit(launch: &LaunchOrder) -> Option<u64> {
    launch.spec.limits.as_ref()?.pids
}

fn script(text: &str) -> Script {
    let mut words = text.split(' ').skip(1).map(str::parse);
    let run_ms = words.next().and_then(Result::ok);
    let code = words.next().and_then(Result::ok).unwrap_or(0);
    Script {
        run_ms,
        code: i32::try_from(code).unwrap_or(0),
    }
}

impl SimMachine {
    pub(super) fn new(name: &str, oracle: TaskOracle, rng: Rng) -> Self {
        Self::with_disk(name, oracle, rng, MemoryDisk::default())
    }

    /// Creates a machine whose disk has content already.
    pub(super) fn with_disk(name: &str, oracle: TaskOracle, rng: Rng, disk: MemoryDisk) -> Self {
        let inner = MachineState {
            oracle,
            boots: 1,
            booted_ms: 0,
            advanced_ms: 0,
            pids: 100,
            rng,
            containers: BTreeMap::new(),
            groups: SimTaskGroups::default(),
            leftovers: BTreeSet::new(),
            capacity: CAPACITY.parse().expect("the text is constant"),
            epoch: Epoch::default(),
            epoch_of: None,
            started_by: BTreeMap::new(),
            newest_updates: BTreeMap::new(),
            obeyed_ms: 0,
        };
        Self {
            name: name.into(),
            disk,
            inner: Arc::new(Mutex::new(inner)),
        }
    }

    fn inner(&self) -> MutexGuard<'_, MachineState> {
        self.inner
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(super) fn boot_id(&self) -> String {
        format!("{}-boot-{}", self.name, self.inner().boots)
    }

    /// Returns the milliseconds since this boot.
    pub(super) fn boot_now(&self, now_ms: u64) -> Timestamp {
        Timestamp(now_ms.saturating_sub(self.inner().booted_ms) + 1)
    }

    /// Returns a random number of this host, both ends included.
    pub(super) fn between(&self, from: u64, to: u64) -> u64 {
        self.inner().rng.between(from, to)
    }

    /// Advances every container to this moment.
    pub(super) fn advance(&self, now_ms: u64) {
        self.inner().advance(&self.name, now_ms);
    }

    /// Passes a request to the launcher, which continues even if the agent dies now.
    pub(super) fn prepare(&self, start: &ContainerStart, now_ms: u64) {
        let mut inner = self.inner();
        let at_ms = now_ms + inner.rng.between(1, 20);
        let spec = &start.launch.spec;
        let executor = SimExecutor::of(start);
        if executor.is_some() {
            inner.check_unique(&self.name, &start.key);
        }
        if let Some(words) = inner.groups.prepare(start, now_ms) {
            inner
                .oracle
                .notes
                .violation(format!("{words} on {}", self.name));
        }
        let line = match &spec.run {
            CommandSpec::Shell(line) => line,
            CommandSpec::Image | CommandSpec::Argv(_) => "",
        };
        let container = SimContainer {
            key: start.key.clone(),
            script: script(line),
            resources: executors::uses(start),
            executor: executor.map(Box::new),
            group: start.group.as_ref().map(|group| group.name),
            phase: ContainerPhase::Preparing { at_ms },
            stop: None,
            stop_at: start.stop_at,
            grace_ms: spec.grace_ms,
            complete_ms: spec.max_completion_ms,
            limits: ContainerLimits {
                pids: pids_limit(&start.launch),
                order: start.name.instance.order,
            },
        };
        if inner.containers.insert(start.name, container).is_some() {
            let message = format!(
                "SingleStart: container {} is started twice on {}",
                start.name, self.name
            );
            inner.oracle.notes.violation(message);
        }
    }

    pub(super) fn inspect(&self, name: ContainerName, now_ms: u64) -> ContainerState {
        let mut inner = self.inner();
        inner.advance(&self.name, now_ms);
        let booted_ms = inner.booted_ms;
        let Some(container) = inner.containers.get(&name) else {
            return ContainerState::Gone;
        };
        match &container.phase {
            ContainerPhase::Preparing { at_ms } => ContainerState::Preparing { at_ms: *at_ms },
            ContainerPhase::Running { pid, since_ms } => ContainerState::Running {
                fact: StartedFact {
                    pid: *pid,
                    at: Timestamp(since_ms.saturating_sub(booted_ms) + 1),
                },
                until_ms: container.end(*since_ms, booted_ms).map(|(at_ms, _)| at_ms),
            },
            ContainerPhase::Ended(ended) => ContainerState::Ended(ended.clone()),
        }
    }

    /// Returns the state of a container of an earlier incarnation. One that has not started never
    /// will.
    pub(super) fn find(&self, name: ContainerName, now_ms: u64) -> RecoveredContainer {
        match self.inspect(name, now_ms) {
            ContainerState::Preparing { .. } => {
                self.inner().containers.remove(&name);
                RecoveredContainer::NeverStarted
            }
            ContainerState::Running { fact, .. } => RecoveredContainer::Running(fact),
            ContainerState::Ended(ended) => RecoveredContainer::Exited(ended),
            ContainerState::Gone if self.inner().leftovers.contains(&name) => {
                RecoveredContainer::Unknown
            }
            ContainerState::Gone => RecoveredContainer::NeverStarted,
        }
    }

    /// Returns the result of a check: `sim fails PERCENT` fails in that percentage.
    pub(super) fn run_check(&self, kind: &CheckKind) -> CheckResult {
        let percent = match kind {
            CheckKind::Shell(line) => line.rsplit(' ').next().and_then(|word| word.parse().ok()),
            CheckKind::Argv(_) | CheckKind::Http { .. } | CheckKind::Tcp { .. } => None,
        };
        match self.inner().rng.percent(percent.unwrap_or(0)) {
            true => CheckResult::Failed("as its log line states".into()),
            false => CheckResult::Passed,
        }
    }

    pub(super) fn kill(&self, name: ContainerName, now_ms: u64, grace_ms: u64) {
        let mut inner = self.inner();
        // Some end on TERM, some only on KILL.
        let takes_ms = match inner.rng.percent(70) {
            true => inner.rng.between(1, 30).min(grace_ms),
            false => grace_ms,
        };
        if let Some(container) = inner.containers.get_mut(&name) {
            let at_ms = now_ms + takes_ms;
            match &mut container.stop {
                Some((earlier, _)) if *earlier <= at_ms => {}
                stop => *stop = Some((at_ms, StopCause::Ordered)),
            }
        }
    }

    pub(super) fn renew(&self, name: ContainerName, stop_at: Timestamp) {
        if let Some(container) = self.inner().containers.get_mut(&name) {
            container.stop_at = Some(stop_at);
        }
    }

    /// Removes a container in any state.
    pub(super) fn destroy(&self, name: ContainerName, now_ms: u64) {
        let mut inner = self.inner();
        inner.clear(&self.name, now_ms, |one| *one == name);
        inner.leftovers.remove(&name);
    }

    /// Kills and removes containers that the journal does not know.
    pub(super) fn end_orphans(&self, known: &[ContainerName], now_ms: u64) {
        let orphan = |one: &ContainerName| !known.contains(one);
        self.advance(now_ms);
        self.note_orphans(orphan);
        let mut inner = self.inner();
        inner.clear(&self.name, now_ms, orphan);
        inner.leftovers.retain(|one| known.contains(one));
    }

    /// Ends the agent's process. Whether the launcher continues with its requests is random.
    pub(super) fn agent_crashed(&self) {
        let mut inner = self.inner();
        let MachineState {
            containers,
            rng: chance,
            ..
        } = &mut *inner;
        containers.retain(|_, container| {
            !matches!(container.phase, ContainerPhase::Preparing { .. }) || chance.percent(50)
        });
    }

    /// Restarts the host. Everything that ran on it is lost.
    pub(super) fn reboot(&self, now_ms: u64, kept_bytes: usize) {
        self.disk.cut_power(kept_bytes);
        let mut inner = self.inner();
        let names: Vec<_> = inner.containers.keys().copied().collect();
        for name in names {
            if inner.rng.percent(50) {
                inner.leftovers.insert(name);
            }
        }
        inner.clear(&self.name, now_ms, |_| true);
        inner.boots += 1;
        inner.booted_ms = now_ms;
    }

    /// Returns the tasks that have a process now.
    pub(super) fn running(&self) -> Vec<TaskKey> {
        let inner = self.inner();
        let processes = inner.processes();
        processes.map(|process| process.key.clone()).collect()
    }
}

impl MachineState {
    /// Kills and removes containers.
    fn clear(&mut self, host: &str, now_ms: u64, which: impl Fn(&ContainerName) -> bool) {
        self.advance(host, now_ms);
        let Self {
            containers,
            groups,
            oracle: ledger,
            ..
        } = self;
        containers.retain(|name, container| {
            let goes = which(name);
            if goes && matches!(container.phase, ContainerPhase::Running { .. }) {
                container.end_processes(host, ledger, CommandStatus::Signal(9));
                groups.ended(*name, container.group, CommandStatus::Signal(9));
            }
            !goes
        });
    }

    fn advance(&mut self, host: &str, now_ms: u64) {
        self.advanced_ms = self.advanced_ms.max(now_ms);
        let (boots, booted_ms) = (self.boots, self.booted_ms);
        let mut has_started = false;
        for (name, container) in &mut self.containers {
            if let ContainerPhase::Preparing { at_ms } = container.phase
                && at_ms <= now_ms
            {
                self.pids += 1;
                container.phase = ContainerPhase::Running {
                    pid: self.pids,
                    since_ms: at_ms,
                };
                has_started = true;
                if let Some(words) = self.groups.started(*name, container.group) {
                    self.oracle.notes.violation(format!("{words} on {host}"));
                }
                if container.executor.is_none() {
                    let start = witness::ProcessStart {
                        order: Some(name.instance.order),
                        // A defect may start a container again under its name.
                        nonce: format!("{host}/{name}/{}", self.pids),
                        boot_id: format!("{host}-boot-{boots}"),
                        pid: self.pids.unsigned_abs(),
                        start_time: at_ms,
                    };
                    self.oracle.started(host, &container.key, start);
                }
            }
            let ContainerPhase::Running { since_ms, .. } = container.phase else {
                continue;
            };
            container.end_due_tasks(host, &self.oracle, since_ms, now_ms);
            if let Some((at_ms, ended)) = container.end(since_ms, booted_ms)
                && at_ms <= now_ms
            {
                container.end_processes(host, &self.oracle, ended.status);
                self.groups.ended(*name, container.group, ended.status);
                container.phase = ContainerPhase::Ended(ended);
            }
        }
        if has_started {
            self.check_resources(host);
        }
    }

    /// Checks that running containers never use more than the host's resources.
    fn check_resources(&self, host: &str) {
        let mut used = Some(Resources::default());
        for container in self.containers.values() {
            if matches!(container.phase, ContainerPhase::Running { .. }) {
                for uses in container.uses() {
                    used = used.and_then(|used| used.plus(uses));
                }
            }
        }
        if !used
            .as_ref()
            .is_some_and(|used| self.capacity.contains(used))
        {
            let used = used.map_or("something twice".to_owned(), |used| used.to_string());
            let message = format!(
                "ResourceConservation: what runs on {host} uses {used} of {}",
                self.capacity
            );
            self.oracle.notes.violation(message);
        }
    }
}

impl SimContainer {
    /// Returns when it ends without further events, and how.
    fn end(&self, since_ms: u64, booted_ms: u64) -> Option<(u64, CommandExit)> {
        let by_itself = self.script.run_ms.map(|run_ms| {
            let how = CommandStatus::Code(self.script.code);
            (since_ms + run_ms, how, None)
        });
        let stopped = self.stop.map(|(at_ms, cause)| {
            let at_ms = at_ms.max(since_ms);
            (at_ms, CommandStatus::Signal(15), Some(cause))
        });
        let timed_out = self.stop_at.map(|at| {
            let at_ms = booted_ms + at.0 + self.grace_ms;
            (at_ms, CommandStatus::Signal(9), Some(StopCause::StopAfter))
        });
        let all = [by_itself, stopped, timed_out];
        let first = all.into_iter().flatten().min_by_key(|(at_ms, ..)| *at_ms);
        first.map(|(at_ms, how, stop)| {
            let ended = CommandExit {
                status: how,
                stop,
                out_of_memory: false,
                why: Explanation::default(),
            };
            (at_ms, ended)
        })
    }
}
