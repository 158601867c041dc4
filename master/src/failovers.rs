//! Leader changes, for display and measurements only: those that this master led are here, those of
//! the others in `others`.

mod others;

use std::collections::VecDeque;

use argosy_proto::v1;
use argosy_proto::v1::FailoverKind;
use argosy_raft::FailoverPhases;
use argosy_state::registry::ClusterRecord;

use crate::metrics::failover;

pub(crate) use others::OtherFailovers;

/// Number of leader changes kept for display; the oldest is dropped.
pub(crate) const CAPACITY: usize = 50;

/// An epoch of the registry and its leader; of no leader before the first one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct KnownEpoch {
    epoch: u64,
    term: u64,
    leader: u64,
}

impl From<&ClusterRecord> for KnownEpoch {
    fn from(cluster: &ClusterRecord) -> Self {
        Self {
            epoch: cluster.epoch.0,
            term: cluster.term,
            leader: cluster.leader.0,
        }
    }
}

/// Epochs of this master as leader.
pub(crate) struct Failovers {
    list: VecDeque<v1::Failover>,
    newest: KnownEpoch,
}

impl Failovers {
    /// Creates an empty list. `newest` is the newest epoch in the registry.
    pub(crate) fn new(newest: KnownEpoch) -> Self {
        Self {
            list: VecDeque::new(),
            newest,
        }
    }

    /// Returns the leader changes, newest last.
    pub(crate) fn list(&self) -> &VecDeque<v1::Failover> {
        &self.list
    }

    /// Records that an epoch of any master has begun. Returns the previous one.
    pub(crate) fn record_epoch(&mut self, newest: KnownEpoch) -> KnownEpoch {
        std::mem::replace(&mut self.newest, newest)
    }

    /// Records that this master's epoch has begun. A leader failure that was detected before the
    /// previous epoch does not belong to this change.
    pub(crate) fn begin(
        &mut self,
        former: KnownEpoch,
        phases: FailoverPhases,
        address_of: impl Fn(u64) -> String,
        now_ms: i64,
    ) {
        let ms = |us: u64| i64::try_from(us / 1_000).unwrap_or(0);
        let newest = self.newest;
        let kind = if former.epoch == 0 {
            FailoverKind::FirstElection
        } else if former.term == newest.term {
            FailoverKind::Resumed
        } else {
            FailoverKind::Election
        };
        let is_dead_seen = (former.term..newest.term).contains(&phases.dead_term);
        let (former_leader, former_leader_address) = if kind == FailoverKind::FirstElection {
            (String::new(), String::new())
        } else {
            (name_of(former.leader), address_of(former.leader))
        };
        let began = v1::Failover {
            epoch: newest.epoch,
            dead_seen_ms: if is_dead_seen {
                ms(phases.dead_seen_us)
            } else {
                0
            },
            elected_ms: if kind == FailoverKind::Resumed {
                0
            } else {
                ms(phases.elected_us)
            },
            first_commit_ms: now_ms,
            first_offer_ms: 0,
            first_launch_ms: 0,
            leader: name_of(newest.leader),
            leader_address: address_of(newest.leader),
            former_leader,
            former_leader_address,
            kind: kind.into(),
        };
        failover("elected", &began, began.elected_ms);
        failover("leading", &began, now_ms);
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

fn name_of(node: u64) -> String {
    format!("master-{node}")
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

    /// Returns an epoch whose leader has the number of its term, modulo 3.
    fn epoch(epoch: u64, term: u64) -> KnownEpoch {
        KnownEpoch {
            epoch,
            term,
            leader: term % 3,
        }
    }

    fn began(former: KnownEpoch, newest: KnownEpoch, dead_term: u64) -> v1::Failover {
        let mut failovers = Failovers::new(former);
        let former = failovers.record_epoch(newest);
        let address = |node| format!("10.0.0.{node}:5050");
        failovers.begin(former, dead_phases(dead_term), address, 10);
        failovers.list()[0].clone()
    }

    #[test]
    fn only_the_failure_before_this_epoch_counts() {
        let dead_seen = |former, term, dead_term| {
            began(epoch(6, former), epoch(7, term), dead_term).dead_seen_ms
        };
        assert_eq!(dead_seen(3, 4, 3), 5);
        // The failed leader was elected after the previous epoch and never became the active
        // leader.
        assert_eq!(dead_seen(3, 6, 5), 5);
        // A transfer; the failure was detected long ago.
        assert_eq!(dead_seen(8, 9, 3), 0);
        // Active leader again in the same term.
        assert_eq!(dead_seen(4, 4, 3), 0);
    }

    #[test]
    fn a_record_names_both_leaders_and_the_kind_of_the_change() {
        let first = began(KnownEpoch::default(), epoch(1, 1), 0);
        assert_eq!(first.kind(), FailoverKind::FirstElection);
        assert_eq!((first.leader.as_str(), first.elected_ms), ("master-1", 9));
        assert_eq!(first.leader_address, "10.0.0.1:5050");
        assert_eq!(
            (first.former_leader, first.former_leader_address),
            Default::default()
        );
        let change = began(epoch(1, 1), epoch(7, 5), 3);
        assert_eq!(change.kind(), FailoverKind::Election);
        assert_eq!((change.leader.as_str(), change.elected_ms), ("master-2", 9));
        assert_eq!(change.former_leader, "master-1");
        assert_eq!(change.former_leader_address, "10.0.0.1:5050");
        // The time of its election does not belong to this epoch.
        let resumed = began(epoch(7, 5), epoch(9, 5), 3);
        assert_eq!(resumed.kind(), FailoverKind::Resumed);
        assert_eq!((resumed.elected_ms, resumed.first_commit_ms), (0, 10));
        assert_eq!(resumed.leader, resumed.former_leader);
    }

    #[test]
    fn first_times_are_recorded_once() {
        let mut failovers = Failovers::new(KnownEpoch::default());
        failovers.first_offer(1);
        let former = failovers.record_epoch(epoch(1, 1));
        failovers.begin(former, FailoverPhases::default(), |_| String::new(), 10);
        for now in [20, 30] {
            failovers.first_offer(now);
            failovers.first_launch(now + 1);
        }
        let last = &failovers.list()[0];
        assert_eq!((last.first_offer_ms, last.first_launch_ms), (20, 21));
    }
}
