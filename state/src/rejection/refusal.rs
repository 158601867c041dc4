//! Refusals in stored answers: a code and the arguments of its message, without the message.
//!
//! A message may be reworded, but masters of two releases must store the same bytes. So the message
//! is built when it is displayed.

use std::str::FromStr;

use super::Rejection;
use crate::agent::AgentMode;
use crate::codec::stored::stored;
use crate::ids::{GroupId, Level, TaskId, TaskKey};
use crate::limits;

/// A refusal in a stored answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StoredRejection {
    /// The code: [`Rejection::number`].
    pub code: u8,
    /// The message of a refusal from before level 3, cut to [`limits::REFUSAL_BYTES`]; empty since
    /// then.
    pub message: String,
    /// The names and numbers in the message, of at most [`limits::REFUSAL_BYTES`] in total; empty
    /// before level 3.
    pub arguments: Vec<String>,
}

stored!(message StoredRejection {
    1 code: Number or "code of a refusal",
    2 message: Text,
    3 arguments: TextList,
});

impl StoredRejection {
    /// Returns the stored form of a refusal at this level.
    #[must_use]
    pub fn of(why: &Rejection, level: Level) -> Self {
        let code = why.number();
        if level < Level::RELEASE_0_2 {
            let message = cut(&why.to_string(), limits::REFUSAL_BYTES);
            return Self {
                code,
                message,
                arguments: Vec::new(),
            };
        }
        let mut left = limits::REFUSAL_BYTES;
        let mut arguments = arguments(why);
        for argument in &mut arguments {
            *argument = cut(argument, left);
            left -= argument.len();
        }
        Self {
            code,
            message: String::new(),
            arguments,
        }
    }

    /// Returns the message of this release.
    #[must_use]
    pub fn message_text(&self) -> String {
        if !self.message.is_empty() {
            return self.message.clone();
        }
        match restored(self.code, &self.arguments) {
            Some(why) => why.to_string(),
            None => format!("refused before: {}", Rejection::code_of(self.code)),
        }
    }

    /// Returns the bytes of its texts.
    pub(crate) fn bytes(&self) -> usize {
        self.message.len() + self.arguments.iter().map(String::len).sum::<usize>()
    }
}

