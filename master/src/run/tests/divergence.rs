//! Three masters in this process. The stored registry of one is changed behind its back: it is found out, says so, and
//! the other two go on.

use argosy_proto::v1;
use argosy_proto::v1::operator_client::OperatorClient;
use argosy_state::command::Command;
use argosy_state::registry::RecordKey;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};

use super::*;
use crate::comparison::EVERY;

struct Master {
    api: String,
    raft: String,
    memory: MemoryStore,
    stop: CancellationToken,
    running: Option<JoinHandle<Result<(), RunError>>>,
}

impl Master {
    async fn ended(&mut self) -> Result<(), RunError> {
        let running = self.running.take().expect("it was started");
        let ended = tokio::time::timeout(PATIENCE, running).await;
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

    /// Writes by way of this master until it is acknowledged: on a busy host nobody may lead for a moment.
    async fn write(&self, weight_milli: u64) {
        let deadline = Instant::now() + PATIENCE;
        while !self.try_write(weight_milli).await {
            assert!(Instant::now() < deadline, "nothing is committed");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn try_write(&self, weight_milli: u64) -> bool {
        let weight = v1::SetWeight {
            role: "ops".to_owned(),
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

struct Group(Vec<Master>);

impl Group {
    async fn start() -> Self {
        let mut masters = Vec::new();
        let mut sockets = Vec::new();
        for _ in 0..3 {
            let api = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let raft = TcpListener::bind("127.0.0.1:0").await.unwrap();
            masters.push(Master {
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
            group.run(place, api, raft);
        }
        group
    }

    fn run(&mut self, place: usize, api: TcpListener, raft: TcpListener) {
        let peers = self.0.iter().map(|master| master.raft.clone()).collect();
        let master = &mut self.0[place];
        let config = Config {
            peers,
            timing: Timing::testing(),
            seed: place as u64,
            ..Config::new(Default::default(), master.api.clone(), master.raft.clone())
        };
        let parts = Parts {
            api: Listener::tcp(api),
            raft: Surroundings::tcp(raft),
            raft_runtime: Handle::current(),
            memory: Some(master.memory.clone()),
            metrics: None,
            entropy: [place as u8 + 1; 32],
        };
        master.stop = CancellationToken::new();
        let running = run(config, parts, master.stop.clone());
        master.running = Some(tokio::spawn(running));
    }

    async fn run_again(&mut self, place: usize) {
        let master = &self.0[place];
        let api = TcpListener::bind(&master.api).await.unwrap();
        let raft = TcpListener::bind(&master.raft).await.unwrap();
        self.run(place, api, raft);
    }

    /// Waits until one of `places` is in office, and all of them have applied what it has.
    async fn settled(&self, places: &[usize]) -> usize {
        let deadline = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < deadline, "nobody leads");
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

    /// Has another of `places` lead; each new leader logs its digest.
    async fn change_leader(&self, places: &[usize]) {
        let deadline = Instant::now() + PATIENCE;
        let leader = self.settled(places).await;
        let epoch = self.0[leader].seen().await.map_or(0, |seen| seen.epoch);
        let other = places.iter().find(|place| **place != leader).unwrap();
        let node_id = self.0[*other].seen().await.unwrap().answered_by;
        loop {
            assert!(Instant::now() < deadline, "no other one leads");
            let request = v1::TransferLeaderRequest {
                node_id: node_id.clone(),
            };
            // Refused while the group is busy with something else.
            let _ = self.0[leader].client().transfer_leader(request).await;
            let now = self.settled(places).await;
            let seen = self.0[now].seen().await;
            if seen.is_some_and(|seen| seen.epoch > epoch) {
                return;
            }
        }
    }
}

/// Changes a record of the registry that is stored there.
fn tamper(memory: &MemoryStore) {
    let key = argosy_state::encode::key(&RecordKey::Weight(Role::new("ops").unwrap()));
    let (_, records) = memory.registry().unwrap();
    let (_, value) = records.into_iter().find(|(name, _)| *name == key).unwrap();
    let mut changed = value.clone();
    *changed.last_mut().unwrap() ^= 1;
    memory.replace_record(key, changed);
}

/// The indexes whose digests are in the log of `memory`.
fn logged_in(memory: &MemoryStore) -> Vec<u64> {
    let (_, last) = memory.last_entry().unwrap();
    let entries = (1..=last).filter_map(|index| memory.entry(index));
    let commands = entries.flat_map(|entry| entry.commands);
    let read = commands.map(|bytes| argosy_state::encode::read_command(&bytes).unwrap());
    let indexes = read.filter_map(|read| match read.command {
        Command::CompareDigest(compare) => Some(compare.index),
        _ => None,
    });
    indexes.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_whose_registry_differs_stops_and_the_others_go_on() {
    let mut group = Group::start().await;
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
    let RunError::Diverged(why) = &ended else {
        panic!("it ended otherwise: {ended}");
    };
    assert_ne!(why.own, why.logged);
    assert!(
        ended.to_string().contains("argosy master rejoin"),
        "{ended}"
    );
    group.0[others[0]].write(5_000).await;
    // One that is sound takes up where it was.
    for place in others {
        group.0[place].stop().await;
        group.run_again(place).await;
    }
    group.0[others[1]].write(6_000).await;
    for place in others {
        group.0[place].stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_digest_is_logged_in_each_epoch_and_every_thousand_entries() {
    let alone = Alone::start().await;
    let epoch = alone.in_office().await.epoch;
    let deadline = Instant::now() + 2 * PATIENCE;
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
    assert_eq!(alone.in_office().await.epoch, epoch, "it led all the time");
    assert!(
        logged[0] >= epoch && logged[1] >= logged[0] + EVERY,
        "{logged:?}"
    );
    alone.end().await;
}
