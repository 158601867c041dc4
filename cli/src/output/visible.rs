//! Foreign text for terminals: escape sequences are shown, never executed.
//!
//! Names, labels and messages come from frameworks, tasks and other hosts.

/// Returns whether a character can change a terminal's state, or the order of the text around it.
pub(crate) fn is_hidden(letter: char) -> bool {
    letter.is_control()
        || matches!(
            letter,
            '\u{61c}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{2069}'
                | '\u{feff}'
                | '\u{e0000}'..='\u{e007f}'
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
            true => {
                for unit in letter.encode_utf16(&mut [0; 2]) {
                    all.push_str(&format!("\\u{unit:04x}"));
                }
            }
            false => all.push(letter),
        }
    }
    all
}

/// Returns YAML in which such characters are written as `\u001b`. It must have been written without
/// block scalars: each scalar is on one line, plain or in double quotes.
pub(super) fn visible_yaml(yaml: &str) -> String {
    let lines = yaml
        .split('\n')
        .map(|line| match line.chars().any(is_hidden) {
            true => visible_yaml_line(line),
            false => line.to_owned(),
        });
    lines.collect::<Vec<_>>().join("\n")
}

fn visible_yaml_line(line: &str) -> String {
    let mut rest = line;
    let marks = [" ", "- ", "? ", ": "];
    while let Some(after) = marks.iter().find_map(|mark| rest.strip_prefix(*mark)) {
        rest = after;
    }
    let indent = &line[..line.len() - rest.len()];
    let (first, after) = rest.split_at(scalar_end(rest));
    let first = visible_scalar(first);
    match after.strip_prefix(": ") {
        Some(value) => format!("{indent}{first}: {}", visible_scalar(value)),
        None => format!("{indent}{first}{after}"),
    }
}

/// Returns the length of the scalar at the start of a line, which may be a key.
fn scalar_end(line: &str) -> usize {
    let Some(quoted) = line.strip_prefix('"') else {
        let end = line.find(": ");
        let end = end.or_else(|| line.strip_suffix(':').map(str::len));
        return end.unwrap_or(line.len());
    };
    let mut is_escaped = false;
    let end = quoted.find(|letter| {
        let ends = letter == '"' && !is_escaped;
        is_escaped = letter == '\\' && !is_escaped;
        ends
    });
    end.map_or(line.len(), |end| end + 2)
}

/// Returns a scalar in double quotes if it has such a character: only there it can be escaped.
fn visible_scalar(scalar: &str) -> String {
    if !scalar.chars().any(is_hidden) {
        return scalar.to_owned();
    }
    let is_quoted = scalar.starts_with('"');
    let mut all = String::with_capacity(scalar.len() + 2);
    for letter in scalar.chars() {
        match letter {
            '"' | '\\' if !is_quoted => all.extend(['\\', letter]),
            _ if !is_hidden(letter) => all.push(letter),
            '\u{10000}'.. => all.push_str(&format!("\\U{:08x}", u32::from(letter))),
            _ => all.push_str(&format!("\\u{:04x}", u32::from(letter))),
        }
    }
    match is_quoted {
        true => all,
        false => format!("\"{all}\""),
    }
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
        assert_eq!(visible_line("a\u{61c}b\u{e0041}"), "a\\u{61c}b\\u{e0041}");
    }

    #[test]
    fn json_keeps_its_value() {
        let value = serde_json::json!({ "a\u{1b}": "\u{9b}2J\u{202e}\u{7f}ä\u{61c}\u{e0041}\n" });
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
