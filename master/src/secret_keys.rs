//! The keys by which masters seal (encrypt) values of secrets, and open them.
//!
//! A sealed value is bound to its cluster, its name and its version: a ciphertext that was moved to
//! another name or to an earlier version cannot be opened. Nothing here reads a file or a clock.

use std::fmt;

use argosy_proto::secret_value::SecretValue;
use argosy_state::ids::ClusterId;
use argosy_state::limits;
use argosy_state::secret::{Ciphertext, NONCE_BYTES, SealedSecret, SecretName, TAG_BYTES};
use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use zeroize::Zeroizing;

#[cfg(test)]
mod tests;

/// The bytes of a key.
const KEY_BYTES: usize = 32;
/// Maximum number of keys: the one in use, and those that rotation has not replaced yet.
const KEYS: usize = 16;
/// The prefix that identifies the meaning of the associated data.
const SEALED: &[u8] = b"argosy secret 1";
/// The purposes of the keys that are derived from each key of the file.
const PURPOSES: [&[u8]; 4] = [
    b"argosy secret sealing 1",
    b"argosy secret request 1",
    b"argosy ticket 1",
    b"argosy snapshot 1",
];

/// The keys of a master. The first one seals, and all of them open.
pub struct SecretKeys(Vec<SecretKey>);

struct SecretKey {
    id: String,
    sealing: LessSafeKey,
    /// The key of fingerprints of values.
    requests: Zeroizing<[u8; KEY_BYTES]>,
    /// The key from which those of tickets are derived.
    tickets: Zeroizing<[u8; KEY_BYTES]>,
    /// The key from which those of saved snapshots are derived.
    snapshots: Zeroizing<[u8; KEY_BYTES]>,
}

/// Shows the ids only.
impl fmt::Debug for SecretKeys {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_list().entries(self.ids()).finish()
    }
}

/// The reason for which a file of keys is invalid. No message shows a part of a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSecretKeys {
    /// The file has no key.
    #[error(
        "it has no key; write a line KEYID:HEX, with 64 hexadecimal digits, such as `openssl rand -hex 32` prints"
    )]
    Empty,
    /// A line is not a key.
    #[error(
        "line {0} is not a key: write KEYID:HEX, the id of 1 to 64 letters, digits, '.', '_' or '-', the key as 64 hexadecimal digits"
    )]
    Line(usize),
    /// Two keys have one id.
    #[error("line {0} has the id of an earlier key; give each key another id")]
    Repeated(usize),
    /// There are too many keys.
    #[error("it has more than {} keys; remove those that seal no secret", KEYS)]
    TooMany,
}

/// The reason for which a value cannot be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OpenError {
    /// This master does not have the key.
    #[error(
        "this master does not have the key {0:?}; add it to the file of --secrets-key on every master"
    )]
    UnknownKey(String),
    /// The ciphertext, its name or its version was changed, or another key has this id.
    #[error(
        "it was not sealed under this name and version with the key {0:?}: it was changed, or the key is another one"
    )]
    Forged(String),
}

impl SecretKeys {
    /// Parses the text of a file: lines `KEYID:HEX`, and comments that begin with `#`.
    ///
    /// # Errors
    /// [`InvalidSecretKeys`].
    pub fn parse(text: &str) -> Result<Self, InvalidSecretKeys> {
        let mut keys: Vec<SecretKey> = Vec::new();
        for (at, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = InvalidSecretKeys::Line(at);
            let (id, digits) = line.split_once(':').ok_or(wrong.clone())?;
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
            let fits = (1..=limits::SECRET_KEY_ID_BYTES).contains(&id.len());
            if !fits || !id.bytes().all(is_plain) {
                return Err(wrong);
            }
            let bytes = unhex(digits).ok_or(wrong)?;
            if keys.iter().any(|key| key.id == id) {
                return Err(InvalidSecretKeys::Repeated(at));
            }
            keys.push(SecretKey::new(id, &bytes));
        }
        match keys.len() {
            0 => Err(InvalidSecretKeys::Empty),
            1..=KEYS => Ok(Self(keys)),
            _ => Err(InvalidSecretKeys::TooMany),
        }
    }

