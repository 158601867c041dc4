//! The index of deadlines: the events that are due for each subject, and their times.
//!
//! The index is derived from the records, identically on every master. A leader reads due events
//! from it and has no timers for facts of the registry.

use std::ops::Bound;

use super::index::Sign;
use super::{Indexes, Registry};
use crate::agent::Agent;
use crate::collections::persistent::Set;
use crate::framework::Framework;
use crate::ids::Timestamp;
use crate::subject::Subject;

/// The event that is due for a subject at a deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DeadlineKind {
    /// A disconnected framework is removed.
    Failover,
    /// The administrative state of an agent ends.
    Administration,
    /// A lost agent is removed. The time is that of the loss; the leader's settings determine how
    /// long the agent is kept.
    Lost,
    /// The answer to a batch of operators' changes is removed. The time is that of the answer,
    /// which is kept for [`crate::limits::OPERATOR_ANSWER_MS`].
    Answer,
}

impl DeadlineKind {
    /// All variants, in order of declaration.
    pub const ALL: [Self; 4] = [
        Self::Failover,
        Self::Administration,
        Self::Lost,
        Self::Answer,
    ];

    /// Returns whether the time is exact: cluster time is committed while such a deadline runs. The
    /// other kinds remove old records at some later time.
    #[must_use]
    pub fn is_exact(self) -> bool {
        match self {
            Self::Failover | Self::Administration => true,
            Self::Lost | Self::Answer => false,
        }
    }
}

/// The deadlines by kind, the earliest of each kind first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeadlineIndex(Set<(DeadlineKind, Timestamp, Subject)>);

impl DeadlineIndex {
    /// Returns the deadlines of a kind, the earliest first. With `after`, returns only the later
    /// ones.
    pub fn of<'a>(
        &'a self,
        kind: DeadlineKind,
        after: Option<&(Timestamp, Subject)>,
    ) -> impl Iterator<Item = (Timestamp, &'a Subject)> + use<'a> {
        let from = match after {
            Some((at, subject)) => Bound::Excluded((kind, *at, subject.clone())),
            None => Bound::Included((kind, Timestamp(0), Subject::FIRST)),
        };
        let entries = self.0.range((from, Bound::Unbounded));
        let entries = entries.take_while(move |(found, _, _)| *found == kind);
        entries.map(|(_, at, subject)| (*at, subject))
    }

    /// Returns the earliest deadline for which cluster time is committed.
    #[must_use]
    pub fn next(&self) -> Option<Timestamp> {
        let kinds = DeadlineKind::ALL.into_iter().filter(|kind| kind.is_exact());
        let firsts = kinds.filter_map(|kind| self.of(kind, None).next());
        firsts.map(|(at, _)| at).min()
    }

    pub(crate) fn has(&self, kind: DeadlineKind, at: Timestamp, subject: &Subject) -> bool {
        self.0.contains(&(kind, at, subject.clone()))
    }

    /// Returns the first entry after this one, of any kind.
    pub(crate) fn after(
        &self,
        after: &Option<(DeadlineKind, Timestamp, Subject)>,
    ) -> Option<&(DeadlineKind, Timestamp, Subject)> {
        let from = after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        self.0.range((from, Bound::Unbounded)).next()
    }

    #[cfg(test)]
    pub(crate) fn damage(&mut self, kind: DeadlineKind, at: Timestamp, subject: Subject) {
        self.0.insert((kind, at, subject));
    }
}

/// Returns the deadlines of an agent.
fn of_agent(agent: &Agent) -> impl Iterator<Item = (DeadlineKind, Timestamp)> {
    let lost = agent.mode().is_lost().then(|| agent.mode_since());
    let parts = [
        (DeadlineKind::Administration, agent.admin.deadline),
        (DeadlineKind::Lost, lost),
    ];
    parts.into_iter().filter_map(|(kind, at)| Some((kind, at?)))
}

impl Indexes {
    pub(super) fn agent_deadlines(&mut self, agent: &Agent, sign: Sign) {
        for (kind, at) in of_agent(agent) {
            sign.set(&mut self.deadlines.0, (kind, at, Subject::Agent(agent.id)));
        }
    }

    pub(super) fn framework_deadline(&mut self, framework: &Framework, sign: Sign) {
        if let Some(at) = framework.deadline() {
            let entry = (DeadlineKind::Failover, at, Subject::Framework(framework.id));
            sign.set(&mut self.deadlines.0, entry);
        }
    }

    pub(super) fn answer_deadline(&mut self, name: &(String, String), at: Timestamp, sign: Sign) {
        let (principal, id) = name.clone();
        let entry = (DeadlineKind::Answer, at, Subject::Request { principal, id });
        sign.set(&mut self.deadlines.0, entry);
    }
}

impl Registry {
    /// Returns the index of deadlines.
    #[must_use]
    pub fn deadlines(&self) -> &DeadlineIndex {
        &self.index.deadlines
    }

