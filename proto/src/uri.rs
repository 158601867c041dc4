//! URIs as they appear in errors, status texts and logs.

use std::fmt;

/// The placeholder of a hidden part.
const HIDDEN: char = '…';

/// A URI without its user information, query and fragment, which may contain passwords, tokens and
/// signatures.
///
/// It can be made of any text: an invalid URI is shown to its author too.
#[derive(Clone, PartialEq, Eq)]
pub struct RedactedUri(String);

impl RedactedUri {
    /// Returns the part that may be shown.
    #[must_use]
    pub fn of(uri: &str) -> Self {
        if uri.starts_with('/') || uri.starts_with("file:///") {
            // A path has no such parts: these characters belong to the file's name.
            return Self(uri.to_owned());
        }
        let (scheme, rest) = match uri.find("://") {
            Some(at) => uri.split_at(at + 3),
            None => ("", uri),
        };
        let shown = rest.split(['?', '#']).next().unwrap_or_default();
        let end = shown.find(['/', '\\']).unwrap_or(shown.len());
        let (authority, path) = shown.split_at(end);
        let host = authority.rsplit('@').next().unwrap_or_default();
        let mut text = scheme.to_owned();
        if host.len() == authority.len() && rest.contains('@') && !has_plain_port(host) {
            // The password contains one of these characters.
            text.push(HIDDEN);
            return Self(text);
        }
        text.push_str(host);
        text.push_str(path);
        if shown.len() < rest.len() {
            text.push('?');
            text.push(HIDDEN);
        }
        Self(text)
    }
}

fn has_plain_port(host: &str) -> bool {
    let after = host.rsplit(']').next().unwrap_or_default();
    after
        .rsplit_once(':')
        .is_none_or(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()))
}

impl fmt::Display for RedactedUri {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Debug for RedactedUri {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_is_shown_without_secret_parts() {
        for (uri, shown) in [
            ("http://h/p", "http://h/p"),
            ("https://u:s@h:80/p?k=s#f", "https://h:80/p?…"),
            ("https://s@h", "https://h"),
            ("https://u:s@t@h/p", "https://h/p"),
            ("https://h?s", "https://h?…"),
            ("https://h/p#s", "https://h/p?…"),
            ("https://h/@scope/p@1", "https://h/@scope/p@1"),
            ("https://[::1]:80/a@b", "https://[::1]:80/a@b"),
            ("https://u:a/s@h/p", "https://…"),
            ("https://u:a?s@h/p", "https://…"),
            ("https://u:a\\s@h/p", "https://…"),
            ("u:s@h/p?s", "h/p?…"),
            ("ftp://u:s@h/p", "ftp://h/p"),
            ("/srv/what?#@x", "/srv/what?#@x"),
            ("file:///srv/a@b?c", "file:///srv/a@b?c"),
            ("", ""),
        ] {
            assert_eq!(RedactedUri::of(uri).to_string(), shown, "{uri}");
        }
        assert_eq!(
            format!("{:?}", RedactedUri::of("http://s@h")),
            "\"http://h\""
        );
    }
}
