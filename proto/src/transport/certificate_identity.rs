//! Identities in certificates: URIs of the form `argosy://CLUSTER/KIND/NAME`.
//!
//! Only the text is validated here. The caller verifies the signature of the certificate.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use argosy_state::actor::{Actor, Principal};

/// The scheme of the URIs, with the characters before the name of the cluster.
const SCHEME: &str = "argosy://";
/// The longest name of a cluster, in bytes: as a label of a host name.
const CLUSTER_NAME_BYTES: usize = 63;
/// The number of characters of a URI that an error shows.
const SHOWN: usize = 64;

/// The name of a cluster in the identities of its members.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterName(Arc<str>);

/// The identity that a certificate states: a principal of one cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CertificateIdentity {
    /// The cluster.
    pub cluster: ClusterName,
    /// The principal in that cluster.
    pub principal: Principal,
}

/// The reason for which a certificate states no usable identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// A text is not a name of a cluster. It is cut to 64 characters.
    #[error(
        "{0:?} is not a name of a cluster; use 1 to 63 lower-case letters, digits, - and ., with a letter or digit at both ends"
    )]
    Cluster(String),
    /// A URI has the scheme, but another form. It is cut to 64 characters.
    #[error(
        "{0:?} is not an identity; write it as argosy://CLUSTER/KIND/NAME, with the kind master, agent, framework or operator"
    )]
    Form(String),
    /// The certificate has no URI with the scheme.
    #[error("the certificate states no identity; it needs a URI argosy://CLUSTER/KIND/NAME")]
    Missing,
    /// The certificate has more than one.
    #[error("the certificate states several identities; it needs exactly one argosy:// URI")]
    Several,
}

fn shown(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}

impl ClusterName {
    /// Validates `text`. Upper case is rejected, because it has no meaning in this part of a URI.
    ///
    /// # Errors
    /// [`IdentityError::Cluster`] with the text.
    pub fn new(text: &str) -> Result<Self, IdentityError> {
        let is_end = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let bytes = text.as_bytes();
        let is_valid = bytes.len() <= CLUSTER_NAME_BYTES
            && bytes.first().is_some_and(is_end)
            && bytes.last().is_some_and(is_end)
            && bytes
                .iter()
                .all(|byte| is_end(byte) || b"-.".contains(byte));
        if is_valid {
            Ok(Self(text.into()))
        } else {
            Err(IdentityError::Cluster(shown(text)))
        }
    }

    /// Returns the name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl CertificateIdentity {
    /// The longest URI, in bytes.
    pub const URI_BYTES: usize = SCHEME.len() + CLUSTER_NAME_BYTES + "/".len() + Actor::TEXT_BYTES;

    /// Returns the identity among the URIs of a certificate. URIs of other schemes are ignored.
    ///
    /// # Errors
    /// [`IdentityError`] unless exactly one URI has the scheme, and that one is valid. The scheme
    /// is recognized in upper case too, and is not valid then.
    pub fn among<'a>(uris: impl IntoIterator<Item = &'a str>) -> Result<Self, IdentityError> {
        let has_scheme = |uri: &&str| {
            let name = uri.as_bytes().get(.."argosy:".len());
            name.is_some_and(|name| name.eq_ignore_ascii_case(b"argosy:"))
        };
        let mut identities = uris.into_iter().filter(has_scheme);
        let identity = identities.next().ok_or(IdentityError::Missing)?;
        match identities.next() {
            None => identity.parse(),
            Some(_) => Err(IdentityError::Several),
        }
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl FromStr for ClusterName {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        Self::new(text)
    }
}

/// Writes the URI. Each identity has exactly one.
impl fmt::Display for CertificateIdentity {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{SCHEME}{}/{}", self.cluster, self.principal)
    }
}

/// The inverse of `Display`. Escapes, queries, fragments, ports and users are rejected, so two URIs
/// are the same identity only if they are the same bytes.
impl FromStr for CertificateIdentity {
    type Err = IdentityError;

