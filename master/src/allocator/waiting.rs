//! Clients that wait: they take offers, hold none, and their last full pass found nothing for them.

use std::collections::{BTreeMap, BTreeSet};

use argosy_state::ids::Timestamp;

/// The reason of a client for which none was determined yet.
const UNKNOWN: &str = "unknown";

/// The clients that wait, and since when. Every change costs O(log n), and no query depends on the
/// number of clients.
#[derive(Debug, Default)]
pub(super) struct WaitingClients {
    clients: BTreeMap<u32, (Timestamp, &'static str)>,
    by_time: BTreeSet<(Timestamp, u32)>,
    reasons: BTreeMap<&'static str, usize>,
}

impl WaitingClients {
    pub(super) fn contains(&self, client: u32) -> bool {
        self.clients.contains_key(&client)
    }

    /// Adds a client that does not wait yet.
    pub(super) fn begin(&mut self, client: u32, now: Timestamp) {
        self.end(client);
        self.clients.insert(client, (now, UNKNOWN));
        self.by_time.insert((now, client));
        *self.reasons.entry(UNKNOWN).or_default() += 1;
    }

    /// Removes a client, if it waits.
    pub(super) fn end(&mut self, client: u32) {
        if let Some((since, reason)) = self.clients.remove(&client) {
            self.by_time.remove(&(since, client));
            self.forget_reason(reason);
        }
    }

    /// Records the reason for which a client waits.
    pub(super) fn set_reason(&mut self, client: u32, reason: &'static str) {
        let Some((_, known)) = self.clients.get_mut(&client) else {
            return;
        };
        let former = std::mem::replace(known, reason);
        *self.reasons.entry(reason).or_default() += 1;
        self.forget_reason(former);
    }

    /// Returns the time since which the first of them waits.
    pub(super) fn oldest(&self) -> Option<Timestamp> {
        self.by_time.first().map(|(since, _)| *since)
    }

    /// Returns the number of clients that wait for each reason.
    pub(super) fn by_reason(&self) -> impl Iterator<Item = (&'static str, usize)> {
        self.reasons
            .iter()
            .map(|(reason, clients)| (*reason, *clients))
    }

    fn forget_reason(&mut self, reason: &'static str) {
        if let Some(clients) = self.reasons.get_mut(reason) {
            *clients -= 1;
            if *clients == 0 {
                self.reasons.remove(reason);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reasons(waiting: &WaitingClients) -> Vec<(&'static str, usize)> {
        waiting.by_reason().collect()
    }

    #[test]
    fn waiting_clients_are_counted_by_reason_until_they_are_offered_something() {
        let mut waiting = WaitingClients::default();
        waiting.begin(1, Timestamp(10));
        waiting.begin(2, Timestamp(20));
        assert_eq!(reasons(&waiting), [("unknown", 2)]);
        for client in [1, 2, 9] {
            waiting.set_reason(client, "filtered");
        }
        waiting.set_reason(1, "busy");
        assert_eq!(reasons(&waiting), [("busy", 1), ("filtered", 1)]);
        assert_eq!(waiting.oldest(), Some(Timestamp(10)));
        waiting.end(1);
        waiting.end(1);
        assert_eq!(waiting.oldest(), Some(Timestamp(20)));
        assert!(waiting.contains(2) && !waiting.contains(1));
        waiting.end(2);
        assert_eq!((reasons(&waiting), waiting.oldest()), (Vec::new(), None));
    }
}
