//! Three members of one side on loopback addresses: started, killed, restarted, queried.
//!
//! Real processes with fsync on. Everything ends, and its directory goes, with the value.

mod access;
mod agent;
mod argosy;
mod etcd;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use argosy_client::Masters;
use argosy_testbed::processes::ManagedProcess;
use argosy_testbed::transport::ClientTransport;
use argosy_testbed::waiting::poll_running;
use nix::sys::signal::Signal;
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

use crate::cpu::resident_bytes;
use crate::report::Side;

use access::Transports;

pub(crate) use access::MasterAccess;
pub(crate) use agent::{AgentKind, RealAgent};
pub(crate) use argosy::{MasterClient, check_build};
pub(crate) use etcd::{version as etcd_version, wire as etcd_wire};

/// Members of a cluster.
pub(crate) const MEMBERS: usize = 3;
/// Timeout for the agreement of a cluster after a start or restart.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Pause between two checks of that.
const POLL_PAUSE: Duration = Duration::from_millis(50);
/// Timeout of a connection.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Timeout of one member's report.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum distance, in entries, of members that count as caught up.
const CAUGHT_UP: u64 = 4;

/// The executable and the directory of all clusters of a run.
#[derive(Debug)]
pub(crate) struct BenchEnvironment {
    /// The executable that is measured.
    pub(crate) argosy: PathBuf,
    /// The directory for the data of all clusters of a run, until the run ends. A cluster does not
    /// delete its own: ext4 without a journal checks every recently freed inode before it
    /// makes a file, so that what one cluster leaves behind would slow down the next.
    pub(crate) directory: TempDir,
    /// Whether clusters of [`Side::Argosy`] use TLS.
    with_tls: bool,
}

impl BenchEnvironment {
    /// # Errors
    /// If nothing can be made in `parent`.
    pub(crate) fn new(argosy: PathBuf, parent: &Path, keep: bool, with_tls: bool) -> Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("argosy-bench-")
            .permissions(searchable())
            .disable_cleanup(keep)
            .tempdir_in(parent)
            .with_context(|| format!("cannot make a directory in {}", parent.display()))?;
        Ok(Self {
            argosy,
            directory,
            with_tls,
        })
    }
}

/// Agents that have given up root pass through to their own.
fn searchable() -> std::fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o711)
}

pub(crate) struct ClusterMember {
    /// Address of its API, `host:port`.
    pub(crate) api: String,
    /// To its API; connects by itself, again after a restart.
    pub(crate) channel: Channel,
    process: ManagedProcess,
}

/// Three members.
pub(crate) struct Cluster {
    pub(crate) side: Side,
    // Before the directory: processes end first.
    pub(crate) members: Vec<ClusterMember>,
    transports: Transports,
    directory: TempDir,
}

/// The log of one member, as it reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct LogStatus {
    /// Newest entry applied.
    applied: u64,
    term: u64,
    /// The newest epoch; 0 of a peer, which has none.
    epoch: u64,
}

impl Cluster {
    /// Starts members and waits until they agree.
    ///
    /// # Errors
    /// If a member ends or they do not agree within a minute.
    pub(crate) async fn start(side: Side, environment: &BenchEnvironment) -> Result<Self> {
        Self::start_with(side, environment, &[]).await
    }