    /// Returns the ids of the keys. The first one seals.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|key| key.id.as_str())
    }

    /// Returns the keys from which those of tickets are derived. The first one signs.
    pub(crate) fn of_tickets(&self) -> impl Iterator<Item = &[u8; KEY_BYTES]> {
        self.0.iter().map(|key| &*key.tickets)
    }

    /// Returns the first key for saved snapshots, with its id.
    pub(crate) fn of_snapshots(&self) -> (&str, &[u8; KEY_BYTES]) {
        let key = self.first();
        (&key.id, &key.snapshots)
    }

    /// Returns the key of this id for saved snapshots.
    pub(crate) fn of_snapshot_key(&self, id: &str) -> Option<&[u8; KEY_BYTES]> {
        let key = self.0.iter().find(|key| key.id == id)?;
        Some(&key.snapshots)
    }

    fn first(&self) -> &SecretKey {
        self.0.first().expect("there is at least one key")
    }

    /// Seals a value. `nonce` must be random, and must not be used again.
    pub(crate) fn seal(
        &self,
        place: SecretPlace<'_>,
        value: &SecretValue,
        nonce: [u8; NONCE_BYTES],
        wall_ms: i64,
    ) -> SealedSecret {
        let key = self.first();
        let mut bytes = Vec::with_capacity(value.expose().len() + TAG_BYTES);
        bytes.extend_from_slice(value.expose());
        let sealed = key.sealing.seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(place.associated()),
            &mut bytes,
        );
        sealed.expect("a value of at most 64 KiB can be sealed");
        SealedSecret {
            version: place.version,
            key_id: key.id.clone(),
            nonce,
            ciphertext: Ciphertext(bytes.into()),
            wall_ms,
        }
    }

    /// Opens the value that was sealed for this name.
    pub(crate) fn open(
        &self,
        cluster: ClusterId,
        name: &SecretName,
        secret: &SealedSecret,
    ) -> Result<SecretValue, OpenError> {
        let mut keys = self.0.iter();
        let Some(key) = keys.find(|key| key.id == secret.key_id) else {
            return Err(OpenError::UnknownKey(secret.key_id.clone()));
        };
        let place = SecretPlace {
            cluster,
            name,
            version: secret.version,
        };
        let mut bytes = Zeroizing::new(secret.ciphertext.0.to_vec());
        let opened = key.sealing.open_in_place(
            Nonce::assume_unique_for_key(secret.nonce),
            Aad::from(place.associated()),
            bytes.as_mut_slice(),
        );
        let length = opened.map_err(|_| OpenError::Forged(key.id.clone()))?.len();
        bytes.truncate(length);
        Ok(SecretValue::new(std::mem::take(&mut *bytes)))
    }

    /// Opens a value that was sealed in one of these clusters: the present one comes first, then
    /// those from which it was restored.
    pub(crate) fn open_of_any(
        &self,
        clusters: &[ClusterId],
        name: &SecretName,
        secret: &SealedSecret,
    ) -> Result<SecretValue, OpenError> {
        let mut opened = Err(OpenError::Forged(secret.key_id.clone()));
        for cluster in clusters {
            opened = self.open(*cluster, name, secret);
            if !matches!(opened, Err(OpenError::Forged(_))) {
                break;
            }
        }
        opened
    }

    /// Adds the values of a batch to its fingerprint, so that a request that is repeated with
    /// another value counts as another one. The result does not help to guess a value without the
    /// key.
    pub(crate) fn fingerprint(&self, batch: u64, values: &[(&SecretName, &SecretValue)]) -> u64 {
        let mut mac = keyed(&self.first().requests);
        mac.update(&batch.to_be_bytes());
        for (name, value) in values {
            for part in [name.as_str().as_bytes(), value.expose()] {
                mac.update(&(part.len() as u64).to_be_bytes());
                mac.update(part);
            }
        }
        let hash = mac.finalize().into_bytes();
        u64::from_be_bytes(hash[..8].try_into().expect("it is 32 bytes long"))
    }
}

/// The place of a sealed value, to which it is bound.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SecretPlace<'a> {
    pub(crate) cluster: ClusterId,
    pub(crate) name: &'a SecretName,
    pub(crate) version: u64,
}

impl SecretPlace<'_> {
    /// Returns the associated data. The name comes last: it is the only part of variable length.
    fn associated(&self) -> Vec<u8> {
        let mut bytes = SEALED.to_vec();
        bytes.extend(self.cluster.0.to_be_bytes());
        bytes.extend(self.version.to_be_bytes());
        bytes.extend(self.name.as_str().as_bytes());
        bytes
    }
}

impl SecretKey {
    /// Derives the key of each purpose from a random key.
    fn new(id: &str, bytes: &[u8; KEY_BYTES]) -> Self {
        let [sealing, requests, tickets, snapshots] =
            PURPOSES.map(|purpose| derived(bytes, purpose));
        let key = UnboundKey::new(&CHACHA20_POLY1305, &*sealing);
        Self {
            id: id.to_owned(),
            sealing: LessSafeKey::new(key.expect("the key has 32 bytes")),
            requests,
            tickets,
            snapshots,
        }
    }
}

fn derived(bytes: &[u8; KEY_BYTES], purpose: &[u8]) -> Zeroizing<[u8; KEY_BYTES]> {
    let mut mac = keyed(bytes);
    mac.update(purpose);
    Zeroizing::new(mac.finalize().into_bytes().into())
}

fn keyed(key: &[u8; KEY_BYTES]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes keys of any length")
}

/// Returns the bytes of a key of 64 hexadecimal digits.
fn unhex(digits: &str) -> Option<Zeroizing<[u8; KEY_BYTES]>> {
    let mut bytes = Zeroizing::new([0; KEY_BYTES]);
    if digits.len() != 2 * KEY_BYTES || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(bytes)
}

/// Returns a random nonce.
///
/// # Errors
/// If the kernel has no random numbers.
pub(crate) fn random_nonce() -> Result<[u8; NONCE_BYTES], aws_lc_rs::error::Unspecified> {
    let mut nonce = [0; NONCE_BYTES];
    aws_lc_rs::rand::fill(&mut nonce)?;
    Ok(nonce)
}
