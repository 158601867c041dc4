//! Conversion of executors.

use argosy_state::task::{CommandSpec, ExecutorSpec};

use super::tasks::{spec, spec_from};
use super::{InvalidMessage, resources};
use crate::v1;

/// The default time from the request that an executor ends to TERM, and from TERM to KILL, in
/// milliseconds (Mesos' default).
const GRACE_MS: u64 = 5_000;

/// Returns an executor on the wire.
pub(super) fn executor(executor: &ExecutorSpec) -> v1::ExecutorSpec {
    let wire = spec(&executor.as_task());
    v1::ExecutorSpec {
        executor_id: wire.task_id,
        resources: resources(&executor.resources),
        shell: wire.shell,
        argv: wire.argv,
        environment: wire.environment,
        user: wire.user,
        uris: wire.uris,
        container: wire.container,
        grace_ms: executor.grace_ms,
    }
}

/// Returns an executor as a task with a separate container, as agents start it.
#[must_use]
pub fn executor_as_task(wire: &v1::ExecutorSpec) -> v1::TaskSpec {
    let wire = wire.clone();
    let grace_ms = grace_ms(&wire);
    v1::TaskSpec {
        task_id: wire.executor_id,
        resources: wire.resources,
        shell: wire.shell,
        argv: wire.argv,
        environment: wire.environment,
        user: wire.user,
        uris: wire.uris,
        container: wire.container,
        kill_policy: Some(v1::KillPolicy {
            grace_ms,
            ..v1::KillPolicy::default()
        }),
        ..v1::TaskSpec::default()
    }
}

/// Returns the time from the request that it ends to TERM, and from TERM to KILL, in milliseconds.
fn grace_ms(wire: &v1::ExecutorSpec) -> u64 {
    if wire.grace_ms == 0 {
        GRACE_MS
    } else {
        wire.grace_ms
    }
}

/// Reads an executor.
pub(super) fn executor_from(wire: v1::ExecutorSpec) -> Result<ExecutorSpec, InvalidMessage> {
    let read = spec_from(executor_as_task(&wire)).map_err(|why| match why.field.as_str() {
        "task_id" => InvalidMessage::new("executor_id", why.text),
        _ => why,
    })?;
    if read.run == CommandSpec::Image && read.container.image.is_empty() {
        let text = "it is empty: give shell a line or argv a program";
        return Err(InvalidMessage::new("command", text));
    }
    Ok(ExecutorSpec {
        executor: read.task,
        resources: read.resources,
        run: read.run,
        container: read.container,
        environment: read.environment,
        user: read.user,
        uris: read.uris,
        grace_ms: read.grace_ms,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire() -> v1::ExecutorSpec {
        v1::ExecutorSpec {
            executor_id: "e".into(),
            shell: "run".into(),
            ..v1::ExecutorSpec::default()
        }
    }

    fn task(executor: v1::ExecutorSpec) -> v1::TaskSpec {
        v1::TaskSpec {
            task_id: "t".into(),
            executor: Some(executor),
            ..v1::TaskSpec::default()
        }
    }

    #[test]
    fn executor_tasks_round_trip_and_need_no_command() {
        let read = spec_from(task(wire())).unwrap();
        assert_eq!(read.run, CommandSpec::Image);
        assert_eq!(read.executor.as_ref().unwrap().grace_ms, GRACE_MS);
        assert_eq!(spec_from(spec(&read)), Ok(read));
    }

    #[test]
    fn errors_of_an_executor_name_their_path() {
        let nameless = v1::ExecutorSpec {
            executor_id: String::new(),
            ..wire()
        };
        let idle = v1::ExecutorSpec {
            shell: String::new(),
            ..wire()
        };
        for (executor, field) in [
            (nameless, "executor.executor_id"),
            (idle, "executor.command"),
        ] {
            assert_eq!(spec_from(task(executor)).unwrap_err().field, field);
        }
    }
}
