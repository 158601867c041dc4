//! An agent as a single record, as release 0.1.0 and feature level 2 store it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{
    Administration, Agent, AgentAdministration, AgentInfo, AgentMode, AgentReport, Reachability,
    UsedOffers,
};
use crate::codec::stored::stored;
use crate::ids::{AgentId, OrderIndex, Revision, Timestamp};

/// An agent as a single record, as release 0.1.0 stores it.
pub(crate) struct WholeAgent {
    id: AgentId,
    nonce: u64,
    incarnation: u64,
    boot_id: String,
    info: AgentInfo,
    set_attributes: BTreeMap<String, String>,
    mode: AgentMode,
    /// The mode of an unreachable agent after its return; otherwise the same as `mode`.
    mode_when_heard: AgentMode,
    since: Timestamp,
    orders: OrderIndex,
    offer_revision: Revision,
    used: UsedOffers,
    revision: Revision,
}

impl From<&Agent> for WholeAgent {
    fn from(agent: &Agent) -> Self {
        let Agent {
            id,
            nonce,
            // Registered since level 3 only.
            principal: _,
            report: reported,
            admin: agreed,
            reachability: _,
            orders,
            offer_revision,
            used_offers,
            revision,
        } = agent;
        let AgentReport {
            incarnation,
            boot_id,
            info,
        } = &**reported;
        Self {
            id: *id,
            nonce: *nonce,
            incarnation: *incarnation,
            boot_id: boot_id.clone(),
            info: info.clone(),
            set_attributes: agreed.attributes.clone(),
            mode: agent.mode(),
            mode_when_heard: match agreed.administration {
                Administration::Active => AgentMode::Registered,
                Administration::Draining => AgentMode::Draining,
                Administration::Drained => AgentMode::Drained,
                Administration::Deactivated => AgentMode::Deactivated,
                Administration::Gone => AgentMode::Gone,
            },
            since: agent.mode_since(),
            orders: *orders,
            offer_revision: *offer_revision,
            used: used_offers.clone(),
            revision: *revision,
        }
    }
}

impl WholeAgent {
    /// Returns the agent, or `None` if the two modes contradict each other.
    pub(crate) fn agent(self) -> Option<Agent> {
        let since = self.since;
        if self.mode != AgentMode::Unreachable && self.mode != self.mode_when_heard {
            return None;
        }
        Some(Agent {
            id: self.id,
            nonce: self.nonce,
            principal: None,
            report: Arc::new(AgentReport {
                incarnation: self.incarnation,
                boot_id: self.boot_id,
                info: self.info,
            }),
            admin: AgentAdministration {
                administration: match self.mode_when_heard {
                    AgentMode::Registered => Administration::Active,
                    AgentMode::Unreachable => return None,
                    AgentMode::Draining => Administration::Draining,
                    AgentMode::Drained => Administration::Drained,
                    AgentMode::Deactivated => Administration::Deactivated,
                    AgentMode::Gone => Administration::Gone,
                },
                since,
                deadline: None,
                attributes: self.set_attributes,
                revision: Revision::default(),
            },
            reachability: match self.mode.is_lost() {
                true => Reachability::Unreachable { since },
                false => Reachability::Reachable { since },
            },
            orders: self.orders,
            offer_revision: self.offer_revision,
            used_offers: self.used,
            revision: self.revision,
        })
    }
}

stored!(message WholeAgent as (WholeAgent {
    id,
    nonce,
    incarnation,
    boot_id,
    info,
    set_attributes,
    mode,
    mode_when_heard,
    since,
    orders,
    offer_revision,
    used: UsedOffers { floor, ids },
    revision,
}) {
    1 id: Number,
    2 nonce: Fixed,
    3 incarnation: Fixed,
    4 boot_id: Text,
    5 info: Part,
    6 set_attributes: TextMap,
    7 mode: Number or "agent mode",
    8 since: Number,
    9 orders: Number,
    10 offer_revision: Part or "revision",
    11 floor: Part or "floor of used offers",
    12 ids: PartList,
    13 revision: Part,
    14 mode_when_heard: Number or "agent mode",
});

