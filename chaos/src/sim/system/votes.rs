//! Records of changed votes on the masters' disks, and of elections.

use argosy_raft::{MemoryStore, StoredVote};
use argosy_state::ids::NodeId;

use super::world::{World, master_name};
use crate::history::RaftFact;

/// A vote, and the id under which it was given.
type RecordedVote = Option<(u64, StoredVote)>;

/// The last recorded vote on each disk.
pub(super) struct Votes {
    world: World,
    last: Vec<RecordedVote>,
}

impl Votes {
    pub(super) fn new(world: World) -> Self {
        let seen = vec![None; world.stores.len()];
        Self { world, last: seen }
    }

    /// Records changed votes. Called after each step, before anything happens to a disk.
    pub(super) fn check(&mut self) {
        for (place, store) in self.world.stores.iter().enumerate() {
            let now = stored(store);
            if self.last[place] == now {
                continue;
            }
            self.last[place] = now;
            let fact = now.and_then(|(node, vote)| fact(store, node, vote));
            if let Some(fact) = fact {
                let recorder = &self.world.notes.recorder;
                recorder.observe(&*master_name(place), fact);
            }
        }
    }
}

fn stored(store: &MemoryStore) -> RecordedVote {
    store.node_id().zip(store.vote())
}

/// Returns the fact; `None` for a leader that the votes of others have made.
fn fact(store: &MemoryStore, node: u64, vote: StoredVote) -> Option<RaftFact> {
    let StoredVote {
        term,
        voted_for,
        is_granted,
    } = vote;
    let is_own = voted_for == node;
    match (is_granted, is_own) {
        (true, true) => Some(RaftFact::Led {
            node: NodeId(node),
            term,
            last_index: store.last_entry().map_or(0, |(_, index)| index),
        }),
        (true, false) => None,
        (false, _) => Some(RaftFact::Voted {
            node: NodeId(node),
            term,
            candidate: NodeId(voted_for),
        }),
    }
}
