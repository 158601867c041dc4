//! `argosy-chaos run`: from the command line to the exit code.
//!
//! In every case the started processes are ended and removed, and a report is written.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use argosy_testbed::clock;
use argosy_testbed::host_tools;
use argosy_testbed::programs::{TestPrograms, UsageError, find_programs, own_executable};
use argosy_testbed::progress::ProgressDisplay;
use argosy_testbed::run_directory::RunDirectory;
use argosy_testbed::schedulers::FrameworkBehaviour;
use argosy_testbed::testbed::{ClusterPlan, ClusterTransport, Testbed, create_directory};

use super::arguments::{ReportArguments, RunArguments};
use super::faults::{FaultName, FaultRequirement};
use super::growth::Growth;
use super::inputs::TaskInputs;
use super::live_cluster::run_live;
use super::machine_lock::lock_machine;
use super::nemesis::FaultSource;
use super::process_faults::FakeClock;
use super::report::{ReportedViolation, RunReport};
use super::session::{RunSession, SessionFindings};
use super::{agent_disks, check, evidence, groups, html, run_log, script};
use crate::faults::choice::FaultMix;
use crate::history::Recorder;
use crate::invariants::Rule;
use crate::ledger::{Batch, REAL};
use crate::rng::Rng;

/// Exit code for a command line that cannot be carried out.
const USAGE: u8 = 2;

/// The settled parameters of a run, before anything is touched.
struct RunSetup {
    programs: TestPrograms,
    seed: u64,
    plan: FaultSource,
    /// Faults that must be injected at least once.
    wanted: Vec<FaultName>,
    /// Faults that this host cannot inject, with the reasons.
    unavailable: Vec<String>,
}

/// Returns the names and descriptions of all faults.
#[must_use]
pub fn faults() -> String {
    let line = |fault: &FaultName| format!("{:<24} {}\n", fault.name(), fault.text());
    FaultName::ALL.iter().map(line).collect()
}

/// Runs the command. Returns the exit code: 0 good, 1 violations, 2 bad input, 3 proves too little.
#[must_use]
pub fn run(arguments: &RunArguments) -> u8 {
    if let Some(masters) = &arguments.masters {
        let seed = arguments.seed.unwrap_or_else(random_seed);
        let report = run_live(arguments, masters, seed).and_then(|report| {
            write_report(arguments, &report)?;
            let _ = writeln!(std::io::stdout(), "{}", report.table());
            Ok(report)
        });
        return code(report);
    }
    let prepared = match prepare(arguments) {
        Ok(prepared) => prepared,
        Err(usage) => {
            eprintln!("argosy-chaos: {usage}");
            return USAGE;
        }
    };
    code(run_recorded(arguments, prepared))
}

/// Runs between the first and the last line of the ledger.
fn run_recorded(arguments: &RunArguments, prepared: RunSetup) -> Result<RunReport> {
    let Some(path) = &arguments.ledger else {
        return perform(arguments, prepared);
    };
    let plan = crate::ledger::BatchPlan {
        tier: REAL,
        seed: prepared.seed,
        seeds: 1,
        executable: &prepared.programs.argosy,
    };
    let cannot = || format!("cannot write {}", path.display());
    let batch = Batch::begin(path, &plan).with_context(cannot)?;
    let outcome = perform(arguments, prepared);
    let ended = match &outcome {
        Ok(report) => batch.end(run_log::run(report), run_log::details(report)),
        Err(error) => batch.fail(format!("{error:#}")),
    };
    ended.with_context(cannot)?;
    outcome
}

fn code(outcome: Result<RunReport>) -> u8 {
    match outcome {
        Ok(report) => report.exit_code(),
        Err(error) => {
            eprintln!("argosy-chaos: {error:#}");
            if error.is::<UsageError>() { USAGE } else { 1 }
        }
    }
}

fn random_seed() -> u64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::from(now.subsec_nanos()) ^ (now.as_secs() << 8)
}

fn prepare(arguments: &RunArguments) -> Result<RunSetup, UsageError> {
    if arguments.tls.is_some() {
        return Err(UsageError(
            "--tls-cert, --tls-key and --tls-ca are for the existing cluster of --masters; other clusters get certificates of their own".to_owned(),
        ));
    }
    let means = find_programs(arguments.argosy.as_ref(), own_executable()?)?;
    check_paths(arguments)?;
    let seed = arguments.seed.unwrap_or_else(random_seed);
    let (plan, wanted, absent) = plan(arguments, seed, &means)?;
    Ok(RunSetup {
        programs: means,
        seed,
        plan,
        wanted,
        unavailable: absent,
    })
}

