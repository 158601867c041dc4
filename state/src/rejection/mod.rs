//! Rejections of commands. They are replicated like any other answer, and each has a code for
//! machines.

mod position;
mod refusal;

use crate::access::{KeyHash, TokenId};
use crate::actor::Principal;
use crate::agent::AgentMode;
use crate::capability::AgentCapability;
use crate::ids::{AgentId, FrameworkId, GroupId, Level, OfferId, TaskId, TaskKey};

pub use position::{CallShape, Position};
pub use refusal::StoredRejection;

/// The reason of a rejection. The message names the objects and numbers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each message describes itself")]
pub enum Rejection {
    #[error("the epoch of this proposal has ended")]
    StaleEpoch,
    #[error("the record has changed since the decision")]
    Conflict,
    #[error("no {0} in this cluster")]
    UnknownAgent(AgentId),
    #[error("{0} was declared gone; its agent must register as a new agent")]
    AgentGone(AgentId),
    #[error("{0} is registered with another incarnation: this looks like a copy of its disk")]
    Clone(AgentId),
    #[error("{0} is {1:?}; nothing can be launched there")]
    AgentNotActive(AgentId, AgentMode),
    #[error("no {0} in this cluster: it was removed, or never was")]
    UnknownFramework(FrameworkId),
    #[error("{0} is being removed")]
    FrameworkRemoved(FrameworkId),
    #[error("another scheduler has taken over {0}")]
    Superseded(FrameworkId),
    #[error("call {number} is below {low_water}, the lowest number still open")]
    StaleCall { number: u64, low_water: u64 },
    #[error("call {0} was already used for another request")]
    CallReused(u64),
    #[error(
        "{} answers are waiting to be confirmed: send a higher lowest_unanswered",
        crate::limits::ANSWERS_PER_FRAMEWORK
    )]
    TooManyAnswers,
    #[error("the principal of a framework cannot be changed (it is {0:?})")]
    PrincipalChanged(String),
    #[error("{field}: {text}")]
    Invalid { field: String, text: String },
    #[error("offers: none is given; give one that is open")]
    NoOffers,
    #[error("offer {0} is given twice; give each offer once")]
    OfferTwice(OfferId),
    #[error("offer {0} was made to another framework or session; give those of this session")]
    OfferForeign(OfferId),
    #[error(
        "offer {0} is of another agent or role than the first one; give it to a call of its own"
    )]
    OfferMixed(OfferId),
    #[error("offer {0} has lapsed; give a newer one")]
    OfferExpired(OfferId),
    #[error(
        "offer {0} is no longer open: used, declined, rescinded or from too long ago; give a newer one"
    )]
    OfferUsed(OfferId),
    #[error("offer {0} promises what {1} no longer has; give a newer one")]
    OfferOutdated(OfferId, AgentId),
    #[error("offer {0} carries no valid token of this cluster; give it back as it came")]
    OfferForged(OfferId),
    #[error(
        "resources: asked {asked}; what is left of the offers is {left}; ask for less, or give more offers"
    )]
    TooLarge { asked: String, left: String },
    #[error("task id {0} is in use or was used by this framework; give another one")]
    TaskExists(TaskId),
    #[error("not tried: another task of an all-or-nothing accept was refused")]
    NotAttempted,
    #[error(
        "{} ended tasks are not acknowledged: acknowledge their updates",
        crate::limits::UNACKNOWLEDGED_TASKS
    )]
    TooManyUnacknowledged,
    #[error("no task {0}")]
    UnknownTask(TaskKey),
    #[error("{OPERATIONS} operations at most in one batch", OPERATIONS = crate::limits::OPERATIONS_PER_BATCH)]
    TooManyOperations,
    #[error("request id {0:?} was already used for other operations")]
    RequestReused(String),
    #[error("too many requests with an id in ten minutes: wait, or send without one")]
    TooManyRequests,
    #[error("{0} is {1:?}; that cannot be done to it now")]
    WrongMode(AgentId, AgentMode),
    #[error("task group {group}: {text}; none of its tasks is launched")]
    TaskGroupInvalid { group: GroupId, text: String },
    #[error("{0}")]
    Full(String),
    #[error(
        "{what} needs feature level {needed}, and the cluster is at {level}: run `argosy master raise-level` when all masters are of a release that has it"
    )]
    NeedsLevel {
        what: &'static str,
        needed: Level,
        level: Level,
    },
    #[error(
        "{0} does not announce the capability {1}, which {what} needs: leave that out, use another agent, or upgrade this one",
        what = .1.what()
    )]
    AgentIncapable(AgentId, AgentCapability),
    #[error(
        "this would lock out {}: keep it in the group admin, or allow it set-access on *, and do not deny that",
        .0.as_ref().map_or("every operator".to_owned(), ToString::to_string)
    )]
    WouldLockOut(Option<Principal>),
    #[error("the rules have been changed since they were read: read them, and change them again")]
    PolicyChanged,
    #[error("no token {0}: it was revoked, or never was")]
    UnknownToken(TokenId),
    #[error("token {token}: {text}")]
    TokenRefused { token: TokenId, text: String },
    #[error("{0} is bound to another key: revoke that key first")]
    KeyBound(Principal),
    #[error("the key {0} is revoked: create another one")]
    KeyRevoked(KeyHash),
    #[error(
        "{0} is registered with another certificate, of {1}: use that one, or another name and an empty --data-dir"
    )]
    AgentBound(AgentId, Principal),
    #[error("{text}")]
    Repeated { code: u8, text: String },
    #[error("internal error: {0}; nothing was changed; please report it")]
    Internal(String),
}

