//! Counts words on a cluster; see `argosy_frameworks::wordcount`.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use argosy_client::scheduler::{SchedulerDriver, SchedulerRunner};
use argosy_client::{Connector, OperatorClient};
use argosy_frameworks::arguments::{ClusterArguments, TlsArguments, teardown_on_signal};
use argosy_frameworks::paths::{InputFile, collect as collect_inputs, escape};
use argosy_frameworks::progress::ProgressFormat;
use argosy_frameworks::wordcount::collect::{ResultStats, collect};
use argosy_frameworks::wordcount::held_offer::OfferHold;
use argosy_frameworks::wordcount::job::{Job, TaskSettings};
use argosy_frameworks::wordcount::split::split;
use argosy_frameworks::wordcount::tickets::TicketDesk;
use argosy_frameworks::wordcount::{Outputs, WordCount};
use argosy_proto::http_client::HttpClient;
use clap::Parser;
use tokio::sync::oneshot;

/// Count the words of text files with map and reduce tasks on the agents
///
/// Words are runs of A-Z and a-z, in lower case. The input are the text files (those that `LC_ALL=C
/// grep -Iq .` accepts) below the directories, in the order of the bytes of their paths, whole
/// files up to the limit. The output has a line `word<TAB>count` for each word, sorted as by
/// LC_ALL=C sort.
///
/// Agents must allow tasks to fetch the mapper (agent start --fetch-dir with its directory), and
/// what other tasks have written on the same host (--fetch-allow with the agent's own address).
#[derive(Parser)]
#[command(
    name = "argosy-wordcount",
    version,
    after_help = "Examples:\n  \
    argosy-wordcount --masters 127.77.0.1:5050 --input /usr/share/doc --output counts.tsv\n  \
    argosy-wordcount --input /usr/share/common-licenses --list-input"
)]
struct Arguments {
    /// API addresses of the masters, as 10.0.0.1:5050,10.0.0.2:5050
    #[arg(
        long,
        env = "ARGOSY_MASTERS",
        value_name = "ADDRESSES",
        required_unless_present = "list_input"
    )]
    masters: Option<argosy_client::Masters>,
    /// Role in which the framework receives offers
    #[arg(long, env = "ARGOSY_ROLE", default_value = "*")]
    role: String,
    #[command(flatten)]
    tls: TlsArguments,
    /// Directories or files to count; the agents must see them under the same paths
    #[arg(long, num_args = 1.., required = true, value_name = "DIR")]
    input: Vec<PathBuf>,
    /// Output file for the counts
    #[arg(long, value_name = "FILE", required_unless_present = "list_input")]
    output: Option<PathBuf>,
    /// Print the files that would be counted, one per line with special bytes as %XX, and exit
    #[arg(long)]
    list_input: bool,
    /// Number of map tasks
    #[arg(long, default_value_t = 192, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    maps: u32,
    /// Number of reduce tasks
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    reduces: u32,
    /// Maximum input, in MiB
    #[arg(long, default_value_t = 64)]
    limit_mib: u64,
    /// Program that runs on the agents: a path there, or http(s)://… [default: next to this
    /// program]
    #[arg(long, value_name = "URI")]
    mapper: Option<String>,
    /// Directory on the agents' hosts in which every task appends a line to the file "witness"
    #[arg(long, value_name = "DIR")]
    witness: Option<PathBuf>,
    /// Resources of each task
    #[arg(long, default_value = "cpus:0.1;mem:32")]
    resources: argosy_client::Resources,
    /// Maximum number of tasks that run together; 0 for as many as are offered
    #[arg(long, default_value_t = 0)]
    parallel: usize,
    /// Minimum run time of each task, in milliseconds
    #[arg(long, default_value_t = 0)]
    task_ms: u64,
    /// Failures of one map or reduce after which the job fails
    #[arg(long, default_value_t = 5)]
    attempts: u32,
    /// Always keep one offer, and use it after a change of leader
    #[arg(long)]
    hold_offer: bool,
    /// Format of progress output
    #[arg(long, value_enum, default_value_t)]
    progress: ProgressFormat,
    /// Name of the framework
    #[arg(long, default_value = "wordcount")]
    name: String,
}

