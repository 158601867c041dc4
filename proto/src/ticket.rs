//! Tickets: proof that a master permits a caller to use one part of one agent's API, for a short
//! time.
//!
//! A master signs with a key that it shares with the agent alone (HMAC-SHA-256), so an agent needs
//! no registry to check a ticket, and cannot make one for another agent. A ticket is a secret like
//! a password: every holder may use it, repeatedly, until it expires.

mod base64url;
#[cfg(test)]
mod tests;

use std::fmt;

use argosy_state::actor::Actor;
use argosy_state::ids::{AgentId, ClusterId, FrameworkId, TaskId, TaskKey};
use argosy_state::planted_bug;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// The header of a request that contains a ticket.
pub const HEADER: &str = "argosy-ticket";
/// The query parameter that contains a ticket, for URIs.
pub const PARAMETER: &str = "ticket";
/// The validity of a ticket for which no other was requested, in milliseconds.
pub const DEFAULT_VALIDITY_MS: u64 = 60_000;
/// The longest validity of a ticket, in milliseconds.
pub const MAX_VALIDITY_MS: u64 = 600_000;
/// The longest path in a ticket, in bytes.
pub const MAX_PATH_BYTES: usize = 1_024;
/// The longest text of a ticket, in bytes.
pub const MAX_TEXT_BYTES: usize = 2_560;
/// How far the clock of an agent may be behind that of the master that issued a ticket, in
/// milliseconds. A ticket of the longest validity is rejected beyond that.
pub const CLOCK_TOLERANCE_MS: u64 = 60_000;
/// The length of a key in bytes.
pub const KEY_BYTES: usize = 32;

/// The version of the layout of tickets.
const VERSION: u8 = 1;
/// The names of what is signed. Another layout gets another name.
const KEY_LAYOUT: &[u8] = b"argosy ticket key 1";
const TICKET_LAYOUT: &[u8] = b"argosy ticket 1";
const MAC_BYTES: usize = 32;

/// A part of an agent's API that a ticket opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TicketVerb {
    /// Listing and reading files of tasks.
    ReadFiles,
    /// Running commands in a task.
    Exec,
    /// Attaching to a task's own command.
    Attach,
    /// Reading the metrics of the agent.
    Metrics,
}

/// The objects that a ticket opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TicketScope {
    /// The agent itself.
    Agent,
    /// One task of the agent, with all of its sandbox.
    Task(TaskKey),
    /// One file or directory in the sandbox of a task, without what is below it.
    Path(TaskKey, SandboxPath),
}

/// A normalized path below the sandbox of a task: one or more components, none of them `.` or `..`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxPath(String);

/// A part of an agent's API that a request uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TicketUse {
    /// The part.
    pub verb: TicketVerb,
    /// The object. The sandbox of a task itself is its task.
    pub object: TicketScope,
}

/// The content of a ticket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    /// The agent that accepts it.
    pub agent: AgentId,
    /// The part of the API.
    pub verb: TicketVerb,
    /// The objects.
    pub scope: TicketScope,
    /// The caller for which a master issued it.
    pub holder: Actor,
    /// The end of its validity, in milliseconds since 1970.
    pub expires_ms: u64,
    /// The id of the request for which it was issued, as in logs; 0 without one.
    pub request: u128,
}

/// A key that the masters share with one agent. It is kept in memory only.
#[derive(Clone, PartialEq, Eq)]
pub struct TicketKey {
    number: u8,
    secret: [u8; KEY_BYTES],
}

/// The reason for which a ticket is rejected. Each is a whole message for the caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// It is no text of a ticket.
    #[error("the ticket is malformed: request one from a master")]
    Malformed,
    /// Its signature is wrong.
    #[error(
        "no master of this cluster has issued the ticket for {0}, or it was changed: request one from a master"
    )]
    Forged(AgentId),
    /// It is for another agent.
    #[error("the ticket is for {found}, and this is {own}")]
    Agent {
        /// The agent in the ticket.
        found: AgentId,
        /// The agent that rejects it.
        own: AgentId,
    },
    /// Its validity has ended.
    #[error(
        "the ticket has expired: request a new one from a master, or compare the clocks of both hosts"
    )]
    Expired,
    /// It is valid for longer than any ticket.
    #[error(
        "the ticket is valid for too long by the clock of this host: compare it with that of the masters"
    )]
    TooLong,
    /// It is for another part of the API.
    #[error("the ticket is for {0}, and not for this request")]
    Verb(TicketVerb),
    /// It is for another object.
    #[error("the ticket is for {0}, and not for what is requested")]
    Scope(TicketScope),
}

