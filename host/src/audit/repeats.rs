//! Which entries become one line, so that a caller cannot replace older lines by many refusals.
//!
//! The first of several equal entries is written, and the others of a second are one more line with
//! their number. A peer has a bounded number of different entries in a second, and so have all
//! peers together; further ones are one line that names only what they have in common. Refusals are
//! counted apart from uses: otherwise a flood of refusals would hide who reads files or gets
//! tickets. Times are arguments.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::entry::{AuditEntry, AuditEvent};

/// The time for which equal entries are joined, in milliseconds.
pub(super) const WINDOW_MS: i64 = 1_000;
/// Maximum number of different refusals of one peer in that time, and of its uses.
const OF_PEER: usize = 8;
/// Maximum number of different refusals of all peers in that time, and of their uses.
const OF_ALL: usize = 64;
/// Stands for what differs in the entries of a line.
const SEVERAL: &str = "several";

/// What is the same in joined entries.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    event: AuditEvent,
    peer: Option<IpAddr>,
    principal: String,
    on_behalf_of: String,
    user: Option<u32>,
    action: String,
    object: String,
    outcome: String,
}

impl Key {
    fn of(entry: &AuditEntry) -> Self {
        Self {
            event: entry.event,
            peer: entry.peer.map(|peer| network(peer.ip())),
            principal: entry.principal.clone(),
            on_behalf_of: entry.on_behalf_of.clone(),
            user: entry.user,
            action: entry.action.clone(),
            object: entry.object.clone(),
            outcome: entry.outcome.clone(),
        }
    }
}

/// Returns the network of an address that one peer may have: a host may choose from 64 bits of an
/// IPv6 address.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) & (u128::MAX << 64)).into()),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// Entries that are joined.
#[derive(Debug)]
struct Window {
    began_ms: i64,
    /// The entry that is written at the end, for those that are not written yet.
    entry: AuditEntry,
    unwritten: u64,
}

/// The entries of the last second that are joined. It has at most 64 windows of refusals and 64 of
/// uses, one more for each event of each of the peers that have those, and one more for each event.
#[derive(Debug, Default)]
pub(super) struct Repeats(BTreeMap<Key, Window>);

impl Repeats {
    /// Returns the entry if it is to be written now.
    pub(super) fn admit(&mut self, entry: AuditEntry) -> Option<AuditEntry> {
        if !entry.event.is_joined() {
            return Some(entry);
        }
        let key = Key::of(&entry);
        if let Some(window) = self.0.get_mut(&key) {
            window.unwritten += entry.count;
            window.entry.at_ms = entry.at_ms;
            return None;
        }
        let is_refusal = key.event.is_refusal();
        let (mut of_all, mut of_peer) = (0, 0);
        for other in self.0.keys() {
            if other.event.is_refusal() == is_refusal {
                of_all += 1;
                of_peer += usize::from(other.peer == key.peer);
            }
        }
        let (is_full, is_peer_full) = (of_all >= OF_ALL, of_peer >= OF_PEER);
        if is_peer_full || is_full {
            self.join_others(entry, is_full);
            return None;
        }
        let window = Window {
            began_ms: entry.at_ms,
            entry: entry.clone(),
            unwritten: 0,
        };
        self.0.insert(key, window);
        Some(entry)
    }

    /// Adds an entry to those of its event, and of its peer unless that differs too.
    fn join_others(&mut self, entry: AuditEntry, has_several_peers: bool) {
        let several = || SEVERAL.to_owned();
        let (began_ms, count) = (entry.at_ms, entry.count);
        let joined = AuditEntry {
            principal: several(),
            on_behalf_of: String::new(),
            user: None,
            peer: entry.peer.filter(|_| !has_several_peers),
            action: several(),
            object: several(),
            outcome: several(),
            request_id: String::new(),
            ..entry
        };
        let window = self.0.entry(Key::of(&joined)).or_insert(Window {
            began_ms,
            entry: joined,
            unwritten: 0,
        });
        window.unwritten += count;
        window.entry.at_ms = began_ms;
    }

