//! Executors on a simulated machine: one process for many tasks, which survives its agent and keeps
//! the same state as the real SDK.

use std::collections::{BTreeMap, VecDeque};

use argosy_agent::core::{CommandStatus, ContainerName, ContainerStart, ExecutorEvent, Instance};
use argosy_agent::wire::{executor_task, executor_update};
use argosy_client::executor::{ExecutorState, TaskName, TaskStateChange};
use argosy_client::resources;
use argosy_proto::v1;
use argosy_proto::v1::to_executor::Message as ToExecutor;
use argosy_state::ids::{OrderIndex, TaskId, TaskKey};
use argosy_state::resources::Resources;

use super::{ContainerPhase, MachineState, Script, SimContainer, SimMachine, script};
use crate::history::witness;
use crate::sim::system::task_oracle::TaskOracle;

/// The state of an executor, in addition to its container.
#[derive(Debug, Default)]
pub(super) struct SimExecutor {
    state: ExecutorState,
    tasks: BTreeMap<TaskName, ExecutorTask>,
    /// The messages for the current stream.
    unsent: VecDeque<ExecutorEvent>,
    /// The time at which it ends despite unacknowledged updates.
    end_by_ms: Option<u64>,
}

/// The process of one task.
#[derive(Debug)]
struct ExecutorTask {
    key: TaskKey,
    resources: Resources,
    script: Script,
    pid: i32,
    since_ms: u64,
    stop_ms: Option<u64>,
}

pub(super) struct TaskProcessView<'a> {
    pub(super) key: &'a TaskKey,
    pub(super) container: ContainerName,
    pub(super) pid: u32,
    pub(super) since_ms: u64,
    /// The time for which it has run, in milliseconds.
    pub(super) ran_ms: u64,
}

impl SimExecutor {
    /// Returns the executor of a container, if tasks are to run in it.
    pub(super) fn of(start: &ContainerStart) -> Option<Self> {
        let executor = start.launch.spec.executor.as_ref();
        executor.map(|_| Self::default())
    }
}

/// Returns the resources of a container itself. An executor's limits include its tasks, which are
/// counted one by one.
pub(super) fn uses(start: &ContainerStart) -> Resources {
    let spec = &start.launch.spec;
    let own = match &spec.executor {
        Some(executor) => &executor.resources,
        None => &spec.resources,
    };
    own.clone()
}

impl ExecutorTask {
    /// Returns the time and the status of its end.
    fn end(&self) -> Option<(u64, CommandStatus)> {
        let by_itself = self.script.run_ms.map(|run_ms| {
            let how = CommandStatus::Code(self.script.code);
            (self.since_ms + run_ms, how)
        });
        let stopped = self.stop_ms.map(|at_ms| (at_ms, CommandStatus::Signal(15)));
        let all = [by_itself, stopped];
        all.into_iter().flatten().min_by_key(|(at_ms, _)| *at_ms)
    }
}

impl SimContainer {
    /// Ends the tasks whose time is over, before the container's own end if that has come.
    pub(super) fn end_due_tasks(
        &mut self,
        host: &str,
        ledger: &TaskOracle,
        since_ms: u64,
        now_ms: u64,
    ) {
        let until_ms = now_ms.min(self.stop.map_or(u64::MAX, |(at_ms, _)| at_ms));
        let Some(executor) = &mut self.executor else {
            return;
        };
        let ends = executor.tasks.iter();
        let ends = ends.filter_map(|(name, work)| Some((work.end()?, name.clone())));
        let mut ends: Vec<_> = ends.filter(|((at_ms, _), _)| *at_ms <= until_ms).collect();
        ends.sort_by_key(|((at_ms, _), _)| *at_ms);
        for ((_, how), name) in ends {
            if let Some(work) = executor.tasks.remove(&name) {
                ledger.ended(host, &work.key, how);
                executor.report(ended(name, how));
            }
        }
        let is_over = executor.end_by_ms.is_some_and(|by_ms| by_ms <= now_ms)
            || (executor.end_by_ms.is_some() && executor.state.is_idle());
        if is_over && self.script.run_ms.is_none() {
            self.script = Script {
                run_ms: Some(now_ms.saturating_sub(since_ms)),
                code: 0,
            };
        }
    }

    /// Ends all processes: that of the task itself, or those of the tasks in the executor.
    pub(super) fn end_processes(&mut self, host: &str, ledger: &TaskOracle, how: CommandStatus) {
        match &mut self.executor {
            None => ledger.ended(host, &self.key, how),
            Some(executor) => {
                for (_, work) in std::mem::take(&mut executor.tasks) {
                    ledger.ended(host, &work.key, CommandStatus::Signal(9));
                }
            }
        }
    }

