//! Commands of operators at a large cluster: the time of `argosy ps` and of a page of its tasks,
//! and the processor time of `argosy top`, at rest and during changes.

mod changes;
mod top;

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use argosy_testbed::processes::remove_flag_variables;

use crate::arguments::Workload;
use crate::bench::{Bench, Measurements};
use crate::full_cluster::FullCluster;
use crate::pages::PageReader;
use crate::report::{Cell, RatioGoal, WorkloadReport, quantile};

use changes::{ChangeCounter, ShortTasks};

/// Pages of `argosy top`. The first one is measured at rest, too.
const TOP_PAGES: [&str; 5] = ["tasks", "agents", "frameworks", "roles", "cluster"];
/// Runs of `argosy ps` in each condition.
const RUNS: usize = 100;
/// Times that one reader reads all tasks of a master, in each condition.
const LISTS: usize = 20;
/// The goals.
const MAX_PS_MS: f64 = 50.0;
const MAX_PAGE_MS: f64 = 10.0;
const MAX_TOP_PERCENT: f64 = 5.0;

/// The masters whose pages are read.
const PLACES: [&str; 2] = ["leader", "follower"];
/// The conditions.
const QUIET: &str = "at rest";
const BUSY: &str = "changes";
const CONDITIONS: [&str; 2] = [QUIET, BUSY];

const LOADED: &str = "all agents and tasks known after";
const RATE: &str = "changes of the feed";
const TOP_MEMORY: &str = "argosy top tasks, changes, resident";
const TOP_OUTPUT: &str = "argosy top tasks, changes, output";

fn ps(condition: &str, part: &str) -> String {
    format!("argosy ps, {condition}, {part}")
}

fn page(place: &str, condition: &str, part: &str) -> String {
    format!("page of 1,000 tasks of the {place}, {condition}, {part}")
}

fn top_page(name: &str, condition: &str) -> String {
    format!("argosy top {name}, {condition}")
}

/// Measures commands, one at a time.
pub(crate) async fn measure(bench: &Bench) -> Result<WorkloadReport> {
    let (agents, each) = (bench.extent.command_agents, bench.extent.tasks_per_agent);
    let about = format!(
        "{agents} emulated agents with {each} running tasks each at three masters. argosy ps is run {RUNS} times, from its start to its end; one reader reads all tasks of a master in pages of 1,000, {LISTS} times; argosy top runs for {:?} on a pseudo-terminal of 50 rows and 160 columns, after it has read its snapshot. At rest, and while a framework launches a task every 20 ms that ends at once.",
        bench.extent.top
    );
    let mut report = bench.report(Workload::Commands, &[&about], cells());
    let work = async |_, findings: &mut Measurements| one_run(bench, findings).await;
    bench
        .run_alternately(&mut report, bench.extent.runs, work)
        .await?;
    Ok(report)
}

fn cells() -> Vec<Cell> {
    let mut cells = vec![
        Cell::new(LOADED, "s", RatioGoal::None),
        Cell::new(RATE, "1/s", RatioGoal::None),
    ];
    for condition in CONDITIONS {
        let goal = RatioGoal::OwnAtMost(MAX_PS_MS);
        cells.push(Cell::new(ps(condition, "p50"), "ms", goal));
        cells.push(Cell::new(ps(condition, "p99"), "ms", goal));
    }
    for place in PLACES {
        for condition in CONDITIONS {
            let [p50, p99] = ["p50", "p99"].map(|part| page(place, condition, part));
            cells.push(Cell::new(p50, "ms", RatioGoal::OwnAtMost(MAX_PAGE_MS)));
            cells.push(Cell::new(p99, "ms", RatioGoal::None));
        }
    }
    let goal = RatioGoal::OwnAtMost(MAX_TOP_PERCENT);
    let quiet = top_page(TOP_PAGES[0], QUIET);
    cells.push(Cell::new(quiet, "% of a core", goal));
    for name in TOP_PAGES {
        cells.push(Cell::new(top_page(name, BUSY), "% of a core", goal));
    }
    cells.push(Cell::new(TOP_MEMORY, "MiB", RatioGoal::None));
    cells.push(Cell::new(TOP_OUTPUT, "KiB/s", RatioGoal::None));
    cells
}

