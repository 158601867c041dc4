//! Encryption of a saved snapshot in parts, with a key from a file of keys.
//!
//! Each file has another key, derived from the first key of the file of keys and a random salt. A
//! part is bound to its file, its number, and whether it is the last one: parts cannot be moved or
//! left out.

use std::io::{self, Read, Write};

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::secret_keys::SecretKeys;

/// The first bytes of an encrypted file.
const MAGIC: &[u8; 8] = b"ARGOSYSX";
/// The format that this program writes, and the only one that it reads.
const FORMAT: u8 = 1;
const SALT_BYTES: usize = 32;
/// The bytes of a part before encryption; only the last one may have fewer.
const PART_BYTES: usize = 64 << 10;
/// The purpose of the key of a file.
const PURPOSE: &[u8] = b"argosy snapshot file 1";
/// The kind of a part.
const MORE: u8 = 0;
const LAST: u8 = 1;

/// The error of a file that cannot be decrypted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncryptionError {
    /// The file of keys lacks the key.
    #[error("it is encrypted with the key {0:?}, which the key file does not have")]
    UnknownKey(String),
    /// The file was changed, or was encrypted with another key of the same id.
    #[error("it cannot be decrypted: it was changed, or the key is another one")]
    Forged,
    /// The file ends before its last part.
    #[error("it is damaged: it is truncated")]
    Truncated,
    /// There are bytes after the last part.
    #[error("it is damaged: there is data after its end")]
    Longer,
    /// The file was written by a newer program.
    #[error("it is encrypted in format {0}, which this program does not know: use a newer argosy")]
    Newer(u8),
}

impl From<EncryptionError> for io::Error {
    fn from(error: EncryptionError) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, error)
    }
}

/// The key of one file, and the number of the next part.
struct PartCipher {
    key: LessSafeKey,
    number: u64,
}

impl PartCipher {
    fn new(secret: &[u8; 32], salt: &[u8; SALT_BYTES]) -> Self {
        let mut mac: Hmac<Sha256> = Hmac::new_from_slice(secret).expect("HMAC takes any key");
        mac.update(PURPOSE);
        mac.update(salt);
        let derived: Zeroizing<[u8; 32]> = Zeroizing::new(mac.finalize().into_bytes().into());
        let key = UnboundKey::new(&CHACHA20_POLY1305, &*derived);
        Self {
            key: LessSafeKey::new(key.expect("the key has 32 bytes")),
            number: 0,
        }
    }

    /// Returns the nonce of the next part. No other part is encrypted with the key of the file and
    /// this nonce.
    fn nonce(&mut self) -> Nonce {
        let mut nonce = [0; NONCE_LEN];
        nonce[NONCE_LEN - 8..].copy_from_slice(&self.number.to_be_bytes());
        self.number += 1;
        Nonce::assume_unique_for_key(nonce)
    }

    fn seal(&mut self, kind: u8, bytes: &mut Vec<u8>) -> io::Result<()> {
        let nonce = self.nonce();
        let sealed = self
            .key
            .seal_in_place_append_tag(nonce, Aad::from([kind]), bytes);
        sealed.map_err(|_| io::Error::other("a part cannot be encrypted"))
    }

    fn open(&mut self, kind: u8, bytes: &mut Vec<u8>) -> Result<(), EncryptionError> {
        let nonce = self.nonce();
        let opened = self.key.open_in_place(nonce, Aad::from([kind]), bytes);
        let length = opened.map_err(|_| EncryptionError::Forged)?.len();
        bytes.truncate(length);
        Ok(())
    }
}

/// A writer that encrypts. [`SnapshotEncryptor::finish`] writes the last part.
pub struct SnapshotEncryptor<W> {
    out: W,
    cipher: PartCipher,
    part: Vec<u8>,
}

