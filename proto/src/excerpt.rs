//! Excerpts of texts that a peer has sent, for errors.
//!
//! A status is a header of its answer. A block of headers that is too long for a client of HTTP/2
//! ends the connection, and with it all other calls on it.

use std::borrow::Cow;

/// Maximum bytes of a text in a status.
pub const STATUS_BYTES: usize = 1_024;
/// Maximum bytes of a name in such a text.
pub const NAME_BYTES: usize = 64;

/// Returns the text; of one longer than `most` bytes, its beginning and an ellipsis.
#[must_use]
pub fn excerpt(text: &str, most: usize) -> Cow<'_, str> {
    if text.len() <= most {
        return Cow::Borrowed(text);
    }
    let end = text.floor_char_boundary(most);
    Cow::Owned(format!("{}…", &text[..end]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_between_two_characters() {
        assert_eq!(excerpt("", 0), "");
        assert_eq!(excerpt("name", 4), "name");
        assert_eq!(excerpt("names", 4), "name…");
        assert_eq!(excerpt("né", 2), "n…");
        assert_eq!(excerpt("né", 3), "né");
    }
}
