//! What containers are let off, as stored.

use prost::Message;

use super::{Read, Wrong};
use crate::task::{Capability, OptOuts};

/// Absent means nothing.
#[derive(Clone, PartialEq, Message)]
pub(super) struct OptOutsMessage {
    /// The kernel's numbers, ascending.
    #[prost(uint32, repeated, tag = "1")]
    capabilities: Vec<u32>,
    #[prost(bool, tag = "2")]
    unconfined_seccomp: bool,
    #[prost(bool, tag = "3")]
    new_privileges: bool,
    #[prost(bool, tag = "4")]
    nested_user_namespaces: bool,
    #[prost(bool, tag = "5")]
    host_network: bool,
}

/// `None` for what is nothing.
pub(super) fn stored(opt_outs: &OptOuts) -> Option<OptOutsMessage> {
    let OptOuts {
        capabilities,
        unconfined_seccomp,
        new_privileges,
        nested_user_namespaces,
        host_network,
    } = opt_outs;
    (!opt_outs.is_empty()).then(|| OptOutsMessage {
        capabilities: capabilities.iter().map(|one| one.number()).collect(),
        unconfined_seccomp: *unconfined_seccomp,
        new_privileges: *new_privileges,
        nested_user_namespaces: *nested_user_namespaces,
        host_network: *host_network,
    })
}

pub(super) fn read(message: Option<OptOutsMessage>) -> Read<OptOuts> {
    let Some(message) = message else {
        return Ok(OptOuts::default());
    };
    let numbers = message.capabilities.into_iter();
    let capabilities =
        numbers.map(|number| Capability::of(number).ok_or(Wrong("capability of a container")));
    Ok(OptOuts {
        capabilities: capabilities.collect::<Read<_>>()?,
        unconfined_seccomp: message.unconfined_seccomp,
        new_privileges: message.new_privileges,
        nested_user_namespaces: message.nested_user_namespaces,
        host_network: message.host_network,
    })
}
