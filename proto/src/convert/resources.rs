//! Conversion of resources.

use std::collections::BTreeMap;

use argosy_state::ids::Role;
use argosy_state::limits;
use argosy_state::resources::{
    Range, Reservation, Resource, ResourceIdentity, ResourceSum, Resources, Value, VolumeIdentity,
    shared_name,
};

use super::InvalidMessage;
use crate::v1;

/// Returns a bundle of resources on the wire.
#[must_use]
pub fn resources(resources: &Resources) -> Vec<v1::Resource> {
    resources.iter().map(resource).collect()
}

/// Returns a resource on the wire.
#[must_use]
pub fn resource(resource: &Resource) -> v1::Resource {
    let identity = &resource.identity;
    let reservations = identity.reservations.iter().map(|level| v1::Reservation {
        role: level.role.to_string(),
        principal: level.principal.clone(),
        labels: level.labels.clone().into_iter().collect(),
    });
    let value = match &resource.value {
        Value::Scalar(milli) => v1::resource::Value::ScalarMilli(*milli),
        Value::Ranges(ranges) => v1::resource::Value::Ranges(v1::Ranges {
            range: ranges
                .iter()
                .map(|range| v1::Range {
                    begin: range.begin,
                    end: range.end,
                })
                .collect(),
        }),
        Value::Set(items) => v1::resource::Value::Set(v1::Set {
            item: items.iter().map(ToString::to_string).collect(),
        }),
    };
    v1::Resource {
        name: identity.name.to_string(),
        value: Some(value),
        reservations: reservations.collect(),
        volume: identity.volume.as_ref().map(|volume| v1::Volume {
            id: volume.id.clone(),
            container_path: volume.container_path.clone(),
        }),
        revocable: identity.revocable,
        shared: identity.shared,
    }
}

/// Reads a bundle of resources; `field` is its path.
///
/// # Errors
/// Names the entry that is negative, out of range, without a value, or overlaps another; the name
/// whose entries are out of range together; or the field if the bundle has too many parts.
pub fn resources_from(field: &str, wire: &[v1::Resource]) -> Result<Resources, InvalidMessage> {
    let parts: usize = wire.iter().map(parts).sum();
    if parts > limits::RESOURCE_PARTS {
        let text = format!(
            "{parts} resources, ranges and items; at most {}",
            limits::RESOURCE_PARTS
        );
        return Err(InvalidMessage::new(field, text));
    }
    sum_from(field, wire)
}

/// Reads the resources of an offer. They have as many entries as its agent at most, but any number
/// of ranges: tasks may use every second port.
///
/// # Errors
/// As [`resources_from`].
pub fn offered_from(field: &str, wire: &[v1::Resource]) -> Result<Resources, InvalidMessage> {
    if wire.len() > limits::RESOURCE_PARTS {
        let (count, most) = (wire.len(), limits::RESOURCE_PARTS);
        let text = format!("{count} resources; at most {most}");
        return Err(InvalidMessage::new(field, text));
    }
    sum_from(field, wire)
}

/// Returns the number of ranges or items of an entry, or one, and that of its reservations.
fn parts(wire: &v1::Resource) -> usize {
    let amounts = match &wire.value {
        Some(v1::resource::Value::Ranges(ranges)) => ranges.range.len(),
        Some(v1::resource::Value::Set(set)) => set.item.len(),
        Some(v1::resource::Value::ScalarMilli(_)) | None => 1,
    };
    amounts.max(1) + wire.reservations.len()
}

