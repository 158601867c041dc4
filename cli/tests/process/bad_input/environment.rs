//! The environment of the rows: a cluster with data to lose, a second one that is stopped,
//! addresses.

use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::Duration;

use argosy_client::Masters;
use argosy_proto::v1;
use argosy_testbed::command_lines::{AgentFlags, MemberTransport, PLAINTEXT};
use nix::unistd::Pid;

use super::row::Unchanged;
use crate::cluster::{
    Cluster, TestMember, clear_agent, member, sleepers, sleeping, to_strings, wait_until, write,
};
use crate::test_framework::{TestFramework, task};

const LONG: Duration = Duration::from_secs(60);

/// A cluster and its environment.
pub(crate) struct BadInputCluster {
    pub(crate) cluster: Cluster,
    /// The network of the cluster: its addresses without their last number.
    network: String,
    /// The next unused host number.
    hosts: AtomicU8,
    /// Listens where a master of `dev` would.
    _listener: TcpListener,
    /// Owns the task that must survive everything.
    owner: TestFramework,
    mark: String,
    sleeper: Pid,
    pids: Vec<Pid>,
    proofs: AtomicUsize,
}

pub(crate) struct RowAddresses {
    free: String,
}

impl RowAddresses {
    /// Replaces the words in braces in a text of the table.
    pub(crate) fn expand(&self, fixture: &BadInputCluster, text: &str) -> String {
        let peers: Vec<String> = (1..=3).map(|host| fixture.at(host) + ":5052").collect();
        let peers = peers.join(",");
        let places = [
            ("{free}", self.free.clone()),
            ("{own}", fixture.at(1)),
            ("{agent}", fixture.at(101)),
            ("{taken}", fixture.at(USED_ADDRESS)),
            ("{wider}", format!("{peers},{}:5052", self.free)),
            ("{peers}", peers),
            ("{masters}", fixture.cluster.masters_list().to_string()),
            (
                "{dir}",
                fixture.cluster.directory.path().display().to_string(),
            ),
            ("{pid-master}", fixture.pids[0].to_string()),
            ("{pid-agent}", fixture.pids[3].to_string()),
            ("{test}", std::process::id().to_string()),
        ];
        let mut meant = text.to_owned();
        for (word, place) in places {
            meant = meant.replace(word, &place);
        }
        meant
    }
}

/// The address of the other cluster's master.
const OTHER_MASTER: u8 = 140;
/// The address of its agent.
const OTHER_AGENT: u8 = 141;
/// The address at which this test listens.
const USED_ADDRESS: u8 = 142;

impl BadInputCluster {
    pub(crate) async fn start() -> Self {
        let cluster = Cluster::start(3).await;
        let own = cluster.masters[0].address.to_string();
        let (network, _) = own.rsplit_once('.').expect("an address has dots");
        let taken = TcpListener::bind(format!("{network}.{USED_ADDRESS}:5052"));
        let mark = format!("88{}.25", std::process::id());
        let owner = TestFramework::start(cluster.masters_list(), "owner").await;
        owner.launch([task("lives", &format!("exec sleep {mark}"))]);
        let running = |events: &crate::test_framework::ReceivedEvents| {
            let states = events.states("lives");
            states.contains(&v1::TaskState::Running).then_some(())
        };
        owner.wait_for_event("it runs", LONG, running).await;
        stop_offers(&cluster, &owner).await;
        wait_until("a write is answered", LONG, async || {
            write(&cluster.operator(), "kept".to_owned()).await
        })
        .await;
        let sleeper = sleeping(&mark, 1).await[0];
        let members = cluster.masters.iter().chain(&cluster.agents);
        let pids = members.map(TestMember::pid).collect();
        let fixture = Self {
            network: network.to_owned(),
            hosts: AtomicU8::new(150),
            _listener: taken.expect("no process has this address"),
            sleeper,
            owner,
            mark,
            pids,
            proofs: AtomicUsize::new(0),
            cluster,
        };
        fixture.set_up().await;
        fixture
    }

