//! The clusters from whose saved registry this one was restored, and the change of a saved registry
//! that makes it the registry of a new cluster.

use super::{ClusterRecord, RecordKey, Registry};
use crate::agent::{Agent, Order};
use crate::codec::stored::stored;
use crate::command::ClusterFacts;
use crate::ids::{AgentId, ClusterId, Epoch, OrderIndex, TaskKey};
use crate::level::Level;

/// The most orders that an agent can have accepted of a cluster since its registry was saved.
pub(crate) const MAX_NEWER_ORDERS: u64 = 1 << 32;

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
    /// The numbers of orders of an agent do not suffice. That never happens to a registry that
    /// masters have written.
    #[error("it is damaged: the last order of {0} has an impossible number")]
    Orders(AgentId),
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

impl Registry {
    /// Makes this registry that of a new cluster, which names the present one as its ancestor. `id`
    /// and `offer_key` must be random.
    ///
    /// Agents may have accepted orders of the former cluster that this registry does not have. They
    /// take no order with a number up to the last one that they have accepted. So the orders of the
    /// new cluster continue behind all of these. Open orders to kill or limit a task get new
    /// numbers, too: the former cluster may have given their numbers to other orders, if this
    /// registry has entries that were not committed. A repeated one changes nothing.
    ///
    /// # Errors
    /// [`NotRestorable`]; then nothing is changed.
    pub fn restore(&mut self, id: ClusterId, offer_key: [u8; 32]) -> Result<(), NotRestorable> {
        let restored = self.cluster.restored(self.applied(), id, offer_key)?;
        let is_impossible = |agent: &&Agent| agent.orders.0 > u64::MAX - 2 * MAX_NEWER_ORDERS;
        if let Some(agent) = self.agents().find(is_impossible) {
            return Err(NotRestorable::Orders(agent.id));
        }
        self.cluster = restored;
        self.changed.insert(RecordKey::Cluster);
        let agents: Vec<AgentId> = self.agents.keys().copied().collect();
        for agent in agents {
            let orders = self.orders_after(agent, OrderIndex(0));
            let open: Vec<Order> = orders.map(|(_, order)| order.clone()).collect();
            self.count_agent(agent).orders.0 += MAX_NEWER_ORDERS;
            for order in open {
                match order {
                    Order::Launch(_) => {}
                    Order::Kill(key) => self.renumber_kill(agent, &key),
                    Order::Limits(key) => self.renumber_limits(agent, &key),
                }
            }
        }
        Ok(())
    }

    fn renumber_kill(&mut self, agent: AgentId, key: &TaskKey) {
        let order = self.next_order(agent);
        self.change_task(key, |task| {
            if let Some(kill) = &mut task.kill {
                kill.order = order;
            }
        });
    }

    fn renumber_limits(&mut self, agent: AgentId, key: &TaskKey) {
        let change = self
            .tasks
            .get(key)
            .and_then(|task| task.limits_change.as_ref());
        if change.is_none_or(|change| change.outcome.is_some()) {
            return;
        }
        let order = self.next_order(agent);
        self.change_task(key, |task| {
            if let Some(change) = &mut task.limits_change {
                change.order = order;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::TicketSecrets;
    use crate::command::{Command, CommandReply, FormerCluster, OperatorOperation, RegisterAgent};
    use crate::ids::{FrameworkId, Timestamp};
    use crate::task::TaskLimits;
    use crate::testing::{World, key};

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

    #[test]
    fn open_orders_reach_an_agent_that_has_accepted_newer_ones_of_the_former_cluster() {
        for before in [true, false] {
            let mut world = World::with_running_task("web");
            let (agent, task) = (AgentId(1), key(FrameworkId(1), "web"));
            let former = world.registry.cluster.facts.id;
            let saved = world.registry.last_order(agent);
            let ordered = |world: &mut World| {
                let kill = OperatorOperation::KillTask {
                    key: task.clone(),
                    grace_ms: None,
                };
                world.operate(kill).unwrap();
                let limits = OperatorOperation::UpdateLimits {
                    key: task.clone(),
                    limits: TaskLimits {
                        pids: Some(50),
                        ..TaskLimits::default()
                    },
                };
                world.operate(limits).unwrap();
            };
            if before {
                ordered(&mut world);
            }
            world.registry.restore(ClusterId(9), [1; 32]).unwrap();
            assert_eq!(world.registry.check(), Ok(()));
            if !before {
                ordered(&mut world);
            }
            // The former cluster has given other orders since it was saved.
            let floor = OrderIndex(saved.0 + 5);
            let known = world.registry.agent(agent).unwrap().clone();
            let outcome = world.apply(Command::RegisterAgent(RegisterAgent {
                agent: Some(agent),
                nonce: known.nonce,
                confirmed: 0x77,
                tried: Vec::new(),
                boot_id: known.report.boot_id.clone(),
                info: known.report.info.clone(),
                follows: Some(FormerCluster { id: former, floor }),
            }));
            assert_eq!(outcome.outcome, Ok(CommandReply::Agent(agent)));
            let orders = world.registry.orders_after(agent, floor);
            let sent: Vec<Order> = orders.map(|(_, order)| order.clone()).collect();
            let expected = [Order::Kill(task.clone()), Order::Limits(task.clone())];
            assert_eq!(sent, expected, "{before}");
            assert!(world.reloaded() == world.registry, "the numbers are stored");
        }
    }

    #[test]
    fn a_registry_with_an_impossible_order_is_not_restored() {
        let mut world = World::with_running_task("web");
        world.registry.count_agent(AgentId(1)).orders = OrderIndex(u64::MAX);
        let refused = world.registry.restore(ClusterId(9), [1; 32]);
        assert_eq!(refused, Err(NotRestorable::Orders(AgentId(1))));
        assert_ne!(world.registry.cluster.facts.id, ClusterId(9));
    }
}
