//! Foreign text for terminals: escape sequences are shown, never executed.
//!
//! Names, labels and messages come from frameworks, tasks and other hosts.

/// Returns whether a character can change a terminal's state, or the order of the text around it.
fn is_hidden(letter: char) -> bool {
    letter.is_control()
        || matches!(
            letter,
            '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}'
        )
}

/// Returns the text with such characters written as `\u{1b}`; line breaks and tabs stay.
pub(crate) fn visible(text: &str) -> String {
    shown(text, |letter| matches!(letter, '\n' | '\t'))
}

/// The same as one line: line breaks and tabs are written as `\n` and `\t`.
pub(crate) fn visible_line(text: &str) -> String {
    shown(text, |_| false)
}

fn shown(text: &str, stays: impl Fn(char) -> bool) -> String {
    let mut all = String::with_capacity(text.len());
    for letter in text.chars() {
        match is_hidden(letter) && !stays(letter) {
            true => all.extend(letter.escape_default()),
            false => all.push(letter),
        }
    }
    all
}

/// Returns JSON in which such characters are written as `\u001b`. JSON itself has none of them
/// outside its strings, except line breaks, which stay.
pub(super) fn visible_json(json: String) -> String {
    if !json
        .chars()
        .any(|letter| is_hidden(letter) && letter != '\n')
    {
        return json;
    }
    let mut all = String::with_capacity(json.len());
    for letter in json.chars() {
        match is_hidden(letter) && letter != '\n' {
            true => all.push_str(&format!("\\u{:04x}", u32::from(letter))),
            false => all.push(letter),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_are_shown_and_never_sent() {
        let text = "a\u{1b}[2Jb\u{9b}31mc\u{202e}d\r\nä\t→";
        let line = visible_line(text);
        assert_eq!(line, "a\\u{1b}[2Jb\\u{9b}31mc\\u{202e}d\\r\\nä\\t→");
        assert_eq!(visible("a\n\tb\u{7}"), "a\n\tb\\u{7}");
    }

    #[test]
    fn json_keeps_its_value() {
        let value = serde_json::json!({ "a\u{1b}": "\u{9b}2J\u{202e}\u{7f}ä\n" });
        let text = visible_json(serde_json::to_string_pretty(&value).unwrap());
        assert!(
            text.chars()
                .all(|letter| letter == '\n' || !is_hidden(letter)),
            "{text:?}"
        );
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&text).unwrap(),
            value
        );
    }
}
