//! Values on the command lines of the programs that run clusters: sizes and times.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// The number of members of each kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClusterSize {
    pub masters: u8,
    pub agents: u8,
    pub frameworks: u8,
}

/// A text that is not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid size {0:?}: write masters x agents, as 3x6; masters are 1, 3 or 5, agents 1 to 30"
)]
pub struct InvalidSize(String);

impl FromStr for ClusterSize {
    type Err = InvalidSize;

    fn from_str(text: &str) -> Result<Self, InvalidSize> {
        let parts = text.split_once('x').and_then(|(masters, agents)| {
            Some((masters.parse::<u8>().ok()?, agents.parse::<u8>().ok()?))
        });
        match parts {
            Some((masters @ (1 | 3 | 5), agents @ 1..=30)) => Ok(Self {
                masters,
                agents,
                frameworks: 3,
            }),
            Some(_) | None => Err(InvalidSize(text.to_owned())),
        }
    }
}

impl fmt::Display for ClusterSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.masters, self.agents)
    }
}

/// Parses "250ms", "10s", "5m" or "1h".
///
/// # Errors
/// A message with the valid forms.
pub fn duration(text: &str) -> Result<Duration, String> {
    let end = text
        .find(|letter: char| !letter.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let wrong = || format!("invalid time {text:?}: write it as 500ms, 90s, 10m or 2h");
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(wrong()),
    };
    let ms = number
        .checked_mul(ms)
        .filter(|ms| (1..=604_800_000).contains(ms));
    ms.map(Duration::from_millis).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units_and_bounds() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("10m"), Ok(Duration::from_mins(10)));
        for bad in [
            "",
            "5",
            "s",
            "-1s",
            "0s",
            "1d",
            "99999999999999999h",
            "10000h",
        ] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn invalid_group_sizes_are_rejected() {
        assert_eq!("5x6".parse::<ClusterSize>().unwrap().to_string(), "5x6");
        for bad in ["2x3", "3", "3x0", "3x31", "x", "3x3x3", "-1x2"] {
            let error = bad.parse::<ClusterSize>().unwrap_err().to_string();
            assert!(error.contains(bad) && error.contains("3x6"), "{error}");
        }
    }
}
