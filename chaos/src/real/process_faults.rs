//! Faults of one process from outside: its limits, its disk, its clock.
//!
//! Each fault is a value. Ending it undoes the fault, as far as the process still exists.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use argosy_host::atomic_file::{self, WriteOptions};
use argosy_testbed::host_tools;
use argosy_testbed::processes::RunSettings;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Free space of a small disk in addition to its content.
const FREE_BYTES: u64 = 24 << 20;
/// Time for an executable to print its version.
const START_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LimitedResource {
    /// Address space.
    Memory,
    /// File descriptors.
    Descriptors,
}

impl LimitedResource {
    /// Leaves the process almost nothing in addition to its current use.
    pub(crate) fn apply(self, pid: u32) -> Result<()> {
        let limit = match self {
            Self::Memory => {
                let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
                let line = status.lines().find_map(|line| line.strip_prefix("VmSize:"));
                let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
                let kib = kib.context("the process has ended")?;
                format!("--as={}:", kib * 1_024 + (1 << 20))
            }
            Self::Descriptors => {
                let open = fs::read_dir(format!("/proc/{pid}/fd"))?.count();
                format!("--nofile={}:", open + 2)
            }
        };
        host_tools::run("prlimit", &["--pid", &pid.to_string(), &limit])?;
        Ok(())
    }

    /// Raises the limit to the hard limit again.
    pub(crate) fn lift(self, pid: u32) -> Result<()> {
        let flag = match self {
            Self::Memory => "--as",
            Self::Descriptors => "--nofile",
        };
        let pid = pid.to_string();
        let words = [
            "--pid",
            &pid,
            flag,
            "--noheadings",
            "--raw",
            "--output",
            "HARD",
        ];
        let hard = host_tools::run("prlimit", &words)?;
        host_tools::run(
            "prlimit",
            &["--pid", &pid, &format!("{flag}={}:", hard.trim())],
        )?;
        Ok(())
    }
}

/// A small file system in place of a directory whose process does not run.
#[derive(Debug)]
pub(crate) struct SmallDisk {
    directory: PathBuf,
}

impl SmallDisk {
    /// Mounts it with the content of the directory.
    pub(crate) fn mount(dir: &Path) -> Result<Self> {
        let kept = saved_path(dir);
        fs::rename(dir, &kept).with_context(|| format!("cannot move {}", dir.display()))?;
        fs::create_dir_all(dir)?;
        let size = format!("size={}", bytes_in(&kept)? + FREE_BYTES);
        mount(
            Some("argosy-chaos"),
            dir,
            Some("tmpfs"),
            MsFlags::empty(),
            Some(size.as_str()),
        )
        .with_context(|| format!("cannot mount {}", dir.display()))?;
        let disk = Self {
            directory: dir.to_owned(),
        };
        copy(&kept, dir)?;
        Ok(disk)
    }

    /// Leaves no byte free.
    pub(crate) fn fill(&self) -> Result<()> {
        self.filler().fill()
    }

    fn filler(&self) -> Filler {
        Filler::of(&self.directory)
    }

    /// Frees the space again.
    pub(crate) fn free(&self) {
        self.filler().remove();
    }

    /// Unmounts it and copies its content back into the directory. The process must not run.
    pub(crate) fn remove(self) -> Result<()> {
        self.free();
        let kept = saved_path(&self.directory);
        fs::remove_dir_all(&kept)?;
        fs::create_dir_all(&kept)?;
        copy(&self.directory, &kept)?;
        umount2(&self.directory, MntFlags::MNT_DETACH)?;
        fs::remove_dir_all(&self.directory)?;
        fs::rename(&kept, &self.directory)?;
        Ok(())
    }
}

/// A file that takes all free space of a disk.
#[derive(Debug)]
pub(crate) struct Filler(PathBuf);

impl Filler {
    /// Names the file in this directory, and creates nothing.
    pub(crate) fn of(directory: &Path) -> Self {
        Self(directory.join("filler"))
    }

