//! StateMachineSafety: an equal applied index means an equal registry, on every master, whether it
//! came from the log, a snapshot or a replay.

use std::collections::BTreeMap;

use super::Findings;
use super::facts::of_masters;
use crate::history::{History, RaftFact};

/// Checks a history. A digest without a counterpart proves nothing.
pub(super) fn check(history: &History) -> Findings {
    let mut findings = Findings::default();
    let mut digests: BTreeMap<u64, (usize, String)> = BTreeMap::new();
    for (at, _, fact) in of_masters(history) {
        let RaftFact::Digest {
            node,
            index,
            digest,
            origin,
        } = fact
        else {
            continue;
        };
        match digests.get(index) {
            None => {
                digests.insert(*index, (at, digest.clone()));
            }
            Some((first, known)) => findings.require(known == digest, [*first, at], || {
                format!("after entry {index} {node} (by {origin:?}) has another registry than others: {digest}, not {known}")
            }),
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Origin;
    use crate::invariants::fixture::{
        HistoryBuilder, NODE_1, NODE_2, assert_clean, assert_nothing_compared, assert_violation,
    };
    use argosy_state::ids::NodeId;

    fn digest(node: NodeId, index: u64, digest: &str) -> RaftFact {
        RaftFact::Digest {
            node,
            index,
            digest: digest.to_owned(),
            origin: Origin::Snapshot,
        }
    }

    #[test]
    fn equal_registries_pass_and_a_single_one_compares_nothing() {
        let alone = HistoryBuilder::new()
            .observe("master-1", digest(NODE_1, 7, "aa"))
            .observe("master-2", digest(NODE_2, 8, "bb"));
        assert_nothing_compared(check, alone.clone());
        assert_clean(check, alone.observe("master-2", digest(NODE_2, 7, "aa")));
    }

    #[test]
    fn different_registries_are_reported() {
        let builder = HistoryBuilder::new()
            .observe("master-1", digest(NODE_1, 7, "aa"))
            .observe("master-2", digest(NODE_2, 7, "ab"));
        assert_violation(check, builder, "after entry 7 master-2");
    }
}
