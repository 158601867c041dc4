//! `argosy-chaos`: the command line of the chaos harness.

use std::ffi::OsString;
use std::process::ExitCode;

use argosy_chaos::ledger::{LedgerArguments, ledger};
use argosy_chaos::mutants::{ProveArguments, prove};
use argosy_chaos::real::{self, FrameworkArguments, HoldArguments, ReportArguments, RunArguments};
use argosy_chaos::sim::command::{SimArguments, sim};
use clap::{Parser, Subcommand};

/// Injects faults into a cluster and checks that offers and tasks survive
#[derive(Debug, Parser)]
#[command(
    name = "argosy-chaos",
    version,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    after_help = "Examples:
  argosy-chaos run --duration 10m --size 3x6 --report out.json --html out.html
  argosy-chaos run --faults kill-leader,pause-leader --seed 7
  argosy-chaos sim --seeds 100 --from 1

Exit codes: 0 nothing wrong, 1 violations, 2 usage, 3 the run proves too little."
)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run real processes under real faults
    Run(Box<RunArguments>),
    /// Simulate the whole system in one thread, from one seed
    Sim(Box<SimArguments>),
    /// Search for the planted bugs
    Prove(ProveArguments),
    /// The former name of `argosy-bench leader-loss`
    #[command(hide = true)]
    Failover {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Show the report of an earlier run
    Report(ReportArguments),
    /// List the faults that `run` knows
    Faults,
    /// Check the ledger against the minimums of a release
    Ledger(LedgerArguments),
    /// A scheduler of `run` (started by it only)
    #[command(hide = true)]
    Framework(Box<FrameworkArguments>),
    /// A service of `run` (started by its tasks only)
    #[command(hide = true)]
    Hold(HoldArguments),
}

fn main() -> ExitCode {
    match Arguments::parse().verb {
        Verb::Run(arguments) => ExitCode::from(real::run(&arguments)),
        Verb::Sim(arguments) => ExitCode::from(sim(&arguments)),
        Verb::Prove(arguments) => ExitCode::from(prove(&arguments)),
        Verb::Failover { arguments } => moved(&arguments),
        Verb::Report(arguments) => ExitCode::from(real::report(&arguments)),
        Verb::Faults => {
            print!("{}", real::faults());
            ExitCode::SUCCESS
        }
        Verb::Ledger(arguments) => ExitCode::from(ledger(&arguments)),
        Verb::Framework(arguments) => ended(framework(&arguments)),
        Verb::Hold(arguments) => ended(real::hold(&arguments)),
    }
}

fn framework(arguments: &FrameworkArguments) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(real::run_framework(arguments))
}

/// Names the command that has replaced `failover`, with the same arguments.
fn moved(arguments: &[OsString]) -> ExitCode {
    let words = arguments.iter().map(|word| word.to_string_lossy());
    let words = words.collect::<Vec<_>>().join(" ");
    let command = format!("argosy-bench leader-loss {words}");
    let command = command.trim_end();
    eprintln!("argosy-chaos: failover is a benchmark now: run `{command}`");
    ExitCode::from(2)
}

fn ended(ended: anyhow::Result<()>) -> ExitCode {
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("argosy-chaos: {error:#}");
            ExitCode::FAILURE
        }
    }
}
