//! The incomplete handshakes of one port, and the eviction of one of them for another.
//!
//! Pure. If an address has more than its share of a full table, its oldest handshake ends, so an
//! address that opens many connections ends only its own. Otherwise many hosts connect together,
//! such as all agents after an election: the next connections wait until a handshake is complete,
//! or until the oldest one is so old that its peer is probably silent. If they did not wait, each
//! would end the handshake on which the server has worked longest. Under a load that exceeds its
//! processors, hardly any handshake would be completed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

/// The number of handshakes above which an address has more than its share of a full table.
const SHARE: usize = 8;
/// The age from which the peer of a handshake is probably silent.
const SILENT_AFTER: Duration = Duration::from_secs(1);

/// The incomplete handshakes by number, the oldest first, and by address.
pub(crate) struct HandshakeTable {
    limit: usize,
    next: u64,
    pending: BTreeMap<u64, PendingHandshake>,
    addresses: BTreeMap<Option<IpAddr>, BTreeSet<u64>>,
}

struct PendingHandshake {
    address: Option<IpAddr>,
    begun: Instant,
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

    /// Returns until when the next connection must wait, unless a handshake ends before; `None` if
    /// it need not wait.
    pub(crate) fn wait_until(&self, now: Instant) -> Option<Instant> {
        if self.pending.len() < self.limit || self.oldest_beyond_share().is_some() {
            return None;
        }
        let (_, oldest) = self.pending.first_key_value()?;
        let until = oldest.begun + SILENT_AFTER;
        (now < until).then_some(until)
    }

    /// Adds a handshake with a peer at this address. In a full table it ends another one.
    pub(crate) fn begin(&mut self, address: Option<IpAddr>, now: Instant) -> BegunHandshake {
        let evicted = (self.pending.len() >= self.limit)
            .then(|| self.candidate())
            .flatten();
        if let Some(evicted) = evicted {
            self.end(evicted);
        }
        self.next += 1;
        let begun = PendingHandshake {
            address,
            begun: now,
        };
        self.pending.insert(self.next, begun);
        self.addresses.entry(address).or_default().insert(self.next);
        BegunHandshake {
            id: self.next,
            evicted,
        }
    }

    /// Removes a handshake that is complete, has failed, or was evicted before.
    pub(crate) fn end(&mut self, id: u64) {
        let Some(PendingHandshake { address, .. }) = self.pending.remove(&id) else {
            return;
        };
        if let Some(of_address) = self.addresses.get_mut(&address) {
            of_address.remove(&id);
            if of_address.is_empty() {
                self.addresses.remove(&address);
            }
        }
    }

    /// Returns the handshake that ends for another one.
    fn candidate(&self) -> Option<u64> {
        self.oldest_beyond_share()
            .or_else(|| self.pending.first_key_value().map(|(id, _)| *id))
    }

    /// Returns the oldest handshake of the address that has the most, if these are more than its
    /// share. Among such addresses, the one with the oldest handshake.
    fn oldest_beyond_share(&self) -> Option<u64> {
        let share = SHARE.min(self.limit / 2);
        let by_address = self.addresses.values().filter_map(|ids| {
            let oldest = *ids.first()?;
            Some((ids.len(), std::cmp::Reverse(oldest)))
        });
        let (most, oldest) = by_address.max()?;
        (most > share).then_some(oldest.0)
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
        let now = Instant::now();
        let honest = table.begin(address(1), now).id;
        let flood: Vec<u64> = (0..3).map(|_| table.begin(address(2), now).id).collect();
        for expected in &flood {
            assert_eq!(table.wait_until(now), None);
            let begun = table.begin(address(2), now);
            assert_eq!(begun.evicted, Some(*expected));
        }
        assert!(table.pending.contains_key(&honest));
        // A handshake of another address also evicts one of the flood.
        let begun = table.begin(address(3), now);
        assert!(begun.evicted.is_some_and(|id| id != honest));
        assert_eq!(table.pending.len(), 4);
    }

    #[test]
    fn many_hosts_that_connect_together_wait_for_each_other() {
        let mut table = HandshakeTable::new(4);
        let start = Instant::now();
        let later = start + SILENT_AFTER / 2;
        let first = table.begin(address(1), start).id;
        for host in 2..=4 {
            assert_eq!(table.wait_until(later), None);
            table.begin(address(host), later);
        }
        assert_eq!(table.wait_until(later), Some(start + SILENT_AFTER));
        // A complete handshake makes room at once.
        table.end(first);
        assert_eq!(table.wait_until(later), None);
        let begun = table.begin(address(5), later);
        assert_eq!(begun.evicted, None);
        assert_eq!(table.wait_until(later), Some(later + SILENT_AFTER));
    }

    #[test]
    fn the_oldest_of_many_silent_hosts_is_evicted() {
        let mut table = HandshakeTable::new(2);
        let start = Instant::now();
        let first = table.begin(address(2), start).id;
        let second = table.begin(address(1), start).id;
        let silent = start + SILENT_AFTER;
        assert_eq!(table.wait_until(silent), None);
        assert_eq!(table.begin(address(3), silent).evicted, Some(first));
        assert_eq!(table.begin(None, silent).evicted, Some(second));
        assert_eq!(table.wait_until(silent), Some(silent + SILENT_AFTER));
    }

    #[test]
    fn ended_handshakes_make_room_once() {
        let mut table = HandshakeTable::new(1);
        let now = Instant::now();
        let first = table.begin(None, now);
        assert_eq!(first.evicted, None);
        table.end(first.id);
        table.end(first.id);
        let second = table.begin(None, now);
        assert_eq!(second.evicted, None);
        assert_eq!(table.begin(None, now).evicted, Some(second.id));
        assert_eq!(table.addresses.len(), 1);
    }
}
