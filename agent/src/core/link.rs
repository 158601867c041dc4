//! The one link to the leader: hello, fencing, registration, heartbeats and redials.

use std::collections::VecDeque;

use argosy_state::ids::{Epoch, Timestamp};
use argosy_state::planted_bug;

use super::effect::LinkEffect;
use super::facts::{AgentIdentity, JournalRecord};
use super::messages::{
    AgentMessage, Hello, MasterMessage, MasterMessageBody, Registration, VersionConflict,
};
use super::{Core, DeferredStep, SyncMode};

/// Timeout of a master's reply to a hello, in milliseconds: after an election agents are queued.
const REGISTRATION_MS: u64 = 10_000;
/// The shortest silence that ends a link, in milliseconds.
const SILENCE_MINIMUM_MS: u64 = 1_000;
/// Heartbeat intervals of silence that end a link.
const SILENCE_INTERVALS: u64 = 3;
/// Bounds of the heartbeat interval that a master may set, in milliseconds.
const HEARTBEAT_RANGE_MS: std::ops::RangeInclusive<u64> = 10..=60_000;
/// Backoff between dials, in milliseconds: doubled up to the longest, plus up to half of it as
/// jitter.
const DIAL_MIN_MS: u64 = 10;
const DIAL_MAX_MS: u64 = 1_000;
/// The backoff after a rejection, in milliseconds: only an operator can resolve one.
const DIAL_REFUSED_MS: u64 = 5_000;
/// The code by which a leader rejects an agent that has seen a later epoch. Usually that leader was
/// replaced and does not know it yet, so the agent tries another master as soon as after a broken
/// link.
const EPOCH_ABOVE: &str = "epoch-above";
/// Unanswered pings remembered; older ones can no longer renew a lease.
const MAX_PINGS: usize = 64;
/// Incarnations remembered until one is confirmed; the oldest is dropped.
const MAX_UNCONFIRMED: usize = 1_000;

/// One stream to a master.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) serial: u64,
    pub(super) registered: bool,
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

    pub(super) fn deadline(&self) -> Timestamp {
        if self.registered {
            self.ping_at.min(self.timeout_at())
        } else {
            self.timeout_at()
        }
    }
}

/// The state of the next connection attempt.
#[derive(Debug, Default)]
pub(super) struct DialState {
    failures: u32,
    is_dialing: bool,
    /// The time at which the hello was made: nothing that follows can be older.
    at: Timestamp,
}

impl Core {
    pub(super) fn connected(&mut self, serial: u64) {
        self.dial.is_dialing = false;
        self.link = Some(Link::new(serial, self.now, self.dial.at));
    }

    /// Adds a new incarnation. It is on disk before it is sent to a master.
    fn add_incarnation(&mut self) {
        if self.has_incarnation {
            return;
        }
        let mut identity = self.facts.identity.clone();
        identity.unconfirmed.push(self.random.name());
        if identity.unconfirmed.len() > MAX_UNCONFIRMED {
            identity.unconfirmed.remove(0);
        }
        self.has_incarnation = true;
        self.persist(JournalRecord::Identity(identity), SyncMode::Awaited);
    }

    pub(super) fn dial_now(&mut self, after_ms: u64) {
        let identity = &self.facts.identity;
        let hello = Hello {
            cluster: identity.cluster,
            agent: identity.agent,
            confirmed: identity.confirmed,
            unconfirmed: identity.unconfirmed.clone(),
            nonce: identity.nonce,
            boot_id: self.config.boot_id.clone(),
            highest_epoch: planted_bug!(EpochNotChecked, identity.epoch, Epoch(0)),
            info: self.config.info.clone(),
            floor: self.facts.floor,
            digests: self.facts.digests,
        };
        self.dial.at = self.now;
        self.effects.push(LinkEffect::Dial {
            after_ms,
            hello: Box::new(hello),
        });
    }

    pub(super) fn send_message(&mut self, serial: u64, message: AgentMessage) {
        if self.link.as_ref().is_some_and(|link| link.serial == serial) {
            self.effects.push(LinkEffect::Send {
                link: serial,
                message: Box::new(message),
            });
        }
    }

