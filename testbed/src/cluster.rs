//! The cluster under test: masters, agents and schedulers as processes, each in its own network
//! namespace.
//!
//! It starts and queries its members. The injection of faults is elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use argosy_client::{Connector, Masters, OperatorClient};
use argosy_host::atomic_file::{self, WriteOptions};
use argosy_isolation::cgroup;
use argosy_proto::v1;
use argosy_state::actor::PrincipalKind;
use argosy_state::ids::AgentId;

use crate::health::{HealthCheck, PAGE};
use crate::members::{self, ClusterEnvironment, MemberKind, REGISTER_HOST};
use crate::network::Network;
use crate::partitions::{HostIndex, NetworkDisturbances};
use crate::processes::ManagedProcess;
use crate::schedulers::WorkPhase;
use crate::transport::ClientTransport;
use crate::waiting;
use crate::watch::MasterWatch;

/// Port of the API of an agent.
const AGENT_PORT: u16 = 5051;
/// Time for masters and agents to become healthy after their start.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Entries from which on a master is not caught up. The schedulers write all the time.
const LAG_LIMIT: u64 = 200;

/// The members, by their indexes.
pub struct Cluster {
    pub environment: ClusterEnvironment,
    pub network: Network,
    pub members: Vec<ManagedProcess>,
    kinds: Vec<MemberKind>,
    /// Masters that belong to the group now. Spare ones do not.
    pub voters: Vec<HostIndex>,
    pub watch: MasterWatch,
    /// The transport of clients with the identity of an operator.
    pub transport: ClientTransport,
    /// Disturbances of the network by number. Each fault removes the one that it added.
    disturbances: BTreeMap<u64, NetworkDisturbances>,
    next_disturbance: u64,
}

impl Cluster {
    /// Creates hosts, certificates and process specs, and starts nothing.
    ///
    /// # Errors
    /// If a host or a certificate cannot be created.
    pub fn plan(env: ClusterEnvironment, mut network: Network) -> Result<Self> {
        let mut members = Vec::new();
        let mut kinds = Vec::new();
        let mut voters = Vec::new();
        let masters: Vec<u8> = (1..=env.size.masters).collect();
        let listed = |port: u16| {
            let one = |number: &u8| format!("10.99.0.{number}:{port}");
            masters.iter().map(one).collect::<Vec<_>>().join(",")
        };
        let (raft, api) = (listed(5052), listed(5050));
        for number in &masters {
            let name = format!("master-{number}");
            voters.push(network.add(&name, *number)?);
            members.push(ManagedProcess::new(members::master(
                &env, &network, &name, &raft,
            )?));
            kinds.push(MemberKind::Master);
        }
        let agents = (1..=env.size.agents).map(|number| (format!("agent-{number}"), 20 + number));
        for (name, number) in agents.chain([(REGISTER_HOST.to_owned(), 19)]) {
            network.add(&name, number)?;
            members.push(ManagedProcess::new(members::agent(
                &env, &network, &name, &api,
            )?));
            kinds.push(MemberKind::Agent);
        }
        for number in 1..=env.size.frameworks {
            let name = format!("framework-{number}");
            network.add(&name, 100 + number)?;
            members.push(ManagedProcess::new(members::framework(
                &env, &network, &name, &api, number,
            )?));
            kinds.push(MemberKind::Framework);
        }
        let transport = client_transport(&env, PrincipalKind::Operator, "harness")?;
        Ok(Self {
            environment: env,
            network,
            members,
            kinds,
            voters,
            watch: MasterWatch::default(),
            transport,
            disturbances: BTreeMap::new(),
            next_disturbance: 1,
        })
    }

    pub fn hosts_of(&self, kind: MemberKind) -> Vec<HostIndex> {
        (0..self.members.len())
            .filter(|place| self.kinds[*place] == kind)
            .collect()
    }

    pub fn kind(&self, place: HostIndex) -> MemberKind {
        self.kinds[place]
    }

