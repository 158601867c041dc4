//! One real agent with three masters.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use argosy_proto::v1;
use argosy_testbed::processes::{LaunchMethod, ManagedProcess, ProcessSpec};
use tokio::time::Instant;

use super::{BenchEnvironment, Cluster, MasterClient, free_addresses};

const HOST: &str = "127.78.1.1";
/// Time for the agent to register.
const REGISTRATION_TIMEOUT: Duration = Duration::from_secs(30);

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
        let address = free_addresses(HOST, 1)?.remove(0);
        let isolation = match kind {
            AgentKind::Full | AgentKind::FullHostNetwork => "full",
            AgentKind::Plain => "processes",
        };
        let directory = cluster.directory().join("agent");
        let arguments = [
            ("--masters", masters.join(",")),
            ("--listen", address),
            ("--data-dir", directory.display().to_string()),
            ("--resources", resources.to_owned()),
            ("--isolation", isolation.to_owned()),
            ("--log", "warn".to_owned()),
        ];
        let arguments = arguments
            .into_iter()
            .flat_map(|(flag, value)| [flag.to_owned(), value]);
        let network = kind.network().map(|_| "--allow-host-network".to_owned());
        let args = [
            "agent",
            "start",
            "--allow-missing-controllers",
            "--stop-with-stdin=end",
        ]
        .map(str::to_owned);
        let recipe = ProcessSpec {
            name: "agent".to_owned(),
            launch: LaunchMethod::WithInput,
            program: environment.argosy.clone(),
            arguments: args.into_iter().chain(network).chain(arguments).collect(),
            log: cluster.directory().join("agent.log"),
        };
        let mut agent = Self {
            process: ManagedProcess::new(recipe),
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
        self.process.send(nix::sys::signal::Signal::SIGKILL)?;
        let end = Instant::now() + REGISTRATION_TIMEOUT;
        while is_connected(cluster).await? {
            if Instant::now() > end {
                bail!("the killed agent is still connected after {REGISTRATION_TIMEOUT:?}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
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
        let end = Instant::now() + REGISTRATION_TIMEOUT;
        while !is_connected(cluster).await? {
            self.process.expect_running().context("the agent")?;
            if Instant::now() > end {
                bail!("the agent is not registered after {REGISTRATION_TIMEOUT:?}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}

/// Only the leader knows, so all masters are called.
async fn is_connected(cluster: &Cluster) -> Result<bool> {
    for member in &cluster.members {
        let mut client = MasterClient::new(member.channel.clone());
        let request = v1::ListRequest {
            consistency: v1::Consistency::Local.into(),
            ..Default::default()
        };
        let page = client.list_agents(request).await?.into_inner();
        if page.agents.iter().any(|agent| agent.connected) {
            return Ok(true);
        }
    }
    Ok(false)
}
