//! Parsers of amounts: processors, memory, weights, times, resources.

use std::time::Duration;

use argosy_proto::v1;
use argosy_state::resources::scalar_milli;

/// The longest accepted time, in seconds: a hundred years.
const LONGEST_S: f64 = 100.0 * 365.0 * 86_400.0;

/// The least memory of a task, in thousandths of a MiB.
const LEAST_MEMORY_MILLI: i64 = 1_000;

/// An amount in thousandths of its unit: processors, or MiB of memory. Never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Milli(pub(crate) i64);

/// Parses a number of processors, as `0.5`.
pub(crate) fn cpus(text: &str) -> Result<Milli, String> {
    let milli = scalar_milli(text).filter(|milli| *milli > 0);
    milli.map(Milli).ok_or_else(|| {
        "write a number of processors above 0 with at most three decimals, as 0.5".to_owned()
    })
}

/// Parses the weight of a role, as `2.5`.
pub(crate) fn weight(text: &str) -> Result<Milli, String> {
    let milli = scalar_milli(text).filter(|milli| (1..=1_000_000_000).contains(milli));
    milli.map(Milli).ok_or_else(|| {
        "write a number above 0, at most 1000000, with at most three decimals, as 2.5".to_owned()
    })
}

/// Parses memory or disk: a plain number is MiB; K, M, G, T (also KiB, MiB, …) are powers of 1,024.
pub(crate) fn size(text: &str) -> Result<Milli, String> {
    let remedy = || {
        "write an amount above 0 as 64 (MiB), 64M, 512MiB or 1.5G; units are powers of 1024"
            .to_owned()
    };
    let split = text
        .find(|letter: char| !letter.is_ascii_digit() && letter != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let milli = scalar_milli(number).ok_or_else(remedy)?;
    let unit = unit.trim().to_ascii_lowercase();
    let in_mib = match unit.as_str() {
        "k" | "kib" => milli.checked_add(1_023).ok_or_else(remedy)? / 1_024,
        "" | "m" | "mib" => milli,
        "g" | "gib" => milli.checked_mul(1_024).ok_or_else(remedy)?,
        "t" | "tib" => milli.checked_mul(1_024 * 1_024).ok_or_else(remedy)?,
        "kb" | "mb" | "gb" | "tb" => {
            let right = format!("{number}{}iB", unit[..1].to_ascii_uppercase());
            return Err(format!("units are powers of 1024 here; write {right}"));
        }
        _ => return Err(remedy()),
    };
    let bounded = (1..=argosy_state::limits::SCALAR_MILLI).contains(&in_mib);
    bounded.then_some(Milli(in_mib)).ok_or_else(remedy)
}

/// Resources that are asked for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Demand(pub(crate) Vec<v1::Resource>);

/// Parses resources, as `cpus:4;mem:64`.
pub(crate) fn demand(text: &str) -> Result<Demand, String> {
    let remedy = "write resources as cpus:4 or cpus:1;mem:64, memory in MiB";
    let parsed = argosy_client::resources::resources(text);
    let parsed = parsed.map_err(|error| format!("{error}; {remedy}"))?;
    match parsed.is_empty() {
        true => Err(format!("it is empty; {remedy}")),
        false => Ok(Demand(parsed)),
    }
}

/// Parses a span of time: `500ms`, `10s`, `5m`, `2h`, `7d`; a plain number is seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let remedy =
        || "write a time as 500ms, 10s, 5m, 2h or 7d; a plain number is seconds".to_owned();
    let split = text
        .find(|letter: char| !letter.is_ascii_digit() && letter != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: f64 = number.parse().map_err(|_| remedy())?;
    let seconds = match unit.trim() {
        "ms" => number / 1_000.0,
        "" | "s" => number,
        "m" | "min" => number * 60.0,
        "h" => number * 3_600.0,
        "d" => number * 86_400.0,
        _ => return Err(remedy()),
    };
    if !(0.0..=LONGEST_S).contains(&seconds) {
        return Err(remedy());
    }
    Ok(Duration::from_millis((seconds * 1_000.0).round() as u64))
}

/// Parses the time after which a command fails.
pub(crate) fn timeout(text: &str) -> Result<Duration, String> {
    let time = duration(text)?;
    match time.is_zero() {
        true => Err("write a time above 0, as 10s: nothing is answered in no time".to_owned()),
        false => Ok(time),
    }
}

/// Parses the memory of a task.
pub(crate) fn memory(text: &str) -> Result<Milli, String> {
    let amount = size(text)?;
    match amount.0 < LEAST_MEMORY_MILLI {
        true => Err("no program runs in less than 1M; write at least that, as 64M".to_owned()),
        false => Ok(amount),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_accept_common_units() {
        let table = [
            ("64", 64_000),
            ("64M", 64_000),
            ("64MiB", 64_000),
            ("512mib", 512_000),
            ("1G", 1_024_000),
            ("1.5G", 1_536_000),
            ("0.5", 500),
            ("1024K", 1_000),
            ("1K", 1),
            ("1T", 1_048_576_000),
        ];
        for (text, milli) in table {
            assert_eq!(size(text), Ok(Milli(milli)), "{text}");
        }
    }

    #[test]
    fn an_invalid_size_is_rejected_with_the_remedy() {
        for text in [
            "", "0", "-1", "64X", "M", "NaN", "1e9", "9999999T", "1.2345",
        ] {
            let error = size(text).unwrap_err();
            assert!(error.contains("64M"), "{text}: {error}");
        }
        let error = size("64MB").unwrap_err();
        assert_eq!(error, "units are powers of 1024 here; write 64MiB");
    }

    #[test]
    fn a_task_has_at_least_a_mebibyte_and_a_timeout_some_time() {
        assert_eq!(memory("1M"), Ok(Milli(1_000)));
        assert!(memory("64K").unwrap_err().contains("64M"));
        assert_eq!(timeout("1ms"), Ok(Duration::from_millis(1)));
        assert!(timeout("0").unwrap_err().contains("10s"));
    }

    #[test]
    fn processors_are_above_zero_with_three_decimals() {
        assert_eq!(cpus("0.5"), Ok(Milli(500)));
        assert_eq!(cpus("64"), Ok(Milli(64_000)));
        for text in ["0", "-1", "NaN", "inf", "1e3", "0.0001", "", "two"] {
            assert!(cpus(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_have_units_and_a_bare_number_is_seconds() {
        let table = [
            ("500ms", 500),
            ("10s", 10_000),
            ("10", 10_000),
            ("1.5m", 90_000),
            ("2h", 7_200_000),
            ("7d", 604_800_000),
            ("0", 0),
        ];
        for (text, ms) in table {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "-1s", "5w", "s", "99999999999d", "1..2s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
