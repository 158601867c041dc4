//! The admission of new connections, and the choice of the connection that is evicted for one.
//!
//! The oldest connection that has never sent a request is evicted first, then one without an open
//! request. A connection with an open request is never closed in favour of another one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio_util::sync::CancellationToken;

use super::activity::Activity;

/// The number of connections that a search for one without a request checks: the longest unused of
/// them is evicted.
const MAX_EXAMINED: usize = 64;
/// The maximum number of evicted connections that are still closing; beyond it new connections are
/// rejected.
const MAX_CLOSING: usize = 256;

/// The connections of one port.
pub(super) struct ConnectionAdmission {
    connections: usize,
    per_peer: usize,
    // Held for a look-up; nothing is awaited under it.
    slots: Mutex<SlotTable>,
}

#[derive(Default)]
struct SlotTable {
    next: u64,
    taken: BTreeMap<u64, OccupiedSlot>,
    /// By address, so that each address has a separate limit.
    peers: BTreeMap<IpAddr, PeerSlots>,
    /// Connections that have sent no request, oldest first.
    silent: BTreeSet<u64>,
    /// The number of connections that are evicted, and not closed yet.
    closing: usize,
    /// The position at which the last search ended.
    cursor: u64,
}

#[derive(Default)]
struct PeerSlots {
    taken: BTreeSet<u64>,
    silent: BTreeSet<u64>,
}

struct OccupiedSlot {
    peer: Option<IpAddr>,
    activity: Arc<Activity>,
    evict: CancellationToken,
}

/// The decision about a new connection.
pub(super) enum AdmissionDecision {
    /// It is served.
    Admitted(ConnectionSlot),
    /// It is closed immediately.
    Refused(PortFull),
}

/// The reason for which a connection is closed immediately.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PortFull {
    /// The port has reached its limit of connections, and all of them are in use.
    Port,
    /// The same for the address of the peer.
    Peer,
}

/// The slot of one connection, released when it is dropped.
pub(super) struct ConnectionSlot {
    id: u64,
    admission: Arc<ConnectionAdmission>,
    activity: Arc<Activity>,
    evict: CancellationToken,
}

impl std::fmt::Debug for ConnectionSlot {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("Seat").field(&self.id).finish()
    }
}

impl ConnectionSlot {
    pub(super) fn activity(&self) -> Arc<Activity> {
        Arc::clone(&self.activity)
    }

    /// Records that its connection has sent a request.
    pub(super) fn record_request(&self) {
        self.admission.lock().record_request(self.id);
    }

    /// Waits until the connection is evicted.
    pub(super) fn evicted(&self) -> impl Future<Output = ()> + use<> {
        self.evict.clone().cancelled_owned()
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        let mut seats = self.admission.lock();
        if !seats.release(self.id) {
            seats.closing = seats.closing.saturating_sub(1);
        }
    }
}

