//! Three members of one side on loopback addresses: started, killed, restarted, queried.
//!
//! Real processes with fsync on. Everything ends, and its directory goes, with the value.

mod agent;
mod argosy;
mod etcd;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use argosy_testbed::processes::ManagedProcess;
use nix::sys::signal::Signal;
use tempfile::TempDir;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};

use crate::report::Side;

pub(crate) use agent::{AgentKind, RealAgent};
pub(crate) use argosy::{MasterClient, check_build};
pub(crate) use etcd::{version as etcd_version, wire as etcd_wire};

/// Members of a cluster.
pub(crate) const MEMBERS: usize = 3;
/// Timeout for the agreement of a cluster after a start or restart.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(60);
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
}

impl BenchEnvironment {
    /// # Errors
    /// If nothing can be made in `parent`.
    pub(crate) fn new(argosy: PathBuf, parent: &Path, keep: bool) -> Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("argosy-bench-")
            .permissions(searchable())
            .disable_cleanup(keep)
            .tempdir_in(parent)
            .with_context(|| format!("cannot make a directory in {}", parent.display()))?;
        Ok(Self { argosy, directory })
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
    directory: TempDir,
}

/// The state of the group as one member reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct MemberStatus {
    /// Index of the leader among the members, if one is known.
    leader: Option<usize>,
    /// Members that vote.
    voters: usize,
    /// Newest entry applied.
    applied: u64,
    term: u64,
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
        let recipes = match side {
            Side::Argosy => argosy::specs(&environment.argosy, directory.path())?,
            Side::Etcd => etcd::specs(directory.path())?,
            Side::Hyperqueue => bail!("HyperQueue is not a cluster of members"),
        };
        let mut members = Vec::with_capacity(MEMBERS);
        for (api, mut recipe) in recipes {
            let more = more.iter().map(|argument| (*argument).to_owned());
            recipe.arguments.extend(more);
            let mut process = ManagedProcess::new(recipe);
            process.start()?;
            let channel = channel(&api)?.connect_lazy();
            members.push(ClusterMember {
                api,
                channel,
                process,
            });
        }
        let mut cluster = Self {
            side,
            members,
            directory,
        };
        cluster.wait_until_settled().await?;
        Ok(cluster)
    }

    /// Returns the directory with the data of its members.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
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
        let end = Instant::now() + SETTLE_TIMEOUT;
        loop {
            for member in &mut self.members {
                member.process.expect_running()?;
            }
            let mut standings = Vec::with_capacity(MEMBERS);
            for index in 0..self.members.len() {
                standings.push(self.member_status(index).await);
            }
            if let Some(leader) = common_leader(&standings) {
                return Ok(leader);
            }
            if Instant::now() > end {
                bail!(
                    "{} does not agree after {SETTLE_TIMEOUT:?}{}",
                    self.side,
                    self.describe(&standings)
                );
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The last report of each member, on its port and in its log.
    fn describe(&self, standings: &[Result<MemberStatus>]) -> String {
        let one = |(member, standing): (&ClusterMember, &Result<MemberStatus>)| {
            let text = match standing {
                Ok(standing) => format!("{standing:?}"),
                Err(error) => format!("{error:#}"),
            };
            let log = member.process.log_tail(8);
            format!("\n{}: {text}\n{log}", member.api)
        };
        self.members.iter().zip(standings).map(one).collect()
    }

    /// The newest entry that any member has applied.
    ///
    /// # Errors
    /// If one does not answer.
    pub(crate) async fn applied(&self) -> Result<u64> {
        let mut newest = 0;
        for index in 0..self.members.len() {
            newest = newest.max(self.member_status(index).await?.applied);
        }
        Ok(newest)
    }

    /// The newest entry that one member has applied.
    ///
    /// # Errors
    /// If it does not answer.
    pub(crate) async fn applied_by(&self, index: usize) -> Result<u64> {
        Ok(self.member_status(index).await?.applied)
    }

    /// The newest term that any member knows.
    ///
    /// # Errors
    /// If one does not answer.
    pub(crate) async fn term(&self) -> Result<u64> {
        let mut newest = 0;
        for index in 0..self.members.len() {
            newest = newest.max(self.member_status(index).await?.term);
        }
        Ok(newest)
    }

    async fn member_status(&self, index: usize) -> Result<MemberStatus> {
        let channel = self.members[index].channel.clone();
        let asked = async {
            match self.side {
                Side::Argosy => argosy::member_status(channel, &self.members).await,
                Side::Etcd => etcd::member_status(channel, &self.members).await,
                Side::Hyperqueue => bail!("HyperQueue has no members"),
            }
        };
        tokio::time::timeout(Duration::from_secs(2), asked)
            .await
            .context("it does not answer")?
    }
}

fn common_leader(standings: &[Result<MemberStatus>]) -> Option<usize> {
    let standings: Vec<&MemberStatus> = standings
        .iter()
        .map(|standing| standing.as_ref().ok())
        .collect::<Option<_>>()?;
    let leader = standings.first()?.leader?;
    let newest = standings.iter().map(|standing| standing.applied).max()?;
    let agree = |standing: &&MemberStatus| {
        standing.leader == Some(leader)
            && standing.voters == MEMBERS
            && newest - standing.applied <= CAUGHT_UP
    };
    standings.iter().all(agree).then_some(leader)
}

/// Returns a channel to a member.
///
/// # Errors
/// If the address is none.
pub(crate) fn channel(api: &str) -> Result<Endpoint> {
    let endpoint = Endpoint::from_shared(format!("http://{api}"))
        .with_context(|| format!("{api} is no address"))?;
    Ok(endpoint
        .tcp_nodelay(true)
        .connect_timeout(Duration::from_secs(2)))
}

/// Free ports of an address, as `host:port`. No process holds them afterwards: a program that takes
/// one in between makes the start fail.
fn free_addresses(host: &str, count: usize) -> Result<Vec<String>> {
    let bind = |_| TcpListener::bind((host, 0)).with_context(|| format!("no free port on {host}"));
    let listeners: Vec<TcpListener> = (0..count).map(bind).collect::<Result<_>>()?;
    listeners
        .iter()
        .map(|listener| Ok(listener.local_addr()?.to_string()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(leader: usize, applied: u64) -> Result<MemberStatus> {
        Ok(MemberStatus {
            leader: Some(leader),
            voters: 3,
            applied,
            term: 1,
        })
    }

    #[test]
    fn members_agree_once_all_name_one_leader_and_have_caught_up() {
        assert_eq!(
            common_leader(&[status(1, 90), status(1, 92), status(1, 90)]),
            Some(1)
        );
        assert_eq!(
            common_leader(&[status(1, 90), status(2, 90), status(1, 90)]),
            None
        );
        assert_eq!(
            common_leader(&[status(1, 90), status(1, 9), status(1, 90)]),
            None
        );
        assert_eq!(
            common_leader(&[
                status(1, 90),
                Err(anyhow::anyhow!("refused")),
                status(1, 90)
            ]),
            None
        );
    }

    #[test]
    fn free_addresses_are_different() {
        let addresses = free_addresses("127.0.0.1", 3).unwrap();
        assert!(
            addresses[0] != addresses[1] && addresses[1] != addresses[2],
            "{addresses:?}"
        );
    }
}
