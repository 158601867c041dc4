//! Task groups: all tasks start when the last one is ready, and end one after another when one of
//! them fails.
//!
//! The orders of a group are consecutive; the first one names it. Nothing of a group is stored:
//! after a crash the same rules derive the same decisions from the states of its tasks. No task is
//! forgotten until the last one has ended, so a missing task was lost.

mod cause;
mod directory;
mod pending;

use argosy_state::ids::{FrameworkId, GroupId, OrderIndex, Timestamp};
use argosy_state::limits;
use argosy_state::planted_bug;
use argosy_state::task::{Code, Explanation, Reason, TaskGroup, TaskState};

use super::effect::ContainerEffect;
use super::facts::{AgentState, ContainerName, Instance, TaskFacts};
use super::input::GroupStart;
use super::launch::LaunchOrder;
use super::lifecycle::{InstancePhase, InstanceState};
use super::outcome::TaskEnd;
use super::{Core, network, predecessors};
use cause::{CausePriority, GroupEndCause, cause_in};
pub(super) use pending::PendingGroups;

/// A task group: consecutive orders, from the first one on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TaskGroupOrders {
    first: Instance,
    size: u64,
}

impl TaskGroupOrders {
    /// Returns the group of an instance by its order; `None` if it has none, or if the order is
    /// malformed.
    fn of(instance: Instance, launch: &LaunchOrder) -> Option<Self> {
        let spec = Some(&launch.spec).filter(|spec| spec.executor.is_none())?;
        let group = spec.group.as_deref()?;
        let (place, size) = (u64::from(group.place), u64::from(group.size));
        let first = instance.order.0.checked_sub(place)?;
        let is_sound = first > 0 && place < size && size <= limits::TASKS_PER_GROUP as u64;
        is_sound.then_some(Self {
            first: Instance {
                order: OrderIndex(first),
                ..instance
            },
            size,
        })
    }

    /// Returns the name of the shared host resources of the group. No run of an agent has the
    /// number 0.
    fn name(self) -> ContainerName {
        ContainerName {
            instance: self.first,
            run: 0,
        }
    }

    fn last(self) -> OrderIndex {
        OrderIndex(self.first.order.0.saturating_add(self.size - 1))
    }

    /// Returns whether no further order of the group is expected. Orders for a former agent id do
    /// not arrive any more.
    fn is_delivered(self, facts: &AgentState) -> bool {
        let is_present = facts.identity.agent == Some(self.first.agent);
        !is_present || self.last() <= facts.floor
    }

    /// Returns the members in the order of their start.
    pub(super) fn members(self) -> impl DoubleEndedIterator<Item = Instance> {
        (0..self.size).map(move |place| Instance {
            order: OrderIndex(self.first.order.0.saturating_add(place)),
            ..self.first
        })
    }
}

/// Returns the name of the group of an instance, by its order.
pub(crate) fn group_name(instance: Instance, launch: &LaunchOrder) -> Option<ContainerName> {
    TaskGroupOrders::of(instance, launch).map(TaskGroupOrders::name)
}

/// Explains why an order names an impossible group; `None` if it names none, or a valid one.
/// Masters of this release do not send such orders.
pub(super) fn is_malformed(instance: Instance, launch: &LaunchOrder) -> Option<Explanation> {
    let TaskGroup { place, size, .. } = launch.spec.group.as_deref()?;
    if let Some(executor) = &launch.spec.executor {
        let id = &executor.executor;
        return Some(Explanation::of(Code::GroupOfExecutor, &[id]));
    }
    TaskGroupOrders::of(instance, launch).is_none().then(|| {
        Explanation::of(
            Code::GroupPlaceWrong,
            &[place, size, &limits::TASKS_PER_GROUP],
        )
    })
}

/// The progress of a task in the common steps of its group.
#[derive(Debug, Default)]
pub(super) struct GroupProgress {
    /// Whether the order is on disk, so that only the other tasks delay the preparation.
    ordered: bool,
    /// Whether the kill order is on disk.
    kill_ordered: bool,
    /// The end of the grace period of its kill; after it the next task is killed.
    kill_deadline: Option<Timestamp>,
    /// The cause of the kill, if another task is the reason for it.
    why: Option<Explanation>,
}

impl GroupProgress {
    /// Returns the cause of the kill; empty unless another task is the reason for it.
    pub(super) fn why(&self) -> Explanation {
        self.why.clone().unwrap_or_default()
    }

