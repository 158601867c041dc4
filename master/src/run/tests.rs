//! Tests of one master alone, on a store in memory: the loop itself, with raft behind it. Also of
//! three masters that are far apart.

mod access;
mod actors;
mod answers;
mod audit;
mod changes;
mod discovery;
mod divergence;
mod failovers;
mod flood;
mod forwarding;
mod hellos;
mod json_writes;
mod lag_reports;
mod limits;
mod link_memory;
mod lists;
mod preparation;
mod readers;
mod referral;
mod refusals;
mod revocation;
mod routes;
mod rtt;
mod stalls;
mod subscribers;
mod tickets;
mod traces;

use std::time::Duration;

use argosy_proto::server::hosts::AllowedHosts;
use argosy_raft::{MemoryStore, Proposal, SnapshotPolicy, Timing};
use argosy_state::actor::Actor;
use argosy_state::command::{Command, Operate, OperatorOperation, ProposedCommand};
use argosy_state::encode;
use argosy_state::ids::{AgentId, Epoch, FrameworkId, Role, TaskId, TaskKey, Ticket};
use argosy_state::level::Level;
use axum::Router;
use axum::routing::get;
use futures::future::join_all;
use tokio::net::TcpListener;

use super::*;
use crate::inbox::{LeaderStatus, OwnerMessage};
use crate::leader::Input;
use crate::leader_reply::LeaderReply;

/// Longer than anything here takes on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Returns a channel for the facts of access of one master.
fn access_channel() -> watch::Sender<AccessFacts> {
    watch::channel(AccessFacts::default()).0
}

struct SingleMaster {
    memory: MemoryStore,
    handle: OwnerHandle,
    node: Node,
    stop: CancellationToken,
    owner: JoinHandle<Result<(), MasterError>>,
    turn_counter: Arc<TurnCounter>,
    /// Sends raft's requests to the owner.
    requests: mpsc::Sender<OwnerRequest>,
}

impl SingleMaster {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::start_among(listener, Vec::new(), 1).await
    }

    /// Starts three masters that form a group.
    async fn start_three() -> Vec<Self> {
        let mut listeners = Vec::new();
        for _ in 0..3 {
            listeners.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
        }
        let address = |listener: &TcpListener| listener.local_addr().unwrap().to_string();
        let peers: Vec<String> = listeners.iter().map(address).collect();
        let starting = (1..)
            .zip(listeners)
            .map(|(seed, listener)| Self::start_among(listener, peers.clone(), seed));
        join_all(starting).await
    }

    /// Starts one master, which is alone if there are no peers.
    async fn start_among(listener: TcpListener, peers: Vec<String>, seed: u64) -> Self {
        let address = listener.local_addr().unwrap().to_string();
        let bootstrap = peers.is_empty();
        let config = MasterConfig {
            bootstrap,
            timing: Timing::wan(),
            ..MasterConfig::new(Default::default(), address.clone(), address.clone())
        };
        let node_config = NodeConfig {
            directory: None,
            raft_address: address.clone(),
            api_address: address,
            peers,
            bootstrap,
            timing: config.timing,
            snapshot: SnapshotPolicy::default(),
            seed,
        };
        let (owner, mut requests) = mpsc::channel(RAFT_REQUESTS);
        let asking = owner.clone();
        let memory = MemoryStore::default();
        let starting = Node::start_in_memory(
            node_config,
            &memory,
            NodeEnvironment::tcp(listener),
            owner,
            CancellationToken::new(),
        );
        tokio::pin!(starting);
        let mut registry = Registry::new();
        let mut compared = DigestComparison::of(&registry);
        let node = loop {
            tokio::select! {
                node = &mut starting => break node.unwrap(),
                Some(request) = requests.recv() => serve_startup_requests(&mut registry, &mut compared, request).unwrap(),
            }
        };
        let rest = ([seed as u8 + 2; 32], Handle::current());
        let RegistryOwner {
            replica,
            handle: owner_handle,
            inbox,
            queries,
            turn_counter: pulse,
            ..
        } = owner_of(&config, &node, (registry, access_channel()), rest);
        let replica = replica.with_threads(true);
        let stop = CancellationToken::new();
        let owner = tokio::spawn(replica.run(requests, inbox, queries, stop.clone()));
        Self {
            memory: memory.clone(),
            handle: owner_handle,
            node,
            stop,
            owner,
            turn_counter: pulse,
            requests: asking,
        }
    }

    async fn active_leader(&self) -> LeaderStatus {
        let mut leadership = self.handle.leader_status.clone();
        let here = leadership.wait_for(|leadership| leadership.is_local);
        let here = tokio::time::timeout(TIMEOUT, here).await.unwrap();
        here.unwrap().clone()
    }

    async fn operate(&self, operation: OperatorOperation) -> LeaderReply {
        self.operate_named(None, operation).await
    }

    async fn operate_named(
        &self,
        request: Option<&str>,
        operation: OperatorOperation,
    ) -> LeaderReply {
        let operate = Operate {
            request: request.map(|id| ("alice".to_owned(), id.to_owned())),
            hash: 0,
            operations: vec![operation],
            wall_ms: 0,
        };
        let asked = self.handle.ask(move |request| Input::Operate {
            request,
            actor: Actor::default(),
            operate,
        });
        tokio::time::timeout(TIMEOUT, asked).await.unwrap().unwrap()
    }

    /// Proposes these commands as if the owner had done so. Returns when the last is proposed.
    async fn propose_all(&self, epoch: Epoch, commands: impl Iterator<Item = Command>) {
        for (serial, command) in (1 << 40..).zip(commands) {
            let ticket = Ticket { epoch, serial };
            let proposed = ProposedCommand {
                ticket,
                actor: Actor::Unauthenticated,
                command,
            };
            let proposal = Proposal {
                at_ms: 1,
                command: encode::command(&proposed, Level::NEWEST).into(),
                work: 1,
            };
            // The queue of proposals has room again as soon as some are applied.
            while self.node.try_propose(proposal.clone()).is_err() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }

    async fn end(self) {
        self.stop.cancel();
        self.owner.await.unwrap().unwrap();
        self.node.stop().await;
    }
}

