//! Resources as frameworks use them: parsed from text, and taken out of offers.
//!
//! The arithmetic is that of `state`; nothing is rounded here.

use std::collections::BTreeMap;

use argosy_proto::{convert, v1};
use argosy_state::ids::Role;
use argosy_state::resources::{
    InvalidResources, Range, Reservation, Resource, ResourceIdentity, Resources, Value,
    VolumeIdentity,
};

/// Parses `cpus:0.1;mem:32;ports:[31000-31001]`.
///
/// # Errors
/// [`InvalidResources`] names the invalid part and the rule.
pub fn resources(text: &str) -> Result<Vec<v1::Resource>, InvalidResources> {
    Ok(to_wire(&text.parse()?))
}

/// Converts resources to their wire form.
#[must_use]
pub fn to_wire(resources: &Resources) -> Vec<v1::Resource> {
    convert::resources(resources)
}

/// Adds up resources in wire form. `None` if a value is missing, negative, too large or overlaps.
#[must_use]
pub fn from_wire(resources: &[v1::Resource]) -> Option<Resources> {
    let parts: Option<Vec<_>> = resources.iter().map(one_from_wire).collect();
    Resources::collect(parts?)
}

fn one_from_wire(resource: &v1::Resource) -> Option<Resource> {
    let value = match resource.value.as_ref()? {
        v1::resource::Value::ScalarMilli(milli) => Value::Scalar(*milli),
        v1::resource::Value::Ranges(ranges) => {
            let range = |range: &v1::Range| Range {
                begin: range.begin,
                end: range.end,
            };
            Value::Ranges(ranges.range.iter().map(range).collect())
        }
        v1::resource::Value::Set(set) => {
            Value::Set(set.item.iter().map(|item| item.as_str().into()).collect())
        }
    };
    let mut identity = ResourceIdentity::plain(&resource.name);
    identity.revocable = resource.revocable;
    identity.shared = resource.shared;
    identity.volume = resource.volume.as_ref().map(|volume| {
        Box::new(VolumeIdentity {
            id: volume.id.clone(),
            container_path: volume.container_path.clone(),
        })
    });
    for level in &resource.reservations {
        identity.reservations.push(Reservation {
            role: Role::new(&level.role).ok()?,
            principal: level.principal.clone(),
            labels: level.labels.clone().into_iter().collect::<BTreeMap<_, _>>(),
        });
    }
    Some(Resource { identity, value })
}

/// The rest of an offer while tasks are allocated from it.
#[derive(Debug, Clone)]
pub struct Remainder(Resources);

impl Remainder {
    /// Returns all of an offer. An invalid offer leaves nothing.
    #[must_use]
    pub fn of(offer: &v1::Offer) -> Self {
        Self(from_wire(&offer.resources).unwrap_or_default())
    }

    /// Takes `wanted` out, or nothing: false if it does not fit.
    pub fn take(&mut self, wanted: &Resources) -> bool {
        match self.0.minus(wanted) {
            Some(rest) => {
                self.0 = rest;
                true
            }
            None => false,
        }
    }

    /// Takes the lowest unreserved port that is left.
    pub fn take_port(&mut self) -> Option<u16> {
        let plain = ResourceIdentity::plain("ports");
        let ports = self.0.iter().find(|resource| resource.identity == plain)?;
        let Value::Ranges(ranges) = &ports.value else {
            return None;
        };
        let port = ranges.first()?.begin;
        let taken = port_resource(port);
        self.take(&taken)
            .then(|| u16::try_from(port).ok())
            .flatten()
    }

    /// Returns the remaining resources.
    #[must_use]
    pub fn resources(&self) -> &Resources {
        &self.0
    }
}

/// Returns one port as resources, to be added to the request of a task.
#[must_use]
pub fn port_resource(port: u64) -> Resources {
    let value = Value::Ranges(vec![Range {
        begin: port,
        end: port,
    }]);
    let identity = ResourceIdentity::plain("ports");
    Resources::collect([Resource { identity, value }]).expect("one port is in normal form")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_round_trip_through_the_wire_format() {
        let wire = resources("cpus:0.1;mem:32;ports:[31000-31001];zones:{a}").unwrap();
        let back = from_wire(&wire).unwrap();
        assert_eq!(
            back.to_string(),
            "cpus:0.1;mem:32;ports:[31000-31001];zones:{a}"
        );
        assert!(resources("cpus:-1").is_err());
    }

    #[test]
    fn tasks_and_ports_are_allocated_until_none_fits() {
        let offer = v1::Offer {
            resources: resources("cpus:0.2;mem:64;ports:[31000-31001]").unwrap(),
            ..Default::default()
        };
        let task: Resources = "cpus:0.1;mem:32".parse().unwrap();
        let mut rest = Remainder::of(&offer);
        assert!(rest.take(&task) && rest.take(&task) && !rest.take(&task));
        let ports: Vec<_> = std::iter::from_fn(|| rest.take_port()).collect();
        assert_eq!(ports, [31_000, 31_001]);
        assert!(rest.resources().is_empty());
    }
}
