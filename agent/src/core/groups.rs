//! Tasks of a group: started when the last of them is ready, ended one after the other when one of them ends badly.
//!
//! The orders of a group follow each other; the first one names it. Nothing of a group is stored: after a crash the same
//! rules make the same of what its tasks have come to. Until the last of them has ended none is forgotten, so that what is
//! missing was lost.

mod cause;
mod folder;

use argosy_proto::v1;
use argosy_state::bugs::{self, Bug};
use argosy_state::ids::{FrameworkId, OrderIndex, Timestamp};
use argosy_state::limits;
use argosy_state::task::{Code, Explanation, TaskState};

use super::facts::{ContainerName, Instance, TaskFacts};
use super::input::{Effect, GroupStart};
use super::lifecycle::{Course, Phase};
use super::outcome::End;
use super::{Core, network};
use cause::{Cause, Rank, cause_in};

/// Tasks that belong together: as many orders from the first one on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Group {
    first: Instance,
    size: u64,
}

impl Group {
    /// That of an instance by its order; `None` if it is in none, or if the order makes no sense.
    fn of(instance: Instance, launch: &v1::LaunchOrder) -> Option<Self> {
        let spec = launch
            .spec
            .as_ref()
            .filter(|spec| spec.executor.is_none())?;
        let wire = spec.group.as_ref()?;
        let (place, size) = (u64::from(wire.place), u64::from(wire.size));
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

    /// What its tasks have in common on the host is kept under this name: no life of an agent is the life 0.
    fn name(self) -> ContainerName {
        ContainerName {
            instance: self.first,
            life: 0,
        }
    }

    fn last(self) -> OrderIndex {
        OrderIndex(self.first.order.0.saturating_add(self.size - 1))
    }

    /// In the order of their start.
    fn members(self) -> impl DoubleEndedIterator<Item = Instance> {
        (0..self.size).map(move |place| Instance {
            order: OrderIndex(self.first.order.0.saturating_add(place)),
            ..self.first
        })
    }
}

/// The name of the group that an instance is in by its order.
pub(crate) fn group_name(instance: Instance, launch: &v1::LaunchOrder) -> Option<ContainerName> {
    Group::of(instance, launch).map(Group::name)
}

/// Why an order names a group that cannot be; `None` if it names none, or a good one. Masters of this release send no such.
pub(super) fn is_malformed(instance: Instance, launch: &v1::LaunchOrder) -> Option<Explanation> {
    let spec = launch.spec.as_ref()?;
    let wire = spec.group.as_ref()?;
    if let Some(executor) = &spec.executor {
        let id = &executor.executor_id;
        return Some(Explanation::of(Code::GroupOfExecutor, &[id]));
    }
    let v1::TaskGroup { place, size, .. } = wire;
    Group::of(instance, launch).is_none().then(|| {
        Explanation::of(
            Code::GroupPlaceWrong,
            &[place, size, &limits::TASKS_PER_GROUP],
        )
    })
}

/// How far a task has come in what its group does together.
#[derive(Debug, Default)]
pub(super) struct Turn {
    /// Its order is on disk, and nothing but the others keeps it from being prepared.
    ordered: bool,
    /// The wish to end it is on disk.
    wanted: bool,
    /// It was told to end; when that is over by, the next one's turn comes.
    told: Option<Timestamp>,
    /// Why it is ended, if for the sake of another one.
    why: Option<Explanation>,
}

impl Turn {
    /// Why it is ended; empty unless for the sake of another one.
    pub(super) fn why(&self) -> Explanation {
        self.why.clone().unwrap_or_default()
    }

