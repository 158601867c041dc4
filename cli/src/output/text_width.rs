//! The width of text on a terminal.

use ratatui::text::Span;

/// Returns the number of cells of a text on the terminal.
pub(crate) fn width(text: &str) -> usize {
    Span::raw(text).width()
}

/// Returns the beginning of a text that fits, with `…` where it is cut.
pub(crate) fn cut(text: &str, room: usize) -> String {
    if width(text) <= room {
        return text.to_owned();
    }
    let mut kept = String::new();
    let mut used = 0;
    let mut letter_bytes = [0; 4];
    for letter in text.chars() {
        let letter_width = width(letter.encode_utf8(&mut letter_bytes));
        if used + letter_width + 1 > room {
            break;
        }
        used += letter_width;
        kept.push(letter);
    }
    if room > 0 {
        kept.push('…');
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_by_their_width_on_the_terminal() {
        assert_eq!(cut("brave-otter", 11), "brave-otter");
        assert_eq!(cut("brave-otter", 6), "brave…");
        assert_eq!(cut("日本語", 4), "日…");
        assert_eq!(cut("日本語", 6), "日本語");
        assert_eq!(cut("ab", 1), "…");
        assert_eq!(cut("ab", 0), "");
    }
}
