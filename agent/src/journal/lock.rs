//! One agent a directory: a lock that the kernel drops with the process, and its number for the next one.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// Held while an agent lives.
#[derive(Debug)]
pub struct Lock {
    _file: Flock<File>,
}

/// Why a directory could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another agent lives on it.
    #[error(
        "another agent, process {pid}, runs on {directory}: stop it, or give this one a --data-dir of its own"
    )]
    Taken {
        /// Its process number, or "?" in its first moment.
        pid: String,
        /// The directory.
        directory: PathBuf,
    },
    /// The file could not be made or locked.
    #[error("cannot lock {path}")]
    Lock {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Lock {
    /// Takes the lock at `path`.
    ///
    /// # Errors
    /// [`LockError::Taken`] names the process that holds it.
    pub fn take(path: &Path) -> Result<Self, LockError> {
        let failed = |source| LockError::Lock {
            path: path.to_owned(),
            source,
        };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(path).map_err(failed)?;
        let mut holder = String::new();
        // Read before it is known to be free: afterwards it is this process' own.
        let _ = file.read_to_string(&mut holder);
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut file) => {
                let write = |file: &mut File| {
                    // Over what is there: a full disk has no room for a new block.
                    let pid = std::process::id().to_string();
                    file.rewind()?;
                    file.write_all(pid.as_bytes())?;
                    file.set_len(pid.len() as u64)
                };
                write(&mut file).map_err(failed)?;
                Ok(Self { _file: file })
            }
            Err((_, Errno::EWOULDBLOCK)) => Err(LockError::Taken {
                pid: match holder.trim() {
                    "" => "?".to_owned(),
                    pid => pid.to_owned(),
                },
                directory: path.parent().unwrap_or(path).to_owned(),
            }),
            Err((_, errno)) => Err(failed(errno.into())),
        }
    }
}
