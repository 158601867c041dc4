//! Registry credentials, from a file in the format of Docker's `config.json`.
//!
//! The file is read at each pull, so it may be replaced at any time. Its content is never shown,
//! not even in errors.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::path::Path;

use http::HeaderValue;
use serde::Deserialize;

use super::error::PullErrorKind;

/// The maximum size of a credentials file, in bytes.
const FILE_BYTES: u64 = 1024 * 1024;

/// The value of an `Authorization` header. Its debug output is redacted.
#[derive(Clone)]
pub struct AuthHeader(HeaderValue);

impl AuthHeader {
    /// Returns `Basic` credentials from a user and password in base64.
    fn basic(encoded: &str) -> Option<Self> {
        let is_digit = |letter: u8| letter.is_ascii_alphanumeric() || b"+/".contains(&letter);
        let digits = encoded.trim_end_matches('=');
        let is_whole = encoded.len().is_multiple_of(4) && encoded.len() - digits.len() <= 2;
        if digits.is_empty() || !is_whole || !digits.bytes().all(is_digit) {
            return None;
        }
        Self::new(&format!("Basic {encoded}"))
    }

    /// Returns `Bearer` credentials from a token; `None` if it is not valid in a header.
    pub(crate) fn bearer(token: &str) -> Option<Self> {
        let is_plain = !token.is_empty() && token.bytes().all(|letter| letter.is_ascii_graphic());
        is_plain.then(|| Self::new(&format!("Bearer {token}")))?
    }

    /// Returns the value for the content service, and for no other use.
    pub(crate) fn text(&self) -> String {
        // It was created from text.
        self.0.to_str().unwrap_or_default().to_owned()
    }

    pub(crate) fn new(text: &str) -> Option<Self> {
        let mut value = HeaderValue::from_str(text).ok()?;
        // So that no library prints it either.
        value.set_sensitive(true);
        Some(Self(value))
    }

    pub(super) fn header(&self) -> HeaderValue {
        self.0.clone()
    }
}

impl fmt::Debug for AuthHeader {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret")
    }
}

#[derive(Deserialize)]
struct CredentialsFile {
    #[serde(default)]
    auths: BTreeMap<String, CredentialsEntry>,
}

#[derive(Deserialize)]
struct CredentialsEntry {
    auth: Option<String>,
}

/// Returns the credentials for this registry, if the file has any.
pub(super) fn find(path: &Path, registry: &str) -> Result<Option<AuthHeader>, PullErrorKind> {
    let unusable = |rule: String| PullErrorKind::Credentials {
        path: path.to_owned(),
        rule,
    };
    let mut text = String::new();
    let opened = std::fs::File::open(path);
    let read = opened.and_then(|file| file.take(FILE_BYTES + 1).read_to_string(&mut text));
    let length = read.map_err(|error| unusable(error.to_string()))?;
    if length as u64 > FILE_BYTES {
        return Err(unusable(format!("it has more than {FILE_BYTES} bytes")));
    }
    entry_of(&text, registry).map_err(unusable)
}

/// Returns the credentials for this registry in the text of a file, or the rule that it breaks.
pub(super) fn entry_of(text: &str, registry: &str) -> Result<Option<AuthHeader>, String> {
    // The parser's message could quote a password.
    let file: CredentialsFile = serde_json::from_str(text).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        format!("line {line}, column {column}, does not have the form of Docker's config.json")
    })?;
    let wanted = host_name(registry);
    let mut entries = file.auths.iter();
    let Some((name, entry)) = entries.find(|(name, _)| host_name(name) == wanted) else {
        return Ok(None);
    };
    let auth = entry.auth.as_deref().unwrap_or_default();
    let secret = AuthHeader::basic(auth).ok_or_else(|| {
        format!(
            "the entry {name:?} has no \"auth\" of user and password in base64: helper programs are not supported"
        )
    })?;
    Ok(Some(secret))
}

/// Entries are written as host names, or as addresses of an old protocol.
fn host_name(entry: &str) -> &str {
    let rest = entry.split_once("://").map_or(entry, |(_, rest)| rest);
    match rest.split('/').next().unwrap_or_default() {
        "index.docker.io" => "docker.io",
        host => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str, registry: &str) -> Result<Option<String>, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let found = find(file.path(), registry).map_err(|fault| fault.to_string())?;
        Ok(found.map(|secret| secret.header().to_str().unwrap().to_owned()))
    }

    #[test]
    fn each_registry_gets_only_its_own_credentials() {
        let text = r#"{"auths": {
            "https://index.docker.io/v1/": {"auth": "aHViOmE="},
            "localhost:5000": {"auth": "bG9jYWw6Yg=="}
        }, "credsStore": "desktop"}"#;
        let basic = |encoded: &str| Ok(Some(format!("Basic {encoded}")));
        assert_eq!(found(text, "docker.io"), basic("aHViOmE="));
        assert_eq!(found(text, "localhost:5000"), basic("bG9jYWw6Yg=="));
        assert_eq!(found(text, "localhost"), Ok(None));
        assert_eq!(found(text, "evil.docker.io"), Ok(None));
        assert_eq!(found("{}", "docker.io"), Ok(None));
    }

    #[test]
    fn no_output_contains_the_credentials() {
        let marks = ["hunter2", "aHVudGVyMg"];
        for text in [
            r#"{"auths": {"docker.io": {"auth": "hunter2 aHVudGVyMg"}}}"#,
            r#"{"auths": {"docker.io": {"auth": ["aHVudGVyMg=="]}}}"#,
            r#"{"auths": {"docker.io": {"auth": "aHVudGVyMg"}}}"#,
            r#"{"auths": {"docker.io": "hunter2"}}"#,
            r#"{"auths": {"docker.io": {"username": "x", "password": "hunter2"}}}"#,
            "hunter2",
        ] {
            let error = found(text, "docker.io").unwrap_err();
            assert!(error.contains("cannot use the credentials in"), "{error}");
            assert!(!marks.iter().any(|mark| error.contains(mark)), "{error}");
        }
        let secret = AuthHeader::basic("aHVudGVyMg==").unwrap();
        assert_eq!(format!("{secret:?}"), "Secret");
        assert!(!format!("{:?}", secret.header()).contains("aHVudGVyMg"));
        assert!(find(Path::new("/nonexistent/x"), "docker.io").is_err());
    }
}
