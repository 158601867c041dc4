//! Faults of agents, of schedulers and of the agent swarm.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use argosy_testbed::members::{AGENT_TIMEOUT, MemberKind};
use argosy_testbed::partitions::{HostIndex, NetworkDisturbances};
use argosy_testbed::processes::ManagedProcess;
use argosy_testbed::reboot::AgentHost;
use argosy_testbed::tracer::SyncFault;

use super::{Injector, LEADER_TIMEOUT, UndoStep};
use crate::history::FaultKind;
use crate::real::agent_disks::is_mounted;
use crate::real::agent_swarm::AgentSwarm;
use crate::real::process_faults::Filler;

/// Agents of a reconnect storm.
const SWARM_SIZE: usize = 1_000;
const REGISTRATION_TIMEOUT: Duration = Duration::from_secs(40);
/// Time for an agent to end because of a failed sync. It syncs when it records something.
const EXIT_TIMEOUT: Duration = Duration::from_secs(5);

type InjectionResult = Result<(String, Duration)>;

impl Injector<'_> {
    fn worker(&mut self) -> Result<HostIndex> {
        let workers = self.cluster.workers();
        self.random_member(&workers)
    }

    fn scheduler(&mut self) -> Result<HostIndex> {
        let schedulers = self.cluster.hosts_of(MemberKind::Framework);
        self.random_member(&schedulers)
    }

    /// Returns a duration that is mostly short, and sometimes longer than the agent timeout.
    pub(super) fn downtime(&mut self) -> Duration {
        if self.rng.percent(60) {
            self.between(300, 2_500)
        } else {
            AGENT_TIMEOUT + self.between(1_000, 4_000)
        }
    }

    pub(super) fn kill_agent(&mut self) -> InjectionResult {
        let place = self.worker()?;
        let name = self.kill(place, FaultKind::Crash, "kill -9");
        Ok((name, self.downtime()))
    }

    pub(super) async fn kill_agent_in_launch(&mut self) -> InjectionResult {
        let place = self.worker()?;
        let mut name = String::new();
        for _ in 0..self.rng.between(2, 5) {
            name = self.kill(place, FaultKind::AgentCrashInLaunch, "kill -9");
            self.cluster.members[place].start()?;
            // Short tasks are launched continuously, so one of these moments is within a launch.
            let pause = self.between(30, 900);
            tokio::time::sleep(pause).await;
        }
        self.kill(place, FaultKind::AgentCrashInLaunch, "kill -9");
        Ok((name, self.between(100, 1_000)))
    }

    pub(super) async fn kill_agent_in_destroy(&mut self) -> InjectionResult {
        let place = self.worker()?;
        let pause = self.between(0, 1_500);
        tokio::time::sleep(pause).await;
        let name = self.kill(place, FaultKind::AgentCrashInDestroy, "kill -9");
        Ok((name, self.between(100, 2_000)))
    }

    /// Ends all processes of an agent's host. Its tasks have ended, and it must report that.
    pub(super) async fn reboot_host(&mut self) -> InjectionResult {
        let place = self.worker()?;
        let name = self.name(place);
        let host = AgentHost::of(&self.cluster.members[place])?;
        // Histories name tasks with the id of their agent.
        let ids = self.cluster.agent_ids().await?;
        let agent = ids.get(self.cluster.members[place].name());
        let agent = agent.context("the agent is not registered")?.to_string();
        let boots = self.cluster.environment.directory.path().join("boots");
        self.cluster.members[place].spec.launch = host.next_boot(&boots)?;
        self.kill(place, FaultKind::Crash, "its host is rebooted");
        self.note(FaultKind::HostReboot, &agent, &name);
        tokio::task::spawn_blocking(move || host.switch_off()).await??;
        Ok((name, self.downtime()))
    }

    /// Fills the disk of an agent. Its tasks continue, and it must record their ends. Launches may
    /// fail.
    pub(super) async fn full_agent_disk(&mut self) -> InjectionResult {
        let place = self.worker()?;
        let data = self.cluster.data(place);
        if !is_mounted(&data) {
            bail!("the agent has no disk of its own");
        }
        let name = self.name(place);
        let filler = Filler::of(&data);
        self.note(FaultKind::DiskFull, &name, data.display().to_string());
        // Without the reserve of its journal it ends, and its tasks continue.
        self.cluster.members[place].allow_exit();
        self.undo
            .push(UndoStep::FreeAgentDisk(place, Filler::of(&data)));
        tokio::task::spawn_blocking(move || filler.fill()).await??;
        Ok((name, self.between(2_000, 12_000)))
    }

    pub(super) async fn failing_agent_sync(&mut self) -> InjectionResult {
        let place = self.worker()?;
        let name = self
            .trace(place, FaultKind::SyncFailure, SyncFault::Fail)
            .await?;
        let ended = self.cluster.members[place].ended_within(EXIT_TIMEOUT).await;
        let output = ended.map_or("it still runs", |_| "it stopped");
        Ok((format!("{name} ({output})"), self.between(100, 1_000)))
    }

    pub(super) async fn stalled_agent_disk(&mut self) -> InjectionResult {
        let place = self.worker()?;
        let time = self.between(300, 3_000);
        let name = self
            .trace(place, FaultKind::StalledDisk, SyncFault::Take(time))
            .await?;
        Ok((
            format!("{name} {time:?} a sync"),
            self.between(1_500, 5_000),
        ))
    }

    pub(super) fn kill_framework(&mut self) -> InjectionResult {
        let place = self.scheduler()?;
        let name = self.kill(place, FaultKind::FrameworkCrash, "kill -9");
        Ok((name, self.between(100, 6_000)))
    }

    /// Starts a second process of a scheduler, with its journal and its identity. Masters must
    /// serve the newer session only.
    pub(super) fn second_scheduler(&mut self) -> InjectionResult {
        let place = self.scheduler()?;
        let name = self.name(place);
        self.note(FaultKind::FrameworkFailover, &name, "a second process");
        let first = &mut self.cluster.members[place];
        first.allow_exit();
        let mut spec = first.spec.clone();
        spec.name.push_str("-second");
        spec.log = spec.log.with_file_name(format!("{}.log", spec.name));
        let mut second = ManagedProcess::new(spec);
        let started = second.start();
        self.undo.push(UndoStep::EndSecondScheduler(place, second));
        started?;
        Ok((name, self.between(500, 8_000)))
    }

    pub(super) fn pause_agent(&mut self) -> InjectionResult {
        let place = self.worker()?;
        let name = self.freeze(place)?;
        Ok((name, self.downtime()))
    }

    pub(super) fn pause_framework(&mut self) -> InjectionResult {
        let place = self.scheduler()?;
        let name = self.freeze(place)?;
        Ok((name, self.between(500, 8_000)))
    }

    fn isolate(&mut self, place: HostIndex) -> Result<String> {
        let mut cuts = NetworkDisturbances::default();
        for other in 0..self.cluster.network.hosts().len() {
            cuts.cut_both(place, other);
        }
        let name = self.name(place);
        self.note(FaultKind::PartitionBoth, &name, "from everybody");
        self.disturb(cuts)?;
        Ok(name)
    }

    pub(super) fn partition_agent(&mut self) -> InjectionResult {
        let place = self.worker()?;
        let name = self.isolate(place)?;
        Ok((name, self.downtime()))
    }

    pub(super) fn partition_framework(&mut self) -> InjectionResult {
        let place = self.scheduler()?;
        let name = self.isolate(place)?;
        Ok((name, self.between(500, 8_000)))
    }

    pub(super) async fn reconnect_storm(&mut self) -> InjectionResult {
        let transport = self.cluster.swarm_transport()?;
        let swarm = AgentSwarm::start(&self.cluster.masters(), &transport, SWARM_SIZE);
        let deadline = tokio::time::Instant::now() + REGISTRATION_TIMEOUT;
        while swarm.linked() < swarm.count() && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let gathered = swarm.linked();
        self.undo.push(UndoStep::StopSwarm(swarm));
        let leader = self.cluster.leader(LEADER_TIMEOUT).await?;
        self.note(FaultKind::ReconnectStorm, "*", format!("{gathered} agents"));
        let name = self.kill(leader, FaultKind::Crash, "kill -9, before a storm");
        Ok((
            format!("{gathered} agents, {name} killed"),
            self.between(3_000, 5_000),
        ))
    }
}
