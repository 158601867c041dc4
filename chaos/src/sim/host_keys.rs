//! The keys that hosts prove to each other, and the open connections that prove them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use argosy_proto::transport::{Credential, PeerIdentity};
use argosy_state::access::KeyHash;
use sha2::{Digest as _, Sha256};

use super::network::identity_of;

/// The keys that hosts prove to processes in separate runtimes, as if certificates had them. Cheap
/// to clone; all clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct HostKeys(Arc<Mutex<HostKeysState>>);

#[derive(Debug, Default)]
struct HostKeysState {
    /// The number of renewals, by host.
    renewals: BTreeMap<String, u64>,
    /// The number of processes' ends of connections to each port to which this key was proved.
    open: BTreeMap<(u16, KeyHash), usize>,
}

impl HostKeys {
    fn state(&self) -> MutexGuard<'_, HostKeysState> {
        self.0.lock().expect("no holder of the lock panics")
    }

    /// Returns the key that new connections of a host prove.
    pub(super) fn of(&self, host: &str) -> KeyHash {
        let renewals = self.state().renewals.get(host).copied().unwrap_or(0);
        KeyHash(Sha256::digest(format!("{host} {renewals}")).into())
    }

    /// Gives a host a new key for new connections. Open ones keep the former key, which is
    /// returned.
    pub(super) fn renew(&self, host: &str) -> KeyHash {
        let former = self.of(host);
        *self.state().renewals.entry(host.to_owned()).or_default() += 1;
        former
    }

    /// Returns the number of connections to this port of any host that prove this key to a process,
    /// until one of their ends has closed them. One that a host without a process has left open
    /// counts for the key of this host only: to it nothing is proved any more.
    pub(super) fn open_connections(&self, port: u16, key: KeyHash) -> usize {
        self.state().open.get(&(port, key)).copied().unwrap_or(0)
    }

    pub(super) fn identity_of(&self, host: &str) -> PeerIdentity {
        let peer = identity_of(host);
        match peer.principal() {
            Some(_) => peer.with_credential(Credential::Key(self.of(host))),
            None => peer,
        }
    }

    /// Counts an end of a connection to this port, to which the key was proved, until the result is
    /// dropped.
    pub(super) fn count(&self, port: u16, key: KeyHash) -> CountedEnd {
        *self.state().open.entry((port, key)).or_default() += 1;
        let keys = self.clone();
        CountedEnd { keys, port, key }
    }
}

/// An end of a connection that is open.
pub(super) struct CountedEnd {
    keys: HostKeys,
    port: u16,
    /// The key that the other end proved.
    key: KeyHash,
}

impl Drop for CountedEnd {
    fn drop(&mut self) {
        let proved = (self.port, self.key);
        let mut state = self.keys.state();
        let left = state.open.get_mut(&proved).expect("it was counted");
        *left -= 1;
        if *left == 0 {
            state.open.remove(&proved);
        }
    }
}

/// The count of an end, which the process and the network end.
#[derive(Clone)]
pub(super) struct SharedCount(Arc<Mutex<Option<CountedEnd>>>);

impl SharedCount {
    pub(super) fn new(counted: CountedEnd) -> SharedCount {
        SharedCount(Arc::new(Mutex::new(Some(counted))))
    }

    pub(super) fn end(&self) {
        let counted = self.0.lock().expect("no holder of the lock panics").take();
        drop(counted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renewed_key_proves_the_same_principal() {
        let keys = HostKeys::default();
        let (before, other) = (keys.identity_of("host-1"), keys.identity_of("host-2"));
        let former = keys.renew("host-1");
        let after = keys.identity_of("host-1");
        assert_eq!(before.credential(), Some(Credential::Key(former)));
        assert!(
            after
                .credential()
                .is_some_and(|key| key != Credential::Key(former))
        );
        assert_eq!(before.principal(), after.principal());
        assert_eq!(keys.identity_of("host-2"), other);
        assert_ne!(before.credential(), other.credential());
        assert_eq!(keys.identity_of("elsewhere").credential(), None);
    }

    #[test]
    fn an_end_of_a_connection_counts_for_the_key_that_was_proved_to_it() {
        const PORT: u16 = 5052;
        let keys = HostKeys::default();
        let accepted = keys.count(PORT, keys.of("master-1"));
        let dialed = keys.count(PORT, keys.of("master-2"));
        let former = keys.renew("master-1");
        let again = keys.count(PORT, keys.of("master-1"));
        assert_eq!(keys.open_connections(PORT, former), 1);
        assert_eq!(keys.open_connections(PORT, keys.of("master-1")), 1);
        assert_eq!(keys.open_connections(PORT + 1, former), 0);
        drop(accepted);
        assert_eq!(keys.open_connections(PORT, former), 0);
        assert_eq!(keys.open_connections(PORT, keys.of("master-2")), 1);
        drop((dialed, again));
        assert!(keys.state().open.is_empty());
    }
}