impl<W: Write> SnapshotEncryptor<W> {
    /// Begins a file that is encrypted with the first of the keys. `salt` must be random.
    ///
    /// # Errors
    /// As the destination.
    pub fn new(mut out: W, keys: &SecretKeys, salt: [u8; SALT_BYTES]) -> io::Result<Self> {
        let (id, secret) = keys.of_snapshots();
        let length = u8::try_from(id.len()).map_err(io::Error::other)?;
        out.write_all(MAGIC)?;
        out.write_all(&[FORMAT, length])?;
        out.write_all(id.as_bytes())?;
        out.write_all(&salt)?;
        Ok(Self {
            out,
            cipher: PartCipher::new(secret, &salt),
            part: Vec::new(),
        })
    }

    /// Writes the last part, and returns the destination.
    ///
    /// # Errors
    /// As the destination.
    pub fn finish(mut self) -> io::Result<W> {
        self.emit(LAST)?;
        Ok(self.out)
    }

    fn emit(&mut self, kind: u8) -> io::Result<()> {
        let mut bytes = std::mem::take(&mut self.part);
        self.cipher.seal(kind, &mut bytes)?;
        let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        self.out.write_all(&[kind])?;
        self.out.write_all(&length.to_le_bytes())?;
        self.out.write_all(&bytes)
    }
}

impl<W: Write> Write for SnapshotEncryptor<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.part.len() == PART_BYTES {
            self.emit(MORE)?;
        }
        let taken = bytes.len().min(PART_BYTES - self.part.len());
        self.part.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    /// Parts have a fixed size, so nothing is written before a part is full.
    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// A reader that decrypts. Bytes that it returns are authentic; that none is missing is known when
/// it returns no more.
pub struct SnapshotDecryptor<R> {
    from: R,
    cipher: PartCipher,
    part: Vec<u8>,
    read: usize,
    is_last: bool,
}

impl<R: Read> SnapshotDecryptor<R> {
    /// Returns whether these are the first bytes of an encrypted file.
    #[must_use]
    pub fn is_encrypted(begin: &[u8]) -> bool {
        begin.starts_with(MAGIC)
    }

    /// Begins to read an encrypted file, from its first byte.
    ///
    /// # Errors
    /// As the source; [`EncryptionError`] as the inner error.
    pub fn new(mut from: R, keys: &SecretKeys) -> io::Result<Self> {
        let [format, length] = {
            let mut begin = [0; MAGIC.len() + 2];
            fill(&mut from, &mut begin)?;
            let [.., format, length] = begin;
            [format, length]
        };
        if format != FORMAT {
            return Err(EncryptionError::Newer(format).into());
        }
        let mut id = vec![0; usize::from(length)];
        fill(&mut from, &mut id)?;
        let mut salt = [0; SALT_BYTES];
        fill(&mut from, &mut salt)?;
        let id = String::from_utf8_lossy(&id).into_owned();
        let secret = keys.of_snapshot_key(&id);
        let secret = secret.ok_or(EncryptionError::UnknownKey(id))?;
        Ok(Self {
            cipher: PartCipher::new(secret, &salt),
            from,
            part: Vec::new(),
            read: 0,
            is_last: false,
        })
    }

    fn next_part(&mut self) -> io::Result<()> {
        let mut head = [0; 5];
        fill(&mut self.from, &mut head)?;
        let [kind, l0, l1, l2, l3] = head;
        let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        if length > PART_BYTES + CHACHA20_POLY1305.tag_len() {
            return Err(EncryptionError::Forged.into());
        }
        self.part.resize(length, 0);
        fill(&mut self.from, &mut self.part)?;
        self.cipher.open(kind, &mut self.part)?;
        self.read = 0;
        self.is_last = kind == LAST;
        if self.is_last && self.from.read(&mut [0])? != 0 {
            return Err(EncryptionError::Longer.into());
        }
        Ok(())
    }
}

fn fill(from: &mut impl Read, bytes: &mut [u8]) -> io::Result<()> {
    from.read_exact(bytes).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => EncryptionError::Truncated.into(),
        _ => error,
    })
}