    /// Returns the resources that count. An executor without tasks is ending and does not count.
    pub(super) fn uses(&self) -> impl Iterator<Item = &Resources> {
        let works = self.executor.iter().flat_map(|one| one.tasks.values());
        let is_idle = self
            .executor
            .as_ref()
            .is_some_and(|one| one.tasks.is_empty());
        let own = (!is_idle).then_some(&self.resources);
        own.into_iter().chain(works.map(|work| &work.resources))
    }
}

impl SimExecutor {
    fn report(&mut self, news: TaskStateChange) {
        if let Some(update) = self.state.update(news) {
            self.unsent
                .push_back(ExecutorEvent::Update(Box::new(executor_update(update))));
        }
    }
}

impl MachineState {
    /// Returns the current processes of tasks.
    pub(super) fn processes(&self) -> impl Iterator<Item = TaskProcessView<'_>> {
        let settled_ms = self.advanced_ms;
        let containers = self.containers.iter();
        let running = containers.filter_map(|(name, container)| match container.phase {
            ContainerPhase::Running { pid, since_ms } => Some((*name, container, pid, since_ms)),
            ContainerPhase::Preparing { .. } | ContainerPhase::Ended(_) => None,
        });
        running.flat_map(move |(name, container, pid, since_ms)| {
            let own = container.executor.is_none().then_some(TaskProcessView {
                key: &container.key,
                container: name,
                pid: pid.unsigned_abs(),
                since_ms,
                ran_ms: settled_ms.saturating_sub(since_ms),
            });
            let works = container.executor.iter().flat_map(|one| one.tasks.values());
            let works = works.map(move |work| TaskProcessView {
                key: &work.key,
                container: name,
                pid: work.pid.unsigned_abs(),
                since_ms: work.since_ms,
                ran_ms: settled_ms.saturating_sub(work.since_ms),
            });
            own.into_iter().chain(works)
        })
    }

    /// Checks that there is no other executor of this name when one is started.
    pub(super) fn check_unique(&self, host: &str, key: &TaskKey) {
        let others = self.containers.iter().filter(|(_, container)| {
            container.executor.is_some()
                && container.key == *key
                && !matches!(container.phase, ContainerPhase::Ended(_))
        });
        for (name, _) in others {
            let message = format!(
                "ExecutorLifetime: executor {key} is started on {host} in addition to {name}, which is it"
            );
            self.oracle.notes.violation(message);
        }
    }
}

impl SimMachine {
    /// Returns the executors that have a process now.
    pub(in crate::sim::system) fn executors(&self) -> Vec<TaskKey> {
        let inner = self.inner();
        let all = inner.containers.values();
        all.filter(|one| {
            one.executor.is_some() && matches!(one.phase, ContainerPhase::Running { .. })
        })
        .map(|container| container.key.clone())
        .collect()
    }

    /// Returns an executor's first message of a stream; `None` if it does not run.
    pub(in crate::sim::system) fn subscribe(
        &self,
        name: ContainerName,
        now_ms: u64,
    ) -> Option<ExecutorEvent> {
        let mut inner = self.inner();
        inner.advance(&self.name, now_ms);
        let executor = inner.executor(name)?;
        let (first, later) = executor.state.subscribe(Vec::new());
        let updates = later.into_iter().map(executor_update);
        executor.unsent = updates
            .map(|update| ExecutorEvent::Update(Box::new(update)))
            .collect();
        let unacknowledged = first.unacknowledged.into_iter();
        Some(ExecutorEvent::Subscribed {
            tasks: first.tasks.into_iter().map(executor_task).collect(),
            unacknowledged: unacknowledged.map(executor_update).collect(),
            version: argosy_proto::versions::VersionRange::OWN.newest,
        })
    }

    /// Returns an executor's current messages, and when there may be more; `None` if it does not
    /// run.
    pub(in crate::sim::system) fn take_messages(
        &self,
        name: ContainerName,
        now_ms: u64,
    ) -> Option<(VecDeque<ExecutorEvent>, Option<u64>)> {
        let mut inner = self.inner();
        inner.advance(&self.name, now_ms);
        let executor = inner.executor(name)?;
        let ends = executor.tasks.values().filter_map(ExecutorTask::end);
        let next_ms = ends.map(|(at_ms, _)| at_ms).min();
        Some((std::mem::take(&mut executor.unsent), next_ms))
    }

