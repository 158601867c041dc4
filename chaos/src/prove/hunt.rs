//! The hunt for planted bugs: seeds side by side, each in a process of its own.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use argosy_state::bugs::Bug;

use super::ProveArguments;
use crate::bugs::{Place, Planted};
use crate::sim::alone;

/// So much of a violation is shown.
const LONGEST: usize = 300;

/// A seed that has found a bug, and is clean without it.
#[derive(Debug, Clone)]
struct Find {
    seed: u64,
    /// Since the hunt for this bug began.
    after: Duration,
    told: String,
}

/// What became of the hunt for one bug.
struct Hunted {
    bug: Bug,
    finds: Vec<Find>,
    /// Seeds that were played.
    seeds: u64,
    /// It was found by as many as were asked for.
    is_found: bool,
}

/// One hunt under way, shared by those who play.
struct Hunt<'a> {
    arguments: &'a ProveArguments,
    planted: &'a Planted,
    began: Instant,
    state: Mutex<State>,
    /// What seeds show without any bug: the same for all bugs.
    plain: &'a Plain,
}

#[derive(Default)]
struct State {
    next: u64,
    finds: Vec<Find>,
    error: Option<io::Error>,
}

type Plain = Mutex<BTreeMap<(bool, u64), Option<String>>>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn look(arguments: &ProveArguments, planted: &[Planted]) -> u8 {
    let plain = Plain::default();
    let mut all = Vec::new();
    for planted in planted {
        match hunt(arguments, planted, &plain) {
            Ok(hunted) => all.push(hunted),
            Err(error) => {
                eprintln!("argosy-chaos: {error}");
                return 2;
            }
        }
    }
    let missed = all.iter().filter(|hunted| !hunted.is_found);
    let missed: Vec<&str> = missed.map(|hunted| hunted.bug.name()).collect();
    println!(
        "{} of {} planted bugs found, {} not: {missed:?}",
        all.len() - missed.len(),
        all.len(),
        missed.len()
    );
    if let Some(path) = &arguments.table
        && let Err(error) = write_table(path, &all)
    {
        eprintln!("argosy-chaos: {}: {error}", path.display());
        return 2;
    }
    u8::from(!missed.is_empty())
}

/// Plays seeds until enough of them have found the bug, or for too long.
fn hunt(arguments: &ProveArguments, planted: &Planted, plain: &Plain) -> io::Result<Hunted> {
    let hunt = Hunt {
        arguments,
        planted,
        began: Instant::now(),
        state: Mutex::new(State {
            next: arguments.from,
            ..State::default()
        }),
        plain,
    };
    let processors = || std::thread::available_parallelism().map_or(1, usize::from);
    let at_a_time = arguments.at_a_time.unwrap_or_else(processors).max(1);
    std::thread::scope(|scope| {
        for _ in 0..at_a_time {
            scope.spawn(|| hunt.play_on());
        }
    });
    let State { next, finds, error } = hunt
        .state
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    if let Some(error) = error {
        return Err(error);
    }
    let seeds = next - arguments.from;
    let is_found = finds.len() as u64 >= arguments.times;
    if !is_found {
        let (bug, needs) = (planted.bug, planted.needs);
        let found = finds.len();
        println!("{bug} found by {found} of {seeds} seeds; it needs {needs}");
    }
    Ok(Hunted {
        bug: planted.bug,
        finds,
        seeds,
        is_found,
    })
}

