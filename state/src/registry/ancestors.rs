//! The clusters from whose saved registry this one was restored, and the change of a saved registry
//! that makes it the registry of a new cluster.

use super::ClusterRecord;
use crate::codec::stored::stored;
use crate::command::ClusterFacts;
use crate::ids::{ClusterId, Epoch};
use crate::level::Level;

/// Maximum number of ancestors that a cluster remembers; the oldest are dropped.
const MAX_ANCESTORS: usize = 16;

/// A cluster from whose registry this one was restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ancestor {
    /// The id of that cluster.
    pub id: ClusterId,
    /// Its epoch in the saved registry. It may have had later ones.
    pub epoch: Epoch,
    /// The log index up to which the saved registry was applied.
    pub index: u64,
}

stored!(message Ancestor {
    1 id: Bytes or "cluster id",
    2 epoch: Number,
    3 index: Number,
});

/// The reason for which a registry cannot become that of a new cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotRestorable {
    /// No leader has opened an epoch: there is nothing to restore.
    #[error("its cluster had no leader yet: there is nothing to restore")]
    Empty,
    /// Its masters may be of a release that does not know ancestors.
    #[error(
        "its feature level is {0}, and a restored cluster needs level {needed}: it cannot be restored. Raise the level of a cluster before you rely on its saved snapshots",
        needed = Level::RELEASE_0_2
    )]
    Level(Level),
}

impl ClusterRecord {
    /// Returns the record without the keys of offers and tickets, for a registry that leaves the
    /// masters.
    #[must_use]
    pub fn without_keys(&self) -> Self {
        Self {
            facts: ClusterFacts {
                id: self.facts.id,
                ..ClusterFacts::default()
            },
            ticket_secrets: None,
            ..self.clone()
        }
    }

    /// Returns the record of a new cluster that continues this registry, as applied up to `index`.
    /// `id` and `offer_key` must be random.
    ///
    /// # Errors
    /// [`NotRestorable`].
    pub fn restored(
        &self,
        index: u64,
        id: ClusterId,
        offer_key: [u8; 32],
    ) -> Result<Self, NotRestorable> {
        if self.facts.id == ClusterId::default() || self.epoch == Epoch::default() {
            return Err(NotRestorable::Empty);
        }
        if self.level < Level::RELEASE_0_2 {
            return Err(NotRestorable::Level(self.level));
        }
        let mut ancestors = self.ancestors.clone();
        ancestors.push(Ancestor {
            id: self.facts.id,
            epoch: self.epoch,
            index,
        });
        let excess = ancestors.len().saturating_sub(MAX_ANCESTORS);
        ancestors.drain(..excess);
        Ok(Self {
            facts: ClusterFacts {
                id,
                offer_key,
                former_offer_key: None,
            },
            ancestors,
            ticket_secrets: None,
            ..self.clone()
        })
    }

    /// Returns the id of this cluster, and those of its ancestors, the newest first.
    #[must_use]
    pub fn ids(&self) -> Vec<ClusterId> {
        let ancestors = self.ancestors.iter().rev().map(|ancestor| ancestor.id);
        std::iter::once(self.facts.id).chain(ancestors).collect()
    }

    /// Returns whether this cluster was restored from a registry of that one.
    #[must_use]
    pub fn descends_from(&self, id: ClusterId) -> bool {
        self.ancestors.iter().any(|ancestor| ancestor.id == id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::TicketSecrets;
    use crate::ids::Timestamp;

    fn cluster() -> ClusterRecord {
        ClusterRecord {
            facts: ClusterFacts {
                id: ClusterId(1),
                offer_key: [7; 32],
                former_offer_key: Some([6; 32]),
            },
            level: Level::NEWEST,
            epoch: Epoch(40),
            last_agent: 3,
            ticket_secrets: Some(TicketSecrets {
                former: [1; 32],
                current: [2; 32],
                next: [3; 32],
                rotated_at: Timestamp(4),
            }),
            ..ClusterRecord::default()
        }
    }

    #[test]
    fn a_restored_cluster_has_new_keys_and_names_its_ancestors() {
        let first = cluster().restored(55, ClusterId(2), [8; 32]).unwrap();
        assert_eq!(first.facts.offer_key, [8; 32]);
        assert_eq!(first.facts.former_offer_key, None);
        assert_eq!(
            first.ticket_secrets, None,
            "its first leader draws new ones"
        );
        assert_eq!((first.last_agent, first.epoch), (3, Epoch(40)));
        let ancestor = Ancestor {
            id: ClusterId(1),
            epoch: Epoch(40),
            index: 55,
        };
        assert_eq!(first.ancestors, [ancestor]);
        let mut last = first.clone();
        for id in 3..40 {
            last = last.restored(60, ClusterId(id), [9; 32]).unwrap();
        }
        assert_eq!(last.ancestors.len(), MAX_ANCESTORS);
        assert!(last.descends_from(ClusterId(38)) && !last.descends_from(ClusterId(39)));
        assert!(!last.descends_from(ClusterId(1)), "it was dropped");
    }

    #[test]
    fn an_empty_registry_and_an_old_level_are_refused() {
        let empty = ClusterRecord::default().restored(0, ClusterId(2), [8; 32]);
        assert_eq!(empty, Err(NotRestorable::Empty));
        let old = ClusterRecord {
            level: Level::RELEASE_0_1,
            ..cluster()
        };
        let refused = old.restored(55, ClusterId(2), [8; 32]);
        assert_eq!(refused, Err(NotRestorable::Level(Level::RELEASE_0_1)));
    }

    #[test]
    fn a_record_without_keys_keeps_the_rest() {
        let stripped = cluster().without_keys();
        assert_eq!(stripped.facts.offer_key, [0; 32]);
        assert_eq!(stripped.facts.former_offer_key, None);
        assert_eq!(stripped.ticket_secrets, None);
        let with_keys = ClusterRecord {
            facts: cluster().facts,
            ticket_secrets: cluster().ticket_secrets,
            ..stripped
        };
        assert_eq!(with_keys, cluster());
    }
}
