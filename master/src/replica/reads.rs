//! Readers' queries of the facts.

use tokio::time::Instant;

use super::Replica;
use crate::inbox::{OwnerState, StateQuery};

impl Replica {
    /// Runs a reader's query on the facts.
    pub(super) fn run_query(&mut self, query: StateQuery) {
        self.turn.begin();
        self.turn.mark("query");
        let began = Instant::now();
        query(&OwnerState {
            registry: &self.registry,
            leader: self.leader.as_ref(),
            // Only a leader's clock advances.
            now: match self.leader {
                Some(_) => self.clock.now(),
                None => self.registry.time(),
            },
            failovers: self.failovers.list(),
        });
        let now = Instant::now();
        self.query_share.took(now, now.duration_since(began));
    }
}