/// Checks that every output file can be created, before the run and not after it.
fn check_paths(arguments: &RunArguments) -> Result<(), UsageError> {
    let dir = &arguments.directory;
    if !dir.is_dir() {
        return Err(UsageError(format!(
            "--directory {}: there is no such directory",
            dir.display()
        )));
    }
    if let Some(other) = arguments
        .other_release
        .as_ref()
        .filter(|path| !path.is_file())
    {
        return Err(UsageError(format!(
            "--other-release {}: there is no such file",
            other.display()
        )));
    }
    let files = [
        ("--report", &arguments.report),
        ("--html", &arguments.html),
        ("--ledger", &arguments.ledger),
    ];
    for (option, path) in files {
        let Some(path) = path else { continue };
        let dir = path.parent().unwrap_or(path);
        if !dir.as_os_str().is_empty() && !dir.is_dir() {
            let (path, dir) = (path.display(), dir.display());
            return Err(UsageError(format!(
                "{option} {path}: there is no directory {dir}"
            )));
        }
    }
    Ok(())
}

/// Returns the choice of faults, those that must be injected at least once, and the reasons why
/// this host cannot inject the others.
fn plan(
    arguments: &RunArguments,
    seed: u64,
    programs: &TestPrograms,
) -> Result<(FaultSource, Vec<FaultName>, Vec<String>), UsageError> {
    let masters = usize::from(arguments.size.masters);
    let transport = arguments.transport();
    let other = arguments.other_release.as_deref();
    let releases = (programs.argosy.as_path(), other);
    let check_possible = |fault| check_possible(fault, (masters, transport), releases);
    if let Some(path) = &arguments.script {
        let text = fs::read_to_string(path)
            .map_err(|error| UsageError(format!("cannot read {}: {error}", path.display())))?;
        let steps = script::parse(&text)
            .map_err(|error| UsageError(format!("{}: {error}", path.display())))?;
        for step in &steps {
            check_possible(step.fault).map_err(UsageError)?;
        }
        let wanted = arguments.faults.clone();
        return Ok((FaultSource::Script(steps), wanted, Vec::new()));
    }
    let (allowed, absent): (Vec<FaultName>, _) = if arguments.faults.is_empty() {
        // Without the option, another release is not a missing part of this host.
        let is_expected =
            |fault: &&FaultName| fault.need() != FaultRequirement::OtherRelease || other.is_some();
        let judged = FaultName::ALL.iter().filter(is_expected);
        let judged = judged.map(|fault| (fault, check_possible(*fault)));
        let (can, cannot): (Vec<_>, Vec<_>) = judged.partition(|(_, possible)| possible.is_ok());
        let absent = cannot
            .into_iter()
            .filter_map(|(_, why)| why.err())
            .collect();
        (can.into_iter().map(|(fault, _)| *fault).collect(), absent)
    } else {
        for fault in &arguments.faults {
            check_possible(*fault).map_err(UsageError)?;
        }
        (arguments.faults.clone(), Vec::new())
    };
    let is_each_wanted = arguments.each_once || !arguments.faults.is_empty();
    let wanted = match is_each_wanted {
        true => allowed.clone(),
        false => Vec::new(),
    };
    let mut rng = Rng::new(seed).fork(0x006d_6978);
    let rounds = if arguments.each_once {
        Some(allowed.len() as u64)
    } else {
        arguments.rounds
    };
    let plan = FaultSource::Random {
        mix: FaultMix::new(
            allowed.into_iter().map(FaultName::weighted).collect(),
            &mut rng,
        ),
        rounds,
        duration: arguments.duration,
    };
    Ok((plan, wanted, absent))
}