async fn one_run(bench: &Bench, findings: &mut Measurements) -> Result<()> {
    let (agents, each) = (bench.extent.command_agents, bench.extent.tasks_per_agent);
    let full = FullCluster::start(&bench.environment, agents, each).await?;
    findings.record(LOADED, full.loaded.as_secs_f64());
    let commands = Commands {
        bench,
        full: &full,
        tasks: (agents * each) as usize,
    };
    commands.lists(QUIET, findings).await?;
    let quiet = commands.top(TOP_PAGES[0]).await?;
    findings.record(top_page(TOP_PAGES[0], QUIET), quiet.core_percent);
    let _short_tasks = ShortTasks::start(&full).await?;
    let counter = ChangeCounter::start(full.api(full.follower())).await?;
    commands.lists(BUSY, findings).await?;
    for name in TOP_PAGES {
        let used = commands.top(name).await?;
        findings.record(top_page(name, BUSY), used.core_percent);
        if name == TOP_PAGES[0] {
            findings.record(TOP_MEMORY, used.resident_mib);
            findings.record(TOP_OUTPUT, used.kib_per_second);
        }
    }
    findings.record(RATE, counter.finish().await?);
    Ok(())
}

/// The measured commands, and the cluster at which they run.
struct Commands<'a> {
    bench: &'a Bench,
    full: &'a FullCluster,
    /// The number of tasks that every list has at least.
    tasks: usize,
}

impl Commands<'_> {
    fn command(&self, words: &[&str]) -> Command {
        let members = self.full.cluster.members.iter();
        let masters: Vec<&str> = members.map(|member| member.api.as_str()).collect();
        let masters = masters.join(",");
        argosy(&self.bench.environment.argosy, words, &masters)
    }

    async fn top(&self, name: &str) -> Result<top::TopUsage> {
        let command = self.command(&["top", "--page", name]);
        let usage = top::measure(command, self.bench.extent.top).await;
        usage.with_context(|| format!("the page {name}"))
    }

    /// Measures `argosy ps`, and the pages of one reader.
    async fn lists(&self, condition: &str, findings: &mut Measurements) -> Result<()> {
        let mut times_ms = Vec::with_capacity(RUNS);
        for _ in 0..RUNS {
            let command = self.command(&["ps"]);
            let tasks = self.tasks;
            // Commands are awaited on a thread of their own, so that no agent waits.
            let run = tokio::task::spawn_blocking(move || run_ps(command, tasks));
            times_ms.push(run.await.context("argosy ps")??);
        }
        findings.record(ps(condition, "p50"), quantile(&times_ms, 0.5));
        findings.record(ps(condition, "p99"), quantile(&times_ms, 0.99));
        let indexes = [self.full.leader, self.full.follower()];
        for (place, index) in PLACES.into_iter().zip(indexes) {
            let mut reader = PageReader::new(self.full.api(index))?;
            let mut page_ms = Vec::new();
            for _ in 0..LISTS {
                let count = reader.tasks(&mut page_ms).await?;
                ensure!(count >= self.tasks, "a list has only {count} tasks");
            }
            findings.record(page(place, condition, "p50"), quantile(&page_ms, 0.5));
            findings.record(page(place, condition, "p99"), quantile(&page_ms, 0.99));
        }
        Ok(())
    }
}

fn argosy(program: &Path, words: &[&str], masters: &str) -> Command {
    let mut command = Command::new(program);
    command.args(words).args(["--masters", masters]);
    remove_flag_variables(&mut command);
    command
}

/// Runs `argosy ps`, which must print at least so many tasks. Returns the milliseconds from its
/// start to its end.
fn run_ps(mut command: Command, tasks: usize) -> Result<f64> {
    let began = Instant::now();
    let output = command.output().context("cannot start argosy ps")?;
    let took_ms = began.elapsed().as_secs_f64() * 1e3;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "argosy ps has ended with {}: {errors}",
        output.status
    );
    let lines = output.stdout.iter().filter(|byte| **byte == b'\n').count();
    // The first line has the names of the columns.
    ensure!(lines > tasks, "argosy ps has printed only {lines} lines");
    Ok(took_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(line: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", line]);
        command
    }

    #[test]
    fn a_run_of_ps_counts_only_with_all_tasks() {
        assert!(run_ps(shell("seq 11"), 10).unwrap() > 0.0);
        let error = run_ps(shell("seq 10"), 10).unwrap_err().to_string();
        assert!(error.contains("10 lines"), "{error}");
        let error = run_ps(shell("seq 11; echo no >&2; exit 1"), 10);
        assert!(error.unwrap_err().to_string().contains("no"));
    }

    #[test]
    fn commands_get_the_masters_and_no_variables_that_are_flags() {
        let command = argosy(Path::new("argosy"), &["ps"], "a:1,b:1");
        let words: Vec<_> = command.get_args().collect();
        assert_eq!(words, ["ps", "--masters", "a:1,b:1"]);
        let set = command.get_envs().filter(|(_, value)| value.is_some());
        assert_eq!(set.count(), 0);
    }
}
