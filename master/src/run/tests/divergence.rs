//! Three masters in this process, of which one has a manipulated stored registry. If it is a
//! follower, it detects and reports the difference, and the other two continue. If it is the
//! leader, both followers leave it, and it acknowledges nothing more.

use argosy_proto::v1;
use argosy_proto::v1::operator_client::OperatorClient;
use argosy_state::command::Command;
use argosy_state::registry::RecordKey;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};

use super::*;
use crate::comparison::INTERVAL;

struct TestMaster {
    api: String,
    raft: String,
    memory: MemoryStore,
    stop: CancellationToken,
    running: Option<JoinHandle<Result<(), MasterError>>>,
}

impl TestMaster {
    async fn ended(&mut self) -> Result<(), MasterError> {
        let running = self.running.take().expect("it was started");
        let ended = tokio::time::timeout(TIMEOUT, running).await;
        ended.expect("it ends").unwrap()
    }

    async fn stop(&mut self) {
        self.stop.cancel();
        self.ended().await.unwrap();
    }

    fn client(&self) -> OperatorClient<Channel> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.api)).unwrap();
        OperatorClient::new(endpoint.connect_lazy())
    }

    async fn seen(&self) -> Option<v1::Cluster> {
        let mut request = tonic::Request::new(v1::GetClusterRequest {
            consistency: v1::Consistency::Local.into(),
        });
        request.set_timeout(Duration::from_secs(1));
        Some(self.client().get_cluster(request).await.ok()?.into_inner())
    }

    /// Repeats [`Self::seen`] until there is an answer.
    async fn answer(&self) -> v1::Cluster {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            if let Some(seen) = self.seen().await {
                return seen;
            }
            assert!(Instant::now() < deadline, "a master does not answer");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Returns whether it answers a read that a quorum must confirm.
    async fn answers_for_the_group(&self) -> bool {
        let mut request = tonic::Request::new(v1::GetClusterRequest {
            consistency: v1::Consistency::Linearizable.into(),
        });
        request.set_timeout(Duration::from_secs(2));
        self.client().get_cluster(request).await.is_ok()
    }

    /// Writes through this master until the write is acknowledged: on a busy host there may be no
    /// leader for a moment.
    async fn write(&self, weight_milli: u64) {
        let deadline = Instant::now() + TIMEOUT;
        while !self.try_write("ops", weight_milli).await {
            assert!(Instant::now() < deadline, "nothing is committed");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn try_write(&self, role: &str, weight_milli: u64) -> bool {
        let weight = v1::SetWeight {
            role: role.to_owned(),
            weight_milli,
        };
        let operation = v1::write_operation::Operation::SetWeight(weight);
        let mut request = tonic::Request::new(v1::WriteBatch {
            operations: vec![v1::WriteOperation {
                operation: Some(operation),
            }],
            ..Default::default()
        });
        request.set_timeout(Duration::from_secs(2));
        self.client().write_one(request).await.is_ok()
    }
}

struct TestGroup(Vec<TestMaster>);

impl TestGroup {
    async fn start() -> Self {
        let mut masters = Vec::new();
        let mut sockets = Vec::new();
        for _ in 0..3 {
            let api = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let raft = TcpListener::bind("127.0.0.1:0").await.unwrap();
            masters.push(TestMaster {
                api: api.local_addr().unwrap().to_string(),
                raft: raft.local_addr().unwrap().to_string(),
                memory: MemoryStore::default(),
                stop: CancellationToken::new(),
                running: None,
            });
            sockets.push((api, raft));
        }
        let mut group = Self(masters);
        for (place, (api, raft)) in sockets.into_iter().enumerate() {
            group.run(place, api, raft, Timing::testing());
        }
        group
    }

    fn run(&mut self, place: usize, api: TcpListener, raft: TcpListener, timing: Timing) {
        let peers = self.0.iter().map(|master| master.raft.clone()).collect();
        let master = &mut self.0[place];
        let config = MasterConfig {
            peers,
            timing,
            seed: place as u64,
            ..MasterConfig::new(Default::default(), master.api.clone(), master.raft.clone())
        };
        let parts = MasterParts {
            api: Listener::tcp(api),
            raft: NodeEnvironment::tcp(raft),
            masters: Dialer::tcp(),
            agents: Dialer::tcp(),
            raft_runtime: Handle::current(),
            readers: Handle::current(),
            memory: Some(master.memory.clone()),
            metrics: None,
            entropy: [place as u8 + 1; 32],
            serving: None,
        };
        master.stop = CancellationToken::new();
        let running = run(config, parts, master.stop.clone());
        master.running = Some(tokio::spawn(running));
    }

    async fn run_again(&mut self, place: usize) {
        self.run_again_with(place, Timing::testing()).await;
    }

    async fn run_again_with(&mut self, place: usize, timing: Timing) {
        let master = &self.0[place];
        let api = TcpListener::bind(&master.api).await.unwrap();
        let raft = TcpListener::bind(&master.raft).await.unwrap();
        self.run(place, api, raft, timing);
    }

    /// Starts a stopped group so that the master at `place` leads: the others start elections much
    /// later.
    async fn run_led_by(&mut self, place: usize) {
        let patient = Timing {
            silence_ms: 15_000,
            election_min_ms: 10_000,
            election_max_ms: 15_000,
            ..Timing::testing()
        };
        self.run_again(place).await;
        for other in others(place) {
            self.run_again_with(other, patient).await;
        }
    }

    /// Returns what each master knows of itself, for the message of a failed test.
    async fn description(&self) -> String {
        let mut found = Vec::new();
        for master in &self.0 {
            let running = &master.running;
            let has_ended = running.as_ref().is_none_or(JoinHandle::is_finished);
            let answer = match master.seen().await {
                Some(seen) => format!(
                    "{} knows {:?} as leader, epoch {}, entry {}",
                    seen.answered_by, seen.leader, seen.epoch, seen.applied_index
                ),
                None => format!("no answer, ended: {has_ended}"),
            };
            let (_, last) = master.memory.last_entry().unwrap_or_default();
            let (applied, _) = master.memory.registry().unwrap_or_default();
            let digests = logged_in(&master.memory);
            found.push(format!(
                "{answer}, log up to {last}, registry up to {applied}, digests of {digests:?}"
            ));
        }
        found.join("; ")
    }

    /// Waits until one of `places` is the active leader, and all of them have applied its state.
    async fn settled(&self, places: &[usize]) -> usize {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            assert!(Instant::now() < deadline, "no master leads");
            let mut seen = Vec::new();
            for place in places {
                seen.extend(self.0[*place].seen().await);
            }
            let leads = |one: &v1::Cluster| one.epoch > 0 && one.leader == one.answered_by;
            let alike = seen
                .iter()
                .all(|one| one.applied_index == seen[0].applied_index);
            if let Some(at) = seen.iter().position(leads)
                && alike
                && seen.len() == places.len()
            {
                return places[at];
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Writes a record and stops the group, its leader last: its log is the longest, so the others
    /// can elect it. The leader's stored registry is newer than each digest in its log; otherwise
    /// it would compare that registry with its own digest when it starts again.
    async fn stopped_after_a_write(&mut self) -> usize {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let leader = self.settled(&[0, 1, 2]).await;
            self.0[leader].write(2_000).await;
            self.settled(&[0, 1, 2]).await;
            let [one, other] = others(leader);
            for place in [one, other, leader] {
                self.0[place].stop().await;
            }
            let memory = &self.0[leader].memory;
            let (stored, _) = memory.registry().unwrap();
            if logged_in(memory).iter().all(|index| *index < stored) {
                return leader;
            }
            assert!(Instant::now() < deadline, "a digest follows each write");
            for place in 0..3 {
                self.run_again(place).await;
            }
        }
    }

    /// Transfers leadership to another of `places`; each new leader logs its digest.
    async fn change_leader(&self, places: &[usize]) {
        let deadline = Instant::now() + TIMEOUT;
        let leader = self.settled(places).await;
        let epoch = self.0[leader].answer().await.epoch;
        let other = places.iter().find(|place| **place != leader).unwrap();
        let node_id = self.0[*other].answer().await.answered_by;
        loop {
            assert!(Instant::now() < deadline, "no other one leads");
            let request = v1::TransferLeaderRequest {
                node_id: node_id.clone(),
            };
            // Rejected while another operation on the group is in progress.
            let _ = self.0[leader].client().transfer_leader(request).await;
            let now = self.settled(places).await;
            let seen = self.0[now].seen().await;
            if seen.is_some_and(|seen| seen.epoch > epoch) {
                return;
            }
        }
    }
}

fn others(place: usize) -> [usize; 2] {
    [(place + 1) % 3, (place + 2) % 3]
}

/// Changes a stored record of the registry.
fn tamper(memory: &MemoryStore) {
    let key = argosy_state::encode::key(&RecordKey::Weight(Role::new("ops").unwrap()));
    let (_, records) = memory.registry().unwrap();
    let (_, value) = records.into_iter().find(|(name, _)| *name == key).unwrap();
    let mut changed = value.clone();
    *changed.last_mut().unwrap() ^= 1;
    memory.replace_record(key, changed);
}

/// Returns the commands in the log of `memory`.
pub(super) fn commands_in(memory: &MemoryStore) -> Vec<Command> {
    let (_, last) = memory.last_entry().unwrap();
    let entries = (1..=last).filter_map(|index| memory.entry(index));
    let commands = entries.flat_map(|entry| entry.commands);
    let read = commands.map(|bytes| argosy_state::encode::read_command(&bytes).unwrap());
    read.map(|read| read.command).collect()
}

/// Returns the indexes whose digests are in the log of `memory`.
fn logged_in(memory: &MemoryStore) -> Vec<u64> {
    let commands = commands_in(memory).into_iter();
    let indexes = commands.filter_map(|command| match command {
        Command::CompareDigest(compare) => Some(compare.index),
        _ => None,
    });
    indexes.collect()
}

/// Returns the weights that the log of `memory` sets, in order.
fn weights_in(memory: &MemoryStore) -> Vec<u64> {
    let commands = commands_in(memory).into_iter();
    let operations = commands.flat_map(|command| match command {
        Command::Operate(operate) => operate.operations,
        _ => Vec::new(),
    });
    let weights = operations.filter_map(|operation| match operation {
        OperatorOperation::SetWeight { weight_milli, .. } => Some(weight_milli),
        _ => None,
    });
    weights.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn diverged_master_stops_and_the_others_continue() {
    let mut group = TestGroup::start().await;
    let leader = group.settled(&[0, 1, 2]).await;
    group.0[leader].write(2_000).await;
    group.settled(&[0, 1, 2]).await;
    let wrong = (leader + 1) % 3;
    let others = [leader, (leader + 2) % 3];
    group.0[wrong].stop().await;
    group.change_leader(&others).await;
    tamper(&group.0[wrong].memory);
    group.run_again(wrong).await;
    let ended = group.0[wrong].ended().await.expect_err("it diverged");
    let MasterError::Diverged(why) = &ended else {
        panic!("it ended otherwise: {ended}");
    };
    assert_ne!(why.own, why.logged);
    assert!(
        ended.to_string().contains("argosy master rejoin"),
        "{ended}"
    );
    group.0[others[0]].write(5_000).await;
    // A healthy master resumes where it was.
    for place in others {
        group.0[place].stop().await;
        group.run_again(place).await;
    }
    group.0[others[1]].write(6_000).await;
    for place in others {
        group.0[place].stop().await;
    }
}

/// Two registries do not show which one is right: the followers do not outvote their leader, they
/// leave it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn diverged_leader_loses_its_followers_and_acknowledges_nothing() {
    let mut group = TestGroup::start().await;
    let wrong = group.stopped_after_a_write().await;
    let followers = others(wrong);
    tamper(&group.0[wrong].memory);
    group.run_led_by(wrong).await;
    // Writes of records other than the manipulated one continue until it no longer serves.
    let mut acknowledged = vec![2_000];
    let mut weight_milli = 10_000;
    let deadline = Instant::now() + TIMEOUT;
    let mut ended = Vec::new();
    while ended.len() < followers.len() {
        if Instant::now() >= deadline {
            panic!("a follower continues: {}", group.description().await);
        }
        if group.0[wrong].try_write("dev", weight_milli).await {
            acknowledged.push(weight_milli);
        }
        weight_milli += 1;
        for place in followers {
            let running = &group.0[place].running;
            if running.as_ref().is_some_and(JoinHandle::is_finished) {
                ended.push(group.0[place].ended().await.expect_err("it differs"));
            }
        }
    }
    let [MasterError::Diverged(one), MasterError::Diverged(other)] = &ended[..] else {
        panic!("they ended otherwise: {ended:?}");
    };
    assert_eq!(one, other, "they name the same digests");
    assert_ne!(one.own, one.logged);
    // The leader is not stopped. Without a quorum it steps down, and neither writes nor answers for
    // the group.
    loop {
        assert!(Instant::now() < deadline, "it stays the active leader");
        let seen = group.0[wrong].seen().await;
        if seen.is_some_and(|seen| seen.leader.is_empty()) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(!group.0[wrong].try_write("dev", 99_000).await);
    assert!(!group.0[wrong].answers_for_the_group().await);
    group.0[wrong].stop().await;
    // Everything that it has acknowledged, even between its election and the comparison, is also in
    // the logs of the others.
    let written = weights_in(&group.0[wrong].memory);
    for place in followers {
        let stored = weights_in(&group.0[place].memory);
        assert!(written.starts_with(&stored), "{stored:?} of {written:?}");
    }
    let is_stored = |weight_milli: &u64| {
        let stored = followers.map(|place| weights_in(&group.0[place].memory));
        stored.iter().any(|weights| weights.contains(weight_milli))
    };
    assert!(
        acknowledged.iter().all(is_stored),
        "{acknowledged:?} of {written:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_digest_is_logged_in_each_epoch_and_every_thousand_entries() {
    let alone = SingleMaster::start().await;
    let epoch = alone.active_leader().await.epoch;
    let deadline = Instant::now() + 2 * TIMEOUT;
    let logged = loop {
        assert!(Instant::now() < deadline, "no second digest is logged");
        for weight_milli in 1_000..1_100 {
            alone.operate(weight(weight_milli)).await;
        }
        let logged = logged_in(&alone.memory);
        if logged.len() >= 2 {
            break logged;
        }
    };
    assert_eq!(
        alone.active_leader().await.epoch,
        epoch,
        "it led all the time"
    );
    assert!(
        logged[0] >= epoch && logged[1] >= logged[0] + INTERVAL,
        "{logged:?}"
    );
    alone.end().await;
}
