//! A node whose disk stalls while consensus waits for it.

use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::{MemoryStore, Node, NodeConfig, NodeEnvironment, OwnerRequest, Timing};

/// The duration of one write: more ticks of openraft than its queue holds by default.
const STALL: Duration = Duration::from_mins(20);

/// Far longer than the stall, in paused time.
const TIMEOUT: Duration = Duration::from_hours(1);

async fn own(mut requests: mpsc::Receiver<OwnerRequest>) {
    while let Some(request) = requests.recv().await {
        match request {
            OwnerRequest::Load { done, .. } => drop(done.send(())),
            OwnerRequest::Apply { done, .. } => drop(done.send(Vec::new())),
        }
    }
}

async fn start(memory: &MemoryStore, bootstrap: bool) -> Node {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = NodeConfig {
        directory: None,
        raft_address: listener.local_addr().unwrap().to_string(),
        api_address: "api".to_owned(),
        peers: Vec::new(),
        bootstrap,
        timing: Timing::testing(),
        snapshot: Default::default(),
        seed: 1,
    };
    let (owner, requests) = mpsc::channel(1);
    tokio::spawn(own(requests));
    let (surroundings, stop) = (NodeEnvironment::tcp(listener), CancellationToken::new());
    let started = Node::start_in_memory(config, memory, surroundings, owner, stop).await;
    started.unwrap()
}

async fn until_it_leads(node: &Node) {
    let mut status = node.status();
    let leads = timeout(TIMEOUT, status.wait_for(|status| status.is_leader)).await;
    leads.expect("it leads").unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_candidate_whose_disk_stalls_for_long_is_elected_afterwards() {
    let memory = MemoryStore::default();
    let node = start(&memory, true).await;
    until_it_leads(&node).await;
    node.stop().await;
    let term = memory.vote().unwrap().term;
    memory.slow_down(STALL);
    let node = start(&memory, false).await;
    // The write of its next vote has begun, and takes the whole stall.
    sleep(Duration::from_mins(1)).await;
    memory.slow_down(Duration::ZERO);
    assert_eq!(memory.vote().unwrap().term, term);
    until_it_leads(&node).await;
    assert!(memory.vote().unwrap().term > term);
    node.stop().await;
}
