//! The lock of an agent's directory: the kernel releases it with the last process that holds it.
//! The file contains the agent's process id and its start time.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use argosy_host::process::ProcessId;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// Timeout for a lock whose holder has exited.
const DEAD_HOLDER_TIMEOUT: Duration = Duration::from_secs(10);
/// The interval of attempts.
const RETRY_INTERVAL: Duration = Duration::from_millis(20);

/// A lock that is held while an agent runs, and as long as a process to which it has passed the
/// descriptor. There is no explicit unlock, which would take it from that process, too.
#[derive(Debug)]
pub struct DirectoryLock {
    file: File,
}

/// The reason why a directory could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another agent runs on it.
    #[error(
        "another agent, process {pid}, runs on {directory}: stop it, or give this one another --data-dir"
    )]
    InUse {
        /// Its process id, or "?" right after its start.
        pid: String,
        directory: PathBuf,
    },
    /// The agent has exited, and one of its child processes still holds its lock.
    #[error(
        "agent {pid} of {directory} has exited, but a process that it has left still holds its lock, most likely a broker that was stopped: \
         find it by `pgrep -a argosy-broker`, and continue it (kill -CONT), so that it ends, or kill it"
    )]
    HeldByChild {
        /// The agent's process id.
        pid: u32,
        directory: PathBuf,
    },
    /// The file could not be created or locked.
    #[error("cannot lock {path}")]
    Lock { path: PathBuf, source: io::Error },
}

impl AsFd for DirectoryLock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl DirectoryLock {
    /// Takes the lock at `path`. Waits up to ten seconds for one whose holder has exited: a process
    /// that it was creating at its exit also holds the lock, until it executes its own program.
    ///
    /// # Errors
    /// [`LockError::InUse`] names the process that holds it, [`LockError::HeldByChild`] the one that has
    /// left it.
    pub fn take(path: &Path) -> Result<Self, LockError> {
        Self::take_within(path, DEAD_HOLDER_TIMEOUT)
    }

    fn take_within(path: &Path, timeout: Duration) -> Result<Self, LockError> {
        let failed = |source| LockError::Lock {
            path: path.to_owned(),
            source,
        };
        let deadline = Instant::now() + timeout;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(path).map_err(failed)?;
        loop {
            // Read before it is known to be free: afterwards it is this process' own.
            let holder = holder(&mut file);
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {
                    write_holder(&mut file).map_err(failed)?;
                    return Ok(Self { file });
                }
                Err(Errno::WOULDBLOCK) => {}
                Err(errno) => return Err(failed(errno.into())),
            }
            let directory = path.parent().unwrap_or(path).to_owned();
            match holder {
                Some(holder) if holder.has_ended() => {
                    if Instant::now() >= deadline {
                        let pid = holder.pid;
                        return Err(LockError::HeldByChild { pid, directory });
                    }
                }
                holder => {
                    let pid = holder.map_or_else(|| "?".to_owned(), |one| one.pid.to_string());
                    return Err(LockError::InUse { pid, directory });
                }
            }
            std::thread::sleep(RETRY_INTERVAL);
        }
    }
}

/// An agent that has locked a directory, from the file.
struct Holder {
    pid: u32,
    /// Its start time in clock ticks; `None` in a file of release 0.1.0.
    start_ticks: Option<u64>,
}

impl Holder {
    /// Whether it is not running any more, also if another process or thread has its id now.
    fn has_ended(&self) -> bool {
        let Some(now) = i32::try_from(self.pid)
            .ok()
            .and_then(|pid| ProcessId::of(pid).ok())
        else {
            return true;
        };
        let is_another = self
            .start_ticks
            .is_some_and(|ticks| ticks != now.start_ticks);
        is_another || now.is_ending().unwrap_or(true)
    }
}

/// Returns the last holder; `None` right after the start of the first.
fn holder(file: &mut File) -> Option<Holder> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.read_to_string(&mut text).ok()?;
    let mut words = text.split_whitespace();
    let pid = words.next()?.parse().ok()?;
    let start_ticks = words.next().and_then(|ticks| ticks.parse().ok());
    Some(Holder { pid, start_ticks })
}

