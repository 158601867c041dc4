//! Keeps copies of a command running; see `argosy_frameworks::steady`.

use std::path::PathBuf;

use anyhow::Context;
use argosy_client::resources::resources;
use argosy_client::scheduler::SchedulerRunner;
use argosy_frameworks::arguments::{ClusterArguments, teardown_on_signal};
use argosy_frameworks::progress::ProgressFormat;
use argosy_frameworks::steady::{CopySpec, Steady};
use argosy_proto::v1;
use clap::Parser;

/// Keep a number of copies of a command running, and replace those that end
#[derive(Parser)]
#[command(
    name = "argosy-steady",
    version,
    after_help = "Examples:\n  \
    argosy-steady --copies 3 --uri target/release/argosy-hello-http -- ./argosy-hello-http\n  \
    argosy-steady --copies 2 --no-port -- sh -c 'sleep 60'"
)]
struct Arguments {
    #[command(flatten)]
    cluster: ClusterArguments,
    /// Name of the framework, and prefix of every task id
    #[arg(long, default_value = "steady")]
    name: String,
    /// Number of copies
    #[arg(long, default_value_t = 3)]
    copies: usize,
    /// Resources of each copy, without its port
    #[arg(long, default_value = "cpus:0.1;mem:32")]
    resources: String,
    /// Provide no port; by default each copy has one in $PORT0, on agents that allow tasks the
    /// network of their host
    #[arg(long)]
    no_port: bool,
    /// File to fetch into the sandbox, made executable: a path on the agents' hosts below their
    /// --fetch-dir, or http(s)://…
    #[arg(long, value_name = "URI")]
    uri: Vec<String>,
    /// Variable for the copies, as NAME=VALUE
    #[arg(long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Seconds after which a copy stops itself when no leader answers its agent, and is replaced;
    /// by default a copy on an unreachable agent is waited for. At least three times the heartbeat
    /// interval, which is 1 s up to 1,000 agents
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(3..))]
    stop_after: Option<u32>,
    /// Directory with the witness file, visible to the copies as ./witness
    #[arg(long, value_name = "DIR")]
    witness: Option<PathBuf>,
    /// Format of progress output
    #[arg(long, value_enum, default_value_t)]
    progress: ProgressFormat,
    /// The command; its working directory is the sandbox
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

impl Arguments {
    fn template(&self) -> anyhow::Result<v1::TaskSpec> {
        let mut template = v1::TaskSpec {
            name: self.name.clone(),
            resources: resources(&self.resources)?,
            argv: self.command.clone(),
            stop_after_ms: self
                .stop_after
                .map_or(0, |seconds| u64::from(seconds) * 1_000),
            ..Default::default()
        };
        for variable in &self.env {
            let (name, value) = variable
                .split_once('=')
                .with_context(|| format!("--env {variable:?} is not NAME=VALUE"))?;
            template
                .environment
                .insert(name.to_owned(), value.to_owned());
        }
        for uri in &self.uri {
            template.uris.push(v1::Uri {
                value: absolute(uri)?,
                executable: true,
                ..v1::Uri::default()
            });
        }
        if let Some(directory) = &self.witness {
            template.host_paths.push(v1::HostPath {
                host_path: std::path::absolute(directory)?.display().to_string(),
                container_path: "witness".into(),
                read_only: false,
            });
        }
        Ok(template)
    }
}

fn absolute(uri: &str) -> anyhow::Result<String> {
    if uri.contains("://") {
        return Ok(uri.to_owned());
    }
    let path = std::path::absolute(uri).with_context(|| format!("cannot find {uri:?}"))?;
    Ok(path.display().to_string())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let copies = CopySpec {
        number: arguments.copies,
        with_port: !arguments.no_port,
        template: arguments.template()?,
    };
    let mut config = arguments.cluster.config(&arguments.name, 3_600_000)?;
    config.tick = std::time::Duration::from_millis(200);
    // Ids must never be reused, so each run has a unique prefix.
    let prefix = format!("{}-{:04x}", arguments.name, config.session & 0xffff);
    let mut scheduler = Steady::new(copies, &prefix, arguments.progress);
    let runner = SchedulerRunner::new(config);
    let stop = teardown_on_signal(runner.driver())?;
    runner.run(&mut scheduler, stop).await?;
    Ok(())
}
