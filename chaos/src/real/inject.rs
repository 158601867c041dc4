//! The injection and the end of each fault.
//!
//! A fault in force is a value. When it ends, the cluster can recover by itself. A killed process
//! is started again then, as a supervisor of the system would do.

mod certificates;
mod masters;
mod others;
mod releases;
mod revoked_keys;
mod rules;

use std::time::Duration;

use anyhow::{Context, Result};
use argosy_proto::v1;
use argosy_testbed::cluster::Cluster;
use argosy_testbed::partitions::{HostIndex, NetworkDisturbances};
use argosy_testbed::processes::ManagedProcess;
use argosy_testbed::tracer::Tracer;

use super::agent_swarm::AgentSwarm;
use super::faults::FaultName;
use super::process_faults::{Filler, LimitedResource, SmallDisk};
use super::proxy::Proxy;
use crate::history::{Fault, FaultKind, Recorder};
use crate::rng::Rng;
use certificates::RenewedMember;

/// Timeout for finding a leader before a fault that needs one, if no other fault holds.
pub(super) const LEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// A fault in force.
pub(crate) struct InjectedFault {
    pub(crate) fault: FaultName,
    /// The target in words, for the live view and the report.
    pub(crate) target: String,
    /// The default duration.
    pub(crate) duration: Duration,
    undo: Vec<UndoStep>,
}

/// The actions that end a fault, in reverse order of its steps.
pub(super) enum UndoStep {
    Start(HostIndex),
    Resume(HostIndex),
    EndDisturbance(u64),
    RemoveRateLimit(HostIndex),
    DetachTracer(HostIndex, Tracer),
    RestoreDisk(HostIndex, SmallDisk),
    FreeAgentDisk(HostIndex, Filler),
    RemoveLimit(HostIndex, LimitedResource),
    ResetClock(HostIndex),
    AddMaster(HostIndex),
    RemoveProxies(u64, Vec<Proxy>),
    StopSwarm(AgentSwarm),
    AwaitRenewal(RenewedMember),
    EndSecondScheduler(HostIndex, ManagedProcess),
}

/// The context for injecting a fault.
pub(crate) struct Injector<'a> {
    pub(crate) cluster: &'a mut Cluster,
    pub(crate) rng: &'a mut Rng,
    pub(crate) recorder: &'a Recorder,
    /// Timeout for finding a leader.
    leader_timeout: Duration,
    undo: Vec<UndoStep>,
}

impl<'a> Injector<'a> {
    pub(crate) fn new(
        cluster: &'a mut Cluster,
        rng: &'a mut Rng,
        recorder: &'a Recorder,
        leader_timeout: Duration,
    ) -> Self {
        Self {
            cluster,
            rng,
            recorder,
            leader_timeout,
            undo: Vec::new(),
        }
    }

    /// Injects a fault. If it fails half-way, its steps are undone.
    pub(crate) async fn begin(mut self, fault: FaultName) -> Result<InjectedFault> {
        let result = self.inject(fault).await;
        match result {
            Ok((target, lasts)) => Ok(InjectedFault {
                fault,
                target,
                duration: lasts,
                undo: self.undo,
            }),
            Err(error) => {
                let half = InjectedFault {
                    fault,
                    target: String::new(),
                    duration: Duration::ZERO,
                    undo: std::mem::take(&mut self.undo),
                };
                half.end(self.cluster, self.recorder).await?;
                Err(error.context(format!("cannot inject {fault}")))
            }
        }
    }

