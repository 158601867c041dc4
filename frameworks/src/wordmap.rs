//! The program on the agents: it counts pieces of files, or adds up the counts of others.
//!
//! It knows only its sandbox, and nothing of the cluster. The fetcher provides it.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::paths::{escape, unescape};
use crate::witness::Witness;
use crate::words::{WordCounter, WordCounts, add_lines, partition, to_lines};

/// A part of a file: bytes from `start` to before `end`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// The path of the file.
    pub path: PathBuf,
    /// Offset of the first byte.
    pub start: u64,
    /// Offset after the last byte.
    pub end: u64,
}

impl Segment {
    /// Returns the argument `START-END:PATH`.
    #[must_use]
    pub fn to_argument(&self) -> String {
        format!("{}-{}:{}", self.start, self.end, escape(&self.path))
    }

    /// Parses an argument.
    #[must_use]
    pub fn from_argument(text: &str) -> Option<Self> {
        let (range, path) = text.split_once(':')?;
        let (start, end) = range.split_once('-')?;
        let (start, end) = (start.parse().ok()?, end.parse().ok()?);
        (start <= end).then_some(Self {
            path: unescape(path)?,
            start,
            end,
        })
    }
}

/// Returns the name of a map's output for one reducer.
#[must_use]
pub fn part_name(reduce: usize) -> String {
    format!("part-{reduce}.tsv")
}

/// Name of a reducer's output.
pub const COUNTS: &str = "counts.tsv";

