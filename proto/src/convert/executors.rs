//! Conversion of executors.

use argosy_state::task::{CommandSpec, ExecutorSpec};

use super::tasks::{spec, valid_parts_from};
use super::{FirstDefect, InvalidMessage, resources};
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

/// Returns an executor as a task with a separate container.
fn executor_as_task(wire: &v1::ExecutorSpec) -> v1::TaskSpec {
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

/// Reads the valid parts of an executor; `None` if there is none, or if its id is invalid.
pub(super) fn executor_parts(
    wire: Option<v1::ExecutorSpec>,
    defect: &mut FirstDefect,
) -> Option<ExecutorSpec> {
    let inside = |why: InvalidMessage| why.inside("executor");
    let (read, invalid) = match valid_parts_from(executor_as_task(&wire?)) {
        Ok(read) => read,
        Err(why) => {
            let unnamed = InvalidMessage::new("executor_id", why.text);
            return defect.part(Err(inside(unnamed)));
        }
    };
    defect.part(invalid.map_or(Ok(()), Err).map_err(inside));
    if read.run == CommandSpec::Image && read.container.image.is_empty() {
        let text = "it is empty: give shell a line or argv a program";
        defect.part(Err(inside(InvalidMessage::new("command", text))))
    }
    Some(ExecutorSpec {
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
    use super::super::spec_from;
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
