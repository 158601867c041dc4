//! A scheduler's messages in the form that the leader takes: converted, with their shape validated.

use argosy_proto::convert::{self, InvalidMessage};
use argosy_proto::v1;
use argosy_state::apply::check_subscription;
use argosy_state::capability::FrameworkCapability;
use argosy_state::command::{Accept, CallAction, Rejection};
use argosy_state::ids::{FrameworkId, Role, TaskId};
use argosy_state::limits;
use prost::Message as _;
use tonic::Status;

use super::{CALL_BYTES, malformed};
use crate::leader::{PresentedFilter, SchedulerHello};

/// Maximum bytes of all filters of a subscription.
const FILTER_BYTES: usize = 64 * 1024;
/// Maximum number of offers that a subscription presents. Each is verified in the owner's turn.
const HELD_OFFERS: usize = 10_000;

pub(super) fn accept(
    offers: Vec<v1::HeldOffer>,
    operations: Vec<v1::Operation>,
    all_or_nothing: bool,
    wall_ms: i64,
) -> Result<(CallAction, Vec<Vec<u8>>), InvalidMessage> {
    let mut offered = Vec::with_capacity(offers.len());
    let mut tokens = Vec::with_capacity(offers.len());
    for (at, held) in offers.iter().enumerate() {
        let (terms, token) =
            convert::offer_terms(held).map_err(|why| why.inside(&format!("offers[{at}]")))?;
        offered.push(terms);
        tokens.push(token);
    }
    let accept = Accept {
        offers: offered,
        operations: convert::operations_from(operations)?,
        all_or_nothing,
        wall_ms,
    };
    Ok((CallAction::Accept(accept), tokens))
}

/// Converts a subscription. `version` is the negotiated protocol version.
pub(super) fn subscription(
    wire: v1::SubscribeRequest,
    version: u32,
) -> Result<SchedulerHello, InvalidMessage> {
    let info = wire
        .info
        .ok_or_else(|| InvalidMessage::new("info", "it is missing"))?;
    if wire.held.len() > HELD_OFFERS {
        let text = format!(
            "{} offers; at most {HELD_OFFERS}: present those that will be used; the others are released",
            wire.held.len()
        );
        return Err(InvalidMessage::new("held", text));
    }
    let held = wire.held.iter().enumerate();
    let held = held.map(|(at, held)| {
        convert::offer_terms(held).map_err(|why| why.inside(&format!("held[{at}]")))
    });
    let bytes: usize = wire.filters.iter().map(prost::Message::encoded_len).sum();
    if bytes > FILTER_BYTES {
        let text = format!("they take {bytes} bytes; at most {FILTER_BYTES}");
        return Err(InvalidMessage::new("filters", text));
    }
    if info.encoded_len() > CALL_BYTES {
        let text = format!(
            "it takes {} bytes; at most {CALL_BYTES}",
            info.encoded_len()
        );
        return Err(InvalidMessage::new("info", text));
    }
    let filters = wire.filters.iter().map(|filter| {
        let role = convert::roles("filters.role", std::slice::from_ref(&filter.role))?;
        Ok(PresentedFilter {
            agent: convert::id("filters.agent_id", &filter.agent_id)?,
            role: role.into_iter().next().unwrap_or_default(),
            resources: convert::offered_from("filters.resources", &filter.resources)?,
            remaining_ms: filter.remaining_ms,
        })
    });
    let info = convert::framework_info_from(info)?;
    let sends_heartbeats = info.can(FrameworkCapability::Heartbeats);
    check_subscription(wire.session, &info).map_err(|why| match why {
        Rejection::Invalid { field, text } => InvalidMessage::new(field, text),
        other => InvalidMessage::new("info", other.to_string()),
    })?;
    Ok(SchedulerHello {
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
        replaces: wire.replaces,
        info,
        held: held.collect::<Result<_, InvalidMessage>>()?,
        filters: filters.collect::<Result<_, InvalidMessage>>()?,
        version,
        sends_heartbeats,
    })
}

/// Returns the roles that a call names: no more than a framework may have.
pub(super) fn named_roles(names: &[String]) -> Result<Vec<Role>, Status> {
    if names.len() > limits::ROLES_PER_FRAMEWORK {
        let (count, most) = (names.len(), limits::ROLES_PER_FRAMEWORK);
        let text = format!("{count} names; at most {most}");
        return Err(malformed(&InvalidMessage::new("roles", text)));
    }
    convert::roles("roles", names).map_err(|why| malformed(&why))
}

pub(super) fn framework(text: &str) -> Result<FrameworkId, Status> {
    convert::id("framework_id", text).map_err(|why| malformed(&why))
}

pub(super) fn task(text: &str) -> Result<TaskId, Status> {
    TaskId::new(text).map_err(|why| malformed(&InvalidMessage::new("task_id", why.to_string())))
}

/// Divides a list into parts for which one turn of the owner has time; an empty list is one part.
pub(super) fn parts<T: Clone>(all: &[T], most: usize) -> Vec<Vec<T>> {
    if all.is_empty() {
        return vec![Vec::new()];
    }
    let parts = all.chunks(most);
    parts.map(<[T]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    use argosy_state::testing::{framework_info, spec};
    use tonic_types::StatusExt as _;

    use super::*;

    fn request() -> v1::SubscribeRequest {
        v1::SubscribeRequest {
            info: Some(convert::framework_info(&framework_info("web"))),
            session: 1,
            ..v1::SubscribeRequest::default()
        }
    }

    #[test]
    fn invalid_subscription_is_rejected_before_it_is_proposed() {
        assert!(subscription(request(), 1).is_ok());
        let field = |change: fn(&mut v1::SubscribeRequest)| {
            let mut wire = request();
            change(&mut wire);
            subscription(wire, 1).unwrap_err().field
        };
        assert_eq!(field(|wire| wire.info = None), "info");
        assert_eq!(field(|wire| wire.session = 0), "session");
        let mut wire = request();
        wire.info.as_mut().unwrap().roles.clear();
        assert_eq!(subscription(wire, 1).unwrap_err().field, "info.roles");
        let mut wire = request();
        wire.info.as_mut().unwrap().name.clear();
        assert_eq!(subscription(wire, 1).unwrap_err().field, "info.name");
        assert_eq!(
            field(|wire| wire.framework_id = "web".into()),
            "framework_id"
        );
    }

    #[test]
    fn invalid_task_of_a_launch_is_named_by_its_path() {
        let task = |id: &str| v1::TaskSpec {
            task_id: id.to_owned(),
            ..convert::spec(&spec("task", "cpus:1"))
        };
        let launch = v1::Launch {
            tasks: vec![task("a"), task("b"), task("c/d")],
        };
        let operation = v1::Operation {
            operation: Some(v1::operation::Operation::Launch(launch)),
        };
        let why = accept(Vec::new(), vec![operation], false, 0).unwrap_err();
        assert_eq!(why.field, "operations[0].launch.tasks[2].task_id");
        let status = malformed(&why);
        let details = status.get_details_bad_request().unwrap();
        assert_eq!(details.field_violations[0].field, why.field);
    }

    #[test]
    fn too_many_presented_offers_are_rejected_with_a_remedy() {
        let mut wire = request();
        wire.held = vec![v1::HeldOffer::default(); HELD_OFFERS + 1];
        let why = subscription(wire, 1).unwrap_err();
        assert_eq!(why.field, "held");
        assert!(why.text.contains("at most 10000: present those"), "{why}");
    }
}
