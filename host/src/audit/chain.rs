//! The hashes that connect the lines of the log.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use sha2::{Digest as _, Sha256};

/// The name of the chain value in a line, after the other fields.
const MARK: &str = ",\"chain\":\"";
/// The end of a line, after the chain value.
const END: &str = "\"}";
/// The length of a chain value as text.
const DIGITS: usize = 64;

/// The chain value of a line: SHA-256 over the chain value of the line before and the line itself,
/// without this value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainValue([u8; 32]);

/// The text is no chain value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a chain value has {DIGITS} hexadecimal digits, as `argosy audit show --head` prints it")]
pub struct InvalidChainValue;

impl ChainValue {
    /// The value before the first line of a log.
    pub const ZERO: Self = Self([0; 32]);

    /// Returns the value of the line with this body, after a line with this value.
    pub(super) fn next(self, body: &str) -> Self {
        let mut hash = Sha256::new();
        hash.update(self.0);
        hash.update(body.as_bytes());
        Self(hash.finalize().into())
    }

    /// Returns the line of this body, which is a JSON object, with its value.
    pub(super) fn seal(self, body: &str) -> String {
        let open = body.strip_suffix('}').unwrap_or(body);
        format!("{open}{MARK}{self}{END}\n")
    }

    /// Returns the body and the value of a line. `None` if it has no such form.
    pub(super) fn unseal(line: &str) -> Option<(String, Self)> {
        let line = line.strip_suffix(END)?;
        let (open, digits) = line.split_at_checked(line.len().checked_sub(DIGITS)?)?;
        let body = format!("{}}}", open.strip_suffix(MARK)?);
        Some((body, digits.parse().ok()?))
    }
}

impl fmt::Display for ChainValue {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
    }
}

impl FromStr for ChainValue {
    type Err = InvalidChainValue;

    /// Accepts lower-case digits only, so that a value has one text.
    fn from_str(text: &str) -> Result<Self, InvalidChainValue> {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if text.len() != DIGITS || !text.bytes().all(is_digit) {
            return Err(InvalidChainValue);
        }
        let mut value = [0; 32];
        for (at, byte) in value.iter_mut().enumerate() {
            let digits = &text[2 * at..2 * at + 2];
            *byte = u8::from_str_radix(digits, 16).map_err(|_| InvalidChainValue)?;
        }
        Ok(Self(value))
    }
}

impl Serialize for ChainValue {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ChainValue {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_covers_the_former_value_and_the_body() {
        // printf '{"a":1}' after 32 zero bytes, by sha256sum.
        let first = ChainValue::ZERO.next("{\"a\":1}");
        assert_eq!(
            first.to_string(),
            "b06a229070741292512e8760f470dd7a4c46ccfdf253df781d88dabe58c1ccb1"
        );
        assert_ne!(first, first.next("{\"a\":1}"));
        assert_ne!(first, ChainValue::ZERO.next("{\"a\":2}"));
    }

    #[test]
    fn a_sealed_line_returns_its_body_and_value() {
        let value = ChainValue::ZERO.next("{\"a\":1}");
        let line = value.seal("{\"a\":1}");
        assert_eq!(line, format!("{{\"a\":1,\"chain\":\"{value}\"}}\n"));
        let opened = ChainValue::unseal(line.trim_end());
        assert_eq!(opened, Some(("{\"a\":1}".to_owned(), value)));
        let upper = line.trim_end().to_uppercase();
        for other in ["", "{}", "{\"a\":1}", "é\"}", &upper, &line] {
            assert_eq!(ChainValue::unseal(other), None, "{other}");
        }
    }
}