    /// Returns the agents that run tasks.
    pub fn workers(&self) -> Vec<HostIndex> {
        let is_register = |place: &HostIndex| self.members[*place].name() == REGISTER_HOST;
        self.hosts_of(MemberKind::Agent)
            .into_iter()
            .filter(|place| !is_register(place))
            .collect()
    }

    pub fn api(&self, place: HostIndex) -> String {
        format!("{}:5050", self.network.host(place).address)
    }

    pub fn raft(&self, place: HostIndex) -> String {
        format!("{}:5052", self.network.host(place).address)
    }

    pub fn masters(&self) -> Masters {
        let list = self.voters.iter().map(|place| self.api(*place));
        Masters::new(list).expect("the addresses are valid")
    }

    pub fn operator(&self) -> OperatorClient {
        OperatorClient::new(Connector::new(self.masters(), self.transport.connector()))
    }

    /// Creates a new key and certificate for a member, in the files that it reads.
    ///
    /// # Errors
    /// If the files cannot be written.
    pub fn issue(&self, place: HostIndex) -> Result<()> {
        let address = self.network.host(place).address;
        let name = self.members[place].name();
        self.environment.issue(self.kinds[place], name, address)?;
        Ok(())
    }

    /// Returns the transport of emulated agents.
    ///
    /// # Errors
    /// If their certificate cannot be created.
    pub fn swarm_transport(&self) -> Result<ClientTransport> {
        client_transport(&self.environment, PrincipalKind::Agent, "swarm")
    }

    /// Starts masters and agents, waits until all agents are registered, then starts the
    /// schedulers.
    ///
    /// # Errors
    /// If a member cannot be started, or the cluster does not become healthy.
    pub async fn start(&mut self) -> Result<()> {
        for place in 0..self.members.len() {
            if self.kinds[place] != MemberKind::Framework {
                self.members[place].start()?;
            }
        }
        let watched = self.voters.iter().map(|place| (*place, self.api(*place)));
        self.watch.begin(watched.collect(), &self.transport);
        let check = self.health_check();
        let members = self.members.iter_mut().zip(&self.kinds);
        let started = members.filter(|(_, kind)| **kind != MemberKind::Framework);
        let started = started.map(|(member, _)| member);
        check.wait_running(started, START_TIMEOUT).await?;
        for place in self.hosts_of(MemberKind::Framework) {
            self.members[place].start()?;
        }
        Ok(())
    }

