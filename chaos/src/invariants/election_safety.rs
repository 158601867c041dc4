//! ElectionSafety: there is at most one leader in a term, and a node votes once in a term. Terms
//! never decrease on a node, over restarts and power cuts. Commit and applied indexes never
//! decrease within an incarnation.

use std::collections::BTreeMap;

use argosy_state::ids::NodeId;

use super::Findings;
use super::facts::of_masters;
use crate::history::{History, RaftFact};

/// The progress of a node, and the events that recorded it.
#[derive(Debug, Clone, Copy, Default)]
struct NodeProgress {
    at: usize,
    term: u64,
    committed: u64,
    applied: u64,
}

impl NodeProgress {
    fn at(at: usize, term: u64, committed: u64, applied: u64) -> Self {
        Self {
            at,
            term,
            committed,
            applied,
        }
    }
}

pub(super) fn check(history: &History) -> Findings {
    let mut findings = Findings::default();
    let mut leaders: BTreeMap<u64, (usize, NodeId)> = BTreeMap::new();
    let mut epochs = BTreeMap::new();
    let mut votes: BTreeMap<(NodeId, u64), (usize, NodeId)> = BTreeMap::new();
    let mut places: BTreeMap<NodeId, NodeProgress> = BTreeMap::new();
    for (at, _, fact) in of_masters(history) {
        match fact {
            RaftFact::Led { node, term, .. } => {
                check_leader(&mut findings, &mut leaders, (at, *node), *term);
            }
            RaftFact::EpochOpened {
                node,
                epoch,
                term,
                life,
            } => {
                check_leader(&mut findings, &mut leaders, (at, *node), *term);
                let epoch_record = (*node, *term, *life);
                let (first, known) = *epochs.entry(*epoch).or_insert((at, epoch_record));
                findings.require(known == epoch_record, [first, at], || {
                    format!(
                        "the epoch of entry {} is of {} and of {node}",
                        epoch.0, known.0
                    )
                });
            }
            RaftFact::Voted {
                node,
                term,
                candidate,
            } => {
                let (first, known) = *votes.entry((*node, *term)).or_insert((at, *candidate));
                findings.require(known == *candidate, [first, at], || {
                    format!("{node} voted in term {term} for {known} and for {candidate}")
                });
            }
            RaftFact::Started { node, term, .. } => {
                // The commit and applied indexes of an incarnation may be lost with it. The next
                // one learns them again.
                let before = places.entry(*node).or_default();
                (before.committed, before.applied) = (0, 0);
                check_progress(
                    &mut findings,
                    &mut places,
                    *node,
                    NodeProgress::at(at, *term, 0, 0),
                );
            }
            RaftFact::Progress {
                node,
                term,
                committed,
                applied,
            } => {
                let now = NodeProgress::at(at, *term, *committed, *applied);
                check_progress(&mut findings, &mut places, *node, now);
            }
            _ => {}
        }
    }
    findings
}

fn check_leader(
    findings: &mut Findings,
    leaders: &mut BTreeMap<u64, (usize, NodeId)>,
    (at, node): (usize, NodeId),
    term: u64,
) {
    let (first, known) = *leaders.entry(term).or_insert((at, node));
    findings.require(known == node, [first, at], || {
        format!("{known} and {node} both lead in term {term}")
    });
}

fn check_progress(
    findings: &mut Findings,
    progress: &mut BTreeMap<NodeId, NodeProgress>,
    node: NodeId,
    now: NodeProgress,
) {
    let before = progress.insert(node, now).unwrap_or(now);
    for (what, was, is) in [
        ("term", before.term, now.term),
        ("commit", before.committed, now.committed),
        ("applied entry", before.applied, now.applied),
    ] {
        findings.require(is >= was, [before.at, now.at], || {
            format!("the {what} of {node} went back from {was} to {is}")
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::fixture::{
        HistoryBuilder, NODE_1, NODE_2, assert_clean, assert_violation,
    };
    use argosy_state::ids::Epoch;

    fn led(node: NodeId, term: u64) -> RaftFact {
        let last_index = 9;
        RaftFact::Led {
            node,
            term,
            last_index,
        }
    }

    fn progress(term: u64, committed: u64) -> RaftFact {
        RaftFact::Progress {
            node: NODE_1,
            term,
            committed,
            applied: committed,
        }
    }

    fn started(term: u64) -> RaftFact {
        RaftFact::Started {
            node: NODE_1,
            term,
            last_index: 9,
            committed: 0,
        }
    }

    fn voted(term: u64, candidate: NodeId) -> RaftFact {
        RaftFact::Voted {
            node: NODE_1,
            term,
            candidate,
        }
    }

    #[test]
    fn leaders_of_different_terms_and_a_restart_pass() {
        let builder = HistoryBuilder::new()
            .observe("master-1", led(NODE_1, 2))
            .observe("master-1", progress(2, 40))
            .observe("master-2", led(NODE_2, 3))
            .observe("master-1", voted(3, NODE_2))
            .observe("master-1", voted(3, NODE_2))
            .observe("master-1", started(3))
            .observe("master-1", progress(3, 30));
        assert_clean(check, builder);
    }

    #[test]
    fn two_leaders_in_one_term_are_reported() {
        let builder = HistoryBuilder::new()
            .observe("master-1", led(NODE_1, 2))
            .observe("master-2", led(NODE_2, 2));
        assert_violation(check, builder, "master-1 and master-2 both lead in term 2");
    }

    #[test]
    fn two_leaders_in_one_epoch_are_reported() {
        let opened = |node, life| RaftFact::EpochOpened {
            node,
            epoch: Epoch(12),
            term: 4,
            life,
        };
        let builder = HistoryBuilder::new()
            .observe("master-1", opened(NODE_1, 1))
            .observe("master-2", opened(NODE_1, 2));
        assert_violation(check, builder, "the epoch of entry 12");
    }

    #[test]
    fn two_votes_in_one_term_are_reported_even_across_a_restart() {
        let builder = HistoryBuilder::new()
            .observe("master-1", voted(3, NODE_2))
            .observe("master-1", started(3))
            .observe("master-1", voted(3, NODE_1));
        assert_violation(check, builder, "voted in term 3");
    }

    #[test]
    fn a_term_lost_in_a_restart_is_reported() {
        let builder = HistoryBuilder::new()
            .observe("master-1", progress(5, 1))
            .observe("master-1", started(4));
        assert_violation(check, builder, "term of master-1 went back from 5 to 4");
    }

    #[test]
    fn a_decreasing_commit_index_is_reported() {
        let mut backward = progress(5, 9);
        if let RaftFact::Progress { applied, .. } = &mut backward {
            *applied = 10;
        }
        let builder = HistoryBuilder::new()
            .observe("master-1", progress(5, 10))
            .observe("master-1", backward);
        assert_violation(check, builder, "commit of master-1 went back from 10 to 9");
    }
}