/// Adds up the entries.
fn sum_from(field: &str, wire: &[v1::Resource]) -> Result<Resources, InvalidMessage> {
    let mut all = ResourceSum::default();
    for (at, part) in wire.iter().enumerate() {
        let resource =
            resource_from(part).map_err(|wrong| wrong.inside(&format!("{field}[{at}]")))?;
        all.add(resource).ok_or_else(|| {
            let text = format!(
                "{}{}: an amount lies between 0 and {} units, ranges ascend, and entries of one name do not overlap",
                part.name,
                amount(part),
                limits::SCALAR_MILLI / 1_000
            );
            InvalidMessage::new(format!("{field}[{at}]"), text)
        })?;
    }
    let all = all.finish();
    // Tasks, agents and frameworks count the amounts of one name together, whatever their volumes
    // and reservations. Within this bound, no such count overflows.
    let mut sums = BTreeMap::<&str, i64>::new();
    for entry in &all {
        let sum = sums.entry(&entry.identity.name).or_default();
        *sum = sum.saturating_add(entry.value.scalar_milli());
    }
    let largest = sums.into_iter().max_by_key(|(_, sum)| *sum);
    if let Some((name, sum)) = largest.filter(|(_, sum)| *sum > limits::SCALAR_MILLI) {
        let text = format!(
            "{name} of {sum} thousandths: ask for at most {} units of one name",
            limits::SCALAR_MILLI / 1_000
        );
        return Err(InvalidMessage::new(field, text));
    }
    Ok(all)
}

/// Returns an amount as it was sent, for messages.
fn amount(wire: &v1::Resource) -> String {
    match &wire.value {
        Some(v1::resource::Value::ScalarMilli(milli)) => format!(" of {milli} thousandths"),
        Some(v1::resource::Value::Ranges(_) | v1::resource::Value::Set(_)) | None => String::new(),
    }
}