    /// Starts a member if it has ended. The unsynced state of a master may be lost with its
    /// process.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn restart(&mut self, place: HostIndex) -> Result<()> {
        let member = &mut self.members[place];
        if member.poll().is_some() || !member.is_up() {
            self.watch.restarted(place);
        }
        self.members[place].start()?;
        Ok(())
    }

    /// Waits for a leader, and returns the master that reports itself as leading.
    ///
    /// # Errors
    /// If no master leads in this time.
    pub async fn leader(&self, timeout: Duration) -> Result<HostIndex> {
        let leader = waiting::poll(timeout, Duration::from_millis(10), async || {
            let known = self.watch.leader();
            let leader = known.filter(|place| self.members[*place].is_healthy());
            leader.with_context(|| format!("no master leads after {timeout:?}"))
        });
        leader.await
    }

    /// Returns the running masters of the group that do not lead.
    pub fn followers(&self, leader: HostIndex) -> Vec<HostIndex> {
        self.voters
            .iter()
            .copied()
            .filter(|place| *place != leader && self.members[*place].is_healthy())
            .collect()
    }

    /// Waits until a leader commits, all voters are caught up and all agents are connected. Each
    /// member reports that itself, so that no view from before a restart counts.
    ///
    /// # Errors
    /// If that does not happen in this time; the message names what is missing.
    pub async fn await_health(&self, timeout: Duration) -> Result<()> {
        match self.health_check().wait(timeout).await {
            Ok(_) => Ok(()),
            Err(missing) => bail!("not healthy within {timeout:?}: {missing}"),
        }
    }

    /// Returns why the cluster is not healthy.
    pub async fn unhealthy_reason(&self) -> Option<String> {
        self.health_check().unhealthy_reason().await
    }

    fn health_check(&self) -> HealthCheck {
        let agents = self.hosts_of(MemberKind::Agent).into_iter();
        let api = |place| format!("{}:{AGENT_PORT}", self.network.host(place).address);
        HealthCheck {
            masters: self.voters.iter().map(|place| self.api(*place)).collect(),
            agents: agents.map(api).collect(),
            lag_limit: LAG_LIMIT,
            transport: self.transport.clone(),
        }
    }

    /// Adds a disturbance to the current ones. The returned number removes it.
    ///
    /// # Errors
    /// If the network cannot be changed.
    pub fn disturb(&mut self, cuts: NetworkDisturbances) -> Result<u64> {
        let name = self.next_disturbance;
        self.next_disturbance += 1;
        self.disturbances.insert(name, cuts);
        self.apply_disturbances()?;
        Ok(name)
    }

    /// Removes a disturbance.
    ///
    /// # Errors
    /// If the network cannot be changed.
    pub fn end_disturbance(&mut self, name: u64) -> Result<()> {
        self.disturbances.remove(&name);
        self.apply_disturbances()
    }

    /// Removes all disturbances.
    ///
    /// # Errors
    /// If the network cannot be changed.
    pub fn end_disturbances(&mut self) -> Result<()> {
        self.disturbances.clear();
        self.apply_disturbances()
    }

    fn apply_disturbances(&mut self) -> Result<()> {
        let mut all = NetworkDisturbances::default();
        for cuts in self.disturbances.values() {
            all.add(cuts);
        }
        self.network
            .disturb(all)
            .context("cannot change the network")
    }

    /// Writes the requested phase for all schedulers.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn set_phase(&self, wanted: WorkPhase) -> Result<()> {
        let path = self.environment.directory.path().join("phase");
        let draft = path.with_extension("new");
        atomic_file::replace(
            &path,
            &draft,
            wanted.word().as_bytes(),
            WriteOptions::CACHED,
        )
        .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Records the cgroup trees of all agents, so that they are always removed at the end.
    ///
    /// # Errors
    /// If an agent has no cgroup, or it cannot be recorded.
    pub fn record_cgroups(&self) -> Result<BTreeSet<PathBuf>> {
        let mut trees = BTreeSet::new();
        for place in self.hosts_of(MemberKind::Agent) {
            let member = &self.members[place];
            let tree = member.pid().and_then(cgroup::agent_tree);
            let tree = tree.with_context(|| format!("{} has no cgroup", member.name()))?;
            self.environment.directory.record_cgroup(&tree)?;
            trees.insert(tree);
        }
        Ok(trees)
    }

    /// Returns the ids of agents by the names of their hosts.
    ///
    /// # Errors
    /// If they cannot be listed.
    pub async fn agent_ids(&self) -> Result<BTreeMap<String, AgentId>> {
        let request = v1::ListRequest {
            page_size: PAGE,
            ..Default::default()
        };
        let page = self.operator().list_agents(request).await;
        let named = |agent: v1::Agent| Some((agent.info?.host_name, agent.agent_id.parse().ok()?));
        let agents = page.context("cannot list agents")?.agents.into_iter();
        Ok(agents.filter_map(named).collect())
    }

    /// Returns the number of agents, including the one with the registers.
    pub fn agent_count(&self) -> usize {
        self.hosts_of(MemberKind::Agent).len()
    }

    pub fn data(&self, place: HostIndex) -> PathBuf {
        self.environment.directory.data(self.members[place].name())
    }
}

/// Returns the transport of clients with a new certificate for this identity.
fn client_transport(
    environment: &ClusterEnvironment,
    kind: PrincipalKind,
    name: &str,
) -> Result<ClientTransport> {
    let Some(certificates) = &environment.certificates else {
        return Ok(ClientTransport::default());
    };
    let own = certificates.issue(kind, name, None)?;
    Ok(ClientTransport::tls(&own.load()?))
}
