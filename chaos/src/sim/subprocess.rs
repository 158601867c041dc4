//! The subprocess of a seed. Libraries keep state for a whole process, which would make a seed
//! depend on earlier ones.

use std::io::{self, Read as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::invariants::InvariantReport;
use crate::ledger::BatchRecord;

/// The result of a seed, as its process reported it.
#[derive(Debug)]
pub(crate) struct SeedResult {
    /// The events and every violation, as text for the terminal.
    pub(crate) lines: Vec<String>,
    pub(crate) sums: SeedSums,
}

/// The sums that a seed adds to its batch: the last line of its process.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct SeedSums {
    pub(crate) run: BatchRecord,
    /// The findings of the checkers in its history. The violations are in the lines before.
    pub(crate) report: InvariantReport,
    /// CPU time in milliseconds.
    pub(crate) cpu_ms: u64,
}

impl SeedResult {
    /// Returns all violations, one line each.
    pub(crate) fn violations(&self) -> impl Iterator<Item = &str> {
        let lines = self.lines.iter();
        lines.filter_map(|line| line.strip_prefix(VIOLATION_PREFIX))
    }
}

/// Prefix of the line of a violation.
pub(crate) const VIOLATION_PREFIX: &str = "  VIOLATION ";
/// Prefix of the line of sums, which is for the parent process only.
pub(crate) const SUM_PREFIX: &str = "sum ";
/// The executable of this process, even after a build has replaced the file.
pub(crate) const EXECUTABLE: &str = "/proc/self/exe";
/// The timeout of a seed. A seed takes seconds.
const TIMEOUT: Duration = Duration::from_mins(15);

/// Runs one seed with these further arguments. A process that ends without its sums is a
/// violation.
///
/// # Errors
/// If no process can be started.
pub(crate) fn run_seed(seed: u64, args: &[String]) -> io::Result<SeedResult> {
    let mut command = Command::new(EXECUTABLE);
    command
        .args(["sim", "--alone", "--seeds", "1", "--from"])
        .arg(seed.to_string())
        .args(args);
    let (text, ended) = output(&mut command, TIMEOUT)?;
    Ok(read(&text).unwrap_or_else(|| aborted(seed, &text, &ended)))
}

/// Returns the output of a process, and how it ended.
pub(crate) fn output(command: &mut Command, longest: Duration) -> io::Result<(String, String)> {
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = child.spawn()?;
    let stdout = child.stdout.take();
    // A process whose pipe is full would never end.
    let reader = thread::spawn(move || {
        let mut bytes = Vec::new();
        // The output before an error is kept.
        let _ = stdout.map(|mut stdout| stdout.read_to_end(&mut bytes));
        bytes
    });
    let ended = match wait(&mut child, longest)? {
        Some(status) => status.to_string(),
        None => format!("no end within {} s", longest.as_secs()),
    };
    let bytes = reader.join().unwrap_or_default();
    Ok((String::from_utf8_lossy(&bytes).into_owned(), ended))
}

/// Waits for the end of a process, and kills it after the timeout.
fn wait(child: &mut Child, longest: Duration) -> io::Result<Option<ExitStatus>> {
    let until = Instant::now() + longest;
    while Instant::now() < until {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        thread::sleep(Duration::from_millis(5));
    }
    child.kill()?;
    child.wait()?;
    Ok(None)
}

/// Parses the output; `None` if the process did not write its sums.
fn read(text: &str) -> Option<SeedResult> {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let sum = lines.pop()?;
    let sums = serde_json::from_str(sum.strip_prefix(SUM_PREFIX)?).ok()?;
    Some(SeedResult { lines, sums })
}

/// Returns the result of a seed whose process ended without its sums. It has failed, whatever the
/// reason.
fn aborted(seed: u64, text: &str, ended: &str) -> SeedResult {
    let violation = format!("seed {seed}: its process ended without a report: {ended}");
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.push(format!("{VIOLATION_PREFIX}{violation}"));
    let run = BatchRecord {
        seed,
        seeds: 1,
        violations: 1,
        aborted_seeds: 1,
        ..BatchRecord::default()
    };
    let sums = SeedSums {
        run,
        ..SeedSums::default()
    };
    SeedResult { lines, sums }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_ends_without_its_sums_is_a_violation() {
        for script in [
            "echo begun; kill -ABRT $$",
            "echo begun; exit 0",
            "exec sleep 60",
        ] {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            let (text, ended) = output(&mut command, Duration::from_secs(1)).unwrap();
            assert!(read(&text).is_none());
            let played = aborted(7, &text, &ended);
            let run = &played.sums.run;
            assert_eq!((run.violations, run.aborted_seeds), (1, 1));
            let violations: Vec<&str> = played.violations().collect();
            assert!(violations[0].starts_with("seed 7"), "{violations:?}");
        }
    }

    #[test]
    fn a_violation_contains_the_exit_status_of_the_process() {
        let mut command = Command::new("sh");
        command.args(["-c", "kill -ABRT $$"]);
        let (_, ended) = output(&mut command, Duration::from_secs(20)).unwrap();
        assert!(ended.contains("signal: 6"), "{ended}");
        let mut command = Command::new("sleep");
        let (_, ended) = output(command.arg("60"), Duration::from_millis(50)).unwrap();
        assert!(ended.starts_with("no end within"), "{ended}");
    }

    #[test]
    fn sums_and_violations_round_trip() {
        let run = BatchRecord {
            violations: 2,
            ..BatchRecord::default()
        };
        let sums = SeedSums {
            run,
            cpu_ms: 45,
            ..SeedSums::default()
        };
        let sums = serde_json::to_string(&sums).unwrap();
        let text =
            format!("seed 3: 9 s\n{VIOLATION_PREFIX}SingleStart: twice\n{SUM_PREFIX}{sums}\n");
        let played = read(&text).unwrap();
        assert_eq!((played.sums.cpu_ms, played.sums.run.violations), (45, 2));
        assert_eq!(
            played.violations().collect::<Vec<_>>(),
            ["SingleStart: twice"]
        );
        assert_eq!(played.lines.len(), 2);
    }
}
