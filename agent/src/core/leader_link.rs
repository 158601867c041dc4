//! The state of the one link to the leader: its times, its pings, and the next attempt to connect.

use std::collections::VecDeque;

use argosy_state::ids::Timestamp;

/// Timeout of a master's reply to a hello, in milliseconds: after an election agents are queued.
const REGISTRATION_MS: u64 = 10_000;
/// The shortest silence that ends a link, in milliseconds.
const SILENCE_MINIMUM_MS: u64 = 1_000;
/// Heartbeat intervals of silence that end a link.
const SILENCE_INTERVALS: u64 = 3;
/// Bounds of the heartbeat interval that a master may set, in milliseconds.
const HEARTBEAT_RANGE_MS: std::ops::RangeInclusive<u64> = 10..=60_000;
/// Backoff between dials, in milliseconds: doubled up to the longest. The core adds up to half of
/// it as jitter.
const DIAL_MIN_MS: u64 = 10;
const DIAL_MAX_MS: u64 = 1_000;
/// Unanswered pings remembered; older ones can no longer renew a lease.
const MAX_PINGS: usize = 64;

/// One stream to a master.
#[derive(Debug)]
struct Link {
    serial: u64,
    registered: bool,
    /// The time at which its hello was made.
    hello_at: Timestamp,
    interval_ms: u64,
    received_at: Timestamp,
    ping_at: Timestamp,
    ping_serial: u64,
    pings: VecDeque<(u64, Timestamp)>,
}

impl Link {
    fn new(serial: u64, now: Timestamp, hello_at: Timestamp) -> Self {
        Self {
            serial,
            registered: false,
            hello_at,
            interval_ms: REGISTRATION_MS / SILENCE_INTERVALS,
            received_at: now,
            ping_at: now,
            ping_serial: 0,
            pings: VecDeque::new(),
        }
    }

    fn timeout_at(&self) -> Timestamp {
        let timeout_ms = (SILENCE_INTERVALS * self.interval_ms).max(SILENCE_MINIMUM_MS);
        self.received_at.plus_ms(timeout_ms)
    }

    fn deadline(&self) -> Timestamp {
        if self.registered {
            self.ping_at.min(self.timeout_at())
        } else {
            self.timeout_at()
        }
    }

    fn ping(&mut self, now: Timestamp) -> u64 {
        self.ping_serial += 1;
        self.ping_at = now.plus_ms(self.interval_ms);
        self.pings.push_back((self.ping_serial, now));
        if self.pings.len() > MAX_PINGS {
            self.pings.pop_front();
        }
        self.ping_serial
    }
}

/// The state of the next connection attempt.
#[derive(Debug, Default)]
struct DialState {
    failures: u32,
    is_dialing: bool,
    /// The time at which the hello was made: nothing that follows can be older.
    at: Timestamp,
}

/// A step that is due on a link.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum LinkStep {
    /// End it: the master has been silent for too long.
    Close { serial: u64, silence_ms: u64 },
    /// Send a ping.
    Ping { serial: u64, ping: u64 },
}

/// The link to the leader, and what is known about earlier ones.
#[derive(Debug, Default)]
pub(super) struct LeaderLink {
    link: Option<Link>,
    /// The send time of the newest message that an active leader has answered, over any link;
    /// `None` before the first one in this run of the process.
    acked_at: Option<Timestamp>,
    dial: DialState,
    /// Whether this process has put a new incarnation into the identity.
    has_incarnation: bool,
}

impl LeaderLink {
    /// Begins an attempt to connect. Returns false if there is one, or a link.
    pub(super) fn begin_dial(&mut self) -> bool {
        let begins = !self.dial.is_dialing && self.link.is_none();
        self.dial.is_dialing |= begins;
        begins
    }

    /// Records that the hello of the next link was made.
    pub(super) fn hello_made(&mut self, now: Timestamp) {
        self.dial.at = now;
    }

