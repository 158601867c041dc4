//! The rule by which a follower suspects that its leader is lost. Decisions only: no clock, no
//! network.
//!
//! A silence counts only while the follower's own timer fires on time: a process without processor
//! time has not read the messages that arrived. The required silence grows with the pauses between
//! messages that this machine has recently observed. openraft's own timeout elects later in any
//! case, so a suspicion only ever shortens a failover.

use std::time::Duration;

use tokio::time::Instant;

use crate::settings::Timing;

/// The additional wait of each next rank, so that two followers do not request an election at the
/// same time.
const RANK_DELAY: Duration = Duration::from_millis(40);
/// A leader is suspected after this many times the longest pause between two of its messages.
const PAUSE_FACTOR: u32 = 2;
/// Pauses are remembered for one to two of these.
const PAUSE_WINDOW: Duration = Duration::from_secs(30);

/// One firing of the follower's timer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tick {
    /// The time at which it should have fired.
    pub(crate) due: Instant,
    /// The time at which it fired.
    pub(crate) now: Instant,
    /// The term of the leader that this node follows.
    pub(crate) term: Option<u64>,
    /// The time at which the newest message of that leader arrived.
    pub(crate) last_contact: Option<Instant>,
}

/// The observations that one follower has made of its leader and of its own timer.
#[derive(Debug)]
pub(crate) struct Suspicion {
    min_timeout: Duration,
    heartbeat: Duration,
    term: Option<u64>,
    last_contact: Option<Instant>,
    /// The start of countable silence: before it, the leader was not known yet, or the timer fired
    /// late.
    silent_from: Option<Instant>,
    last_tick: Option<Instant>,
    pauses: Pauses,
    has_requested_election: bool,
}

impl Suspicion {
    pub(crate) fn new(timing: Timing) -> Suspicion {
        Suspicion {
            min_timeout: Duration::from_millis(timing.silence_ms),
            heartbeat: Duration::from_millis(timing.heartbeat_ms),
            term: None,
            last_contact: None,
            silent_from: None,
            last_tick: None,
            pauses: Pauses::default(),
            has_requested_election: false,
        }
    }

    /// Returns the interval of the timer.
    pub(crate) fn period(&self) -> Duration {
        self.heartbeat / 3
    }

    /// Records a firing of the timer.
    pub(crate) fn tick(&mut self, tick: Tick) {
        let Tick {
            due,
            now,
            term,
            last_contact: heard,
        } = tick;
        if self.term != term {
            (self.term, self.silent_from, self.has_requested_election) = (term, Some(now), false);
        } else if let (Some(former), Some(heard)) = (self.last_contact, heard)
            && heard > former
        {
            self.pauses.record(now, heard - former);
            self.has_requested_election = false;
        }
        self.last_contact = heard;
        if now.saturating_duration_since(due) > self.period() {
            self.silent_from = Some(now);
        }
        self.last_tick = Some(now);
    }

    /// Returns how long the leader has been silent while the timer of this node was on time.
    /// `last_contact` is as in a tick, but may be newer.
    fn silence(&self, now: Instant, last_contact: Option<Instant>) -> Duration {
        let is_late = |ticked| now.saturating_duration_since(ticked) > 2 * self.period();
        let from = self.silent_from.max(last_contact);
        match from.filter(|_| !self.last_tick.is_none_or(is_late)) {
            Some(from) => now.saturating_duration_since(from),
            None => Duration::ZERO,
        }
    }

    /// Returns how long a leader may be silent.
    pub(crate) fn timeout(&self) -> Duration {
        self.min_timeout.max(PAUSE_FACTOR * self.pauses.longest())
    }

    /// Returns whether this node, of this rank among the other voters, requests an election at the
    /// newest tick.
    pub(crate) fn requests_election(&self, rank: u32) -> bool {
        let now = self.last_tick.filter(|_| self.term.is_some());
        now.is_some_and(|now| {
            self.silence(now, self.last_contact) >= self.timeout() + RANK_DELAY * rank
        })
    }

    /// Returns whether this node agrees with another voter that suspects the leader. The last
    /// heartbeat may have reached this node one interval later.
    pub(crate) fn supports(&self, now: Instant, last_contact: Option<Instant>) -> bool {
        let timeout = self.timeout().saturating_sub(self.heartbeat);
        self.term.is_some() && self.silence(now, last_contact) >= timeout
    }

    /// Records that this node asks the other voters, or has been rejected.
    pub(crate) fn set_asking(&mut self, is_asking: bool) {
        self.has_requested_election = is_asking;
    }

    /// Returns whether this node is asking, or has requested an election in this term: it then
    /// supports no voter of a higher id.
    pub(crate) fn has_requested_election(&self) -> bool {
        self.has_requested_election
    }
}

/// The longest recent pause between two messages of a leader.
#[derive(Debug, Default)]
struct Pauses {
    longest: Duration,
    previous: Duration,
    since: Option<Instant>,
}

impl Pauses {
    fn record(&mut self, now: Instant, pause: Duration) {
        let since = *self.since.get_or_insert(now);
        let age = now.saturating_duration_since(since);
        if age >= PAUSE_WINDOW {
            let kept = if age < 2 * PAUSE_WINDOW {
                self.longest
            } else {
                Duration::ZERO
            };
            (self.previous, self.longest, self.since) = (kept, Duration::ZERO, Some(now));
        }
        self.longest = self.longest.max(pause);
    }

