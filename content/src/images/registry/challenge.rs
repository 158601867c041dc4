//! Authentication challenges of registries: their `WWW-Authenticate` headers. Pure.

/// An authentication scheme.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::images) enum Challenge {
    /// A user and password with each request.
    Basic,
    /// A token from another server.
    Bearer {
        /// The URL of the token server.
        realm: String,
        /// The service parameter of the token request.
        service: Option<String>,
    },
}

/// Returns the scheme that reveals least: a token, if the registry accepts one. `None` if no scheme
/// is supported.
pub(in crate::images) fn preferred<'a>(
    headers: impl Iterator<Item = &'a str>,
) -> Option<Challenge> {
    let mut found = None;
    for (scheme, parameters) in headers.flat_map(challenges) {
        let value = |wanted: &str| {
            let mut all = parameters.iter();
            let (_, value) = all.find(|(name, _)| name.eq_ignore_ascii_case(wanted))?;
            Some(value.clone())
        };
        if scheme.eq_ignore_ascii_case("bearer")
            && let Some(realm) = value("realm")
        {
            let service = value("service");
            return Some(Challenge::Bearer { realm, service });
        }
        if scheme.eq_ignore_ascii_case("basic") {
            found = Some(Challenge::Basic);
        }
    }
    found
}

type ChallengeParameters = Vec<(String, String)>;

/// Parses one header: schemes, each with its parameters. Parsing stops at an error.
fn challenges(header: &str) -> Vec<(String, ChallengeParameters)> {
    let mut found: Vec<(String, ChallengeParameters)> = Vec::new();
    let mut rest = header;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let end = rest
            .find(|letter: char| !is_token(letter))
            .unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        if word.is_empty() {
            return found;
        }
        let Some(value) = after.trim_start().strip_prefix('=') else {
            found.push((word.to_owned(), Vec::new()));
            rest = after;
            continue;
        };
        let Some((value, after)) = parameter(value.trim_start()) else {
            return found;
        };
        if let Some((_, parameters)) = found.last_mut() {
            parameters.push((word.to_owned(), value));
        }
        rest = after;
    }
}

/// Parses a value, quoted or not; returns it with the rest.
fn parameter(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        return Some((text[..end].to_owned(), &text[end..]));
    };
    let mut value = String::new();
    let mut letters = quoted.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(letters.next()?.1),
            _ => value.push(letter),
        }
    }
    None
}

fn is_token(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(letter)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>) -> Option<Challenge> {
        Some(Challenge::Bearer {
            realm: realm.to_owned(),
            service: service.map(str::to_owned),
        })
    }

    #[test]
    fn token_authentication_is_preferred_in_any_header_order() {
        for (headers, wanted) in [
            (
                &[r#"Bearer realm="https://a/token",service="r, s",scope="repository:x:pull""#][..],
                bearer("https://a/token", Some("r, s")),
            ),
            (
                &[r#"Basic realm="x", Bearer realm="https://a/""#],
                bearer("https://a/", None),
            ),
            (
                &["Basic realm=x", "bearer REALM = https://a/"],
                bearer("https://a/", None),
            ),
            (
                &[r#"Basic realm="a \"b\"", charset="UTF-8""#],
                Some(Challenge::Basic),
            ),
            (&["Basic"], Some(Challenge::Basic)),
            (&["Negotiate", "Digest qop=auth"], None),
            (&[r#"Bearer service="x""#], None),
            (&[r#"Bearer realm="unclosed"#], None),
            (&["=,=\"", "\u{7f}", ""], None),
            (&[], None),
        ] {
            assert_eq!(preferred(headers.iter().copied()), wanted, "{headers:?}");
        }
    }
}
