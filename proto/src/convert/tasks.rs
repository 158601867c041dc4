//! Conversion of task descriptions, states and updates.

use argosy_state::ids::TaskId;
use argosy_state::task::{
    CommandSpec, Exit, HostPath, Reason, Task, TaskSpec, TaskState, TaskTransition, TaskUpdate,
    UpdateSource,
};

use super::checks::{check, check_from, health_check, health_check_from};
use super::containers::{container, container_from};
use super::discovery::{discovery, discovery_from};
use super::executors::{executor, executor_parts};
use super::groups::{group, group_parts};
use super::kill_policy::{kill_signal, kill_signal_from};
use super::security_options::{limits, limits_from};
use super::uris::{uri, uri_from};
use super::volumes::{volume, volumes_from};
use super::{FirstDefect, InvalidMessage, resources, resources_from, revision};
use crate::v1;

/// The default time from TERM to KILL, in milliseconds (Mesos' default).
pub(super) const GRACE_MS: u64 = 3_000;

/// Returns a description on the wire.
#[must_use]
pub fn spec(spec: &TaskSpec) -> v1::TaskSpec {
    let (shell, argv) = match &spec.run {
        CommandSpec::Image => (String::new(), Vec::new()),
        CommandSpec::Shell(line) => (line.clone(), Vec::new()),
        CommandSpec::Argv(words) => (String::new(), words.clone()),
    };
    let host_paths = spec.host_paths.iter().map(|path| v1::HostPath {
        host_path: path.host_path.clone(),
        container_path: path.container_path.clone(),
        read_only: path.read_only,
    });
    v1::TaskSpec {
        task_id: spec.task.to_string(),
        name: spec.name.clone(),
        resources: resources(&spec.resources),
        limits: spec.limits.as_deref().map(limits),
        shell,
        argv,
        environment: spec.environment.clone().into_iter().collect(),
        user: spec.user.clone(),
        uris: spec.uris.iter().map(uri).collect(),
        host_paths: host_paths.collect(),
        kill_policy: Some(v1::KillPolicy {
            grace_ms: spec.grace_ms,
            signal: kill_signal(spec.kill_signal).into(),
        }),
        labels: spec.labels.clone().into_iter().collect(),
        max_completion_ms: spec.max_completion_ms,
        stop_after_ms: spec.stop_after_ms,
        container: container(&spec.container),
        health_check: spec.health_check.as_deref().map(health_check),
        readiness_check: spec.readiness_check.as_deref().map(check),
        volumes: spec.volumes.iter().map(volume).collect(),
        tty: spec.tty,
        stdin: spec.stdin,
        executor: spec.executor.as_deref().map(executor),
        group: spec.group.as_deref().map(group),
        discovery: spec.discovery.as_deref().map(discovery),
    }
}

/// Reads a description.
///
/// # Errors
/// Names the field: an invalid id, invalid resources, both or neither of shell and argv, NUL bytes.
pub fn spec_from(wire: v1::TaskSpec) -> Result<TaskSpec, InvalidMessage> {
    match valid_parts_from(wire)? {
        (spec, None) => Ok(spec),
        (_, Some(defect)) => Err(defect),
    }
}

