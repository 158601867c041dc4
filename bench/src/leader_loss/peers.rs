//! Peers under the same conditions: three members of etcd or ZooKeeper, each in its own network
//! namespace. Their leader is killed or frozen in the same way as Argosy's.
//!
//! It installs nothing: `scripts/setup bench` does.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use argosy_testbed::host_tools;
use argosy_testbed::network::Network;
use argosy_testbed::processes::{LaunchMethod, ManagedProcess, ProcessSpec};
use argosy_testbed::progress::ProgressDisplay;
use argosy_testbed::run_directory::RunDirectory;
use argosy_testbed::waiting::poll_running;
use clap::ValueEnum;
use nix::sys::signal::Signal;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use super::clients;
use super::probes::ClockReading;
use super::samples::{LossSample, MeasuredSystem, Samples};
use super::writer::{StoreKind, Writer, channel, first_answered};
use super::{FIRST_WRITE_DELAY, LOSS_TIMEOUT, LeaderLoss, RECOVERY_DELAY, zookeeper};
use crate::cluster::etcd_wire;
use crate::load::LoadLevel;

/// Members of a peer.
const MEMBERS: u8 = 3;
/// Timeout for the members to agree after a start or a loss.
const ELECTION_TIMEOUT: Duration = Duration::from_secs(60);
/// Pause between two checks of that.
const POLL_PAUSE: Duration = Duration::from_millis(50);
/// Load before a loss.
const WARM_UP: Duration = Duration::from_secs(1);
/// The paths of the server and of its logging libraries in Debian's packages.
const ZOOKEEPER: &str = "/usr/share/java/zookeeper.jar";
const LOGGER: &str = "/usr/share/java/slf4j-simple.jar";

/// A peer that is also measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Peer {
    /// Three members of etcd
    Etcd,
    /// Three servers of ZooKeeper
    Zookeeper,
}

impl Peer {
    fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::Zookeeper => "zookeeper",
        }
    }

    /// Returns why it cannot be measured on this host.
    pub(super) fn missing(self) -> Option<String> {
        let needed: &[&str] = match self {
            Self::Etcd => &["etcd"],
            Self::Zookeeper => &["java"],
        };
        let is_there = |program: &&str| host_tools::find(program).is_some();
        let has_all = needed.iter().all(is_there);
        let has_jars = self == Self::Etcd || Path::new(ZOOKEEPER).exists();
        (!has_all || !has_jars).then(|| {
            format!(
                "{} is not installed: scripts/setup bench installs Debian's and starts nothing",
                self.name()
            )
        })
    }

    fn systems(self) -> [MeasuredSystem; 2] {
        match self {
            Self::Etcd => [MeasuredSystem::Etcd, MeasuredSystem::EtcdTuned],
            Self::Zookeeper => [MeasuredSystem::Zookeeper, MeasuredSystem::ZookeeperTuned],
        }
    }

    /// Returns the last number of the address of its first host. The other two follow.
    fn first_host(self) -> u8 {
        match self {
            Self::Etcd => 141,
            Self::Zookeeper => 151,
        }
    }

    fn client_port(self) -> u16 {
        match self {
            Self::Etcd => 2379,
            Self::Zookeeper => 2181,
        }
    }

    async fn status(self, address: &str) -> Result<PeerStatus> {
        match self {
            Self::Etcd => {
                let status = etcd_status(channel(address)?.connect_lazy());
                tokio::time::timeout(Duration::from_secs(1), status).await?
            }
            Self::Zookeeper => zookeeper::status(address).await,
        }
    }

    /// Returns the index and the version of the member that leads, if the others follow.
    async fn leader(self, clients: &[String]) -> Result<(usize, String)> {
        let mut leaders = Vec::new();
        for (place, address) in clients.iter().enumerate() {
            let status = self.status(address).await?;
            let is_leader = status.is_leader;
            if is_leader.with_context(|| format!("{address} knows no leader"))? {
                leaders.push((place, status.version));
            }
        }
        match (leaders.pop(), leaders.len()) {
            (Some(leader), 0) => Ok(leader),
            _ => bail!("not exactly one member leads"),
        }
    }
}

/// The status of a member, as it reports it.
#[derive(Debug)]
pub(super) struct PeerStatus {
    /// Whether it leads; `None` if it knows no leader.
    pub(super) is_leader: Option<bool>,
    pub(super) version: String,
}

/// The planned measurements of a peer.
pub(super) struct PeerPlan<'a> {
    pub(super) losses: &'a [LeaderLoss],
    pub(super) loads: &'a [LoadLevel],
    pub(super) kills: u32,
}

