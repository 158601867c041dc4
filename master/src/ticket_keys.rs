//! The keys of tickets: each agent has its own, which every master derives.
//!
//! Masters with `--secrets-key` derive them from that file, which is in no snapshot and no backup.
//! Other masters derive them from the secret key of the cluster, which is in the registry.

use argosy_proto::ticket::TicketKey;
use argosy_proto::v1;
use argosy_state::actor::{Actor, PrincipalKind};
use argosy_state::command::ClusterFacts;
use argosy_state::ids::AgentId;

use crate::secret_keys::SecretKeys;

/// The number of keys that are derived from the secret key of the cluster.
const OF_CLUSTER: u8 = 1;
/// The number of keys that are derived from a file of keys. An agent that has several keys of this
/// number tries each of them.
const OF_FILE: u8 = 2;

/// Returns the key with which masters sign tickets for an agent.
pub(crate) fn current(
    facts: &ClusterFacts,
    file: Option<&SecretKeys>,
    agent: AgentId,
) -> TicketKey {
    let first = file.and_then(|keys| keys.of_tickets().next());
    match first {
        Some(secret) => TicketKey::derive(OF_FILE, secret, facts.id, agent),
        None => TicketKey::derive(OF_CLUSTER, &facts.offer_key, facts.id, agent),
    }
}

/// Returns whether TLS has authenticated a peer as an agent.
pub(crate) fn is_proven_agent(peer: &Actor) -> bool {
    match peer {
        Actor::Principal(principal) => principal.kind == PrincipalKind::Agent,
        Actor::Unauthenticated | Actor::Cluster => false,
    }
}

/// Returns the keys that an agent is sent when it registers: none unless TLS has authenticated it,
/// because others could read them on the way, and any process could register. With a file of keys,
/// that of the registry is not among them, and rotation keeps tickets of the former key valid.
pub(crate) fn for_registration(
    facts: &ClusterFacts,
    file: Option<&SecretKeys>,
    agent: AgentId,
    peer: &Actor,
) -> Vec<v1::TicketKey> {
    if !is_proven_agent(peer) {
        return Vec::new();
    }
    let derived = |secret| TicketKey::derive(OF_FILE, secret, facts.id, agent);
    let keys = match file {
        Some(file) => file.of_tickets().map(derived).collect(),
        None => vec![current(facts, None, agent)],
    };
    let sent = keys.iter().map(|key| v1::TicketKey {
        number: key.number().into(),
        secret: key.secret().to_vec(),
    });
    sent.collect()
}

#[cfg(test)]
mod tests {
    use argosy_proto::ticket::{Ticket, TicketScope, TicketVerb};
    use argosy_state::ids::ClusterId;

    use super::*;

    const AGENT: AgentId = AgentId(3);
    const FACTS: ClusterFacts = ClusterFacts {
        id: ClusterId(5),
        offer_key: [7; 32],
        former_offer_key: None,
    };

    /// Returns a file of keys of these digits, the first of which is in use.
    fn file(keys: &[&str]) -> SecretKeys {
        let lines = keys
            .iter()
            .map(|digit| format!("k{digit}:{}\n", digit.repeat(64)));
        SecretKeys::parse(&lines.collect::<String>()).unwrap()
    }

    fn registered(file: Option<&SecretKeys>) -> Vec<TicketKey> {
        let peer = "agent/host-3".parse().unwrap();
        let sent = for_registration(&FACTS, file, AGENT, &peer);
        let keys = sent
            .iter()
            .map(|key| TicketKey::received(key.number, &key.secret));
        keys.map(Option::unwrap).collect()
    }

    /// Returns whether an agent with these keys accepts a ticket that this key signs.
    fn accepts(keys: &[TicketKey], signing: &TicketKey) -> bool {
        let ticket = Ticket {
            agent: AGENT,
            verb: TicketVerb::Metrics,
            scope: TicketScope::Agent,
            holder: Actor::Unauthenticated,
            expires_ms: 1_000,
            request: 0,
        };
        Ticket::open(&ticket.sign(signing), AGENT, keys, 999).is_ok()
    }

    #[test]
    fn only_an_authenticated_agent_is_sent_its_key() {
        for file in [None, Some(&file(&["a"]))] {
            let keys = registered(file);
            assert_eq!(keys, [current(&FACTS, file, AGENT)]);
            assert_ne!(keys, [current(&FACTS, file, AgentId(4))]);
            for peer in [
                "unauthenticated",
                "operator/alice",
                "framework/web",
                "cluster",
            ] {
                let sent = for_registration(&FACTS, file, AGENT, &peer.parse().unwrap());
                assert_eq!(sent, [], "{peer}");
            }
        }
    }

    #[test]
    fn a_reader_of_the_registry_signs_no_ticket_of_a_cluster_with_a_file_of_keys() {
        let file = file(&["a"]);
        let keys = registered(Some(&file));
        assert!(accepts(&keys, &current(&FACTS, Some(&file), AGENT)));
        for number in [OF_CLUSTER, OF_FILE] {
            let forged = TicketKey::derive(number, &FACTS.offer_key, FACTS.id, AGENT);
            assert!(!accepts(&keys, &forged), "{number}");
        }
        // The key that a cluster without TLS has shown is of no use any more.
        assert!(!accepts(&keys, &current(&FACTS, None, AGENT)));
    }

    #[test]
    fn tickets_stay_valid_while_the_key_is_rotated_and_those_of_a_removed_key_end() {
        let steps = [
            file(&["a"]),
            file(&["a", "b"]),
            file(&["b", "a"]),
            file(&["b"]),
        ];
        for pair in steps.windows(2) {
            for (registering, signing) in [(0, 1), (1, 0)] {
                // Between the first two steps, both masters sign with the first key.
                let keys = registered(Some(&pair[registering]));
                let key = current(&FACTS, Some(&pair[signing]), AGENT);
                assert!(accepts(&keys, &key), "{:?}", pair[signing]);
            }
        }
        let keys = registered(Some(&steps[3]));
        assert!(!accepts(&keys, &current(&FACTS, Some(&steps[0]), AGENT)));
    }
}
