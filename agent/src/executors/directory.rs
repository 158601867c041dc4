//! The folder in which an executor meets its agent: a socket, a token, and who may use them.
//!
//! It belongs to the agent: what is in it can be made again under the same name, and nobody inside can put anything
//! else there. The container sees it, and nothing beside it, at the host's own name.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::ops::RangeInclusive;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Uid};
use serde::{Deserialize, Serialize};

/// The longest path that a socket can have on Linux, in bytes.
const SOCKET_PATH_BYTES: usize = 107;
/// Bytes of a token before they are written as text.
const TOKEN_BYTES: usize = 32;

/// Who may use a place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Guest {
    /// Whose socket and token are, as the disk counts users; `None`: any user's that can see them.
    pub(crate) owner: Option<u32>,
    /// Which users of the host may connect.
    pub(crate) peers: RangeInclusive<u32>,
    /// Whether the folder above is passed by nobody but the agent.
    pub(crate) is_hidden: bool,
}

/// A place, by its folder.
#[derive(Debug, Clone)]
pub(crate) struct Place(PathBuf);

impl Place {
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self(folder)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.0.join("socket")
    }

    pub(crate) fn token_file(&self) -> PathBuf {
        self.0.join("token")
    }

    fn guest_file(&self) -> PathBuf {
        self.0.join("guest")
    }

    /// Makes the folder and a new token.
    pub(crate) fn make(&self, guest: &Guest) -> io::Result<()> {
        let bytes = self.socket().as_os_str().len();
        if bytes > SOCKET_PATH_BYTES {
            return Err(io::Error::other(format!(
                "the path of its socket would take {bytes} bytes, and the kernel takes {SOCKET_PATH_BYTES}: give the agent a shorter --data-dir"
            )));
        }
        let parent = self.0.parent().unwrap_or(&self.0);
        let mode = if guest.is_hidden { 0o700 } else { 0o711 };
        make_folder(parent, mode)?;
        make_folder(&self.0, 0o711)?;
        self.write(&self.guest_file(), 0o600, None, &guest_text(guest))?;
        let mode = guest.owner.map_or(0o444, |_| 0o400);
        self.write(&self.token_file(), mode, guest.owner, &new_token()?)
    }

    fn write(&self, path: &Path, mode: u32, owner: Option<u32>, text: &str) -> io::Result<()> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(text.as_bytes())?;
        // Whatever the agent's mask is.
        file.set_permissions(Permissions::from_mode(mode))?;
        give(path, owner)
    }

    /// Binds the socket, anew if there was one; for whoever may use the place.
    pub(crate) fn listen(&self) -> io::Result<(UnixListener, RangeInclusive<u32>, Vec<u8>)> {
        let guest = guest_from(&fs::read_to_string(self.guest_file())?)?;
        let token = fs::read(self.token_file())?;
        let path = self.socket();
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let listener = UnixListener::bind(&path)?;
        let mode = guest.owner.map_or(0o666, |_| 0o600);
        fs::set_permissions(&path, Permissions::from_mode(mode))?;
        give(&path, guest.owner)?;
        Ok((listener, guest.peers, token))
    }

    /// Removes the folder. Nothing is wrong if there is none.
    pub(crate) fn remove(&self) -> io::Result<()> {
        match fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

fn make_folder(path: &Path, mode: u32) -> io::Result<()> {
    match DirBuilder::new().mode(mode).create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    fs::set_permissions(path, Permissions::from_mode(mode))
}

fn give(path: &Path, owner: Option<u32>) -> io::Result<()> {
    let Some(owner) = owner.filter(|owner| *owner != nix::unistd::geteuid().as_raw()) else {
        return Ok(());
    };
    let (user, group) = (Uid::from_raw(owner), Gid::from_raw(owner));
    Ok(nix::unistd::chown(path, Some(user), Some(group))?)
}

fn guest_text(guest: &Guest) -> String {
    let owner = guest.owner.map(|owner| owner.to_string());
    let owner = owner.unwrap_or_else(|| "any".to_owned());
    let (first, last) = (guest.peers.start(), guest.peers.end());
    format!("{owner} {first} {last} {}", guest.is_hidden)
}

fn guest_from(text: &str) -> io::Result<Guest> {
    let words: Vec<_> = text.split(' ').collect();
    let damaged = || io::Error::other("the note on who may use it is damaged");
    let [owner, first, last, is_hidden] = words[..] else {
        return Err(damaged());
    };
    let number = |word: &str| word.parse::<u32>().map_err(|_| damaged());
    Ok(Guest {
        owner: match owner {
            "any" => None,
            word => Some(number(word)?),
        },
        peers: number(first)?..=number(last)?,
        is_hidden: is_hidden == "true",
    })
}

/// Hexadecimal digits of random bytes.
fn new_token() -> io::Result<String> {
    let mut bytes = [0; TOKEN_BYTES];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Compares in a time that tells nothing of where they differ.
pub(crate) fn is_same_token(own: &[u8], told: &[u8]) -> bool {
    let differences = own.iter().zip(told).fold(0, |all, (a, b)| all | (a ^ b));
    own.len() == told.len() && differences == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> Guest {
        let own = nix::unistd::geteuid().as_raw();
        Guest {
            owner: Some(own),
            peers: own..=own,
            is_hidden: true,
        }
    }

    #[test]
    fn a_place_is_listened_at_again_with_the_same_token() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::new(folder.path().join("executors/1-1-1"));
        place.make(&own()).unwrap();
        let (first, peers, token) = place.listen().unwrap();
        assert_eq!(peers, own().peers);
        assert_eq!(token.len(), 2 * TOKEN_BYTES);
        drop(first);
        let (_second, _, again) = place.listen().unwrap();
        assert!(is_same_token(&token, &again));
        let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(
            (mode(place.socket()), mode(place.token_file())),
            (0o600, 0o400)
        );
        place.remove().unwrap();
        place.remove().unwrap();
    }

    #[test]
    fn a_path_that_no_socket_can_have_is_refused_with_its_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::new(folder.path().join("x".repeat(100)));
        let refused = place.make(&own()).unwrap_err().to_string();
        assert!(refused.contains("--data-dir"), "{refused}");
    }

    #[test]
    fn tokens_differ_by_any_byte_and_by_length() {
        assert!(is_same_token(b"ab", b"ab"));
        for other in [&b"aB"[..], b"a", b"abc", b""] {
            assert!(!is_same_token(b"ab", other));
        }
    }
}
