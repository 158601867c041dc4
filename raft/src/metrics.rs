//! Metrics of consensus that several modules record.

use std::time::Duration;

use metrics::{Counter, counter, gauge, histogram};

use crate::status::RaftStatus;
use crate::types::Vote;

/// Records a completed step of a snapshot, and the size of the snapshot if the step determines it.
#[allow(clippy::cast_precision_loss, reason = "gauges are floating point")]
pub(crate) fn snapshot(step: &'static str, took: Duration, bytes: Option<u64>) {
    histogram!("argosy_raft_snapshot_duration_seconds", "step" => step).record(took);
    if let Some(bytes) = bytes {
        gauge!("argosy_raft_snapshot_bytes").set(bytes as f64);
    }
}

/// Counts elections from what a node knows.
pub(crate) struct ElectionCounts {
    /// The newest leader that was known, with its term.
    leader: Option<(u64, u64)>,
    /// The newest term for which this node was a candidate.
    candidate: u64,
    changes: Counter,
    started: Counter,
    won: Counter,
}

impl Default for ElectionCounts {
    fn default() -> ElectionCounts {
        let elections =
            |result: &'static str| counter!("argosy_raft_elections_total", "result" => result);
        ElectionCounts {
            leader: None,
            candidate: 0,
            changes: counter!("argosy_raft_leader_changes_total"),
            started: elections("started"),
            won: elections("won"),
        }
    }
}

impl ElectionCounts {
    /// Counts a saved vote for this node, and a leader of a newer term. The first leader that is
    /// known is no change. A vote from before the start of this process is not counted.
    pub(crate) fn record(&mut self, status: &RaftStatus, saved: Option<Vote>) {
        let own = saved.filter(|vote| vote.leader_id.voted_for == status.id);
        let candidate = own.map_or(0, |vote| vote.leader_id.term);
        if candidate > self.candidate {
            self.candidate = candidate;
            self.started.increment(1);
        }
        let Some((leader, _)) = &status.leader else {
            return;
        };
        let present = (status.term, *leader);
        if self.leader.is_some_and(|known| known >= present) {
            return;
        }
        if self.leader.replace(present).is_some() {
            self.changes.increment(1);
        }
        if *leader == status.id {
            self.won.increment(1);
        }
    }

    /// Returns counts that start after this vote.
    pub(crate) fn after(saved: Option<Vote>) -> ElectionCounts {
        ElectionCounts {
            candidate: saved.map_or(0, |vote| vote.leader_id.term),
            ..ElectionCounts::default()
        }
    }
}