impl TicketVerb {
    /// All verbs.
    pub const ALL: [Self; 4] = [Self::ReadFiles, Self::Exec, Self::Attach, Self::Metrics];

    const fn number(self) -> u8 {
        match self {
            Self::ReadFiles => 1,
            Self::Exec => 2,
            Self::Attach => 3,
            Self::Metrics => 4,
        }
    }
}

impl fmt::Display for TicketVerb {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::ReadFiles => "reading files",
            Self::Exec => "running commands",
            Self::Attach => "attaching",
            Self::Metrics => "reading metrics",
        })
    }
}

impl fmt::Display for TicketScope {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Agent => out.write_str("the agent"),
            Self::Task(task) => write!(out, "the task {task}"),
            Self::Path(task, path) => write!(out, "the path {:?} of the task {task}", path.0),
        }
    }
}

impl SandboxPath {
    /// Returns a path in its normalized form: empty components and `.` are left out. `None` if
    /// nothing is left, or if it contains `..` or a NUL byte, or is too long.
    #[must_use]
    pub fn new(path: &str) -> Option<Self> {
        let parts = path.split('/');
        let parts: Vec<_> = parts.filter(|part| !matches!(*part, "" | ".")).collect();
        let normalized = parts.join("/");
        let is_valid = !parts.is_empty()
            && !parts.contains(&"..")
            && !normalized.contains('\0')
            && normalized.len() <= MAX_PATH_BYTES;
        is_valid.then_some(Self(normalized))
    }

    /// Returns the path as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TicketScope {
    /// Returns whether a ticket of this scope opens `object`.
    fn covers(&self, object: &Self) -> bool {
        match (self, object) {
            (Self::Task(own), Self::Task(task) | Self::Path(task, _)) => own == task,
            (Self::Agent, Self::Agent) | (Self::Path(..), Self::Path(..)) => self == object,
            (Self::Agent, Self::Task(_) | Self::Path(..))
            | (Self::Task(_), Self::Agent)
            | (Self::Path(..), Self::Agent | Self::Task(_)) => false,
        }
    }
}

impl TicketKey {
    /// Returns the key with this number of an agent, which every master derives from the secret
    /// key of the cluster. The key of one agent reveals nothing about another.
    #[must_use]
    pub fn derive(number: u8, secret: &[u8; 32], cluster: ClusterId, agent: AgentId) -> Self {
        let mut mac = keyed(secret);
        mac.update(KEY_LAYOUT);
        mac.update(&[number]);
        mac.update(&cluster.0.to_be_bytes());
        mac.update(&agent.0.to_be_bytes());
        Self {
            number,
            secret: mac.finalize().into_bytes().into(),
        }
    }

    /// Returns a received key; `None` if its number or its length is wrong.
    #[must_use]
    pub fn received(number: u32, secret: &[u8]) -> Option<Self> {
        Some(Self {
            number: number.try_into().ok()?,
            secret: secret.try_into().ok()?,
        })
    }

    /// Returns its number: tickets name the key that signed them.
    #[must_use]
    pub fn number(&self) -> u8 {
        self.number
    }

    /// Returns its bytes, to send them to the agent.
    #[must_use]
    pub fn secret(&self) -> &[u8; KEY_BYTES] {
        &self.secret
    }

    fn mac(&self, body: &[u8]) -> Hmac<Sha256> {
        let mut mac = keyed(&self.secret);
        mac.update(TICKET_LAYOUT);
        mac.update(body);
        mac
    }
}

/// Writes no secret.
impl fmt::Debug for TicketKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = out.debug_struct("TicketKey");
        shown.field("number", &self.number).finish_non_exhaustive()
    }
}

fn keyed(secret: &[u8; 32]) -> Hmac<Sha256> {
    Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes keys of any length")
}

impl Ticket {
    /// Returns the text of the ticket, signed with the key of its agent.
    #[must_use]
    pub fn sign(&self, key: &TicketKey) -> String {
        let mut bytes = self.body(key.number);
        let mac = key.mac(&bytes).finalize().into_bytes();
        bytes.extend(mac);
        base64url::encode(&bytes)
    }

