//! Lines of logs and messages without what may be secret. Where the end of a secret is uncertain,
//! more is hidden, not less.
//!
//! The lines may be long and hostile: each function reads a part of a line once.

use std::ops::Range;

use argosy_proto::uri::RedactedUri;

/// Parts of names whose values are hidden, in lower case.
const NAMES: [&str; 4] = ["token", "secret", "password", AUTHORIZATION];
/// The header, whose value has several words.
const AUTHORIZATION: &str = "authorization";
/// Maximum length of the rest of a name, as `_FILE` in `TOKEN_FILE`.
const NAME_REST: usize = 64;
const HIDDEN: char = '…';

/// Returns the line without values of secrets, and without secret parts of URIs.
pub(super) fn scrubbed(line: &str) -> String {
    without_uris(&without_values(line))
}

/// Hides user information and parameters of each URI.
fn without_uris(line: &str) -> String {
    let marks = line.match_indices("://");
    let marks: Vec<_> = marks
        .map(|(at, _)| (scheme_start(line, at), at + 3))
        .collect();
    let mut shown = String::with_capacity(line.len());
    let mut from = 0;
    for (index, (start, body)) in marks.iter().copied().enumerate() {
        // It belongs to the URI before it.
        if start < from {
            continue;
        }
        let is_path = line[start..].starts_with("file:///");
        let ends_host = |letter| "/\\?#,".contains(letter) || ends_uri(letter);
        let host_end = find_from(line, body, ends_host);
        let next = marks[index + 1..]
            .iter()
            .find(|(next, _)| *next >= host_end);
        let next = next.map_or(line.len(), |(next, _)| *next);
        let ends_path = |letter| ends_uri(letter) || !is_path && matches!(letter, '?' | '#');
        let mut end = find_from(&line[..next], host_end, ends_path);
        // Parameters may contain anything, other URIs too.
        if !is_path && line[end..].starts_with(['?', '#']) {
            end = find_from(line, end, ends_uri);
        }
        if line[start..end].ends_with(',') {
            end -= 1;
        }
        shown.push_str(&line[from..start]);
        shown.push_str(&RedactedUri::of(&line[start..end]).to_string());
        from = end;
    }
    shown.push_str(&line[from..]);
    shown
}

/// Returns where the scheme before `://` begins.
fn scheme_start(line: &str, end: usize) -> usize {
    let is_scheme = |byte: &&u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
    let scheme = line.as_bytes()[..end].iter().rev().take_while(is_scheme);
    end - scheme.count()
}

/// Returns whether a letter is never in a URI. A single quote and a comma may be in a password.
fn ends_uri(letter: char) -> bool {
    letter == '"' || letter.is_whitespace() || letter.is_control()
}

/// Returns the place of the first such letter from `from` on, or the end.
fn find_from(line: &str, from: usize, is_found: impl Fn(char) -> bool) -> usize {
    line[from..]
        .find(is_found)
        .map_or(line.len(), |at| from + at)
}

/// Hides the values that follow the name of a secret.
fn without_values(line: &str) -> String {
    let lower = line.to_ascii_lowercase();
    let mut found = Vec::new();
    for name in NAMES {
        let places = lower.match_indices(name);
        found.extend(places.map(|(at, _)| (at, at + name.len(), name == AUTHORIZATION)));
    }
    found.sort_unstable();
    let mut shown = String::with_capacity(line.len());
    let (mut from, mut counted, mut is_quoted) = (0, 0, false);
    for (start, end, is_header) in found {
        // It belongs to the value before it.
        if start < from {
            continue;
        }
        is_quoted ^= has_odd_quotes(&line[counted..start]);
        counted = start;
        let Some(begin) = value_start(&lower, end) else {
            continue;
        };
        let hidden = value(line, begin, is_header, is_quoted);
        if !hidden.is_empty() {
            shown.push_str(&line[from..hidden.start]);
            shown.push(HIDDEN);
            from = hidden.end;
        }
    }
    shown.push_str(&line[from..]);
    shown
}

/// Returns whether a quote that the text opens is still open at its end.
fn has_odd_quotes(text: &str) -> bool {
    let (mut is_odd, mut is_escaped) = (false, false);
    for byte in text.bytes() {
        is_odd ^= byte == b'"' && !is_escaped;
        is_escaped = byte == b'\\' && !is_escaped;
    }
    is_odd
}

/// Returns where the value begins, if the name that ends at `end` has one.
fn value_start(lower: &str, end: usize) -> Option<usize> {
    let bytes = lower.as_bytes();
    let skip = |from: usize, most: usize, skipped: &dyn Fn(u8) -> bool| {
        let rest = bytes[from..].iter().take(most);
        from + rest.take_while(|byte| skipped(**byte)).count()
    };
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    let at = skip(end, NAME_REST, &is_name);
    let at = skip(at, usize::MAX, &|byte| b" \t\"'\\]".contains(&byte));
    let after = skip(at, 2, &|byte| b"=:>".contains(&byte));
    if after == at || lower[at..after] == *"::" || bytes[at] == b'>' {
        return None;
    }
    let mut at = skip(after, usize::MAX, &|byte| b" \t[(".contains(&byte));
    for before in ["some(", "bearer ", "basic "] {
        if lower[at..].starts_with(before) {
            at += before.len();
        }
    }
    Some(at)
}