fn resource_from(wire: &v1::Resource) -> Result<Resource, InvalidMessage> {
    if wire.name.is_empty() || wire.name.len() > limits::NAME_BYTES {
        return Err(InvalidMessage::new(
            "name",
            format!("it takes 1 to {} bytes", limits::NAME_BYTES),
        ));
    }
    let value = match &wire.value {
        Some(v1::resource::Value::ScalarMilli(milli)) => Value::Scalar(*milli),
        Some(v1::resource::Value::Ranges(ranges)) => Value::Ranges(
            ranges
                .range
                .iter()
                .map(|range| Range {
                    begin: range.begin,
                    end: range.end,
                })
                .collect(),
        ),
        Some(v1::resource::Value::Set(set)) => {
            Value::Set(set.item.iter().map(|item| item.as_str().into()).collect())
        }
        None => {
            return Err(InvalidMessage::new(
                "value",
                format!("{} has no amount", wire.name),
            ));
        }
    };
    let reservations = wire.reservations.iter().map(|level| {
        let role = Role::new(&level.role)
            .map_err(|error| InvalidMessage::new("reservations.role", error.to_string()))?;
        Ok(Reservation {
            role,
            principal: level.principal.clone(),
            labels: level.labels.clone().into_iter().collect(),
        })
    });
    let identity = ResourceIdentity {
        name: shared_name(&wire.name),
        reservations: reservations.collect::<Result<_, InvalidMessage>>()?,
        volume: wire.volume.as_ref().map(|volume| {
            Box::new(VolumeIdentity {
                id: volume.id.clone(),
                container_path: volume.container_path.clone(),
            })
        }),
        revocable: wire.revocable,
        shared: wire.shared,
    };
    Ok(Resource { identity, value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_of_resources_round_trips() {
        let bundle: Resources = "cpus:0.5;mem:64;ports:[1-3,7-9];zones:{a,b}"
            .parse()
            .unwrap();
        assert_eq!(resources_from("r", &resources(&bundle)), Ok(bundle));
    }

    #[test]
    fn entries_of_one_name_are_bounded_together() {
        let volume = |number| v1::Resource {
            name: "cpus".into(),
            value: Some(v1::resource::Value::ScalarMilli(limits::SCALAR_MILLI / 2)),
            volume: Some(v1::Volume {
                id: format!("v{number}"),
                container_path: "/v".into(),
            }),
            ..Default::default()
        };
        let all: Vec<v1::Resource> = (0..3).map(volume).collect();
        let two = resources_from("total", &all[..2]).unwrap();
        assert_eq!(two.scalar_milli("cpus"), limits::SCALAR_MILLI);
        let error = resources_from("total", &all).unwrap_err();
        assert!(error.to_string().contains("units of one name"), "{error}");
    }

    #[test]
    fn more_parts_than_a_task_may_have_are_rejected_before_they_are_added_up() {
        let entry = |name: &str, value| v1::Resource {
            name: name.to_owned(),
            value: Some(value),
            ..Default::default()
        };
        let ranges = |numbers: std::ops::Range<u64>| {
            let range = |at| v1::Range {
                begin: 2 * at,
                end: 2 * at,
            };
            v1::resource::Value::Ranges(v1::Ranges {
                range: numbers.map(range).collect(),
            })
        };
        let set = |numbers: std::ops::Range<u64>| {
            v1::resource::Value::Set(v1::Set {
                item: numbers.map(|at| at.to_string()).collect(),
            })
        };
        let one_range_each = |count| -> Vec<v1::Resource> {
            let singles = (0..count).map(|at| ranges(at..at + 1));
            singles.map(|value| entry("ports", value)).collect()
        };
        let mut reserved = entry("cpus", v1::resource::Value::ScalarMilli(1));
        reserved.reservations = vec![v1::Reservation::default(); 4_096];
        let bound = limits::RESOURCE_PARTS as u64;
        let exact = resources_from("wanted", &one_range_each(bound)).unwrap();
        assert_eq!(exact.iter().count(), 1);
        for (parts, wire) in [
            (4_097, one_range_each(bound + 1)),
            (4_097, vec![entry("ports", ranges(0..bound + 1))]),
            (4_097, vec![entry("zones", set(0..bound + 1))]),
            (
                4_097,
                vec![entry("cpus", v1::resource::Value::ScalarMilli(1)); 4_097],
            ),
            (4_097, vec![reserved]),
            (75_000, one_range_each(75_000)),
        ] {
            let error = resources_from("wanted", &wire).unwrap_err();
            let text = format!("{parts} resources, ranges and items; at most 4096");
            assert_eq!((error.field.as_str(), error.text), ("wanted", text));
        }
    }

    #[test]
    fn an_offer_may_have_more_ranges_than_its_agent() {
        let numbers = 0..=2 * limits::RESOURCE_PARTS as u64;
        let range = |at| v1::Range {
            begin: 2 * at,
            end: 2 * at,
        };
        let ports = v1::Resource {
            name: "ports".to_owned(),
            value: Some(v1::resource::Value::Ranges(v1::Ranges {
                range: numbers.map(range).collect(),
            })),
            ..Default::default()
        };
        let cpus = v1::Resource {
            name: "cpus".to_owned(),
            value: Some(v1::resource::Value::ScalarMilli(1)),
            ..Default::default()
        };
        let offered = offered_from("offer.resources", &[cpus.clone(), ports.clone()]).unwrap();
        assert_eq!(resources(&offered), [cpus.clone(), ports]);
        let error = offered_from("offer.resources", &vec![cpus; 4_097]).unwrap_err();
        assert_eq!(error.text, "4097 resources; at most 4096");
    }

    #[test]
    fn negative_excessive_and_missing_amounts_name_their_field() {
        let scalar = |milli| v1::Resource {
            name: "cpus".into(),
            value: Some(v1::resource::Value::ScalarMilli(milli)),
            ..Default::default()
        };
        for bad in [
            scalar(-1),
            scalar(i64::MAX),
            v1::Resource {
                name: "cpus".into(),
                ..Default::default()
            },
        ] {
            let error = resources_from("tasks[0].resources", &[bad]).unwrap_err();
            assert!(error.field.starts_with("tasks[0].resources[0]"), "{error}");
        }
    }
}
