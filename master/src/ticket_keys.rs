//! The keys of tickets: each agent has its own, which every master derives.
//!
//! Masters with `--secrets-key` derive them from that file, which is in no snapshot and no backup.
//! Other masters derive them from the secrets of tickets in the registry, which new leaders rotate.

use argosy_proto::ticket::TicketKey;
use argosy_proto::v1;
use argosy_state::actor::{Actor, PrincipalKind};
use argosy_state::ids::AgentId;
use argosy_state::registry::ClusterRecord;

use crate::secret_keys::SecretKeys;

/// The number of keys that are derived from the registry. An agent that has several keys of one
/// number tries each of them.
const OF_CLUSTER: u8 = 1;
/// The number of keys that are derived from a file of keys.
const OF_FILE: u8 = 2;

/// Returns the key with which masters sign tickets for an agent.
pub(crate) fn current(
    cluster: &ClusterRecord,
    file: Option<&SecretKeys>,
    agent: AgentId,
) -> TicketKey {
    let first = file.and_then(|keys| keys.of_tickets().next());
    match first {
        Some(secret) => TicketKey::derive(OF_FILE, secret, cluster.facts.id, agent),
        None => {
            let [secret, ..] = of_registry(cluster);
            TicketKey::derive(OF_CLUSTER, secret, cluster.facts.id, agent)
        }
    }
}

