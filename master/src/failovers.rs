//! Leader changes, for display and measurements only: those that this master led are here, those of
//! the others in `others`.

mod others;

use std::collections::VecDeque;

use argosy_proto::v1;
use argosy_raft::FailoverPhases;
use argosy_state::ids::Epoch;

use crate::metrics::failover;

pub(crate) use others::OtherFailovers;

/// Number of leader changes kept for display; the oldest is dropped.
pub(crate) const CAPACITY: usize = 50;

/// Epochs of this master as leader.
pub(crate) struct Failovers {
    list: VecDeque<v1::Failover>,
    /// The term of the newest epoch.
    term: u64,
}

impl Failovers {
    /// Creates an empty list. `term` is that of the newest epoch in the registry.
    pub(crate) fn new(term: u64) -> Self {
        Self {
            list: VecDeque::new(),
            term,
        }
    }

    /// Returns the leader changes, newest last.
    pub(crate) fn list(&self) -> &VecDeque<v1::Failover> {
        &self.list
    }

    /// Records that an epoch of any master has begun. Returns the term of the previous one.
    pub(crate) fn record_epoch(&mut self, term: u64) -> u64 {
        std::mem::replace(&mut self.term, term)
    }

    /// Records that this master's epoch has begun. A leader failure that was detected before the
    /// previous epoch does not belong to this change.
    pub(crate) fn begin(
        &mut self,
        epoch: Epoch,
        former_term: u64,
        phases: FailoverPhases,
        now_ms: i64,
    ) {
        let ms = |us: u64| i64::try_from(us / 1_000).unwrap_or(0);
        let seen = (former_term..self.term).contains(&phases.dead_term);
        let began = v1::Failover {
            epoch: epoch.0,
            dead_seen_ms: if seen { ms(phases.dead_seen_us) } else { 0 },
            elected_ms: ms(phases.elected_us),
            first_commit_ms: now_ms,
            first_offer_ms: 0,
            first_launch_ms: 0,
        };
        if former_term != self.term {
            failover("elected", &began, began.elected_ms);
            failover("leading", &began, now_ms);
        }
        self.list.push_back(began);
        if self.list.len() > CAPACITY {
            self.list.pop_front();
        }
    }

    /// Records the first offer.
    pub(crate) fn first_offer(&mut self, now_ms: i64) {
        let last = self.list.back_mut();
        if let Some(last) = last.filter(|last| last.first_offer_ms == 0) {
            last.first_offer_ms = now_ms;
            failover("first-offer", last, now_ms);
        }
    }

    /// Records the first committed launch.
    pub(crate) fn first_launch(&mut self, now_ms: i64) {
        let last = self.list.back_mut();
        if let Some(last) = last.filter(|last| last.first_launch_ms == 0) {
            last.first_launch_ms = now_ms;
            failover("first-launch", last, now_ms);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dead_phases(dead_term: u64) -> FailoverPhases {
        FailoverPhases {
            dead_term,
            dead_seen_us: 5_000,
            elected_us: 9_000,
            ..FailoverPhases::default()
        }
    }

    fn began(former: u64, term: u64, dead_term: u64) -> i64 {
        let mut failovers = Failovers::new(former);
        let former = failovers.record_epoch(term);
        failovers.begin(Epoch(7), former, dead_phases(dead_term), 10);
        failovers.list()[0].dead_seen_ms
    }

    #[test]
    fn only_the_failure_before_this_epoch_counts() {
        assert_eq!(began(3, 4, 3), 5);
        // The failed leader was elected after the previous epoch and never became the active
        // leader.
        assert_eq!(began(3, 6, 5), 5);
        // A transfer; the failure was detected long ago.
        assert_eq!(began(8, 9, 3), 0);
        // Active leader again in the same term.
        assert_eq!(began(4, 4, 3), 0);
    }

    #[test]
    fn first_times_are_recorded_once() {
        let mut failovers = Failovers::new(0);
        failovers.first_offer(1);
        failovers.record_epoch(1);
        failovers.begin(Epoch(1), 0, FailoverPhases::default(), 10);
        for now in [20, 30] {
            failovers.first_offer(now);
            failovers.first_launch(now + 1);
        }
        let last = failovers.list()[0];
        assert_eq!((last.first_offer_ms, last.first_launch_ms), (20, 21));
    }
}
