//! Each seed in a process of its own: state that libraries keep for a whole process would make a seed depend on
//! those before it.

use std::io::{self, Read as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::ledger::Run;

/// What a seed has shown, as its process has reported it.
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
/// The executable of this process, also after a build has replaced the file.
pub(crate) const OWN: &str = "/proc/self/exe";
/// A seed takes seconds; one that takes so long hangs.
const LONGEST: Duration = Duration::from_mins(15);

/// Plays one seed with these further words on the command line. A process that ends without its sums is a violation.
///
/// # Errors
/// No process can be started.
pub(crate) fn play(seed: u64, words: &[String]) -> io::Result<Played> {
    let mut command = Command::new(OWN);
    command
        .args(["sim", "--alone", "--seeds", "1", "--from"])
        .arg(seed.to_string())
        .args(words);
    let (text, ended) = output(&mut command, LONGEST)?;
    Ok(read(&text).unwrap_or_else(|| aborted(seed, &text, &ended)))
}

/// What a process wrote, and how it ended.
fn output(command: &mut Command, longest: Duration) -> io::Result<(String, String)> {
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = child.spawn()?;
    let stdout = child.stdout.take();
    // A process whose pipe is full would never end.
    let reader = thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read before an error is what there is.
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

/// Waits for the end of a process; kills it after so long.
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

/// `None` for the output of a process that did not write its sums.
fn read(text: &str) -> Option<Played> {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let sum = lines.pop()?;
    let (cpu_ms, run) = sum.strip_prefix(SUM)?.split_once(' ')?;
    let first = lines.iter().find_map(|line| line.strip_prefix(VIOLATION));
    Some(Played {
        violation: first.map(str::to_owned),
        run: serde_json::from_str(run).ok()?,
        cpu_ms: cpu_ms.parse().ok()?,
        lines,
    })
}

/// A seed whose process ended without its sums: it has failed, whatever the reason.
fn aborted(seed: u64, text: &str, ended: &str) -> Played {
    let violation = format!("seed {seed}: its process ended without a report: {ended}");
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.push(format!("{VIOLATION}{violation}"));
    Played {
        lines,
        violation: Some(violation),
        run: Run {
            seed,
            seeds: 1,
            violations: 1,
            aborted_seeds: 1,
            ..Run::default()
        },
        cpu_ms: 0,
    }
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
            assert_eq!((played.run.violations, played.run.aborted_seeds), (1, 1));
            let violation = played.violation.unwrap();
            assert!(violation.starts_with("seed 7"), "{violation}");
            let shown = played.lines.last().unwrap();
            assert!(shown.starts_with(VIOLATION), "{shown}");
        }
    }

    #[test]
    fn how_a_process_ended_is_part_of_the_violation() {
        let mut command = Command::new("sh");
        command.args(["-c", "kill -ABRT $$"]);
        let (_, ended) = output(&mut command, Duration::from_secs(20)).unwrap();
        assert!(ended.contains("signal: 6"), "{ended}");
        let mut command = Command::new("sleep");
        let (_, ended) = output(command.arg("60"), Duration::from_millis(50)).unwrap();
        assert!(ended.starts_with("no end within"), "{ended}");
    }

    #[test]
    fn sums_and_violations_are_read_back() {
        let run = serde_json::to_string(&Run {
            seeds: 1,
            violations: 2,
            ..Run::default()
        });
        let text = format!(
            "seed 3: 9 s\n{VIOLATION}T1: twice\n{SUM}45 {}\n",
            run.unwrap()
        );
        let played = read(&text).unwrap();
        assert_eq!((played.cpu_ms, played.run.violations), (45, 2));
        assert_eq!(played.violation.as_deref(), Some("T1: twice"));
        assert_eq!(played.lines.len(), 2);
    }
}