    /// Returns the entries whose second has ended and that stand for unwritten ones.
    pub(super) fn expire(&mut self, now_ms: i64) -> Vec<AuditEntry> {
        // A clock that was set back ends a window too.
        let is_open =
            |window: &Window| (0..WINDOW_MS).contains(&now_ms.saturating_sub(window.began_ms));
        let ended = self.0.extract_if(.., |_, window| !is_open(window));
        let unwritten = ended.filter(|(_, window)| window.unwritten > 0);
        let entries = unwritten.map(|(_, window)| AuditEntry {
            count: window.unwritten,
            ..window.entry
        });
        entries.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(at_ms: i64, peer: &str, object: &str) -> AuditEntry {
        AuditEntry {
            peer: Some(peer.parse().unwrap()),
            principal: "unauthenticated".to_owned(),
            object: object.to_owned(),
            ..AuditEntry::new(at_ms, AuditEvent::CallRefused)
        }
    }

    #[test]
    fn equal_refusals_of_a_second_are_two_lines() {
        let mut repeats = Repeats::default();
        let first = repeats.admit(refusal(0, "10.0.0.1:1", "web"));
        assert_eq!(first.unwrap().count, 1);
        for port in 2..100 {
            let peer = format!("10.0.0.1:{port}");
            assert_eq!(repeats.admit(refusal(port, &peer, "web")), None);
        }
        assert_eq!(repeats.expire(999), []);
        let joined = repeats.expire(1_000);
        assert_eq!(joined.len(), 1);
        assert_eq!((joined[0].count, joined[0].at_ms), (98, 99));
        assert_eq!(repeats.expire(2_000), []);
        let next = repeats.admit(refusal(1_001, "10.0.0.1:1", "web"));
        assert!(next.is_some());
    }

    #[test]
    fn a_lone_refusal_is_one_line() {
        let mut repeats = Repeats::default();
        assert!(repeats.admit(refusal(0, "10.0.0.1:1", "web")).is_some());
        assert_eq!(repeats.expire(1_000), []);
        assert!(repeats.0.is_empty());
    }

    #[test]
    fn a_peer_with_many_different_refusals_does_not_hide_those_of_others() {
        let mut repeats = Repeats::default();
        for object in 0..1_000 {
            // The addresses are of one host.
            let peer = format!("[2001:db8::{object}]:1");
            let written = repeats.admit(refusal(0, &peer, &object.to_string()));
            assert_eq!(written.is_some(), object < OF_PEER, "{object}");
        }
        assert!(repeats.admit(refusal(0, "10.0.0.1:1", "web")).is_some());
        let joined = repeats.expire(1_000);
        assert_eq!(joined.len(), 1, "{joined:?}");
        assert_eq!((joined[0].count, joined[0].object.as_str()), (992, SEVERAL));
        assert!(joined[0].peer.is_some());
    }

    #[test]
    fn many_peers_use_a_bounded_number_of_lines() {
        let mut repeats = Repeats::default();
        let mut written = 0;
        for peer in 0..5_000_u32 {
            let peer = format!("10.{}.{}.1:1", peer >> 8, peer & 255);
            written += usize::from(repeats.admit(refusal(0, &peer, "web")).is_some());
        }
        assert_eq!(written, OF_ALL);
        assert!(repeats.0.len() <= OF_ALL + 1, "{}", repeats.0.len());
        let joined = repeats.expire(1_000);
        assert_eq!(joined.len(), 1);
        assert_eq!((joined[0].count, joined[0].peer), (4_936, None));
    }

    #[test]
    fn refusals_do_not_hide_who_reads_files_and_gets_tickets() {
        let mut repeats = Repeats::default();
        // Those of one host, and those of many.
        for object in 0..1_000 {
            repeats.admit(refusal(0, "10.0.0.1:1", &object.to_string()));
            repeats.admit(refusal(
                0,
                &format!("10.1.{}.{}:1", object >> 8, object & 255),
                "web",
            ));
        }
        let used = |event, object: usize| AuditEntry {
            event,
            principal: "operator/alice".to_owned(),
            ..refusal(0, "10.0.0.1:1", &object.to_string())
        };
        for event in [AuditEvent::FilesRead, AuditEvent::TicketIssued] {
            let entry = used(event, 0);
            assert_eq!(repeats.admit(entry.clone()), Some(entry));
        }
        // Uses are bounded, too, and do not hide refusals.
        let mut repeats = Repeats::default();
        for object in 0..1_000 {
            let written = repeats.admit(used(AuditEvent::FilesRead, object));
            assert_eq!(written.is_some(), object < OF_PEER, "{object}");
        }
        assert!(repeats.admit(refusal(0, "10.0.0.1:1", "web")).is_some());
    }

    #[test]
    fn commands_are_never_joined() {
        let mut repeats = Repeats::default();
        for _ in 0..10 {
            let entry = AuditEntry::new(0, AuditEvent::Exec);
            assert_eq!(repeats.admit(entry.clone()), Some(entry));
        }
        assert!(repeats.0.is_empty());
    }

    #[test]
    fn a_clock_that_is_set_back_ends_a_window() {
        let mut repeats = Repeats::default();
        repeats.admit(refusal(5_000, "10.0.0.1:1", "web"));
        repeats.admit(refusal(5_000, "10.0.0.1:1", "web"));
        assert_eq!(repeats.expire(10).len(), 1);
    }
}
