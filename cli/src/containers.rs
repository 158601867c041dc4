//! Killing the containers that an agent left running, for `agent stop --kill-tasks` and the end of
//! `dev`.
//!
//! This requires that no agent has the directory, so the agent's own lock is held.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use argosy_host::ProcessId;
use argosy_isolation::{Adoption, Container, adopt, destroy};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::pid_file;

/// Time for the processes of a container to exit once they are killed.
const EXIT_TIMEOUT: Duration = Duration::from_secs(10);
/// Interval at which a lock is polled.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Returns the path of the agent's lock; see the layout of its directory.
pub(crate) fn lock_path(directory: &Path) -> PathBuf {
    directory.join("lock")
}

/// Takes the agent's lock, or returns `None` while an agent has it. Helper processes of an agent
/// that has exited may hold it a little longer; this waits for them.
pub(crate) fn lock(directory: &Path) -> anyhow::Result<Option<Flock<File>>> {
    let path = lock_path(directory);
    let mut options = File::options();
    options.read(true).write(true);
    // Only a missing file is created: some kernels do not let root create a file that belongs to
    // another user.
    let file = options.open(&path).or_else(|error| match error.kind() {
        ErrorKind::NotFound => options.create(true).open(&path),
        _ => Err(error),
    });
    let mut file = file.with_context(|| format!("cannot open {}", path.display()))?;
    let deadline = Instant::now() + EXIT_TIMEOUT;
    loop {
        file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(Some(lock)),
            Err((file, Errno::EWOULDBLOCK)) => file,
            Err((_, errno)) => {
                return Err(errno).with_context(|| format!("cannot lock {}", path.display()));
            }
        };
        if is_held(&path) || Instant::now() >= deadline {
            return Ok(None);
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// Returns whether the process that wrote its id to a lock is running. A lock without an id is
/// about to get one.
fn is_held(path: &Path) -> bool {
    let text = fs::read_to_string(path).unwrap_or_default();
    let pid = text.split_ascii_whitespace().next();
    let Some(pid) = pid.and_then(|word| word.parse().ok()) else {
        return true;
    };
    ProcessId::of(pid).is_ok_and(pid_file::is_alive)
}

/// Ends all containers of this directory: TERM, and KILL after `grace`. Returns how many were
/// running. Their exit results stay on disk, and the next agent here reports them.
pub(crate) fn end_all(directory: &Path, grace: Duration) -> anyhow::Result<usize> {
    let dir = directory.join("containers");
    if !dir.is_dir() {
        return Ok(0);
    }
    let Some(_lock) = lock(directory)? else {
        bail!(
            "{} is in use by an agent; stop it first",
            directory.display()
        );
    };
    let mut running = Vec::new();
    for entry in fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let path = entry
            .with_context(|| format!("cannot read {}", dir.display()))?
            .path();
        if !path.join("handle.json").exists() {
            // Never started; the agent knows that from the missing handle.
            continue;
        }
        match adopt(&path).with_context(|| format!("cannot inspect {}", path.display()))? {
            Adoption::Running(container) => {
                container
                    .kill(grace.as_millis() as u64)
                    .with_context(|| format!("cannot end {}", path.display()))?;
                running.push((path, container));
            }
            Adoption::Exited(_) | Adoption::Gone { .. } => {
                destroy(&path, None, EXIT_TIMEOUT)
                    .with_context(|| format!("cannot clear {}", path.display()))?;
            }
        }
    }
    let count = running.len();
    let deadline = Instant::now() + grace + EXIT_TIMEOUT;
    for (path, container) in running {
        end(&path, container, deadline)?;
    }
    argosy_agent::remove_tree(directory, EXIT_TIMEOUT)
        .context("cannot remove the agent's cgroups")?;
    Ok(count)
}

fn end(path: &Path, mut container: Container, deadline: Instant) -> anyhow::Result<()> {
    // Whether it ends in time or not, the rest is destroyed. A lost supervisor makes no difference.
    let _ = container.wait(deadline.saturating_duration_since(Instant::now()));
    container
        .destroy(EXIT_TIMEOUT)
        .with_context(|| format!("cannot clear {}", path.display()))
}