    pub(super) fn dial_failed(&mut self) {
        self.dial.is_dialing = false;
    }

    /// Returns the wait before the next attempt to connect, in milliseconds, without jitter.
    pub(super) fn backoff_ms(&mut self) -> u64 {
        let longest = DIAL_MIN_MS << self.dial.failures.min(10);
        self.dial.failures = self.dial.failures.saturating_add(1);
        longest.min(DIAL_MAX_MS)
    }

    pub(super) fn connected(&mut self, serial: u64, now: Timestamp) {
        self.dial.is_dialing = false;
        self.link = Some(Link::new(serial, now, self.dial.at));
    }

    pub(super) fn is_open(&self, serial: u64) -> bool {
        self.link.as_ref().is_some_and(|link| link.serial == serial)
    }

    /// Returns the number of the link, if a master has registered this agent on it.
    pub(super) fn registered(&self) -> Option<u64> {
        let link = self.link.as_ref().filter(|link| link.registered);
        link.map(|link| link.serial)
    }

    /// Records the arrival of a message. Returns whether this agent is registered on the link;
    /// `None` if that is not the present one.
    pub(super) fn receive(&mut self, serial: u64, now: Timestamp) -> Option<bool> {
        let link = self.open(serial)?;
        link.received_at = now;
        Some(link.registered)
    }

    /// Records a registration. Returns the time at which the hello of the link was made.
    pub(super) fn register(
        &mut self,
        serial: u64,
        interval_ms: u64,
        now: Timestamp,
    ) -> Option<Timestamp> {
        self.dial.failures = 0;
        let link = self.open(serial)?;
        link.registered = true;
        link.interval_ms =
            interval_ms.clamp(*HEARTBEAT_RANGE_MS.start(), *HEARTBEAT_RANGE_MS.end());
        link.ping_at = now.plus_ms(link.interval_ms);
        Some(link.hello_at)
    }

    /// Returns the send time of the newest ping up to this one that was not answered yet.
    pub(super) fn pong(&mut self, serial: u64, answered: u64) -> Option<Timestamp> {
        let link = self.open(serial)?;
        let mut sent = None;
        while let Some((_, at)) = link.pings.pop_front_if(|(ping, _)| *ping <= answered) {
            sent = Some(at);
        }
        sent
    }

    /// Records that an active leader has answered a message sent at this time. Returns the newest
    /// such time.
    pub(super) fn answered(&mut self, sent_at: Timestamp) -> Timestamp {
        *self
            .acked_at
            .insert(self.acked_at.map_or(sent_at, |known| known.max(sent_at)))
    }

    pub(super) fn acked_at(&self) -> Option<Timestamp> {
        self.acked_at
    }

    /// Returns the step that is due now.
    pub(super) fn due_step(&mut self, now: Timestamp) -> Option<LinkStep> {
        let link = self.link.as_mut()?;
        let serial = link.serial;
        if link.timeout_at() <= now {
            let silence_ms = now.since_ms(link.received_at);
            return Some(LinkStep::Close { serial, silence_ms });
        }
        let is_due = link.registered && link.ping_at <= now;
        is_due.then(|| LinkStep::Ping {
            serial,
            ping: link.ping(now),
        })
    }

    pub(super) fn close(&mut self) {
        self.link = None;
    }

    /// Returns the next deadline.
    pub(super) fn deadline(&self) -> Option<Timestamp> {
        self.link.as_ref().map(Link::deadline)
    }

    /// Whether the identity needs a new incarnation; only the first call returns true.
    pub(super) fn needs_incarnation(&mut self) -> bool {
        !std::mem::replace(&mut self.has_incarnation, true)
    }

    /// Makes the next hello have a new incarnation.
    pub(super) fn forget_incarnation(&mut self) {
        self.has_incarnation = false;
    }

    fn open(&mut self, serial: u64) -> Option<&mut Link> {
        self.link.as_mut().filter(|link| link.serial == serial)
    }
}
