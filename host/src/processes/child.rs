//! Child processes: programs of the host that run for a bounded time, and their termination without
//! blocking.
//!
//! For the agent only: it uses threads.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use rustix::fs::{MemfdFlags, memfd_create};

use crate::processes::process::has_ended;
use crate::processes::spawner::{self, ProgramCall, SpawnedProgram, StandardStreams};
use crate::sys;

/// The time in which a killed child must end before another thread waits for it.
const KILL_LIMIT: Duration = Duration::from_secs(1);
/// The maximum output of a program, in bytes; the rest is not read.
const TEXT_LIMIT_BYTES: u64 = 1024 * 1024;

/// The result of a program that ended.
pub struct ProgramOutput {
    pub status: ExitStatus,
    /// Its standard error.
    pub stderr: String,
}

/// A program that this process executed, or that the spawner executed for it
/// ([`crate::processes::spawner`]).
#[derive(Debug)]
pub struct ChildProcess(ChildHandle);

#[derive(Debug)]
enum ChildHandle {
    Local(Child),
    Spawner(SpawnedProgram),
}

impl ChildProcess {
    /// Executes a program: by the spawner of this process, if it has one.
    ///
    /// # Errors
    /// The reason why it cannot be executed.
    pub fn execute(execution: &ProgramCall, streams: StandardStreams) -> io::Result<Self> {
        if let Some(spawned) = spawner::spawn(execution, &streams)? {
            return Ok(Self(ChildHandle::Spawner(spawned)));
        }
        let child = execution.command(streams).spawn()?;
        Ok(Self(ChildHandle::Local(child)))
    }

    /// Returns the process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        match &self.0 {
            ChildHandle::Local(child) => child.id(),
            ChildHandle::Spawner(spawned) => spawned.pid,
        }
    }

    /// Waits for the end of the process. Returns `None` if it has not ended in time.
    ///
    /// # Errors
    /// If the host has no descriptor left, or the spawner has exited or does not respond.
    pub fn wait(&mut self, limit: Duration) -> io::Result<Option<ExitStatus>> {
        match &mut self.0 {
            ChildHandle::Spawner(spawned) => spawned.wait(limit),
            ChildHandle::Local(child) => {
                let handle = sys::pidfd_open(child.id() as i32)?;
                match has_ended(&handle, limit)? {
                    true => child.try_wait(),
                    false => Ok(None),
                }
            }
        }
    }

    /// Kills and reaps the process: in the background if the kernel does not end it soon.
    pub fn kill(mut self) {
        match &mut self.0 {
            // The process id cannot be reused until it is reaped. The process may have ended by
            // now.
            ChildHandle::Local(child) => drop(child.kill()),
            ChildHandle::Spawner(spawned) => spawned.kill(),
        }
        if matches!(self.wait(KILL_LIMIT), Ok(Some(_))) {
            return;
        }
        if let ChildHandle::Local(mut child) = self.0 {
            let reaper = std::thread::Builder::new().name("reaper".to_owned());
            // Without a thread it stays a zombie until this process exits.
            let _ = reaper.spawn(move || child.wait());
        }
    }
}

/// Runs a program to its end, with this text as its standard input.
///
/// # Errors
/// If it cannot be run. [`io::ErrorKind::TimedOut`] if it has not ended in time: it is then killed.
pub fn run(command: &Command, input: &str, limit: Duration) -> io::Result<ProgramOutput> {
    // Files, not pipes: a program that does not read, or a child that it leaves behind, cannot
    // block this process.
    let mut text = memory_file()?;
    text.write_all(input.as_bytes())?;
    text.rewind()?;
    let mut complaint = memory_file()?;
    let streams = StandardStreams {
        input: text.into(),
        output: null()?,
        error: Some(complaint.try_clone()?.into()),
    };
    let mut child = ChildProcess::execute(&ProgramCall::of(command), streams)?;
    match child.wait(limit) {
        Ok(Some(status)) => Ok(ProgramOutput {
            status,
            stderr: read_all(&mut complaint)?,
        }),
        Ok(None) => {
            child.kill();
            let program = command.get_program().to_string_lossy().into_owned();
            let why = format!("{program} has not ended within {limit:?} and was killed");
            Err(io::Error::new(io::ErrorKind::TimedOut, why))
        }
        Err(error) => {
            child.kill();
            Err(error)
        }
    }
}

/// Opens `/dev/null`, which discards a program's output.
///
/// # Errors
/// If it cannot be opened.
pub fn null() -> io::Result<OwnedFd> {
    Ok(File::options().write(true).open("/dev/null")?.into())
}

/// Creates a memory file that has no name and takes no disk space.
///
/// # Errors
/// If the host refuses it.
pub fn memory_file() -> io::Result<File> {
    Ok(memfd_create("argosy", MemfdFlags::CLOEXEC)?.into())
}

/// Returns the content of such a file.
///
/// # Errors
/// If it cannot be read.
pub fn read_all(file: &mut File) -> io::Result<String> {
    file.seek(SeekFrom::Start(0))?;
    let mut bytes = Vec::new();
    file.take(TEXT_LIMIT_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::processes::process::ProcessId;

    fn shell(line: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", line]);
        command
    }

    #[test]
    fn a_program_reads_its_input_and_its_stderr_is_captured() {
        let limit = Duration::from_secs(60);
        let ran = run(&shell("cat >&2; exit 3"), "said", limit).unwrap();
        assert_eq!((ran.status.code(), ran.stderr.as_str()), (Some(3), "said"));
        // More than a pipe holds, and no process reads it.
        let ran = run(&shell("exit 0"), &"x".repeat(1 << 20), limit).unwrap();
        assert!(ran.status.success());
    }

    #[test]
    fn a_program_that_does_not_end_is_killed_and_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pid");
        let line = format!("echo $$ > {}; kill -STOP $$", path.display());
        let error = run(&shell(&line), "", Duration::from_millis(500));
        let error = error.err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let text = "/bin/sh has not ended within 500ms and was killed";
        assert_eq!(error.to_string(), text);
        // It may have been killed before it wrote that.
        let pid = std::fs::read_to_string(path).unwrap_or_default();
        if let Ok(pid) = pid.trim().parse() {
            assert!(ProcessId::of(pid).is_err(), "it is reaped");
        }
    }
}
