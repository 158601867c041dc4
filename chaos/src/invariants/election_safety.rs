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
    let mut reigns = BTreeMap::new();
    let mut votes: BTreeMap<(NodeId, u64), (usize, NodeId)> = BTreeMap::new();
    let mut places: BTreeMap<NodeId, NodeProgress> = BTreeMap::new();
    for (at, _, fact) in of_masters(history) {
        match fact {
            RaftFact::Led { node, term, .. } => {
                lead(&mut findings, &mut leaders, (at, *node), *term);
            }
            RaftFact::EpochOpened {
                node,
                epoch,
                term,
                life,
            } => {
                lead(&mut findings, &mut leaders, (at, *node), *term);
                let reign = (*node, *term, *life);
                let (first, known) = *reigns.entry(*epoch).or_insert((at, reign));
                findings.require(known == reign, [first, at], || {
                    format!(
                        "the reign of entry {} is of {} and of {node}",
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
                place(
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
                place(&mut findings, &mut places, *node, now);
            }
            _ => {}
        }
    }
    findings
}

fn lead(
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

fn place(
    findings: &mut Findings,
    places: &mut BTreeMap<NodeId, NodeProgress>,
    node: NodeId,
    now: NodeProgress,
) {
    let before = places.insert(node, now).unwrap_or(now);
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
    use crate::invariants::fixture::{HistoryBuilder, ONE, TWO, catches, passes};
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
            node: ONE,
            term,
            committed,
            applied: committed,
        }
    }

    fn started(term: u64) -> RaftFact {
        RaftFact::Started {
            node: ONE,
            term,
            last_index: 9,
            committed: 0,
        }
    }

    fn voted(term: u64, candidate: NodeId) -> RaftFact {
        RaftFact::Voted {
            node: ONE,
            term,
            candidate,
        }
    }

    #[test]
    fn leaders_of_their_own_terms_and_a_restart_are_fine() {
        let scene = HistoryBuilder::new()
            .observe("master-1", led(ONE, 2))
            .observe("master-1", progress(2, 40))
            .observe("master-2", led(TWO, 3))
            .observe("master-1", voted(3, TWO))
            .observe("master-1", voted(3, TWO))
            .observe("master-1", started(3))
            .observe("master-1", progress(3, 30));
        passes(check, scene);
    }

    #[test]
    fn two_leaders_of_a_term_are_seen() {
        let scene = HistoryBuilder::new()
            .observe("master-1", led(ONE, 2))
            .observe("master-2", led(TWO, 2));
        catches(check, scene, "master-1 and master-2 both lead in term 2");
    }

    #[test]
    fn a_reign_of_two_masters_is_seen() {
        let opened = |node, life| RaftFact::EpochOpened {
            node,
            epoch: Epoch(12),
            term: 4,
            life,
        };
        let scene = HistoryBuilder::new()
            .observe("master-1", opened(ONE, 1))
            .observe("master-2", opened(ONE, 2));
        catches(check, scene, "the reign of entry 12");
    }

    #[test]
    fn two_votes_in_a_term_are_seen_also_over_a_restart() {
        let scene = HistoryBuilder::new()
            .observe("master-1", voted(3, TWO))
            .observe("master-1", started(3))
            .observe("master-1", voted(3, ONE));
        catches(check, scene, "voted in term 3");
    }

    #[test]
    fn a_term_that_was_lost_in_a_restart_is_seen() {
        let scene = HistoryBuilder::new()
            .observe("master-1", progress(5, 1))
            .observe("master-1", started(4));
        catches(check, scene, "term of master-1 went back from 5 to 4");
    }

    #[test]
    fn a_commit_that_goes_back_is_seen() {
        let mut backward = progress(5, 9);
        if let RaftFact::Progress { applied, .. } = &mut backward {
            *applied = 10;
        }
        let scene = HistoryBuilder::new()
            .observe("master-1", progress(5, 10))
            .observe("master-1", backward);
        catches(check, scene, "commit of master-1 went back from 10 to 9");
    }
}