    async fn inject(&mut self, fault: FaultName) -> Result<(String, Duration)> {
        use FaultName as F;
        match fault {
            F::KillLeader => self.kill_leader().await,
            F::KillFollower => self.kill_follower().await,
            F::KillMinority => self.kill_minority().await,
            F::KillAllMasters => self.kill_all_masters(),
            F::PauseLeader => self.pause_leader().await,
            F::PauseFollower => self.pause_follower().await,
            F::FreezeAllMasters => self.freeze_all_masters(),
            F::RollingRestart => self.rolling_restart().await,
            F::TransferLeader => self.transfer_leader().await,
            F::PartitionLeader => self.partition_leader().await,
            F::PartitionOneWay => self.partition_one_way(),
            F::PartitionPartial => self.partition_partial(),
            F::CutLeaderFromMasters => self.cut_leader_from_masters().await,
            F::PacketLoss => self.packet_loss(),
            F::SlowLink => self.slow_link().await,
            F::DelayLink | F::HalfClose | F::ResetConnections | F::DamageLink => {
                self.detour(fault).await
            }
            F::FullDisk => self.full_disk().await,
            F::FailingSync => self.failing_sync().await,
            F::StalledDisk => self.stalled_disk().await,
            F::FullAgentDisk => self.full_agent_disk().await,
            F::FailingAgentSync => self.failing_agent_sync().await,
            F::StalledAgentDisk => self.stalled_agent_disk().await,
            F::MemoryLimit => self.limit(LimitedResource::Memory),
            F::DescriptorLimit => self.limit(LimitedResource::Descriptors),
            F::ClockJump => self.clock_jump().await,
            F::ReplaceMaster => self.replace_master().await,
            F::KillAgent => self.kill_agent(),
            F::KillAgentInLaunch => self.kill_agent_in_launch().await,
            F::KillAgentInDestroy => self.kill_agent_in_destroy().await,
            F::RebootHost => self.reboot_host().await,
            F::KillFramework => self.kill_framework(),
            F::SecondScheduler => self.second_scheduler(),
            F::PauseAgent => self.pause_agent(),
            F::PauseFramework => self.pause_framework(),
            F::PartitionAgent => self.partition_agent(),
            F::PartitionFramework => self.partition_framework(),
            F::OtherRelease => self.other_release(),
            F::ReconnectStorm => self.reconnect_storm().await,
            F::CertificateRenewal => self.certificate_renewal().await,
            F::RuleChange => self.rule_change().await,
            F::KeyRevocation => self.key_revocation().await,
        }
    }

    /// Returns the name of a member in histories. Masters are named by their id in the group.
    fn name(&self, place: HostIndex) -> String {
        name_of(self.cluster, place)
    }

    fn note(&self, kind: FaultKind, target: &str, detail: impl Into<String>) {
        self.recorder.fault(Fault::new(kind, target).with(detail));
    }

    fn between(&mut self, from_ms: u64, to_ms: u64) -> Duration {
        Duration::from_millis(self.rng.between(from_ms, to_ms))
    }

    /// Kills a member with kill -9. It is started again when the fault ends.
    fn kill(&mut self, place: HostIndex, kind: FaultKind, detail: &str) -> String {
        let name = self.name(place);
        self.note(kind, &name, detail);
        self.cluster.members[place].kill();
        self.cluster.watch.forget(place);
        self.undo.push(UndoStep::Start(place));
        name
    }

    fn freeze(&mut self, place: HostIndex) -> Result<String> {
        let name = self.name(place);
        self.note(FaultKind::Pause, &name, "SIGSTOP");
        self.cluster.members[place].freeze()?;
        self.cluster.watch.forget(place);
        self.undo.push(UndoStep::Resume(place));
        Ok(name)
    }

    fn disturb(&mut self, cuts: NetworkDisturbances) -> Result<()> {
        let name = self.cluster.disturb(cuts)?;
        self.undo.push(UndoStep::EndDisturbance(name));
        Ok(())
    }

    /// Returns a random running member among these.
    fn random_member(&mut self, places: &[HostIndex]) -> Result<HostIndex> {
        let well: Vec<HostIndex> = places
            .iter()
            .copied()
            .filter(|place| self.cluster.members[*place].is_healthy())
            .collect();
        self.rng
            .pick(&well)
            .copied()
            .context("no running member can be the target")
    }
}

/// Returns the name of a member in histories, as [`Injector::name`] does.
pub(crate) fn name_of(cluster: &Cluster, place: HostIndex) -> String {
    cluster.watch.node(place).map_or_else(
        || cluster.members[place].name().to_owned(),
        |node| node.to_string(),
    )
}

impl InjectedFault {
    /// Ends the fault.
    ///
    /// # Errors
    /// If a step cannot be undone. The other steps are undone.
    pub(crate) async fn end(self, cluster: &mut Cluster, recorder: &Recorder) -> Result<()> {
        let mut first = Ok(());
        for undo in self.undo.into_iter().rev() {
            let undone = undo.perform(cluster, recorder).await;
            first = first.and(undone);
        }
        first.with_context(|| format!("cannot end {}", self.fault))
    }
}

