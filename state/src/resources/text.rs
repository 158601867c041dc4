//! The text form of resources, such as `cpus:4;mem:1024;ports:[31000-32000];zones:{a,b}`.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use super::{Range, Resource, ResourceIdentity, ResourceSum, Resources, Value};
use crate::limits;

/// The error for a text that does not describe resources.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{part:?} is not a resource: {rule}")]
pub struct InvalidResources {
    /// The invalid part, cut to 64 characters.
    pub part: String,
    /// The rule that the part violates.
    pub rule: &'static str,
}

const SHAPE: &str = "write name:amount as in cpus:0.5;mem:64;ports:[31000-31009];zones:{a,b}";
const TOO_MANY: &str = "a text has at most 4096 resources, ranges and items";
const AMOUNT: &str = "an amount is a number from 0 to 1000000000 with at most three decimals";

impl FromStr for Resources {
    type Err = InvalidResources;

    fn from_str(text: &str) -> Result<Self, InvalidResources> {
        let mut sum = ResourceSum::default();
        let mut parts = 0;
        for part in text
            .split(';')
            .map(str::trim)
            .filter(|part| !part.is_empty())
        {
            let wrong = |rule| InvalidResources {
                part: part.chars().take(64).collect(),
                rule,
            };
            let resource = resource(part).map_err(wrong)?;
            parts += count(&resource.value);
            if parts > limits::RESOURCE_PARTS {
                return Err(wrong(TOO_MANY));
            }
            sum.add(resource)
                .ok_or_else(|| wrong("its amounts overlap, are too large or of two kinds"))?;
        }
        let all = sum.finish();
        let too_large = all
            .iter()
            .find(|entry| entry.value.scalar_milli() > limits::SCALAR_MILLI);
        match too_large {
            Some(entry) => Err(InvalidResources {
                part: entry.identity.name.chars().take(64).collect(),
                rule: AMOUNT,
            }),
            None => Ok(all),
        }
    }
}

/// Reads one resource.
///
/// # Errors
/// The rule that it violates.
fn resource(text: &str) -> Result<Resource, &'static str> {
    let (name, amount) = text.split_once(':').ok_or(SHAPE)?;
    let (name, amount) = (name.trim(), amount.trim());
    if name.is_empty() || name.len() > limits::NAME_BYTES || name.contains(['[', '{', '(', '"']) {
        return Err(SHAPE);
    }
    let has_parts = amount.starts_with(['[', '{']);
    let value = value(amount).ok_or(if has_parts { SHAPE } else { AMOUNT })?;
    Ok(Resource {
        identity: ResourceIdentity::plain(name),
        value,
    })
}

/// Returns the number of ranges or items of an amount, or one.
fn count(value: &Value) -> usize {
    let count = match value {
        Value::Scalar(_) => 1,
        Value::Ranges(ranges) => ranges.len(),
        Value::Set(items) => items.len(),
    };
    count.max(1)
}

fn value(text: &str) -> Option<Value> {
    if let Some(inner) = text.strip_prefix('[') {
        let ranges = inner
            .strip_suffix(']')?
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty());
        return ranges
            .map(range)
            .collect::<Option<Vec<_>>>()
            .map(Value::Ranges);
    }
    if let Some(inner) = text.strip_prefix('{') {
        let items: BTreeSet<_> = inner
            .strip_suffix('}')?
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(Into::into)
            .collect();
        return Some(Value::Set(items));
    }
    scalar_milli(text).map(Value::Scalar)
}

fn range(text: &str) -> Option<Range> {
    let (begin, end) = text.split_once('-').unwrap_or((text, text));
    let range = Range {
        begin: begin.trim().parse().ok()?,
        end: end.trim().parse().ok()?,
    };
    (range.begin <= range.end).then_some(range)
}

/// Returns the thousandths of a decimal number such as `0.125`; `None` for any other text.
#[must_use]
pub fn scalar_milli(text: &str) -> Option<i64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty()
        || whole.len() > 12
        || fraction.len() > 3
        || !digits(whole)
        || !digits(fraction)
    {
        return None;
    }
    let milli: i64 = format!("{fraction:0<3}").parse().ok()?;
    whole
        .parse::<i64>()
        .ok()?
        .checked_mul(1_000)?
        .checked_add(milli)
        .filter(|all| *all <= limits::SCALAR_MILLI)
}

pub(super) fn write(resources: &Resources, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for (at, resource) in resources.iter().enumerate() {
        if at > 0 {
            f.write_str(";")?;
        }
        write!(f, "{}", resource.identity.name)?;
        if let Some(reservation) = resource.identity.reservations.last() {
            write!(f, "({})", reservation.role)?;
        }
        f.write_str(":")?;
        write_value(&resource.value, f)?;
    }
    Ok(())
}

fn write_value(value: &Value, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match value {
        Value::Scalar(milli) if milli % 1_000 == 0 => write!(f, "{}", milli / 1_000),
        Value::Scalar(milli) => {
            let fraction = format!("{:03}", milli % 1_000);
            write!(f, "{}.{}", milli / 1_000, fraction.trim_end_matches('0'))
        }
        Value::Ranges(ranges) => {
            let parts: Vec<_> = ranges
                .iter()
                .map(|range| format!("{}-{}", range.begin, range.end))
                .collect();
            write!(f, "[{}]", parts.join(","))
        }
        Value::Set(items) => {
            let parts: Vec<_> = items.iter().map(|item| &**item).collect();
            write!(f, "{{{}}}", parts.join(","))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_round_trip_as_text() {
        for text in [
            "cpus:4;mem:1024",
            "cpus:0.125",
            "ports:[31000-31009,32000-32000]",
            "zones:{a,b}",
        ] {
            assert_eq!(text.parse::<Resources>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn an_invalid_amount_is_rejected_with_the_part_that_contains_it() {
        for bad in [
            "cpus:-1",
            "cpus:NaN",
            "cpus:1e9",
            "cpus:0.0001",
            "cpus",
            ":1",
            "cpus:inf",
            "mem:9999999999999",
            "ports:[9-3]",
            "ports:[1-5,3-4]",
        ] {
            let error = bad.parse::<Resources>().unwrap_err();
            assert_eq!(error.part, bad);
        }
    }

    #[test]
    fn more_parts_than_a_task_may_have_are_rejected_before_they_are_added_up() {
        let set = |number| format!("a:{{item{number}}};");
        let range = |number| format!("ports:[{}];", 2 * number);
        let in_one = |number| format!("{},", 2 * number);
        let text = |parts: usize, part: &dyn Fn(usize) -> String| -> String {
            (0..parts).map(part).collect()
        };
        for (part, last) in [
            (&set as &dyn Fn(usize) -> String, "a:{item4096}"),
            (&range, "ports:[8192]"),
        ] {
            let error = text(9_000, part).parse::<Resources>().unwrap_err();
            assert_eq!((error.part.as_str(), error.rule), (last, TOO_MANY));
            assert!(text(4_096, part).parse::<Resources>().is_ok());
        }
        let one = format!("ports:[{}]", text(9_000, &in_one));
        let error = one.parse::<Resources>().unwrap_err();
        assert_eq!(error.rule, TOO_MANY);
        assert!(TOO_MANY.contains(&limits::RESOURCE_PARTS.to_string()));
    }
}
