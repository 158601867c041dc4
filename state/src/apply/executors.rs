//! Validation and accounting of tasks that an executor runs.

use std::collections::BTreeMap;

use crate::Registry;
use crate::command::Rejection;
use crate::ids::{AgentId, FrameworkId, Role, TaskId};
use crate::limits;
use crate::resources::Resources;
use crate::task::{ExecutorSpec, FIELD_RULES, SecurityOptions, TaskSpec};

/// The name of an invalid field, and a message that names the remedy.
type FieldError = (&'static str, String);

/// The executors that the launches of one call add to its agent.
pub(super) type AddedExecutors<'a> = BTreeMap<&'a TaskId, &'a ExecutorSpec>;

/// Validates the requests of a task without its own container. The executor is validated as a task
/// is.
pub(super) fn check(spec: &TaskSpec) -> Result<(), FieldError> {
    let security_options = spec
        .executor
        .as_ref()
        .map(|executor| &executor.container.security_options);
    if security_options.is_some_and(SecurityOptions::changes_users) {
        let text = "an executor meets its agent on a path of the host, which capabilities and new privileges keep it from";
        return Err(("executor.container.opt_outs", text.to_owned()));
    }
    let grace_ms = spec
        .executor
        .as_ref()
        .map_or(0, |executor| executor.grace_ms);
    if grace_ms > limits::EXECUTOR_GRACE_MS {
        let most = limits::EXECUTOR_GRACE_MS;
        let text = format!("{grace_ms} is too long: give at most {most}");
        return Err(("executor.grace_ms", text));
    }
    let restricted = FIELD_RULES.iter().find_map(|rule| {
        let why = rule.in_executor?;
        (rule.is_used)(spec).then_some((rule.field, why))
    });
    match restricted {
        Some((field, why)) if spec.executor.is_some() => Err((field, why.to_owned())),
        Some(_) | None => Ok(()),
    }
}

/// The resources that a launch takes from its agent: its own, and its executor's if it adds that
/// executor.
pub(super) struct LaunchResources<'a> {
    pub(super) resources: Resources,
    pub(super) new_executor: Option<&'a ExecutorSpec>,
}

/// Returns the resources that a launch takes after those that have added the executors in
/// `brought`.
pub(super) fn launch_resources<'a>(
    registry: &Registry,
    agent: AgentId,
    framework: FrameworkId,
    role: &Role,
    spec: &'a TaskSpec,
    brought: &AddedExecutors<'a>,
) -> Result<LaunchResources<'a>, Rejection> {
    let invalid = |text: String| {
        Err(Rejection::Invalid {
            field: "executor".into(),
            text,
        })
    };
    let alone = LaunchResources {
        resources: spec.resources.clone(),
        new_executor: None,
    };
    let Some(executor) = spec.executor.as_deref() else {
        return Ok(alone);
    };
    let id = &executor.executor;
    let task = registry.task_of_executor(agent, framework, id);
    if let Some(task) = task.filter(|task| task.role != *role) {
        let present = &task.role;
        return invalid(format!(
            "{id} runs on {agent} on account of role {present}; use an offer to that role, or another executor id"
        ));
    }
    let running = task.and_then(|task| task.spec.executor.as_deref());
    match running.or(brought.get(id).copied()) {
        Some(present) if present == executor => Ok(alone),
        Some(_) => invalid(format!(
            "{id} is on {agent} already, and described in another way; describe it alike, or use another executor id"
        )),
        None => {
            let Some(resources) = spec.resources.plus(&executor.resources) else {
                let text = "its resources and those of the task overlap; ask for different ports";
                return invalid(text.to_owned());
            };
            let brings = Some(executor);
            Ok(LaunchResources {
                resources,
                new_executor: brings,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::{CommandSpec, KillSignal, Uri};
    use crate::testing;

    fn executed() -> TaskSpec {
        TaskSpec {
            executor: Some(Box::new(testing::executor("e", "cpus:0.1"))),
            run: CommandSpec::Image,
            ..testing::spec("t", "cpus:1")
        }
    }

    #[test]
    fn a_task_of_an_executor_has_no_container_options() {
        assert_eq!(check(&executed()), Ok(()));
        let uri = Uri {
            value: "/a".to_owned(),
            executable: false,
            output_file: String::new(),
            extract: false,
            sha256: String::new(),
            cache: false,
        };
        let cases = [
            (
                "user",
                TaskSpec {
                    user: "nobody".to_owned(),
                    ..executed()
                },
            ),
            (
                "uris",
                TaskSpec {
                    uris: vec![uri],
                    ..executed()
                },
            ),
            (
                "kill_policy.signal",
                TaskSpec {
                    kill_signal: Some(KillSignal::Int),
                    ..executed()
                },
            ),
            (
                "stop_after_ms",
                TaskSpec {
                    stop_after_ms: 1,
                    ..executed()
                },
            ),
        ];
        for (field, spec) in cases {
            assert_eq!(check(&spec).unwrap_err().0, field);
            let own = TaskSpec {
                executor: None,
                ..spec
            };
            assert_eq!(check(&own), Ok(()));
        }
    }
}
