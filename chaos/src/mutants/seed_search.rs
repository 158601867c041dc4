//! The search for planted bugs: seeds in parallel, each in a subprocess.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use argosy_state::bugs::Bug;

use super::checks::{ViolationSource, named_by};
use super::{HarnessName, ProveArguments, real};
use crate::bugs::{Harness, PlantedBug};
use crate::sim::subprocess;

/// The maximum length of a violation that is printed.
const MAX_MESSAGE_LEN: usize = 300;
/// The number of seeds that detect a bug only by other checks, after which the search for it ends:
/// none of its rules will find it.
const MAX_OTHER_FINDS: usize = 6;

/// A seed with violations that is clean without the bug.
#[derive(Debug, Clone)]
struct DetectingSeed {
    seed: u64,
    /// Time since the search for this bug began.
    elapsed: Duration,
    sources: BTreeSet<ViolationSource>,
}

struct BugSearchResult {
    planted: PlantedBug,
    /// Seeds in which one of its rules named it.
    finds: Vec<DetectingSeed>,
    /// Seeds in which only other checks reported it.
    other_finds: Vec<DetectingSeed>,
    /// Seeds that were run.
    seeds: u64,
    /// Whether its rules found it in the requested number of seeds.
    is_found: bool,
}

/// A running search, shared by the threads that run seeds.
struct BugSearch<'a> {
    arguments: &'a ProveArguments,
    planted: &'a PlantedBug,
    started: Instant,
    state: Mutex<SearchState>,
    /// The results of seeds without any bug.
    baseline: &'a BaselineResults,
    /// The executable with the bugs, for real processes.
    argosy: &'a Path,
}

#[derive(Default)]
struct SearchState {
    next: u64,
    finds: Vec<DetectingSeed>,
    other_finds: Vec<DetectingSeed>,
    error: Option<io::Error>,
}

type BaselineResults = Mutex<BTreeMap<(Harness, u64), Option<String>>>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn search(arguments: &ProveArguments, planted: &[PlantedBug]) -> u8 {
    let argosy = match executable(arguments) {
        Ok(argosy) => argosy,
        Err(error) => {
            eprintln!("argosy-chaos: {error}");
            return 2;
        }
    };
    let plain = BaselineResults::default();
    let mut all = Vec::new();
    for planted in planted {
        match search_bug(arguments, planted, (&plain, &argosy)) {
            Ok(result) => all.push(result),
            Err(error) => {
                eprintln!("argosy-chaos: {error}");
                return 2;
            }
        }
    }
    let missed: Vec<&BugSearchResult> = all.iter().filter(|hunted| !hunted.is_found).collect();
    println!(
        "{} of {} planted bugs found by their rules",
        all.len() - missed.len(),
        all.len()
    );
    for result in &missed {
        println!("{} not found: {}", result.planted.bug, result.detected_by());
    }
    if let Some(path) = &arguments.table
        && let Err(error) = write_table(path, &all)
    {
        eprintln!("argosy-chaos: {}: {error}", path.display());
        return 2;
    }
    u8::from(!missed.is_empty())
}

/// Returns the executable in which bugs can be planted. A simulation starts no process of it.
fn executable(arguments: &ProveArguments) -> io::Result<PathBuf> {
    if arguments.place == HarnessName::Simulation {
        return Ok(PathBuf::new());
    }
    let argosy = match &arguments.argosy {
        Some(argosy) => argosy.clone(),
        None => std::env::current_exe()?.with_file_name("argosy"),
    };
    real::check(&argosy)?;
    Ok(argosy)
}

/// Runs seeds until enough of them have found the bug, or until the timeout.
fn search_bug(
    arguments: &ProveArguments,
    planted: &PlantedBug,
    (plain, argosy): (&BaselineResults, &Path),
) -> io::Result<BugSearchResult> {
    let search = BugSearch {
        arguments,
        planted,
        started: Instant::now(),
        state: Mutex::new(SearchState {
            next: arguments.from,
            ..SearchState::default()
        }),
        baseline: plain,
        argosy,
    };
    let processors = || std::thread::available_parallelism().map_or(1, usize::from);
    let at_a_time = match planted.harness {
        // Two clusters at the same time would delay each other.
        Harness::RealProcesses { .. } => 1,
        _ => arguments.at_a_time.unwrap_or_else(processors).max(1),
    };
    std::thread::scope(|scope| {
        for _ in 0..at_a_time {
            scope.spawn(|| search.run_seeds());
        }
    });
    let SearchState {
        next,
        finds,
        other_finds: otherwise,
        error,
    } = search
        .state
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    if let Some(error) = error {
        return Err(error);
    }
    let seeds = next - arguments.from;
    let is_found = finds.len() as u64 >= arguments.times;
    if !is_found {
        let (bug, needs) = (planted.bug, planted.trigger);
        let found = finds.len();
        println!("{bug} found by {found} of {seeds} seeds; it needs {needs}");
    }
    Ok(BugSearchResult {
        planted: *planted,
        finds,
        other_finds: otherwise,
        seeds,
        is_found,
    })
}