/// Reads the valid parts of a description, and the first defect of the others, which have their
/// defaults. An invalid place in a group is kept.
///
/// # Errors
/// Only an invalid id.
pub fn valid_parts_from(
    wire: v1::TaskSpec,
) -> Result<(TaskSpec, Option<InvalidMessage>), InvalidMessage> {
    let task = TaskId::new(&wire.task_id)
        .map_err(|error| InvalidMessage::new("task_id", error.to_string()))?;
    let mut defect = FirstDefect::default();
    let container = defect.part(container_from(wire.container));
    let needs_none = !container.image.is_empty() || wire.executor.is_some();
    let run = run_from(wire.shell, wire.argv, needs_none);
    let run = defect.part_or(run, CommandSpec::Image);
    let kill_policy = wire.kill_policy.unwrap_or_default();
    let grace_ms = kill_policy.grace_ms;
    let uris = wire.uris.into_iter().map(uri_from);
    let health = wire.health_check.map(health_check_from).transpose();
    let readiness = wire.readiness_check.map(check_from).transpose();
    let spec = TaskSpec {
        task,
        name: wire.name,
        resources: defect.part(resources_from("resources", &wire.resources)),
        limits: wire.limits.map(|wire| Box::new(limits_from(wire))),
        run,
        container,
        environment: wire.environment.into_iter().collect(),
        user: wire.user,
        uris: defect.part(uris.collect()),
        host_paths: wire.host_paths.into_iter().map(host_path_from).collect(),
        grace_ms: if grace_ms == 0 { GRACE_MS } else { grace_ms },
        kill_signal: defect
            .part(kill_signal_from(kill_policy.signal).map_err(|why| why.inside("kill_policy"))),
        labels: wire.labels.into_iter().collect(),
        max_completion_ms: wire.max_completion_ms,
        stop_after_ms: wire.stop_after_ms,
        health_check: defect
            .part(health.map_err(|why| why.inside("health_check")))
            .map(Box::new),
        readiness_check: defect
            .part(readiness.map_err(|why| why.inside("readiness_check")))
            .map(Box::new),
        volumes: defect.part(volumes_from(wire.volumes)),
        tty: wire.tty,
        stdin: wire.stdin,
        executor: executor_parts(wire.executor, &mut defect).map(Box::new),
        group: group_parts(wire.group, &mut defect).map(Box::new),
        discovery: defect
            .part(wire.discovery.map(discovery_from).transpose())
            .map(Box::new),
    };
    defect.part(check_text(&spec));
    Ok((spec, defect.0))
}

fn host_path_from(wire: v1::HostPath) -> HostPath {
    HostPath {
        host_path: wire.host_path,
        container_path: wire.container_path,
        read_only: wire.read_only,
    }
}

/// Reads the command. `needs_none`: an image or an executor may provide it.
fn run_from(
    shell: String,
    argv: Vec<String>,
    needs_none: bool,
) -> Result<CommandSpec, InvalidMessage> {
    let wrong = |text: &str| Err(InvalidMessage::new("command", text));
    match (shell.is_empty(), argv.is_empty()) {
        (true, true) if needs_none => Ok(CommandSpec::Image),
        (false, true) => Ok(CommandSpec::Shell(shell)),
        (true, false) => Ok(CommandSpec::Argv(argv)),
        (true, true) => wrong("it is empty: give shell a line or argv a program"),
        (false, false) => wrong("give shell or argv, not both"),
    }
}

/// Rejects text that the kernel cannot accept, while the field is known.
fn check_text(spec: &TaskSpec) -> Result<(), InvalidMessage> {
    let nul = |field: &str, text: &str| {
        if text.contains('\0') {
            Err(InvalidMessage::new(field, "remove the NUL byte"))
        } else {
            Ok(())
        }
    };
    match &spec.run {
        CommandSpec::Image => {}
        CommandSpec::Shell(line) => nul("shell", line)?,
        CommandSpec::Argv(words) => words.iter().try_for_each(|word| nul("argv", word))?,
    }
    for (name, value) in &spec.environment {
        nul("environment", name)?;
        nul("environment", value)?;
    }
    for path in &spec.host_paths {
        let climbs = path.container_path.split('/').any(|part| part == "..");
        if !path.host_path.starts_with('/') || path.container_path.is_empty() || climbs {
            let text = format!(
                "{:?} to {:?}: the first is absolute, the second not empty and without ..",
                path.host_path, path.container_path
            );
            return Err(InvalidMessage::new("host_paths", text));
        }
        nul("host_paths", &path.host_path)?;
        nul("host_paths", &path.container_path)?;
    }
    Ok(())
}

macro_rules! twins {
    ($to:ident, $from:ident, $ours:ident, $wire:ident, $($name:ident),+) => {
        fn $to(ours: $ours) -> v1::$wire {
            match ours {
                $($ours::$name => v1::$wire::$name,)+
            }
        }
        fn $from(wire: v1::$wire) -> Option<$ours> {
            match wire {
                $(v1::$wire::$name => Some($ours::$name),)+
                #[allow(unreachable_patterns, reason = "twins without an extra wire value have none left")]
                _ => None,
            }
        }
    };
}

