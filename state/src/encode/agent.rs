//! Agents as stored.

use std::collections::BTreeMap;

use prost::Message;

use super::names::{self, OfferIdMessage, RevisionMessage};
use super::numbers::Numbered;
use super::opt_outs::{self, OptOutsMessage};
use super::resources::{self, ResourcesMessage};
use super::sizes::{self, SizesMessage};
use super::{Read, Wrong};
use crate::agent::{Agent, AgentInfo, UsedOffers};
use crate::ids::{AgentId, OrderIndex, Timestamp};

#[derive(Clone, PartialEq, Message)]
pub(super) struct AgentInfoMessage {
    #[prost(string, tag = "1")]
    host_name: String,
    #[prost(string, tag = "2")]
    address: String,
    #[prost(message, optional, tag = "3")]
    resources: Option<ResourcesMessage>,
    #[prost(btree_map = "string, string", tag = "4")]
    attributes: BTreeMap<String, String>,
    #[prost(string, tag = "5")]
    version: String,
    #[prost(string, repeated, tag = "6")]
    missing_controllers: Vec<String>,
    #[prost(string, tag = "7")]
    isolation: String,
    #[prost(message, optional, tag = "13")]
    allowed_opt_outs: Option<OptOutsMessage>,
    #[prost(message, optional, tag = "14")]
    largest_sizes: Option<SizesMessage>,
    #[prost(bool, tag = "40")]
    changes_limits: bool,
    /// Ascending.
    #[prost(string, repeated, tag = "50")]
    order_kinds: Vec<String>,
}

impl From<&AgentInfo> for AgentInfoMessage {
    fn from(info: &AgentInfo) -> Self {
        Self {
            host_name: info.host_name.clone(),
            address: info.address.clone(),
            resources: Some((&info.resources).into()),
            attributes: info.attributes.clone(),
            version: info.version.clone(),
            missing_controllers: info.missing_controllers.clone(),
            isolation: info.isolation.clone(),
            allowed_opt_outs: opt_outs::stored(&info.allowed_opt_outs),
            largest_sizes: sizes::stored(info.largest_sizes),
            changes_limits: info.changes_limits,
            order_kinds: info.order_kinds.iter().cloned().collect(),
        }
    }
}

impl TryFrom<AgentInfoMessage> for AgentInfo {
    type Error = Wrong;

    fn try_from(message: AgentInfoMessage) -> Read<Self> {
        Ok(Self {
            host_name: message.host_name,
            address: message.address,
            resources: resources::required(message.resources)?,
            attributes: message.attributes,
            version: message.version,
            missing_controllers: message.missing_controllers,
            isolation: message.isolation,
            allowed_opt_outs: opt_outs::read(message.allowed_opt_outs)?,
            largest_sizes: sizes::read(message.largest_sizes),
            changes_limits: message.changes_limits,
            order_kinds: message.order_kinds.into_iter().collect(),
        })
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct AgentRecord {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(fixed64, tag = "2")]
    nonce: u64,
    #[prost(fixed64, tag = "3")]
    incarnation: u64,
    #[prost(string, tag = "4")]
    boot_id: String,
    #[prost(message, optional, tag = "5")]
    info: Option<AgentInfoMessage>,
    #[prost(btree_map = "string, string", tag = "6")]
    set_attributes: BTreeMap<String, String>,
    #[prost(uint32, tag = "7")]
    mode: u32,
    #[prost(uint64, tag = "8")]
    since: u64,
    #[prost(uint64, tag = "9")]
    orders: u64,
    #[prost(message, optional, tag = "10")]
    promise: Option<RevisionMessage>,
    #[prost(message, optional, tag = "11")]
    used_offers_floor: Option<OfferIdMessage>,
    #[prost(message, repeated, tag = "12")]
    used_offers: Vec<OfferIdMessage>,
    #[prost(message, optional, tag = "13")]
    revision: Option<RevisionMessage>,
    #[prost(uint32, tag = "14")]
    mode_when_heard: u32,
}

impl From<&Agent> for AgentRecord {
    fn from(agent: &Agent) -> Self {
        let used = &agent.used_offers;
        Self {
            id: agent.id.0,
            nonce: agent.nonce,
            incarnation: agent.incarnation,
            boot_id: agent.boot_id.clone(),
            info: Some((&agent.info).into()),
            set_attributes: agent.set_attributes.clone(),
            mode: agent.mode.number(),
            since: agent.since.0,
            orders: agent.orders.0,
            promise: Some(agent.promise.into()),
            used_offers_floor: Some(used.floor.into()),
            used_offers: used.ids.iter().map(|id| (*id).into()).collect(),
            revision: Some(agent.revision.into()),
            mode_when_heard: agent.mode_when_heard.number(),
        }
    }
}

impl TryFrom<AgentRecord> for Agent {
    type Error = Wrong;

    fn try_from(record: AgentRecord) -> Read<Self> {
        Ok(Self {
            id: AgentId(record.id),
            nonce: record.nonce,
            incarnation: record.incarnation,
            boot_id: record.boot_id,
            info: record.info.ok_or(Wrong("info"))?.try_into()?,
            set_attributes: record.set_attributes,
            mode: Numbered::of(record.mode)?,
            mode_when_heard: Numbered::of(record.mode_when_heard)?,
            since: Timestamp(record.since),
            orders: OrderIndex(record.orders),
            promise: names::revision(record.promise)?,
            used_offers: UsedOffers {
                floor: record
                    .used_offers_floor
                    .ok_or(Wrong("floor of used offers"))?
                    .into(),
                ids: record.used_offers.into_iter().map(Into::into).collect(),
            },
            revision: names::revision(record.revision)?,
        })
    }
}
