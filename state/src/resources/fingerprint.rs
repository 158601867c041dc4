//! The fields of resources that the fingerprint of a request covers.

use super::{Reservation, Resource, ResourceIdentity, Value};
use crate::codec::canonical::CanonicalWriter;

impl Resource {
    /// Appends the fields that the fingerprint of a request covers. The numbers belong to the
    /// fingerprint, not to the wire format.
    pub(crate) fn fingerprint(&self, out: &mut CanonicalWriter) {
        let Resource { identity, value } = self;
        out.part(1, |out| identity.fingerprint(out));
        value.fingerprint(out);
    }
}

impl ResourceIdentity {
    fn fingerprint(&self, out: &mut CanonicalWriter) {
        let ResourceIdentity {
            name,
            reservations,
            volume,
            revocable,
            shared,
        } = self;
        out.text(1, name);
        out.list(2, reservations, |out, reservation: &Reservation| {
            let Reservation {
                role,
                principal,
                labels,
            } = reservation;
            out.text(1, role.as_str());
            out.text(2, principal);
            out.texts(3, labels);
        });
        if let Some(volume) = volume {
            out.chosen(3, |out| {
                out.text(1, &volume.id);
                out.text(2, &volume.container_path);
            });
        }
        out.flag(4, *revocable);
        out.flag(5, *shared);
    }
}

impl Value {
    fn fingerprint(&self, out: &mut CanonicalWriter) {
        match self {
            Value::Scalar(milli) => out.chosen(2, |out| out.raw(&milli.to_be_bytes())),
            Value::Ranges(ranges) => out.chosen(3, |out| {
                for range in ranges {
                    out.raw(&range.begin.to_be_bytes());
                    out.raw(&range.end.to_be_bytes());
                }
            }),
            Value::Set(items) => out.chosen(4, |out| {
                out.list(1, items, |out, item| out.raw(item.as_bytes()));
            }),
        }
    }
}
