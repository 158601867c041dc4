//! Conversion of the messages between agents and masters.

use argosy_state::agent::{AgentInfo, AgentMode};
use argosy_state::command::{AgentUpdate, HeldTask};
use argosy_state::ids::{OrderIndex, TaskId, TaskKey};
use argosy_state::task::{Cause, CheckResults, Explanation, LimitsReport, ReportedText, Task};

use super::security_options::{limits, limits_from, opt_outs, opt_outs_from, sizes, sizes_from};
use super::{
    InvalidMessage, exit_from, id, reason_from, resources, resources_from, source_from, spec,
    state_from,
};
use crate::v1;

/// Returns an agent's description of itself on the wire.
#[must_use]
pub fn agent_info(info: &AgentInfo) -> v1::AgentInfo {
    v1::AgentInfo {
        host_name: info.host_name.clone(),
        address: info.address.clone(),
        resources: resources(&info.resources),
        attributes: info.attributes.clone().into_iter().collect(),
        version: info.version.clone(),
        missing_controllers: info.missing_controllers.clone(),
        isolation: info.isolation.clone(),
        allowed_opt_outs: opt_outs(&info.allowed_security_options),
        largest_sizes: sizes(info.largest_sizes),
        changes_limits: info.changes_limits,
        capabilities: info.capabilities.iter().cloned().collect(),
    }
}

/// Reads an agent's description of itself.
///
/// # Errors
/// Names the field.
pub fn agent_info_from(wire: v1::AgentInfo) -> Result<AgentInfo, InvalidMessage> {
    Ok(AgentInfo {
        host_name: wire.host_name,
        address: wire.address,
        resources: resources_from("info.resources", &wire.resources)?,
        attributes: wire.attributes.into_iter().collect(),
        version: wire.version,
        missing_controllers: wire.missing_controllers,
        isolation: wire.isolation,
        allowed_security_options: opt_outs_from(wire.allowed_opt_outs)
            .map_err(|why| why.inside("info.allowed_opt_outs"))?,
        largest_sizes: sizes_from(wire.largest_sizes),
        changes_limits: wire.changes_limits,
        capabilities: wire.capabilities.into_iter().collect(),
    })
}

/// Returns a mode on the wire.
#[must_use]
pub fn mode_from(mode: AgentMode) -> v1::AgentMode {
    match mode {
        AgentMode::Registered => v1::AgentMode::Registered,
        AgentMode::Unreachable => v1::AgentMode::Unreachable,
        AgentMode::Draining => v1::AgentMode::Draining,
        AgentMode::Drained => v1::AgentMode::Drained,
        AgentMode::Deactivated => v1::AgentMode::Deactivated,
        AgentMode::Gone => v1::AgentMode::Gone,
    }
}

/// Reads an update with the number that its agent gave it.
///
/// # Errors
/// Names the field.
pub fn update_from(wire: v1::NumberedUpdate) -> Result<AgentUpdate, InvalidMessage> {
    let Explanation {
        causes,
        detail: message,
    } = explanation_from(wire.causes, wire.text, wire.detail_bytes);
    Ok(AgentUpdate {
        key: key(&wire.framework_id, &wire.task_id)?,
        order: OrderIndex(wire.order_index),
        number: wire.number,
        state: state_from(wire.state)?,
        source: source_from(wire.source),
        reason: reason_from(wire.reason),
        causes,
        message,
        exit: exit_from(wire.exit),
        standing: CheckResults {
            healthy: wire.healthy,
            ready: wire.ready,
        },
        limits: wire.limits.map(limits_report_from),
        wall_ms: wire.wall_ms,
    })
}

fn limits_report_from(report: v1::LimitsReport) -> LimitsReport {
    let refusal = report.refusal;
    let refusal = refusal.map(|text| explanation_from(report.causes, text, report.detail_bytes));
    let (causes, outcome) = match refusal {
        Some(refusal) => (refusal.causes, Err(refusal.detail)),
        None => (Vec::new(), Ok(())),
    };
    LimitsReport {
        order: OrderIndex(report.order_index),
        outcome,
        held: report.held.map(|held| Box::new(limits_from(held))),
        causes,
    }
}

/// Returns the causes for a master, the text that begins with them, and the number of text bytes
/// after them.
#[must_use]
pub fn reported_text(reported: ReportedText) -> (Vec<v1::Cause>, String, u32) {
    let causes = reported.causes.into_iter().map(|cause| v1::Cause {
        code: cause.code,
        arguments: cause.arguments,
    });
    (causes.collect(), reported.text, reported.detail_bytes)
}

/// Reverses [`reported_text`].
#[must_use]
pub fn reported_text_from(causes: Vec<v1::Cause>, text: String, detail_bytes: u32) -> ReportedText {
    let causes = causes.into_iter().map(|cause| Cause {
        code: cause.code,
        arguments: cause.arguments,
    });
    ReportedText {
        causes: causes.collect(),
        text,
        detail_bytes,
    }
}

/// Returns an explanation as [`reported_text`]. The text is truncated to the length that masters
/// keep.
#[must_use]
pub fn to_wire_causes(explanation: Explanation) -> (Vec<v1::Cause>, String, u32) {
    reported_text(ReportedText::of(explanation))
}

/// Reverses [`to_wire_causes`]. Causes that this release does not know become free text.
#[must_use]
pub fn explanation_from(causes: Vec<v1::Cause>, text: String, detail_bytes: u32) -> Explanation {
    reported_text_from(causes, text, detail_bytes).explanation()
}

