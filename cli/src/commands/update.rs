//! `argosy update`: new limits for a task, and whether they are in force.

use std::time::{Duration, Instant};

use argosy_proto::v1;
use argosy_proto::v1::write_operation::Operation;

use crate::args::Update;
use crate::exit::{DONE, Failure, FailureCode, VerbResult};
use crate::operator::{ClusterClient, is_terminal};
use crate::output::{
    self, StatusLine, StatusMode, bytes, limits_text, milli, note, scalar, state_word,
};

/// Interval at which an expected change is polled.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

pub(crate) async fn run(arguments: &Update) -> VerbResult {
    if !arguments.names_any() {
        let advice = "--mem-limit, --cpu-limit, --pids-limit, --io-weight and --io-limit do";
        return Err(Failure::usage("no limit is named").advise(advice));
    }
    let operator = ClusterClient::open(&arguments.reach)?;
    let task = operator.find_task(&arguments.task).await?;
    let shown = format!("{}/{}", task.framework_id, task.task_id);
    if is_terminal(task.state) {
        let end = state_word(task.state);
        return Err(Failure::failed(format!("{shown} has ended: {end}")));
    }
    let before = task.spec.clone().unwrap_or_default().limits;
    let before = before.unwrap_or_default();
    let wanted = arguments.limits(before.clone());
    check(&task, &wanted)?;
    let change = format!(
        "{shown}: {} instead of {}",
        limits_text(&wanted),
        limits_text(&before)
    );
    if arguments.write.dry_run {
        note(&format!("would change {change}"));
        return Ok(DONE);
    }
    let update = v1::UpdateLimits {
        framework_id: task.framework_id.clone(),
        task_id: task.task_id.clone(),
        limits: Some(wanted),
    };
    let request_id = arguments.write.request_id.as_ref();
    operator
        .write(request_id, Operation::UpdateLimits(update))
        .await?;
    if arguments.detach {
        note(&format!("requested {change}"));
        return Ok(DONE);
    }
    wait_until_settled(&operator, &task, &change).await
}

/// Rejects limits below the resources of the task, in the words of the flags.
fn check(task: &v1::Task, wanted: &v1::Limits) -> Result<(), Failure> {
    let spec = task.spec.as_ref();
    let resources = spec
        .map(|spec| spec.resources.as_slice())
        .unwrap_or_default();
    let amount = |name: &str| u64::try_from(scalar(resources, name)).unwrap_or(0);
    let (cpus, mem) = (
        amount("cpus"),
        amount("mem").saturating_mul(1 << 20) / 1_000,
    );
    let below = |flag: &str, limit: String, own: String, name: &str| {
        let text = format!("{flag} {limit} is less than the {own} that the task has as its {name}");
        Err(Failure::usage(text).advise(format!(
            "{flag} {own} is the least: the {name} of a running task cannot be changed"
        )))
    };
    let thousandths = |value: u64| milli(i64::try_from(value).unwrap_or(i64::MAX));
    if let Some(most) = wanted.cpu_millis.filter(|most| *most < cpus) {
        return below("--cpu-limit", thousandths(most), thousandths(cpus), "cpus");
    }
    if let Some(most) = wanted.memory_bytes.filter(|most| *most < mem) {
        return below(
            "--mem-limit",
            bytes(most).replace(' ', ""),
            bytes(mem).replace(' ', ""),
            "mem",
        );
    }
    Ok(())
}

/// Waits for the result of this change, or of a later one.
async fn wait_until_settled(operator: &ClusterClient, task: &v1::Task, change: &str) -> VerbResult {
    let shown = format!("{}/{}", task.framework_id, task.task_id);
    let deadline = Instant::now() + operator.timeout();
    let mut line = StatusLine::new(StatusMode::Shown);
    while Instant::now() < deadline {
        let now = operator.task(&task.framework_id, &task.task_id).await?;
        let now = now.filter(|now| !is_terminal(now.state));
        let Some(now) = now else {
            let text = format!("{shown} has ended before its limits were changed");
            return Err(Failure::failed(text));
        };
        // Never changed: the limits are in force from the start.
        let has_had = now.limits.is_none();
        let status = now.limits.unwrap_or_default();
        if has_had || status.in_force {
            note(&format!("in force, {change}"));
            return Ok(DONE);
        }
        if !status.refusal.is_empty() {
            let text = format!(
                "{shown}: not all of these limits are in force: {}",
                status.refusal
            );
            return Err(Failure::new(FailureCode::Refused, text));
        }
        if now.state == v1::TaskState::Unreachable as i32 {
            note(&format!(
                "{shown} is on {}, which is unreachable; requested {change}",
                task.agent_id
            ));
            return Ok(DONE);
        }
        line.show(|_| format!("waiting for {} to change {change}", task.agent_id));
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    let waited = output::span_ms(operator.timeout().as_millis() as u64);
    let text = format!("{shown} does not have the requested limits yet, after {waited}");
    Err(Failure::failed(text).advise(format!(
        "argosy task show {shown} shows its state; --timeout waits longer"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_below_the_resources_are_rejected_in_the_words_of_flags() {
        let task = v1::Task {
            spec: Some(v1::TaskSpec {
                resources: argosy_client::resources::resources("cpus:0.5;mem:32").unwrap(),
                ..v1::TaskSpec::default()
            }),
            ..v1::Task::default()
        };
        let refused = |limits: v1::Limits| check(&task, &limits).unwrap_err().to_string();
        let memory = |bytes| v1::Limits {
            memory_bytes: Some(bytes),
            ..v1::Limits::default()
        };
        let text = refused(memory(16 << 20));
        let expected = "--mem-limit 16MiB is less than the 32MiB that the task has as its mem";
        assert!(text.starts_with(expected), "{text}");
        assert!(check(&task, &memory(32 << 20)).is_ok());
        let text = refused(v1::Limits {
            cpu_millis: Some(250),
            ..v1::Limits::default()
        });
        assert!(
            text.starts_with("--cpu-limit 0.25 is less than the 0.5 "),
            "{text}"
        );
        assert!(check(&task, &v1::Limits::default()).is_ok());
    }
}
