//! `argosy-chaos sim`: runs seeds, prints a line for each, and sums them up.

use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;

use super::subprocess::{self, SUM_PREFIX, SeedResult, SeedSums, VIOLATION_PREFIX};
use super::{SimulationResult, log, minimum, raft, system};
use crate::invariants;
use crate::ledger::{Batch, BatchPlan, BatchRecord, Details, GRAPHS, RAFT, SYSTEM};

/// Runs seeds of simulated clusters, each in a subprocess
#[derive(Debug, Args)]
pub struct SimArguments {
    /// Number of seeds to run
    #[arg(long, value_name = "COUNT", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    pub seeds: u64,
    /// The first seed
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    pub from: u64,
    /// Simulate Raft alone, without agents and frameworks
    #[arg(long)]
    pub raft_only: bool,
    /// Run the connectivity graphs of five masters with each place of the leader, some in each
    /// seed; seeds 1 to 15 run one of each kind, seeds 1 to 854 all
    #[arg(long, conflicts_with_all = ["raft_only", "masters", "agents", "faults"])]
    pub graphs: bool,
    /// Masters of each cluster [default: chosen by the seed]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u8).range(3..=7))]
    pub masters: Option<u8>,
    /// Agents of each cluster [default: chosen by the seed]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u8).range(1..=20))]
    pub agents: Option<u8>,
    /// Simulated seconds in which faults are injected
    #[arg(long, value_name = "SECONDS", default_value_t = 20)]
    pub faults: u64,
    /// Seeds that run at the same time [default: one for each processor]
    #[arg(long, value_name = "COUNT")]
    pub jobs: Option<NonZeroUsize>,
    /// Begin no further seed after this many real seconds
    #[arg(long, value_name = "SECONDS")]
    pub within: Option<u64>,
    /// Show only seeds with violations, and the sum
    #[arg(long)]
    pub brief: bool,
    /// Append the first and the last line of this batch to this ledger
    #[arg(long, value_name = "FILE")]
    pub ledger: Option<PathBuf>,
    /// Run in this process, and print a last line for the parent process
    #[arg(long, hide = true)]
    pub alone: bool,
    /// Planted bugs to switch on
    #[cfg(feature = "testing")]
    #[arg(long, hide = true, value_delimiter = ',')]
    pub plant: Vec<argosy_state::bugs::Bug>,
    /// Write the history of the last seed to this file, as JSON lines
    #[arg(long, value_name = "FILE")]
    pub history: Option<PathBuf>,
    /// Write the logs of the processes of the last seed to this file, with simulated time; RUST_LOG
    /// sets the level [default: debug of argosy's crates]
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
}

/// The sum over all seeds.
#[derive(Debug, Default)]
struct BatchSum {
    run: BatchRecord,
    report: invariants::InvariantReport,
    cpu_ms: u64,
    violating_seeds: Vec<u64>,
    /// The number of seeds whose masters enforce rules of access from the start.
    seeds_with_rules: u64,
    /// The reasons why the batch proves too little; empty if it proves enough.
    too_little: Vec<String>,
}

impl BatchSum {
    fn add(&mut self, seed: u64, sums: SeedSums) {
        self.cpu_ms += sums.cpu_ms;
        self.seeds_with_rules += u64::from(!system::SystemOptions::of(seed).upgrade);
        let BatchRecord {
            seeds,
            seconds,
            faults,
            leader_changes,
            operations,
            violations,
            aborted_seeds,
            ..
        } = &mut self.run;
        *seeds += sums.run.seeds;
        *seconds += sums.run.seconds;
        *faults += sums.run.faults;
        *leader_changes += sums.run.leader_changes;
        *operations += sums.run.operations;
        *violations += sums.run.violations;
        *aborted_seeds += sums.run.aborted_seeds;
        if sums.run.violations > 0 {
            self.violating_seeds.push(seed);
        }
        self.report.add(sums.report);
    }

