//! How far a transfer is, as one line: a bar, bytes and the rate. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use super::amounts::bytes;
use super::text_width::{cut, width};
use super::visible::visible_line;

/// Cells of the bar.
const BAR: usize = 16;
/// The least width of the name next to a bar.
const LEAST_NAME: usize = 24;
/// Blanks between the parts of the line.
const GAP: &str = "  ";
/// The time over which the rate is computed.
const RATE_SPAN: Duration = Duration::from_secs(5);
/// The least time for a rate.
const LEAST_SPAN: Duration = Duration::from_secs(1);
/// Maximum number of samples. With more in [`RATE_SPAN`], the rate is that of a shorter time.
const SAMPLES: usize = 64;

/// A transfer at one time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Transfer {
    /// What is transferred, as `pulling nginx`.
    pub(crate) what: String,
    pub(crate) received_bytes: u64,
    /// `None` if unknown.
    pub(crate) total_bytes: Option<u64>,
    /// `None` if unknown.
    pub(crate) bytes_per_second: Option<u64>,
}

impl Transfer {
    /// Returns the line for a terminal with this number of columns. If it is too long, the name is
    /// cut, then the bar is left out.
    pub(crate) fn line(&self, room: usize) -> String {
        let name = visible_line(&self.what);
        let amounts = self.amounts();
        let with_bar = self.total_bytes.map(|total| {
            let bar = bar(self.received_bytes, total);
            format!("{GAP}{bar}{GAP}{amounts}")
        });
        let without_bar = match amounts.is_empty() {
            true => String::new(),
            false => format!("{GAP}{amounts}"),
        };
        let wanted = width(&name).min(LEAST_NAME);
        let with_bar = with_bar.filter(|rest| width(rest) + wanted <= room);
        let rest = with_bar.unwrap_or(without_bar);
        let name = cut(&name, room.saturating_sub(width(&rest)));
        cut(&format!("{name}{rest}"), room)
    }

    /// Returns `12.3 MiB of 40 MiB, 3.1 MiB/s`, as far as it is known.
    fn amounts(&self) -> String {
        let received = bytes(self.received_bytes);
        let amounts = match self.total_bytes {
            Some(total) => format!("{received} of {}", bytes(total)),
            None if self.received_bytes > 0 => received,
            None => return String::new(),
        };
        match self.bytes_per_second {
            Some(rate) => format!("{amounts}, {}/s", bytes(rate)),
            None => amounts,
        }
    }
}

/// Returns `[=====>          ]`; it is full only if everything is received.
fn bar(received: u64, total: u64) -> String {
    let received = u128::from(received.min(total));
    let filled = received * BAR as u128 / u128::from(total.max(1));
    // At most `BAR`.
    let filled = filled as usize;
    let tip = if filled < BAR { ">" } else { "" };
    format!("[{:<BAR$}]", "=".repeat(filled) + tip)
}

/// Computes the rate of a transfer from what was received at some times.
#[derive(Debug, Default)]
pub(crate) struct RateMeter {
    /// Times since any fixed one, and received bytes, oldest first.
    samples: VecDeque<(Duration, u64)>,
}

