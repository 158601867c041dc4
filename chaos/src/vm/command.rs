//! The command line of `argosy-vm`: cases, power cuts, and the hidden part that runs inside the
//! machine.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};

use super::check::DurabilityViolation;
use super::cut_plan::CutKinds;
use super::disk::Flushes;
use super::machine::{ClockSource, Hardware, Processors};
use super::summary::CutSummary;
use super::{cases, guest, power_cuts};
use crate::ledger::{Batch, BatchPlan, POWER};

/// No failure.
const EXIT_SUCCESS: u8 = 0;
/// A case failed, or an acknowledged write is lost.
const EXIT_VIOLATION: u8 = 1;
/// The run was not possible.
const EXIT_NOT_RUN: u8 = 2;
/// No failure, but too little evidence.
const EXIT_TOO_LITTLE: u8 = 3;

/// Tests in a small virtual machine: kernel limits, power cuts, failing disks.
#[derive(Debug, Parser)]
#[command(name = "argosy-vm", version)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run cases, each group in a separate machine
    Cases(Cases),
    /// Cut the power of three masters under load, repeatedly
    PowerCuts(PowerCuts),
    /// The part that runs inside the machine
    #[command(hide = true)]
    Guest {
        /// The case to run
        case: String,
    },
}

#[derive(Debug, Args)]
struct BootFiles {
    /// Image of the kernel
    #[arg(long, value_name = "FILE")]
    kernel: PathBuf,
    /// The initramfs
    #[arg(long, value_name = "FILE")]
    initramfs: PathBuf,
}

#[derive(Debug, Args)]
struct Cases {
    #[command(flatten)]
    host: BootFiles,
    /// Seconds that a case may take
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    limit: u64,
    /// The time source of the machine
    #[arg(long, value_enum, default_value_t = ClockSource::Host)]
    clock: ClockSource,
    /// Names of cases; those separated by commas share a machine
    #[arg(required = true, value_name = "CASE,…")]
    groups: Vec<String>,
}

#[derive(Debug, Args)]
struct PowerCuts {
    #[command(flatten)]
    host: BootFiles,
    /// Number of cuts
    #[arg(long, value_name = "NUMBER", default_value_t = 5)]
    cuts: u64,
    /// Make each cut after at least 1,000 acknowledged operations of its boot
    #[arg(long)]
    loaded: bool,
    /// The seed of the first cut; each further cut has the next seed
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
    /// Cuts after which new disks are used
    #[arg(long, value_name = "NUMBER", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    series: u64,
    /// Disks that ignore flushes but report success: passes only if a violation is found
    #[arg(long, value_name = "WHOSE", value_enum, num_args = 0..=1, default_missing_value = "masters")]
    lying_disks: Option<LyingDisks>,
    /// Append the first and the last line of this run to this ledger
    #[arg(long, value_name = "FILE", conflicts_with = "lying_disks")]
    ledger: Option<PathBuf>,
}

/// The disks that ignore flushes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum LyingDisks {
    /// Those of the masters
    Masters,
    /// That of the agent
    Agent,
}

impl BootFiles {
    fn hardware(&self, clock: ClockSource) -> anyhow::Result<Hardware> {
        for file in [&self.kernel, &self.initramfs] {
            let found = std::fs::metadata(file);
            found.with_context(|| format!("cannot use {}", file.display()))?;
        }
        Ok(Hardware {
            kernel: self.kernel.clone(),
            initramfs: self.initramfs.clone(),
            memory_mib: 1_280,
            processors: match clock {
                ClockSource::Host => Processors::Two,
                ClockSource::Instructions => Processors::One,
            },
            clock,
        })
    }
}

/// Runs the command. The exit code is 0, 1 for a violation, 2 if the run was not possible, 3 if it
/// proved too little.
#[must_use]
pub fn run(arguments: &Arguments) -> ExitCode {
    let ended = match &arguments.verb {
        Verb::Cases(arguments) => run_cases(arguments),
        Verb::PowerCuts(arguments) => run_cuts(arguments),
        Verb::Guest { case } => guest::run(case).map(|()| EXIT_SUCCESS),
    };
    ExitCode::from(ended.unwrap_or_else(|error| {
        eprintln!("argosy-vm: {error:#}");
        EXIT_NOT_RUN
    }))
}