fn write_holder(file: &mut File) -> io::Result<()> {
    // Overwrites in place: a full disk has no space for a new block.
    let pid = std::process::id();
    let own = ProcessId::of(pid.cast_signed())?;
    let text = format!("{pid} {}", own.start_ticks);
    file.rewind()?;
    file.write_all(text.as_bytes())?;
    file.set_len(text.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the lock of an agent that has exited, held by another process.
    fn left_behind(path: &Path) -> File {
        let mut dead = std::process::Command::new("true").spawn().unwrap();
        let pid = dead.id();
        let ticks = ProcessId::of(pid.cast_signed()).unwrap().start_ticks;
        dead.wait().unwrap();
        held_with(path, &format!("{pid} {ticks}"))
    }

    /// Returns a held lock whose file has this content.
    fn held_with(path: &Path, content: &str) -> File {
        std::fs::write(path, content).unwrap();
        let file = File::open(path).unwrap();
        flock(&file, FlockOperation::LockExclusive).unwrap();
        file
    }

    #[test]
    fn a_lock_is_held_until_all_its_holders_exit() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let lock = DirectoryLock::take(&path).unwrap();
        let of_the_broker = lock.as_fd().try_clone_to_owned().unwrap();
        drop(lock);
        let refused = DirectoryLock::take_within(&path, Duration::ZERO);
        assert!(
            matches!(refused, Err(LockError::InUse { .. })),
            "{refused:?}"
        );
        drop(of_the_broker);
        // A child that another test is creating has it, too, until it executes its program.
        let deadline = Instant::now() + DEAD_HOLDER_TIMEOUT;
        while let Err(refused) = DirectoryLock::take(&path) {
            assert!(Instant::now() < deadline, "{refused}");
            std::thread::sleep(RETRY_INTERVAL);
        }
    }

    #[test]
    fn the_lock_of_an_exited_agents_child_is_awaited() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let left = left_behind(&path);
        std::thread::scope(|scope| {
            let next = scope.spawn(|| DirectoryLock::take_within(&path, Duration::from_secs(60)));
            std::thread::sleep(Duration::from_millis(100));
            assert!(!next.is_finished());
            drop(left);
            next.join().unwrap().unwrap();
        });
        let holder = holder(&mut File::open(&path).unwrap()).unwrap();
        assert_eq!(holder.pid, std::process::id());
        assert!(!holder.has_ended());
    }

    /// The kernel gives ids again, on a busy host within seconds.
    #[test]
    fn a_process_with_the_id_of_an_exited_agent_is_not_that_agent() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let own = ProcessId::of(std::process::id().cast_signed()).unwrap();
        let exited = format!("{} {}", own.pid, own.start_ticks - 1);
        let left = held_with(&path, &exited);
        let refused = DirectoryLock::take_within(&path, Duration::from_millis(50));
        assert!(
            matches!(refused, Err(LockError::HeldByChild { .. })),
            "{refused:?}"
        );
        drop(left);
        DirectoryLock::take(&path).unwrap();
    }

    #[test]
    fn the_lock_of_a_running_agent_of_release_0_1_0_is_in_use() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let _held = held_with(&path, &std::process::id().to_string());
        let refused = DirectoryLock::take_within(&path, Duration::from_secs(600));
        assert!(
            matches!(refused, Err(LockError::InUse { .. })),
            "{refused:?}"
        );
    }

    #[test]
    fn locks_time_out_and_fail_immediately_for_a_running_agent() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let left = left_behind(&path);
        let refused = DirectoryLock::take_within(&path, Duration::from_millis(50));
        assert!(matches!(refused, Err(LockError::HeldByChild { .. })));
        drop(left);
        let _held = DirectoryLock::take(&path).unwrap();
        let started_at = Instant::now();
        let refused = DirectoryLock::take_within(&path, Duration::from_secs(600));
        let Err(LockError::InUse { pid, .. }) = refused else {
            panic!("{refused:?}");
        };
        assert_eq!(pid, std::process::id().to_string());
        assert!(started_at.elapsed() < Duration::from_secs(300), "at once");
    }
}
