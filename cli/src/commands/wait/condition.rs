//! The conditions of `argosy wait`, judged by the record of an object. Pure.

use std::fmt;

use argosy_proto::v1;
use argosy_proto::v1::watch_record::Record;

use crate::args::WaitKind;
use crate::args::filters::{agent_mode, task_state};
use crate::exit::Failure;
use crate::operator::is_terminal;
use crate::output::{exit_word, mode_word, state_word};

/// The state for which an object is awaited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Condition {
    /// A task in any state after its end.
    Ended,
    /// A task whose health check has succeeded.
    Healthy,
    /// A task whose readiness check has succeeded.
    Ready,
    Task(v1::TaskState),
    Agent(v1::AgentMode),
    /// An agent without live tasks.
    Idle,
    /// An agent with a connection to the leader.
    Connected,
    /// A master that leads.
    Leading,
    /// A framework that is removed.
    Removed,
}

/// The progress of an object towards its condition.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// The state that it is in.
    Met(String),
    Pending,
    /// It will never be met, for this reason.
    Never(String),
}

impl Condition {
    pub(super) fn parse(kind: WaitKind, text: &str) -> Result<Self, Failure> {
        let invalid =
            |why: String| Failure::usage(format!("--for {text:?} of {}: {why}", kind.word()));
        match (kind, text) {
            (WaitKind::Task, "ended") => Ok(Self::Ended),
            (WaitKind::Task, "healthy") => Ok(Self::Healthy),
            (WaitKind::Task, "ready") => Ok(Self::Ready),
            (WaitKind::Task, _) => task_state(text)
                .map(Self::Task)
                .map_err(|why| invalid(format!("{why}, ended, healthy, ready"))),
            (WaitKind::Agent, "idle") => Ok(Self::Idle),
            (WaitKind::Agent, "connected") => Ok(Self::Connected),
            (WaitKind::Agent, _) => agent_mode(text)
                .map(Self::Agent)
                .map_err(|why| invalid(format!("{why}, idle, connected"))),
            (WaitKind::Master, "leading") => Ok(Self::Leading),
            (WaitKind::Master, _) => Err(invalid("write leading".to_owned())),
            (WaitKind::Cluster, "healthy") => Ok(Self::Healthy),
            (WaitKind::Cluster, _) => Err(invalid("write healthy".to_owned())),
            (WaitKind::Framework, "removed") => Ok(Self::Removed),
            (WaitKind::Framework, _) => Err(invalid("write removed".to_owned())),
        }
    }

    /// Returns whether it depends on facts that the records of the feed do not have.
    pub(super) fn needs_reads(self) -> bool {
        match self {
            // The feed has no event when the number of an agent's tasks or its connection changes.
            Self::Idle | Self::Connected => true,
            Self::Ended
            | Self::Healthy
            | Self::Ready
            | Self::Task(_)
            | Self::Agent(_)
            | Self::Leading
            | Self::Removed => false,
        }
    }

    /// Judges a record; `None` if the registry no longer has it.
    pub(super) fn evaluate(self, record: Option<&Record>) -> Progress {
        match (self, record) {
            (Self::Ended, None) => Progress::Met("ended".to_owned()),
            (Self::Removed, None) => Progress::Met("removed".to_owned()),
            (_, None) => Progress::Never("is no longer known".to_owned()),
            (Self::Agent(wanted), Some(Record::Agent(agent))) => of_agent(agent, wanted),
            (Self::Connected, Some(Record::Agent(agent))) => connected(agent),
            (Self::Idle, Some(Record::Agent(agent))) if agent.live_tasks == 0 => {
                Progress::Met("idle".to_owned())
            }
            (Self::Removed, Some(Record::Framework(framework))) if framework.removed => {
                Progress::Met("removed".to_owned())
            }
            (_, Some(Record::Task(task))) => self.of_task(task),
            (_, Some(_)) => Progress::Pending,
        }
    }

