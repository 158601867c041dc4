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
        HistoryBuilder, ONE, TWO, assert_nothing_compared, catches, passes,
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
        let voters = vec![ONE, TWO];
        RaftFact::Committed {
            node,
            index,
            voters,
        }
    }

    #[test]
    fn logs_that_agree_are_fine() {
        let scene = HistoryBuilder::new()
            .observe("master-1", led(ONE, 1, 0))
            .observe("master-1", committed(ONE, 7))
            .observe("master-1", applied(ONE, "x"))
            .observe("master-2", applied(TWO, "x"))
            .observe("master-2", led(TWO, 2, 7));
        passes(check, scene);
        assert_nothing_compared(
            check,
            HistoryBuilder::new().observe("master-1", applied(ONE, "x")),
        );
    }

    #[test]
    fn two_entries_of_one_index_are_seen() {
        let scene = HistoryBuilder::new()
            .observe("master-1", applied(ONE, "x"))
            .observe("master-2", applied(TWO, "y"));
        catches(check, scene, "entry 7");
    }

    #[test]
    fn a_leader_without_a_committed_entry_is_seen() {
        let scene = HistoryBuilder::new()
            .observe("master-1", led(ONE, 1, 0))
            .observe("master-1", committed(ONE, 7))
            .observe("master-2", led(TWO, 2, 6));
        catches(check, scene, "entry 7 was committed before");
    }

    #[test]
    fn what_a_later_leader_commits_is_not_asked_of_an_earlier_one() {
        let scene = HistoryBuilder::new()
            .observe("master-2", led(TWO, 2, 5))
            .observe("master-2", committed(TWO, 9))
            .observe("master-1", led(ONE, 1, 4))
            .observe("master-1", led(ONE, 3, 9));
        passes(check, scene);
    }
}
