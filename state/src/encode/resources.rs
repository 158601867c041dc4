//! Resources as stored; read back only in normal form, whatever their size.

use std::collections::BTreeMap;

use prost::{Message, Oneof};

use super::{Read, Wrong, names};
use crate::resources::{Identity, Range, Reservation, Resource, Resources, Value, Volume};

#[derive(Clone, PartialEq, Message)]
pub(super) struct ResourcesMessage {
    #[prost(message, repeated, tag = "1")]
    entries: Vec<ResourceMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceMessage {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(oneof = "ValueMessage", tags = "2, 3, 4")]
    value: Option<ValueMessage>,
    #[prost(message, repeated, tag = "5")]
    reservations: Vec<ReservationMessage>,
    #[prost(message, optional, tag = "6")]
    volume: Option<VolumeMessage>,
    #[prost(bool, tag = "7")]
    revocable: bool,
    #[prost(bool, tag = "8")]
    shared: bool,
}

#[derive(Clone, PartialEq, Oneof)]
enum ValueMessage {
    #[prost(int64, tag = "2")]
    Scalar(i64),
    #[prost(message, tag = "3")]
    Ranges(RangesMessage),
    #[prost(message, tag = "4")]
    Set(SetMessage),
}

#[derive(Clone, PartialEq, Message)]
struct RangesMessage {
    /// Begin, end, begin, end …
    #[prost(uint64, repeated, tag = "1")]
    bounds: Vec<u64>,
}

#[derive(Clone, PartialEq, Message)]
struct SetMessage {
    #[prost(string, repeated, tag = "1")]
    items: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct ReservationMessage {
    #[prost(string, tag = "1")]
    role: String,
    #[prost(string, tag = "2")]
    principal: String,
    #[prost(btree_map = "string, string", tag = "3")]
    labels: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
struct VolumeMessage {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "2")]
    container_path: String,
}

impl From<&Resources> for ResourcesMessage {
    fn from(resources: &Resources) -> Self {
        Self {
            entries: resources.iter().map(Into::into).collect(),
        }
    }
}

impl From<&Resource> for ResourceMessage {
    fn from(resource: &Resource) -> Self {
        let identity = &resource.identity;
        Self {
            name: identity.name.to_string(),
            value: Some((&resource.value).into()),
            reservations: identity.reservations.iter().map(Into::into).collect(),
            volume: identity.volume.as_ref().map(|volume| VolumeMessage {
                id: volume.id.clone(),
                container_path: volume.container_path.clone(),
            }),
            revocable: identity.revocable,
            shared: identity.shared,
        }
    }
}

impl From<&Value> for ValueMessage {
    fn from(value: &Value) -> Self {
        match value {
            Value::Scalar(milli) => Self::Scalar(*milli),
            Value::Ranges(ranges) => {
                let bounds = ranges.iter().flat_map(|range| [range.begin, range.end]);
                Self::Ranges(RangesMessage {
                    bounds: bounds.collect(),
                })
            }
            Value::Set(items) => Self::Set(SetMessage {
                items: items.iter().map(ToString::to_string).collect(),
            }),
        }
    }
}

impl From<&Reservation> for ReservationMessage {
    fn from(reservation: &Reservation) -> Self {
        Self {
            role: reservation.role.as_str().to_owned(),
            principal: reservation.principal.clone(),
            labels: reservation.labels.clone(),
        }
    }
}

impl TryFrom<ResourcesMessage> for Resources {
    type Error = Wrong;

    fn try_from(message: ResourcesMessage) -> Read<Self> {
        let entries: Read<Vec<Resource>> =
            message.entries.into_iter().map(TryInto::try_into).collect();
        Self::from_normal(entries?).ok_or(Wrong("resources"))
    }
}

impl TryFrom<ResourceMessage> for Resource {
    type Error = Wrong;

    fn try_from(message: ResourceMessage) -> Read<Self> {
        let reservations: Read<Vec<_>> = message
            .reservations
            .into_iter()
            .map(|level| {
                Ok(Reservation {
                    role: names::role(&level.role)?,
                    principal: level.principal,
                    labels: level.labels,
                })
            })
            .collect();
        Ok(Self {
            identity: Identity {
                name: message.name.into(),
                reservations: reservations?,
                volume: message.volume.map(|volume| Volume {
                    id: volume.id,
                    container_path: volume.container_path,
                }),
                revocable: message.revocable,
                shared: message.shared,
            },
            value: value(message.value)?,
        })
    }
}

fn value(message: Option<ValueMessage>) -> Read<Value> {
    match message.ok_or(Wrong("amount"))? {
        ValueMessage::Scalar(milli) => Ok(Value::Scalar(milli)),
        ValueMessage::Ranges(RangesMessage { bounds }) => {
            let (pairs, rest) = bounds.as_chunks::<2>();
            if !rest.is_empty() {
                return Err(Wrong("range"));
            }
            let range = |[begin, end]: &[u64; 2]| Range {
                begin: *begin,
                end: *end,
            };
            Ok(Value::Ranges(pairs.iter().map(range).collect()))
        }
        ValueMessage::Set(SetMessage { items }) => {
            Ok(Value::Set(items.into_iter().map(Into::into).collect()))
        }
    }
}

pub(super) fn required(message: Option<ResourcesMessage>) -> Read<Resources> {
    message.ok_or(Wrong("resources"))?.try_into()
}