/// Checks whether this host and this group size allow the fault. Otherwise returns the reason.
fn check_possible(
    fault: FaultName,
    (masters, transport): (usize, ClusterTransport),
    (argosy, other): (&Path, Option<&Path>),
) -> Result<(), String> {
    match fault.need() {
        FaultRequirement::Nothing => Ok(()),
        FaultRequirement::Program(program) if host_tools::find(program).is_some() => Ok(()),
        FaultRequirement::Program(program) => {
            Err(format!("{fault} needs {program}, which is not installed"))
        }
        FaultRequirement::FakeClock => {
            FakeClock::check_start(argosy).map_err(|what| format!("{fault} needs {what}"))
        }
        FaultRequirement::Voters(least) if masters >= least => Ok(()),
        FaultRequirement::Voters(least) => {
            Err(format!("{fault} needs {least} masters, not {masters}"))
        }
        FaultRequirement::AgentDisks => {
            agent_disks::check_possible().map_err(|what| format!("{fault} needs {what}"))
        }
        FaultRequirement::OtherRelease if other.is_some() => Ok(()),
        FaultRequirement::OtherRelease => Err(format!(
            "{fault} needs the executable of another release: name it with --other-release"
        )),
        FaultRequirement::Tls if transport == ClusterTransport::Tls => Ok(()),
        FaultRequirement::Tls => Err(format!("{fault} needs TLS, not --insecure-plaintext")),
    }
}

fn perform(arguments: &RunArguments, prepared: RunSetup) -> Result<RunReport> {
    let screen = ProgressDisplay::start();
    for why in &prepared.unavailable {
        screen.print(why);
        if arguments.each_once {
            // In the format of a test. The gate counts this line, and fails where setup should have
            // installed the missing parts.
            println!("test each fault once ... SKIPPED: {why}");
        }
    }
    let _lock = lock_machine(&screen)?;
    let dir = create_directory(&arguments.directory, &screen)?;
    screen.print(&format!("seed {}, {}", prepared.seed, dir.path().display()));
    let outcome = run_in_testbed(arguments, prepared, &dir, &screen);
    let left = dir.clear();
    let report = outcome.and_then(|mut report| {
        report
            .violations
            .extend(left.into_iter().map(|what| ReportedViolation {
                checker: Rule::NoLeftovers.to_string(),
                what: format!("cannot be removed: {what}"),
                time_ns: None,
            }));
        report.seconds = screen.elapsed().as_secs();
        keep_findings(arguments, &dir, &mut report);
        write_report(arguments, &report)?;
        let _ = writeln!(std::io::stdout(), "{}", report.table());
        Ok(report)
    });
    dir.remove();
    report
}

/// Does everything between the creation of the network and the checks.
fn run_in_testbed(
    arguments: &RunArguments,
    prepared: RunSetup,
    directory: &RunDirectory,
    screen: &ProgressDisplay,
) -> Result<RunReport> {
    let version = version(&prepared.programs.argosy);
    let seed = prepared.seed;
    let plan = ClusterPlan {
        size: arguments.size,
        other_release: arguments.other_release.clone(),
        seed,
        behaviours: &FrameworkBehaviour::ALL,
        transport: arguments.transport(),
    };
    let released = prepared.programs.argosy.parent();
    TaskInputs::create(directory, released.unwrap_or(Path::new("/")))?;
    let testbed = Testbed::new(&prepared.programs, directory, plan)?;
    let began_ns = testbed.started_ns();
    let clock = move || clock::monotonic_ns().saturating_sub(began_ns);
    let (recorder, recording) = Recorder::to_file(&directory.history().join("main.jsonl"), clock)?;
    let done = testbed.run(async |cluster, stop| {
        let choices = (Rng::new(seed), arguments.pace);
        let mut session = RunSession::new(cluster, recorder, screen, stop, choices);
        let ended = session.run(prepared.plan).await;
        Ok((session.take_findings(), ended.err()))
    });
    recording.finish().context("the history is incomplete")?;
    let ((found, failure), interrupted) = done?;
    screen.print("judging");
    let mut report = check_results(directory, found, failure)?;
    evidence::add_shortfalls(arguments, &prepared.wanted, &mut report);
    report.version = version;
    report.seed = seed;
    report.size = arguments.size.to_string();
    report.uses_tls = arguments.transport() == ClusterTransport::Tls;
    report.interrupted = interrupted;
    Ok(report)
}

