//! An executor whose tasks are command lines. An agent starts it; started manually, it reports that
//! and exits.

use argosy_client::executor::{AgentEndpoint, ExecutorRunner};
use argosy_frameworks::shell_executor::ShellExecutor;
use clap::Parser;

/// Run the command lines of tasks as processes of one container, as the executor that an agent
/// starts
#[derive(Parser)]
#[command(
    name = "argosy-shell-executor",
    version,
    after_help = "Name it in the executor of a task: docs/protocol.md, Executors."
)]
struct Arguments {}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Arguments {} = Arguments::parse();
    let endpoint = AgentEndpoint::from_environment(std::env::vars())?;
    ExecutorRunner::new(endpoint)
        .run(&mut ShellExecutor::default())
        .await?;
    Ok(())
}