    /// Returns the deadline of this kind in the record of a subject.
    pub(crate) fn deadline_of(&self, kind: DeadlineKind, subject: &Subject) -> Option<Timestamp> {
        match (kind, subject) {
            (DeadlineKind::Failover, Subject::Framework(id)) => self.frameworks.get(id)?.deadline(),
            (DeadlineKind::Administration | DeadlineKind::Lost, Subject::Agent(id)) => {
                let mut all = of_agent(self.agents.get(id)?);
                all.find(|(found, _)| *found == kind).map(|(_, at)| at)
            }
            (DeadlineKind::Answer, Subject::Request { principal, id }) => {
                let name = (principal.clone(), id.clone());
                Some(self.operator_answers.get(&name)?.at)
            }
            (
                DeadlineKind::Failover
                | DeadlineKind::Administration
                | DeadlineKind::Lost
                | DeadlineKind::Answer,
                _,
            ) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Command, Operate, OperatorOperation};
    use crate::ids::AgentId;
    use crate::testing::{World, framework_info};

    fn all(world: &World) -> Vec<(DeadlineKind, u64, Subject)> {
        let deadlines = world.registry.deadlines();
        assert_eq!(world.reloaded().index.deadlines, *deadlines);
        let kinds = DeadlineKind::ALL.into_iter();
        let entries = kinds.flat_map(|kind| {
            let of = deadlines.of(kind, None);
            of.map(move |(at, subject)| (kind, at.0, subject.clone()))
        });
        entries.collect()
    }

    /// Sets the deadline of the administrative state, as a drain will.
    fn agree_on(world: &mut World, id: AgentId, deadline: Option<Timestamp>) {
        let mut agent = world.registry.agent(id).unwrap().clone();
        agent.admin.deadline = deadline;
        world.registry.put_agent(agent);
        let writes = world.registry.take_changes();
        world.store(&writes);
    }

    #[test]
    fn each_deadline_of_a_record_is_indexed_while_it_is_active() {
        let mut world = World::new();
        let agent = world.register("cpus:1");
        let mut info = framework_info("demo");
        info.failover_timeout_ms = 500;
        let framework = world.subscribe_as(info);
        assert_eq!(all(&world), []);
        world.disconnect(framework);
        world.pass(10);
        world.mark_unreachable(agent);
        let request = Some(("op".to_owned(), "r".to_owned()));
        world.apply(Command::Operate(Operate {
            request,
            hash: 1,
            operations: vec![OperatorOperation::Deactivate(agent)],
            wall_ms: 0,
        }));
        agree_on(&mut world, agent, Some(Timestamp(9_000)));
        let of_framework = (DeadlineKind::Failover, 1_500, Subject::Framework(framework));
        let agreed = (DeadlineKind::Administration, 9_000, Subject::Agent(agent));
        let lost = (DeadlineKind::Lost, 1_010, Subject::Agent(agent));
        let answer = Subject::Request {
            principal: "op".to_owned(),
            id: "r".to_owned(),
        };
        let answer = (DeadlineKind::Answer, 1_010, answer);
        assert_eq!(
            all(&world),
            [of_framework, agreed.clone(), lost, answer.clone()]
        );
        assert_eq!(world.registry.deadlines().next(), Some(Timestamp(1_500)));
        // The agent returns, and the administrative state is unchanged.
        world.register_again(agent);
        world
            .operate(OperatorOperation::Teardown(framework))
            .unwrap();
        assert_eq!(all(&world), [agreed, answer.clone()]);
        assert_eq!(world.registry.deadlines().next(), Some(Timestamp(9_000)));
        // Another state has no deadline until one is set.
        world.operate(OperatorOperation::Reactivate(agent)).unwrap();
        assert_eq!(all(&world), [answer]);
        assert_eq!(world.registry.deadlines().next(), None);
    }

    #[test]
    fn deadlines_of_a_kind_are_iterated_from_a_position() {
        let mut world = World::new();
        let agents: Vec<AgentId> = (0..4).map(|_| world.register("cpus:1")).collect();
        for agent in [agents[2], agents[0], agents[3]] {
            world.pass(1);
            world.mark_unreachable(agent);
        }
        let deadlines = world.registry.deadlines();
        let mut after = None;
        let mut found = Vec::new();
        while let Some((at, subject)) = deadlines.of(DeadlineKind::Lost, after.as_ref()).next() {
            found.push((at.0, subject.clone()));
            after = Some((at, subject.clone()));
        }
        let wanted = [(1_001, agents[2]), (1_002, agents[0]), (1_003, agents[3])];
        assert_eq!(found, wanted.map(|(at, id)| (at, Subject::Agent(id))));
        assert_eq!(deadlines.of(DeadlineKind::Failover, None).next(), None);
    }
}