    /// Creates the directories that rows find: of another cluster, of a newer release, of another
    /// user.
    async fn set_up(&self) {
        self.start_other_cluster().await;
        let copied = std::process::Command::new("cp")
            .arg("-a")
            .args([self.directory("other"), self.directory("newer")])
            .status();
        assert!(copied.unwrap().success());
        let format = self.directory("newer/FORMAT");
        let text = std::fs::read_to_string(&format).expect("the format is written down");
        std::fs::write(&format, text.replace("format 1", "format 99")).unwrap();
        for (dir, file, text) in [
            ("precious", "precious.txt", &b"of another client"[..]),
            (
                "newer-agent",
                "journal",
                // The header that all formats have: its name, format 99, a salt, and its CRC-32C.
                b"ARGOSYJ\n\x63\0\0\0a salt..\x43\xa2\xdd\x2f and what only that release knows",
            ),
            (
                "no-journal",
                "journal",
                b"of another client, and long enough",
            ),
        ] {
            std::fs::create_dir(self.directory(dir)).unwrap();
            std::fs::write(self.directory(dir).join(file), text).unwrap();
        }
    }

    /// Forms a cluster of one master and one agent, and stops it.
    async fn start_other_cluster(&self) {
        let mut master = self.master_of_another_cluster("other");
        master.start();
        let masters = format!("{}:5050", self.at(OTHER_MASTER));
        let mut agent = self.agent("other-agent", OTHER_AGENT, &masters);
        agent.start();
        // A task's end is known: the agent has recorded its cluster.
        runs(masters.parse().expect("an address"), "first").await;
    }

    /// Returns the only master of the other cluster, not started, on the directory `name`.
    pub(super) fn master_of_another_cluster(&self, name: &str) -> TestMember {
        let (listen, data) = (self.at(OTHER_MASTER), self.directory(name));
        let mut arguments = to_strings(&["master", "start", "--bootstrap", "--listen", &listen]);
        arguments.extend(to_strings(&["--data-dir", &data.display().to_string()]));
        arguments.push(PLAINTEXT.to_owned());
        let address = listen.parse().expect("it is an address");
        member(&self.directory(""), name.to_owned(), address, arguments)
    }

    pub(super) async fn other_cluster_is_ready(&self) {
        let ready = format!("http://{}:5050/readyz", self.at(OTHER_MASTER));
        wait_until("the other cluster is as it was", LONG, async || {
            let answer = reqwest::get(&ready).await.ok()?;
            answer.status().is_success().then_some(())
        })
        .await;
    }

    /// Returns an agent that is not started, on the directory `name`.
    pub(super) fn agent(&self, name: &str, host: u8, masters: &str) -> TestMember {
        let listen = self.at(host);
        let flags = AgentFlags {
            listen: &listen,
            masters,
            data_dir: &self.directory(name),
            resources: "cpus:32;mem:4096;disk:64",
            transport: &MemberTransport::Plaintext,
        };
        let directory = self.directory("");
        let arguments = flags.arguments(&["--host-path", &directory.display().to_string()]);
        let address = listen.parse().expect("it is an address");
        member(&directory, name.to_owned(), address, arguments)
    }

    fn at(&self, host: u8) -> String {
        format!("{}.{host}", self.network)
    }

    pub(crate) fn directory(&self, name: &str) -> PathBuf {
        self.cluster.directory.path().join(name)
    }

    /// Returns the directory for temporary files of one row.
    pub(super) fn scratch(&self, addresses: &RowAddresses) -> PathBuf {
        let directory = self.directory(&format!("scratch-{}", addresses.free));
        std::fs::create_dir_all(&directory).expect("a directory can be made");
        directory
    }

    /// Returns addresses for one row.
    pub(crate) fn addresses(&self) -> RowAddresses {
        RowAddresses {
            free: self.at(self.free_host()),
        }
    }

    /// Returns the last number of an unused address.
    pub(super) fn free_host(&self) -> u8 {
        self.hosts.fetch_add(1, Ordering::Relaxed)
    }