/// Returns the place of a value. That of a header ends with the quote that it is in, or the line.
fn value(line: &str, begin: usize, is_header: bool, is_quoted: bool) -> Range<usize> {
    let bytes = line.as_bytes();
    let escapes = bytes[begin..].iter().take_while(|byte| **byte == b'\\');
    let escapes = escapes.count();
    let inner = begin + escapes + 1;
    match bytes.get(begin + escapes) {
        Some(quote @ (b'"' | b'\'')) => inner..quote_end(bytes, inner, *quote, escapes),
        _ if is_header && is_quoted => begin..quote_end(bytes, begin, b'"', 0),
        _ if is_header => begin..line.len(),
        _ => {
            let ends = |letter: char| "\"'`,;&".contains(letter) || ends_uri(letter);
            begin..find_from(line, begin, ends)
        }
    }
}

/// Returns the end of a quoted text: where the quote with this number of escapes is again, not one
/// of the text itself, which has more escapes.
fn quote_end(bytes: &[u8], from: usize, quote: u8, escapes: usize) -> usize {
    let mut before = 0;
    for (at, byte) in bytes.iter().enumerate().skip(from) {
        if *byte == b'\\' {
            before += 1;
            continue;
        }
        let ends = before < escapes || before % (2 * (escapes + 1)) == escapes;
        if *byte == quote && ends {
            return at - before.min(escapes);
        }
        before = 0;
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_uri_of_a_line_is_redacted() {
        for (line, shown) in [
            (
                r#"{"a":"https://h/x","b":"https://u:pw@h2/y"}"#,
                r#"{"a":"https://h/x","b":"https://h2/y"}"#,
            ),
            ("/x,https://u:pw@h", "/x,https://h"),
            ("https://h/x,https://u:pw@h2/y", "https://h/x,https://h2/y"),
            ("https://h1,https://u:pw@h2/y", "https://h1,https://h2/y"),
            (
                "a:https://h/x,b:https://u:pw@h2",
                "a:https://h/x,b:https://h2",
            ),
            ("https://h/https://u:pw@h2/y", "https://h/https://h2/y"),
            (
                "'https://h/x','https://u:pw@h2'",
                "'https://h/x','https://h2'",
            ),
            (
                "https://h/x?pw\thttps://u:pw@h2",
                "https://h/x?…\thttps://h2",
            ),
            ("https://h/x?a=pw, then", "https://h/x?…, then"),
            ("https://h/x?a,pw&u=https://pw", "https://h/x?…"),
            ("file:///x?y,https://u:pw@h", "file:///x?y,https://h"),
            ("https://u:pw,pw@h/y", "https://h/y"),
            ("https://u:pw'pw@h/y", "https://h/y"),
            ("https://u:pw/pw,pw@h/y", "https://…"),
            ("https://u:pw@h/ä https://ü:pw@ö/", "https://h/ä https://ö/"),
            ("://u:pw@h /d?e#f", "://h /d?e#f"),
            (r#"\"https://u:pw@h\" b"#, r#"\"https://h\" b"#),
            ("no URI: /a?b", "no URI: /a?b"),
            ("", ""),
        ] {
            assert_eq!(scrubbed(line), shown, "{line}");
        }
    }

    #[test]
    fn values_of_secrets_are_hidden() {
        for (line, shown) in [
            ("token=pw x", "token=… x"),
            ("a_Token: pw, b", "a_Token: …, b"),
            ("AWS_SECRET_ACCESS_KEY=pw;x", "AWS_SECRET_ACCESS_KEY=…;x"),
            ("PASSWORD = \"pw pw\" x", "PASSWORD = \"…\" x"),
            ("password=pw&x=1", "password=…&x=1"),
            (r#"{"password":"p,w","x":1}"#, r#"{"password":"…","x":1}"#),
            (r#"{"token":"p\"w\\","x":1}"#, r#"{"token":"…","x":1}"#),
            (
                r#""{\"token\":\"p w\",\"x\":1}""#,
                r#""{\"token\":\"…\",\"x\":1}""#,
            ),
            ("token: Some(\"pw\") x", "token: Some(\"…\") x"),
            ("token: Bearer pw x", "token: Bearer … x"),
            ("Authorization: Bearer pw pw", "Authorization: Bearer …"),
            ("authorization: Digest a=\"pw\", b", "authorization: …"),
            (
                r#"{"m":"Authorization: Basic pw a=\"pw\" b","x":1}"#,
                r#"{"m":"Authorization: Basic …","x":1}"#,
            ),
            (
                "https://h/?token=pw&x https://token:pw@h",
                "https://h/?… https://token:…",
            ),
            ("secret=ü€ ä", "secret=… ä"),
            (
                "argosy::token::core: no secret",
                "argosy::token::core: no secret",
            ),
            ("3 tokens, no password", "3 tokens, no password"),
            ("token=", "token="),
        ] {
            assert_eq!(scrubbed(line), shown, "{line}");
        }
    }

    #[test]
    fn long_lines_are_read_once() {
        for part in [
            "token ",
            "a://b/",
            "authorization:\"",
            "https://h,",
            "\\\"secret",
        ] {
            let line = part.repeat((1 << 20) / part.len());
            let began = std::time::Instant::now();
            assert!(!scrubbed(&line).is_empty());
            let took = began.elapsed();
            assert!(took.as_secs() < 20, "{part}: {took:?}");
        }
    }
}