fn run_cases(arguments: &Cases) -> anyhow::Result<u8> {
    let hardware = arguments.host.hardware(arguments.clock)?;
    let limit = Duration::from_secs(arguments.limit);
    let mut failures = 0;
    for group in &arguments.groups {
        let work = tempfile::tempdir().context("cannot create a directory for disks")?;
        for result in cases::run(&hardware, group, limit, work.path())? {
            let seconds = result.ms as f64 / 1_000.0;
            if result.why.is_empty() {
                println!("test vm {} ... ok ({seconds:.1} s)", result.case);
            } else {
                println!("test vm {} ... FAILED: {}", result.case, result.why);
                failures += 1;
            }
        }
    }
    Ok(if failures == 0 {
        EXIT_SUCCESS
    } else {
        EXIT_VIOLATION
    })
}

fn run_cuts(arguments: &PowerCuts) -> anyhow::Result<u8> {
    let mut work = tempfile::tempdir().context("cannot create a directory for disks")?;
    let flushes = |disks| match arguments.lying_disks == Some(disks) {
        true => Flushes::Ignored,
        false => Flushes::Honoured,
    };
    let settings = power_cuts::CutSettings {
        hardware: Hardware {
            processors: Processors::One,
            ..arguments.host.hardware(ClockSource::Host)?
        },
        cuts: arguments.cuts,
        kinds: match arguments.loaded {
            true => CutKinds::Loaded,
            false => CutKinds::Any,
        },
        seed: arguments.seed,
        series: arguments.series,
        master_flushes: flushes(LyingDisks::Masters),
        agent_flushes: flushes(LyingDisks::Agent),
        work: work.path().to_owned(),
    };
    let summary = recorded(arguments, &settings)?;
    println!("{}", summary.table());
    if arguments.lying_disks.is_some() {
        return Ok(proven(&summary));
    }
    for violation in &summary.violations {
        println!("VIOLATION: {violation}");
    }
    if !summary.violations.is_empty() {
        work.disable_cleanup(true);
        println!("the disks are kept in {}", work.path().display());
        return Ok(EXIT_VIOLATION);
    }
    if let Some(what) = summary.too_little() {
        println!("this run shows too little: {what}");
        return Ok(EXIT_TOO_LITTLE);
    }
    Ok(EXIT_SUCCESS)
}

/// Runs the cuts between the first and the last line of the ledger.
fn recorded(
    arguments: &PowerCuts,
    settings: &power_cuts::CutSettings,
) -> anyhow::Result<CutSummary> {
    let Some(ledger) = &arguments.ledger else {
        return power_cuts::run(settings);
    };
    let plan = BatchPlan {
        tier: POWER,
        seed: arguments.seed,
        seeds: arguments.cuts,
        executable: &arguments.host.initramfs,
    };
    let cannot = || format!("cannot append to {}", ledger.display());
    let batch = Batch::begin(ledger, &plan).with_context(cannot)?;
    let outcome = power_cuts::run(settings);
    let ended = match &outcome {
        Ok(summary) => batch.end(summary.run(), summary.details()),
        Err(error) => batch.fail(format!("{error:#}")),
    };
    ended.with_context(cannot)?;
    outcome
}

/// Checks a run on lying disks. A harness that finds nothing there would find nothing anywhere. A
/// failure of the guest shows no lost data, and does not count.
fn proven(summary: &CutSummary) -> u8 {
    let is_loss =
        |violation: &&DurabilityViolation| !matches!(violation, DurabilityViolation::Failed { .. });
    match summary.violations.iter().find(is_loss) {
        Some(violation) => {
            println!("found on disks that ignore flushes: {violation}");
            EXIT_SUCCESS
        }
        None => {
            println!("no loss was found on disks that ignore flushes");
            for violation in &summary.violations {
                println!("instead: {violation}");
            }
            EXIT_VIOLATION
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_argument_definitions_are_valid() {
        Arguments::command().debug_assert();
    }
}
