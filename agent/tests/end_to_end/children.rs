//! The child processes of an agent, from `/proc`.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::host::LAUNCHER;

/// Returns the launcher of the agent that is this process, or in it.
pub(crate) fn launcher_of(agent: u32) -> u32 {
    child_of(agent, "argosy-launcher")
}

/// Returns a child of a process whose command line contains this word.
pub(crate) fn child_with(parent: u32, word: &str) -> u32 {
    let mut lines = Vec::new();
    for (pid, name) in children_of(parent) {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        if line.split('\0').any(|one| one == word) {
            return pid;
        }
        lines.push((pid, name, line));
    }
    panic!("{parent} has no child with {word:?}: {lines:?}")
}

/// Returns a child of a process, by the end of its name. Waits for it: a new process has the name
/// of its parent until it sets its own.
pub(crate) fn child_of(agent: u32, called: &str) -> u32 {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let children = children_of(agent).into_iter();
        let named = children.filter(|(_, name)| name.ends_with(called));
        if let Some(first) = named.map(|(pid, _)| pid).min() {
            return first;
        }
        assert!(Instant::now() < deadline, "{agent} has no {called}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Returns the children of a process, and their names.
fn children_of(parent: u32) -> Vec<(u32, String)> {
    let children = entries("/proc").into_iter().filter_map(|process| {
        let stat = std::fs::read_to_string(process.join("stat")).ok()?;
        let (name, rest) = stat.rsplit_once(')')?;
        let is_it = rest.split_whitespace().nth(1)?.parse::<u32>().ok()? == parent;
        let pid = process.file_name()?.to_str()?.parse().ok()?;
        is_it.then(|| (pid, name.to_owned()))
    });
    children.collect()
}

/// Returns the launcher that is to stop at a step on this host, by its witness file.
pub(crate) fn launcher_with(witness: &Path) -> u32 {
    let is_it = |process: &PathBuf| {
        let line = std::fs::read(process.join("cmdline")).unwrap_or_default();
        let mut words = line.split(|byte| *byte == 0).skip(1);
        words.next() == Some(LAUNCHER.as_bytes())
            && words.any(|word| word == witness.as_os_str().as_encoded_bytes())
    };
    let found = entries("/proc").into_iter().find(is_it);
    let found = found.expect("an agent has a launcher");
    found
        .file_name()
        .unwrap()
        .to_str()
        .unwrap()
        .parse()
        .unwrap()
}

pub(crate) fn entries(directory: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}
