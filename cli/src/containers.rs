//! Ending what an agent left running: for `agent stop --kill-tasks` and the end of `dev`.
//!
//! Only while no agent has the directory: the agent's own lock is held meanwhile.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use argosy_isolation::{Adoption, Container, Process, adopt, destroy};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::pid_file;

/// How long the processes of a container may take to be gone once they are killed.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is looked whether a lock is free.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// The agent's lock, see the drawing of its directory.
pub(crate) fn lock_path(directory: &Path) -> PathBuf {
    directory.join("lock")
}

/// Takes the agent's lock; `None` while an agent has it. What an agent that has ended had beside it may have it a little
/// longer: that is waited for.
pub(crate) fn lock(directory: &Path) -> anyhow::Result<Option<Flock<File>>> {
    let path = lock_path(directory);
    let mut options = File::options();
    options.read(true).write(true);
    // Only a file that is not there is made: some kernels refuse to root to make one that is another user's.
    let file = options.open(&path).or_else(|error| match error.kind() {
        ErrorKind::NotFound => options.create(true).open(&path),
        _ => Err(error),
    });
    let mut file = file.with_context(|| format!("cannot open {}", path.display()))?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(Some(lock)),
            Err((file, Errno::EWOULDBLOCK)) => file,
            Err((_, errno)) => {
                return Err(errno).with_context(|| format!("cannot lock {}", path.display()));
            }
        };
        if holder_lives(&path) || Instant::now() >= deadline {
            return Ok(None);
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// Whether the process lives that has written its number to a lock. One that names none is about to.
fn holder_lives(path: &Path) -> bool {
    let text = fs::read_to_string(path).unwrap_or_default();
    let pid = text.split_ascii_whitespace().next();
    let Some(pid) = pid.and_then(|word| word.parse().ok()) else {
        return true;
    };
    Process::of(pid).is_ok_and(pid_file::lives)
}

/// Ends all containers of this directory: TERM, after `grace` KILL. Returns how many were running. Their
/// true ends stay on disk: the next agent here reports them.
pub(crate) fn end_all(directory: &Path, grace: Duration) -> anyhow::Result<usize> {
    let folder = directory.join("containers");
    if !folder.is_dir() {
        return Ok(0);
    }
    let Some(_lock) = lock(directory)? else {
        bail!(
            "{} is in use by an agent; stop it first",
            directory.display()
        );
    };
    let mut running = Vec::new();
    for entry in
        fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?
    {
        let path = entry
            .with_context(|| format!("cannot read {}", folder.display()))?
            .path();
        if !path.join("handle.json").exists() {
            // Never started; the agent knows that from the missing handle.
            continue;
        }
        match adopt(&path).with_context(|| format!("cannot look at {}", path.display()))? {
            Adoption::Running(container) => {
                container
                    .kill(grace.as_millis() as u64)
                    .with_context(|| format!("cannot end {}", path.display()))?;
                running.push((path, container));
            }
            Adoption::Exited(_) | Adoption::Gone { .. } => {
                destroy(&path, None, PATIENCE)
                    .with_context(|| format!("cannot clear {}", path.display()))?;
            }
        }
    }
    let count = running.len();
    let deadline = Instant::now() + grace + PATIENCE;
    for (path, container) in running {
        end(&path, container, deadline)?;
    }
    argosy_agent::remove_tree(directory, PATIENCE).context("cannot remove the agent's cgroups")?;
    Ok(count)
}

fn end(path: &Path, mut container: Container, deadline: Instant) -> anyhow::Result<()> {
    // Whether it ends in time or not, what is left is destroyed; a lost supervisor makes no difference.
    let _ = container.wait(deadline.saturating_duration_since(Instant::now()));
    container
        .destroy(PATIENCE)
        .with_context(|| format!("cannot clear {}", path.display()))
}