    /// Returns the ticket of a text, if a master has issued it for this agent, and if it is valid
    /// at the time `now_ms`, in milliseconds since 1970. `keys` are those of the agent.
    ///
    /// # Errors
    /// [`TicketError`]. The signature is compared in a time that does not depend on the position
    /// of a difference.
    pub fn open(
        text: &str,
        own: AgentId,
        keys: &[TicketKey],
        now_ms: u64,
    ) -> Result<Self, TicketError> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(TicketError::Malformed);
        }
        let bytes = base64url::decode(text).ok_or(TicketError::Malformed)?;
        let split = bytes.split_last_chunk::<MAC_BYTES>();
        let (body, mac) = split.ok_or(TicketError::Malformed)?;
        let (number, ticket) = Self::of_body(body).ok_or(TicketError::Malformed)?;
        let mut keys = keys.iter().filter(|key| key.number == number);
        if ticket.agent != own {
            let found = ticket.agent;
            return Err(TicketError::Agent { found, own });
        }
        if !keys.any(|key| key.mac(body).verify_slice(mac).is_ok()) {
            return Err(TicketError::Forged(own));
        }
        if ticket.expires_ms <= now_ms {
            return Err(TicketError::Expired);
        }
        if ticket.expires_ms - now_ms > MAX_VALIDITY_MS + CLOCK_TOLERANCE_MS {
            return Err(TicketError::TooLong);
        }
        Ok(ticket)
    }

    /// Checks that the ticket opens what a request uses.
    ///
    /// # Errors
    /// It is for another part of the API, or for another object.
    pub fn check(&self, request: &TicketUse) -> Result<(), TicketError> {
        if self.verb != request.verb {
            return Err(TicketError::Verb(self.verb));
        }
        match self.scope.covers(&request.object) || planted_bug!(TicketPathIgnored) {
            true => Ok(()),
            false => Err(TicketError::Scope(self.scope.clone())),
        }
    }

    /// Returns what is signed. Numbers are big-endian, and texts follow their length, so no two
    /// tickets share their bytes.
    fn body(&self, key: u8) -> Vec<u8> {
        let mut out = vec![VERSION, key];
        out.extend(self.agent.0.to_be_bytes());
        out.push(self.verb.number());
        out.extend(self.expires_ms.to_be_bytes());
        out.extend(self.request.to_be_bytes());
        text(&mut out, &self.holder.to_string());
        match &self.scope {
            TicketScope::Agent => out.push(0),
            TicketScope::Task(task) => {
                out.push(1);
                key_of(&mut out, task);
            }
            TicketScope::Path(task, path) => {
                out.push(2);
                key_of(&mut out, task);
                text(&mut out, &path.0);
            }
        }
        out
    }

    /// Returns the number of the key and the ticket. Only [`Self::body`] returns such bytes.
    fn of_body(bytes: &[u8]) -> Option<(u8, Self)> {
        let mut rest = Rest(bytes);
        let [VERSION, key] = rest.take()? else {
            return None;
        };
        let agent = AgentId(rest.number()?);
        let [verb] = rest.take()?;
        let verb = TicketVerb::ALL
            .into_iter()
            .find(|one| one.number() == verb)?;
        let (expires_ms, request) = (rest.number()?, u128::from_be_bytes(rest.take()?));
        let holder = rest.text()?.parse().ok()?;
        let scope = match rest.take()? {
            [0] => TicketScope::Agent,
            [1] => TicketScope::Task(rest.key()?),
            [2] => {
                let (task, path) = (rest.key()?, rest.text()?);
                let normalized = SandboxPath::new(path).filter(|one| one.0 == path)?;
                TicketScope::Path(task, normalized)
            }
            _ => return None,
        };
        let ticket = Self {
            agent,
            verb,
            scope,
            holder,
            expires_ms,
            request,
        };
        rest.0.is_empty().then_some((key, ticket))
    }
}

fn text(out: &mut Vec<u8>, text: &str) {
    let length = u16::try_from(text.len()).expect("texts of tickets are short");
    out.extend(length.to_be_bytes());
    out.extend(text.as_bytes());
}

fn key_of(out: &mut Vec<u8>, task: &TaskKey) {
    out.extend(task.framework.0.to_be_bytes());
    text(out, task.task.as_str());
}

/// The bytes that are not read yet.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*first)
    }

    fn number(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }

    fn text(&mut self) -> Option<&'a str> {
        let length = u16::from_be_bytes(self.take()?);
        let (text, rest) = self.0.split_at_checked(length.into())?;
        self.0 = rest;
        std::str::from_utf8(text).ok()
    }

    fn key(&mut self) -> Option<TaskKey> {
        Some(TaskKey {
            framework: FrameworkId(self.number()?),
            task: TaskId::new(self.text()?).ok()?,
        })
    }
}
