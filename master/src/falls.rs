//! How often this leader fell out of office because a quorum answered too late.
//!
//! Pure. A leader whose followers answer just later than the lease serves nobody, and nobody else
//! stands as long as its heartbeats arrive: then it has to let another one lead.

use std::time::Duration;

use tokio::time::Instant;

/// So many falls mean that the next will come too.
const FALLS: usize = 3;
/// If they come within this time. One after the other, with health between them, mean nothing.
const WITHIN: Duration = Duration::from_secs(5);

/// What is logged when leadership is handed over for this.
pub(crate) const TOO_OFTEN: &str = "a quorum answers too late again and again: handing leadership over, in case it is this master that is far away or slow";

/// The falls that still count.
#[derive(Debug, Default)]
pub(crate) struct Falls(Vec<Instant>);

impl Falls {
    /// Notes a fall. True if leadership should be handed over; it is counted anew then.
    pub(crate) fn fall(&mut self, now: Instant) -> bool {
        self.0.retain(|fall| now.duration_since(*fall) < WITHIN);
        self.0.push(now);
        let is_often = self.0.len() >= FALLS;
        if is_often {
            self.0.clear();
        }
        is_often
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_third_fall_within_seconds_gives_leadership_away_and_single_ones_do_not() {
        let begun = Instant::now();
        let mut falls = Falls::default();
        let mut at = |ms: u64| falls.fall(begun + Duration::from_millis(ms));
        assert!(!at(0) && !at(400) && at(900));
        assert!(!at(1_200), "it counts anew");
        assert!(!at(6_300) && !at(11_400) && !at(16_500));
    }
}
