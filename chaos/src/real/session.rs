//! One run from the first start to the final audit: faults, healing, audit, end.
//!
//! Every step has a timeout, and each one that is exceeded is a violation.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use argosy_client::OperatorClient;
use argosy_proto::v1;
use argosy_state::ids::{AgentId, TaskKey};
use argosy_testbed::cluster::Cluster;
use argosy_testbed::members::{MemberKind, REGISTER_HOST};
use argosy_testbed::progress::ProgressDisplay;
use argosy_testbed::schedulers::WorkPhase;
use argosy_testbed::watch::lock;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::agent_disks;
use super::arguments::FaultTiming;
use super::audit;
use super::exec_prober::{ExecFindings, ExecProber};
use super::framework::FrameworkProgress;
use super::growth::{Growth, GrowthRecorder};
use super::log_follower::{LogFindings, LogFollower};
use super::master_recorder::MasterRecorder;
use super::nemesis::{FaultSource, Nemesis};
use super::port_prober::{PortFindings, PortProber};
use super::registers::Registers;
use super::registry_observer::RegistryObserver;
use super::report::{EpochRecord, FaultLine, ReportedViolation, TaskCount};
use crate::history::{AuditFinding, Expectation, ProcessName, Recorder, RunPhase, TaskFact};
use crate::rng::Rng;
use crate::workload::registers::{RegisterClient, RegisterResult};
use crate::workload::rights;

/// Work before the first fault.
const WARM_UP: Duration = Duration::from_secs(2);
/// Timeout for complete recovery after the faults are over.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(90);
/// Timeout for a process to end after a request.
const EXIT_TIMEOUT: Duration = Duration::from_secs(20);
/// Interval of polling.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The findings of a session, in addition to its history.
#[derive(Default)]
pub(crate) struct SessionFindings {
    pub(crate) faults: Vec<FaultLine>,
    pub(crate) violations: Vec<ReportedViolation>,
    pub(crate) epochs: Vec<EpochRecord>,
    pub(crate) tasks: Vec<TaskCount>,
    pub(crate) faults_ns: (u64, u64),
    pub(crate) execs: ExecFindings,
    pub(crate) ports: PortFindings,
    pub(crate) logs: LogFindings,
    /// Reports of changed limits.
    pub(crate) limit_reports: u64,
    pub(crate) growth: Vec<Growth>,
    cgroups: BTreeSet<PathBuf>,
}

/// A run on a cluster.
pub(crate) struct RunSession<'a> {
    cluster: Cluster,
    recorder: Recorder,
    display: &'a ProgressDisplay,
    stop: CancellationToken,
    rng: Rng,
    timing: FaultTiming,
    findings: SessionFindings,
    masters: Arc<MasterRecorder>,
    /// The number of tasks over time.
    task_counts: TaskCounts,
}

impl<'a> RunSession<'a> {
    pub(crate) fn new(
        cluster: Cluster,
        recorder: Recorder,
        display: &'a ProgressDisplay,
        stop: CancellationToken,
        (rng, timing): (Rng, FaultTiming),
    ) -> Self {
        Self {
            cluster,
            masters: MasterRecorder::new(recorder.clone()),
            recorder,
            display,
            stop,
            rng,
            timing,
            findings: SessionFindings::default(),
            task_counts: TaskCounts::default(),
        }
    }

