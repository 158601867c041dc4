//! A master in a test: a node on a separate runtime, and an owner that keeps a registry of puts and
//! one counter.
//!
//! Dropping the runtime is as abrupt as a kill: tasks end where they are and every socket closes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use argosy_raft::{
    CommittedEntry, LogProgress, MemoryStore, Node, NodeConfig, NodeEnvironment, OwnerRequest,
    Proposal, ProposeError, RaftStatus, RecordWrite, SnapshotPolicy, StartError, Timing,
};
use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::runtime::{Handle, Runtime};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Longer than any step here takes on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// Long timeouts, so that a master that waits long for a busy processor is not replaced. A
/// replacement in a test follows a failure that was detected.
pub(crate) const TIMING: Timing = Timing {
    heartbeat_ms: 50,
    silence_ms: 60_000,
    election_min_ms: 800,
    election_max_ms: 1_200,
    append_deadline_ms: 3_000,
    learner_stall_ms: 20_000,
};

const COUNT: &[u8] = b"count";

/// The state of the owner.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct HostRegistry {
    pub(crate) records: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(crate) index: u64,
    /// The number of times that the whole registry was loaded: at startup, and with each snapshot.
    pub(crate) loads: usize,
}

impl HostRegistry {
    /// Returns the number of applied commands, each counted once.
    pub(crate) fn count(&self) -> u64 {
        self.records.get(COUNT).map_or(0, |bytes| {
            u64::from_be_bytes(bytes.as_slice().try_into().unwrap())
        })
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.records.contains_key(key.as_bytes())
    }

    fn apply(&mut self, entry: &CommittedEntry) -> Vec<RecordWrite> {
        // The very first entry, that of the founders, has index 0.
        let founders = self.index == 0 && entry.index == 0 && entry.commands.is_empty();
        assert!(
            founders || entry.index == self.index + 1,
            "entry {} came after {}",
            entry.index,
            self.index
        );
        self.index = entry.index;
        let mut writes = Vec::new();
        for command in &entry.commands {
            let count = (self.count() + 1).to_be_bytes().to_vec();
            for (key, value) in [
                (command.to_vec(), entry.index.to_be_bytes().to_vec()),
                (COUNT.to_vec(), count),
            ] {
                self.records.insert(key.clone(), value.clone());
                writes.push(RecordWrite {
                    key: key.into(),
                    value: Some(value.into()),
                });
            }
        }
        writes
    }
}

async fn own(registry: watch::Sender<HostRegistry>, mut requests: mpsc::Receiver<OwnerRequest>) {
    while let Some(request) = requests.recv().await {
        match request {
            OwnerRequest::Load {
                last_index,
                records,
                done,
            } => {
                registry.send_modify(|registry| {
                    registry.records = records.into_iter().collect();
                    registry.index = last_index;
                    registry.loads += 1;
                });
                let _ = done.send(());
            }
            OwnerRequest::Apply { entries, done } => {
                let mut writes = Vec::new();
                registry.send_modify(|registry| {
                    for entry in &entries {
                        writes.extend(registry.apply(entry));
                    }
                });
                let _ = done.send(writes);
            }
        }
    }
}

/// The parameters of a test.
#[derive(Clone, Debug)]
pub(crate) struct HostPlan {
    pub(crate) address: SocketAddr,
    pub(crate) peers: Vec<String>,
    pub(crate) bootstrap: bool,
    pub(crate) snapshot: SnapshotPolicy,
    pub(crate) memory: MemoryStore,
    /// The directory of a store on disk; `None`: in memory.
    pub(crate) directory: Option<PathBuf>,
    pub(crate) timing: Timing,
}

impl HostPlan {
    pub(crate) fn new(address: SocketAddr, peers: &[SocketAddr]) -> HostPlan {
        HostPlan {
            address,
            peers: peers.iter().map(ToString::to_string).collect(),
            bootstrap: false,
            snapshot: SnapshotPolicy::default(),
            memory: MemoryStore::default(),
            directory: None,
            timing: TIMING,
        }
    }
}

pub(crate) struct NodeHost {
    pub(crate) plan: HostPlan,
    pub(crate) node: Node,
    pub(crate) registry: watch::Receiver<HostRegistry>,
    runtime: Option<Runtime>,
}

/// A start that may not have finished.
pub(crate) struct PendingNodeStart {
    plan: HostPlan,
    registry: watch::Receiver<HostRegistry>,
    runtime: Option<Runtime>,
    started: tokio::task::JoinHandle<Result<Node, StartError>>,
}

/// Returns addresses that were free a moment ago. A listener is bound again when its node starts.
pub(crate) fn addresses(count: usize) -> Vec<SocketAddr> {
    let held: Vec<_> = (0..count)
        .map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    held.iter()
        .map(|listener| listener.local_addr().unwrap())
        .collect()
}

