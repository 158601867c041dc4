//! How often this leader fell out of office because a quorum answered too late.
//!
//! Pure. A leader that is unheard for longer goes silent, and the others elect one that they can answer. One
//! whose followers answer about as late as its lease allows falls and returns again and again, and is not
//! silent for long enough. It must let another master lead.

use std::time::Duration;

use tokio::time::Instant;

/// So many falls mean that the next will come too.
const FALLS: usize = 3;
/// If they come within so many leases. One after the other, with health between them, mean nothing.
const LEASES: u32 = 16;

/// What is logged when leadership is handed over for this.
pub(crate) const TOO_OFTEN: &str = "a quorum answers too late again and again: handing leadership over, in case it is this master that is far away or slow";

/// The falls that still count.
#[derive(Debug)]
pub(crate) struct Falls {
    within: Duration,
    falls: Vec<Instant>,
}

impl Falls {
    pub(crate) fn new(lease: Duration) -> Self {
        Self {
            within: lease * LEASES,
            falls: Vec::new(),
        }
    }

    /// Notes a fall. True if leadership should be handed over; it is counted anew then.
    pub(crate) fn fall(&mut self, now: Instant) -> bool {
        self.falls
            .retain(|fall| now.duration_since(*fall) < self.within);
        self.falls.push(now);
        let is_often = self.falls.len() >= FALLS;
        if is_often {
            self.falls.clear();
        }
        is_often
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_third_fall_in_a_short_time_gives_leadership_away_and_single_ones_do_not() {
        let begun = Instant::now();
        let mut falls = Falls::new(Duration::from_millis(300));
        let mut at = |ms: u64| falls.fall(begun + Duration::from_millis(ms));
        assert!(!at(0) && !at(400) && at(900));
        assert!(!at(1_200), "it counts anew");
        assert!(!at(6_300) && !at(11_400) && !at(16_500));
    }
}