impl UndoStep {
    async fn perform(self, cluster: &mut Cluster, recorder: &Recorder) -> Result<()> {
        let note = |cluster: &Cluster, kind, place| {
            recorder.fault(Fault::new(kind, name_of(cluster, place)));
        };
        match self {
            Self::Start(place) => restart_if_ended(cluster, recorder, place)?,
            Self::Resume(place) => {
                note(cluster, FaultKind::Resume, place);
                cluster.members[place].resume();
            }
            Self::EndDisturbance(name) => {
                recorder.fault(Fault::new(FaultKind::Heal, "*"));
                cluster.end_disturbance(name)?;
            }
            Self::RemoveRateLimit(place) => {
                note(cluster, FaultKind::Heal, place);
                cluster.network.limit_rate(place, None)?;
            }
            Self::RemoveProxies(name, proxies) => {
                recorder.fault(Fault::new(FaultKind::Heal, "*"));
                cluster.end_disturbance(name)?;
                drop(proxies);
            }
            Self::DetachTracer(place, tracer) => {
                // Blocks until the tracer has detached.
                tokio::task::spawn_blocking(move || drop(tracer)).await?;
                cluster.members[place].forbid_exit();
                restart_if_ended(cluster, recorder, place)?;
            }
            Self::RemoveLimit(place, limit) => {
                let member = &mut cluster.members[place];
                let loosened = member.pid().map_or(Ok(()), |pid| limit.lift(pid));
                // A process that has ended has no limits any more.
                if member.poll().is_none() && member.is_up() {
                    loosened?;
                }
                member.forbid_exit();
                restart_if_ended(cluster, recorder, place)?;
            }
            Self::RestoreDisk(place, disk) => restore_disk(cluster, recorder, place, disk)?,
            Self::FreeAgentDisk(place, filler) => {
                filler.remove();
                note(cluster, FaultKind::DiskFreed, place);
                cluster.members[place].forbid_exit();
                restart_if_ended(cluster, recorder, place)?;
            }
            Self::ResetClock(place) => {
                cluster.members[place].kill();
                restart_if_ended(cluster, recorder, place)?;
            }
            Self::AddMaster(place) => {
                restart_if_ended(cluster, recorder, place)?;
                masters::join(cluster, recorder, place).await?;
            }
            Self::StopSwarm(swarm) => stop_swarm(cluster, swarm).await,
            Self::AwaitRenewal(renewed) => renewed.finish(cluster, recorder).await?,
            Self::EndSecondScheduler(place, second) => {
                end_schedulers(cluster, recorder, place, second)?;
            }
        }
        Ok(())
    }
}

/// Restarts a member on its former disk, with the present content.
fn restore_disk(
    cluster: &mut Cluster,
    recorder: &Recorder,
    place: HostIndex,
    disk: SmallDisk,
) -> Result<()> {
    let name = name_of(cluster, place);
    recorder.fault(Fault::new(FaultKind::DiskFreed, name));
    disk.free();
    cluster.members[place].kill();
    cluster.members[place].forbid_exit();
    disk.remove()?;
    restart_if_ended(cluster, recorder, place)
}

/// Kills both processes of a scheduler, and starts one again.
fn end_schedulers(
    cluster: &mut Cluster,
    recorder: &Recorder,
    place: HostIndex,
    mut second: ManagedProcess,
) -> Result<()> {
    recorder.fault(Fault::new(
        FaultKind::FrameworkCrash,
        name_of(cluster, place),
    ));
    second.kill();
    // The first one may not have noticed that it was superseded.
    cluster.members[place].kill();
    cluster.members[place].forbid_exit();
    restart_if_ended(cluster, recorder, place)
}

/// Starts a member that may have ended because of the fault.
fn restart_if_ended(cluster: &mut Cluster, recorder: &Recorder, place: HostIndex) -> Result<()> {
    let member = &mut cluster.members[place];
    let ended = member.poll().is_some() || !member.is_up();
    if ended {
        recorder.fault(Fault::new(FaultKind::Restart, name_of(cluster, place)));
        cluster.restart(place)?;
    }
    Ok(())
}

/// Ends the swarm and marks its agents as gone.
async fn stop_swarm(cluster: &Cluster, swarm: AgentSwarm) {
    drop(swarm);
    let operator = cluster.operator();
    let page = operator
        .list_agents(v1::ListRequest {
            page_size: 10_000,
            ..Default::default()
        })
        .await;
    let agents = page.map(|page| page.agents).unwrap_or_default();
    let ids: Vec<String> = agents
        .into_iter()
        .filter(|agent| {
            let name = agent.info.as_ref().map(|info| info.host_name.as_str());
            name.is_some_and(|name| name.starts_with("swarm-"))
                && agent.mode() != v1::AgentMode::Gone
        })
        .map(|agent| agent.agent_id)
        .collect();
    for some in ids.chunks(200) {
        let gone = |id: &String| v1::WriteOperation {
            operation: Some(v1::write_operation::Operation::MarkAgentGone(
                v1::MarkAgentGone {
                    agent_id: id.clone(),
                },
            )),
        };
        // Agents that remain become unreachable soon.
        let _ = operator
            .write(v1::WriteBatch {
                operations: some.iter().map(gone).collect(),
                ..Default::default()
            })
            .await;
    }
}