    fn from_str(uri: &str) -> Result<Self, IdentityError> {
        let malformed = || IdentityError::Form(shown(uri));
        let rest = uri.strip_prefix(SCHEME).ok_or_else(malformed)?;
        let (cluster, principal) = rest.split_once('/').ok_or_else(malformed)?;
        Ok(Self {
            cluster: ClusterName::new(cluster).map_err(|_| malformed())?,
            principal: principal.parse().map_err(|_| malformed())?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(uri: &str) -> Result<CertificateIdentity, IdentityError> {
        uri.parse()
    }

    #[test]
    fn identities_round_trip_as_uris() {
        let longest = format!(
            "argosy://{}/framework/{}",
            "c".repeat(CLUSTER_NAME_BYTES),
            "n".repeat(255)
        );
        assert_eq!(longest.len(), CertificateIdentity::URI_BYTES);
        for uri in [
            "argosy://prod/master/m1",
            "argosy://eu-1.example/agent/host-7.example:5051",
            "argosy://p/framework/web_1",
            "argosy://0/operator/alice+ops@example.com",
            &longest,
        ] {
            assert_eq!(parsed(uri).unwrap().to_string(), uri);
        }
        let identity = parsed("argosy://prod/master/m1").unwrap();
        assert_eq!(identity.cluster.as_str(), "prod");
        assert_eq!(identity.principal.to_string(), "master/m1");
    }

    #[test]
    fn texts_of_another_form_are_rejected_and_shown_in_part() {
        let long_cluster = format!("argosy://{}/master/m", "c".repeat(CLUSTER_NAME_BYTES + 1));
        let long_name = format!("argosy://prod/master/{}", "n".repeat(256));
        let huge = format!("argosy://{}", "/".repeat(1 << 20));
        for uri in [
            "",
            "argosy:",
            "argosy://",
            "argosy:///master/m1",
            "argosy://prod",
            "argosy://prod/",
            "argosy://prod/master",
            "argosy://prod/master/",
            "argosy://prod/master/m1/",
            "argosy://prod/master/m1/more",
            "argosy://prod//m1",
            "argosy://prod/root/m1",
            "argosy://prod/Master/m1",
            "argosy://prod/master/..",
            "argosy://prod/master/m%31",
            "argosy://prod/master/m1?x",
            "argosy://prod/master/m1#x",
            "argosy://prod/master/m1\0",
            "argosy://prod/master/m1\n",
            "argosy://prod/master/ m1",
            "argosy://prod/master/mä",
            "argosy://prod:5050/master/m1",
            "argosy://user@prod/master/m1",
            "argosy://Prod/master/m1",
            "argosy://-prod/master/m1",
            "argosy://prod./master/m1",
            "Argosy://prod/master/m1",
            " argosy://prod/master/m1",
            "spiffe://prod/master/m1",
            &long_cluster,
            &long_name,
            &huge,
        ] {
            let Err(IdentityError::Form(text)) = parsed(uri) else {
                panic!("{uri:.80} is accepted");
            };
            assert!(text.chars().count() <= SHOWN && uri.starts_with(&text));
        }
    }

    #[test]
    fn a_certificate_states_exactly_one_identity() {
        let of = |uris: &[&str]| CertificateIdentity::among(uris.iter().copied());
        let own = "argosy://prod/agent/a1";
        assert_eq!(of(&[own]).unwrap().to_string(), own);
        let with_others = ["https://a/", own, "spiffe://prod/agent/a2", "argosyx://b"];
        assert_eq!(of(&with_others).unwrap().to_string(), own);
        assert_eq!(of(&[]), Err(IdentityError::Missing));
        assert_eq!(
            of(&["spiffe://prod/a", "ärgosy"]),
            Err(IdentityError::Missing)
        );
        // Even if they are equal: which of them another program compares is unknown.
        assert_eq!(of(&[own, own]), Err(IdentityError::Several));
        for second in ["argosy://prod/operator/root", "ARGOSY://x", "argosy:"] {
            assert_eq!(of(&[own, second]), Err(IdentityError::Several));
        }
        for malformed in ["ARGOSY://prod/agent/a1", "argosy:", "argosy:/prod/agent/a1"] {
            let shown = malformed.to_owned();
            assert_eq!(of(&[malformed]), Err(IdentityError::Form(shown)));
        }
    }
}
