//! Runs five tasks on a cluster, then exits.

use argosy_client::scheduler::SchedulerRunner;
use argosy_frameworks::arguments::{ClusterArguments, teardown_on_signal};
use argosy_frameworks::five_tasks::FiveTasks;
use clap::Parser;

/// Run five tasks, acknowledge each, and exit
#[derive(Parser)]
#[command(
    name = "argosy-five-tasks",
    version,
    after_help = "Examples:\n  \
    argosy-five-tasks --masters 127.77.0.1:5050,127.77.0.2:5050,127.77.0.3:5050\n  \
    argosy-five-tasks --command 'sleep 5'"
)]
struct Arguments {
    #[command(flatten)]
    cluster: ClusterArguments,
    /// Command of each task, run by /bin/sh -c
    #[arg(long, default_value = "echo task $ARGOSY_TASK_ID of five")]
    command: String,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let mut scheduler = FiveTasks::new(&arguments.command);
    let runner = SchedulerRunner::new(arguments.cluster.config("five-tasks", 60_000)?);
    let stop = teardown_on_signal(runner.driver())?;
    runner.run(&mut scheduler, stop).await?;
    if let Some(failure) = &scheduler.failure {
        anyhow::bail!("{failure}");
    }
    anyhow::ensure!(
        scheduler.finished() == 5,
        "stopped after {} of 5 tasks",
        scheduler.finished()
    );
    println!("all five tasks finished");
    Ok(())
}