impl Agent {
    /// Removes what the single record of release 0.1.0 does not hold: that record has one mode with
    /// one time.
    pub(crate) fn reduce_to_0_1_0(&mut self) {
        let since = self.mode_since();
        self.reachability = match self.mode().is_lost() {
            true => Reachability::Unreachable { since },
            false => Reachability::Reachable { since },
        };
        self.admin.since = since;
        self.admin.deadline = None;
        self.admin.revision = Revision::default();
        self.principal = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::message::StoredMessage as _;

    fn agent(administration: Administration, reachability: Reachability) -> Agent {
        let info = AgentInfo::default();
        let revision = Revision {
            index: 9,
            position: 0,
        };
        Agent {
            id: AgentId(3),
            nonce: 1,
            principal: None,
            report: Arc::new(AgentReport {
                incarnation: 2,
                boot_id: "boot".to_owned(),
                info,
            }),
            admin: AgentAdministration {
                administration,
                since: Timestamp(20),
                deadline: Some(Timestamp(70)),
                attributes: [("zone".to_owned(), "z".to_owned())].into(),
                revision,
            },
            reachability,
            orders: OrderIndex(4),
            offer_revision: revision,
            used_offers: UsedOffers::default(),
            revision,
        }
    }

    #[test]
    fn the_single_agent_record_of_release_0_1_0_round_trips_with_its_mode() {
        let administrations = [
            (Administration::Active, AgentMode::Registered),
            (Administration::Draining, AgentMode::Draining),
            (Administration::Drained, AgentMode::Drained),
            (Administration::Deactivated, AgentMode::Deactivated),
            (Administration::Gone, AgentMode::Gone),
        ];
        for (administration, mode) in administrations {
            for since in [Timestamp(10), Timestamp(30)] {
                let reachable = agent(administration, Reachability::Reachable { since });
                assert_eq!(reachable.mode(), mode);
                let mut unreachable = agent(administration, Reachability::Unreachable { since });
                let is_gone = administration == Administration::Gone;
                let mode = if is_gone {
                    mode
                } else {
                    AgentMode::Unreachable
                };
                assert_eq!(unreachable.mode(), mode);
                for mut agent in [reachable, unreachable.clone()] {
                    let mut bytes = Vec::new();
                    WholeAgent::from(&agent).write(&mut bytes);
                    let read = WholeAgent::read(&bytes).unwrap().agent().unwrap();
                    let (mode, since) = (agent.mode(), agent.mode_since());
                    agent.reduce_to_0_1_0();
                    assert_eq!((read.mode(), read.mode_since()), (mode, since));
                    assert_eq!(read, agent);
                    assert_eq!(read.admin.administration, administration);
                }
                // The administrative state takes effect when the agent returns.
                unreachable.reachability = Reachability::Reachable {
                    since: Timestamp(50),
                };
                let found = (unreachable.mode(), unreachable.mode_since());
                let since = if is_gone { 20 } else { 50 };
                let (_, mode) = administrations
                    .into_iter()
                    .find(|(known, _)| *known == administration)
                    .unwrap();
                assert_eq!(found, (mode, Timestamp(since)));
            }
        }
    }

    #[test]
    fn a_record_with_contradictory_modes_is_rejected() {
        let since = Timestamp(1);
        let known = agent(
            Administration::Deactivated,
            Reachability::Reachable { since },
        );
        for (mode, mode_when_heard) in [
            (AgentMode::Registered, AgentMode::Deactivated),
            (AgentMode::Unreachable, AgentMode::Unreachable),
        ] {
            let whole = WholeAgent {
                mode,
                mode_when_heard,
                ..WholeAgent::from(&known)
            };
            assert_eq!(whole.agent(), None, "{mode:?}");
        }
    }
}
