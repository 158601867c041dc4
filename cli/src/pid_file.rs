//! Process ids in files, with the start time that proves which process wrote them.
//!
//! A process id alone may belong to another process after reuse.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context;
use argosy_host::ProcessId;
use argosy_host::atomic_file::{self, WriteOptions};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A file that names this process and is removed on drop.
#[derive(Debug)]
pub(crate) struct PidFile {
    path: PathBuf,
    /// The id of the process that wrote it. A forked copy does not remove the file.
    pid: i32,
}

impl PidFile {
    /// Writes the file: a line with process id and start time.
    pub(crate) fn write(path: &Path) -> anyhow::Result<Self> {
        let own = ProcessId::of(std::process::id() as i32).context("cannot read /proc/self")?;
        let text = format!("{} {}\n", own.pid, own.start_ticks);
        replace(path, &text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self {
            path: path.to_owned(),
            pid: own.pid,
        })
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // A successor may have replaced the file.
        if read(&self.path)
            .ok()
            .flatten()
            .is_none_or(|process| process.pid == self.pid)
        {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Replaces a file atomically, for programs that read it at any time. It need not survive a power
/// cut.
pub(crate) fn replace(path: &Path, text: &str) -> io::Result<()> {
    let draft = path.with_extension("new");
    atomic_file::replace(path, &draft, text.as_bytes(), WriteOptions::CACHED)
}

/// Returns the process named in the file, if it is running.
pub(crate) fn read(path: &Path) -> io::Result<Option<ProcessId>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut words = text.split_ascii_whitespace();
    let pid = words.next().and_then(|word| word.parse().ok());
    let start_ticks = words.next().and_then(|word| word.parse().ok());
    let (Some(pid), Some(start_ticks)) = (pid, start_ticks) else {
        return Ok(None);
    };
    let process = ProcessId { pid, start_ticks };
    Ok(is_alive(process).then_some(process))
}

/// Returns whether this very process still runs.
pub(crate) fn is_alive(process: ProcessId) -> bool {
    process.open().ok().flatten().is_some()
}

/// Sends a signal if this very process still runs, and returns whether it did.
pub(crate) fn signal(process: ProcessId, signal: Signal) -> io::Result<bool> {
    if !is_alive(process) {
        return Ok(false);
    }
    match kill(Pid::from_raw(process.pid), signal) {
        Ok(()) => Ok(true),
        Err(Errno::ESRCH) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_file_names_this_process_until_it_is_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pid");
        let file = PidFile::write(&path).unwrap();
        assert_eq!(read(&path).unwrap().unwrap().pid, std::process::id() as i32);
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn a_reused_process_id_is_not_the_process() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pid");
        fs::write(&path, format!("{} 1\n", std::process::id())).unwrap();
        assert_eq!(read(&path).unwrap(), None);
        fs::write(&path, "garbage").unwrap();
        assert_eq!(read(&path).unwrap(), None);
        assert_eq!(read(&directory.path().join("absent")).unwrap(), None);
    }
}
