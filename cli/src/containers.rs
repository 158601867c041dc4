//! Killing the containers that an agent left running, for `agent stop --kill-tasks` and the end of
//! `dev`.
//!
//! This requires that no agent has the directory, so the agent's own lock is held.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use argosy_host::ProcessId;
use argosy_isolation::{Adoption, AdoptionError, adopt, destroy};
use argosy_network::{Networks, RECORDS_DIR};
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

/// Ends all containers of this directory: TERM, and KILL after `grace`; those whose supervisors do
/// not answer are killed at once. Then removes what they had on this host: cgroups and networks.
/// Returns how many were running. Their exit results stay on disk, and the next agent here reports
/// them.
///
/// A failure prevents no other step but the removal of networks; the first one is returned.
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
    let mut failures = Failures::default();
    let count = end_containers(&containers(&dir)?, grace, &mut failures);
    let removed = argosy_agent::remove_tree(directory, EXIT_TIMEOUT);
    failures.add(removed.context("cannot remove the agent's cgroups"));
    if failures.first.is_none() {
        // No container is left that could use them.
        let owner = fs::canonicalize(directory).unwrap_or_else(|_| directory.to_owned());
        let removed = Networks::remove_leftovers(Path::new(RECORDS_DIR), &owner);
        failures.add(removed.map(drop).context("cannot remove its networks"));
    }
    failures.first.map_or(Ok(count), Err)
}

/// The failures of steps that do not depend on each other.
#[derive(Default)]
struct Failures {
    first: Option<anyhow::Error>,
}

impl Failures {
    fn add(&mut self, result: anyhow::Result<()>) {
        if let Err(error) = result {
            self.first.get_or_insert(error);
        }
    }
}

/// Returns the state directories of containers.
fn containers(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).and_then(|entries| {
        let paths = entries.map(|entry| Ok(entry?.path()));
        paths.collect::<io::Result<Vec<_>>>()
    });
    entries.with_context(|| format!("cannot read {}", dir.display()))
}

fn end_containers(paths: &[PathBuf], grace: Duration, failures: &mut Failures) -> usize {
    let (mut running, mut count) = (Vec::new(), 0);
    for path in paths {
        // A start that was requested just before the agent ended is cancelled by this call.
        match adopt(path) {
            Ok(Adoption::Running(container)) => {
                count += 1;
                // Without an answer in time it is killed below.
                let ordered = container.kill(grace.as_millis() as u64).is_ok();
                running.push((path, container, ordered));
            }
            Ok(Adoption::Exited(_) | Adoption::Gone { .. }) => failures.add(clear(path)),
            Err(AdoptionError::Unresponsive { .. }) => {
                count += 1;
                failures.add(clear(path));
            }
            Err(error) => {
                let what = || format!("cannot inspect {}", path.display());
                failures.add(Err(error).with_context(what));
            }
        }
    }
    let deadline = Instant::now() + grace + EXIT_TIMEOUT;
    for (path, mut container, ordered) in running {
        if ordered {
            // Whether it ends in time or not, the rest is destroyed. A lost supervisor makes no
            // difference.
            let _ = container.wait(deadline.saturating_duration_since(Instant::now()));
        }
        drop(container);
        failures.add(clear(path));
    }
    count
}

/// Kills what is left of a container, and removes its cgroup.
fn clear(path: &Path) -> anyhow::Result<()> {
    destroy(path, None, EXIT_TIMEOUT).with_context(|| format!("cannot clear {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_that_cannot_be_inspected_prevents_no_other_step() {
        let agent = tempfile::tempdir().unwrap();
        let dir = agent.path().join("containers");
        // In any order, some follow a damaged one.
        for number in 0..20 {
            fs::create_dir_all(dir.join(format!("damaged-{number}/handle.json"))).unwrap();
            let ended = dir.join(format!("ended-{number}"));
            fs::create_dir(&ended).unwrap();
            fs::write(ended.join("handle.json"), "\"void\"").unwrap();
            fs::write(ended.join("control"), "").unwrap();
        }
        let error = end_all(agent.path(), Duration::ZERO).unwrap_err();
        assert!(error.to_string().contains("cannot inspect"), "{error:#}");
        for number in 0..20 {
            let left = dir.join(format!("ended-{number}/control"));
            assert!(!left.exists(), "{}", left.display());
        }
    }

    #[test]
    fn a_start_that_was_requested_is_cancelled() {
        let agent = tempfile::tempdir().unwrap();
        let container = agent.path().join("containers/1-1-1");
        fs::create_dir_all(&container).unwrap();
        assert_eq!(end_all(agent.path(), Duration::ZERO).unwrap(), 0);
        let claim = fs::read_to_string(container.join("handle.json")).unwrap();
        assert_eq!(claim, "\"void\"");
    }
}