twins!(
    state_to,
    state_of,
    TaskState,
    TaskState,
    Staging,
    Starting,
    Running,
    Killing,
    Finished,
    Failed,
    Killed,
    Error,
    Dropped,
    Gone,
    GoneByOperator,
    Unreachable,
    Unknown
);
twins!(
    source_to,
    source_of,
    UpdateSource,
    Source,
    Master,
    Agent,
    Task
);

impl From<TaskState> for v1::TaskState {
    fn from(state: TaskState) -> Self {
        state_to(state)
    }
}

impl From<UpdateSource> for v1::Source {
    fn from(source: UpdateSource) -> Self {
        source_to(source)
    }
}

/// Reads a state.
///
/// # Errors
/// If it is absent or of a newer release.
pub fn state_from(wire: i32) -> Result<TaskState, InvalidMessage> {
    let known = v1::TaskState::try_from(wire).ok().and_then(state_of);
    known.ok_or_else(|| InvalidMessage::new("state", format!("{wire} is not a task state")))
}

/// Reads a source; one of a newer release counts as the agent.
#[must_use]
pub fn source_from(wire: i32) -> UpdateSource {
    v1::Source::try_from(wire)
        .ok()
        .and_then(source_of)
        .unwrap_or(UpdateSource::Agent)
}

macro_rules! reasons {
    ($($name:ident),+) => {
        impl From<Reason> for v1::Reason {
            fn from(reason: Reason) -> Self {
                match reason {
                    Reason::None => Self::Unspecified,
                    $(Reason::$name => Self::$name,)+
                }
            }
        }

        /// Reads a reason; an absent one, or one of a newer release, is none.
        #[must_use]
        pub fn reason_from(wire: i32) -> Reason {
            match v1::Reason::try_from(wire) {
                $(Ok(v1::Reason::$name) => Reason::$name,)+
                Ok(v1::Reason::Unspecified) | Err(_) => Reason::None,
            }
        }
    };
}

reasons!(
    TaskInvalid,
    InvalidOffers,
    AgentUnreachable,
    AgentRemoved,
    AgentRemovedByOperator,
    AgentRestarted,
    AgentReregistered,
    AgentRebooted,
    ContainerLaunchFailed,
    FetchFailed,
    CommandExited,
    CommandNotStarted,
    TaskKilled,
    KilledDuringLaunch,
    FrameworkRemoved,
    Reconciliation,
    TaskMissingOnAgent,
    LaunchVoided,
    LimitMemory,
    MaxCompletionTime,
    StoppedWithoutLeader,
    TaskUnknown,
    HealthCheckStatusUpdated,
    ReadinessCheckStatusUpdated,
    HealthCheckFailed,
    LimitDisk,
    ExecutorTerminated,
    ExecutorRegistrationTimeout,
    LimitsUpdated,
    AgentIncapable
);

impl From<Exit> for v1::Exit {
    fn from(exit: Exit) -> Self {
        let how = match exit {
            Exit::Code(code) => v1::exit::How::Code(code),
            Exit::Signal(signal) => v1::exit::How::Signal(signal),
        };
        Self { how: Some(how) }
    }
}

/// Reads the exit status of a process.
#[must_use]
pub fn exit_from(wire: Option<v1::Exit>) -> Option<Exit> {
    wire.and_then(|exit| exit.how).map(|how| match how {
        v1::exit::How::Code(code) => Exit::Code(code),
        v1::exit::How::Signal(signal) => Exit::Signal(signal),
    })
}

/// Returns an update of a task as its framework receives it.
#[must_use]
pub fn status(task: &Task, update: &TaskUpdate) -> v1::TaskStatus {
    v1::TaskStatus {
        framework_id: task.key.framework.to_string(),
        task_id: task.key.task.to_string(),
        agent_id: task.agent.to_string(),
        state: v1::TaskState::from(update.state).into(),
        source: v1::Source::from(update.source).into(),
        reason: v1::Reason::from(update.reason).into(),
        message: update.text(),
        exit: update.exit.map(Into::into),
        revision: Some(revision(update.revision)),
        wall_ms: update.wall_ms,
        healthy: update.standing.healthy,
        ready: update.standing.ready,
        limits: limits_status(task),
        stopped: update.stopped,
    }
}

