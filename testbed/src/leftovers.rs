//! Removal of what killed members leave on the host: processes, and the networks of agents.
//!
//! An agent that is killed cannot clear its host. Only what belongs to the given directories or
//! processes is removed.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use argosy_host::ProcessId;
use argosy_network::{NetworkError, Networks, RECORDS_DIR};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Timeout for killed processes to disappear.
pub(crate) const EXIT_TIMEOUT: Duration = Duration::from_secs(10);
/// Interval at which they are checked.
pub(crate) const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Whether exactly that process runs. A zombie does not count.
pub fn is_alive(process: ProcessId) -> bool {
    process.open().ok().flatten().is_some()
}

/// Ends the tasks of an agent that has ended, and removes its kernel objects: cgroups, the table of
/// its networks, their devices and namespaces. Returns what remains. `argosy` is the executable.
pub fn clear_agent(argosy: &Path, directory: &Path) -> Vec<String> {
    if !directory.is_dir() {
        return Vec::new();
    }
    let mut left = Vec::new();
    let stop = Command::new(argosy)
        .args(["agent", "stop", "--kill-tasks", "--data-dir"])
        .arg(directory)
        .output();
    match stop {
        Ok(output) if output.status.success() => {}
        Ok(output) => left.push(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => left.push(format!("cannot execute {}: {error}", argosy.display())),
    }
    left.extend(kill_all_below(directory));
    if let Err(error) = remove_networks(directory) {
        left.push(format!("networks of {}: {error}", directory.display()));
    }
    left
}

/// Removes the networks of the agent with this directory, which has ended, from the network
/// namespace of the calling thread. Does nothing if the agent has removed them, or had none. The
/// directory may have been removed if its path is canonical.
///
/// # Errors
/// [`NetworkError`]
pub fn remove_networks(directory: &Path) -> Result<(), NetworkError> {
    let owner = fs::canonicalize(directory).unwrap_or_else(|_| directory.to_owned());
    Networks::remove_leftovers(Path::new(RECORDS_DIR), &owner).map(drop)
}

/// Kills all processes whose working directory is below `directory`, until none is left. Returns
/// those that remain.
fn kill_all_below(directory: &Path) -> Vec<String> {
    kill_all(|pid| {
        fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(directory))
    })
}

/// Kills all processes that `is_ours` identifies except this one, until none is left. Returns those
/// that remain.
pub(crate) fn kill_all(is_ours: impl Fn(i32) -> bool) -> Vec<String> {
    let deadline = Instant::now() + EXIT_TIMEOUT;
    loop {
        let living = processes(&is_ours);
        if living.is_empty() {
            return Vec::new();
        }
        if Instant::now() >= deadline {
            let name = |process: &ProcessId| format!("process {}", process.pid);
            return living.iter().map(name).collect();
        }
        for process in living {
            if is_alive(process) {
                // It may have ended since, which is fine.
                let _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
            }
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

fn processes(is_ours: impl Fn(i32) -> bool) -> Vec<ProcessId> {
    let own = std::process::id().cast_signed();
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| *pid != own)
        .filter_map(|pid| {
            // Reads the process first: if its pid is reused after that, the process counts as dead.
            let process = ProcessId::of(pid).ok()?;
            is_ours(pid).then_some(process)
        })
        .filter(|process| is_alive(*process))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use super::*;

    fn sleeper_in(directory: &Path) -> std::process::Child {
        let mut sleep = Command::new("sleep");
        sleep.arg("1000").current_dir(directory);
        sleep.stdin(Stdio::null()).spawn().unwrap()
    }

    #[test]
    fn only_processes_that_work_below_the_directory_are_killed() {
        let (ours, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let inside = ours.path().join("containers/one");
        fs::create_dir_all(&inside).unwrap();
        let mut killed = sleeper_in(&inside);
        let mut spared = sleeper_in(other.path());
        // A child that was not waited for counts as ended.
        assert_eq!(kill_all_below(ours.path()), Vec::<String>::new());
        assert!(killed.try_wait().unwrap().is_some());
        assert!(spared.try_wait().unwrap().is_none());
        spared.kill().unwrap();
        spared.wait().unwrap();
    }

    #[test]
    fn an_agent_without_networks_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        remove_networks(directory.path()).unwrap();
        let absent = directory.path().join("absent");
        assert_eq!(
            clear_agent(Path::new("/no/argosy"), &absent),
            Vec::<String>::new()
        );
    }
}