impl ConnectionAdmission {
    pub(super) fn new(connections: usize, per_peer: usize) -> Self {
        Self {
            connections,
            per_peer,
            slots: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, SlotTable> {
        self.slots.lock().expect("no holder of the lock panics")
    }

    /// Returns the number of connections that hold a descriptor.
    pub(super) fn count(&self) -> usize {
        let seats = self.lock();
        seats.taken.len() + seats.closing
    }

    /// Decides about a new connection, and returns whether another one was evicted for it.
    pub(super) fn admit(self: &Arc<Self>, address: Option<IpAddr>) -> (AdmissionDecision, bool) {
        let peer = address.map(peer_network);
        let mut seats = self.lock();
        let of_peer = peer.and_then(|peer| seats.peers.get(&peer));
        let peer_is_full = of_peer.is_some_and(|peer| peer.taken.len() >= self.per_peer);
        let is_full = seats.taken.len() >= self.connections;
        if peer_is_full || is_full {
            let refusal = if peer_is_full {
                PortFull::Peer
            } else {
                PortFull::Port
            };
            let among = peer.filter(|_| peer_is_full);
            let victim = seats
                .eviction_candidate(among)
                .filter(|_| seats.closing < MAX_CLOSING);
            let Some(victim) = victim else {
                return (AdmissionDecision::Refused(refusal), false);
            };
            seats.evict(victim);
        }
        let (id, activity, evict) = seats.occupy(peer);
        let slot = ConnectionSlot {
            id,
            admission: Arc::clone(self),
            activity,
            evict,
        };
        (AdmissionDecision::Admitted(slot), peer_is_full || is_full)
    }
}

impl SlotTable {
    fn occupy(&mut self, peer: Option<IpAddr>) -> (u64, Arc<Activity>, CancellationToken) {
        self.next += 1;
        let (id, activity) = (self.next, Arc::new(Activity::new()));
        let evict = CancellationToken::new();
        self.silent.insert(id);
        if let Some(peer) = peer {
            let peer = self.peers.entry(peer).or_default();
            peer.taken.insert(id);
            peer.silent.insert(id);
        }
        let taken = OccupiedSlot {
            peer,
            activity: Arc::clone(&activity),
            evict: evict.clone(),
        };
        self.taken.insert(id, taken);
        (id, activity, evict)
    }

    fn record_request(&mut self, id: u64) {
        self.silent.remove(&id);
        let peer = self.taken.get(&id).and_then(|taken| taken.peer);
        if let Some(peer) = peer.and_then(|peer| self.peers.get_mut(&peer)) {
            peer.silent.remove(&id);
        }
    }

    /// Returns the connection to evict, among those of an address or among all.
    fn eviction_candidate(&mut self, among: Option<IpAddr>) -> Option<u64> {
        let peer = among.and_then(|peer| self.peers.get(&peer));
        let silent = peer.map_or(&self.silent, |peer| &peer.silent);
        if let Some(oldest) = silent.first() {
            return Some(*oldest);
        }
        let cursor = self.cursor;
        let looked_at: Vec<u64> = match peer {
            Some(peer) => wrapping_from(&peer.taken, cursor)
                .take(MAX_EXAMINED)
                .collect(),
            None => {
                let (from, rest) = (self.taken.range(cursor..), self.taken.range(..cursor));
                from.chain(rest)
                    .map(|(id, _)| *id)
                    .take(MAX_EXAMINED)
                    .collect()
            }
        };
        self.cursor = looked_at.last().map_or(0, |last| last + 1);
        let unused = looked_at.into_iter().filter_map(|id| {
            let since = self.taken.get(&id)?.activity.unused_since()?;
            Some((since, id))
        });
        unused.min().map(|(_, id)| id)
    }

    fn evict(&mut self, id: u64) {
        if let Some(taken) = self.taken.get(&id) {
            taken.evict.cancel();
            self.closing += 1;
        }
        self.release(id);
    }

    /// Removes the connection, and returns whether it still had a slot.
    fn release(&mut self, id: u64) -> bool {
        self.silent.remove(&id);
        let Some(taken) = self.taken.remove(&id) else {
            return false;
        };
        if let Some(address) = taken.peer
            && let Some(peer) = self.peers.get_mut(&address)
        {
            peer.taken.remove(&id);
            peer.silent.remove(&id);
            if peer.taken.is_empty() {
                self.peers.remove(&address);
            }
        }
        true
    }
}

/// Returns all ids of a set, starting at `cursor` and wrapping around.
fn wrapping_from(set: &BTreeSet<u64>, cursor: u64) -> impl Iterator<Item = u64> {
    set.range(cursor..).chain(set.range(..cursor)).copied()
}

/// Returns the address that identifies one peer: a host has one IPv4 address, and 64 bits of IPv6
/// to itself.
#[must_use]
pub fn peer_network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let prefix = u128::from(address) & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from(prefix))
        }
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const ONE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
    const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));

    fn admitted(admission: &Arc<ConnectionAdmission>, address: IpAddr) -> ConnectionSlot {
        match admission.admit(Some(address)).0 {
            AdmissionDecision::Admitted(seat) => seat,
            AdmissionDecision::Refused(refusal) => panic!("{refusal:?}"),
        }
    }

    fn refused(admission: &Arc<ConnectionAdmission>, address: IpAddr) -> PortFull {
        match admission.admit(Some(address)).0 {
            AdmissionDecision::Admitted(_) => panic!("it is admitted"),
            AdmissionDecision::Refused(refusal) => refusal,
        }
    }

    /// Returns a connection that has sent a request, which is still open.
    fn busy(
        slot: ConnectionSlot,
    ) -> (
        super::super::activity::OpenRequest,
        super::super::activity::ConnectionWatch,
    ) {
        let (end, _) = tokio::io::duplex(1);
        let connection = crate::transport::Connection::new(end);
        let limits = super::super::PortLimits::of_descriptors("test", 10_000);
        let limit = super::super::stalls::StallLimit::of(&limits);
        let (_io, watch) = super::super::activity::WatchedStream::new(connection, slot, limit);
        (watch.open(), watch)
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_silent_connection_is_evicted() {
        let admission = Arc::new(ConnectionAdmission::new(2, 2));
        let (first, second) = (admitted(&admission, ONE), admitted(&admission, ONE));
        second.record_request();
        let _third = admitted(&admission, OTHER);
        assert!(first.evict.is_cancelled());
        assert!(!second.evict.is_cancelled());
        assert_eq!(
            admission.count(),
            3,
            "the evicted one holds its descriptor until it is closed"
        );
        drop(first);
        assert_eq!(admission.count(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_idle_connection_is_evicted_and_an_active_one_never() {
        let admission = Arc::new(ConnectionAdmission::new(3, 3));
        let (used, _watch) = busy(admitted(&admission, ONE));
        let (request, idle) = busy(admitted(&admission, ONE));
        drop(request);
        tokio::time::advance(std::time::Duration::from_secs(1)).await;
        let (request, later) = busy(admitted(&admission, ONE));
        drop(request);
        let (third, _watch) = busy(admitted(&admission, OTHER));
        let evicted = |watch: &super::super::activity::ConnectionWatch| {
            use futures::FutureExt as _;
            watch.evicted().now_or_never().is_some()
        };
        assert!(evicted(&idle) && !evicted(&later));
        let (fourth, _watch) = busy(admitted(&admission, OTHER));
        assert!(evicted(&later));
        assert_eq!(refused(&admission, OTHER), PortFull::Port);
        drop((used, third, fourth));
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_at_its_limit_evicts_no_connection_of_another() {
        let admission = Arc::new(ConnectionAdmission::new(4, 2));
        let other = admitted(&admission, OTHER);
        let (one, _watch) = busy(admitted(&admission, ONE));
        let (two, _watch) = busy(admitted(&admission, ONE));
        assert_eq!(refused(&admission, ONE), PortFull::Peer);
        assert!(!other.evict.is_cancelled());
        let _more = admitted(&admission, OTHER);
        drop((one, two));
    }

    #[test]
    fn ipv4_and_ipv6_addresses_of_a_host_count_as_one_peer() {
        let of = |text: &str| peer_network(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
        assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
    }
}