    fn of_task(self, task: &v1::Task) -> Progress {
        let latest = task.latest.clone().unwrap_or_default();
        let spec = task.spec.as_ref();
        let met = match self {
            Self::Ended => is_terminal(task.state),
            Self::Task(wanted) => task.state() == wanted,
            Self::Healthy => task.state() == v1::TaskState::Running && latest.healthy == Some(true),
            Self::Ready => task.state() == v1::TaskState::Running && latest.ready == Some(true),
            Self::Agent(_) | Self::Idle | Self::Connected | Self::Leading | Self::Removed => false,
        };
        let state = match exit_word(latest.exit.as_ref()) {
            exit if exit.is_empty() => state_word(task.state),
            exit => format!("{} ({exit})", state_word(task.state)),
        };
        if met {
            let more = match self {
                Self::Healthy | Self::Ready => format!(" and {self}"),
                _ => String::new(),
            };
            return Progress::Met(state + &more);
        }
        let has_check = |check: Option<bool>| check.unwrap_or(false);
        match self {
            _ if is_terminal(task.state) => Progress::Never(format!("has ended as {state}")),
            Self::Healthy if !has_check(spec.map(|spec| spec.health_check.is_some())) => {
                Progress::Never("has no health check".to_owned())
            }
            Self::Ready if !has_check(spec.map(|spec| spec.readiness_check.is_some())) => {
                Progress::Never("has no readiness check".to_owned())
            }
            Self::Task(v1::TaskState::Staging | v1::TaskState::Starting)
                if task.state() == v1::TaskState::Killing
                    || task.state() == v1::TaskState::Running =>
            {
                Progress::Never(format!("is {state} already"))
            }
            _ => Progress::Pending,
        }
    }
}

fn of_agent(agent: &v1::Agent, wanted: v1::AgentMode) -> Progress {
    let mode = mode_word(agent.mode);
    match agent.mode() {
        present if present == wanted => Progress::Met(mode),
        v1::AgentMode::Gone => Progress::Never("is gone".to_owned()),
        _ => Progress::Pending,
    }
}

