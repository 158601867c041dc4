//! Tasks that request no memory: their limit is the default of their agent.
//!
//! `argosy run` always requests memory, so this is a framework.

use std::time::Duration;

use anyhow::{Context, ensure};
use argosy_client::resources::resources;
use argosy_client::scheduler::{
    Scheduler, SchedulerConfig, SchedulerDriver, SchedulerRunner, is_terminal,
};
use argosy_proto::v1;
use tokio_util::sync::CancellationToken;

/// Timeout for both tasks.
const LIMIT: Duration = Duration::from_secs(120);
/// The first task holds 16 MiB, the second one takes all memory.
const TASKS: [(&str, &str); 2] = [
    ("within", "dd if=/dev/zero of=/dev/null bs=16M count=1"),
    ("bomb", "exec tail /dev/zero"),
];

/// A scheduler that runs one task after the other.
#[derive(Default)]
struct DefaultMemoryScheduler {
    ended: Vec<v1::TaskStatus>,
    is_launched: bool,
}

impl Scheduler for DefaultMemoryScheduler {
    fn offers(&mut self, driver: &SchedulerDriver, offers: Vec<v1::Offer>) {
        for offer in offers {
            match TASKS.get(self.ended.len()).filter(|_| !self.is_launched) {
                Some((name, line)) => {
                    self.is_launched = true;
                    driver.accept(&offer, vec![task(name, line)]);
                }
                None => driver.decline(&offer, None),
            }
        }
    }

    fn update(&mut self, driver: &SchedulerDriver, status: &v1::TaskStatus) {
        if is_terminal(status.state()) {
            self.ended.push(status.clone());
            self.is_launched = false;
        }
        if self.ended.len() == TASKS.len() {
            driver.teardown();
        }
    }
}

fn task(name: &str, line: &str) -> v1::TaskSpec {
    v1::TaskSpec {
        task_id: name.to_owned(),
        shell: line.to_owned(),
        resources: resources("cpus:0.1").expect("the resources are valid"),
        ..Default::default()
    }
}

/// Runs the tasks on a master and an agent that the case has started with `--default-mem 32M`.
pub(super) async fn run() -> anyhow::Result<()> {
    let mut config = SchedulerConfig::new("127.0.0.1:5050".parse()?, "unasked");
    config.info.roles = vec!["*".to_owned()];
    let mut scheduler = DefaultMemoryScheduler::default();
    let runner = SchedulerRunner::new(config);
    let running = runner.run(&mut scheduler, CancellationToken::new());
    let ended = tokio::time::timeout(LIMIT, running).await;
    ended.context("the tasks do not end")??;
    let [within, bomb] = &scheduler.ended[..] else {
        anyhow::bail!("not both tasks have ended");
    };
    let (state, text) = (within.state(), &within.message);
    ensure!(
        state == v1::TaskState::Finished,
        "16 MiB are too much: {state:?}, {text}"
    );
    let (reason, text) = (bomb.reason(), &bomb.message);
    ensure!(
        reason == v1::Reason::LimitMemory && text.contains(" of 32 MiB"),
        "not the default ends it: {reason:?}, {text}"
    );
    println!("a task that asks for no memory: {text}");
    Ok(())
}
