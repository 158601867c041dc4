//! Child processes: programs of the host that run for a bounded time, and their termination without
//! blocking.
//!
//! For the agent only: it uses threads.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

use crate::processes::process::has_ended;
use crate::processes::spawner::{self, ProgramCall, SpawnedProgram, StandardStreams};
use crate::sys;

/// The time in which a killed child must end before another thread waits for it.
const KILL_LIMIT: Duration = Duration::from_secs(1);
/// The maximum output of a program, in bytes.
const TEXT_LIMIT_BYTES: u64 = 1024 * 1024;
/// The interval at which that is checked.
const CHECK_INTERVAL: Duration = Duration::from_millis(10);

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

    /// Waits for the end of a process that writes to these [memory files](memory_file). They do not
    /// grow after that, even if a child of the process still writes.
    ///
    /// # Errors
    /// As [`ChildProcess::wait`], or if the process has written more than 1 MiB: kill it.
    pub fn wait_for_output(
        &mut self,
        limit: Duration,
        outputs: &[&File],
    ) -> io::Result<Option<ExitStatus>> {
        let ended = self.wait_while_writing(limit, outputs);
        for output in outputs {
            fcntl_add_seals(output, SealFlags::GROW)?;
        }
        ended
    }

    fn wait_while_writing(
        &mut self,
        limit: Duration,
        outputs: &[&File],
    ) -> io::Result<Option<ExitStatus>> {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let ended = self.wait(left.min(CHECK_INTERVAL))?;
            for output in outputs {
                if output.metadata()?.len() > TEXT_LIMIT_BYTES {
                    return Err(io::Error::other("it has written more than 1 MiB"));
                }
            }
            if ended.is_some() || left.is_zero() {
                return Ok(ended);
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
    match child.wait_for_output(limit, &[&complaint]) {
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
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    Ok(memfd_create("argosy", flags)?.into())
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
    fn a_program_that_writes_more_than_the_limit_is_killed() {
        let line = "head -c 3000000 /dev/zero >&2; exec sleep 1000";
        let error = run(&shell(line), "", Duration::from_secs(60))
            .err()
            .unwrap();
        assert_eq!(error.to_string(), "it has written more than 1 MiB");
        // A file may be written from its beginning again, as a shell does for `> /dev/stderr`.
        let ran = run(&shell("echo a > /dev/stderr"), "", Duration::from_secs(60)).unwrap();
        assert_eq!(ran.stderr, "a\n");
    }

    #[test]
    fn a_child_that_a_program_leaves_behind_cannot_write_without_end() {
        let directory = tempfile::tempdir().unwrap();
        let [go, status] = ["go", "status"].map(|name| directory.path().join(name));
        let line = format!(
            "(until [ -e {} ]; do sleep 0.01; done; head -c 9000 /dev/zero >&2; echo $? > {}) &",
            go.display(),
            status.display()
        );
        let limit = Duration::from_secs(60);
        assert!(run(&shell(&line), "", limit).unwrap().status.success());
        std::fs::write(go, "").unwrap();
        let deadline = Instant::now() + limit;
        let ended = || std::fs::read_to_string(&status).is_ok_and(|text| text.ends_with('\n'));
        while !ended() {
            assert!(Instant::now() < deadline, "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(std::fs::read_to_string(&status).unwrap(), "1\n");
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
