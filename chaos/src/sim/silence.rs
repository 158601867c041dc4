//! A scheduler whose host vanishes: no packet of it arrives, and its connection is not closed.
//!
//! One real master, two real schedulers on the SDK, and an agent that only registers and stays
//! connected.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use argosy_client::scheduler::{Scheduler, SchedulerConfig, SchedulerDriver, Subscription, run};
use argosy_client::{AgentUplink, Connector, ConnectorConfig, Masters, OperatorClient};
use argosy_master::MasterParts;
use argosy_proto::v1;
use argosy_proto::versions::VersionRange;
use argosy_raft::{MemoryStore, NodeEnvironment, Timing};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use turmoil::{Result, Sim};

use super::process::STEP;
use super::run::LATENCY;
use crate::sim::network::{CutLinks, WallClocks, dialer, listener};

const MASTER: &str = "master-1";
const API: u16 = 5050;
const RAFT: u16 = 5052;
/// The default, in milliseconds.
const TIMEOUT_MS: u64 = 15_000;
const GRACE_MS: u64 = 10_000;
/// The delay that timers, rounds and latency may add to a deadline.
const SLACK: Duration = Duration::from_secs(2);

/// The observed lines, with their times.
#[derive(Clone, Default)]
struct ObservedLines(Arc<Mutex<Vec<(Duration, String)>>>);

impl ObservedLines {
    fn note(&self, line: String) {
        let at = turmoil::sim_elapsed().unwrap_or_default();
        self.0.lock().unwrap().push((at, line));
    }

    /// Returns when this line was first observed at or after `from`.
    fn first(&self, line: &str, from: Duration) -> Option<Duration> {
        let lines = self.0.lock().unwrap();
        let mut found = lines
            .iter()
            .filter(|(at, seen)| *at >= from && seen == line);
        found.next().map(|(at, _)| *at)
    }
}

struct OfferHolder {
    name: &'static str,
    lines: ObservedLines,
}

impl Scheduler for OfferHolder {
    fn registered(&mut self, _: &SchedulerDriver, _: &Subscription) {
        self.lines.note(format!("{} registered", self.name));
    }

    fn offers(&mut self, _: &SchedulerDriver, _: Vec<v1::Offer>) {
        self.lines.note(format!("{} holds an offer", self.name));
    }

    fn update(&mut self, _: &SchedulerDriver, status: &v1::TaskStatus) {
        panic!("it has launched nothing: {status:?}");
    }

    fn disconnected(&mut self, _: &SchedulerDriver, _: &str) {
        self.lines.note(format!("{} disconnected", self.name));
    }
}

fn masters() -> Masters {
    Masters::new([&format!("{MASTER}:{API}")]).expect("the address is valid")
}

fn connector(own: &str, cuts: &CutLinks) -> ConnectorConfig {
    ConnectorConfig {
        dialer: dialer(own, cuts),
        seed: 7,
    }
}

async fn master(cuts: CutLinks) -> Result {
    let mut config = argosy_master::MasterConfig::new(
        PathBuf::from("/nowhere"),
        format!("{MASTER}:{API}"),
        format!("{MASTER}:{RAFT}"),
    );
    config.timing = Timing::testing();
    config.bootstrap = true;
    assert_eq!(config.framework_timeout_ms, TIMEOUT_MS);
    assert_eq!(config.framework_grace_ms, GRACE_MS);
    let parts = MasterParts {
        api: listener(API).await?,
        raft: NodeEnvironment {
            listener: listener(RAFT).await?,
            dialer: dialer(MASTER, &cuts),
            wall: WallClocks::default().of(MASTER),
        },
        masters: dialer(MASTER, &cuts),
        agents: dialer(MASTER, &cuts),
        raft_runtime: Handle::current(),
        readers: Handle::current(),
        memory: Some(MemoryStore::default()),
        metrics: None,
        entropy: [7; 32],
        serving: None,
    };
    argosy_master::run(config, parts, CancellationToken::new()).await?;
    Ok(())
}

/// Registers with four processors, and stays connected.
async fn agent(cuts: CutLinks) -> Result {
    let hello = v1::Hello {
        protocol: Some(VersionRange::OWN.first_message()),
        tried_incarnations: vec![7],
        nonce: 7,
        boot_id: "boot".to_owned(),
        info: Some(v1::AgentInfo {
            host_name: "agent".to_owned(),
            address: "agent:5051".to_owned(),
            resources: argosy_client::resources::resources("cpus:4;mem:4096")?,
            ..v1::AgentInfo::default()
        }),
        digest: 0_u128.to_be_bytes().to_vec(),
        ..v1::Hello::default()
    };
    let uplink = AgentUplink::new(Connector::new(masters(), connector("agent", &cuts)));
    let mut link = uplink.connect(hello, Duration::from_secs(20)).await?;
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    for serial in 1.. {
        tokio::select! {
            _ = ticks.tick() => {
                let ping = v1::from_agent::Message::Ping(v1::Ping { serial });
                link.sender.send(v1::FromAgent { message: Some(ping) }).await?;
            }
            message = link.inbound.message() => {
                message?.ok_or("the master ended the stream")?;
            }
        }
    }
    Ok(())
}

