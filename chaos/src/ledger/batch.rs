//! The first and the last line of a batch, as its harness appends them.
//!
//! Each line is one write at the end of the file, so that lines of concurrent batches stay intact.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use argosy_testbed::host_tools;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike as _};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::{BatchOutcome, BatchRecord, BatchStart, Stamp};

/// Further fields of a last line, which the sums do not use.
pub(crate) type Details = serde_json::Map<String, serde_json::Value>;

#[derive(Debug)]
pub(crate) struct BatchPlan<'a> {
    pub(crate) tier: &'static str,
    pub(crate) seed: u64,
    pub(crate) seeds: u64,
    /// The executable under test.
    pub(crate) executable: &'a Path,
}

/// A batch whose first line is in the ledger. Without a last line it counts as interrupted.
#[derive(Debug)]
pub(crate) struct Batch {
    ledger: PathBuf,
    start: BatchStart,
}

#[derive(Serialize)]
struct EventLine<'a, T> {
    event: &'static str,
    #[serde(flatten)]
    line: &'a T,
    #[serde(flatten)]
    details: Details,
}

impl Batch {
    /// Appends the first line.
    pub(crate) fn begin(ledger: &Path, plan: &BatchPlan<'_>) -> io::Result<Self> {
        let time = utc(SystemTime::now());
        let start = BatchStart {
            tier: plan.tier.to_owned(),
            // Read now, because a long batch may end after a newer commit.
            commit: git(&["rev-parse", "--short", "HEAD"]).unwrap_or_default(),
            seed: plan.seed,
            seeds: plan.seeds,
            stamp: Stamp {
                batch: format!("{time}-{}", std::process::id()),
                time,
                tree: tree().to_owned(),
                executable: digest(plan.executable)?,
            },
        };
        append(ledger, "start", &start, Details::new())?;
        let ledger = ledger.to_owned();
        Ok(Self { ledger, start })
    }

    /// Appends the last line. Tier, commit and first seed are those of the first.
    pub(crate) fn end(self, mut run: BatchRecord, details: Details) -> io::Result<()> {
        let BatchStart {
            tier,
            commit,
            seed,
            stamp,
            ..
        } = self.start;
        let time = utc(SystemTime::now());
        run.tier = tier;
        run.commit = commit;
        run.seed = seed;
        run.cpu_ms = u64::try_from(cpu().as_millis()).unwrap_or(u64::MAX);
        run.stamp = Stamp { time, ..stamp };
        append(&self.ledger, "end", &run, details)
    }

    /// Appends the last line of a batch whose harness failed.
    pub(crate) fn fail(self, error: String) -> io::Result<()> {
        let run = BatchRecord {
            outcome: BatchOutcome::Failed,
            error,
            ..BatchRecord::default()
        };
        self.end(run, Details::new())
    }
}

fn append(
    ledger: &Path,
    event: &'static str,
    line: &impl Serialize,
    details: Details,
) -> io::Result<()> {
    let event = EventLine {
        event,
        line,
        details,
    };
    let text = serde_json::to_string(&event).map_err(io::Error::other)?;
    let mut file = File::options().create(true).append(true).open(ledger)?;
    file.write_all(format!("{text}\n").as_bytes())
}

/// Runs git; `None` outside a checkout.
fn git(args: &[&str]) -> Option<String> {
    let output = host_tools::run("git", args).ok()?;
    Some(output.trim().to_owned())
}

/// Returns whether the working tree equals the commit. The ledger itself is not compared, because
/// batches append to it.
fn tree() -> &'static str {
    let ledger = ":(top,exclude)docs/chaos-ledger.*";
    match git(&[
        "status",
        "--porcelain",
        "--untracked-files=no",
        "--",
        ":/",
        ledger,
    ]) {
        None => "unknown",
        Some(changes) if changes.is_empty() => "clean",
        Some(_) => "dirty",
    }
}

