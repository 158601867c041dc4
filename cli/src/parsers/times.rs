//! Parser of a point in time: a time ago, or a date and time of RFC 3339.

use std::time::Duration;

use super::duration;

const DAY_MS: i64 = 24 * 3_600_000;

/// A point in time that a user names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PointInTime {
    /// This long ago.
    Ago(Duration),
    /// Milliseconds since 1970.
    At(i64),
}

impl PointInTime {
    /// Returns it in milliseconds since 1970.
    pub(crate) fn wall_ms(self, now_ms: i64) -> i64 {
        match self {
            Self::Ago(ago) => {
                let ago = i64::try_from(ago.as_millis()).unwrap_or(i64::MAX);
                now_ms.saturating_sub(ago)
            }
            Self::At(wall_ms) => wall_ms,
        }
    }
}

/// Parses `10m`, or `2026-11-27T09:00:00Z`, with a fraction or an offset if wanted.
pub(crate) fn point_in_time(text: &str) -> Result<PointInTime, String> {
    if let Ok(ago) = duration(text) {
        return Ok(PointInTime::Ago(ago));
    }
    date_and_time(text).map(PointInTime::At).ok_or_else(|| {
        match date_and_time(&format!("{text}Z")) {
            Some(_) => format!("it names no time zone; write {text}Z, or an offset as +01:00"),
            None => "write 90s, 10m, 2h or 7d, or a time as 2026-11-27T09:00:00Z".to_owned(),
        }
    })
}

/// Returns milliseconds since 1970. Finer digits are dropped.
fn date_and_time(text: &str) -> Option<i64> {
    let (date, time) = text.split_at_checked(10)?;
    let time = time.strip_prefix(['T', 't', ' '])?;
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let (clock, rest) = time.split_at_checked(8)?;
    let [hour, minute, second] = numbers(clock, ':', [2, 2, 2])?;
    let (ms, zone) = match rest.strip_prefix('.') {
        Some(rest) => {
            let end = rest.find(|letter: char| !letter.is_ascii_digit())?;
            let (digits, zone) = rest.split_at(end);
            let ms = digits.bytes().chain(*b"00").take(3);
            let ms = ms.fold(0, |ms, digit| ms * 10 + i64::from(digit - b'0'));
            (!digits.is_empty()).then_some((ms, zone))?
        }
        None => (0, rest),
    };
    let (sign, offset) = match zone.split_at_checked(1)? {
        ("Z" | "z", "") => (0, [0, 0]),
        ("+", offset) => (1, numbers(offset, ':', [2, 2])?),
        ("-", offset) => (-1, numbers(offset, ':', [2, 2])?),
        _ => return None,
    };
    let is_valid = (1..=12).contains(&month)
        && (1..=days_of_month(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second <= 60 // a leap second
        && offset[0] < 24
        && offset[1] < 60;
    let of_day = (hour * 3_600 + minute * 60 + second) * 1_000 + ms;
    let offset_ms = sign * (offset[0] * 60 + offset[1]) * 60_000;
    is_valid.then(|| days_since_1970(year, month, day) * DAY_MS + of_day - offset_ms)
}

/// Returns the numbers between separators, each of which has this many digits.
fn numbers<const N: usize>(text: &str, separator: char, digits: [usize; N]) -> Option<[i64; N]> {
    let mut found = [0; N];
    let mut parts = text.split(separator);
    for (number, digits) in found.iter_mut().zip(digits) {
        let part = parts.next().filter(|part| part.len() == digits)?;
        let is_number = part.bytes().all(|byte| byte.is_ascii_digit());
        *number = is_number.then(|| part.parse().ok()).flatten()?;
    }
    parts.next().is_none().then_some(found)
}

fn days_of_month(year: i64, month: i64) -> i64 {
    let is_leap_year = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 => 28 + i64::from(is_leap_year),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Returns the number of days by the Gregorian calendar. A year that begins in March has its leap
/// day at the end.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = match month {
        3.. => (year, month - 3),
        _ => (year - 1, month + 9),
    };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    year * 365 + leap_days + (153 * month + 2) / 5 + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_ago_and_dates_are_accepted() {
        for (text, expected) in [
            ("10m", PointInTime::Ago(Duration::from_mins(10))),
            ("1.5s", PointInTime::Ago(Duration::from_millis(1_500))),
            ("90", PointInTime::Ago(Duration::from_secs(90))),
            ("1970-01-01T00:00:00Z", PointInTime::At(0)),
            ("1969-12-31T23:59:59.999Z", PointInTime::At(-1)),
            ("2000-02-29T00:00:00Z", PointInTime::At(951_782_400_000)),
            ("2026-11-27T09:00:00Z", PointInTime::At(1_795_770_000_000)),
            (
                "2026-11-27 09:00:00.25z",
                PointInTime::At(1_795_770_000_250),
            ),
            (
                "2026-11-27T09:00:00.1239999Z",
                PointInTime::At(1_795_770_000_123),
            ),
            (
                "2026-11-27T10:30:00+01:30",
                PointInTime::At(1_795_770_000_000),
            ),
            (
                "2026-11-26t23:00:00-10:00",
                PointInTime::At(1_795_770_000_000),
            ),
            ("2016-12-31T23:59:60Z", PointInTime::At(1_483_228_800_000)),
        ] {
            assert_eq!(point_in_time(text), Ok(expected), "{text}");
        }
        let now = 1_795_770_000_000;
        assert_eq!(
            PointInTime::Ago(Duration::from_secs(1)).wall_ms(now),
            now - 1_000
        );
        assert_eq!(PointInTime::At(5).wall_ms(now), 5);
    }

    #[test]
    fn wrong_times_are_refused_with_the_remedy() {
        for text in [
            "",
            "yesterday",
            "-10m",
            "2026-11-27",
            "2026-11-27T09:00Z",
            "2026-02-29T09:00:00Z",
            "2026-13-01T09:00:00Z",
            "2026-00-01T09:00:00Z",
            "2026-11-31T09:00:00Z",
            "2026-11-27T24:00:00Z",
            "2026-11-27T09:60:00Z",
            "2026-11-27T09:00:61Z",
            "2026-11-27T09:00:00.Z",
            "2026-11-27T09:00:00ZZ",
            "2026-11-27T09:00:00+1:00",
            "2026-11-27T09:00:00+24:00",
            "+026-11-27T09:00:00Z",
            "2026-11-27T09:00:0\u{661}Z",
            "2026\u{2010}11-27T09:00:00Z",
        ] {
            let error = point_in_time(text).unwrap_err();
            assert!(error.contains("write 90s, 10m"), "{text}: {error}");
        }
        let error = point_in_time("2026-11-27T09:00:00").unwrap_err();
        assert!(error.contains("write 2026-11-27T09:00:00Z"), "{error}");
    }
}
