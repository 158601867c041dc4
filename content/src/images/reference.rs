//! Image references: images in a registry, in an OCI layout directory, or in a tar file of one.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use oci_spec::distribution::{ParseError, Reference};
use reqwest::Url;
use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::registry::authority;

/// The maximum length of an image name, in bytes.
const NAME_BYTES: usize = 1_024;

const LOWER_CASE: &str = "the repository must be in lower case";

/// The name of an image.
///
/// ```text
/// [registry[:port]/]repository[:tag][@sha256:...]    defaults: docker.io, latest
/// oci:/path[:tag]                                     an OCI image layout
/// oci-archive:/path.tar[:tag]                         the same in a tar file
/// ```
/// A tag starts after the last colon of a path's last part. The formatted name is complete and
/// canonical.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ImageReference {
    Registry(RegistryReference),
    /// In a directory of this host.
    Layout(LayoutReference),
    /// In a tar file of this host.
    Archive(LayoutReference),
}

/// An image in a registry.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RegistryReference {
    /// Host name, and port if one was given, as in URLs.
    pub registry: String,
    /// With the prefix `library/` where Docker Hub needs it.
    pub repository: String,
    /// At least one of tag and digest is present; a digest takes precedence.
    pub tag: Option<String>,
    /// Of the manifest or index.
    pub digest: Option<Digest>,
}

/// An image in an OCI layout.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LayoutReference {
    pub path: PathBuf,
    /// `None` selects the only image of the layout.
    pub tag: Option<String>,
}

/// The error for text that is not a valid image name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is not an image name: {rule}")]
pub struct InvalidReference {
    /// The text.
    pub name: String,
    /// The error, and its remedy.
    pub rule: String,
}

impl FromStr for ImageReference {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        let invalid = |rule: String| InvalidReference {
            name: text.chars().take(NAME_BYTES).collect(),
            rule,
        };
        if text.len() > NAME_BYTES {
            return Err(invalid(format!("it has more than {NAME_BYTES} bytes")));
        }
        if let Some(rest) = text.strip_prefix("oci-archive:") {
            return layout(rest).map(Self::Archive).map_err(invalid);
        }
        if let Some(rest) = text.strip_prefix("oci:") {
            return layout(rest).map(Self::Layout).map_err(invalid);
        }
        registry(text).map(Self::Registry).map_err(invalid)
    }
}

fn registry(text: &str) -> Result<RegistryReference, String> {
    if text.contains("://") {
        return Err("leave http:// or https:// away".to_owned());
    }
    let parsed = Reference::from_str(text).map_err(|error| rule(text, &error))?;
    // The parser accepts capitals before the first slash, without a registry.
    if parsed
        .repository()
        .contains(|letter: char| letter.is_ascii_uppercase())
    {
        return Err(LOWER_CASE.to_owned());
    }
    check_registry(parsed.registry())?;
    let digest = parsed.digest().map(str::parse::<Digest>).transpose();
    let digest = digest.map_err(|_| {
        "its digest must be sha256: and 64 lower-case hexadecimal digits".to_owned()
    })?;
    Ok(RegistryReference {
        registry: parsed.registry().to_owned(),
        repository: parsed.repository().to_owned(),
        tag: parsed.tag().map(str::to_owned),
        digest,
    })
}

/// Checks that a registry is spelled as in its URLs: rules of access and credentials know one name
/// of it.
fn check_registry(registry: &str) -> Result<(), String> {
    let url = Url::parse(&format!("https://{registry}/"));
    let url = url.map_err(|error| format!("its registry is not a server: {error}"))?;
    let spelled = authority(&url);
    match spelled == registry {
        true => Ok(()),
        false => Err(format!("write its registry as {spelled}")),
    }
}

/// Returns the error for a name that does not parse.
fn rule(text: &str, error: &ParseError) -> String {
    // The name without a tag or digest, and without a registry, which may have capitals.
    let name = text.split('@').next().unwrap_or_default();
    let path = name.split_once('/').map_or(name, |(_, path)| path);
    let path = path.split(':').next().unwrap_or_default();
    if text.is_empty() {
        "it is empty".to_owned()
    } else if text.contains(char::is_whitespace) {
        "it has a space in it".to_owned()
    } else if text.contains('@')
        && matches!(
            error,
            ParseError::DigestInvalidFormat
                | ParseError::DigestInvalidLength
                | ParseError::DigestUnsupported
        )
    {
        "its digest must be sha256: and 64 lower-case hexadecimal digits".to_owned()
    } else if path.contains(|letter: char| letter.is_ascii_uppercase()) {
        LOWER_CASE.to_owned()
    } else if matches!(error, ParseError::NameTooLong) {
        "the repository has more than 255 characters".to_owned()
    } else {
        "write [registry[:port]/]repository[:tag][@sha256:...], oci:/path[:tag] or \
         oci-archive:/path.tar[:tag]"
            .to_owned()
    }
}