    /// Runs all steps. The findings from before an error are in `found`.
    pub(crate) async fn run(&mut self, plan: FaultSource) -> Result<()> {
        self.cluster.set_phase(WorkPhase::Work)?;
        self.masters.follow(&self.cluster.watch);
        agent_disks::mount_all(&self.cluster)?;
        self.cluster
            .start()
            .await
            .context("the cluster does not start")?;
        self.display.print(&format!(
            "{} masters, {} agents, {} schedulers are up",
            self.cluster.voters.len(),
            self.cluster.workers().len(),
            self.cluster.hosts_of(MemberKind::Framework).len()
        ));
        self.findings.cgroups = self.cluster.record_cgroups()?;
        let operator = self.cluster.operator();
        let ids = self.cluster.agent_ids().await?;
        let register = ids
            .get(REGISTER_HOST)
            .context("the agent with the registers is not registered")?;
        let register_name = register.to_string();
        let registers = Registers::start(&self.cluster, &register_name, &self.recorder, &self.rng);
        let observer = RegistryObserver::start(operator.clone(), self.recorder.clone());
        let counts = self.count_tasks();
        let prober = ExecProber::start(&self.cluster, self.rng.fork(0x6578_6563));
        let ports = PortProber::start(&self.cluster, self.rng.fork(0x706f_7274));
        let follower = LogFollower::start(&self.cluster, self.rng.fork(0x6c6f_6773));
        let growth = GrowthRecorder::start(&self.cluster, self.recorder.clone());
        tokio::time::sleep(WARM_UP).await;
        self.phase(RunPhase::Faults);
        self.findings.faults_ns.0 = self.recorder.now_ns();
        self.inject_faults(plan, &registers).await?;
        self.findings.faults_ns.1 = self.recorder.now_ns();
        self.findings.growth = growth.finish().await?;
        self.phase(RunPhase::Healing);
        self.expect_services();
        let is_healthy = self.heal().await?;
        registers.stop().await;
        self.findings.execs = prober.finish(is_healthy).await?;
        self.findings.ports = ports.finish(is_healthy).await?;
        self.findings.logs = follower.finish(is_healthy).await?;
        self.phase(RunPhase::Final);
        // Otherwise each of these would only wait for its timeout, and name its own rule.
        if is_healthy {
            self.read_registers(&operator, register).await;
            self.audit(&operator, &ids).await;
        }
        if let Err(error) = observer.finish().await {
            self.violation("Liveness", format!("{error:#}"));
        }
        if is_healthy {
            self.end_services().await?;
            self.check_leftovers();
        }
        counts.abort();
        self.stop_members().await;
        self.findings.epochs = self.epochs();
        Ok(())
    }

    fn phase(&self, phase: RunPhase) {
        self.recorder
            .observe("nemesis", Expectation::Phase { phase });
    }

    async fn inject_faults(&mut self, plan: FaultSource, registers: &Registers) -> Result<()> {
        let (watch, masters) = (self.cluster.watch.clone(), Arc::clone(&self.masters));
        let pulse = || {
            let counted = registers.counters();
            let load = |number: &std::sync::atomic::AtomicU64| {
                number.load(std::sync::atomic::Ordering::Relaxed)
            };
            let leader = watch
                .leader()
                .map_or_else(|| "none".to_owned(), |place| format!("{}", place + 1));
            format!(
                "leader {leader}, {} operations, {} unknown, {} epochs",
                load(&counted.answered),
                load(&counted.unknown),
                masters.epochs().len()
            )
        };
        let mut nemesis = Nemesis {
            cluster: &mut self.cluster,
            rng: self.rng.fork(0x6661_756c),
            timing: self.timing,
            recorder: &self.recorder,
            display: self.display,
            stop: &self.stop,
            faults: Vec::new(),
            violations: Vec::new(),
            status: &pulse,
            ends: BTreeMap::new(),
            is_over: false,
        };
        let raged = nemesis.run(plan).await;
        let (faults, violations) = (
            std::mem::take(&mut nemesis.faults),
            std::mem::take(&mut nemesis.violations),
        );
        self.findings.faults.extend(faults);
        self.findings.violations.extend(violations);
        raged
    }

    /// Ends all faults. Then the cluster must become healthy, and all short tasks must end. Returns
    /// whether it is healthy.
    async fn heal(&mut self) -> Result<bool> {
        self.display.print("healing");
        self.cluster.end_disturbances()?;
        for member in &mut self.cluster.members {
            member.resume();
        }
        for place in self.cluster.voters.clone() {
            self.cluster.restart(place)?;
        }
        for kind in [MemberKind::Agent, MemberKind::Framework] {
            for place in self.cluster.hosts_of(kind) {
                self.cluster.members[place].start()?;
            }
        }
        self.cluster.set_phase(WorkPhase::Drain)?;
        if let Err(error) = self.cluster.await_health(RECOVERY_TIMEOUT).await {
            self.violation(
                "Liveness",
                format!("the cluster is not in health again: {error:#}"),
            );
            return Ok(false);
        }
        let wanted = WorkPhase::Drain;
        self.await_frameworks("Kills", wanted, "killed tasks are open", |progress| {
            progress.killed.is_empty()
        })
        .await;
        self.await_frameworks("Agreement", wanted, "short tasks are open", |progress| {
            let is_short = |id: &&String| !id.contains("-service-");
            let short = progress.open.iter().filter(is_short).count();
            let services = progress.open.len() - short;
            short == 0 && services == progress.services.len()
        })
        .await;
        let otherwise = "groups have ended in part";
        self.await_frameworks("GroupAtomicity", wanted, otherwise, |progress| {
            progress.broken_groups.is_empty()
        })
        .await;
        let otherwise = "changed limits are not reported";
        self.await_frameworks("LimitEnforcement", wanted, otherwise, |progress| {
            progress.unreported_limits.is_empty()
        })
        .await;
        for place in self.cluster.hosts_of(MemberKind::Framework) {
            self.findings.limit_reports += self.progress(place).limit_reports;
        }
        Ok(true)
    }