/// Returns the SHA-256 of a file in hexadecimal digits.
fn digest(path: &Path) -> io::Result<String> {
    let named = |error: io::Error| {
        let kind = error.kind();
        io::Error::new(kind, format!("cannot read {}: {error}", path.display()))
    };
    let mut file = File::open(path).map_err(named)?;
    let mut sum = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).map_err(named)? {
            0 => break,
            length => sum.update(&buffer[..length]),
        }
    }
    let bytes = sum.finalize();
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Returns the CPU time of this process and of all its ended children; zero if the system does not
/// report it.
fn cpu() -> Duration {
    let of = |who| {
        let usage = getrusage(who).ok();
        usage.map_or(0, |usage| {
            micros(usage.user_time()) + micros(usage.system_time())
        })
    };
    Duration::from_micros(of(UsageWho::RUSAGE_SELF) + of(UsageWho::RUSAGE_CHILDREN))
}

fn micros(time: TimeVal) -> u64 {
    u64::try_from(time.num_microseconds()).unwrap_or(0)
}

/// Formats a time as "2026-11-22T12:00:00Z". The days are computed as in Howard Hinnant's
/// `civil_from_days`.
fn utc(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    // Years begin in March, so that the leap day is the last one.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day_of_month = day - (153 * month + 2) / 5 + 1;
    let (month, next_year) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    let year = year + era * 400 + next_year;
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day_of_month:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::super::{LedgerLine, SYSTEM, read};
    use super::*;

    fn begin(directory: &Path) -> (PathBuf, Batch) {
        let ledger = directory.join("ledger.jsonl");
        let executable = directory.join("executable");
        std::fs::write(&executable, "abc").unwrap();
        let plan = BatchPlan {
            tier: SYSTEM,
            seed: 7,
            seeds: 3,
            executable: &executable,
        };
        let batch = Batch::begin(&ledger, &plan).unwrap();
        (ledger, batch)
    }

    fn lines(ledger: &Path) -> Vec<LedgerLine> {
        read(&std::fs::read_to_string(ledger).unwrap()).unwrap()
    }

    #[test]
    fn a_batch_has_a_first_and_a_last_line_with_code_and_time() {
        let directory = tempfile::tempdir().unwrap();
        let (ledger, batch) = begin(directory.path());
        assert!(matches!(lines(&ledger)[..], [LedgerLine::Start(_)]));
        let run = BatchRecord {
            seeds: 3,
            faults: 5,
            ..BatchRecord::default()
        };
        let details = Details::from_iter([("silent".to_owned(), "Durability".into())]);
        batch.end(run, details).unwrap();
        let [LedgerLine::Start(start), LedgerLine::Run(run)] = &lines(&ledger)[..] else {
            panic!("a first and a last line");
        };
        assert_eq!((start.seed, start.seeds, run.seed), (7, 3, 7));
        assert_eq!((run.faults, run.outcome), (5, BatchOutcome::Complete));
        assert_eq!(start.stamp.batch, run.stamp.batch);
        let known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(run.stamp.executable, known);
        assert!(run.stamp.time >= start.stamp.time && run.stamp.time.ends_with('Z'));
        assert!(["clean", "dirty", "unknown"].contains(&run.stamp.tree.as_str()));
        let text = std::fs::read_to_string(&ledger).unwrap();
        assert!(text.contains(r#""silent":"Durability""#), "{text}");
    }

    #[test]
    fn a_failed_batch_has_a_reason_and_an_interrupted_one_no_last_line() {
        let directory = tempfile::tempdir().unwrap();
        let (ledger, batch) = begin(directory.path());
        batch.fail("no room".to_owned()).unwrap();
        drop(begin(directory.path()));
        let [
            LedgerLine::Start(_),
            LedgerLine::Run(run),
            LedgerLine::Start(_),
        ] = &lines(&ledger)[..]
        else {
            panic!("{:?}", lines(&ledger));
        };
        assert_eq!(
            (run.outcome, run.error.as_str()),
            (BatchOutcome::Failed, "no room")
        );
    }

    #[test]
    fn a_batch_whose_executable_cannot_be_read_does_not_start() {
        let directory = tempfile::tempdir().unwrap();
        let plan = BatchPlan {
            tier: SYSTEM,
            seed: 1,
            seeds: 1,
            executable: Path::new("/no/executable"),
        };
        let error = Batch::begin(&directory.path().join("ledger.jsonl"), &plan).unwrap_err();
        assert!(error.to_string().contains("/no/executable"), "{error}");
    }

    #[test]
    fn times_are_formatted_as_calendar_dates() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_700_000_000, "2023-11-14T22:13:20Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(utc(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }
}