impl RateMeter {
    /// Adds a sample, and returns the rate in bytes per second; `None` before it is known. Fewer
    /// bytes than before mean that the transfer has restarted.
    pub(crate) fn add(&mut self, at: Duration, received: u64) -> Option<u64> {
        if self
            .samples
            .back()
            .is_some_and(|(_, last)| *last > received)
        {
            self.samples.clear();
        }
        self.samples.push_back((at, received));
        while self.samples.len() > SAMPLES
            || self
                .samples
                .get(1)
                .is_some_and(|(second, _)| at.saturating_sub(*second) >= RATE_SPAN)
        {
            self.samples.pop_front();
        }
        let (first, before) = *self.samples.front()?;
        let span = at.saturating_sub(first);
        if span < LEAST_SPAN {
            return None;
        }
        let per_second = u128::from(received - before) * 1_000 / span.as_millis();
        Some(u64::try_from(per_second).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transfer(what: &str, received_bytes: u64, total_bytes: Option<u64>) -> Transfer {
        Transfer {
            what: what.to_owned(),
            received_bytes,
            total_bytes,
            bytes_per_second: None,
        }
    }

    #[test]
    fn a_line_has_a_bar_bytes_and_the_rate_as_far_as_they_are_known() {
        let mut half = transfer("pulling nginx", 20 << 20, Some(40 << 20));
        assert_eq!(
            half.line(100),
            "pulling nginx  [========>       ]  20 MiB of 40 MiB"
        );
        half.bytes_per_second = Some(3 << 19);
        assert_eq!(
            half.line(100),
            "pulling nginx  [========>       ]  20 MiB of 40 MiB, 1.5 MiB/s"
        );
        half.total_bytes = None;
        assert_eq!(half.line(100), "pulling nginx  20 MiB, 1.5 MiB/s");
        assert_eq!(transfer("starting", 0, None).line(100), "starting");
    }

    #[test]
    fn a_bar_is_full_only_at_the_end() {
        let bars = [0, 1, 99, 100, 200].map(|received| bar(received, 100));
        assert_eq!(bars[0], "[>               ]");
        assert_eq!(bars[0], bars[1]);
        assert_eq!(bars[2], "[===============>]");
        assert_eq!(bars[3], "[================]");
        assert_eq!(bars[3], bars[4]);
        assert_eq!(bar(0, 0), bars[0]);
        assert_eq!(bar(u64::MAX, u64::MAX), bars[3]);
    }

    #[test]
    fn a_line_that_is_too_long_loses_a_part_of_its_name_and_then_its_bar() {
        let name = "pulling registry.example/team/product:1.27";
        let half = transfer(name, 20 << 20, Some(40 << 20));
        let amounts = "20 MiB of 40 MiB";
        for room in 0..=120 {
            let line = half.line(room);
            assert!(width(&line) <= room, "{room}: {line}");
            assert_eq!(line.contains('['), room >= 24 + 38, "{room}: {line}");
            assert_eq!(line.contains(amounts), room >= 18, "{room}: {line}");
        }
        assert_eq!(
            half.line(62),
            format!("pulling registry.exampl…  [========>       ]  {amounts}")
        );
        assert_eq!(
            half.line(61),
            format!("{name}  {amounts}"),
            "the whole name fits without a bar"
        );
    }

    #[test]
    fn a_hostile_name_is_shown_escaped_and_fits() {
        let hostile = transfer("pulling \u{1b}[2J\u{202e}x\n", 1, Some(2));
        let line = hostile.line(100);
        assert!(
            line.starts_with("pulling \\u{1b}[2J\\u{202e}x\\n  ["),
            "{line}"
        );
        assert_eq!(width(&hostile.line(40)), 40);
    }

    #[test]
    fn the_rate_is_that_of_the_last_seconds_and_begins_again_with_the_transfer() {
        let mut meter = RateMeter::default();
        let ms = Duration::from_millis;
        assert_eq!(meter.add(ms(0), 0), None);
        assert_eq!(meter.add(ms(500), 500), None);
        assert_eq!(meter.add(ms(1_000), 2_000), Some(2_000));
        // Nothing arrives any more: the first samples are forgotten.
        assert_eq!(meter.add(ms(5_500), 2_000), Some(300));
        assert_eq!(meter.add(ms(6_500), 2_000), Some(0));
        assert_eq!(meter.add(ms(7_000), 100), None, "it has restarted");
        assert_eq!(meter.add(ms(8_000), 1_100), Some(1_000));
        for at in 0..10_000 {
            meter.add(ms(8_000 + at), 1_100 + at);
        }
        assert!(meter.samples.len() <= SAMPLES);
    }
}