    pub(super) fn message(&mut self, serial: u64, message: MasterMessage) {
        let Some(link) = self.link.as_mut().filter(|link| link.serial == serial) else {
            return;
        };
        link.received_at = self.now;
        let registered = link.registered;
        if let MasterMessageBody::Refused { code, text } = &message.body {
            let why = format!("the master refuses this agent ({code}): {text}");
            return self.reject_link(serial, why, code);
        }
        if let Err(why) = self.fence(&message) {
            self.close_link(serial, why);
            return;
        }
        match message.body {
            MasterMessageBody::Registered(answer) => self.registered(serial, answer),
            MasterMessageBody::Shutdown { reason } => self.shutdown(serial, &reason),
            MasterMessageBody::Refused { .. } => {}
            MasterMessageBody::Unknown => {
                self.close_link(serial, "a master sent a message of an unknown kind".into());
            }
            _ if !registered => {
                self.close_link(
                    serial,
                    "a master sent a message before it had registered this agent".into(),
                );
            }
            MasterMessageBody::Order(order) => self.order(serial, *order),
            MasterMessageBody::Committed(updates) => self.committed(updates),
            MasterMessageBody::Pong { serial: ping } => self.pong(serial, ping),
            MasterMessageBody::ListTasks => self.list_tasks(serial),
            MasterMessageBody::KillStray { key, order } => self.kill_orphan(key.as_ref(), order),
            MasterMessageBody::ExecutorMessage { executor, data } => {
                self.pass_to_executor(executor.as_ref(), data);
            }
        }
    }

    /// Accepts only messages of this agent's cluster and of no earlier epoch. A higher epoch is on
    /// disk before the message has any effect: its effects are deferred behind this record.
    fn fence(&mut self, message: &MasterMessage) -> Result<(), String> {
        let named = message.cluster.as_ref();
        let reported = *named.map_err(|error| format!("a master named no cluster: {error}"))?;
        let identity = &self.facts.identity;
        if let Some(own) = identity.cluster.filter(|own| *own != reported) {
            return Err(format!(
                "refused: the master is of cluster {reported}, this agent belongs to {own}: \
                 empty its --data-dir, or give it the right --masters"
            ));
        }
        let epoch = message.epoch;
        if epoch < identity.epoch && !planted_bug!(EpochNotChecked) {
            return Err(format!(
                "refused: epoch {} has ended, epoch {} was seen",
                epoch.0, identity.epoch.0
            ));
        }
        if epoch > identity.epoch || identity.cluster.is_none() {
            let identity = AgentIdentity {
                cluster: Some(reported),
                epoch,
                ..identity.clone()
            };
            let sync = planted_bug!(EpochNotSynced, SyncMode::Awaited, SyncMode::Lazy);
            self.persist(JournalRecord::Identity(identity), sync);
        }
        Ok(())
    }

    fn registered(&mut self, serial: u64, answer: Registration) {
        if let Some(VersionConflict { code, text }) = answer.version_conflict {
            let why = format!("this agent refuses the master ({code}): {text}");
            return self.reject_link(serial, why, code);
        }
        let agent = match answer.agent {
            Ok(agent) => agent,
            Err(text) => {
                let why = format!("registered under no agent id: {text:?}");
                return self.close_link(serial, why);
            }
        };
        let identity = &self.facts.identity;
        if let Some(own) = identity.agent.filter(|own| *own != agent) {
            self.close_link(serial, format!("{own} was registered as {agent}"));
            return;
        }
        let confirmed = identity
            .unconfirmed
            .iter()
            .position(|tried| *tried == answer.incarnation);
        let next = AgentIdentity {
            agent: Some(agent),
            confirmed: answer.incarnation,
            unconfirmed: identity.unconfirmed[confirmed.map_or(0, |at| at + 1)..].to_vec(),
            ..identity.clone()
        };
        if next != *identity {
            self.persist(JournalRecord::Identity(next), SyncMode::Awaited);
        }
        if let Some(link) = self.link.as_mut().filter(|link| link.serial == serial) {
            link.registered = true;
            link.interval_ms = answer
                .heartbeat_interval_ms
                .clamp(*HEARTBEAT_RANGE_MS.start(), *HEARTBEAT_RANGE_MS.end());
            link.ping_at = self.now.plus_ms(link.interval_ms);
            let hello_at = link.hello_at;
            self.answered(hello_at);
        }
        self.dial.failures = 0;
        self.when_durable(DeferredStep::Registered(serial));
        self.resend_updates();
    }

