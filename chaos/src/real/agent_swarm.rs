//! A swarm of a thousand agents without tasks: they register, keep their links, and reconnect all
//! at the same time.
//!
//! They offer almost no resources and get no tasks: the harness's frameworks do not fit on them.

use std::time::Duration;

use argosy_client::connector::random_seed;
use argosy_client::uplink::Uplink;
use argosy_client::{AgentUplink, Connector, Masters};
use argosy_proto::v1;
use argosy_proto::versions::VersionRange;
use argosy_testbed::transport::ClientTransport;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Links that share one connection.
const LINKS_PER_CONNECTION: usize = 100;
/// Timeout of an attempt to reach the leader.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Silence after which a master counts as dead.
const MASTER_TIMEOUT: Duration = Duration::from_secs(3);
/// Pause between two heartbeats.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);

/// The links. They end when this value is dropped.
pub(crate) struct AgentSwarm {
    _links: JoinSet<()>,
    linked: Arc<AtomicUsize>,
    count: usize,
}

impl AgentSwarm {
    pub(crate) fn start(masters: &Masters, transport: &ClientTransport, count: usize) -> Self {
        let linked = Arc::new(AtomicUsize::new(0));
        let mut links = JoinSet::new();
        let connect = || Connector::new(masters.clone(), transport.connector());
        let mut connector = connect();
        for number in 0..count {
            if number.is_multiple_of(LINKS_PER_CONNECTION) {
                connector = connect();
            }
            let uplink = AgentUplink::new(connector.clone());
            links.spawn(run_agent(
                SwarmAgent::new(number),
                uplink,
                Arc::clone(&linked),
            ));
        }
        Self {
            _links: links,
            linked,
            count,
        }
    }

    /// Returns how many are registered with the current leader.
    pub(crate) fn linked(&self) -> usize {
        self.linked.load(Ordering::Relaxed)
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }
}

/// The state that one agent keeps between links.
struct SwarmAgent {
    hello: v1::Hello,
}

impl SwarmAgent {
    fn new(number: usize) -> Self {
        let nonce = random_seed();
        let resources = argosy_client::resources::resources("cpus:0.001;mem:1");
        let info = v1::AgentInfo {
            host_name: format!("swarm-{number}"),
            address: format!("127.79.{}.{}:5051", number / 250, number % 250 + 1),
            resources: resources.expect("the resources are valid"),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            isolation: "processes".to_owned(),
            ..Default::default()
        };
        let hello = v1::Hello {
            protocol: Some(VersionRange::OWN.first_message()),
            nonce,
            tried_incarnations: vec![random_seed()],
            boot_id: format!("{nonce:016x}"),
            info: Some(info),
            digest: 0_u128.to_be_bytes().to_vec(),
            ..Default::default()
        };
        Self { hello }
    }

    fn receive(&mut self, message: v1::ToAgent) -> bool {
        self.hello.highest_epoch = self.hello.highest_epoch.max(message.epoch);
        let Some(v1::to_agent::Message::Registered(registered)) = message.message else {
            return false;
        };
        self.hello.cluster_id = message.cluster_id;
        self.hello.agent_id = registered.agent_id;
        self.hello.confirmed_incarnation = registered.incarnation;
        self.hello.tried_incarnations.clear();
        true
    }
}

async fn run_agent(mut agent: SwarmAgent, uplink: AgentUplink, linked: Arc<AtomicUsize>) {
    loop {
        // A failed search has paused already.
        if let Ok(link) = uplink.connect(agent.hello.clone(), CONNECT_TIMEOUT).await {
            let address = link.address.clone();
            let mut counted = LinkGuard {
                linked: &linked,
                is_counted: false,
            };
            if run_link(&mut agent, link, &mut counted).await {
                uplink.mark_silent(&address);
            }
        }
    }
}

/// Counts an agent for as long as it is linked.
struct LinkGuard<'a> {
    linked: &'a AtomicUsize,
    is_counted: bool,
}

impl LinkGuard<'_> {
    fn count(&mut self) {
        if !self.is_counted {
            self.is_counted = true;
            self.linked.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for LinkGuard<'_> {
    fn drop(&mut self) {
        if self.is_counted {
            self.linked.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Runs until the link ends. Returns whether the master had become silent.
async fn run_link(agent: &mut SwarmAgent, mut link: Uplink, guard: &mut LinkGuard<'_>) -> bool {
    let mut pings = tokio::time::interval(HEARTBEAT_INTERVAL);
    let mut last_message = Instant::now();
    let mut serial = 0;
    loop {
        let answer = tokio::select! {
            message = link.inbound.message() => {
                let Ok(Some(message)) = message else { return false };
                last_message = Instant::now();
                let asks_for_tasks = matches!(message.message, Some(v1::to_agent::Message::ListTasks(_)));
                if agent.receive(message) {
                    guard.count();
                }
                asks_for_tasks.then(|| v1::from_agent::Message::TaskList(v1::TaskList {
                    last: true,
                    ..Default::default()
                }))
            }
            _ = pings.tick() => {
                if last_message.elapsed() > MASTER_TIMEOUT {
                    return true;
                }
                serial += 1;
                Some(v1::from_agent::Message::Ping(v1::Ping { serial }))
            }
        };
        let Some(answer) = answer else { continue };
        let sent = link
            .sender
            .send(v1::FromAgent {
                message: Some(answer),
            })
            .await;
        if sent.is_err() {
            return false;
        }
    }
}