    /// Compares the whole batch with its minimum.
    fn finish(&mut self, tier: &str) {
        self.violating_seeds.sort_unstable();
        self.run.violating_seeds = self.violating_seeds.len() as u64;
        let minimum = minimum::of(tier, self.run.seeds, self.seeds_with_rules);
        self.too_little = self.report.shortfalls(&minimum);
        self.run.proves_too_little = !self.too_little.is_empty();
    }

    fn exit_code(&self) -> u8 {
        match (self.violating_seeds.is_empty(), self.too_little.is_empty()) {
            (false, _) => 1,
            (true, false) => 3,
            (true, true) => 0,
        }
    }

    /// Returns the fields that the sums of the ledger do not use.
    fn details(&self) -> Details {
        let rules = self.report.rules.iter();
        let looked_at: Details = rules
            .map(|(rule, result)| (rule.to_string(), result.looked_at.into()))
            .collect();
        Details::from_iter([
            ("looked_at".to_owned(), looked_at.into()),
            ("too_little".to_owned(), self.too_little.clone().into()),
        ])
    }

    fn show(&self) {
        let rules = self.report.rules.iter();
        let compared: Vec<String> = rules
            .map(|(rule, result)| format!("{rule} {}", result.looked_at))
            .collect();
        println!("compared by rule: {}", compared.join(", "));
        let cpu_s = self.cpu_ms as f64 / 1_000.0;
        let ratio = self.run.seconds as f64 / cpu_s.max(0.001);
        println!(
            "{} seeds, {} s simulated in {cpu_s:.0} s of a processor ({ratio:.1} times as fast), {} faults, {} changes of leader, {} operations, {} seeds with violations {:?}",
            self.run.seeds,
            self.run.seconds,
            self.run.faults,
            self.run.leader_changes,
            self.run.operations,
            self.violating_seeds.len(),
            self.violating_seeds
        );
        for reason in &self.too_little {
            println!("proves too little: {reason}");
        }
    }
}

/// Runs the seeds, and shows each as it ends. Returns the exit code: 1 after a violation, 2 if the
/// seeds cannot be run, 3 if all seeds together prove too little.
#[must_use]
pub fn sim(arguments: &SimArguments) -> u8 {
    let ended = match arguments.alone {
        true => run_in_process(arguments),
        false => all(arguments),
    };
    ended.unwrap_or_else(|error| {
        eprintln!("argosy-chaos: {error}");
        2
    })
}

/// Runs one seed, for a parent process that sums up.
fn run_in_process(arguments: &SimArguments) -> io::Result<u8> {
    #[cfg(feature = "testing")]
    argosy_state::bugs::plant(&arguments.plant);
    if let Some(path) = &arguments.log {
        log::write_to(path)?;
    }
    let result = run_seed(arguments.from, arguments);
    show(&result);
    if let Some(path) = &arguments.history {
        write(path, &result)?;
    }
    let sums = SeedSums {
        run: run_of(&result, arguments),
        cpu_ms: u64::try_from(result.cpu.as_millis()).unwrap_or(u64::MAX),
        report: invariants::InvariantReport {
            violations: Vec::new(),
            ..result.report
        },
    };
    let line = serde_json::to_string(&sums).map_err(io::Error::other)?;
    println!("{SUM_PREFIX}{line}");
    Ok(u8::from(sums.run.violations > 0))
}

/// Runs all seeds, between the first and the last line of the ledger.
fn all(arguments: &SimArguments) -> io::Result<u8> {
    let plan = BatchPlan {
        tier: tier(arguments),
        seed: arguments.from,
        seeds: arguments.seeds,
        executable: Path::new(subprocess::EXECUTABLE),
    };
    let begin = |ledger: &PathBuf| Batch::begin(ledger, &plan);
    let batch = arguments.ledger.as_ref().map(begin).transpose()?;
    let played = run_seeds(arguments);
    if let Some(batch) = batch {
        match &played {
            Ok(sum) => batch.end(sum.run.clone(), sum.details())?,
            Err(error) => batch.fail(error.to_string())?,
        }
    }
    Ok(played?.exit_code())
}

