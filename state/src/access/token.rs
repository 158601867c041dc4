//! Tokens: proofs of identity that are texts, and permissions to join the cluster.

use std::fmt;
use std::str::FromStr;

use super::key_hash::{read_hex, write_hex};
use crate::actor::{Actor, Principal, PrincipalKind};
use crate::ids::InvalidId;

/// The id of a token: a random number from the client that creates it. Written as 16 lower-case
/// hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId(pub u64);

/// A token as the cluster stores it: never with its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// The SHA-256 of the 32 bytes of the secret.
    pub hash: [u8; 32],
    /// The use of the token.
    pub purpose: TokenPurpose,
    /// The wall-clock time from which it is not accepted, in milliseconds since 1970; `None` for a
    /// token without expiry.
    pub expires_wall_ms: Option<i64>,
    /// The wall-clock time of its creation, in milliseconds since 1970.
    pub created_wall_ms: i64,
    /// The actor that created it.
    pub created_by: Actor,
    /// A text for people, of at most 255 bytes.
    pub description: String,
}

/// The use of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenPurpose {
    /// Its holder acts as this principal.
    Bearer(Principal),
    /// Its holder may have keys certified for principals of a kind.
    Join {
        /// The kind of the principals: agent or master.
        kind: PrincipalKind,
        /// The number of principals that may still join by it.
        uses_left: u32,
    },
}

/// The text that the holder of a token has: `argosy_ID_SECRET`, with 16 and 64 lower-case
/// hexadecimal digits. `Debug` does not write the secret; `Display` does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TokenSecret {
    /// The id of the token.
    pub id: TokenId,
    /// The secret.
    pub secret: [u8; 32],
}

impl TokenSecret {
    /// The beginning of the text form, by which tokens are found in files.
    pub const PREFIX: &str = "argosy_";
}

impl Token {
    /// The longest description, in bytes.
    pub const DESCRIPTION_BYTES: usize = 255;

    /// Returns whether the token is expired at a wall-clock time.
    #[must_use]
    pub fn is_expired(&self, wall_ms: i64) -> bool {
        self.expires_wall_ms.is_some_and(|at| wall_ms >= at)
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:016x}", self.0)
    }
}

impl FromStr for TokenId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let rule = "write 16 lower-case hexadecimal digits";
        let bytes = read_hex(text).ok_or_else(|| InvalidId::new("token id", text, rule))?;
        Ok(Self(u64::from_be_bytes(bytes)))
    }
}

impl fmt::Debug for TokenSecret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}{}_…", Self::PREFIX, self.id)
    }
}

impl fmt::Display for TokenSecret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}{}_", Self::PREFIX, self.id)?;
        write_hex(&self.secret, out)
    }
}

/// The inverse of `Display`. An error does not contain the text.
impl FromStr for TokenSecret {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let parts = text.strip_prefix(Self::PREFIX);
        let read = parts.and_then(|parts| {
            let (id, secret) = parts.split_once('_')?;
            Some(Self {
                id: id.parse().ok()?,
                secret: read_hex(secret)?,
            })
        });
        let rule = "it is argosy_ID_SECRET with 16 and 64 lower-case hexadecimal digits";
        read.ok_or_else(|| InvalidId::new("token", "…", rule))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_round_trip_as_text_and_are_not_written_by_debug_or_errors() {
        let token = TokenSecret {
            id: TokenId(0xa1b2),
            secret: [0x5e; 32],
        };
        let text = token.to_string();
        assert_eq!(text, format!("argosy_000000000000a1b2_{}", "5e".repeat(32)));
        assert_eq!(text.parse(), Ok(token));
        assert!(!format!("{token:?}").contains("5e5e"));
        for text in [
            "",
            "argosy_",
            &text[1..],
            &text[..text.len() - 1],
            &format!("{text}0"),
            &text.replace("5e", "5E"),
            &text.replace("a1b2_", "a1b2"),
            "argosy_a1b2_5e",
        ] {
            let refused = text.parse::<TokenSecret>().unwrap_err().to_string();
            assert!(!refused.contains("5e"), "{refused}");
        }
        assert!("A1B2".parse::<TokenId>().is_err());
        assert_eq!("000000000000a1b2".parse(), Ok(TokenId(0xa1b2)));
    }

    #[test]
    fn a_token_expires_at_its_time() {
        let mut token = Token {
            hash: [0; 32],
            purpose: TokenPurpose::Bearer("operator/ci".parse().unwrap()),
            expires_wall_ms: Some(1_000),
            created_wall_ms: 0,
            created_by: Actor::default(),
            description: String::new(),
        };
        assert!(!token.is_expired(999));
        assert!(token.is_expired(1_000));
        token.expires_wall_ms = None;
        assert!(!token.is_expired(i64::MAX));
    }
}