    /// Checks that what a row must not touch is unchanged.
    pub(crate) async fn check_unchanged(
        &self,
        keeps: Unchanged,
        addresses: &RowAddresses,
    ) -> Result<(), String> {
        match keeps {
            Unchanged::Cluster => Ok(()),
            Unchanged::File(name, text) => match std::fs::read_to_string(self.directory(name)) {
                Ok(found) if found == text => Ok(()),
                found => Err(format!("{name} is {found:?} now")),
            },
            Unchanged::TemporaryFiles => {
                let left = std::fs::read_dir(self.scratch(addresses));
                let left = left.expect("the row ran a program").flatten();
                let left: Vec<_> = left.map(|entry| entry.path()).collect();
                left.is_empty()
                    .then_some(())
                    .ok_or(format!("it leaves {left:?}"))
            }
            Unchanged::OtherCluster => {
                let mut master = self.master_of_another_cluster("other");
                master.start();
                self.other_cluster_is_ready().await;
                Ok(())
            }
            Unchanged::Agents => {
                let operator = self.cluster.operator();
                wait_until("its agents are connected", LONG, async || {
                    let page = operator
                        .list_agents(v1::ListRequest::default())
                        .await
                        .ok()?;
                    let agents = &page.agents;
                    assert_eq!(agents.len(), 3, "{agents:?}");
                    agents.iter().all(|agent| agent.connected).then_some(())
                })
                .await;
                Ok(())
            }
        }
    }

    /// Makes the current processes the expected ones.
    pub(super) fn count_processes(&mut self) {
        let members = self.cluster.masters.iter().chain(&self.cluster.agents);
        self.pids = members.map(TestMember::pid).collect();
    }

    /// Returns the harm that the rows have done to the cluster, if any.
    pub(crate) async fn damage(&self) -> Vec<String> {
        let mut harm = Vec::new();
        let members = self.cluster.masters.iter().chain(&self.cluster.agents);
        for (member, pid) in members.zip(&self.pids) {
            if member.pid() != *pid || !is_alive(*pid) {
                harm.push(format!("{} is not the process {pid} any more", member.name));
            }
            if member.log().contains("panicked") {
                harm.push(format!("{} panicked: {}", member.name, member.log()));
            }
        }
        if sleepers(&self.mark) != [self.sleeper] {
            harm.push("the task that ran does not run any more".to_owned());
        }
        let events = self.owner.events.lock().unwrap().states("lives");
        if events.last() != Some(&v1::TaskState::Running) {
            harm.push(format!("the task that runs reported {events:?}"));
        }
        let page = wait_until("the agents are listed", LONG, async || {
            let operator = self.cluster.operator();
            operator.list_agents(v1::ListRequest::default()).await.ok()
        })
        .await;
        let mut infos = page.agents.iter().filter_map(|agent| agent.info.as_ref());
        if !infos.any(|info| {
            info.attributes
                .get("x")
                .is_some_and(|value| value == "kept")
        }) {
            harm.push(format!("what was written is lost: {:?}", page.agents));
        }
        self.serves().await;
        harm
    }

    /// Checks that a task still runs.
    pub(super) async fn serves(&self) {
        let number = self.proofs.fetch_add(1, Ordering::Relaxed);
        runs(self.cluster.masters_list(), &format!("proof-{number}")).await;
    }
}

impl Drop for BadInputCluster {
    fn drop(&mut self) {
        for name in ["other-agent", "lonely-agent"] {
            clear_agent(&self.directory(name));
        }
    }
}

/// Returns whether a process runs, and not only its id exists.
fn is_alive(pid: Pid) -> bool {
    std::fs::read_link(format!("/proc/{pid}/exe")).is_ok()
}

/// Waits until a task of this name has run in the cluster of these masters.
async fn runs(masters: Masters, name: &str) {
    let prover = TestFramework::start(masters, "prover").await;
    prover.launch([task(name, "true")]);
    let finished = |events: &crate::test_framework::ReceivedEvents| {
        let states = events.states(name);
        states.contains(&v1::TaskState::Finished).then_some(())
    };
    prover.wait_for_event("a task runs", LONG, finished).await;
    drop(prover.driver.teardown());
}

/// Makes the framework return its offers and receive no more.
async fn stop_offers(cluster: &Cluster, framework: &TestFramework) {
    let answer = framework.driver.suppress(Vec::new()).answer().await;
    assert!(answer.is_done(), "{answer:?}");
    let operator = cluster.operator();
    let id = framework.id();
    // An offer may have been in flight.
    wait_until("nothing is offered to it", LONG, async || {
        let held = std::mem::take(&mut framework.events.lock().unwrap().offers);
        for offer in held.values() {
            framework.driver.decline(offer, Some(100));
        }
        let page = operator
            .list_offers(v1::ListRequest::default())
            .await
            .ok()?;
        let mut offers = page.offers.iter();
        offers.all(|offer| offer.framework_id != id).then_some(())
    })
    .await;
}
