//! Amnesia: a master whose disk was wiped, or whose synced log became shorter, never votes or leads
//! again under its old id.

use std::collections::BTreeMap;

use argosy_state::ids::NodeId;

use super::Findings;
use super::facts::{faults_of_kind, of_masters};
use crate::history::{FaultKind, History, RaftFact};

pub(super) fn check(history: &History) -> Findings {
    let mut findings = Findings::default();
    // The event since which a node has lost data.
    let mut forgetful: BTreeMap<NodeId, usize> = BTreeMap::new();
    for (at, target) in faults_of_kind(history, FaultKind::WipeDisk) {
        if let Ok(node) = target.parse() {
            forgetful.entry(node).or_insert(at);
        }
    }
    let mut durable: BTreeMap<NodeId, (usize, u64)> = BTreeMap::new();
    for (at, _, fact) in of_masters(history) {
        match fact {
            RaftFact::Durable { node, last_index } => {
                durable.insert(*node, (at, *last_index));
            }
            RaftFact::Started {
                node, last_index, ..
            } => {
                findings.count_comparison();
                if durable.get(node).is_some_and(|log| log.1 > *last_index) {
                    forgetful.entry(*node).or_insert(at);
                }
            }
            RaftFact::Voted { node, .. } | RaftFact::Led { node, .. } => {
                findings.count_comparison();
                if let Some(since) = forgetful.get(node).filter(|since| **since < at) {
                    let act = if matches!(fact, RaftFact::Led { .. }) {
                        "leads"
                    } else {
                        "votes"
                    };
                    findings.violation(
                        format!("{node} {act} although its disk had forgotten what was on it"),
                        [*since, at],
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
        HistoryBuilder, NODE_1, NODE_2, assert_clean, assert_violation,
    };

    fn started(last_index: u64) -> RaftFact {
        RaftFact::Started {
            node: NODE_1,
            term: 2,
            last_index,
            committed: 0,
        }
    }

    fn voted(node: NodeId) -> RaftFact {
        RaftFact::Voted {
            node,
            term: 3,
            candidate: NODE_2,
        }
    }

    fn durable(last_index: u64) -> RaftFact {
        RaftFact::Durable {
            node: NODE_1,
            last_index,
        }
    }

    #[test]
    fn a_node_with_its_log_and_a_wiped_one_with_a_new_id_may_vote() {
        let builder = HistoryBuilder::new()
            .observe("disk", durable(9))
            .observe("master-1", started(9))
            .observe("master-1", voted(NODE_1))
            .fault(FaultKind::WipeDisk, "master-1")
            .observe("master-2", voted(NODE_2));
        assert_clean(check, builder);
    }

    #[test]
    fn a_vote_of_a_wiped_node_is_reported() {
        let builder = HistoryBuilder::new()
            .fault(FaultKind::WipeDisk, "master-1")
            .observe("master-1", voted(NODE_1));
        assert_violation(check, builder, "master-1 votes");
    }

    #[test]
    fn a_leader_that_lost_entries_is_reported() {
        let led = RaftFact::Led {
            node: NODE_1,
            term: 4,
            last_index: 9,
        };
        let builder = HistoryBuilder::new()
            .observe("disk", durable(9))
            .observe("master-1", started(8))
            .observe("master-1", led);
        assert_violation(check, builder, "master-1 leads");
    }
}
