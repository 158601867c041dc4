//! A test on an existing cluster: a few faults, each requested by name, after a confirmation.
//!
//! It starts nothing and writes nothing to the registry, and undoes what it can. The cluster's own
//! supervisor must restart a killed process.

mod processes;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, IsTerminal, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use argosy_client::{Connector, Masters, OperatorClient};
use argosy_proto::v1;
use argosy_testbed::programs::UsageError;
use argosy_testbed::progress::ProgressDisplay;
use argosy_testbed::transport::ClientTransport;
use nix::sys::signal::Signal;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::arguments::RunArguments;
use super::audit;
use super::faults::FaultName;
use super::report::{
    EpochRecord, FaultLine, OperationCounts, Outage, ReportedViolation, RunReport,
};
use crate::invariants::Rule;
use crate::rng::Rng;
use processes::ListeningProcess;

/// Faults that can be injected into an existing cluster.
const POSSIBLE_FAULTS: [FaultName; 5] = [
    FaultName::KillLeader,
    FaultName::KillFollower,
    FaultName::PauseLeader,
    FaultName::PauseFollower,
    FaultName::TransferLeader,
];
/// Pause between two requests of the probe.
const PROBE_INTERVAL: Duration = Duration::from_millis(20);
/// Timeout of a request of the probe.
const DEADLINE: Duration = Duration::from_secs(10);
/// Timeout for the next leader, and for the return of a killed master.
const LEADER_TIMEOUT: Duration = Duration::from_secs(60);

struct ExistingCluster {
    operator: OperatorClient,
    display: ProgressDisplay,
    report: RunReport,
    rng: Rng,
    started: Instant,
}

/// Asks for confirmation, injects the faults and reports.
///
/// # Errors
/// [`UsageError`] before anything was done.
pub(crate) fn run_live(
    arguments: &RunArguments,
    masters: &Masters,
    seed: u64,
) -> Result<RunReport, anyhow::Error> {
    for fault in &arguments.only {
        if !POSSIBLE_FAULTS.contains(fault) {
            let names: Vec<_> = POSSIBLE_FAULTS.iter().map(|fault| fault.name()).collect();
            let text = format!(
                "{fault} cannot be injected into an existing cluster; possible faults: {}",
                names.join(", ")
            );
            return Err(UsageError(text).into());
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let transport = transport(arguments)?;
        let connector = Connector::new(masters.clone(), transport.connector());
        let operator = OperatorClient::new(connector);
        let cluster = read_cluster(&operator)
            .await
            .map_err(|error| UsageError(format!("{error:#}")))?;
        let needs_processes = arguments
            .only
            .iter()
            .any(|fault| *fault != FaultName::TransferLeader);
        if needs_processes {
            for master in &cluster.masters {
                processes::listener(&master.api_address).map_err(UsageError)?;
            }
        }
        confirm(arguments, &cluster)?;
        let stop = CancellationToken::new();
        argosy_testbed::testbed::watch_signals(stop.clone())?;
        let theirs = ExistingCluster {
            operator,
            display: ProgressDisplay::start(),
            report: RunReport {
                seed,
                uses_tls: arguments.tls.is_some(),
                size: format!("{}x{}", cluster.masters.len(), cluster.agents),
                version: cluster.protocol.map(|who| who.release).unwrap_or_default(),
                ..RunReport::default()
            },
            rng: Rng::new(seed),
            started: Instant::now(),
        };
        theirs.run(arguments, &stop).await
    })
}

/// Returns the transport that the command line names.
fn transport(arguments: &RunArguments) -> Result<ClientTransport, UsageError> {
    match (&arguments.tls, arguments.insecure_plaintext) {
        (Some(files), _) => {
            let credentials = files.load();
            let credentials = credentials.map_err(|error| UsageError(format!("{error:#}")))?;
            Ok(ClientTransport::tls(&credentials))
        }
        (None, true) => Ok(ClientTransport::default()),
        (None, false) => Err(UsageError(
            "an existing cluster needs --tls-cert, --tls-key and --tls-ca of an operator, or --insecure-plaintext".to_owned(),
        )),
    }
}

