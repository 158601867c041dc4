//! The search for a master that answers: which master to call next, and the last failure of each.
//!
//! Pure: no IO and no clock; the jitter comes from a given seed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

use crate::masters::Masters;

/// Minimum pause between two rounds over all masters, in milliseconds.
const FIRST_PAUSE_MS: u64 = 20;
/// Maximum pause between two rounds, in milliseconds.
const LONGEST_PAUSE_MS: u64 = 1_000;

/// The reason for which one master could not serve the call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MasterFailure {
    /// No process listens at the address.
    Refused,
    /// No answer within this number of milliseconds.
    TimedOut(u64),
    /// The host name cannot be resolved; the text gives the reason.
    NoHost(String),
    /// The process at the address is not trusted, or does not trust this one; the text gives the
    /// reason.
    Untrusted(String),
    /// The connection ended before the answer.
    Broken(String),
    /// The master answers, but cannot serve now, for example because it knows no leader.
    Unavailable(String),
    /// The master has no capacity for the call, or the caller has used up its own.
    Busy(String),
}

impl fmt::Display for MasterFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("refused"),
            Self::TimedOut(ms) if ms % 1_000 == 0 => write!(f, "timed out after {} s", ms / 1_000),
            Self::TimedOut(ms) => write!(f, "timed out after {ms} ms"),
            Self::NoHost(text) => write!(f, "is no known host ({text})"),
            Self::Untrusted(text) => write!(f, "is not trusted ({text})"),
            Self::Broken(text) => write!(f, "broke off ({text})"),
            Self::Unavailable(text) if text.is_empty() => f.write_str("cannot serve the call"),
            Self::Unavailable(text) => write!(f, "cannot serve the call ({text})"),
            Self::Busy(text) => write!(f, "does not accept the call now ({text})"),
        }
    }
}

/// No master on the list could serve; one cause for each address.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NoMaster {
    /// The newest cause of each address, in the order of the list.
    pub causes: Vec<(String, MasterFailure)>,
}

impl NoMaster {
    /// Returns whether some master answers, but cannot serve the call now: as a rule, there is no
    /// leader with a quorum.
    #[must_use]
    pub fn some_answered(&self) -> bool {
        let mut causes = self.causes.iter();
        causes.any(|(_, cause)| matches!(cause, MasterFailure::Unavailable(_)))
    }

    /// Returns whether some master has refused the call because it, or the caller, has reached a
    /// limit. Nothing is known about the leader then.
    #[must_use]
    pub fn some_busy(&self) -> bool {
        let mut causes = self.causes.iter();
        causes.any(|(_, cause)| matches!(cause, MasterFailure::Busy(_)))
    }

    /// Returns whether an identity was rejected, that of a master or that of this process.
    #[must_use]
    pub fn some_untrusted(&self) -> bool {
        let mut causes = self.causes.iter();
        causes.any(|(_, cause)| matches!(cause, MasterFailure::Untrusted(_)))
    }

    /// Returns whether no called master can be used: each has refused the connection, has no known
    /// host, or has failed to prove its identity or rejected that of this process. Nothing is known
    /// of a master that does not answer in time.
    #[must_use]
    pub fn none_listens(&self) -> bool {
        let is_final = |cause: &MasterFailure| match cause {
            MasterFailure::Refused | MasterFailure::NoHost(_) | MasterFailure::Untrusted(_) => true,
            MasterFailure::TimedOut(_)
            | MasterFailure::Broken(_)
            | MasterFailure::Unavailable(_)
            | MasterFailure::Busy(_) => false,
        };
        !self.causes.is_empty() && self.causes.iter().all(|(_, cause)| is_final(cause))
    }
}

impl fmt::Display for NoMaster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.causes.is_empty() {
            return f.write_str("no master was called in time");
        }
        f.write_str(if self.some_answered() {
            "no leader answers: "
        } else if self.some_busy() {
            "no master accepts the call: "
        } else {
            "no master answers: "
        })?;
        for (at, (address, cause)) in self.causes.iter().enumerate() {
            let comma = if at > 0 { ", " } else { "" };
            write!(f, "{comma}{address} {cause}")?;
        }
        Ok(())
    }
}

impl std::error::Error for NoMaster {}

/// The next step of a search.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LeaderSearchStep {
    /// Call this address.
    Call(String),
    /// All were called: wait this number of milliseconds, then continue.
    Pause(u64),
}

