//! The admission of new connections, and the choice of the connection that is evicted for one.
//!
//! The oldest connection that has never sent a request is evicted first, then one without an open
//! request. For an authenticated peer, those of unauthenticated peers are evicted first, even with
//! an open request. Otherwise a few hosts without a certificate could fill the port with streams
//! that never end. An unauthenticated peer never takes the place of an authenticated one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio_util::sync::CancellationToken;

use super::activity::Activity;
use crate::transport::PeerIdentity;

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

/// A connection. Those of unauthenticated peers come first, and older ones before newer ones.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
struct ConnectionId {
    is_authenticated: bool,
    number: u64,
}

impl ConnectionId {
    const UNAUTHENTICATED: Range<Self> = Self::first(false)..Self::first(true);
    const AUTHENTICATED: Range<Self> = Self::first(true)..Self {
        is_authenticated: true,
        number: u64::MAX,
    };

    const fn first(is_authenticated: bool) -> Self {
        Self {
            is_authenticated,
            number: 0,
        }
    }
}

#[derive(Default)]
struct SlotTable {
    next: u64,
    taken: BTreeMap<ConnectionId, OccupiedSlot>,
    /// By address, so that each address has a separate limit.
    peers: BTreeMap<IpAddr, PeerSlots>,
    /// The addresses, by the number of their connections without authentication.
    unauthenticated: BTreeSet<(usize, IpAddr)>,
    /// Connections that have sent no request.
    silent: BTreeSet<ConnectionId>,
    /// The number of connections that are evicted, and not closed yet.
    closing: usize,
    /// The position at which the last search ended.
    cursor: ConnectionId,
}

#[derive(Default)]
struct PeerSlots {
    taken: BTreeSet<ConnectionId>,
    silent: BTreeSet<ConnectionId>,
    /// The number of those without authentication.
    unauthenticated: usize,
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
    id: ConnectionId,
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
    pub(super) fn admit(self: &Arc<Self>, peer: &PeerIdentity) -> (AdmissionDecision, bool) {
        let is_authenticated = peer.principal().is_some();
        let peer = peer.address().map(|address| peer_network(address.ip()));
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
                .eviction_candidate(among, is_authenticated)
                .filter(|_| seats.closing < MAX_CLOSING);
            let Some(victim) = victim else {
                return (AdmissionDecision::Refused(refusal), false);
            };
            seats.evict(victim);
        }
        let (id, activity, evict) = seats.occupy(peer, is_authenticated);
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
    fn occupy(
        &mut self,
        peer: Option<IpAddr>,
        is_authenticated: bool,
    ) -> (ConnectionId, Arc<Activity>, CancellationToken) {
        self.next += 1;
        let id = ConnectionId {
            is_authenticated,
            number: self.next,
        };
        let (activity, evict) = (Arc::new(Activity::new()), CancellationToken::new());
        self.silent.insert(id);
        if let Some(address) = peer {
            let peer = self.peers.entry(address).or_default();
            peer.taken.insert(id);
            peer.silent.insert(id);
            if !is_authenticated {
                let count = peer.unauthenticated + 1;
                self.count_unauthenticated(address, count);
            }
        }
        let taken = OccupiedSlot {
            peer,
            activity: Arc::clone(&activity),
            evict: evict.clone(),
        };
        self.taken.insert(id, taken);
        (id, activity, evict)
    }

    /// Records how many connections without authentication an address has.
    fn count_unauthenticated(&mut self, address: IpAddr, count: usize) {
        if let Some(peer) = self.peers.get_mut(&address) {
            let former = std::mem::replace(&mut peer.unauthenticated, count);
            self.unauthenticated.remove(&(former, address));
            if count > 0 {
                self.unauthenticated.insert((count, address));
            }
        }
    }

    fn record_request(&mut self, id: ConnectionId) {
        self.silent.remove(&id);
        let peer = self.taken.get(&id).and_then(|taken| taken.peer);
        if let Some(peer) = peer.and_then(|peer| self.peers.get_mut(&peer)) {
            peer.silent.remove(&id);
        }
    }

    /// Returns the connection to evict for a peer, among those of an address or among all.
    fn eviction_candidate(
        &mut self,
        among: Option<IpAddr>,
        is_authenticated: bool,
    ) -> Option<ConnectionId> {
        let unauthenticated = self.unused(among, &ConnectionId::UNAUTHENTICATED);
        if !is_authenticated {
            return unauthenticated;
        }
        // An authenticated peer that has just connected has sent nothing yet, either.
        unauthenticated
            .or_else(|| self.newest_unauthenticated(among))
            .or_else(|| self.unused(among, &ConnectionId::AUTHENTICATED))
    }

