//! Three masters that run the release executable, each on its own disk, and their client.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use argosy_client::{Connector, ConnectorConfig, Masters, OperatorClient};
use argosy_proto::v1;
use tokio::time::Instant;

use super::{DISKS, disks};

/// The numbers of all masters.
pub(super) const ALL: [u64; DISKS] = [1, 2, 3];
/// Timeout of a call. It is long, because the machine is slow.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);
/// Interval of polling.
pub(super) const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Lines of a master's output that are shown.
const LOG_TAIL_LINES: usize = 25;

struct GuestMaster {
    number: u64,
    child: Option<Child>,
}

/// All masters. They are killed when this value is dropped.
pub(super) struct GuestCluster {
    masters: Vec<GuestMaster>,
}

fn host(number: u64) -> String {
    format!("127.0.0.{number}")
}

fn list(port: u16) -> String {
    let hosts = (ALL).map(|number| format!("{}:{port}", host(number)));
    hosts.join(",")
}

fn log(number: u64) -> PathBuf {
    format!("/run/master-{number}.log").into()
}

impl GuestMaster {
    fn start(&mut self) -> anyhow::Result<()> {
        let out = File::options()
            .create(true)
            .append(true)
            .open(log(self.number))?;
        let child = Command::new("argosy")
            .args(["master", "start", "--listen", &host(self.number)])
            // Long timeouts: this machine is emulated, and timing is not tested here.
            .args(["--timing", "wan", "--peers", &list(5052), "--data-dir"])
            .arg(directory(self.number))
            .env("ARGOSY_LOG", "info,openraft=warn")
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .context("cannot start argosy")?;
        self.child = Some(child);
        Ok(())
    }

    fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            // A master that has ended by itself is only waited for.
            let _ = child.kill();
            child.wait()?;
        }
        Ok(())
    }
}

/// Returns the data directory of a master. Its last log lines must name it when the disk fails.
pub(super) fn directory(number: u64) -> PathBuf {
    disks::folder(number).join("master")
}

impl GuestCluster {
    /// Starts all masters.
    pub(super) fn start() -> anyhow::Result<Self> {
        let mut masters = Vec::new();
        for number in ALL {
            let mut master = GuestMaster {
                number,
                child: None,
            };
            master.start()?;
            masters.push(master);
        }
        Ok(Self { masters })
    }

    fn master(&mut self, number: u64) -> &mut GuestMaster {
        let index = usize::try_from(number - 1).expect("there are few masters");
        &mut self.masters[index]
    }

    pub(super) fn start_one(&mut self, number: u64) -> anyhow::Result<()> {
        self.master(number).start()
    }

    pub(super) fn kill(&mut self, number: u64) -> anyhow::Result<()> {
        self.master(number).kill()
    }

    /// Whether this master has ended by itself.
    pub(super) fn has_ended(&mut self, number: u64) -> anyhow::Result<bool> {
        match &mut self.master(number).child {
            Some(child) => Ok(child.try_wait()?.is_some()),
            None => Ok(false),
        }
    }

    /// Fails if one of these masters has ended without being killed.
    pub(super) fn check_running(&mut self, masters: &[u64]) -> anyhow::Result<()> {
        for &number in masters {
            if self.has_ended(number)? {
                bail!("master-{number} has ended by itself: {}", log_tail(number));
            }
        }
        Ok(())
    }
}

impl Drop for GuestCluster {
    fn drop(&mut self) {
        for master in &mut self.masters {
            // The machine ends soon, whatever happens here.
            let _ = master.kill();
        }
    }
}

/// Returns the last output of a master.
pub(super) fn log_tail(number: u64) -> String {
    let text = log_text(number);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join(" | ")
}

/// Returns the whole output of a master.
pub(super) fn log_text(number: u64) -> String {
    std::fs::read_to_string(log(number)).unwrap_or_default()
}

/// Returns a client of all masters.
pub(super) fn client() -> anyhow::Result<OperatorClient> {
    Ok(operator(list(5050).parse()?))
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
    let asked = format!("master-{number}");
    if cluster.answered_by != asked {
        bail!("request to {asked} was answered by {}", cluster.answered_by);
    }
    Ok(cluster)
}

/// Waits until a quorum answers. Returns the milliseconds that it took.
pub(super) async fn wait_for_quorum(
    cluster: &mut GuestCluster,
    patience: Duration,
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
            Err(error) if started.elapsed() > patience => {
                bail!("no quorum within {} s: {error}", patience.as_secs());
            }
            Err(_) => cluster.check_running(&ALL)?,
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
