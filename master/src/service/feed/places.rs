//! The places of subscribers: a bound for one master, and a lower one for each connection, so that
//! one client cannot take all of them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Maximum number of subscribers of one connection.
pub(crate) const SUBSCRIBERS_PER_CONNECTION: usize = 256;

/// The address of a connection's peer, which no other connection has at the same time. It is
/// unknown in a simulation, and then only the bound of the master applies.
pub(crate) type ConnectionKey = Option<SocketAddr>;

/// The places of one master. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct Places(
    // A lock, because subscribers of all threads take and return places. It is held for a lookup.
    Arc<Mutex<Taken>>,
);

#[derive(Debug)]
struct Taken {
    most: usize,
    all: usize,
    by_connection: BTreeMap<SocketAddr, usize>,
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoPlace {
    #[error(
        "this master serves as many subscribers of changes as it can: close one, or use another master"
    )]
    Master,
    #[error(
        "this connection has {SUBSCRIBERS_PER_CONNECTION} subscribers of changes, and may have no more: close one, or use another connection"
    )]
    Connection,
}

impl Places {
    pub(super) fn new(most: usize) -> Self {
        Self(Arc::new(Mutex::new(Taken {
            most,
            all: 0,
            by_connection: BTreeMap::new(),
        })))
    }

    /// Takes a place until it is dropped.
    pub(super) fn take(&self, connection: ConnectionKey) -> Result<Place, NoPlace> {
        let mut taken = self.lock();
        if let Some(address) = connection {
            let of_connection = taken.by_connection.get(&address).copied().unwrap_or(0);
            if of_connection >= SUBSCRIBERS_PER_CONNECTION {
                return Err(NoPlace::Connection);
            }
        }
        if taken.all >= taken.most {
            return Err(NoPlace::Master);
        }
        taken.all += 1;
        if let Some(address) = connection {
            *taken.by_connection.entry(address).or_default() += 1;
        }
        drop(taken);
        Ok(Place {
            places: self.clone(),
            connection,
        })
    }

    /// Returns the number of further subscribers.
    #[cfg(test)]
    pub(super) fn free(&self) -> usize {
        let taken = self.lock();
        taken.most - taken.all
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of one subscriber.
#[derive(Debug)]
pub(super) struct Place {
    places: Places,
    connection: ConnectionKey,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        taken.all -= 1;
        if let Some(address) = self.connection
            && let Some(count) = taken.by_connection.get_mut(&address)
        {
            *count -= 1;
            if *count == 0 {
                taken.by_connection.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(port: u16) -> ConnectionKey {
        Some(SocketAddr::from(([127, 0, 0, 1], port)))
    }

    #[test]
    fn one_connection_cannot_take_the_places_of_others() {
        let places = Places::new(2 * SUBSCRIBERS_PER_CONNECTION);
        let one: Vec<_> = (0..SUBSCRIBERS_PER_CONNECTION)
            .map(|_| places.take(connection(1)).unwrap())
            .collect();
        assert_eq!(places.take(connection(1)).err(), Some(NoPlace::Connection));
        let other = places.take(connection(2)).unwrap();
        // Without an address, only the bound of the master applies.
        let rest: Vec<_> = (1..SUBSCRIBERS_PER_CONNECTION)
            .map(|_| places.take(None).unwrap())
            .collect();
        for key in [connection(2), connection(3), None] {
            assert_eq!(places.take(key).err(), Some(NoPlace::Master));
        }
        drop(other);
        assert!(places.take(connection(3)).is_ok());
        drop((one, rest));
        assert_eq!(places.free(), 2 * SUBSCRIBERS_PER_CONNECTION);
        assert!(places.lock().by_connection.is_empty());
        assert!(places.take(connection(1)).is_ok());
    }
}