/// Counts the words of `segments` into `reduces` files in `directory`. All files are created, also
/// empty ones.
///
/// # Errors
/// With the path that cannot be read or written.
pub fn map(segments: &[Segment], reduces: usize, directory: &Path) -> anyhow::Result<()> {
    use anyhow::Context;
    let mut counter = WordCounter::default();
    for segment in segments {
        count(&mut counter, segment)
            .with_context(|| format!("cannot read {}", segment.path.display()))?;
    }
    let mut parts = vec![WordCounts::new(); reduces];
    for (word, count) in counter.into_counts() {
        parts[partition(&word, reduces)].insert(word, count);
    }
    for (reduce, part) in parts.iter().enumerate() {
        let path = directory.join(part_name(reduce));
        fs::write(&path, to_lines(part))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn count(counter: &mut WordCounter, segment: &Segment) -> io::Result<()> {
    let mut file = File::open(&segment.path)?;
    let mut before = None;
    if let Some(at) = segment.start.checked_sub(1) {
        file.seek(SeekFrom::Start(at))?;
        let mut byte = [0];
        file.read_exact(&mut byte)?;
        before = Some(byte[0]);
    }
    counter.count_range(&mut file, before, segment.end - segment.start)
}

/// Adds up the files called `map-…` in `directory`, of which there must be `maps`.
///
/// # Errors
/// If one is missing, cannot be read or is not a list of counts.
pub fn reduce(maps: usize, directory: &Path) -> anyhow::Result<()> {
    use anyhow::{Context, anyhow, ensure};
    let mut counts = WordCounts::new();
    let mut seen = 0;
    for entry in fs::read_dir(directory).context("cannot list the sandbox")? {
        let path = entry.context("cannot list the sandbox")?.path();
        let is_part = path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("map-"));
        if is_part {
            let lines =
                fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            let wrong = |line| anyhow!("{} holds {line:?}, which is not a count", path.display());
            add_lines(&mut counts, &lines).map_err(wrong)?;
            seen += 1;
        }
    }
    ensure!(
        seen == maps,
        "{seen} map outputs are here; {maps} are needed"
    );
    fs::write(directory.join(COUNTS), to_lines(&counts)).context("cannot write counts.tsv")
}

/// Runs the program: `map --reduces N SEGMENT…`, `reduce --maps N`, or `witness`, each with
/// `--witness DIR` and `--least-ms MS`, the minimum time for which the process runs.
///
/// # Errors
/// One message for the user.
pub fn main(arguments: impl Iterator<Item = String>) -> anyhow::Result<()> {
    use anyhow::{Context, bail};
    let started = Instant::now();
    let (mut maps, mut reduces, mut least_ms, mut witness) = (0, 0, 0, None);
    let (mut verb, mut segments) = (String::new(), Vec::new());
    let mut arguments = arguments;
    while let Some(argument) = arguments.next() {
        let mut number = |name: &str| -> anyhow::Result<usize> {
            let value = arguments
                .next()
                .with_context(|| format!("{name} needs a number"))?;
            value
                .parse()
                .with_context(|| format!("{name} needs a number, not {value:?}"))
        };
        match argument.as_str() {
            "--maps" => maps = number("--maps")?,
            "--reduces" => reduces = number("--reduces")?,
            "--least-ms" => least_ms = number("--least-ms")?,
            "--witness" => {
                witness = Some(PathBuf::from(
                    arguments.next().context("--witness needs a directory")?,
                ))
            }
            _ if verb.is_empty() => verb = argument,
            _ => {
                segments.push(Segment::from_argument(&argument).with_context(|| {
                    format!("{argument:?} is not a segment: write START-END:PATH")
                })?)
            }
        }
    }
    if let Some(directory) = witness {
        let taken = Witness::take().context("cannot identify this process")?;
        taken
            .append(&directory)
            .with_context(|| format!("cannot write to {}", directory.display()))?;
    }
    match verb.as_str() {
        "map" if reduces > 0 => map(&segments, reduces, Path::new("."))?,
        "reduce" if maps > 0 => reduce(maps, Path::new("."))?,
        "witness" => {}
        _ => bail!(
            "use map --reduces N SEGMENT…, reduce --maps N, or witness; each with --witness DIR"
        ),
    }
    let least = Duration::from_millis(least_ms as u64);
    std::thread::sleep(least.saturating_sub(started.elapsed()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_round_trip_through_an_argument() {
        let segment = Segment {
            path: PathBuf::from("/a b:c/%"),
            start: 5,
            end: 9,
        };
        assert_eq!(
            Segment::from_argument(&segment.to_argument()),
            Some(segment)
        );
        for bad in ["", "5:/a", "9-5:/a", "a-b:/a", "1-2"] {
            assert_eq!(Segment::from_argument(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn maps_and_reduces_count_like_a_single_pass() {
        let directory = tempfile::tempdir().unwrap();
        let text = "The quick brown fox jumps over the lazy dog. ".repeat(50);
        let input = directory.path().join("input");
        fs::write(&input, &text).unwrap();
        let cuts = [0, 7, 1_000, 1_001, text.len() as u64];
        for (map_index, cut) in cuts.windows(2).enumerate() {
            let sandbox = directory.path().join(format!("sandbox-{map_index}"));
            fs::create_dir(&sandbox).unwrap();
            let segment = Segment {
                path: input.clone(),
                start: cut[0],
                end: cut[1],
            };
            map(&[segment], 3, &sandbox).unwrap();
        }
        let mut all = WordCounts::new();
        for part in 0..3 {
            let sandbox = directory.path().join(format!("reduce-{part}"));
            fs::create_dir(&sandbox).unwrap();
            for map_index in 0..4 {
                let from = directory
                    .path()
                    .join(format!("sandbox-{map_index}"))
                    .join(part_name(part));
                fs::copy(from, sandbox.join(format!("map-{map_index}.tsv"))).unwrap();
            }
            assert!(reduce(5, &sandbox).is_err(), "a missing map is noticed");
            reduce(4, &sandbox).unwrap();
            add_lines(&mut all, &fs::read(sandbox.join(COUNTS)).unwrap()).unwrap();
        }
        let mut counter = WordCounter::default();
        counter.feed(text.as_bytes());
        assert_eq!(all, counter.into_counts());
    }

    #[test]
    fn invalid_arguments_are_reported_by_name() {
        let run = |words: &[&str]| {
            main(words.iter().map(|word| (*word).to_owned()))
                .unwrap_err()
                .to_string()
        };
        assert!(run(&["map"]).contains("use map"));
        assert!(run(&["map", "--reduces", "x"]).contains("not \"x\""));
        assert!(run(&["map", "--reduces", "2", "zzz"]).contains("zzz"));
    }
}