/// One search: rounds over the list with growing pauses between them. The likeliest address comes
/// first, and masters that have never answered come last.
#[derive(Debug)]
pub(crate) struct LeaderSearch {
    masters: Vec<String>,
    queue: VecDeque<String>,
    called: Vec<String>,
    rounds: u32,
    causes: BTreeMap<String, MasterFailure>,
    likely_leader: Option<String>,
    called_last: BTreeSet<String>,
    pause_ms: u64,
    random: u64,
}

impl LeaderSearch {
    pub(crate) fn new(
        masters: &Masters,
        likely: Option<String>,
        last: BTreeSet<String>,
        seed: u64,
    ) -> Self {
        let mut search = Self {
            masters: masters.addresses().to_vec(),
            queue: VecDeque::new(),
            called: Vec::new(),
            rounds: 0,
            causes: BTreeMap::new(),
            likely_leader: likely,
            called_last: last,
            pause_ms: FIRST_PAUSE_MS,
            random: seed,
        };
        search.begin_round();
        search
    }

    /// Returns whether there may be masters that have not been called yet.
    pub(crate) fn is_first_round(&self) -> bool {
        self.rounds == 1
    }

    fn begin_round(&mut self) {
        self.rounds = self.rounds.saturating_add(1);
        self.called.clear();
        self.queue = self.masters.iter().cloned().collect();
        // If every client started with the first address, its master would carry the whole load.
        let start = next_random(&mut self.random) as usize % self.queue.len().max(1);
        self.queue.rotate_left(start);
        // A host that does not exist costs seconds.
        let last = &self.called_last;
        let queue = self.queue.make_contiguous();
        queue.sort_by_key(|address| last.contains(address));
        if let Some(likely) = self.likely_leader.clone() {
            self.put_first(likely);
        }
    }

    fn put_first(&mut self, address: String) {
        self.queue.retain(|queued| *queued != address);
        self.queue.push_front(address);
    }

    pub(crate) fn next(&mut self) -> LeaderSearchStep {
        if let Some(address) = self.queue.pop_front() {
            self.called.push(address.clone());
            return LeaderSearchStep::Call(address);
        }
        self.begin_round();
        let pause_ms = self.pause_ms;
        self.pause_ms = (pause_ms * 2).min(LONGEST_PAUSE_MS);
        let jitter = next_random(&mut self.random) % (pause_ms / 2 + 1);
        LeaderSearchStep::Pause(pause_ms / 2 + jitter)
    }

    /// Calls a newly reported leader next, even if it was called before it led.
    pub(crate) fn call_next(&mut self, leader: String) {
        self.likely_leader = Some(leader.clone());
        self.put_first(leader);
    }

    /// Records the failure of `address`: if its turn is still to come, all others are called first.
    /// A leader that it names is called next, once in each round.
    pub(crate) fn failed(&mut self, address: &str, cause: MasterFailure, hint: Option<String>) {
        self.causes.insert(address.to_owned(), cause);
        let queue = self.queue.make_contiguous();
        queue.sort_by_key(|queued| queued == address);
        if self.likely_leader.as_deref() == Some(address) {
            self.likely_leader = None;
        }
        if let Some(hint) = hint.filter(|hint| !self.called.contains(hint)) {
            self.likely_leader = Some(hint.clone());
            self.put_first(hint);
        }
    }

    /// Returns whether all masters of the list were called, and none listens.
    pub(crate) fn none_listens(&self) -> bool {
        let mut masters = self.masters.iter();
        masters.all(|address| self.causes.contains_key(address)) && self.causes().none_listens()
    }

    /// Returns the last failure of each address: first in the order of the list, then unlisted
    /// addresses that were hints.
    pub(crate) fn causes(&self) -> NoMaster {
        let listed = self.masters.iter();
        let hints = self
            .causes
            .keys()
            .filter(|key| !self.masters.contains(*key));
        let causes = listed
            .chain(hints)
            .filter_map(|address| Some((address.clone(), self.causes.get(address)?.clone())))
            .collect();
        NoMaster { causes }
    }
}