/// The port may still be held by the node that was killed on it: its sockets close within
/// milliseconds.
async fn bind(address: SocketAddr) -> TcpListener {
    let deadline = Instant::now() + DEADLINE;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(error) => assert!(Instant::now() < deadline, "{address}: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

impl PendingNodeStart {
    pub(crate) fn begin(plan: HostPlan) -> PendingNodeStart {
        // Prints the masters' logs if RUST_LOG is set. Fails after the first time, which is
        // intended.
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let output = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_test_writer();
        let _ = output.try_init();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            // As in raft's runtime: pings are answered while a snapshot is verified, which takes a
            // second here.
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let (sender, registry) = watch::channel(HostRegistry::default());
        // One request at a time: consensus waits for each answer anyway.
        let (owner, requests) = mpsc::channel(1);
        runtime.spawn(own(sender, requests));
        let config = NodeConfig {
            directory: plan.directory.clone(),
            raft_address: plan.address.to_string(),
            api_address: format!("api-of-{}", plan.address),
            peers: plan.peers.clone(),
            bootstrap: plan.bootstrap,
            timing: plan.timing,
            snapshot: plan.snapshot,
            seed: u64::from(plan.address.port()),
        };
        let (memory, address) = (plan.memory.clone(), plan.address);
        let started = runtime.spawn(async move {
            let listener = bind(address).await;
            let stop = CancellationToken::new();
            match config.directory {
                Some(_) => Node::start(config, NodeEnvironment::tcp(listener), owner, stop).await,
                None => {
                    let surroundings = NodeEnvironment::tcp(listener);
                    Node::start_in_memory(config, &memory, surroundings, owner, stop).await
                }
            }
        });
        PendingNodeStart {
            plan,
            registry,
            runtime: Some(runtime),
            started,
        }
    }

    pub(crate) async fn finish(mut self) -> Result<NodeHost, StartError> {
        let started = tokio::time::timeout(DEADLINE, &mut self.started)
            .await
            .expect("the start ends");
        let node = started.expect("the start does not panic")?;
        let runtime = self.runtime.take();
        Ok(NodeHost {
            plan: self.plan.clone(),
            node,
            registry: self.registry.clone(),
            runtime,
        })
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.started.is_finished()
    }
}

impl Drop for PendingNodeStart {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl NodeHost {
    /// Ends the node as abruptly as a kill ends a process.
    pub(crate) fn kill(mut self) -> HostPlan {
        let plan = self.plan.clone();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        plan
    }

    /// Ends the node like [`Self::kill`], and returns when none of its tasks runs any more.
    pub(crate) async fn kill_and_wait(mut self) {
        let runtime = self.runtime.take().expect("it runs");
        let ending = tokio::task::spawn_blocking(move || runtime.shutdown_timeout(DEADLINE));
        ending.await.expect("the end of a runtime does not panic");
    }

    /// Returns the runtime of the node.
    pub(crate) fn runtime(&self) -> Handle {
        self.runtime.as_ref().expect("it runs").handle().clone()
    }

    pub(crate) fn status(&self) -> RaftStatus {
        self.node.status().borrow().clone()
    }

    pub(crate) fn registry(&self) -> HostRegistry {
        self.registry.borrow().clone()
    }

    /// Waits until the status meets the condition.
    pub(crate) async fn until(
        &self,
        what: &str,
        condition: impl Fn(&RaftStatus) -> bool,
    ) -> RaftStatus {
        let mut status = self.node.status();
        let waited =
            tokio::time::timeout(DEADLINE, status.wait_for(|status| condition(status))).await;
        match waited {
            Ok(status) => status.expect("the node lives").clone(),
            Err(_) => panic!(
                "{}: {what} did not come: {:?}",
                self.plan.address,
                self.status()
            ),
        }
    }

    /// Waits until the progress meets the condition. It is polled: nothing wakes its readers.
    pub(crate) async fn until_progress(
        &self,
        what: &str,
        condition: impl Fn(&LogProgress) -> bool,
    ) {
        let end = tokio::time::Instant::now() + DEADLINE;
        while !condition(&self.node.progress()) {
            let progress = self.node.progress();
            let address = &self.plan.address;
            assert!(
                tokio::time::Instant::now() < end,
                "{address}: {what} did not come: {progress:?}"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until the registry meets the condition.
    pub(crate) async fn until_registry(
        &self,
        what: &str,
        condition: impl Fn(&HostRegistry) -> bool,
    ) -> HostRegistry {
        let mut registry = self.registry.clone();
        let waited =
            tokio::time::timeout(DEADLINE, registry.wait_for(|registry| condition(registry))).await;
        match waited {
            Ok(registry) => registry.expect("the owner lives").clone(),
            Err(_) => panic!(
                "{}: {what} did not come: {:?} at {}",
                self.plan.address,
                self.status(),
                self.registry().index
            ),
        }
    }

    /// Proposes one command; it is committed when it appears in a registry.
    pub(crate) fn propose(&self, command: &str) -> Result<(), ProposeError> {
        let command = Bytes::copy_from_slice(command.as_bytes());
        self.node.try_propose(Proposal {
            at_ms: 1,
            command,
            work: 1,
        })
    }

    /// Proposes one command of 700 KiB, with this number in each byte.
    pub(crate) async fn propose_large(&self, number: u8) {
        let proposal = Proposal {
            at_ms: 1,
            command: Bytes::from(vec![number; 700 << 10]),
            work: 1,
        };
        self.node.propose(proposal).await.unwrap();
    }

    /// Commits one command once this master leads.
    #[cfg(feature = "rocksdb")]
    pub(crate) async fn commit_when_leading(&self, command: &str) {
        self.until("leadership", |status| status.is_leader).await;
        self.commit(command).await;
    }

    /// Commits one command through this leader.
    pub(crate) async fn commit(&self, command: &str) {
        self.propose(command).unwrap();
        self.until_registry(command, |registry| registry.has(command))
            .await;
    }
}

impl Drop for NodeHost {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Starts all of these together and waits until they have formed a group.
pub(crate) async fn form(plans: Vec<HostPlan>) -> Vec<NodeHost> {
    let starting: Vec<PendingNodeStart> = plans.into_iter().map(PendingNodeStart::begin).collect();
    let mut hosts = Vec::new();
    for one in starting {
        hosts.push(one.finish().await.unwrap());
    }
    hosts
}

/// Returns three masters that have formed a group, with this policy for snapshots.
pub(crate) async fn three_with(snapshot: SnapshotPolicy) -> Vec<NodeHost> {
    let addresses = addresses(3);
    form(
        addresses
            .iter()
            .map(|address| HostPlan {
                snapshot,
                ..HostPlan::new(*address, &addresses)
            })
            .collect(),
    )
    .await
}

/// Returns two masters that have lost the third, the position of their leader, and the plan of the
/// lost one. One command, `before`, is committed.
pub(crate) async fn two_of_three_with(policy: SnapshotPolicy) -> (Vec<NodeHost>, usize, HostPlan) {
    let mut hosts = three_with(policy).await;
    let lead = leader(&hosts).await;
    hosts[lead].commit("before").await;
    let away = hosts.remove((lead + 1) % 3).kill();
    let lead = leader(&hosts).await;
    (hosts, lead, away)
}

pub(crate) async fn three() -> Vec<NodeHost> {
    three_with(SnapshotPolicy::default()).await
}

/// Waits until the hosts agree on a leader that is one of them, and returns its position.
pub(crate) async fn leader(hosts: &[NodeHost]) -> usize {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let seen: Vec<_> = hosts
            .iter()
            .map(|host| (host.status().term, host.status().leader.map(|(id, _)| id)))
            .collect();
        let agreed = seen.iter().all(|one| one.1.is_some() && *one == seen[0]);
        if let Some(position) = hosts
            .iter()
            .position(|host| agreed && host.status().is_leader)
        {
            return position;
        }
        assert!(Instant::now() < deadline, "no leader: {seen:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Waits until all hosts hold what the first of them holds now, and returns that.
pub(crate) async fn equal(hosts: &[NodeHost]) -> HostRegistry {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let all: Vec<_> = hosts.iter().map(NodeHost::registry).collect();
        if all
            .iter()
            .all(|one| (one.index, &one.records) == (all[0].index, &all[0].records))
        {
            return all[0].clone();
        }
        assert!(
            Instant::now() < deadline,
            "registries differ: {:?}",
            all.iter().map(|one| one.index).collect::<Vec<_>>()
        );
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Commits through the current leader of these hosts, with retries as by a client, until the
/// command is applied there.
pub(crate) async fn commit_somewhere(hosts: &[NodeHost], command: &str) -> usize {
    let deadline = Instant::now() + DEADLINE;
    loop {
        for (position, host) in hosts.iter().enumerate() {
            if host.propose(command).is_ok() {
                let mut registry = host.registry.clone();
                let applied = registry.wait_for(|registry| registry.has(command));
                if tokio::time::timeout(Duration::from_millis(500), applied)
                    .await
                    .is_ok()
                {
                    return position;
                }
            }
        }
        assert!(Instant::now() < deadline, "{command} was not committed");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