/// Runs the seeds, shows each as it ends, and sums them up.
fn run_seeds(arguments: &SimArguments) -> io::Result<BatchSum> {
    let mut sum = BatchSum::default();
    let mut broken = None;
    let next = &AtomicU64::new(arguments.from);
    thread::scope(|scope| {
        // Capacity 0: a thread blocks until its last seed is shown.
        let (reported, played) = mpsc::sync_channel(0);
        let until = arguments
            .within
            .map(|within| Instant::now() + Duration::from_secs(within));
        let jobs = arguments
            .jobs
            .or_else(|| thread::available_parallelism().ok());
        for _ in 0..jobs.map_or(1, NonZeroUsize::get) {
            let reported = reported.clone();
            scope.spawn(move || run_worker(arguments, until, next, &reported));
        }
        drop(reported);
        for (seed, played) in played {
            match played {
                Ok(played) => {
                    if !arguments.brief || played.violations().next().is_some() {
                        played.lines.iter().for_each(|line| println!("{line}"));
                    }
                    sum.add(seed, played.sums);
                }
                Err(error) => broken = Some(error),
            }
        }
    });
    sum.finish(tier(arguments));
    sum.show();
    broken.map_or(Ok(sum), Err)
}

type ResultSender = mpsc::SyncSender<(u64, io::Result<SeedResult>)>;

/// Runs the next seed, until all have run, the time is over, or a seed cannot be run at all.
fn run_worker(
    arguments: &SimArguments,
    until: Option<Instant>,
    next: &AtomicU64,
    reported: &ResultSender,
) {
    let words = words(arguments);
    let end = arguments.from.saturating_add(arguments.seeds);
    while until.is_none_or(|until| Instant::now() < until) {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= end {
            return;
        }
        let played = subprocess::run_seed(seed, &words);
        let is_broken = played.is_err();
        if reported.send((seed, played)).is_err() || is_broken {
            return;
        }
    }
}

/// Returns the same arguments for the subprocess of one seed.
fn words(arguments: &SimArguments) -> Vec<String> {
    let mut words = vec![format!("--faults={}", arguments.faults)];
    if arguments.graphs {
        words = vec!["--graphs".to_owned()];
    }
    words.extend(arguments.raft_only.then(|| "--raft-only".to_owned()));
    words.extend(arguments.masters.map(|count| format!("--masters={count}")));
    words.extend(arguments.agents.map(|count| format!("--agents={count}")));
    let history = arguments.history.as_ref();
    words.extend(history.map(|path| format!("--history={}", path.display())));
    let log = arguments.log.as_ref();
    words.extend(log.map(|path| format!("--log={}", path.display())));
    words
}

fn tier(arguments: &SimArguments) -> &'static str {
    match (arguments.graphs, arguments.raft_only) {
        (true, _) => GRAPHS,
        (false, true) => RAFT,
        (false, false) => SYSTEM,
    }
}

fn run_of(result: &SimulationResult, arguments: &SimArguments) -> BatchRecord {
    let evidence = &result.report.evidence;
    // The simulation of Raft alone has no epochs, only leaders.
    let led = result.counts.events.get("led").copied().unwrap_or(0);
    BatchRecord {
        tier: tier(arguments).to_owned(),
        seed: result.seed,
        seeds: 1,
        seconds: result.simulated_time.as_secs(),
        faults: evidence.faults.values().sum(),
        leader_changes: evidence.leader_changes.max(led.saturating_sub(1)),
        operations: evidence.operations,
        violations: result.violations.len() as u64,
        ..BatchRecord::default()
    }
}

