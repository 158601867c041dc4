//! Faults of masters: their processes, links, disks, clocks and membership.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use argosy_proto::v1;
use argosy_testbed::cluster::Cluster;
use argosy_testbed::network::OWN_ADDRESS;
use argosy_testbed::partitions::{HostIndex, NetworkDisturbances};
use argosy_testbed::tracer::{SyncFault, Tracer};
use tokio::time::Instant;

use super::{Injector, UndoStep};
use crate::history::{Fault, FaultKind, Recorder};
use crate::real::faults::FaultName;
use crate::real::process_faults::{FakeClock, LimitedResource, SmallDisk};
use crate::real::proxy::{Proxy, ProxyMode};
use crate::rng::Rng;

/// Timeout for a process to stop by itself after its disk fails.
const STOP_TIMEOUT: Duration = Duration::from_secs(8);
/// Timeout for a new master to join.
const JOIN_TIMEOUT: Duration = Duration::from_secs(60);
/// Timeout for a process to end after a request.
const EXIT_TIMEOUT: Duration = Duration::from_secs(15);

type InjectionResult = Result<(String, Duration)>;

impl Injector<'_> {
    async fn leader(&self) -> Result<HostIndex> {
        self.cluster.leader(self.leader_timeout).await
    }

    async fn follower(&mut self) -> Result<HostIndex> {
        let leader = self.leader().await?;
        let followers = self.cluster.followers(leader);
        self.random_member(&followers)
    }

    fn voters(&self) -> Vec<HostIndex> {
        self.cluster.voters.clone()
    }

    pub(super) async fn kill_leader(&mut self) -> InjectionResult {
        let leader = self.leader().await?;
        let target = self.kill(leader, FaultKind::Crash, "kill -9, the leader");
        Ok((target, self.between(300, 2_500)))
    }

    pub(super) async fn kill_follower(&mut self) -> InjectionResult {
        let follower = self.follower().await?;
        let target = self.kill(follower, FaultKind::Crash, "kill -9, a follower");
        Ok((target, self.between(300, 2_500)))
    }

    pub(super) async fn kill_minority(&mut self) -> InjectionResult {
        let leader = self.leader().await?;
        let mut dead = vec![leader];
        let spare = (self.voters().len() - 1) / 2;
        while dead.len() < spare {
            let others: Vec<HostIndex> = self
                .voters()
                .into_iter()
                .filter(|one| !dead.contains(one))
                .collect();
            dead.push(self.random_member(&others)?);
        }
        let names: Vec<String> = dead
            .into_iter()
            .map(|place| self.kill(place, FaultKind::Crash, "kill -9, a minority"))
            .collect();
        Ok((names.join(","), self.between(1_000, 4_000)))
    }

    pub(super) fn kill_all_masters(&mut self) -> InjectionResult {
        for place in self.voters() {
            self.kill(place, FaultKind::Crash, "kill -9, all masters");
        }
        Ok(("all masters".to_owned(), self.between(100, 3_000)))
    }

    pub(super) async fn pause_leader(&mut self) -> InjectionResult {
        let leader = self.leader().await?;
        let target = self.freeze(leader)?;
        // Around the election timeout, sometimes far longer.
        let lasts = if self.rng.percent(70) {
            self.between(100, 1_500)
        } else {
            self.between(3_000, 8_000)
        };
        Ok((target, lasts))
    }

    pub(super) async fn pause_follower(&mut self) -> InjectionResult {
        let follower = self.follower().await?;
        let target = self.freeze(follower)?;
        Ok((target, self.between(200, 5_000)))
    }

    pub(super) fn freeze_all_masters(&mut self) -> InjectionResult {
        self.note(FaultKind::FreezeAllMasters, "*", "SIGSTOP");
        for place in self.voters() {
            if self.cluster.members[place].is_healthy() {
                self.freeze(place)?;
            }
        }
        Ok(("all masters".to_owned(), self.between(500, 7_000)))
    }

    pub(super) async fn rolling_restart(&mut self) -> InjectionResult {
        for place in self.voters() {
            let name = self.name(place);
            self.note(
                FaultKind::RollingRestart,
                &name,
                "SIGTERM, then started again",
            );
            self.cluster.members[place].stop(EXIT_TIMEOUT).await?;
            self.cluster.watch.forget(place);
            self.cluster.restart(place)?;
            // The next one follows only when this one can replace it.
            self.cluster.await_health(Duration::from_secs(40)).await?;
        }
        Ok(("masters".to_owned(), Duration::ZERO))
    }

    pub(super) async fn transfer_leader(&mut self) -> InjectionResult {
        let leader = self.leader().await?;
        let name = self.name(leader);
        self.note(FaultKind::LeaderTransfer, &name, "");
        // The transfer is rejected if an earlier fault has left no successor. That is a valid
        // answer, too.
        let operator = self.cluster.operator();
        let output = match operator
            .transfer_leader(v1::TransferLeaderRequest::default())
            .await
        {
            Ok(_) => "done".to_owned(),
            Err(error) => error.to_string(),
        };
        self.cluster.watch.forget(leader);
        Ok((format!("{name} ({output})"), Duration::from_millis(300)))
    }

    pub(super) async fn partition_leader(&mut self) -> InjectionResult {
        let leader = self.leader().await?;
        let mut cuts = NetworkDisturbances::default();
        for other in 0..self.cluster.network.hosts().len() {
            cuts.cut_both(leader, other);
        }
        let name = self.name(leader);
        self.note(FaultKind::PartitionBoth, &name, "from everybody");
        self.disturb(cuts)?;
        self.cluster.watch.forget(leader);
        Ok((name, self.between(800, 6_000)))
    }

    pub(super) fn partition_one_way(&mut self) -> InjectionResult {
        let masters = self.voters();
        let victim = self.random_member(&masters)?;
        let is_deaf = self.rng.percent(50);
        let mut cuts = NetworkDisturbances::default();
        for other in masters.into_iter().filter(|other| *other != victim) {
            if is_deaf {
                cuts.cut(other, victim);
            } else {
                cuts.cut(victim, other);
            }
        }
        let name = self.name(victim);
        let detail = if is_deaf {
            "hears no master"
        } else {
            "no master hears it"
        };
        self.note(FaultKind::PartitionOneWay, &name, detail);
        self.disturb(cuts)?;
        Ok((format!("{name} {detail}"), self.between(800, 5_000)))
    }

    pub(super) fn partition_partial(&mut self) -> InjectionResult {
        let pairs = random_pairs(&self.voters(), self.rng);
        let mut cuts = NetworkDisturbances::default();
        for (one, other) in &pairs {
            cuts.cut_both(*one, *other);
        }
        let names = pairs.iter();
        let names = names.map(|(one, other)| format!("{}|{}", self.name(*one), self.name(*other)));
        let graph = names.collect::<Vec<_>>().join(" ");
        self.note(FaultKind::PartitionPartial, "*", graph.clone());
        self.disturb(cuts)?;
        Ok((graph, self.between(800, 6_000)))
    }

    pub(super) async fn cut_leader_from_masters(&mut self) -> InjectionResult {
        let leader = self.leader().await?;
        let mut cuts = NetworkDisturbances::default();
        for other in self.voters() {
            cuts.cut_both(leader, other);
        }
        let name = self.name(leader);
        self.note(FaultKind::CutLeaderFromMasters, &name, "");
        self.disturb(cuts)?;
        Ok((name, self.between(800, 6_000)))
    }

    pub(super) fn packet_loss(&mut self) -> InjectionResult {
        let percent = u8::try_from(self.rng.between(3, 25)).unwrap_or(10);
        let mut cuts = NetworkDisturbances::default();
        for place in self.voters() {
            cuts.set_loss(place, percent);
        }
        let detail = format!("{percent} of 100 packets");
        self.note(FaultKind::PacketLoss, "*", detail.clone());
        self.disturb(cuts)?;
        Ok((detail, self.between(1_500, 5_000)))
    }

    pub(super) async fn slow_link(&mut self) -> InjectionResult {
        let leader = self.leader().await?;
        let rate = format!("{}kbit", self.rng.between(300, 2_000));
        let name = self.name(leader);
        // A host has one limit, and the end of either fault would remove it.
        if self.cluster.network.is_rate_limited(leader) {
            bail!("{name} has a slow link already");
        }
        self.note(FaultKind::SlowLink, &name, rate.clone());
        self.cluster.network.limit_rate(leader, Some(&rate))?;
        self.undo.push(UndoStep::RemoveRateLimit(leader));
        Ok((format!("{name} {rate}"), self.between(1_500, 5_000)))
    }

    /// Routes the leader's Raft connections, both ways, through proxies.
    pub(super) async fn detour(&mut self, fault: FaultName) -> InjectionResult {
        let leader = self.leader().await?;
        let (kind, manner) = match fault {
            FaultName::HalfClose => (
                FaultKind::HalfClose,
                ProxyMode::Silent(self.between(200, 1_500)),
            ),
            FaultName::ResetConnections => (
                FaultKind::ConnectionReset,
                ProxyMode::Closed(self.between(50, 400)),
            ),
            FaultName::DamageLink => {
                let every = usize::try_from(self.rng.between(500, 50_000)).unwrap_or(500);
                let every = NonZeroUsize::new(every).unwrap_or(NonZeroUsize::MIN);
                (FaultKind::CorruptBytes, ProxyMode::Damaged(every))
            }
            _ => (FaultKind::Delay, ProxyMode::Delayed(self.between(10, 250))),
        };
        let mut cuts = NetworkDisturbances::default();
        let mut proxies = Vec::new();
        for other in self.voters().into_iter().filter(|other| *other != leader) {
            for (from, to) in [(leader, other), (other, leader)] {
                let target: SocketAddr = (self.cluster.network.host(to).address, 5052).into();
                let proxy = Proxy::start(OWN_ADDRESS, target, manner).await?;
                cuts.detour(from, to, proxy.port());
                proxies.push(proxy);
            }
        }
        let name = self.name(leader);
        self.note(kind, &name, format!("{manner:?}"));
        let disturbance = self.cluster.disturb(cuts)?;
        self.undo
            .push(UndoStep::RemoveProxies(disturbance, proxies));
        Ok((format!("{name} {manner:?}"), self.between(1_500, 5_000)))
    }

    /// Returns some master, sometimes the leader.
    async fn victim(&mut self) -> Result<HostIndex> {
        if self.rng.percent(50) {
            return self.leader().await;
        }
        let voters = self.voters();
        self.random_member(&voters)
    }

    pub(super) async fn full_disk(&mut self) -> InjectionResult {
        let place = self.victim().await?;
        let name = self.kill(place, FaultKind::Crash, "to be given a small disk");
        let data = self.cluster.data(place);
        let disk = SmallDisk::mount(&data)?;
        self.cluster.restart(place)?;
        let deadline = Instant::now() + Duration::from_secs(15);
        while self.cluster.unhealthy_reason().await.is_some() && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.note(FaultKind::DiskFull, &name, data.display().to_string());
        self.cluster.members[place].allow_exit();
        let filled = disk.fill();
        self.undo.push(UndoStep::RestoreDisk(place, disk));
        filled?;
        let ended = self.cluster.members[place].ended_within(STOP_TIMEOUT).await;
        let output = ended.map_or("it still runs", |_| "it stopped");
        Ok((format!("{name} ({output})"), self.between(200, 1_500)))
    }

    pub(super) async fn trace(
        &mut self,
        place: HostIndex,
        kind: FaultKind,
        syncs: SyncFault,
    ) -> Result<String> {
        let pid = self.cluster.members[place].pid().context("it runs")?;
        let name = self.name(place);
        self.note(kind, &name, format!("{syncs:?}"));
        // It may end immediately because of that.
        self.cluster.members[place].allow_exit();
        let tracer = Tracer::attach(pid, syncs)
            .await
            .inspect_err(|_| self.cluster.members[place].forbid_exit())?;
        self.undo.push(UndoStep::DetachTracer(place, tracer));
        Ok(name)
    }

    pub(super) async fn failing_sync(&mut self) -> InjectionResult {
        let place = self.victim().await?;
        let name = self
            .trace(place, FaultKind::SyncFailure, SyncFault::Fail)
            .await?;
        let ended = self.cluster.members[place].ended_within(STOP_TIMEOUT).await;
        let output = ended.map_or("it still runs", |_| "it stopped");
        Ok((format!("{name} ({output})"), self.between(100, 1_000)))
    }

    pub(super) async fn stalled_disk(&mut self) -> InjectionResult {
        let leader = self.leader().await?;
        let time = self.between(300, 3_000);
        let name = self
            .trace(leader, FaultKind::StalledDisk, SyncFault::Take(time))
            .await?;
        Ok((
            format!("{name} {time:?} a sync"),
            self.between(1_500, 5_000),
        ))
    }

    pub(super) fn limit(&mut self, limit: LimitedResource) -> InjectionResult {
        let voters = self.voters();
        let place = self.random_member(&voters)?;
        let pid = self.cluster.members[place].pid().context("it runs")?;
        let kind = match limit {
            LimitedResource::Memory => FaultKind::MemoryLimit,
            LimitedResource::Descriptors => FaultKind::DescriptorLimit,
        };
        let name = self.name(place);
        self.note(kind, &name, "");
        // It may end with an error: it must not acknowledge what it cannot write.
        self.cluster.members[place].allow_exit();
        self.undo.push(UndoStep::RemoveLimit(place, limit));
        limit.apply(pid)?;
        Ok((name, self.between(1_500, 4_000)))
    }

    pub(super) async fn clock_jump(&mut self) -> InjectionResult {
        let place = self.victim().await?;
        let file = self
            .cluster
            .environment
            .directory
            .path()
            .join(format!("clock-{place}"));
        let clock = FakeClock::create(&file)?;
        let name = self.kill(place, FaultKind::Crash, "to be given a clock that jumps");
        self.cluster.watch.restarted(place);
        self.cluster.members[place].start_with(&clock.settings())?;
        self.undo.push(UndoStep::ResetClock(place));
        self.cluster.await_health(Duration::from_secs(30)).await?;
        for seconds in [3_600, -3_600, 86_400, 0] {
            self.note(FaultKind::ClockJump, &name, format!("to {seconds:+} s"));
            clock.set(seconds)?;
            let pause = self.between(300, 1_000);
            tokio::time::sleep(pause).await;
        }
        Ok((name, Duration::from_millis(200)))
    }

    pub(super) async fn replace_master(&mut self) -> InjectionResult {
        let place = self.victim().await?;
        let name = self.kill(place, FaultKind::WipeDisk, "to join again");
        std::fs::remove_dir_all(self.cluster.data(place))?;
        self.undo.push(UndoStep::AddMaster(place));
        self.cluster.restart(place)?;
        // For this time the group works without it.
        Ok((name, self.between(200, 3_000)))
    }
}

