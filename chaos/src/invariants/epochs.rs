//! EpochMonotonicity: an agent never acts for an epoch below the highest that it has stored, nor
//! for one that it has not stored yet.

use std::collections::BTreeMap;

use argosy_state::ids::{AgentId, Epoch};

use super::Findings;
use super::facts::of_agents;
use crate::history::{AgentFact, History};

pub(super) fn check(history: &History) -> Findings {
    let mut findings = Findings::default();
    let mut stored: BTreeMap<AgentId, (usize, Epoch)> = BTreeMap::new();
    for (at, _, fact) in of_agents(history) {
        match fact {
            AgentFact::EpochStored { agent, epoch } => {
                let (first, highest) = *stored.entry(*agent).or_insert((at, *epoch));
                findings.require(*epoch >= highest, [first, at], || {
                    format!("{agent} stored epoch {} after {}", epoch.0, highest.0)
                });
                if *epoch > highest {
                    stored.insert(*agent, (at, *epoch));
                }
            }
            AgentFact::OrderTaken {
                agent,
                epoch,
                order,
                ..
            } => {
                let (first, highest) = stored.get(agent).copied().unwrap_or((at, Epoch(0)));
                findings.require(*epoch == highest, [first, at], || {
                    format!(
                        "{agent} acted on order {} of epoch {} with {} stored",
                        order.0, epoch.0, highest.0
                    )
                });
            }
            _ => {}
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::OrderAction;
    use crate::invariants::fixture::{AGENT, HistoryBuilder, assert_clean, assert_violation};
    use argosy_state::ids::OrderIndex;

    fn stored(builder: HistoryBuilder, epoch: u64) -> HistoryBuilder {
        let agent = AGENT;
        let epoch = Epoch(epoch);
        builder.observe("agent-5", AgentFact::EpochStored { agent, epoch })
    }

    fn acted(builder: HistoryBuilder, epoch: u64) -> HistoryBuilder {
        builder.observe(
            "agent-5",
            AgentFact::OrderTaken {
                agent: AGENT,
                epoch: Epoch(epoch),
                order: OrderIndex(4),
                action: OrderAction::Kill,
                task: None,
                repeated: false,
            },
        )
    }

    #[test]
    fn acting_in_a_stored_epoch_passes() {
        assert_clean(
            check,
            acted(stored(acted(stored(HistoryBuilder::new(), 12), 12), 30), 30),
        );
    }

    #[test]
    fn an_order_of_an_older_epoch_is_reported() {
        assert_violation(
            check,
            acted(stored(stored(HistoryBuilder::new(), 12), 30), 12),
            "epoch 12 with 30 stored",
        );
    }

    #[test]
    fn an_action_before_the_epoch_is_stored_is_reported() {
        assert_violation(
            check,
            acted(stored(HistoryBuilder::new(), 12), 30),
            "epoch 30 with 12 stored",
        );
    }

    #[test]
    fn a_decreasing_stored_epoch_is_reported() {
        assert_violation(
            check,
            stored(stored(HistoryBuilder::new(), 30), 12),
            "stored epoch 12 after 30",
        );
    }
}
