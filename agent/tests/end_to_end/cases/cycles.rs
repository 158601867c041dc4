//! Repeated launches and kills by agents that are themselves killed: nothing leaks. Every second
//! agent keeps root; the others give it up, and each takes over from the one before. The last one,
//! which is not killed, has given it up.
//!
//! `ARGOSY_CYCLES` sets the number of cycles (2,000 in long runs), `ARGOSY_SEED` the seed [default:
//! from the clock; it is printed].

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use argosy_proto::v1;
use argosy_proto::v1::from_agent::Message;
use argosy_proto::v1::order::Order;
use argosy_testing::skip;

use super::crashes::{audit, groups};
use super::runs;
use crate::audit::{AuditScope, LeakAudit};
use crate::children::child_of;
use crate::host::TestHost;
use crate::master::{AgentStream, Master, is_terminal, kill, launch, shell};
use crate::running::AgentProcess;

super::cases!("cycles":
    cycles_of_launches_kills_and_agent_crashes_leave_nothing,
);

/// Number of cycles of a usual run.
pub(super) const USUAL: usize = 400;
/// Number of final cycles with an agent that is not killed: its open descriptors are counted.
const QUIET: usize = 50;
/// Maximum number of concurrent tasks.
const AT_A_TIME: usize = 12;

/// The commands of tasks. Those that end by themselves are killed, too, or just too late.
const LINES: [&str; 6] = [
    "exit 0",
    "sleep 1000",
    "sleep 0.03",
    "trap '' TERM; while :; do sleep 0.01; done",
    "(setsid sleep 1000 &); exit 3",
    "for i in 1 2 3 4; do sleep 1000 & done; wait",
];

/// Returns the requested number of cycles.
pub(super) fn count() -> usize {
    let wanted = std::env::var("ARGOSY_CYCLES").ok();
    wanted
        .and_then(|wanted| wanted.parse().ok())
        .unwrap_or(USUAL)
}

/// A generator whose every number follows from its seed.
struct TestRng(u64);

impl TestRng {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % limit
    }
}

/// The orders and received updates of a leader.
struct OrderLog {
    chance: TestRng,
    orders: Vec<Order>,
    launched: usize,
    /// Tasks that have not been killed.
    running: BTreeSet<String>,
    ended: BTreeMap<String, u64>,
}

impl OrderLog {
    fn new(seed: u64) -> Self {
        Self {
            chance: TestRng(seed | 1),
            orders: Vec::new(),
            launched: 0,
            running: BTreeSet::new(),
            ended: BTreeMap::new(),
        }
    }

    fn under_way(&self) -> usize {
        self.launched - self.ended.len()
    }

    /// Sends the next order under the next number.
    async fn order(&mut self, link: &mut AgentStream, order: Order) {
        self.orders.push(order.clone());
        link.order(self.orders.len() as u64, order).await;
    }

    async fn kill(&mut self, link: &mut AgentStream, task: &str) {
        if self.running.remove(task) {
            let grace_ms = [0, 20, 5_000][self.chance.below(3)];
            // A task that ignores TERM must not take that long.
            let grace_ms = if task.ends_with("-3") {
                grace_ms.min(20)
            } else {
                grace_ms
            };
            self.order(link, kill(task, grace_ms)).await;
        }
    }

    /// Launches as many tasks as the limit allows, some with an immediate kill.
    async fn fill(&mut self, link: &mut AgentStream, limit: usize) {
        while self.launched < limit && self.under_way() < AT_A_TIME {
            self.launched += 1;
            let kind = self.chance.below(LINES.len());
            let task = format!("t-{}-{kind}", self.launched);
            self.running.insert(task.clone());
            self.order(link, launch(shell(&task, LINES[kind]))).await;
            if self.chance.below(4) == 0 {
                self.kill(link, &task).await;
            }
        }
    }