    fn longest(&self) -> Duration {
        self.longest.max(self.previous)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A follower whose timer and leader the test drives. Times are in milliseconds.
    struct Follower {
        start: Instant,
        suspicion: Suspicion,
        term: u64,
        heard: Option<u64>,
    }

    impl Follower {
        /// Creates a follower that follows the leader of term 1 from 0 on.
        fn new() -> Follower {
            let mut follower = Follower {
                start: Instant::now(),
                suspicion: Suspicion::new(Timing::lan()),
                term: 1,
                heard: None,
            };
            follower.tick(0, 0);
            follower
        }

        fn at(&self, ms: u64) -> Instant {
            self.start + Duration::from_millis(ms)
        }

        /// Fires the timer, due at `due`, at `now`.
        fn tick(&mut self, due: u64, now: u64) {
            let tick = Tick {
                due: self.at(due),
                now: self.at(now),
                term: Some(self.term),
                last_contact: self.heard.map(|heard| self.at(heard)),
            };
            self.suspicion.tick(tick);
        }

        /// Fires the timer on time from `from` to `to`, with a message of the leader at each time
        /// that `heard` accepts.
        fn run(&mut self, from: u64, to: u64, heard: impl Fn(u64) -> bool) {
            for now in (from..=to).step_by(20) {
                if heard(now) {
                    self.heard = Some(now);
                }
                self.tick(now, now);
            }
        }

        fn agrees(&self, now: u64) -> bool {
            let heard = self.heard.map(|heard| self.at(heard));
            self.suspicion.supports(self.at(now), heard)
        }
    }

    fn every(interval: u64) -> impl Fn(u64) -> bool {
        move |now| now.is_multiple_of(interval)
    }

    fn never(_: u64) -> bool {
        false
    }

    #[test]
    fn a_leader_is_suspected_after_four_silent_heartbeats_by_higher_ranks_later() {
        let mut follower = Follower::new();
        follower.run(20, 600, every(60));
        follower.run(620, 820, never);
        assert!(!follower.suspicion.requests_election(0) && follower.agrees(820));
        follower.run(840, 840, never);
        assert!(
            follower.suspicion.requests_election(0) && !follower.suspicion.requests_election(1)
        );
        follower.run(860, 880, never);
        assert!(
            follower.suspicion.requests_election(1) && !follower.suspicion.requests_election(2)
        );
        follower.run(900, 900, |_| true);
        assert!(!follower.suspicion.requests_election(0) && !follower.agrees(900));
    }

    #[test]
    fn follower_supports_one_heartbeat_before_it_requests() {
        let mut follower = Follower::new();
        follower.run(20, 600, every(60));
        follower.run(620, 760, never);
        assert!(!follower.agrees(779) && follower.agrees(780));
        // A message that has arrived since the newest tick counts.
        follower.heard = Some(770);
        assert!(!follower.agrees(780));
    }

    #[test]
    fn silence_is_ignored_while_the_timer_is_late() {
        let mut follower = Follower::new();
        follower.run(20, 600, every(60));
        for due in (800..10_000).step_by(200) {
            follower.run(due - 180, due - 20, never);
            follower.tick(due, due + 21);
            assert!(!follower.suspicion.requests_election(0) && !follower.agrees(due + 21));
        }
        follower.run(10_020, 10_240, never);
        assert!(follower.suspicion.requests_election(0), "on time again");
    }

    #[test]
    fn follower_with_an_overdue_timer_supports_no_election() {
        let mut follower = Follower::new();
        follower.run(20, 600, every(60));
        follower.run(620, 800, never);
        assert!(follower.agrees(840) && !follower.agrees(841));
    }

    #[test]
    fn a_long_pause_extends_the_allowed_silence_for_a_minute() {
        let mut follower = Follower::new();
        follower.run(20, 1_800, every(180));
        assert_eq!(follower.suspicion.timeout(), Duration::from_millis(360));
        follower.run(1_820, 29_000, every(20));
        assert_eq!(follower.suspicion.timeout(), Duration::from_millis(360));
        follower.run(29_020, 62_000, every(20));
        assert_eq!(follower.suspicion.timeout(), Duration::from_millis(240));
    }

    #[test]
    fn the_time_between_two_leaders_does_not_count_as_a_pause() {
        let mut follower = Follower::new();
        follower.run(20, 600, every(60));
        follower.run(620, 900, never);
        assert!(follower.suspicion.requests_election(0));
        (follower.term, follower.heard) = (2, None);
        follower.run(920, 920, never);
        assert!(
            !follower.suspicion.requests_election(0),
            "the new leader is known since now"
        );
        follower.run(940, 2_000, every(60));
        assert_eq!(follower.suspicion.timeout(), Duration::from_millis(240));
        follower.run(2_020, 2_240, never);
        assert!(follower.suspicion.requests_election(0));
    }

    #[test]
    fn contact_with_the_leader_ends_the_request() {
        let mut follower = Follower::new();
        follower.run(20, 60, every(60));
        follower.run(80, 300, never);
        follower.suspicion.set_asking(true);
        follower.run(320, 340, never);
        assert!(follower.suspicion.has_requested_election());
        follower.run(360, 360, every(60));
        assert!(!follower.suspicion.has_requested_election());
    }

    #[test]
    fn node_without_a_leader_requests_no_election() {
        let mut suspicion = Suspicion::new(Timing::lan());
        let now = Instant::now();
        let tick = |now| Tick {
            due: now,
            now,
            term: None,
            last_contact: None,
        };
        suspicion.tick(tick(now));
        let later = now + Duration::from_secs(10);
        suspicion.tick(tick(later));
        assert!(!suspicion.requests_election(0) && !suspicion.supports(later, None));
    }
}
