//! The handshakes of one port that are not complete, and which of them makes room for another.
//!
//! Pure. The address with the most handshakes loses its oldest one, so an address that opens many
//! connections ends only its own.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// The incomplete handshakes by number, the oldest first, and by address.
pub(crate) struct HandshakeTable {
    limit: usize,
    next: u64,
    pending: BTreeMap<u64, Option<IpAddr>>,
    addresses: BTreeMap<Option<IpAddr>, BTreeSet<u64>>,
}

/// A handshake that begins.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BegunHandshake {
    pub(crate) id: u64,
    /// The handshake that must end for it.
    pub(crate) evicted: Option<u64>,
}

impl HandshakeTable {
    /// Creates a table of at most `limit` handshakes, and at least one.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit: limit.max(1),
            next: 0,
            pending: BTreeMap::new(),
            addresses: BTreeMap::new(),
        }
    }

    /// Adds a handshake with a peer at this address.
    pub(crate) fn begin(&mut self, address: Option<IpAddr>) -> BegunHandshake {
        let evicted = (self.pending.len() >= self.limit)
            .then(|| self.candidate())
            .flatten();
        if let Some(evicted) = evicted {
            self.end(evicted);
        }
        self.next += 1;
        self.pending.insert(self.next, address);
        self.addresses.entry(address).or_default().insert(self.next);
        BegunHandshake {
            id: self.next,
            evicted,
        }
    }

    /// Removes a handshake that is complete, has failed, or was evicted before.
    pub(crate) fn end(&mut self, id: u64) {
        let Some(address) = self.pending.remove(&id) else {
            return;
        };
        if let Some(of_address) = self.addresses.get_mut(&address) {
            of_address.remove(&id);
            if of_address.is_empty() {
                self.addresses.remove(&address);
            }
        }
    }

    /// Returns the oldest handshake of the address that has the most. Among such addresses, the one
    /// with the oldest handshake.
    fn candidate(&self) -> Option<u64> {
        let by_address = self.addresses.values().filter_map(|ids| {
            let oldest = *ids.first()?;
            Some((ids.len(), std::cmp::Reverse(oldest)))
        });
        by_address.max().map(|(_, oldest)| oldest.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> Option<IpAddr> {
        Some(IpAddr::from([10, 0, 0, last]))
    }

    #[test]
    fn the_address_with_the_most_handshakes_loses_its_oldest() {
        let mut table = HandshakeTable::new(4);
        let honest = table.begin(address(1)).id;
        let flood: Vec<u64> = (0..3).map(|_| table.begin(address(2)).id).collect();
        for expected in &flood {
            let begun = table.begin(address(2));
            assert_eq!(begun.evicted, Some(*expected));
        }
        assert!(table.pending.contains_key(&honest));
        // Also one of another address makes room at the cost of the flood.
        let begun = table.begin(address(3));
        assert!(begun.evicted.is_some_and(|id| id != honest));
        assert_eq!(table.pending.len(), 4);
    }

    #[test]
    fn the_oldest_of_equal_addresses_is_evicted() {
        let mut table = HandshakeTable::new(2);
        let first = table.begin(address(2)).id;
        let second = table.begin(address(1)).id;
        assert_eq!(table.begin(address(3)).evicted, Some(first));
        assert_eq!(table.begin(None).evicted, Some(second));
    }

    #[test]
    fn ended_handshakes_make_room_once() {
        let mut table = HandshakeTable::new(1);
        let first = table.begin(None);
        assert_eq!(first.evicted, None);
        table.end(first.id);
        table.end(first.id);
        let second = table.begin(None);
        assert_eq!(second.evicted, None);
        assert_eq!(table.begin(None).evicted, Some(second.id));
        assert_eq!(table.addresses.len(), 1);
    }
}