    /// Handles a message of the agent to an executor.
    pub(in crate::sim::system) fn receive(
        &self,
        name: ContainerName,
        message: Option<ToExecutor>,
        now_ms: u64,
    ) {
        let mut inner = self.inner();
        inner.advance(&self.name, now_ms);
        match message {
            Some(ToExecutor::Launch(launch)) => inner.begin(&self.name, name, launch, now_ms),
            Some(ToExecutor::Kill(kill)) => {
                // Some end on the request, some use the whole grace period.
                let takes_ms = match inner.rng.percent(70) {
                    true => inner.rng.between(1, 30).min(kill.grace_ms),
                    false => kill.grace_ms,
                };
                let task = TaskName {
                    task_id: kill.task_id,
                    order: kill.order_index,
                };
                let executor = inner.executor(name);
                let work = executor.and_then(|executor| executor.tasks.get_mut(&task));
                if let Some(work) = work {
                    let at_ms = now_ms + takes_ms;
                    work.stop_ms = Some(work.stop_ms.map_or(at_ms, |former| former.min(at_ms)));
                }
            }
            Some(ToExecutor::Acknowledged(reported)) => {
                let task = TaskName {
                    task_id: reported.task_id,
                    order: reported.order_index,
                };
                if let Some(executor) = inner.executor(name) {
                    executor.state.acknowledged(&task, reported.serial);
                }
            }
            Some(ToExecutor::Shutdown(shutdown)) => {
                if let Some(executor) = inner.executor(name) {
                    executor.end_by_ms = Some(now_ms + shutdown.grace_ms);
                }
            }
            Some(ToExecutor::FrameworkMessage(data)) => inner.echo(&self.name, name, data),
            Some(ToExecutor::Subscribed(_)) | None => {}
        }
        // Immediate consequences have happened when it is evaluated next.
        inner.advance(&self.name, now_ms);
    }
}

impl MachineState {
    fn executor(&mut self, name: ContainerName) -> Option<&mut SimExecutor> {
        let container = self.containers.get_mut(&name)?;
        let runs = matches!(container.phase, ContainerPhase::Running { .. });
        container.executor.as_deref_mut().filter(|_| runs)
    }

    /// Starts a task that its executor has not received yet.
    fn begin(&mut self, host: &str, name: ContainerName, launch: v1::ExecutorLaunch, now_ms: u64) {
        let Some(spec) = launch.spec else { return };
        let framework = self.containers.get(&name).map(|one| one.key.framework);
        let Some((framework, task)) = framework.zip(TaskId::new(&spec.task_id).ok()) else {
            return;
        };
        let pid = self.pids + 1;
        let boot_id = format!("{host}-boot-{}", self.boots);
        let Some(executor) = self.executor(name) else {
            return;
        };
        let own = TaskName {
            task_id: spec.task_id,
            order: launch.order_index,
        };
        if !executor.state.add(&own) {
            return;
        }
        let key = TaskKey { framework, task };
        let start = witness::ProcessStart {
            order: Some(OrderIndex(launch.order_index)),
            nonce: format!("{host}/{name}/{}", own.order),
            boot_id,
            pid: pid.unsigned_abs(),
            start_time: now_ms,
        };
        let work = ExecutorTask {
            key: key.clone(),
            resources: resources::from_wire(&spec.resources).unwrap_or_default(),
            script: script(&spec.shell),
            pid,
            since_ms: now_ms,
            stop_ms: None,
        };
        executor.tasks.insert(own.clone(), work);
        executor.report(TaskStateChange {
            name: own,
            state: v1::TaskState::Running,
            text: String::new(),
            exit: None,
        });
        self.pids = pid;
        self.oracle.started(host, &key, start);
        self.oracle.notes.count("tasks started by executors");
        self.check_resources(host);
    }

    /// Echoes a message, if it is for this executor.
    fn echo(&mut self, host: &str, name: ContainerName, data: Vec<u8>) {
        let own = self.containers.get(&name).map(|one| one.key.to_string());
        let heard = String::from_utf8_lossy(&data).into_owned();
        if own.as_ref() != Some(&heard) {
            let message = format!("{host}: executor {own:?} received what is for {heard:?}");
            self.oracle.notes.violation(message);
        }
        self.oracle.notes.count("messages to executors");
        if let Some(executor) = self.executor(name) {
            executor.unsent.push_back(ExecutorEvent::Message(data));
        }
    }
}

/// Returns the instance that launched this task, for an order of the executor's agent.
pub(in crate::sim::system) fn instance(
    executor: Instance,
    launch: &v1::ExecutorLaunch,
) -> Instance {
    Instance {
        order: OrderIndex(launch.order_index),
        ..executor
    }
}

fn ended(name: TaskName, how: CommandStatus) -> TaskStateChange {
    let (state, exit) = match how {
        CommandStatus::Code(0) => (v1::TaskState::Finished, v1::exit::How::Code(0)),
        CommandStatus::Code(code) => (v1::TaskState::Failed, v1::exit::How::Code(code)),
        CommandStatus::Signal(signal) => (v1::TaskState::Killed, v1::exit::How::Signal(signal)),
        CommandStatus::NotStarted => unreachable!("what runs was started"),
    };
    TaskStateChange {
        name,
        state,
        text: String::new(),
        exit: Some(v1::Exit { how: Some(exit) }),
    }
}