fn layout(text: &str) -> Result<LayoutReference, String> {
    let last = text.rfind('/').map_or(0, |at| at + 1);
    let (path, tag) = match text[last..].rfind(':') {
        Some(at) => (&text[..last + at], Some(&text[last + at + 1..])),
        None => (text, None),
    };
    if !path.starts_with('/') || path.len() < 2 || path.contains('\0') {
        return Err("give the absolute path of an OCI image layout".to_owned());
    }
    let allowed = |letter: char| letter.is_ascii_graphic();
    if tag.is_some_and(|tag| tag.is_empty() || !tag.chars().all(allowed)) {
        return Err("its tag must be of letters, digits and marks, or left away".to_owned());
    }
    Ok(LayoutReference {
        path: PathBuf::from(path),
        tag: tag.map(str::to_owned),
    })
}

impl fmt::Display for ImageReference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry(reference) => reference.fmt(formatter),
            Self::Layout(reference) => write!(formatter, "oci:{reference}"),
            Self::Archive(reference) => write!(formatter, "oci-archive:{reference}"),
        }
    }
}

impl fmt::Display for RegistryReference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(formatter, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(formatter, "@{digest}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for LayoutReference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.path.display())?;
        match &self.tag {
            Some(tag) => write!(formatter, ":{tag}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_get_the_docker_defaults() {
        let digest = Digest::of(b"");
        let pinned = format!("quay.io/a/b@{digest}");
        let both = format!("quay.io/a/b:t@{digest}");
        for (given, full) in [
            ("nginx", "docker.io/library/nginx:latest"),
            ("nginx:1.27", "docker.io/library/nginx:1.27"),
            ("index.docker.io/nginx", "docker.io/library/nginx:latest"),
            ("user/app", "docker.io/user/app:latest"),
            ("localhost/x", "localhost/x:latest"),
            ("localhost:5000/x", "localhost:5000/x:latest"),
            ("127.0.0.1:5000/a/b/c:t", "127.0.0.1:5000/a/b/c:t"),
            ("registry.lan/team", "registry.lan/team:latest"),
            ("10.0.0.5/team", "10.0.0.5/team:latest"),
            ("registry.lan:80/team", "registry.lan:80/team:latest"),
            ("my_registry.lan/team", "my_registry.lan/team:latest"),
            (pinned.as_str(), pinned.as_str()),
            (both.as_str(), both.as_str()),
            ("oci:/srv/web", "oci:/srv/web"),
            ("oci:/srv/web:1.0", "oci:/srv/web:1.0"),
            ("oci:/srv/a:b/web", "oci:/srv/a:b/web"),
            ("oci-archive:/srv/web.tar:1", "oci-archive:/srv/web.tar:1"),
        ] {
            let reference: ImageReference = given.parse().unwrap();
            assert_eq!(reference.to_string(), full, "{given}");
            assert_eq!(full.parse(), Ok(reference), "{given}");
        }
    }

    #[test]
    fn a_registry_has_one_spelling() {
        for (given, spelled) in [
            ("index.docker.io:0443/library/nginx", "index.docker.io"),
            ("Index.docker.io/library/nginx", "index.docker.io"),
            ("Registry.lan/a", "registry.lan"),
            ("LOCALHOST:5000/a", "localhost:5000"),
            ("registry.lan:443/a", "registry.lan"),
            ("registry.lan:05000/a", "registry.lan:5000"),
            ("0xa.0.0.5/a", "10.0.0.5"),
            ("10.5:5000/a", "10.0.0.5:5000"),
            ("012.0.0.5/a", "10.0.0.5"),
            ("2130706433:5000/a", "127.0.0.1:5000"),
        ] {
            let error = given.parse::<ImageReference>().unwrap_err();
            assert_eq!(error.rule, format!("write its registry as {spelled}"));
        }
        for given in ["registry.lan:70000/a", "256.0.0.5/a", "10.0.0.0.5/a"] {
            let error = given.parse::<ImageReference>().unwrap_err().to_string();
            assert!(error.contains("is not a server"), "{error}");
        }
    }

    #[test]
    fn an_invalid_name_is_rejected_with_the_reason() {
        let short = format!("x@sha256:{}", "0".repeat(40));
        let other = format!("x@sha512:{}", "0".repeat(128));
        let (long, longer) = ("a".repeat(300), "a".repeat(2_000));
        for (given, wanted) in [
            ("", "it is empty"),
            ("https://docker.io/nginx", "https://"),
            ("quay.io/Team/App", "lower case"),
            ("Nginx", "lower case"),
            ("Team/app", "lower case"),
            ("a b", "space"),
            (short.as_str(), "sha256"),
            (other.as_str(), "sha256"),
            ("x:", "write [registry"),
            ("../etc/passwd", "write [registry"),
            ("oci:relative", "absolute path"),
            ("oci:/", "absolute path"),
            ("oci-archive:", "absolute path"),
            ("oci:/a:", "tag"),
            ("x\0y", "write [registry"),
            (long.as_str(), "255"),
            (longer.as_str(), "1024"),
        ] {
            let error = given.parse::<ImageReference>().unwrap_err().to_string();
            assert!(error.contains(wanted), "{given}: {error}");
        }
    }
}