/// Measures a peer with its default settings and with tuned ones.
///
/// # Errors
/// If it does not start, or does not recover.
pub(super) async fn measure(
    peer: Peer,
    plan: &PeerPlan<'_>,
    (network, directory): (&mut Network, &RunDirectory),
    (screen, stop): (&ProgressDisplay, &CancellationToken),
    samples: &mut Samples,
) -> Result<()> {
    let mut hosts = Vec::new();
    for number in 1..=MEMBERS {
        let name = format!("{}-{number}", peer.name());
        let place = network.add(&name, peer.first_host() + number - 1)?;
        let host = network.host(place);
        hosts.push(PeerHost {
            name,
            namespace: host.namespace.clone(),
            address: host.address.to_string(),
        });
    }
    for system in peer.systems() {
        let mut group = PeerGroup::start(peer, system, &hosts, directory).await?;
        screen.print(&format!("{}: version {}", system.name(), group.version));
        for (load, loss) in pairs(plan) {
            for number in 1..=plan.kills {
                if stop.is_cancelled() {
                    return Ok(());
                }
                screen.show(&format!(
                    "{} {}, {}: {number} of {}",
                    system.name(),
                    loss.name(),
                    load.name(),
                    plan.kills
                ));
                samples.add(group.lose_leader(loss, load).await?);
            }
            screen.print(&samples.line((system, loss, load)));
        }
    }
    Ok(())
}

/// Whether this way to lose a leader is available for a peer.
pub(super) fn can_lose(loss: LeaderLoss) -> bool {
    matches!(loss, LeaderLoss::Kill | LeaderLoss::Freeze)
}

fn pairs<'a>(plan: &'a PeerPlan<'_>) -> impl Iterator<Item = (LoadLevel, LeaderLoss)> + 'a {
    let losses = || plan.losses.iter().copied().filter(|loss| can_lose(*loss));
    plan.loads
        .iter()
        .flat_map(move |load| losses().map(move |loss| (*load, loss)))
}

struct PeerHost {
    name: String,
    namespace: String,
    address: String,
}

/// Three members. They end when this value is dropped.
struct PeerGroup {
    system: MeasuredSystem,
    peer: Peer,
    members: Vec<ManagedProcess>,
    /// Client addresses, as `host:port`.
    clients: Vec<String>,
    version: String,
}

impl PeerGroup {
    async fn start(
        peer: Peer,
        system: MeasuredSystem,
        hosts: &[PeerHost],
        directory: &RunDirectory,
    ) -> Result<Self> {
        let mut members = Vec::new();
        for number in 0..hosts.len() {
            let host = &hosts[number];
            let data = directory.data(&format!("{}-{}", system.word(), number + 1));
            fs::create_dir_all(&data)
                .with_context(|| format!("cannot create {}", data.display()))?;
            let (program, arguments) = match peer {
                Peer::Etcd => ("etcd", etcd_arguments(system, hosts, number, &data)),
                Peer::Zookeeper => ("java", zookeeper_arguments(system, hosts, number, &data)?),
            };
            let mut member = ManagedProcess::new(ProcessSpec {
                name: host.name.clone(),
                launch: LaunchMethod::InNamespace(host.namespace.clone()),
                program: host_tools::path(program),
                arguments,
                log: directory
                    .logs()
                    .join(format!("{}-{}.log", system.word(), number + 1)),
            });
            member.start()?;
            members.push(member);
        }
        let client = |host: &PeerHost| format!("{}:{}", host.address, peer.client_port());
        let mut group = Self {
            system,
            peer,
            members,
            clients: hosts.iter().map(client).collect(),
            version: String::new(),
        };
        group.wait_for_leader().await?;
        Ok(group)
    }

    fn writer(&self, place: usize) -> Result<Writer> {
        let store = match self.peer {
            Peer::Etcd => StoreKind::Etcd,
            Peer::Zookeeper => StoreKind::Zookeeper,
        };
        Writer::at(&self.clients[place], &store)
    }

    /// Waits until one member leads and the others follow. Returns the leader.
    async fn wait_for_leader(&mut self) -> Result<usize> {
        let (peer, clients) = (self.peer, &self.clients);
        let check = async || peer.leader(clients).await;
        let found = poll_running(&mut self.members, ELECTION_TIMEOUT, POLL_PAUSE, check).await;
        let (leader, version) =
            found.with_context(|| format!("waiting for a leader of {}", self.system.name()))?;
        self.version = version;
        Ok(leader)
    }