/// Returns the next number of a splitmix64 sequence: sufficient for jitter.
pub(crate) fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(likely: Option<&str>) -> LeaderSearch {
        let masters = "a:1,b:1,c:1".parse().unwrap();
        LeaderSearch::new(&masters, likely.map(str::to_owned), BTreeSet::new(), 7)
    }

    #[test]
    fn unresponsive_masters_are_called_last() {
        let masters = "a:1,b:1,c:1,d:1,e:1".parse().unwrap();
        for seed in 0..20 {
            let last = ["b:1", "d:1"].map(str::to_owned).into();
            let mut search = LeaderSearch::new(&masters, None, last, seed);
            let round: Vec<_> = (0..5).map(|_| ask(&mut search)).collect();
            let mut late = round[3..].to_vec();
            late.sort();
            assert_eq!(late, ["b:1", "d:1"], "{round:?}");
        }
    }

    fn ask(search: &mut LeaderSearch) -> String {
        match search.next() {
            LeaderSearchStep::Call(address) => address,
            LeaderSearchStep::Pause(ms) => panic!("paused for {ms} ms"),
        }
    }

    #[test]
    fn every_address_is_called_once_per_round_and_the_likely_leader_first() {
        let mut search = search(Some("b:1"));
        let mut round: Vec<_> = (0..3).map(|_| ask(&mut search)).collect();
        assert_eq!(round[0], "b:1");
        round.sort();
        assert_eq!(round, ["a:1", "b:1", "c:1"]);
        assert!(matches!(search.next(), LeaderSearchStep::Pause(_)));
        assert_eq!(ask(&mut search), "b:1");
    }

    #[test]
    fn a_named_leader_is_called_next_even_if_unlisted() {
        let mut search = search(Some("a:1"));
        let first = ask(&mut search);
        search.failed(
            &first,
            MasterFailure::Unavailable("no leader".into()),
            Some("d:1".into()),
        );
        assert_eq!(ask(&mut search), "d:1");
        // Two masters that name each other cannot prolong the search endlessly.
        search.failed("d:1", MasterFailure::Refused, Some("a:1".into()));
        let rest = [ask(&mut search), ask(&mut search)];
        assert!(rest.contains(&"b:1".into()) && rest.contains(&"c:1".into()));
        assert!(matches!(search.next(), LeaderSearchStep::Pause(_)));
    }

    #[test]
    fn a_new_leader_is_called_again_in_the_same_round() {
        let mut search = search(Some("a:1"));
        let first = ask(&mut search);
        search.failed(&first, MasterFailure::Unavailable("no leader".into()), None);
        search.call_next("a:1".into());
        let round: Vec<_> = (0..3).map(|_| ask(&mut search)).collect();
        assert_eq!(round[0], "a:1");
        assert!(matches!(search.next(), LeaderSearchStep::Pause(_)));
    }

    #[test]
    fn a_master_that_fails_before_its_turn_is_called_last() {
        for failed in ["a:1", "b:1", "c:1"] {
            let mut search = search(Some("a:1"));
            search.failed(failed, MasterFailure::Broken("reset".into()), None);
            let round: Vec<_> = (0..3).map(|_| ask(&mut search)).collect();
            assert_eq!(round[2], failed, "{round:?}");
            assert!(matches!(search.next(), LeaderSearchStep::Pause(_)));
        }
    }

    #[test]
    fn backoff_grows_to_a_second_and_has_jitter() {
        let mut search = search(None);
        let mut pauses = Vec::new();
        while pauses.len() < 12 {
            if let LeaderSearchStep::Pause(ms) = search.next() {
                pauses.push(ms);
            }
        }
        assert!(pauses[0] >= 10 && pauses[0] <= 20, "{pauses:?}");
        assert!(pauses[11] >= 500 && pauses[11] <= 1_000, "{pauses:?}");
    }

    #[test]
    fn only_masters_that_all_refuse_are_known_not_to_listen() {
        let mut search = search(None);
        search.failed("a:1", MasterFailure::Refused, None);
        search.failed("b:1", MasterFailure::NoHost("not known".into()), None);
        assert!(!search.none_listens(), "the third was not called yet");
        for (cause, expected) in [
            (MasterFailure::TimedOut(1_000), false),
            (MasterFailure::Broken("reset".into()), false),
            (MasterFailure::Unavailable("no leader".into()), false),
            (MasterFailure::Refused, true),
        ] {
            search.failed("c:1", cause.clone(), None);
            assert_eq!(search.none_listens(), expected, "{cause}");
        }
    }

    #[test]
    fn the_final_error_names_each_address_and_its_cause() {
        let mut search = search(None);
        let text = search.causes().to_string();
        assert_eq!(text, "no master was called in time");
        search.failed("b:1", MasterFailure::TimedOut(2_000), None);
        search.failed("a:1", MasterFailure::Refused, None);
        assert_eq!(
            search.causes().to_string(),
            "no master answers: a:1 refused, b:1 timed out after 2 s"
        );
        search.failed(
            "c:1",
            MasterFailure::Unavailable("no leader is known".into()),
            None,
        );
        assert_eq!(
            search.causes().to_string(),
            "no leader answers: a:1 refused, b:1 timed out after 2 s, c:1 cannot serve the call (no \
             leader is known)"
        );
    }
}