fn run_seed(seed: u64, arguments: &SimArguments) -> SimulationResult {
    if arguments.graphs {
        return system::partition_tour(seed);
    }
    let faults = Duration::from_secs(arguments.faults);
    if arguments.raft_only {
        let mut options = raft::RaftOptions::of(seed);
        options.faults = faults;
        options.nodes = arguments.masters.map_or(options.nodes, usize::from);
        return raft::run(seed, &options);
    }
    let mut options = system::SystemOptions::of(seed);
    options.faults = faults;
    options.masters = arguments.masters.map_or(options.masters, usize::from);
    options.agents = arguments.agents.map_or(options.agents, usize::from);
    system::run(seed, &options)
}

fn show(result: &SimulationResult) {
    let happened: Vec<String> = result
        .counts
        .events
        .iter()
        .map(|(what, count)| format!("{count} {what}"))
        .collect();
    println!(
        "seed {}: {:.1} s in {:.1} s, history {}, {} faults of {} kinds, {}",
        result.seed,
        result.simulated_time.as_secs_f64(),
        result.cpu.as_secs_f64(),
        result.history.hash(),
        result.counts.faults.values().sum::<u64>(),
        result.counts.faults.len(),
        happened.join(", ")
    );
    for violation in &result.violations {
        // One line for each violation. The rest of a list is in the history.
        println!("{VIOLATION_PREFIX}{}", violation.replace('\n', " "));
    }
}

fn write(path: &Path, result: &SimulationResult) -> io::Result<()> {
    let mut text = String::new();
    for event in &result.history.events {
        text.push_str(&serde_json::to_string(event).map_err(io::Error::other)?);
        text.push('\n');
    }
    std::fs::write(path, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::History;
    use crate::invariants::{Rule, check_history};

    /// Returns the sum of a hundred seeds of the whole system in which every rule compared enough.
    fn sum() -> BatchSum {
        let mut sum = BatchSum::default();
        sum.run.seeds = 100;
        sum.report = check_history(&History::default());
        sum.report.evidence.operations = 1_000_000;
        for result in sum.report.rules.values_mut() {
            result.looked_at = 1_000_000;
        }
        sum
    }

    #[test]
    fn a_batch_in_which_a_rule_compared_nothing_proves_too_little() {
        let mut enough = sum();
        enough.finish(SYSTEM);
        assert_eq!(
            (enough.exit_code(), enough.run.proves_too_little),
            (0, false)
        );
        let mut silent = sum();
        silent
            .report
            .rules
            .get_mut(&Rule::SingleStart)
            .unwrap()
            .looked_at = 0;
        silent.finish(SYSTEM);
        assert_eq!(
            (silent.exit_code(), silent.run.proves_too_little),
            (3, true)
        );
        let [reason] = &silent.too_little[..] else {
            panic!("{:?}", silent.too_little);
        };
        assert!(
            reason.starts_with("SingleStart compared 0 things"),
            "{reason}"
        );
        let mut undecided = sum();
        let registers = undecided
            .report
            .rules
            .get_mut(&Rule::Linearizability)
            .unwrap();
        registers.undecided.push("agent-1/zone".to_owned());
        undecided.finish(SYSTEM);
        assert_eq!(undecided.exit_code(), 3);
    }

    #[test]
    fn an_aborted_seed_is_a_violation_of_the_batch() {
        let mut sum = sum();
        let mut aborted = SeedSums::default();
        aborted.run.seeds = 1;
        aborted.run.violations = 1;
        aborted.run.aborted_seeds = 1;
        sum.add(7, aborted);
        sum.finish(SYSTEM);
        assert_eq!(
            (sum.run.seeds, sum.run.violations, sum.run.aborted_seeds),
            (101, 1, 1)
        );
        assert_eq!(sum.run.violating_seeds, 1);
        assert_eq!((sum.exit_code(), &sum.violating_seeds[..]), (1, &[7][..]));
    }
}