impl<R: Read> Read for SnapshotDecryptor<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        while self.read == self.part.len() && !self.is_last {
            self.next_part()?;
        }
        let rest = &self.part[self.read..];
        let taken = rest.len().min(bytes.len());
        bytes[..taken].copy_from_slice(&rest[..taken]);
        self.read += taken;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(text: &str) -> SecretKeys {
        SecretKeys::parse(text).unwrap()
    }

    fn key(id: &str, digit: &str) -> SecretKeys {
        keys(&format!("{id}:{}\n", digit.repeat(64)))
    }

    fn encrypted(bytes: &[u8]) -> Vec<u8> {
        let out = SnapshotEncryptor::new(Vec::new(), &key("k1", "a"), [5; SALT_BYTES]);
        let mut out = out.unwrap();
        out.write_all(bytes).unwrap();
        out.finish().unwrap()
    }

    fn decrypted(bytes: &[u8], keys: &SecretKeys) -> Result<Vec<u8>, String> {
        let mut read = Vec::new();
        let reader = SnapshotDecryptor::new(bytes, keys).map_err(|error| error.to_string());
        reader?
            .read_to_end(&mut read)
            .map_err(|error| error.to_string())?;
        Ok(read)
    }

    #[test]
    fn a_file_of_any_length_round_trips_and_hides_its_content() {
        for length in [0, 1, PART_BYTES - 1, PART_BYTES, 3 * PART_BYTES + 7] {
            let bytes: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            let sealed = encrypted(&bytes);
            assert!(SnapshotDecryptor::<&[u8]>::is_encrypted(&sealed));
            assert_eq!(decrypted(&sealed, &key("k1", "a")), Ok(bytes));
        }
        let sealed = encrypted(&b"hunter2 ".repeat(100));
        assert!(!sealed.windows(7).any(|part| part == b"hunter2"));
    }

    #[test]
    fn a_file_with_a_flipped_bit_a_cut_or_an_addition_is_rejected() {
        let sealed = encrypted(&[9; 100]);
        for bit in 0..sealed.len() * 8 {
            let mut flipped = sealed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            // The first bytes tell how a file is read.
            if bit / 8 >= MAGIC.len() {
                assert!(decrypted(&flipped, &key("k1", "a")).is_err(), "bit {bit}");
            }
        }
        for length in 0..sealed.len() {
            let error = decrypted(&sealed[..length], &key("k1", "a")).unwrap_err();
            assert_eq!(error, EncryptionError::Truncated.to_string(), "{length}");
        }
        let longer = [&sealed[..], &[0]].concat();
        let error = decrypted(&longer, &key("k1", "a")).unwrap_err();
        assert_eq!(error, EncryptionError::Longer.to_string());
    }

    #[test]
    fn a_removed_part_is_noticed() {
        let sealed = encrypted(&vec![9; 3 * PART_BYTES]);
        let head = MAGIC.len() + 2 + 2 + SALT_BYTES;
        let part = 5 + PART_BYTES + CHACHA20_POLY1305.tag_len();
        let without = [&sealed[..head], &sealed[head + part..]].concat();
        let error = decrypted(&without, &key("k1", "a")).unwrap_err();
        assert_eq!(error, EncryptionError::Forged.to_string());
    }

    #[test]
    fn another_key_is_named_and_every_key_of_the_file_opens() {
        let sealed = encrypted(b"text");
        let unknown = EncryptionError::UnknownKey("k1".to_owned()).to_string();
        assert_eq!(decrypted(&sealed, &key("k2", "a")), Err(unknown));
        let forged = EncryptionError::Forged.to_string();
        assert_eq!(decrypted(&sealed, &key("k1", "b")), Err(forged));
        let two = format!("k2:{}\nk1:{}\n", "b".repeat(64), "a".repeat(64));
        assert_eq!(decrypted(&sealed, &keys(&two)), Ok(b"text".to_vec()));
    }
}
