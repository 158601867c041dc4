//! The one link to the leader: hello, fencing, registration, heartbeats and redials.

use argosy_state::ids::{Epoch, Timestamp};
use argosy_state::planted_bug;

use super::effect::LinkEffect;
use super::facts::{AgentIdentity, JournalRecord};
use super::leader_link::LinkStep;
use super::messages::{
    AgentMessage, Hello, MasterMessage, MasterMessageBody, Registration, VersionConflict,
};
use super::{Core, DeferredStep, SyncMode};

/// The backoff after a rejection, in milliseconds: only an operator can resolve one.
const DIAL_REFUSED_MS: u64 = 5_000;
/// The code by which a leader rejects an agent that has seen a later epoch. Usually that leader was
/// replaced and does not know it yet, so the agent tries another master as soon as after a broken
/// link.
const EPOCH_ABOVE: &str = "epoch-above";
/// Incarnations remembered until one is confirmed; the oldest is dropped.
const MAX_UNCONFIRMED: usize = 1_000;

impl Core {
    pub(super) fn connected(&mut self, serial: u64) {
        self.link.connected(serial, self.now);
    }

    /// Adds a new incarnation. It is on disk before it is sent to a master.
    fn add_incarnation(&mut self) {
        if !self.link.needs_incarnation() {
            return;
        }
        let mut identity = self.facts.identity.clone();
        identity.unconfirmed.push(self.random.name());
        if identity.unconfirmed.len() > MAX_UNCONFIRMED {
            identity.unconfirmed.remove(0);
        }
        self.persist(JournalRecord::Identity(identity), SyncMode::Awaited);
    }

    pub(super) fn dial_now(&mut self, after_ms: u64) {
        let identity = &self.facts.identity;
        let hello = Hello {
            cluster: identity.cluster,
            follows: self.confirmed_successor(),
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
        self.link.hello_made(self.now);
        self.effects.push(LinkEffect::Dial {
            after_ms,
            hello: Box::new(hello),
        });
    }

    pub(super) fn send_message(&mut self, serial: u64, message: AgentMessage) {
        if self.link.is_open(serial) {
            self.effects.push(LinkEffect::Send {
                link: serial,
                message: Box::new(message),
            });
        }
    }

    pub(super) fn message(&mut self, serial: u64, message: MasterMessage) {
        let Some(registered) = self.link.receive(serial, self.now) else {
            return;
        };
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
            MasterMessageBody::TaskSecrets(secrets) => self.secrets_arrived(secrets),
            MasterMessageBody::RevokedKeys(keys) => self.effects.push(LinkEffect::Revoke(keys)),
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
        let is_successor = self.confirmed_successor() == Some(reported);
        if is_successor && message.registers() {
            self.follow(reported, message.epoch);
            return Ok(());
        }
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
        self.ticket_keys = answer.ticket_keys;
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
        let interval_ms = answer.heartbeat_interval_ms;
        if let Some(hello_at) = self.link.register(serial, interval_ms, self.now) {
            self.answered(hello_at);
        }
        self.when_durable(DeferredStep::Registered(serial));
        self.resend_updates();
    }

    /// Ends a link over which agent and master cannot work.
    fn reject_link(&mut self, serial: u64, why: String, code: &str) {
        self.link.close();
        self.effects.push(LinkEffect::Hangup { link: serial, why });
        match code == EPOCH_ABOVE {
            true => self.reset_dial(),
            false => self.dial_after(DIAL_REFUSED_MS),
        }
    }

    fn pong(&mut self, serial: u64, answered: u64) {
        if let Some(at) = self.link.pong(serial, answered) {
            self.answered(at);
        }
    }

    /// Records that an active leader has answered a message sent at this time. Renews leases
    /// without waiting for the journal: a slow disk must not stop tasks of an agent with a leader.
    fn answered(&mut self, sent_at: Timestamp) {
        self.expire_deadlines();
        let acked_at = self.link.answered(sent_at);
        self.lease_renewed(acked_at);
    }

    pub(super) fn check_link(&mut self) {
        match self.link.due_step(self.now) {
            Some(LinkStep::Close { serial, silence_ms }) => {
                let why = format!("no message from the master for {silence_ms} ms");
                self.close_link(serial, why);
            }
            Some(LinkStep::Ping { serial, ping }) => {
                self.send_message(serial, AgentMessage::Ping { serial: ping });
            }
            None => {}
        }
    }

    pub(super) fn close_link(&mut self, serial: u64, why: String) {
        self.link.close();
        self.effects.push(LinkEffect::Hangup { link: serial, why });
        self.reset_dial();
    }

    pub(super) fn disconnected(&mut self, serial: u64, why: &str) {
        if self.link.is_open(serial) {
            self.close_link(serial, why.to_owned());
        }
    }

    pub(super) fn dial_again(&mut self) {
        self.link.dial_failed();
        self.reset_dial();
    }

    fn reset_dial(&mut self) {
        let wait_ms = self.link.backoff_ms();
        let jitter_ms = self.random.below(wait_ms / 2 + 1);
        self.dial_after(wait_ms + jitter_ms);
    }

    /// Dials once the previous run is resolved: containers of an earlier run are found, and those
    /// of a former agent id are removed, with the shared resources of their groups, since all of
    /// these count as free.
    pub(super) fn dial_after(&mut self, after_ms: u64) {
        let knows_all = self.is_recovered();
        let is_empty =
            self.instances.is_empty() && self.executors.is_empty() && self.groups.are_released();
        let fresh = self.facts.identity.agent.is_some() || is_empty;
        if knows_all && fresh && self.link.begin_dial() {
            self.add_incarnation();
            self.when_durable(DeferredStep::Dial(after_ms));
        }
    }

    pub(super) fn dial_if_clear(&mut self) {
        self.dial_after(0);
    }
}