/// Returns the result of the newest change of a task's limits.
fn limits_status(task: &Task) -> Option<v1::LimitsStatus> {
    let change = task.limits_change.as_ref()?;
    Some(v1::LimitsStatus {
        revision: Some(revision(change.revision)),
        in_force: change.outcome == Some(Ok(())),
        refusal: change.refusal().unwrap_or_default(),
    })
}

/// Returns the transitions of a task by number, and the count of those that are no longer kept.
#[must_use]
pub fn task_history(transitions: &[(u32, TaskTransition)]) -> (Vec<v1::TaskTransition>, u32) {
    let newest = transitions.last().map_or(0, |(number, _)| *number);
    let kept = u32::try_from(transitions.len()).unwrap_or(u32::MAX);
    let on_wire = |(number, transition): &(u32, TaskTransition)| v1::TaskTransition {
        number: *number,
        state: v1::TaskState::from(transition.state).into(),
        source: v1::Source::from(transition.source).into(),
        reason: v1::Reason::from(transition.reason).into(),
        exit: transition.exit.map(Into::into),
        wall_ms: transition.wall_ms,
        revision: Some(revision(transition.revision)),
    };
    let history = transitions.iter().map(on_wire).collect();
    (history, newest.saturating_sub(kept))
}

/// Returns a task as operators see it, without its history; the caller looks up `agent_address`.
#[must_use]
pub fn task(task: &Task, agent_address: &str) -> v1::Task {
    v1::Task {
        framework_id: task.key.framework.to_string(),
        task_id: task.key.task.to_string(),
        agent_id: task.agent.to_string(),
        role: task.role.to_string(),
        spec: Some(spec(&task.spec)),
        state: v1::TaskState::from(task.state).into(),
        kill_wanted: task.kill.is_some(),
        latest: Some(status(task, &task.latest)),
        unacknowledged_updates: task.unacknowledged.len().try_into().unwrap_or(u32::MAX),
        revision: Some(revision(task.revision)),
        order_index: task.order.0,
        agent_address: agent_address.to_owned(),
        limits: limits_status(task),
        history: Vec::new(),
        history_dropped: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain() -> v1::TaskSpec {
        v1::TaskSpec {
            task_id: "a".into(),
            shell: "true".into(),
            ..Default::default()
        }
    }

    #[test]
    fn a_task_description_round_trips() {
        let found = v1::TaskSpec {
            discovery: Some(v1::Discovery::default()),
            ..plain()
        };
        for wire in [plain(), found] {
            let read = spec_from(wire).unwrap();
            assert_eq!(spec_from(spec(&read)), Ok(read));
        }
    }

    #[test]
    fn values_that_the_kernel_rejects_name_their_field() {
        let cases: [(&str, v1::TaskSpec); 5] = [
            (
                "task_id",
                v1::TaskSpec {
                    task_id: "../x".into(),
                    ..plain()
                },
            ),
            (
                "command",
                v1::TaskSpec {
                    shell: String::new(),
                    ..plain()
                },
            ),
            (
                "command",
                v1::TaskSpec {
                    argv: vec!["x".into()],
                    ..plain()
                },
            ),
            (
                "shell",
                v1::TaskSpec {
                    shell: "a\0b".into(),
                    ..plain()
                },
            ),
            (
                "host_paths",
                v1::TaskSpec {
                    host_paths: vec![v1::HostPath {
                        host_path: "/a".into(),
                        container_path: "../b".into(),
                        read_only: false,
                    }],
                    ..plain()
                },
            ),
        ];
        for (field, wire) in cases {
            assert_eq!(spec_from(wire).unwrap_err().field, field);
        }
    }

    #[test]
    fn every_state_has_a_wire_value() {
        for wire in 1..=13 {
            let state = state_from(wire).unwrap();
            assert_eq!(i32::from(v1::TaskState::from(state)), wire);
        }
        assert!(state_from(0).is_err() && state_from(99).is_err());
    }
}
