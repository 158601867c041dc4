//! Secrets of tasks: their names, and their sealed values.
//!
//! The registry has only ciphertexts. Masters seal and open values with a key that is not in the
//! registry, so this crate never has a value.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::codec::canonical::CanonicalWriter;
use crate::codec::scalars::AsText;
use crate::codec::stored::stored;
use crate::ids::{InvalidId, Role};
use crate::limits;

/// The bytes that sealing adds to a value: the tag of ChaCha20-Poly1305.
pub const TAG_BYTES: usize = 16;
/// The bytes of a nonce of ChaCha20-Poly1305.
pub const NONCE_BYTES: usize = 12;

/// The name of a secret: a role and a name in it, such as `eng/backend/db`. Its last part is the
/// name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretName(Arc<str>);

impl SecretName {
    /// Validates `text`.
    ///
    /// # Errors
    /// [`InvalidId`] names the text and the rule.
    pub fn new(text: &str) -> Result<Self, InvalidId> {
        let rule = "write it as ROLE/NAME, the name of 1 to 255 letters, digits, '.', '_' or '-', not beginning with '.'";
        let wrong = || InvalidId::new("secret", text, rule);
        let (role, name) = text.rsplit_once('/').ok_or_else(wrong)?;
        Role::new(role).map_err(|_| wrong())?;
        is_plain(name).then(|| Self(text.into())).ok_or_else(wrong)
    }

    /// Returns the name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the role. Tasks of this role and of the roles below it may use the secret.
    #[must_use]
    pub fn role(&self) -> Role {
        let (role, _) = self.0.rsplit_once('/').expect("it was checked");
        Role::new(role).expect("it was checked")
    }

    /// Returns whether tasks of this role may use the secret.
    #[must_use]
    pub fn is_for(&self, role: &Role) -> bool {
        self.role().contains(role)
    }
}

/// Returns whether `text` is a valid name of a secret in its role.
#[must_use]
pub fn is_plain(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=limits::NAME_BYTES).contains(&text.len())
        && text.bytes().all(allowed)
        && !text.starts_with('.')
}

impl fmt::Display for SecretName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl FromStr for SecretName {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        Self::new(text)
    }
}

impl AsText for SecretName {
    fn text(&self) -> &str {
        self.as_str()
    }

    fn of(text: &str) -> Option<Self> {
        Self::new(text).ok()
    }
}

/// A sealed value of a secret.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SealedSecret {
    /// The number of the value: 1 for the first one of this name, one more with each new value. A
    /// value that is sealed again keeps its version.
    pub version: u64,
    /// The id of the key that seals it.
    pub key_id: String,
    /// The nonce, which is used for no other value under this key.
    pub nonce: [u8; NONCE_BYTES],
    /// The encrypted value, and the tag.
    pub ciphertext: Ciphertext,
    /// The wall-clock time of the newest value, in milliseconds of the Unix epoch, for display.
    pub wall_ms: i64,
}

impl SealedSecret {
    /// Returns the size of the value in bytes.
    #[must_use]
    pub fn value_bytes(&self) -> usize {
        self.ciphertext.0.len().saturating_sub(TAG_BYTES)
    }

    /// Returns the broken rule, if the sizes of its parts are invalid.
    pub(crate) fn invalid_part(&self) -> Option<String> {
        let most = limits::SECRET_VALUE_BYTES;
        if !(TAG_BYTES..=most + TAG_BYTES).contains(&self.ciphertext.0.len()) {
            return Some(format!("its value takes at most {most} bytes"));
        }
        let most = limits::SECRET_KEY_ID_BYTES;
        let length = self.key_id.len();
        if !(1..=most).contains(&length) {
            return Some(format!("the id of its key takes 1 to {most} bytes"));
        }
        (self.version == 0).then(|| "its version is 0".to_owned())
    }