fn weight(weight_milli: u64) -> OperatorOperation {
    let role = Role::new("ops").unwrap();
    OperatorOperation::SetWeight { role, weight_milli }
}

fn attribute(bytes: usize) -> OperatorOperation {
    OperatorOperation::SetAttribute {
        agent: AgentId(1),
        name: "rack".to_owned(),
        value: "x".repeat(bytes),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn oversized_command_is_rejected_and_leadership_is_kept() {
    let alone = SingleMaster::start().await;
    let epoch = alone.active_leader().await.epoch;
    let refused = alone.operate(attribute(2 << 20)).await;
    assert!(
        matches!(&refused, LeaderReply::Refused { code: "invalid", message } if message.contains("more than an entry holds")),
        "{refused:?}"
    );
    let done = alone.operate(weight(2_000)).await;
    assert!(
        matches!(&done, LeaderReply::Operated { outcomes, .. } if outcomes[0].is_ok()),
        "{done:?}"
    );
    assert_eq!(alone.active_leader().await.epoch, epoch);
    alone.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_batch_gets_the_first_answer_and_revision_without_an_entry() {
    let alone = SingleMaster::start().await;
    alone.active_leader().await;
    let revision_of = |answer: LeaderReply| match answer {
        LeaderReply::Operated { revision, outcomes } => (revision, outcomes),
        other => panic!("{other:?}"),
    };
    let refused = OperatorOperation::Deactivate(AgentId(9));
    let first = revision_of(alone.operate_named(Some("r-1"), refused.clone()).await);
    assert!(first.1[0].is_err() && first.0.index > 0);
    let between = revision_of(alone.operate(weight(2_000)).await);
    assert!(between.0 > first.0);
    let repeated = revision_of(alone.operate_named(Some("r-1"), refused).await);
    assert_eq!(repeated, first);
    let next = revision_of(alone.operate(weight(3_000)).await);
    assert!(next.0 > between.0);
    // They may include the digest that a new leader logs.
    let logged = divergence::commands_in(&alone.memory);
    let batches = logged
        .iter()
        .filter(|logged| matches!(logged, Command::Operate(_)));
    assert_eq!(batches.count(), 3, "the repeated one is not logged again");
    alone.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_reply_names_the_leader_even_without_a_service() {
    let alone = SingleMaster::start().await;
    alone.active_leader().await;
    let pages = Router::new().route("/read", get(|| async { "read" }));
    let front = ApiRouter::new(pages, alone.handle.clone(), AllowedHosts::default(), 1);
    let pages = Router::new().fallback_service(front);
    let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let serving = tokio::spawn(async move { axum::serve(socket, pages).await });
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([]);
    let client = client.build().unwrap();
    for path in ["read", "nothing"] {
        let answer = client.get(format!("http://{address}/{path}")).send().await;
        let answer = answer.unwrap();
        let named = answer.headers().get("argosy-leader");
        assert_eq!(named.unwrap(), alone.handle.own_address.as_str(), "{path}");
    }
    serving.abort();
    alone.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn undecodable_command_is_rejected_without_stopping_a_master() {
    let alone = SingleMaster::start().await;
    let epoch = alone.active_leader().await.epoch;
    let key = TaskKey {
        framework: FrameworkId(1),
        task: TaskId::new_unchecked("a/b"),
    };
    let kill = OperatorOperation::KillTask {
        key,
        grace_ms: None,
    };
    let refused = alone.operate(kill).await;
    assert!(
        matches!(&refused, LeaderReply::Refused { code: "internal", message } if message.contains("no valid task id")),
        "{refused:?}"
    );
    let done = alone.operate(weight(2_000)).await;
    assert!(matches!(&done, LeaderReply::Operated { .. }), "{done:?}");
    assert_eq!(alone.active_leader().await.epoch, epoch);
    alone.end().await;
}

/// The deposed leader does not know what the next one has done: seed 4002431 rejected an accept as
/// `offer-used` that the next leader then committed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_of_another_epoch_is_no_answer() {
    let alone = SingleMaster::start().await;
    let mut leadership = alone.active_leader().await;
    let refused = alone.operate(attribute(2 << 20)).await;
    assert!(
        matches!(refused, LeaderReply::Refused { .. }),
        "{refused:?}"
    );
    leadership.term -= 1;
    let (_leadership, former) = watch::channel(leadership);
    let mut owner_handle = alone.handle.clone();
    owner_handle.leader_status = former;
    for (operation, is_refused) in [(attribute(2 << 20), true), (weight(2_000), false)] {
        let operate = Operate {
            request: None,
            hash: 0,
            operations: vec![operation],
            wall_ms: 0,
        };
        let asked = owner_handle.ask(move |request| Input::Operate {
            request,
            actor: Actor::default(),
            operate,
        });
        let answered = tokio::time::timeout(TIMEOUT, asked).await.unwrap();
        let code = answered.map_or_else(|status| status.code(), |_| tonic::Code::Ok);
        // The log contains the change, regardless of the leader.
        let expected = if is_refused {
            tonic::Code::Unavailable
        } else {
            tonic::Code::Ok
        };
        assert_eq!(code, expected);
    }
    alone.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_beyond_the_proposal_queue_wait_and_are_answered() {
    let alone = SingleMaster::start().await;
    let epoch = alone.active_leader().await.epoch;
    // Ninety mebibytes; 64 may wait for raft.
    let calls = (0..100).map(|_| alone.operate(attribute(900_000)));
    for answer in join_all(calls).await {
        assert!(
            matches!(&answer, LeaderReply::Operated { .. }),
            "{answer:?}"
        );
    }
    assert_eq!(alone.active_leader().await.epoch, epoch);
    alone.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_too_old_for_its_stored_data_exits_without_leading() {
    let newer = argosy_state::level::Level::NEWEST.0 + 1;
    // A format, then a field 90 that holds a message: a command that only a newer release supports.
    let commands = [
        (1, "the command has no valid kind"),
        (newer as u8, "install a newer one"),
    ];
    for (format, words) in commands {
        let alone = SingleMaster::start().await;
        alone.active_leader().await;
        let command = vec![8, format, 0xd2, 0x05, 0].into();
        let at_ms = 1;
        alone
            .node
            .try_propose(argosy_raft::Proposal {
                at_ms,
                command,
                work: 1,
            })
            .unwrap();
        let ended = tokio::time::timeout(TIMEOUT, alone.owner).await;
        let why = ended.expect("it ends").unwrap().unwrap_err().to_string();
        assert!(
            why.contains("cannot be read") && why.contains(words),
            "{why}"
        );
        alone.node.stop().await;
    }
}
