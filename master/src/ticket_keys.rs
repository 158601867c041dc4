//! The keys of tickets: each agent has one, which every master derives from the secret key of the
//! cluster.

use argosy_proto::ticket::TicketKey;
use argosy_proto::v1;
use argosy_state::actor::{Actor, PrincipalKind};
use argosy_state::command::ClusterFacts;
use argosy_state::ids::AgentId;

/// The number of the present key. Another secret key of the cluster needs another number.
const NUMBER: u8 = 1;

/// Returns the key with which masters sign tickets for an agent.
pub(crate) fn current(facts: &ClusterFacts, agent: AgentId) -> TicketKey {
    TicketKey::derive(NUMBER, &facts.offer_key, facts.id, agent)
}

/// Returns the keys that an agent is sent when it registers: none unless TLS has authenticated it,
/// because others could read them on the way, and any process could register.
pub(crate) fn for_registration(
    facts: &ClusterFacts,
    agent: AgentId,
    peer: &Actor,
) -> Vec<v1::TicketKey> {
    let is_agent = match peer {
        Actor::Principal(principal) => principal.kind == PrincipalKind::Agent,
        Actor::Unauthenticated | Actor::Cluster => false,
    };
    let keys = is_agent.then(|| current(facts, agent)).into_iter();
    let sent = keys.map(|key| v1::TicketKey {
        number: key.number().into(),
        secret: key.secret().to_vec(),
    });
    sent.collect()
}

#[cfg(test)]
mod tests {
    use argosy_state::ids::ClusterId;

    use super::*;

    #[test]
    fn only_an_authenticated_agent_is_sent_its_key() {
        let facts = ClusterFacts {
            id: ClusterId(5),
            offer_key: [7; 32],
            former_offer_key: None,
        };
        let sent = |peer: &str| for_registration(&facts, AgentId(3), &peer.parse().unwrap());
        let keys = sent("agent/host-3");
        let received = TicketKey::received(keys[0].number, &keys[0].secret);
        assert_eq!(received, Some(current(&facts, AgentId(3))));
        assert_eq!(keys.len(), 1);
        assert_ne!(received, Some(current(&facts, AgentId(4))));
        for peer in [
            "unauthenticated",
            "operator/alice",
            "framework/web",
            "cluster",
        ] {
            assert_eq!(sent(peer), [], "{peer}");
        }
    }
}