/// Reads an entry of an agent's list.
///
/// # Errors
/// Names the field.
pub fn held_task(wire: &v1::HeldTask) -> Result<HeldTask, InvalidMessage> {
    Ok(HeldTask {
        key: key(&wire.framework_id, &wire.task_id)?,
        order: OrderIndex(wire.order_index),
    })
}

/// Reads the name of a task.
///
/// # Errors
/// Names the field.
pub fn key(framework: &str, task: &str) -> Result<TaskKey, InvalidMessage> {
    let task =
        TaskId::new(task).map_err(|error| InvalidMessage::new("task_id", error.to_string()))?;
    Ok(TaskKey {
        framework: id("framework_id", framework)?,
        task,
    })
}

/// Returns the order that launches `task`; one with a pending kill is never started.
#[must_use]
pub fn order_launch(index: OrderIndex, task: &Task, framework_name: &str) -> v1::Order {
    let launch = v1::LaunchOrder {
        framework_id: task.key.framework.to_string(),
        role: task.role.to_string(),
        spec: Some(spec(&task.spec)),
        framework_name: framework_name.to_owned(),
        never_start: task.kill.is_some(),
    };
    v1::Order {
        index: index.0,
        order: Some(v1::order::Order::Launch(launch)),
        subject: Some(subject(&task.key)),
        ..v1::Order::default()
    }
}

/// Returns the order that kills `task`.
#[must_use]
pub fn order_kill(index: OrderIndex, task: &Task) -> v1::Order {
    let kill = v1::KillOrder {
        framework_id: task.key.framework.to_string(),
        task_id: task.key.task.to_string(),
        grace_ms: task.kill.map_or(task.spec.grace_ms, |kill| kill.grace_ms),
    };
    v1::Order {
        index: index.0,
        order: Some(v1::order::Order::Kill(kill)),
        subject: Some(subject(&task.key)),
        ..v1::Order::default()
    }
}

/// Returns the order that applies the limits of its description to `task`.
#[must_use]
pub fn order_limits(index: OrderIndex, task: &Task) -> v1::Order {
    let order = v1::LimitsOrder {
        framework_id: task.key.framework.to_string(),
        task_id: task.key.task.to_string(),
        limits: task.spec.limits.as_deref().map(limits),
    };
    v1::Order {
        index: index.0,
        order: Some(v1::order::Order::Limits(order)),
        subject: Some(subject(&task.key)),
        ..v1::Order::default()
    }
}

/// Returns an order without effect, which only advances the agent's last applied order to `index`.
#[must_use]
pub fn order_void(index: OrderIndex) -> v1::Order {
    v1::Order {
        index: index.0,
        order: Some(v1::order::Order::Void(v1::Void {})),
        ..v1::Order::default()
    }
}

/// Returns a task as the subject of an order.
fn subject(key: &TaskKey) -> v1::Subject {
    let task = v1::TaskSubject {
        framework_id: key.framework.to_string(),
        task_id: key.task.to_string(),
    };
    v1::Subject {
        subject: Some(v1::subject::Subject::Task(task)),
    }
}

#[cfg(test)]
mod tests {
    use argosy_state::limits;
    use argosy_state::task::Code;

    use super::*;

    fn reported(code: &str, text: &str, detail_bytes: u32) -> (Vec<Cause>, String) {
        let cause = v1::Cause {
            code: code.to_owned(),
            arguments: vec!["3".to_owned()],
        };
        let update = v1::NumberedUpdate {
            framework_id: "framework-1".to_owned(),
            task_id: "web".to_owned(),
            state: v1::TaskState::Running.into(),
            text: text.to_owned(),
            causes: vec![cause],
            detail_bytes,
            ..v1::NumberedUpdate::default()
        };
        let update = update_from(update).unwrap();
        (update.causes, update.message)
    }

    #[test]
    fn explanations_of_agents_round_trip() {
        let failed = Explanation::of(Code::GroupTaskFailed, &[&"web"]);
        let short = failed.clone().with_detail("refused");
        let long = failed
            .clone()
            .with_detail("ä".repeat(limits::MESSAGE_BYTES));
        for explanation in [failed, short, Explanation::from("free"), long] {
            let (causes, text, bytes) = to_wire_causes(explanation.clone());
            assert!(explanation.to_string().starts_with(&text));
            let read = explanation_from(causes, text, bytes);
            assert_eq!(read.causes, explanation.causes);
            assert!(explanation.detail.starts_with(&read.detail));
            assert!(read.detail.len() + 100 > explanation.detail.len().min(limits::MESSAGE_BYTES));
        }
    }

    #[test]
    fn only_the_detail_of_a_text_with_causes_is_stored() {
        let text = "its health check failed 3 times in a row, at last: refused";
        let (causes, message) = reported("health-check-failed", text, 7);
        assert_eq!(message, "refused");
        assert_eq!(argosy_state::task::cause::text(&causes, &message), text);
    }

    #[test]
    fn a_text_with_unknown_causes_is_stored_completely() {
        let free = |code: &str, text: &str, bytes| {
            assert_eq!(reported(code, text, bytes), (Vec::new(), text.to_owned()));
        };
        free("of-a-later-release", "evicted: by its agent", 12);
        // More than the text has, and an offset within a character.
        free("health-check-failed", "refused", 8);
        free("health-check-failed", "ä", 1);
        let long = "x".repeat(300);
        free(&long, "refused", 7);
    }
}
