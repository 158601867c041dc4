//! The recorder of what masters report: epochs, progress and digests.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use argosy_testbed::partitions::HostIndex;
use argosy_testbed::watch::{MasterReport, MasterWatch, lock};

use crate::history::{Origin, RaftFact, Recorder};

/// Number of answers after which the digest is recorded, too.
const DIGEST_EVERY: u64 = 5;

pub(crate) struct MasterRecorder {
    recorder: Recorder,
    /// Each epoch with the terms in which a master reported that it leads, and when that was first
    /// received. A new leader reports the previous epoch until its own has begun: the lowest term
    /// counts.
    // A lock, because the pollers and the live view use it. It is never held across an await.
    epochs: Mutex<BTreeMap<(u64, u64, HostIndex), u64>>,
}

impl MasterRecorder {
    pub(crate) fn new(recorder: Recorder) -> Arc<Self> {
        Arc::new(Self {
            recorder,
            epochs: Mutex::default(),
        })
    }

    /// Records all reports of these masters from now on.
    pub(crate) fn follow(self: &Arc<Self>, watch: &MasterWatch) {
        let own = Arc::clone(self);
        watch.observe(move |report| own.note(report));
    }

    /// Returns the epochs with the master that reported to lead in them, and when that was first
    /// received, in nanoseconds of the recorder's clock.
    pub(crate) fn epochs(&self) -> Vec<(u64, HostIndex, u64)> {
        let epochs = lock(&self.epochs);
        let mut terms: BTreeMap<u64, u64> = BTreeMap::new();
        for (epoch, term, _) in epochs.keys() {
            let lowest = terms.entry(*epoch).or_insert(*term);
            *lowest = (*lowest).min(*term);
        }
        epochs
            .iter()
            .filter(|((epoch, term, _), _)| terms.get(epoch) == Some(term))
            .map(|((epoch, _, place), at)| (*epoch, *place, *at))
            .collect()
    }

    fn note(&self, report: &MasterReport<'_>) {
        let cluster = report.cluster;
        if report.is_leader && cluster.epoch > 0 {
            let now_ns = self.recorder.now_ns();
            lock(&self.epochs)
                .entry((cluster.epoch, cluster.term, report.place))
                .or_insert(now_ns);
        }
        // A master that has just been started does not know its term yet.
        let (Some(node), 1..) = (report.node, cluster.term) else {
            return;
        };
        let who = cluster.answered_by.as_str();
        if report.is_first {
            let started = RaftFact::Started {
                node,
                term: cluster.term,
                last_index: cluster.committed_index,
                committed: cluster.committed_index,
            };
            self.recorder.observe(who, started);
        }
        self.recorder.observe(
            who,
            RaftFact::Progress {
                node,
                term: cluster.term,
                committed: cluster.committed_index,
                applied: cluster.applied_index,
            },
        );
        if report.earlier.is_multiple_of(DIGEST_EVERY) && !cluster.digest.is_empty() {
            let digest = cluster.digest.iter().map(|byte| format!("{byte:02x}"));
            let fact = RaftFact::Digest {
                node,
                index: cluster.applied_index,
                digest: digest.collect(),
                origin: Origin::Log,
            };
            self.recorder.observe(who, fact);
        }
    }
}

#[cfg(test)]
mod tests {
    use argosy_proto::v1;
    use argosy_state::ids::NodeId;

    use super::*;
    use crate::invariants::check_history;

    #[test]
    fn what_a_killed_master_had_applied_may_be_learnt_again_by_its_next_process() {
        for is_restarted in [true, false] {
            let (recorder, recording) = Recorder::in_memory(|| 1);
            let watch = MasterWatch::default();
            let own = MasterRecorder::new(recorder);
            own.follow(&watch);
            let output = |applied| v1::Cluster {
                answered_by: NodeId(1).to_string(),
                term: 4,
                committed_index: applied,
                applied_index: applied,
                ..v1::Cluster::default()
            };
            watch.note(0, &output(12), 1);
            if is_restarted {
                watch.restarted(0);
            }
            watch.note(0, &output(11), 2);
            watch.note(0, &output(13), 3);
            drop((watch, own));
            let history = recording.finish().unwrap();
            let result = check_history(&history);
            assert_eq!(result.violations.is_empty(), is_restarted);
        }
    }
}