    /// Adds the cause of the kill to the end.
    pub(super) fn explain(&self, mut end: TaskEnd) -> TaskEnd {
        if let Some(why) = &self.why
            && end.state == TaskState::Killed
            && end.why != *why
        {
            end.why = why.clone().then(end.why);
        }
        end
    }
}

impl Core {
    pub(super) fn group(&self, instance: Instance) -> Option<TaskGroupOrders> {
        let task = self.facts.tasks.get(&instance)?;
        TaskGroupOrders::of(instance, &task.launch)
    }

    /// Returns the name of the group of an instance, if all of its tasks have ended and not all of
    /// their containers are removed. Then its shared resources are released.
    pub(super) fn ended_group(&self, instance: Instance) -> Option<ContainerName> {
        let group = self.group(instance)?;
        let mut members = group.members();
        let has_ended = members.all(|member| {
            self.phase(member)
                .is_none_or(|phase| phase == InstancePhase::Ended)
        });
        (has_ended && !self.is_group_cleaned_up(group)).then(|| group.name())
    }

    fn is_delivered(&self, group: TaskGroupOrders) -> bool {
        group.is_delivered(&self.facts)
    }

    /// Waits for the other orders of a group: the group acts when the last one has arrived or is
    /// cancelled.
    pub(super) fn wait_for_group(&mut self, instance: Instance) {
        let group = self.group(instance);
        if let Some(group) = group.filter(|group| !self.is_delivered(*group)) {
            self.groups.wait_for_orders(group);
        }
    }

    /// Handles an increase of the last order taken.
    pub(super) fn orders_advanced(&mut self) {
        let facts = &self.facts;
        for group in self
            .groups
            .take_delivered(|group| group.is_delivered(facts))
        {
            self.advance_group(group);
            let tasks = &self.facts.tasks;
            let mut known = group.members().filter_map(|member| tasks.get(&member));
            // Tasks that a master still tracks are reported before the cleanup.
            if !known.any(|task| task.held) {
                self.clear_group(group);
            }
        }
    }

    /// Adds an instance whose order is on disk to its group. Returns false if it is in no group.
    pub(super) fn join_group(&mut self, instance: Instance) -> bool {
        let Some(group) = self.group(instance) else {
            return false;
        };
        if let Some(state) = self.instances.get_mut(&instance) {
            state.group.ordered = true;
        }
        self.advance_group(group);
        true
    }

    /// Handles a kill order on disk for an instance that may run. Returns false if no other task
    /// has to end before it.
    pub(super) fn defer_group_kill(&mut self, instance: Instance) -> bool {
        let Some(group) = self.group(instance) else {
            return false;
        };
        if !self.is_unwanted(instance) {
            // It has failed, and is the reason why the others will end.
            return false;
        }
        let Some(state) = self.instances.get_mut(&instance) else {
            return false;
        };
        state.group.kill_ordered = true;
        if state.group.kill_deadline.is_some() {
            // The grace period became shorter.
            return false;
        }
        self.advance_group(group);
        true
    }

    /// Handles a change of one of the group's tasks.
    pub(super) fn advance_group_of(&mut self, instance: Instance) {
        if let Some(group) = self.group(instance) {
            self.advance_group(group);
        }
    }

    /// Continues with the next kill of each group whose current grace period is over.
    pub(super) fn continue_group_kills(&mut self) {
        while let Some(instance) = self.groups.next_kill(self.now) {
            self.advance_group_of(instance);
        }
    }

    /// Takes every step of a group that the states of its tasks allow. The group waits for the
    /// search for its containers, which is bounded, but not for a container that does not answer.
    fn advance_group(&mut self, group: TaskGroupOrders) {
        let phase = |member| self.phase(member);
        if group
            .members()
            .any(|member| phase(member) == Some(InstancePhase::Recovering))
        {
            return;
        }
        match self.cause(group) {
            Some(cause) => self.end_group(group, &cause),
            None => self.prepare_or_start(group),
        }
    }