    /// Appends the fields that the fingerprint of a batch covers. The ciphertext differs in each
    /// repeat of a request, so the master that seals the value adds it to the hash by itself.
    pub(crate) fn fingerprint(name: &SecretName, out: &mut CanonicalWriter) {
        out.text(1, name.as_str());
    }
}

#[cfg(any(test, feature = "builders"))]
impl SealedSecret {
    /// Returns a secret for samples of stored bytes, which no key opens.
    #[must_use]
    pub fn sample() -> (SecretName, Self) {
        let secret = Self {
            version: 1,
            key_id: "k1".to_owned(),
            nonce: [3; NONCE_BYTES],
            ciphertext: Ciphertext([9; 20].into()),
            wall_ms: 72,
        };
        (SecretName::new("web/db").expect("it is valid"), secret)
    }
}

/// The bytes of an encrypted value with its tag.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Ciphertext(pub Arc<[u8]>);

/// Writes the length only: the bytes would fill a log.
impl fmt::Debug for Ciphertext {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} bytes", self.0.len())
    }
}

impl crate::codec::scalars::AsBytes for Ciphertext {
    fn bytes(&self) -> std::borrow::Cow<'_, [u8]> {
        std::borrow::Cow::Borrowed(&self.0)
    }

    fn of(bytes: &[u8]) -> Option<Self> {
        Some(Self(bytes.into()))
    }
}

stored!(message SealedSecret {
    1 version: Number,
    2 key_id: Text,
    3 nonce: Bytes or "nonce of a secret",
    4 ciphertext: Bytes or "ciphertext of a secret",
    5 wall_ms: Number,
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_has_a_role_and_a_plain_name() {
        let role = |text: &str| Role::new(text).unwrap();
        for (text, of) in [
            ("*/db", "*"),
            ("eng/db", "eng"),
            ("eng/backend/db.v2", "eng/backend"),
        ] {
            let name: SecretName = text.parse().unwrap();
            assert_eq!((name.to_string().as_str(), name.role()), (text, role(of)));
        }
        let long = format!("eng/{}", "n".repeat(limits::NAME_BYTES + 1));
        for text in [
            "", "db", "/db", "eng/", "eng//db", "eng/.db", "../db", "eng/a b", "eng/ä", &long,
        ] {
            assert!(SecretName::new(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_secret_is_for_its_role_and_the_roles_below() {
        let role = |text: &str| Role::new(text).unwrap();
        let name = SecretName::new("eng/db").unwrap();
        for (text, wanted) in [
            ("eng", true),
            ("eng/backend", true),
            ("engine", false),
            ("*", false),
            ("ops", false),
        ] {
            assert_eq!(name.is_for(&role(text)), wanted, "{text}");
        }
        assert!(
            !SecretName::new("eng/backend/db")
                .unwrap()
                .is_for(&role("eng"))
        );
        assert!(!SecretName::new("*/db").unwrap().is_for(&role("eng")));
    }

    #[test]
    fn the_parts_of_a_sealed_value_are_bounded() {
        let of = |length: usize| SealedSecret {
            version: 1,
            key_id: "a".to_owned(),
            ciphertext: Ciphertext(vec![0; length].into()),
            ..SealedSecret::default()
        };
        let most = limits::SECRET_VALUE_BYTES + TAG_BYTES;
        assert_eq!(of(most).invalid_part(), None);
        assert_eq!(of(most).value_bytes(), limits::SECRET_VALUE_BYTES);
        assert_eq!(of(TAG_BYTES).invalid_part(), None);
        for wrong in [
            of(most + 1),
            of(TAG_BYTES - 1),
            SealedSecret {
                version: 0,
                ..of(20)
            },
            SealedSecret {
                key_id: String::new(),
                ..of(20)
            },
            SealedSecret {
                key_id: "k".repeat(65),
                ..of(20)
            },
        ] {
            assert!(wrong.invalid_part().is_some(), "{wrong:?}");
        }
    }
}
