//! Lifecycle of an executor's container: started with its first task, ended after its last.

use std::sync::Arc;

use argosy_state::ids::TaskKey;
use argosy_state::planted_bug;
use argosy_state::resources::{Resource, Value};
use argosy_state::task::{
    Code, ExecutorSpec, Explanation, Reason, TaskSpec, TaskState, UpdateSource,
};

use super::shutdown::{over_disk, terminated};
use super::{Executor, ExecutorInfo, ExecutorRecord, HostedTask};
use crate::core::effect::ContainerEffect;
use crate::core::facts::{Instance, JournalRecord, StartedFact, TaskFacts};
use crate::core::input::{CommandExit, CommandStatus, ContainerStart, CreateError, Input};
use crate::core::launch::{LaunchOrder, OrderForm};
use crate::core::lifecycle::InstancePhase;
use crate::core::outcome::{TaskEnd, outcome_of};
use crate::core::views::ContainerView;
use crate::core::{Core, DeferredStep, SyncMode, disk_limit_bytes};

/// Returns the executor that a task names.
pub(super) fn executor_key(task: &TaskFacts) -> Option<TaskKey> {
    let spec = task.executor()?;
    Some(TaskKey {
        framework: task.key.framework,
        task: spec.executor.clone(),
    })
}

impl TaskFacts {
    /// Returns the executor that runs the task; `None` if this agent does.
    pub(in crate::core) fn executor(&self) -> Option<&ExecutorSpec> {
        self.launch.spec.executor.as_deref()
    }
}

/// Returns the launch order with which the agent starts an executor: its command, and in `executor`
/// the mark that it is one.
fn executor_launch(task: &TaskFacts, spec: &ExecutorSpec) -> LaunchOrder {
    LaunchOrder {
        framework: task.launch.framework,
        role: task.launch.role.clone(),
        framework_name: task.launch.framework_name.clone(),
        never_start: false,
        spec: TaskSpec {
            executor: Some(Box::new(spec.clone())),
            ..spec.as_task()
        },
        defect: None,
        form: OrderForm::Canonical,
    }
}

impl Core {
    /// Finds an executor for a task whose order is on disk, or starts one.
    pub(in crate::core) fn host(&mut self, instance: Instance) {
        let Some(task) = self.facts.tasks.get(&instance) else {
            return;
        };
        let Some((key, spec)) = executor_key(task).zip(task.executor()) else {
            let why = Explanation::of(Code::ExecutorUnnamed, &[]);
            let end = TaskEnd::by_agent(TaskState::Error, Reason::TaskInvalid, why);
            self.end(instance, end);
            return;
        };
        let mut named = self.facts.executor_named(&key);
        planted_bug!(ExecutorTwice => named = named.filter(|(_, facts)| !facts.ending));
        match named {
            Some((executor, facts)) if !facts.ending && self.is_alive(executor) => {
                self.join(instance, executor);
            }
            Some(_) => drop(self.executors.unhosted.insert(instance)),
            None => {
                let facts = ExecutorInfo {
                    key,
                    launch: Arc::new(executor_launch(task, spec)),
                    run: self.facts.identity.run,
                    started: None,
                    ending: false,
                    last_task: None,
                    disk_excess: None,
                };
                self.add_executor(instance, facts);
                self.join(instance, instance);
            }
        }
    }

    fn is_alive(&self, executor: Instance) -> bool {
        let phase = self.executors.phase(executor);
        phase.is_some_and(|phase| phase != InstancePhase::Ended)
    }

    fn add_executor(&mut self, instance: Instance, facts: ExecutorInfo) {
        let facts = Box::new(facts);
        let began = ExecutorRecord::Created { instance, facts };
        self.persist(JournalRecord::Executor(began), SyncMode::Awaited);
        let executor = Executor::new(InstancePhase::Waiting);
        self.executors.all.insert(instance, executor);
        self.when_durable(DeferredStep::Execute(instance));
    }

    fn join(&mut self, instance: Instance, executor: Instance) {
        self.enter(instance, InstancePhase::Starting);
        self.attach(instance, executor, false);
        self.limit_executor(executor);
        self.deliver(instance);
    }

    /// Attaches a task to an executor. `delivered`: the executor may have received the task.
    pub(super) fn attach(&mut self, instance: Instance, executor: Instance, delivered: bool) {
        if let Some(state) = self.instances.get_mut(&instance) {
            state.hosted = Some(Box::new(HostedTask {
                executor: Some(executor),
                delivered,
                ..HostedTask::default()
            }));
        }
        let is_wanted = !self.is_unwanted(instance);
        if let Some(executor) = self.executors.all.get_mut(&executor) {
            executor.tasks.insert(instance);
            if is_wanted {
                executor.kill_at = None;
            }
        }
    }