fn check_results(
    directory: &RunDirectory,
    found: SessionFindings,
    failure: Option<anyhow::Error>,
) -> Result<RunReport> {
    let signed = check::witness_events(&directory.shared(), u64::MAX / 2)?;
    let history = check::merge(&directory.history(), signed)?;
    let mut report = RunReport {
        operations: check::operations(&history),
        outages: check::outages(&history, found.faults_ns.0, found.faults_ns.1),
        faults: found.faults,
        epoch_records: found.epochs,
        tasks: found.tasks,
        faults_ns: found.faults_ns,
        violations: found.violations,
        ..RunReport::default()
    };
    if let Some(error) = failure {
        report.violations.push(ReportedViolation {
            checker: "harness".to_owned(),
            what: format!("{error:#}"),
            time_ns: None,
        });
    }
    check::check_run(&history, &mut report);
    let (commands_compared, ports_compared) = (found.execs.counts.ok, found.ports.counts.ok);
    for (kind, counts) in [
        ("exec", found.execs.counts),
        ("logs", found.logs.counts),
        ("connect", found.ports.counts),
    ] {
        report.operations.insert(kind.to_owned(), counts);
    }
    report.violations.extend(found.execs.violations);
    report.violations.extend(found.logs.violations);
    report.violations.extend(found.ports.violations);
    report
        .violations
        .extend(found.growth.iter().filter_map(Growth::leak));
    let judged = found.growth.iter().filter(|growth| growth.is_judged());
    let judged = judged.map(|growth| growth.samples).sum();
    report.growth = found.growth;
    let (launched, divided) = groups::check(&history);
    report.violations.extend(divided);
    for (rule, compared) in [
        (Rule::GroupAtomicity, launched),
        (Rule::LimitEnforcement, found.limit_reports),
        (Rule::ExecSession, commands_compared),
        (Rule::BoundedGrowth, judged),
        (Rule::PublishedPorts, ports_compared),
        (Rule::OutputContinuity, found.logs.lines),
    ] {
        *report.checkers.entry(rule.to_string()).or_default() += compared;
    }
    let (held, taken) = check::ports(&directory.shared());
    *report
        .checkers
        .entry(Rule::NoDoubleBooking.to_string())
        .or_default() += held;
    report.violations.extend(taken);
    Ok(report)
}

fn version(argosy: &Path) -> String {
    let output = host_tools::run(&argosy.display().to_string(), &["version"]);
    output
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}

/// Copies the files that are needed to analyse a violation.
fn keep_findings(arguments: &RunArguments, directory: &RunDirectory, report: &mut RunReport) {
    if report.violations.is_empty() && !arguments.keep {
        return;
    }
    let name = format!("seed-{}-{}", report.seed, std::process::id());
    let to = arguments.findings.join(name);
    let parts = [directory.history(), directory.logs(), directory.shared()];
    let kept = fs::create_dir_all(&to)
        .map_err(anyhow::Error::from)
        .and_then(|()| {
            for part in &parts {
                host_tools::run("cp", &[Path::new("-a"), part.as_path(), to.as_path()])?;
            }
            for path in fs::read_dir(directory.path().join("data"))?.flatten() {
                let journal = path.path().join("journal");
                if path.file_name().to_string_lossy().starts_with("framework-") {
                    let name = format!("{}.journal", path.file_name().to_string_lossy());
                    fs::copy(journal, to.join(name))?;
                }
            }
            fs::write(to.join("report.json"), serde_json::to_vec_pretty(&*report)?)?;
            Ok(())
        });
    match kept {
        Ok(()) => report.kept = Some(to.display().to_string()),
        Err(error) => eprintln!("argosy-chaos: cannot keep the history: {error:#}"),
    }
}

fn write_report(arguments: &RunArguments, report: &RunReport) -> Result<()> {
    if let Some(path) = &arguments.report {
        let text = serde_json::to_vec_pretty(report).context("the report has a JSON form")?;
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    write_page(arguments.html.as_ref(), report)
}

fn write_page(path: Option<&PathBuf>, report: &RunReport) -> Result<()> {
    let Some(path) = path else {
        return Ok(());
    };
    fs::write(path, html::page(report)).with_context(|| format!("cannot write {}", path.display()))
}

/// Shows a report that was written before. Returns the exit code of the run, or 2.
#[must_use]
pub fn report(arguments: &ReportArguments) -> u8 {
    let path = &arguments.report;
    let read = fs::read(path)
        .map_err(anyhow::Error::from)
        .and_then(|text| Ok(serde_json::from_slice::<RunReport>(&text)?))
        .and_then(|report| write_page(arguments.html.as_ref(), &report).map(|()| report));
    match read {
        Ok(report) => {
            let _ = writeln!(std::io::stdout(), "{}", report.table());
            report.exit_code()
        }
        Err(error) => {
            eprintln!("argosy-chaos: invalid report {}: {error:#}", path.display());
            USAGE
        }
    }
}