async fn scheduler(name: &'static str, cuts: CutLinks, seen: ObservedLines) -> Result {
    let mut config = SchedulerConfig::new(masters(), name);
    config.connector = connector(name, &cuts);
    let mut holder = OfferHolder { name, lines: seen };
    run(&mut holder, config, CancellationToken::new()).await?;
    Ok(())
}

/// Polls the master for the frameworks that are recorded as connected.
async fn observer(cuts: CutLinks, seen: ObservedLines) -> Result {
    let client = OperatorClient::new(Connector::new(masters(), connector("observer", &cuts)));
    loop {
        let page = client.list_frameworks(v1::ListRequest::default()).await?;
        for framework in page.frameworks {
            let name = framework.info.unwrap_or_default().name;
            // The timeout of a framework starts when the registry records its absence.
            let state = match framework.expires_in_ms {
                None => "connected",
                Some(_) => "disconnected",
            };
            seen.note(format!("{name} is {state}"));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Steps until the line is observed. Returns the time.
fn run_until(
    sim: &mut Sim<'_>,
    seen: &ObservedLines,
    line: &str,
    from: Duration,
    longest: Duration,
) -> Duration {
    while sim.elapsed() < from + longest {
        if let Some(at) = seen.first(line, from) {
            return at;
        }
        sim.step().expect("no host fails");
    }
    panic!(
        "{line:?} was not seen within {longest:?}: {:?}",
        seen.0.lock().unwrap()
    );
}

#[test]
#[allow(clippy::too_many_lines, reason = "one scenario, step by step")]
fn a_vanished_scheduler_is_disconnected_and_its_offers_go_to_others() {
    let (cuts, seen) = (CutLinks::default(), ObservedLines::default());
    let mut sim = turmoil::Builder::new()
        .rng_seed(7)
        .tick_duration(STEP)
        .simulation_duration(Duration::from_secs(1_000))
        .min_message_latency(Duration::ZERO)
        .max_message_latency(LATENCY)
        .tcp_capacity(4_096)
        .build();
    let own = cuts.clone();
    sim.host(MASTER, move || master(own.clone()));
    let own = cuts.clone();
    sim.host("agent", move || agent(own.clone()));
    let (own, reported) = (cuts.clone(), seen.clone());
    sim.host("first", move || {
        scheduler("first", own.clone(), reported.clone())
    });
    let start = Duration::ZERO;
    let minute = Duration::from_secs(60);
    run_until(&mut sim, &seen, "first holds an offer", start, minute);
    let (own, reported) = (cuts.clone(), seen.clone());
    sim.host("second", move || {
        scheduler("second", own.clone(), reported.clone())
    });
    let (own, reported) = (cuts.clone(), seen.clone());
    sim.host("observer", move || observer(own.clone(), reported.clone()));
    run_until(&mut sim, &seen, "second registered", start, minute);
    // Both schedulers are up for longer than the timeout: neither is disconnected, and the first
    // holds its offer.
    let alive = sim.elapsed() + Duration::from_millis(2 * TIMEOUT_MS);
    while sim.elapsed() < alive {
        sim.step().expect("no host fails");
    }
    assert_eq!(seen.first("first disconnected", start), None);
    assert_eq!(seen.first("second holds an offer", start), None);

    let vanished = sim.elapsed();
    for (from, to) in [("first", MASTER), (MASTER, "first")] {
        cuts.cut(from, to);
        sim.partition_oneway(from, to);
    }
    let timeout = Duration::from_millis(TIMEOUT_MS);
    let grace = Duration::from_millis(GRACE_MS);
    let offered = run_until(
        &mut sim,
        &seen,
        "second holds an offer",
        vanished,
        timeout + SLACK,
    );
    // Its last heartbeat was at most one interval old when it vanished.
    assert!(offered >= vanished + timeout * 2 / 3 - SLACK);
    let absent = run_until(
        &mut sim,
        &seen,
        "first is disconnected",
        vanished,
        timeout + grace + SLACK,
    );
    let soon = Duration::from_millis(200);
    assert!(
        absent + soon >= offered + grace,
        "vanished at {vanished:?}, offered at {offered:?}, absent at {absent:?}"
    );
    // The scheduler has detected the loss by itself, and reconnects when the network is repaired.
    assert!(seen.first("first disconnected", vanished).is_some());
    for (from, to) in [("first", MASTER), (MASTER, "first")] {
        cuts.repair(from, to);
        sim.repair_oneway(from, to);
    }
    let mended = sim.elapsed();
    run_until(
        &mut sim,
        &seen,
        "first is connected",
        mended,
        timeout + SLACK,
    );
}