async fn read_cluster(operator: &OperatorClient) -> Result<v1::Cluster> {
    let request = v1::GetClusterRequest {
        consistency: v1::Consistency::Linearizable.into(),
    };
    operator
        .with_deadline(DEADLINE)
        .get_cluster(request)
        .await
        .context("the cluster does not respond")
}

fn confirm(arguments: &RunArguments, cluster: &v1::Cluster) -> Result<(), UsageError> {
    if arguments.yes {
        return Ok(());
    }
    let refused = |text: &str| Err(UsageError(text.to_owned()));
    if !std::io::stdin().is_terminal() {
        return refused("cannot ask for confirmation without a terminal: add --yes");
    }
    let names: Vec<_> = arguments.only.iter().map(|fault| fault.name()).collect();
    eprint!(
        "Cluster {} with {} masters, {} agents and {} live tasks is subject to {} for {:?}.\nType yes to continue: ",
        cluster.cluster_id,
        cluster.masters.len(),
        cluster.agents,
        cluster.tasks_live,
        names.join(", "),
        arguments.duration
    );
    // If the question cannot be shown, the answer is not yes.
    let _ = std::io::stderr().flush();
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    match (read, answer.trim()) {
        (Ok(_), "yes") => Ok(()),
        _ => refused("nothing was done"),
    }
}