    /// Its end, with the reason why it was ended.
    pub(super) fn explain(&self, mut end: End) -> End {
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
    pub(super) fn group(&self, instance: Instance) -> Option<Group> {
        let task = self.facts.tasks.get(&instance)?;
        Group::of(instance, &task.launch)
    }

    /// Whether all of its orders have come, or never will: those of a former id are over.
    fn is_delivered(&self, group: Group) -> bool {
        let is_present = self.facts.identity.agent == Some(group.first.agent);
        !is_present || group.last() <= self.facts.floor
    }

    /// An order of it is here: something is to be done when the last one is, or is void.
    pub(super) fn gather(&mut self, instance: Instance) {
        let group = self.group(instance);
        if let Some(group) = group.filter(|group| !self.is_delivered(*group)) {
            self.gathering.insert(group);
        }
    }

    /// The floor has risen.
    pub(super) fn gathered(&mut self) {
        let groups = self.gathering.iter().copied();
        let whole: Vec<_> = groups.filter(|group| self.is_delivered(*group)).collect();
        for group in whole {
            self.gathering.remove(&group);
            self.tend(group);
            let tasks = &self.facts.tasks;
            let mut known = group.members().filter_map(|member| tasks.get(&member));
            // What masters want to hear of first is told, and then cleared.
            if !known.any(|task| task.held) {
                self.clear_group(group);
            }
        }
    }

    /// Its order is on disk: it goes on with the others. False if it has no others.
    pub(super) fn is_grouped(&mut self, instance: Instance) -> bool {
        let Some(group) = self.group(instance) else {
            return false;
        };
        if let Some(course) = self.courses.get_mut(&instance) {
            course.turn.ordered = true;
        }
        self.tend(group);
        true
    }

    /// The wish to end it is on disk, and it may run: its turn comes. False if nobody is to end before it.
    pub(super) fn waits_its_turn(&mut self, instance: Instance) -> bool {
        let Some(group) = self.group(instance) else {
            return false;
        };
        if !self.is_unwanted(instance) {
            // It has failed, and is the reason why the others will end.
            return false;
        }
        let Some(course) = self.courses.get_mut(&instance) else {
            return false;
        };
        course.turn.wanted = true;
        if course.turn.told.is_some() {
            // The grace has become shorter.
            return false;
        }
        self.tend(group);
        true
    }

    /// Something has become of one of its tasks.
    pub(super) fn tend_group_of(&mut self, instance: Instance) {
        if let Some(group) = self.group(instance) {
            self.tend(group);
        }
    }

    /// Whose grace is over has had its turn.
    pub(super) fn next_turns(&mut self) {
        while let Some((at, instance)) = self.turns.first().copied()
            && at <= self.now
        {
            self.turns.remove(&(at, instance));
            self.tend_group_of(instance);
        }
    }

    /// Brings a group to where what its tasks have come to lets it be.
    fn tend(&mut self, group: Group) {
        let course = |instance| self.courses.get(&instance);
        let is_found = |instance| course(instance).is_none_or(|course| !course.is_sought());
        if !group.members().all(is_found) {
            return;
        }
        match self.cause(group) {
            Some(cause) => self.wind_down(group, &cause),
            None => self.go_on(group),
        }
    }

    /// Prepares all once all are ordered, and starts all once all are prepared.
    fn go_on(&mut self, group: Group) {
        let all = |is_so: &dyn Fn(&Course) -> bool| {
            let mut courses = group.members().map(|member| self.courses.get(&member));
            courses.all(|course| course.is_some_and(is_so))
        };
        if all(&|course| course.phase == Phase::Waiting && course.turn.ordered) {
            for member in group.members() {
                self.fetch(member);
            }
        } else if all(&|course| course.phase == Phase::Prepared)
            || (bugs::is_on(Bug::GroupUnprepared) && self.is_last_prepared(group))
        {
            self.start_group(group);
        }
    }

    /// For a planted defect alone.
    fn is_last_prepared(&self, group: Group) -> bool {
        let last = group.members().next_back();
        last.and_then(|last| self.phase(last)) == Some(Phase::Prepared)
    }

    /// Starts all, or none: what keeps one of them from being started is known before the first.
    fn start_group(&mut self, group: Group) {
        let late = |member| Some((member, self.is_stopped_already(member)?));
        if let Some((member, end)) = group.members().find_map(late) {
            return self.end(member, end);
        }
        for member in group.members() {
            self.start(member);
        }
    }

    /// Why the group has to end; `None` if it has not. The failure of one comes before what followed from it.
    fn cause(&self, group: Group) -> Option<Cause> {
        let mut causes = Vec::new();
        let (mut has_started, mut is_unready) = (false, false);
        let name = self.name_of(group);
        for member in group.members() {
            let known = self.courses.get(&member).zip(self.facts.tasks.get(&member));
            let Some((course, task)) = known else {
                if self.is_delivered(group) {
                    let what = Explanation::of(Code::GroupTaskMissing, &[]);
                    let reason = v1::Reason::TaskMissingOnAgent;
                    causes.push((Rank::Other, Cause::of_group(what, reason)));
                }
                continue;
            };
            if Group::of(member, &task.launch) != Some(group) || group_id(task) != name {
                // It may be the task of somebody else: what becomes of it says nothing of this group.
                let what = Explanation::of(Code::GroupPlaceTaken, &[&task.key.task]);
                let reason = v1::Reason::TaskInvalid;
                causes.push((Rank::Other, Cause::of_group(what, reason)));
                continue;
            }
            has_started |= task.started.is_some() || course.phase == Phase::Running;
            is_unready |= matches!(
                course.phase,
                Phase::Waiting | Phase::Fetching | Phase::Prepared
            );
            causes.extend(cause_in(course, task));
        }
        if has_started && is_unready {
            let what = Explanation::of(Code::GroupAgentRestarted, &[]);
            let reason = v1::Reason::AgentRestarted;
            causes.push((Rank::Other, Cause::of_group(what, reason)));
        }
        let first = causes.into_iter().min_by_key(|(rank, _)| *rank);
        first.map(|(_, cause)| cause)
    }

    /// What the first of its tasks that is here calls it.
    fn name_of(&self, group: Group) -> Option<(FrameworkId, &str)> {
        let mut own = group.members().filter_map(|member| {
            let task = self.facts.tasks.get(&member)?;
            Group::of(member, &task.launch).filter(|own| *own == group)?;
            Some(task)
        });
        own.next().and_then(group_id)
    }

    /// Ends what was not started at once, the rest from the last to the first: the next when the former has ended, or its
    /// grace is over.
    fn wind_down(&mut self, group: Group, cause: &Cause) {
        // An order that contradicts those of a group has a place in it, and is left alone.
        let mut own: Vec<_> = group.members().rev().collect();
        own.retain(|member| self.group(*member) == Some(group));
        for member in own.iter().copied() {
            if let Some(Phase::Waiting | Phase::Fetching | Phase::Prepared) = self.phase(member) {
                self.end_before_start(member, cause);
            }
        }
        for member in own {
            if let Some(Phase::Starting | Phase::Running) = self.phase(member)
                && !self.had_its_turn(member, cause)
            {
                return;
            }
        }
    }

    fn end_before_start(&mut self, instance: Instance, cause: &Cause) {
        if self.phase(instance) == Some(Phase::Fetching) {
            self.effects.push(Effect::CancelFetch(instance));
        }
        if self.is_unwanted(instance) {
            return self.end_unstarted(instance);
        }
        if let Some(course) = self.courses.get_mut(&instance) {
            course.turn.why = Some(cause.why.clone());
        }
        let why = cause.why.clone();
        let end = match cause.failed {
            Some(reason) => End::by_agent(TaskState::Failed, reason, why),
            None => End::by_agent(TaskState::Killed, v1::Reason::KilledDuringLaunch, why),
        };
        self.end(instance, end);
    }

    /// Whether the one before it may be ended, too. If it was not told yet, it is.
    fn had_its_turn(&mut self, instance: Instance, cause: &Cause) -> bool {
        let is_unwanted = self.is_unwanted(instance);
        let Some(course) = self.courses.get_mut(&instance) else {
            return true;
        };
        if let Some(until) = course.turn.told {
            return until <= self.now;
        }
        if !is_unwanted || cause.failed.is_some() {
            course.turn.why.get_or_insert_with(|| cause.why.clone());
        }
        if !is_unwanted {
            self.want_dead(instance);
        } else if course.turn.wanted && course.phase == Phase::Running {
            self.tell_to_end(instance);
        }
        // It comes back when the wish is on disk, when it runs, when it has ended, or when its time is over.
        false
    }

    fn tell_to_end(&mut self, instance: Instance) {
        let grace_ms = self.end_running(instance);
        let until = self.now.plus_ms(grace_ms);
        if let Some(course) = self.courses.get_mut(&instance) {
            course.turn.told = Some(until);
        }
        self.turns.insert((until, instance));
    }

    /// Whether it stays here for the others' sake, though nothing is left of it and nobody wants to hear of it.
    pub(super) fn is_kept(&self, instance: Instance) -> bool {
        let Some(group) = self.group(instance) else {
            return false;
        };
        !self.is_delivered(group) || !self.is_all_clear(group)
    }

    fn is_all_clear(&self, group: Group) -> bool {
        let own = group
            .members()
            .filter(|own| self.group(*own) == Some(group));
        let mut courses = own.filter_map(|member| self.courses.get(&member));
        courses.all(Course::is_clear)
    }

    /// Nothing is left of this one: with the last of them goes what they had in common.
    pub(super) fn clear_group_of(&mut self, instance: Instance) {
        if let Some(group) = self.group(instance) {
            self.clear_group(group);
        }
    }

    fn clear_group(&mut self, group: Group) {
        if !self.is_delivered(group) || !self.is_all_clear(group) {
            return;
        }
        let name = group.name();
        if self.parting.insert(name) {
            self.effects.push(Effect::DestroyGroup { name });
        }
        for member in group.members() {
            self.forget_if_done(member);
        }
    }

    /// What the start of one of its tasks needs to know of the others.
    pub(super) fn group_start(&self, instance: Instance) -> Option<Box<GroupStart>> {
        let group = self.group(instance)?;
        let tasks = group
            .members()
            .filter_map(|member| self.facts.tasks.get(&member));
        let specs: Vec<_> = tasks.filter_map(|task| task.launch.spec.as_ref()).collect();
        let place = specs.first()?.group.as_ref()?;
        Some(Box::new(GroupStart {
            name: group.name(),
            id: place.group_id.clone(),
            network: network::of_group(&specs),
            first: self.first_of(group),
        }))
    }
}

fn group_id(task: &TaskFacts) -> Option<(FrameworkId, &str)> {
    let named = task.launch.spec.as_ref()?.group.as_ref()?;
    Some((task.key.framework, &named.group_id))
}