    /// Waits until every framework reports it.
    async fn await_frameworks(
        &mut self,
        rule: &str,
        wanted: WorkPhase,
        otherwise: &str,
        is_done: impl Fn(&FrameworkProgress) -> bool,
    ) {
        let deadline = Instant::now() + RECOVERY_TIMEOUT;
        for place in self.cluster.hosts_of(MemberKind::Framework) {
            loop {
                let progress = self.progress(place);
                let done = progress.wanted == wanted.word() && is_done(&progress);
                if done {
                    break;
                }
                if Instant::now() >= deadline {
                    let name = self.cluster.members[place].name().to_owned();
                    let why =
                        format!("{name}: {otherwise} after {RECOVERY_TIMEOUT:?}: {progress:?}");
                    self.violation(rule, why);
                    break;
                }
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        }
    }

    fn progress(&self, place: usize) -> FrameworkProgress {
        FrameworkProgress::read(&self.cluster.data(place).join("progress"))
    }

    /// Reads every register in use once more. It must hold the last write.
    async fn read_registers(&mut self, operator: &OperatorClient, register: &AgentId) {
        let request = v1::GetRequest {
            id: register.to_string(),
            consistency: v1::Consistency::Linearizable.into(),
            ..Default::default()
        };
        let Ok(agent) = operator.get_agent(request).await else {
            let why = "the registers cannot be read at the end";
            return self.violation("Liveness", why.to_owned());
        };
        let attributes = agent.info.map(|info| info.attributes).unwrap_or_default();
        let registers = RegisterClient {
            operator: operator.clone(),
            recorder: self.recorder.clone(),
            agent: register.to_string(),
        };
        let names = attributes.keys();
        for name in names.filter(|name| *name != rights::ATTRIBUTE) {
            let read = registers.read(ProcessName::new("auditor"), name).await;
            if let RegisterResult::Failed { call, error } = read {
                self.recorder.info(call, error.to_string());
            }
        }
    }

    /// Records the expectation that running services continue until their framework ends them.
    fn expect_services(&mut self) {
        let processes = audit::task_processes(&self.cluster.environment.directory);
        let mut services = BTreeSet::new();
        for place in self.cluster.hosts_of(MemberKind::Framework) {
            services.extend(self.progress(place).services);
        }
        let (of_services, _): (Vec<_>, Vec<_>) = processes
            .into_iter()
            .partition(|process| services.contains(process.task.task.as_str()));
        self.note_alive(&of_services);
        let tasks: BTreeSet<TaskKey> = of_services.into_iter().map(|one| one.task).collect();
        for task in tasks {
            self.recorder
                .observe("auditor", Expectation::KeepsRunning { task });
        }
    }

    /// Records the first process of each task, as the kernel reports it.
    fn note_alive(&self, processes: &[audit::TaskProcess]) {
        let boot_id = argosy_host::process::boot_id().unwrap_or_default();
        let mut noted = BTreeSet::new();
        for process in processes {
            let (Some(agent), true) = (process.agent, noted.insert(&process.task)) else {
                continue;
            };
            let fact = TaskFact::Alive {
                task: process.task.clone(),
                agent,
                pid: process.pid.cast_unsigned(),
                start_time: process.start_ticks,
                boot_id: boot_id.clone(),
                progress: None,
            };
            self.recorder.observe("auditor", fact);
        }
    }

    /// Compares the tasks of the registry with the existing processes.
    async fn audit(&mut self, operator: &OperatorClient, ids: &BTreeMap<String, AgentId>) {
        let listed = match audit::live_tasks(operator).await {
            Ok(listed) => listed,
            Err(error) => return self.violation("Liveness", format!("{error:#}")),
        };
        let processes = audit::task_processes(&self.cluster.environment.directory);
        let mut by_agent: BTreeMap<AgentId, BTreeSet<TaskKey>> = BTreeMap::new();
        for place in self.cluster.workers() {
            if let Some(id) = ids.get(self.cluster.members[place].name()) {
                by_agent.entry(*id).or_default();
            }
        }
        for process in &processes {
            let Some(agent) = process.agent else { continue };
            by_agent
                .entry(agent)
                .or_default()
                .insert(process.task.clone());
        }
        self.note_alive(&processes);
        for (agent, tasks) in by_agent {
            let tasks = tasks.into_iter().collect();
            self.recorder
                .observe("auditor", AuditFinding::Host { agent, tasks });
        }
        let tasks = listed.iter().filter_map(audit::final_task).collect();
        self.recorder
            .observe("auditor", AuditFinding::Registry { tasks });
    }

    /// Lets frameworks end their services. Then nothing of any task may remain.
    async fn end_services(&mut self) -> Result<()> {
        self.display.print("ending services");
        self.cluster.set_phase(WorkPhase::End)?;
        self.await_frameworks(
            "Agreement",
            WorkPhase::End,
            "services are open",
            |progress| progress.open.is_empty(),
        )
        .await;
        let deadline = Instant::now() + EXIT_TIMEOUT;
        while !self.leftovers().is_empty() && Instant::now() < deadline {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        Ok(())
    }

    fn leftovers(&self) -> Vec<String> {
        let processes = audit::task_processes(&self.cluster.environment.directory);
        let mut left: Vec<String> = processes
            .iter()
            .map(|process| format!("process {} of {}", process.pid, process.task))
            .collect();
        left.extend(audit::container_groups(&self.findings.cgroups));
        left
    }

    fn check_leftovers(&mut self) {
        let leftovers = self.leftovers();
        let looked_at = (self.findings.cgroups.len() + self.cluster.workers().len()) as u64;
        self.recorder.observe(
            "auditor",
            AuditFinding::Leftovers {
                place: "agents".to_owned(),
                looked_at,
                leftovers,
            },
        );
    }

    /// Ends all members in order.
    async fn stop_members(&mut self) {
        for place in self.cluster.hosts_of(MemberKind::Framework) {
            self.cluster.members[place].kill();
        }
        for kind in [MemberKind::Agent, MemberKind::Master] {
            for place in self.cluster.hosts_of(kind) {
                if let Err(error) = self.cluster.members[place].stop(EXIT_TIMEOUT).await {
                    self.violation("member-ended", error.to_string());
                }
            }
        }
    }

    /// Records the number of tasks twice a second.
    fn count_tasks(&mut self) -> tokio::task::AbortHandle {
        let places = self.cluster.hosts_of(MemberKind::Framework);
        let files: Vec<PathBuf> = places
            .into_iter()
            .map(|place| self.cluster.data(place).join("progress"))
            .collect();
        let recorder = self.recorder.clone();
        let counts = Arc::clone(&self.task_counts);
        let counting = tokio::spawn(async move {
            loop {
                let mut count = TaskCount {
                    time_ns: recorder.now_ns(),
                    ..TaskCount::default()
                };
                for file in &files {
                    let progress = FrameworkProgress::read(file);
                    count.launched += progress.launched;
                    count.ended += progress.ended;
                }
                lock(&counts).push(count);
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        });
        counting.abort_handle()
    }

    fn epochs(&self) -> Vec<EpochRecord> {
        let name = |place| super::inject::name_of(&self.cluster, place);
        let epoch_records = self.masters.epochs().into_iter();
        epoch_records
            .map(|(epoch, place, seen_ns)| EpochRecord {
                epoch,
                leader: name(place),
                seen_ns,
            })
            .collect()
    }

    /// Returns the findings, also after an error.
    pub(crate) fn take_findings(&mut self) -> SessionFindings {
        self.findings.epochs = self.epochs();
        self.findings.tasks = std::mem::take(&mut *lock(&self.task_counts));
        std::mem::take(&mut self.findings)
    }

    fn violation(&mut self, checker: &str, what: String) {
        self.display.print(&format!("VIOLATION {checker}: {what}"));
        self.findings.violations.push(ReportedViolation {
            checker: checker.to_owned(),
            what,
            time_ns: Some(self.recorder.now_ns()),
        });
    }
}

/// Task counts that a separate task appends to.
type TaskCounts = Arc<Mutex<Vec<TaskCount>>>;