impl Hunt<'_> {
    /// The next seed, if one is to be played.
    fn next(&self) -> Option<u64> {
        let mut state = lock(&self.state);
        let is_over = state.error.is_some()
            || state.finds.len() as u64 >= self.arguments.times
            || self.began.elapsed() >= Duration::from_secs(self.arguments.patience);
        if is_over {
            return None;
        }
        let seed = state.next;
        state.next += 1;
        Some(seed)
    }

    fn play_on(&self) {
        while let Some(seed) = self.next() {
            if let Err(error) = self.try_seed(seed) {
                lock(&self.state).error = Some(error);
            }
        }
    }

    fn try_seed(&self, seed: u64) -> io::Result<()> {
        let bug = self.planted.bug;
        let Some(told) = self.play(seed, Some(bug))? else {
            return Ok(());
        };
        // A seed that fails by itself has found something else.
        if let Some(other) = self.play_plain(seed)? {
            println!("seed {seed} is not clean without {bug} either: {other}");
            return Ok(());
        }
        let told: String = told.chars().take(LONGEST).collect();
        let after = self.began.elapsed();
        let mut state = lock(&self.state);
        if (state.finds.len() as u64) < self.arguments.times {
            println!(
                "{bug} found by seed {seed} after {} s: {told}",
                after.as_secs()
            );
            state.finds.push(Find { seed, after, told });
        }
        Ok(())
    }

    /// Without any bug, once.
    fn play_plain(&self, seed: u64) -> io::Result<Option<String>> {
        let key = (self.planted.place == Place::RaftSimulation, seed);
        if let Some(known) = lock(self.plain).get(&key) {
            return Ok(known.clone());
        }
        let told = self.play(seed, None)?;
        lock(self.plain).insert(key, told.clone());
        Ok(told)
    }

    /// What went wrong first, if anything did.
    fn play(&self, seed: u64, bug: Option<Bug>) -> io::Result<Option<String>> {
        let mut words = Vec::new();
        if self.planted.place == Place::RaftSimulation {
            words.push("--raft-only".to_owned());
        }
        words.extend(bug.map(|bug| format!("--plant={bug}")));
        let played = alone::play(seed, &words)?;
        Ok(played.violations().next().map(str::to_owned))
    }
}

fn write_table(path: &Path, all: &[Hunted]) -> io::Result<()> {
    let mut text = String::from("| Bug | Seeds | Seconds | Seen by |\n|---|---|---|---|\n");
    for hunted in all {
        let finds = &hunted.finds;
        let seeds: Vec<String> = finds.iter().map(|find| find.seed.to_string()).collect();
        let took = finds.last().map_or(0, |find| find.after.as_secs().max(1));
        let mut judges: Vec<String> = finds.iter().map(|find| judge(&find.told)).collect();
        judges.dedup();
        let row = match hunted.is_found {
            true => format!("{} | {took} | {}", seeds.join(", "), judges.join(", ")),
            false => format!("{} of {} | | ", finds.len(), hunted.seeds),
        };
        text.push_str(&format!("| `{}` | {row} |\n", hunted.bug));
    }
    std::fs::write(path, text)
}

/// Those who judge while a simulation runs and name no rule: a part of what they say, and who it is.
const JUDGES: [(&str, &str); 5] = [
    ("the registry at", "the registry's own check"),
    ("has not come to rest", "all must come to rest"),
    ("is not as it should be", "all must be well again"),
    ("which is on the disks of", "a majority's disks"),
    ("is started twice", "the witness"),
];

/// The rule that a violation names, or else who says it.
fn judge(told: &str) -> String {
    let after_time = told
        .split_once(" ms: ")
        .filter(|(time, _)| time.starts_with("at "));
    let words = after_time.map_or(told, |(_, words)| words);
    let rule = words.split_once(": ").map(|(rule, _)| rule);
    let is_rule = |rule: &&str| {
        let mut letters = rule.chars();
        letters.next().is_some_and(|first| "ROTFC".contains(first))
            && rule.len() <= 3
            && letters.all(|one| one.is_ascii_digit())
    };
    let known = JUDGES.iter().find(|(part, _)| words.contains(part));
    match (rule.filter(is_rule), known) {
        (Some(rule), _) => rule.to_owned(),
        (None, Some((_, judge))) => (*judge).to_owned(),
        (None, None) => format!("“{}”", words.chars().take(60).collect::<String>()),
    }
}