    /// Leaves no byte free.
    pub(crate) fn fill(&self) -> Result<()> {
        let mut file = fs::File::create(&self.0)?;
        for bytes in [64 * 1024, 4 * 1024] {
            let block = vec![0_u8; bytes];
            loop {
                match io::Write::write(&mut file, &block) {
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::StorageFull => break,
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    /// Frees the space again. It may not have been filled.
    pub(crate) fn remove(&self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn saved_path(directory: &Path) -> PathBuf {
    directory.with_extension("kept")
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let from = from.join(".");
    host_tools::run("cp", &[Path::new("-a"), from.as_path(), to])?;
    Ok(())
}

fn bytes_in(directory: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let about = entry.metadata()?;
        sum += if about.is_dir() {
            bytes_in(&entry.path())?
        } else {
            about.len().next_multiple_of(4_096)
        };
    }
    Ok(sum)
}

/// A wall clock that the harness sets, for a process that is started with its environment.
#[derive(Debug)]
pub(crate) struct FakeClock {
    file: PathBuf,
    library: PathBuf,
}

impl FakeClock {
    /// Creates a clock that is correct at first.
    pub(crate) fn create(file: &Path) -> Result<Self> {
        let library = host_tools::fake_clock().context("libfaketime is not installed")?;
        let clock = Self {
            file: file.to_owned(),
            library,
        };
        clock.set(0)?;
        Ok(clock)
    }

    /// Checks that an executable starts with the library. One whose allocator reads the clock while
    /// it initializes, as jemalloc does, may wait without a limit: the library allocates at the
    /// first call.
    pub(crate) fn check_start(executable: &Path) -> Result<(), String> {
        let Some(library) = host_tools::fake_clock() else {
            return Err("libfaketime, which is not installed".to_owned());
        };
        let mut command = Command::new(executable);
        command
            .arg("--version")
            .env("LD_PRELOAD", library)
            .env("FAKETIME", "+0")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let started = command.spawn();
        let mut child = started.map_err(|why| format!("{}: {why}", executable.display()))?;
        let deadline = Instant::now() + START_TIMEOUT;
        while Instant::now() < deadline {
            match child.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(None) => {}
                // Neither a status of the executable nor a reason to wait for one.
                Ok(Some(_)) | Err(_) => break,
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = child.kill();
        let _ = child.wait();
        // The library removes them when its process exits.
        for name in ["faketime_shm_", "sem.faketime_sem_"] {
            let _ = fs::remove_file(format!("/dev/shm/{name}{}", child.id()));
        }
        Err("a libfaketime with which the executable starts".to_owned())
    }

    /// Sets the offset of the clock in seconds.
    pub(crate) fn set(&self, seconds: i64) -> Result<()> {
        // A concurrent reader sees either the old or the new value.
        let draft = self.file.with_extension("new");
        let text = format!("{seconds:+}\n");
        atomic_file::replace(&self.file, &draft, text.as_bytes(), WriteOptions::CACHED)?;
        Ok(())
    }

    pub(crate) fn settings(&self) -> RunSettings {
        let pairs = [
            ("LD_PRELOAD", self.library.display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", self.file.display().to_string()),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ];
        RunSettings {
            environment: pairs.map(|(name, value)| (name.to_owned(), value)).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_executable_that_starts_under_the_library_can_have_another_clock() {
        if host_tools::fake_clock().is_none() {
            return argosy_testing::skip("needs the package libfaketime");
        }
        assert_eq!(FakeClock::check_start(Path::new("/bin/true")), Ok(()));
        let directory = tempfile::tempdir().unwrap();
        let absent = FakeClock::check_start(&directory.path().join("absent"));
        assert!(absent.is_err_and(|why| why.contains("absent")));
    }

    #[test]
    fn a_lowered_limit_is_restored() {
        let mut sleeper = Command::new("sleep").arg("60").spawn().unwrap();
        let limits = || fs::read_to_string(format!("/proc/{}/limits", sleeper.id())).unwrap();
        for (limit, name) in [
            (LimitedResource::Descriptors, "Max open files"),
            (LimitedResource::Memory, "Max address space"),
        ] {
            let soft_and_hard = || {
                let text = limits();
                let line = text
                    .lines()
                    .find_map(|line| line.strip_prefix(name))
                    .unwrap();
                let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
                (words[0].clone(), words[1].clone())
            };
            limit.apply(sleeper.id()).unwrap();
            let (soft, hard) = soft_and_hard();
            assert_ne!(soft, hard, "{name}");
            limit.lift(sleeper.id()).unwrap();
            let (soft, hard) = soft_and_hard();
            assert_eq!(soft, hard, "{name}");
        }
        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
    }
}
