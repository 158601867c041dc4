//! Indexes of a node that change with every entry, read on demand.
//!
//! They are not part of `RaftStatus`, whose watchers would wake several times for each commit.

use std::collections::BTreeMap;

use openraft::RaftMetrics;

use crate::types::{LogId, TypeConfig};

/// The indexes of one node at the moment of the call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogProgress {
    /// The index of the last entry in the log, committed or not.
    pub last_log_index: u64,
    /// The index of the last entry that this node knows to be committed.
    pub committed_index: u64,
    /// The index of the last entry that the owner of the registry has applied.
    pub applied_index: u64,
    /// The index of the last entry that is applied and synced, up to which the log may be
    /// truncated; 0 before the first sync.
    pub snapshot_index: u64,
    /// While leading: the number of entries that each other member lacks, without those that have
    /// not answered in this term.
    pub lag: BTreeMap<u64, u64>,
}

impl LogProgress {
    pub(crate) fn of(metrics: &RaftMetrics<TypeConfig>) -> LogProgress {
        let index = |id: Option<&LogId>| id.map_or(0, |id| id.index);
        LogProgress {
            last_log_index: metrics.last_log_index.unwrap_or(0),
            committed_index: index(metrics.local_committed.as_ref()),
            applied_index: index(metrics.last_applied.as_ref()),
            snapshot_index: index(metrics.snapshot.as_ref()),
            lag: lag(metrics),
        }
    }
}

fn lag(metrics: &RaftMetrics<TypeConfig>) -> BTreeMap<u64, u64> {
    let Some(replication) = &metrics.replication else {
        return BTreeMap::new();
    };
    let last = metrics.last_log_index.unwrap_or(0);
    let others = replication.iter().filter(|(id, _)| **id != metrics.id);
    // A member that has not answered yet may lack everything, or may not run at all.
    let heard = others.filter_map(|(id, matched)| Some((*id, matched.as_ref()?.index)));
    heard
        .map(|(id, index)| (id, last.saturating_sub(index)))
        .collect()
}