impl ExistingCluster {
    async fn run(
        mut self,
        arguments: &RunArguments,
        stop: &CancellationToken,
    ) -> Result<RunReport> {
        let before = self.running().await?;
        let probing = self.probe();
        tokio::time::sleep(Duration::from_secs(1)).await;
        self.report.faults_ns.0 = self.now_ns();
        let mut rounds = 0;
        loop {
            let is_over = match arguments.rounds {
                Some(most) => rounds >= most,
                None => self.started.elapsed() >= arguments.duration,
            };
            if is_over || stop.is_cancelled() || !self.report.too_little.is_empty() {
                break;
            }
            rounds += 1;
            let Some(fault) = self.rng.pick(&arguments.only).copied() else {
                break;
            };
            self.round(fault).await?;
            tokio::time::sleep(Duration::from_millis(self.rng.between(500, 3_000))).await;
        }
        self.report.faults_ns.1 = self.now_ns();
        let (outages, reads) = probing.end().await?;
        self.report.outages = outages;
        self.report.operations.insert("read".to_owned(), reads);
        self.compare_tasks(before).await?;
        self.report.interrupted = stop.is_cancelled();
        self.report.seconds = self.started.elapsed().as_secs();
        if self.report.faults.is_empty() {
            self.report.too_little.push("no fault was done".to_owned());
        }
        Ok(self.report)
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Returns the running tasks, by framework and id.
    async fn running(&self) -> Result<BTreeSet<(String, String)>> {
        let live = audit::live_tasks(&self.operator).await?;
        Ok(live
            .into_iter()
            .filter(|task| task.state() == v1::TaskState::Running)
            .map(|task| (task.framework_id, task.task_id))
            .collect())
    }

    fn note_epoch(&mut self, cluster: &v1::Cluster) {
        if self
            .report
            .epoch_records
            .iter()
            .all(|epoch_record| epoch_record.epoch != cluster.epoch)
        {
            let seen_ns = self.now_ns();
            self.report.epoch_records.push(EpochRecord {
                epoch: cluster.epoch,
                leader: cluster.leader.clone(),
                seen_ns,
            });
        }
    }

    async fn round(&mut self, fault: FaultName) -> Result<()> {
        let cluster = read_cluster(&self.operator).await?;
        self.note_epoch(&cluster);
        let leads = |master: &&v1::Master| master.node_id == cluster.leader;
        let wants_leader = !matches!(fault, FaultName::KillFollower | FaultName::PauseFollower);
        let candidates: Vec<&v1::Master> = cluster
            .masters
            .iter()
            .filter(|master| master.voter && leads(master) == wants_leader)
            .collect();
        let Some(victim) = self.rng.pick(&candidates).map(|master| (*master).clone()) else {
            return Ok(());
        };
        let begun_ns = self.now_ns();
        self.display.print(&format!("{fault}: {}", victim.node_id));
        match fault {
            FaultName::TransferLeader => {
                let asked = self
                    .operator
                    .transfer_leader(v1::TransferLeaderRequest::default());
                if let Err(error) = asked.await {
                    self.display.print(&format!("it was refused: {error}"));
                }
            }
            FaultName::KillLeader | FaultName::KillFollower => self.kill(&victim).await?,
            _ => self.pause(&victim).await?,
        }
        let ended_ns = Some(self.now_ns());
        self.report.faults.push(FaultLine {
            fault: fault.name().to_owned(),
            target: victim.node_id,
            begun_ns,
            ended_ns,
            failure: None,
        });
        let after = read_cluster(&self.operator).await?;
        self.note_epoch(&after);
        Ok(())
    }

    async fn kill(&mut self, victim: &v1::Master) -> Result<()> {
        let listener = processes::listener(&victim.api_address).map_err(UsageError)?;
        listener.send(Signal::SIGKILL)?;
        let deadline = Instant::now() + LEADER_TIMEOUT;
        while Instant::now() < deadline {
            let again = processes::listener(&victim.api_address);
            if again.is_ok_and(|again: ListeningProcess| again != listener) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let why = format!(
            "{} at {} was not restarted within {LEADER_TIMEOUT:?}: start it manually",
            victim.node_id, victim.api_address
        );
        self.display.print(&why);
        self.report.too_little.push(why);
        Ok(())
    }

    async fn pause(&mut self, victim: &v1::Master) -> Result<()> {
        let listener = processes::listener(&victim.api_address).map_err(UsageError)?;
        listener.send(Signal::SIGSTOP)?;
        let time = Duration::from_millis(self.rng.between(300, 4_000));
        tokio::time::sleep(time).await;
        listener.send(Signal::SIGCONT)
    }

    /// Reports tasks that ran before and are lost now, although their end was not requested.
    async fn compare_tasks(&mut self, before: BTreeSet<(String, String)>) -> Result<()> {
        let compared = before.len() as u64;
        for (framework_id, id) in before {
            let request = v1::GetRequest {
                id: id.clone(),
                framework_id: framework_id.clone(),
                ..Default::default()
            };
            // A task that is no longer known has ended and was acknowledged.
            let Ok(task) = self.operator.get_task(request).await else {
                continue;
            };
            let is_lost = matches!(
                task.state(),
                v1::TaskState::Gone | v1::TaskState::Dropped | v1::TaskState::Unreachable
            );
            if is_lost {
                self.report.violations.push(ReportedViolation {
                    checker: Rule::TaskSurvival.to_string(),
                    what: format!(
                        "{framework_id}/{id} ran before and is {:?} now",
                        task.state()
                    ),
                    time_ns: None,
                });
            }
        }
        self.report.checkers = BTreeMap::from([("TaskSurvival".to_owned(), compared)]);
        Ok(())
    }

    fn probe(&self) -> Probe {
        let (operator, begun) = (self.operator.with_deadline(DEADLINE), self.started);
        let over = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&over);
        let asking = tokio::spawn(async move {
            let mut answered = vec![begun.elapsed()];
            let mut reads = OperationCounts::default();
            while !is_over.load(Ordering::Relaxed) {
                match read_cluster(&operator).await {
                    Ok(_) => {
                        reads.ok += 1;
                        answered.push(begun.elapsed());
                    }
                    Err(_) => reads.unknown += 1,
                }
                tokio::time::sleep(PROBE_INTERVAL).await;
            }
            answered.push(begun.elapsed());
            (answered, reads)
        });
        Probe {
            stop: over,
            task: asking,
        }
    }
}

/// A client that sends requests continuously.
struct Probe {
    stop: Arc<AtomicBool>,
    task: JoinHandle<(Vec<Duration>, OperationCounts)>,
}

impl Probe {
    async fn end(self) -> Result<(Vec<Outage>, OperationCounts)> {
        self.stop.store(true, Ordering::Relaxed);
        let (answered, reads) = self.task.await.context("the probe task failed")?;
        let ns = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let gaps = answered.windows(2).map(|pair| Outage {
            from_ns: ns(pair[0]),
            to_ns: ns(pair[1]),
        });
        let long = gaps.filter(|gap| gap.ms() >= super::report::OUTAGE_MS);
        Ok((long.collect(), reads))
    }
}
