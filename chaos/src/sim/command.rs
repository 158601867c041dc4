//! `argosy-chaos sim`: seeds one after the other, a line each, and their sum.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::{Verdict, raft, system};

/// Seeds of simulated clusters, one after the other
#[derive(Debug, Args)]
pub struct SimArguments {
    /// How many seeds are played
    #[arg(long, value_name = "COUNT", default_value_t = 20)]
    pub seeds: u64,
    /// The first seed
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    pub from: u64,
    /// Raft alone, without agents and frameworks
    #[arg(long)]
    pub raft_only: bool,
    /// Masters of each cluster; unless given, as each seed wants it
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u8).range(3..=7))]
    pub masters: Option<u8>,
    /// Agents of each cluster; unless given, as each seed wants it
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u8).range(1..=20))]
    pub agents: Option<u8>,
    /// For how many simulated seconds faults come
    #[arg(long, value_name = "SECONDS", default_value_t = 20)]
    pub faults: u64,
    /// Write the history of the last seed here, as JSON lines
    #[arg(long, value_name = "FILE")]
    pub history: Option<PathBuf>,
}

/// All seeds together.
#[derive(Debug, Default)]
struct Sum {
    simulated: Duration,
    cpu: Duration,
    faults: u64,
    violated: Vec<u64>,
}

/// Plays the seeds, printing as they end. Returns the exit code: 1 after a violation.
#[must_use]
pub fn sim(arguments: &SimArguments) -> u8 {
    let mut sum = Sum::default();
    for seed in arguments.from..arguments.from.saturating_add(arguments.seeds) {
        let verdict = play(seed, arguments);
        show(&verdict);
        sum.simulated += verdict.simulated;
        sum.cpu += verdict.cpu;
        sum.faults += verdict.counts.faults.values().sum::<u64>();
        if !verdict.violations.is_empty() {
            sum.violated.push(seed);
        }
        if let Some(path) = &arguments.history
            && let Err(error) = write(path, &verdict)
        {
            eprintln!("argosy-chaos: cannot write {}: {error}", path.display());
            return 2;
        }
    }
    let ratio = sum.simulated.as_secs_f64() / sum.cpu.as_secs_f64().max(0.001);
    println!(
        "{} seeds, {:.0} s simulated in {:.0} s of a processor ({ratio:.1} times as fast), {} faults, {} seeds with violations {:?}",
        arguments.seeds,
        sum.simulated.as_secs_f64(),
        sum.cpu.as_secs_f64(),
        sum.faults,
        sum.violated.len(),
        sum.violated
    );
    u8::from(!sum.violated.is_empty())
}

fn play(seed: u64, arguments: &SimArguments) -> Verdict {
    let faults = Duration::from_secs(arguments.faults);
    if arguments.raft_only {
        let mut options = raft::Options::of(seed);
        options.faults = faults;
        options.nodes = arguments.masters.map_or(options.nodes, usize::from);
        return raft::run(seed, &options);
    }
    let mut options = system::Options::of(seed);
    options.faults = faults;
    options.masters = arguments.masters.map_or(options.masters, usize::from);
    options.agents = arguments.agents.map_or(options.agents, usize::from);
    system::run(seed, &options)
}

fn show(verdict: &Verdict) {
    let happened: Vec<String> = verdict
        .counts
        .happened
        .iter()
        .map(|(what, count)| format!("{count} {what}"))
        .collect();
    println!(
        "seed {}: {:.1} s in {:.1} s, history {}, {} faults of {} kinds, {}",
        verdict.seed,
        verdict.simulated.as_secs_f64(),
        verdict.cpu.as_secs_f64(),
        verdict.history.hash(),
        verdict.counts.faults.values().sum::<u64>(),
        verdict.counts.faults.len(),
        happened.join(", ")
    );
    for violation in &verdict.violations {
        println!("  VIOLATION {violation}");
    }
}

fn write(path: &std::path::Path, verdict: &Verdict) -> std::io::Result<()> {
    let mut text = String::new();
    for event in &verdict.history.events {
        text.push_str(&serde_json::to_string(event).map_err(std::io::Error::other)?);
        text.push('\n');
    }
    std::fs::write(path, text)
}
