//! Three masters whose inboxes can be made slow: messages of links wait in them, everything else
//! continues.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use argosy_testing::Log;
use tokio::time::Instant;

use super::*;
use crate::lag::MAX_LAG;

/// Delay of each message in a slow inbox.
const LATE: Duration = Duration::from_secs(4);
/// All inboxes are fast.
const NO_MASTER: usize = usize::MAX;

/// A master without an API: only its own probes arrive.
struct MasterWithoutApi {
    handle: OwnerHandle,
    node: Node,
    stop: CancellationToken,
    owner: JoinHandle<Result<(), MasterError>>,
    _others: Vec<AbortOnDropHandle<()>>,
}

impl MasterWithoutApi {
    /// Assembles a master as [`lead_or_follow`] does, with an inbox that is slow while `slow` is
    /// `place`.
    async fn start(
        place: usize,
        (raft, peers): (TcpListener, Vec<String>),
        slow: Arc<AtomicUsize>,
    ) -> Self {
        let address = raft.local_addr().unwrap().to_string();
        let config = MasterConfig {
            peers,
            timing: Timing::wan(),
            seed: place as u64,
            ..MasterConfig::new(Default::default(), address.clone(), address)
        };
        let (sender, mut requests) = mpsc::channel(RAFT_REQUESTS);
        let (stop, raft_stop) = (CancellationToken::new(), CancellationToken::new());
        let memory = Some(MemoryStore::default());
        let surroundings = NodeEnvironment::tcp(raft);
        let stopped = raft_stop.clone();
        let starting = starting(config.clone(), memory, surroundings, sender, stopped);
        let starting = tokio::spawn(starting);
        let access = access_channel();
        let loaded = load(starting, (&mut requests, &access), &stop, &raft_stop).await;
        let (node, registry) = loaded.unwrap();
        let entropy = [place as u8 + 1; 32];
        let owner = owner_of(
            &config,
            &node,
            (registry, access),
            (entropy, Handle::current()),
        );
        let (sender, messages) = mpsc::channel(INBOX);
        let hands = transfer_on_request(node.clone(), owner.transfers);
        let probe = lag::probe(owner.handle.inbox.clone());
        let Inbox { links, calls } = owner.inbox;
        let inbox = Inbox {
            links: messages,
            calls,
        };
        let carry = carry(links, sender, move || slow.load(Ordering::Relaxed) == place);
        let others = vec![
            AbortOnDropHandle::new(tokio::spawn(hands)),
            AbortOnDropHandle::new(tokio::spawn(probe)),
            AbortOnDropHandle::new(tokio::spawn(carry)),
        ];
        let running = owner
            .replica
            .run(requests, inbox, owner.queries, stop.clone());
        Self {
            handle: owner.handle,
            node,
            stop,
            owner: tokio::spawn(running),
            _others: others,
        }
    }

    fn is_active_leader(&self) -> bool {
        self.handle.leader_status.borrow().is_local
    }

    async fn end(self) {
        self.stop.cancel();
        self.owner.await.unwrap().unwrap();
        self.node.stop().await;
    }
}

/// Forwards messages in their order, with a delay while that inbox is slow.
async fn carry(
    mut from: mpsc::Receiver<OwnerMessage>,
    to: mpsc::Sender<OwnerMessage>,
    is_slow: impl Fn() -> bool,
) {
    let (sender, mut waiting) = mpsc::unbounded_channel();
    let take = async move {
        while let Some(message) = from.recv().await {
            let wait = if is_slow() { LATE } else { Duration::ZERO };
            let _ = sender.send((Instant::now() + wait, message));
        }
    };
    let give = async move {
        while let Some((at, message)) = waiting.recv().await {
            tokio::time::sleep_until(at).await;
            if to.send(message).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(take, give);
}

/// Returns the index of the active leader, once there is one other than `former`.
async fn active_leader(masters: &[MasterWithoutApi], former: Option<usize>) -> usize {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let mut places = 0..masters.len();
        let found =
            places.find(|place| Some(*place) != former && masters[*place].is_active_leader());
        if let Some(place) = found {
            return place;
        }
        assert!(Instant::now() < deadline, "no other master leads");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Runs on one thread, which is the one whose log is captured.
#[tokio::test]
async fn lagging_leader_logs_and_transfers_leadership() {
    let log = Log::default();
    let _captured = tracing::subscriber::set_default(log.clone());
    let has = |words: &str| {
        log.0
            .lock()
            .unwrap()
            .iter()
            .any(|line| line.contains(words))
    };
    let mut sockets = Vec::new();
    for _ in 0..3 {
        sockets.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
    }
    let address = |socket: &TcpListener| socket.local_addr().unwrap().to_string();
    let peers: Vec<String> = sockets.iter().map(address).collect();
    let slow = Arc::new(AtomicUsize::new(NO_MASTER));
    let starts = sockets.into_iter().enumerate();
    let starts = starts
        .map(|(place, raft)| MasterWithoutApi::start(place, (raft, peers.clone()), slow.clone()));
    let masters = join_all(starts).await;
    let late = active_leader(&masters, None).await;
    let reported = "messages of agents and frameworks were not processed in time";
    let handed_over = "leadership transferred";
    assert!(!has(reported) && !has(handed_over));
    let begun = Instant::now();
    slow.store(late, Ordering::Relaxed);
    active_leader(&masters, Some(late)).await;
    assert!(
        begun.elapsed() > MAX_LAG,
        "it transferred leadership for another reason"
    );
    // The former leader logs the outcome after the next one has begun.
    let deadline = Instant::now() + TIMEOUT;
    for words in [reported, "transferring leadership", handed_over] {
        while !has(words) {
            let lines = log.0.lock().unwrap();
            assert!(Instant::now() < deadline, "{words}: {lines:?}");
            drop(lines);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    // It becomes a follower, although it is slow.
    let deadline = Instant::now() + TIMEOUT;
    while masters[late].is_active_leader() {
        assert!(Instant::now() < deadline, "two masters are active leaders");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for master in masters {
        master.end().await;
    }
}
