//! Times of the log: RFC 3339 in UTC, with milliseconds.

const DAY_MS: i64 = 86_400_000;

/// Returns a time, in milliseconds since 1970, as `2026-11-27T09:00:00.000Z`. Years before 0 and
/// after 9999 are shown as these.
#[must_use]
pub fn rfc3339(wall_ms: i64) -> String {
    let wall_ms = wall_ms.clamp(FIRST_MS, LAST_MS);
    let (days, of_day) = (wall_ms.div_euclid(DAY_MS), wall_ms.rem_euclid(DAY_MS));
    let (year, month, day) = date(days);
    let (seconds, ms) = (of_day / 1_000, of_day % 1_000);
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

/// 0000-01-01 and the last millisecond of 9999.
const FIRST_MS: i64 = -62_167_219_200_000;
const LAST_MS: i64 = 253_402_300_799_999;

/// Returns year, month and day of a day since 1970, in the Gregorian calendar. Years begin in March
/// here, so that a leap day is the last of its year.
fn date(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    (era * 400 + year + i64::from(month <= 2), month, day)
}

/// Returns the milliseconds since 1970 of a text that [`rfc3339`] returns.
fn parse(text: &str) -> Option<i64> {
    let number = |at: usize, digits: usize| {
        let part = text.get(at..at + digits)?;
        let is_number = part.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| part.parse::<i64>().ok())?
    };
    let (year, month, day) = (number(0, 4)?, number(5, 2)?, number(8, 2)?);
    let (hour, minute, second) = (number(11, 2)?, number(14, 2)?, number(17, 2)?);
    let shifted = year - i64::from(month <= 2);
    let from_march = (month + 9) % 12;
    let of_year = (153 * from_march + 2) / 5 + day - 1;
    let of_era = shifted.rem_euclid(400);
    let of_era = of_era * 365 + of_era / 4 - of_era / 100 + of_year;
    let days = shifted.div_euclid(400) * 146_097 + of_era - 719_468;
    let of_day = ((hour * 60 + minute) * 60 + second) * 1_000 + number(20, 3)?;
    let wall_ms = days * DAY_MS + of_day;
    // Also rejects separators and numbers that are not valid.
    (rfc3339(wall_ms) == text).then_some(wall_ms)
}

/// A time as text in JSON.
pub(super) mod as_text {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
    pub(crate) fn serialize<S: Serializer>(wall_ms: &i64, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(&super::rfc3339(*wall_ms))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<i64, D::Error> {
        let text = String::deserialize(from)?;
        super::parse(&text).ok_or_else(|| D::Error::custom(format!("{text:?} is not a time")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_and_read() {
        for (wall_ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (1_795_771_500_042, "2026-11-27T09:25:00.042Z"),
            (FIRST_MS, "0000-01-01T00:00:00.000Z"),
            (LAST_MS, "9999-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(rfc3339(wall_ms), text);
            assert_eq!(parse(text), Some(wall_ms), "{text}");
        }
        assert_eq!(rfc3339(i64::MAX), "9999-12-31T23:59:59.999Z");
        assert_eq!(rfc3339(i64::MIN), "0000-01-01T00:00:00.000Z");
    }

    #[test]
    fn every_day_of_four_centuries_is_read_as_it_is_written() {
        for day in 0..146_097 {
            let wall_ms = day * DAY_MS + 1;
            assert_eq!(parse(&rfc3339(wall_ms)), Some(wall_ms));
        }
    }

    #[test]
    fn other_texts_are_no_times() {
        for text in [
            "",
            "2026-11-27",
            "2026-02-29T00:00:00.000Z",
            "2026-13-01T00:00:00.000Z",
            "2026-11-27T24:00:00.000Z",
            "2026-11-27 09:25:00.042Z",
            "2026-11-27T09:25:00.042Z ",
            "2026-11-27T09:25:00.0é2Z",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