/// The number of [`Rejection::Internal`], which only a leader creates and which is never stored.
const INTERNAL: u8 = u8::MAX;

impl Rejection {
    /// Returns the code for machines. The wire and the documentation use the same codes.
    #[must_use]
    pub fn code(&self) -> &'static str {
        Self::code_of(self.number())
    }

    /// Returns the code of a stored refusal, or "refused" if the number is of a newer release.
    #[must_use]
    pub fn code_of(number: u8) -> &'static str {
        match number {
            INTERNAL => "internal",
            _ => CODES.get(usize::from(number)).copied().unwrap_or("refused"),
        }
    }

    /// Returns the stored number of the code. A number never changes its meaning.
    #[must_use]
    pub fn number(&self) -> u8 {
        match self {
            Self::StaleEpoch => 0,
            Self::Conflict => 1,
            Self::UnknownAgent(_) => 2,
            Self::AgentGone(_) => 3,
            Self::Clone(_) => 4,
            Self::AgentNotActive(..) => 5,
            Self::UnknownFramework(_) => 6,
            Self::FrameworkRemoved(_) => 7,
            Self::Superseded(_) => 8,
            Self::StaleCall { .. } => 9,
            Self::CallReused(_) => 10,
            Self::TooManyAnswers => 11,
            Self::PrincipalChanged(_) => 12,
            Self::Invalid { .. } => 13,
            Self::NoOffers => 14,
            Self::OfferTwice(_) => 15,
            Self::OfferForeign(_) => 16,
            Self::OfferMixed(_) => 17,
            Self::OfferExpired(_) => 18,
            Self::OfferUsed(_) => 19,
            Self::OfferOutdated(..) => 20,
            Self::OfferForged(_) => 21,
            Self::TooLarge { .. } => 22,
            Self::TaskExists(_) => 23,
            Self::NotAttempted => 24,
            Self::TooManyUnacknowledged => 25,
            Self::UnknownTask(_) => 26,
            Self::TooManyOperations => 27,
            Self::RequestReused(_) => 28,
            Self::TooManyRequests => 29,
            Self::WrongMode(..) => 30,
            Self::TaskGroupInvalid { .. } => 31,
            Self::Full(_) => 32,
            Self::NeedsLevel { .. } => 33,
            Self::AgentIncapable(..) => 34,
            Self::WouldLockOut(_) => 35,
            Self::UnknownToken(_) => 36,
            Self::TokenRefused { .. } => 37,
            Self::KeyBound(_) => 38,
            Self::KeyRevoked(_) => 39,
            Self::AgentBound(..) => 40,
            Self::PolicyChanged => 41,
            Self::Repeated { code, .. } => *code,
            Self::Internal(_) => INTERNAL,
        }
    }
}

const CODES: [&str; 42] = [
    "stale-epoch",
    "moved",
    "unknown-agent",
    "agent-gone",
    "clone",
    "agent-not-active",
    "unknown-framework",
    "framework-removed",
    "superseded",
    "late",
    "call-reused",
    "too-many-answers",
    "principal-changed",
    "invalid",
    "no-offers",
    "offer-twice",
    "offer-foreign",
    "offer-mixed",
    "offer-expired",
    "offer-used",
    "offer-outdated",
    "offer-forged",
    "too-large",
    "task-exists",
    "not-alone",
    "too-many-unacknowledged",
    "unknown-task",
    "too-many-operations",
    "request-reused",
    "too-many-requests",
    "wrong-mode",
    "task-group-invalid",
    "registry-full",
    "feature-level",
    "agent-incapable",
    "would-lock-out",
    "unknown-token",
    "token-refused",
    "key-bound",
    "key-revoked",
    "agent-bound",
    "policy-changed",
];
