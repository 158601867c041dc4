//! Launch orders.

use std::sync::Arc;

use argosy_proto::convert::{self, InvalidMessage, valid_parts_from};
use argosy_proto::v1;
use argosy_state::task::{Code, Explanation};
use prost::Message;

use crate::core::{LaunchOrder, OrderForm};

/// Reads a launch order; `None` if it has no valid name.
#[must_use]
pub fn launch_from(wire: v1::LaunchOrder) -> Option<LaunchOrder> {
    let described = wire.spec.clone()?;
    let has_command = !described.shell.is_empty() || !described.argv.is_empty();
    let (spec, defect) = valid_parts_from(described).ok()?;
    let read = LaunchOrder {
        framework: wire.framework_id.parse().ok()?,
        role: wire.role.clone(),
        framework_name: wire.framework_name.clone(),
        never_start: wire.never_start,
        spec,
        defect: defect.map(|why| explanation(&why, has_command)),
        form: OrderForm::Canonical,
    };
    if launch(&read) == wire {
        return Some(read);
    }
    let stripped = read.clone().stripped();
    if launch(&stripped) == wire {
        return Some(stripped);
    }
    let mut without_limits = wire;
    if let Some(spec) = &mut without_limits.spec {
        spec.limits = None;
    }
    let form = OrderForm::Verbatim(without_limits.encode_to_vec().into());
    Some(LaunchOrder { form, ..read })
}

/// Explains why an order cannot be followed.
fn explanation(defect: &InvalidMessage, has_command: bool) -> Explanation {
    match defect.field.as_str() {
        "command" if has_command => Explanation::of(Code::CommandTwice, &[]),
        "command" => Explanation::of(Code::CommandMissing, &[]),
        "executor.executor_id" => Explanation::of(Code::ExecutorUnnamed, &[]),
        _ => defect.to_string().into(),
    }
}

/// Returns a launch order on the wire, with the limits that were ordered last.
#[must_use]
pub fn launch(order: &LaunchOrder) -> v1::LaunchOrder {
    let mut wire = match &order.form {
        OrderForm::Canonical => with_spec(order, convert::spec(&order.spec)),
        OrderForm::Stripped => {
            let v1::TaskSpec {
                task_id,
                resources,
                group,
                ..
            } = convert::spec(&order.spec);
            let spec = v1::TaskSpec {
                task_id,
                resources,
                group,
                ..v1::TaskSpec::default()
            };
            with_spec(order, spec)
        }
        OrderForm::Verbatim(bytes) => verbatim(bytes),
    };
    if let Some(spec) = &mut wire.spec {
        spec.limits = order.spec.limits.as_deref().map(convert::limits);
    }
    wire
}

fn with_spec(order: &LaunchOrder, spec: v1::TaskSpec) -> v1::LaunchOrder {
    v1::LaunchOrder {
        framework_id: order.framework.to_string(),
        role: order.role.clone(),
        spec: Some(spec),
        framework_name: order.framework_name.clone(),
        never_start: order.never_start,
    }
}

fn verbatim(bytes: &Arc<[u8]>) -> v1::LaunchOrder {
    v1::LaunchOrder::decode(&**bytes).expect("this process has encoded it")
}