    /// Prepares all tasks once all are ordered, and starts all once all are prepared.
    fn prepare_or_start(&mut self, group: TaskGroupOrders) {
        let all = |is_so: &dyn Fn(&InstanceState) -> bool| {
            let mut instances = group.members().map(|member| self.instances.get(&member));
            instances.all(|state| state.is_some_and(is_so))
        };
        if all(&|state| state.phase == InstancePhase::Waiting && state.group.ordered) {
            for member in group.members() {
                self.fetch(member);
            }
        } else if all(&|state| state.phase == InstancePhase::Prepared)
            || (planted_bug!(GroupUnprepared) && self.is_last_prepared(group))
        {
            self.start_group(group);
        }
    }

    /// Implements the planted bug `GroupUnprepared`.
    fn is_last_prepared(&self, group: TaskGroupOrders) -> bool {
        let last = group.members().next_back();
        last.and_then(|last| self.phase(last)) == Some(InstancePhase::Prepared)
    }

    /// Starts all tasks, or none: every obstacle to a start is known before the first.
    fn start_group(&mut self, group: TaskGroupOrders) {
        let late = |member| Some((member, self.expired_end(member)?));
        if let Some((member, end)) = group.members().find_map(late) {
            return self.end(member, end);
        }
        for member in group.members() {
            self.start(member);
        }
    }

    /// Returns the cause for which the group has to end, if there is one. A failure precedes its
    /// consequences.
    fn cause(&self, group: TaskGroupOrders) -> Option<GroupEndCause> {
        let mut causes = Vec::new();
        let (mut has_started, mut is_unready) = (false, false);
        let name = self.name_of(group);
        for member in group.members() {
            let known = self
                .instances
                .get(&member)
                .zip(self.facts.tasks.get(&member));
            let Some((state, task)) = known else {
                if self.is_delivered(group) {
                    let what = Explanation::of(Code::GroupTaskMissing, &[]);
                    let reason = Reason::TaskMissingOnAgent;
                    causes.push((CausePriority::Other, GroupEndCause::of_group(what, reason)));
                }
                continue;
            };
            if TaskGroupOrders::of(member, &task.launch) != Some(group) || group_id(task) != name {
                // It may be another framework's task: its state is not evidence about this group.
                let what = Explanation::of(Code::GroupPlaceTaken, &[&task.key.task]);
                let reason = Reason::TaskInvalid;
                causes.push((CausePriority::Other, GroupEndCause::of_group(what, reason)));
                continue;
            }
            has_started |= cause::has_started(state, task);
            is_unready |= matches!(
                state.phase,
                InstancePhase::Waiting | InstancePhase::Fetching | InstancePhase::Prepared
            );
            causes.extend(cause_in(state, task));
        }
        if has_started && is_unready {
            let what = Explanation::of(Code::GroupAgentRestarted, &[]);
            let reason = Reason::AgentRestarted;
            causes.push((CausePriority::Other, GroupEndCause::of_group(what, reason)));
        }
        let first = causes.into_iter().min_by_key(|(rank, _)| *rank);
        first.map(|(_, cause)| cause)
    }

    /// Returns the framework's name of the group, from its first known task.
    fn name_of(&self, group: TaskGroupOrders) -> Option<(FrameworkId, &GroupId)> {
        let mut own = group.members().filter_map(|member| {
            let task = self.facts.tasks.get(&member)?;
            TaskGroupOrders::of(member, &task.launch).filter(|own| *own == group)?;
            Some(task)
        });
        own.next().and_then(group_id)
    }

    /// Ends all tasks that were not started, and then the others one by one, from the last to the
    /// first: each when the former has ended, or its grace period is over.
    fn end_group(&mut self, group: TaskGroupOrders, cause: &GroupEndCause) {
        // An order that contradicts those of a group has a position in it, and is ignored.
        let mut own: Vec<_> = group.members().rev().collect();
        own.retain(|member| self.group(*member) == Some(group));
        for member in own.iter().copied() {
            if let Some(
                InstancePhase::Waiting | InstancePhase::Fetching | InstancePhase::Prepared,
            ) = self.phase(member)
            {
                self.end_before_start(member, cause);
            }
        }
        for member in own {
            if let Some(InstancePhase::Starting | InstancePhase::Running | InstancePhase::Unknown) =
                self.phase(member)
                && !self.kill_in_turn(member, cause)
            {
                return;
            }
        }
    }