/// Lets a master with an empty disk replace its former incarnation.
pub(super) async fn join(cluster: &Cluster, recorder: &Recorder, place: HostIndex) -> Result<()> {
    let raft_address = cluster.raft(place);
    let name = cluster.members[place].name();
    let fault = Fault::new(FaultKind::MembershipChange, name).with(raft_address.clone());
    recorder.fault(fault);
    let operator = cluster.operator();
    let begun = Instant::now();
    loop {
        let request = v1::JoinMasterRequest {
            raft_address: raft_address.clone(),
        };
        match operator.join_master(request).await {
            Ok(_) => return Ok(()),
            Err(error) if begun.elapsed() > JOIN_TIMEOUT => {
                bail!("{name} cannot join again after {JOIN_TIMEOUT:?}: {error}");
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}

/// Returns the pairs of masters that a random connectivity graph does not connect: at least one, if
/// there are two masters.
fn random_pairs(masters: &[HostIndex], rng: &mut Rng) -> Vec<(HostIndex, HostIndex)> {
    let mut all = Vec::new();
    for (position, one) in masters.iter().enumerate() {
        all.extend(masters[position + 1..].iter().map(|other| (*one, *other)));
    }
    let mut chosen = all.clone();
    chosen.retain(|_| rng.percent(45));
    if chosen.is_empty() {
        chosen.extend(rng.pick(&all));
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_partial_partition_cuts_something_and_all_graphs_occur() {
        let mut graphs = std::collections::BTreeSet::new();
        let mut rng = Rng::new(5);
        for _ in 0..1_000 {
            graphs.insert(random_pairs(&[4, 7, 9], &mut rng));
        }
        assert!(!graphs.contains(&Vec::new()));
        assert_eq!(graphs.len(), 7, "{graphs:?}");
        assert_eq!(random_pairs(&[4], &mut rng), []);
    }
}
