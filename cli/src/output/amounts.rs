//! Amounts as text: resources, bytes, times.

use std::time::{SystemTime, UNIX_EPOCH};

use argosy_proto::v1;
use argosy_proto::v1::resource::Value;

/// Formats thousandths as a decimal number.
pub(crate) fn milli(value: i64) -> String {
    let sign = if value < 0 { "-" } else { "" };
    let value = value.unsigned_abs();
    let fraction = format!("{:03}", value % 1_000);
    let fraction = fraction.trim_end_matches('0');
    if fraction.is_empty() {
        format!("{sign}{}", value / 1_000)
    } else {
        format!("{sign}{}.{fraction}", value / 1_000)
    }
}

/// Returns the thousandths of all scalars of this name.
pub(crate) fn scalar(resources: &[v1::Resource], name: &str) -> i64 {
    let amounts = resources.iter().filter(|resource| resource.name == name);
    amounts
        .map(|resource| match &resource.value {
            Some(Value::ScalarMilli(milli)) => *milli,
            _ => 0,
        })
        .fold(0, i64::saturating_add)
}

/// Formats the processors as a number.
pub(crate) fn cpus(resources: &[v1::Resource]) -> String {
    milli(scalar(resources, "cpus"))
}

/// Formats bytes in the most readable unit.
pub(crate) fn bytes(amount: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = amount as f64;
    let mut unit = 0;
    while value >= 1_024.0 && unit + 1 < units.len() {
        value /= 1_024.0;
        unit += 1;
    }
    if unit == 0 || value >= 100.0 || value.fract() == 0.0 {
        format!("{value:.0} {}", units[unit])
    } else {
        format!("{value:.1} {}", units[unit])
    }
}

/// Formats resources in their input format: `cpus:0.5;mem:64;ports:[31000-31009]`.
pub(crate) fn resources(resources: &[v1::Resource]) -> String {
    let parts: Vec<_> = resources.iter().map(resource).collect();
    parts.join(";")
}

fn resource(resource: &v1::Resource) -> String {
    let amount = match &resource.value {
        Some(Value::ScalarMilli(value)) => milli(*value),
        Some(Value::Ranges(ranges)) => {
            let parts: Vec<_> = ranges
                .range
                .iter()
                .map(|range| format!("{}-{}", range.begin, range.end))
                .collect();
            format!("[{}]", parts.join(","))
        }
        Some(Value::Set(set)) => format!("{{{}}}", set.item.join(",")),
        None => "?".to_owned(),
    };
    match resource.reservations.last() {
        Some(reservation) => format!("{}({}):{amount}", resource.name, reservation.role),
        None => format!("{}:{amount}", resource.name),
    }
}

/// Formats milliseconds in the most readable unit: `40 ms`, `2.1 s`, `4 min`, `3 h`, `2 d`.
pub(crate) fn span_ms(ms: u64) -> String {
    match ms {
        0..=999 => format!("{ms} ms"),
        1_000..=9_999 => {
            let tenths = ms / 100;
            if tenths.is_multiple_of(10) {
                format!("{} s", tenths / 10)
            } else {
                format!("{}.{} s", tenths / 10, tenths % 10)
            }
        }
        10_000..=119_999 => format!("{} s", ms / 1_000),
        120_000..=7_199_999 => format!("{} min", ms / 60_000),
        7_200_000..=172_799_999 => format!("{} h", ms / 3_600_000),
        _ => format!("{} d", ms / 86_400_000),
    }
}

/// Formats the time since a moment, in milliseconds of the Unix epoch: `4 min ago`. The clocks of
/// hosts differ, so a moment may seem to be in the future.
pub(crate) fn ago(wall_ms: i64) -> String {
    ago_at(wall_ms, wall_now_ms())
}

/// Returns the wall time of this host, in milliseconds of the Unix epoch.
pub(crate) fn wall_now_ms() -> i64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

/// The same as [`ago`] at another time than now.
pub(crate) fn ago_at(wall_ms: i64, now_ms: i64) -> String {
    match wall_ms {
        // Not known.
        ..=0 => String::new(),
        _ => {
            let span = now_ms.saturating_sub(wall_ms).max(0);
            format!("{} ago", span_ms(u64::try_from(span).unwrap_or(0)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shown_as_spans_to_the_past() {
        assert_eq!(ago_at(0, 5_000), "");
        assert_eq!(ago_at(1_000, 241_000), "4 min ago");
        assert_eq!(ago_at(9_000, 5_000), "0 ms ago");
        assert_eq!(ago_at(i64::MAX, i64::MIN), "0 ms ago");
    }

    #[test]
    fn amounts_are_formatted() {
        assert_eq!(
            [milli(500), milli(64_000), milli(1_250), milli(1)],
            ["0.5", "64", "1.25", "0.001"]
        );
        assert_eq!(
            [bytes(0), bytes(1_024), bytes(67_108_864), bytes(1_992_294)],
            ["0 B", "1 KiB", "64 MiB", "1.9 MiB"]
        );
        let spans = [40, 2_100, 5_000, 61_000, 240_000, 7_200_000, 864_000_000].map(span_ms);
        assert_eq!(
            spans,
            ["40 ms", "2.1 s", "5 s", "61 s", "4 min", "2 h", "10 d"]
        );
    }

    #[test]
    fn resources_are_formatted_as_flags_accept_them() {
        let scalar = |name: &str, value| v1::Resource {
            name: name.to_owned(),
            value: Some(Value::ScalarMilli(value)),
            ..v1::Resource::default()
        };
        let ports = v1::Resource {
            name: "ports".to_owned(),
            value: Some(Value::Ranges(v1::Ranges {
                range: vec![v1::Range { begin: 1, end: 2 }],
            })),
            ..v1::Resource::default()
        };
        let all = [scalar("cpus", 500), scalar("mem", 64_000), ports];
        assert_eq!(resources(&all), "cpus:0.5;mem:64;ports:[1-2]");
        assert_eq!(cpus(&all), "0.5");
    }
}
