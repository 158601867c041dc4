//! The objects whose changes the feed shows.
//!
//! The registry stores an object as several records; most other records are internal, and never
//! shown.

use argosy_state::ids::{AgentId, FrameworkId, Role, TaskKey};
use argosy_state::registry::RecordKey;

/// A kind of object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Cluster,
    Role,
    Agent,
    Framework,
    Task,
}

impl Kind {
    pub(crate) const ALL: [Self; 5] = [
        Self::Cluster,
        Self::Role,
        Self::Agent,
        Self::Framework,
        Self::Task,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::Role => "role",
            Self::Agent => "agent",
            Self::Framework => "framework",
            Self::Task => "task",
        }
    }

    /// Returns the fields by which objects of this kind are filtered.
    pub(super) const fn fields(self) -> &'static [&'static str] {
        match self {
            Self::Cluster => &[],
            Self::Role => &["role"],
            Self::Agent => &["agent_id", "host_name", "mode"],
            Self::Framework => &["framework_id", "name"],
            Self::Task => &[
                "framework_id",
                "agent_id",
                "task_id",
                "state",
                "name",
                "role",
            ],
        }
    }

    /// Returns the field of `WatchRecord` that has an object of this kind.
    pub(super) const fn wire_field(self) -> u32 {
        match self {
            Self::Agent => 3,
            Self::Framework => 4,
            Self::Task => 5,
            Self::Role => 6,
            Self::Cluster => 7,
        }
    }
}

/// An object that the feed shows.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Subject {
    Cluster,
    Role(Role),
    Agent(AgentId),
    Framework(FrameworkId),
    Task(TaskKey),
}

impl Subject {
    /// Returns the object to which a stored record belongs; `None` for internal records. Counters
    /// of agents, which each launch changes, are not visible in lists.
    pub(super) fn of(key: RecordKey) -> Option<Self> {
        match key {
            RecordKey::Cluster => Some(Self::Cluster),
            RecordKey::Weight(role) => Some(Self::Role(role)),
            RecordKey::Agent(id)
            | RecordKey::AgentReport(id)
            | RecordKey::AgentAdministration(id)
            | RecordKey::AgentStatus(id) => Some(Self::Agent(id)),
            RecordKey::Framework(id) => Some(Self::Framework(id)),
            RecordKey::Task(key)
            | RecordKey::TaskFacts(key)
            | RecordKey::TaskSpec(key)
            | RecordKey::TaskStatus(key)
            | RecordKey::TaskMessage(key)
            | RecordKey::TaskEndMessage(key)
            | RecordKey::TaskLimits(key)
            | RecordKey::SecondLimits(key)
            | RecordKey::LimitsChange(key) => Some(Self::Task(key)),
            RecordKey::Time
            | RecordKey::CallAnswer(..)
            | RecordKey::OperatorAnswer(_)
            | RecordKey::FinishedTask(_)
            | RecordKey::FinishedFramework(_)
            | RecordKey::AgentCounters(_)
            | RecordKey::Sweep(_)
            | RecordKey::History
            | RecordKey::Secret(_)
            // The status of the task changes with it.
            | RecordKey::TaskTransition(..)
            | RecordKey::Policy
            | RecordKey::Token(_)
            | RecordKey::RevokedKey(_)
            | RecordKey::KeyBinding(_)
            | RecordKey::RateLimit(_) => None,
        }
    }

    pub(crate) const fn kind(&self) -> Kind {
        match self {
            Self::Cluster => Kind::Cluster,
            Self::Role(_) => Kind::Role,
            Self::Agent(_) => Kind::Agent,
            Self::Framework(_) => Kind::Framework,
            Self::Task(_) => Kind::Task,
        }
    }

    /// Returns the id, as `WatchRecord` has it.
    pub(crate) fn id(&self) -> String {
        match self {
            Self::Cluster => String::new(),
            Self::Role(role) => role.to_string(),
            Self::Agent(id) => id.to_string(),
            Self::Framework(id) => id.to_string(),
            Self::Task(key) => key.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use argosy_state::ids::TaskId;

    use super::*;

    #[test]
    fn every_part_of_a_task_is_a_change_of_the_task_and_answers_are_never_shown() {
        let key = TaskKey {
            framework: FrameworkId(3),
            task: TaskId::new("web").unwrap(),
        };
        for part in [
            RecordKey::Task(key.clone()),
            RecordKey::TaskFacts(key.clone()),
            RecordKey::TaskStatus(key.clone()),
            RecordKey::TaskMessage(key.clone()),
            RecordKey::LimitsChange(key.clone()),
        ] {
            assert_eq!(Subject::of(part), Some(Subject::Task(key.clone())));
        }
        let name = ("alice".to_owned(), "secret-request".to_owned());
        for internal in [
            RecordKey::CallAnswer(FrameworkId(3), 1, 2),
            RecordKey::OperatorAnswer(Box::new(name)),
            RecordKey::AgentCounters(AgentId(1)),
            RecordKey::Time,
        ] {
            assert_eq!(Subject::of(internal), None);
        }
        assert_eq!(Subject::Task(key).id(), "framework-3/web");
    }
}
