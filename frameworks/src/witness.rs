//! A record that a task has started, written by the task: one line appended to a file outside the
//! cluster's reach.
//!
//! A line is `task nonce boot_id pid start_time`. The process draws the nonce at its start, so two
//! lines of one task are two starts. The pid and the start time (clock ticks since boot, field 22
//! of `/proc/PID/stat`) are as the process sees them.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;

/// Name of the file in the witness directory.
pub const FILE: &str = "witness";

/// The identity of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Witness {
    /// `ARGOSY_TASK_ID`, or `-` outside a cluster.
    pub task_id: String,
    /// 16 hexadecimal digits, drawn by this process.
    pub nonce: String,
    /// The boot id of the kernel.
    pub boot_id: String,
    /// The process id, as this process sees it.
    pub pid: u32,
    /// Start time of the process, in clock ticks since boot.
    pub start_time: u64,
}

impl Witness {
    /// Reads the identity of this process from the kernel.
    ///
    /// # Errors
    /// If `/proc` or the random device cannot be read.
    pub fn take() -> io::Result<Self> {
        let mut random = [0; 8];
        fs::File::open("/dev/urandom")?.read_exact(&mut random)?;
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        let stat = fs::read_to_string("/proc/self/stat")?;
        let strange = || {
            io::Error::new(
                io::ErrorKind::InvalidData,
                "/proc/self/stat has no start time",
            )
        };
        Ok(Self {
            task_id: std::env::var("ARGOSY_TASK_ID").unwrap_or_else(|_| "-".to_owned()),
            nonce: format!("{:016x}", u64::from_be_bytes(random)),
            boot_id: boot_id.trim().to_owned(),
            pid: std::process::id(),
            start_time: start_time(&stat).ok_or_else(strange)?,
        })
    }

    /// Appends the line to the file in `directory`, in one write, so that lines of other processes
    /// stay intact.
    ///
    /// # Errors
    /// If the file cannot be opened or written.
    pub fn append(&self, directory: &Path) -> io::Result<()> {
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(directory.join(FILE))?;
        file.write_all(format!("{}\n", self.line()).as_bytes())
    }

    /// Returns the line without its newline.
    #[must_use]
    pub fn line(&self) -> String {
        let Self {
            task_id,
            nonce,
            boot_id,
            pid,
            start_time,
        } = self;
        format!("{task_id} {nonce} {boot_id} {pid} {start_time}")
    }
}

fn start_time(stat: &str) -> Option<u64> {
    // The name in parentheses may contain any character, also spaces and parentheses.
    let after_name = &stat[stat.rfind(')')? + 1..];
    after_name.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_start_writes_one_line_with_a_unique_nonce() {
        let directory = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            Witness::take().unwrap().append(directory.path()).unwrap();
        }
        let text = fs::read_to_string(directory.path().join(FILE)).unwrap();
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split(' ').collect()).collect();
        assert_eq!(lines.len(), 2);
        assert!(lines.iter().all(|line| line.len() == 5));
        assert_ne!(lines[0][1], lines[1][1]);
        assert_eq!(lines[0][2..], lines[1][2..], "the same process");
    }

    #[test]
    fn a_process_name_with_spaces_or_parentheses_is_parsed() {
        let fields: Vec<String> = (3..=52).map(|field| field.to_string()).collect();
        let stat = format!("12 (a ) b (c) {}", fields.join(" "));
        assert_eq!(start_time(&stat), Some(22));
    }
}
