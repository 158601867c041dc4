//! Each seed in a process of its own: what libraries keep for a whole process would else make a seed depend on
//! those before it.

use std::io;
use std::process::{Command, Stdio};

use crate::ledger::Run;

/// What a seed has shown, as its process has told it.
#[derive(Debug)]
pub(crate) struct Played {
    /// For people: what happened, and every violation.
    pub(crate) lines: Vec<String>,
    /// The first violation.
    pub(crate) violation: Option<String>,
    /// What it adds to the sums.
    pub(crate) run: Run,
    /// How long a processor worked on it, in milliseconds.
    pub(crate) cpu_ms: u64,
}

/// How a line of a violation begins.
pub(crate) const VIOLATION: &str = "  VIOLATION ";
/// How the line of sums begins, which is for the parent only.
pub(crate) const SUM: &str = "sum ";

/// Plays one seed with these further words on the command line.
pub(crate) fn play(seed: u64, words: &[String]) -> io::Result<Played> {
    let output = Command::new(std::env::current_exe()?)
        .args(["sim", "--alone", "--seeds", "1", "--from"])
        .arg(seed.to_string())
        .args(words)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let sum = lines.pop().unwrap_or_default();
    let broken = || io::Error::other(format!("seed {seed} ended as {}: {text}", output.status));
    let sum = sum.strip_prefix(SUM).ok_or_else(broken)?;
    let (cpu_ms, run) = sum.split_once(' ').ok_or_else(broken)?;
    let first = lines.iter().find_map(|line| line.strip_prefix(VIOLATION));
    Ok(Played {
        violation: first.map(str::to_owned),
        run: serde_json::from_str(run).map_err(io::Error::other)?,
        cpu_ms: cpu_ms.parse().map_err(|_| broken())?,
        lines,
    })
}