impl BugSearch<'_> {
    /// Returns the next seed, or `None` if the search is over.
    fn next(&self) -> Option<u64> {
        let mut state = lock(&self.state);
        let is_over = state.error.is_some()
            || state.finds.len() as u64 >= self.arguments.times
            || state.other_finds.len() >= MAX_OTHER_FINDS
            || self.started.elapsed() >= Duration::from_secs(self.arguments.timeout);
        if is_over {
            return None;
        }
        let seed = state.next;
        state.next += 1;
        Some(seed)
    }

    fn run_seeds(&self) {
        while let Some(seed) = self.next() {
            if let Err(error) = self.try_seed(seed) {
                lock(&self.state).error = Some(error);
            }
        }
    }

    fn try_seed(&self, seed: u64) -> io::Result<()> {
        let bug = self.planted.bug;
        let violations = self.run_seed(seed, Some(bug))?;
        let Some(first) = violations.first() else {
            return Ok(());
        };
        // A seed that fails without the bug has found something else.
        if let Some(other) = self.run_baseline(seed)? {
            println!("seed {seed} is not clean without {bug} either: {other}");
            return Ok(());
        }
        let find = DetectingSeed {
            seed,
            elapsed: self.started.elapsed(),
            sources: violations
                .iter()
                .map(|words| ViolationSource::of(words))
                .collect(),
        };
        let intended = named_by(self.planted.rules, &violations);
        let (how, words) = match intended {
            Some(words) => ("found", words),
            None => ("seen, but by none of its rules,", first),
        };
        let words: String = words.chars().take(MAX_MESSAGE_LEN).collect();
        println!(
            "{bug} {how} by seed {seed} after {} s: {words}",
            find.elapsed.as_secs()
        );
        let mut state = lock(&self.state);
        match intended {
            Some(_) => state.finds.push(find),
            None => state.other_finds.push(find),
        }
        Ok(())
    }

    /// Runs a seed without any bug, once.
    fn run_baseline(&self, seed: u64) -> io::Result<Option<String>> {
        let key = (self.planted.harness, seed);
        if let Some(known) = lock(self.baseline).get(&key) {
            return Ok(known.clone());
        }
        let first = self.run_seed(seed, None)?.into_iter().next();
        lock(self.baseline).insert(key, first.clone());
        Ok(first)
    }

    /// Runs a seed and returns all violations.
    fn run_seed(&self, seed: u64, bug: Option<Bug>) -> io::Result<Vec<String>> {
        let mut args = Vec::new();
        match self.planted.harness {
            Harness::RaftSimulation => args.push("--raft-only".to_owned()),
            Harness::SystemSimulation => {}
            Harness::RealProcesses { faults, rounds } => {
                return real::run_seed(self.argosy, seed, (faults, rounds), bug);
            }
        }
        args.extend(bug.map(|bug| format!("--plant={bug}")));
        let played = subprocess::run_seed(seed, &args)?;
        Ok(played.violations().map(str::to_owned).collect())
    }
}

impl BugSearchResult {
    /// Returns the checks that detected the bug.
    fn detected_by(&self) -> String {
        let finds = self.finds.iter().chain(&self.other_finds);
        let sources: BTreeSet<&ViolationSource> = finds.flat_map(|find| &find.sources).collect();
        if sources.is_empty() {
            return format!("nothing was seen in {} seeds", self.seeds);
        }
        let names: Vec<String> = sources.iter().map(|source| source.to_string()).collect();
        names.join(", ")
    }

    /// Returns the row of the table.
    fn row(&self) -> String {
        let rules: Vec<String> = self.planted.rules.iter().map(ToString::to_string).collect();
        let finds = match self.finds.is_empty() {
            true => &self.other_finds,
            false => &self.finds,
        };
        let seeds: Vec<String> = finds.iter().map(|find| find.seed.to_string()).collect();
        let took = finds.last().map_or(0, |find| find.elapsed.as_secs().max(1));
        let seen = match (self.is_found, self.finds.len()) {
            (true, _) => self.detected_by(),
            (false, 0) => format!("**none of its rules**; {}", self.detected_by()),
            (false, few) => format!("{few} of {} seeds only; {}", self.seeds, self.detected_by()),
        };
        let (bug, rules, seeds) = (self.planted.bug, rules.join(", "), seeds.join(", "));
        format!("| `{bug}` | {rules} | {seeds} | {took} | {seen} |\n")
    }
}

fn write_table(path: &Path, all: &[BugSearchResult]) -> io::Result<()> {
    let mut text =
        String::from("| Bug | Its rules | Seeds | Seconds | Seen by |\n|---|---|---|---|---|\n");
    text.extend(all.iter().map(BugSearchResult::row));
    std::fs::write(path, text)
}
