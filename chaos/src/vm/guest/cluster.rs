//! Three masters that run the release executable, each on its own disk, and their client.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;
use argosy_client::{Connector, ConnectorConfig, Masters, OperatorClient};
use argosy_proto::v1;
use argosy_testbed::command_lines::{MasterFlags, MemberTransport};
use argosy_testbed::processes::{LaunchMethod, ManagedProcess, ProcessSpec, last_lines};
use tokio::time::Instant;

use super::super::report::GuestReport;
use super::{DISKS, ReportPort, disks};

/// The numbers of all masters.
pub(super) const ALL: [u64; DISKS] = [1, 2, 3];
/// Timeout of a call. It is long, because the machine is slow, and its host may be busy.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Interval of polling.
pub(super) const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Lines of a master's output that are shown.
const LOG_TAIL_LINES: usize = 25;

/// The last line of a master that its watchdog has ended.
const STALLED: &str = "the loop that owns the registry has not turned for 3 s";

/// All masters. They are killed when this value is dropped.
pub(super) struct GuestCluster {
    masters: Vec<ManagedProcess>,
    stalls: Stalls,
}

/// The reaction to the end of a master by its watchdog.
pub(super) enum Stalls {
    /// It is a failure.
    Fail,
    /// The master is started again, as by a service manager, and the host counts it: a busy host
    /// stalls an emulated processor.
    Restart(ReportPort),
}

fn host(number: u64) -> String {
    format!("127.0.0.{number}")
}

fn list(port: u16) -> String {
    let hosts = (ALL).map(|number| format!("{}:{port}", host(number)));
    hosts.join(",")
}

/// Returns the API addresses of all masters.
pub(super) fn addresses() -> String {
    list(5050)
}

fn log(number: u64) -> PathBuf {
    format!("/run/master-{number}.log").into()
}

fn master(number: u64) -> ManagedProcess {
    let flags = MasterFlags {
        listen: &host(number),
        peers: &list(5052),
        data_dir: &directory(number),
        // Nothing else runs in this machine, and handshakes are slow where it is emulated.
        transport: &MemberTransport::Plaintext,
    };
    // Long timeouts: this machine is emulated, and timing is not tested here.
    let more = ["--timing", "wan", "--log", "info,openraft=warn"];
    ManagedProcess::new(ProcessSpec {
        name: format!("master-{number}"),
        launch: LaunchMethod::Plain,
        program: "argosy".into(),
        arguments: flags.arguments(&more),
        log: log(number),
    })
}

/// Returns the data directory of a master. Its last log lines must name it when the disk fails.
pub(super) fn directory(number: u64) -> PathBuf {
    disks::directory(number).join("master")
}

impl GuestCluster {
    /// Starts all masters.
    pub(super) fn start(stalls: Stalls) -> anyhow::Result<Self> {
        let mut masters: Vec<_> = ALL.into_iter().map(master).collect();
        for master in &mut masters {
            master.start()?;
        }
        Ok(Self { masters, stalls })
    }

    fn master(&mut self, number: u64) -> &mut ManagedProcess {
        let index = usize::try_from(number - 1).expect("there are few masters");
        &mut self.masters[index]
    }

    pub(super) fn start_one(&mut self, number: u64) -> anyhow::Result<()> {
        Ok(self.master(number).start()?)
    }

    pub(super) fn kill(&mut self, number: u64) {
        self.master(number).kill();
    }

    /// Whether this master has ended by itself.
    pub(super) fn has_ended(&mut self, number: u64) -> bool {
        self.master(number).exit_status().is_some()
    }

    /// Fails if one of these masters has ended without being killed.
    pub(super) fn check_running(&mut self, masters: &[u64]) -> anyhow::Result<()> {
        for &number in masters {
            if !self.has_ended(number) {
                continue;
            }
            match &self.stalls {
                Stalls::Restart(port) if last_lines(&log(number), 1).contains(STALLED) => {
                    port.send(&GuestReport::Stalled { master: number })?;
                    self.start_one(number)?;
                }
                Stalls::Restart(_) | Stalls::Fail => {
                    bail!("master-{number} has ended by itself: {}", log_tail(number));
                }
            }
        }
        Ok(())
    }
}

/// Returns the last output of a master.
pub(super) fn log_tail(number: u64) -> String {
    last_lines(&log(number), LOG_TAIL_LINES).replace('\n', " | ")
}

/// Returns the whole output of a master.
pub(super) fn log_text(number: u64) -> String {
    std::fs::read_to_string(log(number)).unwrap_or_default()
}

/// Returns a client of all masters.
pub(super) fn client() -> anyhow::Result<OperatorClient> {
    Ok(operator(addresses().parse()?))
}

/// Returns a client of one master.
fn client_of(number: u64) -> anyhow::Result<OperatorClient> {
    Ok(operator(Masters::new([host(number)])?))
}

fn operator(masters: Masters) -> OperatorClient {
    let connector = Connector::new(masters, ConnectorConfig::default());
    OperatorClient::new(connector).with_deadline(CALL_TIMEOUT)
}

async fn read_cluster(number: u64, consistency: v1::Consistency) -> anyhow::Result<v1::Cluster> {
    let request = v1::GetClusterRequest {
        consistency: consistency.into(),
    };
    let client = client_of(number)?.with_deadline(Duration::from_secs(3));
    Ok(client.get_cluster(request).await?)
}

/// Returns a master's local copy of the cluster state.
pub(super) async fn copy_of(number: u64) -> anyhow::Result<v1::Cluster> {
    let cluster = read_cluster(number, v1::Consistency::Local).await?;
    let requested = format!("master-{number}");
    if cluster.answered_by != requested {
        bail!(
            "request to {requested} was answered by {}",
            cluster.answered_by
        );
    }
    Ok(cluster)
}

/// Waits until a quorum answers. Returns the milliseconds that it took.
pub(super) async fn wait_for_quorum(
    cluster: &mut GuestCluster,
    timeout: Duration,
) -> anyhow::Result<u64> {
    let (started, client) = (Instant::now(), client()?);
    loop {
        let request = v1::GetClusterRequest {
            consistency: v1::Consistency::Linearizable.into(),
        };
        let short = client.with_deadline(Duration::from_secs(2));
        match short.get_cluster(request).await {
            Ok(_) => {
                let ms = started.elapsed().as_millis();
                return Ok(u64::try_from(ms).unwrap_or(u64::MAX));
            }
            Err(error) if started.elapsed() > timeout => {
                bail!("no quorum within {} s: {error}", timeout.as_secs());
            }
            Err(_) => cluster.check_running(&ALL)?,
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
