//! LogMatching: logs agree up to the commit index, a committed entry never changes, and a later
//! leader has every committed entry.

use std::collections::BTreeMap;

use argosy_state::ids::NodeId;

use super::Findings;
use super::facts::of_masters;
use crate::history::{History, RaftFact};

pub(super) fn check(history: &History) -> Findings {
    let mut findings = Findings::default();
    let mut entries: BTreeMap<u64, (usize, u64, &str)> = BTreeMap::new();
    let mut terms: BTreeMap<NodeId, u64> = BTreeMap::new();
    // The highest committed entry, by the term of the leader that reported it.
    let mut committed: BTreeMap<u64, (usize, u64)> = BTreeMap::new();
    for (at, _, fact) in of_masters(history) {
        match fact {
            RaftFact::Applied {
                node,
                index,
                term,
                chain,
            } => match entries.get(index) {
                None => {
                    entries.insert(*index, (at, *term, chain));
                }
                Some((first, known_term, known)) => {
                    let same = (*known_term, *known) == (*term, chain.as_str());
                    findings.require(same, [*first, at], || {
                        format!("entry {index} is of term {known_term} elsewhere, and another one of term {term} at {node}")
                    });
                }
            },
            RaftFact::Committed { node, index, .. } => {
                // Without its term the later leaders are unknown.
                if let Some(term) = terms.get(node) {
                    let highest = committed.entry(*term).or_insert((at, *index));
                    if *index > highest.1 {
                        *highest = (at, *index);
                    }
                }
            }
            RaftFact::Led {
                node,
                term,
                last_index,
            } => {
                terms.insert(*node, *term);
                let earlier = committed.range(..*term).map(|(_, found)| *found);
                if let Some((first, index)) = earlier.max_by_key(|(_, index)| *index) {
                    findings.require(*last_index >= index, [first, at], || {
                        format!("{node} leads in term {term} with a log up to {last_index}, but entry {index} was committed before")
                    });
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
        HistoryBuilder, NODE_1, NODE_2, assert_clean, assert_nothing_compared, assert_violation,
    };

    fn applied(node: NodeId, chain: &str) -> RaftFact {
        RaftFact::Applied {
            node,
            index: 7,
            term: 2,
            chain: chain.to_owned(),
        }
    }

    fn led(node: NodeId, term: u64, last_index: u64) -> RaftFact {
        RaftFact::Led {
            node,
            term,
            last_index,
        }
    }

    fn committed(node: NodeId, index: u64) -> RaftFact {
        let voters = vec![NODE_1, NODE_2];
        RaftFact::Committed {
            node,
            index,
            voters,
        }
    }

    #[test]
    fn equal_logs_pass() {
        let builder = HistoryBuilder::new()
            .observe("master-1", led(NODE_1, 1, 0))
            .observe("master-1", committed(NODE_1, 7))
            .observe("master-1", applied(NODE_1, "x"))
            .observe("master-2", applied(NODE_2, "x"))
            .observe("master-2", led(NODE_2, 2, 7));
        assert_clean(check, builder);
        assert_nothing_compared(
            check,
            HistoryBuilder::new().observe("master-1", applied(NODE_1, "x")),
        );
    }

    #[test]
    fn two_entries_at_one_index_are_reported() {
        let builder = HistoryBuilder::new()
            .observe("master-1", applied(NODE_1, "x"))
            .observe("master-2", applied(NODE_2, "y"));
        assert_violation(check, builder, "entry 7");
    }

    #[test]
    fn a_leader_without_a_committed_entry_is_reported() {
        let builder = HistoryBuilder::new()
            .observe("master-1", led(NODE_1, 1, 0))
            .observe("master-1", committed(NODE_1, 7))
            .observe("master-2", led(NODE_2, 2, 6));
        assert_violation(check, builder, "entry 7 was committed before");
    }

    #[test]
    fn earlier_leaders_need_no_later_entries() {
        let builder = HistoryBuilder::new()
            .observe("master-2", led(NODE_2, 2, 5))
            .observe("master-2", committed(NODE_2, 9))
            .observe("master-1", led(NODE_1, 1, 4))
            .observe("master-1", led(NODE_1, 3, 9));
        assert_clean(check, builder);
    }
}
