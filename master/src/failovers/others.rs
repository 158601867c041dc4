//! The failovers that other masters led, as they have reported them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use argosy_proto::v1;

use super::CAPACITY;

/// The newest failovers that other masters led. Cheap to clone; all clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct OtherFailovers(
    // The lock is held for 50 records at most; the owner of the registry does not use it.
    Arc<Mutex<BTreeMap<u64, v1::Failover>>>,
);

impl OtherFailovers {
    /// Returns these failovers, which this master led, with those of the others: the newest of
    /// them, newest last.
    pub(crate) fn merged_with(&self, own: &[v1::Failover]) -> Vec<v1::Failover> {
        let others = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = others.clone();
        drop(others);
        merge(&mut all, own);
        all.into_values().collect()
    }

    /// Adds failovers that a master has reported.
    pub(crate) fn add(&self, found: &[v1::Failover]) {
        let mut others = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        merge(&mut others, found);
    }
}

/// Adds failovers, and drops the oldest ones above the capacity. A phase that one of them does not
/// have is taken from the other.
fn merge(all: &mut BTreeMap<u64, v1::Failover>, found: &[v1::Failover]) {
    for new in found.iter().filter(|one| one.epoch > 0) {
        let known = all.entry(new.epoch).or_insert_with(|| new.clone());
        let first = |known: i64, new: i64| if known == 0 { new } else { known };
        *known = v1::Failover {
            dead_seen_ms: first(known.dead_seen_ms, new.dead_seen_ms),
            elected_ms: first(known.elected_ms, new.elected_ms),
            first_commit_ms: first(known.first_commit_ms, new.first_commit_ms),
            first_offer_ms: first(known.first_offer_ms, new.first_offer_ms),
            first_launch_ms: first(known.first_launch_ms, new.first_launch_ms),
            // The leader of an epoch knows these from the begin, and they do not change.
            ..std::mem::take(known)
        };
    }
    while all.len() > CAPACITY {
        all.pop_first();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failover(epoch: u64, first_offer_ms: i64) -> v1::Failover {
        v1::Failover {
            epoch,
            first_commit_ms: 100,
            first_offer_ms,
            ..Default::default()
        }
    }

    #[test]
    fn failovers_are_merged_by_epoch_and_keep_every_known_phase() {
        let others = OtherFailovers::default();
        others.add(&[failover(5, 0), failover(3, 7)]);
        others.add(&[failover(5, 120), failover(3, 0), failover(0, 9)]);
        let all = others.merged_with(&[failover(4, 8)]);
        assert_eq!(all, [failover(3, 7), failover(4, 8), failover(5, 120)]);
        let named = v1::Failover {
            leader: "master-2".to_owned(),
            kind: v1::FailoverKind::Election.into(),
            ..failover(6, 0)
        };
        others.add(std::slice::from_ref(&named));
        others.add(&[failover(6, 7)]);
        let known = others.merged_with(&[]).pop().unwrap();
        assert_eq!((known.first_offer_ms, &known.leader), (7, &named.leader));
        assert_eq!(known.kind, named.kind);
    }

    #[test]
    fn what_a_peer_reports_about_an_epoch_changes_nothing_that_is_known() {
        let others = OtherFailovers::default();
        others.add(&[failover(5, 120)]);
        others.add(&[failover(5, 999)]);
        assert_eq!(others.merged_with(&[]).last(), Some(&failover(5, 120)));
    }

    #[test]
    fn only_the_newest_failovers_are_kept() {
        let others = OtherFailovers::default();
        for epoch in 1..=200 {
            others.add(&[failover(epoch, 0)]);
        }
        let own: Vec<_> = (201..=210).map(|epoch| failover(epoch, 0)).collect();
        let all = others.merged_with(&own);
        let epochs: Vec<_> = all.iter().map(|failover| failover.epoch).collect();
        assert_eq!(epochs, (161..=210).collect::<Vec<_>>());
    }
}