/// Returns the secrets in the registry. The first one signs. A cluster below level 3 has a single
/// one, that of offers.
fn of_registry(cluster: &ClusterRecord) -> [&[u8; 32]; 3] {
    match &cluster.ticket_secrets {
        Some(secrets) => secrets.accepted(),
        None => [&cluster.facts.offer_key; 3],
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
/// those of the registry are not among them. Rotation keeps tickets of the former key valid.
pub(crate) fn for_registration(
    cluster: &ClusterRecord,
    file: Option<&SecretKeys>,
    agent: AgentId,
    peer: &Actor,
) -> Vec<v1::TicketKey> {
    if !is_proven_agent(peer) {
        return Vec::new();
    }
    let derived = |number, secret| TicketKey::derive(number, secret, cluster.facts.id, agent);
    let mut keys: Vec<TicketKey> = match file {
        Some(file) => file
            .of_tickets()
            .map(|secret| derived(OF_FILE, secret))
            .collect(),
        None => of_registry(cluster)
            .map(|secret| derived(OF_CLUSTER, secret))
            .into(),
    };
    keys.dedup();
    let sent = keys.iter().map(|key| v1::TicketKey {
        number: key.number().into(),
        secret: key.secret().to_vec(),
    });
    sent.collect()
}

#[cfg(test)]
mod tests {
    use argosy_proto::ticket::{self, Ticket, TicketScope, TicketVerb};
    use argosy_state::access::TicketSecrets;
    use argosy_state::command::{Command, OpenEpoch};
    use argosy_state::ids::NodeId;
    use argosy_state::level::Level;
    use argosy_state::testing::World;

    use super::*;

    const AGENT: AgentId = AgentId(3);

    /// Returns the record of a cluster that has had one leader.
    fn cluster() -> ClusterRecord {
        let mut world = World::empty();
        lead(&mut world, 1);
        world.registry.cluster().clone()
    }

    /// Opens the epoch of a new leader, whose random bytes are these.
    fn lead(world: &mut World, entropy: u8) {
        let level = world.level;
        let opened = world.apply(Command::OpenEpoch(OpenEpoch {
            node: NodeId(u64::from(entropy)),
            process: u64::from(entropy),
            term: world.registry.applied() + 1,
            entropy: [entropy; 32],
            wall_ms: 0,
            level,
        }));
        opened.outcome.unwrap();
    }

    /// Returns a file of keys of these digits, the first of which is in use.
    fn file(keys: &[&str]) -> SecretKeys {
        let lines = keys
            .iter()
            .map(|digit| format!("k{digit}:{}\n", digit.repeat(64)));
        SecretKeys::parse(&lines.collect::<String>()).unwrap()
    }

    fn registered(cluster: &ClusterRecord, file: Option<&SecretKeys>) -> Vec<TicketKey> {
        let peer = "agent/host-3".parse().unwrap();
        let sent = for_registration(cluster, file, AGENT, &peer);
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
    fn only_an_authenticated_agent_is_sent_its_keys() {
        let cluster = cluster();
        for (file, number) in [(None, 3), (Some(&file(&["a"])), 1)] {
            let keys = registered(&cluster, file);
            assert_eq!(keys.len(), number);
            assert_eq!(keys[0], current(&cluster, file, AGENT));
            assert!(!keys.contains(&current(&cluster, file, AgentId(4))));
            for peer in [
                "unauthenticated",
                "operator/alice",
                "framework/web",
                "cluster",
            ] {
                let sent = for_registration(&cluster, file, AGENT, &peer.parse().unwrap());
                assert_eq!(sent, [], "{peer}");
            }
        }
    }

    #[test]
    fn a_reader_of_the_registry_signs_no_ticket_of_a_cluster_with_a_file_of_keys() {
        let (cluster, file) = (cluster(), file(&["a"]));
        let keys = registered(&cluster, Some(&file));
        assert!(accepts(&keys, &current(&cluster, Some(&file), AGENT)));
        let offer_key = [&cluster.facts.offer_key];
        for secret in of_registry(&cluster).into_iter().chain(offer_key) {
            for number in [OF_CLUSTER, OF_FILE] {
                let forged = TicketKey::derive(number, secret, cluster.facts.id, AGENT);
                assert!(!accepts(&keys, &forged), "{number}");
            }
        }
        // The key that a cluster without TLS has shown is of no use any more.
        assert!(!accepts(&keys, &current(&cluster, None, AGENT)));
    }

    #[test]
    fn tickets_stay_valid_while_the_key_is_rotated_and_those_of_a_removed_key_end() {
        let cluster = cluster();
        let steps = [
            file(&["a"]),
            file(&["a", "b"]),
            file(&["b", "a"]),
            file(&["b"]),
        ];
        for pair in steps.windows(2) {
            for (registering, signing) in [(0, 1), (1, 0)] {
                // Between the first two steps, both masters sign with the first key.
                let keys = registered(&cluster, Some(&pair[registering]));
                let key = current(&cluster, Some(&pair[signing]), AGENT);
                assert!(accepts(&keys, &key), "{:?}", pair[signing]);
            }
        }
        let keys = registered(&cluster, Some(&steps[3]));
        assert!(!accepts(&keys, &current(&cluster, Some(&steps[0]), AGENT)));
    }

    #[test]
    fn new_leaders_rotate_the_keys_of_a_cluster_without_a_file() {
        let mut world = World::empty();
        let mut signing = Vec::new();
        let mut known = Vec::new();
        for leader in 1..=4 {
            lead(&mut world, leader);
            let record = world.registry.cluster();
            signing.push(current(record, None, AGENT));
            known.push(registered(record, None));
            // A second failover, while tickets of the former key may be valid, changes no key.
            lead(&mut world, leader + 10);
            let record = world.registry.cluster();
            assert_eq!(current(record, None, AGENT), signing[signing.len() - 1]);
            assert_eq!(Some(&registered(record, None)), known.last());
            world.pass(TicketSecrets::INTERVAL_MS);
        }
        for (keys, since) in known.iter().zip(0..) {
            for (key, at) in signing.iter().zip(0..) {
                // From one rotation before its use, so that an agent that has not registered again
                // accepts a new key, until the second rotation after it.
                let is_accepted = (since - 1..=since + 1).contains(&at);
                assert_eq!(accepts(keys, key), is_accepted, "{at} at {since}");
            }
        }
        let tolerated = ticket::MAX_VALIDITY_MS + ticket::CLOCK_TOLERANCE_MS;
        assert!(
            TicketSecrets::INTERVAL_MS >= tolerated,
            "a ticket outlives its key"
        );
    }

    #[test]
    fn a_cluster_below_level_3_has_one_key() {
        let mut world = World::empty();
        world.level = Level::RELEASE_0_1;
        lead(&mut world, 1);
        let cluster = world.registry.cluster();
        let keys = registered(cluster, None);
        assert_eq!(keys, [current(cluster, None, AGENT)]);
    }
}
