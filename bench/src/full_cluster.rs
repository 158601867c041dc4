//! A cluster whose agents are full of running tasks, for workloads that read it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::time::Instant;

use crate::agents::{AgentLoad, Agents, TaskLifetime};
use crate::cluster::{BenchEnvironment, Cluster, MasterAccess};
use crate::framework::{SleepingTasks, sleepers};
use crate::load::LoopClient;
use crate::registry::{clients_of, connections_to, masters};
use crate::report::Side;
use crate::writer::{Target, Writer};

/// Connections to the leader that writers share.
const CONNECTIONS: usize = 4;

/// Three masters, emulated agents, and tasks that run until the value is dropped.
pub(crate) struct FullCluster {
    // In this order: a framework and agents do not survive their masters.
    _tasks: SleepingTasks,
    pub(crate) agents: Agents,
    pub(crate) cluster: Cluster,
    /// The index of the leader after all tasks ran.
    pub(crate) leader: usize,
    pub(crate) masters: MasterAccess,
    /// Time until all tasks were known to run.
    pub(crate) loaded: Duration,
}

impl FullCluster {
    /// Starts masters and agents, and tasks that take all their resources, `each` of an agent.
    ///
    /// # Errors
    /// If they are not registered or do not run in time.
    pub(crate) async fn start(
        environment: &BenchEnvironment,
        agents: u32,
        each: u32,
    ) -> Result<Self> {
        let mut cluster = Cluster::start(Side::Argosy, environment).await?;
        let masters = masters(&cluster)?;
        let started = Instant::now();
        let resources = format!("cpus:{each};mem:{}", 32 * each);
        let load = AgentLoad::new(agents, TaskLifetime::RunsUntilKilled);
        let all = Agents::start_with(&masters, load, &resources).await?;
        let tasks = sleepers(&masters, agents * each, None).await?;
        let loaded = started.elapsed();
        let leader = cluster.wait_until_settled().await?;
        Ok(Self {
            _tasks: tasks,
            agents: all,
            cluster,
            leader,
            masters,
            loaded,
        })
    }

    /// The index of a master that does not lead.
    pub(crate) fn follower(&self) -> usize {
        (self.leader + 1) % self.cluster.members.len()
    }

    /// The address of a master's API.
    pub(crate) fn api(&self, index: usize) -> &str {
        &self.cluster.members[index].api
    }

    /// Returns clients of the leader on shared connections, each of which changes an attribute of
    /// one agent.
    ///
    /// # Errors
    /// If the leader does not accept a connection.
    pub(crate) async fn writers(&self, count: usize) -> Result<Vec<LoopClient>> {
        let connections = CONNECTIONS.min(count);
        let writers =
            connections_to(&self.cluster, self.leader, connections, Writer::unary).await?;
        let ids = self.agents.ids();
        let target = |client: usize| Target {
            client,
            agents: Arc::new([ids[client % ids.len()].clone()]),
        };
        Ok(clients_of(&writers, count, target))
    }
}