/// Returns the longest prefix of at most `bytes` bytes.
fn cut(text: &str, bytes: usize) -> String {
    let mut end = text.len().min(bytes);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

/// Returns the arguments of a refusal's message, unless the message is free text.
fn arguments(why: &Rejection) -> Vec<String> {
    let mode = |mode: &AgentMode| format!("{mode:?}");
    match why {
        Rejection::UnknownAgent(id) | Rejection::AgentGone(id) | Rejection::Clone(id) => {
            vec![id.to_string()]
        }
        Rejection::AgentNotActive(id, known) | Rejection::WrongMode(id, known) => {
            vec![id.to_string(), mode(known)]
        }
        Rejection::UnknownFramework(id)
        | Rejection::FrameworkRemoved(id)
        | Rejection::Superseded(id) => vec![id.to_string()],
        Rejection::StaleCall { number, low_water } => {
            vec![number.to_string(), low_water.to_string()]
        }
        Rejection::CallReused(number) => vec![number.to_string()],
        Rejection::PrincipalChanged(text) | Rejection::RequestReused(text) => vec![text.clone()],
        Rejection::Invalid { field, .. } => vec![field.clone()],
        Rejection::OfferTwice(id)
        | Rejection::OfferForeign(id)
        | Rejection::OfferMixed(id)
        | Rejection::OfferExpired(id)
        | Rejection::OfferUsed(id)
        | Rejection::OfferForged(id) => vec![id.to_string()],
        Rejection::OfferOutdated(offer, agent) => vec![offer.to_string(), agent.to_string()],
        Rejection::TooLarge { asked, left } => {
            vec![cut(asked, limits::REFUSAL_BYTES / 2), left.clone()]
        }
        Rejection::TaskExists(task) => vec![task.to_string()],
        Rejection::AgentIncapable(agent, capability) => {
            vec![agent.to_string(), capability.to_string()]
        }
        Rejection::WouldLockOut(whom) => whom.iter().map(ToString::to_string).collect(),
        Rejection::UnknownToken(id) => vec![id.to_string()],
        Rejection::TokenRefused { token, .. } => vec![token.to_string()],
        Rejection::KeyBound(principal) => vec![principal.to_string()],
        Rejection::KeyRevoked(key) => vec![key.to_string()],
        Rejection::AgentBound(agent, principal) => vec![agent.to_string(), principal.to_string()],
        Rejection::UnknownTask(key) => vec![key.framework.to_string(), key.task.to_string()],
        Rejection::TaskGroupInvalid { group, .. } => vec![group.to_string()],
        Rejection::StaleEpoch
        | Rejection::Conflict
        | Rejection::PolicyChanged
        | Rejection::TooManyAnswers
        | Rejection::NoOffers
        | Rejection::NotAttempted
        | Rejection::TooManyUnacknowledged
        | Rejection::TooManyOperations
        | Rejection::TooManyRequests
        | Rejection::Full(_)
        | Rejection::NeedsLevel { .. }
        | Rejection::Repeated { .. }
        | Rejection::Internal(_) => Vec::new(),
    }
}

/// The message for a field whose text is not stored.
const STORED_INVALID: &str = "it was refused when this call was first made; a new call is told why";

/// Returns an argument as a value.
fn read<T: FromStr>(arguments: &[String], at: usize) -> Option<T> {
    arguments.get(at)?.parse().ok()
}

/// Rebuilds the refusal from these arguments. Returns `None` if this release does not know it, or
/// an argument was cut.
fn restored(code: u8, arguments: &[String]) -> Option<Rejection> {
    let text = |at: usize| arguments.get(at).cloned();
    let agent = || read(arguments, 0);
    let offer = || read(arguments, 0);
    Some(match Rejection::code_of(code) {
        "stale-epoch" => Rejection::StaleEpoch,
        "moved" => Rejection::Conflict,
        "unknown-agent" => Rejection::UnknownAgent(agent()?),
        "agent-gone" => Rejection::AgentGone(agent()?),
        "clone" => Rejection::Clone(agent()?),
        "agent-not-active" => Rejection::AgentNotActive(agent()?, mode(&text(1)?)?),
        "unknown-framework" => Rejection::UnknownFramework(read(arguments, 0)?),
        "framework-removed" => Rejection::FrameworkRemoved(read(arguments, 0)?),
        "superseded" => Rejection::Superseded(read(arguments, 0)?),
        "late" => Rejection::StaleCall {
            number: read(arguments, 0)?,
            low_water: read(arguments, 1)?,
        },
        "call-reused" => Rejection::CallReused(read(arguments, 0)?),
        "too-many-answers" => Rejection::TooManyAnswers,
        "principal-changed" => Rejection::PrincipalChanged(text(0)?),
        "invalid" => Rejection::Invalid {
            field: text(0)?,
            text: STORED_INVALID.to_owned(),
        },
        "no-offers" => Rejection::NoOffers,
        "offer-twice" => Rejection::OfferTwice(offer()?),
        "offer-foreign" => Rejection::OfferForeign(offer()?),
        "offer-mixed" => Rejection::OfferMixed(offer()?),
        "offer-expired" => Rejection::OfferExpired(offer()?),
        "offer-used" => Rejection::OfferUsed(offer()?),
        "offer-outdated" => Rejection::OfferOutdated(offer()?, read(arguments, 1)?),
        "offer-forged" => Rejection::OfferForged(offer()?),
        "too-large" => Rejection::TooLarge {
            asked: text(0)?,
            left: text(1)?,
        },
        "task-exists" => Rejection::TaskExists(TaskId::new(&text(0)?).ok()?),
        "not-alone" => Rejection::NotAttempted,
        "too-many-unacknowledged" => Rejection::TooManyUnacknowledged,
        "unknown-task" => Rejection::UnknownTask(TaskKey {
            framework: read(arguments, 0)?,
            task: TaskId::new(&text(1)?).ok()?,
        }),
        "too-many-operations" => Rejection::TooManyOperations,
        "request-reused" => Rejection::RequestReused(text(0)?),
        "too-many-requests" => Rejection::TooManyRequests,
        "wrong-mode" => Rejection::WrongMode(agent()?, mode(&text(1)?)?),
        "task-group-invalid" => Rejection::TaskGroupInvalid {
            group: GroupId::new(&text(0)?).ok()?,
            text: STORED_INVALID.to_owned(),
        },
        "agent-incapable" => Rejection::AgentIncapable(agent()?, read(arguments, 1)?),
        "registry-full" => {
            Rejection::Full("a bound of the registry was reached; a new call is told which".into())
        }
        code => return restored_access(code, arguments),
    })
}

/// The same for refusals of changes of access.
fn restored_access(code: &str, arguments: &[String]) -> Option<Rejection> {
    Some(match code {
        "would-lock-out" => Rejection::WouldLockOut(match arguments {
            [] => None,
            _ => Some(read(arguments, 0)?),
        }),
        "policy-changed" => Rejection::PolicyChanged,
        "unknown-token" => Rejection::UnknownToken(read(arguments, 0)?),
        "token-refused" => Rejection::TokenRefused {
            token: read(arguments, 0)?,
            text: STORED_INVALID.to_owned(),
        },
        "key-bound" => Rejection::KeyBound(read(arguments, 0)?),
        "key-revoked" => Rejection::KeyRevoked(read(arguments, 0)?),
        "agent-bound" => Rejection::AgentBound(read(arguments, 0)?, read(arguments, 1)?),
        _ => return None,
    })
}

/// Returns the mode with this name.
fn mode(name: &str) -> Option<AgentMode> {
    let modes = [
        AgentMode::Registered,
        AgentMode::Unreachable,
        AgentMode::Draining,
        AgentMode::Drained,
        AgentMode::Deactivated,
        AgentMode::Gone,
    ];
    modes.into_iter().find(|mode| format!("{mode:?}") == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::{KeyHash, TokenId};
    use crate::actor::Principal;
    use crate::capability::AgentCapability;
    use crate::ids::{AgentId, Epoch, FrameworkId, OfferId};

    fn all() -> Vec<Rejection> {
        let (agent, framework) = (AgentId(3), FrameworkId(4));
        let offer = OfferId {
            epoch: Epoch(7),
            serial: 9,
        };
        let task = TaskId::new("web-1").unwrap();
        let principal: Principal = "operator/alice".parse().unwrap();
        vec![
            Rejection::StaleEpoch,
            Rejection::Conflict,
            Rejection::UnknownAgent(agent),
            Rejection::AgentGone(agent),
            Rejection::Clone(agent),
            Rejection::AgentNotActive(agent, AgentMode::Draining),
            Rejection::UnknownFramework(framework),
            Rejection::FrameworkRemoved(framework),
            Rejection::Superseded(framework),
            Rejection::StaleCall {
                number: 5,
                low_water: 6,
            },
            Rejection::CallReused(5),
            Rejection::TooManyAnswers,
            Rejection::PrincipalChanged("alice".to_owned()),
            Rejection::NoOffers,
            Rejection::OfferTwice(offer),
            Rejection::OfferForeign(offer),
            Rejection::OfferMixed(offer),
            Rejection::OfferExpired(offer),
            Rejection::OfferUsed(offer),
            Rejection::OfferOutdated(offer, agent),
            Rejection::OfferForged(offer),
            Rejection::TooLarge {
                asked: "cpus:9".to_owned(),
                left: "nothing".to_owned(),
            },
            Rejection::TaskExists(task.clone()),
            Rejection::NotAttempted,
            Rejection::TooManyUnacknowledged,
            Rejection::UnknownTask(TaskKey { framework, task }),
            Rejection::TooManyOperations,
            Rejection::RequestReused("r".to_owned()),
            Rejection::TooManyRequests,
            Rejection::WrongMode(agent, AgentMode::Gone),
            Rejection::AgentIncapable(agent, AgentCapability::LIMITS),
            Rejection::WouldLockOut(None),
            Rejection::WouldLockOut(Some(principal.clone())),
            Rejection::UnknownToken(TokenId(0xa1)),
            Rejection::KeyBound(principal.clone()),
            Rejection::AgentBound(agent, principal),
            Rejection::PolicyChanged,
            Rejection::KeyRevoked(KeyHash([0xb1; 32])),
        ]
    }

    #[test]
    fn a_stored_refusal_has_the_message_of_the_first_answer() {
        for why in all() {
            let kept = StoredRejection::of(&why, Level::RELEASE_0_2);
            assert_eq!(kept.message, "", "{why}");
            assert_eq!(kept.message_text(), why.to_string());
        }
    }

    #[test]
    fn the_message_of_a_refusal_is_not_stored() {
        let invalid = Rejection::Invalid {
            field: "command".to_owned(),
            text: "a secret".to_owned(),
        };
        let group = Rejection::TaskGroupInvalid {
            group: GroupId::new("g").unwrap(),
            text: "a secret".to_owned(),
        };
        let token = Rejection::TokenRefused {
            token: TokenId(0xa1),
            text: "a secret".to_owned(),
        };
        for why in [
            invalid,
            group,
            token,
            Rejection::Full("a secret".to_owned()),
        ] {
            let kept = StoredRejection::of(&why, Level::RELEASE_0_2);
            assert!(!format!("{kept:?}").contains("secret"), "{kept:?}");
            let sentence = kept.message_text();
            assert!(sentence.contains("a new call is told"), "{sentence}");
        }
    }

    #[test]
    fn at_level_2_a_rejection_is_stored_as_text_as_in_release_0_1_0() {
        let why = Rejection::PrincipalChanged("ä".repeat(1_000));
        let kept = StoredRejection::of(&why, Level::RELEASE_0_1);
        assert!(why.to_string().starts_with(&kept.message));
        assert!(kept.message.len() >= limits::REFUSAL_BYTES - 1);
        assert_eq!(kept.message_text(), kept.message);
        let kept = StoredRejection::of(&why, Level::RELEASE_0_2);
        assert!(kept.bytes() <= limits::REFUSAL_BYTES);
        let unknown = StoredRejection {
            code: 250,
            ..StoredRejection::default()
        };
        assert_eq!(unknown.message_text(), "refused before: refused");
    }
}