impl Arguments {
    fn settings(&self) -> anyhow::Result<TaskSettings> {
        let mapper = match &self.mapper {
            Some(uri) if uri.contains("://") => uri.clone(),
            Some(path) => find_program(Path::new(path))?,
            None => find_program(&std::env::current_exe()?.with_file_name("argosy-wordmap"))?,
        };
        let witness = self.witness.as_ref().map(std::path::absolute).transpose()?;
        Ok(TaskSettings {
            mapper,
            witness: witness.map(|directory| directory.display().to_string()),
            min_ms: self.task_ms,
            resources: self.resources.clone(),
            max_failures: self.attempts.max(1),
            with_tickets: self.tls.is_used(),
        })
    }
}

fn find_program(path: &Path) -> anyhow::Result<String> {
    let path = std::path::absolute(path)?;
    ensure!(
        path.is_file(),
        "there is no program {}; name it with --mapper",
        path.display()
    );
    Ok(path.display().to_string())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let arguments = Arguments::parse();
    let (roots, limit) = (
        arguments.input.clone(),
        arguments.limit_mib.saturating_mul(1024 * 1024),
    );
    let inputs = tokio::task::spawn_blocking(move || collect_inputs(&roots, limit)).await??;
    if arguments.list_input {
        for input in &inputs {
            ProgressFormat::Text.print(&(), &escape(&input.path));
        }
        return Ok(());
    }
    ensure!(
        !inputs.is_empty(),
        "no text files of at most {} MiB below {:?}",
        arguments.limit_mib,
        arguments.input
    );
    count(&arguments, &inputs).await
}

async fn count(arguments: &Arguments, inputs: &[InputFile]) -> anyhow::Result<()> {
    let started = Instant::now();
    let bytes: u64 = inputs.iter().map(|input| input.size).sum();
    let style = arguments.progress;
    let event = serde_json::json!({"event": "input", "files": inputs.len(), "bytes": bytes});
    style.print(
        &event,
        &format!(
            "{} text files, {:.1} MiB",
            inputs.len(),
            bytes as f64 / 1_048_576.0
        ),
    );
    let splits = split(inputs, arguments.maps as usize);
    let job = Job::new(arguments.settings()?, splits, arguments.reduces as usize);
    let cluster = ClusterArguments {
        masters: arguments.masters.clone().context("--masters is needed")?,
        role: arguments.role.clone(),
        tls: arguments.tls.clone(),
    };
    let mut config = cluster.config(&arguments.name, 120_000)?;
    config.tick = Duration::from_millis(200);
    let (sender, outcome) = oneshot::channel();
    let hold = OfferHold::new(arguments.hold_offer.then_some(8_000));
    let mut scheduler = WordCount::new(job, hold, arguments.parallel, style, sender);
    if arguments.tls.is_used() {
        let connector = Connector::new(cluster.masters.clone(), arguments.tls.connector()?);
        let desk = TicketDesk::start(OperatorClient::new(connector));
        scheduler = scheduler.with_tickets(desk);
    }
    let runner = SchedulerRunner::new(config);
    let output = arguments.output.clone().context("--output is needed")?;
    let stop = teardown_on_signal(runner.driver())?;
    let written = tokio::spawn(write(
        outcome,
        (output.clone(), arguments.tls.agents()?),
        runner.driver(),
    ));
    runner.run(&mut scheduler, stop).await?;
    let progress = scheduler.progress();
    let crossings = scheduler.crossings().to_vec();
    let tasks = scheduler.launched();
    // Without an outcome the writer learns that there will be none.
    drop(scheduler);
    let written = written.await??;
    let report = serde_json::json!({
        "event": "report",
        "files": inputs.len(), "bytes": bytes, "output": output, "counts": written, "work": progress,
        "tasks": tasks, "crossings": crossings, "elapsed_ms": started.elapsed().as_millis() as u64,
    });
    let (words, distinct, retries) = (written.words, written.distinct, progress.retries);
    let (output, crossings) = (output.display(), crossings.len());
    let seconds = started.elapsed().as_secs_f64();
    let text = format!(
        "{words} words, {distinct} different, in {output}; {retries} tasks retried, {crossings} offers used after a change of leader, {seconds:.1} s"
    );
    style.print(&report, &text);
    Ok(())
}

/// Fetches the outputs as soon as they exist, then removes the framework.
async fn write(
    outcome: oneshot::Receiver<Result<Outputs, String>>,
    (output, agents): (PathBuf, HttpClient),
    driver: SchedulerDriver,
) -> anyhow::Result<ResultStats> {
    let outputs = outcome
        .await
        .context("stopped before the end")?
        .map_err(anyhow::Error::msg)?;
    let written = collect(&outputs.urls, &output, &agents).await;
    driver.teardown();
    written
}