/// Judges the connection of an agent, which may be deactivated. The connection of an unreachable
/// agent counts when its registration is committed.
fn connected(agent: &v1::Agent) -> Progress {
    match agent.mode() {
        v1::AgentMode::Gone => Progress::Never("is gone".to_owned()),
        v1::AgentMode::Unreachable | v1::AgentMode::Unspecified => Progress::Pending,
        v1::AgentMode::Registered
        | v1::AgentMode::Draining
        | v1::AgentMode::Drained
        | v1::AgentMode::Deactivated
            if agent.connected =>
        {
            Progress::Met(format!("connected and {}", mode_word(agent.mode)))
        }
        v1::AgentMode::Registered
        | v1::AgentMode::Draining
        | v1::AgentMode::Drained
        | v1::AgentMode::Deactivated => Progress::Pending,
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended => formatter.write_str("ended"),
            Self::Healthy => formatter.write_str("healthy"),
            Self::Ready => formatter.write_str("ready"),
            Self::Removed => formatter.write_str("removed"),
            Self::Idle => formatter.write_str("idle"),
            Self::Connected => formatter.write_str("connected"),
            Self::Leading => formatter.write_str("leading"),
            Self::Task(state) => formatter.write_str(&state_word((*state).into())),
            Self::Agent(mode) => formatter.write_str(&mode_word((*mode).into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(state: v1::TaskState) -> v1::Task {
        v1::Task {
            state: state.into(),
            ..v1::Task::default()
        }
    }

    fn of_task(text: &str, task: v1::Task) -> Progress {
        let condition = Condition::parse(WaitKind::Task, text).unwrap();
        condition.evaluate(Some(&Record::Task(task)))
    }

    #[test]
    fn a_task_is_waited_for_until_it_cannot_get_there() {
        use v1::TaskState::{Failed, Finished, Killing, Running, Staging, Unreachable};
        let never = |why: &str| Progress::Never(why.to_owned());
        assert_eq!(of_task("running", task(Staging)), Progress::Pending);
        assert_eq!(of_task("running", task(Unreachable)), Progress::Pending);
        assert_eq!(
            of_task("running", task(Running)),
            Progress::Met("running".to_owned())
        );
        assert_eq!(
            of_task("running", task(Failed)),
            never("has ended as failed")
        );
        assert_eq!(of_task("ended", task(Killing)), Progress::Pending);
        assert_eq!(
            of_task("ended", task(Finished)),
            Progress::Met("finished".to_owned())
        );
        assert_eq!(
            of_task("finished", task(Failed)),
            never("has ended as failed")
        );
        assert_eq!(
            of_task("staging", task(Running)),
            never("is running already")
        );
        assert_eq!(
            of_task("healthy", task(Running)),
            never("has no health check")
        );
        let mut checked = task(Running);
        checked.spec = Some(v1::TaskSpec {
            health_check: Some(v1::HealthCheck::default()),
            ..v1::TaskSpec::default()
        });
        assert_eq!(of_task("healthy", checked.clone()), Progress::Pending);
        checked.latest = Some(v1::TaskStatus {
            healthy: Some(true),
            ..v1::TaskStatus::default()
        });
        let met = Progress::Met("running and healthy".to_owned());
        assert_eq!(of_task("healthy", checked), met);
    }

    #[test]
    fn an_agent_is_idle_without_live_tasks() {
        let idle = Condition::parse(WaitKind::Agent, "idle").unwrap();
        let with_tasks = |live_tasks| {
            Record::Agent(v1::Agent {
                live_tasks,
                ..v1::Agent::default()
            })
        };
        assert_eq!(idle.evaluate(Some(&with_tasks(1))), Progress::Pending);
        let met = Progress::Met("idle".to_owned());
        assert_eq!(idle.evaluate(Some(&with_tasks(0))), met);
        assert_eq!(idle.to_string(), "idle");
    }

    #[test]
    fn an_agent_is_connected_by_its_connection_in_every_mode_that_has_one() {
        use v1::AgentMode::{Deactivated, Gone, Registered, Unreachable};
        let condition = Condition::parse(WaitKind::Agent, "connected").unwrap();
        let judged = |mode: v1::AgentMode, connected| {
            condition.evaluate(Some(&Record::Agent(v1::Agent {
                mode: mode.into(),
                connected,
                ..v1::Agent::default()
            })))
        };
        let met = |text: &str| Progress::Met(text.to_owned());
        assert_eq!(judged(Registered, true), met("connected and registered"));
        assert_eq!(judged(Deactivated, true), met("connected and deactivated"));
        // A stopped agent is registered until the masters count it as lost.
        assert_eq!(judged(Registered, false), Progress::Pending);
        assert_eq!(judged(Deactivated, false), Progress::Pending);
        // It is connected, and its registration is not committed yet.
        assert_eq!(judged(Unreachable, true), Progress::Pending);
        assert!(matches!(judged(Gone, false), Progress::Never(_)));
        assert!(matches!(condition.evaluate(None), Progress::Never(_)));
        assert_eq!(condition.to_string(), "connected");
    }

    #[test]
    fn agents_and_frameworks_have_conditions_of_their_own() {
        let agent = |mode: v1::AgentMode| {
            Record::Agent(v1::Agent {
                mode: mode.into(),
                ..v1::Agent::default()
            })
        };
        let registered = Condition::parse(WaitKind::Agent, "registered").unwrap();
        use v1::AgentMode::{Gone, Registered, Unreachable};
        assert_eq!(
            registered.evaluate(Some(&agent(Unreachable))),
            Progress::Pending
        );
        assert!(matches!(
            registered.evaluate(Some(&agent(Registered))),
            Progress::Met(_)
        ));
        assert!(matches!(
            registered.evaluate(Some(&agent(Gone))),
            Progress::Never(_)
        ));
        assert!(matches!(registered.evaluate(None), Progress::Never(_)));
        let removed = Condition::parse(WaitKind::Framework, "removed").unwrap();
        let framework = |removed| {
            Record::Framework(v1::Framework {
                removed,
                ..v1::Framework::default()
            })
        };
        assert_eq!(removed.evaluate(Some(&framework(false))), Progress::Pending);
        assert!(matches!(
            removed.evaluate(Some(&framework(true))),
            Progress::Met(_)
        ));
        assert!(matches!(removed.evaluate(None), Progress::Met(_)));
        for (kind, text) in [
            (WaitKind::Task, "up"),
            (WaitKind::Agent, "running"),
            (WaitKind::Framework, "ended"),
            (WaitKind::Cluster, "running"),
            (WaitKind::Master, "healthy"),
        ] {
            let failure = Condition::parse(kind, text).unwrap_err();
            assert_eq!(failure.code, crate::exit::FailureCode::Usage);
            assert!(failure.message.contains(kind.word()), "{failure}");
        }
    }
}
