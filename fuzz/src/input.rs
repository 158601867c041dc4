//! The structure of inputs with several parts.

/// The maximum number of parts of an input.
const PARTS: usize = 32;

/// Splits an input into parts, each of which follows its length: one byte, or three if the first is
/// 255. A part that is longer than the rest is the rest.
pub(crate) fn parts(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    while parts.len() < PARTS {
        let (length, rest) = match *bytes {
            [] => break,
            [255, high, low, ref rest @ ..] => (u16::from_be_bytes([high, low]).into(), rest),
            [length, ref rest @ ..] => (usize::from(length), rest),
        };
        let (part, rest) = rest.split_at(length.min(rest.len()));
        parts.push(part);
        bytes = rest;
    }
    parts
}

/// Splits an input into a first byte, which selects a variant, and parts.
pub(crate) fn variant(bytes: &[u8]) -> (u8, Vec<&[u8]>) {
    match bytes.split_first() {
        Some((variant, rest)) => (*variant, parts(rest)),
        None => (0, Vec::new()),
    }
}

/// Splits a text at the first line `---`.
pub(crate) fn two_texts(bytes: &[u8]) -> Option<(&str, &str)> {
    let text = std::str::from_utf8(bytes).ok()?;
    Some(text.split_once("\n---\n").unwrap_or((text, "")))
}

/// The inverse of `parts`, for seeds.
#[must_use]
pub fn joined<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in parts {
        match u8::try_from(part.len()) {
            Ok(length) if length < 255 => bytes.push(length),
            _ => {
                let length = u16::try_from(part.len()).expect("parts of seeds are short");
                bytes.push(255);
                bytes.extend(length.to_be_bytes());
            }
        }
        bytes.extend_from_slice(part);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_those_that_were_joined() {
        let long = vec![7; 300];
        let all: [&[u8]; 4] = [b"one", b"", &long, b"last"];
        assert_eq!(parts(&joined(all)), all);
        assert_eq!(parts(&[9, 1, 2]), [&[1, 2][..]], "the rest");
        assert_eq!(parts(&vec![0; 100]).len(), PARTS);
    }
}
