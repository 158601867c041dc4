//! One incarnation of a node's process, with clients that write and read registers.

use std::time::Duration;

use argosy_raft::{
    LogProgress, Node, NodeConfig, NodeEnvironment, Proposal, SnapshotPolicy, Timing,
};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::owner::{Owner, node};
use super::{NodeRequest, PORT, RaftGroup, lock, name};
use crate::history::{Consistency, Operation, OperationResponse, RaftFact};
use crate::rng::Rng;
use crate::sim::network;

/// Registers that clients share: few, so that they contend.
const REGISTERS: u64 = 4;
/// Clients of each node.
const CLIENTS: u64 = 2;
/// Timeout of a client's request.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Interval at which a node polls its requests.
const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// Commits between two records of a node's progress.
const COMMITS: u64 = 50;

fn config(group: &RaftGroup, place: usize) -> NodeConfig {
    let address = |place| format!("{}:{PORT}", name(place));
    NodeConfig {
        directory: None,
        raft_address: address(place),
        api_address: format!("{}:5050", name(place)),
        peers: (0..group.len()).map(address).collect(),
        bootstrap: false,
        timing: Timing::testing(),
        // Small, so that snapshots are made and sent often.
        snapshot: SnapshotPolicy {
            entries: 30,
            bytes: 1 << 20,
        },
        seed: group.seed,
    }
}

/// Runs the process from its start until it is killed.
pub(super) async fn run(group: RaftGroup, place: usize) -> turmoil::Result {
    let incarnation = group.with_status(place, |seen| {
        seen.incarnation += 1;
        seen.is_leader = false;
        seen.requests.clear();
        seen.incarnation
    });
    // Raft waits for each response, so there is never more than one request.
    let (requests, inbox) = mpsc::channel(1);
    let owner = Owner::new();
    tokio::spawn(owner.clone().run(group.clone(), place, inbox));
    let surroundings = NodeEnvironment {
        listener: network::listener(PORT).await?,
        dialer: network::dialer(&name(place), &group.cuts),
        wall: network::WallClocks::default().of(&name(place)),
    };
    let (config, store) = (config(&group, place), &group.stores[place]);
    let stop = CancellationToken::new();
    let started = Node::start_in_memory(config, store, surroundings, requests, stop).await?;
    for number in 0..CLIENTS {
        let client = RaftClient {
            group: group.clone(),
            node: started.clone(),
            owner: owner.clone(),
            name: format!("client-{}-{incarnation}-{number}", place + 1),
            rng: Rng::new(group.seed).fork(incarnation << 20 | (place as u64) << 8 | number),
        };
        tokio::spawn(client.run());
    }
    watch(&group, place, &started).await
}

/// Records the status of the node, and carries out its requests.
async fn watch(group: &RaftGroup, place: usize, started: &Node) -> turmoil::Result {
    let mut term = 0;
    let mut news = started.status();
    let mut reported = ReportedProgress::default();
    loop {
        let status = news.borrow_and_update().clone();
        if let Some(failure) = status.failure {
            return Err(format!("{}: {failure}", name(place)).into());
        }
        reported.report(group, place, status.term, &started.progress());
        group.with_status(place, |seen| {
            seen.is_leader = status.is_leader;
            seen.term = seen.term.max(status.term);
        });
        if status.is_leader && status.term != term {
            term = status.term;
            group.notes.count("led");
            let fact = RaftFact::Led {
                node: node(place),
                term,
                last_index: started.progress().last_log_index,
            };
            group.notes.recorder.observe(&*name(place), fact);
        }
        let order = group.with_status(place, |seen| seen.requests.pop_front());
        if let Some(NodeRequest::Transfer) = order {
            // Success is not guaranteed under faults.
            let transferred = started.transfer(None).await;
            group.notes.count(match transferred {
                Ok(_) => "transferred",
                Err(_) => "transfer refused",
            });
        }
        tokio::select! {
            () = tokio::time::sleep(POLL_INTERVAL) => {}
            changed = news.changed() => if changed.is_err() {
                return Err(format!("{} reports nothing any more", name(place)).into());
            },
        }
    }
}

/// The progress that an incarnation of a node has reported.
#[derive(Default)]
struct ReportedProgress {
    term: u64,
    committed: u64,
}

impl ReportedProgress {
    /// Records the content of the disk first, then every term, and some commits.
    fn report(&mut self, group: &RaftGroup, place: usize, term: u64, progress: &LogProgress) {
        if term == 0 {
            // The disk has not been read yet, or is empty.
            return;
        }
        let committed = progress.committed_index;
        let applied = progress.applied_index;
        let fact = match self.term {
            0 => RaftFact::Started {
                node: node(place),
                term,
                last_index: progress.last_log_index,
                committed,
            },
            reported if reported != term || committed >= self.committed + COMMITS => {
                RaftFact::Progress {
                    node: node(place),
                    term,
                    committed,
                    applied,
                }
            }
            _ => return,
        };
        *self = Self { term, committed };
        group.notes.recorder.observe(&*name(place), fact);
    }
}

/// A client that writes and reads.
struct RaftClient {
    group: RaftGroup,
    node: Node,
    owner: Owner,
    name: String,
    rng: Rng,
}

impl RaftClient {
    async fn run(mut self) {
        for number in 0.. {
            let pause = Duration::from_millis(self.rng.between(1, 40));
            tokio::time::sleep(pause).await;
            let key = format!("r{}", self.rng.below(REGISTERS));
            if !self.node.status().borrow().is_leader {
                continue;
            }
            match self.rng.percent(60) {
                true => self.write(key, number).await,
                false => self.read(key).await,
            }
        }
    }

    async fn write(&self, key: String, number: u64) {
        let value = format!("{}-{number}", self.name);
        let command = format!("{key}={value}");
        let (waiter, applied) = oneshot::channel();
        lock(&self.owner.registry)
            .waiting
            .insert(command.clone(), waiter);
        let recorder = &self.group.notes.recorder;
        let operation = Operation::Write {
            key,
            value: Some(value),
            request: String::new(),
        };
        let call = recorder.invoke(&*self.name, operation);
        let proposal = Proposal {
            at_ms: 0,
            command: command.into_bytes().into(),
            work: 1,
        };
        let proposed = async {
            self.node
                .propose(proposal)
                .await
                .map_err(|why| why.to_string())?;
            applied.await.map_err(|why| why.to_string())
        };
        match tokio::time::timeout(TIMEOUT, proposed).await {
            Ok(Ok(_index)) => {
                self.group.notes.count("written");
                recorder.ok(call, OperationResponse::Done, None);
            }
            // It may still be committed from the queue of a node that lost leadership.
            Ok(Err(why)) => recorder.info(call, why),
            Err(_) => recorder.info(call, "no answer in time"),
        }
    }

    async fn read(&self, key: String) {
        let recorder = &self.group.notes.recorder;
        let operation = Operation::Read {
            key: key.clone(),
            consistency: Consistency::Linearizable,
        };
        let call = recorder.invoke(&*self.name, operation);
        let reading = async {
            let index = self.node.confirm_read().await.ok()?;
            let mut applied = self.owner.applied.subscribe();
            applied.wait_for(|applied| *applied >= index).await.ok()?;
            Some(lock(&self.owner.registry).registers.get(&key).cloned())
        };
        match tokio::time::timeout(TIMEOUT, reading).await {
            Ok(Some(value)) => {
                self.group.notes.count("read");
                recorder.ok(call, OperationResponse::Value { value }, None);
            }
            Ok(None) | Err(_) => recorder.info(call, "not confirmed"),
        }
    }
}
