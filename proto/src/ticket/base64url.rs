//! Base64 with the alphabet for URLs and without padding (RFC 4648, section 5).
//!
//! Bytes have exactly one text: other spellings are rejected, so that no changed text means the
//! same.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Returns the text of these bytes.
pub(super) fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let mut bits = 0;
        for at in 0..3 {
            bits = (bits << 8) | u32::from(group.get(at).copied().unwrap_or(0));
        }
        for at in 0..=group.len() {
            let index = (bits >> (18 - 6 * at)) & 63;
            text.push(char::from(ALPHABET[index as usize]));
        }
    }
    text
}

/// Returns the bytes of a text; `None` for one that [`encode`] does not return.
pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3 + 2);
    for group in text.as_bytes().chunks(4) {
        let mut bits: u32 = 0;
        for at in 0..4 {
            let digit = group.get(at).map_or(Some(0), |symbol| digit(*symbol))?;
            bits = (bits << 6) | digit;
        }
        let whole = bits.to_be_bytes();
        let (used, rest) = whole[1..].split_at(group.len().checked_sub(1).filter(|n| *n > 0)?);
        if rest.iter().any(|byte| *byte != 0) {
            return None;
        }
        bytes.extend(used);
    }
    Some(bytes)
}

fn digit(symbol: u8) -> Option<u32> {
    let at = ALPHABET.iter().position(|known| *known == symbol)?;
    u32::try_from(at).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_the_text_of_the_standard() {
        // The test vectors of RFC 4648, without padding.
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg"),
            ("fo", "Zm8"),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg"),
            ("fooba", "Zm9vYmE"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(encode(bytes.as_bytes()), text);
            assert_eq!(decode(text).as_deref(), Some(bytes.as_bytes()));
        }
        assert_eq!(encode(&[0xfb, 0xff, 0xfe]), "-__-");
    }

    #[test]
    fn other_spellings_of_the_same_bytes_are_rejected() {
        for text in [
            "Zh", "Zm9", "Zg==", "Zg=", "Z", "Zm9vY", "Zm+v", "Zm/v", "Zm 9v", "Zé",
        ] {
            assert_eq!(decode(text), None, "{text}");
        }
    }
}