    async fn lose_leader(&mut self, loss: LeaderLoss, load: LoadLevel) -> Result<LossSample> {
        let leader = self.wait_for_leader().await?;
        let mut all = Vec::new();
        for place in 0..self.members.len() {
            let mut writer = self.writer(place)?;
            writer.connect().await?;
            all.push(writer);
        }
        let clients = clients::start(&all, load);
        tokio::time::sleep(WARM_UP).await;
        if clients.answered() == 0 {
            bail!("{} answered no request before the loss", self.system.name());
        }
        // Connections that no load uses.
        let mut survivors = Vec::new();
        for place in (0..self.members.len()).filter(|place| *place != leader) {
            let mut writer = self.writer(place)?;
            writer.connect().await?;
            survivors.push(writer);
        }
        let at = ClockReading::now();
        match loss {
            LeaderLoss::Kill => self.members[leader].send(Signal::SIGKILL)?,
            LeaderLoss::Freeze => self.members[leader].freeze()?,
            LeaderLoss::Cut | LeaderLoss::Stall | LeaderLoss::Transfer | LeaderLoss::None => {
                bail!(
                    "the leader of {} cannot be lost by {}",
                    self.system.name(),
                    loss.name()
                )
            }
        }
        tokio::time::sleep_until(at.at() + FIRST_WRITE_DELAY).await;
        let answered = first_answered(survivors, LOSS_TIMEOUT).await?;
        let sample = LossSample::new((self.system, loss, load), at.until(answered));
        tokio::time::sleep(RECOVERY_DELAY).await;
        drop(clients);
        if loss == LeaderLoss::Kill {
            self.members[leader].kill();
            self.members[leader].start()?;
        } else {
            self.members[leader].resume();
        }
        self.wait_for_leader().await?;
        Ok(sample)
    }
}

/// Queries a member of etcd for its status.
async fn etcd_status(channel: Channel) -> Result<PeerStatus> {
    let mut client = etcd_wire::maintenance_client::MaintenanceClient::new(channel);
    let status = client
        .status(etcd_wire::StatusRequest {})
        .await?
        .into_inner();
    let own = status.header.unwrap_or_default().member_id;
    Ok(PeerStatus {
        is_leader: (status.leader != 0).then_some(status.leader == own),
        version: status.version,
    })
}

/// Returns the arguments: defaults, or heartbeats every 50 ms and elections after 250 ms.
fn etcd_arguments(
    system: MeasuredSystem,
    hosts: &[PeerHost],
    own: usize,
    data: &Path,
) -> Vec<String> {
    let peer = |host: &PeerHost| format!("http://{}:2380", host.address);
    let all: Vec<String> = hosts
        .iter()
        .map(|host| format!("{}={}", host.name, peer(host)))
        .collect();
    let client = format!("http://{}:2379", hosts[own].address);
    let mut flags = vec![
        ("name", hosts[own].name.clone()),
        ("data-dir", data.display().to_string()),
        ("listen-client-urls", client.clone()),
        ("advertise-client-urls", client),
        ("listen-peer-urls", peer(&hosts[own])),
        ("initial-advertise-peer-urls", peer(&hosts[own])),
        ("initial-cluster", all.join(",")),
        ("initial-cluster-state", "new".to_owned()),
        ("initial-cluster-token", system.word().to_owned()),
    ];
    if system == MeasuredSystem::EtcdTuned {
        flags.push(("heartbeat-interval", "50".to_owned()));
        flags.push(("election-timeout", "250".to_owned()));
    }
    let flags = flags.into_iter();
    flags
        .map(|(flag, value)| format!("--{flag}={value}"))
        .collect()
}

/// Returns the configuration: that of the package, or ticks of 100 ms, with which a silent leader
/// is abandoned after 500 ms.
fn zookeeper_arguments(
    system: MeasuredSystem,
    hosts: &[PeerHost],
    own: usize,
    data: &Path,
) -> Result<Vec<String>> {
    let write = |path: PathBuf, text: String| {
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    write(data.join("myid"), format!("{}\n", own + 1))?;
    let ticks = if system == MeasuredSystem::ZookeeperTuned {
        // Joining keeps about ten seconds, and sessions keep their timeouts.
        "tickTime=100\ninitLimit=200\nsyncLimit=5\nminSessionTimeout=4000\nmaxSessionTimeout=40000\n"
    } else {
        "tickTime=2000\ninitLimit=10\nsyncLimit=5\n"
    };
    let servers: String = (1..)
        .zip(hosts)
        .map(|(number, host)| format!("server.{number}={}:2888:3888\n", host.address))
        .collect();
    let text = format!(
        "{ticks}dataDir={}\nclientPortAddress={}\nclientPort=2181\nadmin.enableServer=false\n{servers}",
        data.display(),
        hosts[own].address
    );
    let configuration = data.join("zoo.cfg");
    write(configuration.clone(), text)?;
    let words = [
        "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn".to_owned(),
        "-cp".to_owned(),
        format!("{ZOOKEEPER}:{LOGGER}"),
        "org.apache.zookeeper.server.quorum.QuorumPeerMain".to_owned(),
        configuration.display().to_string(),
    ];
    Ok(words.to_vec())
}
