//! Stored forms of resources. Only the normal form is accepted, whatever the amounts.

use super::{Range, Reservation, Resource, ResourceIdentity, Resources, Value, VolumeIdentity};
use crate::codec::error::{CodecError, DecodeResult};
use crate::codec::message::Codec;
use crate::codec::parts::{Part, PartList};
use crate::codec::scalars::AsPair;
use crate::codec::stored::stored;
use crate::codec::wire::FieldSlot;

stored!(message Resources as (entries) {
    1 entries: Entries or "resources",
});

/// Resources in normal form.
enum Entries {}

impl Codec<Resources> for Entries {
    fn is_absent(resources: &Resources) -> bool {
        resources.is_empty()
    }

    fn write(number: u32, resources: &Resources, out: &mut Vec<u8>) {
        for resource in resources {
            Part::write(number, resource, out);
        }
    }

    fn read(slot: FieldSlot<'_>, wrong: &'static str) -> DecodeResult<Resources> {
        Resources::from_normal(PartList::read(slot, wrong)?).ok_or(CodecError::Invalid(wrong))
    }
}

stored!(message Resource as (Resource {
    identity: ResourceIdentity { name, reservations, volume, revocable, shared },
    value,
}) {
    1 name: Text,
    2 | 3 | 4 value: OneOf or "amount",
    5 reservations: PartList,
    6 volume: MaybePart,
    7 revocable: Number,
    8 shared: Number,
});

stored!(oneof Value {
    2 Scalar(Number),
    3 Ranges(Inner<PairList>) or "range",
    4 Set(Inner<TextList>),
});

impl AsPair for Range {
    fn pair(&self) -> [u64; 2] {
        [self.begin, self.end]
    }

    fn of([begin, end]: [u64; 2]) -> DecodeResult<Self> {
        Ok(Self { begin, end })
    }
}

stored!(message Reservation {
    1 role: Text,
    2 principal: Text,
    3 labels: TextMap,
});

stored!(message VolumeIdentity {
    1 id: Text,
    2 container_path: Text,
});
