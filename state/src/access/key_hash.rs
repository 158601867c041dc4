//! Hashes of public keys.

use std::fmt;
use std::str::FromStr;

use crate::ids::InvalidId;

/// The SHA-256 of a public key: of the DER form of a certificate's `SubjectPublicKeyInfo`. Written
/// as 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyHash(pub [u8; 32]);

impl fmt::Display for KeyHash {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, out)
    }
}

impl FromStr for KeyHash {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let rule = "write 64 lower-case hexadecimal digits";
        let bytes = read_hex(text).ok_or_else(|| InvalidId::new("hash of a key", text, rule))?;
        Ok(Self(bytes))
    }
}

/// Writes bytes as lower-case hexadecimal digits.
pub(super) fn write_hex(bytes: &[u8], out: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
}

/// Reads exactly `N` bytes, written as lower-case hexadecimal digits.
pub(super) fn read_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != N || !rest.is_empty() {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_round_trip_as_text_and_other_texts_are_rejected() {
        let hash = KeyHash(std::array::from_fn(|at| at as u8 * 8));
        let text = hash.to_string();
        assert!(text.starts_with("00081018") && text.len() == 64);
        assert_eq!(text.parse(), Ok(hash));
        for text in [
            "",
            &text[1..],
            &text[2..],
            &format!("{text}0"),
            &format!("{text}00"),
            &text.to_uppercase(),
            &text.replace('0', "g"),
        ] {
            assert!(text.parse::<KeyHash>().is_err(), "{text:?}");
        }
    }
}