    /// Ends a link over which agent and master cannot work.
    fn reject_link(&mut self, serial: u64, why: String, code: &str) {
        self.link = None;
        self.effects.push(LinkEffect::Hangup { link: serial, why });
        match code == EPOCH_ABOVE {
            true => self.reset_dial(),
            false => self.dial_after(DIAL_REFUSED_MS),
        }
    }

    fn pong(&mut self, serial: u64, answered: u64) {
        let Some(link) = self.link.as_mut().filter(|link| link.serial == serial) else {
            return;
        };
        let mut sent = None;
        while let Some((_, at)) = link.pings.pop_front_if(|(ping, _)| *ping <= answered) {
            sent = Some(at);
        }
        if let Some(at) = sent {
            self.answered(at);
        }
    }

    /// Records that an active leader has answered a message sent at this time.
    fn answered(&mut self, sent_at: Timestamp) {
        let acked_at = self.acked_at.map_or(sent_at, |known| known.max(sent_at));
        self.acked_at = Some(acked_at);
        self.when_durable(DeferredStep::Renew(acked_at));
    }

    pub(super) fn check_link(&mut self) {
        let Some(link) = self.link.as_mut() else {
            return;
        };
        let serial = link.serial;
        if link.timeout_at() <= self.now {
            let silence_ms = self.now.since_ms(link.received_at);
            self.close_link(
                serial,
                format!("no message from the master for {silence_ms} ms"),
            );
        } else if link.registered && link.ping_at <= self.now {
            link.ping_serial += 1;
            let ping = link.ping_serial;
            link.ping_at = self.now.plus_ms(link.interval_ms);
            link.pings.push_back((ping, self.now));
            if link.pings.len() > MAX_PINGS {
                link.pings.pop_front();
            }
            self.send_message(serial, AgentMessage::Ping { serial: ping });
        }
    }

    pub(super) fn close_link(&mut self, serial: u64, why: String) {
        self.link = None;
        self.effects.push(LinkEffect::Hangup { link: serial, why });
        self.reset_dial();
    }

    pub(super) fn disconnected(&mut self, serial: u64, why: &str) {
        if self.link.as_ref().is_some_and(|link| link.serial == serial) {
            self.close_link(serial, why.to_owned());
        }
    }

    pub(super) fn dial_again(&mut self) {
        self.dial.is_dialing = false;
        self.reset_dial();
    }

    fn reset_dial(&mut self) {
        let longest = DIAL_MIN_MS << self.dial.failures.min(10);
        let wait_ms = longest.min(DIAL_MAX_MS);
        self.dial.failures = self.dial.failures.saturating_add(1);
        let jitter_ms = self.random.below(wait_ms / 2 + 1);
        self.dial_after(wait_ms + jitter_ms);
    }

    /// Dials once the previous run is resolved: containers of an earlier run are found, and those
    /// of a former agent id are removed, since their resources count as free.
    pub(super) fn dial_after(&mut self, after_ms: u64) {
        let knows_all = self.is_recovered();
        let is_empty = self.instances.is_empty() && self.executors.is_empty();
        let fresh = self.facts.identity.agent.is_some() || is_empty;
        if knows_all && fresh && !self.dial.is_dialing && self.link.is_none() {
            self.dial.is_dialing = true;
            self.add_incarnation();
            self.when_durable(DeferredStep::Dial(after_ms));
        }
    }

    pub(super) fn dial_if_clear(&mut self) {
        self.dial_after(0);
    }
}
