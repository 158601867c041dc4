//! A flood of reads on the real loop and the real router, with an agent and a framework connected.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use argosy_proto::{convert, v1};
use argosy_state::actor::Actor;
use argosy_state::command::{Accept, Call, CallAction, OfferOperation};
use argosy_state::ids::{Epoch, FrameworkId, OrderIndex};
use argosy_state::testing::{framework_info, registration, spec};
use futures::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::routes::{routes, until};
use super::*;
use crate::leader::{Decline, Hello, SchedulerHello};
use crate::links::{self, LinkId, LinkStream};

/// Clients that read without a pause. A heartbeat does not wait until each of them was served.
const READERS: usize = 40;

/// An agent and a framework without connections: their links end here.
struct TestLinks {
    handle: OwnerHandle,
    agent: LinkId,
    to_agent: LinkStream<v1::ToAgent>,
    framework: FrameworkId,
    events: LinkStream<v1::Event>,
    offer: v1::Offer,
}

impl TestLinks {
    async fn open(owner: OwnerHandle) -> Self {
        let (agent, framework_link) = (owner.new_link(), owner.new_link());
        let (sender, to_agent) = links::link();
        let (events_in, events) = links::link();
        let subscription = Box::new(SchedulerHello {
            cluster: None,
            framework: None,
            session: 7,
            replaces: None,
            info: framework_info("load"),
            held: Vec::new(),
            filters: Vec::new(),
            version: 1,
            sends_heartbeats: false,
        });
        let subscribe = Box::new(Input::Subscribe {
            link: framework_link,
            actor: Actor::default(),
            subscription,
        });
        let opened = OwnerMessage::FrameworkLink(framework_link, events_in, subscribe, None);
        owner.begin_stream(0, opened).unwrap();
        owner
            .send(OwnerMessage::AgentLink(agent, sender))
            .await
            .unwrap();
        let register = registration(9, "cpus:64;mem:65536");
        let hello = Box::new(Hello {
            follows: None,
            cluster: None,
            agent: None,
            confirmed: 0,
            tried: register.tried,
            nonce: register.nonce,
            boot_id: register.boot_id,
            highest_epoch: Epoch(0),
            info: register.info,
            floor: OrderIndex(0),
            digests: Default::default(),
            version: 1,
        });
        let hello = Input::AgentHello {
            link: agent,
            actor: Actor::default(),
            hello,
        };
        owner.send(OwnerMessage::Input(hello)).await.unwrap();
        let mut links = Self {
            handle: owner,
            agent,
            to_agent,
            framework: FrameworkId(1),
            events,
            offer: v1::Offer::default(),
        };
        links.next_offer().await;
        links
    }

    async fn next_offer(&mut self) {
        let offered = async {
            loop {
                let event = self.events.next().await.expect("the link stays open");
                if let Some(v1::event::Event::Offers(offers)) = event.event {
                    return offers.offers.into_iter().next().unwrap();
                }
            }
        };
        self.offer = tokio::time::timeout(TIMEOUT, offered).await.unwrap();
    }

    /// Launches tasks with descriptions of `bytes` bytes on the current offer.
    async fn launch(&mut self, number: u64, tasks: usize, bytes: usize) {
        let offer = Some(self.offer.clone());
        let (terms, token) = convert::offer_terms(&v1::HeldOffer { offer }).unwrap();
        let launches = (0..tasks).map(|at| {
            let mut task = spec(&format!("task-{number}-{at}"), "cpus:0.1;mem:16");
            task.environment
                .insert("FILL".to_owned(), "x".repeat(bytes));
            task
        });
        let action = CallAction::Accept(Accept {
            offers: vec![terms],
            operations: vec![OfferOperation::Launch(launches.collect())],
            all_or_nothing: false,
            wall_ms: 0,
        });
        let call = Box::new(Call {
            framework: self.framework,
            session: 7,
            number,
            lowest_unanswered: number,
            hash: number,
            action,
        });
        let asked = self.handle.ask(move |request| Input::Call {
            request,
            actor: Actor::default(),
            call,
            tokens: vec![token],
            filter_ms: 0,
        });
        let answer = tokio::time::timeout(TIMEOUT, asked).await.unwrap();
        assert!(matches!(&answer, Ok(LeaderReply::Called { refused, .. }) if refused.is_empty()));
        self.next_offer().await;
    }

    /// Sends one heartbeat of the agent, declines the offer and waits for it again.
    async fn beat(&mut self, serial: u64, served: &AtomicUsize) {
        let before = served.load(Ordering::Relaxed);
        let ping = Input::AgentPing {
            link: self.agent,
            serial,
        };
        self.handle.send(OwnerMessage::Input(ping)).await.unwrap();
        let answered = async {
            loop {
                let reported = self.to_agent.next().await.expect("the link stays open");
                if reported.message == Some(v1::to_agent::Message::Pong(v1::Ping { serial })) {
                    return;
                }
            }
        };
        let answered = tokio::time::timeout(TIMEOUT, answered).await;
        answered.expect("heartbeats are answered");
        let reads = served.load(Ordering::Relaxed) - before;
        assert!(reads < READERS, "{reads} reads were served before it");
        let decline = Decline {
            framework: self.framework,
            session: 7,
            offers: vec![self.offer.offer_id.parse().unwrap()],
            filter_ms: 0,
            reason: Default::default(),
        };
        let asked = self.handle.ask(move |request| Input::Decline {
            request,
            actor: Actor::default(),
            decline,
        });
        assert_eq!(asked.await.unwrap(), LeaderReply::Declined);
        self.next_offer().await;
    }
}

