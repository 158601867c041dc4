//! All masters are stopped together: the outage does not count towards any deadline.
//!
//! This is the first of these tests, because it takes a minute, in which the others can use the
//! machine.

use std::time::{Duration, Instant};

use argosy_proto::v1;
use nix::sys::signal::Signal;

use crate::cluster::Cluster;
use crate::test_framework::{ReceivedEvents, TestFramework, task};

const LONG: Duration = Duration::from_secs(90);
/// The agent timeout of this test.
const AGENT_TIMEOUT: Duration = Duration::from_secs(4);
/// Many times the timeouts of an agent and a framework.
const FROZEN: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn masters_frozen_for_a_minute_expire_no_agent_or_framework() {
    let more = [
        "--agent-timeout",
        "4s",
        "--framework-disconnect-timeout",
        "3s",
    ];
    let mut cluster = Cluster::start_with(1, &more).await;
    let mut config = argosy_client::SchedulerConfig::new(cluster.masters_list(), "patient");
    config.info.failover_timeout_ms = Some(0);
    config.tick = Duration::from_millis(50);
    let framework = TestFramework::start_with(config).await;
    framework.launch([task("long", "sleep 600")]);
    let has = |name: &'static str, state| {
        move |events: &ReceivedEvents| events.states(name).contains(&state).then_some(())
    };
    let running = has("long", v1::TaskState::Running);
    framework.wait_for_event("it runs", LONG, running).await;
    for master in &cluster.masters {
        master.signal(Signal::SIGSTOP);
    }
    let frozen_at = Instant::now();
    cluster.yield_machine(FROZEN).await;
    assert!(frozen_at.elapsed() >= FROZEN);
    for master in &cluster.masters {
        master.signal(Signal::SIGCONT);
    }
    framework.launch([task("after", "true")]);
    let finished = has("after", v1::TaskState::Finished);
    framework
        .wait_for_event("the cluster serves again", LONG, finished)
        .await;
    // Effects of the outage end within the deadlines, counted from now.
    cluster.yield_machine(2 * AGENT_TIMEOUT).await;
    framework.launch([task("later", "true")]);
    let finished = has("later", v1::TaskState::Finished);
    framework
        .wait_for_event("it still serves", LONG, finished)
        .await;
    let events = framework.events.lock().unwrap();
    assert!(events.errors.is_empty(), "{:?}", events.errors);
    let states = events.states("long");
    assert_eq!(states.last(), Some(&v1::TaskState::Running), "{states:?}");
    assert!(!states.contains(&v1::TaskState::Unreachable), "{states:?}");
}
