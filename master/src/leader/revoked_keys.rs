//! Agents receive the keys that are revoked, and accept their holders no more.

use argosy_proto::v1;
use argosy_state::access::KeyHash;
use argosy_state::event::{AccessChange, Event};

use super::Leader;
use crate::links::LinkId;
use crate::ticket_keys::is_proven_agent;

impl Leader {
    /// Sends these keys to an agent, unless it accepts callers that prove no identity.
    pub(super) fn send_revoked_keys(&mut self, link: LinkId, keys: impl Iterator<Item = KeyHash>) {
        let state = self.agent_links.get(&link);
        if !state.is_some_and(|state| is_proven_agent(&state.actor)) {
            return;
        }
        let key_hashes: Vec<Vec<u8>> = keys.map(|key| key.0.to_vec()).collect();
        if !key_hashes.is_empty() {
            let keys = v1::RevokedKeys { key_hashes };
            self.send_to_agent(link, v1::to_agent::Message::RevokedKeys(keys));
        }
    }

    /// Sends the keys that a proposal has revoked to all registered agents, in one message for
    /// each. Other agents receive them when they register.
    pub(super) fn keys_revoked(&mut self, events: &[Event]) {
        let revoked = events.iter().filter_map(|event| match event {
            Event::AccessChanged(AccessChange::KeyRevoked(key)) => Some(*key),
            _ => None,
        });
        let revoked: Vec<KeyHash> = revoked.collect();
        if revoked.is_empty() {
            return;
        }
        let registered: Vec<LinkId> = self.linked_agents.values().copied().collect();
        for link in registered {
            self.send_revoked_keys(link, revoked.iter().copied());
        }
    }
}