const QUESTION: &[u8] =
    b"GET /v1/tasks?page_size=10000&consistency=local HTTP/1.1\r\nhost: x\r\n\r\n";

/// Reads one answer after another; counts the successful and the rejected ones.
async fn read_on(address: String, good: Arc<AtomicUsize>, refused: Arc<AtomicUsize>) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(mut stream) = TcpStream::connect(&address).await {
        let question = [
            &QUESTION[..QUESTION.len() - 2],
            b"connection: close\r\n\r\n",
        ]
        .concat();
        if stream.write_all(&question).await.is_err() {
            continue;
        }
        let mut head = Vec::new();
        while let Ok(read @ 1..) = stream.read(&mut buffer).await {
            if head.len() < 12 {
                head.extend_from_slice(&buffer[..read.min(12)]);
            }
        }
        match head.get(9..12) {
            Some(b"200") => good.fetch_add(1, Ordering::Relaxed),
            Some(b"429") => refused.fetch_add(1, Ordering::Relaxed),
            other => panic!("{other:?}"),
        };
    }
}

/// Reads the summary of the cluster repeatedly on one connection: it is never rejected.
async fn poll_reads(address: String, polls: Arc<AtomicUsize>) {
    let mut stream = TcpStream::connect(&address).await.unwrap();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let question = b"GET /v1/cluster?consistency=local HTTP/1.1\r\nhost: x\r\n\r\n";
        stream.write_all(question).await.unwrap();
        // The answer is smaller than one read, and is sent in one piece.
        let read = stream.read(&mut buffer).await.unwrap();
        let head = String::from_utf8_lossy(&buffer[..read.min(12)]);
        assert_eq!(head, "HTTP/1.1 200");
        polls.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Sends one request and never reads.
async fn stall(address: String) -> TcpStream {
    let mut stream = TcpStream::connect(&address).await.unwrap();
    stream.write_all(QUESTION).await.unwrap();
    stream
}

/// Serves the real routes on a new port until the test ends.
async fn serve_reads(owner: &OwnerHandle) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let router = routes(owner, None);
    let limits = Connections::of_this_process("api");
    let listener = Listener::tcp(listener);
    tokio::spawn(server::serve(
        listener,
        router,
        limits,
        CancellationToken::new(),
    ));
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heartbeats_and_offers_continue_under_a_flood_of_reads() {
    let mut alone = SingleMaster::start().await;
    let budget = 24 << 20;
    alone.handle.reads = ReadLimiter::new(ReadBounds {
        builders: 2,
        max_waiting: 8,
        bytes: budget,
        bytes_reserved: 8 << 20,
        // Only reads that find the line full are rejected; the time to build a page on a busy
        // machine does not matter.
        wait_timeout: TIMEOUT,
        stall_timeout: Duration::from_secs(1),
        busy_stall_timeout: Duration::from_millis(300),
        ..ReadBounds::default()
    });
    let cutter = tokio::spawn(alone.handle.reads.clone().cut_off_slow_readers(Vec::new()));
    let epoch = alone.active_leader().await.epoch;
    let mut links = TestLinks::open(alone.handle.clone()).await;
    for number in 1..=5 {
        links.launch(number, 100, 8_000).await;
    }
    let address = serve_reads(&alone.handle).await;
    // Their answers are larger than the socket buffers.
    let mut stalled = Vec::new();
    for _ in 0..8 {
        stalled.push(stall(address.clone()).await);
    }
    let (good, refused) = (Arc::default(), Arc::default());
    let mut readers = JoinSet::new();
    for _ in 0..READERS {
        let counts = (Arc::clone(&good), Arc::clone(&refused));
        readers.spawn(read_on(address.clone(), counts.0, counts.1));
    }
    let polls = Arc::default();
    let poller = tokio::spawn(poll_reads(address.clone(), Arc::clone(&polls)));
    let mut serial = 0;
    let deadline = tokio::time::Instant::now() + TIMEOUT;
    // Long enough that some readers are served, and some are not.
    while good.load(Ordering::Relaxed) < 40
        || refused.load(Ordering::Relaxed) < 10
        || polls.load(Ordering::Relaxed) < 10
        || serial < 50
    {
        serial += 1;
        links.beat(serial, &good).await;
        let held = alone.handle.reads.held_bytes();
        assert!(held <= budget, "{held}");
        assert!(!poller.is_finished(), "{:?}", poller.await);
        assert!(
            tokio::time::Instant::now() < deadline,
            "{good:?} {refused:?} {polls:?}"
        );
    }
    assert!(!poller.is_finished(), "{:?}", poller.await);
    poller.abort();
    readers.shutdown().await;
    // Those that never read are still connected, and hold nothing.
    until("all memory is given back", || {
        alone.handle.reads.held_bytes() == 0
    })
    .await;
    drop(stalled);
    assert_eq!(alone.active_leader().await.epoch, epoch);
    cutter.abort();
    alone.end().await;
}
