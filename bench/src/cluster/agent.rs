//! One real agent with three masters.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use argosy_proto::v1;
use argosy_testbed::command_lines::{AgentFlags, MemberTransport};
use argosy_testbed::health::connected_agents;
use argosy_testbed::leftovers::clear_agent;
use argosy_testbed::loopback::free_addresses;
use argosy_testbed::processes::{LaunchMethod, ManagedProcess, ProcessSpec};
use argosy_testbed::waiting::{poll, poll_running};
use nix::sys::signal::Signal;

use super::{BenchEnvironment, Cluster};

const HOST: &str = "127.78.1.1";
/// Time for the agent to register.
const REGISTRATION_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause between two checks of that.
const POLL_PAUSE: Duration = Duration::from_millis(20);

/// The isolation of an agent's tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AgentKind {
    /// The default profile of an agent that is root, and a network for each task.
    Full,
    /// The default profile of an agent that is root, in the network of the host.
    FullHostNetwork,
    /// Plain processes.
    Plain,
}

impl AgentKind {
    /// Returns the network that tasks must name: the host's, or `None` for a separate one each, as
    /// the default is.
    pub(crate) fn network(self) -> Option<v1::Network> {
        let host = v1::network::Mode::Host(v1::HostNetwork {});
        (self != Self::Full).then_some(v1::Network { mode: Some(host) })
    }
}

impl fmt::Display for AgentKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "full profile",
            Self::FullHostNetwork => "full profile, host network",
            Self::Plain => "plain",
        })
    }
}

/// An agent process, which ends all its tasks on drop.
pub(crate) struct RealAgent {
    process: ManagedProcess,
    directory: PathBuf,
}

impl RealAgent {
    /// Starts it and waits until the leader lists it as connected.
    ///
    /// # Errors
    /// If it exits or is not registered within half a minute.
    pub(crate) async fn start(
        cluster: &Cluster,
        environment: &BenchEnvironment,
        resources: &str,
        kind: AgentKind,
    ) -> Result<Self> {
        let masters: Vec<&str> = cluster
            .members
            .iter()
            .map(|member| member.api.as_str())
            .collect();
        let free = free_addresses(HOST, 1);
        let address = free.with_context(|| format!("no free port on {HOST}"))?;
        let isolation = match kind {
            AgentKind::Full | AgentKind::FullHostNetwork => "full",
            AgentKind::Plain => "processes",
        };
        let directory = cluster.directory().join("agent");
        let flags = AgentFlags {
            listen: &address[0],
            masters: &masters.join(","),
            data_dir: &directory,
            resources,
            transport: &MemberTransport::Plaintext,
        };
        let own = ["--stop-with-stdin=end", "--isolation", isolation];
        let network = kind.network().map(|_| "--allow-host-network");
        let more: Vec<&str> = (own.into_iter().chain(network))
            .chain(["--log", "warn"])
            .collect();
        let mut agent = Self {
            process: ManagedProcess::new(ProcessSpec {
                name: "agent".to_owned(),
                launch: LaunchMethod::WithInput,
                program: environment.argosy.clone(),
                arguments: flags.arguments(&more),
                log: cluster.directory().join("agent.log"),
            }),
            directory,
        };
        agent.process.start()?;
        agent.registered(cluster).await?;
        Ok(agent)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid().expect("it was started")
    }

    /// Kills it and waits until the leader has noticed.
    ///
    /// # Errors
    /// If it is still listed as connected after half a minute.
    pub(crate) async fn kill(&mut self, cluster: &Cluster) -> Result<()> {
        self.process.send(Signal::SIGKILL)?;
        let left = poll(REGISTRATION_TIMEOUT, POLL_PAUSE, async || {
            ensure!(!is_connected(cluster).await?, "it is still connected");
            Ok(())
        });
        left.await.context("the killed agent")
    }

    /// Starts it again with its former data, and waits until the leader lists it as connected,
    /// which is after it has adopted its containers.
    ///
    /// # Errors
    /// As [`RealAgent::start`].
    pub(crate) async fn start_again(&mut self, cluster: &Cluster) -> Result<()> {
        // It has ended, and is waited for.
        self.process.kill();
        self.process.start()?;
        self.registered(cluster).await
    }

    async fn registered(&mut self, cluster: &Cluster) -> Result<()> {
        let own = [&mut self.process];
        poll_running(own, REGISTRATION_TIMEOUT, POLL_PAUSE, async || {
            ensure!(is_connected(cluster).await?, "it is not registered");
            Ok(())
        })
        .await
    }
}

impl Drop for RealAgent {
    fn drop(&mut self) {
        self.process.close_input();
        let status = self.process.exit_status();
        if status.is_some_and(|status| status.success()) {
            return;
        }
        // It was killed, or does not end: its tasks still run.
        self.process.kill();
        for left in clear_agent(&self.process.spec.program, &self.directory) {
            eprintln!("of the agent remains: {left}");
        }
    }
}

/// Only the leader knows, so all masters are called.
async fn is_connected(cluster: &Cluster) -> Result<bool> {
    for member in &cluster.members {
        let listed = connected_agents(member.channel.clone(), v1::Consistency::Local);
        if !listed.await?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}