    /// Detaches a task that has ended. The executor is ended with its last task.
    pub(in crate::core) fn unhost(&mut self, instance: Instance) {
        self.executors.unhosted.remove(&instance);
        let state = self.instances.get_mut(&instance);
        let hosted = state.and_then(|state| state.hosted.as_mut());
        let Some(executor) = hosted.and_then(|hosted| hosted.executor.take()) else {
            return;
        };
        self.detach(instance, executor);
    }

    pub(super) fn detach(&mut self, instance: Instance, executor: Instance) {
        if let Some(own) = self.executors.all.get_mut(&executor)
            && own.tasks.remove(&instance)
        {
            if own.tasks.is_empty() {
                self.shut_down(executor);
            } else {
                self.limit_executor(executor);
                // The last task that was not to be killed may have left.
                self.set_executor_deadline(executor);
            }
        }
    }

    /// Starts an executor whose record is on disk.
    pub(in crate::core) fn execute(&mut self, instance: Instance) {
        if self.executors.phase(instance) != Some(InstancePhase::Waiting) {
            return;
        }
        let Some(start) = self.executor_start(instance) else {
            return;
        };
        if start.launch.needs_fetch() {
            self.enter_executor_phase(instance, InstancePhase::Fetching);
            self.effects.push(ContainerEffect::Fetch(start.clone()));
            self.measure_executor(&start);
        } else {
            self.enter_executor_phase(instance, InstancePhase::Starting);
            self.effects.push(ContainerEffect::Start(start));
        }
    }

    fn executor_start(&self, instance: Instance) -> Option<Box<ContainerStart>> {
        let facts = self.facts.executors.get(&instance)?;
        Some(Box::new(ContainerStart {
            name: self.facts.executor_container(instance)?,
            key: facts.key.clone(),
            launch: facts.launch.clone(),
            task_amounts: self.task_amounts(instance),
            stop_at: None,
            group: None,
            predecessors: self.predecessors(instance),
        }))
    }

    /// Returns the amounts of all tasks of an executor.
    fn task_amounts(&self, instance: Instance) -> Vec<Resource> {
        let executor = self.executors.all.get(&instance);
        let tasks = executor.into_iter().flat_map(|executor| &executor.tasks);
        let tasks = tasks.filter_map(|task| self.facts.tasks.get(task));
        let resources = tasks.flat_map(|task| &task.launch.spec.resources);
        let amounts = resources.filter(|resource| matches!(resource.value, Value::Scalar(_)));
        amounts.cloned().collect()
    }

    /// Adjusts the limits of the container after a change of the executor's tasks.
    pub(super) fn limit_executor(&mut self, instance: Instance) {
        let phase = self.executors.phase(instance);
        let Some(start) = self.executor_start(instance) else {
            return;
        };
        if matches!(
            phase,
            Some(InstancePhase::Fetching | InstancePhase::Running)
        ) {
            self.measure_executor(&start);
        }
        if phase == Some(InstancePhase::Running) {
            let ContainerStart {
                name,
                launch,
                task_amounts,
                ..
            } = *start;
            self.effects.push(ContainerEffect::Limit {
                name,
                launch,
                task_amounts,
                order: None,
            });
        }
    }

    /// Starts to measure the disk usage of an executor.
    fn measure_executor(&mut self, start: &ContainerStart) {
        let spec = &start.launch.spec;
        let of_tasks = start.task_amounts.iter();
        let of_tasks = of_tasks.filter(|amount| &*amount.identity.name == "disk");
        let milli = of_tasks.fold(spec.resources.scalar_milli("disk"), |sum, amount| {
            sum.saturating_add(amount.value.scalar_milli())
        });
        let requested_bytes = disk_limit_bytes(milli.try_into().unwrap_or(0));
        let limit_bytes = self.config.disk_default.or(requested_bytes);
        self.effects.push(ContainerEffect::Measure {
            name: start.name,
            key: start.key.clone(),
            limit_bytes: limit_bytes.unwrap_or(u64::MAX),
            requested_bytes: requested_bytes.unwrap_or(0),
            counts_unlinked: spec.host_paths.is_empty(),
            group: None,
        });
    }

    /// Kills an executor that exceeds its disk limit immediately: during a grace period it would
    /// only write more. One whose files are being fetched never starts.
    fn executor_over_disk(&mut self, instance: Instance, why: Explanation) {
        let phase = self.executors.phase(instance);
        if phase == Some(InstancePhase::Fetching) {
            self.effects.push(ContainerEffect::CancelFetch(instance));
            return self.executor_ended(instance, over_disk(&why));
        }
        if phase != Some(InstancePhase::Running) {
            return;
        }
        self.mark_over_disk(instance, why);
        self.kill_executor(instance);
    }

    pub(super) fn enter_executor_phase(&mut self, instance: Instance, phase: InstancePhase) {
        if let Some(executor) = self.executors.all.get_mut(&instance) {
            executor.phase = phase;
        }
    }

