//! Updates of tasks.

use argosy_proto::convert::{
    self, exit_from, key, limits_from, reason_from, reported_text, reported_text_from, source_from,
    state_from,
};
use argosy_proto::v1;
use argosy_state::ids::OrderIndex;
use argosy_state::task::{CheckResults, TaskState};
use prost::Message;

use super::state_number;
use crate::core::{LimitsReport, NumberedUpdate};

/// Returns the state of a number; one that this release does not know counts as UNKNOWN.
pub(crate) fn task_state(number: i32) -> TaskState {
    state_from(number).unwrap_or(TaskState::Unknown)
}

/// Reads an update of this agent; `None` if it has no valid name.
pub(crate) fn update_from(wire: v1::NumberedUpdate) -> Option<NumberedUpdate> {
    let mut read = NumberedUpdate {
        key: key(&wire.framework_id, &wire.task_id).ok()?,
        order: OrderIndex(wire.order_index),
        number: wire.number,
        state: task_state(wire.state),
        source: source_from(wire.source),
        reason: reason_from(wire.reason),
        text: reported_text_from(wire.causes.clone(), wire.text.clone(), wire.detail_bytes),
        exit: exit_from(wire.exit),
        wall_ms: wire.wall_ms,
        check_results: CheckResults {
            healthy: wire.healthy,
            ready: wire.ready,
        },
        limits: wire.limits.clone().map(limits_report_from),
        verbatim: None,
    };
    if update(&read) != wire {
        read.verbatim = Some(wire.encode_to_vec().into());
    }
    Some(read)
}

fn limits_report_from(wire: v1::LimitsReport) -> LimitsReport {
    let refusal = wire.refusal;
    LimitsReport {
        order: OrderIndex(wire.order_index),
        refusal: refusal.map(|text| reported_text_from(wire.causes, text, wire.detail_bytes)),
        held: wire.held.map(limits_from),
    }
}

/// Returns an update on the wire.
pub(crate) fn update(update: &NumberedUpdate) -> v1::NumberedUpdate {
    if let Some(bytes) = &update.verbatim {
        return v1::NumberedUpdate::decode(&**bytes).expect("this process has encoded it");
    }
    let (causes, text, detail_bytes) = reported_text(update.text.clone());
    v1::NumberedUpdate {
        framework_id: update.key.framework.to_string(),
        task_id: update.key.task.to_string(),
        order_index: update.order.0,
        number: update.number,
        state: state_number(update.state),
        source: v1::Source::from(update.source).into(),
        reason: v1::Reason::from(update.reason).into(),
        text,
        exit: update.exit.map(Into::into),
        wall_ms: update.wall_ms,
        healthy: update.check_results.healthy,
        ready: update.check_results.ready,
        limits: update.limits.clone().map(limits_report),
        causes,
        detail_bytes,
    }
}

fn limits_report(report: LimitsReport) -> v1::LimitsReport {
    let refusal = report.refusal.map(reported_text);
    let (causes, refusal, detail_bytes) = match refusal {
        Some((causes, text, detail_bytes)) => (causes, Some(text), detail_bytes),
        None => (Vec::new(), None, 0),
    };
    v1::LimitsReport {
        order_index: report.order.0,
        refusal,
        held: report.held.as_ref().map(convert::limits),
        causes,
        detail_bytes,
    }
}