    /// Leads until this many more have ended, launching no more than `limit` in total.
    async fn lead(&mut self, link: &mut AgentStream, hello: &v1::Hello, more: usize, limit: usize) {
        for index in hello.floor as usize + 1..=self.orders.len() {
            link.order(index as u64, self.orders[index - 1].clone())
                .await;
        }
        let until = (self.ended.len() + more).min(limit);
        while self.ended.len() < until {
            self.fill(link, limit).await;
            let Message::Report(report) = link.next().await else {
                continue;
            };
            for update in &report.updates {
                if is_terminal(update) {
                    let former = self.ended.insert(update.task_id.clone(), update.number);
                    let same = former.is_none_or(|former| former == update.number);
                    assert!(same, "two ends of {}", update.task_id);
                    self.running.remove(&update.task_id);
                }
            }
            let up: Vec<_> = report
                .updates
                .iter()
                .filter(|update| runs(update))
                .collect();
            let up: Vec<_> = up.iter().map(|update| update.task_id.clone()).collect();
            link.take(report).await;
            for task in up {
                self.kill(link, &task).await;
            }
        }
    }
}

/// Returns the open descriptors of the agent, its broker, its spawner and its launcher once all
/// networks that are kept ready exist.
async fn held_open(agent: &AgentProcess, host: &TestHost) -> LeakAudit {
    let broker = agent.broker();
    let spawner = child_of(broker, "argosy-spawner");
    let launcher = child_of(spawner, "argosy-launcher");
    let holders = vec![agent.pid(), broker, spawner, launcher];
    let mut looks = [None; 3];
    while looks[0].is_none() || looks.iter().any(|look| *look != looks[0]) {
        looks.rotate_left(1);
        let open = |pid| {
            std::fs::read_dir(format!("/proc/{pid}/fd"))
                .unwrap()
                .count()
        };
        looks[2] = Some([agent.pid(), broker].map(open));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    LeakAudit::begin(AuditScope {
        devices_are_alike: true,
        directories: vec![host.directory.path().to_owned()],
        groups: vec![groups(host)],
        holders,
        ..AuditScope::default()
    })
}

pub(super) async fn cycles_of_launches_kills_and_agent_crashes_leave_nothing() {
    if !nix::unistd::geteuid().is_root() {
        skip("needs root");
        return;
    }
    let seed = std::env::var("ARGOSY_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let (seed, total) = (seed.unwrap_or_else(clock), count());
    println!(
        "\nrandom seed, again with: ARGOSY_CYCLES={total} ARGOSY_SEED={seed} cargo test --package argosy-agent --test end_to_end -- cycles"
    );
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let before = audit(&host);
    let mut cycles = OrderLog::new(seed);
    let (mut lives, loud) = (0, total.saturating_sub(QUIET));
    while cycles.ended.len() < loud {
        let agent = match lives % 2 {
            0 => host.divided(master.address),
            _ => host.process(master.address),
        };
        let (mut link, hello) = master.registered(false).await;
        let few = 1 + cycles.chance.below(16);
        cycles.lead(&mut link, &hello, few, loud).await;
        drop(agent);
        lives += 1;
    }
    let agent = host.divided(master.address);
    let (mut link, hello) = master.registered(false).await;
    // The last kill may have separated "committed" from "released": then a task that is still held
    // is an orphan.
    cycles.lead(&mut link, &hello, 0, loud).await;
    for held in link.list().await.tasks {
        link.kill_stray(&held.task_id, held.order_index).await;
    }
    // Some descriptors are opened only once.
    cycles
        .lead(&mut link, &hello_of(&cycles), QUIET / 2, loud + QUIET / 2)
        .await;
    agent.is_clear().await;
    let quiet = held_open(&agent, &host).await;
    cycles
        .lead(
            &mut link,
            &hello_of(&cycles),
            QUIET,
            total.max(loud + QUIET),
        )
        .await;
    agent.is_clear().await;
    quiet.expect_nothing_left(&format!(
        "of an agent after {QUIET} cycles, ARGOSY_SEED={seed}"
    ));
    drop((agent, link));
    // Only an agent that stops removes its cgroups.
    let agent = host.agent(master.address).await;
    let _link = master.registered(false).await;
    agent.is_clear().await;
    agent.stop().await;
    before.expect_nothing_left(&format!("after {total} cycles, ARGOSY_SEED={seed}"));
    print!("{} cycles, {lives} crashes, ", cycles.ended.len());
}

/// Returns a seed from the clock.
fn clock() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(1, |since| since.as_secs())
}

/// Returns the hello of an agent that has taken every order.
fn hello_of(cycles: &OrderLog) -> v1::Hello {
    v1::Hello {
        floor: cycles.orders.len() as u64,
        ..v1::Hello::default()
    }
}