    fn end_before_start(&mut self, instance: Instance, cause: &GroupEndCause) {
        if self.phase(instance) == Some(InstancePhase::Fetching) {
            self.effects.push(ContainerEffect::CancelFetch(instance));
        }
        if self.is_unwanted(instance) {
            return self.end_unstarted(instance);
        }
        if let Some(state) = self.instances.get_mut(&instance) {
            state.group.why = Some(cause.why.clone());
        }
        let why = cause.why.clone();
        let end = match cause.failure_reason {
            Some(reason) => TaskEnd::by_agent(TaskState::Failed, reason, why),
            None => TaskEnd::by_agent(TaskState::Killed, Reason::KilledDuringLaunch, why),
        };
        self.end(instance, end);
    }

    /// Returns whether the task before this one may be killed too. Kills this one first if that has
    /// not happened yet.
    fn kill_in_turn(&mut self, instance: Instance, cause: &GroupEndCause) -> bool {
        let is_unwanted = self.is_unwanted(instance);
        let Some(state) = self.instances.get_mut(&instance) else {
            return true;
        };
        if let Some(until) = state.group.kill_deadline {
            return until <= self.now;
        }
        // The next result decides: it is killed if found, and destroyed if the query fails again.
        let is_silent = state.phase == InstancePhase::Unknown;
        if !is_unwanted || cause.failure_reason.is_some() {
            state.group.why.get_or_insert_with(|| cause.why.clone());
        }
        if !is_unwanted {
            self.request_kill(instance);
        } else if state.group.kill_ordered && state.phase == InstancePhase::Running {
            self.kill_member(instance);
        }
        // This is called again when the kill order is on disk, and when the task runs, has ended,
        // or exceeds its grace period.
        is_silent
    }

    fn kill_member(&mut self, instance: Instance) {
        let grace_ms = self.end_running(instance);
        let until = self.now.plus_ms(grace_ms);
        if let Some(state) = self.instances.get_mut(&instance) {
            state.group.kill_deadline = Some(until);
        }
        self.groups.kill_next_at(until, instance);
    }

    /// Whether the instance is retained for the other tasks, though nothing remains of it and no
    /// report is due.
    pub(super) fn is_retained(&self, instance: Instance) -> bool {
        let Some(group) = self.group(instance) else {
            return false;
        };
        !self.is_delivered(group) || !self.is_group_cleaned_up(group)
    }

    fn is_group_cleaned_up(&self, group: TaskGroupOrders) -> bool {
        let own = group
            .members()
            .filter(|own| self.group(*own) == Some(group));
        let mut instances = own.filter_map(|member| self.instances.get(&member));
        instances.all(InstanceState::is_cleaned_up)
    }

    /// Handles the complete cleanup of one task. The shared resources of the group are released
    /// with the last one.
    pub(super) fn clear_group_of(&mut self, instance: Instance) {
        if let Some(group) = self.group(instance) {
            self.clear_group(group);
        }
    }

    fn clear_group(&mut self, group: TaskGroupOrders) {
        if !self.is_delivered(group) || !self.is_group_cleaned_up(group) {
            return;
        }
        let name = group.name();
        let members = group.members().filter_map(|own| self.facts.tasks.get(&own));
        let ports = members.flat_map(|task| predecessors::ports(&task.launch.spec));
        if self.groups.release(name, ports.collect()) {
            self.effects.push(ContainerEffect::DestroyGroup { name });
        }
        for member in group.members() {
            self.release_if_done(member);
        }
    }

    /// Handles the release of a group's shared resources. Returns false if this is not the name of
    /// a group that is released.
    pub(super) fn group_released(&mut self, name: ContainerName) -> bool {
        let is_group = self.groups.released(name);
        if is_group {
            self.dial_if_clear();
        }
        is_group
    }

    /// Returns the facts about the other tasks that the start of one task needs.
    pub(super) fn group_start(&self, instance: Instance) -> Option<Box<GroupStart>> {
        let group = self.group(instance)?;
        let tasks = group
            .members()
            .filter_map(|member| self.facts.tasks.get(&member));
        let specs: Vec<_> = tasks.map(|task| &task.launch.spec).collect();
        let place = specs.first()?.group.as_ref()?;
        Some(Box::new(GroupStart {
            name: group.name(),
            id: place.id.clone(),
            network: network::of_group(&specs)?,
            first: self.first_of(group),
        }))
    }
}

fn group_id(task: &TaskFacts) -> Option<(FrameworkId, &GroupId)> {
    let named = task.launch.spec.group.as_ref()?;
    Some((task.key.framework, &named.id))
}
