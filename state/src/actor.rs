//! The actor of a command: the proven identity on whose behalf it is proposed.
//!
//! The master that accepts a call sets the actor. It is never taken from the call: an identity in a
//! request, such as `WriteBatch.principal`, is an unproven claim. `apply` makes two decisions by
//! it: a caller may not lose the right to set the rules of access by setting them, and no principal
//! may register the agent of another one.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::codec::scalars::{AsText, numbered};
use crate::codec::stored::stored;
use crate::ids::InvalidId;
use crate::limits;

/// The actor of a command.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Actor {
    /// A caller without a proven identity. Every command of a log below level 3 has this actor,
    /// because such a log stores none.
    #[default]
    Unauthenticated,
    /// The cluster itself, by a decision of its leader.
    Cluster,
    /// A caller with a proven identity.
    Principal(Principal),
}

/// A proven identity.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Principal {
    /// The kind of principal.
    pub kind: PrincipalKind,
    /// The name among principals of the same kind.
    pub name: PrincipalName,
}

/// The kind of a principal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PrincipalKind {
    /// A master of this cluster.
    Master,
    /// An agent.
    Agent,
    /// The scheduler of a framework.
    Framework,
    /// A person, or a program that acts for a person.
    Operator,
}

/// The name of a principal: a part of a URI that needs no escaping.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PrincipalName(Arc<str>);

impl Actor {
    /// The longest text form, in bytes.
    pub const TEXT_BYTES: usize = "framework/".len() + limits::NAME_BYTES;
}

impl PrincipalKind {
    /// All kinds.
    pub const ALL: [Self; 4] = [Self::Master, Self::Agent, Self::Framework, Self::Operator];

    /// Returns the name of the kind.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Master => "master",
            Self::Agent => "agent",
            Self::Framework => "framework",
            Self::Operator => "operator",
        }
    }
}

impl PrincipalName {
    /// Validates `text`.
    ///
    /// # Errors
    /// [`InvalidId`] names the text and the rule.
    pub fn new(text: &str) -> Result<Self, InvalidId> {
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"._-:@+".contains(&byte);
        let is_path = matches!(text, "." | "..");
        let is_long = text.is_empty() || text.len() > limits::NAME_BYTES;
        if is_path || is_long || !text.bytes().all(known) {
            let rule = "use 1 to 255 letters, digits and ._-:@+, not . or ..";
            return Err(InvalidId::new("name of a principal", text, rule));
        }
        Ok(Self(text.into()))
    }

    /// Returns the name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PrincipalKind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

impl fmt::Display for PrincipalName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// Writes `KIND/NAME`, such as `operator/alice`.
impl fmt::Display for Principal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.kind, self.name)
    }
}

/// Writes `unauthenticated`, `cluster` or a principal such as `operator/alice`.
impl fmt::Display for Actor {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unauthenticated => out.write_str("unauthenticated"),
            Self::Cluster => out.write_str("cluster"),
            Self::Principal(principal) => principal.fmt(out),
        }
    }
}

impl FromStr for PrincipalKind {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let mut all = Self::ALL.into_iter();
        let rule = "write master, agent, framework or operator";
        all.find(|kind| kind.as_str() == text)
            .ok_or_else(|| InvalidId::new("kind of principal", text, rule))
    }
}

impl FromStr for Principal {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let parts = text.split_once('/');
        let kind_of = |kind: &str| kind.parse().ok();
        let Some((kind, name)) = parts.and_then(|(kind, name)| Some((kind_of(kind)?, name))) else {
            let rule = "write it as KIND/NAME, the kind as master, agent, framework or operator";
            return Err(InvalidId::new("principal", text, rule));
        };
        let name = PrincipalName::new(name)?;
        Ok(Self { kind, name })
    }
}

/// The inverse of `Display`. Each actor has exactly one text form.
impl FromStr for Actor {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        match text {
            "unauthenticated" => Ok(Self::Unauthenticated),
            "cluster" => Ok(Self::Cluster),
            principal => principal.parse().map(Self::Principal),
        }
    }
}

numbered!(
    PrincipalKind,
    Master = 1,
    Agent = 2,
    Framework = 3,
    Operator = 4,
);

impl AsText for PrincipalName {
    fn text(&self) -> &str {
        self.as_str()
    }

    fn of(text: &str) -> Option<Self> {
        Self::new(text).ok()
    }
}

// An unproven identity is stored as nothing, so that bytes without an actor never grant anything.
stored!(oneof Actor else Unauthenticated {
    100 Cluster,
    101 Principal(Part),
});

stored!(message Principal {
    1 kind: Number or "kind of principal",
    2 name: Text or "name of principal",
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actors_round_trip_as_text_and_other_texts_are_rejected() {
        let longest = format!("framework/{}", "n".repeat(limits::NAME_BYTES));
        for text in [
            "unauthenticated",
            "cluster",
            "master/master-1",
            "agent/agent-7.example:5051",
            "framework/web_1",
            "operator/alice+ops@example.com",
            &longest,
        ] {
            let actor: Actor = text.parse().unwrap();
            assert_eq!(actor.to_string(), text);
            assert!(text.len() <= Actor::TEXT_BYTES);
        }
        let too_long = format!("{longest}n");
        for text in [
            "",
            "Cluster",
            "cluster ",
            "cluster/",
            "operator",
            "operator/",
            "operator/a/b",
            "operator/..",
            "operator/a b",
            "operator/a%20b",
            "operator/ä",
            "root/alice",
            "Operator/alice",
            &too_long,
        ] {
            let refused = text.parse::<Actor>().unwrap_err();
            assert!(refused.text.len() <= 64, "{refused}");
        }
    }
}