    /// Returns one of these connections without an open request.
    fn unused(&mut self, among: Option<IpAddr>, ids: &Range<ConnectionId>) -> Option<ConnectionId> {
        let peer = among.and_then(|peer| self.peers.get(&peer));
        let silent = peer.map_or(&self.silent, |peer| &peer.silent);
        if let Some(oldest) = silent.range(ids.clone()).next() {
            return Some(*oldest);
        }
        let cursor = self.cursor.clamp(ids.start, ids.end);
        let (from, rest) = (cursor..ids.end, ids.start..cursor);
        let looked_at: Vec<ConnectionId> = match peer {
            Some(peer) => {
                let all = peer.taken.range(from).chain(peer.taken.range(rest));
                all.copied().take(MAX_EXAMINED).collect()
            }
            None => {
                let all = self.taken.range(from).chain(self.taken.range(rest));
                all.map(|(id, _)| *id).take(MAX_EXAMINED).collect()
            }
        };
        self.cursor = looked_at.last().copied().unwrap_or_default();
        self.cursor.number += 1;
        let unused = looked_at.into_iter().filter_map(|id| {
            let since = self.taken.get(&id)?.activity.unused_since()?;
            Some((since, id))
        });
        unused.min().map(|(_, id)| id)
    }

    /// Returns the newest connection of an unauthenticated peer: of this address, or of the one
    /// that has most of them. A flood is newer than the streams of other clients, and has more
    /// connections.
    fn newest_unauthenticated(&self, among: Option<IpAddr>) -> Option<ConnectionId> {
        // The task that an eviction ends has ended.
        let is_detached = |id: &ConnectionId| self.taken[id].activity.is_detached();
        let newest = |address: &IpAddr| {
            let ids = self
                .peers
                .get(address)?
                .taken
                .range(ConnectionId::UNAUTHENTICATED);
            ids.rev().find(|id| !is_detached(id)).copied()
        };
        match among {
            Some(address) => newest(&address),
            None => self
                .unauthenticated
                .iter()
                .rev()
                .find_map(|(_, address)| newest(address)),
        }
    }

    fn evict(&mut self, id: ConnectionId) {
        if let Some(taken) = self.taken.get(&id) {
            taken.evict.cancel();
            self.closing += 1;
        }
        self.release(id);
    }

    /// Removes the connection, and returns whether it still had a slot.
    fn release(&mut self, id: ConnectionId) -> bool {
        self.silent.remove(&id);
        let Some(taken) = self.taken.remove(&id) else {
            return false;
        };
        if let Some(address) = taken.peer
            && let Some(peer) = self.peers.get_mut(&address)
        {
            peer.taken.remove(&id);
            peer.silent.remove(&id);
            let (count, is_last) = (peer.unauthenticated, peer.taken.is_empty());
            if !id.is_authenticated {
                self.count_unauthenticated(address, count - 1);
            }
            if is_last {
                self.peers.remove(&address);
            }
        }
        true
    }
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
        let peer = PeerIdentity::unauthenticated(Some((address, 1).into()));
        match admission.admit(&peer).0 {
            AdmissionDecision::Admitted(seat) => seat,
            AdmissionDecision::Refused(refusal) => panic!("{refusal:?}"),
        }
    }

    fn refused(admission: &Arc<ConnectionAdmission>, address: IpAddr) -> PortFull {
        let peer = PeerIdentity::unauthenticated(Some((address, 1).into()));
        match admission.admit(&peer).0 {
            AdmissionDecision::Admitted(_) => panic!("it is admitted"),
            AdmissionDecision::Refused(refusal) => refusal,
        }
    }

    fn evicted(watch: &super::super::activity::ConnectionWatch) -> bool {
        use futures::FutureExt as _;
        watch.evicted().now_or_never().is_some()
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

    #[tokio::test(start_paused = true)]
    async fn an_authenticated_peer_takes_the_place_of_a_busy_unauthenticated_one() {
        const THIRD: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 3));
        let admission = Arc::new(ConnectionAdmission::new(4, 2));
        let held = [ONE, ONE, OTHER, OTHER].map(|address| busy(admitted(&admission, address)));
        assert_eq!(refused(&admission, THIRD), PortFull::Port);
        // A WebSocket ends only by itself.
        held[3].1.activity.detach();
        let agent = |address: IpAddr| {
            let address = Some((address, 1).into());
            let peer = PeerIdentity::authenticated("agent/a7".parse().unwrap(), address);
            admission.admit(&peer).0
        };
        let admitted = |decision| matches!(decision, AdmissionDecision::Admitted(_));
        let first = agent(THIRD);
        let all_evicted = || held.each_ref().map(|(_, watch)| evicted(watch));
        assert_eq!(all_evicted(), [false, false, true, false]);
        // It has sent nothing yet, and others do not take its place.
        assert_eq!(refused(&admission, OTHER), PortFull::Port);
        // Of an address at its limit, it takes a place of the same address.
        let second = agent(ONE);
        assert_eq!(all_evicted(), [false, true, true, false]);
        let third = agent(THIRD);
        assert_eq!(all_evicted(), [true, true, true, false]);
        assert!([first, second, third].into_iter().all(admitted));
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
