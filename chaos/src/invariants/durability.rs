//! Durability: when an entry is reported as committed, it is on the synced logs of a quorum of
//! voters.

use std::collections::BTreeMap;

use argosy_state::ids::NodeId;

use super::Findings;
use super::facts::of_masters;
use crate::history::{History, RaftFact};

/// Checks a history. A run that records no synced log is skipped.
pub(super) fn check(history: &History) -> Findings {
    let mut findings = Findings::default();
    let mut durable: BTreeMap<NodeId, (usize, u64)> = BTreeMap::new();
    for (at, _, fact) in of_masters(history) {
        match fact {
            RaftFact::Durable { node, last_index } => {
                durable.insert(*node, (at, *last_index));
            }
            RaftFact::Committed {
                node,
                index,
                voters,
            } if !durable.is_empty() && !voters.is_empty() => {
                let holds = |voter: &&NodeId| durable.get(voter).is_some_and(|log| log.1 >= *index);
                let holders = voters.iter().filter(holds).count();
                findings.count_comparison();
                if holders * 2 <= voters.len() {
                    let seen = voters.iter().filter_map(|voter| durable.get(voter));
                    let mut events: Vec<usize> = seen.map(|log| log.0).collect();
                    events.push(at);
                    let all = voters.len();
                    findings.violation(
                        format!("{node} reports entry {index} as committed, but only {holders} of {all} voters have it on disk"),
                        events,
                    );
                }
            }
            _ => {}
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::fixture::{
        HistoryBuilder, NODE_1, NODE_2, NODE_3, assert_clean, assert_nothing_compared,
        assert_violation,
    };

    fn durable(node: NodeId, last_index: u64) -> RaftFact {
        RaftFact::Durable { node, last_index }
    }

    fn committed(index: u64) -> RaftFact {
        let node = NODE_1;
        let voters = vec![NODE_1, NODE_2, NODE_3];
        RaftFact::Committed {
            node,
            index,
            voters,
        }
    }

    #[test]
    fn an_entry_synced_by_a_quorum_is_committed() {
        let builder = HistoryBuilder::new()
            .observe("disk", durable(NODE_2, 7))
            .observe("disk", durable(NODE_1, 9))
            .observe("master-1", committed(7));
        assert_clean(check, builder);
        assert_nothing_compared(
            check,
            HistoryBuilder::new().observe("master-1", committed(7)),
        );
    }

    #[test]
    fn an_entry_on_one_disk_of_three_is_not_committed() {
        let builder = HistoryBuilder::new()
            .observe("disk", durable(NODE_2, 6))
            .observe("disk", durable(NODE_1, 9))
            .observe("master-1", committed(7));
        assert_violation(check, builder, "only 1 of 3 voters");
    }

    #[test]
    fn a_disk_that_lost_an_entry_does_not_count() {
        let builder = HistoryBuilder::new()
            .observe("disk", durable(NODE_1, 7))
            .observe("disk", durable(NODE_2, 7))
            .observe("disk", durable(NODE_2, 5))
            .observe("master-1", committed(7));
        assert_violation(check, builder, "entry 7");
    }
}
