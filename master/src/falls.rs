//! When a leader that its followers answer too late must let another master lead.
//!
//! Pure. A leader that is unheard for longer than its lease goes silent, and the others elect one that they can answer. One
//! whose followers answer about as late as its lease allows falls out of office and returns again and again, and is not
//! silent for long enough. One that they always answer, and later than a heartbeat may take, confirms no read.

use std::time::Duration;

use tokio::time::Instant;

/// So many falls mean that the next will come too.
const FALLS: usize = 3;
/// If they come within so many leases. One after the other, with health between them, mean nothing.
const LEASES: u32 = 16;

/// What is logged when leadership is handed over for this.
pub(crate) const TOO_OFTEN: &str = "a quorum answers too late again and again: handing leadership over, in case it is this master that is far away or slow";

/// What is logged when leadership is handed over because no read can be confirmed.
pub(crate) const FAR_AWAY: &str = "a majority of the masters is too far away to confirm reads in time: handing leadership over, in case it is this master that is far away";

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

/// Whether this master was far away from the others when it last led.
#[derive(Debug, Default)]
pub(crate) struct Distance {
    is_far: bool,
}

impl Distance {
    /// Notes whether it is far away, `None` while it does not lead. True if leadership should be handed over: once, until a
    /// majority answers in time. Where all masters are far from each other, leadership does not go around for ever.
    pub(crate) fn look(&mut self, is_far: Option<bool>) -> bool {
        let Some(is_far) = is_far else { return false };
        let was_far = std::mem::replace(&mut self.is_far, is_far);
        is_far && !was_far
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_far_away_gives_leadership_away_once_until_it_was_near() {
        let mut distance = Distance::default();
        assert!(!distance.look(Some(false)) && distance.look(Some(true)));
        assert!(!distance.look(Some(true)), "under way");
        assert!(
            !distance.look(None) && !distance.look(Some(true)),
            "it was given back"
        );
        assert!(!distance.look(Some(false)) && distance.look(Some(true)));
    }

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