    /// The same, with these arguments for every member.
    ///
    /// # Errors
    /// As for `start`.
    pub(crate) async fn start_with(
        side: Side,
        environment: &BenchEnvironment,
        more: &[&str],
    ) -> Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix(&format!("{side}-"))
            .permissions(searchable())
            .disable_cleanup(true)
            .tempdir_in(&environment.directory)
            .with_context(|| {
                format!(
                    "cannot make a directory in {}",
                    environment.directory.path().display()
                )
            })?;
        let transports = match side {
            Side::Argosy if environment.with_tls => Transports::tls(directory.path())?,
            Side::Argosy | Side::Plaintext | Side::Etcd | Side::Hyperqueue => {
                Transports::plaintext()
            }
        };
        let specs = match side {
            Side::Argosy | Side::Plaintext => {
                argosy::specs(&environment.argosy, directory.path(), &transports)?
            }
            Side::Etcd => etcd::specs(directory.path())?,
            Side::Hyperqueue => bail!("HyperQueue is not a cluster of members"),
        };
        let mut members = Vec::with_capacity(MEMBERS);
        for (api, mut spec) in specs {
            let more = more.iter().map(|argument| (*argument).to_owned());
            spec.arguments.extend(more);
            let mut process = ManagedProcess::new(spec);
            process.start()?;
            let channel = transports.operator.channel(&api, CONNECT_TIMEOUT);
            members.push(ClusterMember {
                api,
                channel,
                process,
            });
        }
        let mut cluster = Self {
            side,
            members,
            transports,
            directory,
        };
        cluster.wait_until_settled().await?;
        Ok(cluster)
    }

    /// Returns the directory with the data of its members.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Returns how clients reach the masters.
    ///
    /// # Errors
    /// If an address is none.
    pub(crate) fn access(&self) -> Result<MasterAccess> {
        let masters = Masters::new(self.members.iter().map(|member| &member.api))?;
        Ok(MasterAccess::new(masters, &self.transports))
    }

    /// Returns the transport of a further operator with this name; `None` without TLS, where a
    /// caller has no name.
    ///
    /// # Errors
    /// If its certificate cannot be created.
    pub(crate) fn operator(&self, name: &str) -> Result<Option<ClientTransport>> {
        self.transports.of_operator(name)
    }

    /// Returns a new, open connection to a member.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub(crate) async fn connect(&self, index: usize) -> Result<Channel> {
        let api = &self.members[index].api;
        match self.side {
            Side::Argosy | Side::Plaintext => {
                let channel = self.transports.operator.channel(api, CONNECT_TIMEOUT);
                // Opens it.
                argosy::log_status(channel.clone()).await?;
                Ok(channel)
            }
            Side::Etcd | Side::Hyperqueue => Ok(channel(api)?.connect().await?),
        }
    }

    /// Process ids of the members that run.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.members
            .iter()
            .filter_map(|member| member.process.pid())
            .collect()
    }

    /// The process id of one member.
    ///
    /// # Errors
    /// If it does not run.
    pub(crate) fn pid(&self, index: usize) -> Result<u32> {
        let pid = self.members[index].process.pid();
        pid.context("the member does not run")
    }

    /// The resident memory of one member, in MiB.
    ///
    /// # Errors
    /// If it does not run.
    pub(crate) fn resident_mib(&self, index: usize) -> Result<f64> {
        let bytes = resident_bytes(self.pid(index)?).context("the member is gone")?;
        Ok(bytes as f64 / f64::from(1 << 20))
    }

    /// # Errors
    /// If the member does not run.
    pub(crate) fn signal(&self, index: usize, signal: Signal) -> Result<()> {
        Ok(self.members[index].process.send(signal)?)
    }

    /// Makes sure that the member is dead, and starts it again on its data.
    ///
    /// # Errors
    /// If it cannot be started.
    pub(crate) fn restart(&mut self, index: usize) -> Result<()> {
        let process = &mut self.members[index].process;
        process.kill();
        Ok(process.start()?)
    }

    /// Waits until all members run, vote, name the same leader and have applied the same; returns
    /// the index of the leader.
    ///
    /// # Errors
    /// If one ends, or after a minute, with their last reports.
    pub(crate) async fn wait_until_settled(&mut self) -> Result<usize> {
        let members = self.members.iter();
        let (apis, channels): (Vec<_>, Vec<_>) = members
            .map(|member| (member.api.clone(), member.channel.clone()))
            .unzip();
        let processes = self.members.iter_mut().map(|member| &mut member.process);
        let settled = match self.side {
            Side::Argosy | Side::Plaintext => {
                let check = argosy::health_check(apis, self.transports.operator.clone());
                check.wait_running(processes, SETTLE_TIMEOUT).await
            }
            Side::Etcd | Side::Hyperqueue => {
                let check = async || etcd::leader(&channels).await;
                poll_running(processes, SETTLE_TIMEOUT, POLL_PAUSE, check).await
            }
        };
        settled.with_context(|| format!("{} does not agree", self.side))
    }

    /// The newest entry that any member has applied.
    ///
    /// # Errors
    /// If one does not answer.
    pub(crate) async fn applied(&self) -> Result<u64> {
        let mut newest = 0;
        for index in 0..self.members.len() {
            newest = newest.max(self.log_status(index).await?.applied);
        }
        Ok(newest)
    }

    /// The number of entries after the one that opened the newest epoch, without the member at
    /// `gone`.
    ///
    /// # Errors
    /// If one of the others does not answer.
    pub(crate) async fn entries_of_epoch(&self, gone: usize) -> Result<u64> {
        let (mut epoch, mut applied) = (0, 0);
        for index in (0..self.members.len()).filter(|index| *index != gone) {
            let status = self.log_status(index).await?;
            // The number of an epoch is the log index of its first entry.
            epoch = epoch.max(status.epoch);
            applied = applied.max(status.applied);
        }
        Ok(applied.saturating_sub(epoch))
    }

    /// The newest term that any member knows.
    ///
    /// # Errors
    /// If one does not answer.
    pub(crate) async fn term(&self) -> Result<u64> {
        let mut newest = 0;
        for index in 0..self.members.len() {
            newest = newest.max(self.log_status(index).await?.term);
        }
        Ok(newest)
    }

    async fn log_status(&self, index: usize) -> Result<LogStatus> {
        let channel = self.members[index].channel.clone();
        match self.side {
            Side::Argosy | Side::Plaintext => argosy::log_status(channel).await,
            Side::Etcd | Side::Hyperqueue => etcd::log_status(channel).await,
        }
    }
}

/// Returns a channel to a member without TLS.
///
/// # Errors
/// If the address is none.
pub(crate) fn channel(api: &str) -> Result<Endpoint> {
    let endpoint = Endpoint::from_shared(format!("http://{api}"))
        .with_context(|| format!("{api} is no address"))?;
    Ok(endpoint.tcp_nodelay(true).connect_timeout(CONNECT_TIMEOUT))
}
