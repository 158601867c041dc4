//! The directory with an executor's socket to its agent, its token, and their access rules.
//!
//! It belongs to the agent: its files can be created again under the same names, and no process in
//! the container can create others there. It is mounted in the container at the host's path,
//! without its parent.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::ops::RangeInclusive;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use argosy_host::remove_tree::remove_dir_all;
use nix::unistd::{Gid, Uid};

use crate::broker_client::DirectoryAccess;

/// Maximum length of a socket path on Linux, in bytes.
const SOCKET_PATH_BYTES: usize = 107;
/// Number of random bytes of a token.
const TOKEN_BYTES: usize = 32;

/// The directory with the socket of one executor.
#[derive(Debug, Clone)]
pub(crate) struct ExecutorDirectory(PathBuf);

impl ExecutorDirectory {
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self(directory)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.0.join("socket")
    }

    pub(crate) fn token_file(&self) -> PathBuf {
        self.0.join("token")
    }

    fn access_file(&self) -> PathBuf {
        self.0.join("guest")
    }

    /// Creates the directory and a new token.
    pub(crate) fn make(&self, guest: &DirectoryAccess) -> io::Result<()> {
        let bytes = self.socket().as_os_str().len();
        if bytes > SOCKET_PATH_BYTES {
            return Err(io::Error::other(format!(
                "the path of its socket would have {bytes} bytes, and the kernel allows {SOCKET_PATH_BYTES}: give the agent a shorter --data-dir"
            )));
        }
        let parent = self.0.parent().unwrap_or(&self.0);
        let mode = if guest.is_hidden { 0o700 } else { 0o711 };
        make_directory(parent, mode)?;
        make_directory(&self.0, 0o711)?;
        self.write(&self.access_file(), 0o600, None, &access_text(guest))?;
        let mode = guest.owner.map_or(0o444, |_| 0o400);
        self.write(&self.token_file(), mode, guest.owner, &new_token()?)
    }

    /// Not by `atomic_file`, which leaves the mode to the umask and the owner to the process.
    fn write(&self, path: &Path, mode: u32, owner: Option<u32>, text: &str) -> io::Result<()> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(text.as_bytes())?;
        // Regardless of the agent's umask.
        file.set_permissions(Permissions::from_mode(mode))?;
        set_owner(path, owner)
    }

    /// Binds the socket, replacing an old one; returns the listener, the permitted users, and the
    /// token.
    pub(crate) fn listen(&self) -> io::Result<(UnixListener, RangeInclusive<u32>, Vec<u8>)> {
        let guest = parse_access(&fs::read_to_string(self.access_file())?)?;
        let token = fs::read(self.token_file())?;
        let path = self.socket();
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let listener = UnixListener::bind(&path)?;
        let mode = guest.owner.map_or(0o666, |_| 0o600);
        fs::set_permissions(&path, Permissions::from_mode(mode))?;
        set_owner(&path, guest.owner)?;
        Ok((listener, guest.peers, token))
    }

    /// Removes the directory. It is no error if it does not exist.
    pub(crate) fn remove(&self) -> io::Result<()> {
        match remove_dir_all(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

fn make_directory(path: &Path, mode: u32) -> io::Result<()> {
    match DirBuilder::new().mode(mode).create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    fs::set_permissions(path, Permissions::from_mode(mode))
}

fn set_owner(path: &Path, owner: Option<u32>) -> io::Result<()> {
    let Some(owner) = owner.filter(|owner| *owner != nix::unistd::geteuid().as_raw()) else {
        return Ok(());
    };
    let (user, group) = (Uid::from_raw(owner), Gid::from_raw(owner));
    Ok(nix::unistd::chown(path, Some(user), Some(group))?)
}

fn access_text(guest: &DirectoryAccess) -> String {
    let owner = guest.owner.map(|owner| owner.to_string());
    let owner = owner.unwrap_or_else(|| "any".to_owned());
    let (first, last) = (guest.peers.start(), guest.peers.end());
    format!("{owner} {first} {last} {}", guest.is_hidden)
}

fn parse_access(text: &str) -> io::Result<DirectoryAccess> {
    let words: Vec<_> = text.split(' ').collect();
    let damaged = || io::Error::other("the record of its users is damaged");
    let [owner, first, last, is_hidden] = words[..] else {
        return Err(damaged());
    };
    let number = |word: &str| word.parse::<u32>().map_err(|_| damaged());
    Ok(DirectoryAccess {
        owner: match owner {
            "any" => None,
            word => Some(number(word)?),
        },
        peers: number(first)?..=number(last)?,
        is_hidden: is_hidden == "true",
    })
}

/// Returns hexadecimal digits of random bytes.
fn new_token() -> io::Result<String> {
    let mut bytes = [0; TOKEN_BYTES];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Compares two tokens in constant time.
pub(crate) fn is_same_token(own: &[u8], given: &[u8]) -> bool {
    let differences = own.iter().zip(given).fold(0, |all, (a, b)| all | (a ^ b));
    own.len() == given.len() && differences == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> DirectoryAccess {
        let own = nix::unistd::geteuid().as_raw();
        DirectoryAccess {
            owner: Some(own),
            peers: own..=own,
            is_hidden: true,
        }
    }

    #[test]
    fn reopening_a_socket_keeps_its_token() {
        let directory = tempfile::tempdir().unwrap();
        let place = ExecutorDirectory::new(directory.path().join("executors/1-1-1"));
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
    fn too_long_socket_paths_are_rejected_with_a_remedy() {
        let directory = tempfile::tempdir().unwrap();
        let place = ExecutorDirectory::new(directory.path().join("x".repeat(100)));
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