    /// Handles inputs about an executor or its container; returns all others.
    pub(in crate::core) fn executor_input(&mut self, input: Input) -> Option<Input> {
        let is_own = |instance: &Instance| self.executors.all.contains_key(instance);
        match input {
            Input::Fetched { instance, result } if is_own(&instance) => {
                self.executor_fetched(instance, result);
            }
            Input::Started { instance, fact } if is_own(&instance) => {
                self.executor_started(instance, fact);
            }
            Input::NotStarted { instance, refusal } if is_own(&instance) => {
                self.executor_not_created(instance, refusal);
            }
            Input::Exited { instance, exit } if is_own(&instance) => {
                self.executor_exited(instance, &exit);
            }
            Input::Lost { instance, why } if is_own(&instance) => {
                let why = Explanation::of(Code::Executor, &[]).then(why);
                self.executor_ended(instance, terminated(why));
            }
            Input::DiskLimitExceeded { instance, why } if is_own(&instance) => {
                self.executor_over_disk(instance, why);
            }
            Input::ContainerFound {
                instance,
                container,
            } if is_own(&instance) => {
                self.executor_found(instance, container);
            }
            // Run 0 names a group. The order of a malformed one may be that of an executor.
            Input::Destroyed { name } if is_own(&name.instance) && name.run > 0 => {
                self.executor_cleared(name);
            }
            Input::Executor {
                instance,
                connection,
                event,
            } => self.executor_event(instance, connection, event),
            other => return Some(other),
        }
        None
    }

    fn executor_not_created(&mut self, instance: Instance, refusal: CreateError) {
        let why = Explanation::of(Code::Executor, &[]).then(refusal.why);
        let end = TaskEnd::not_created(CreateError { why, ..refusal });
        self.executor_ended(instance, end);
    }

    fn executor_fetched(&mut self, instance: Instance, result: Result<(), CreateError>) {
        if self.executors.phase(instance) != Some(InstancePhase::Fetching) {
            return;
        }
        match (result, self.executor_start(instance)) {
            (Ok(()), Some(start)) => {
                self.enter_executor_phase(instance, InstancePhase::Starting);
                self.effects.push(ContainerEffect::Start(start));
            }
            (Ok(()), None) => {}
            (Err(refusal), _) => self.executor_not_created(instance, refusal),
        }
    }

    pub(super) fn executor_started(&mut self, instance: Instance, fact: StartedFact) {
        let name = self.facts.executor_container(instance);
        let facts = self.facts.executors.get(&instance);
        let (Some(name), Some(facts)) = (name, facts) else {
            return;
        };
        let (is_new, is_unwanted) = (facts.started.is_none(), facts.ending);
        let by = self.now.plus_ms(self.config.executor_timeout_ms);
        let Some(executor) = self.executors.all.get_mut(&instance) else {
            return;
        };
        if !matches!(
            executor.phase,
            InstancePhase::Starting | InstancePhase::Recovering | InstancePhase::Unknown
        ) {
            return;
        }
        executor.phase = InstancePhase::Running;
        executor.subscribe_by = Some(by);
        self.executors.deadlines.insert(by, instance);
        if is_new {
            // The supervisor's state files prove the start after a crash, so no other step waits
            // for this record.
            let started = ExecutorRecord::Started { instance, fact };
            self.persist(JournalRecord::Executor(started), SyncMode::Lazy);
        }
        if is_unwanted || self.executors.all[&instance].tasks.is_empty() {
            self.kill_executor(instance);
        } else {
            self.limit_executor(instance);
            self.effects.push(ContainerEffect::Listen(name));
        }
    }

    pub(super) fn executor_exited(&mut self, instance: Instance, ended: &CommandExit) {
        let why = Explanation::of(Code::ExecutorEnded, &[]).then(ended.why.clone());
        let end = match ended.status {
            _ if ended.out_of_memory => TaskEnd {
                source: UpdateSource::Agent,
                exit: None,
                ..outcome_of(ended.clone(), false, None)
            },
            CommandStatus::NotStarted => {
                TaskEnd::by_agent(TaskState::Failed, Reason::CommandNotStarted, why)
            }
            CommandStatus::Code(_) | CommandStatus::Signal(_) => terminated(why),
        };
        self.executor_ended(instance, end);
    }

    /// Returns an executor's container, for display.
    pub(in crate::core) fn executor_view(
        &self,
        instance: Instance,
        phase: InstancePhase,
    ) -> Option<ContainerView> {
        let facts = self.facts.executors.get(&instance)?;
        let name = self.facts.executor_container(instance)?;
        let executor = self.executors.all.get(&instance)?;
        let tasks = executor.tasks.iter();
        let tasks = tasks.filter_map(|task| Some(self.facts.tasks.get(task)?.key.task.to_string()));
        Some(ContainerView {
            name,
            tasks: tasks.collect(),
            container: name.to_string(),
            framework_id: facts.key.framework.to_string(),
            task_id: facts.key.task.to_string(),
            order: instance.order.0,
            state: phase.name(),
            pid: facts.started.map(|started| started.pid),
            held: !facts.ending,
            quarantined: false,
            healthy: None,
            ready: None,
            group: None,
        })
    }
}
