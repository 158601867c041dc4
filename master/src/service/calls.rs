//! A scheduler's messages as the leader takes them: converted, judged by their shape.

use argosy_proto::convert::{self, Malformed};
use argosy_proto::v1;
use argosy_state::command::{Accept, CallAction};
use argosy_state::ids::{FrameworkId, TaskId};
use argosy_state::limits;
use prost::Message as _;
use tonic::Status;

use super::{CALL_BYTES, malformed};
use crate::leader::{HeldFilter, Subscription};

/// Largest filters of a subscription, together, in bytes.
const FILTER_BYTES: usize = 64 * 1024;

pub(super) fn accept(
    offers: Vec<v1::HeldOffer>,
    operations: Vec<v1::Operation>,
    all_or_nothing: bool,
    wall_ms: i64,
) -> Result<(CallAction, Vec<Vec<u8>>), Malformed> {
    let mut promises = Vec::with_capacity(offers.len());
    let mut tokens = Vec::with_capacity(offers.len());
    for (at, held) in offers.iter().enumerate() {
        let (promise, token) =
            convert::promise(held).map_err(|why| why.inside(&format!("offers[{at}]")))?;
        promises.push(promise);
        tokens.push(token);
    }
    let mut launches = Vec::new();
    for (at, operation) in operations.into_iter().enumerate() {
        let field = format!("operations[{at}]");
        let tasks = match operation.operation {
            Some(v1::operation::Operation::Launch(launch)) => convert::launch_from(launch),
            Some(v1::operation::Operation::LaunchGroup(launch)) => {
                convert::launch_group_from(launch)
            }
            None => return Err(Malformed::new(field, "it is empty, or of a newer release")),
        };
        launches.extend(tasks.map_err(|why| why.inside(&field))?);
    }
    let accept = Accept {
        offers: promises,
        launches,
        all_or_nothing,
        wall_ms,
    };
    Ok((CallAction::Accept(accept), tokens))
}

pub(super) fn subscription(wire: v1::SubscribeRequest) -> Result<Subscription, Malformed> {
    let info = wire
        .info
        .ok_or_else(|| Malformed::new("info", "it is missing"))?;
    let held = wire.held.iter().enumerate();
    let held = held
        .map(|(at, held)| convert::promise(held).map_err(|why| why.inside(&format!("held[{at}]"))));
    let bytes: usize = wire.filters.iter().map(prost::Message::encoded_len).sum();
    if bytes > FILTER_BYTES {
        let text = format!("they take {bytes} bytes; at most {FILTER_BYTES}");
        return Err(Malformed::new("filters", text));
    }
    if info.encoded_len() > CALL_BYTES {
        let text = format!(
            "it takes {} bytes; at most {CALL_BYTES}",
            info.encoded_len()
        );
        return Err(Malformed::new("info", text));
    }
    let filters = wire.filters.iter().map(|filter| {
        let role = convert::roles("filters.role", std::slice::from_ref(&filter.role))?;
        Ok(HeldFilter {
            agent: convert::id("filters.agent_id", &filter.agent_id)?,
            role: role.into_iter().next().unwrap_or_default(),
            resources: convert::resources_from("filters.resources", &filter.resources)?,
            remaining_ms: filter.remaining_ms,
        })
    });
    Ok(Subscription {
        cluster: if wire.cluster_id.is_empty() {
            None
        } else {
            Some(convert::id("cluster_id", &wire.cluster_id)?)
        },
        framework: if wire.framework_id.is_empty() {
            None
        } else {
            Some(convert::id("framework_id", &wire.framework_id)?)
        },
        session: wire.session,
        info: convert::framework_info_from(info)?,
        held: held.collect::<Result<_, Malformed>>()?,
        filters: filters.collect::<Result<_, Malformed>>()?,
        sends_heartbeats: wire.sends_heartbeats,
    })
}

pub(super) fn framework(text: &str) -> Result<FrameworkId, Status> {
    convert::id("framework_id", text).map_err(|why| malformed(&why))
}

pub(super) fn task(text: &str) -> Result<TaskId, Status> {
    TaskId::new(text).map_err(|why| malformed(&Malformed::new("task_id", why.to_string())))
}

/// A list in parts that one turn of the owner has time for; an empty one is one part.
pub(super) fn parts<T: Clone>(all: &[T]) -> Vec<Vec<T>> {
    if all.is_empty() {
        return vec![Vec::new()];
    }
    let parts = all.chunks(limits::RECORDS_PER_COMMAND);
    parts.map(<[T]>::to_vec).collect()
}
